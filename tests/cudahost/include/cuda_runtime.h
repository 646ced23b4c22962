/* SPDX-License-Identifier: Apache-2.0
 * The kernel language for the host compiler: qualifiers, built-in variables, barriers, warp
 * operations, atomics, intrinsics. Launches and shared memory: kernels/cuda/launch.cuh. C++17; a C
 * file gets the host interface alone. */
#ifndef CUDAHOST_CUDA_RUNTIME_H
#define CUDAHOST_CUDA_RUNTIME_H

#include "cuda_runtime_api.h"

#ifdef __cplusplus
#include "cudahost_kernel.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
/* Variables only. They lie in a section of their own, which tells them from the host's globals. */
#define __constant__ __attribute__((section("cudahost_section"), used))

#define threadIdx (cudahost_thread_idx())
#define blockIdx (cudahost_block_idx())
#define blockDim (dim3(cudahost_block_dim()))
#define gridDim (dim3(cudahost_grid_dim()))
static constexpr int warpSize = 32;

#include "cudahost_atomics.h"
#include "cudahost_math.h"
#include "cudahost_warp.h"

/* The host interface's overloads for typed pointers, as the real header has them. */
template <typename T> inline cudaError_t cudaMalloc(T **p, size_t bytes) {
  return cudaMalloc(reinterpret_cast<void **>(p), bytes);
}
template <typename T> inline cudaError_t cudaMallocHost(T **p, size_t bytes) {
  return cudaMallocHost(reinterpret_cast<void **>(p), bytes);
}
template <typename T> inline cudaError_t cudaHostAlloc(T **p, size_t bytes, unsigned flags) {
  return cudaHostAlloc(reinterpret_cast<void **>(p), bytes, flags);
}
template <typename... P>
inline cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute attr, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), attr, value);
}
template <typename... P>
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, void (*kernel)(P...)) {
  return cudaFuncGetAttributes(attributes, reinterpret_cast<const void *>(kernel));
}
template <typename... P>
inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void (*kernel)(P...),
                                                                 int threads, size_t shared_bytes) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(
      blocks, reinterpret_cast<const void *>(kernel), threads, shared_bytes);
}
template <typename T>
inline cudaError_t cudaMemcpyToSymbol(const T &symbol, const void *src, size_t bytes,
                                      size_t offset = 0,
                                      cudaMemcpyKind kind = cudaMemcpyHostToDevice) {
  return cudaMemcpyToSymbol(reinterpret_cast<const void *>(&symbol), src, bytes, offset, kind);
}

/* Tells the core where this module keeps its __constant__ variables, if it has any. */
extern "C" {
extern const char __start_cudahost_section[] __attribute__((weak, visibility("hidden")));
extern const char __stop_cudahost_section[] __attribute__((weak, visibility("hidden")));
}
__attribute__((constructor)) static void cudahost_register_constants(void) {
  cudahost_constants(__start_cudahost_section, __stop_cudahost_section);
}
#endif

#endif
