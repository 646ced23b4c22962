/* SPDX-License-Identifier: Apache-2.0
 * cuBLAS on the processor: float64 products, by the BLAS that the build found or by plain loops. */
#include "cublas_v2.h"

#include "cudahost.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

struct cublasContext {
  cudaStream_t stream;
  cublasMath_t math;
};

const char *cublasGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_SUCCESS            ? "success"
         : status == CUBLAS_STATUS_INVALID_VALUE    ? "an invalid value"
         : status == CUBLAS_STATUS_EXECUTION_FAILED ? "the launch failed"
                                                    : "failed";
}

#ifdef KAPPA_HAVE_OPENBLAS
void openblas_set_num_threads(int);
#endif

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle) {
#ifdef KAPPA_HAVE_OPENBLAS
  openblas_set_num_threads(1); /* how work is shared between threads changes last bits */
#endif
  *handle = calloc(1, sizeof **handle);
  return *handle ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED;
}
cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
  free(handle);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
  handle->stream = stream;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void *workspace, size_t n_bytes) {
  return handle && (uintptr_t)workspace % 256 == 0 && (workspace || !n_bytes)
             ? CUBLAS_STATUS_SUCCESS
             : CUBLAS_STATUS_INVALID_VALUE;
}
cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
  handle->math = mode;
  return CUBLAS_STATUS_SUCCESS;
}

/* --- the product ----------------------------------------------------------------------------- */

struct product {
  bool ta, tb;
  int m, n, k, lda, ldb, ldc, count;
  double alpha, beta;
  const double *a, *b;
  double *c;
  long long stride_a, stride_b, stride_c;
};

#ifdef KAPPA_HAVE_LAPACK
void dgemm_(const char *, const char *, const int *, const int *, const int *, const double *,
            const double *, const int *, const double *, const int *, const double *, double *,
            const int *);
static void multiply(const struct product *p, const double *a, const double *b, double *c) {
  dgemm_(p->ta ? "T" : "N", p->tb ? "T" : "N", &p->m, &p->n, &p->k, &p->alpha, a, &p->lda, b,
         &p->ldb, &p->beta, c, &p->ldc);
}
#else
static void multiply(const struct product *p, const double *a, const double *b, double *c) {
  for (int64_t j = 0; j < p->n; j++)
    for (int64_t i = 0; i < p->m; i++) {
      double sum = 0, *to = c + i + j * p->ldc;
      for (int64_t l = 0; l < p->k; l++)
        sum += (p->ta ? a[l + i * p->lda] : a[i + l * p->lda]) *
               (p->tb ? b[j + l * p->ldb] : b[l + j * p->ldb]);
      *to = p->alpha * sum + (p->beta == 0 ? 0 : p->beta * *to);
    }
}
#endif

/* What an emulation of float64 in fixed point makes of a: each row keeps so many bits below its
 * largest element. */
static double *in_fixed_point(const struct product *p, const double *a) {
  enum { BITS = 40 };
  int64_t cols = p->ta ? p->m : p->k;
  double *to = malloc((size_t)(p->lda * cols) * sizeof *to);
  for (int64_t i = 0; i < p->m && to; i++) {
    double most = 0;
    for (int64_t l = 0; l < p->k; l++)
      most = fmax(most, fabs(p->ta ? a[l + i * p->lda] : a[i + l * p->lda]));
    for (int64_t l = 0; l < p->k; l++) {
      int64_t at = p->ta ? l + i * p->lda : i + l * p->lda;
      double quantum = ldexp(1, ilogb(most) - BITS);
      to[at] = most > 0 ? rint(a[at] / quantum) * quantum : 0;
    }
  }
  return to;
}

static cudaError_t run(void *user) {
  const struct product *p = user;
  const char *emulate = getenv("CUBLAS_EMULATE_DOUBLE_PRECISION"); /* as the real library does */
  for (int64_t i = 0; i < p->count; i++) {
    const double *a = p->a + i * p->stride_a;
    double *cut = emulate && *emulate == '1' ? in_fixed_point(p, a) : NULL;
    multiply(p, cut ? cut : a, p->b + i * p->stride_b, p->c + i * p->stride_c);
    free(cut);
  }
  return cudaSuccess;
}

/* The columns of a matrix [rows, cols], one range each; returns the next free range. */
static struct cudahost_range *columns(struct cudahost_range *r, const double *at, int rows,
                                      int cols, int ld) {
  for (int64_t j = 0; j < cols; j++)
    *r++ = (struct cudahost_range){at + j * ld, (size_t)rows * sizeof *at};
  return r;
}

static cublasStatus_t enqueue(cublasHandle_t handle, const struct product *p) {
  int rows_a = p->ta ? p->k : p->m, cols_a = p->ta ? p->m : p->k;
  int rows_b = p->tb ? p->n : p->k, cols_b = p->tb ? p->k : p->n;
  if (!handle || p->m < 0 || p->n < 0 || p->k < 0 || p->lda < rows_a || p->ldb < rows_b ||
      p->ldc < p->m || handle->math == CUBLAS_FP64_EMULATED_FIXEDPOINT_MATH)
    return CUBLAS_STATUS_INVALID_VALUE;
  if (p->m == 0 || p->n == 0 || p->count == 0) return CUBLAS_STATUS_SUCCESS;
  size_t n = (size_t)p->count * (size_t)(cols_a + cols_b + 2 * p->n);
  struct cudahost_range *ranges = malloc(n * sizeof *ranges), *r = ranges;
  if (!ranges) return CUBLAS_STATUS_ALLOC_FAILED;
  for (int64_t i = 0; i < p->count; i++) {
    r = columns(r, p->a + i * p->stride_a, rows_a, cols_a, p->lda);
    r = columns(r, p->b + i * p->stride_b, rows_b, cols_b, p->ldb);
    if (p->beta != 0) r = columns(r, p->c + i * p->stride_c, p->m, p->n, p->ldc);
  }
  struct cudahost_range *writes = r;
  for (int64_t i = 0; i < p->count; i++) r = columns(r, p->c + i * p->stride_c, p->m, p->n, p->ldc);
  cudaError_t e = cudahost_enqueue(handle->stream, "cublasDgemm", run, p, sizeof *p, ranges,
                                   (int)(writes - ranges), writes, (int)(r - writes));
  free(ranges);
  return e == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

cublasStatus_t cublasDgemmStridedBatched(cublasHandle_t handle, cublasOperation_t transa,
                                         cublasOperation_t transb, int m, int n, int k,
                                         const double *alpha, const double *A, int lda,
                                         long long int strideA, const double *B, int ldb,
                                         long long int strideB, const double *beta, double *C,
                                         int ldc, long long int strideC, int batchCount) {
  struct product p = {.ta = transa != CUBLAS_OP_N,
                      .tb = transb != CUBLAS_OP_N,
                      .m = m,
                      .n = n,
                      .k = k,
                      .lda = lda,
                      .ldb = ldb,
                      .ldc = ldc,
                      .count = batchCount,
                      .alpha = *alpha,
                      .beta = *beta,
                      .a = A,
                      .b = B,
                      .c = C,
                      .stride_a = strideA,
                      .stride_b = strideB,
                      .stride_c = strideC};
  return enqueue(handle, &p);
}

cublasStatus_t cublasDgemm_v2(cublasHandle_t handle, cublasOperation_t transa,
                              cublasOperation_t transb, int m, int n, int k, const double *alpha,
                              const double *A, int lda, const double *B, int ldb,
                              const double *beta, double *C, int ldc) {
  return cublasDgemmStridedBatched(handle, transa, transb, m, n, k, alpha, A, lda, 0, B, ldb, 0,
                                   beta, C, ldc, 0, 1);
}
