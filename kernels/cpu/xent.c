/* SPDX-License-Identifier: Apache-2.0
 * Cross-entropy of rows of logits, the divergence from a base's, and the logits' gradient in place.
 * One pass finds the maximum and the sum of exponentials (Milakov and Gimelshein 2018, rescaled
 * when the maximum grows, by blocks), of the base's row the sum of e^(z0 - max) (z0 - z) with it; a
 * second pass writes the gradient. */
#include "kernels/cpu/vec.h"

/* The largest scores so far, falling; n of them. */
struct top {
  float z[KA_EAFT_TOP];
  int n;
};

struct row {
  float max;
  double sum; /* of e^(z - max) */
  double dot; /* of e^(z - max) (z - other) */
  int64_t best;
};

/* z of a block, capped, in buf or the logits' own memory. */
static const float *scores(const struct ka_xent_args *args, const struct ka_tensor *logits,
                           int64_t at, int64_t n, float *buf) {
  const float *z = load_block(logits, at, n, buf);
  float cap = (float)args->softcap;
  if (cap > 0) {
#pragma omp simd
    for (int64_t k = 0; k < n; k++) buf[k] = cap * fast_tanh(z[k] / cap);
    return buf;
  }
  return z;
}

/* A weight of 0 takes no part, whatever stands beside it. */
static inline float weighed(float e, float difference) { return e == 0 ? 0.0f : e * difference; }

/* A block that holds NaN or infinity, as ref: -inf adds 0, NaN and +inf make the row NaN. */
static void add_bad_block(struct row *row, const float *z, const float *other, int64_t n) {
  for (int64_t k = 0; k < n; k++) {
    float e = z[k] == -INFINITY ? 0.0f : expf(z[k] - row->max);
    row->sum += e;
    if (other) row->dot += weighed(e, z[k] - other[k]);
  }
}

/* other: the row whose scores z's are compared with, or NULL. */
static void add_block(struct row *row, const float *z, const float *other, int64_t n,
                      int64_t first) {
  float max = -INFINITY, sum = 0, dot = 0, bad = 0;
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
    float less = fast_exp(row->max - max);
    row->sum *= (double)less;
    row->dot = less == 0 ? 0 : row->dot * (double)less;
    row->max = max;
  }
  float top = row->max;
  if (isnan(bad)) {
    add_bad_block(row, z, other, n);
    return;
  }
  if (other) {
#pragma omp simd reduction(+ : sum, dot)
    for (int64_t k = 0; k < n; k++) {
      float e = fast_exp(z[k] - top);
      sum += e;
      dot += weighed(e, z[k] - other[k]);
    }
  } else {
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < n; k++) sum += fast_exp(z[k] - top);
  }
  row->sum += sum;
  row->dot += dot;
}

static void add_top(struct top *top, const float *z, int64_t n) {
  for (int64_t k = 0; k < n; k++) {
    if (top->n == KA_EAFT_TOP && !(z[k] > top->z[KA_EAFT_TOP - 1])) continue;
    int at = top->n < KA_EAFT_TOP ? top->n++ : KA_EAFT_TOP - 1;
    for (; at > 0 && z[k] > top->z[at - 1]; at--) top->z[at] = top->z[at - 1];
    top->z[at] = z[k];
  }
}

static double entropy(const struct top *top) {
  double sum = 0, dot = 0;
  for (int k = 0; k < top->n; k++) {
    double z = (double)top->z[k] - (double)top->z[0];
    sum += exp(z);
    dot += exp(z) * z;
  }
  return log(sum) - dot / sum;
}

/* Of the target's cross-entropy. */
static double row_weight(const struct ka_xent_args *args, int64_t r, double loss,
                         const struct top *top) {
  double w = args->ce_weight;
  if (args->weight.data) w *= (double)((const float *)args->weight.data)[r];
  if (args->weigh == KA_WEIGH_DFT) w *= exp(-loss);
  if (args->weigh == KA_WEIGH_EAFT) w *= entropy(top) / 3;
  return w;
}

/* d = ce (p - onehot), and + kl (p - p0) where there is a base; t: the target's place, if here. */
static void differences(float *restrict d, const float *restrict z, const float *restrict z0,
                        int64_t n, int64_t t, float lse, float lse0, float ce, float kl) {
  if (z0) {
#pragma omp simd
    for (int64_t k = 0; k < n; k++) {
      float p = fast_exp(z[k] - lse);
      d[k] = ce * p + kl * (p - fast_exp(z0[k] - lse0));
    }
    if (t < 0 || t >= n) return;
    float p = fast_exp(z[t] - lse);
    d[t] = ce * (p - 1.0f) + kl * (p - fast_exp(z0[t] - lse0));
  } else {
#pragma omp simd
    for (int64_t k = 0; k < n; k++) d[k] = ce * fast_exp(z[k] - lse);
    if (t >= 0 && t < n) d[t] = ce * (fast_exp(z[t] - lse) - 1.0f);
  }
}

static void gradient(const struct ka_xent_args *args, int64_t r, float lse, float lse0, float ce) {
  int64_t n_classes = args->logits.shape[1], target = get_id(&args->targets, r);
  float scale = (float)args->grad_scale, cap = (float)args->softcap;
  if (args->scale.data) scale *= *(const float *)args->scale.data;
  for (int64_t c = 0; c < n_classes; c += CPU_BLOCK) {
    float buf[CPU_BLOCK], buf0[CPU_BLOCK], d[CPU_BLOCK], buf_out[CPU_BLOCK];
    int64_t n = min64(CPU_BLOCK, n_classes - c), at = r * n_classes + c;
    const float *z = scores(args, &args->logits, at, n, buf), *z0 = NULL;
    if (args->base.data) z0 = scores(args, &args->base, at, n, buf0);
    float *out = open_block(&args->logits, at, buf_out);
    differences(d, z, z0, n, target - c, lse, lse0, ce, (float)args->kl_weight);
    if (cap > 0) {
#pragma omp simd
      for (int64_t k = 0; k < n; k++) out[k] = scale * d[k] * (1.0f - z[k] / cap * (z[k] / cap));
    } else {
#pragma omp simd
      for (int64_t k = 0; k < n; k++) out[k] = scale * d[k];
    }
    store_block(&args->logits, at, n, out);
  }
}

static void one_row(const struct ka_xent_args *args, int64_t r) {
  int64_t n_classes = args->logits.shape[1], target = get_id(&args->targets, r);
  struct row row = {.max = -INFINITY}, base = {.max = -INFINITY};
  struct top top = {.n = 0};
  float buf[CPU_BLOCK], buf0[CPU_BLOCK];
  for (int64_t c = 0; c < n_classes; c += CPU_BLOCK) {
    int64_t n = min64(CPU_BLOCK, n_classes - c), at = r * n_classes + c;
    const float *z = scores(args, &args->logits, at, n, buf);
    add_block(&row, z, NULL, n, c);
    if (args->weigh == KA_WEIGH_EAFT) add_top(&top, z, n);
    if (args->base.data) add_block(&base, scores(args, &args->base, at, n, buf0), z, n, c);
  }
  double lse = (double)row.max + log(row.sum), lse0 = (double)base.max + log(base.sum);
  if (args->argmax.data) ((int32_t *)args->argmax.data)[r] = (int32_t)row.best;
  float *loss = (float *)args->loss.data + r;
  float *kl = args->base.data ? (float *)args->kl.data + r : NULL;
  if (target < 0) {
    *loss = 0;
    if (kl) *kl = 0;
    if (args->backward) cpu_zero_row(&args->logits, r, n_classes);
    return;
  }
  double z = (double)*scores(args, &args->logits, r * n_classes + target, 1, buf);
  *loss = (float)(lse - z);
  if (kl) *kl = (float)(base.dot / base.sum + (lse - lse0));
  double ce = row_weight(args, r, lse - z, &top);
  if (args->backward) gradient(args, r, (float)lse, (float)lse0, (float)ce);
}

ka_status xent_cpu(struct ka_dev *dev, const struct ka_xent_args *args) {
  int64_t n_rows = args->logits.shape[0], n_classes = args->logits.shape[1];
  if (args->logits.dtype == KA_F64) return xent_ref(dev, args);
#pragma omp parallel for if (n_rows * n_classes > CPU_PARALLEL)
  for (int64_t r = 0; r < n_rows; r++) one_row(args, r);
  return KA_STATUS_OK;
}
