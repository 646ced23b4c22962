/* SPDX-License-Identifier: Apache-2.0
 * See report.h. */
#include "engine/report/report.h"

#include "base/file.h"
#include "engine/report/report_parts.h"

#include <math.h>
#include <stdio.h>

double ka_report_number(const json_t *object, const char *key) {
  return ka_json_number(json_object_get(object, key));
}

const char *ka_report_text(const json_t *object, const char *key) {
  const char *s = json_string_value(json_object_get(object, key));
  return s ? s : "";
}

void ka_report_cell(struct ka_page *p, const char *mark, const char *fmt, double v) {
  if (isnan(v)) {
    ka_page_cell(p, "dim", "–");
    return;
  }
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
  ka_page_cell(p, mark, fmt, v);
#pragma GCC diagnostic pop
}

const char *ka_report_kappa(double v, char buf[32]) {
  if (isnan(v))
    snprintf(buf, 32, "–");
  else
    snprintf(buf, 32, v < 10 ? "%.2f" : v < 100 ? "%.1f" : v < 1e5 ? "%.0f" : "%.2e", v);
  return buf;
}

bool ka_report_tells(const struct ka_report_chart_series *series, int n) {
  int64_t most = 0;
  double lo = INFINITY, hi = -INFINITY;
  for (int i = 0; i < n; i++) {
    most = series[i].n > most ? series[i].n : most;
    for (int64_t k = 0; k < series[i].n; k++) {
      lo = fmin(lo, series[i].points[k].y);
      hi = fmax(hi, series[i].points[k].y);
    }
  }
  return most > 2 && hi > lo;
}

int64_t ka_report_points(struct ka_page *p, const json_t *list, double scale,
                         struct ka_report_chart_point **out) {
  size_t i, n = json_array_size(list);
  const json_t *pair;
  void *mem = NULL;
  int64_t k = 0;
  *out = NULL;
  if (ka_ok(p->st) && n > 0)
    p->st = ka_alloc_n(p->ctx, &mem, (int64_t)n, sizeof **out, "chart points");
  *out = mem;
  if (!mem) return 0;
  json_array_foreach(list, i, pair) {
    const json_t *x = json_array_get(pair, 0), *y = json_array_get(pair, 1);
    if (!json_is_number(x) || !json_is_number(y)) continue;
    (*out)[k++] =
        (struct ka_report_chart_point){json_number_value(x), scale * json_number_value(y), 0, 0};
  }
  return k;
}

/* [[name, value], ...] under a heading. */
static void facts(struct ka_page *p, const json_t *list, const char *heading) {
  size_t i;
  const json_t *pair;
  if (json_array_size(list) == 0) return;
  ka_page_section(p, heading);
  ka_page_table(p, "|");
  json_array_foreach(list, i, pair) {
    const char *name = json_string_value(json_array_get(pair, 0));
    const char *value = json_string_value(json_array_get(pair, 1));
    ka_page_cell(p, "dim", "%s", name ? name : "");
    ka_page_cell(p, "long", "%s", value ? value : "");
  }
  ka_page_table_end(p);
}

static void commands(struct ka_page *p, const json_t *list) {
  struct ka_str text = {0};
  size_t i;
  const json_t *line;
  if (json_array_size(list) == 0) return;
  ka_page_section(p, "To repeat it");
  json_array_foreach(list, i, line) {
    const char *s = json_string_value(line);
    if (ka_ok(p->st)) p->st = ka_str_printf(p->ctx, &text, "%s%s", i > 0 ? "\n" : "", s ? s : "");
  }
  if (ka_ok(p->st)) ka_page_code(p, text.data);
  ka_str_deinit(&text);
}

static void fill(struct ka_page *p, const json_t *root) {
  ka_report_summary(p, root);
  ka_report_verdict(p, root);
  ka_report_fronts(p, root);
  ka_report_methods(p, root);
  ka_report_method_curves(p, root);
  ka_report_measures(p, root);
  ka_report_curves(p, root);
  ka_report_units(p, root);
  ka_report_experts(p, root);
  facts(p, json_object_get(root, "settings"), "Settings");
  facts(p, json_object_get(root, "machine"), "Machine");
  commands(p, json_object_get(root, "commands"));
}

static ka_status write(struct ka_arena *a, const json_t *root, const struct ka_page *page,
                       const char *dir) {
  struct ka_ctx *ctx = a->ctx;
  const char *html, *md, *json;
  KA_TRY(ka_path_join(a, &html, dir, "report.html"));
  KA_TRY(ka_path_join(a, &md, dir, "report.md"));
  KA_TRY(ka_path_join(a, &json, dir, "report.json"));
  KA_TRY(ka_write_file(ctx, html, page->html.data, page->html.len));
  KA_TRY(ka_write_file(ctx, md, page->md.data, page->md.len));
  return ka_json_write(ctx, root, json);
}

ka_status ka_report_write(struct ka_ctx *ctx, const json_t *root, const char *dir) {
  struct ka_page page;
  struct ka_arena a;
  ka_arena_init(&a, ctx, "report");
  ka_page_begin(ctx, &page, ka_report_text(root, "title"), ka_report_text(root, "subtitle"));
  fill(&page, root);
  ka_status st = ka_page_end(&page);
  if (ka_ok(st)) st = write(&a, root, &page, dir);
  ka_page_deinit(&page);
  ka_arena_deinit(&a);
  return st;
}
