/* SPDX-License-Identifier: Apache-2.0
 *
 * Ids of a text and where they stand in it. */
#ifndef KAPPA_TOKENIZER_TOKENS_H
#define KAPPA_TOKENIZER_TOKENS_H

#include <stdbool.h>
#include <stdint.h>

/* Byte range in the text given to encode. Whole characters: two tokens that share the bytes of one
 * character both cover it. Characters that the normalizer inserted take the range of the character
 * they were inserted before. */
struct ka_tok_span {
  int64_t begin, end;
};

/* Growing output of encode; zero-initialise, free with ka_tok_tokens_deinit. */
struct ka_tok_tokens {
  int32_t *ids;
  int64_t n, cap;
  bool want_spans;           /* set before encode to fill spans */
  struct ka_tok_span *spans; /* [n] when want_spans; added special tokens have begin == end */
  int64_t spans_cap;
};
void ka_tok_tokens_clear(struct ka_tok_tokens *t); /* n = 0, keeps the memory */
void ka_tok_tokens_deinit(struct ka_tok_tokens *t);

#endif
