/* SPDX-License-Identifier: Apache-2.0
 *
 * An open tokenizer's fields; internal to the room. Everything but the pool is read-only. */
#ifndef KAPPA_TOKENIZER_OPEN_H
#define KAPPA_TOKENIZER_OPEN_H

#include "tokenizer/added.h"
#include "tokenizer/parts.h"

#include <pthread.h>

struct ka_tok_pool { /* work spaces that no call is using */
  pthread_mutex_t lock;
  struct ka_tok_work *free;
  bool warned; /* of a text that the vocabulary cannot spell */
};

struct ka_tokenizer {
  const char *what; /* the file, for messages */
  struct ka_arena arena;
  struct ka_tok_unicode unicode;
  struct ka_tok_bpe bpe;
  struct ka_tok_added_tokens added;
  struct ka_tok_parts normalizers, pretokenizers, decoders;
  bool raw_bytes;          /* the model takes the byte-level alphabet as raw bytes */
  bool needs_alignment;    /* Metaspace "first" asks where the text began */
  int32_t *before, *after; /* ids that the post-processor adds */
  int64_t n_before, n_after;
  struct ka_tok_token_text
      *decoded;  /* [n_ids] what decoding starts from, where not the token's text */
  bool *special; /* [n_ids] */
  bool *skipped; /* [n_ids] by decoding without special tokens */
  int32_t bos, eos;
  struct ka_tok_pool *pool;
};

ka_status ka_tok_work_take(struct ka_ctx *ctx, const struct ka_tokenizer *t,
                           struct ka_tok_work **out);
void ka_tok_work_give(const struct ka_tokenizer *t, struct ka_tok_work *w);
void ka_tok_work_free(struct ka_tok_work *w);

#endif
