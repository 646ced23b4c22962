/* SPDX-License-Identifier: Apache-2.0
 * Items of all documents to one value; standard errors by formula or by drawing documents anew,
 * with the harness's generator and seeds, so that they are the same numbers. */
#include "engine/eval/metrics.h"

#include "base/arena.h"
#include "python/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 1000 }; /* draws by one generator */

/* tmp: room for n numbers. NaN: the items do not fit together (the caller has checked). */
typedef double aggregate_function(const struct ka_eval_metric_item *x, int64_t n, double *tmp);

static double sum(const struct ka_eval_metric_item *x, int64_t n) {
  double s = 0;
  for (int64_t i = 0; i < n; i++) s += x[i].a;
  return s;
}

static double weighted(const struct ka_eval_metric_item *x, int64_t n) {
  double weights = 0;
  for (int64_t i = 0; i < n; i++) weights += x[i].b;
  return sum(x, n) / weights;
}

static double agg_mean(const struct ka_eval_metric_item *x, int64_t n, double *tmp) {
  (void)tmp;
  return sum(x, n) / (double)n;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

static double agg_median(const struct ka_eval_metric_item *x, int64_t n, double *tmp) {
  for (int64_t i = 0; i < n; i++) tmp[i] = x[i].a;
  qsort(tmp, (size_t)n, sizeof *tmp, ascending);
  return tmp[n / 2];
}

static double agg_nanmean(const struct ka_eval_metric_item *x, int64_t n, double *tmp) {
  (void)tmp;
  double s = 0;
  int64_t count = 0;
  for (int64_t i = 0; i < n; i++) {
    if (isnan(x[i].a)) continue;
    s += x[i].a;
    count++;
  }
  return s / (double)count;
}

static double agg_perplexity(const struct ka_eval_metric_item *x, int64_t n, double *tmp) {
  return exp(-agg_mean(x, n, tmp));
}

static double agg_weighted_perplexity(const struct ka_eval_metric_item *x, int64_t n, double *tmp) {
  (void)tmp;
  return exp(-weighted(x, n));
}

static double agg_error_rate(const struct ka_eval_metric_item *x, int64_t n, double *tmp) {
  (void)tmp;
  return weighted(x, n);
}

static double agg_bits_per_byte(const struct ka_eval_metric_item *x, int64_t n, double *tmp) {
  (void)tmp;
  return -weighted(x, n) / M_LN2;
}

static double agg_f1(const struct ka_eval_metric_item *x, int64_t n, double *tmp) {
  (void)tmp;
  int64_t both = 0, either = 0; /* of right and chosen */
  for (int64_t i = 0; i < n; i++) {
    both += x[i].a == 1 && x[i].b == 1;
    either += (x[i].a == 1) + (x[i].b == 1);
  }
  return either > 0 ? 2.0 * (double)both / (double)either : 0;
}

/* Gorodkin 2004, from the counts of each class among the right (t) and the chosen (p). */
static double agg_matthews_corrcoef(const struct ka_eval_metric_item *x, int64_t n, double *tmp) {
  (void)tmp;
  double right = 0, tp = 0, pp = 0, tt = 0, m = (double)n;
  double most = 0;
  for (int64_t i = 0; i < n; i++) most = fmax(most, fmax(x[i].a, x[i].b));
  for (int64_t k = 0; k <= (int64_t)most; k++) {
    double t = 0, p = 0;
    for (int64_t i = 0; i < n; i++) {
      t += x[i].a == (double)k;
      p += x[i].b == (double)k;
      right += x[i].a == (double)k && x[i].b == (double)k;
    }
    tp += t * p;
    pp += p * p;
    tt += t * t;
  }
  double below = (m * m - pp) * (m * m - tt);
  return below == 0 ? 0 : (right * m - tp) / sqrt(below);
}

static double agg_brier_score(const struct ka_eval_metric_item *x, int64_t n, double *tmp) {
  (void)tmp;
  double s = 0;
  for (int64_t i = 0; i < n; i++)
    for (int64_t k = 0; k < x[i].n; k++) {
      double d = x[i].p[k] - ((double)k == x[i].a ? 1 : 0);
      s += d * d;
    }
  return s / (double)n;
}

static aggregate_function *const functions[] = {
#define KA_AGGREGATION(name, ...) agg_##name,
#include "engine/eval/metrics.def"
};

/* What the harness's libraries refuse too. */
static ka_status check(struct ka_ctx *ctx, const struct ka_eval_aggregation *a,
                       const struct ka_eval_metric_item *x, int64_t n) {
  bool f1 = functions[a - ka_aggregations] == agg_f1;
  for (int64_t i = 0; i < n; i++) {
    if (f1 && (x[i].a < 0 || x[i].a > 1 || x[i].b > 1))
      return ka_fail(ctx, KA_E_INPUT, "f1: got choice %g, expected two choices, 0 and 1",
                     x[i].a < 0 || x[i].a > 1 ? x[i].a : x[i].b);
    if (a->items != KA_ITEMS_PROBABILITIES) continue;
    if (x[i].n != x[0].n || x[i].a < 0 || x[i].a >= (double)x[i].n)
      return ka_fail(ctx, KA_E_INPUT,
                     "brier_score: every document needs as many choices, one of them right");
  }
  return KA_STATUS_OK;
}

ka_status ka_eval_aggregate(struct ka_ctx *ctx, const struct ka_eval_aggregation *a,
                            const struct ka_eval_metric_item *items, int64_t n, double *out) {
  void *tmp;
  KA_TRY(check(ctx, a, items, n));
  KA_TRY(ka_alloc_n(ctx, &tmp, n, sizeof(double), "metric"));
  *out = functions[a - ka_aggregations](items, n, tmp);
  ka_free(tmp);
  return KA_STATUS_OK;
}

/* --- standard errors --------------------------------------------------------- */

static double sample_deviation(const double *x, int64_t n) {
  double mean = 0, s = 0;
  for (int64_t i = 0; i < n; i++) mean += x[i];
  mean /= (double)n;
  for (int64_t i = 0; i < n; i++) s += (x[i] - mean) * (x[i] - mean);
  return sqrt(s / (double)(n - 1));
}

/* Draws chunk `c` of `draws` values; its generator is Random(c). */
static void draw_chunk(aggregate_function *f, const struct ka_eval_metric_item *items, int64_t n,
                       int64_t c, int64_t draws, struct ka_eval_metric_item *drawn, double *tmp,
                       double *out) {
  struct ka_py_mt mt;
  ka_py_mt_seed(&mt, (uint64_t)c);
  for (int64_t i = 0; i < draws; i++) {
    for (int64_t k = 0; k < n; k++) drawn[k] = items[ka_py_mt_choice_index(&mt, (double)n)];
    out[c * draws + i] = f(drawn, n, tmp);
  }
}

static ka_status bootstrap(struct ka_ctx *ctx, aggregate_function *f,
                           const struct ka_eval_metric_item *items, int64_t n, int64_t iters,
                           double *out) {
  int64_t draws = iters < CHUNK ? iters : CHUNK, n_chunks = iters / draws;
  void *values;
  bool failed = false;
  KA_TRY(ka_alloc_n(ctx, &values, n_chunks * draws, sizeof(double), "bootstrap"));
#pragma omp parallel
  {
    struct ka_eval_metric_item *drawn = malloc((size_t)n * sizeof *drawn);
    double *tmp = malloc((size_t)n * sizeof *tmp);
#pragma omp for schedule(dynamic)
    for (int64_t c = 0; c < n_chunks; c++) {
      if (ka_interrupted(ctx)) continue;
      if (drawn && tmp)
        draw_chunk(f, items, n, c, draws, drawn, tmp, values);
      else
#pragma omp atomic write
        failed = true;
    }
    free(drawn);
    free(tmp);
  }
  *out = sample_deviation(values, n_chunks * draws);
  ka_free(values);
  KA_TRY(ka_check_interrupted(ctx, "evaluation"));
  return failed ? ka_fail(ctx, KA_E_MEMORY, "bootstrap: out of memory") : KA_STATUS_OK;
}

ka_status ka_eval_aggregate_stderr(struct ka_ctx *ctx, const struct ka_eval_aggregation *a,
                                   const struct ka_eval_metric_item *items, int64_t n,
                                   int64_t bootstrap_iters, double *out) {
  *out = NAN;
  if (n < 2 || bootstrap_iters <= 0 || a->stderr_kind == KA_STDERR_NONE) return KA_STATUS_OK;
  if (a->stderr_kind == KA_STDERR_BOOTSTRAP)
    return bootstrap(ctx, functions[a - ka_aggregations], items, n, bootstrap_iters, out);
  void *values;
  KA_TRY(ka_alloc_n(ctx, &values, n, sizeof(double), "metric"));
  for (int64_t i = 0; i < n; i++) ((double *)values)[i] = items[i].a;
  *out = sample_deviation(values, n) / sqrt((double)n);
  ka_free(values);
  return KA_STATUS_OK;
}

/* --- groups ------------------------------------------------------------------ */

double ka_eval_group_mean(const double *values, const int64_t *sizes, int64_t n, bool by_size) {
  double s = 0, total = 0;
  for (int64_t i = 0; i < n; i++) {
    double w = by_size ? (double)sizes[i] : 1;
    s += values[i] * w;
    total += w;
  }
  return s / total;
}

double ka_eval_group_stderr(const double *stderrs, const int64_t *sizes, int64_t n, bool by_size) {
  double s = 0, total = 0;
  for (int64_t i = 0; i < n; i++) {
    double size = (double)sizes[i], var = stderrs[i] * stderrs[i];
    s += by_size ? (size - 1) * var * size : var;
    total += size;
  }
  return by_size ? sqrt(s / (total - (double)n) / total) : sqrt(s) / (double)n;
}
