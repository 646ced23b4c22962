/* SPDX-License-Identifier: Apache-2.0
 *
 * Normalizers: each reads a view and, where it changes anything, writes a text. Text that a
 * normalizer leaves alone is not copied. */
#include "tokenizer/parts.h"

#include <string.h>

static ka_status run_form(struct ka_ctx *ctx, const struct ka_tok_unicode *u,
                          const struct ka_tok_part *p, struct ka_tok_work *w,
                          const struct ka_tok_view *v, struct ka_tok_text *out, bool *changed) {
  size_t i = 0;
  struct ka_str group = {0};
  ka_status st = KA_STATUS_OK;
  for (;;) {
    size_t stable = ka_tok_nf_stable(u, p->form, v->s + i, v->n - i);
    if (i == 0 && stable == v->n) break;
    *changed = true;
    KA_TRY_GOTO(ka_tok_text_copy(ctx, out, v, i, i + stable), out);
    i += stable;
    if (i >= v->n) break;
    size_t n = ka_tok_nf_group(u, v->s + i, v->n - i);
    ka_str_clear(&group);
    KA_TRY_GOTO(ka_tok_nf_append(ctx, p->form, v->s + i, n, &w->tmp, &group), out);
    KA_TRY_GOTO(ka_tok_text_put(ctx, out, group.data, group.len, ka_tok_view_begin(v, i),
                                ka_tok_view_end(v, i + n - 1)),
                out);
    i += n;
  }
out:
  ka_str_deinit(&group);
  return st;
}

static ka_status run_map(struct ka_ctx *ctx, const struct ka_tok_unicode *u,
                         const struct ka_tok_part *p, const struct ka_tok_view *v,
                         struct ka_tok_text *out, bool *changed) {
  size_t kept = 0; /* v[kept..i) is unchanged and not written yet */
  for (size_t i = 0; i < v->n;) {
    uint32_t cp, to[3];
    size_t len = (size_t)ka_utf8_next(v->s + i, &cp), n_bytes = 0;
    int n = p->map(u, cp, to);
    if (n != 1 || to[0] != cp) {
      char bytes[12];
      for (int k = 0; k < n; k++) n_bytes += (size_t)ka_utf8_encode(to[k], bytes + n_bytes);
      *changed = true;
      KA_TRY(ka_tok_text_copy(ctx, out, v, kept, i));
      KA_TRY(ka_tok_text_put(ctx, out, bytes, n_bytes, ka_tok_view_begin(v, i),
                             ka_tok_view_end(v, i + len - 1)));
      kept = i + len;
    }
    i += len;
  }
  return *changed ? ka_tok_text_copy(ctx, out, v, kept, v->n) : KA_STATUS_OK;
}

/* One byte for a text, without alignment: what SentencePiece models do to every space. */
static ka_status replace_byte(struct ka_ctx *ctx, const struct ka_tok_part *p,
                              const struct ka_tok_view *v, struct ka_tok_text *out, bool *changed) {
  char byte = p->find.text[0];
  size_t hits = 0;
  for (size_t i = 0; i < v->n; i++) hits += v->s[i] == byte;
  *changed = hits > 0;
  if (!*changed) return KA_STATUS_OK;
  KA_TRY(ka_str_reserve(ctx, &out->bytes, v->n + hits * p->text_n));
  char *to = out->bytes.data;
  for (size_t i = 0; i < v->n; i++) {
    if (v->s[i] != byte) {
      *to++ = v->s[i];
      continue;
    }
    for (size_t k = 0; k < p->text_n; k++) *to++ = p->text[k];
  }
  out->bytes.len = (size_t)(to - out->bytes.data);
  *to = 0;
  return KA_STATUS_OK;
}

static ka_status run_replace(struct ka_ctx *ctx, const struct ka_tok_unicode *u,
                             const struct ka_tok_part *p, struct ka_tok_work *w,
                             const struct ka_tok_view *v, struct ka_tok_text *out, bool *changed) {
  struct ka_tok_finder f;
  ka_status st = KA_STATUS_OK;
  size_t b, e;
  bool is_match;
  if (p->find.kind == KA_FIND_TEXT && p->find.n == 1 && !out->aligned)
    return replace_byte(ctx, p, v, out, changed);
  ka_tok_find_begin(&f, &p->find, u, w->scan, v->s, v->n);
  while (ka_tok_find_next(ctx, &f, &st, &b, &e, &is_match)) {
    if (!is_match && !*changed && b == 0 && e == v->n) return KA_STATUS_OK;
    *changed = true;
    if (!is_match) {
      KA_TRY(ka_tok_text_copy(ctx, out, v, b, e));
      continue;
    }
    int64_t begin =
        b < v->n ? ka_tok_view_begin(v, b) : (v->n ? ka_tok_view_end(v, v->n - 1) : v->base);
    KA_TRY(ka_tok_text_put(ctx, out, p->text, p->text_n, begin,
                           e > b ? ka_tok_view_end(v, e - 1) : begin));
  }
  return st;
}

static ka_status run_strip(struct ka_ctx *ctx, const struct ka_tok_unicode *u,
                           const struct ka_tok_part *p, const struct ka_tok_view *v,
                           struct ka_tok_text *out, bool *changed) {
  size_t b = 0, e = v->n;
  uint32_t cp;
  while (p->left && b < e) {
    size_t len = (size_t)ka_utf8_next(v->s + b, &cp);
    if (!(ka_tok_uc_of(u, cp) & KA_UC_SPACE)) break;
    b += len;
  }
  while (p->right && e > b) {
    size_t last = e - 1;
    while (((unsigned char)v->s[last] & 0xC0) == 0x80) last--;
    ka_utf8_next(v->s + last, &cp);
    if (!(ka_tok_uc_of(u, cp) & KA_UC_SPACE)) break;
    e = last;
  }
  *changed = b > 0 || e < v->n;
  return *changed ? ka_tok_text_copy(ctx, out, v, b, e) : KA_STATUS_OK;
}

static ka_status run_one(struct ka_ctx *ctx, const struct ka_tok_unicode *u,
                         const struct ka_tok_part *p, struct ka_tok_work *w,
                         const struct ka_tok_view *v, struct ka_tok_text *out, bool *changed) {
  switch (p->kind) {
  case KA_NORM_FORM:
    return run_form(ctx, u, p, w, v, out, changed);
  case KA_NORM_MAP:
    return run_map(ctx, u, p, v, out, changed);
  case KA_NORM_REPLACE:
    return run_replace(ctx, u, p, w, v, out, changed);
  case KA_NORM_STRIP:
    return run_strip(ctx, u, p, v, out, changed);
  case KA_NORM_PREPEND:
    if (v->n == 0) return KA_STATUS_OK;
    *changed = true;
    KA_TRY(ka_tok_text_put(ctx, out, p->text, p->text_n, ka_tok_view_begin(v, 0),
                           ka_tok_view_end(v, 0)));
    return ka_tok_text_copy(ctx, out, v, 0, v->n);
  case KA_NORM_BYTES:
    *changed = true;
    for (size_t i = 0; i < v->n; i++) {
      char c[4];
      int n = ka_utf8_encode(ka_tok_byte_char((unsigned char)v->s[i]), c);
      KA_TRY(
          ka_tok_text_put(ctx, out, c, (size_t)n, ka_tok_view_begin(v, i), ka_tok_view_end(v, i)));
    }
    return KA_STATUS_OK;
  default:
    KA_NEVER(ctx, true);
  }
  return KA_STATUS_OK;
}

ka_status ka_tok_normalize(struct ka_ctx *ctx, const struct ka_tok_unicode *u,
                           const struct ka_tok_parts *parts, struct ka_tok_work *w,
                           struct ka_tok_view *v) {
  int turn = 0;
  for (int64_t i = 0; i < parts->n; i++) {
    bool changed = false;
    ka_tok_text_reset(&w->norm[turn], w->aligned);
    KA_TRY(run_one(ctx, u, &parts->items[i], w, v, &w->norm[turn], &changed));
    if (!changed) continue;
    *v = ka_tok_text_view(&w->norm[turn]);
    turn = !turn;
  }
  return KA_STATUS_OK;
}
