/* SPDX-License-Identifier: Apache-2.0
 *
 * What the cpu kernels are made of: blocks of floats whatever the dtype, and exp, tanh and sigmoid
 * that the compiler vectorises. Kernels compute in f32 on blocks that stay in the first-level
 * cache; bf16 is converted on the way in and rounded once on the way out. */
#ifndef KAPPA_KERNELS_CPU_VEC_H
#define KAPPA_KERNELS_CPU_VEC_H

#include "kernels/cpu/cpu.h"

#include <math.h>

/* Below this many elements a loop stays on one thread. */
enum { CPU_BLOCK = 1024, CPU_PARALLEL = 16384 };

static inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

static inline void floats_from_bf16(float *restrict to, const uint16_t *restrict from, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = ka_bf16_to_f32(from[i]);
}

static inline void bf16_from_floats(uint16_t *restrict to, const float *restrict from, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = ka_f32_to_bf16(from[i]);
}

/* Row `row` of a contiguous matrix of any dtype becomes 0. */
void cpu_zero_row(const struct ka_tensor *out, int64_t row, int64_t width);

/* Sums over rows go by groups of so many, whatever the threads; then out[c] += sum over groups of
 * parts[group][c]. */
enum { CPU_GROUP_ROWS = 64 };
void cpu_add_groups(float *out, const float *parts, int64_t n_groups, int64_t n_chan);

/* y = act(x) and dy = act'(x) of a block. */
void cpu_activate(enum ka_act act, const float *x, int64_t n, float *restrict y,
                  float *restrict dy);

/* n floats of t (f32 or bf16) from element i on: t's own memory, or converted into buf. */
static inline const float *load_block(const struct ka_tensor *t, int64_t i, int64_t n, float *buf) {
  if (t->dtype == KA_F32) return (const float *)t->data + i;
  floats_from_bf16(buf, (const uint16_t *)t->data + i, n);
  return buf;
}

/* Where to compute n outputs of t from element i on; store_block finishes them. */
static inline float *open_block(const struct ka_tensor *t, int64_t i, float *buf) {
  return t->dtype == KA_F32 ? (float *)t->data + i : buf;
}
static inline void store_block(const struct ka_tensor *t, int64_t i, int64_t n, const float *from) {
  if (t->dtype == KA_BF16) bf16_from_floats((uint16_t *)t->data + i, from, n);
}

/* e^x to 2 ulp for any x; NaN stays NaN, overflow is infinity, underflow goes through the
 * subnormals to 0. Cody and Waite's reduction to |r| <= ln2/2, a polynomial of degree 6 (Taylor
 * coefficients, the last two adjusted), and 2^n in two halves so that each is a normal number. */
static inline float fast_exp(float x) {
  const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
  x = x < -104.0f ? -104.0f : x;
  x = x > 89.0f ? 89.0f : x;
  union {
    float f;
    uint32_t u; /* unsigned: a NaN's bits may wrap */
  } t = {x * 1.44269504f + magic}, low, high;
  float n = t.f - magic;
  float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  int32_t whole = (int32_t)(t.u - 0x4b400000u), half = whole >> 1;
  low.u = (uint32_t)(half + 127) << 23;
  high.u = (uint32_t)(whole - half + 127) << 23;
  return p * low.f * high.f;
}

static inline float fast_sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

/* tanh to about 3 ulp: an odd polynomial near 0 (Cephes, tanhf), exp elsewhere. */
static inline float fast_tanh(float x) {
  float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  float near = p * z * x + x;
  float far = 1.0f - 2.0f / (fast_exp(2.0f * x) + 1.0f);
  return x * x < 0.390625f ? near : far;
}

#endif
