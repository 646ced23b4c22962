/* SPDX-License-Identifier: Apache-2.0
 * Sum of squares, and torch.optim.AdamW (Loshchilov and Hutter 2019, algorithm 2) in f32 with
 * torch's order of operations. */
#include "kernels/cpu/vec.h"

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
  float decay, mix1, beta2, mix2, size, correction, eps, grad_scale;
};

static void update(const struct ka_adamw_args *args, struct step s, int64_t at, int64_t n) {
  float *restrict w = (float *)args->w.data + at;
  float *restrict m = (float *)args->m.data + at, *restrict v = (float *)args->v.data + at;
  const float *restrict grad = (const float *)args->grad.data + at;
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    float g = grad[i] * s.grad_scale;
    m[i] = m[i] + s.mix1 * (g - m[i]);
    v[i] = v[i] * s.beta2 + s.mix2 * g * g;
    w[i] = w[i] * s.decay - s.size * (m[i] / (sqrtf(v[i]) / s.correction + s.eps));
  }
}

/* Elements [at, at + n) of w as the compute weight, whose rows may be apart. */
static void write_weight(const struct ka_adamw_args *args, const struct ka_tensor *weight,
                         int64_t at, int64_t n) {
  const float *w = args->w.data;
  int64_t width = weight->shape[1];
  while (n > 0) {
    int64_t len = min64(n, width - at % width);
    int64_t to = at / width * weight->row_stride + at % width;
    if (weight->dtype == KA_BF16) {
      store_block(weight, to, len, w + at);
    } else if (weight->data != args->w.data) {
      float *out = (float *)weight->data + to;
      for (int64_t i = 0; i < len; i++) out[i] = w[at + i];
    }
    at += len;
    n -= len;
  }
}

ka_status adamw_cpu(struct ka_dev *dev, const struct ka_adamw_args *args) {
  (void)dev;
  int64_t n = ka_tensor_elems(&args->w);
  double correction1 = 1 - pow(args->beta1, (double)args->t);
  double correction2 = 1 - pow(args->beta2, (double)args->t);
  struct step s = {.decay = (float)(1 - args->lr * args->weight_decay),
                   .mix1 = (float)(1 - args->beta1),
                   .beta2 = (float)args->beta2,
                   .mix2 = (float)(1 - args->beta2),
                   .size = (float)(args->lr / correction1),
                   .correction = (float)sqrt(correction2),
                   .eps = (float)args->eps,
                   .grad_scale = (float)args->grad_scale};
  struct ka_tensor weight = ref_rows(args->weight);
#pragma omp parallel for if (n > CPU_PARALLEL)
  for (int64_t i = 0; i < n; i += CPU_BLOCK) {
    update(args, s, i, min64(CPU_BLOCK, n - i));
    write_weight(args, &weight, i, min64(CPU_BLOCK, n - i));
  }
  return KA_STATUS_OK;
}
