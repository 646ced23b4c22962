/* SPDX-License-Identifier: Apache-2.0
 * Correct programs: they must give the right results in every order, and no report. */
#include "kernels/cuda/launch.cuh"
#include "tests/kernels/cudahost/cases.h"

#include <cuda_bf16.h>

enum { N = 1000 };

template <typename T> __global__ void k_axpy(T *y, const T *x, T a, int n) {
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < n;
       i += static_cast<int>(gridDim.x * blockDim.x))
    y[i] = a * x[i] + y[i];
}

static int grid_stride(void) {
  float x[N], y[N], *dx, *dy;
  for (int i = 0; i < N; i++) x[i] = static_cast<float>(i), y[i] = 1;
  OK(cudaMalloc(&dx, sizeof x));
  OK(cudaMalloc(&dy, sizeof y));
  OK(cudaMemcpy(dx, x, sizeof x, cudaMemcpyHostToDevice));
  OK(cudaMemcpy(dy, y, sizeof y, cudaMemcpyHostToDevice));
  OK(KA_LAUNCH((k_axpy<float>), 3, 64, 0, nullptr, dy, dx, 2, N)); /* 2 becomes a float */
  OK(cudaMemcpy(y, dy, sizeof y, cudaMemcpyDeviceToHost));
  for (int i = 0; i < N; i++) CHECK(y[i] == 2 * x[i] + 1);
  OK(cudaFree(dx));
  OK(cudaFree(dy));
  return 0;
}

static __device__ float warp_sum(float v) {
  for (int by = 16; by; by /= 2) v += __shfl_xor_sync(0xffffffffu, v, by);
  return v;
}

__global__ void k_sum(float *out, const __nv_bfloat16 *x, int n) {
  KA_SHARED(float, part, 32);
  float v = 0;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x))
    v += __bfloat162float(x[i]);
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  if (threadIdx.x < 32) {
    v = warp_sum(threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0);
    if (threadIdx.x == 0) atomicAdd(out, v);
  }
}

static int reduction(void) {
  __nv_bfloat16 x[256], *dx;
  float sum, *out;
  for (int i = 0; i < 256; i++) x[i] = __float2bfloat16_rn(static_cast<float>(i));
  OK(cudaMalloc(&dx, sizeof x));
  OK(cudaMalloc(&out, sizeof *out));
  OK(cudaMemset(out, 0, sizeof *out));
  OK(cudaMemcpy(dx, x, sizeof x, cudaMemcpyHostToDevice));
  OK(KA_LAUNCH(k_sum, 4, 128, 0, nullptr, out, dx, 256));
  OK(cudaMemcpy(&sum, out, sizeof sum, cudaMemcpyDeviceToHost));
  CHECK(sum == 4 * 255 * 128);
  OK(cudaFree(dx));
  OK(cudaFree(out));
  return 0;
}

const struct cudahost_case cudahost_good_cases[] = {
    {"grid_stride", grid_stride, nullptr, 0},
    {"reduction", reduction, nullptr, 0},
    {nullptr, nullptr, nullptr, 0},
};
