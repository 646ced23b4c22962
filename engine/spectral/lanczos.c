/* SPDX-License-Identifier: Apache-2.0
 * See lanczos.h. */
#include "engine/spectral/lanczos.h"

#include "base/rng.h"

#include <math.h>
#include <string.h>

enum { LANES = 8, CHECK_EVERY = 6 };

static double dot(const double *a, const double *b, int64_t n) {
  double sum[LANES] = {0};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int l = 0; l < LANES; l++) sum[l] += a[i + l] * b[i + l];
  for (int l = 0; i < n; i++, l++) sum[l] += a[i] * b[i];
  double s = 0;
  for (int l = 0; l < LANES; l++) s += sum[l];
  return s;
}

static void add_scaled(double *y, double a, const double *x, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] += a * x[i];
}

static void normalise(double *x, double norm, int64_t n) {
  for (int64_t i = 0; i < n; i++) x[i] /= norm;
}

/* One implicit QL sweep with Wilkinson's shift on the unreduced block [l, m]. */
static void ql_sweep(int64_t k, int64_t l, int64_t m, double *d, double *e, double *z) {
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
    for (int64_t q = 0; q < k; q++) {
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

static void sort_ascending(int64_t k, double *d, double *z) {
  for (int64_t i = 0; i < k; i++) {
    int64_t low = i;
    for (int64_t j = i + 1; j < k; j++)
      if (d[j] < d[low]) low = j;
    if (low == i) continue;
    double t = d[i];
    d[i] = d[low];
    d[low] = t;
    for (int64_t q = 0; q < k; q++) {
      t = z[q * k + i];
      z[q * k + i] = z[q * k + low];
      z[q * k + low] = t;
    }
  }
}

bool ka_tridiagonal_eigen(int64_t k, double *d, double *e, double *z) {
  memset(z, 0, (size_t)(k * k) * sizeof *z);
  for (int64_t i = 0; i < k; i++) z[i * k + i] = 1;
  e[k - 1] = 0;
  for (int64_t l = 0; l < k; l++)
    for (int sweep = 0;; sweep++) {
      int64_t m = l;
      for (; m + 1 < k; m++)
        if (fabs(e[m]) <= 1e-16 * (fabs(d[m]) + fabs(d[m + 1]))) break;
      if (m == l) break;
      if (sweep == 60) return false;
      ql_sweep(k, l, m, d, e, z);
    }
  sort_ascending(k, d, z);
  return true;
}

struct run {
  int64_t m, k, max_k;
  double *basis;              /* [max_k + 1, m] rows */
  double *alpha, *beta;       /* [max_k] */
  double *d, *e, *z, *coords; /* of the small problem */
};

/* Value, error estimate and coordinates of the top Ritz pair of the first k steps. */
static bool ritz(struct run *r, double *value, double *err) {
  int64_t k = r->k;
  memcpy(r->d, r->alpha, (size_t)k * sizeof *r->d);
  memcpy(r->e, r->beta, (size_t)k * sizeof *r->e);
  if (!ka_tridiagonal_eigen(k, r->d, r->e, r->z)) return false;
  *value = r->d[k - 1];
  for (int64_t i = 0; i < k; i++) r->coords[i] = r->z[i * k + k - 1];
  double residual = fabs(r->beta[k - 1] * r->coords[k - 1]);
  double gap = k > 1 ? r->d[k - 1] - r->d[k - 2] : 0;
  *err = gap > residual ? residual * residual / gap : residual;
  return true;
}

/* Extends the basis by one; false when the space is exhausted. */
static bool step(struct run *r, ka_operator op, void *user) {
  int64_t m = r->m, k = r->k;
  double *v = r->basis + k * m, *w = v + m;
  op(user, v, w);
  r->alpha[k] = dot(v, w, m);
  double before = sqrt(dot(w, w, m));
  for (int pass = 0; pass < 2; pass++)
    for (int64_t j = k; j >= 0; j--)
      add_scaled(w, -dot(r->basis + j * m, w, m), r->basis + j * m, m);
  r->beta[k] = sqrt(dot(w, w, m));
  r->k++;
  if (!(r->beta[k] > 1e-15 * before)) {
    r->beta[k] = 0;
    return false;
  }
  normalise(w, r->beta[k], m);
  return true;
}

static ka_status iterate(struct ka_ctx *ctx, struct run *r, ka_operator op, void *user, double rtol,
                         double *vector, double *value, double *err) {
  int64_t m = r->m;
  for (int64_t i = 0; i < m; i++) r->basis[i] = ka_rng_normal(7, 0x1a2c, (uint64_t)i);
  normalise(r->basis, sqrt(dot(r->basis, r->basis, m)), m);
  for (bool more = true; more && r->k < r->max_k;) {
    more = step(r, op, user);
    if (more && r->k < r->max_k && r->k % CHECK_EVERY != 0) continue;
    if (!ritz(r, value, err))
      return ka_fail(ctx, KA_E_INTERNAL, "Lanczos: the tridiagonal eigenproblem did not converge");
    if (*err <= rtol * *value) break;
  }
  memset(vector, 0, (size_t)m * sizeof *vector);
  for (int64_t j = 0; j < r->k; j++) add_scaled(vector, r->coords[j], r->basis + j * m, m);
  normalise(vector, sqrt(dot(vector, vector, m)), m);
  return KA_STATUS_OK;
}

ka_status ka_lanczos_top(struct ka_ctx *ctx, int64_t m, ka_operator op, void *user, double rtol,
                         int64_t max_steps, double *vector, double *value, double *err) {
  struct run r = {.m = m, .max_k = max_steps < m ? max_steps : m};
  int64_t k = r.max_k;
  void *memory = NULL;
  KA_TRY(ka_alloc_n(ctx, &memory, (k + 1) * m + 5 * (k + 1) + k * k, sizeof(double), "Lanczos"));
  r.basis = memory;
  r.alpha = r.basis + (k + 1) * m;
  r.beta = r.alpha + k + 1;
  r.d = r.beta + k + 1;
  r.e = r.d + k + 1;
  r.coords = r.e + k + 1;
  r.z = r.coords + k + 1;
  ka_status st = iterate(ctx, &r, op, user, rtol, vector, value, err);
  ka_free(memory);
  return st;
}
