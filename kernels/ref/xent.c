/* SPDX-License-Identifier: Apache-2.0
 * Cross-entropy of rows of logits, the divergence from a base's, and the logits' gradient in place:
 * ce_weight (p - onehot) + kl_weight (p - p0). */
#include "kernels/ref/ref.h"

#include <math.h>

static double score(const struct ka_xent_args *args, const struct ka_tensor *t, int64_t r,
                    int64_t c) {
  double logit = get2(t, r, c), cap = args->softcap;
  return cap > 0 ? cap * tanh(logit / cap) : logit;
}

/* log sum exp of a row; *best: its first maximum. */
static double log_sum_exp(const struct ka_xent_args *args, const struct ka_tensor *t, int64_t r,
                          int64_t *best) {
  double max = -INFINITY, sum = 0;
  *best = 0;
  for (int64_t c = 0; c < t->shape[1]; c++) {
    double z = score(args, t, r, c);
    if (z > max) *best = c;
    if (z > max || isnan(z)) max = z;
  }
  for (int64_t c = 0; c < t->shape[1]; c++) sum += exp(score(args, t, r, c) - max);
  return max + log(sum);
}

static double divergence(const struct ka_xent_args *args, int64_t r, double lse, double lse0) {
  double sum = 0;
  for (int64_t c = 0; c < args->logits.shape[1]; c++) {
    double log_p = score(args, &args->logits, r, c) - lse;
    double log_p0 = score(args, &args->base, r, c) - lse0, p0 = exp(log_p0);
    if (p0 != 0) sum += p0 * (log_p0 - log_p);
  }
  return sum;
}

static void one_row(const struct ka_xent_args *args, int64_t r) {
  const struct ka_tensor *logits = &args->logits;
  bool with_base = args->base.data;
  int64_t target = get_id(&args->targets, r), best, ignored;
  double lse = log_sum_exp(args, logits, r, &best);
  double lse0 = with_base ? log_sum_exp(args, &args->base, r, &ignored) : 0;
  put(&args->loss, r, target < 0 ? 0 : lse - score(args, logits, r, target));
  if (with_base) put(&args->kl, r, target < 0 ? 0 : divergence(args, r, lse, lse0));
  if (args->argmax.data) ((int32_t *)args->argmax.data)[r] = (int32_t)best;
  if (!args->backward) return;
  double scale = args->grad_scale * (args->scale.data ? get(&args->scale, 0) : 1);
  for (int64_t c = 0; c < logits->shape[1]; c++) {
    double z = score(args, logits, r, c), p = exp(z - lse);
    double d = args->ce_weight * (p - (c == target ? 1 : 0));
    if (with_base) d += args->kl_weight * (p - exp(score(args, &args->base, r, c) - lse0));
    if (args->softcap > 0) d *= 1 - z / args->softcap * (z / args->softcap);
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
