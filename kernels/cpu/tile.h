/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of small matrices that lie in a near cache, padded so that there are no edges:
 * c [m, n] = or += a [m, k] b [k, n], m a multiple of TILE_M, n of TILE_N, c in f32. a has any two
 * strides (so it may be transposed); b and c are row-major. A block of TILE_M x TILE_N sums stays
 * in registers; each step of k broadcasts TILE_M values of a against two vectors of b.
 *
 * a and b consist of 32-bit units: one f32 or, with `pairs`, two bf16 that are neighbours along k,
 * which the processor multiplies and adds at once; k counts units. */
#ifndef KAPPA_KERNELS_CPU_TILE_H
#define KAPPA_KERNELS_CPU_TILE_H

#include <stdbool.h>
#include <stdint.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#ifdef __AVX512F__
enum { TILE_LANES = 16, TILE_M = 8 }; /* 16 sums of 32 registers */
#else
enum { TILE_LANES = 8, TILE_M = 4 }; /* 8 sums of 16 registers */
#endif
enum { TILE_N = 2 * TILE_LANES };

typedef float tile_vec __attribute__((vector_size(TILE_LANES * 4), aligned(4), may_alias));

struct tile_a {
  const float *data;
  int64_t stride_m, stride_k;
};

static inline void tile_block(float *c, int64_t ldc, const float *a, int64_t stride_m,
                              int64_t stride_k, const float *b, int64_t ldb, int64_t k, bool add) {
  tile_vec sum[TILE_M][2];
#pragma GCC unroll 8
  for (int i = 0; i < TILE_M; i++)
    for (int j = 0; j < 2; j++)
      sum[i][j] = add ? *(const tile_vec *)(c + i * ldc + j * TILE_LANES) : (tile_vec){0};
  for (int64_t p = 0; p < k; p++) {
    tile_vec b0 = *(const tile_vec *)(b + p * ldb);
    tile_vec b1 = *(const tile_vec *)(b + p * ldb + TILE_LANES);
#pragma GCC unroll 8
    for (int i = 0; i < TILE_M; i++) {
      float x = a[i * stride_m + p * stride_k];
      sum[i][0] += x * b0;
      sum[i][1] += x * b1;
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < TILE_M; i++)
    for (int j = 0; j < 2; j++) *(tile_vec *)(c + i * ldc + j * TILE_LANES) = sum[i][j];
}

#ifdef __AVX512BF16__
enum { TILE_HAS_PAIRS = 1 };
typedef int32_t tile_unit __attribute__((may_alias));

static inline void tile_block_pairs(float *c, int64_t ldc, const float *a, int64_t stride_m,
                                    int64_t stride_k, const float *b, int64_t ldb, int64_t k,
                                    bool add) {
  __m512 sum[TILE_M][2];
#pragma GCC unroll 8
  for (int i = 0; i < TILE_M; i++)
    for (int j = 0; j < 2; j++)
      sum[i][j] = add ? _mm512_loadu_ps(c + i * ldc + j * TILE_LANES) : _mm512_setzero_ps();
  for (int64_t p = 0; p < k; p++) {
    __m512bh b0 = (__m512bh)_mm512_loadu_si512(b + p * ldb);
    __m512bh b1 = (__m512bh)_mm512_loadu_si512(b + p * ldb + TILE_LANES);
#pragma GCC unroll 8
    for (int i = 0; i < TILE_M; i++) {
      tile_unit unit = *(const tile_unit *)(a + i * stride_m + p * stride_k);
      __m512bh x = (__m512bh)_mm512_set1_epi32(unit);
      sum[i][0] = _mm512_dpbf16_ps(sum[i][0], x, b0);
      sum[i][1] = _mm512_dpbf16_ps(sum[i][1], x, b1);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < TILE_M; i++)
    for (int j = 0; j < 2; j++) _mm512_storeu_ps(c + i * ldc + j * TILE_LANES, sum[i][j]);
}
#else
enum { TILE_HAS_PAIRS = 0 };
#define tile_block_pairs tile_block
#endif

static inline void tile_gemm(float *c, int64_t ldc, struct tile_a a, const float *b, int64_t ldb,
                             int64_t m, int64_t n, int64_t k, bool add, bool pairs) {
  for (int64_t j = 0; j < n; j += TILE_N)
    for (int64_t i = 0; i < m; i += TILE_M) {
      float *block = c + i * ldc + j;
      const float *rows = a.data + i * a.stride_m;
      if (pairs)
        tile_block_pairs(block, ldc, rows, a.stride_m, a.stride_k, b + j, ldb, k, add);
      else
        tile_block(block, ldc, rows, a.stride_m, a.stride_k, b + j, ldb, k, add);
    }
}

#endif
