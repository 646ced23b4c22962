/* SPDX-License-Identifier: Apache-2.0
 *
 * Which token comes next: the likeliest, or one drawn among those that top_k, top_p and min_p
 * leave, in transformers' order. */
#ifndef KAPPA_ENGINE_EVAL_SAMPLING_H
#define KAPPA_ENGINE_EVAL_SAMPLING_H

#include "base/arena.h"

struct ka_eval_sampling {
  double temperature;  /* 0: the likeliest, the first of equals; the others then mean nothing */
  double top_p, min_p; /* 1 and 0: off */
  int64_t top_k;       /* 0: off */
};
#define KA_SAMPLING_GREEDY                                                                         \
  (struct ka_eval_sampling) { .top_p = 1 }

/* heap [V]: scratch, not used (may be NULL) without top_k and top_p. Tokens that may not be drawn
 * get -inf in logits [V]. The draw is named by (seed, index). KA_E_CHECK: the model computed what
 * is no number. */
ka_status ka_eval_sample(struct ka_ctx *ctx, const struct ka_eval_sampling *s, float *logits,
                         int64_t V, int32_t *heap, uint64_t seed, uint64_t index, int32_t *out);
/* The check by itself. */
ka_status ka_eval_check_logits(struct ka_ctx *ctx, const float *logits, int64_t V);

#endif
