/* SPDX-License-Identifier: Apache-2.0
 * Attention sinks: what a head's extra score takes off its output, and its gradient. */
#include "kernels/cpu/vec.h"

static float sink_of(const struct ka_tensor *sink, int64_t h) {
  return (float)ka_load(sink->data, sink->dtype, h);
}

/* The row's factor; *lse becomes that with the sink. */
static float share(float *lse, float sink) {
  float before = *lse, top = before > sink ? before : sink;
  *lse = top + logf(expf(before - top) + expf(sink - top));
  return 1.0f / (1.0f + expf(sink - before));
}

ka_status attn_sink_fwd_cpu(struct ka_dev *dev, const struct ka_attn_sink_fwd_args *args) {
  int64_t n_tok = args->out.shape[1], n_heads = args->out.shape[2], width = args->out.shape[3];
  int64_t n = args->out.shape[0] * n_tok * n_heads;
  if (args->out.dtype == KA_F64) return attn_sink_fwd_ref(dev, args);
#pragma omp parallel for if (n * width > CPU_PARALLEL)
  for (int64_t i = 0; i < n; i++) { /* (b, t, h) */
    int64_t h = i % n_heads, t = i / n_heads % n_tok, b = i / n_heads / n_tok;
    float *lse = (float *)args->lse.data + (b * n_heads + h) * n_tok + t;
    float factor = share(lse, sink_of(&args->sink, h));
    for (int64_t d = 0; d < width; d += CPU_BLOCK) {
      float buf[CPU_BLOCK];
      int64_t len = min64(CPU_BLOCK, width - d), at = i * width + d;
      (void)load_block(&args->out, at, len, buf);
      float *out = open_block(&args->out, at, buf);
      for (int64_t k = 0; k < len; k++) out[k] *= factor;
      store_block(&args->out, at, len, out);
    }
  }
  return KA_STATUS_OK;
}

/* <dout, out> of row i. */
static float row_dot(const struct ka_attn_sink_bwd_args *args, int64_t i, int64_t width) {
  float sum = 0;
  for (int64_t d = 0; d < width; d += CPU_BLOCK) {
    float buf_x[CPU_BLOCK], buf_y[CPU_BLOCK];
    int64_t len = min64(CPU_BLOCK, width - d), at = i * width + d;
    const float *x = load_block(&args->dout, at, len, buf_x);
    const float *y = load_block(&args->out, at, len, buf_y);
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < len; k++) sum += x[k] * y[k];
  }
  return sum;
}

ka_status attn_sink_bwd_cpu(struct ka_dev *dev, const struct ka_attn_sink_bwd_args *args) {
  int64_t n_tok = args->out.shape[1], n_heads = args->out.shape[2], width = args->out.shape[3];
  int64_t n = args->out.shape[0] * n_tok * n_heads;
  const float *lse = args->lse.data;
  if (args->out.dtype == KA_F64) return attn_sink_bwd_ref(dev, args);
#pragma omp parallel for if (n * width > CPU_PARALLEL)
  for (int64_t h = 0; h < n_heads; h++) {
    double sum = 0;
    for (int64_t i = h; i < n; i += n_heads) {
      int64_t t = i / n_heads % n_tok, b = i / n_heads / n_tok;
      float p = expf(sink_of(&args->sink, h) - lse[(b * n_heads + h) * n_tok + t]);
      sum += (double)(p * row_dot(args, i, width));
    }
    ((float *)args->dsink.data)[h] -= (float)sum;
  }
  return KA_STATUS_OK;
}
