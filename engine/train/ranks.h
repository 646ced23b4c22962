/* SPDX-License-Identifier: Apache-2.0
 * What ranks do together in training: sums of gradients, one mind about signals. All
 * of it is a no-op in a process that is alone. */
#ifndef KAPPA_ENGINE_TRAIN_RANKS_H
#define KAPPA_ENGINE_TRAIN_RANKS_H

#include "engine/model/model.h"

/* Of a step's micro-batches, numbered over all ranks, this rank takes those with i mod n = r. */
bool ka_train_ranks_mine(const struct ka_ctx *ctx, int64_t i);

/* Around each ka_model_grad. What it completes is exchanged while the rest of it is computed: of
 * this rank's last one of a step, of each one where weights are split. Not where the device
 * computes on its own. */
void ka_train_ranks_begin_pass(struct ka_model *m, bool last);
ka_status ka_train_ranks_end_pass(struct ka_model *m);

/* Micro-batch i of n ends a round, which has one for each rank. Where weights are split all ranks
 * make a pass in each round. */
bool ka_train_ranks_round_ends(const struct ka_model *m, int64_t i, int64_t n);

/* Gradients and step statistics of m become their sums over ranks: of split gradients this rank's
 * parts, and the statistics in the optimizer's step. Waits. */
ka_status ka_train_ranks_sum_gradients(struct ka_model *m);

/* x [n]: of each the largest of all ranks. */
ka_status ka_train_ranks_most(struct ka_ctx *ctx, double *x, int64_t n);

/* Did any rank get a signal? The same answer on all. */
ka_status ka_train_ranks_signalled(struct ka_ctx *ctx, bool own, bool *any);

#endif
