/* SPDX-License-Identifier: Apache-2.0
 *
 * The BPE model: vocabulary, merges, and turning one pre-token into ids. Equal to the tokenizers
 * library merge for merge: lowest rank first, leftmost among equals. */
#ifndef KAPPA_TOKENIZER_BPE_H
#define KAPPA_TOKENIZER_BPE_H

#include "base/arena.h"
#include "base/json.h"
#include "tokenizer/tokens.h"

enum { KA_MAX_TOKEN_ID = 1 << 24 };

struct ka_tok_token_text {
  const char *s; /* NUL-terminated; NULL: no token has this id */
  uint32_t n;
  bool added; /* not in the model's own vocabulary: its merges and characters do not know it */
};

struct ka_tok_merge { /* hash table slot; rank UINT32_MAX = empty */
  uint32_t a, b, rank, id;
};

struct ka_tok_bpe {
  struct ka_tok_token_text *tokens; /* by id */
  int64_t n_ids;                    /* largest id + 1 */
  int64_t n_vocab;                  /* tokens that the model itself has */
  uint32_t *by_text;                /* hash table of ids + 1 */
  uint64_t by_text_mask;
  struct ka_tok_merge *merges;
  uint64_t merges_mask;
  int64_t n_merges;
  uint32_t longest;      /* bytes of the longest token */
  uint64_t *joined;      /* bits: bigrams of characters that some merge result holds; see bpe.c */
  int32_t byte_id[256];  /* by raw byte, through GPT-2's alphabet; -1 = none */
  int32_t fallback[256]; /* ids of <0x00> .. <0xFF>; -1 = none */
  int32_t *char_id;      /* [65536] ids of the BMP's one-character tokens; -1 = none */
  int32_t unk;           /* -1 = none */
  const char *prefix, *suffix; /* continuing_subword_prefix, end_of_word_suffix; NULL = none */
  bool unk_missing;            /* the file names an unk_token that its vocabulary lacks */
  bool fuse_unk, byte_fallback, ignore_merges;
};

/* Pair to slot of the merges table, before masking. */
static inline uint64_t ka_tok_merge_hash(uint32_t a, uint32_t b) {
  uint64_t h = ((uint64_t)a << 32 | b) * 0x9E3779B97F4A7C15ull;
  return h ^ h >> 32;
}

/* Bigram to bit: exact for the byte-level alphabet, hashed beyond. */
enum { KA_ALPHABET = 0x144, KA_JOINED_BITS = 1 << 20 };
static inline uint64_t ka_tok_joined_bit(uint32_t x, uint32_t y) {
  if (x < KA_ALPHABET && y < KA_ALPHABET) return x * KA_ALPHABET + y;
  const uint64_t exact = KA_ALPHABET * KA_ALPHABET;
  return exact + (ka_tok_merge_hash(x, y) >> 24) % (KA_JOINED_BITS - exact);
}

/* In a file with NUL in its strings the loader writes this noncharacter for it (jansson takes no
 * NUL in keys). */
#define KA_NUL_MARK "\xEF\xB7\x90"

/* Fills the tables from a parsed "model" object, with room for n_extra added tokens; `what` names
 * the file; nul_marks: the vocabulary's keys hold KA_NUL_MARK. Memory comes from `a`. */
ka_status ka_tok_bpe_load(struct ka_tok_bpe *b, struct ka_arena *a, const json_t *model,
                          int64_t n_extra, bool nul_marks, const char *what);
/* Gives a token its place in the tables: the id is free and s outlives b. */
void ka_tok_bpe_add(struct ka_tok_bpe *b, int32_t id, const char *s, size_t n, bool added);

/* The characters that stand for bytes in GPT-2's alphabet. */
uint32_t ka_tok_byte_char(unsigned char byte);
int ka_tok_char_byte(uint32_t cp); /* -1: not in the alphabet */

int32_t ka_tok_bpe_find(const struct ka_tok_bpe *b, const char *s, size_t n); /* id or -1 */
int32_t ka_tok_bpe_find_own(const struct ka_tok_bpe *b, const char *s,
                            size_t n); /* not added ones */
/* KA_NUL_MARK back to NUL, in place; returns the new length. */
size_t ka_tok_unmark_nul(char *s, size_t n);

/* Per-thread work space: symbol lists, heap, and the cache of words seen. */
struct ka_bpe_work;
ka_status ka_tok_bpe_work_create(struct ka_ctx *ctx, struct ka_bpe_work **out);
void ka_tok_bpe_work_free(struct ka_bpe_work *w);
/* The first character (of the byte-level alphabet for bytes) that no token spelled and that was
 * left out, or became unk although there is byte fallback; *n 0: none. Borrowed. */
const char *ka_tok_bpe_lost(const struct ka_bpe_work *w, size_t *n);

/* Appends the ids of one pre-token. `bytes`: s holds raw bytes that stand for characters of the
 * byte-level alphabet; else s is text. With spans, each token gets its range within s. */
ka_status ka_tok_bpe_encode(struct ka_ctx *ctx, const struct ka_tok_bpe *b, struct ka_bpe_work *w,
                            const char *s, size_t n, bool bytes, struct ka_tok_tokens *out);

#endif
