/* SPDX-License-Identifier: Apache-2.0
 *
 * A batch: units of one shape that a worker takes at once, from stored matrices to results; inside
 * this room. */
#ifndef KAPPA_ENGINE_SPECTRAL_BATCH_H
#define KAPPA_ENGINE_SPECTRAL_BATCH_H

#include "engine/spectral/spectral.h"

struct ka_data_cache;

/* A call of ka_spectral_analyze. */
struct ka_spectral_analysis {
  struct ka_ctx *ctx;
  struct ka_arena *arena; /* of the results */
  struct ka_spectrum *results;
  const struct ka_unit *units;
  int64_t n;
  const struct ka_spectral_options *options;
  struct ka_linalg_engine engine;
  struct ka_data_cache *cache; /* NULL: none */
  struct ka_spectral_phases *phases;
  double *flops;  /* of each unit, for the order and the progress */
  int64_t *order; /* of the units */
  double done_flops, all_flops;
};

int64_t ka_unit_short_side(const struct ka_unit *unit);

/* What a worker of such an engine holds of units like this one. */
struct ka_dense_size ka_spectral_batch_size(const struct ka_spectral_analysis *a,
                                            const struct ka_dense *d, const struct ka_unit *unit);

/* The results of units[0..n-1], n at most the batch of their common shape: from the cache, from the
 * worker, or why there is none. Workers may do so side by side. KA_E_MEMORY when the worker has no
 * room.
 */
ka_status ka_spectral_batch_run(struct ka_spectral_analysis *a, struct ka_dense_worker *worker,
                                const int64_t *units, int n);

#endif
