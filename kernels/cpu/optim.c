/* SPDX-License-Identifier: Apache-2.0
 * Sum of squares, and torch.optim.AdamW (Loshchilov and Hutter 2019, algorithm 2) in f32 with
 * torch's order of operations. */
#include "kernels/adamw.h"
#include "kernels/cpu/vec.h"

/* In order, as few values are summed: the losses of rows. */
ka_status sum_cpu(struct ka_dev *dev, const struct ka_sum_args *args) {
  (void)dev;
  int64_t n = ka_tensor_elems(&args->x);
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += ka_load(args->x.data, args->x.dtype, i);
  *(double *)args->out.data += sum;
  return KA_STATUS_OK;
}

ka_status sumsq_cpu(struct ka_dev *dev, const struct ka_sumsq_args *args) {
  enum { GROUP = 8192 };
  struct ka_ctx *ctx = dev->ctx;
  int64_t n = ka_tensor_elems(&args->x), n_groups = (n + GROUP - 1) / GROUP;
  const float *x = args->x.data;
  void *scratch;
  KA_TRY(cpu_scratch(dev, (size_t)n_groups * sizeof(double), &scratch));
  double *parts = scratch, total = 0;
#pragma omp parallel for if (n > CPU_PARALLEL)
  for (int64_t g = 0; g < n_groups; g++) {
    double sum = 0;
    const float *p = x + g * GROUP;
    int64_t len = min64(GROUP, n - g * GROUP);
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < len; i++) sum += (double)p[i] * (double)p[i];
    parts[g] = sum;
  }
  for (int64_t g = 0; g < n_groups; g++) total += parts[g];
  *(double *)args->out.data += total;
  return KA_STATUS_OK;
}

struct step {
  float decay, pull, mix1, beta2, mix2, size, correction, eps, clip;
};

/* Blocks of at most CPU_BLOCK elements: f32 in the tensors' own memory, bf16 on a copy. */
static void update(struct step s, int64_t n, float *restrict w, float *restrict m,
                   float *restrict v, const float *restrict grad, const float *restrict w0) {
  if (w0) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) w[i] = w[i] * s.decay - s.pull * (w[i] - w0[i]);
    s.decay = 1;
  }
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    float g = grad[i] * s.clip;
    m[i] = m[i] + s.mix1 * (g - m[i]);
    v[i] = v[i] * s.beta2 + s.mix2 * g * g;
    w[i] = w[i] * s.decay - s.size * (m[i] / (sqrtf(v[i]) / s.correction + s.eps));
  }
}

/* As update, for state in bf16. The new moments are rounded before the weight is made of them. */
static void update_bf16(const struct ka_adamw_args *args, struct step s, int64_t at, int64_t n,
                        uint16_t *w, const float *w0) {
  uint16_t *m = (uint16_t *)args->m.data + at, *v = (uint16_t *)args->v.data + at;
  const float *grad = (const float *)args->grad.data + at;
  for (int64_t i = 0; i < n; i++) {
    uint32_t random[4];
    ka_adamw_random(args, at + i, random);
    float g = grad[i] * s.clip, old = ka_bf16_to_f32(m[i]);
    m[i] = ka_f32_to_bf16_stochastic(old + s.mix1 * (g - old), random[1] & 0xffff);
    v[i] = ka_f32_to_bf16_stochastic(ka_bf16_to_f32(v[i]) * s.beta2 + s.mix2 * g * g,
                                     random[2] & 0xffff);
    float size =
        s.size * (ka_bf16_to_f32(m[i]) / (sqrtf(ka_bf16_to_f32(v[i])) / s.correction + s.eps));
    float before = ka_bf16_to_f32(w[i]), kept = before * s.decay;
    if (w0) kept -= s.pull * (before - w0[i]);
    w[i] = ka_f32_to_bf16_stochastic(kept - size, random[0] & 0xffff);
  }
}

/* n elements of w as the compute weight, which start at element `to` of its memory. */
static void write_weight(const struct ka_tensor *weight, int64_t to, const struct ka_tensor *w,
                         int64_t from, int64_t n) {
  if (weight->data == w->data) return;
  ka_convert((char *)weight->data + (size_t)to * ka_dtype_bytes(weight->dtype), weight->dtype,
             (const char *)w->data + (size_t)from * ka_dtype_bytes(w->dtype), w->dtype, n);
}

/* Elements [at, at + n), all of one row. */
static void part(const struct ka_adamw_args *args, struct step s, const struct ka_tensor *weight,
                 const struct ka_tensor *w, int64_t at, int64_t n) {
  int64_t row = at / w->shape[1], col = at % w->shape[1], from = row * w->row_stride + col;
  struct ka_tensor base = ref_rows(args->w0);
  float buf[CPU_BLOCK];
  const float *w0 = base.data ? load_block(&base, row * base.row_stride + col, n, buf) : NULL;
  if (w->dtype == KA_F32)
    update(s, n, (float *)w->data + from, (float *)args->m.data + at, (float *)args->v.data + at,
           (const float *)args->grad.data + at, w0);
  else
    update_bf16(args, s, at, n, (uint16_t *)w->data + from, w0);
  write_weight(weight, row * weight->row_stride + col, w, from, n);
}

ka_status adamw_cpu(struct ka_dev *dev, const struct ka_adamw_args *args) {
  (void)dev;
  int64_t n = ka_tensor_elems(&args->w);
  double correction1 = 1 - pow(args->beta1, (double)args->t);
  double correction2 = 1 - pow(args->beta2, (double)args->t);
  double clip = ka_adamw_clip(args);
  if (isnan(clip)) return KA_STATUS_OK;
  struct step s = {.decay = (float)(1 - args->lr * args->weight_decay),
                   .pull = (float)(args->lr * args->pull),
                   .mix1 = (float)(1 - args->beta1),
                   .beta2 = (float)args->beta2,
                   .mix2 = (float)(1 - args->beta2),
                   .size = (float)(args->lr / correction1),
                   .correction = (float)sqrt(correction2),
                   .eps = (float)args->eps,
                   .clip = (float)clip};
  struct ka_tensor weight = ref_rows(args->weight), w = ref_rows(args->w);
#pragma omp parallel for if (n > CPU_PARALLEL)
  for (int64_t i = 0; i < n; i += CPU_BLOCK) {
    int64_t end = min64(n, i + CPU_BLOCK);
    for (int64_t at = i, len; at < end; at += len) {
      len = min64(end - at, w.shape[1] - at % w.shape[1]);
      part(args, s, &weight, &w, at, len);
    }
  }
  return KA_STATUS_OK;
}
