/* SPDX-License-Identifier: Apache-2.0
 * The sections of a comparison of methods: verdict, fronts, tables. A series is a method at a
 * budget, a cell of it a learning rate (engine/forget/compare.h). */
#include "base/arena.h"
#include "engine/report/report_parts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_SERIES = 64 };

static const json_t *series_of(const json_t *root) {
  return json_object_get(json_object_get(root, "comparison"), "series");
}

static const json_t *best_of(const json_t *series) {
  const json_t *best = json_object_get(series, "best");
  return json_is_integer(best)
             ? json_array_get(json_object_get(series, "cells"), (size_t)json_integer_value(best))
             : NULL;
}

static double mean_of(const json_t *cell, const char *figure) {
  return ka_report_number(json_object_get(cell, figure), "mean");
}
static double se_of(const json_t *cell, const char *figure) {
  return ka_report_number(json_object_get(cell, figure), "se");
}

/* "12.3 ± 0.4" */
static void cell(struct ka_page *p, const char *mark, int digits, double mean, double se) {
  if (isnan(mean))
    ka_page_cell(p, "dim", "–");
  else if (isnan(se))
    ka_page_cell(p, mark, "%.*f", digits, mean);
  else
    ka_page_cell(p, mark, "%.*f ± %.*f", digits, mean, digits, se);
}

static void figure_cell(struct ka_page *p, const json_t *from, const char *figure, int digits,
                        double scale) {
  cell(p, "", digits, scale * mean_of(from, figure), scale * se_of(from, figure));
}

/* The method, with its budget where the method has several. */
static const char *label_of(const json_t *root, const json_t *series, char buf[96]) {
  size_t i, n = 0;
  const json_t *s;
  const char *method = ka_report_text(series, "method");
  json_array_foreach(series_of(root), i, s) n += strcmp(ka_report_text(s, "method"), method) == 0;
  double part = ka_report_number(series, "trained_params") / ka_report_number(series, "params");
  if (n > 1 && !isnan(part))
    snprintf(buf, 96, "%s, %.3g %%", method, 100 * part);
  else
    snprintf(buf, 96, "%s", method);
  return buf;
}

void ka_report_verdict(struct ka_page *p, const json_t *root) {
  const json_t *comparison = json_object_get(root, "comparison"), *line;
  const json_t *verdict = json_object_get(comparison, "verdict");
  size_t i;
  if (!comparison) return;
  ka_page_section(p, "Verdict");
  json_array_foreach(verdict, i, line) if (json_is_string(line))
      ka_page_text(p, i == 0 ? "lead" : "", "%s", json_string_value(line));
  ka_page_text(p, "note", "%s", ka_report_text(comparison, "rule"));
}

/* --- the plot ---------------------------------------------------------------- */

struct plot {
  struct ka_report_chart_series series[2 * MAX_SERIES]; /* the fronts, then the dots */
  struct ka_report_chart_point *points[2 * MAX_SERIES];
  char names[MAX_SERIES][96];
  const char *legend[MAX_SERIES];
  int n;
};

static struct ka_report_chart_point point_of(const json_t *from) {
  double ex = 100 * se_of(from, "learned"), ey = 100 * se_of(from, "forgot");
  return (struct ka_report_chart_point){100 * mean_of(from, "learned"),
                                        100 - 100 * mean_of(from, "forgot"), isnan(ex) ? 0 : ex,
                                        isnan(ey) ? 0 : ey};
}

/* Points of the cells, in the given order of indices (NULL: all, the best one first). */
static void add(struct ka_page *p, struct plot *plot, int at, const json_t *series,
                const json_t *order, enum ka_report_chart_style style, int colour) {
  const json_t *cells = json_object_get(series, "cells");
  size_t n = order ? json_array_size(order) : json_array_size(cells);
  size_t best = (size_t)json_integer_value(json_object_get(series, "best"));
  void *mem = NULL;
  int64_t k = 0;
  if (ka_ok(p->st) && n > 0)
    p->st = ka_alloc_n(p->ctx, &mem, (int64_t)n, sizeof(struct ka_report_chart_point), "front");
  plot->points[at] = mem;
  for (size_t i = 0; i < n && mem; i++) {
    size_t which = order       ? (size_t)json_integer_value(json_array_get(order, i))
                   : i == 0    ? best
                   : i <= best ? i - 1
                               : i;
    struct ka_report_chart_point point = point_of(json_array_get(cells, which));
    if (!isnan(point.x) && !isnan(point.y)) plot->points[at][k++] = point;
  }
  plot->series[at] = (struct ka_report_chart_series){.name = plot->legend[colour],
                                                     .points = plot->points[at],
                                                     .n = k,
                                                     .style = style,
                                                     .colour = colour,
                                                     .n_large = n > 1 && !order && best_of(series)};
}

void ka_report_fronts(struct ka_page *p, const json_t *root) {
  const json_t *all = series_of(root), *s;
  struct ka_str svg = {0};
  struct plot *plot = NULL;
  void *mem = NULL;
  size_t i;
  if (json_array_size(all) == 0 || !ka_ok(p->st)) return;
  p->st = ka_alloc_n(p->ctx, &mem, 1, sizeof *plot, "plot");
  if (!ka_ok(p->st)) return;
  plot = mem;
  plot->n = (int)fmin((double)json_array_size(all), MAX_SERIES);
  json_array_foreach(all, i, s) {
    if ((int)i == plot->n) break;
    plot->legend[i] = label_of(root, s, plot->names[i]);
    add(p, plot, (int)i, s, json_object_get(s, "front"), KA_CHART_STAIR, (int)i);
    add(p, plot, plot->n + (int)i, s, NULL, KA_CHART_DOTS, (int)i);
  }
  int64_t dots = 0;
  for (int k = 0; k < plot->n; k++) dots += plot->series[plot->n + k].n;
  if (dots > 1) {
    if (ka_ok(p->st))
      p->st = ka_report_chart_svg(p->ctx, &svg, "learned, % of the base's value",
                                  "kept of the old skill, %", plot->series, 2 * plot->n);
    ka_page_section(p, "Fronts");
    ka_page_figure(p, "Up and to the right is better", &svg, plot->legend, plot->n);
    ka_page_text(
        p, "note",
        "A dot is a learning rate: the mean over seeds and draws with its standard error; the "
        "large one is where the method learned most. Lines are Pareto fronts.");
  }
  for (int k = 0; k < 2 * plot->n; k++) ka_free(plot->points[k]);
  ka_free(plot);
  ka_str_deinit(&svg);
}

/* --- curves ------------------------------------------------------------------ */

/* One figure: what `key` was on the way, a line a method. */
static void curve(struct ka_page *p, const json_t *curves_of, const char *key, const char *title,
                  int *drawn) {
  struct ka_report_chart_series series[MAX_SERIES];
  struct ka_report_chart_point *points[MAX_SERIES];
  const char *names[MAX_SERIES], *name;
  const json_t *curves;
  struct ka_str svg = {0};
  int n = 0;
  json_object_foreach((json_t *)(uintptr_t)curves_of, name, curves) {
    if (n == MAX_SERIES) break;
    int64_t n_points = ka_report_points(p, json_object_get(curves, key), 100, &points[n]);
    names[n] = name;
    series[n] = (struct ka_report_chart_series){
        .name = name, .points = points[n], .n = n_points, .style = KA_CHART_MARKS, .colour = n};
    n++;
  }
  bool tells = ka_report_tells(series, n);
  if (tells && *drawn == 0) ka_page_section(p, "On the way");
  if (tells && (*drawn)++ == 0) ka_page_figures(p);
  if (tells && ka_ok(p->st))
    p->st = ka_report_chart_svg(p->ctx, &svg, "step", "% of the base's value", series, n);
  if (tells) ka_page_figure(p, title, &svg, names, n);
  for (int i = 0; i < n; i++) ka_free(points[i]);
  ka_str_deinit(&svg);
}

void ka_report_method_curves(struct ka_page *p, const json_t *root) {
  const json_t *curves_of = json_object_get(root, "curves_of");
  if (json_object_size(curves_of) == 0) return;
  int drawn = 0;
  curve(p, curves_of, "learned", "Learned", &drawn);
  curve(p, curves_of, "forgot", "Forgot", &drawn);
  if (drawn == 0) return;
  ka_page_figures_end(p);
  ka_page_text(p, "note", "One run of each method, at the learning rate at which it learned most.");
}

/* --- tables ------------------------------------------------------------------ */

/* Adds before + name to headings, where a | in the name would begin another. */
static void heading(struct ka_page *p, struct ka_str *columns, const char *before,
                    const char *name) {
  if (ka_ok(p->st)) p->st = ka_str_puts(p->ctx, columns, before);
  for (; *name && ka_ok(p->st); name++)
    p->st = ka_str_append(p->ctx, columns, *name == '|' ? "/" : name, 1);
}

static void main_table(struct ka_page *p, const json_t *root) {
  const json_t *s, *comparison = json_object_get(root, "comparison");
  struct ka_str columns = {0};
  char name[96];
  size_t i;
  heading(p, &columns,
          "method|>trained|>learning rate|>learned, %|>forgot, %|>score, %|>area|>more than ",
          ka_report_text(comparison, "baseline"));
  heading(p, &columns, "\'s|against ", ka_report_text(comparison, "control"));
  if (ka_ok(p->st)) ka_page_table(p, columns.data);
  ka_str_deinit(&columns);
  json_array_foreach(series_of(root), i, s) {
    const json_t *best = best_of(s), *control = json_object_get(s, "against_control");
    const json_t *area = json_object_get(json_object_get(s, "against_baseline"), "area");
    const char *word = ka_report_text(control, "word");
    ka_page_cell(p, "name", "%s", label_of(root, s, name));
    ka_report_cell(p, "", "%.1f %%",
                   100 * ka_report_number(s, "trained_params") / ka_report_number(s, "params"));
    ka_report_cell(p, "", "%g", ka_report_number(best, "learning_rate"));
    figure_cell(p, best, "learned", 2, 100);
    figure_cell(p, best, "forgot", 2, 100);
    figure_cell(p, best, "score", 2, 100);
    figure_cell(p, s, "area", 1, 1e4);
    cell(p, "", 1, 1e4 * ka_report_number(area, "mean"), 1e4 * ka_report_number(area, "se"));
    ka_page_cell(p,
                 strncmp(word, "better", 6) == 0  ? "good word"
                 : strncmp(word, "worse", 5) == 0 ? "bad word"
                                                  : "dim word",
                 "%s", *word ? word : "–");
  }
  ka_page_table_end(p);
  ka_page_text(p, "note",
               "At the learning rate at which each learned most. Learned and forgot: the mean "
               "relative change of the new and the old measures; forgot below zero: the old skill "
               "got better. Score: learned less forgot. Area: what the front covers over all "
               "learning rates, in square points (hundredths by hundredths), larger is better. ± "
               "is the standard error over seeds and draws.");
}

/* Each method and the baseline where both learned the same; what the runs took. */
static void equal_table(struct ka_page *p, const json_t *root) {
  const json_t *s, *comparison = json_object_get(root, "comparison");
  const char *baseline = ka_report_text(comparison, "baseline");
  struct ka_str columns = {0};
  char name[96];
  size_t i;
  heading(p, &columns, "method|>both learned, %|>forgot there, %|>", baseline);
  heading(p, &columns, " forgot there, %|>difference", "");
  ka_page_section(p, "At equal learning");
  if (ka_ok(p->st)) ka_page_table(p, columns.data);
  ka_str_deinit(&columns);
  json_array_foreach(series_of(root), i, s) {
    const json_t *against = json_object_get(s, "against_baseline");
    const json_t *d = json_object_get(against, "at_equal_learning");
    ka_page_cell(p, "name", "%s", label_of(root, s, name));
    ka_report_cell(p, "", "%.2f", 100 * ka_report_number(against, "learned_where_equal"));
    ka_report_cell(p, "", "%.2f", 100 * ka_report_number(against, "forgot_there"));
    ka_report_cell(p, "", "%.2f", 100 * ka_report_number(against, "other_forgot_there"));
    cell(p, "", 2, 100 * ka_report_number(d, "mean"), 100 * ka_report_number(d, "se"));
  }
  ka_page_table_end(p);
  ka_page_text(p, "note",
               "Read from each run's front, straight between neighbouring learning rates and the "
               "untouched base, at the most that the method and %s both learned in every run.",
               baseline);
}

/* Has any series' best cell the figure? A column of dashes says nothing. */
static bool any(const json_t *root, const char *figure) {
  const json_t *s;
  size_t i;
  json_array_foreach(series_of(root), i, s) if (!isnan(mean_of(best_of(s), figure))) return true;
  return false;
}

static bool any_above_zero(const json_t *root, const char *figure) {
  const json_t *s;
  size_t i;
  json_array_foreach(series_of(root), i, s) if (mean_of(best_of(s), figure) > 0) return true;
  return false;
}

struct column { /* a figure of the best cells */
  const char *key, *heading;
  int digits;
  double scale;
};

static const struct column costs[] = {
    {"seconds", "seconds", 1, 1},
    {"tokens", "tokens trained on", 0, 1},
    {"base_tokens", "tokens through the base", 0, 1},
    {"tokens_per_second", "tokens a second", 0, 1},
    {"peak_bytes", "peak memory, MiB", 0, 1.0 / (1 << 20)},
};
enum { N_COSTS = sizeof costs / sizeof *costs };

static void costs_table(struct ka_page *p, const json_t *root) {
  struct ka_str columns = {0};
  const json_t *s;
  char name[96];
  size_t i;
  bool shown[N_COSTS];
  int n = 0;
  heading(p, &columns, "method", "");
  for (int c = 0; c < N_COSTS; c++) {
    n += shown[c] = any_above_zero(root, costs[c].key);
    if (shown[c]) heading(p, &columns, "|>", costs[c].heading);
  }
  if (n > 0 && ka_ok(p->st)) {
    ka_page_section(p, "What it cost");
    ka_page_table(p, columns.data);
    json_array_foreach(series_of(root), i, s) {
      ka_page_cell(p, "name", "%s", label_of(root, s, name));
      for (int c = 0; c < N_COSTS; c++)
        if (shown[c]) figure_cell(p, best_of(s), costs[c].key, costs[c].digits, costs[c].scale);
    }
    ka_page_table_end(p);
    ka_page_text(p, "note",
                 "A run at the learning rate at which each learned most; the seconds are those of "
                 "training, of runs that may have shared the machine.");
  }
  ka_str_deinit(&columns);
}

static const struct column derived[] = {
    {"kl", "KL, old", 4, 1},
    {"kl_new", "KL, new task", 4, 1},
    {"backward_transfer", "backward transfer", 4, 1},
    {"average_forgetting", "average forgetting", 4, 1},
    {"beyond_chance", "gone beyond chance, %", 1, 100},
};
enum { N_DERIVED = sizeof derived / sizeof *derived };

static void values_table(struct ka_page *p, const json_t *root) {
  const json_t *measures = json_object_get(root, "measures"), *m, *s;
  struct ka_str columns = {0};
  char name[96];
  size_t i, k;
  heading(p, &columns, "method", "");
  json_array_foreach(measures, k, m) {
    heading(p, &columns, "|>", ka_report_text(m, "name"));
    heading(p, &columns, " (", ka_report_text(m, "role"));
    heading(p, &columns, "), ", ka_report_text(m, "metric"));
  }
  for (int c = 0; c < N_DERIVED; c++)
    if (any(root, derived[c].key)) heading(p, &columns, "|>", derived[c].heading);
  if (ka_ok(p->st)) ka_page_table(p, columns.data);
  ka_str_deinit(&columns);
  ka_page_cell(p, "dim", "the base");
  json_array_foreach(measures, k, m) ka_report_cell(p, "", "%.4f", ka_report_number(m, "base"));
  for (int c = 0; c < N_DERIVED; c++)
    if (any(root, derived[c].key)) ka_page_cell(p, "dim", "–");
  json_array_foreach(series_of(root), i, s) {
    const json_t *best = best_of(s), *values = json_object_get(best, "values");
    ka_page_cell(p, "name", "%s", label_of(root, s, name));
    json_array_foreach(measures, k, m) {
      const json_t *v = json_array_get(values, k);
      cell(p, "", 4, ka_report_number(v, "mean"), ka_report_number(v, "se"));
    }
    for (int c = 0; c < N_DERIVED; c++)
      if (any(root, derived[c].key))
        figure_cell(p, best, derived[c].key, derived[c].digits, derived[c].scale);
  }
  ka_page_table_end(p);
}

static void sweep_table(struct ka_page *p, const json_t *root) {
  const json_t *s, *c;
  char name[96];
  size_t i, k;
  ka_page_table(p, "method|>learning rate|>learned, %|>forgot, %|>score, %|>KL, old|>KL, new "
                   "task|>runs|>diverged");
  json_array_foreach(series_of(root), i, s) {
    json_array_foreach(json_object_get(s, "cells"), k, c) {
      const char *mark = c == best_of(s) ? "here" : "";
      ka_page_cell(p, k == 0 ? "name" : "", "%s", k == 0 ? label_of(root, s, name) : "");
      ka_report_cell(p, mark, "%g", ka_report_number(c, "learning_rate"));
      figure_cell(p, c, "learned", 2, 100);
      figure_cell(p, c, "forgot", 2, 100);
      figure_cell(p, c, "score", 2, 100);
      figure_cell(p, c, "kl", 4, 1);
      figure_cell(p, c, "kl_new", 4, 1);
      ka_report_cell(p, "", "%.0f", ka_report_number(c, "runs"));
      ka_report_cell(p, ka_report_number(c, "failed") > 0 ? "bad" : "dim", "%.0f",
                     ka_report_number(c, "failed"));
    }
  }
  ka_page_table_end(p);
}

void ka_report_methods(struct ka_page *p, const json_t *root) {
  if (json_array_size(series_of(root)) == 0) return;
  ka_page_section(p, "Methods");
  main_table(p, root);
  equal_table(p, root);
  costs_table(p, root);
  ka_page_section(p, "What was measured");
  values_table(p, root);
  ka_page_section(p, "Every learning rate");
  ka_page_fold(p, "The whole sweep");
  sweep_table(p, root);
  ka_page_fold_end(p);
}
