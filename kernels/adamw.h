/* SPDX-License-Identifier: Apache-2.0
 *
 * What every back end's adamw shares, so that all clip and round alike. */
#ifndef KAPPA_KERNELS_ADAMW_H
#define KAPPA_KERNELS_ADAMW_H

#include "base/rng.h"
#include "kernels/ops.h"

#include <math.h>

/* The factor of the gradients; NaN: stats is not finite and nothing may be written. For back ends
 * that read host memory. */
static inline double ka_adamw_clip(const struct ka_adamw_args *args) {
  const double *stats = args->stats.data;
  if (!stats) return 1;
  for (int64_t i = 0; i < args->stats.shape[0]; i++)
    if (!isfinite(stats[i])) return (double)NAN;
  return args->max_norm > 0 ? fmin(1, args->max_norm / (sqrt(stats[0]) + 1e-6)) : 1;
}

/* Random words of element i: for w, m and v. */
static inline void ka_adamw_random(const struct ka_adamw_args *args, int64_t i, uint32_t out[4]) {
  ka_philox(args->seed, (uint64_t)args->t, (uint64_t)(args->first + i), out);
}

#endif
