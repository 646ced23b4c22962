/* SPDX-License-Identifier: Apache-2.0
 * Cross-entropy of rows of logits, the divergence from a base's, and the logits' gradient in place:
 * ce_weight (p - onehot) + kl_weight (p - p0). */
#include "kernels/ref/ref.h"

#include <math.h>
#include <stdlib.h>

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

/* Entropy of the softmax over the largest z; n_top passes, each behind the last one's place. */
static double top_entropy(const struct ka_xent_args *args, int64_t r) {
  int64_t n_classes = args->logits.shape[1], at = -1;
  double last = INFINITY, first = 0, sum = 0, dot = 0;
  for (int64_t k = 0; k < KA_EAFT_TOP && k < n_classes; k++) {
    int64_t best = -1;
    for (int64_t c = 0; c < n_classes; c++) {
      double z = score(args, &args->logits, r, c);
      if (z > last || (z == last && c <= at)) continue;
      if (best < 0 || z > score(args, &args->logits, r, best)) best = c;
    }
    if (best < 0) break; /* NaN */
    last = score(args, &args->logits, r, at = best);
    if (k == 0) first = last;
    sum += exp(last - first);
    dot += exp(last - first) * (last - first);
  }
  return log(sum) - dot / sum;
}

static double row_weight(const struct ka_xent_args *args, int64_t r, double loss) {
  double w = args->ce_weight * (args->weight.data ? get(&args->weight, r) : 1);
  if (args->weigh == KA_WEIGH_DFT) w *= exp(-loss);
  if (args->weigh == KA_WEIGH_EAFT) w *= top_entropy(args, r) / 3;
  return w;
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
  double w = target < 0 ? 0 : row_weight(args, r, lse - score(args, logits, r, target));
  double scale = args->grad_scale * (args->scale.data ? get(&args->scale, 0) : 1);
  for (int64_t c = 0; c < logits->shape[1]; c++) {
    double z = score(args, logits, r, c), p = exp(z - lse);
    double d = w * (p - (c == target ? 1 : 0));
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

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Rows [first, end); sorted: scratch. */
static void weigh_group(const struct ka_loss_weights_args *args, int64_t first, int64_t end,
                        double *sorted) {
  int64_t n = end - first;
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sorted[i] = get(&args->loss, first + i);
  qsort(sorted, (size_t)n, sizeof *sorted, by_value);
  double tau = sorted[(n - 1) / 2];
  for (int64_t i = first; i < end; i++) sum += tau > 0 ? exp(-get(&args->loss, i) / tau) : 1;
  for (int64_t i = first; i < end; i++) {
    double e = tau > 0 ? exp(-get(&args->loss, i) / tau) : 1;
    put(&args->weight, i, get_id(&args->group, i) < 0 ? 0 : e * (double)n / sum);
  }
}

ka_status loss_weights_ref(struct ka_dev *dev, const struct ka_loss_weights_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  int64_t n_rows = args->loss.shape[0];
  void *sorted;
  KA_TRY(ka_alloc_n(ctx, &sorted, n_rows, sizeof(double), "losses"));
  for (int64_t first = 0, end; first < n_rows; first = end) {
    int64_t group = get_id(&args->group, first);
    for (end = first + 1; end < n_rows && get_id(&args->group, end) == group;) end++;
    weigh_group(args, first, end, sorted);
  }
  ka_free(sorted);
  return KA_STATUS_OK;
}
