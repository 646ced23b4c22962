/* SPDX-License-Identifier: Apache-2.0
 *
 * Added tokens: found in the text before the model sees it. Those with normalized false are looked
 * for in the raw text first, the others in what the normalizer made of the rest. */
#ifndef KAPPA_TOKENIZER_ADDED_H
#define KAPPA_TOKENIZER_ADDED_H

#include "base/json.h"
#include "tokenizer/parts.h"

struct ka_tok_added {
  const char *content; /* as the file spells it */
  const char *pattern; /* what is looked for: content, or its normal form */
  size_t content_n, pattern_n;
  int32_t id;
  bool single_word, lstrip, rstrip, normalized, special;
};

struct ka_tok_trie_node {
  int32_t child, sibling; /* 0 = none */
  int32_t token;          /* index into the set's tokens, or -1 */
  unsigned char byte;
};

/* Patterns searched together, the leftmost first and the longest of those. */
struct ka_tok_added_set {
  int32_t first[256]; /* node by first byte; 0 = none */
  struct ka_tok_trie_node *nodes;
  int64_t n, cap;
};

struct ka_tok_added_tokens {
  struct ka_tok_added *items;
  int64_t n;
  struct ka_tok_added_set raw, normal;
  struct ka_rx *word; /* \w of the library's regex crate; NULL unless a token is single_word */
};

/* tokenizer_config.json of dir, with what only special_tokens_map.json says, unless the config has
 * added_tokens_decoder: transformers ignores the map then. NULL without both. The caller owns
 * it. */
ka_status ka_tok_load_config(struct ka_arena *a, const char *dir, json_t **out);
/* Appends to root's added_tokens what transformers adds besides: tokens that only the config's
 * added_tokens_decoder names, by id, then its special tokens (bos_token, ...,
 * additional_special_tokens). a: scratch. */
ka_status ka_tok_add_configured(struct ka_arena *a, json_t *root, const json_t *config);

/* Reads the "added_tokens" list (NULL: none); contents live in a. Later entries of the same content
 * replace earlier ones. */
ka_status ka_tok_added_load(struct ka_arena *a, const json_t *list, const char *what,
                            struct ka_tok_added_tokens *out);
/* Builds the two sets from the patterns. */
ka_status ka_tok_added_build(struct ka_ctx *ctx, struct ka_tok_added_tokens *t, const char *what);
void ka_tok_added_deinit(struct ka_tok_added_tokens *t);

/* Next token in s[0..n) at or after *at. True: *token, its range [*b, *e), which may begin before
 * *from (the end of the one before) only as the library lets it. *at and *from move on. */
bool ka_tok_added_next(const struct ka_tok_added_tokens *t, const struct ka_tok_added_set *set,
                       const struct ka_tok_unicode *u, struct ka_rx_scan *scan, const char *s,
                       size_t n, size_t *at, size_t from, const struct ka_tok_added **token,
                       size_t *b, size_t *e);

#endif
