/* SPDX-License-Identifier: Apache-2.0
 *
 * The largest eigenvalue of a symmetric positive semidefinite operator by the Lanczos process with
 * full reorthogonalisation. An estimate: proofs are made elsewhere. */
#ifndef KAPPA_ENGINE_SPECTRAL_LANCZOS_H
#define KAPPA_ENGINE_SPECTRAL_LANCZOS_H

#include "base/arena.h"

/* y = Op x, both [m]. */
typedef void (*ka_operator)(void *user, const double *x, double *y);

/* value and unit vector [m]; *err estimates how far below the true eigenvalue the value is. Stops
 * when err <= rtol * value, or after max_steps (then err says what was reached). Deterministic. */
ka_status ka_lanczos_top(struct ka_ctx *ctx, int64_t m, ka_operator op, void *user, double rtol,
                         int64_t max_steps, double *vector, double *value, double *err);

/* Eigenvalues d (ascending on return) of the symmetric tridiagonal matrix with diagonal d [k] and
 * off-diagonal e [k-1]; z [k,k] row-major receives the eigenvectors in its columns. e is spoilt
 * and needs room for k. False when the QL iteration does not converge. */
bool ka_tridiagonal_eigen(int64_t k, double *d, double *e, double *z);

#endif
