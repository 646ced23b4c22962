/* SPDX-License-Identifier: Apache-2.0
 *
 * The "model" object of tokenizer.json into the tables of bpe.h. Refuses what contradicts itself:
 * a corrupt vocabulary must not give wrong ids in silence. */
#include "tokenizer/bpe.h"
#include "tokenizer/convert.h"
#include "tokenizer/unicode.h"

#include <stdio.h>
#include <string.h>

uint32_t ka_tok_byte_char(unsigned char b) {
  if ((b >= '!' && b <= '~') || (b >= 0xA1 && b != 0xAD)) return b;
  if (b <= 0x20) return 0x100u + b;
  if (b <= 0xA0) return 0x121u + (b - 0x7Fu);
  return 0x143; /* 0xAD */
}

int ka_tok_char_byte(uint32_t cp) {
  if (cp < 0x100) return ka_tok_byte_char((unsigned char)cp) == cp ? (int)cp : -1;
  if (cp <= 0x120) return (int)(cp - 0x100);
  if (cp <= 0x142) return (int)(cp - 0x121 + 0x7F);
  return cp == 0x143 ? 0xAD : -1;
}

static uint64_t hash_bytes(const char *s, size_t n) {
  uint64_t h = 0x9E3779B97F4A7C15ull ^ n, w;
  for (; n >= 8; s += 8, n -= 8) {
    memcpy(&w, s, 8);
    h = (h ^ w) * 0xFF51AFD7ED558CCDull;
    h ^= h >> 32;
  }
  w = 0;
  memcpy(&w, s, n);
  h = (h ^ w) * 0xC4CEB9FE1A85EC53ull;
  return h ^ h >> 29;
}

int32_t ka_tok_bpe_find(const struct ka_tok_bpe *b, const char *s, size_t n) {
  for (uint64_t i = hash_bytes(s, n) & b->by_text_mask;; i = (i + 1) & b->by_text_mask) {
    if (b->by_text[i] == 0) return -1;
    const struct ka_tok_token_text *t = &b->tokens[b->by_text[i] - 1];
    if (t->n == n && memcmp(t->s, s, n) == 0) return (int32_t)(b->by_text[i] - 1);
  }
}

int32_t ka_tok_bpe_find_own(const struct ka_tok_bpe *b, const char *s, size_t n) {
  int32_t id = ka_tok_bpe_find(b, s, n);
  return id >= 0 && !b->tokens[id].added ? id : -1;
}

size_t ka_tok_unmark_nul(char *s, size_t n) {
  size_t to = 0;
  for (size_t i = 0; i < n; to++) {
    bool mark = n - i >= 3 && memcmp(s + i, KA_NUL_MARK, 3) == 0;
    s[to] = mark ? 0 : s[i];
    i += mark ? 3 : 1;
  }
  s[to] = 0;
  return to;
}

void ka_tok_bpe_add(struct ka_tok_bpe *b, int32_t id, const char *s, size_t n, bool added) {
  b->tokens[id] = (struct ka_tok_token_text){s, (uint32_t)n, added};
  if (id >= b->n_ids) b->n_ids = id + 1;
  if (n > b->longest) b->longest = (uint32_t)n;
  uint64_t i = hash_bytes(s, n) & b->by_text_mask;
  while (b->by_text[i]) i = (i + 1) & b->by_text_mask;
  b->by_text[i] = (uint32_t)id + 1;
}

static uint64_t table_size(int64_t n) {
  uint64_t size = 64;
  while (size < 2 * (uint64_t)n) size *= 2;
  return size;
}

static ka_status load_vocab(struct ka_tok_bpe *b, struct ka_arena *a, json_t *vocab,
                            int64_t n_extra, bool nul_marks, const char *what) {
  struct ka_ctx *ctx = a->ctx;
  int64_t max_id = -1;
  size_t text_bytes = 0;
  const char *key;
  json_t *v;
  b->n_vocab = (int64_t)json_object_size(vocab);
  if (b->n_vocab == 0) return ka_fail(ctx, KA_E_INPUT, "%s: model.vocab is empty", what);
  json_object_foreach(vocab, key, v) {
    int64_t id = json_is_integer(v) ? json_integer_value(v) : -1;
    if (id < 0 || id >= KA_MAX_TOKEN_ID)
      return ka_fail(ctx, KA_E_INPUT,
                     "%s: model.vocab: token \"%.80s\": expected an integer id from 0 to %d", what,
                     key, KA_MAX_TOKEN_ID - 1);
    if (id > max_id) max_id = id;
    text_bytes += strlen(key) + 1;
  }
  int64_t room = (max_id + 1 > b->n_vocab ? max_id + 1 : b->n_vocab) + n_extra;
  void *p;
  KA_TRY(KA_NEW(a, &b->tokens, room, "vocabulary"));
  uint64_t size = table_size(b->n_vocab + n_extra);
  KA_TRY(KA_NEW(a, &b->by_text, (int64_t)size, "vocabulary index"));
  b->by_text_mask = size - 1;
  KA_TRY(ka_arena_alloc(a, &p, text_bytes, "vocabulary text"));
  char *text = p;
  json_object_foreach(vocab, key, v) {
    int64_t id = json_integer_value(v);
    if (b->tokens[id].s)
      return ka_fail(ctx, KA_E_INPUT,
                     "%s: model.vocab: tokens \"%.80s\" and \"%.80s\" share id %lld; the file is "
                     "corrupt",
                     what, b->tokens[id].s, key, (long long)id);
    size_t n = strlen(key);
    memcpy(text, key, n + 1);
    if (nul_marks) n = ka_tok_unmark_nul(text, n);
    ka_tok_bpe_add(b, (int32_t)id, text, n, false);
    text += n + 1;
  }
  return KA_STATUS_OK;
}

ka_status ka_tok_merge_halves(struct ka_ctx *ctx, const json_t *merges, int64_t i, const char *what,
                              const char *half[2], size_t len[2]) {
  const json_t *m = json_array_get(merges, (size_t)i);
  if (json_is_string(m)) {
    const char *s = json_string_value(m);
    size_t n = json_string_length(m);
    const char *space = memchr(s, ' ', n);
    if (!space || memchr(space + 1, ' ', n - (size_t)(space - s) - 1))
      return ka_fail(ctx, KA_E_INPUT,
                     "%s: model.merges[%lld]: \"%.80s\" is not two tokens and one space; were the "
                     "file's no-break spaces turned into spaces?",
                     what, (long long)i, s);
    half[0] = s;
    len[0] = (size_t)(space - s);
    half[1] = space + 1;
    len[1] = n - len[0] - 1;
    return KA_STATUS_OK;
  }
  for (size_t k = 0; k < 2; k++) {
    const json_t *v = json_array_size(m) == 2 ? json_array_get(m, k) : NULL;
    if (!json_is_string(v))
      return ka_fail(ctx, KA_E_INPUT,
                     "%s: model.merges[%lld]: expected \"a b\" or a list of two strings", what,
                     (long long)i);
    half[k] = json_string_value(v);
    len[k] = json_string_length(v);
  }
  return KA_STATUS_OK;
}

static void mark_joined(struct ka_tok_bpe *b, const struct ka_tok_token_text *t) {
  uint32_t x, y;
  for (size_t i = t->n ? (size_t)ka_utf8_next(t->s, &x) : 0; i < t->n; x = y) {
    i += (size_t)ka_utf8_next(t->s + i, &y);
    uint64_t bit = ka_tok_joined_bit(x, y);
    b->joined[bit >> 6] |= 1ull << (bit & 63);
  }
}

static ka_status add_merge(struct ka_tok_bpe *b, struct ka_ctx *ctx, int64_t rank,
                           const char *half[2], const size_t len[2], struct ka_str *joined,
                           const char *what) {
  int32_t ids[3];
  size_t skip = b->prefix ? strlen(b->prefix) : 0;
  ka_str_clear(joined);
  KA_TRY(ka_str_append(ctx, joined, half[0], len[0]));
  if (skip <= len[1]) KA_TRY(ka_str_append(ctx, joined, half[1] + skip, len[1] - skip));
  const char *text[3] = {half[0], half[1], joined->data};
  size_t n[3] = {len[0], len[1], joined->len};
  for (int k = 0; k < 3; k++)
    if ((ids[k] = ka_tok_bpe_find(b, text[k], n[k])) < 0)
      return ka_fail(
          ctx, KA_E_INPUT,
          "%s: model.merges[%lld]: the token \"%.*s\" is not in the vocabulary; the file "
          "is corrupt",
          what, (long long)rank, (int)(n[k] > 80 ? 80 : n[k]), text[k]);
  uint32_t x = (uint32_t)ids[0], y = (uint32_t)ids[1];
  uint64_t i = ka_tok_merge_hash(x, y) & b->merges_mask;
  while (b->merges[i].rank != UINT32_MAX && (b->merges[i].a != x || b->merges[i].b != y))
    i = (i + 1) & b->merges_mask;
  b->merges[i] =
      (struct ka_tok_merge){x, y, (uint32_t)rank, (uint32_t)ids[2]}; /* the last one counts */
  mark_joined(b, &b->tokens[ids[2]]);
  return KA_STATUS_OK;
}

static ka_status load_merges(struct ka_tok_bpe *b, struct ka_arena *a, const json_t *merges,
                             const char *what) {
  struct ka_ctx *ctx = a->ctx;
  struct ka_str joined = {0};
  ka_status st = KA_STATUS_OK;
  int64_t n = (int64_t)json_array_size(merges), rank = 0;
  uint64_t size = table_size(n);
  if (n > INT32_MAX / 2) return ka_fail(ctx, KA_E_INPUT, "%s: model.merges: too many", what);
  KA_TRY(KA_NEW(a, &b->merges, (int64_t)size, "merges"));
  b->merges_mask = size - 1;
  memset(b->merges, 0xFF, size * sizeof *b->merges);
  KA_TRY(KA_NEW(a, &b->joined, KA_JOINED_BITS / 64, "merge bigrams"));
  for (int64_t i = 0; i < n; i++) {
    const json_t *m = json_array_get(merges, (size_t)i);
    const char *half[2] = {0};
    size_t len[2] = {0};
    if (json_is_string(m) && ka_starts_with(json_string_value(m), "#version")) continue;
    KA_TRY_GOTO(ka_tok_merge_halves(ctx, merges, i, what, half, len), out);
    KA_TRY_GOTO(add_merge(b, ctx, rank++, half, len, &joined, what), out);
  }
  b->n_merges = rank;
out:
  ka_str_deinit(&joined);
  return st;
}

static ka_status fill_char_tables(struct ka_tok_bpe *b, struct ka_arena *a) {
  struct ka_ctx *ctx = a->ctx;
  KA_TRY(KA_NEW(a, &b->char_id, 0x10000, "character ids"));
  memset(b->char_id, 0xFF, 0x10000 * sizeof *b->char_id);
  for (int64_t id = 0; id < b->n_ids; id++) {
    const struct ka_tok_token_text *t = &b->tokens[id];
    uint32_t cp;
    if (t->s && t->n > 0 && (uint32_t)ka_utf8_next(t->s, &cp) == t->n && cp < 0x10000)
      b->char_id[cp] = (int32_t)id;
  }
  for (int i = 0; i < 256; i++) {
    char text[8];
    b->byte_id[i] = b->char_id[ka_tok_byte_char((unsigned char)i)];
    snprintf(text, sizeof text, "<0x%02X>", (unsigned)i);
    b->fallback[i] = ka_tok_bpe_find(b, text, 6);
  }
  return KA_STATUS_OK;
}

static ka_status optional_text(struct ka_arena *a, const json_t *model, const char *key,
                               const char *what, const char **out) {
  struct ka_ctx *ctx = a->ctx;
  const char *s;
  *out = NULL;
  KA_TRY(ka_json_str_or(ctx, what, model, key, NULL, &s));
  if (s && *s) KA_TRY(ka_arena_str(a, out, s, strlen(s)));
  return KA_STATUS_OK;
}

ka_status ka_tok_bpe_load(struct ka_tok_bpe *b, struct ka_arena *a, const json_t *model,
                          int64_t n_extra, bool nul_marks, const char *what) {
  struct ka_ctx *ctx = a->ctx;
  json_t *vocab = json_object_get(model, "vocab"), *merges = json_object_get(model, "merges");
  const char *unk;
  double dropout;
  if (!json_is_object(vocab))
    return ka_fail(ctx, KA_E_INPUT, "%s: model.vocab: expected an object of token: id", what);
  if (!json_is_array(merges))
    return ka_fail(ctx, KA_E_INPUT, "%s: model.merges: expected a list", what);
  KA_TRY(ka_json_f64_or(ctx, what, model, "dropout", 0, &dropout));
  if (dropout != 0)
    return ka_fail(ctx, KA_E_UNSUPPORTED,
                   "%s: model.dropout is %g: random tokenization is not supported; set it to null",
                   what, dropout);
  KA_TRY(ka_json_bool_or(ctx, what, model, "fuse_unk", false, &b->fuse_unk));
  KA_TRY(ka_json_bool_or(ctx, what, model, "byte_fallback", false, &b->byte_fallback));
  KA_TRY(ka_json_bool_or(ctx, what, model, "ignore_merges", false, &b->ignore_merges));
  KA_TRY(optional_text(a, model, "continuing_subword_prefix", what, &b->prefix));
  KA_TRY(optional_text(a, model, "end_of_word_suffix", what, &b->suffix));
  KA_TRY(load_vocab(b, a, vocab, n_extra, nul_marks, what));
  KA_TRY(load_merges(b, a, merges, what));
  KA_TRY(fill_char_tables(b, a));
  KA_TRY(ka_json_str_or(ctx, what, model, "unk_token", NULL, &unk));
  b->unk = unk ? ka_tok_bpe_find(b, unk, strlen(unk)) : -1;
  b->unk_missing = unk && b->unk < 0; /* an error only for text that needs it, as in the library */
  return KA_STATUS_OK;
}
