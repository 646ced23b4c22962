/* SPDX-License-Identifier: Apache-2.0
 * The way from the experts' rows back to the tokens, and the biases' gradients. */
#include "kernels/cpu/vec.h"

#include <string.h>

ka_status expert_combine_fwd_cpu(struct ka_dev *dev,
                                 const struct ka_expert_combine_fwd_args *args) {
  int64_t n_tok = args->out.shape[0], n_chan = args->out.shape[1], n_top = args->place.shape[1];
  const int32_t *place = args->place.data;
  const float *weight = args->weight.data;
  if (args->out.dtype == KA_F64) return expert_combine_fwd_ref(dev, args);
#pragma omp parallel for if (n_tok * n_chan > CPU_PARALLEL)
  for (int64_t t = 0; t < n_tok; t++)
    for (int64_t c = 0; c < n_chan; c += CPU_BLOCK) {
      float sum[CPU_BLOCK] = {0}, buf[CPU_BLOCK];
      int64_t len = min64(CPU_BLOCK, n_chan - c), at = t * n_chan + c;
      if (args->accumulate)
        memcpy(sum, load_block(&args->out, at, len, buf), (size_t)len * sizeof *sum);
      for (int64_t j = 0; j < n_top; j++) {
        const float *x = load_block(&args->x, place[t * n_top + j] * n_chan + c, len, buf);
        float w = weight ? weight[t * n_top + j] : 1;
#pragma omp simd
        for (int64_t i = 0; i < len; i++) sum[i] += w * x[i];
      }
      if (args->out.dtype == KA_F32)
        memcpy((float *)args->out.data + at, sum, (size_t)len * sizeof *sum);
      store_block(&args->out, at, len, sum);
    }
  return KA_STATUS_OK;
}

/* One choice: its row of dx, and the gradient of its weight. */
static float combine_bwd_row(const struct ka_expert_combine_bwd_args *args, int64_t t, int64_t p,
                             float w) {
  int64_t n_chan = args->dout.shape[1];
  double dot = 0;
  for (int64_t c = 0; c < n_chan; c += CPU_BLOCK) {
    float buf_d[CPU_BLOCK], buf_x[CPU_BLOCK], buf[CPU_BLOCK], part = 0;
    int64_t len = min64(CPU_BLOCK, n_chan - c), at = p * n_chan + c;
    const float *d = load_block(&args->dout, t * n_chan + c, len, buf_d);
    if (args->dweight.data) {
      const float *x = load_block(&args->x, at, len, buf_x);
#pragma omp simd reduction(+ : part)
      for (int64_t i = 0; i < len; i++) part += x[i] * d[i];
    }
    float *dx = open_block(&args->dx, at, buf);
#pragma omp simd
    for (int64_t i = 0; i < len; i++) dx[i] = w * d[i];
    store_block(&args->dx, at, len, dx);
    dot += part;
  }
  return (float)dot;
}

ka_status expert_combine_bwd_cpu(struct ka_dev *dev,
                                 const struct ka_expert_combine_bwd_args *args) {
  int64_t n = ka_tensor_elems(&args->place), n_top = args->place.shape[1];
  const int32_t *place = args->place.data;
  const float *weight = args->weight.data;
  float *dweight = args->dweight.data;
  if (args->dx.dtype == KA_F64) return expert_combine_bwd_ref(dev, args);
#pragma omp parallel for if (n * args->dout.shape[1] > CPU_PARALLEL)
  for (int64_t i = 0; i < n; i++) {
    float dot = combine_bwd_row(args, i / n_top, place[i], weight[i]);
    if (dweight) dweight[i] = dot;
  }
  return KA_STATUS_OK;
}

ka_status expert_bias_bwd_cpu(struct ka_dev *dev, const struct ka_expert_bias_bwd_args *args) {
  int64_t n_experts = args->dbias.shape[0], n_cols = args->dbias.shape[1];
  const int32_t *offsets = args->offsets.data;
  if (args->dout.dtype == KA_F64) return expert_bias_bwd_ref(dev, args);
#pragma omp parallel for schedule(dynamic) if (ka_tensor_elems(&args->dout) > CPU_PARALLEL)
  for (int64_t e = 0; e < n_experts; e++)
    for (int64_t c = 0; c < n_cols; c += CPU_BLOCK) {
      float sum[CPU_BLOCK] = {0}, buf[CPU_BLOCK], *to = (float *)args->dbias.data + e * n_cols + c;
      int64_t len = min64(CPU_BLOCK, n_cols - c);
      for (int64_t p = offsets[e]; p < offsets[e + 1]; p++) {
        const float *d = load_block(&args->dout, p * n_cols + c, len, buf);
#pragma omp simd
        for (int64_t i = 0; i < len; i++) sum[i] += d[i];
      }
      for (int64_t i = 0; i < len; i++) to[i] += sum[i];
    }
  return KA_STATUS_OK;
}
