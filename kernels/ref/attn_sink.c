/* SPDX-License-Identifier: Apache-2.0
 * Attention sinks: what a head's extra score takes off its output, and its gradient. */
#include "kernels/ref/ref.h"

#include <math.h>

ka_status attn_sink_fwd_ref(struct ka_dev *dev, const struct ka_attn_sink_fwd_args *args) {
  (void)dev;
  int64_t n_tok = args->out.shape[1], n_heads = args->out.shape[2], width = args->out.shape[3];
  int64_t n = args->out.shape[0] * n_tok * n_heads;
#pragma omp parallel for
  for (int64_t i = 0; i < n; i++) { /* (b, t, h) */
    int64_t h = i % n_heads, t = i / n_heads % n_tok, b = i / n_heads / n_tok;
    int64_t at = (b * n_heads + h) * n_tok + t;
    double lse = get(&args->lse, at), sink = get(&args->sink, h), top = fmax(lse, sink);
    for (int64_t d = 0; d < width; d++)
      put(&args->out, i * width + d, get(&args->out, i * width + d) / (1 + exp(sink - lse)));
    put(&args->lse, at, top + log(exp(lse - top) + exp(sink - top)));
  }
  return KA_STATUS_OK;
}

ka_status attn_sink_bwd_ref(struct ka_dev *dev, const struct ka_attn_sink_bwd_args *args) {
  (void)dev;
  int64_t n_tok = args->out.shape[1], n_heads = args->out.shape[2], width = args->out.shape[3];
#pragma omp parallel for
  for (int64_t h = 0; h < n_heads; h++) {
    double sum = 0;
    for (int64_t i = h; i < args->out.shape[0] * n_tok * n_heads; i += n_heads) {
      int64_t t = i / n_heads % n_tok, b = i / n_heads / n_tok;
      double dot = 0, lse = get(&args->lse, (b * n_heads + h) * n_tok + t);
      for (int64_t d = 0; d < width; d++)
        dot += get(&args->dout, i * width + d) * get(&args->out, i * width + d);
      sum += exp(get(&args->sink, h) - lse) * dot;
    }
    inc(&args->dsink, h, -sum);
  }
  return KA_STATUS_OK;
}
