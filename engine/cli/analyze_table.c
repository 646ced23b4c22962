/* SPDX-License-Identifier: Apache-2.0
 * See analyze_table.h. */
#include "engine/cli/analyze_table.h"

#include "base/str.h"
#include "kernels/device.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BAR = 16 };

struct scale {
  double low, high;
  bool logarithmic;
};

static struct scale find_scale(const struct ka_spectrum *r, int64_t n,
                               enum ka_spectral_metric metric) {
  struct scale s = {INFINITY, -INFINITY, true};
  for (int64_t i = 0; i < n; i++) {
    double v = r[i].metrics[metric];
    if (!isfinite(v)) continue;
    s.low = fmin(s.low, v);
    s.high = fmax(s.high, v);
  }
  if (!(s.low > 0)) s.logarithmic = false;
  return s;
}

/* Eighths of a cell, so that near values can be told apart. */
static void bar(char *out, size_t n, double v, const struct scale *s) {
  static const char *const part[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  double at =
      s->logarithmic ? log(v / s->low) / log(s->high / s->low) : (v - s->low) / (s->high - s->low);
  int eighths = 1 + (int)lround((isfinite(at) ? at : 0) * (8 * BAR - 1)), cells = eighths / 8;
  size_t used = 0;
  out[0] = 0;
  for (int i = 0; i < cells; i++) used += (size_t)snprintf(out + used, n - used, "█");
  used += (size_t)snprintf(out + used, n - used, "%s", part[eighths % 8]);
  for (int i = cells + (eighths % 8 > 0); i < BAR; i++)
    used += (size_t)snprintf(out + used, n - used, " ");
}

static bool selected(const struct ka_selection *s, const char *name) {
  for (int64_t i = 0; s && i < s->n_units; i++)
    if (strcmp(s->units[i].name, name) == 0) return true;
  return false;
}

static void shape_text(const struct ka_unit *u, char *out, size_t n) {
  size_t used = 0;
  out[0] = 0;
  if (strchr(u->name, '#')) {
    snprintf(out, n, "%lldx%lld", (long long)u->view.shape[0], (long long)u->view.shape[1]);
    return;
  }
  for (int i = 0; i < u->n_dim && used < n; i++)
    used += (size_t)snprintf(out + used, n - used, "%s%lld", i ? "x" : "", (long long)u->shape[i]);
}

static void row(const struct ka_spectrum *r, int width, enum ka_spectral_metric metric,
                const struct scale *s, bool taken) {
  char drawn[BAR * 3 + 8], shape[64], value[32], bound[32], log_volume[32];
  double v = r->metrics[metric];
  shape_text(r->unit, shape, sizeof shape);
  char name[512];
  printf("%s %-*s %13s ", taken ? "*" : " ", width, ka_visible(name, sizeof name, r->unit->name),
         shape);
  if (r->error) {
    printf("%s\n", r->error);
    return;
  }
  if (r->singular && metric == KA_METRIC_KAPPA) {
    printf("%12s %9s %-*s %10s ", r->zero ? "zero" : "singular", "", BAR, "", "");
    if (r->zero)
      printf("%9s  %s\n", "", ka_spectral_method_name(r->method));
    else
      printf("%9.4g  %s\n", r->metrics[KA_METRIC_STABLE_RANK], ka_spectral_method_name(r->method));
    return;
  }
  if (isfinite(v)) {
    bar(drawn, sizeof drawn, v, s);
    snprintf(value, sizeof value, "%.6g", v);
  } else {
    snprintf(drawn, sizeof drawn, "%*s", BAR, "");
    snprintf(value, sizeof value, "-");
  }
  snprintf(bound, sizeof bound, "±%.0e", r->kappa_rel_bound);
  snprintf(log_volume, sizeof log_volume, "%.5g", r->metrics[KA_METRIC_LOG_VOLUME]);
  printf("%12s %9s %s %10s %9.4g  %s\n", value, metric == KA_METRIC_KAPPA ? bound : "", drawn,
         log_volume, r->metrics[KA_METRIC_STABLE_RANK], ka_spectral_method_name(r->method));
}

static int by_metric(const void *x, const void *y, void *user) {
  enum ka_spectral_metric metric = *(enum ka_spectral_metric *)user;
  const struct ka_spectrum *a = *(const struct ka_spectrum *const *)x;
  const struct ka_spectrum *b = *(const struct ka_spectrum *const *)y;
  double v = a->metrics[metric], w = b->metrics[metric];
  if (isnan(v) != isnan(w)) return isnan(v) ? 1 : -1;
  if (!isnan(v) && v != w) return v < w ? -1 : 1;
  return a < b ? -1 : a > b;
}

/* The rows: all as they come, or the `top` lowest. */
static ka_status rows_of(struct ka_ctx *ctx, const struct ka_spectrum *results, int64_t n,
                         enum ka_spectral_metric metric, int64_t top,
                         const struct ka_spectrum ***out) {
  KA_TRY(KA_NEW_HEAP(ctx, out, n + 1, "rows"));
  for (int64_t i = 0; i < n; i++) (*out)[i] = &results[i];
  if (top > 0) qsort_r(*out, (size_t)n, sizeof **out, by_metric, &metric);
  return KA_STATUS_OK;
}

/* "rows 0-127", where a unit is cut by the budget or a part. */
static void place_text(const struct ka_selected *u, char *out, size_t n) {
  size_t used = 0;
  out[0] = 0;
  if (u->rows[0] >= 0)
    used = (size_t)snprintf(out, n, "  rows %lld-%lld", (long long)u->rows[0],
                            (long long)u->rows[1] - 1);
  if (u->cols[0] >= 0)
    snprintf(out + used, n - used, "  columns %lld-%lld", (long long)u->cols[0],
             (long long)u->cols[1] - 1);
}

static void print_selected(const struct ka_selection *s) {
  enum ka_spectral_metric metric = KA_METRIC_KAPPA;
  char elems[32], place[80], value[32];
  (void)ka_spectral_metric_parse(s->metric, &metric);
  for (int64_t i = 0; i < s->n_units; i++) {
    const struct ka_selected *u = &s->units[i];
    double v = u->metrics[metric];
    place_text(u, place, sizeof place);
    snprintf(value, sizeof value, isnan(v) ? "-" : "%.6g", v);
    printf("%5lld  %12s %8s  %s%s\n", (long long)i + 1, value,
           ka_fmt_count((double)u->n_elems, elems), u->name, place);
  }
}

ka_status ka_cli_analyze_table(struct ka_ctx *ctx, const struct ka_spectrum *results, int64_t n,
                               enum ka_spectral_metric metric, int64_t top,
                               const struct ka_selection *selection,
                               const struct ka_spectral_phases *p,
                               const struct ka_linalg_engine *engine) {
  const struct ka_spectrum **rows = NULL;
  KA_TRY(rows_of(ctx, results, n, metric, top, &rows));
  struct scale s = find_scale(results, n, metric);
  int width = 4;
  for (int64_t i = 0; i < n; i++) {
    int len = (int)strlen(results[i].unit->name);
    width = len > width ? len : width;
  }
  printf("  %-*s %13s %12s %8s %-*s %10s %9s  %s\n", width, "tensor", "shape",
         ka_spectral_metric_info(metric)->name, metric == KA_METRIC_KAPPA ? "bound" : "", BAR, "",
         "log volume", "stable rk", "method");
  int64_t singular = 0, failed = 0;
  for (int64_t i = 0; i < n; i++) {
    if (top == 0 || i < top)
      row(rows[i], width, metric, &s, selected(selection, rows[i]->unit->name));
    singular += results[i].singular;
    failed += results[i].error != NULL;
  }
  char time[32], elems[32];
  printf("%lld tensors", (long long)n);
  if (singular) printf(", %lld singular", (long long)singular);
  if (failed) printf(", %lld without a result", (long long)failed);
  printf(", %s", ka_fmt_duration(p->total_s, time));
  if (p->n_computed)
    printf(" by %s on %s", ka_linalg_engine_name(engine),
           engine->blas ? "cpu" : engine->dev->backend->name);
  if (p->n_cached) printf("; %lld of them from the cache", (long long)p->n_cached);
  printf("\n");
  if (selection)
    printf("selected (*): %lld of %lld candidates, %s parameters\n", (long long)selection->n_units,
           (long long)selection->n_candidates, ka_fmt_count((double)selection->n_elems, elems));
  if (selection) print_selected(selection);
  ka_free(rows);
  return KA_STATUS_OK;
}
