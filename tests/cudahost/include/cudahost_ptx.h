/* SPDX-License-Identifier: Apache-2.0
 * The host compiler's twins of the instructions in kernels/cuda/ptx.cuh; the warp-wide ones are in
 * tests/cudahost/ptx.c. Included by ptx.cuh. */
#ifndef CUDAHOST_PTX_H
#define CUDAHOST_PTX_H

#include "cuda_runtime.h"

inline void mma_bf16_16816(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                           CUDAHOST_SITE) {
  cudahost_mma(CUDAHOST_MMA_BF16, d, a, b, site);
}
inline void mma_f16_16816(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                          CUDAHOST_SITE) {
  cudahost_mma(CUDAHOST_MMA_F16, d, a, b, site);
}
inline void mma_tf32_1688(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                          CUDAHOST_SITE) {
  cudahost_mma(CUDAHOST_MMA_TF32, d, a, b, site);
}
inline unsigned tf32(float x) { /* to nearest, ties away from zero */
  unsigned u = cudahost_cast<unsigned>(x);
  return (u & 0x7f800000u) == 0x7f800000u ? u : (u + 0x1000u) & ~0x1fffu;
}

#define CUDAHOST_LDMATRIX(n)                                                                       \
  inline void ldmatrix_x##n(unsigned(&r)[n], const void *row, CUDAHOST_SITE) {                     \
    cudahost_ldmatrix(r, row, n, false, site);                                                     \
  }                                                                                                \
  inline void ldmatrix_x##n##_trans(unsigned(&r)[n], const void *row, CUDAHOST_SITE) {             \
    cudahost_ldmatrix(r, row, n, true, site);                                                      \
  }
CUDAHOST_LDMATRIX(1)
CUDAHOST_LDMATRIX(2)
CUDAHOST_LDMATRIX(4)
inline unsigned movmatrix_trans(unsigned a, CUDAHOST_SITE) { return cudahost_movmatrix(a, site); }

inline void cp_async_16(void *shared, const void *global, unsigned n = 16, CUDAHOST_SITE) {
  cudahost_cp_async(shared, global, 16, n, site);
}
inline void cp_async_8(void *shared, const void *global, unsigned n = 8, CUDAHOST_SITE) {
  cudahost_cp_async(shared, global, 8, n, site);
}
inline void cp_async_4(void *shared, const void *global, unsigned n = 4, CUDAHOST_SITE) {
  cudahost_cp_async(shared, global, 4, n, site);
}
inline void cp_async_commit() { cudahost_cp_async_commit(); }
template <int N> inline void cp_async_wait() { cudahost_cp_async_wait(N); }

/* Without subnormals, as .ftz; as exact as float allows. */
inline float cudahost_flush(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x; }
inline float exp2_approx(float x) {
  return cudahost_flush(static_cast<float>(exp2(double(cudahost_flush(x)))));
}
inline float log2_approx(float x) {
  return cudahost_flush(static_cast<float>(log2(double(cudahost_flush(x)))));
}
inline float rcp_approx(float x) { return cudahost_flush(1 / cudahost_flush(x)); }
inline float rsqrt_approx(float x) {
  return static_cast<float>(1 / sqrt(double(cudahost_flush(x))));
}
inline float tanh_approx(float x) { return tanhf(x); }

#endif
