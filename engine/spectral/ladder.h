/* SPDX-License-Identifier: Apache-2.0
 *
 * What the routes of the certified ladder share (ends.c: Gram route and order; inverse.c). A is the
 * scaled tall matrix, n x m, u = 2^-53, g(k) = k u / (1 - k u).
 *
 * The ladder climbs with a set of equal-shaped units at once, each at its own pace: a function does
 * its work for the members of a set, and what is by unit stands in arrays. Matrices and vectors are
 * the engine's (linalg/dense.h) and are never looked into here. Error terms are inflated by
 * LADDER_SAFE, which covers the rounding of their own computation. */
#ifndef KAPPA_ENGINE_SPECTRAL_LADDER_H
#define KAPPA_ENGINE_SPECTRAL_LADDER_H

#include "engine/spectral/ends.h"
#include "engine/spectral/lanczos.h"

#define LADDER_U 0x1p-53
#define LADDER_SAFE 1.01

struct ladder {
  struct ka_ctx *ctx;
  struct ka_dense_worker *worker;
  const struct ka_dense *d;
  const struct ka_panels *p; /* by unit, as the next two */
  struct ka_spectral_ends *out;
  struct ka_spectral_ends_goal goal;
  struct ka_spectral_phases *phases;
  int64_t n, m;
  double *gram, *factor, *scratch;      /* matrices */
  struct ka_dense_vectors vectors, tmp; /* [2,m]: right singular vectors of the two ends; [m] */
  struct ka_spectral_lanczos lanczos;
  double gram_err[KA_BATCH];                         /* ||G computed - A^T A|| */
  double lambda_max[KA_BATCH], lambda_min[KA_BATCH]; /* estimates of sigma^2 */
  double max_err[KA_BATCH], min_err[KA_BATCH];       /* how far Lanczos says they are off */
  double target[KA_BATCH];                           /* relative bound wanted for kappa */
};

/* The vectors of sigma_max (0) and sigma_min (1). */
static inline struct ka_dense_vectors ladder_end(const struct ladder *w, int end) {
  return (struct ka_dense_vectors){w->vectors.at + end * w->m, w->vectors.stride};
}

static inline struct ka_dense_set ladder_one(int i) {
  return (struct ka_dense_set){1, {(uint8_t)i}};
}

double ladder_gamma(int64_t chain);

/* ka_spectral_lanczos_top, and once more through the operator: what is left of other directions in
 * the vector of sigma_min would count kappa^2 times in ||A v||. */
ka_status ladder_lanczos(struct ladder *w, struct ka_dense_set who, ka_operator op,
                         const double *rtol, struct ka_dense_vectors vector, double *value,
                         double *err);

/* A Cholesky factorisation; done: those that ran to completion. */
ka_status ladder_factorise(struct ladder *w, struct ka_dense_set who, double *a,
                           struct ka_dense_set *done);

/* Backward error of a completed Cholesky factorisation of a matrix with this trace, with the
 * rounding of a shifted diagonal. */
double ladder_cholesky_err(const struct ladder *w, double trace);

/* Proves lambda_min(s) >= bound[i], bound[i] slightly below mu[i], for the members in proven; s is
 * kept, scratch spoilt. */
ka_status ladder_prove_above(struct ladder *w, struct ka_dense_set who, const double *s,
                             const double *mu, double *bound, struct ka_dense_set *proven);

/* Proves lambda_max(s) <= bound[i] for the estimate theta[i] with the least slack >= slack[i]
 * (relative). Lanczos may have missed a value that lies beside the one it found; then the factor
 * that succeeded, of a matrix shifted next to the edge, finds it: vector follows theta. */
ka_status ladder_tighten_above(struct ladder *w, struct ka_dense_set who, const double *s,
                               const double *slack, double *theta, struct ka_dense_vectors vector,
                               double *bound, struct ka_dense_set *proven);

/* Rigorous inner bounds (max_low, min_high) from the two vectors. */
ka_status ladder_measure(struct ladder *w, struct ka_dense_set who);

/* inverse.c: min_low of unit i by the inverse of what factorised G + shift I, a ready factor that
 * stands in `factor`. Spoils all three matrices. */
ka_status ladder_prove_min_inverse(struct ladder *w, int i);

#endif
