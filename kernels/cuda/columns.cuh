/* SPDX-License-Identifier: Apache-2.0
 *
 * Sums over the rows of something, column by column, in a fixed order: each block sums a run of
 * rows for 32 columns (threads of a warp side by side in a row), then one thread a column adds the
 * runs. F has `float at(row, column)`. Memory: what F reads, and [runs, width] floats of scratch.
 */
#ifndef KAPPA_KERNELS_CUDA_COLUMNS_CUH
#define KAPPA_KERNELS_CUDA_COLUMNS_CUH

#include "kernels/cuda/device.cuh"

enum { COLUMN_RUNS = 128 };

template <typename F>
__global__ void __launch_bounds__(256)
    k_column_runs(float *part, int64_t n_rows, int64_t width, int64_t run, F f) {
  KA_SHARED(float[33], sums, 8);
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int64_t c = (int64_t)blockIdx.x * 32 + lane, first = (int64_t)blockIdx.y * run;
  int64_t end = first + run < n_rows ? first + run : n_rows;
  float sum = 0;
  for (int64_t r = first + warp; r < end && c < width; r += 8) sum += f.at(r, c);
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || c >= width) return;
  for (int w = 1; w < 8; w++) sum += sums[w][lane];
  part[(int64_t)blockIdx.y * width + c] = sum;
}

static __global__ void __launch_bounds__(128)
    k_column_add(float *out, const float *part, int64_t n_runs, int64_t width) {
  int64_t c = (int64_t)blockIdx.x * 128 + threadIdx.x;
  if (c >= width) return;
  float sum = 0;
  for (int64_t i = 0; i < n_runs; i++) sum += part[i * width + c];
  out[c] += sum;
}

/* out[c] += sum over rows of f.at(row, c) */
template <typename F>
static ka_status column_sums(struct ka_dev *dev, const char *op, float *out, int64_t n_rows,
                             int64_t width, F f) {
  struct ka_ctx *ctx = dev->ctx;
  struct cuda_state *s = cuda_of(dev);
  if (n_rows == 0 || width == 0) return KA_STATUS_OK;
  int64_t run = div_up(n_rows, COLUMN_RUNS) < 32 ? 32 : div_up(n_rows, COLUMN_RUNS);
  int64_t n_runs = div_up(n_rows, run);
  void *part;
  KA_TRY(cuda_scratch(dev, (size_t)(n_runs * width) * sizeof(float), &part));
  dim3 grid((unsigned)div_up(width, 32), (unsigned)n_runs);
  KA_TRY(cuda_launched(dev, op,
                       KA_LAUNCH((k_column_runs<F>), grid, 256, 0, s->stream, (float *)part, n_rows,
                                 width, run, f)));
  return cuda_launched(dev, op,
                       KA_LAUNCH(k_column_add, (unsigned)div_up(width, 128), 128, 0, s->stream, out,
                                 (const float *)part, n_runs, width));
}

#endif
