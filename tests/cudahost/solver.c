/* SPDX-License-Identifier: Apache-2.0
 * cuSOLVER on the processor: by the LAPACK that the build found, or Householder's reflections and
 * Jacobi's rotations in plain loops. Workspaces are checked (live, large enough) and not used. */
#include "cusolverDn.h"

#include "tests/cudahost/internal.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct cusolverDnContext {
  cudaStream_t stream;
};
enum { WORK_BYTES = 1024 };

static cusolverStatus_t create(void **out) {
  *out = calloc(1, 64);
  return *out ? CUSOLVER_STATUS_SUCCESS : CUSOLVER_STATUS_ALLOC_FAILED;
}
static cusolverStatus_t destroy(void *p) {
  free(p);
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t *handle) { return create((void **)handle); }
cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t handle) { return destroy(handle); }
cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t handle, cudaStream_t streamId) {
  handle->stream = streamId;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t *params) {
  return create((void **)params);
}
cusolverStatus_t cusolverDnDestroyParams(cusolverDnParams_t params) { return destroy(params); }
cusolverStatus_t cusolverDnCreateGesvdjInfo(gesvdjInfo_t *info) { return create((void **)info); }
cusolverStatus_t cusolverDnDestroyGesvdjInfo(gesvdjInfo_t info) { return destroy(info); }

/* --- the algorithms --------------------------------------------------------------------------- */

#ifdef KAPPA_HAVE_LAPACK
void dsyev_(const char *, const char *, const int *, double *, const int *, double *, double *,
            const int *, int *);
void dgesvd_(const char *, const char *, const int *, const int *, double *, const int *, double *,
             double *, const int *, double *, const int *, double *, const int *, int *);
void dgeqrf_(const int *, const int *, double *, const int *, double *, double *, const int *,
             int *);

static int eigenvalues(int n, double *a, int lda, double *w) {
  int info = 0, lwork = 34 * n + 1;
  double *work = malloc((size_t)lwork * sizeof *work);
  if (work) dsyev_("N", "L", &n, a, &lda, w, work, &lwork, &info);
  free(work);
  return work ? info : -1;
}
static int singular_values(int m, int n, double *a, int lda, double *s) {
  int info = 0, one = 1, lwork = 64 * (m + n) + 8;
  double none = 0, *work = malloc((size_t)lwork * sizeof *work);
  if (work) dgesvd_("N", "N", &m, &n, a, &lda, s, &none, &one, &none, &one, work, &lwork, &info);
  free(work);
  return work ? info : -1;
}
static int factorise(int m, int n, double *a, int lda, double *tau) {
  int info = 0, lwork = 64 * n;
  double *work = malloc((size_t)lwork * sizeof *work);
  if (work) dgeqrf_(&m, &n, a, &lda, tau, work, &lwork, &info);
  free(work);
  return work ? info : -1;
}
#else
static int descending(const void *x, const void *y) {
  double a = *(const double *)x, b = *(const double *)y;
  return a < b ? 1 : a > b ? -1 : 0;
}

/* Turns two columns until they are orthogonal (Hestenes); true when they were not. */
static bool turn(int64_t m, double *x, double *y) {
  double a = 0, b = 0, c = 0;
  for (int64_t i = 0; i < m; i++) a += x[i] * x[i], b += y[i] * y[i], c += x[i] * y[i];
  if (fabs(c) <= 1e-16 * sqrt(a) * sqrt(b) || c == 0) return false;
  double z = (b - a) / (2 * c), t = (z >= 0 ? 1 : -1) / (fabs(z) + sqrt(1 + z * z));
  double cs = 1 / sqrt(1 + t * t), sn = cs * t;
  for (int64_t i = 0; i < m; i++) {
    double u = x[i];
    x[i] = cs * u - sn * y[i];
    y[i] = sn * u + cs * y[i];
  }
  return true;
}

static int singular_values(int m, int n, double *a, int lda, double *s) {
  bool turned = true;
  for (int sweep = 0; sweep < 60 && turned; sweep++) {
    turned = false;
    for (int64_t p = 0; p < n; p++)
      for (int64_t q = p + 1; q < n; q++) turned |= turn(m, a + p * lda, a + q * lda);
  }
  for (int64_t j = 0; j < n; j++) {
    double norm = 0;
    for (int64_t i = 0; i < m; i++) norm = hypot(norm, a[i + j * lda]);
    s[j] = norm;
  }
  qsort(s, (size_t)n, sizeof *s, descending);
  return 0;
}

/* Of a positive semidefinite matrix, which is all that kappa asks for: its singular values. */
static int eigenvalues(int n, double *a, int lda, double *w) {
  for (int64_t j = 0; j < n; j++)
    for (int64_t i = 0; i < j; i++) a[i + j * lda] = a[j + i * lda];
  singular_values(n, n, a, lda, w);
  for (int i = 0, k = n - 1; i < k; i++, k--) {
    double t = w[i];
    w[i] = w[k];
    w[k] = t;
  }
  return 0;
}

static int factorise(int m, int n, double *a, int lda, double *tau) {
  for (int64_t j = 0; j < n; j++) {
    double *v = a + j * lda, norm = 0;
    for (int64_t i = j; i < m; i++) norm = hypot(norm, v[i]);
    tau[j] = 0;
    if (norm == 0) continue;
    double beta = v[j] > 0 ? -norm : norm, scale = 1 / (v[j] - beta);
    tau[j] = (beta - v[j]) / beta;
    for (int64_t i = j + 1; i < m; i++) v[i] *= scale;
    for (int64_t k = j + 1; k < n; k++) {
      double *x = a + k * lda, sum = x[j];
      for (int64_t i = j + 1; i < m; i++) sum += v[i] * x[i];
      x[j] -= tau[j] * sum;
      for (int64_t i = j + 1; i < m; i++) x[i] -= tau[j] * sum * v[i];
    }
    v[j] = beta;
  }
  return 0;
}
#endif

/* --- in stream order -------------------------------------------------------------------------- */

struct problem {
  enum { EIGENVALUES, SINGULAR_VALUES, TRIANGLE } kind;
  int m, n, lda, count;
  double *a, *out; /* [count][lda n], [count][n]: values or tau */
  int *info;
};

static cudaError_t run(void *user) {
  const struct problem *p = user;
  for (int64_t k = 0; k < p->count; k++) {
    double *a = p->a + k * p->lda * p->n, *out = p->out + k * p->n;
    p->info[k] = p->kind == EIGENVALUES       ? eigenvalues(p->n, a, p->lda, out)
                 : p->kind == SINGULAR_VALUES ? singular_values(p->m, p->n, a, p->lda, out)
                                              : factorise(p->m, p->n, a, p->lda, out);
  }
  if (ch_inject(CH_FAIL_SOLVER, cudaErrorUnknown) != cudaSuccess) p->info[p->count - 1] = p->n + 1;
  return cudaSuccess;
}

static cusolverStatus_t enqueue(cusolverDnHandle_t handle, const char *name,
                                const struct problem *p, const void *work, size_t work_bytes) {
  if (!handle || !p->info || p->m < p->n || p->lda < p->m || work_bytes < WORK_BYTES)
    return CUSOLVER_STATUS_INVALID_VALUE;
  size_t count = (size_t)p->count, n = (size_t)p->n;
  struct cudahost_range a = {p->a, count * (size_t)p->lda * n * sizeof(double)};
  struct cudahost_range writes[] = {
      a, {p->out, count * n * sizeof(double)}, {p->info, count * sizeof(int)}, {work, work_bytes}};
  cudaError_t e = cudahost_enqueue(handle->stream, name, run, p, sizeof *p, &a, 1, writes, 4);
  return e == cudaSuccess ? CUSOLVER_STATUS_SUCCESS : CUSOLVER_STATUS_EXECUTION_FAILED;
}

static cusolverStatus_t sizes(size_t *on_device, size_t *on_host) {
  *on_device = WORK_BYTES;
  *on_host = WORK_BYTES;
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnDgesvdjBatched_bufferSize(cusolverDnHandle_t handle,
                                                     cusolverEigMode_t jobz, int m, int n,
                                                     const double *A, int lda, const double *S,
                                                     const double *U, int ldu, const double *V,
                                                     int ldv, int *lwork, gesvdjInfo_t params,
                                                     int batchSize) {
  (void)handle, (void)A, (void)lda, (void)S, (void)U, (void)ldu, (void)V, (void)ldv, (void)params;
  *lwork = WORK_BYTES / (int)sizeof(double);
  return jobz == CUSOLVER_EIG_MODE_NOVECTOR && m <= 32 && n <= 32 && batchSize > 0
             ? CUSOLVER_STATUS_SUCCESS
             : CUSOLVER_STATUS_INVALID_VALUE;
}

cusolverStatus_t cusolverDnDgesvdjBatched(cusolverDnHandle_t handle, cusolverEigMode_t jobz, int m,
                                          int n, double *A, int lda, double *S, double *U, int ldu,
                                          double *V, int ldv, double *work, int lwork, int *info,
                                          gesvdjInfo_t params, int batchSize) {
  struct problem p = {SINGULAR_VALUES, m, n, lda, batchSize, A, S, info};
  (void)U, (void)V;
  if (jobz != CUSOLVER_EIG_MODE_NOVECTOR || m > 32 || n > 32 || ldu < m || ldv < n || !params)
    return CUSOLVER_STATUS_INVALID_VALUE;
  return enqueue(handle, "cusolverDnDgesvdjBatched", &p, work, (size_t)lwork * sizeof *work);
}

cusolverStatus_t cusolverDnXsyevBatched_bufferSize(
    cusolverDnHandle_t handle, cusolverDnParams_t params, cusolverEigMode_t jobz,
    cublasFillMode_t uplo, int64_t n, cudaDataType dataTypeA, const void *A, int64_t lda,
    cudaDataType dataTypeW, const void *W, cudaDataType computeType,
    size_t *workspaceInBytesOnDevice, size_t *workspaceInBytesOnHost, int64_t batchSize) {
  (void)handle, (void)params, (void)jobz, (void)uplo, (void)n, (void)dataTypeA, (void)A, (void)lda;
  (void)dataTypeW, (void)W, (void)computeType, (void)batchSize;
  return sizes(workspaceInBytesOnDevice, workspaceInBytesOnHost);
}

cusolverStatus_t cusolverDnXsyevBatched(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                        cusolverEigMode_t jobz, cublasFillMode_t uplo, int64_t n,
                                        cudaDataType dataTypeA, void *A, int64_t lda,
                                        cudaDataType dataTypeW, void *W, cudaDataType computeType,
                                        void *bufferOnDevice, size_t workspaceInBytesOnDevice,
                                        void *bufferOnHost, size_t workspaceInBytesOnHost,
                                        int *info, int64_t batchSize) {
  struct problem p = {EIGENVALUES, (int)n, (int)n, (int)lda, (int)batchSize, A, W, info};
  if (jobz != CUSOLVER_EIG_MODE_NOVECTOR || uplo != CUBLAS_FILL_MODE_LOWER || !params ||
      dataTypeA != CUDA_R_64F || dataTypeW != CUDA_R_64F || computeType != CUDA_R_64F ||
      workspaceInBytesOnHost < WORK_BYTES || !bufferOnHost)
    return CUSOLVER_STATUS_INVALID_VALUE;
  return enqueue(handle, "cusolverDnXsyevBatched", &p, bufferOnDevice, workspaceInBytesOnDevice);
}

cusolverStatus_t cusolverDnXgeqrf_bufferSize(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                             int64_t m, int64_t n, cudaDataType dataTypeA,
                                             const void *A, int64_t lda, cudaDataType dataTypeTau,
                                             const void *tau, cudaDataType computeType,
                                             size_t *workspaceInBytesOnDevice,
                                             size_t *workspaceInBytesOnHost) {
  (void)handle, (void)params, (void)m, (void)n, (void)dataTypeA, (void)A, (void)lda;
  (void)dataTypeTau, (void)tau, (void)computeType;
  return sizes(workspaceInBytesOnDevice, workspaceInBytesOnHost);
}

cusolverStatus_t cusolverDnXgeqrf(cusolverDnHandle_t handle, cusolverDnParams_t params, int64_t m,
                                  int64_t n, cudaDataType dataTypeA, void *A, int64_t lda,
                                  cudaDataType dataTypeTau, void *tau, cudaDataType computeType,
                                  void *bufferOnDevice, size_t workspaceInBytesOnDevice,
                                  void *bufferOnHost, size_t workspaceInBytesOnHost, int *info) {
  struct problem p = {TRIANGLE, (int)m, (int)n, (int)lda, 1, A, tau, info};
  if (!params || dataTypeA != CUDA_R_64F || dataTypeTau != CUDA_R_64F ||
      computeType != CUDA_R_64F || workspaceInBytesOnHost < WORK_BYTES || !bufferOnHost)
    return CUSOLVER_STATUS_INVALID_VALUE;
  return enqueue(handle, "cusolverDnXgeqrf", &p, bufferOnDevice, workspaceInBytesOnDevice);
}

cusolverStatus_t cusolverDnXgesvd_bufferSize(
    cusolverDnHandle_t handle, cusolverDnParams_t params, signed char jobu, signed char jobvt,
    int64_t m, int64_t n, cudaDataType dataTypeA, const void *A, int64_t lda,
    cudaDataType dataTypeS, const void *S, cudaDataType dataTypeU, const void *U, int64_t ldu,
    cudaDataType dataTypeVT, const void *VT, int64_t ldvt, cudaDataType computeType,
    size_t *workspaceInBytesOnDevice, size_t *workspaceInBytesOnHost) {
  (void)handle, (void)params, (void)jobu, (void)jobvt, (void)m, (void)n, (void)dataTypeA, (void)A;
  (void)lda, (void)dataTypeS, (void)S, (void)dataTypeU, (void)U, (void)ldu, (void)dataTypeVT;
  (void)VT, (void)ldvt, (void)computeType;
  return sizes(workspaceInBytesOnDevice, workspaceInBytesOnHost);
}

cusolverStatus_t cusolverDnXgesvd(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                  signed char jobu, signed char jobvt, int64_t m, int64_t n,
                                  cudaDataType dataTypeA, void *A, int64_t lda,
                                  cudaDataType dataTypeS, void *S, cudaDataType dataTypeU, void *U,
                                  int64_t ldu, cudaDataType dataTypeVT, void *VT, int64_t ldvt,
                                  cudaDataType computeType, void *bufferOnDevice,
                                  size_t workspaceInBytesOnDevice, void *bufferOnHost,
                                  size_t workspaceInBytesOnHost, int *info) {
  struct problem p = {SINGULAR_VALUES, (int)m, (int)n, (int)lda, 1, A, S, info};
  (void)dataTypeU, (void)U, (void)dataTypeVT, (void)VT;
  if (!params || jobu != 'N' || jobvt != 'N' || dataTypeA != CUDA_R_64F ||
      dataTypeS != CUDA_R_64F || computeType != CUDA_R_64F || ldu < 1 || ldvt < 1 ||
      workspaceInBytesOnHost < WORK_BYTES || !bufferOnHost)
    return CUSOLVER_STATUS_INVALID_VALUE;
  return enqueue(handle, "cusolverDnXgesvd", &p, bufferOnDevice, workspaceInBytesOnDevice);
}
