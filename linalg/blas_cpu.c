/* SPDX-License-Identifier: Apache-2.0
 *
 * linalg/blas.h by BLAS and LAPACK (Fortran symbols: LAPACKE's row-major copies and NaN scans
 * are not wanted). The Cholesky factorisation is blocked here, over the library's level 3, because
 * its rounding chain is then block + number of blocks instead of the order of the matrix, which
 * tightens every certificate tenfold; it also runs faster than the library's own. */
#include "linalg/blas.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#ifdef KAPPA_HAVE_LAPACK

void dsyrk_(const char *, const char *, const int *, const int *, const double *, const double *,
            const int *, const double *, double *, const int *);
void dgemm_(const char *, const char *, const int *, const int *, const int *, const double *,
            const double *, const int *, const double *, const int *, const double *, double *,
            const int *);
void dtrsm_(const char *, const char *, const char *, const char *, const int *, const int *,
            const double *, const double *, const int *, double *, const int *);
void dsymv_(const char *, const int *, const double *, const double *, const int *, const double *,
            const int *, const double *, double *, const int *);
void dtrsv_(const char *, const char *, const char *, const int *, const double *, const int *,
            double *, const int *);
void dtrmv_(const char *, const char *, const char *, const int *, const double *, const int *,
            double *, const int *);
void sgemv_(const char *, const int *, const int *, const float *, const float *, const int *,
            const float *, const int *, const float *, float *, const int *);
void dpotrf_(const char *, const int *, double *, const int *, int *);
void dtrtri_(const char *, const char *, const int *, double *, const int *, int *);
void dlauum_(const char *, const int *, double *, const int *, int *);
void dgesdd_(const char *, const int *, const int *, double *, const int *, double *, double *,
             const int *, double *, const int *, double *, const int *, int *, int *);
#ifdef KAPPA_HAVE_OPENBLAS
void openblas_set_num_threads(int);
char *openblas_get_corename(void);
#endif

enum { CHOLESKY_BLOCK = 64 };

static void threads(int n) {
#ifdef KAPPA_HAVE_OPENBLAS
  openblas_set_num_threads(n);
#else
  (void)n;
#endif
}

static void syrk(int64_t m, int64_t k, bool trans, double alpha, const double *p, int64_t ldp,
                 double beta, double *c, int64_t ldc) {
  int m_ = (int)m, k_ = (int)k, ldp_ = (int)ldp, ldc_ = (int)ldc;
  dsyrk_("L", trans ? "T" : "N", &m_, &k_, &alpha, p, &ldp_, &beta, c, &ldc_);
}

static void gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const double *a,
                 int64_t lda, const double *b, int64_t ldb, double beta, double *c, int64_t ldc) {
  int m_ = (int)m, n_ = (int)n, k_ = (int)k, lda_ = (int)lda, ldb_ = (int)ldb, ldc_ = (int)ldc;
  double one = 1;
  dgemm_(trans_a ? "T" : "N", trans_b ? "T" : "N", &m_, &n_, &k_, &one, a, &lda_, b, &ldb_, &beta,
         c, &ldc_);
}

static int64_t potrf(int64_t m, double *a, int64_t lda) {
  int lda_ = (int)lda, info = 0;
  double one = 1;
  for (int64_t j = 0; j < m; j += CHOLESKY_BLOCK) {
    int block = (int)(m - j < CHOLESKY_BLOCK ? m - j : CHOLESKY_BLOCK),
        below = (int)(m - j) - block;
    double *diag = a + j + j * lda, *panel = diag + block;
    dpotrf_("L", &block, diag, &lda_, &info);
    if (info != 0) return j + (info > 0 ? info : 1);
    if (below == 0) break;
    dtrsm_("R", "L", "T", "N", &below, &block, &one, diag, &lda_, panel, &lda_);
    syrk(below, block, false, -1, panel, lda, 1, panel + block * lda, lda);
  }
  return 0;
}

/* An entry is updated once a block (each update a sum of `block` products), then once more for
 * each column inside its own block; the entry's own roundings count against the terms' too
 * (Higham, Accuracy and Stability, Lemma 8.4); reciprocal diagonals and the root: 8. */
static int64_t chain_potrf(int64_t m) {
  int64_t blocks = (m + CHOLESKY_BLOCK - 1) / CHOLESKY_BLOCK;
  int64_t block = m < CHOLESKY_BLOCK ? m : CHOLESKY_BLOCK;
  return blocks == 1 ? m + 8 : 3 * block + 2 * blocks + 8;
}

static int64_t trtri(int64_t m, double *a, int64_t lda) {
  int m_ = (int)m, lda_ = (int)lda, info = 0;
  dtrtri_("L", "N", &m_, a, &lda_, &info);
  return info;
}

static void lauum(int64_t m, double *a, int64_t lda) {
  int m_ = (int)m, lda_ = (int)lda, info = 0;
  dlauum_("L", &m_, a, &lda_, &info);
}

static void trsm(int64_t m, int64_t n, const double *a, int64_t lda, double *b, int64_t ldb) {
  int m_ = (int)m, n_ = (int)n, lda_ = (int)lda, ldb_ = (int)ldb;
  double one = 1;
  dtrsm_("L", "L", "N", "N", &m_, &n_, &one, a, &lda_, b, &ldb_);
}

static void symv(int64_t m, const double *a, int64_t lda, const double *x, double *y) {
  int m_ = (int)m, lda_ = (int)lda, inc = 1;
  double one = 1, zero = 0;
  dsymv_("L", &m_, &one, a, &lda_, x, &inc, &zero, y, &inc);
}

static void trsv(bool trans, int64_t m, const double *a, int64_t lda, double *x) {
  int m_ = (int)m, lda_ = (int)lda, inc = 1;
  dtrsv_("L", trans ? "T" : "N", "N", &m_, a, &lda_, x, &inc);
}

static void trmv(bool trans, int64_t m, const double *a, int64_t lda, double *x) {
  int m_ = (int)m, lda_ = (int)lda, inc = 1;
  dtrmv_("L", trans ? "T" : "N", "N", &m_, a, &lda_, x, &inc);
}

static void gemv_f32(bool trans, int64_t m, int64_t n, const float *a, int64_t lda, const float *x,
                     float *y) {
  int m_ = (int)m, n_ = (int)n, lda_ = (int)lda, inc = 1;
  float one = 1;
  sgemv_(trans ? "T" : "N", &m_, &n_, &one, a, &lda_, x, &inc, &one, y, &inc);
}

static ka_status svdvals(struct ka_ctx *ctx, int64_t m, int64_t n, double *a, int64_t lda,
                         double *s) {
  int m_ = (int)m, n_ = (int)n, lda_ = (int)lda, one = 1, query = -1, info = 0;
  double size = 0, dummy = 0;
  int *iwork = malloc(sizeof *iwork * (size_t)(8 * (m < n ? m : n) + 8));
  dgesdd_("N", &m_, &n_, a, &lda_, s, &dummy, &one, &dummy, &one, &size, &query, iwork, &info);
  int lwork = (int)size + 64;
  double *work = malloc(sizeof *work * (size_t)lwork);
  ka_status st = KA_STATUS_OK;
  if (!iwork || !work)
    st = ka_fail(ctx, KA_E_MEMORY, "singular values: no workspace for %d x %d", m_, n_);
  else
    dgesdd_("N", &m_, &n_, a, &lda_, s, &dummy, &one, &dummy, &one, work, &lwork, iwork, &info);
  if (st.code == KA_OK && info != 0)
    st =
        ka_fail(ctx, KA_E_INTERNAL, "singular values: dgesdd of %d x %d returned %d", m_, n_, info);
  free(work);
  free(iwork);
  return st;
}

static ka_status svd(struct ka_ctx *ctx, int64_t m, int64_t n, double *a, double *s, double *u,
                     double *v) {
  int m_ = (int)m, n_ = (int)n, k = m < n ? m_ : n_, query = -1, info = 0;
  double size = 0;
  int *iwork = malloc(sizeof *iwork * (size_t)(8 * k + 8));
  double *vt = malloc(sizeof *vt * (size_t)((int64_t)k * n + 1)), *work = NULL;
  dgesdd_("S", &m_, &n_, a, &m_, s, u, &m_, vt, &k, &size, &query, iwork, &info);
  int lwork = (int)size + 64;
  work = malloc(sizeof *work * (size_t)lwork);
  ka_status st = KA_STATUS_OK;
  if (!iwork || !work || !vt)
    st = ka_fail(ctx, KA_E_MEMORY, "singular vectors: no workspace for %d x %d", m_, n_);
  else
    dgesdd_("S", &m_, &n_, a, &m_, s, u, &m_, vt, &k, work, &lwork, iwork, &info);
  if (ka_ok(st) && info != 0)
    st = ka_fail(ctx, KA_E_INTERNAL, "singular vectors: dgesdd of %d x %d returned %d", m_, n_,
                 info);
  for (int64_t j = 0; j < n && ka_ok(st); j++)
    for (int64_t i = 0; i < k; i++) v[j + i * n] = vt[i + j * k];
  free(vt);
  free(work);
  free(iwork);
  return st;
}

static const struct ka_blas lapack = {
#ifdef KAPPA_HAVE_OPENBLAS
    .name = "openblas",
#else
    .name = "lapack",
#endif
    .threads = threads,
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

const struct ka_blas *ka_blas_cpu(void) { return &lapack; }

#else

const struct ka_blas *ka_blas_cpu(void) { return &ka_blas_ref; }

#endif

const char *ka_blas_slow_core(void) {
#if defined(KAPPA_HAVE_LAPACK) && defined(KAPPA_HAVE_OPENBLAS) && defined(__x86_64__)
  const char *pinned = getenv("OPENBLAS_CORETYPE");
  if (!pinned || !__builtin_cpu_supports("avx512f")) return NULL;
  static const char *const wide[] = {"SkylakeX", "Cooperlake", "SapphireRapids", "Zen4", NULL};
  for (int i = 0; wide[i]; i++)
    if (strcasecmp(openblas_get_corename(), wide[i]) == 0) return NULL;
  return "OPENBLAS_CORETYPE pins OpenBLAS to kernels without AVX-512, which this processor has; "
         "unset it for up to twice the speed";
#else
  return NULL;
#endif
}
