/* SPDX-License-Identifier: Apache-2.0
 *
 * Learning-rate schedules: the formulas of transformers' get_cosine_schedule_with_warmup (with the
 * floor of get_cosine_with_min_lr_schedule_with_warmup), get_linear_schedule_with_warmup and
 * get_constant_schedule_with_warmup. */
#ifndef KAPPA_ENGINE_TRAIN_SCHEDULE_H
#define KAPPA_ENGINE_TRAIN_SCHEDULE_H

#include "engine/job/job.h"

struct ka_schedule {
  int kind; /* KA_SCHEDULE_COSINE, LINEAR, CONSTANT: lr_scheduler in job.def */
  double peak_lr;
  double min_ratio;              /* of peak_lr, where cosine and linear end */
  int64_t warmup_steps, n_steps; /* n_steps: the whole run */
};

/* Learning rate that optimizer step `step` uses, step from 1. As in transformers, where the
 * scheduler moves after the optimizer, step s uses lambda(s - 1): with warm-up, step 1 uses 0 and
 * step warmup_steps + 1 the peak; without, step 1 uses the peak. */
double ka_schedule_lr(const struct ka_schedule *s, int64_t step);

#endif
