/* SPDX-License-Identifier: Apache-2.0
 * All singular values of a worker's matrices by cuSOLVER: gesvdjBatched up to 32 x 32; syevBatched
 * on A^T A where every value is above 1e-4 of the largest; gesvd of R where not, and where a proof
 * rests on it. The library is loaded when it is first needed: half a second, and not everybody has
 * it. What it works in is allocated for the call. */
#include "linalg/cuda/worker.h"

#include <cusolverDn.h>
#include <dlfcn.h>
#include <math.h>
#include <string.h>

enum { SMALL = 32 };
static const double GRAM_LIMIT = 1e-4;

#define SOLVER_CALLS(X)                                                                            \
  X(cusolverDnCreate)                                                                              \
  X(cusolverDnDestroy)                                                                             \
  X(cusolverDnSetStream)                                                                           \
  X(cusolverDnCreateParams)                                                                        \
  X(cusolverDnDestroyParams)                                                                       \
  X(cusolverDnCreateGesvdjInfo)                                                                    \
  X(cusolverDnDestroyGesvdjInfo)                                                                   \
  X(cusolverDnDgesvdjBatched_bufferSize)                                                           \
  X(cusolverDnDgesvdjBatched)                                                                      \
  X(cusolverDnXsyevBatched_bufferSize)                                                             \
  X(cusolverDnXsyevBatched)                                                                        \
  X(cusolverDnXgeqrf_bufferSize)                                                                   \
  X(cusolverDnXgeqrf)                                                                              \
  X(cusolverDnXgesvd_bufferSize)                                                                   \
  X(cusolverDnXgesvd)

struct worker_solver {
#define X(name) __typeof__(name) *name;
  SOLVER_CALLS(X)
#undef X
  cusolverDnHandle_t handle;
  cusolverDnParams_t params;
  gesvdjInfo_t jacobi;
};

/* --- the library ------------------------------------------------------------------------------ */

#ifdef KAPPA_CUDAHOST
static ka_status find_calls(struct ka_dense_worker *worker, struct worker_solver *s) {
  (void)worker;
#define X(name) s->name = name;
  SOLVER_CALLS(X)
#undef X
  return KA_STATUS_OK;
}
#else
#define TEXT(x) TEXT_OF(x)
#define TEXT_OF(x) #x
static ka_status find_calls(struct ka_dense_worker *worker, struct worker_solver *s) {
  static const char file[] = "libcusolver.so." TEXT(CUSOLVER_VER_MAJOR);
  void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL), *call = NULL; /* never closed */
  if (!library)
    return ka_fail(worker->ctx, KA_E_DEVICE,
                   "cuda: spectra: all singular values need cuSOLVER: %s; install it, or use "
                   "--device cpu",
                   dlerror());
#define X(name)                                                                                    \
  if (!(call = dlsym(library, #name)))                                                             \
    return ka_fail(worker->ctx, KA_E_DEVICE, "cuda: spectra: %s has no %s", file, #name);          \
  memcpy(&s->name, &call, sizeof call);
  SOLVER_CALLS(X)
#undef X
  return KA_STATUS_OK;
}
#endif

static ka_status solved(struct ka_dense_worker *worker, const char *what, cusolverStatus_t e) {
  cuda_worker_of(worker)->newest = what;
  if (e == CUSOLVER_STATUS_SUCCESS) return KA_STATUS_OK;
  (void)cudaGetLastError();
  return ka_fail(worker->ctx, e == CUSOLVER_STATUS_ALLOC_FAILED ? KA_E_MEMORY : KA_E_DEVICE,
                 "cuda: spectra: cuSOLVER's %s: status %d", what, (int)e);
}
/* Expects worker, ctx and s in scope. */
#define SOLVED(name, ...) KA_TRY(solved(worker, #name, s->name(__VA_ARGS__)))

static ka_status open_solver(struct ka_dense_worker *worker) {
  struct ka_ctx *ctx = worker->ctx;
  struct cuda_worker *c = cuda_worker_of(worker);
  void *memory = NULL;
  if (c->solver) return KA_STATUS_OK;
  KA_TRY(ka_alloc(ctx, &memory, sizeof(struct worker_solver), "cuSOLVER"));
  struct worker_solver *s = c->solver = memory;
  KA_TRY(find_calls(worker, s));
  SOLVED(cusolverDnCreate, &s->handle);
  SOLVED(cusolverDnSetStream, s->handle, c->stream);
  SOLVED(cusolverDnCreateParams, &s->params);
  SOLVED(cusolverDnCreateGesvdjInfo, &s->jacobi);
  return KA_STATUS_OK;
}

void cuda_worker_solver_close(struct cuda_worker *c) {
  struct worker_solver *s = c->solver;
  if (!s) return;
  if (s->jacobi) (void)s->cusolverDnDestroyGesvdjInfo(s->jacobi);
  if (s->params) (void)s->cusolverDnDestroyParams(s->params);
  if (s->handle) (void)s->cusolverDnDestroy(s->handle);
  ka_free(s);
  c->solver = NULL;
}

/* --- memory of a call ------------------------------------------------------------------------- */

/* Device and host memory that `release` frees. */
struct loan {
  void *device[6], *host;
  int n;
};

static ka_status borrow(struct ka_dense_worker *worker, struct loan *l, void **out,
                        int64_t n_bytes) {
  WORKER_TRY(worker, cudaMalloc(out, (size_t)(n_bytes > 0 ? n_bytes : 1)));
  l->device[l->n++] = *out;
  return KA_STATUS_OK;
}

static ka_status borrow_host(struct ka_dense_worker *worker, struct loan *l, size_t n_bytes) {
  return ka_alloc(worker->ctx, &l->host, n_bytes, "cuSOLVER's workspace");
}

static void release(struct ka_dense_worker *worker, struct loan *l) {
  (void)cudaStreamSynchronize(cuda_worker_of(worker)->stream); /* what is queued uses it */
  for (int i = 0; i < l->n; i++) (void)cudaFree(l->device[i]);
  ka_free(l->host);
}

static const struct ka_dense_set alone = {1, {0}};

/* Waits; the problems of `who` ended as `info` on the device says. Others in between were of no
 * matrix. */
static ka_status check_info(struct ka_dense_worker *worker, const void *info,
                            struct ka_dense_set who, const char *what) {
  struct ka_ctx *ctx = worker->ctx;
  struct cuda_worker *c = cuda_worker_of(worker);
  const int *ended = (const int *)(const void *)c->back;
  WORKER_TRY(worker, cudaMemcpyAsync(c->back, info, ((size_t)who.at[who.n - 1] + 1) * sizeof *ended,
                                     cudaMemcpyDefault, c->stream));
  KA_TRY(cuda_worker_sync(worker));
  for (KA_EACH(i, who))
    if (ended[i] != 0)
      return ka_fail(ctx, KA_E_DEVICE,
                     "cuda: spectra: cuSOLVER's %s on a matrix of %lld x %lld %s (info %d); "
                     "--device cpu computes it by LAPACK",
                     what, (long long)c->raws.n, (long long)c->raws.m,
                     ended[i] > 0 ? "did not converge" : "refused an argument", ended[i]);
  return KA_STATUS_OK;
}

/* n doubles to the host, and how the problems of `who` ended. */
static ka_status fetch(struct ka_dense_worker *worker, double *to, const void *from, int64_t n,
                       const void *info, struct ka_dense_set who, const char *what) {
  WORKER_TRY(worker, cudaMemcpyAsync(to, from, (size_t)n * sizeof *to, cudaMemcpyDefault,
                                     cuda_worker_of(worker)->stream));
  return check_info(worker, info, who, what);
}

/* --- the three ways --------------------------------------------------------------------------- */

static ka_status small_values(struct ka_dense_worker *worker, struct loan *l,
                              struct ka_dense_set who, double *to) {
  struct ka_ctx *ctx = worker->ctx;
  struct cuda_worker *c = cuda_worker_of(worker);
  const struct worker_solver *s = c->solver;
  int n = (int)c->raws.n, m = (int)c->raws.m, count = who.at[who.n - 1] + 1, lwork = 0;
  int64_t one = (int64_t)n * m, d = (int64_t)sizeof(double);
  void *a = NULL, *values = NULL, *work = NULL, *info = NULL;
  KA_TRY(borrow(worker, l, &a, count * one * d));
  KA_TRY(borrow(worker, l, &values, count * m * d));
  KA_TRY(borrow(worker, l, &info, count * (int64_t)sizeof(int)));
  WORKER_TRY(worker,
             cudaMemsetAsync(a, 0, (size_t)(count * one * d), c->stream)); /* who is not there */
  KA_TRY(cuda_worker_launched(worker, "load", worker_load_tall(c->stream, who, &c->raws, a, one)));
  SOLVED(cusolverDnDgesvdjBatched_bufferSize, s->handle, CUSOLVER_EIG_MODE_NOVECTOR, n, m, a, n,
         values, NULL, n, NULL, m, &lwork, s->jacobi, count);
  KA_TRY(borrow(worker, l, &work, lwork * d));
  SOLVED(cusolverDnDgesvdjBatched, s->handle, CUSOLVER_EIG_MODE_NOVECTOR, n, m, a, n, values, NULL,
         n, NULL, m, work, lwork, info, s->jacobi, count);
  return fetch(worker, to, values, (int64_t)count * m, info, who, "DgesvdjBatched");
}

/* Square roots of the eigenvalues of A^T A; left: members for which that is not exact enough. The
 * workspace is nobody's then: the Gram matrices take it. */
static ka_status gram_values(struct ka_dense_worker *worker, struct loan *l,
                             struct ka_dense_set who, const struct ka_panels *p, double *to,
                             struct ka_dense_set *left) {
  struct ka_ctx *ctx = worker->ctx;
  struct cuda_worker *c = cuda_worker_of(worker);
  const struct worker_solver *s = c->solver;
  int64_t m = c->raws.m, count = who.at[who.n - 1] + 1, d = (int64_t)sizeof(double);
  struct ka_dense_size size = {.units = c->units, .work_doubles = m * m};
  size_t on_device = 0, on_host = 0;
  double *g = NULL;
  void *values = NULL, *work = NULL, *info = NULL;
  KA_TRY(cuda_worker_take(worker, &size, &g));
  KA_TRY(cuda_worker_gram(worker, who, p, g));
  KA_TRY(borrow(worker, l, &values, count * m * d));
  KA_TRY(borrow(worker, l, &info, count * (int64_t)sizeof(int)));
  SOLVED(cusolverDnXsyevBatched_bufferSize, s->handle, s->params, CUSOLVER_EIG_MODE_NOVECTOR,
         CUBLAS_FILL_MODE_LOWER, m, CUDA_R_64F, g, m, CUDA_R_64F, values, CUDA_R_64F, &on_device,
         &on_host, count);
  KA_TRY(borrow(worker, l, &work, (int64_t)on_device));
  KA_TRY(borrow_host(worker, l, on_host));
  SOLVED(cusolverDnXsyevBatched, s->handle, s->params, CUSOLVER_EIG_MODE_NOVECTOR,
         CUBLAS_FILL_MODE_LOWER, m, CUDA_R_64F, g, m, CUDA_R_64F, values, CUDA_R_64F, work,
         on_device, l->host, on_host, info, count);
  KA_TRY(fetch(worker, to, values, count * m, info, who, "XsyevBatched"));
  for (KA_EACH(i, who)) {
    double *v = to + i * m; /* ascending */
    if (!(v[0] >= GRAM_LIMIT * GRAM_LIMIT * v[m - 1])) ka_dense_set_add(left, i);
    for (int64_t a = 0, b = m - 1; a <= b; a++, b--) {
      double low = sqrt(fmax(v[a], 0)), high = sqrt(fmax(v[b], 0));
      v[a] = high;
      v[b] = low;
    }
  }
  return KA_STATUS_OK;
}

/* a [n,m] becomes r [m,m]. */
static ka_status triangle(struct ka_dense_worker *worker, struct loan *l, double *a, double *r) {
  struct ka_ctx *ctx = worker->ctx;
  struct cuda_worker *c = cuda_worker_of(worker);
  const struct worker_solver *s = c->solver;
  int64_t n = c->raws.n, m = c->raws.m;
  size_t on_device = 0, on_host = 0;
  void *tau = NULL, *work = NULL;
  int *info = c->failed;
  SOLVED(cusolverDnXgeqrf_bufferSize, s->handle, s->params, n, m, CUDA_R_64F, a, n, CUDA_R_64F, tau,
         CUDA_R_64F, &on_device, &on_host);
  KA_TRY(borrow(worker, l, &tau, m * (int64_t)sizeof(double)));
  KA_TRY(borrow(worker, l, &work, (int64_t)on_device));
  KA_TRY(borrow_host(worker, l, on_host));
  SOLVED(cusolverDnXgeqrf, s->handle, s->params, n, m, CUDA_R_64F, a, n, CUDA_R_64F, tau,
         CUDA_R_64F, work, on_device, l->host, on_host, info);
  KA_TRY(cuda_worker_launched(worker, "R", worker_upper(c->stream, n, m, a, r)));
  return check_info(worker, info, alone, "Xgeqrf");
}

static ka_status exact_values(struct ka_dense_worker *worker, struct loan *l, int i, double *to) {
  struct ka_ctx *ctx = worker->ctx;
  struct cuda_worker *c = cuda_worker_of(worker);
  const struct worker_solver *s = c->solver;
  int64_t n = c->raws.n, m = c->raws.m, d = (int64_t)sizeof(double);
  struct loan inner = {0};
  size_t on_device = 0, on_host = 0;
  void *a = NULL, *r = NULL, *values = NULL, *work = NULL;
  int *info = c->failed;
  KA_TRY(borrow(worker, l, &a, n * m * d));
  /* as if it were unit 0 */
  KA_TRY(cuda_worker_launched(worker, "load",
                              worker_load_tall(c->stream, (struct ka_dense_set){1, {(uint8_t)i}},
                                               &c->raws, (double *)a - i * n * m, n * m)));
  r = a;
  if (n > m) {
    KA_TRY(borrow(worker, l, &r, m * m * d));
    ka_status st = triangle(worker, &inner, a, r);
    release(worker, &inner);
    KA_TRY(st);
  }
  KA_TRY(borrow(worker, l, &values, m * d));
  SOLVED(cusolverDnXgesvd_bufferSize, s->handle, s->params, 'N', 'N', m, m, CUDA_R_64F, r, m,
         CUDA_R_64F, values, CUDA_R_64F, NULL, m, CUDA_R_64F, NULL, m, CUDA_R_64F, &on_device,
         &on_host);
  KA_TRY(borrow(worker, l, &work, (int64_t)on_device));
  KA_TRY(borrow_host(worker, l, on_host));
  SOLVED(cusolverDnXgesvd, s->handle, s->params, 'N', 'N', m, m, CUDA_R_64F, r, m, CUDA_R_64F,
         values, CUDA_R_64F, NULL, m, CUDA_R_64F, NULL, m, CUDA_R_64F, work, on_device, l->host,
         on_host, info);
  return fetch(worker, to, values, m, info, alone, "Xgesvd");
}

ka_status cuda_worker_values(struct ka_dense_worker *worker, struct ka_dense_set who,
                             const struct ka_panels *p, bool exact, double *s) {
  struct ka_ctx *ctx = worker->ctx;
  struct cuda_worker *c = cuda_worker_of(worker);
  struct ka_dense_set left = {0};
  if (who.n == 0) return KA_STATUS_OK;
  KA_TRY(open_solver(worker));
  if (exact) {
    left = who;
  } else {
    struct loan l = {0};
    ka_status st = c->raws.n <= SMALL ? small_values(worker, &l, who, s)
                                      : gram_values(worker, &l, who, p, s, &left);
    release(worker, &l);
    KA_TRY(st);
  }
  for (KA_EACH(i, left)) {
    struct loan l = {0};
    ka_status st = exact_values(worker, &l, i, s + i * c->raws.m);
    release(worker, &l);
    KA_TRY(st);
  }
  return KA_STATUS_OK;
}
