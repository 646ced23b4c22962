/* SPDX-License-Identifier: Apache-2.0
 * Attention sinks (ops.h): a warp a row of attention's output; the gradient a block a head, its
 * warps taking rows in turn, added in a fixed order. Reads out (and dout) once. */
#include "kernels/cuda/device.cuh"

namespace {

enum { BLOCK = 256, WARPS = BLOCK / 32 };

template <typename T> struct sinks {
  T *out;
  float *lse, *dsink;
  const T *dout, *sink;
  int64_t n_rows; /* B*T*H */
  int n_tok, n_heads, width;

  /* Where lse [B,H,T] has row i of [B,T,H]. */
  __device__ int64_t lse_at(int64_t i) const {
    int64_t h = i % n_heads, t = i / n_heads % n_tok, b = i / n_heads / n_tok;
    return (b * n_heads + h) * n_tok + t;
  }
};

template <typename T> __global__ void __launch_bounds__(BLOCK) k_attn_sink_fwd(sinks<T> a) {
  int64_t i = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
  int lane = (int)threadIdx.x % 32;
  if (i >= a.n_rows) return;
  float lse = a.lse[a.lse_at(i)], sink = to_float(a.sink[i % a.n_heads]), top = fmaxf(lse, sink);
  float factor = 1.0f / (1.0f + expf(sink - lse));
  for (int d = lane; d < a.width; d += 32)
    a.out[i * a.width + d] = from_float<T>(to_float(a.out[i * a.width + d]) * factor);
  __syncwarp(); /* all have read lse */
  if (lane == 0) a.lse[a.lse_at(i)] = top + logf(expf(lse - top) + expf(sink - top));
}

template <typename T> __global__ void __launch_bounds__(BLOCK) k_attn_sink_bwd(sinks<T> a) {
  int h = (int)blockIdx.x, lane = (int)threadIdx.x % 32;
  float sink = to_float(a.sink[h]), sum = 0;
  for (int64_t i = h + (int64_t)(threadIdx.x / 32) * a.n_heads; i < a.n_rows;
       i += (int64_t)WARPS * a.n_heads) {
    float dot = 0;
    for (int d = lane; d < a.width; d += 32)
      dot += to_float(a.dout[i * a.width + d]) * to_float(a.out[i * a.width + d]);
    dot = warp_sum(dot);
    if (lane == 0) sum += expf(sink - a.lse[a.lse_at(i)]) * dot;
  }
  sum = block_sum<BLOCK>(sum);
  if (threadIdx.x == 0) a.dsink[h] -= sum;
}

} // namespace

ka_status attn_sink_fwd_cuda(struct ka_dev *dev, const struct ka_attn_sink_fwd_args *args) {
  struct cuda_state *s = cuda_of(dev);
  const int64_t *shape = args->out.shape;
  KA_BY_TYPE(dev, "attn_sink_fwd", args->out.dtype, {
    sinks<T> a = {(T *)args->out.data,
                  (float *)args->lse.data,
                  NULL,
                  NULL,
                  (const T *)args->sink.data,
                  shape[0] * shape[1] * shape[2],
                  (int)shape[1],
                  (int)shape[2],
                  (int)shape[3]};
    if (a.n_rows == 0) return KA_STATUS_OK;
    return cuda_launched(
        dev, "attn_sink_fwd",
        KA_LAUNCH((k_attn_sink_fwd<T>), (unsigned)div_up(a.n_rows, WARPS), BLOCK, 0, s->stream, a));
  });
}

ka_status attn_sink_bwd_cuda(struct ka_dev *dev, const struct ka_attn_sink_bwd_args *args) {
  struct cuda_state *s = cuda_of(dev);
  const int64_t *shape = args->out.shape;
  KA_BY_TYPE(dev, "attn_sink_bwd", args->out.dtype, {
    sinks<T> a = {(T *)args->out.data,
                  (float *)args->lse.data,
                  (float *)args->dsink.data,
                  (const T *)args->dout.data,
                  (const T *)args->sink.data,
                  shape[0] * shape[1] * shape[2],
                  (int)shape[1],
                  (int)shape[2],
                  (int)shape[3]};
    if (a.n_rows == 0) return KA_STATUS_OK;
    return cuda_launched(
        dev, "attn_sink_bwd",
        KA_LAUNCH((k_attn_sink_bwd<T>), (unsigned)a.n_heads, BLOCK, 0, s->stream, a));
  });
}
