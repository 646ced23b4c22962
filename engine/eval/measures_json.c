/* SPDX-License-Identifier: Apache-2.0
 * Measures and what comes of them, as a report's JSON and as a table; see measures.h. */
#include "engine/eval/measures.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Of one measure on the way to the last stage, the value of the least gain. */
static double worst_of(const struct ka_measures *ms, const double *stages, int64_t n_stages,
                       int64_t i) {
  double worst = stages[i], least = 0;
  for (int64_t s = 1; s < n_stages; s++) {
    double value = stages[s * ms->n + i], gain = ka_eval_gain(&ms->items[i], stages[i], value);
    if (!(gain < least)) continue;
    least = gain;
    worst = value;
  }
  return worst;
}

static ka_status measure(const struct ka_measures *ms, const double *stages, int64_t n_stages,
                         const double *kl, int64_t i, json_t *list) {
  double base = stages[i], now = stages[(n_stages - 1) * ms->n + i];
  json_t *row = ka_measure_json(&ms->items[i]);
  struct ka_ctx *ctx = ms->ctx;
  KA_TRY(ka_json_append(ctx, list, row));
  KA_TRY(ka_json_set(ctx, row, "base", ka_json_real(base)));
  KA_TRY(ka_json_set(ctx, row, "value", ka_json_real(now)));
  KA_TRY(ka_json_set(ctx, row, "worst", ka_json_real(worst_of(ms, stages, n_stages, i))));
  KA_TRY(ka_json_set(ctx, row, "gain", ka_json_real(ka_eval_gain(&ms->items[i], base, now))));
  return ka_json_set(ctx, row, "kl", ka_json_real(kl ? kl[i] : NAN));
}

double ka_measures_mean_divergence(const struct ka_measures *ms, const double *kl, bool is_new) {
  double sum = 0;
  int64_t k = 0;
  for (int64_t i = 0; kl && i < ms->n; i++)
    if (!isnan(kl[i]) && ms->items[i].is_new == is_new) sum += kl[i], k++;
  return k > 0 ? sum / (double)k : NAN;
}

ka_status ka_measures_report(const struct ka_measures *ms, const double *stages, int64_t n_stages,
                             const double *kl, double weight, json_t *root) {
  const struct ka_measure *m = ms->items;
  int64_t n = ms->n;
  struct ka_eval_scores s = ka_eval_scores_of(m, n, stages, stages + (n_stages - 1) * n, weight);
  json_t *list = json_array();
  struct ka_ctx *ctx = ms->ctx;
  KA_TRY(ka_json_set(ctx, root, "measures", list));
  for (int64_t i = 0; i < n; i++) KA_TRY(measure(ms, stages, n_stages, kl, i, list));
  return ka_json_set(ctx, root, "scores",
                     json_pack("{s:o, s:o, s:o, s:f, s:o, s:o, s:o, s:o, s:o}", "learned",
                               ka_json_real(s.learned), "forgot", ka_json_real(s.forgot), "score",
                               ka_json_real(s.score), "weight", weight, "beyond_chance",
                               ka_json_real(s.beyond_chance), "backward_transfer",
                               ka_json_real(ka_eval_backward_transfer(m, n, stages, n_stages)),
                               "average_forgetting",
                               ka_json_real(ka_eval_average_forgetting(m, n, stages, n_stages)),
                               "kl", ka_json_real(ka_measures_mean_divergence(ms, kl, false)),
                               "kl_new", ka_json_real(ka_measures_mean_divergence(ms, kl, true))));
}

void ka_measures_print(const struct ka_measures *ms, const double *base, const double *now) {
  struct ka_eval_scores s = ka_eval_scores_of(ms->items, ms->n, base, now, 1);
  char forgot[64];
  int width = 8;
  for (int64_t i = 0; i < ms->n; i++)
    if ((int)strlen(ms->items[i].name) > width) width = (int)strlen(ms->items[i].name);
  printf("%-*s  %4s  %-12s %9s %9s %9s\n", width, "measure", "", "metric", "before", "after",
         "change");
  int64_t window = 0;
  for (int64_t i = 0; i < ms->n; i++) {
    const struct ka_measure *m = &ms->items[i];
    if (m->window > 0) window = m->window;
    printf("%-*s  %4s  %-12s %9.4f %9.4f %+9.4f\n", width, m->name, m->is_new ? "new" : "old",
           m->metric, base[i], now[i], now[i] - base[i]);
  }
  if (!isnan(s.learned)) printf("learned %+.2f %%  ", 100 * s.learned);
  if (!isnan(s.forgot)) printf("%s  ", ka_eval_forgot_text(s.forgot, forgot));
  puts("(relative to the base, docs/forgetting.md)");
  if (window > 0)
    printf("texts in windows of %lld tokens: kappa eval --text FILE --window %lld, with --dtype as "
           "here, gives the same loss\n",
           (long long)window, (long long)window);
}
