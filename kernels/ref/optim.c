/* SPDX-License-Identifier: Apache-2.0
 * The optimizer's ops: sums, and torch.optim.AdamW (Loshchilov and Hutter 2019, algorithm 2). The
 * moments are used as stored, rounded to their dtype. */
#include "kernels/adamw.h"
#include "kernels/ref/ref.h"

#include <math.h>

ka_status sum_ref(struct ka_dev *dev, const struct ka_sum_args *args) {
  (void)dev;
  int64_t n = ka_tensor_elems(&args->x);
  long double sum = 0; /* so that ref is the better of two sums in double */
  for (int64_t i = 0; i < n; i++) sum += get(&args->x, i);
  inc(&args->out, 0, (double)sum);
  return KA_STATUS_OK;
}

ka_status sumsq_ref(struct ka_dev *dev, const struct ka_sumsq_args *args) {
  (void)dev;
  int64_t n = ka_tensor_elems(&args->x);
  long double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += get(&args->x, i) * get(&args->x, i);
  inc(&args->out, 0, (double)sum);
  return KA_STATUS_OK;
}

/* v rounded to the state's dtype: to nearest, or stochastically in bf16. */
static double keep(const struct ka_tensor *state, double v, uint32_t random) {
  if (state->dtype == KA_BF16)
    return ka_bf16_to_f32(ka_f32_to_bf16_stochastic((float)v, random & 0xffff));
  return (float)v;
}

ka_status adamw_ref(struct ka_dev *dev, const struct ka_adamw_args *args) {
  (void)dev;
  struct ka_tensor weight = ref_rows(args->weight), master = ref_rows(args->w);
  struct ka_tensor w0 = ref_rows(args->w0);
  int64_t n_cols = weight.shape[1];
  double step = args->lr / (1 - pow(args->beta1, (double)args->t));
  double correction = sqrt(1 - pow(args->beta2, (double)args->t));
  double clip = ka_adamw_clip(args);
  if (!isfinite(clip)) return KA_STATUS_OK;
#pragma omp parallel for
  for (int64_t r = 0; r < weight.shape[0]; r++)
    for (int64_t c = 0; c < n_cols; c++) {
      int64_t i = r * n_cols + c;
      uint32_t random[4] = {0};
      if (master.dtype == KA_BF16) ka_adamw_random(args, i, random);
      double g = get(&args->grad, i) * clip, old = get(&args->m, i);
      double before = get2(&master, r, c), w = before * (1 - args->lr * args->weight_decay);
      if (w0.data) w -= args->lr * args->pull * (before - get2(&w0, r, c));
      double m = keep(&args->m, old + (1 - args->beta1) * (g - old), random[1]);
      double v = args->beta2 * get(&args->v, i) + (1 - args->beta2) * g * g;
      v = keep(&args->v, v, random[2]);
      w = keep(&args->w, w - step * m / (sqrt(v) / correction + args->eps), random[0]);
      put(&args->m, i, m);
      put(&args->v, i, v);
      put2(&master, r, c, w);
      put2(&weight, r, c, w);
    }
  return KA_STATUS_OK;
}
