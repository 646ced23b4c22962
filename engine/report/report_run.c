/* SPDX-License-Identifier: Apache-2.0
 * The sections of one run: what it learned and forgot, its curves, its units. */
#include "base/arena.h"
#include "engine/report/report_parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ROLES = 16, MAX_LISTED = 200 };

void ka_report_summary(struct ka_page *p, const json_t *root) {
  const json_t *scores = json_object_get(root, "scores");
  double learned = ka_report_number(scores, "learned"), forgot = ka_report_number(scores, "forgot");
  double trained = ka_report_number(root, "trained_params") / ka_report_number(root, "params");
  char text[160] = "";
  if (isnan(trained)) return;
  if (!isnan(learned))
    snprintf(text + strlen(text), sizeof text - strlen(text), ", learned %+.2f %%", 100 * learned);
  if (!isnan(forgot))
    snprintf(text + strlen(text), sizeof text - strlen(text),
             forgot < 0 ? ", forgot nothing: the old skills are %.2f %% better"
                        : ", forgot %.2f %%",
             100 * fabs(forgot));
  ka_page_text(p, "lead", "Trained %.2f %% of the parameters%s.", 100 * trained, text);
}

/* Does any of the measures have the number? A column of dashes says nothing. */
static bool any(const json_t *list, const char *key) {
  const json_t *m;
  size_t i;
  json_array_foreach(list, i, m) if (!isnan(ka_report_number(m, key))) return true;
  return false;
}

void ka_report_measures(struct ka_page *p, const json_t *root) {
  const json_t *list = json_object_get(root, "measures"), *m;
  size_t i;
  if (json_array_size(list) == 0 || json_object_get(root, "comparison")) return;
  ka_page_section(p, "What it learned, what it forgot");
  bool chance = any(list, "chance");
  ka_page_table(p, chance ? "measure||metric|>before|>after|>better by|>chance|>KL|>size|"
                          : "measure||metric|>before|>after|>better by|>KL|>size|");
  json_array_foreach(list, i, m) {
    bool is_new = strcmp(ka_report_text(m, "role"), "new") == 0;
    double gain = ka_report_number(m, "gain");
    ka_page_cell(p, "", "%s", ka_report_text(m, "name"));
    ka_page_cell(p, "dim", "%s", is_new ? "new" : "old");
    ka_page_cell(p, "", "%s", ka_report_text(m, "metric"));
    ka_report_cell(p, "", "%.4f", ka_report_number(m, "base"));
    ka_report_cell(p, "", "%.4f", ka_report_number(m, "value"));
    ka_report_cell(p, gain < 0 ? "bad" : "good", "%+.2f %%", 100 * gain);
    if (chance) ka_report_cell(p, "", "%.3f", ka_report_number(m, "chance"));
    ka_report_cell(p, "", "%.4f", ka_report_number(m, "kl"));
    ka_report_cell(p, "dim", "%.0f", ka_report_number(m, "n"));
    ka_page_cell(p, "dim", "%s", ka_report_text(m, "unit"));
  }
  ka_page_table_end(p);
  ka_page_text(
      p, "note",
      "Losses are in nats a token. Better by: a part of the value before; below zero it is "
      "worse. KL: how far the tuned model's predictions lie from the base's, nats a token.");
}

/* --- curves ------------------------------------------------------------------ */

struct plot {
  const char *title, *label;
  double scale;
  struct {
    const char *key, *name;
  } lines[2];
};
static const struct plot plots[] = {
    {"Loss", "nats a token", 1, {{"loss", "training"}, {"eval_loss", "validation"}}},
    {"Learned and forgot",
     "% of the base's value",
     100,
     {{"learned", "learned"}, {"forgot", "forgot"}}},
    {"Divergence from the base in training",
     "nats a token",
     1,
     {{"kl", "on the task's text"}, {"kl_self", "on text that the base wrote"}}},
    {"Divergence from the base on the new task",
     "nats a token",
     1,
     {{"kl_new", "of validation data and texts of the new task"}}},
    {"Router load",
     "times an even one",
     1,
     {{"router_max", "the fullest expert"}, {"router_cv", "spread"}}},
};

static void plot(struct ka_page *p, const json_t *curves, const struct plot *what, int *drawn) {
  struct ka_report_chart_series series[2] = {{0}};
  struct ka_report_chart_point *points[2] = {NULL, NULL};
  struct ka_str svg = {0};
  const char *names[2];
  int n = 0;
  for (int i = 0; i < 2 && what->lines[i].key; i++) {
    const json_t *list = json_object_get(curves, what->lines[i].key);
    int64_t n_points = ka_report_points(p, list, what->scale, &points[i]);
    if (n_points == 0) continue;
    names[n] = what->lines[i].name;
    series[n] =
        (struct ka_report_chart_series){.name = what->lines[i].name,
                                        .points = points[i],
                                        .n = n_points,
                                        .style = n_points > 60 ? KA_CHART_LINE : KA_CHART_MARKS,
                                        .colour = n};
    n++;
  }
  if (ka_report_tells(series, n)) {
    if (*drawn == 0) ka_page_section(p, "On the way");
    if ((*drawn)++ == 0) ka_page_figures(p);
    if (ka_ok(p->st)) p->st = ka_report_chart_svg(p->ctx, &svg, "step", what->label, series, n);
    ka_page_figure(p, what->title, &svg, names, n);
  }
  ka_str_deinit(&svg);
  for (int i = 0; i < 2; i++) ka_free(points[i]);
}

void ka_report_curves(struct ka_page *p, const json_t *root) {
  const json_t *curves = json_object_get(root, "curves");
  if (json_object_size(curves) == 0 || json_object_get(root, "comparison")) return;
  int drawn = 0;
  for (size_t i = 0; i < sizeof plots / sizeof *plots; i++) plot(p, curves, &plots[i], &drawn);
  if (drawn > 0) ka_page_figures_end(p);
}

/* --- units ------------------------------------------------------------------- */

struct heat {
  struct ka_arena arena;
  const char *roles[MAX_ROLES], **rows;
  int n_roles, n_rows;
  struct ka_report_heat_cell *cells; /* [n_rows, n_roles] */
  int64_t *counts;
};

static int role_of(struct heat *h, const char *role) {
  for (int i = 0; i < h->n_roles; i++)
    if (strcmp(h->roles[i], role) == 0) return i;
  if (h->n_roles == MAX_ROLES) return -1;
  h->roles[h->n_roles] = role;
  return h->n_roles++;
}

/* Matrices of layers are shown; several of a role in a layer (heads, experts) by their mean
 * logarithm. */
static bool shown(const json_t *unit) {
  return ka_report_number(unit, "layer") >= 0 && !isnan(ka_report_number(unit, "kappa_before"));
}

static void add(struct heat *h, const json_t *unit) {
  int role = shown(unit) ? role_of(h, ka_report_text(unit, "role")) : -1;
  if (role < 0) return;
  int64_t at = (int64_t)ka_report_number(unit, "layer") * MAX_ROLES + role;
  struct ka_report_heat_cell *c = &h->cells[at];
  double before = ka_report_number(unit, "kappa_before");
  double after = ka_report_number(unit, "kappa_after");
  if (h->counts[at]++ == 0) *c = (struct ka_report_heat_cell){0};
  c->before += log(before);
  c->after += log(isnan(after) ? before : after);
  c->marked += ka_report_number(unit, "trained");
  c->title = ka_report_text(unit, "name");
}

static ka_status make_cells(struct ka_ctx *ctx, struct heat *h, const json_t *units) {
  size_t i;
  const json_t *u;
  json_array_foreach(units, i, u) if (shown(u)) h->n_rows =
      (int)fmax(h->n_rows, ka_report_number(u, "layer") + 1);
  KA_TRY(KA_NEW(&h->arena, &h->rows, h->n_rows, "layers"));
  for (int r = 0; r < h->n_rows; r++)
    KA_TRY(ka_arena_printf(&h->arena, &h->rows[r], "layer %d", r));
  int64_t n = (int64_t)h->n_rows * MAX_ROLES;
  KA_TRY(KA_NEW(&h->arena, &h->cells, n, "cells"));
  KA_TRY(KA_NEW(&h->arena, &h->counts, n, "cells"));
  json_array_foreach(units, i, u) if (shown(u) && ka_report_number(u, "trained") > 0)
      role_of(h, ka_report_text(u, "role")); /* the first columns: what a phone shows */
  json_array_foreach(units, i, u) add(h, u);
  int64_t kept = 0;
  for (int64_t k = 0; k < n; k++) {
    struct ka_report_heat_cell c = h->cells[k];
    double count = (double)h->counts[k];
    if (count == 0) continue;
    c.row = (int)(k / MAX_ROLES);
    c.column = (int)(k % MAX_ROLES);
    c.before = exp(c.before / count);
    c.after = c.marked > 0 ? exp(c.after / count) : NAN;
    c.marked /= count;
    h->cells[kept++] = c;
  }
  h->n_rows = kept > 0 ? h->n_rows : 0;
  h->counts[0] = kept;
  return KA_STATUS_OK;
}

static void heat(struct ka_page *p, const json_t *units) {
  struct heat h = {0};
  struct ka_str svg = {0};
  ka_arena_init(&h.arena, p->ctx, "heat map");
  if (ka_ok(p->st)) p->st = make_cells(p->ctx, &h, units);
  if (ka_ok(p->st) && h.n_rows > 0) {
    p->st = ka_report_heat_svg(p->ctx, &svg, h.roles, h.n_roles, h.rows, h.n_rows, h.cells,
                               h.counts[0]);
    ka_page_fold(p, "κ of every unit, layers by roles");
    ka_page_figure(p, "κ of every unit", &svg, NULL, 0);
    ka_page_fold_end(p);
  }
  ka_str_deinit(&svg);
  ka_arena_deinit(&h.arena);
}

static double change_of(const json_t *unit) {
  return ka_report_number(unit, "kappa_after") / ka_report_number(unit, "kappa_before") - 1;
}

/* The most changed first; what is not known last, in the order of the file. */
static int by_change(const void *a, const void *b) {
  const json_t *const *x = a, *const *y = b;
  double dx = fabs(change_of(*x)), dy = fabs(change_of(*y));
  dx = isnan(dx) ? -1 : dx;
  dy = isnan(dy) ? -1 : dy;
  return dx != dy ? (dx < dy) - (dx > dy) : (*x > *y) - (*x < *y);
}

static void row_of(struct ka_page *p, const json_t *u) {
  double before = ka_report_number(u, "kappa_before"), after = ka_report_number(u, "kappa_after");
  char text[32];
  ka_page_cell(p, "name", "%s", ka_report_text(u, "name"));
  ka_report_cell(p, "dim", "%.3g %%", 100 * ka_report_number(u, "trained"));
  ka_report_cell(p, "", "%.0f", ka_report_number(u, "params"));
  ka_report_cell(p, "", "x %.3g", ka_report_number(u, "rate"));
  ka_page_cell(p, isnan(before) ? "dim" : "", "%s", ka_report_kappa(before, text));
  ka_page_cell(p, isnan(after) ? "dim" : "", "%s", ka_report_kappa(after, text));
  ka_report_cell(p, "", "%+.2f %%", 100 * change_of(u));
}

static void list_trained(struct ka_page *p, const json_t *units) {
  const json_t **trained = NULL, *u;
  char summary[80];
  size_t i, n = 0;
  if (ka_ok(p->st)) p->st = KA_NEW_HEAP(p->ctx, &trained, (int64_t)json_array_size(units), "units");
  if (!trained) return;
  json_array_foreach(units, i, u) if (ka_report_number(u, "trained") > 0) trained[n++] = u;
  qsort(trained, n, sizeof *trained, by_change);
  snprintf(summary, sizeof summary, "The %zu trained units, the most changed first", n);
  ka_page_fold(p, summary);
  ka_page_table(p, "trained unit|>part|>parameters|>rate|>κ before|>after|>change");
  for (i = 0; i < n && i < MAX_LISTED; i++) row_of(p, trained[i]);
  ka_page_table_end(p);
  if (n > MAX_LISTED) ka_page_text(p, "note", "and %zu more, in report.json", n - MAX_LISTED);
  ka_page_fold_end(p);
  ka_free(trained);
}

void ka_report_units(struct ka_page *p, const json_t *root) {
  const json_t *units = json_object_get(root, "units");
  const char *of = ka_report_text(root, "units_of");
  if (json_array_size(units) == 0) return;
  ka_page_section(p, "What was trained");
  if (*of) ka_page_text(p, "note", "Of the run %s.", of);
  ka_page_text(
      p, "note",
      "κ (kappa) of a matrix is its largest singular value divided by its smallest: how unequally "
      "it treats what comes in. High: it answers to few directions, it has specialised. "
      "Low: it treats all alike, and has the most room to learn.");
  heat(p, units);
  list_trained(p, units);
}
