/* SPDX-License-Identifier: Apache-2.0
 * See svg_chart.h. Drawn for 460 units of width: at a phone's 330 pixels the text is still 9 high.
 * Ticks at 1, 2 or 5 times a power of ten. */
#include "engine/report/svg_chart.h"

#include "engine/report/page.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { WIDTH = 460, HEIGHT = 290, LEFT = 52, RIGHT = 14, TOP = 24, BOTTOM = 38 };

/* Noise of less than this part of the values is drawn flat. */
#define LEAST_SPAN 0.01

struct range {
  double lo, hi, tick;
};

static double nice_tick(double span, int about) {
  double raw = span / about, base = pow(10, floor(log10(raw))), f = raw / base;
  return base * (f <= 1 ? 1 : f <= 2 ? 2 : f <= 5 ? 5 : 10);
}

static struct range range_of(const struct ka_report_chart_series *s, int n, bool x) {
  struct range r = {INFINITY, -INFINITY, 1};
  for (int i = 0; i < n; i++)
    for (int64_t k = 0; k < s[i].n; k++) {
      double v = x ? s[i].points[k].x : s[i].points[k].y;
      double e = x ? s[i].points[k].ex : s[i].points[k].ey;
      r.lo = fmin(r.lo, v - e);
      r.hi = fmax(r.hi, v + e);
    }
  double least = LEAST_SPAN * fmax(fabs(r.lo), fabs(r.hi)), lacks = least - (r.hi - r.lo);
  if (least == 0) lacks = 1;
  if (lacks > 0) {
    r.lo -= lacks / 2;
    r.hi += lacks / 2;
  }
  r.tick = nice_tick(r.hi - r.lo, 5);
  r.lo = floor(r.lo / r.tick + 1e-9) * r.tick;
  r.hi = ceil(r.hi / r.tick - 1e-9) * r.tick;
  return r;
}

static double px(const struct range *r, double x) {
  return LEFT + (x - r->lo) / (r->hi - r->lo) * (WIDTH - LEFT - RIGHT);
}
static double py(const struct range *r, double y) {
  return HEIGHT - BOTTOM - (y - r->lo) / (r->hi - r->lo) * (HEIGHT - TOP - BOTTOM);
}
static double clean(double v, double tick) { return fabs(v) < tick * 1e-6 ? 0.0 : v; }

/* As many digits as tell it from its neighbours. */
static const char *tick_text(double v, double tick, char buf[32]) {
  int digits = (int)-floor(log10(tick) + 1e-9);
  if (fabs(v) >= 1e6 || tick < 1e-4)
    snprintf(buf, 32, "%.*g", v == 0 ? 1 : (int)fmax(1, floor(log10(fabs(v)) + 1e-9) + digits + 1),
             v);
  else
    snprintf(buf, 32, "%.*f", digits > 0 ? digits : 0, v);
  return buf;
}

static ka_status axes(struct ka_ctx *ctx, struct ka_str *out, const struct range *x,
                      const struct range *y, const char *label_x, const char *label_y) {
  char text[32];
  for (double v = y->lo; v <= y->hi + y->tick / 2; v += y->tick) {
    double t = clean(v, y->tick);
    KA_TRY(ka_str_printf(ctx, out,
                         "<line class=\"%s\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>"
                         "<text class=\"tick\" x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n",
                         t == 0 ? "axis" : "grid", LEFT, WIDTH - RIGHT, py(y, v), py(y, v),
                         LEFT - 6, py(y, v) + 4, tick_text(t, y->tick, text)));
  }
  for (double v = x->lo; v <= x->hi + x->tick / 2; v += x->tick) {
    double t = clean(v, x->tick);
    if (t == 0 && x->lo < -x->tick / 2)
      KA_TRY(ka_str_printf(ctx, out,
                           "<line class=\"axis\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>",
                           px(x, v), px(x, v), TOP, HEIGHT - BOTTOM));
    KA_TRY(ka_str_printf(
        ctx, out, "<text class=\"tick\" x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n",
        px(x, v), HEIGHT - BOTTOM + 16, tick_text(t, x->tick, text)));
  }
  KA_TRY(ka_str_printf(ctx, out, "<text class=\"tick\" x=\"%d\" y=\"%d\" text-anchor=\"end\">",
                       WIDTH - RIGHT, HEIGHT - 5));
  KA_TRY(ka_report_html_escape(ctx, out, label_x));
  KA_TRY(ka_str_puts(ctx, out, "</text><text class=\"tick\" x=\"2\" y=\"13\">"));
  KA_TRY(ka_report_html_escape(ctx, out, label_y));
  return ka_str_puts(ctx, out, "</text>\n");
}

static ka_status line(struct ka_ctx *ctx, struct ka_str *out,
                      const struct ka_report_chart_series *s, const struct range *x,
                      const struct range *y) {
  int colour = s->colour % KA_PAGE_COLOURS;
  KA_TRY(ka_str_printf(ctx, out, "<polyline class=\"line\" style=\"stroke:var(--s%d)\" points=\"",
                       colour));
  for (int64_t k = 0; k < s->n; k++) {
    if (s->style == KA_CHART_STAIR && k > 0)
      KA_TRY(
          ka_str_printf(ctx, out, "%.1f,%.1f ", px(x, s->points[k - 1].x), py(y, s->points[k].y)));
    KA_TRY(ka_str_printf(ctx, out, "%.1f,%.1f ", px(x, s->points[k].x), py(y, s->points[k].y)));
  }
  return ka_str_puts(ctx, out, "\"/>\n");
}

/* An error bar, from (x1, y1) to (x2, y2). */
static ka_status bar(struct ka_ctx *ctx, struct ka_str *out, int colour, double x1, double y1,
                     double x2, double y2) {
  return ka_str_printf(ctx, out,
                       "<line class=\"bar\" style=\"stroke:var(--s%d)\" x1=\"%.1f\" y1=\"%.1f\" "
                       "x2=\"%.1f\" y2=\"%.1f\"/>",
                       colour, x1, y1, x2, y2);
}

static ka_status dot(struct ka_ctx *ctx, struct ka_str *out, const struct ka_report_chart_series *s,
                     int64_t k, const struct range *xr, const struct range *yr) {
  const struct ka_report_chart_point *p = &s->points[k];
  int colour = s->colour % KA_PAGE_COLOURS;
  double x = px(xr, p->x), y = py(yr, p->y);
  if (p->ex > 0) KA_TRY(bar(ctx, out, colour, px(xr, p->x - p->ex), y, px(xr, p->x + p->ex), y));
  if (p->ey > 0) KA_TRY(bar(ctx, out, colour, x, py(yr, p->y - p->ey), x, py(yr, p->y + p->ey)));
  KA_TRY(ka_str_printf(ctx, out,
                       "<circle r=\"%s\" cx=\"%.1f\" cy=\"%.1f\" style=\"fill:var(--s%d)\"><title>",
                       k < s->n_large ? "5" : "3", x, y, colour));
  KA_TRY(ka_report_html_escape(ctx, out, s->name));
  return ka_str_printf(ctx, out, ": %.6g at %.6g</title></circle>\n", p->y, p->x);
}

ka_status ka_report_chart_svg(struct ka_ctx *ctx, struct ka_str *out, const char *label_x,
                              const char *label_y, const struct ka_report_chart_series *series,
                              int n_series) {
  int64_t n = 0;
  for (int i = 0; i < n_series; i++) n += series[i].n;
  if (n == 0) return KA_STATUS_OK;
  struct range x = range_of(series, n_series, true), y = range_of(series, n_series, false);
  KA_TRY(ka_str_printf(ctx, out, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", WIDTH,
                       HEIGHT));
  KA_TRY(ka_report_html_escape(ctx, out, label_y));
  KA_TRY(ka_str_puts(ctx, out, " over "));
  KA_TRY(ka_report_html_escape(ctx, out, label_x));
  KA_TRY(ka_str_puts(ctx, out, "\">\n"));
  KA_TRY(axes(ctx, out, &x, &y, label_x, label_y));
  for (int i = 0; i < n_series; i++) {
    const struct ka_report_chart_series *s = &series[i];
    bool dots = s->style == KA_CHART_MARKS || s->style == KA_CHART_DOTS ||
                (s->style == KA_CHART_LINE && s->n == 1);
    if (s->style != KA_CHART_DOTS && s->n > 1) KA_TRY(line(ctx, out, s, &x, &y));
    for (int64_t k = 0; k < s->n && dots; k++) KA_TRY(dot(ctx, out, s, k, &x, &y));
  }
  return ka_str_puts(ctx, out, "</svg>\n");
}
