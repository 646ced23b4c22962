/* SPDX-License-Identifier: Apache-2.0
 * See spectral_html.h. */
#include "engine/report/spectral_html.h"

#include "base/file.h"
#include "base/json.h"
#include "engine/report/page.h"

#include <math.h>
#include <string.h>

enum { DRAWN = 256 }; /* singular values a spectrum is drawn from */

static ka_status number(struct ka_ctx *ctx, struct ka_str *out, double v, int digits) {
  if (!isfinite(v)) return ka_str_puts(ctx, out, "null");
  return ka_str_printf(ctx, out, "%.*g", digits, v);
}

/* "</script>" inside a name must not end the data. */
static ka_status text(struct ka_ctx *ctx, struct ka_str *out, const char *s) {
  struct ka_str quoted = {0};
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_json_quote(ctx, &quoted, s, strlen(s)), out);
  for (size_t i = 0; i < quoted.len; i++) {
    if (quoted.data[i] == '<')
      KA_TRY_GOTO(ka_str_puts(ctx, out, "\\u003c"), out);
    else
      KA_TRY_GOTO(ka_str_append(ctx, out, quoted.data + i, 1), out);
  }
out:
  ka_str_deinit(&quoted);
  return st;
}

static ka_status metrics_list(struct ka_ctx *ctx, struct ka_str *out) {
  KA_TRY(ka_str_puts(ctx, out, "\"metrics\":["));
  for (int i = 0; i < KA_N_METRICS; i++) {
    const struct ka_spectral_metric_info *m = ka_spectral_metric_info((enum ka_spectral_metric)i);
    KA_TRY(ka_str_printf(ctx, out, "%s{\"name\":\"%s\",\"formula\":\"%s\",\"source\":\"%s\"}",
                         i ? "," : "", m->name, m->formula, m->source));
  }
  return ka_str_puts(ctx, out, "],\n");
}

static bool taken(const struct ka_selection *s, const char *name) {
  for (int64_t i = 0; s && i < s->n_units; i++)
    if (strcmp(s->units[i].name, name) == 0) return true;
  return false;
}

static ka_status values(struct ka_ctx *ctx, struct ka_str *out, const struct ka_spectrum *r) {
  int64_t n = r->n_values < DRAWN ? r->n_values : DRAWN;
  KA_TRY(ka_str_puts(ctx, out, ",\"s\":["));
  for (int64_t i = 0; i < n; i++) {
    int64_t at = n > 1 ? i * (r->n_values - 1) / (n - 1) : 0;
    KA_TRY(ka_str_printf(ctx, out, "%s%.5g", i ? "," : "", r->values[at]));
  }
  return ka_str_puts(ctx, out, "]");
}

static ka_status unit(struct ka_ctx *ctx, struct ka_str *out, const struct ka_spectrum *r,
                      bool is_taken) {
  const struct ka_unit *u = r->unit;
  KA_TRY(ka_str_puts(ctx, out, "{\"name\":"));
  KA_TRY(text(ctx, out, u->name));
  KA_TRY(ka_str_puts(ctx, out, ",\"role\":"));
  KA_TRY(text(ctx, out, u->role ? u->role : "?"));
  KA_TRY(ka_str_printf(ctx, out,
                       ",\"layer\":%d,\"dims\":[%lld,%lld],\"n\":%lld,\"method\":\"%s\""
                       ",\"singular\":%s,\"taken\":%s,\"fused\":%s,\"bound\":",
                       u->layer, (long long)u->view.shape[0], (long long)u->view.shape[1],
                       (long long)ka_unit_elems(u), ka_spectral_method_name(r->method),
                       r->singular ? "true" : "false", is_taken ? "true" : "false",
                       u->has_parts ? "true" : "false"));
  KA_TRY(number(ctx, out, r->kappa_rel_bound, 3));
  if (r->error) {
    KA_TRY(ka_str_puts(ctx, out, ",\"error\":"));
    KA_TRY(text(ctx, out, r->error));
  }
  KA_TRY(ka_str_puts(ctx, out, ",\"m\":{"));
  for (int i = 0; i < KA_N_METRICS; i++) {
    KA_TRY(ka_str_printf(ctx, out, "%s\"%s\":", i ? "," : "",
                         ka_spectral_metric_info((enum ka_spectral_metric)i)->name));
    KA_TRY(number(ctx, out, r->metrics[i], 10));
  }
  KA_TRY(ka_str_puts(ctx, out, "}"));
  if (r->n_values > 0) KA_TRY(values(ctx, out, r));
  return ka_str_puts(ctx, out, "}");
}

static ka_status head(struct ka_ctx *ctx, struct ka_str *out, const char *title,
                      const struct ka_spectrum *results, int64_t n, const struct ka_selection *s,
                      enum ka_spectral_metric metric) {
  double elems = 0;
  char count[32], some[32];
  for (int64_t i = 0; i < n; i++)
    if (!strchr(results[i].unit->name, '#')) elems += (double)ka_unit_elems(results[i].unit);
  KA_TRY(ka_str_puts(ctx, out,
                     "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
                     "<meta name=viewport content='width=device-width,initial-scale=1'>\n<title>"));
  KA_TRY(ka_report_html_escape(ctx, out, title));
  KA_TRY(ka_str_puts(ctx, out, ": spectra</title>\n<script type='application/json' id=data>\n{"));
  KA_TRY(ka_str_puts(ctx, out, "\"title\":"));
  KA_TRY(text(ctx, out, title));
  KA_TRY(ka_str_printf(ctx, out, ",\"subtitle\":\"%lld units, %s weights in matrices\",",
                       (long long)n, ka_fmt_count(elems, count)));
  KA_TRY(ka_str_printf(ctx, out, "\"metric\":\"%s\",\n", ka_spectral_metric_info(metric)->name));
  if (s)
    KA_TRY(ka_str_printf(ctx, out,
                         "\"selection\":\"%s, %s first: %lld of %lld candidates, %s parameters\",",
                         s->metric, s->highest ? "highest" : "lowest", (long long)s->n_units,
                         (long long)s->n_candidates, ka_fmt_count((double)s->n_elems, some)));
  return metrics_list(ctx, out);
}

ka_status ka_spectral_html_write(struct ka_ctx *ctx, const char *title,
                                 const struct ka_spectrum *results, int64_t n,
                                 enum ka_spectral_metric metric,
                                 const struct ka_selection *selection, const char *path) {
  struct ka_str out = {0};
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(head(ctx, &out, title, results, n, selection, metric), out);
  KA_TRY_GOTO(ka_str_puts(ctx, &out, "\"units\":[\n"), out);
  for (int64_t i = 0; i < n; i++) {
    if (i) KA_TRY_GOTO(ka_str_puts(ctx, &out, ",\n"), out);
    KA_TRY_GOTO(unit(ctx, &out, &results[i], taken(selection, results[i].unit->name)), out);
  }
  KA_TRY_GOTO(ka_str_puts(ctx, &out, "\n]}\n</script>\n"), out);
  KA_TRY_GOTO(ka_str_puts(ctx, &out, ka_spectral_page), out);
  st = ka_write_file(ctx, path, out.data, out.len);
out:
  ka_str_deinit(&out);
  return st;
}
