/* SPDX-License-Identifier: Apache-2.0
 *
 * Log-likelihoods of the ends of token sequences, many at a time. What sequences share is computed
 * once: one that is the beginning of another is scored with it (so all one-token choices of a
 * question are one pass), and where many share a long beginning (few-shot examples) its keys and
 * values are kept. The others are packed into rows as documents, longest first; none is padded. */
#ifndef KAPPA_ENGINE_EVAL_SCORER_H
#define KAPPA_ENGINE_EVAL_SCORER_H

#include "engine/model/model.h"

struct ka_eval_sequence {
  const int32_t *ids; /* [n], n > n_targets > 0 */
  int64_t n, n_targets;
  double *ll;   /* += log p(the last n_targets | all before each), natural */
  bool *greedy; /* &= each of them was the likeliest token there, the first of equals */
};

struct ka_eval_scoring {
  int64_t batch_size; /* sequences in a pass; 0: as many as the model has rows for */
  int64_t share_min;  /* tokens that a beginning must have to be kept; 0: by default, -1: never */
  void (*progress)(void *user, int64_t n_done); /* sequences; may be NULL */
  void *user;
};

/* m: prepared, for positions below the longest n - 1. KA_E_INPUT: an id outside its vocabulary;
 * KA_E_INTERRUPTED. */
ka_status ka_eval_score_sequences(struct ka_ctx *ctx, struct ka_model *m,
                                  struct ka_eval_sequence *s, int64_t n,
                                  const struct ka_eval_scoring *o);

#endif
