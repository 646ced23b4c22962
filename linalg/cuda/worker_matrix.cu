/* SPDX-License-Identifier: Apache-2.0
 * One pass over the lower triangles of a worker's matrices. blockIdx.y (mirror: z) is the member of
 * the set. */
#include "kernels/cuda/device.cuh"
#include "linalg/cuda/worker.h"

namespace {

enum { THREADS = 256, TILE = 32 };

/* A block a column. */
__global__ void __launch_bounds__(THREADS)
    k_shift(const __grid_constant__ ka_dense_set who, int64_t m, int sign, const double *a,
            const __grid_constant__ worker_numbers add, double *out) {
  int unit = who.at[blockIdx.y];
  int64_t j = blockIdx.x, at = unit * m * m + j * m;
  for (int64_t i = j + threadIdx.x; i < m; i += THREADS) {
    double x = sign > 0 ? a[at + i] : -a[at + i];
    out[at + i] = i == j ? x + add.of[unit] : x;
  }
}

/* Columns j, j + blocks, ... of the triangle, or of the diagonal THREADS of them at once. */
template <ka_dense_sum KIND>
__global__ void __launch_bounds__(THREADS)
    k_sum(const __grid_constant__ ka_dense_set who, int64_t m, const double *a, double *parts) {
  int unit = who.at[blockIdx.y];
  bool diagonal = KIND == KA_SUM_TRACE || KIND == KA_SUM_LOG_DIAGONAL;
  double sum = 0;
  a += unit * m * m;
  if (diagonal)
    for (int64_t j = (int64_t)blockIdx.x * THREADS + threadIdx.x; j < m;
         j += (int64_t)gridDim.x * THREADS) {
      double d = a[j + j * m];
      sum += KIND == KA_SUM_TRACE ? d : log(d);
    }
  else
    for (int64_t j = blockIdx.x; j < m; j += gridDim.x)
      for (int64_t i = j + threadIdx.x; i < m; i += THREADS) {
        double x = a[i + j * m];
        if (KIND == KA_SUM_OFF_IDENTITY && i == j) x -= 1;
        sum += KIND == KA_SUM_OFF_IDENTITY && i > j ? 2 * x * x : x * x;
      }
  sum = block_sum<THREADS>(sum);
  if (threadIdx.x == 0) parts[unit * WORKER_PARTS + blockIdx.x] = sum;
}

__global__ void __launch_bounds__(32) k_sum_parts(const __grid_constant__ ka_dense_set who,
                                                  int n_parts, const double *parts, double *back) {
  int unit = who.at[blockIdx.y];
  double sum = 0;
  for (int i = threadIdx.x; i < n_parts; i += 32) sum += parts[unit * WORKER_PARTS + i];
  sum = warp_sum(sum);
  if (threadIdx.x == 0) back[unit] = sum;
}

/* Tiles on and below the diagonal: (blockIdx.y, blockIdx.x). */
template <bool ZERO>
__global__ void __launch_bounds__(TILE * 8)
    k_above(const __grid_constant__ ka_dense_set who, int64_t m, double *a) {
  KA_SHARED(double[TILE + 1], tile, TILE);
  int x = threadIdx.x % TILE, y = threadIdx.x / TILE;
  int64_t i0 = (int64_t)blockIdx.x * TILE, j0 = (int64_t)blockIdx.y * TILE;
  if (j0 > i0) return;
  a += who.at[blockIdx.z] * m * m;
  for (int r = y; r < TILE && !ZERO; r += 8)
    if (i0 + x < m && j0 + r < m && j0 + r < i0 + x) tile[r][x] = a[i0 + x + (j0 + r) * m];
  __syncthreads();
  for (int r = y; r < TILE; r += 8)
    if (i0 + r < m && j0 + x < m && j0 + x < i0 + r)
      a[j0 + x + (i0 + r) * m] = ZERO ? 0 : tile[x][r];
}

__global__ void __launch_bounds__(THREADS)
    k_upper(int64_t n, int64_t m, const double *a, double *r) {
  int64_t j = blockIdx.x;
  for (int64_t i = threadIdx.x; i < m; i += THREADS) r[i + j * m] = i <= j ? a[i + j * n] : 0;
}

template <bool ZERO>
cudaError_t above(cudaStream_t s, const struct ka_dense_set &who, int64_t m, double *a) {
  unsigned n = (unsigned)div_up(m, TILE);
  return KA_LAUNCH((k_above<ZERO>), dim3(n, n, (unsigned)who.n), TILE * 8, 0, s, who, m, a);
}

} // namespace

cudaError_t worker_shift(cudaStream_t s, struct ka_dense_set who, int64_t m, int sign,
                         const double *a, const struct worker_numbers *add, double *out) {
  return KA_LAUNCH(k_shift, dim3((unsigned)m, (unsigned)who.n), THREADS, 0, s, who, m, sign, a,
                   *add, out);
}

cudaError_t worker_sum(cudaStream_t s, struct ka_dense_set who, int64_t m, const double *a,
                       enum ka_dense_sum kind, double *parts, double *back) {
  bool diagonal = kind == KA_SUM_TRACE || kind == KA_SUM_LOG_DIAGONAL;
  int n_parts = (int)least(diagonal ? div_up(m, THREADS) : m, WORKER_PARTS);
  dim3 grid((unsigned)n_parts, (unsigned)who.n);
  cudaError_t e = cudaErrorInvalidValue;
  switch (kind) {
  case KA_SUM_TRACE:
    e = KA_LAUNCH((k_sum<KA_SUM_TRACE>), grid, THREADS, 0, s, who, m, a, parts);
    break;
  case KA_SUM_LOG_DIAGONAL:
    e = KA_LAUNCH((k_sum<KA_SUM_LOG_DIAGONAL>), grid, THREADS, 0, s, who, m, a, parts);
    break;
  case KA_SUM_SQUARES:
    e = KA_LAUNCH((k_sum<KA_SUM_SQUARES>), grid, THREADS, 0, s, who, m, a, parts);
    break;
  case KA_SUM_OFF_IDENTITY:
    e = KA_LAUNCH((k_sum<KA_SUM_OFF_IDENTITY>), grid, THREADS, 0, s, who, m, a, parts);
    break;
  }
  if (e != cudaSuccess) return e;
  return KA_LAUNCH(k_sum_parts, dim3(1, (unsigned)who.n), 32, 0, s, who, n_parts,
                   (const double *)parts, back);
}

cudaError_t worker_mirror(cudaStream_t s, struct ka_dense_set who, int64_t m, double *a) {
  return above<false>(s, who, m, a);
}
cudaError_t worker_zero_above(cudaStream_t s, struct ka_dense_set who, int64_t m, double *a) {
  return above<true>(s, who, m, a);
}

cudaError_t worker_upper(cudaStream_t s, int64_t n, int64_t m, const double *a, double *r) {
  return KA_LAUNCH(k_upper, (unsigned)m, THREADS, 0, s, n, m, a, r);
}
