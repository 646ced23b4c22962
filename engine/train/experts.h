/* SPDX-License-Identifier: Apache-2.0
 *
 * Which experts the tokens of training took: of all ranks and micro-batches, those of documents
 * with a target. An expert that no token took is dead; a trained one that no token took got no
 * gradient, it is unreached. */
#ifndef KAPPA_ENGINE_TRAIN_EXPERTS_H
#define KAPPA_ENGINE_TRAIN_EXPERTS_H

#include "base/json.h"
#include "engine/model/model.h"
#include "engine/report/tensorboard.h"

struct ka_train_experts {
  int64_t L, E; /* E 0: the model has none, and every call does nothing */
  const struct ka_model *model;
  double *row, *all, *news; /* [L*E] since the last row of the log; since the start; scratch */
};

/* All zero, in the arena. */
ka_status ka_train_experts_open(struct ka_arena *arena, struct ka_train_experts *x,
                                const struct ka_model *model);

/* Takes what the model has counted; together on all ranks. */
ka_status ka_train_experts_gather(struct ka_train_experts *x, struct ka_model *model);

/* Adds to a row of the log, and to TensorBoard, what its steps took: "router_max" the largest share
 * of a layer's tokens that one expert took times E (1: even), "router_cv" the mean over layers of
 * the standard deviation of the shares over their mean, "router_dead" and "router_unreached" how
 * many experts. The next row starts from 0. */
ka_status ka_train_experts_row(struct ka_train_experts *x, json_t *row, struct ka_tensorboard *tb,
                               int64_t step);

/* Into and from the state of a checkpoint, as "experts". */
ka_status ka_train_experts_save(const struct ka_train_experts *x, json_t *state);
ka_status ka_train_experts_load(struct ka_train_experts *x, const char *path, const json_t *state);

/* "experts" of report.json: {"max", "cv", "dead", "unreached", "trained", "layers": [{"layer",
 * "taken": [of each expert], "trained": [experts]}]}. Says which trained ones were never
 * reached. */
ka_status ka_train_experts_report(const struct ka_train_experts *x, json_t *root);

#endif
