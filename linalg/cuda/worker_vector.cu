/* SPDX-License-Identifier: Apache-2.0
 * Vectors of a worker: products with mirrored matrices, and what a step of Lanczos needs.
 * blockIdx.y is the member of the set. Bound by memory: 8 bytes of the matrix (or of the basis)
 * a multiplication. */
#include "kernels/cuda/device.cuh"
#include "linalg/cuda/worker.h"

namespace {

enum { THREADS = 256, WARPS = THREADS / 32, GROUPS = 8 };

__device__ __forceinline__ double *vector(const ka_dense_vectors &x, int unit) {
  return x.at + unit * x.stride;
}

/* The sum of a_i x_i for i in [begin, end), by a warp. */
__device__ __forceinline__ double warp_dot(const double *a, const double *x, int64_t begin,
                                           int64_t end) {
  double sum[4] = {0, 0, 0, 0};
  int64_t i = begin + threadIdx.x % 32;
  for (; i + 96 < end; i += 128)
#pragma unroll
    for (int u = 0; u < 4; u++) sum[u] = fma(a[i + 32 * u], x[i + 32 * u], sum[u]);
  for (; i < end; i += 32) sum[0] = fma(a[i], x[i], sum[0]);
  return warp_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

/* A warp a column. */
__global__ void __launch_bounds__(THREADS)
    k_column_dots(const __grid_constant__ ka_dense_set who, int64_t m, const double *a, int rows,
                  ka_dense_vectors x, ka_dense_vectors y) {
  int unit = who.at[blockIdx.y];
  int64_t j = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
  if (j >= m) return;
  double sum =
      warp_dot(a + (unit * m + j) * m, vector(x, unit), rows == WORKER_FROM_DIAGONAL ? j : 0,
               rows == WORKER_TO_DIAGONAL ? j + 1 : m);
  if (threadIdx.x % 32 == 0) vector(y, unit)[j] = sum;
}

__global__ void __launch_bounds__(THREADS)
    k_spread(const __grid_constant__ ka_dense_set who, int64_t n, const double *from,
             ka_dense_vectors x) {
  int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i < n) vector(x, who.at[blockIdx.y])[i] = from[i];
}

__global__ void __launch_bounds__(THREADS) k_gather(const __grid_constant__ ka_dense_set who,
                                                    int64_t n, ka_dense_vectors x, double *back) {
  int unit = who.at[blockIdx.y];
  int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i < n) back[unit * n + i] = vector(x, unit)[i];
}

__global__ void __launch_bounds__(THREADS)
    k_divide(const __grid_constant__ ka_dense_set who, int64_t n, ka_dense_vectors x,
             const __grid_constant__ worker_numbers by, ka_dense_vectors y) {
  int unit = who.at[blockIdx.y];
  int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i < n) vector(y, unit)[i] = vector(x, unit)[i] / by.of[unit];
}

/* dots[j] = row j times row `last`, j below n_rows; that of row k becomes a coefficient, if any. A
 * warp a row. */
__global__ void __launch_bounds__(THREADS)
    k_row_dots(const __grid_constant__ ka_dense_set who, int64_t m, int64_t n_rows, int64_t last,
               ka_dense_vectors basis, ka_dense_vectors dots, int64_t k,
               ka_dense_vectors coefficients) {
  int unit = who.at[blockIdx.y];
  int64_t j = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
  const double *rows = vector(basis, unit);
  if (j >= n_rows) return;
  double sum = warp_dot(rows + j * m, rows + last * m, 0, m);
  if (threadIdx.x % 32) return;
  vector(dots, unit)[j] = sum;
  if (j == k) vector(coefficients, unit)[k] = sum;
}

/* x (ADD: = 0) -= (ADD: +=) the sum of dots[j] row j, j < n_rows. 32 elements a block, GROUPS warps
 * share the rows. */
template <bool ADD>
__global__ void __launch_bounds__(32 * GROUPS)
    k_rows(const __grid_constant__ ka_dense_set who, int64_t m,
           const __grid_constant__ worker_counts n_rows, ka_dense_vectors basis,
           ka_dense_vectors dots, ka_dense_vectors x) {
  KA_SHARED(double[32], part, GROUPS);
  int unit = who.at[blockIdx.y], worker = threadIdx.x % 32, group = threadIdx.x / 32;
  int64_t i = (int64_t)blockIdx.x * 32 + worker;
  const double *rows = vector(basis, unit), *c = vector(dots, unit);
  double sum = 0;
  if (i < m) {
#pragma unroll 4
    for (int64_t j = group; j < n_rows.of[unit]; j += GROUPS) sum = fma(c[j], rows[j * m + i], sum);
  }
  part[group][worker] = sum;
  __syncthreads();
  if (group > 0 || i >= m) return;
  for (int g = 1; g < GROUPS; g++) sum += part[g][worker];
  double *to = vector(x, unit) + i;
  *to = ADD ? sum : *to - sum;
}

/* x becomes a unit vector. With coefficients: coefficients[at] = its norm, or 0 where that is but
 * rounding of what it was before, whose square is dots[k + 1]. A block a member. */
template <int N>
__global__ void __launch_bounds__(N)
    k_normalise(const __grid_constant__ ka_dense_set who, int64_t m, ka_dense_vectors x, int64_t k,
                ka_dense_vectors dots, int64_t at, ka_dense_vectors coefficients) {
  int unit = who.at[blockIdx.y];
  double *v = vector(x, unit), sum = 0;
  for (int64_t i = threadIdx.x; i < m; i += N) sum = fma(v[i], v[i], sum);
  double norm = sqrt(block_sum<N>(sum));
  if (coefficients.at) {
    double before = sqrt(vector(dots, unit)[k + 1]);
    if (!(norm > 1e-15 * before)) norm = 0;
    if (threadIdx.x == 0) vector(coefficients, unit)[at] = norm;
  }
  for (int64_t i = threadIdx.x; i < m; i += N) v[i] = norm > 0 ? v[i] / norm : 0;
}

cudaError_t normalise(cudaStream_t s, const ka_dense_set &who, int64_t m, const ka_dense_vectors &x,
                      int64_t k, const ka_dense_vectors &dots, int64_t at,
                      const ka_dense_vectors &coefficients) {
  dim3 grid(1, (unsigned)who.n);
  return m <= 1024
             ? KA_LAUNCH((k_normalise<128>), grid, 128, 0, s, who, m, x, k, dots, at, coefficients)
             : KA_LAUNCH((k_normalise<1024>), grid, 1024, 0, s, who, m, x, k, dots, at,
                         coefficients);
}

dim3 grid_of(int64_t n, int64_t per_block, const struct ka_dense_set &who) {
  return dim3((unsigned)div_up(n, per_block), (unsigned)who.n);
}

} // namespace

cudaError_t worker_column_dots(cudaStream_t s, struct ka_dense_set who, int64_t m, const double *a,
                               enum worker_rows rows, struct ka_dense_vectors x,
                               struct ka_dense_vectors y) {
  return KA_LAUNCH(k_column_dots, grid_of(m, WARPS, who), THREADS, 0, s, who, m, a, (int)rows, x,
                   y);
}

cudaError_t worker_spread(cudaStream_t s, struct ka_dense_set who, int64_t n, const double *from,
                          struct ka_dense_vectors x) {
  return KA_LAUNCH(k_spread, grid_of(n, THREADS, who), THREADS, 0, s, who, n, from, x);
}

cudaError_t worker_gather(cudaStream_t s, struct ka_dense_set who, int64_t n,
                          struct ka_dense_vectors x, double *back) {
  return KA_LAUNCH(k_gather, grid_of(n, THREADS, who), THREADS, 0, s, who, n, x, back);
}

cudaError_t worker_divide(cudaStream_t s, struct ka_dense_set who, int64_t n,
                          struct ka_dense_vectors x, const struct worker_numbers *by,
                          struct ka_dense_vectors y) {
  return KA_LAUNCH(k_divide, grid_of(n, THREADS, who), THREADS, 0, s, who, n, x, *by, y);
}

/* Classical Gram-Schmidt, twice: two products with the basis a pass. The square of what the row was
 * before is one dot product more. */
cudaError_t worker_orthogonalise(cudaStream_t s, struct ka_dense_set who, int64_t m, int64_t k,
                                 struct ka_dense_vectors basis, int64_t n,
                                 struct ka_dense_vectors coefficients,
                                 struct ka_dense_vectors dots) {
  struct ka_dense_vectors last = {basis.at + (k + 1) * m, basis.stride};
  worker_counts up_to_k;
  for (int &n_rows : up_to_k.of) n_rows = (int)k + 1;
  cudaError_t e = cudaSuccess;
  for (int pass = 0; pass < 2 && e == cudaSuccess; pass++) {
    int64_t n_rows = pass == 0 ? k + 2 : k + 1, kept = pass == 0 ? k : -1;
    e = KA_LAUNCH(k_row_dots, grid_of(n_rows, WARPS, who), THREADS, 0, s, who, m, n_rows, k + 1,
                  basis, dots, kept, coefficients);
    if (e != cudaSuccess) return e;
    e = KA_LAUNCH((k_rows<false>), grid_of(m, 32, who), 32 * GROUPS, 0, s, who, m, up_to_k, basis,
                  dots, last);
  }
  if (e != cudaSuccess) return e;
  return normalise(s, who, m, last, k, dots, n + k, coefficients);
}

cudaError_t worker_combine(cudaStream_t s, struct ka_dense_set who, int64_t m,
                           const struct worker_counts *n_rows, struct ka_dense_vectors basis,
                           struct ka_dense_vectors dots, struct ka_dense_vectors x) {
  struct ka_dense_vectors none = {NULL, 0};
  cudaError_t e = KA_LAUNCH((k_rows<true>), grid_of(m, 32, who), 32 * GROUPS, 0, s, who, m, *n_rows,
                            basis, dots, x);
  return e != cudaSuccess ? e : normalise(s, who, m, x, 0, dots, 0, none);
}
