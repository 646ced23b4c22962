/* SPDX-License-Identifier: Apache-2.0
 *
 * Decoders: a list of token strings goes from part to part; what is left is joined. */
#include "tokenizer/parts.h"

#include <string.h>

ka_status ka_tok_pieces_push(struct ka_ctx *ctx, struct ka_tok_pieces *p, const char *s, size_t n) {
  void *ends = p->ends;
  KA_TRY(ka_grow(ctx, &ends, &p->cap, p->n + 1, sizeof *p->ends, "decoded tokens"));
  p->ends = ends;
  KA_TRY(ka_str_append(ctx, &p->text, s, n));
  p->ends[p->n++] = p->text.len;
  return KA_STATUS_OK;
}

static const char *piece(const struct ka_tok_pieces *p, int64_t i, size_t *n) {
  size_t from = i ? p->ends[i - 1] : 0;
  *n = p->ends[i] - from;
  return p->text.data ? p->text.data + from : "";
}

/* As Rust's from_utf8_lossy: one U+FFFD for each maximal part of a broken sequence. */
static ka_status append_lossy(struct ka_ctx *ctx, struct ka_str *out, const char *s, size_t n) {
  for (size_t i = 0; i < n;) {
    size_t good = ka_utf8_check(s + i, n - i);
    KA_TRY(ka_str_append(ctx, out, s + i, good));
    i += good;
    if (i >= n) break;
    KA_TRY(ka_str_puts(ctx, out, "\xEF\xBF\xBD"));
    unsigned char c = (unsigned char)s[i++];
    int want = c >= 0xF0 && c <= 0xF4  ? 3
               : c >= 0xE0 && c < 0xF0 ? 2
               : c >= 0xC2 && c < 0xE0 ? 1
                                       : 0;
    unsigned char low = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
    unsigned char high = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    for (; want > 0 && i < n && (unsigned char)s[i] >= low && (unsigned char)s[i] <= high; want--) {
      low = 0x80;
      high = 0xBF;
      i++;
    }
  }
  return KA_STATUS_OK;
}

/* All tokens' characters to bytes; a token with a character outside the alphabet stays as it is. */
static ka_status dec_bytes(struct ka_ctx *ctx, const struct ka_tok_pieces *in,
                           struct ka_tok_pieces *out) {
  struct ka_str raw = {0};
  ka_status st = KA_STATUS_OK;
  for (int64_t i = 0; i < in->n; i++) {
    size_t n, from = raw.len;
    const char *s = piece(in, i, &n);
    bool whole = true;
    KA_TRY_GOTO(ka_str_reserve(ctx, &raw, n), out);
    for (size_t k = 0; k < n && whole;) {
      uint32_t cp;
      k += (size_t)ka_utf8_next(s + k, &cp);
      int byte = ka_tok_char_byte(cp);
      whole = byte >= 0;
      if (whole) raw.data[raw.len++] = (char)byte;
    }
    if (whole) continue;
    raw.len = from;
    KA_TRY_GOTO(ka_str_append(ctx, &raw, s, n), out);
  }
  KA_TRY_GOTO(append_lossy(ctx, &out->text, raw.data, raw.len), out);
  KA_TRY_GOTO(ka_tok_pieces_push(ctx, out, "", 0), out);
out:
  ka_str_deinit(&raw);
  return st;
}

static ka_status dec_replace(struct ka_ctx *ctx, const struct ka_tok_unicode *u,
                             const struct ka_tok_part *p, struct ka_rx_scan *scan,
                             const struct ka_tok_pieces *in, struct ka_tok_pieces *out) {
  for (int64_t i = 0; i < in->n; i++) {
    struct ka_tok_finder f;
    ka_status st = KA_STATUS_OK;
    size_t n, b, e;
    bool match;
    const char *s = piece(in, i, &n);
    if (n > 0) {
      ka_tok_find_begin(&f, &p->find, u, scan, s, n);
      while (ka_tok_find_next(ctx, &f, &st, &b, &e, &match))
        KA_TRY(match ? ka_str_append(ctx, &out->text, p->text, p->text_n)
                     : ka_str_append(ctx, &out->text, s + b, e - b));
      KA_TRY(st);
    }
    KA_TRY(ka_tok_pieces_push(ctx, out, "", 0));
  }
  return KA_STATUS_OK;
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte that "<0x41>" names, or -1. The library's parser takes "+A" for two digits, too. */
static int byte_of(const char *s, size_t n) {
  if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>') return -1;
  int low = hex_digit(s[4]), high = s[3] == '+' ? 0 : hex_digit(s[3]);
  return low < 0 || high < 0 ? -1 : high * 16 + low;
}

static ka_status flush_bytes(struct ka_ctx *ctx, struct ka_str *run, struct ka_tok_pieces *out) {
  if (run->len == 0) return KA_STATUS_OK;
  if (ka_utf8_check(run->data, run->len) == run->len) {
    KA_TRY(ka_tok_pieces_push(ctx, out, run->data, run->len));
  } else {
    for (size_t i = 0; i < run->len; i++) KA_TRY(ka_tok_pieces_push(ctx, out, "\xEF\xBF\xBD", 3));
  }
  ka_str_clear(run);
  return KA_STATUS_OK;
}

static ka_status dec_byte_fallback(struct ka_ctx *ctx, const struct ka_tok_pieces *in,
                                   struct ka_tok_pieces *out) {
  struct ka_str run = {0};
  ka_status st = KA_STATUS_OK;
  for (int64_t i = 0; i < in->n; i++) {
    size_t n;
    const char *s = piece(in, i, &n);
    int byte = byte_of(s, n);
    if (byte >= 0) {
      char c = (char)byte;
      KA_TRY_GOTO(ka_str_append(ctx, &run, &c, 1), out);
      continue;
    }
    KA_TRY_GOTO(flush_bytes(ctx, &run, out), out);
    KA_TRY_GOTO(ka_tok_pieces_push(ctx, out, s, n), out);
  }
  KA_TRY_GOTO(flush_bytes(ctx, &run, out), out);
out:
  ka_str_deinit(&run);
  return st;
}

static bool begins(const char *s, size_t n, const char *with, size_t with_n) {
  return n >= with_n && memcmp(s, with, with_n) == 0;
}

static ka_status dec_strip(struct ka_ctx *ctx, const struct ka_tok_part *p,
                           const struct ka_tok_pieces *in, struct ka_tok_pieces *out) {
  for (int64_t i = 0; i < in->n; i++) {
    size_t n;
    const char *s = piece(in, i, &n);
    for (int64_t k = 0; k < p->start && begins(s, n, p->text, p->text_n); k++) {
      s += p->text_n;
      n -= p->text_n;
    }
    for (int64_t k = 0; k < p->stop && n >= p->text_n; k++) {
      if (memcmp(s + n - p->text_n, p->text, p->text_n) != 0) break;
      n -= p->text_n;
    }
    KA_TRY(ka_tok_pieces_push(ctx, out, s, n));
  }
  return KA_STATUS_OK;
}

/* Copies piece s with every `from` turned into `to`. */
static ka_status put_replaced(struct ka_ctx *ctx, struct ka_str *out, const char *s, size_t n,
                              const char *from, size_t from_n, const char *to) {
  while (n > 0) {
    const char *hit = from_n ? memmem(s, n, from, from_n) : NULL;
    size_t before = hit ? (size_t)(hit - s) : n;
    KA_TRY(ka_str_append(ctx, out, s, before));
    if (!hit) break;
    KA_TRY(ka_str_puts(ctx, out, to));
    s += before + from_n;
    n -= before + from_n;
  }
  return KA_STATUS_OK;
}

static ka_status dec_metaspace(struct ka_ctx *ctx, const struct ka_tok_part *p,
                               const struct ka_tok_pieces *in, struct ka_tok_pieces *out) {
  for (int64_t i = 0; i < in->n; i++) {
    size_t n;
    const char *s = piece(in, i, &n);
    const char *to = i == 0 && p->scheme != KA_PREPEND_NEVER ? "" : " ";
    KA_TRY(put_replaced(ctx, &out->text, s, n, p->text, p->text_n, to));
    KA_TRY(ka_tok_pieces_push(ctx, out, "", 0));
  }
  return KA_STATUS_OK;
}

static ka_status dec_bpe(struct ka_ctx *ctx, const struct ka_tok_part *p,
                         const struct ka_tok_pieces *in, struct ka_tok_pieces *out) {
  for (int64_t i = 0; i < in->n; i++) {
    size_t n;
    const char *s = piece(in, i, &n);
    KA_TRY(put_replaced(ctx, &out->text, s, n, p->text, p->text_n, i == in->n - 1 ? "" : " "));
    KA_TRY(ka_tok_pieces_push(ctx, out, "", 0));
  }
  return KA_STATUS_OK;
}

static ka_status clean_up(struct ka_ctx *ctx, struct ka_str *s) {
  static const char *const pairs[][2] = {
      {" .", "."},   {" ?", "?"},     {" !", "!"},     {" ,", ","},
      {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},   {" do not", " don't"},
      {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
  };
  struct ka_str next = {0};
  ka_status st = KA_STATUS_OK;
  for (size_t k = 0; k < sizeof pairs / sizeof *pairs; k++) {
    ka_str_clear(&next);
    KA_TRY_GOTO(
        put_replaced(ctx, &next, s->data, s->len, pairs[k][0], strlen(pairs[k][0]), pairs[k][1]),
        out);
    ka_str_clear(s);
    KA_TRY_GOTO(ka_str_append(ctx, s, next.data, next.len), out);
  }
out:
  ka_str_deinit(&next);
  return st;
}

static ka_status dec_wordpiece(struct ka_ctx *ctx, const struct ka_tok_part *p,
                               const struct ka_tok_pieces *in, struct ka_tok_pieces *out) {
  struct ka_str word = {0};
  ka_status st = KA_STATUS_OK;
  for (int64_t i = 0; i < in->n; i++) {
    size_t n;
    const char *s = piece(in, i, &n);
    bool glued = i > 0 && begins(s, n, p->text, p->text_n);
    size_t skip = glued ? p->text_n : 0;
    ka_str_clear(&word);
    if (i > 0 && !glued) KA_TRY_GOTO(ka_str_puts(ctx, &word, " "), out);
    KA_TRY_GOTO(ka_str_append(ctx, &word, s + skip, n - skip), out);
    if (p->left) KA_TRY_GOTO(clean_up(ctx, &word), out);
    KA_TRY_GOTO(ka_tok_pieces_push(ctx, out, word.data, word.len), out);
  }
out:
  ka_str_deinit(&word);
  return st;
}

static ka_status run_one(struct ka_ctx *ctx, const struct ka_tok_unicode *u,
                         const struct ka_tok_part *p, struct ka_rx_scan *scan,
                         const struct ka_tok_pieces *in, struct ka_tok_pieces *out) {
  switch (p->kind) {
  case KA_DEC_BYTES:
    return dec_bytes(ctx, in, out);
  case KA_DEC_REPLACE:
    return dec_replace(ctx, u, p, scan, in, out);
  case KA_DEC_BYTE_FALLBACK:
    return dec_byte_fallback(ctx, in, out);
  case KA_DEC_FUSE:
    return ka_tok_pieces_push(ctx, out, in->text.data, in->text.len);
  case KA_DEC_STRIP:
    return dec_strip(ctx, p, in, out);
  case KA_DEC_METASPACE:
    return dec_metaspace(ctx, p, in, out);
  case KA_DEC_BPE:
    return dec_bpe(ctx, p, in, out);
  case KA_DEC_WORDPIECE:
    return dec_wordpiece(ctx, p, in, out);
  default:
    KA_NEVER(ctx, true);
  }
  return KA_STATUS_OK;
}

ka_status ka_tok_decode_parts(struct ka_ctx *ctx, const struct ka_tok_unicode *u,
                              const struct ka_tok_parts *parts, struct ka_rx_scan *scan,
                              struct ka_tok_pieces *in, struct ka_tok_pieces *other,
                              struct ka_tok_pieces **result) {
  for (int64_t i = 0; i < parts->n; i++) {
    ka_str_clear(&other->text);
    other->n = 0;
    KA_TRY(run_one(ctx, u, &parts->items[i], scan, in, other));
    struct ka_tok_pieces *swap = in;
    in = other;
    other = swap;
  }
  *result = in;
  return KA_STATUS_OK;
}
