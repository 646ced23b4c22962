/* SPDX-License-Identifier: Apache-2.0
 * What ranks would exchange in a step, and what of their time that leaves: by formula. */
#ifndef KAPPA_ENGINE_TRAIN_PLAN_RANKS_H
#define KAPPA_ENGINE_TRAIN_PLAN_RANKS_H

#include "engine/train/plan_figures.h"

/* Of a step. */
struct ka_plan_ranks {
  int64_t n, n_rounds; /* ranks; micro-batches of the rank that has most */
  double wire_bytes;   /* that each rank sends */
  double full_bytes;   /* the same were everything trained */
  double compute_s;    /* of the rank that has most; 0: not known, as are those below */
  double wire_s;       /* with the link alone; 0: no link given */
  double least, most;  /* share of n times one rank's speed: without, and with all of the exchange
                           hidden behind the computing */
};

/* Of a run opened for options.n_ranks; link: GB/s of each rank, 0: not given. */
struct ka_plan_ranks ka_plan_ranks_of(const struct ka_run *r, const struct ka_plan_figures *f,
                                      double link);

#endif
