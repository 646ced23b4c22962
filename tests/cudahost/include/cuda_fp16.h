/* SPDX-License-Identifier: Apache-2.0
 * __half for the host compiler: conversions alone. */
#ifndef CUDAHOST_CUDA_FP16_H
#define CUDAHOST_CUDA_FP16_H

#include "cuda_runtime.h"

#ifdef __cplusplus

#include <math.h>

struct CUDAHOST_ALIGN(2) __half {
  unsigned short x;
};

inline float __half2float(__half h) {
  int exponent = h.x >> 10 & 31, mantissa = h.x & 1023;
  float sign = h.x & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * ldexpf(static_cast<float>(mantissa), -24);
  return sign * ldexpf(static_cast<float>(mantissa | 1024), exponent - 25);
}

/* To nearest even. */
inline __half __float2half_rn(float f) {
  unsigned short sign = signbit(f) ? 0x8000 : 0;
  float a = fabsf(f);
  int e = 0;
  if (f != f) return {static_cast<unsigned short>(0x7fff)};
  if (a >= 65520.0f) return {static_cast<unsigned short>(sign | 0x7c00)};
  frexpf(a, &e); /* a in [2^(e-1), 2^e) */
  int last = e - 11 < -24 ? -24 : e - 11;
  long m = lrintf(ldexpf(a, -last));
  if (last == -24) return {static_cast<unsigned short>(sign | m)};
  return {static_cast<unsigned short>(sign | (((e + 14) << 10) + (m - 1024)))};
}

#endif

#endif
