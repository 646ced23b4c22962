/* SPDX-License-Identifier: Apache-2.0
 * See divergence.h. */
#include "engine/eval/divergence.h"

#include "base/arena.h"

#include <math.h>

enum { CHUNK_BYTES = 16 << 20 }; /* of one model's logits */

static double log_sum_exp(const float *x, int64_t n) {
  double most = -INFINITY, sum = 0;
  for (int64_t i = 0; i < n; i++) most = fmax(most, (double)x[i]);
  for (int64_t i = 0; i < n; i++) sum += exp((double)x[i] - most);
  return most + log(sum);
}

double ka_eval_divergence_row(const float *p, const float *q, int64_t V) {
  double zp = log_sum_exp(p, V), zq = log_sum_exp(q, V), kl = 0;
  for (int64_t i = 0; i < V; i++) {
    double lp = (double)p[i] - zp, weight = exp(lp);
    kl += weight == 0 ? 0 : weight * (lp - ((double)q[i] - zq));
  }
  return isnan(kl) ? NAN : fmax(0, kl); /* rounding alone can make it negative */
}

/* Does the row predict a target? */
static bool predicts(const struct ka_batch *b, int64_t row) {
  int64_t t = row % b->T + 1;
  return t < b->T && b->labels[row + 1] != KA_LABEL_MASKED && b->doc_start[row + 1] < t;
}

static ka_status chunk(struct ka_model *base, struct ka_model *tuned, const struct ka_batch *batch,
                       int64_t first, int64_t n, float *p, float *q, double *rows) {
  struct ka_ctx *ctx = tuned->ctx;
  int64_t V = base->recipe.V;
  KA_TRY(ka_model_logits(base, first, n, p));
  KA_TRY(ka_model_logits(tuned, first, n, q));
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < n; i++)
    rows[i] = predicts(batch, first + i) ? ka_eval_divergence_row(p + i * V, q + i * V, V) : 0;
  return KA_STATUS_OK;
}

static int64_t rows_at_once(int64_t n_rows, int64_t V) {
  int64_t most = CHUNK_BYTES / (int64_t)sizeof(float) / V;
  return most < 1 ? 1 : most > n_rows ? n_rows : most;
}

double ka_eval_divergence_bytes(int64_t n_rows, int64_t V) {
  return (double)rows_at_once(n_rows, V) * (2.0 * (double)V * sizeof(float) + sizeof(double));
}

ka_status ka_eval_divergence(struct ka_ctx *ctx, struct ka_model *base, struct ka_model *tuned,
                             const struct ka_batch *batch, double *kl) {
  int64_t V = base->recipe.V, N = batch->B * batch->T;
  int64_t step = rows_at_once(N, V);
  void *p = NULL, *q = NULL, *rows = NULL;
  ka_status st = KA_STATUS_OK;
  if (tuned->recipe.V != V)
    return ka_fail(ctx, KA_E_INPUT,
                   "the base predicts %lld tokens, the tuned model %lld: they cannot be compared",
                   (long long)V, (long long)tuned->recipe.V);
  KA_TRY_GOTO(ka_alloc_n(ctx, &p, step * V, sizeof(float), "logits of the base"), out);
  KA_TRY_GOTO(ka_alloc_n(ctx, &q, step * V, sizeof(float), "logits"), out);
  KA_TRY_GOTO(ka_alloc_n(ctx, &rows, step, sizeof(double), "divergence"), out);
  KA_TRY_GOTO(ka_model_forward(base, batch, NULL, NULL), out);
  KA_TRY_GOTO(ka_model_forward(tuned, batch, NULL, NULL), out);
  for (int64_t first = 0; first < N; first += step) {
    int64_t n = N - first < step ? N - first : step;
    KA_TRY_GOTO(chunk(base, tuned, batch, first, n, p, q, rows), out);
    for (int64_t i = 0; i < n; i++) *kl += ((double *)rows)[i];
  }
out:
  ka_free(p);
  ka_free(q);
  ka_free(rows);
  return st;
}
