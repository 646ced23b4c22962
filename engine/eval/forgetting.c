/* SPDX-License-Identifier: Apache-2.0
 * See forgetting.h. */
#include "engine/eval/forgetting.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

json_t *ka_measure_json(const struct ka_measure *m) {
  return json_pack("{s:s, s:s, s:s, s:b, s:o, s:I, s:s, s:o}", "name", m->name, "metric", m->metric,
                   "role", m->is_new ? "new" : "old", "higher_is_better", m->higher_is_better,
                   "chance", isnan(m->chance) ? json_null() : json_real(m->chance), "n",
                   (json_int_t)m->n, "unit", m->unit, "window",
                   m->window > 0 ? json_integer((json_int_t)m->window) : json_null());
}

static bool is_text(const json_t *saved, const char *key, const char *text) {
  const char *s = json_string_value(json_object_get(saved, key));
  return s && strcmp(s, text) == 0;
}

bool ka_measure_recall(struct ka_measure *m, const json_t *saved) {
  if (!is_text(saved, "name", m->name) || !is_text(saved, "metric", m->metric) ||
      !is_text(saved, "role", m->is_new ? "new" : "old"))
    return false;
  m->n = json_integer_value(json_object_get(saved, "n"));
  m->window = json_integer_value(json_object_get(saved, "window"));
  m->chance = ka_json_number(json_object_get(saved, "chance"));
  return true;
}

static bool is_perplexity(const struct ka_measure *m) { return strstr(m->metric, "perplexity"); }

static double level(const struct ka_measure *m, double value) {
  return is_perplexity(m) ? log(value) : value;
}

/* Higher is better. */
static double turned(const struct ka_measure *m, double value) {
  return m->higher_is_better ? value : -value;
}

double ka_eval_gain(const struct ka_measure *m, double base, double now) {
  double b = level(m, base), change = turned(m, level(m, now) - b);
  return b > 0 ? change / b : NAN;
}

/* The part of what the base knew beyond guessing that is gone: (base - now) / (base - chance). NaN
 * without a chance, and for a base that only guesses. */
static double gone_beyond_chance(const struct ka_measure *m, double base, double now) {
  double beyond = turned(m, base - m->chance);
  return beyond > 0 ? turned(m, base - now) / beyond : NAN;
}

struct ka_eval_scores ka_eval_scores_of(const struct ka_measure *m, int64_t n, const double *base,
                                        const double *now, double weight) {
  double learned = 0, lost = 0, beyond = 0;
  int64_t n_new = 0, n_old = 0, n_beyond = 0;
  for (int64_t i = 0; i < n; i++) {
    double gain = ka_eval_gain(&m[i], base[i], now[i]);
    double gone = m[i].is_new ? NAN : gone_beyond_chance(&m[i], base[i], now[i]);
    if (!isnan(gain)) *(m[i].is_new ? &learned : &lost) += m[i].is_new ? gain : -gain;
    if (!isnan(gain)) ++*(m[i].is_new ? &n_new : &n_old);
    if (!isnan(gone)) beyond += gone;
    n_beyond += !isnan(gone);
  }
  struct ka_eval_scores s = {n_new > 0 ? learned / (double)n_new : NAN,
                             n_old > 0 ? lost / (double)n_old : NAN, 0,
                             n_beyond > 0 ? beyond / (double)n_beyond : NAN};
  s.score = (n_new > 0 ? s.learned : 0) - (n_old > 0 ? weight * s.forgot : 0);
  return s;
}

const char *ka_eval_forgot_text(double forgot, char buf[64]) {
  if (forgot >= 0)
    snprintf(buf, 64, "forgot %.2f %%", 100 * forgot);
  else
    snprintf(buf, 64, "forgot nothing (old skill %.2f %% better)", -100 * forgot);
  return buf;
}

/* The scale that all old measures share, or NULL. */
static const char *common_scale(const struct ka_measure *m, int64_t n) {
  const char *metric = NULL;
  for (int64_t i = 0; i < n; i++) {
    if (m[i].is_new) continue;
    if (metric && strcmp(metric, m[i].metric) != 0) return NULL;
    metric = m[i].metric;
  }
  return metric;
}

static double mean_change(const struct ka_measure *m, int64_t n, const double *a, int64_t n_stages,
                          bool from_best) {
  double sum = 0;
  int64_t n_old = 0;
  if (!common_scale(m, n) || n_stages < 2) return NAN;
  for (int64_t i = 0; i < n; i++) {
    if (m[i].is_new) continue;
    double from = turned(&m[i], a[i]), last = turned(&m[i], a[(n_stages - 1) * n + i]);
    for (int64_t k = 1; k < n_stages - 1 && from_best; k++)
      from = fmax(from, turned(&m[i], a[k * n + i]));
    sum += last - from;
    n_old++;
  }
  return sum / (double)n_old;
}

double ka_eval_backward_transfer(const struct ka_measure *m, int64_t n, const double *a,
                                 int64_t n_stages) {
  return mean_change(m, n, a, n_stages, false);
}

double ka_eval_average_forgetting(const struct ka_measure *m, int64_t n, const double *a,
                                  int64_t n_stages) {
  return -mean_change(m, n, a, n_stages, true);
}
