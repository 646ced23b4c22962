/* SPDX-License-Identifier: Apache-2.0
 * See lanczos.h. */
#include "engine/spectral/lanczos.h"

#include "base/rng.h"

#include <math.h>
#include <string.h>

/* One implicit QL sweep with Wilkinson's shift on the unreduced block [l, m]. */
static void ql_sweep(int64_t k, int64_t l, int64_t m, double *d, double *e, double *z,
                     int64_t n_rows) {
  double g = (d[l + 1] - d[l]) / (2 * e[l]), r = hypot(g, 1);
  g = d[m] - d[l] + e[l] / (g + (g >= 0 ? r : -r));
  double s = 1, c = 1, p = 0;
  for (int64_t i = m - 1; i >= l; i--) {
    double f = s * e[i], b = c * e[i];
    r = hypot(f, g);
    e[i + 1] = r;
    if (r == 0) { /* the block split */
      d[i + 1] -= p;
      e[m] = 0;
      return;
    }
    s = f / r;
    c = g / r;
    g = d[i + 1] - p;
    r = (d[i] - g) * s + 2 * c * b;
    p = s * r;
    d[i + 1] = g + p;
    g = c * r - b;
    for (int64_t q = 0; q < n_rows; q++) {
      double *row = z + q * k;
      f = row[i + 1];
      row[i + 1] = s * row[i] + c * f;
      row[i] = c * row[i] - s * f;
    }
  }
  d[l] -= p;
  e[l] = g;
  e[m] = 0;
}

static void sort_ascending(int64_t k, double *d, double *z, int64_t n_rows) {
  for (int64_t i = 0; i < k; i++) {
    int64_t low = i;
    for (int64_t j = i + 1; j < k; j++)
      if (d[j] < d[low]) low = j;
    if (low == i) continue;
    double t = d[i];
    d[i] = d[low];
    d[low] = t;
    for (int64_t q = 0; q < n_rows; q++) {
      t = z[q * k + i];
      z[q * k + i] = z[q * k + low];
      z[q * k + low] = t;
    }
  }
}

bool ka_spectral_tridiagonal_eigen(int64_t k, double *d, double *e, double *z, int64_t n_rows) {
  memset(z, 0, (size_t)(n_rows * k) * sizeof *z);
  for (int64_t q = 0; q < n_rows; q++) z[q * k + k - n_rows + q] = 1;
  e[k - 1] = 0;
  for (int64_t l = 0; l < k; l++)
    for (int sweep = 0;; sweep++) {
      int64_t m = l;
      for (; m + 1 < k; m++)
        if (fabs(e[m]) <= 1e-16 * (fabs(d[m]) + fabs(d[m + 1]))) break;
      if (m == l) break;
      if (sweep == 60) return false;
      ql_sweep(k, l, m, d, e, z, n_rows);
    }
  sort_ascending(k, d, z, n_rows);
  return true;
}

/* --- the process ------------------------------------------------------------------------------ */

struct run {
  const struct ka_spectral_lanczos *l;
  struct ka_dense_worker *worker;
  const struct ka_dense *d;
  double *seen;   /* [unit][2 max_steps] coefficients as last read: diagonal, off-diagonal */
  double *coords; /* [unit][max_steps] of the vectors found */
  double *small_d, *small_e, *small_z; /* of the small problem */
  int64_t k;
  int64_t steps[KA_BATCH]; /* that made the vector; 0: not yet */
};

static const double *off_diagonal(const struct run *r, int i) {
  return r->seen + (2 * i + 1) * r->l->max_steps;
}

/* The eigenvalues of the first k steps of a member, and the last n_rows rows of eigenvectors. */
static ka_status solve_small(struct run *r, int i, int64_t k, int64_t n_rows) {
  struct ka_ctx *ctx = r->worker->ctx;
  memcpy(r->small_d, r->seen + 2 * i * r->l->max_steps, (size_t)k * sizeof(double));
  memcpy(r->small_e, off_diagonal(r, i), (size_t)k * sizeof(double));
  if (ka_spectral_tridiagonal_eigen(k, r->small_d, r->small_e, r->small_z, n_rows))
    return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_INTERNAL, "Lanczos: the tridiagonal eigenproblem did not converge");
}

/* Value and error estimate of the top Ritz pair of a member; its coordinates when it is done. */
static ka_status estimate(struct run *r, int i, double rtol, double *value, double *err) {
  struct ka_ctx *ctx = r->worker->ctx;
  const double *beta = off_diagonal(r, i), *d = r->small_d;
  int64_t k = 1;
  while (k < r->k && beta[k - 1] > 0) k++;
  KA_TRY(solve_small(r, i, k, 1));
  *value = d[k - 1];
  double residual = fabs(beta[k - 1] * r->small_z[k - 1]);
  double gap = k > 1 ? d[k - 1] - d[k - 2] : 0;
  *err = gap > residual ? residual * residual / gap : residual;
  bool exhausted = !(beta[k - 1] > 0);
  if (*err > rtol * *value && !exhausted && r->k < r->l->max_steps) return KA_STATUS_OK;
  KA_TRY(solve_small(r, i, k, k));
  for (int64_t j = 0; j < k; j++) r->coords[i * r->l->max_steps + j] = r->small_z[j * k + k - 1];
  r->steps[i] = k;
  return KA_STATUS_OK;
}

/* Every member starts with the same unit vector; `vector` is scratch. */
static ka_status begin(struct run *r, struct ka_dense_set who, struct ka_dense_vectors vector) {
  struct ka_ctx *ctx = r->worker->ctx;
  int64_t one_row[KA_BATCH];
  double one[KA_BATCH];
  void *memory = NULL;
  KA_TRY(ka_alloc_n(ctx, &memory, r->l->m, sizeof(double), "Lanczos"));
  double *x = memory;
  for (int i = 0; i < KA_BATCH; i++) one[i] = (double)(one_row[i] = 1);
  for (int64_t i = 0; i < r->l->m; i++) x[i] = ka_rng_normal(7, 0x1a2c, (uint64_t)i);
  ka_status st = r->d->put(r->worker, who, r->l->m, x, vector);
  ka_free(memory);
  KA_TRY(st);
  KA_TRY(r->d->combine(r->worker, who, r->l->m, one_row, vector, one, 1, r->l->basis));
  return r->d->put(r->worker, who, 2 * r->l->max_steps, r->seen, r->l->coefficients);
}

/* Where memory is the host's, the end of the space is seen at once. */
static bool ended(const struct run *r, struct ka_dense_set who) {
  const struct ka_dense_vectors *c = &r->l->coefficients;
  for (KA_EACH(i, who))
    if (r->worker->engine.blas && !(c->at[i * c->stride + r->l->max_steps + r->k - 1] > 0))
      return true;
  return false;
}

static ka_status iterate(struct run *r, struct ka_dense_set who, ka_operator op, void *user,
                         const double *rtol, double *value, double *err) {
  struct ka_ctx *ctx = r->worker->ctx;
  const struct ka_spectral_lanczos *l = r->l;
  while (who.n > 0 && r->k < l->max_steps) {
    struct ka_dense_vectors row = {l->basis.at + r->k * l->m, l->basis.stride};
    struct ka_dense_vectors next = {row.at + l->m, row.stride};
    KA_TRY(op(user, who, row, next));
    KA_TRY(
        r->d->orthogonalise(r->worker, who, l->m, r->k, l->basis, l->max_steps, l->coefficients));
    r->k++;
    if (r->k < l->max_steps && r->k % r->d->check_every != 0 && !ended(r, who)) continue;
    struct ka_dense_set left = {0};
    KA_TRY(r->d->get(r->worker, who, 2 * l->max_steps, l->coefficients, r->seen));
    for (KA_EACH(i, who)) {
      KA_TRY(estimate(r, i, rtol[i], &value[i], &err[i]));
      if (r->steps[i] == 0) ka_dense_set_add(&left, i);
    }
    who = left;
  }
  return KA_STATUS_OK;
}

ka_status ka_spectral_lanczos_top(const struct ka_spectral_lanczos *l, struct ka_dense_set who,
                                  ka_operator op, void *user, const double *rtol,
                                  struct ka_dense_vectors vector, double *value, double *err) {
  struct ka_ctx *ctx = l->worker->ctx;
  struct run r = {.l = l, .worker = l->worker, .d = l->worker->engine.dense};
  int64_t k = l->max_steps, n_units = who.at[who.n - 1] + 1;
  void *memory = NULL;
  KA_TRY(
      ka_alloc_n(ctx, &memory, 3 * n_units * k + 2 * (k + 1) + k * k, sizeof(double), "Lanczos"));
  r.seen = memory;
  r.coords = r.seen + 2 * n_units * k;
  r.small_d = r.coords + n_units * k;
  r.small_e = r.small_d + k + 1;
  r.small_z = r.small_e + k + 1;
  ka_status st = begin(&r, who, vector);
  if (ka_ok(st)) st = iterate(&r, who, op, user, rtol, value, err);
  if (ka_ok(st)) st = r.d->combine(r.worker, who, l->m, r.steps, l->basis, r.coords, k, vector);
  ka_free(memory);
  return st;
}
