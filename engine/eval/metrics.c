/* SPDX-License-Identifier: Apache-2.0
 * The tables, and the items of documents. */
#include "engine/eval/metrics.h"

#include <math.h>
#include <string.h>

/* numpy's argmax: the first of the largest, or the first NaN. */
static int64_t argmax(const double *x, int64_t n) {
  int64_t best = 0;
  for (int64_t i = 0; i < n; i++) {
    if (isnan(x[i])) return i;
    if (x[i] > x[best]) best = i;
  }
  return best;
}

/* The choice with the largest ll[i] / by[i] (or - alone[i]). */
static int64_t chosen(const struct ka_eval_answers *a, const int64_t *by, const double *alone) {
  double best = 0;
  int64_t at = -1;
  for (int64_t i = 0; i < a->n; i++) {
    double x = by ? a->ll[i] / (double)by[i] : alone ? a->ll[i] - alone[i] : a->ll[i];
    if (isnan(x)) return i;
    if (at < 0 || x > best) {
      best = x;
      at = i;
    }
  }
  return at;
}

static double is_gold(const struct ka_eval_answers *a, int64_t choice) {
  for (int64_t i = 0; i < a->n_gold; i++)
    if (a->gold[i] == choice) return 1;
  return 0;
}

/* Python's index: from the end when negative. */
static bool gold_index(const struct ka_eval_answers *a, int64_t i, int64_t *index) {
  *index = a->gold[i] < 0 ? a->gold[i] + a->n : a->gold[i];
  return *index >= 0 && *index < a->n;
}

typedef void score_function(const struct ka_eval_answers *a, struct ka_eval_metric_item *out);

static void score_acc(const struct ka_eval_answers *a, struct ka_eval_metric_item *out) {
  out->a = a->n_gold == 0 ? a->greedy[0] : is_gold(a, argmax(a->ll, a->n));
}
static void score_acc_norm(const struct ka_eval_answers *a, struct ka_eval_metric_item *out) {
  out->a = is_gold(a, chosen(a, a->chars, NULL));
}
static void score_acc_bytes(const struct ka_eval_answers *a, struct ka_eval_metric_item *out) {
  out->a = is_gold(a, chosen(a, a->bytes, NULL));
}
static void score_acc_mutual_info(const struct ka_eval_answers *a,
                                  struct ka_eval_metric_item *out) {
  out->a = is_gold(a, chosen(a, NULL, a->ll_alone));
}
static void score_exact_match(const struct ka_eval_answers *a, struct ka_eval_metric_item *out) {
  int64_t index;
  for (int64_t i = 0; i < a->n_gold; i++)
    if (gold_index(a, i, &index) && a->greedy[index]) out->a = 1;
}
static void score_pair(const struct ka_eval_answers *a, struct ka_eval_metric_item *out) {
  out->a = (double)a->gold[0];
  out->b = (double)argmax(a->ll, a->n);
}
#define score_f1 score_pair
#define score_mcc score_pair
static void score_prob_mass(const struct ka_eval_answers *a, struct ka_eval_metric_item *out) {
  double max = a->ll[argmax(a->ll, a->n)], sum = 0, right = 0;
  for (int64_t i = 0; i < a->n; i++) {
    bool is_right = is_gold(a, i) > 0 || is_gold(a, i - a->n) > 0;
    sum += exp(a->ll[i] - max);
    if (is_right) right += exp(a->ll[i] - max);
  }
  out->a = right / sum;
}
static void score_brier_score(const struct ka_eval_answers *a, struct ka_eval_metric_item *out) {
  double max = a->ll[argmax(a->ll, a->n)], sum = 0;
  for (int64_t i = 0; i < a->n; i++) sum += a->p[i] = exp(a->ll[i] - max);
  for (int64_t i = 0; i < a->n; i++) a->p[i] /= sum;
  *out = (struct ka_eval_metric_item){.a = (double)a->gold[0], .p = a->p, .n = a->n};
}
static void score_perplexity(const struct ka_eval_answers *a, struct ka_eval_metric_item *out) {
  out->a = a->ll[0];
}
static void score_weighted(const struct ka_eval_answers *a, struct ka_eval_metric_item *out) {
  out->a = a->ll[0];
  out->b = (double)a->weight;
}
#define score_word_perplexity score_weighted
#define score_byte_perplexity score_weighted
#define score_bits_per_byte score_weighted
#define score_token_perplexity score_weighted
#define score_wer score_weighted /* of texts: error_rate.h */
#define score_cer score_weighted

#define ROW(name, outputs, items, aggregation, higher, dflt, chance, doc)                          \
  {#name, outputs, KA_ITEMS_##items, #aggregation, higher, dflt, KA_CHANCE_##chance, doc},
const struct ka_eval_metric ka_metrics[] = {
#define KA_METRIC ROW
#include "engine/eval/metrics.def"
    {0}};

static score_function *const functions[] = {
#define KA_METRIC(name, ...) score_##name,
#include "engine/eval/metrics.def"
};

const struct ka_eval_aggregation ka_aggregations[] = {
#define KA_AGGREGATION(name, items, stderr_kind, doc)                                              \
  {#name, KA_ITEMS_##items, KA_STDERR_##stderr_kind, doc},
#include "engine/eval/metrics.def"
    {0}};

const struct ka_eval_metric *ka_eval_metric_find(const char *name) {
  for (const struct ka_eval_metric *m = ka_metrics; m->name; m++)
    if (strcmp(m->name, name) == 0) return m;
  return NULL;
}

const struct ka_eval_aggregation *ka_eval_aggregation_find(const char *name) {
  for (const struct ka_eval_aggregation *a = ka_aggregations; a->name; a++)
    if (strcmp(a->name, name) == 0) return a;
  return NULL;
}

ka_status ka_eval_metric_score(struct ka_ctx *ctx, const struct ka_eval_metric *m,
                               const struct ka_eval_answers *answers,
                               struct ka_eval_metric_item *out) {
  *out = (struct ka_eval_metric_item){0};
  if ((m->items == KA_ITEMS_PAIR || m->items == KA_ITEMS_PROBABILITIES) && answers->n_gold != 1)
    return ka_fail(ctx, KA_E_INPUT, "%s needs one right choice, got %lld", m->name,
                   (long long)answers->n_gold);
  functions[m - ka_metrics](answers, out);
  return KA_STATUS_OK;
}
