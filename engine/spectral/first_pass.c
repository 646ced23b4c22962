/* SPDX-License-Identifier: Apache-2.0
 *
 * See first_pass.h. One pass over A a step: with the panel at hand, u = A v - beta u_before is
 * local to its rows, so A^T u is summed at once (alpha divides afterwards). */
#include "engine/spectral/first_pass.h"

#include "base/rng.h"
#include "engine/spectral/lanczos.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { STEPS = 16 };

struct bidiagonal {
  const struct ka_blas *blas;
  const struct ka_panels *p;
  float *panel, *basis, *u, *z; /* [PANEL m], [STEPS + 1, m], [n], [m] */
  double *wide_panel;           /* [PANEL m] for panels that are converted by way of float64 */
  double alpha[STEPS], beta[STEPS];
  int k;
};

static double norm_of(const float *x, int64_t n) {
  double s = 0;
  for (int64_t i = 0; i < n; i++) s += (double)x[i] * (double)x[i];
  return sqrt(s);
}

static double dot_of(const float *a, const float *b, int64_t n) {
  double s = 0;
  for (int64_t i = 0; i < n; i++) s += (double)a[i] * (double)b[i];
  return s;
}

static void add_scaled(float *y, double a, const float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] = (float)((double)y[i] + a * (double)x[i]);
}

/* u = A v - beta u, z = A^T u, before dividing by alpha; returns alpha = ||u||. */
static double pass(struct bidiagonal *b, const float *v, double beta) {
  const struct ka_panels *p = b->p;
  int64_t m = p->m;
  memset(b->z, 0, (size_t)m * sizeof *b->z);
  for (int64_t k0 = 0; k0 < p->n; k0 += KA_PANEL) {
    int64_t kb = p->n - k0 < KA_PANEL ? p->n - k0 : KA_PANEL;
    float *u = b->u + k0;
    ka_panels_load(p, k0, kb, b->wide_panel);
    for (int64_t i = 0; i < kb * m; i++) b->panel[i] = (float)b->wide_panel[i];
    for (int64_t i = 0; i < kb; i++) u[i] = (float)(-beta * (double)u[i]);
    if (p->wide) {
      b->blas->gemv_f32(false, kb, m, b->panel, kb, v, u);
      b->blas->gemv_f32(true, kb, m, b->panel, kb, u, b->z);
    } else {
      b->blas->gemv_f32(true, m, kb, b->panel, m, v, u);
      b->blas->gemv_f32(false, m, kb, b->panel, m, u, b->z);
    }
  }
  return norm_of(b->u, p->n);
}

static bool step(struct bidiagonal *b) {
  int64_t m = b->p->m;
  float *v = b->basis + b->k * m, *next = v + m;
  double alpha = pass(b, v, b->k > 0 ? b->beta[b->k - 1] : 0);
  if (!(alpha > 0)) return false;
  for (int64_t i = 0; i < b->p->n; i++) b->u[i] = (float)((double)b->u[i] / alpha);
  for (int64_t i = 0; i < m; i++) next[i] = (float)((double)b->z[i] / alpha);
  for (int again = 0; again < 2; again++)
    for (int j = 0; j <= b->k; j++)
      add_scaled(next, -dot_of(next, b->basis + j * m, m), b->basis + j * m, m);
  double beta = norm_of(next, m);
  b->alpha[b->k] = alpha;
  b->beta[b->k] = beta;
  b->k++;
  if (!(beta > 1e-6 * alpha)) return false;
  for (int64_t i = 0; i < m; i++) next[i] = (float)((double)next[i] / beta);
  return true;
}

/* The right singular vectors of both ends of the bidiagonal matrix, in the full space. */
static bool end_vectors(const struct bidiagonal *b, double *vectors) {
  double d[STEPS], e[STEPS], z[STEPS * STEPS];
  int64_t m = b->p->m;
  int k = b->k;
  for (int i = 0; i < k; i++) {
    double before = i > 0 ? b->beta[i - 1] : 0;
    d[i] = b->alpha[i] * b->alpha[i] + before * before;
    e[i] = b->alpha[i] * b->beta[i];
  }
  if (k == 0 || !ka_spectral_tridiagonal_eigen(k, d, e, z, k)) return false;
  for (int end = 0; end < 2; end++) {
    double *x = vectors + end * m;
    int column = end == 0 ? k - 1 : 0;
    memset(x, 0, (size_t)m * sizeof *x);
    for (int j = 0; j < k; j++)
      for (int64_t i = 0; i < m; i++) x[i] += z[j * k + column] * (double)b->basis[j * m + i];
  }
  return true;
}

/* The proof: ||A u|| / ||A v|| with its own rounding taken off. */
static double proven(const struct bidiagonal *b, const double *vectors) {
  int64_t m = b->p->m;
  double norms[2], size[2] = {0};
  ka_panels_norms(b->p, b->blas, vectors, 2, b->wide_panel, norms);
  for (int j = 0; j < 2; j++) {
    for (int64_t i = 0; i < m; i++) size[j] += vectors[i + j * m] * vectors[i + j * m];
    size[j] = sqrt(size[j]);
  }
  /* Elements are below 1, so ||A||_F <= sqrt(m n); u = 2^-53. */
  double err = 1.01 * (double)ka_panels_norm_chain(m) * (DBL_EPSILON / 2) *
               sqrt((double)m * (double)b->p->n);
  double slack = (double)m * DBL_EPSILON;
  double low = (norms[0] / size[0] * (1 - slack) - err) / (norms[1] / size[1] * (1 + slack) + err);
  return low > 1 ? low : 1;
}

ka_status ka_spectral_first_pass(struct ka_ctx *ctx, const struct ka_blas *blas,
                                 const struct ka_panels *p, double *kappa_low) {
  int64_t m = p->m, n = p->n;
  void *memory = NULL;
  *kappa_low = 1;
  size_t doubles = (size_t)((KA_PANEL + 2) * m) * sizeof(double);
  size_t floats = (size_t)((KA_PANEL + STEPS + 2) * m + n) * sizeof(float);
  KA_TRY(ka_alloc(ctx, &memory, doubles + floats, "first pass"));
  struct bidiagonal b = {.blas = blas, .p = p, .wide_panel = memory};
  double *vectors = b.wide_panel + KA_PANEL * m;
  b.panel = (float *)(vectors + 2 * m);
  b.basis = b.panel + KA_PANEL * m;
  b.z = b.basis + (STEPS + 1) * m;
  b.u = b.z + m;
  for (int64_t i = 0; i < m; i++) b.basis[i] = (float)ka_rng_normal(11, 0x51, (uint64_t)i);
  double norm = norm_of(b.basis, m);
  for (int64_t i = 0; i < m; i++) b.basis[i] = (float)((double)b.basis[i] / norm);
  while (b.k < STEPS && b.k < m && step(&b)) {
  }
  if (end_vectors(&b, vectors)) *kappa_low = proven(&b, vectors);
  ka_free(memory);
  return KA_STATUS_OK;
}
