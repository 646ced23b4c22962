/* SPDX-License-Identifier: Apache-2.0
 * Layer norm with the residual add before it, and its gradients (ops.h; Ba, Kiros and Hinton 2016,
 * eq. 4). Rows as in rows.cuh; the variance is taken about the mean, in a pass of its own from the
 * cache. Bytes moved: forward x, delta, sum, y once; backward dy, s once, dx once or twice; dw and
 * db read dy and s again. */
#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/rows.cuh"

namespace {

template <typename T> struct fwd {
  T *y, *sum;
  float *mean, *rstd;
  const T *x, *delta, *w, *b;
  int64_t n_rows, width;
  float eps;
};

template <typename T, int N, int THREADS>
__global__ void __launch_bounds__(ROW_BLOCK) k_layernorm_fwd(fwd<T> a) {
  int64_t row = (int64_t)blockIdx.x * (ROW_BLOCK / THREADS) + threadIdx.x / THREADS;
  int64_t first = (int64_t)(threadIdx.x % THREADS) * N, at = row * a.width;
  const T *s = a.delta ? a.sum : a.x;
  if (row >= a.n_rows) return; /* whole warps, or (one row a block) nobody */
  float sum = 0, square = 0;
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
    for (int k = 0; k < N; k++) sum += v[k];
  }
  float mean = row_sum<THREADS>(sum) / (float)a.width;
  for (int64_t c = first; c < a.width; c += THREADS * N) {
    float v[N];
    load<N>(v, s + at + c);
#pragma unroll
    for (int k = 0; k < N; k++) square += (v[k] - mean) * (v[k] - mean);
  }
  float rstd = 1.0f / sqrtf(row_sum<THREADS>(square) / (float)a.width + a.eps);
  if (a.mean && threadIdx.x % THREADS == 0) a.mean[row] = mean;
  if (a.rstd && threadIdx.x % THREADS == 0) a.rstd[row] = rstd;
  for (int64_t c = first; c < a.width; c += THREADS * N) {
    float v[N], w[N], b[N] = {0};
    load<N>(v, s + at + c);
    load<N>(w, a.w + c);
    if (a.b) load<N>(b, a.b + c);
#pragma unroll
    for (int k = 0; k < N; k++) v[k] = (v[k] - mean) * rstd * w[k] + b[k];
    store<N>(a.y + at + c, v);
  }
}

template <typename T> struct bwd {
  T *dx;
  const T *dy, *s, *w;
  const float *mean, *rstd;
  int64_t n_rows, width;
  bool accumulate;
};

template <typename T, int N, int THREADS>
__global__ void __launch_bounds__(ROW_BLOCK) k_layernorm_bwd(bwd<T> a) {
  int64_t row = (int64_t)blockIdx.x * (ROW_BLOCK / THREADS) + threadIdx.x / THREADS;
  int64_t first = (int64_t)(threadIdx.x % THREADS) * N, at = row * a.width;
  if (row >= a.n_rows) return;
  float sum = 0, dot = 0, mean = a.mean[row], rstd = a.rstd[row];
  for (int64_t c = first; c < a.width; c += THREADS * N) {
    float g[N], w[N], s[N];
    load<N>(g, a.dy + at + c);
    load<N>(w, a.w + c);
    load<N>(s, a.s + at + c);
#pragma unroll
    for (int k = 0; k < N; k++) {
      sum += g[k] * w[k];
      dot += g[k] * w[k] * ((s[k] - mean) * rstd);
    }
  }
  float mean_g = row_sum<THREADS>(sum) / (float)a.width;
  float mean_dot = row_sum<THREADS>(dot) / (float)a.width;
  for (int64_t c = first; c < a.width; c += THREADS * N) {
    float g[N], w[N], s[N], old[N] = {0};
    load<N>(g, a.dy + at + c);
    load<N>(w, a.w + c);
    load<N>(s, a.s + at + c);
    if (a.accumulate) load<N>(old, a.dx + at + c);
#pragma unroll
    for (int k = 0; k < N; k++)
      g[k] = old[k] + rstd * (g[k] * w[k] - mean_g - (s[k] - mean) * rstd * mean_dot);
    store<N>(a.dx + at + c, g);
  }
}

template <typename T> struct dw_at {
  const T *dy, *s;
  const float *mean, *rstd;
  int64_t width;
  __device__ float at(int64_t r, int64_t c) const {
    return to_float(dy[r * width + c]) * ((to_float(s[r * width + c]) - mean[r]) * rstd[r]);
  }
};

template <typename T> struct db_at {
  const T *dy;
  int64_t width;
  __device__ float at(int64_t r, int64_t c) const { return to_float(dy[r * width + c]); }
};

} // namespace

ka_status layernorm_fwd_cuda(struct ka_dev *dev, const struct ka_layernorm_fwd_args *args) {
  struct cuda_state *s = cuda_of(dev);
  KA_BY_TYPE(dev, "layernorm_fwd", args->x.dtype, {
    const int N = vec16<T>::N;
    fwd<T> a = {(T *)args->y.data,        (T *)args->sum.data,     (float *)args->mean.data,
                (float *)args->rstd.data, (const T *)args->x.data, (const T *)args->delta.data,
                (const T *)args->w.data,  (const T *)args->b.data, args->x.shape[0],
                args->x.shape[1],         (float)args->eps};
    if (a.n_rows == 0 || a.width == 0) return KA_STATUS_OK;
    bool packs = a.width % N == 0 && in_packs(args->x, N) && in_packs(args->y, N) &&
                 in_packs(args->w, N) && in_packs(args->b, N) && in_packs(args->sum, N) &&
                 in_packs(args->delta, N);
    return cuda_launched(dev, "layernorm_fwd", BY_ROW(k_layernorm_fwd, T, packs, a));
  });
}

ka_status layernorm_bwd_cuda(struct ka_dev *dev, const struct ka_layernorm_bwd_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  struct cuda_state *s = cuda_of(dev);
  KA_BY_TYPE(dev, "layernorm_bwd", args->s.dtype, {
    const int N = vec16<T>::N;
    bwd<T> a = {(T *)args->dx.data,
                (const T *)args->dy.data,
                (const T *)args->s.data,
                (const T *)args->w.data,
                (const float *)args->mean.data,
                (const float *)args->rstd.data,
                args->s.shape[0],
                args->s.shape[1],
                args->accumulate};
    if (a.n_rows == 0 || a.width == 0) return KA_STATUS_OK;
    if (args->dw.data) { /* before dx may overwrite dy */
      dw_at<T> f = {a.dy, a.s, a.mean, a.rstd, a.width};
      KA_TRY(column_sums(dev, "layernorm_bwd", (float *)args->dw.data, a.n_rows, a.width, f));
    }
    if (args->db.data) {
      db_at<T> f = {a.dy, a.width};
      KA_TRY(column_sums(dev, "layernorm_bwd", (float *)args->db.data, a.n_rows, a.width, f));
    }
    bool packs = a.width % N == 0 && in_packs(args->dx, N) && in_packs(args->dy, N) &&
                 in_packs(args->s, N) && in_packs(args->w, N);
    return cuda_launched(dev, "layernorm_bwd", BY_ROW(k_layernorm_bwd, T, packs, a));
  });
}
