/* SPDX-License-Identifier: Apache-2.0
 *
 * Both ends of the spectrum of matrices with proven bounds (docs/spectra.md derives them). */
#ifndef KAPPA_ENGINE_SPECTRAL_ENDS_H
#define KAPPA_ENGINE_SPECTRAL_ENDS_H

#include "engine/spectral/spectral.h"

/* Of the scaled matrix (see panel.h). low <= true <= high for both ends. */
struct ka_spectral_ends {
  double max, max_low, max_high;
  double min, min_low, min_high;
  double frobenius2; /* ||A||_F^2 */
  double log_volume; /* -inf or NaN when singular */
  bool singular;
  enum ka_spectral_method method;
};

/* Wanted relative bound of kappa; <= 0: the default of docs/spectra.md for this precision. */
struct ka_spectral_ends_goal {
  double rtol;
  enum ka_spectral_precision precision;
};

/* Of those units that the worker holds; p and out by unit. Finite, not zero, of one shape with more
 * than one row and column. Time spent is added to phases (not NULL). */
ka_status ka_spectral_ends_of(struct ka_dense_worker *worker, struct ka_dense_set who,
                              const struct ka_panels *p, struct ka_spectral_ends_goal goal,
                              struct ka_spectral_phases *phases, struct ka_spectral_ends *out);

/* What a worker needs for ka_spectral_ends_of with a batch of this shape, and with `full` for all
 * singular values. */
struct ka_dense_size ka_spectral_ends_size(const struct ka_dense *d, int64_t n, int64_t m,
                                           int64_t elem_bytes, bool full);
/* Float64 operations of the Gram route (for progress). */
double ka_spectral_ends_flops(int64_t n, int64_t m, bool full);

#endif
