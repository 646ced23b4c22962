/* SPDX-License-Identifier: Apache-2.0
 * __nv_bfloat16 and __nv_bfloat162 for the host compiler: round to nearest even, arithmetic in
 * float with one rounding per operation, as the real header does where the hardware has no bf16
 * units. */
#ifndef CUDAHOST_CUDA_BF16_H
#define CUDAHOST_CUDA_BF16_H

#include "cuda_runtime.h"

#ifdef __cplusplus

struct CUDAHOST_ALIGN(2) __nv_bfloat16_raw {
  unsigned short x;
};

inline float cudahost_bf16_value(unsigned short x) {
  return cudahost_cast<float>(static_cast<unsigned>(x) << 16);
}
inline unsigned short cudahost_bf16_bits(float f) { /* NaN becomes 0x7fff, as on the device */
  unsigned u = cudahost_cast<unsigned>(f);
  if (f != f) return 0x7fff;
  return static_cast<unsigned short>((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

struct CUDAHOST_ALIGN(2) __nv_bfloat16 {
  unsigned short x;
  __nv_bfloat16() = default;
  __nv_bfloat16(__nv_bfloat16_raw raw) : x(raw.x) {}
  __nv_bfloat16(float f) : x(cudahost_bf16_bits(f)) {}
  __nv_bfloat16(double f) : x(cudahost_bf16_bits(static_cast<float>(f))) {}
  __nv_bfloat16(int i) : x(cudahost_bf16_bits(static_cast<float>(i))) {}
  operator float() const { return cudahost_bf16_value(x); }
  operator __nv_bfloat16_raw() const { return {x}; }
};
struct CUDAHOST_ALIGN(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
  __nv_bfloat162() = default;
  __nv_bfloat162(__nv_bfloat16 a, __nv_bfloat16 b) : x(a), y(b) {}
};
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short x) { return __nv_bfloat16_raw{x}; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 a) { return a.x; }
inline __nv_bfloat16 __float2bfloat16(float f) { return f; }
inline __nv_bfloat16 __float2bfloat16_rn(float f) { return f; }
inline __nv_bfloat16 __float2bfloat16_rz(float f) {
  if (f != f) return __ushort_as_bfloat16(0x7fff);
  return __ushort_as_bfloat16(static_cast<unsigned short>(cudahost_cast<unsigned>(f) >> 16));
}
inline __nv_bfloat16 __double2bfloat16(double d) { /* by round-to-odd, so that it rounds once */
  float f = static_cast<float>(d);
  unsigned u = cudahost_cast<unsigned>(f);
  if (static_cast<double>(f) == d || f != f || isinf(f)) return f;
  if ((fabs(static_cast<double>(f)) > fabs(d))) u--;
  return cudahost_cast<float>(u | 1u);
}
inline float __bfloat162float(__nv_bfloat16 a) { return a; }

inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 a, __nv_bfloat16 b) { return {a, b}; }
inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 a, __nv_bfloat16 b) { return {a, b}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {a, b}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 a) { return {a.x, a.y}; }
inline __nv_bfloat162 __float2bfloat162_rn(float a) { return {a, a}; }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 a) { return {a, a}; }
inline float2 __bfloat1622float2(__nv_bfloat162 a) { return {a.x, a.y}; }
inline float __low2float(__nv_bfloat162 a) { return a.x; }
inline float __high2float(__nv_bfloat162 a) { return a.y; }
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 a) { return a.x; }
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 a) { return a.y; }
inline __nv_bfloat162 __lowhigh2highlow(__nv_bfloat162 a) { return {a.y, a.x}; }

#define CUDAHOST_BF16_MAP(name, expression)                                                        \
  inline __nv_bfloat16 __h##name(__nv_bfloat16 a, __nv_bfloat16 b) {                               \
    float x = a, y = b;                                                                            \
    return expression;                                                                             \
  }                                                                                                \
  inline __nv_bfloat162 __h##name##2(__nv_bfloat162 a, __nv_bfloat162 b) {                         \
    return {__h##name(a.x, b.x), __h##name(a.y, b.y)};                                             \
  }
CUDAHOST_BF16_MAP(add, x + y)
CUDAHOST_BF16_MAP(sub, x - y)
CUDAHOST_BF16_MAP(mul, x *y)
CUDAHOST_BF16_MAP(max, fmaxf(x, y))
CUDAHOST_BF16_MAP(min, fminf(x, y))
inline __nv_bfloat16 __hdiv(__nv_bfloat16 a, __nv_bfloat16 b) {
  return static_cast<float>(a) / static_cast<float>(b);
}
inline __nv_bfloat16 __hfma(__nv_bfloat16 a, __nv_bfloat16 b, __nv_bfloat16 c) {
  return fmaf(a, b, c);
}
inline __nv_bfloat162 __hfma2(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c) {
  return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};
}
inline __nv_bfloat16 __hneg(__nv_bfloat16 a) {
  return __ushort_as_bfloat16(static_cast<unsigned short>(a.x ^ 0x8000));
}
inline __nv_bfloat162 __hneg2(__nv_bfloat162 a) { return {__hneg(a.x), __hneg(a.y)}; }
inline __nv_bfloat16 __habs(__nv_bfloat16 a) {
  return __ushort_as_bfloat16(static_cast<unsigned short>(a.x & 0x7fff));
}
inline bool __hisnan(__nv_bfloat16 a) { return (a.x & 0x7fff) > 0x7f80; }
inline int __hisinf(__nv_bfloat16 a) { return a.x == 0x7f80 ? 1 : a.x == 0xff80 ? -1 : 0; }

CUDAHOST_ATOMIC(Add, __nv_bfloat16, static_cast<float>(old) + static_cast<float>(value))
inline __nv_bfloat162 atomicAdd(__nv_bfloat162 *p, __nv_bfloat162 value) {
  return cudahost_atomic(p, [value](__nv_bfloat162 old) { return __hadd2(old, value); });
}

#endif

#endif
