/* SPDX-License-Identifier: Apache-2.0
 *
 * Does a job fit the device's memory, and with how many blocks recomputed? Answered by the same
 * planning code that allocates, before anything is allocated. */
#ifndef KAPPA_ENGINE_TRAIN_MEMORY_H
#define KAPPA_ENGINE_TRAIN_MEMORY_H

#include "engine/train/run.h"

/* What a run would take of the device's memory (of the host's, where the device is the host). */
struct ka_run_memory {
  size_t model_bytes, step_bytes, optimizer_bytes; /* optimizer: 0 when it is offloaded */
  size_t all_bytes;
};

/* With model.recompute as it is. Leaves the model measured, not allocated. */
ka_status ka_run_measure(struct ka_run *r, struct ka_run_memory *out);

/* Sets model.recompute as gradient_checkpointing says and model.shards as shard does; auto: the
 * least sharding, and with it as few blocks, as make the plan fit, and no less than any other rank
 * needs. A plan that does not fit a device's memory is KA_E_MEMORY with the largest holders and the
 * keys that would help. */
ka_status ka_run_choose_memory(struct ka_run *r);

/* Is the optimizer's state in the host's memory, where the device has its own? */
bool ka_run_offloads(const struct ka_run *r);

/* Sets m->recompute to the fewest blocks for which `need` says at most `budget` bytes, to all of
 * them if none do; the last thing measured is that. */
ka_status ka_train_fit_recompute(struct ka_model *m, double budget,
                                 ka_status (*need)(void *user, double *bytes), void *user);

/* The job's optimizer keys. */
struct ka_optim_config ka_run_optim_config(const struct ka_run *r);

#endif
