/* SPDX-License-Identifier: Apache-2.0
 * Cross-entropy of rows of logits, and the logits' gradient in place: p - onehot. */
#include "kernels/ref/ref.h"

#include <math.h>

static double capped(double logit, double cap) { return cap > 0 ? cap * tanh(logit / cap) : logit; }

static void one_row(const struct ka_xent_args *args, int64_t r) {
  const struct ka_tensor *logits = &args->logits;
  int64_t n_classes = logits->shape[1], target = get_id(&args->targets, r), best = 0;
  double cap = args->softcap, max = -INFINITY, sum = 0;
  for (int64_t c = 0; c < n_classes; c++) {
    double z = capped(get2(logits, r, c), cap);
    if (z > max) best = c;
    if (z > max || isnan(z)) max = z;
  }
  for (int64_t c = 0; c < n_classes; c++) sum += exp(capped(get2(logits, r, c), cap) - max);
  double lse = max + log(sum);
  put(&args->loss, r, target < 0 ? 0 : lse - capped(get2(logits, r, target), cap));
  if (args->argmax.data) ((int32_t *)args->argmax.data)[r] = (int32_t)best;
  if (!args->backward) return;
  double scale = args->grad_scale * (args->scale.data ? get(&args->scale, 0) : 1);
  for (int64_t c = 0; c < n_classes; c++) {
    double z = capped(get2(logits, r, c), cap), d = exp(z - lse) - (c == target ? 1 : 0);
    if (cap > 0) d *= 1 - z / cap * (z / cap);
    put2(logits, r, c, target < 0 ? 0 : scale * d);
  }
}

ka_status xent_ref(struct ka_dev *dev, const struct ka_xent_args *args) {
  (void)dev;
  int64_t n_rows = args->logits.shape[0];
#pragma omp parallel for
  for (int64_t r = 0; r < n_rows; r++) one_row(args, r);
  return KA_STATUS_OK;
}
