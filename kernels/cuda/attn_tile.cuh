/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of tiles (attn.cuh) by one warp: bf16 on tensor cores, f32 with plain multiply-adds,
 * both with the same fragments, so that one kernel serves both types.
 *
 *   scores  S = A B^T    16 M rows of A, all 8 N rows of B, f32
 *   weigh   O += W X     W a fragment like S, 8 N rows of X
 *
 * Who holds what is mma.m16n8k16's rule: with lane = 4 g + t, at[m][n][2 h + e] is row 16 m + 8 h +
 * g and column 8 n + 2 t + e. O in f32 has other columns: see
 * sum_column(). */
#ifndef KAPPA_KERNELS_CUDA_ATTN_TILE_CUH
#define KAPPA_KERNELS_CUDA_ATTN_TILE_CUH

#include "kernels/cuda/attn.cuh"

template <int M, int N> struct fragment {
  float at[M][N][4];

  template <typename F> __device__ __forceinline__ void each(F f) { /* f(element, m, n, i) */
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) f(at[m][n][i], m, n, i);
  }
  __device__ __forceinline__ void clear() {
    each([](float &x, int, int, int) { x = 0; });
  }
};

static __device__ __forceinline__ int lane() { return (int)threadIdx.x % 32; }

/* Row and column of at[m][n][i]. */
static __device__ __forceinline__ int row_of(int m, int i) {
  return 16 * m + i / 2 * 8 + lane() / 4;
}
static __device__ __forceinline__ int column_of(int n, int i) {
  return 8 * n + lane() % 4 * 2 + i % 2;
}

/* Column of at[m][n][0] of a sum of weighed rows: of f32 rows, packs of 4 are read at once, which
 * two neighbours n share. */
template <typename T> __device__ __forceinline__ int sum_column(int n) {
  return sizeof(T) == 2 ? 8 * n + lane() % 4 * 2 : n / 2 * 16 + lane() % 4 * 4 + n % 2 * 2;
}

/* --- bf16 ------------------------------------------------------------------------------------- */

static __device__ __forceinline__ unsigned two(float low, float high) {
  __nv_bfloat162 x = __floats2bfloat162_rn(low, high);
  unsigned bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

/* x += A B for two neighbouring columns of 8 of x; `b` holds both. */
static __device__ __forceinline__ void multiply(float (&x)[4], float (&y)[4],
                                                const unsigned (&a)[4], const unsigned (&b)[4]) {
  unsigned left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
  mma_bf16_16816(x, a, left);
  mma_bf16_16816(y, a, right);
}

template <int D, int M, int N>
__device__ __forceinline__ void scores(fragment<M, N> &s, const bf16 *a, const bf16 *b) {
  int l = lane();
  s.clear();
#pragma unroll(D % 128 == 0 ? 4 : 2) /* all of it would take too many registers */
  for (int k = 0; k < D / 16; k++) {
    unsigned x[M][4], y[4];
#pragma unroll
    for (int m = 0; m < M; m++)
      ldmatrix_x4(x[m], a + place<bf16, D>(16 * m + l % 16, 2 * k + l / 16));
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      ldmatrix_x4(y, b + place<bf16, D>(8 * n + l % 8 + l / 16 * 8, 2 * k + l / 8 % 2));
#pragma unroll
      for (int m = 0; m < M; m++) multiply(s.at[m][n], s.at[m][n + 1], x[m], y);
    }
  }
}

template <int D, int M, int N>
__device__ __forceinline__ void weigh(fragment<M, D / 8> &o, const fragment<M, N> &w,
                                      const bf16 *x) {
  int l = lane();
#pragma unroll
  for (int k = 0; k < N / 2; k++) {
    unsigned a[M][4], y[4];
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float *pair = &w.at[m][2 * k + i / 2][i % 2 * 2];
        a[m][i] = two(pair[0], pair[1]);
      }
#pragma unroll
    for (int n = 0; n < D / 8; n += 2) {
      ldmatrix_x4_trans(y, x + place<bf16, D>(16 * k + l % 16, n + l / 16));
#pragma unroll
      for (int m = 0; m < M; m++) multiply(o.at[m][n], o.at[m][n + 1], a[m], y);
    }
  }
}

/* --- f32 -------------------------------------------------------------------------------------- */

/* Each thread its own elements, packs of 4 numbers of 2 M rows of a and 2 N rows of b at a time.
 * The sum over D is in order, whatever M and N: equal rows give equal bits. */
template <int D, int M, int N>
__device__ __forceinline__ void scores(fragment<M, N> &s, const float *a, const float *b) {
  s.clear();
#pragma unroll(D <= 128 ? 2 : 1)
  for (int c = 0; c < D / 4; c++) {
    float x[M][2][4], y[4];
#pragma unroll
    for (int i = 0; i < 2 * M; i++)
      load<4>(x[i / 2][i % 2], a + place<float, D>(row_of(i / 2, i % 2 * 2), c));
#pragma unroll
    for (int j = 0; j < 2 * N; j++) {
      load<4>(y, b + place<float, D>(column_of(j / 2, j % 2), c));
#pragma unroll
      for (int i = 0; i < 2 * M; i++)
#pragma unroll
        for (int k = 0; k < 4; k++)
          s.at[i / 2][j / 2][i % 2 * 2 + j % 2] += x[i / 2][i % 2][k] * y[k];
    }
  }
}

template <int D, int M, int N>
__device__ __forceinline__ void weigh(fragment<M, D / 8> &o, const fragment<M, N> &w,
                                      const float *x) {
#pragma unroll
  for (int n8 = 0; n8 < N; n8++) {
#pragma unroll(D <= 128 ? 2 : 1)
    for (int j = 0; j < 8; j++) {
      float v[2 * M], y[4];
#pragma unroll
      for (int i = 0; i < 2 * M; i++) { /* from the one of the row's four lanes that has it */
        const float *pair = &w.at[i / 2][n8][i % 2 * 2];
        v[i] = __shfl_sync(0xffffffffu, j % 2 ? pair[1] : pair[0], lane() / 4 * 4 + j / 2);
      }
#pragma unroll
      for (int n = 0; n < D / 8; n += 2) {
        load<4>(y, x + place<float, D>(8 * n8 + j, 2 * n + lane() % 4));
#pragma unroll
        for (int i = 0; i < 2 * M; i++)
#pragma unroll
          for (int k = 0; k < 4; k++) o.at[i / 2][n + k / 2][i % 2 * 2 + k % 2] += v[i] * y[k];
      }
    }
  }
}

/* --- both ------------------------------------------------------------------------------------- */

/* o to the warp's 16 M rows of a tile. */
template <int D, int M, typename T>
__device__ __forceinline__ void put_rows(T *tile, const fragment<M, D / 8> &o) {
#pragma unroll
  for (int i = 0; i < 2 * M; i++)
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
      float v[2] = {o.at[i / 2][n][i % 2 * 2], o.at[i / 2][n][i % 2 * 2 + 1]};
      int c = sum_column<T>(n), r = row_of(i / 2, i % 2 * 2);
      store<2>(tile + place<T, D>(r, c / vec16<T>::N) + c % vec16<T>::N, v);
    }
}

#endif
