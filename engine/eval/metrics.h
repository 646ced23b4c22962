/* SPDX-License-Identifier: Apache-2.0
 *
 * From a document's answers to a metric's item, from all items to one value and its standard error:
 * tables of metrics and aggregations (metrics.def). Knows no requests and no models. */
#ifndef KAPPA_ENGINE_EVAL_METRICS_H
#define KAPPA_ENGINE_EVAL_METRICS_H

#include "base/json.h"

enum ka_eval_items { KA_ITEMS_VALUE, KA_ITEMS_WEIGHTED, KA_ITEMS_PAIR, KA_ITEMS_PROBABILITIES };
enum ka_eval_stderr_kind { KA_STDERR_NONE, KA_STDERR_FORMULA, KA_STDERR_BOOTSTRAP };
enum ka_eval_chance { KA_CHANCE_NONE, KA_CHANCE_ZERO, KA_CHANCE_CHOICES };

/* What a metric makes of one document. VALUE: a. WEIGHTED: a of weight b. PAIR: right a, chosen b.
 * PROBABILITIES: right a, p[n] borrowed. */
struct ka_eval_metric_item {
  double a, b;
  const double *p;
  int64_t n;
};

/* A document's answers. Multiple choice: log-likelihoods of n choices, also without context when
 * that was asked; their lengths. */
struct ka_eval_answers {
  int64_t n;
  const double *ll, *ll_alone; /* [n]; ll_alone NULL: not asked */
  const bool *greedy;          /* [n] */
  const int64_t *chars, *bytes;
  const int64_t *gold; /* [n_gold] right choices; from -n; below: out of range, wrong */
  int64_t n_gold;
  double *p;      /* [n]: probabilities, written by brier_score */
  int64_t weight; /* of WEIGHTED */
};

struct ka_eval_metric {
  const char *name, *outputs;
  enum ka_eval_items items;
  const char *aggregation;
  bool higher_is_better;
  const char *dflt;
  enum ka_eval_chance chance;
  const char *doc;
};
struct ka_eval_aggregation {
  const char *name;
  enum ka_eval_items items;
  enum ka_eval_stderr_kind stderr_kind;
  const char *doc;
};

/* End with a NULL name. */
extern const struct ka_eval_metric ka_metrics[];
extern const struct ka_eval_aggregation ka_aggregations[];
const struct ka_eval_metric *ka_eval_metric_find(const char *name);
const struct ka_eval_aggregation *ka_eval_aggregation_find(const char *name);

/* The item of a loglikelihood, rolling (ll[0], greedy[0], weight) or multiple choice document; not
 * for generated texts. KA_E_INPUT: a metric that one right choice is not enough for. */
ka_status ka_eval_metric_score(struct ka_ctx *ctx, const struct ka_eval_metric *m,
                               const struct ka_eval_answers *answers,
                               struct ka_eval_metric_item *out);

/* One value of n > 0 items; the standard error is NaN where there is none. KA_E_INPUT: items that
 * do not fit together. */
ka_status ka_eval_aggregate(struct ka_ctx *ctx, const struct ka_eval_aggregation *a,
                            const struct ka_eval_metric_item *items, int64_t n, double *out);
ka_status ka_eval_aggregate_stderr(struct ka_ctx *ctx, const struct ka_eval_aggregation *a,
                                   const struct ka_eval_metric_item *items, int64_t n,
                                   int64_t bootstrap_iters, double *out);

/* A group's value of n tasks: by their documents, or each the same; standard errors as the harness
 * pools them. */
double ka_eval_group_mean(const double *values, const int64_t *sizes, int64_t n, bool by_size);
double ka_eval_group_stderr(const double *stderrs, const int64_t *sizes, int64_t n, bool by_size);

#endif
