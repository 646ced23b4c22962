/* SPDX-License-Identifier: Apache-2.0
 * linalg/blas.h in plain C: textbook loops, one-sided Jacobi for singular values. */
#include "linalg/blas.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void no_threads(int n) { (void)n; }

static void syrk(int64_t m, int64_t k, bool trans, double alpha, const double *p, int64_t ldp,
                 double beta, double *c, int64_t ldc) {
#pragma omp parallel for schedule(static, 8)
  for (int64_t j = 0; j < m; j++)
    for (int64_t i = j; i < m; i++) {
      double s = 0;
      for (int64_t l = 0; l < k; l++)
        s += trans ? p[l + i * ldp] * p[l + j * ldp] : p[i + l * ldp] * p[j + l * ldp];
      c[i + j * ldc] = (beta == 0 ? 0 : beta * c[i + j * ldc]) + alpha * s;
    }
}

static void gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const double *a,
                 int64_t lda, const double *b, int64_t ldb, double beta, double *c, int64_t ldc) {
#pragma omp parallel for schedule(static, 8)
  for (int64_t j = 0; j < n; j++)
    for (int64_t i = 0; i < m; i++) {
      double s = 0;
      for (int64_t l = 0; l < k; l++)
        s += (trans_a ? a[l + i * lda] : a[i + l * lda]) *
             (trans_b ? b[j + l * ldb] : b[l + j * ldb]);
      c[i + j * ldc] = (beta == 0 ? 0 : beta * c[i + j * ldc]) + s;
    }
}

static int64_t potrf(int64_t m, double *a, int64_t lda) {
  for (int64_t j = 0; j < m; j++) {
    for (int64_t l = 0; l < j; l++)
      for (int64_t i = j; i < m; i++) a[i + j * lda] -= a[i + l * lda] * a[j + l * lda];
    double d = a[j + j * lda];
    if (!(d > 0) || !isfinite(d)) return j + 1;
    d = sqrt(d);
    for (int64_t i = j; i < m; i++) a[i + j * lda] /= d;
    a[j + j * lda] = d;
  }
  return 0;
}

static void trsv(bool trans, int64_t m, const double *a, int64_t lda, double *x) {
  for (int64_t k = 0; k < m; k++) {
    int64_t i = trans ? m - 1 - k : k;
    double s = x[i];
    if (trans) {
      for (int64_t j = i + 1; j < m; j++) s -= a[j + i * lda] * x[j];
    } else {
      for (int64_t j = 0; j < i; j++) s -= a[i + j * lda] * x[j];
    }
    x[i] = s / a[i + i * lda];
  }
}

static void trmv(bool trans, int64_t m, const double *a, int64_t lda, double *x) {
  for (int64_t k = 0; k < m; k++) {
    int64_t i = trans ? k : m - 1 - k;
    double s = 0;
    if (trans) {
      for (int64_t j = i; j < m; j++) s += a[j + i * lda] * x[j];
    } else {
      for (int64_t j = 0; j <= i; j++) s += a[i + j * lda] * x[j];
    }
    x[i] = s;
  }
}

static void symv(int64_t m, const double *a, int64_t lda, const double *x, double *y) {
  for (int64_t i = 0; i < m; i++) {
    double s = 0;
    for (int64_t j = 0; j < m; j++) s += (j <= i ? a[i + j * lda] : a[j + i * lda]) * x[j];
    y[i] = s;
  }
}

static void gemv_f32(bool trans, int64_t m, int64_t n, const float *a, int64_t lda, const float *x,
                     float *y) {
  for (int64_t j = 0; j < n; j++)
    for (int64_t i = 0; i < m; i++) {
      if (trans)
        y[j] += a[i + j * lda] * x[i];
      else
        y[i] += a[i + j * lda] * x[j];
    }
}

static void trsm(int64_t m, int64_t n, const double *a, int64_t lda, double *b, int64_t ldb) {
  for (int64_t j = 0; j < n; j++) trsv(false, m, a, lda, b + j * ldb);
}

/* Columns from the right: below its diagonal, column j of the inverse is
 * -inverse(trailing) a[j+1:, j] / a[j,j], and the trailing part is inverted already. */
static int64_t trtri(int64_t m, double *a, int64_t lda) {
  for (int64_t j = 0; j < m; j++)
    if (a[j + j * lda] == 0) return j + 1;
  for (int64_t j = m - 1; j >= 0; j--) {
    double d = 1 / a[j + j * lda];
    trmv(false, m - j - 1, a + (j + 1) + (j + 1) * lda, lda, a + (j + 1) + j * lda);
    for (int64_t i = j + 1; i < m; i++) a[i + j * lda] *= -d;
    a[j + j * lda] = d;
  }
  return 0;
}

static void lauum(int64_t m, double *a, int64_t lda) {
  for (int64_t j = 0; j < m; j++)
    for (int64_t i = j; i < m; i++) {
      double s = 0;
      for (int64_t l = i; l < m; l++) s += a[l + i * lda] * a[l + j * lda];
      a[i + j * lda] = s;
    }
}

static int descending(const void *x, const void *y) {
  double a = *(const double *)x, b = *(const double *)y;
  return a < b ? 1 : a > b ? -1 : 0;
}

static void turn(int64_t n, double *x, double *y, double cs, double sn) {
  for (int64_t i = 0; i < n; i++) {
    double u = x[i];
    x[i] = cs * u - sn * y[i];
    y[i] = sn * u + cs * y[i];
  }
}

/* Makes columns x and y [n] orthogonal, and turns p and q [n_more] as much; true when it had to. */
static bool rotate_both(int64_t n, double *x, double *y, int64_t n_more, double *p, double *q) {
  double a = 0, b = 0, c = 0;
  for (int64_t i = 0; i < n; i++) {
    a += x[i] * x[i];
    b += y[i] * y[i];
    c += x[i] * y[i];
  }
  if (fabs(c) <= 1e-16 * sqrt(a) * sqrt(b) || c == 0) return false;
  double zeta = (b - a) / (2 * c);
  double t = (zeta >= 0 ? 1 : -1) / (fabs(zeta) + sqrt(1 + zeta * zeta));
  double cs = 1 / sqrt(1 + t * t), sn = cs * t;
  turn(n, x, y, cs, sn);
  turn(n_more, p, q, cs, sn);
  return true;
}

static ka_status svdvals(struct ka_ctx *ctx, int64_t m, int64_t n, double *a, int64_t lda,
                         double *s) {
  int64_t rows = m > n ? m : n, cols = m > n ? n : m;
  double *w = malloc((size_t)(rows * cols + 1) * sizeof *w);
  if (!w)
    return ka_fail(ctx, KA_E_MEMORY, "singular values: no memory for %lld x %lld", (long long)rows,
                   (long long)cols);
  for (int64_t j = 0; j < cols; j++)
    for (int64_t i = 0; i < rows; i++) w[i + j * rows] = m >= n ? a[i + j * lda] : a[j + i * lda];
  bool turned = true;
  for (int sweep = 0; sweep < 60 && turned; sweep++) {
    turned = false;
    for (int64_t p = 0; p < cols; p++)
      for (int64_t q = p + 1; q < cols; q++)
        turned |= rotate_both(rows, w + p * rows, w + q * rows, 0, NULL, NULL);
  }
  for (int64_t j = 0; j < cols; j++) {
    double q = 0;
    for (int64_t i = 0; i < rows; i++) q = hypot(q, w[i + j * rows]);
    s[j] = q;
  }
  qsort(s, (size_t)cols, sizeof *s, descending);
  free(w);
  return KA_STATUS_OK;
}

/* Column j of the k by `order`, each divided by its length s[j] (zero ones stay zero). */
static void put_columns(double *to, const double *from, int64_t n, int64_t k, const double *s,
                        const int64_t *order) {
  for (int64_t j = 0; j < k; j++)
    for (int64_t i = 0; i < n; i++)
      to[i + j * n] = s ? (s[j] > 0 ? from[i + order[j] * n] / s[j] : 0) : from[i + order[j] * n];
}

/* One-sided Jacobi on the columns of w [rows, cols], cols <= rows, and the same turns on the
 * identity: w = a v becomes u diag(s). */
static void turn_all(double *w, double *v, int64_t rows, int64_t cols) {
  bool turned = true;
  for (int sweep = 0; sweep < 60 && turned; sweep++) {
    turned = false;
    for (int64_t p = 0; p < cols; p++)
      for (int64_t q = p + 1; q < cols; q++)
        turned |= rotate_both(rows, w + p * rows, w + q * rows, cols, v + p * cols, v + q * cols);
  }
}

static ka_status svd(struct ka_ctx *ctx, int64_t m, int64_t n, double *a, double *s, double *u,
                     double *v) {
  int64_t rows = m > n ? m : n, k = m > n ? n : m;
  double *w = malloc((size_t)(rows * k + k * k + 1) * sizeof *w), *turns = w + rows * k;
  int64_t *order = malloc((size_t)(k + 1) * sizeof *order);
  ka_status st = KA_STATUS_OK;
  if (!w || !order) {
    st = ka_fail(ctx, KA_E_MEMORY, "singular vectors: no memory for %lld x %lld", (long long)m,
                 (long long)n);
    goto out;
  }
  for (int64_t j = 0; j < k; j++) {
    for (int64_t i = 0; i < rows; i++) w[i + j * rows] = m >= n ? a[i + j * m] : a[j + i * m];
    for (int64_t i = 0; i < k; i++) turns[i + j * k] = i == j;
  }
  turn_all(w, turns, rows, k);
  for (int64_t j = 0; j < k; j++) {
    double length = 0;
    int64_t at = j;
    for (int64_t i = 0; i < rows; i++) length = hypot(length, w[i + j * rows]);
    for (; at > 0 && s[at - 1] < length; at--) {
      s[at] = s[at - 1];
      order[at] = order[at - 1];
    }
    s[at] = length;
    order[at] = j;
  }
  put_columns(m >= n ? u : v, w, rows, k, s, order);
  put_columns(m >= n ? v : u, turns, k, k, NULL, order);
out:
  free(w);
  free(order);
  return st;
}

static int64_t chain_potrf(int64_t m) { return m + 4; }

const struct ka_blas ka_blas_ref = {
    .name = "plain C",
    .threads = no_threads,
    .syrk = syrk,
    .gemm = gemm,
    .potrf = potrf,
    .trtri = trtri,
    .lauum = lauum,
    .trsm = trsm,
    .symv = symv,
    .trsv = trsv,
    .trmv = trmv,
    .gemv_f32 = gemv_f32,
    .svdvals = svdvals,
    .svd = svd,
    .chain_potrf = chain_potrf,
};
