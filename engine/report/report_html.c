/* SPDX-License-Identifier: Apache-2.0
 * report.html; see report_html.h. */
#include "engine/report/report_html.h"

#include "base/file.h"
#include "engine/report/svg_chart.h"

#include <math.h>
#include <stdio.h>

static const char style[] =
    ":root{color-scheme:light dark;--bg:#fbfbfa;--fg:#1c1d1f;--dim:#63666b;--rule:#dcdddf;"
    "--card:#fff;--s0:#2266cc;--s1:#c8641b;--good:#1a7f4b;--bad:#b3362b}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#141517;--fg:#e7e8ea;--dim:#9a9da3;"
    "--rule:#303236;--card:#1b1d20;--s0:#6ea3f5;--s1:#f0985a;--good:#5cc98f;--bad:#ef7f74}}\n"
    "body{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif;margin:0}\n"
    "main{max-width:880px;margin:0 auto;padding:32px 20px 64px}\n"
    "h1{font-size:24px;margin:0}h2{font-size:17px;margin:36px 0 10px}\n"
    "p{margin:4px 0}.dim{color:var(--dim)}\n"
    "section{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:16px;"
    "overflow-x:auto}\n"
    "table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\n"
    "th{font-weight:500;color:var(--dim);text-align:left;border-bottom:1px solid var(--rule)}\n"
    "td,th{padding:4px 14px 4px 0;white-space:nowrap}td.n,th.n{text-align:right}\n"
    "td.good{color:var(--good)}td.bad{color:var(--bad)}\n"
    "svg{width:100%;height:auto;display:block}.grid{stroke:var(--rule)}\n"
    ".line{fill:none;stroke-width:1.8;stroke-linejoin:round}\n"
    ".tick{fill:var(--dim);font-size:12px}.key{fill:var(--fg);font-size:12px}\n"
    "code{font:13px ui-monospace,monospace}\n";

static ka_status head(struct ka_ctx *ctx, struct ka_str *out, const struct ka_report *r) {
  KA_TRY(ka_str_puts(ctx, out,
                     "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
                     "<meta name=\"viewport\" content=\"width=device-width\">\n<title>"));
  KA_TRY(ka_html_escape(ctx, out, r->title));
  KA_TRY(
      ka_str_printf(ctx, out, "</title>\n<style>\n%s</style></head>\n<body><main>\n<h1>", style));
  KA_TRY(ka_html_escape(ctx, out, r->title));
  KA_TRY(ka_str_puts(ctx, out, "</h1>\n<p class=\"dim\">"));
  KA_TRY(ka_html_escape(ctx, out, r->subtitle));
  return ka_str_puts(ctx, out, "</p>\n");
}

static ka_status facts(struct ka_ctx *ctx, struct ka_str *out, const struct ka_report *r) {
  KA_TRY(ka_str_puts(ctx, out, "<h2>The run</h2>\n<section><table>\n"));
  for (int64_t i = 0; i < r->n_facts; i++) {
    KA_TRY(ka_str_puts(ctx, out, "<tr><td class=\"dim\">"));
    KA_TRY(ka_html_escape(ctx, out, r->facts[i].name));
    KA_TRY(ka_str_puts(ctx, out, "</td><td>"));
    KA_TRY(ka_html_escape(ctx, out, r->facts[i].value));
    KA_TRY(ka_str_puts(ctx, out, "</td></tr>\n"));
  }
  return ka_str_puts(ctx, out, "</table></section>\n");
}

/* Points (step, key) of the rows that have a number there. */
static ka_status points_of(struct ka_ctx *ctx, const json_t *rows, const char *key,
                           struct ka_chart_point **out, int64_t *n) {
  void *mem = NULL;
  *n = 0;
  KA_TRY(ka_alloc_n(ctx, &mem, (int64_t)json_array_size(rows), sizeof **out, "chart points"));
  *out = mem;
  size_t i;
  json_t *row;
  json_array_foreach(rows, i, row) {
    const json_t *v = json_object_get(row, key);
    if (json_is_number(v))
      (*out)[(*n)++] = (struct ka_chart_point){json_number_value(json_object_get(row, "step")),
                                               json_number_value(v)};
  }
  return KA_STATUS_OK;
}

static ka_status curves(struct ka_ctx *ctx, struct ka_str *out, const struct ka_report *r) {
  struct ka_chart_series loss[2] = {{.name = "training"}, {.name = "validation", .marks = true}};
  struct ka_chart_point *train = NULL, *eval = NULL;
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(points_of(ctx, r->log, "loss", &train, &loss[0].n), out);
  KA_TRY_GOTO(points_of(ctx, r->log, "eval_loss", &eval, &loss[1].n), out);
  loss[0].points = train;
  loss[1].points = eval;
  if (loss[0].n + loss[1].n == 0) goto out;
  KA_TRY_GOTO(ka_str_puts(ctx, out, "<h2>Loss</h2>\n<section>\n"), out);
  KA_TRY_GOTO(ka_chart_svg(ctx, out, "step", "nats a token", loss, 2), out);
  KA_TRY_GOTO(ka_str_puts(ctx, out, "</section>\n"), out);
out:
  ka_free(train);
  ka_free(eval);
  return st;
}

static ka_status held_out(struct ka_ctx *ctx, struct ka_str *out, const struct ka_report *r) {
  if (r->n_held_out == 0) return KA_STATUS_OK;
  KA_TRY(ka_str_puts(ctx, out,
                     "<h2>What it learned, what it forgot</h2>\n<section><table>\n<tr><th>text</th>"
                     "<th class=\"n\">loss before</th><th class=\"n\">after</th>"
                     "<th class=\"n\">change</th><th class=\"n\">tokens</th></tr>\n"));
  for (int64_t i = 0; i < r->n_held_out; i++) {
    const struct ka_report_held_out *h = &r->held_out[i];
    double change = h->after - h->before;
    KA_TRY(ka_str_puts(ctx, out, "<tr><td>"));
    KA_TRY(ka_html_escape(ctx, out, h->name));
    KA_TRY(ka_str_printf(ctx, out,
                         "</td><td class=\"n\">%.4f</td><td class=\"n\">%.4f</td>"
                         "<td class=\"n %s\">%+.4f</td><td class=\"n\">%lld</td></tr>\n",
                         h->before, h->after, change > 0 ? "bad" : "good", change,
                         (long long)h->n_tokens));
  }
  return ka_str_puts(ctx, out,
                     "</table><p class=\"dim\">Mean loss in nats a token, before and after "
                     "training; a rise is forgetting.</p></section>\n");
}

static ka_status kappa_cell(struct ka_ctx *ctx, struct ka_str *out, double v) {
  if (isnan(v)) return ka_str_puts(ctx, out, "<td class=\"n dim\">–</td>");
  return ka_str_printf(ctx, out, "<td class=\"n\">%.5g</td>", v);
}

static ka_status units(struct ka_ctx *ctx, struct ka_str *out, const struct ka_report *r) {
  if (r->n_units == 0) return KA_STATUS_OK;
  KA_TRY(ka_str_puts(ctx, out,
                     "<h2>What was trained</h2>\n<section><table>\n<tr><th>unit</th><th></th>"
                     "<th class=\"n\">parameters</th><th class=\"n\">rate</th>"
                     "<th class=\"n\">kappa before</th>"
                     "<th class=\"n\">after</th><th class=\"n\">drift</th></tr>\n"));
  for (int64_t i = 0; i < r->n_units; i++) {
    const struct ka_report_unit *u = &r->units[i];
    KA_TRY(ka_str_puts(ctx, out, "<tr><td><code>"));
    KA_TRY(ka_html_escape(ctx, out, u->name));
    KA_TRY(ka_str_printf(ctx, out,
                         "</code></td><td class=\"dim\">%s</td><td class=\"n\">%lld</td>"
                         "<td class=\"n\">x %.3g</td>",
                         u->part, (long long)u->n_elems, u->lr_scale));
    KA_TRY(kappa_cell(ctx, out, u->kappa_before));
    KA_TRY(kappa_cell(ctx, out, u->kappa_after));
    double drift = 100 * (u->kappa_after / u->kappa_before - 1);
    if (isnan(drift))
      KA_TRY(ka_str_puts(ctx, out, "<td class=\"n dim\">–</td></tr>\n"));
    else
      KA_TRY(ka_str_printf(ctx, out, "<td class=\"n\">%+.2f %%</td></tr>\n", drift));
  }
  return ka_str_puts(ctx, out, "</table></section>\n");
}

ka_status ka_report_write(struct ka_ctx *ctx, const struct ka_report *r, const char *path) {
  struct ka_str out = {0};
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(head(ctx, &out, r), out);
  KA_TRY_GOTO(held_out(ctx, &out, r), out);
  KA_TRY_GOTO(curves(ctx, &out, r), out);
  KA_TRY_GOTO(facts(ctx, &out, r), out);
  KA_TRY_GOTO(units(ctx, &out, r), out);
  KA_TRY_GOTO(ka_str_puts(ctx, &out, "</main></body></html>\n"), out);
  st = ka_write_file(ctx, path, out.data, out.len);
out:
  ka_str_deinit(&out);
  return st;
}
