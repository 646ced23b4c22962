/* SPDX-License-Identifier: Apache-2.0
 * A line chart as inline SVG; see svg_chart.h. Ticks at 1, 2 or 5 times a power of ten. */
#include "engine/report/svg_chart.h"

#include <math.h>
#include <string.h>

enum { WIDTH = 760, HEIGHT = 300, LEFT = 56, RIGHT = 16, TOP = 34, BOTTOM = 40 };

struct range {
  double lo, hi, tick;
};

static double nice_tick(double span, int about) {
  double raw = span / about, base = pow(10, floor(log10(raw))), f = raw / base;
  return base * (f <= 1 ? 1 : f <= 2 ? 2 : f <= 5 ? 5 : 10);
}

static struct range range_of(const struct ka_chart_series *s, int n, bool x) {
  struct range r = {INFINITY, -INFINITY, 1};
  for (int i = 0; i < n; i++)
    for (int64_t k = 0; k < s[i].n; k++) {
      double v = x ? s[i].points[k].x : s[i].points[k].y;
      r.lo = fmin(r.lo, v);
      r.hi = fmax(r.hi, v);
    }
  if (r.hi - r.lo < 1e-12 * fmax(1, fabs(r.hi))) {
    r.lo -= 0.5;
    r.hi += 0.5;
  }
  r.tick = nice_tick(r.hi - r.lo, x ? 7 : 5);
  if (!x) {
    r.lo = floor(r.lo / r.tick) * r.tick;
    r.hi = ceil(r.hi / r.tick) * r.tick;
  }
  return r;
}

static double px(const struct range *r, double x) {
  return LEFT + (x - r->lo) / (r->hi - r->lo) * (WIDTH - LEFT - RIGHT);
}
static double py(const struct range *r, double y) {
  return HEIGHT - BOTTOM - (y - r->lo) / (r->hi - r->lo) * (HEIGHT - TOP - BOTTOM);
}

static ka_status axes(struct ka_ctx *ctx, struct ka_str *out, const struct range *x,
                      const struct range *y, const char *label_x, const char *label_y) {
  for (double v = y->lo; v <= y->hi + y->tick / 2; v += y->tick)
    KA_TRY(
        ka_str_printf(ctx, out,
                      "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>"
                      "<text class=\"tick\" x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.4g</text>\n",
                      LEFT, WIDTH - RIGHT, py(y, v), py(y, v), LEFT - 8, py(y, v) + 4,
                      fabs(v) < y->tick * 1e-6 ? 0.0 : v));
  for (double v = ceil(x->lo / x->tick) * x->tick; v <= x->hi + x->tick * 1e-6; v += x->tick)
    KA_TRY(ka_str_printf(
        ctx, out, "<text class=\"tick\" x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.6g</text>\n",
        px(x, v), HEIGHT - BOTTOM + 18, v));
  return ka_str_printf(ctx, out,
                       "<text class=\"tick\" x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>"
                       "<text class=\"tick\" x=\"%d\" y=\"%d\">%s</text>\n",
                       WIDTH - RIGHT, HEIGHT - 6, label_x, 4, 14, label_y);
}

static ka_status line(struct ka_ctx *ctx, struct ka_str *out, const struct ka_chart_series *s,
                      int colour, const struct range *x, const struct range *y) {
  KA_TRY(ka_str_printf(ctx, out, "<polyline class=\"line\" style=\"stroke:var(--s%d)\" points=\"",
                       colour));
  for (int64_t k = 0; k < s->n; k++)
    KA_TRY(ka_str_printf(ctx, out, "%.1f,%.1f ", px(x, s->points[k].x), py(y, s->points[k].y)));
  KA_TRY(ka_str_puts(ctx, out, "\"/>\n"));
  for (int64_t k = 0; k < s->n && (s->marks || s->n == 1); k++)
    KA_TRY(ka_str_printf(ctx, out,
                         "<circle r=\"3.5\" cx=\"%.1f\" cy=\"%.1f\" style=\"fill:var(--s%d)\">"
                         "<title>%s %.6g at %.6g</title></circle>\n",
                         px(x, s->points[k].x), py(y, s->points[k].y), colour, s->name,
                         s->points[k].y, s->points[k].x));
  return KA_STATUS_OK;
}

ka_status ka_chart_svg(struct ka_ctx *ctx, struct ka_str *out, const char *label_x,
                       const char *label_y, const struct ka_chart_series *series, int n_series) {
  int64_t n = 0;
  for (int i = 0; i < n_series; i++) n += series[i].n;
  if (n == 0) return KA_STATUS_OK;
  struct range x = range_of(series, n_series, true), y = range_of(series, n_series, false);
  KA_TRY(ka_str_printf(ctx, out,
                       "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s over %s\">\n",
                       WIDTH, HEIGHT, label_y, label_x));
  KA_TRY(axes(ctx, out, &x, &y, label_x, label_y));
  int legend = LEFT + 60;
  for (int i = 0; i < n_series; i++) {
    if (series[i].n == 0) continue;
    KA_TRY(line(ctx, out, &series[i], i, &x, &y));
    KA_TRY(ka_str_printf(
        ctx, out,
        "<rect x=\"%d\" y=\"7\" width=\"14\" height=\"4\" rx=\"2\" "
        "style=\"fill:var(--s%d)\"/><text class=\"key\" x=\"%d\" y=\"14\">%s</text>\n",
        legend, i, legend + 20, series[i].name));
    legend += 40 + 8 * (int)strlen(series[i].name);
  }
  return ka_str_puts(ctx, out, "</svg>\n");
}

ka_status ka_html_escape(struct ka_ctx *ctx, struct ka_str *out, const char *text) {
  for (; *text; text++) {
    const char *e = *text == '&'   ? "&amp;"
                    : *text == '<' ? "&lt;"
                    : *text == '>' ? "&gt;"
                    : *text == '"' ? "&quot;"
                                   : NULL;
    if (e)
      KA_TRY(ka_str_puts(ctx, out, e));
    else
      KA_TRY(ka_str_append(ctx, out, text, 1));
  }
  return KA_STATUS_OK;
}
