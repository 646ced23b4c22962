/* SPDX-License-Identifier: Apache-2.0
 *
 * Inner products of rows, f32 or bf16, in f32: in vectors, then lane by lane, so that k alone fixes
 * the order. */
#ifndef KAPPA_KERNELS_CPU_DOT_H
#define KAPPA_KERNELS_CPU_DOT_H

#include "kernels/cpu/tile.h"
#include "kernels/tensor.h"

enum { DOT_SUMS = 4 }; /* vectors, that hide each other's latency */

static inline float dot_total(const tile_vec *sum) {
  tile_vec all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  float y = 0;
  for (int i = 0; i < TILE_LANES; i++) y += all[i];
  return y;
}

static inline float dot_f32(const float *x, const float *b, int64_t k) {
  enum { STEP = DOT_SUMS * TILE_LANES };
  tile_vec sum[DOT_SUMS] = {{0}};
  int64_t i = 0;
  for (; i + STEP <= k; i += STEP)
#pragma GCC unroll 4
    for (int j = 0; j < DOT_SUMS; j++)
      sum[j] +=
          *(const tile_vec *)(x + i + j * TILE_LANES) * *(const tile_vec *)(b + i + j * TILE_LANES);
  float y = dot_total(sum);
  for (; i < k; i++) y += x[i] * b[i];
  return y;
}

#ifdef __AVX512BF16__
static inline tile_vec dot_add(tile_vec sum, const uint16_t *x, const uint16_t *b) {
  return (tile_vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_loadu_si512(x),
                                    (__m512bh)_mm512_loadu_si512(b));
}
#else
typedef uint16_t dot_half __attribute__((vector_size(TILE_LANES * 2), aligned(2), may_alias));
typedef uint32_t dot_unit __attribute__((vector_size(TILE_LANES * 4)));

static inline tile_vec dot_widen(const uint16_t *x) {
  return (tile_vec)(__builtin_convertvector(*(const dot_half *)x, dot_unit) << 16);
}

static inline tile_vec dot_add(tile_vec sum, const uint16_t *x, const uint16_t *b) {
  sum += dot_widen(x) * dot_widen(b);
  return sum + dot_widen(x + TILE_LANES) * dot_widen(b + TILE_LANES);
}
#endif

static inline float dot_bf16(const uint16_t *x, const uint16_t *b, int64_t k) {
  enum { ONE = 2 * TILE_LANES, STEP = DOT_SUMS * ONE };
  tile_vec sum[DOT_SUMS] = {{0}};
  int64_t i = 0;
  for (; i + STEP <= k; i += STEP)
#pragma GCC unroll 4
    for (int j = 0; j < DOT_SUMS; j++) sum[j] = dot_add(sum[j], x + i + j * ONE, b + i + j * ONE);
  for (; i + ONE <= k; i += ONE) sum[0] = dot_add(sum[0], x + i, b + i);
  float y = dot_total(sum);
  for (; i < k; i++) y += ka_bf16_to_f32(x[i]) * ka_bf16_to_f32(b[i]);
  return y;
}

#endif
