/* SPDX-License-Identifier: Apache-2.0
 * Layer norm (Ba, Kiros and Hinton 2016, eq. 4), with the residual add. Rows are read three times:
 * for the mean, for the variance about it, and for the result. */
#include "kernels/cpu/vec.h"

#include <string.h>

/* Sum of one row, written as x + delta first when there is a delta. */
static double row_sum(const struct ka_layernorm_fwd_args *args, int64_t row, int64_t n_chan) {
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
    for (int64_t k = 0; k < len; k++) part += s[k];
    sum += part;
  }
  return sum;
}

static double row_variance(const struct ka_tensor *in, int64_t row, int64_t n_chan, float mean) {
  double sum = 0;
  for (int64_t c = 0; c < n_chan; c += CPU_BLOCK) {
    float buf[CPU_BLOCK], part = 0;
    int64_t len = min64(CPU_BLOCK, n_chan - c);
    const float *s = load_block(in, row * n_chan + c, len, buf);
#pragma omp simd reduction(+ : part)
    for (int64_t k = 0; k < len; k++) part += (s[k] - mean) * (s[k] - mean);
    sum += part;
  }
  return sum / (double)n_chan;
}

static void norm_row(const struct ka_layernorm_fwd_args *args, const struct ka_tensor *in,
                     int64_t row, int64_t n_chan, float mean, float rstd) {
  for (int64_t c = 0; c < n_chan; c += CPU_BLOCK) {
    float buf[CPU_BLOCK], buf_w[CPU_BLOCK], buf_b[CPU_BLOCK] = {0}, buf_y[CPU_BLOCK];
    int64_t len = min64(CPU_BLOCK, n_chan - c), at = row * n_chan + c;
    const float *s = load_block(in, at, len, buf), *w = load_block(&args->w, c, len, buf_w);
    const float *b = args->b.data ? load_block(&args->b, c, len, buf_b) : buf_b;
    float *y = open_block(&args->y, at, buf_y);
#pragma omp simd
    for (int64_t k = 0; k < len; k++) y[k] = (s[k] - mean) * rstd * w[k] + b[k];
    store_block(&args->y, at, len, y);
  }
}

ka_status layernorm_fwd_cpu(struct ka_dev *dev, const struct ka_layernorm_fwd_args *args) {
  int64_t n_tok = args->x.shape[0], n_chan = args->x.shape[1];
  const struct ka_tensor *in = args->delta.data ? &args->sum : &args->x;
  if (args->x.dtype == KA_F64) return layernorm_fwd_ref(dev, args);
#pragma omp parallel for if (n_tok * n_chan > CPU_PARALLEL)
  for (int64_t t = 0; t < n_tok; t++) {
    float mean = (float)(row_sum(args, t, n_chan) / (double)n_chan);
    float rstd = (float)(1 / sqrt(row_variance(in, t, n_chan, mean) + args->eps));
    if (args->mean.data) ((float *)args->mean.data)[t] = mean;
    if (args->rstd.data) ((float *)args->rstd.data)[t] = rstd;
    norm_row(args, in, t, n_chan, mean, rstd);
  }
  return KA_STATUS_OK;
}

struct row_means {
  float g, g_x_hat;
};

/* Means of g and g * x_hat of one row; dy * x_hat and dy added to dw and db (which may be NULL). */
static struct row_means row_dots(const struct ka_layernorm_bwd_args *args, int64_t row,
                                 int64_t n_chan, float *dw, float *db) {
  float rstd = ((const float *)args->rstd.data)[row], mean = ((const float *)args->mean.data)[row];
  double sum = 0, dot = 0;
  for (int64_t c = 0; c < n_chan; c += CPU_BLOCK) {
    float buf[CPU_BLOCK], buf_s[CPU_BLOCK], buf_w[CPU_BLOCK], part = 0, part_dot = 0;
    int64_t len = min64(CPU_BLOCK, n_chan - c), at = row * n_chan + c;
    const float *dy = load_block(&args->dy, at, len, buf);
    const float *s = load_block(&args->s, at, len, buf_s);
    const float *w = load_block(&args->w, c, len, buf_w);
#pragma omp simd reduction(+ : part, part_dot)
    for (int64_t k = 0; k < len; k++) {
      part += dy[k] * w[k];
      part_dot += dy[k] * w[k] * ((s[k] - mean) * rstd);
    }
    for (int64_t k = 0; k < len && dw; k++) dw[c + k] += dy[k] * ((s[k] - mean) * rstd);
    for (int64_t k = 0; k < len && db; k++) db[c + k] += dy[k];
    sum += part;
    dot += part_dot;
  }
  return (struct row_means){(float)(sum / (double)n_chan), (float)(dot / (double)n_chan)};
}

static void row_dx(const struct ka_layernorm_bwd_args *args, int64_t row, int64_t n_chan,
                   struct row_means m) {
  float rstd = ((const float *)args->rstd.data)[row], mean = ((const float *)args->mean.data)[row];
  for (int64_t c = 0; c < n_chan; c += CPU_BLOCK) {
    float buf[CPU_BLOCK], buf_s[CPU_BLOCK], buf_w[CPU_BLOCK], buf_x[CPU_BLOCK];
    float old[CPU_BLOCK] = {0};
    int64_t len = min64(CPU_BLOCK, n_chan - c), at = row * n_chan + c;
    const float *dy = load_block(&args->dy, at, len, buf);
    const float *s = load_block(&args->s, at, len, buf_s);
    const float *w = load_block(&args->w, c, len, buf_w);
    const float *before = args->accumulate ? load_block(&args->dx, at, len, old) : old;
    float *dx = open_block(&args->dx, at, buf_x);
#pragma omp simd
    for (int64_t k = 0; k < len; k++)
      dx[k] = before[k] + rstd * (dy[k] * w[k] - m.g - (s[k] - mean) * rstd * m.g_x_hat);
    store_block(&args->dx, at, len, dx);
  }
}

ka_status layernorm_bwd_cpu(struct ka_dev *dev, const struct ka_layernorm_bwd_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  int64_t n_tok = args->s.shape[0], n_chan = args->s.shape[1];
  if (args->s.dtype == KA_F64) return layernorm_bwd_ref(dev, args);
  int64_t n_groups = (n_tok + CPU_GROUP_ROWS - 1) / CPU_GROUP_ROWS, n_parts = n_groups * n_chan;
  void *scratch = NULL;
  KA_TRY(cpu_scratch(dev, (size_t)(2 * n_parts) * sizeof(float), &scratch));
  float *dw = args->dw.data ? scratch : NULL,
        *db = args->db.data ? (float *)scratch + n_parts : NULL;
#pragma omp parallel for if (n_tok * n_chan > CPU_PARALLEL)
  for (int64_t g = 0; g < n_groups; g++) {
    float *dw_g = dw ? dw + g * n_chan : NULL, *db_g = db ? db + g * n_chan : NULL;
    if (dw_g) memset(dw_g, 0, (size_t)n_chan * sizeof *dw_g);
    if (db_g) memset(db_g, 0, (size_t)n_chan * sizeof *db_g);
    for (int64_t t = g * CPU_GROUP_ROWS; t < min64(n_tok, (g + 1) * CPU_GROUP_ROWS); t++)
      row_dx(args, t, n_chan, row_dots(args, t, n_chan, dw_g, db_g));
  }
  if (dw) cpu_add_groups(args->dw.data, dw, n_groups, n_chan);
  if (db) cpu_add_groups(args->db.data, db, n_groups, n_chan);
  return KA_STATUS_OK;
}
