/* SPDX-License-Identifier: Apache-2.0
 * Cross-entropy of rows of logits and their gradient in place. One pass finds the maximum and the
 * sum of exponentials (Milakov and Gimelshein 2018, rescaled when the maximum grows, by blocks), a
 * second writes the gradient. */
#include "kernels/cpu/vec.h"

struct row {
  float max;
  double sum; /* of e^(z - max) */
  int64_t best;
};

/* z of a block, capped, in buf or the logits' own memory. */
static const float *scores(const struct ka_xent_args *args, int64_t at, int64_t n, float *buf) {
  const float *z = load_block(&args->logits, at, n, buf);
  float cap = (float)args->softcap;
  if (cap > 0) {
#pragma omp simd
    for (int64_t k = 0; k < n; k++) buf[k] = cap * fast_tanh(z[k] / cap);
    return buf;
  }
  return z;
}

static void add_block(struct row *row, const float *z, int64_t n, int64_t first) {
  float max = -INFINITY, sum = 0, bad = 0;
#pragma omp simd reduction(max : max) reduction(+ : bad)
  for (int64_t k = 0; k < n; k++) {
    max = z[k] > max ? z[k] : max;
    bad += z[k] * 0.0f; /* NaN as soon as one is NaN or infinite */
  }
  if (max > row->max) {
    for (int64_t k = 0; k < n; k++)
      if (z[k] == max) {
        row->best = first + k;
        break;
      }
    row->sum *= (double)fast_exp(row->max - max);
    row->max = max;
  }
  float top = row->max;
  if (isnan(bad)) { /* as ref: -inf adds 0, NaN and +inf make the row NaN */
    for (int64_t k = 0; k < n; k++) sum += z[k] == -INFINITY && top > z[k] ? 0 : expf(z[k] - top);
  } else {
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < n; k++) sum += fast_exp(z[k] - top);
  }
  row->sum += sum;
}

static void gradient(const struct ka_xent_args *args, int64_t r, float lse) {
  int64_t n_classes = args->logits.shape[1], target = get_id(&args->targets, r);
  float scale = (float)args->grad_scale, cap = (float)args->softcap;
  if (args->scale.data) scale *= *(const float *)args->scale.data;
  for (int64_t c = 0; c < n_classes; c += CPU_BLOCK) {
    float buf[CPU_BLOCK], buf_out[CPU_BLOCK];
    int64_t n = min64(CPU_BLOCK, n_classes - c), at = r * n_classes + c;
    const float *z = scores(args, at, n, buf);
    float *d = open_block(&args->logits, at, buf_out), hit = 0;
    int64_t t = target - c;
    if (t >= 0 && t < n) hit = z[t];
    if (cap > 0) {
#pragma omp simd
      for (int64_t k = 0; k < n; k++)
        d[k] = scale * fast_exp(z[k] - lse) * (1.0f - z[k] / cap * (z[k] / cap));
    } else {
#pragma omp simd
      for (int64_t k = 0; k < n; k++) d[k] = scale * fast_exp(z[k] - lse);
    }
    if (t >= 0 && t < n) {
      float slope = cap > 0 ? 1.0f - hit / cap * (hit / cap) : 1.0f;
      d[t] = scale * (fast_exp(hit - lse) - 1.0f) * slope;
    }
    store_block(&args->logits, at, n, d);
  }
}

ka_status xent_cpu(struct ka_dev *dev, const struct ka_xent_args *args) {
  int64_t n_rows = args->logits.shape[0], n_classes = args->logits.shape[1];
  if (args->logits.dtype == KA_F64) return xent_ref(dev, args);
#pragma omp parallel for if (n_rows * n_classes > CPU_PARALLEL)
  for (int64_t r = 0; r < n_rows; r++) {
    struct row row = {-INFINITY, 0, 0};
    float buf[CPU_BLOCK];
    for (int64_t c = 0; c < n_classes; c += CPU_BLOCK) {
      int64_t n = min64(CPU_BLOCK, n_classes - c);
      add_block(&row, scores(args, r * n_classes + c, n, buf), n, c);
    }
    double lse = (double)row.max + log(row.sum);
    int64_t target = get_id(&args->targets, r);
    double z = target < 0 ? lse : (double)*scores(args, r * n_classes + target, 1, buf);
    ((float *)args->loss.data)[r] = target < 0 ? 0 : (float)(lse - z);
    if (args->argmax.data) ((int32_t *)args->argmax.data)[r] = (int32_t)row.best;
    if (args->backward && target >= 0) gradient(args, r, (float)lse);
    if (args->backward && target < 0) cpu_zero_row(&args->logits, r, n_classes);
  }
  return KA_STATUS_OK;
}
