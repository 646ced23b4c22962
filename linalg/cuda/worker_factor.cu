/* SPDX-License-Identifier: Apache-2.0
 * Blocked triangular work on a worker's matrices: Cholesky factors, their inverses, solutions and
 * products, in float64 by the textbook: no library, because what a proof rests on must be known.
 *
 *   potrf   A = L L^T, block column after block column: the block on the diagonal by one thread
 *           block, what is below it by substitution, then A22 -= L21 L21^T. An entry gets one sum
 *           of WORKER_BLOCK products a block column, so its chain is that of the host's.
 *   trsm    Z = L^-1 Z, block row after block row, the same way.
 *   trtri   Z = L^-1: blocks on the diagonal, then pairs of neighbours, doubling:
 *           Z21 = -Z22 (L21 Z11), with the product in brackets kept above the diagonal.
 *   lauum   W^T W.
 *
 * All but the blocks on the diagonal is k_tiles. The last dimension of a grid is the member. */
#include "kernels/cuda/device.cuh"
#include "linalg/cuda/worker.h"

namespace {

enum { BLOCK = WORKER_BLOCK, TILE = 64, DEPTH = 16, SIDE = 16, THREADS = SIDE * SIDE };

/* --- products of tiles ------------------------------------------------------------------------ */

/* Which terms of an operand are not zero: by its inner index k and its outer one. */
enum extent { ANY, K_TO, K_FROM }; /* all; k <= outer; k >= outer */

/* Element (outer, k) stands at at[outer * outer_step + k * k_step]. */
struct operand {
  const double *at;
  int64_t outer_step, k_step;
  extent nonzero;
};

/* c(i,j) = (add ? c(i,j) : 0) + sign * the sum of a(i,k) b(j,k), for i < m, j < n, k < depth;
 * lower: only tiles that reach j <= i. Members are unit_step apart. There are pairs of blocks,
 * pair_step apart; the rows of all pairs together are `rows`, a pair's start row_step apart. */
struct product {
  double *c;
  int64_t i_step, j_step;
  operand a, b;
  int64_t m, n, depth;
  int sign;
  bool add, lower;
  int64_t unit_step, pair_step, rows, row_step;
};

/* TILE outer indices from `outer` on by DEPTH inner ones from k0 on, to[k][outer]. */
__device__ __forceinline__ void stage(double (*to)[TILE + 1], const operand &o, const double *at,
                                      int64_t outer, int64_t n_outer, int64_t k0, int64_t depth) {
  for (int e = threadIdx.x; e < TILE * DEPTH; e += THREADS) {
    bool outer_first = o.outer_step == 1; /* neighbours in memory are read by neighbours */
    int i = outer_first ? e % TILE : e / DEPTH, k = outer_first ? e / TILE : e % DEPTH;
    int64_t out = outer + i, in = k0 + k;
    bool there = out < n_outer && in < depth;
    if (o.nonzero == K_TO) there = there && in <= out;
    if (o.nonzero == K_FROM) there = there && in >= out;
    to[k][i] = there ? at[out * o.outer_step + in * o.k_step] : 0;
  }
}

/* A block a tile of c, a thread 4 x 4 elements, SIDE apart. */
__global__ void __launch_bounds__(THREADS)
    k_tiles(const __grid_constant__ ka_dense_set who, const __grid_constant__ product p,
            int64_t tiles_j) {
  KA_SHARED(double[TILE + 1], a, DEPTH);
  KA_SHARED(double[TILE + 1], b, DEPTH);
  int64_t i0 = blockIdx.x / tiles_j * TILE, j0 = blockIdx.x % tiles_j * TILE, pair = blockIdx.y;
  int64_t m = min(p.m, p.rows - pair * p.row_step);
  int64_t shift = who.at[blockIdx.z] * p.unit_step + pair * p.pair_step;
  int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
  if (i0 >= m || (p.lower && j0 > i0 + TILE - 1)) return;
  int64_t from = 0, to = p.depth;
  if (p.a.nonzero == K_TO) to = min(to, min(i0 + TILE, m));
  if (p.a.nonzero == K_FROM) from = i0;
  if (p.b.nonzero == K_FROM) from = max(from, j0);
  double sum[4][4] = {};
  for (int64_t k0 = from; k0 < to; k0 += DEPTH) {
    stage(a, p.a, p.a.at + shift, i0, m, k0, to);
    stage(b, p.b, p.b.at + shift, j0, p.n, k0, to);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < DEPTH; k++)
#pragma unroll
      for (int r = 0; r < 4; r++)
#pragma unroll
        for (int c = 0; c < 4; c++)
          sum[r][c] = fma(a[k][x + SIDE * r], b[k][y + SIDE * c], sum[r][c]);
    __syncthreads();
  }
  for (int c = 0; c < 4; c++)
    for (int r = 0; r < 4; r++) {
      int64_t i = i0 + x + SIDE * r, j = j0 + y + SIDE * c;
      if (i >= m || j >= p.n || (p.lower && j > i)) continue;
      double *to_c = p.c + shift + i * p.i_step + j * p.j_step;
      double value = p.sign > 0 ? sum[r][c] : -sum[r][c];
      *to_c = p.add ? *to_c + value : value;
    }
}

cudaError_t multiply(cudaStream_t s, const struct ka_dense_set &who, const product &p,
                     int64_t pairs) {
  int64_t tiles_i = div_up(p.m, TILE), tiles_j = div_up(p.n, TILE);
  return KA_LAUNCH(k_tiles, dim3((unsigned)(tiles_i * tiles_j), (unsigned)pairs, (unsigned)who.n),
                   THREADS, 0, s, who, p, tiles_j);
}

/* --- blocks on the diagonal ------------------------------------------------------------------- */

/* The Cholesky factor of the block at (j, j). failed[unit]: its first pivot that is not positive
 * and finite, from 1; then nothing more is done for that member. */
__global__ void __launch_bounds__(THREADS)
    k_potrf_block(const __grid_constant__ ka_dense_set who, int64_t m, double *a, int64_t j,
                  int *failed) {
  KA_SHARED(double[BLOCK + 1], l, BLOCK); /* [column][row] */
  int unit = who.at[blockIdx.x], n = (int)min((int64_t)BLOCK, m - j);
  int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
  if (failed[unit]) return;
  a += unit * m * m + j * m + j;
  for (int c = y; c < n; c += SIDE)
    for (int r = x; r < n; r += SIDE)
      if (r >= c) l[c][r] = a[r + c * m];
  for (int c = 0; c < n; c++) {
    __syncthreads();
    double pivot = l[c][c];
    if (!(pivot > 0) || isinf(pivot)) {
      if (threadIdx.x == 0) failed[unit] = (int)j + c + 1;
      return;
    }
    double root = sqrt(pivot), inverse = 1 / root;
    __syncthreads();
    if ((int)threadIdx.x < n - c) l[c][c + threadIdx.x] *= inverse;
    __syncthreads();
    if (threadIdx.x == 0) l[c][c] = root;
    for (int q = c + 1 + y; q < n; q += SIDE)
      for (int r = c + 1 + x; r < n; r += SIDE)
        if (r >= q) l[q][r] = fma(-l[c][r], l[c][q], l[q][r]);
  }
  __syncthreads();
  for (int c = y; c < n; c += SIDE)
    for (int r = x; r < n; r += SIDE)
      if (r >= c) a[r + c * m] = l[c][r];
}

/* A thread a system of up to BLOCK unknowns with the factor's block at (j, j).
 * LEFT: columns of z, rows j.., z = l^-1 z; what is above the diagonal counts as zero.
 * Otherwise rows below the block, columns j.., z = z l^-T. */
template <bool LEFT>
__global__ void __launch_bounds__(BLOCK)
    k_substitute(const __grid_constant__ ka_dense_set who, int64_t m, const double *l, double *z,
                 int64_t j, const int *failed) {
  KA_SHARED(double[BLOCK], block, BLOCK); /* [column][row] */
  KA_SHARED(double, inverse, BLOCK);
  int unit = who.at[blockIdx.y], n = (int)min((int64_t)BLOCK, m - j), t = threadIdx.x;
  if (failed && failed[unit]) return;
  l += unit * m * m + j * m + j;
  for (int c = 0; c < BLOCK; c++)
    block[c][t] = t < n && c < n && t >= c ? l[t + c * m] : t == c ? 1 : 0;
  inverse[t] = 1 / block[t][t];
  __syncthreads();
  int64_t system = (int64_t)blockIdx.x * BLOCK + t + (LEFT ? 0 : j + BLOCK);
  if (system >= (LEFT ? min(j + BLOCK, m) : m)) return;
  double *at = z + unit * m * m + (LEFT ? j + system * m : system + j * m);
  int64_t step = LEFT ? 1 : m;
  double v[BLOCK];
#pragma unroll
  for (int k = 0; k < BLOCK; k++) v[k] = k < n && (!LEFT || j + k >= system) ? at[k * step] : 0;
#pragma unroll
  for (int k = 0; k < BLOCK; k++) {
    v[k] *= inverse[k];
#pragma unroll
    for (int q = k + 1; q < BLOCK; q++) v[q] = fma(-v[k], block[k][q], v[q]);
  }
#pragma unroll
  for (int k = 0; k < BLOCK; k++)
    if (k < n) at[k * step] = v[k];
}

/* Every block on the diagonal becomes its inverse; a thread a column. */
__global__ void __launch_bounds__(BLOCK)
    k_invert_block(const __grid_constant__ ka_dense_set who, int64_t m, double *l) {
  KA_SHARED(double[BLOCK], block, BLOCK); /* [column][row] */
  int64_t j = (int64_t)blockIdx.x * BLOCK;
  int unit = who.at[blockIdx.y], n = (int)min((int64_t)BLOCK, m - j), t = threadIdx.x;
  l += unit * m * m + j * m + j;
  for (int c = 0; c < n; c++)
    if (t < n && t >= c) block[c][t] = l[t + c * m];
  __syncthreads();
  if (t >= n) return;
  for (int r = t; r < n; r++) { /* column t of the inverse, above what is still to be read */
    double sum = r == t ? 1 : 0;
    for (int k = t; k < r; k++) sum = fma(-block[k][r], l[k + t * m], sum);
    l[r + t * m] = sum / block[r][r];
  }
}

/* An operand of block (r0, c0) of the matrices at a: rows are outer indices, or columns. */
operand rows_of(const double *a, int64_t m, int64_t r0, int64_t c0, extent nonzero) {
  return {a + r0 + c0 * m, 1, m, nonzero};
}
operand columns_of(const double *a, int64_t m, int64_t r0, int64_t c0, extent nonzero) {
  return {a + r0 + c0 * m, m, 1, nonzero};
}

/* To block (r0, c0) of the matrices at c, or to its image above the diagonal. */
product to_block(double *c, int64_t m, int64_t r0, int64_t c0) {
  product p = {};
  p.c = c + r0 + c0 * m;
  p.i_step = 1;
  p.j_step = m;
  p.sign = 1;
  p.unit_step = m * m;
  return p;
}
product to_image(double *c, int64_t m, int64_t r0, int64_t c0) {
  product p = to_block(c, m, c0, r0);
  p.i_step = m;
  p.j_step = 1;
  return p;
}

} // namespace

cudaError_t worker_potrf(cudaStream_t s, struct ka_dense_set who, int64_t m, double *a,
                         int *failed) {
  cudaError_t e = cudaMemsetAsync(failed, 0, KA_BATCH * sizeof *failed, s);
  for (int64_t j = 0; j < m && e == cudaSuccess; j += BLOCK) {
    int64_t next = j + BLOCK, below = m - next;
    e = KA_LAUNCH(k_potrf_block, (unsigned)who.n, THREADS, 0, s, who, m, a, j, failed);
    if (e != cudaSuccess || below <= 0) break;
    e = KA_LAUNCH((k_substitute<false>), dim3((unsigned)div_up(below, BLOCK), (unsigned)who.n),
                  BLOCK, 0, s, who, m, (const double *)a, a, j, (const int *)failed);
    if (e != cudaSuccess) break;
    product update = to_block(a, m, next, next);
    update.a = update.b = rows_of(a, m, next, j, ANY);
    update.m = update.n = update.rows = below;
    update.depth = BLOCK;
    update.sign = -1;
    update.add = update.lower = true;
    e = multiply(s, who, update, 1);
  }
  return e;
}

cudaError_t worker_trsm(cudaStream_t s, struct ka_dense_set who, int64_t m, const double *l,
                        double *z) {
  cudaError_t e = cudaSuccess;
  for (int64_t j = 0; j < m && e == cudaSuccess; j += BLOCK) {
    int64_t next = j + BLOCK, columns = least(next, m);
    e = KA_LAUNCH((k_substitute<true>), dim3((unsigned)div_up(columns, BLOCK), (unsigned)who.n),
                  BLOCK, 0, s, who, m, l, z, j, (const int *)NULL);
    if (e != cudaSuccess || next >= m) break;
    product update = to_block(z, m, next, 0);
    update.a = rows_of(l, m, next, j, ANY);
    update.b = columns_of(z, m, j, 0, ANY);
    update.m = update.rows = m - next;
    update.n = columns;
    update.depth = BLOCK;
    update.sign = -1;
    update.add = true;
    e = multiply(s, who, update, 1);
  }
  return e;
}

cudaError_t worker_trtri(cudaStream_t s, struct ka_dense_set who, int64_t m, double *l) {
  cudaError_t e = KA_LAUNCH(k_invert_block, dim3((unsigned)div_up(m, BLOCK), (unsigned)who.n),
                            BLOCK, 0, s, who, m, l);
  for (int64_t half = BLOCK; half < m && e == cudaSuccess; half *= 2) {
    int64_t pairs = div_up(m - half, 2 * half);
    product t = to_image(l, m, half, 0); /* L21 Z11 */
    t.a = rows_of(l, m, half, 0, ANY);
    t.b = columns_of(l, m, 0, 0, K_FROM);
    t.m = t.n = t.depth = half;
    t.pair_step = 2 * half * (m + 1);
    t.rows = m - half;
    t.row_step = 2 * half;
    e = multiply(s, who, t, pairs);
    if (e != cudaSuccess) break;
    product z = t; /* -Z22 of that */
    z.c = l + half;
    z.i_step = 1;
    z.j_step = m;
    z.a = rows_of(l, m, half, half, K_TO);
    z.b = rows_of(l, m, 0, half, ANY);
    z.sign = -1;
    e = multiply(s, who, z, pairs);
  }
  return e;
}

cudaError_t worker_lauum(cudaStream_t s, struct ka_dense_set who, int64_t m, const double *w,
                         double *out) {
  product p = to_block(out, m, 0, 0);
  p.a = p.b = columns_of(w, m, 0, 0, K_FROM);
  p.m = p.n = p.depth = p.rows = m;
  p.lower = true;
  return multiply(s, who, p, 1);
}
