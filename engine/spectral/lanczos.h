/* SPDX-License-Identifier: Apache-2.0
 *
 * The largest eigenvalue of a symmetric positive semidefinite operator by the Lanczos process with
 * full reorthogonalisation, of many operators side by side. An estimate: proofs are made
 * elsewhere. */
#ifndef KAPPA_ENGINE_SPECTRAL_LANCZOS_H
#define KAPPA_ENGINE_SPECTRAL_LANCZOS_H

#include "linalg/dense.h"

/* y = Op x, both [m], for each member. */
typedef ka_status (*ka_operator)(void *user, struct ka_dense_set who, struct ka_dense_vectors x,
                                 struct ka_dense_vectors y);

/* Memory of the worker for up to max_steps: basis (max_steps + 1) * m doubles a unit, coefficients
 * 2 * max_steps a unit. */
struct ka_spectral_lanczos {
  struct ka_dense_worker *worker;
  int64_t m, max_steps;
  struct ka_dense_vectors basis, coefficients;
};

/* For each member: value[i] and a unit vector [m]; err[i] estimates how far below the true
 * eigenvalue the value is. A member is done when err <= rtol[i] * value, or after max_steps (then
 * err says what was reached). Deterministic, and the same whoever else is a member. */
ka_status ka_spectral_lanczos_top(const struct ka_spectral_lanczos *l, struct ka_dense_set who,
                                  ka_operator op, void *user, const double *rtol,
                                  struct ka_dense_vectors vector, double *value, double *err);

/* Eigenvalues d (ascending on return) of the symmetric tridiagonal matrix with diagonal d [k] and
 * off-diagonal e [k-1]; z [n_rows,k] row-major receives the last n_rows rows of the matrix of
 * eigenvectors, which stand in its columns. e is spoilt and needs room for k. False when the QL
 * iteration does not converge. */
bool ka_spectral_tridiagonal_eigen(int64_t k, double *d, double *e, double *z, int64_t n_rows);

#endif
