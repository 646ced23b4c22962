/* SPDX-License-Identifier: Apache-2.0
 *
 * Metric affinity (ESFT, arXiv 2407.01906): how much of a task's tokens each expert of a model
 * gets, over the first selection.score_tokens tokens that training sees, of documents with a
 * target. */
#ifndef KAPPA_ENGINE_TRAIN_AFFINITY_H
#define KAPPA_ENGINE_TRAIN_AFFINITY_H

#include "engine/job/job.h"
#include "engine/model/model.h"
#include "engine/spectral/selection.h"
#include "engine/train/data.h"

struct ka_train_shares {
  int64_t L, E;
  int64_t n_tok;
  double *share; /* [L*E]: of its layer's, the sums are 1; NaN: no layer of experts */
};

/* Does the job choose by it? */
bool ka_train_shares_wanted(const struct ka_job *job);

/* Runs the model's directory over the micro-batches, each on its rank, on the model's device (one
 * that is only planned for: on the host); together on all ranks. In the arena. A model without
 * experts is KA_E_INPUT with the place in the job. Shows progress. */
ka_status ka_train_shares_measure(struct ka_arena *arena, struct ka_train_shares *out,
                                  const struct ka_job *job, const struct ka_model *model,
                                  const struct ka_train_batch_source *train);

/* Gives the units of experts their affinity. */
void ka_train_shares_of_units(const struct ka_train_shares *shares, struct ka_unit *units,
                              int64_t n);
struct ka_affinity ka_train_shares_affinity(const struct ka_train_shares *shares,
                                            const struct ka_job *job);

#endif
