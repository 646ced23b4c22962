/* SPDX-License-Identifier: Apache-2.0
 *
 * What kernels are made of: numbers as floats whatever their dtype, 16-byte packs of them, sums
 * over a warp and over the threads of a row in a fixed order. */
#ifndef KAPPA_KERNELS_CUDA_DEVICE_CUH
#define KAPPA_KERNELS_CUDA_DEVICE_CUH

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/launch.cuh"

#include <cuda_bf16.h>

typedef __nv_bfloat16 bf16;

static __device__ __forceinline__ float to_float(float x) { return x; }
static __device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
template <typename T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) {
  return __float2bfloat16_rn(x);
}
/* x rounded to T and back. */
template <typename T> __device__ __forceinline__ float round_to(float x) {
  return to_float(from_float<T>(x));
}

/* N numbers moved at once; 16 bytes when N = WIDE. */
template <typename T, int N> struct alignas(sizeof(T) * N) pack { T v[N]; };
template <typename T> struct vec16 { static const int N = 16 / (int)sizeof(T); };

template <int N, typename T> __device__ __forceinline__ void load(float (&to)[N], const T *from) {
  pack<T, N> p = *reinterpret_cast<const pack<T, N> *>(from);
#pragma unroll
  for (int i = 0; i < N; i++) to[i] = to_float(p.v[i]);
}
template <int N, typename T> __device__ __forceinline__ void store(T *to, const float (&from)[N]) {
  pack<T, N> p;
#pragma unroll
  for (int i = 0; i < N; i++) p.v[i] = from_float<T>(from[i]);
  *reinterpret_cast<pack<T, N> *>(to) = p;
}

static __device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
  return x;
}
static __device__ __forceinline__ double warp_sum(double x) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
  return x;
}
static __device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
  return x;
}

/* Sum over a block of THREADS (a multiple of 32, all of them here); every thread gets it. */
template <int THREADS, typename T> __device__ __forceinline__ T block_sum(T x) {
  KA_SHARED(T, part, THREADS / 32);
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
  __syncthreads();
  T sum = 0;
#pragma unroll
  for (int i = 0; i < THREADS / 32; i++) sum += part[i];
  __syncthreads(); /* part may be written again */
  return sum;
}

/* gelu in its tanh form, and its derivative (Hendrycks and Gimpel 2016, section 2). */
static __device__ __forceinline__ void gelu_tanh(float g, float *y, float *slope) {
  const float c = 0.79788456080286536f, d = 0.044715f; /* sqrt(2/pi) */
  float t = tanhf(c * (g + d * g * g * g));
  *y = 0.5f * g * (1.0f + t);
  *slope = 0.5f * (1.0f + t) + 0.5f * g * (1.0f - t * t) * c * (1.0f + 3.0f * d * g * g);
}

/* --- launching -------------------------------------------------------------------------------- */

/* Can packs of n numbers be moved from and to t? Rows must keep the alignment. */
static inline bool in_packs(const struct ka_tensor &t, int n) {
  size_t bytes = (size_t)n * ka_dtype_bytes(t.dtype);
  bool rows = t.n_dim < 2 || t.shape[0] < 2 || t.row_stride % n == 0;
  return !t.data || ((uintptr_t)t.data % bytes == 0 && rows);
}

static inline int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Runs f with a value of the C type of t: DISPATCH(dev, "op", t, { ... uses T ... }). */
#define KA_BY_TYPE(dev, op, dtype, ...)                                                            \
  do {                                                                                             \
    if ((dtype) == KA_F32) {                                                                       \
      typedef float T;                                                                             \
      __VA_ARGS__                                                                                  \
    }                                                                                              \
    if ((dtype) == KA_BF16) {                                                                      \
      typedef bf16 T;                                                                              \
      __VA_ARGS__                                                                                  \
    }                                                                                              \
    return cuda_unsupported(dev, op, dtype);                                                       \
  } while (0)

#endif
