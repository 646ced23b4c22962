/* SPDX-License-Identifier: Apache-2.0
 *
 * Pre-tokenizers: a list of word ranges goes from part to part. Splitting parts refine the list,
 * rewriting parts make a new text and move the list onto it. */
#include "tokenizer/parts.h"

#include <string.h>

enum { INTERRUPT_RANGES = 1 << 16 }; /* of one text, between two looks for a signal */

static ka_status push(struct ka_ctx *ctx, struct ka_tok_ranges *r, size_t b, size_t e) {
  if (r->n % INTERRUPT_RANGES == 0) KA_TRY(ka_check_interrupted(ctx, "tokenizing"));
  if (r->n == r->cap) {
    void *p = r->items;
    KA_TRY(ka_grow(ctx, &p, &r->cap, r->n + 1, sizeof *r->items, "words"));
    r->items = p;
  }
  r->items[r->n++] = (struct ka_tok_range){(uint32_t)b, (uint32_t)e};
  return KA_STATUS_OK;
}

/* Scanners cover the whole text, so that Isolated, and Removed when inverted, both list words. */
static bool lists_words(const struct ka_tok_part *p) {
  bool scanner = p->find.kind == KA_FIND_GPT2 || p->find.kind == KA_FIND_CL100K;
  return scanner && (p->behavior == KA_ISOLATED || (p->behavior == KA_REMOVED && p->invert));
}

static ka_status scan_words(struct ka_ctx *ctx, const struct ka_tok_unicode *u,
                            const struct ka_tok_part *p, const struct ka_tok_view *v,
                            struct ka_tok_range r, struct ka_tok_ranges *out) {
  for (size_t at = r.b; at < r.e;) {
    size_t len = p->find.kind == KA_FIND_GPT2
                     ? ka_tok_scan_gpt2(u, v->s + at, r.e - at)
                     : ka_tok_scan_cl100k(u, v->s + at, r.e - at, p->find.max_digits);
    KA_TRY(push(ctx, out, at, at + len));
    at += len;
  }
  return KA_STATUS_OK;
}

/* One range by the library's five behaviours. `previous` is whether the stretch before matched. */
static ka_status split_range(struct ka_ctx *ctx, const struct ka_tok_unicode *u,
                             const struct ka_tok_part *p, struct ka_tok_work *w,
                             const struct ka_tok_view *v, struct ka_tok_range r,
                             struct ka_tok_ranges *out) {
  struct ka_tok_finder f;
  ka_status st = KA_STATUS_OK;
  size_t b, e;
  bool match, previous = false;
  int64_t first = out->n;
  ka_tok_find_begin(&f, &p->find, u, w->scan, v->s + r.b, r.e - r.b);
  while (ka_tok_find_next(ctx, &f, &st, &b, &e, &match)) {
    KA_TRY(ka_check_interrupted(ctx, "tokenizing"));
    match = match != p->invert;
    bool any = out->n > first, extend = false;
    if (p->behavior == KA_CONTIGUOUS) extend = any && match == previous;
    if (p->behavior == KA_MERGED_WITH_PREVIOUS) extend = any && match && !previous;
    if (p->behavior == KA_MERGED_WITH_NEXT) extend = any && !match && previous;
    previous = match;
    if (extend)
      out->items[out->n - 1].e = (uint32_t)(r.b + e);
    else if (p->behavior != KA_REMOVED || !match)
      KA_TRY(push(ctx, out, r.b + b, r.b + e));
  }
  return st;
}

static ka_status split_fixed(struct ka_ctx *ctx, const struct ka_tok_part *p,
                             const struct ka_tok_view *v, struct ka_tok_range r,
                             struct ka_tok_ranges *out) {
  for (size_t at = r.b, b = at; at < r.e; b = at) {
    uint32_t cp;
    for (int64_t k = 0; k < p->start && at < r.e; k++) at += (size_t)ka_utf8_next(v->s + at, &cp);
    KA_TRY(push(ctx, out, b, at));
  }
  return KA_STATUS_OK;
}

static ka_status rewrite_metaspace(struct ka_ctx *ctx, const struct ka_tok_part *p,
                                   const struct ka_tok_view *v, struct ka_tok_range r,
                                   struct ka_tok_text *out) {
  bool marked =
      v->s[r.b] == ' ' || (r.e - r.b >= p->text_n && memcmp(v->s + r.b, p->text, p->text_n) == 0);
  bool first = p->scheme == KA_PREPEND_FIRST && ka_tok_view_begin(v, r.b) == 0;
  if (!marked && (p->scheme == KA_PREPEND_ALWAYS || first))
    KA_TRY(ka_tok_text_put(ctx, out, p->text, p->text_n, ka_tok_view_begin(v, r.b),
                           ka_tok_view_end(v, r.b)));
  for (size_t at = r.b; at < r.e;) {
    const char *space = memchr(v->s + at, ' ', r.e - at);
    size_t to = space ? (size_t)(space - v->s) : r.e;
    KA_TRY(ka_tok_text_copy(ctx, out, v, at, to));
    if (space)
      KA_TRY(ka_tok_text_put(ctx, out, p->text, p->text_n, ka_tok_view_begin(v, to),
                             ka_tok_view_end(v, to)));
    at = to + (space != NULL);
  }
  return KA_STATUS_OK;
}

static ka_status rewrite_bytes(struct ka_ctx *ctx, const struct ka_tok_view *v,
                               struct ka_tok_range r, struct ka_tok_text *out) {
  for (size_t i = r.b; i < r.e; i++) {
    char c[4];
    int n = ka_utf8_encode(ka_tok_byte_char((unsigned char)v->s[i]), c);
    KA_TRY(ka_tok_text_put(ctx, out, c, (size_t)n, ka_tok_view_begin(v, i), ka_tok_view_end(v, i)));
  }
  return KA_STATUS_OK;
}

static ka_status rewrite(struct ka_ctx *ctx, const struct ka_tok_part *p,
                         const struct ka_tok_view *v, const struct ka_tok_ranges *in,
                         struct ka_tok_text *text, struct ka_tok_ranges *out) {
  for (int64_t i = 0; i < in->n; i++) {
    struct ka_tok_range r = in->items[i];
    size_t from = text->bytes.len;
    if (r.b == r.e) continue;
    if (p->kind == KA_PRE_METASPACE) {
      KA_TRY(rewrite_metaspace(ctx, p, v, r, text));
    } else if (p->kind == KA_PRE_BYTES) {
      KA_TRY(rewrite_bytes(ctx, v, r, text));
    } else {
      if (v->s[r.b] != ' ')
        KA_TRY(
            ka_tok_text_put(ctx, text, " ", 1, ka_tok_view_begin(v, r.b), ka_tok_view_end(v, r.b)));
      KA_TRY(ka_tok_text_copy(ctx, text, v, r.b, r.e));
    }
    if (text->bytes.len > UINT32_MAX)
      return ka_fail(ctx, KA_E_INPUT, "text: longer than 4 GiB after pre-tokenization; split it");
    KA_TRY(push(ctx, out, from, text->bytes.len));
  }
  return KA_STATUS_OK;
}

ka_status ka_tok_pretokenize(struct ka_ctx *ctx, const struct ka_tok_unicode *u,
                             const struct ka_tok_parts *parts, struct ka_tok_work *w,
                             bool raw_bytes_ok, struct ka_tok_view *v,
                             const struct ka_tok_ranges **out, bool *bytes) {
  struct ka_tok_ranges *from = &w->ranges[0], *to = &w->ranges[1];
  int turn = 0;
  from->n = 0;
  KA_TRY(push(ctx, from, 0, v->n));
  *bytes = false;
  for (int64_t k = 0; k < parts->n; k++) {
    const struct ka_tok_part *p = &parts->items[k];
    if (p->kind == KA_PRE_BYTES && k == parts->n - 1 && raw_bytes_ok) {
      *bytes = true;
      break;
    }
    to->n = 0;
    if (p->kind == KA_PRE_SPLIT || p->kind == KA_PRE_FIXED) {
      bool words = lists_words(p);
      for (int64_t i = 0; i < from->n; i++) {
        struct ka_tok_range r = from->items[i];
        if (r.b == r.e) continue;
        if (words)
          KA_TRY(scan_words(ctx, u, p, v, r, to));
        else if (p->kind == KA_PRE_FIXED)
          KA_TRY(split_fixed(ctx, p, v, r, to));
        else
          KA_TRY(split_range(ctx, u, p, w, v, r, to));
      }
    } else {
      ka_tok_text_reset(&w->pre[turn], w->aligned);
      KA_TRY(rewrite(ctx, p, v, from, &w->pre[turn], to));
      *v = ka_tok_text_view(&w->pre[turn]);
      turn = !turn;
    }
    struct ka_tok_ranges *swap = from;
    from = to;
    to = swap;
  }
  *out = from;
  return KA_STATUS_OK;
}
