/* SPDX-License-Identifier: Apache-2.0
 * A shared object with the stand-in inside, as the back end's plug-in for tests is one. */
#include "kernels/cuda/launch.cuh"

static __constant__ float factor[1] = {3};
static __global__ void k_scale(float *x, int n) {
  KA_SHARED(float, tile, 64);
  int i = static_cast<int>(blockIdx.x * 64 + threadIdx.x);
  tile[threadIdx.x] = i < n ? x[i] : 0;
  __syncthreads();
  if (i < n) x[i] = tile[threadIdx.x] * factor[0];
}

/* x[i] *= 3 on the device; returns a cudaError_t. */
extern "C" int plugin_scale(float *x, int n) {
  float *d;
  size_t bytes = static_cast<size_t>(n) * sizeof(float);
  cudaError_t e = cudaMalloc(&d, bytes);
  if (e) return e;
  e = cudaMemcpy(d, x, bytes, cudaMemcpyHostToDevice);
  if (!e) e = KA_LAUNCH(k_scale, static_cast<unsigned>(n + 63) / 64, 64, 0, nullptr, d, n);
  if (!e) e = cudaMemcpy(x, d, bytes, cudaMemcpyDeviceToHost);
  cudaError_t freed = cudaFree(d);
  return e ? e : freed;
}

/* Reads device memory from the host. */
extern "C" int plugin_oops(void) {
  float *d;
  cudaError_t e = cudaMalloc(&d, 64);
  return e != cudaSuccess || d[3] > 0;
}
