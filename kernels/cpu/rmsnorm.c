/* SPDX-License-Identifier: Apache-2.0
 * Root mean square norm (Zhang and Sennrich 2019, eq. 4), with the residual add, and the bias
 * gradient, which is the same column sum as the norm weight's. Sums over columns are taken by
 * groups of rows whose size does not depend on the threads, and the groups added in order. */
#include "kernels/cpu/vec.h"

#include <string.h>

/* Sum of squares of one row, written as x + delta first when there is a delta. */
static double row_sumsq(const struct ka_rmsnorm_fwd_args *args, int64_t row, int64_t n_chan) {
  double sum = 0;
  for (int64_t c = 0; c < n_chan; c += CPU_BLOCK) {
    float buf[CPU_BLOCK], buf_d[CPU_BLOCK], buf_s[CPU_BLOCK], part = 0;
    int64_t len = min64(CPU_BLOCK, n_chan - c), at = row * n_chan + c;
    const float *s = load_block(&args->x, at, len, buf);
    if (args->delta.data) {
      const float *d = load_block(&args->delta, at, len, buf_d);
      float *to = open_block(&args->sum, at, buf_s);
#pragma omp simd
      for (int64_t k = 0; k < len; k++) to[k] = s[k] + d[k];
      store_block(&args->sum, at, len, to);
      s = load_block(&args->sum, at, len, buf_s); /* rounded */
    }
#pragma omp simd reduction(+ : part)
    for (int64_t k = 0; k < len; k++) part += s[k] * s[k];
    sum += part;
  }
  return sum;
}

static void norm_row(const struct ka_rmsnorm_fwd_args *args, int64_t row, int64_t n_chan,
                     float rstd) {
  const struct ka_tensor *in = args->delta.data ? &args->sum : &args->x;
  float offset = (float)args->offset;
  bool round = args->round_before_weight && args->y.dtype == KA_BF16;
  for (int64_t c = 0; c < n_chan; c += CPU_BLOCK) {
    float buf[CPU_BLOCK], buf_w[CPU_BLOCK], buf_y[CPU_BLOCK];
    int64_t len = min64(CPU_BLOCK, n_chan - c), at = row * n_chan + c;
    const float *s = load_block(in, at, len, buf), *w = load_block(&args->w, c, len, buf_w);
    float *y = open_block(&args->y, at, buf_y);
    if (round) {
#pragma omp simd
      for (int64_t k = 0; k < len; k++)
        y[k] = ka_bf16_to_f32(ka_f32_to_bf16(s[k] * rstd)) * (offset + w[k]);
    } else {
#pragma omp simd
      for (int64_t k = 0; k < len; k++) y[k] = s[k] * rstd * (offset + w[k]);
    }
    store_block(&args->y, at, len, y);
  }
}

ka_status rmsnorm_fwd_cpu(struct ka_dev *dev, const struct ka_rmsnorm_fwd_args *args) {
  int64_t n_tok = args->x.shape[0], n_chan = args->x.shape[1];
  if (args->x.dtype == KA_F64) return rmsnorm_fwd_ref(dev, args);
#pragma omp parallel for if (n_tok * n_chan > CPU_PARALLEL)
  for (int64_t t = 0; t < n_tok; t++) {
    double mean = row_sumsq(args, t, n_chan) / (double)n_chan;
    float rstd = (float)(1 / sqrt(mean + args->eps));
    if (args->rstd.data) ((float *)args->rstd.data)[t] = rstd;
    norm_row(args, t, n_chan, rstd);
  }
  return KA_STATUS_OK;
}

/* mean(g * s) of one row, and dy * s * rstd added to dw (may be NULL). */
static float row_dot(const struct ka_rmsnorm_bwd_args *args, int64_t row, int64_t n_chan,
                     float *dw) {
  float rstd = ((const float *)args->rstd.data)[row], offset = (float)args->offset;
  double dot = 0;
  for (int64_t c = 0; c < n_chan; c += CPU_BLOCK) {
    float buf[CPU_BLOCK], buf_s[CPU_BLOCK], buf_w[CPU_BLOCK], part = 0;
    int64_t len = min64(CPU_BLOCK, n_chan - c), at = row * n_chan + c;
    const float *dy = load_block(&args->dy, at, len, buf),
                *s = load_block(&args->s, at, len, buf_s);
    const float *w = load_block(&args->w, c, len, buf_w);
#pragma omp simd reduction(+ : part)
    for (int64_t k = 0; k < len; k++) part += dy[k] * (offset + w[k]) * s[k];
    if (dw) {
      float *to = dw + c;
#pragma omp simd
      for (int64_t k = 0; k < len; k++) to[k] += dy[k] * s[k] * rstd;
    }
    dot += part;
  }
  return (float)(dot / (double)n_chan);
}

static void row_dx(const struct ka_rmsnorm_bwd_args *args, int64_t row, int64_t n_chan,
                   float mean) {
  float rstd = ((const float *)args->rstd.data)[row], offset = (float)args->offset;
  float back = rstd * rstd * mean;
  for (int64_t c = 0; c < n_chan; c += CPU_BLOCK) {
    float buf[CPU_BLOCK], buf_s[CPU_BLOCK], buf_w[CPU_BLOCK], buf_x[CPU_BLOCK];
    int64_t len = min64(CPU_BLOCK, n_chan - c), at = row * n_chan + c;
    const float *dy = load_block(&args->dy, at, len, buf),
                *s = load_block(&args->s, at, len, buf_s);
    const float *w = load_block(&args->w, c, len, buf_w);
    float *dx = open_block(&args->dx, at, buf_x);
    if (args->accumulate) {
      (void)load_block(&args->dx, at, len, buf_x);
#pragma omp simd
      for (int64_t k = 0; k < len; k++) dx[k] += rstd * (dy[k] * (offset + w[k]) - s[k] * back);
    } else {
#pragma omp simd
      for (int64_t k = 0; k < len; k++) dx[k] = rstd * (dy[k] * (offset + w[k]) - s[k] * back);
    }
    store_block(&args->dx, at, len, dx);
  }
}

void cpu_add_groups(float *out, const float *parts, int64_t n_groups, int64_t n_chan) {
#pragma omp parallel for if (n_groups * n_chan > CPU_PARALLEL)
  for (int64_t c = 0; c < n_chan; c += CPU_BLOCK) {
    float sum[CPU_BLOCK] = {0};
    int64_t len = min64(CPU_BLOCK, n_chan - c);
    for (int64_t g = 0; g < n_groups; g++)
      for (int64_t k = 0; k < len; k++) sum[k] += parts[g * n_chan + c + k];
    for (int64_t k = 0; k < len; k++) out[c + k] += sum[k];
  }
}

ka_status rmsnorm_bwd_cpu(struct ka_dev *dev, const struct ka_rmsnorm_bwd_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  int64_t n_tok = args->s.shape[0], n_chan = args->s.shape[1];
  if (args->s.dtype == KA_F64) return rmsnorm_bwd_ref(dev, args);
  int64_t n_groups = (n_tok + CPU_GROUP_ROWS - 1) / CPU_GROUP_ROWS;
  void *scratch = NULL;
  bool want_dw = args->dw.data != NULL;
  if (want_dw) KA_TRY(cpu_scratch(dev, (size_t)(n_groups * n_chan) * sizeof(float), &scratch));
#pragma omp parallel for if (n_tok * n_chan > CPU_PARALLEL)
  for (int64_t g = 0; g < n_groups; g++) {
    float *dw = want_dw ? (float *)scratch + g * n_chan : NULL;
    if (dw) memset(dw, 0, (size_t)n_chan * sizeof *dw);
    for (int64_t t = g * CPU_GROUP_ROWS; t < min64(n_tok, (g + 1) * CPU_GROUP_ROWS); t++)
      row_dx(args, t, n_chan, row_dot(args, t, n_chan, dw));
  }
  if (want_dw) cpu_add_groups(args->dw.data, scratch, n_groups, n_chan);
  return KA_STATUS_OK;
}

ka_status bias_bwd_cpu(struct ka_dev *dev, const struct ka_bias_bwd_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  int64_t n_rows = args->dout.shape[0], n_cols = args->dout.shape[1];
  if (args->dout.dtype == KA_F64) return bias_bwd_ref(dev, args);
  int64_t n_groups = (n_rows + CPU_GROUP_ROWS - 1) / CPU_GROUP_ROWS;
  void *scratch = NULL;
  KA_TRY(cpu_scratch(dev, (size_t)(n_groups * n_cols) * sizeof(float), &scratch));
#pragma omp parallel for if (n_rows * n_cols > CPU_PARALLEL)
  for (int64_t g = 0; g < n_groups; g++) {
    float *sum = (float *)scratch + g * n_cols;
    memset(sum, 0, (size_t)n_cols * sizeof *sum);
    for (int64_t r = g * CPU_GROUP_ROWS; r < min64(n_rows, (g + 1) * CPU_GROUP_ROWS); r++)
      for (int64_t c = 0; c < n_cols; c += CPU_BLOCK) {
        float buf[CPU_BLOCK];
        int64_t len = min64(CPU_BLOCK, n_cols - c);
        const float *d = load_block(&args->dout, r * args->dout.row_stride + c, len, buf);
#pragma omp simd
        for (int64_t k = 0; k < len; k++) sum[c + k] += d[k];
      }
  }
  cpu_add_groups(args->dbias.data, scratch, n_groups, n_cols);
  return KA_STATUS_OK;
}
