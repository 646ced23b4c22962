/* SPDX-License-Identifier: Apache-2.0
 * The optimizer's two ops: sum of squares, and torch.optim.AdamW (Loshchilov and Hutter 2019,
 * algorithm 2). The moments are used as stored, rounded to f32. */
#include "kernels/ref/ref.h"

#include <math.h>

ka_status sumsq_ref(struct ka_dev *dev, const struct ka_sumsq_args *args) {
  (void)dev;
  int64_t n = ka_tensor_elems(&args->x);
  long double sum = 0; /* so that ref is the better of two sums in double */
  for (int64_t i = 0; i < n; i++) sum += get(&args->x, i) * get(&args->x, i);
  inc(&args->out, 0, (double)sum);
  return KA_STATUS_OK;
}

ka_status adamw_ref(struct ka_dev *dev, const struct ka_adamw_args *args) {
  (void)dev;
  struct ka_tensor weight = ref_rows(args->weight);
  int64_t n_cols = weight.shape[1];
  double step = args->lr / (1 - pow(args->beta1, (double)args->t));
  double correction = sqrt(1 - pow(args->beta2, (double)args->t));
#pragma omp parallel for
  for (int64_t r = 0; r < weight.shape[0]; r++)
    for (int64_t c = 0; c < n_cols; c++) {
      int64_t i = r * n_cols + c;
      double g = get(&args->grad, i) * args->grad_scale;
      double w = get(&args->w, i) * (1 - args->lr * args->weight_decay);
      inc(&args->m, i, (1 - args->beta1) * (g - get(&args->m, i)));
      put(&args->v, i, args->beta2 * get(&args->v, i) + (1 - args->beta2) * g * g);
      w -= step * get(&args->m, i) / (sqrt(get(&args->v, i)) / correction + args->eps);
      put(&args->w, i, w);
      put2(&weight, r, c, get(&args->w, i));
    }
  return KA_STATUS_OK;
}
