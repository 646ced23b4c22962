/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside the cuda engine of linalg/dense.h: its workers, and what its files offer each other. A
 * worker has a stream, a cuBLAS handle and one block of device memory, cut up when matrices are
 * held; so its uploads overlap with other workers' work, and nothing is allocated between the first
 * matrix and the last (but for singular values beyond the ends).
 *
 * Host code is C, kernels and their launchers are in worker_*.cu. A launcher enqueues and returns
 * the launch's own error. Matrices are lower; the engine keeps the mirror image above the diagonal
 * wherever a product with a vector follows (so that rows and columns are both contiguous), zeros
 * where a product of matrices does. */
#ifndef KAPPA_LINALG_CUDA_WORKER_H
#define KAPPA_LINALG_CUDA_WORKER_H

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/device.h"
#include "linalg/dense.h"

enum {
  WORKER_PANEL = 256, /* rows converted and multiplied at once: the chain of a Gram matrix is this
                       plus n / WORKER_PANEL; fewer rows would be bound by memory */
  WORKER_BLOCK = 64,  /* of the Cholesky factorisation, as on the host: the same chain */
  WORKER_STAGES = 2,
  WORKER_STAGE_BYTES = 4 << 20,
  WORKER_BACK_BYTES = 1 << 20,  /* pinned: results */
  WORKER_BLAS_BYTES = 32 << 20, /* cuBLAS's workspace */
  WORKER_PARTS = 256,           /* partial sums of a matrix */
  WORKER_MAX_STEPS = 1022,      /* rows of a basis and coordinates fit the scratch */
};

/* A matrix as it was stored, for kernels. */
struct worker_raw {
  void *at;        /* [rows, cols], contiguous */
  double scale[2]; /* elements are multiplied by both: powers of two */
  enum ka_dtype type;
};
struct worker_raws {
  struct worker_raw of[KA_BATCH];
  int64_t n, m; /* of the tall matrix */
  bool wide;
};
struct worker_numbers {
  double of[KA_BATCH];
};
struct worker_counts {
  int of[KA_BATCH];
};

struct cuda_worker {
  cudaStream_t stream;
  cublasHandle_t blas;
  char *memory;                /* of the device */
  int64_t n_bytes, held;       /* held: for the stored matrices */
  void *stages[WORKER_STAGES]; /* pinned */
  cudaEvent_t stage_free[WORKER_STAGES];
  int stage;
  double *back; /* pinned, WORKER_BACK_BYTES */

  /* cut from memory by `hold` */
  int units; /* of the batch, held or not */
  struct worker_raws raws;
  double *panels;           /* [units][WORKER_PANEL * m] */
  double *product;          /* [3][WORKER_PANEL * m]: product, low and leading parts */
  double *low;              /* [m, m] */
  double *images;           /* [units][2][n]: A x */
  double *vector;           /* [units][m] */
  double *dots;             /* [units][WORKER_MAX_STEPS + 2] */
  double *parts;            /* [units][WORKER_PARTS] */
  int *failed;              /* [KA_BATCH] column of a factorisation, from 1 */
  unsigned long long *scan; /* [KA_BATCH][2] */

  const char *newest;           /* what was launched last */
  struct worker_solver *solver; /* worker_values.c; NULL until it is needed */
};

static inline struct cuda_worker *cuda_worker_of(struct ka_dense_worker *worker) {
  return (struct cuda_worker *)worker->state;
}

/* --- worker.c --- */
int cuda_worker_units_of(int64_t n, int64_t m);
int64_t cuda_worker_bytes(const struct ka_dense_size *size);
ka_status cuda_worker_room(struct ka_ctx *ctx, const struct ka_linalg_engine *engine,
                           int64_t *n_bytes, int *n_workers);
ka_status cuda_worker_open(struct ka_dense_worker *worker, int64_t n_bytes);
void cuda_worker_close(struct ka_dense_worker *worker);
ka_status cuda_worker_take(struct ka_dense_worker *worker, const struct ka_dense_size *size,
                           double **out);
void cuda_worker_give(struct ka_dense_worker *worker, double *workspace);
ka_status cuda_worker_hold(struct ka_dense_worker *worker, int n_units,
                           const struct ka_tensor *views, struct ka_panels *p);
/* A call that failed, as a status: out of memory is KA_E_MEMORY, all else KA_E_DEVICE. */
ka_status cuda_worker_fail(struct ka_dense_worker *worker, cudaError_t e, const char *what);
/* The end of every launcher's use. */
ka_status cuda_worker_launched(struct ka_dense_worker *worker, const char *what, cudaError_t e);
ka_status cuda_worker_blas(struct ka_dense_worker *worker, cublasStatus_t e);
/* Waits for the worker; errors of earlier work show here. */
ka_status cuda_worker_sync(struct ka_dense_worker *worker);
/* Host memory to the device, in stream order; `from` may be changed on return. */
ka_status cuda_worker_send(struct ka_dense_worker *worker, void *to, const void *from,
                           int64_t n_bytes);

#define WORKER_TRY(worker, call)                                                                   \
  do {                                                                                             \
    cudaError_t worker_try_ = (call);                                                              \
    if (worker_try_ != cudaSuccess) return cuda_worker_fail(worker, worker_try_, #call);           \
  } while (0)

/* --- worker_load.cu: stored matrices --- */
/* scan[2 i] = bits of the largest finite magnitude, scan[2 i + 1] = index of the first element that
 * is not finite, or all ones. */
cudaError_t worker_scan(cudaStream_t s, int n_units, const struct worker_raws *raws,
                        unsigned long long *scan);
/* Rows [k0, k0 + kb) as ka_panels_load lays them out, of unit i to out + i * stride. */
cudaError_t worker_load(cudaStream_t s, struct ka_dense_set who, const struct worker_raws *raws,
                        int64_t k0, int64_t kb, double *out, int64_t stride);
/* All of member i's tall matrix, [n,m] column-major, to out + i * stride. */
cudaError_t worker_load_tall(cudaStream_t s, struct ka_dense_set who,
                             const struct worker_raws *raws, double *out, int64_t stride);
/* images + i * 2 n: A x for both vectors of a member; then back[8 i ...] = the sums of squares of
 * the two images and of the two vectors as unevaluated sums of two doubles. */
cudaError_t worker_norms(cudaStream_t s, struct ka_dense_set who, const struct worker_raws *raws,
                         struct ka_dense_vectors x, double *images, double *back);
int64_t worker_chain_norm(int64_t m);
/* x becomes its nearest multiple of quantum, low what is cut off. */
cudaError_t worker_split(cudaStream_t s, double *x, double *low, int64_t n, double quantum);
/* The same for each row of a lower z, at 2^-bits of the power of two above its largest element;
 * above the diagonal of low: zeros. */
cudaError_t worker_split_rows(cudaStream_t s, double *z, double *low, int64_t m, int bits);
/* y += x */
cudaError_t worker_add(cudaStream_t s, double *y, const double *x, int64_t n);

/* --- worker_matrix.cu: one pass over a matrix --- */
cudaError_t worker_shift(cudaStream_t s, struct ka_dense_set who, int64_t m, int sign,
                         const double *a, const struct worker_numbers *add, double *out);
/* back[i] */
cudaError_t worker_sum(cudaStream_t s, struct ka_dense_set who, int64_t m, const double *a,
                       enum ka_dense_sum kind, double *parts, double *back);
/* The image of what is below the diagonal, or zeros, above it. */
cudaError_t worker_mirror(cudaStream_t s, struct ka_dense_set who, int64_t m, double *a);
cudaError_t worker_zero_above(cudaStream_t s, struct ka_dense_set who, int64_t m, double *a);

/* r [m,m] = the upper triangle of a [n,m], zeros below. */
cudaError_t worker_upper(cudaStream_t s, int64_t n, int64_t m, const double *a, double *r);

/* --- worker_factor.cu: blocked factorisations --- */
cudaError_t worker_potrf(cudaStream_t s, struct ka_dense_set who, int64_t m, double *a,
                         int *failed);
/* l becomes its inverse; above the diagonal is scratch. */
cudaError_t worker_trtri(cudaStream_t s, struct ka_dense_set who, int64_t m, double *l);
/* z = l^-1 z by substitution; above the diagonal of z is taken for zeros. */
cudaError_t worker_trsm(cudaStream_t s, struct ka_dense_set who, int64_t m, const double *l,
                        double *z);
/* out = w^T w, lower */
cudaError_t worker_lauum(cudaStream_t s, struct ka_dense_set who, int64_t m, const double *w,
                         double *out);

/* --- worker_vector.cu --- */
enum worker_rows { WORKER_ALL, WORKER_FROM_DIAGONAL, WORKER_TO_DIAGONAL };
/* y_j = the sum of a[i,j] x_i over those rows i of a mirrored matrix. */
cudaError_t worker_column_dots(cudaStream_t s, struct ka_dense_set who, int64_t m, const double *a,
                               enum worker_rows rows, struct ka_dense_vectors x,
                               struct ka_dense_vectors y);
cudaError_t worker_spread(cudaStream_t s, struct ka_dense_set who, int64_t n, const double *from,
                          struct ka_dense_vectors x);
/* back + i * n = x */
cudaError_t worker_gather(cudaStream_t s, struct ka_dense_set who, int64_t n,
                          struct ka_dense_vectors x, double *back);
cudaError_t worker_divide(cudaStream_t s, struct ka_dense_set who, int64_t n,
                          struct ka_dense_vectors x, const struct worker_numbers *by,
                          struct ka_dense_vectors y);
/* See orthogonalise in dense.h; dots [units][stride]. */
cudaError_t worker_orthogonalise(cudaStream_t s, struct ka_dense_set who, int64_t m, int64_t k,
                                 struct ka_dense_vectors basis, int64_t n,
                                 struct ka_dense_vectors coefficients,
                                 struct ka_dense_vectors dots);
/* See combine; dots of a member: its coordinates. */
cudaError_t worker_combine(cudaStream_t s, struct ka_dense_set who, int64_t m,
                           const struct worker_counts *n_rows, struct ka_dense_vectors basis,
                           struct ka_dense_vectors dots, struct ka_dense_vectors x);

/* --- worker_dense.c --- */
/* See gram in dense.h; g for the whole batch. */
ka_status cuda_worker_gram(struct ka_dense_worker *worker, struct ka_dense_set who,
                           const struct ka_panels *p, double *g);

/* --- worker_values.c --- */
ka_status cuda_worker_values(struct ka_dense_worker *worker, struct ka_dense_set who,
                             const struct ka_panels *p, bool exact, double *s);
void cuda_worker_solver_close(struct cuda_worker *c);

#ifdef __cplusplus
}
#endif

#endif
