/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside the cuda engine of linalg/dense.h: its lanes, and what its files offer each other. A lane
 * has a stream, a cuBLAS handle and one block of device memory, cut up when matrices are held; so
 * its uploads overlap with other lanes' work, and nothing is allocated between the first matrix and
 * the last (but for singular values beyond the ends).
 *
 * Host code is C, kernels and their launchers are in lane_*.cu. A launcher enqueues and returns the
 * launch's own error. Matrices are lower; the engine keeps the mirror image above the diagonal
 * wherever a product with a vector follows (so that rows and columns are both contiguous), zeros
 * where a product of matrices does. */
#ifndef KAPPA_LINALG_CUDA_LANE_H
#define KAPPA_LINALG_CUDA_LANE_H

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/device.h"
#include "linalg/dense.h"

enum {
  LANE_PANEL = 256, /* rows converted and multiplied at once: the chain of a Gram matrix is this
                       plus n / LANE_PANEL; fewer rows would be bound by memory */
  LANE_BLOCK = 64,  /* of the Cholesky factorisation, as on the host: the same chain */
  LANE_STAGES = 2,
  LANE_STAGE_BYTES = 4 << 20,
  LANE_BACK_BYTES = 1 << 20,  /* pinned: results */
  LANE_BLAS_BYTES = 32 << 20, /* cuBLAS's workspace */
  LANE_PARTS = 256,           /* partial sums of a matrix */
  LANE_MAX_STEPS = 1022,      /* rows of a basis and coordinates fit the scratch */
};

/* A matrix as it was stored, for kernels. */
struct lane_raw {
  void *at;        /* [rows, cols], contiguous */
  double scale[2]; /* elements are multiplied by both: powers of two */
  enum ka_dtype type;
};
struct lane_raws {
  struct lane_raw of[KA_BATCH];
  int64_t n, m; /* of the tall matrix */
  bool wide;
};
struct lane_numbers {
  double of[KA_BATCH];
};
struct lane_counts {
  int of[KA_BATCH];
};

struct cuda_lane {
  cudaStream_t stream;
  cublasHandle_t blas;
  char *memory;              /* of the device */
  int64_t n_bytes, held;     /* held: for the stored matrices */
  void *stages[LANE_STAGES]; /* pinned */
  cudaEvent_t stage_free[LANE_STAGES];
  int stage;
  double *back; /* pinned, LANE_BACK_BYTES */

  /* cut from memory by `hold` */
  int units; /* of the batch, held or not */
  struct lane_raws raws;
  double *panels;           /* [units][LANE_PANEL * m] */
  double *product;          /* [3][LANE_PANEL * m]: product, low and leading parts */
  double *low;              /* [m, m] */
  double *images;           /* [units][2][n]: A x */
  double *vector;           /* [units][m] */
  double *dots;             /* [units][LANE_MAX_STEPS + 2] */
  double *parts;            /* [units][LANE_PARTS] */
  int *failed;              /* [KA_BATCH] column of a factorisation, from 1 */
  unsigned long long *scan; /* [KA_BATCH][2] */

  const char *newest;         /* what was launched last */
  struct lane_solver *solver; /* lane_values.c; NULL until it is needed */
};

static inline struct cuda_lane *cuda_lane_of(struct ka_lane *lane) {
  return (struct cuda_lane *)lane->state;
}

/* --- lane.c --- */
int cuda_lane_units_of(int64_t n, int64_t m);
int64_t cuda_lane_bytes(const struct ka_lane_size *size);
ka_status cuda_lane_room(struct ka_ctx *ctx, const struct ka_linalg_engine *engine,
                         int64_t *n_bytes, int *n_lanes);
ka_status cuda_lane_open(struct ka_lane *lane, int64_t n_bytes);
void cuda_lane_close(struct ka_lane *lane);
ka_status cuda_lane_take(struct ka_lane *lane, const struct ka_lane_size *size, double **out);
void cuda_lane_give(struct ka_lane *lane, double *workspace);
ka_status cuda_lane_hold(struct ka_lane *lane, int n_units, const struct ka_tensor *views,
                         struct ka_panels *p);
/* A call that failed, as a status: out of memory is KA_E_MEMORY, all else KA_E_DEVICE. */
ka_status cuda_lane_fail(struct ka_lane *lane, cudaError_t e, const char *what);
/* The end of every launcher's use. */
ka_status cuda_lane_launched(struct ka_lane *lane, const char *what, cudaError_t e);
ka_status cuda_lane_blas(struct ka_lane *lane, cublasStatus_t e);
/* Waits for the lane; errors of earlier work show here. */
ka_status cuda_lane_sync(struct ka_lane *lane);
/* Host memory to the device, in stream order; `from` may be changed on return. */
ka_status cuda_lane_send(struct ka_lane *lane, void *to, const void *from, int64_t n_bytes);

#define LANE_TRY(lane, call)                                                                       \
  do {                                                                                             \
    cudaError_t lane_try_ = (call);                                                                \
    if (lane_try_ != cudaSuccess) return cuda_lane_fail(lane, lane_try_, #call);                   \
  } while (0)

/* --- lane_load.cu: stored matrices --- */
/* scan[2 i] = bits of the largest finite magnitude, scan[2 i + 1] = index of the first element that
 * is not finite, or all ones. */
cudaError_t lane_scan(cudaStream_t s, int n_units, const struct lane_raws *raws,
                      unsigned long long *scan);
/* Rows [k0, k0 + kb) as ka_panels_load lays them out, of unit i to out + i * stride. */
cudaError_t lane_load(cudaStream_t s, struct ka_lane_set who, const struct lane_raws *raws,
                      int64_t k0, int64_t kb, double *out, int64_t stride);
/* All of member i's tall matrix, [n,m] column-major, to out + i * stride. */
cudaError_t lane_load_tall(cudaStream_t s, struct ka_lane_set who, const struct lane_raws *raws,
                           double *out, int64_t stride);
/* images + i * 2 n: A x for both vectors of a member; then back[8 i ...] = the sums of squares of
 * the two images and of the two vectors as unevaluated sums of two doubles. */
cudaError_t lane_norms(cudaStream_t s, struct ka_lane_set who, const struct lane_raws *raws,
                       struct ka_lane_vectors x, double *images, double *back);
int64_t lane_chain_norm(int64_t m);
/* x becomes its nearest multiple of quantum, low what is cut off. */
cudaError_t lane_split(cudaStream_t s, double *x, double *low, int64_t n, double quantum);
/* The same for each row of a lower z, at 2^-bits of the power of two above its largest element;
 * above the diagonal of low: zeros. */
cudaError_t lane_split_rows(cudaStream_t s, double *z, double *low, int64_t m, int bits);
/* y += x */
cudaError_t lane_add(cudaStream_t s, double *y, const double *x, int64_t n);

/* --- lane_matrix.cu: one pass over a matrix --- */
cudaError_t lane_shift(cudaStream_t s, struct ka_lane_set who, int64_t m, int sign, const double *a,
                       const struct lane_numbers *add, double *out);
/* back[i] */
cudaError_t lane_sum(cudaStream_t s, struct ka_lane_set who, int64_t m, const double *a,
                     enum ka_dense_sum kind, double *parts, double *back);
/* The image of what is below the diagonal, or zeros, above it. */
cudaError_t lane_mirror(cudaStream_t s, struct ka_lane_set who, int64_t m, double *a);
cudaError_t lane_zero_above(cudaStream_t s, struct ka_lane_set who, int64_t m, double *a);

/* r [m,m] = the upper triangle of a [n,m], zeros below. */
cudaError_t lane_upper(cudaStream_t s, int64_t n, int64_t m, const double *a, double *r);

/* --- lane_factor.cu: blocked factorisations --- */
cudaError_t lane_potrf(cudaStream_t s, struct ka_lane_set who, int64_t m, double *a, int *failed);
/* l becomes its inverse; above the diagonal is scratch. */
cudaError_t lane_trtri(cudaStream_t s, struct ka_lane_set who, int64_t m, double *l);
/* z = l^-1 z by substitution; above the diagonal of z is taken for zeros. */
cudaError_t lane_trsm(cudaStream_t s, struct ka_lane_set who, int64_t m, const double *l,
                      double *z);
/* out = w^T w, lower */
cudaError_t lane_lauum(cudaStream_t s, struct ka_lane_set who, int64_t m, const double *w,
                       double *out);

/* --- lane_vector.cu --- */
enum lane_rows { LANE_ALL, LANE_FROM_DIAGONAL, LANE_TO_DIAGONAL };
/* y_j = the sum of a[i,j] x_i over those rows i of a mirrored matrix. */
cudaError_t lane_column_dots(cudaStream_t s, struct ka_lane_set who, int64_t m, const double *a,
                             enum lane_rows rows, struct ka_lane_vectors x,
                             struct ka_lane_vectors y);
cudaError_t lane_spread(cudaStream_t s, struct ka_lane_set who, int64_t n, const double *from,
                        struct ka_lane_vectors x);
/* back + i * n = x */
cudaError_t lane_gather(cudaStream_t s, struct ka_lane_set who, int64_t n, struct ka_lane_vectors x,
                        double *back);
cudaError_t lane_divide(cudaStream_t s, struct ka_lane_set who, int64_t n, struct ka_lane_vectors x,
                        const struct lane_numbers *by, struct ka_lane_vectors y);
/* See orthogonalise in dense.h; dots [units][stride]. */
cudaError_t lane_orthogonalise(cudaStream_t s, struct ka_lane_set who, int64_t m, int64_t k,
                               struct ka_lane_vectors basis, int64_t n,
                               struct ka_lane_vectors coefficients, struct ka_lane_vectors dots);
/* See combine; dots of a member: its coordinates. */
cudaError_t lane_combine(cudaStream_t s, struct ka_lane_set who, int64_t m,
                         const struct lane_counts *n_rows, struct ka_lane_vectors basis,
                         struct ka_lane_vectors dots, struct ka_lane_vectors x);

/* --- lane_dense.c --- */
/* See gram in dense.h; g for the whole batch. */
ka_status cuda_lane_gram(struct ka_lane *lane, struct ka_lane_set who, const struct ka_panels *p,
                         double *g);

/* --- lane_values.c --- */
ka_status cuda_lane_values(struct ka_lane *lane, struct ka_lane_set who, const struct ka_panels *p,
                           bool exact, double *s);
void cuda_lane_solver_close(struct cuda_lane *c);

#ifdef __cplusplus
}
#endif

#endif
