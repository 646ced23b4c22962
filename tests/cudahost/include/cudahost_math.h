/* SPDX-License-Identifier: Apache-2.0
 * Device functions that the host's <math.h> lacks: approximate ones as exact as float allows,
 * correctly rounded ones by double arithmetic, bit casts, integer intrinsics. Included by
 * cuda_runtime.h. */
#ifndef CUDAHOST_MATH_H
#define CUDAHOST_MATH_H

/* As the hardware does it: 2^(x log2 e) with the product rounded to float. */
inline float __expf(float x) { return static_cast<float>(exp2(double(x * 1.44269504088896341f))); }
inline float __exp10f(float x) { return static_cast<float>(exp2(double(x * 3.3219280948873623f))); }
inline float __log2f(float x) { return static_cast<float>(log2(double(x))); }
inline float __logf(float x) { return __log2f(x) * 0.69314718055994531f; }
inline float __log10f(float x) { return __log2f(x) * 0.30102999566398120f; }
inline float __powf(float x, float y) { return static_cast<float>(exp2(double(y * __log2f(x)))); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline void __sincosf(float x, float *s, float *c) { *s = sinf(x), *c = cosf(x); }
inline float __fdividef(float x, float y) { return fabsf(y) > 0x1p126f ? x * 0.0f : x / y; }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }

/* Macros because newer C libraries declare functions of these names. */
#define rsqrtf cudahost_rsqrtf
#define rsqrt cudahost_rsqrt
inline float rsqrtf(float x) { return static_cast<float>(1 / sqrt(double(x))); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float rcbrtf(float x) { return static_cast<float>(1 / cbrt(double(x))); }
inline float normcdff(float x) { return static_cast<float>(0.5 * erfc(-double(x) * M_SQRT1_2)); }
inline double normcdf(double x) { return 0.5 * erfc(-x * M_SQRT1_2); }

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __frcp_rn(float a) { return 1 / a; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __frsqrt_rn(float a) { return static_cast<float>(1 / sqrt(double(a))); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline double __dsqrt_rn(double a) { return sqrt(a); }

inline int __float_as_int(float x) { return cudahost_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return cudahost_cast<unsigned>(x); }
inline float __int_as_float(int x) { return cudahost_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return cudahost_cast<float>(x); }
inline long long __double_as_longlong(double x) { return cudahost_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return cudahost_cast<double>(x); }
inline int __float2int_rn(float x) { return static_cast<int>(rintf(x)); }
inline int __float2int_rz(float x) { return static_cast<int>(x); }
inline int __float2int_rd(float x) { return static_cast<int>(floorf(x)); }
inline int __float2int_ru(float x) { return static_cast<int>(ceilf(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) {
  return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64;
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}
inline int __mulhi(int a, int b) { return static_cast<int>(static_cast<long long>(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline unsigned __brev(unsigned x) {
  unsigned y = 0;
  for (int i = 0; i < 32; i++) y |= (x >> i & 1u) << (31 - i);
  return y;
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s) {
  unsigned long long both = static_cast<unsigned long long>(b) << 32 | a;
  unsigned y = 0;
  for (int i = 0; i < 4; i++)
    y |= static_cast<unsigned>(both >> 8 * (s >> 4 * i & 7) & 0xff) << 8 * i;
  return y;
}
inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned by) {
  return static_cast<unsigned>(((static_cast<unsigned long long>(hi) << 32 | lo) << (by & 31)) >>
                               32);
}
inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned by) {
  return static_cast<unsigned>((static_cast<unsigned long long>(hi) << 32 | lo) >> (by & 31));
}

#define CUDAHOST_MINMAX(type)                                                                      \
  inline type min(type a, type b) { return a < b ? a : b; }                                        \
  inline type max(type a, type b) { return a > b ? a : b; }
CUDAHOST_MINMAX(int)
CUDAHOST_MINMAX(unsigned int)
CUDAHOST_MINMAX(long)
CUDAHOST_MINMAX(unsigned long)
CUDAHOST_MINMAX(long long)
CUDAHOST_MINMAX(unsigned long long)
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

inline long long clock64() { return cudahost_clock(); }
inline void __nanosleep(unsigned) { cudahost_pause(); }
inline void __trap(cudahost_site site = cudahost_here()) { cudahost_trap(site); }
inline size_t __cvta_generic_to_shared(const void *p) { return reinterpret_cast<size_t>(p); }

#endif
