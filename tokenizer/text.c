/* SPDX-License-Identifier: Apache-2.0
 *
 * Text with its way back to the original (ka_tok_view, ka_tok_text), and searching it
 * (ka_tok_finder). */
#include "tokenizer/parts.h"

#include <string.h>

static bool inside_char(char c) { return ((unsigned char)c & 0xC0) == 0x80; }

int64_t ka_tok_view_begin(const struct ka_tok_view *v, size_t i) {
  if (v->begin) return v->begin[i];
  while (i > 0 && inside_char(v->s[i])) i--;
  return v->base + (int64_t)i;
}

int64_t ka_tok_view_end(const struct ka_tok_view *v, size_t i) {
  if (v->end) return v->end[i];
  for (i++; i < v->n && inside_char(v->s[i]);) i++;
  return v->base + (int64_t)i;
}

struct ka_tok_view ka_tok_view_slice(const struct ka_tok_view *v, size_t from, size_t to) {
  struct ka_tok_view slice = {v->s + from, to - from, v->base + (int64_t)from, NULL, NULL};
  if (v->begin) {
    slice.begin = v->begin + from;
    slice.end = v->end + from;
  }
  return slice;
}

void ka_tok_text_reset(struct ka_tok_text *t, bool aligned) {
  ka_str_clear(&t->bytes);
  t->aligned = aligned;
}

void ka_tok_text_deinit(struct ka_tok_text *t) {
  ka_str_deinit(&t->bytes);
  ka_free(t->begin);
  ka_free(t->end);
  *t = (struct ka_tok_text){0};
}

struct ka_tok_view ka_tok_text_view(const struct ka_tok_text *t) {
  struct ka_tok_view v = {t->bytes.data ? t->bytes.data : "", t->bytes.len, 0, NULL, NULL};
  if (t->aligned) {
    v.begin = t->begin;
    v.end = t->end;
  }
  return v;
}

static ka_status grow_alignment(struct ka_ctx *ctx, struct ka_tok_text *t, size_t extra) {
  int64_t need = (int64_t)(t->bytes.len + extra);
  void *p = t->begin;
  KA_TRY(ka_grow(ctx, &p, &t->begin_cap, need, sizeof *t->begin, "text alignment"));
  t->begin = p;
  p = t->end;
  KA_TRY(ka_grow(ctx, &p, &t->end_cap, need, sizeof *t->end, "text alignment"));
  t->end = p;
  return KA_STATUS_OK;
}

ka_status ka_tok_text_put(struct ka_ctx *ctx, struct ka_tok_text *t, const char *s, size_t n,
                          int64_t begin, int64_t end) {
  if (t->aligned) {
    KA_TRY(grow_alignment(ctx, t, n));
    for (size_t i = 0; i < n; i++) {
      t->begin[t->bytes.len + i] = (uint32_t)begin;
      t->end[t->bytes.len + i] = (uint32_t)end;
    }
  }
  return ka_str_append(ctx, &t->bytes, s, n);
}

ka_status ka_tok_text_copy(struct ka_ctx *ctx, struct ka_tok_text *t, const struct ka_tok_view *v,
                           size_t from, size_t to) {
  if (from == to) return KA_STATUS_OK;
  if (t->aligned) {
    KA_TRY(grow_alignment(ctx, t, to - from));
    uint32_t *begin = t->begin + t->bytes.len, *end = t->end + t->bytes.len;
    if (v->begin) {
      memcpy(begin, v->begin + from, (to - from) * sizeof *begin);
      memcpy(end, v->end + from, (to - from) * sizeof *end);
    } else {
      for (size_t i = from; i < to;) {
        size_t len = 1;
        while (i + len < v->n && inside_char(v->s[i + len])) len++;
        for (size_t k = 0; k < len && i + k < to; k++) {
          *begin++ = (uint32_t)(v->base + (int64_t)i);
          *end++ = (uint32_t)(v->base + (int64_t)(i + len));
        }
        i += len;
      }
    }
  }
  return ka_str_append(ctx, &t->bytes, v->s + from, to - from);
}

/* --- searching ------------------------------------------------------------------------------- */

void ka_tok_find_begin(struct ka_tok_finder *f, const struct ka_tok_find *find,
                       const struct ka_tok_unicode *u, struct ka_rx_scan *scan, const char *s,
                       size_t n) {
  *f = (struct ka_tok_finder){.find = find, .u = u, .scan = scan, .s = s, .n = n};
  if (find->kind == KA_FIND_REGEX) ka_tok_rx_begin(scan, find->rx, s, n);
}

/* The next match at or after f->at. */
static ka_status next_match(struct ka_ctx *ctx, struct ka_tok_finder *f, bool *found, size_t *b,
                            size_t *e) {
  const struct ka_tok_find *find = f->find;
  *found = false;
  if (find->kind == KA_FIND_REGEX) return ka_tok_rx_next(ctx, f->scan, found, b, e);
  if (f->at >= f->n) return KA_STATUS_OK;
  const char *at = f->s + f->at;
  size_t left = f->n - f->at;
  if (find->kind == KA_FIND_TEXT) {
    const char *hit =
        find->n == 1 ? memchr(at, find->text[0], left) : memmem(at, left, find->text, find->n);
    if (hit) {
      *found = true;
      *b = (size_t)(hit - f->s);
      *e = *b + find->n;
    }
    return KA_STATUS_OK;
  }
  *found = true;
  *b = f->at;
  if (find->kind == KA_FIND_GPT2) {
    *e = f->at + ka_tok_scan_gpt2(f->u, at, left);
  } else if (find->kind == KA_FIND_CL100K) {
    *e = f->at + ka_tok_scan_cl100k(f->u, at, left, find->max_digits);
  } else {
    for (*found = false, *e = f->at; *e < f->n && !*found;) {
      uint32_t cp;
      *b = *e;
      *e += (size_t)ka_utf8_next(f->s + *b, &cp);
      *found = (ka_tok_uc_of(f->u, cp) & find->uc) != 0;
    }
  }
  return KA_STATUS_OK;
}

enum { INTERRUPT_MATCHES = 4096 }; /* between two looks for a signal */

bool ka_tok_find_next(struct ka_ctx *ctx, struct ka_tok_finder *f, ka_status *st, size_t *b,
                      size_t *e, bool *is_match) {
  bool found = false;
  if (f->pending) {
    f->pending = false;
    *b = f->pending_begin;
    f->at = *e = f->pending_end;
    return *is_match = true;
  }
  if (f->done) return false;
  if (++f->n_matches % INTERRUPT_MATCHES == 0) {
    *st = ka_check_interrupted(ctx, "tokenizing");
    if (!ka_ok(*st)) return false;
  }
  *st = next_match(ctx, f, &found, b, e);
  if (st->code != KA_OK) return false;
  if (!found) {
    f->done = true;
    *is_match = false;
    *b = f->at;
    *e = f->n;
    return *b < *e;
  }
  if (*b > f->at) {
    f->pending = true;
    f->pending_begin = *b;
    f->pending_end = *e;
    *e = *b;
    *b = f->at;
    *is_match = false;
    return true;
  }
  f->at = *e;
  return *is_match = true;
}
