/* SPDX-License-Identifier: Apache-2.0
 * Root mean square norm with the residual add before it, and its gradients (ops.h; Zhang and
 * Sennrich 2019, eq. 4).
 *
 * A row is THREADS wide: a warp for short rows (head norms), 256 threads for long ones, 256 threads
 * a block. A thread reads again what it wrote or read before, from the cache. Bytes moved: forward
 * x, delta, sum, y once; backward dy, s once, dx once or twice; dw reads dy and s again. */
#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/rows.cuh"

namespace {

template <typename T> struct fwd {
  T *y, *sum;
  float *rstd;
  const T *x, *delta, *w;
  int64_t n_rows, width;
  float eps, offset;
  bool round;
};

template <typename T, int N, int THREADS>
__global__ void __launch_bounds__(ROW_BLOCK) k_rmsnorm_fwd(fwd<T> a) {
  int64_t row = (int64_t)blockIdx.x * (ROW_BLOCK / THREADS) + threadIdx.x / THREADS;
  int64_t first = (int64_t)(threadIdx.x % THREADS) * N, at = row * a.width;
  const T *s = a.delta ? a.sum : a.x;
  if (row >= a.n_rows) return; /* whole warps, or (one row a block) nobody */
  float square = 0;
  for (int64_t c = first; c < a.width; c += THREADS * N) {
    float v[N];
    load<N>(v, a.x + at + c);
    if (a.delta) {
      float d[N];
      load<N>(d, a.delta + at + c);
#pragma unroll
      for (int k = 0; k < N; k++) v[k] = round_to<T>(v[k] + d[k]);
      store<N>(a.sum + at + c, v);
    }
#pragma unroll
    for (int k = 0; k < N; k++) square += v[k] * v[k];
  }
  float rstd = 1.0f / sqrtf(row_sum<THREADS>(square) / (float)a.width + a.eps);
  if (a.rstd && threadIdx.x % THREADS == 0) a.rstd[row] = rstd;
  for (int64_t c = first; c < a.width; c += THREADS * N) {
    float v[N], w[N];
    load<N>(v, s + at + c);
    load<N>(w, a.w + c);
#pragma unroll
    for (int k = 0; k < N; k++) {
      float x_hat = v[k] * rstd;
      if (a.round) x_hat = round_to<T>(x_hat);
      v[k] = x_hat * (a.offset + w[k]);
    }
    store<N>(a.y + at + c, v);
  }
}

template <typename T> struct bwd {
  T *dx;
  const T *dy, *s, *w;
  const float *rstd;
  int64_t n_rows, width;
  float offset;
  bool accumulate;
};

template <typename T, int N, int THREADS>
__global__ void __launch_bounds__(ROW_BLOCK) k_rmsnorm_bwd(bwd<T> a) {
  int64_t row = (int64_t)blockIdx.x * (ROW_BLOCK / THREADS) + threadIdx.x / THREADS;
  int64_t first = (int64_t)(threadIdx.x % THREADS) * N, at = row * a.width;
  if (row >= a.n_rows) return;
  float dot = 0, rstd = a.rstd[row];
  for (int64_t c = first; c < a.width; c += THREADS * N) {
    float g[N], w[N], s[N];
    load<N>(g, a.dy + at + c);
    load<N>(w, a.w + c);
    load<N>(s, a.s + at + c);
#pragma unroll
    for (int k = 0; k < N; k++) dot += g[k] * (a.offset + w[k]) * s[k];
  }
  float back = rstd * rstd * row_sum<THREADS>(dot) / (float)a.width;
  for (int64_t c = first; c < a.width; c += THREADS * N) {
    float g[N], w[N], s[N], old[N] = {0};
    load<N>(g, a.dy + at + c);
    load<N>(w, a.w + c);
    load<N>(s, a.s + at + c);
    if (a.accumulate) load<N>(old, a.dx + at + c);
#pragma unroll
    for (int k = 0; k < N; k++) g[k] = old[k] + rstd * (g[k] * (a.offset + w[k]) - s[k] * back);
    store<N>(a.dx + at + c, g);
  }
}

template <typename T> struct dw_at {
  const T *dy, *s;
  const float *rstd;
  int64_t width;
  __device__ float at(int64_t r, int64_t c) const {
    return to_float(dy[r * width + c]) * to_float(s[r * width + c]) * rstd[r];
  }
};

} // namespace

ka_status rmsnorm_fwd_cuda(struct ka_dev *dev, const struct ka_rmsnorm_fwd_args *args) {
  struct cuda_state *s = cuda_of(dev);
  KA_BY_TYPE(dev, "rmsnorm_fwd", args->x.dtype, {
    const int N = vec16<T>::N;
    fwd<T> a = {(T *)args->y.data,
                (T *)args->sum.data,
                (float *)args->rstd.data,
                (const T *)args->x.data,
                (const T *)args->delta.data,
                (const T *)args->w.data,
                args->x.shape[0],
                args->x.shape[1],
                (float)args->eps,
                (float)args->offset,
                args->round_before_weight};
    if (a.n_rows == 0 || a.width == 0) return KA_STATUS_OK;
    bool packs = a.width % N == 0 && in_packs(args->x, N) && in_packs(args->y, N) &&
                 in_packs(args->w, N) && in_packs(args->sum, N) && in_packs(args->delta, N);
    return cuda_launched(dev, "rmsnorm_fwd", BY_ROW(k_rmsnorm_fwd, T, packs, a));
  });
}

ka_status rmsnorm_bwd_cuda(struct ka_dev *dev, const struct ka_rmsnorm_bwd_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  struct cuda_state *s = cuda_of(dev);
  KA_BY_TYPE(dev, "rmsnorm_bwd", args->s.dtype, {
    const int N = vec16<T>::N;
    bwd<T> a = {(T *)args->dx.data,
                (const T *)args->dy.data,
                (const T *)args->s.data,
                (const T *)args->w.data,
                (const float *)args->rstd.data,
                args->s.shape[0],
                args->s.shape[1],
                (float)args->offset,
                args->accumulate};
    if (a.n_rows == 0 || a.width == 0) return KA_STATUS_OK;
    if (args->dw.data) { /* before dx may overwrite dy */
      dw_at<T> f = {a.dy, a.s, a.rstd, a.width};
      KA_TRY(column_sums(dev, "rmsnorm_bwd", (float *)args->dw.data, a.n_rows, a.width, f));
    }
    bool packs = a.width % N == 0 && in_packs(args->dx, N) && in_packs(args->dy, N) &&
                 in_packs(args->s, N) && in_packs(args->w, N);
    return cuda_launched(dev, "rmsnorm_bwd", BY_ROW(k_rmsnorm_bwd, T, packs, a));
  });
}
