/* SPDX-License-Identifier: Apache-2.0
 * Products of sorted rows with their experts' matrices, and the matrices' gradients: one launch for
 * all experts, whose rows (offsets) are read on the device.
 *
 * bf16 in whole packs: tensor cores. A block of 4 warps makes a tile of 128 x 64 sums, a warp 64 x
 * 32; tiles of 32 of the inner dimension come by cp.async, two ahead of the one at hand. An operand
 * lies in shared memory as in global, with the inner dimension along the rows ([R][32]) or down
 * them ([32][R]), and ldmatrix turns it if need be. Packs are swizzled as in attn.cuh. All else,
 * f32 too, takes 16 x 16 tiles with plain multiply-adds.
 *
 * Grid of products: x tiles of columns, y tiles of rows: as many as the rows could need, each block
 * finds its expert among the offsets, the last ones find none. Of gradients: x, y tiles, z experts.
 * Bytes moved: a once a tile of columns, an expert's matrix once a tile of its rows, out once. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ptx.cuh"

namespace {

enum { ROWS = 128, COLS = 64, STEP = 32, STAGES = 3, THREADS = 128, PLAIN = 16, LIST = 256 };

/* One matrix an expert, and which experts a launch is about. */
struct matrices {
  void *at[LIST];
  uint16_t expert[LIST]; /* of at[i] */
  int n;
};

template <typename T> struct problem {
  void *out; /* products: T */
  const T *a, *b, *bias;
  const int32_t *offsets;
  int64_t m, n, k; /* m: of gradients alone; k: of products alone */
  bool trans_b, accumulate;
};

/* What a block works on: out [m, n] = A B, the inner dimension 0 .. k. */
template <typename T> struct work {
  const T *a, *b;
  int64_t a_stride, b_stride, m, n, k;
  int64_t first; /* products: row of out */
  int expert;    /* -1: nothing to do */
  int slot;
};

/* The block's tile of rows, counted over the experts of the list. */
template <typename T>
__device__ __forceinline__ work<T> product_of(const problem<T> &p, const matrices &l, int rows) {
  int64_t tile = blockIdx.y;
  work<T> w = {};
  w.expert = -1;
  for (int i = 0; i < l.n; i++) {
    int e = l.expert[i];
    int64_t n_rows = p.offsets[e + 1] - p.offsets[e], n_tiles = (n_rows + rows - 1) / rows;
    if (tile >= n_tiles) {
      tile -= n_tiles;
      continue;
    }
    w.expert = e;
    w.slot = i;
    w.first = p.offsets[e] + tile * rows;
    w.a = p.a + w.first * p.k;
    w.b = (const T *)l.at[i];
    w.a_stride = p.k;
    w.b_stride = p.trans_b ? p.k : p.n;
    w.m = n_rows - tile * rows;
    w.n = p.n;
    w.k = p.k;
    break;
  }
  return w;
}

template <typename T>
__device__ __forceinline__ work<T> gradient_of(const problem<T> &p, const matrices &l, int rows) {
  int e = l.expert[blockIdx.z];
  int64_t first = p.offsets[e], row = (int64_t)blockIdx.y * rows;
  work<T> w = {p.a + first * p.m + row,
               p.b + first * p.n,
               p.m,
               p.n,
               p.m - row,
               p.n,
               p.offsets[e + 1] - first,
               row,
               e,
               (int)blockIdx.z};
  if (w.k == 0) w.expert = -1;
  return w;
}

/* --- bf16 on tensor cores --------------------------------------------------------------------- */

/* Where pack c of row r of a tile with C packs a row stands; 8 rows of one pack meet no bank
 * twice. */
template <int C> __device__ __forceinline__ int pack_at(int r, int c) {
  return (r * C + (C == 4 ? c ^ (r / 2 % 4) : c ^ (r % 8))) * 8;
}

/* A tile of R x STEP: rows of STEP (inner dimension along them) or STEP rows of R. n_r, n_k: what
 * there is of it; zeros elsewhere. */
template <int R, bool ALONG>
__device__ __forceinline__ void fetch(bf16 *tile, const bf16 *from, int64_t stride, int64_t r0,
                                      int64_t n_r, int64_t k0, int64_t n_k) {
  const int C = ALONG ? STEP / 8 : R / 8, N = R * STEP / 8 / THREADS;
#pragma unroll
  for (int i = 0; i < N; i++) {
    int at = i * THREADS + (int)threadIdx.x, row = at / C, c = at % C;
    int64_t r = r0 + (ALONG ? row : c * 8), k = k0 + (ALONG ? c * 8 : row);
    bool there = r < n_r && k < n_k;
    const bf16 *p = there ? from + (ALONG ? r * stride + k : k * stride + r) : from;
    cp_async_16(tile + pack_at<C>(row, c), p, there ? 16 : 0);
  }
}

/* Left fragment (16 rows, 16 of the inner dimension), and right fragments of 16 columns. */
template <int R, bool ALONG>
__device__ __forceinline__ void left(unsigned (&x)[4], const bf16 *tile, int r, int k) {
  int l = (int)threadIdx.x % 32;
  if (ALONG)
    ldmatrix_x4(x, tile + pack_at<STEP / 8>(r + l % 16, k / 8 + l / 16));
  else
    ldmatrix_x4_trans(x, tile + pack_at<R / 8>(k + l / 16 * 8 + l % 8, r / 8 + l / 8 % 2));
}
template <int R, bool ALONG>
__device__ __forceinline__ void right(unsigned (&y)[4], const bf16 *tile, int c, int k) {
  int l = (int)threadIdx.x % 32;
  if (ALONG)
    ldmatrix_x4(y, tile + pack_at<STEP / 8>(c + l % 8 + l / 16 * 8, k / 8 + l / 8 % 2));
  else
    ldmatrix_x4_trans(y, tile + pack_at<R / 8>(k + l % 16, c / 8 + l / 16));
}

template <bool A_ALONG, bool B_ALONG>
__device__ __forceinline__ void multiply(float (&sum)[4][4][4], const work<bf16> &w, int64_t col) {
  KA_SHARED(bf16, a, STAGES * ROWS * STEP);
  KA_SHARED(bf16, b, STAGES * COLS * STEP);
  int warp = (int)threadIdx.x / 32, row_at = warp / 2 * 64, col_at = warp % 2 * 32;
  int n_steps = (int)((w.k + STEP - 1) / STEP);
  auto stage = [&](int step) {
    int at = step % STAGES;
    if (step < n_steps) {
      fetch<ROWS, A_ALONG>(a + at * ROWS * STEP, w.a, w.a_stride, 0, w.m, step * STEP, w.k);
      fetch<COLS, B_ALONG>(b + at * COLS * STEP, w.b, w.b_stride, col, w.n, step * STEP, w.k);
    }
    cp_async_commit();
  };
  for (int i = 0; i < STAGES - 1; i++) stage(i);
  for (int step = 0; step < n_steps; step++) {
    const bf16 *at = a + step % STAGES * ROWS * STEP, *bt = b + step % STAGES * COLS * STEP;
    cp_async_wait<STAGES - 2>();
    __syncthreads(); /* the step has arrived, and all have left the one before */
    stage(step + STAGES - 1);
#pragma unroll
    for (int k = 0; k < STEP; k += 16) {
      unsigned x[4][4], y[2][4];
#pragma unroll
      for (int m = 0; m < 4; m++) left<ROWS, A_ALONG>(x[m], at, row_at + 16 * m, k);
#pragma unroll
      for (int n = 0; n < 2; n++) right<COLS, B_ALONG>(y[n], bt, col_at + 16 * n, k);
#pragma unroll
      for (int m = 0; m < 4; m++)
#pragma unroll
        for (int n = 0; n < 4; n++) {
          unsigned half[2] = {y[n / 2][n % 2 * 2], y[n / 2][n % 2 * 2 + 1]};
          mma_bf16_16816(sum[m][n], x[m], half);
        }
    }
  }
  cp_async_wait<0>();
}

/* f(row, column, sum) for every sum of the block's tile that this thread has. */
template <typename F> __device__ __forceinline__ void each_sum(float (&sum)[4][4][4], F f) {
  int l = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
#pragma unroll
  for (int m = 0; m < 4; m++)
#pragma unroll
    for (int n = 0; n < 4; n++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        f(warp / 2 * 64 + 16 * m + i / 2 * 8 + l / 4, warp % 2 * 32 + 8 * n + l % 4 * 2 + i % 2,
          sum[m][n][i]);
}

template <typename T>
__device__ __forceinline__ void put_product(const problem<T> &p, const work<T> &w, int64_t r,
                                            int64_t c, float x) {
  if (r >= w.m || c >= w.n) return;
  T *out = (T *)p.out + (w.first + r) * p.n + c;
  if (p.bias) x += to_float(p.bias[w.expert * p.n + c]);
  if (p.accumulate) x += to_float(*out);
  *out = from_float<T>(x);
}

template <bool B_ALONG>
__global__ void __launch_bounds__(THREADS) k_expert_matmul(problem<bf16> p, matrices l) {
  work<bf16> w = product_of(p, l, ROWS);
  int64_t col = (int64_t)blockIdx.x * COLS;
  float sum[4][4][4] = {};
  if (w.expert < 0) return; /* all threads alike */
  multiply<true, B_ALONG>(sum, w, col);
  each_sum(sum, [&](int r, int c, float x) { put_product(p, w, r, col + c, x); });
}

__global__ void __launch_bounds__(THREADS) k_expert_grad(problem<bf16> p, matrices l) {
  work<bf16> w = gradient_of(p, l, ROWS);
  int64_t col = (int64_t)blockIdx.x * COLS;
  float sum[4][4][4] = {};
  if (w.expert < 0) return;
  multiply<false, false>(sum, w, col);
  float *dw = (float *)l.at[w.slot];
  each_sum(sum, [&](int r, int c, float x) {
    if (r < w.m && col + c < w.n) dw[(w.first + r) * p.n + col + c] += x;
  });
}

/* --- the rest, plainly ------------------------------------------------------------------------ */

template <typename T>
__device__ __forceinline__ float plain_sum(const work<T> &w, bool a_along, bool b_along,
                                           int64_t col) {
  KA_SHARED(float[PLAIN + 1], a, PLAIN);
  KA_SHARED(float[PLAIN + 1], b, PLAIN);
  int x = (int)threadIdx.x % PLAIN, y = (int)threadIdx.x / PLAIN;
  float sum = 0;
  for (int64_t k0 = 0; k0 < w.k; k0 += PLAIN) {
    int64_t ka = k0 + x, kb = k0 + y;
    a[y][x] = y < w.m && ka < w.k
                  ? to_float(w.a[a_along ? y * w.a_stride + ka : ka * w.a_stride + y])
                  : 0;
    b[y][x] = col < w.n && kb < w.k
                  ? to_float(w.b[b_along ? col * w.b_stride + kb : kb * w.b_stride + col])
                  : 0;
    __syncthreads();
    for (int i = 0; i < PLAIN; i++) sum += a[y][i] * b[i][x];
    __syncthreads();
  }
  return sum;
}

template <typename T>
__global__ void __launch_bounds__(PLAIN *PLAIN) k_expert_matmul_plain(problem<T> p, matrices l) {
  work<T> w = product_of(p, l, PLAIN);
  int64_t col = (int64_t)blockIdx.x * PLAIN + threadIdx.x % PLAIN;
  if (w.expert < 0) return;
  put_product(p, w, threadIdx.x / PLAIN, col, plain_sum(w, true, p.trans_b, col));
}

template <typename T>
__global__ void __launch_bounds__(PLAIN *PLAIN) k_expert_grad_plain(problem<T> p, matrices l) {
  work<T> w = gradient_of(p, l, PLAIN);
  int64_t row = threadIdx.x / PLAIN, col = (int64_t)blockIdx.x * PLAIN + threadIdx.x % PLAIN;
  if (w.expert < 0) return;
  float sum = plain_sum(w, false, false, col);
  if (row < w.m && col < w.n) ((float *)l.at[w.slot])[(w.first + row) * p.n + col] += sum;
}

/* --- launching -------------------------------------------------------------------------------- */

/* The next experts from *e on: slices of `all`, or `own`, of which NULL are left out. */
matrices next_of(const struct ka_tensor &all, void *const *own, int64_t *e) {
  matrices l = {};
  size_t bytes = (size_t)(all.shape[1] * all.shape[2]) * ka_dtype_bytes(all.dtype);
  for (; *e < all.shape[0] && l.n < LIST; (*e)++) {
    void *p = own ? own[*e] : (char *)all.data + (size_t)*e * bytes;
    if (!p) continue;
    l.at[l.n] = p;
    l.expert[l.n++] = (uint16_t)*e;
  }
  return l;
}

bool whole_packs(const matrices &l) {
  for (int i = 0; i < l.n; i++)
    if ((uintptr_t)l.at[i] % 16) return false;
  return true;
}

/* All operands of a launch as packs of 8 bf16. */
template <typename T> bool on_tensor_cores(const problem<T> &p, int64_t width_a, int64_t width_b) {
  return sizeof(T) == 2 && width_a % 8 == 0 && width_b % 8 == 0 && (uintptr_t)p.a % 16 == 0 &&
         (uintptr_t)p.b % 16 == 0;
}

template <typename T>
cudaError_t launch_product(cudaStream_t stream, const problem<T> &p, const matrices &l,
                           int64_t n_rows) {
  dim3 grid((unsigned)div_up(p.n, PLAIN), (unsigned)(n_rows / PLAIN + l.n));
  return KA_LAUNCH((k_expert_matmul_plain<T>), grid, PLAIN * PLAIN, 0, stream, p, l);
}
template <>
cudaError_t launch_product(cudaStream_t stream, const problem<bf16> &p, const matrices &l,
                           int64_t n_rows) {
  if (on_tensor_cores(p, p.k, p.n) && whole_packs(l)) {
    dim3 tiles((unsigned)div_up(p.n, COLS), (unsigned)(n_rows / ROWS + l.n));
    return p.trans_b ? KA_LAUNCH((k_expert_matmul<true>), tiles, THREADS, 0, stream, p, l)
                     : KA_LAUNCH((k_expert_matmul<false>), tiles, THREADS, 0, stream, p, l);
  }
  dim3 grid((unsigned)div_up(p.n, PLAIN), (unsigned)(n_rows / PLAIN + l.n));
  return KA_LAUNCH((k_expert_matmul_plain<bf16>), grid, PLAIN * PLAIN, 0, stream, p, l);
}

template <typename T>
cudaError_t launch_grad(cudaStream_t stream, const problem<T> &p, const matrices &l) {
  dim3 grid((unsigned)div_up(p.n, PLAIN), (unsigned)div_up(p.m, PLAIN), (unsigned)l.n);
  return KA_LAUNCH((k_expert_grad_plain<T>), grid, PLAIN * PLAIN, 0, stream, p, l);
}
template <>
cudaError_t launch_grad(cudaStream_t stream, const problem<bf16> &p, const matrices &l) {
  dim3 tiles((unsigned)div_up(p.n, COLS), (unsigned)div_up(p.m, ROWS), (unsigned)l.n);
  dim3 grid((unsigned)div_up(p.n, PLAIN), (unsigned)div_up(p.m, PLAIN), (unsigned)l.n);
  if (on_tensor_cores(p, p.m, p.n))
    return KA_LAUNCH(k_expert_grad, tiles, THREADS, 0, stream, p, l);
  return KA_LAUNCH((k_expert_grad_plain<bf16>), grid, PLAIN * PLAIN, 0, stream, p, l);
}

} // namespace

ka_status expert_matmul_cuda(struct ka_dev *dev, const struct ka_expert_matmul_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  struct cuda_state *s = cuda_of(dev);
  void *const *own = (void *const *)(uintptr_t)args->b_of;
  if (ka_tensor_elems(&args->out) == 0) return KA_STATUS_OK;
  KA_BY_TYPE(dev, "expert_matmul", args->a.dtype, {
    problem<T> p = {args->out.data,
                    (const T *)args->a.data,
                    NULL,
                    (const T *)args->bias.data,
                    (const int32_t *)args->offsets.data,
                    0,
                    args->out.shape[1],
                    args->a.shape[1],
                    args->trans_b,
                    args->accumulate};
    for (int64_t e = 0; e < args->b.shape[0];) {
      matrices l = next_of(args->b, own, &e);
      if (l.n > 0)
        KA_TRY(cuda_launched(dev, "expert_matmul",
                             launch_product<T>(s->stream, p, l, args->out.shape[0])));
    }
    return KA_STATUS_OK;
  });
}

ka_status expert_grad_cuda(struct ka_dev *dev, const struct ka_expert_grad_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  struct cuda_state *s = cuda_of(dev);
  if (args->a.shape[0] == 0 || ka_tensor_elems(&args->dw) == 0) return KA_STATUS_OK;
  KA_BY_TYPE(dev, "expert_grad", args->a.dtype, {
    problem<T> p = {NULL,
                    (const T *)args->a.data,
                    (const T *)args->b.data,
                    NULL,
                    (const int32_t *)args->offsets.data,
                    args->a.shape[1],
                    args->b.shape[1],
                    0,
                    false,
                    true};
    for (int64_t e = 0; e < args->dw.shape[0];) {
      matrices l = next_of(args->dw, args->dw_of, &e);
      if (l.n > 0) KA_TRY(cuda_launched(dev, "expert_grad", launch_grad<T>(s->stream, p, l)));
    }
    return KA_STATUS_OK;
  });
}
