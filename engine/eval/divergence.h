/* SPDX-License-Identifier: Apache-2.0
 *
 * How far a tuned model's next-token distributions are from its base's: KL(base || tuned), the
 * expected surprise in nats at the tuned model of one who believes the base. */
#ifndef KAPPA_ENGINE_EVAL_DIVERGENCE_H
#define KAPPA_ENGINE_EVAL_DIVERGENCE_H

#include "engine/model/model.h"

/* *kl += the sum over the batch's targets of KL(base || tuned) of the distribution that predicts
 * each. Both models prepared for the batch. The logits of a few rows at a time are all that is
 * held, in f32; sums are in double. KA_E_INPUT: vocabularies of different sizes. */
ka_status ka_eval_divergence(struct ka_ctx *ctx, struct ka_model *base, struct ka_model *tuned,
                             const struct ka_batch *batch, double *kl);

/* What it holds of batches of n_rows tokens, vocabulary V. */
double ka_eval_divergence_bytes(int64_t n_rows, int64_t V);

/* KL(p || q) of the softmaxes of two rows of logits; NaN when a logit is. */
double ka_eval_divergence_row(const float *p, const float *q, int64_t V);

#endif
