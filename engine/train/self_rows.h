/* SPDX-License-Identifier: Apache-2.0
 *
 * Text that the base model wrote itself, for `anchor.on: self`: rows of sequence_len tokens that
 * begin with the start token and are drawn at temperature 1, whatever stands in them (an end token
 * is a token as any other). Every step takes `per_step` of them that no other step takes, so row i
 * of the run is a function of the model, the seed and i; rows are drawn side by side, a group at a
 * time, so that ranks share the work and the file of the cache only ever grows. */
#ifndef KAPPA_ENGINE_TRAIN_SELF_ROWS_H
#define KAPPA_ENGINE_TRAIN_SELF_ROWS_H

#include "engine/model/model.h"
#include "engine/train/loop.h"
#include "tokenizer/tokenizer.h"

struct ka_self_rows {
  int64_t per_step, n, T;        /* rows a step, of the run (0: none), tokens a row */
  int64_t B;                     /* rows of a micro-batch */
  int64_t group;                 /* rows that are drawn side by side */
  int32_t start;                 /* the token that every row begins with */
  const char *start_name;        /* "BOS", or what stands for it and why */
  int32_t *ids;                  /* [n,T], once drawn */
  int32_t *position, *doc_start; /* [B,T] */
};

struct ka_self_rows_spec {
  double share;      /* of a step's rows */
  int64_t task_rows; /* that a step takes of the data */
  int64_t n_steps, T, micro_batch_size;
  uint64_t seed;
  const char *base_model; /* directory */
  const char *cache_dir;  /* where drawn rows are kept; NULL: nowhere */
};

/* Numbers and the start token alone: `m` is any opening of the base model, tokenizer may be NULL.
 * KA_E_INPUT: the model names no token to start from. */
ka_status ka_self_rows_init(struct ka_ctx *ctx, struct ka_self_rows *s,
                            const struct ka_self_rows_spec *spec, const struct ka_model *m,
                            const struct ka_tokenizer *tokenizer);

/* The rows themselves, from the cache as far as it has them, else drawn by a model of its own on
 * `dev`, shared over ranks. model_key: a hash of the base model. */
ka_status ka_self_rows_draw(struct ka_ctx *ctx, struct ka_self_rows *s,
                            const struct ka_self_rows_spec *spec, struct ka_dev *dev,
                            enum ka_dtype compute, const json_t *model_key);
void ka_self_rows_deinit(struct ka_self_rows *s);

/* Bytes that drawing takes beside the program: an opened model's arenas and the keys and values. */
ka_status ka_self_rows_bytes(struct ka_ctx *ctx, const struct ka_self_rows *s,
                             const struct ka_self_rows_spec *spec, struct ka_dev *dev,
                             enum ka_dtype compute, double *bytes);

/* The stream of micro-batches for struct ka_loop's self; s must not move. */
struct ka_train_batch_source ka_self_rows_source(struct ka_self_rows *s);

#endif
