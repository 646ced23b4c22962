/* SPDX-License-Identifier: Apache-2.0
 * Stored matrices of a worker: scanned, converted exactly to float64 a panel at a time, multiplied
 * with vectors, cut into leading parts and rests. blockIdx.y is the member of the set. All are
 * bound by memory: they read the stored elements once. */
#include "kernels/cuda/device.cuh"
#include "linalg/cuda/worker.h"

#include <cuda_fp16.h>
#include <math.h>

namespace {

enum { THREADS = 256, MOST_BLOCKS = 1024, GROUPS = 16 };

__device__ __forceinline__ double element(const worker_raw &raw, int64_t i) {
  switch (raw.type) {
  case KA_BF16:
    return (double)to_float(((const bf16 *)raw.at)[i]);
  case KA_F16:
    return (double)__half2float(((const __half *)raw.at)[i]);
  case KA_F32:
    return (double)((const float *)raw.at)[i];
  default:
    return ((const double *)raw.at)[i];
  }
}

__device__ __forceinline__ double scaled(const worker_raw &raw, int64_t i) {
  return element(raw, i) * raw.scale[0] * raw.scale[1];
}

/* Doubles that are not negative compare as their bits do. */
__global__ void __launch_bounds__(THREADS)
    k_scan(const __grid_constant__ worker_raws raws, unsigned long long *scan) {
  const worker_raw &raw = raws.of[blockIdx.y];
  unsigned long long most = 0, bad = ~0ull;
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < raws.n * raws.m;
       i += (int64_t)gridDim.x * THREADS) {
    double x = fabs(element(raw, i));
    if (isfinite(x))
      most = max(most, (unsigned long long)__double_as_longlong(x));
    else
      bad = min(bad, (unsigned long long)i);
  }
  for (int worker = 16; worker > 0; worker /= 2) {
    most = max(most, __shfl_xor_sync(0xffffffffu, most, worker));
    bad = min(bad, __shfl_xor_sync(0xffffffffu, bad, worker));
  }
  if (threadIdx.x % 32) return;
  atomicMax(&scan[2 * blockIdx.y], most);
  atomicMin(&scan[2 * blockIdx.y + 1], bad);
}

/* Both layouts of a panel are runs of the stored one: all of it, or kb of each of m rows. */
__global__ void __launch_bounds__(THREADS)
    k_load(const __grid_constant__ ka_dense_set who, const __grid_constant__ worker_raws raws,
           int64_t k0, int64_t kb, double *out, int64_t stride) {
  int unit = who.at[blockIdx.y];
  const worker_raw &raw = raws.of[unit];
  out += unit * stride;
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < kb * raws.m;
       i += (int64_t)gridDim.x * THREADS) {
    int64_t from = raws.wide ? i / kb * raws.n + k0 + i % kb : k0 * raws.m + i;
    out[i] = scaled(raw, from);
  }
}

/* Neighbours write side by side; where they read apart, that is the price of a transposition. */
__global__ void __launch_bounds__(THREADS)
    k_load_tall(const __grid_constant__ ka_dense_set who, const __grid_constant__ worker_raws raws,
                double *out, int64_t stride) {
  int unit = who.at[blockIdx.y];
  int64_t n = raws.n, m = raws.m;
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n * m;
       i += (int64_t)gridDim.x * THREADS)
    out[unit * stride + i] = scaled(raws.of[unit], raws.wide ? i : i % n * m + i / n);
}

/* --- A x -------------------------------------------------------------------------------------- */

/* Rows lie side by side: a warp a row; the chain is m / 32 and five sums of pairs. */
__global__ void __launch_bounds__(THREADS)
    k_images_tall(const __grid_constant__ ka_dense_set who,
                  const __grid_constant__ worker_raws raws, ka_dense_vectors x, double *images) {
  int unit = who.at[blockIdx.y], worker = threadIdx.x % 32;
  int64_t k = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32, m = raws.m;
  const worker_raw &raw = raws.of[unit];
  const double *v = x.at + unit * x.stride;
  if (k >= raws.n) return;
  double sum[2] = {0, 0};
  for (int64_t c = worker; c < m; c += 32) {
    double a = scaled(raw, k * m + c);
    sum[0] = fma(a, v[c], sum[0]);
    sum[1] = fma(a, v[m + c], sum[1]);
  }
  sum[0] = warp_sum(sum[0]);
  sum[1] = warp_sum(sum[1]);
  double *image = images + 2 * unit * raws.n;
  if (worker < 2) image[worker * raws.n + k] = worker == 0 ? sum[0] : sum[1];
}

/* Stored as the transpose: 32 columns a block, GROUPS warps share the sum of each; the chain is
 * m / GROUPS and four sums of pairs. */
__global__ void __launch_bounds__(32 * GROUPS)
    k_images_wide(const __grid_constant__ ka_dense_set who,
                  const __grid_constant__ worker_raws raws, ka_dense_vectors x, double *images) {
  KA_SHARED(double[GROUPS][33], part, 2);
  int unit = who.at[blockIdx.y], worker = threadIdx.x % 32, group = threadIdx.x / 32;
  int64_t k = (int64_t)blockIdx.x * 32 + worker, m = raws.m;
  const worker_raw &raw = raws.of[unit];
  const double *v = x.at + unit * x.stride;
  double sum[2] = {0, 0};
  for (int64_t r = group; r < m && k < raws.n; r += GROUPS) {
    double a = scaled(raw, r * raws.n + k);
    sum[0] = fma(a, v[r], sum[0]);
    sum[1] = fma(a, v[m + r], sum[1]);
  }
  part[0][group][worker] = sum[0];
  part[1][group][worker] = sum[1];
  __syncthreads();
  if (group > 1 || k >= raws.n) return;
  for (int step = 1; step < GROUPS; step *= 2)
    for (int g = 0; g < GROUPS; g += 2 * step)
      part[group][g][worker] += part[group][g + step][worker];
  images[(2 * unit + group) * raws.n + k] = part[group][0][worker];
}

/* An unevaluated sum of two doubles; sums and squares are exact to about 2^-100 of the total. */
struct twice {
  double high, low;
};
__device__ __forceinline__ twice plus(twice a, twice b) {
  double s = __dadd_rn(a.high, b.high), t = __dadd_rn(s, -a.high);
  double e = __dadd_rn(__dadd_rn(a.high, -__dadd_rn(s, -t)), __dadd_rn(b.high, -t));
  e = __dadd_rn(e, __dadd_rn(a.low, b.low));
  double high = __dadd_rn(s, e);
  return {high, __dadd_rn(e, -__dadd_rn(high, -s))};
}
__device__ __forceinline__ twice square(double x) {
  double high = __dmul_rn(x, x);
  return {high, __fma_rn(x, x, -high)};
}

/* blockIdx.x: the two images, then the two vectors. */
__global__ void __launch_bounds__(THREADS)
    k_squares(const __grid_constant__ ka_dense_set who, int64_t n, int64_t m, ka_dense_vectors x,
              const double *images, double *back) {
  KA_SHARED(twice, part, THREADS);
  int unit = who.at[blockIdx.y], j = blockIdx.x;
  const double *v = j < 2 ? images + (2 * unit + j) * n : x.at + unit * x.stride + (j - 2) * m;
  int64_t length = j < 2 ? n : m;
  twice sum = {0, 0};
  for (int64_t i = threadIdx.x; i < length; i += THREADS) sum = plus(sum, square(v[i]));
  part[threadIdx.x] = sum;
  for (int half = THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if ((int)threadIdx.x < half)
      part[threadIdx.x] = plus(part[threadIdx.x], part[threadIdx.x + half]);
  }
  if (threadIdx.x > 0) return;
  back[8 * unit + 2 * j] = part[0].high;
  back[8 * unit + 2 * j + 1] = part[0].low;
}

/* --- cutting ---------------------------------------------------------------------------------- */

/* Exact: round to nearest in the sum with 1.5 * 2^52 quantum. */
__device__ __forceinline__ void cut(double *x, double *low, double quantum) {
  double big = 0x1.8p52 * quantum, high = __dadd_rn(__dadd_rn(*x, big), -big);
  *low = *x - high;
  *x = high;
}

__global__ void __launch_bounds__(THREADS)
    k_split(double *x, double *low, int64_t n, double quantum) {
  int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i < n) cut(&x[i], &low[i], quantum);
}

/* A thread a row: threads side by side read a column. */
__global__ void __launch_bounds__(32) k_split_rows(double *z, double *low, int64_t m, int bits) {
  int64_t i = (int64_t)blockIdx.x * 32 + threadIdx.x;
  double most = 0;
  if (i >= m) return;
  for (int64_t j = 0; j <= i; j++) most = fmax(most, fabs(z[i + j * m]));
  int e = 0;
  (void)frexp(most, &e);
  double quantum = ldexp(1.0, e - bits);
  for (int64_t j = 0; j <= i; j++) cut(&z[i + j * m], &low[i + j * m], quantum);
  for (int64_t j = i + 1; j < m; j++) low[i + j * m] = 0;
}

__global__ void __launch_bounds__(THREADS) k_add(double *y, const double *x, int64_t n) {
  int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i < n) y[i] += x[i];
}

unsigned blocks_of(int64_t n) { return (unsigned)least(div_up(n, THREADS), MOST_BLOCKS); }

} // namespace

cudaError_t worker_scan(cudaStream_t s, int n_units, const struct worker_raws *raws,
                        unsigned long long *scan) {
  return KA_LAUNCH(k_scan, dim3(blocks_of(raws->n * raws->m), (unsigned)n_units), THREADS, 0, s,
                   *raws, scan);
}

cudaError_t worker_load(cudaStream_t s, struct ka_dense_set who, const struct worker_raws *raws,
                        int64_t k0, int64_t kb, double *out, int64_t stride) {
  return KA_LAUNCH(k_load, dim3(blocks_of(kb * raws->m), (unsigned)who.n), THREADS, 0, s, who,
                   *raws, k0, kb, out, stride);
}

cudaError_t worker_load_tall(cudaStream_t s, struct ka_dense_set who,
                             const struct worker_raws *raws, double *out, int64_t stride) {
  return KA_LAUNCH(k_load_tall, dim3(blocks_of(raws->n * raws->m), (unsigned)who.n), THREADS, 0, s,
                   who, *raws, out, stride);
}

cudaError_t worker_norms(cudaStream_t s, struct ka_dense_set who, const struct worker_raws *raws,
                         struct ka_dense_vectors x, double *images, double *back) {
  int64_t per_block = raws->wide ? 32 : THREADS / 32;
  dim3 grid((unsigned)div_up(raws->n, per_block), (unsigned)who.n);
  cudaError_t e = raws->wide
                      ? KA_LAUNCH(k_images_wide, grid, 32 * GROUPS, 0, s, who, *raws, x, images)
                      : KA_LAUNCH(k_images_tall, grid, THREADS, 0, s, who, *raws, x, images);
  if (e != cudaSuccess) return e;
  return KA_LAUNCH(k_squares, dim3(4, (unsigned)who.n), THREADS, 0, s, who, raws->n, raws->m, x,
                   (const double *)images, back);
}

int64_t worker_chain_norm(int64_t m) { return div_up(m, GROUPS) + 6; }

cudaError_t worker_split(cudaStream_t s, double *x, double *low, int64_t n, double quantum) {
  return KA_LAUNCH(k_split, (unsigned)div_up(n, THREADS), THREADS, 0, s, x, low, n, quantum);
}

cudaError_t worker_split_rows(cudaStream_t s, double *z, double *low, int64_t m, int bits) {
  return KA_LAUNCH(k_split_rows, (unsigned)div_up(m, 32), 32, 0, s, z, low, m, bits);
}

cudaError_t worker_add(cudaStream_t s, double *y, const double *x, int64_t n) {
  return KA_LAUNCH(k_add, (unsigned)div_up(n, THREADS), THREADS, 0, s, y, x, n);
}
