/* SPDX-License-Identifier: Apache-2.0
 * See compare.h. A series is a method at a budget; a cell of it is a learning rate with its runs
 * [n_draws, n_seeds]. The words are in verdict.c. */
#include "engine/forget/compare_parts.h"

#include "base/arena.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CURVE_STEPS = 8 };

static const char *const figure_names[KA_N_FIGURES] = {
    [KA_FIGURE_LEARNED] = "learned",
    [KA_FIGURE_FORGOT] = "forgot",
    [KA_FIGURE_SCORE] = "score",
    [KA_FIGURE_KL] = "kl",
    [KA_FIGURE_KL_NEW] = "kl_new",
    [KA_FIGURE_TRANSFER] = "backward_transfer",
    [KA_FIGURE_FORGETTING] = "average_forgetting",
    [KA_FIGURE_BEYOND] = "beyond_chance",
};

static double number_of(const json_t *object, const char *key) {
  return ka_json_number(json_object_get(object, key));
}

static const char *text_of(const json_t *object, const char *key) {
  const char *s = json_string_value(json_object_get(object, key));
  return s ? s : "";
}

static bool same(double a, double b) { return a == b || (isnan(a) && isnan(b)); }

/* --- runs to series ---------------------------------------------------------- */

static int64_t index_of(int64_t *list, int64_t *n, int64_t value) {
  for (int64_t i = 0; i < *n; i++)
    if (list[i] == value) return i;
  list[*n] = value;
  return (*n)++;
}

static struct ka_forget_series *series_of(struct ka_forget_comparison *c, const json_t *run) {
  const char *method = text_of(run, "method");
  double budget = number_of(run, "budget");
  for (int64_t i = 0; i < c->n_series; i++)
    if (strcmp(c->series[i].method, method) == 0 && same(c->series[i].budget, budget))
      return &c->series[i];
  struct ka_forget_series *s = &c->series[c->n_series++];
  *s = (struct ka_forget_series){.method = method, .budget = budget, .best = -1};
  s->params = NAN;
  return s;
}

static struct ka_forget_cell *cell_of(struct ka_forget_series *s, double lr) {
  for (int64_t i = 0; i < s->n_cells; i++)
    if (same(s->cells[i].lr, lr)) return &s->cells[i];
  struct ka_forget_cell *cell = &s->cells[s->n_cells++];
  *cell = (struct ka_forget_cell){.lr = lr};
  return cell;
}

/* First pass: which series there are, with which seeds, draws and learning rates. */
static ka_status count(struct ka_forget_comparison *c, const json_t *runs) {
  struct ka_ctx *ctx = c->arena.ctx;
  int64_t n = (int64_t)json_array_size(runs);
  size_t i;
  const json_t *run;
  KA_TRY(KA_NEW(&c->arena, &c->series, n, "series"));
  json_array_foreach(runs, i, run) {
    struct ka_forget_series *s = series_of(c, run);
    if (!s->cells) {
      KA_TRY(KA_NEW(&c->arena, &s->cells, n, "cells"));
      KA_TRY(KA_NEW(&c->arena, &s->seeds, 2 * n, "seeds"));
      s->draws = s->seeds + n;
    }
    index_of(s->seeds, &s->n_seeds, (int64_t)json_integer_value(json_object_get(run, "seed")));
    index_of(s->draws, &s->n_draws, (int64_t)json_integer_value(json_object_get(run, "draw")));
    cell_of(s, number_of(run, "learning_rate"));
  }
  return KA_STATUS_OK;
}

static int by_rate(const void *a, const void *b) {
  double x = ((const struct ka_forget_cell *)a)->lr, y = ((const struct ka_forget_cell *)b)->lr;
  return x < y ? -1 : x > y;
}

static ka_status place(struct ka_forget_comparison *c, const json_t *run) {
  struct ka_ctx *ctx = c->arena.ctx;
  struct ka_forget_series *s = series_of(c, run);
  struct ka_forget_cell *cell = cell_of(s, number_of(run, "learning_rate"));
  int64_t seed =
      index_of(s->seeds, &s->n_seeds, (int64_t)json_integer_value(json_object_get(run, "seed")));
  int64_t draw =
      index_of(s->draws, &s->n_draws, (int64_t)json_integer_value(json_object_get(run, "draw")));
  const json_t **at = &cell->runs[draw * s->n_seeds + seed];
  if (*at)
    return ka_fail(
        ctx, KA_E_INPUT,
        "two runs of %s have learning rate %g and seed %lld; give each a seed of its own",
        s->method, cell->lr, (long long)s->seeds[seed]);
  *at = run;
  if (isnan(s->params)) s->params = number_of(run, "params");
  double trained = number_of(run, "trained_params"); /* draws differ a little */
  if (!isnan(trained)) s->trained += (trained - s->trained) / (double)++s->n_trained;
  cell->n_failed += json_is_true(json_object_get(run, "failed"));
  return KA_STATUS_OK;
}

static ka_status fill(struct ka_forget_comparison *c, const json_t *runs) {
  struct ka_ctx *ctx = c->arena.ctx;
  size_t i;
  const json_t *run;
  for (int64_t k = 0; k < c->n_series; k++) {
    struct ka_forget_series *s = &c->series[k];
    qsort(s->cells, (size_t)s->n_cells, sizeof *s->cells, by_rate);
    for (int64_t l = 0; l < s->n_cells; l++) {
      KA_TRY(KA_NEW(&c->arena, &s->cells[l].runs, s->n_draws * s->n_seeds, "runs"));
    }
  }
  json_array_foreach(runs, i, run) KA_TRY(place(c, run));
  for (int64_t k = 0; k < c->n_series; k++)
    for (int64_t l = 0; l < c->series[k].n_cells; l++)
      for (int64_t r = 0; r < c->series[k].n_draws * c->series[k].n_seeds; r++)
        if (!c->series[k].cells[l].runs[r])
          return ka_fail(ctx, KA_E_INPUT,
                         "%s: not every learning rate has a run of every seed (%lld seeds)",
                         c->series[k].method, (long long)c->series[k].n_seeds);
  return KA_STATUS_OK;
}

/* --- figures ----------------------------------------------------------------- */

double ka_run_figure(const json_t *run, enum ka_forget_figure f) {
  if (json_is_true(json_object_get(run, "failed"))) return NAN;
  return number_of(json_object_get(run, "scores"), figure_names[f]);
}

/* get(run, which) of all runs of a cell: their mean, and its uncertainty over seeds and draws. */
static struct ka_eval_difference mean_of(struct ka_forget_comparison *c,
                                         const struct ka_forget_series *s,
                                         const struct ka_forget_cell *cell,
                                         double (*get)(const json_t *, int64_t), int64_t which) {
  double *x = c->scratch;
  for (int64_t i = 0; i < s->n_draws * s->n_seeds; i++) x[i] = get(cell->runs[i], which);
  return ka_eval_difference_of(x, s->n_draws, s->n_seeds);
}

static double figure(const json_t *run, int64_t f) {
  return ka_run_figure(run, (enum ka_forget_figure)f);
}

static double value(const json_t *run, int64_t i) {
  if (json_is_true(json_object_get(run, "failed"))) return NAN;
  return ka_json_number(json_array_get(json_object_get(run, "values"), (size_t)i));
}

/* What a run took. */
static const char *const costs[] = {"seconds", "tokens", "base_tokens", "tokens_per_second",
                                    "peak_bytes"};
enum { N_COSTS = sizeof costs / sizeof *costs };

static double cost(const json_t *run, int64_t i) { return number_of(run, costs[i]); }

static json_t *mean_json(struct ka_eval_difference d) {
  return json_pack("{s:o, s:o}", "mean", ka_json_real(d.mean), "se", ka_json_real(d.se));
}

/* The point of each of the series' cells for one draw and seed; c->points. */
static int64_t points_of(struct ka_forget_comparison *c, const struct ka_forget_series *s,
                         int64_t run) {
  for (int64_t l = 0; l < s->n_cells; l++)
    c->points[l] = (struct ka_forget_point){ka_run_figure(s->cells[l].runs[run], KA_FIGURE_LEARNED),
                                            ka_run_figure(s->cells[l].runs[run], KA_FIGURE_FORGOT)};
  return s->n_cells;
}

/* Nothing learned, as much forgotten as the worst run of all did. */
static void find_reference(struct ka_forget_comparison *c) {
  c->reference = (struct ka_forget_point){0, 0};
  for (int64_t k = 0; k < c->n_series; k++)
    for (int64_t i = 0; i < c->series[k].n_draws * c->series[k].n_seeds; i++) {
      int64_t n = points_of(c, &c->series[k], i);
      for (int64_t l = 0; l < n; l++)
        c->reference.forgot = fmax(c->reference.forgot, c->points[l].forgot);
    }
}

double ka_forget_at(struct ka_forget_comparison *c, const struct ka_forget_series *s, int64_t run,
                    double learned) {
  int64_t n = points_of(c, s, run);
  return ka_forget_front_at(c->points, n, c->order, learned);
}

static double reach_of(struct ka_forget_comparison *c, const struct ka_forget_series *s) {
  double reach = INFINITY;
  for (int64_t i = 0; i < s->n_draws * s->n_seeds; i++) {
    double most = 0;
    int64_t n = points_of(c, s, i);
    for (int64_t l = 0; l < n; l++)
      if (!isnan(c->points[l].forgot)) most = fmax(most, c->points[l].learned);
    reach = fmin(reach, most);
  }
  return reach;
}

/* Mean figures, the best learning rate, the areas. */
static ka_status reduce(struct ka_forget_comparison *c, struct ka_forget_series *s) {
  struct ka_ctx *ctx = c->arena.ctx;
  int64_t n = s->n_draws * s->n_seeds;
  KA_TRY(KA_NEW(&c->arena, &s->areas, n, "areas"));
  if (s->n_trained == 0) s->trained = NAN;
  for (int64_t l = 0; l < s->n_cells; l++) {
    struct ka_forget_cell *cell = &s->cells[l];
    for (int f = 0; f < KA_N_FIGURES; f++) cell->figures[f] = mean_of(c, s, cell, figure, f);
    double learned = cell->figures[KA_FIGURE_LEARNED].mean;
    if (cell->n_failed > 0 || isnan(learned)) continue;
    if (s->best < 0 || learned > s->cells[s->best].figures[KA_FIGURE_LEARNED].mean) s->best = l;
  }
  for (int64_t i = 0; i < n; i++)
    s->areas[i] = ka_forget_front_area(c->points, points_of(c, s, i), c->reference);
  s->area = ka_eval_difference_of(s->areas, s->n_draws, s->n_seeds);
  if (s->n_cells == 1 && s->cells[0].n_failed == 0) s->best = 0; /* learned or not measured */
  s->reach = reach_of(c, s);
  s->edge = s->n_cells > 1 && (s->best == 0 || s->best == s->n_cells - 1);
  return KA_STATUS_OK;
}

/* --- JSON -------------------------------------------------------------------- */

static json_t *cell_json(struct ka_forget_comparison *c, const struct ka_forget_series *s,
                         const struct ka_forget_cell *cell) {
  json_t *out = json_object(), *values = json_array();
  size_t n = json_array_size(json_object_get(cell->runs[0], "values"));
  json_object_set_new(out, "learning_rate", ka_json_real(cell->lr));
  json_object_set_new(out, "runs", json_integer((json_int_t)(s->n_draws * s->n_seeds)));
  json_object_set_new(out, "failed", json_integer((json_int_t)cell->n_failed));
  for (int f = 0; f < KA_N_FIGURES; f++)
    json_object_set_new(out, figure_names[f], mean_json(cell->figures[f]));
  for (size_t i = 0; i < n; i++)
    json_array_append_new(values, mean_json(mean_of(c, s, cell, value, (int64_t)i)));
  json_object_set_new(out, "values", values);
  for (int i = 0; i < N_COSTS; i++)
    json_object_set_new(out, costs[i], mean_json(mean_of(c, s, cell, cost, i)));
  return out;
}

static json_t *front_json(struct ka_forget_comparison *c, const struct ka_forget_series *s) {
  json_t *out = json_array();
  int64_t *order = c->order;
  for (int64_t l = 0; l < s->n_cells; l++)
    c->points[l] = (struct ka_forget_point){s->cells[l].figures[KA_FIGURE_LEARNED].mean,
                                            s->cells[l].figures[KA_FIGURE_FORGOT].mean};
  int64_t n = ka_forget_front(c->points, s->n_cells, order);
  for (int64_t i = 0; i < n; i++) json_array_append_new(out, json_integer((json_int_t)order[i]));
  return out;
}

/* The front as a curve with its band: what is forgotten at even steps of learning. */
static json_t *curve_json(struct ka_forget_comparison *c, const struct ka_forget_series *s) {
  json_t *out = json_array();
  for (int k = 0; k <= CURVE_STEPS && s->reach > 0; k++) {
    double at = s->reach * k / CURVE_STEPS;
    for (int64_t i = 0; i < s->n_draws * s->n_seeds; i++) c->scratch[i] = ka_forget_at(c, s, i, at);
    json_t *point = mean_json(ka_eval_difference_of(c->scratch, s->n_draws, s->n_seeds));
    json_array_append_new(out, json_pack("{s:f, s:o}", "learned", at, "forgot", point));
  }
  return out;
}

static json_t *series_json(struct ka_forget_comparison *c, const struct ka_forget_series *s) {
  json_t *cells = json_array();
  for (int64_t l = 0; l < s->n_cells; l++)
    json_array_append_new(cells, cell_json(c, s, &s->cells[l]));
  return json_pack("{s:s, s:o, s:o, s:o, s:I, s:I, s:o, s:b, s:o, s:o, s:o, s:o}", "method",
                   s->method, "budget", ka_json_real(s->budget), "trained_params",
                   ka_json_real(s->trained), "params", ka_json_real(s->params), "seeds",
                   (json_int_t)s->n_seeds, "draws", (json_int_t)s->n_draws, "best",
                   s->best < 0 ? json_null() : json_integer((json_int_t)s->best), "edge", s->edge,
                   "cells", cells, "front", front_json(c, s), "curve", curve_json(c, s), "area",
                   mean_json(s->area));
}

static ka_status compare(struct ka_forget_comparison *c, const json_t *runs, json_t *out) {
  struct ka_ctx *ctx = c->arena.ctx;
  int64_t n = (int64_t)json_array_size(runs);
  KA_TRY(KA_NEW(&c->arena, &c->points, n + 1, "points"));
  KA_TRY(KA_NEW(&c->arena, &c->scratch, KA_N_TESTS * n + 1, "values"));
  KA_TRY(KA_NEW(&c->arena, &c->order, n + 1, "order"));
  KA_TRY(count(c, runs));
  KA_TRY(fill(c, runs));
  find_reference(c);
  for (int64_t k = 0; k < c->n_series; k++) KA_TRY(reduce(c, &c->series[k]));
  json_t *list = json_array();
  int failed = json_object_set_new(out, "series", list);
  for (int64_t k = 0; k < c->n_series; k++)
    failed |= json_array_append_new(list, series_json(c, &c->series[k]));
  failed |= json_object_set_new(
      out, "reference",
      json_pack("{s:f, s:f}", "learned", c->reference.learned, "forgot", c->reference.forgot));
  failed |= json_object_set_new(out, "control", json_string(c->options->control));
  failed |= json_object_set_new(out, "baseline", json_string(c->options->baseline));
  if (failed) return ka_fail(ctx, KA_E_MEMORY, "comparison: out of memory");
  return ka_forget_verdict(c, out);
}

ka_status ka_compare(struct ka_ctx *ctx, const json_t *runs, const struct ka_compare_options *o,
                     json_t **out) {
  struct ka_forget_comparison c = {.options = o};
  *out = json_object();
  if (!*out) return ka_fail(ctx, KA_E_MEMORY, "comparison: out of memory");
  ka_arena_init(&c.arena, ctx, "comparison");
  ka_status st = compare(&c, runs, *out);
  ka_arena_deinit(&c.arena);
  if (ka_ok(st)) return st;
  json_decref(*out);
  *out = NULL;
  return st;
}
