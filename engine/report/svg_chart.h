/* SPDX-License-Identifier: Apache-2.0
 * Charts as inline SVG, coloured by the page's CSS variables --s0, --s1, ... (page.h). */
#ifndef KAPPA_ENGINE_REPORT_SVG_CHART_H
#define KAPPA_ENGINE_REPORT_SVG_CHART_H

#include "base/str.h"

struct ka_report_chart_point {
  double x, y;
  double ex, ey; /* half widths of error bars; 0: none */
};

enum ka_report_chart_style {
  KA_CHART_LINE,  /* joined; a lone point is a dot */
  KA_CHART_MARKS, /* joined, a dot at every point */
  KA_CHART_DOTS,  /* dots alone */
  KA_CHART_STAIR, /* from a point down to the next y, then across: what a front covers */
};

struct ka_report_chart_series {
  const char *name;
  const struct ka_report_chart_point *points; /* finite; in ascending x unless dots */
  int64_t n;
  enum ka_report_chart_style style;
  int colour;
  int n_large; /* the first so many dots are larger */
};

/* Appends <svg>...</svg>; no points give none. A zero line is drawn where the range holds one. */
ka_status ka_report_chart_svg(struct ka_ctx *ctx, struct ka_str *out, const char *label_x,
                              const char *label_y, const struct ka_report_chart_series *series,
                              int n_series);

/* Layers by roles with the scale of their colours below: each cell one or two values, the colour by
 * the logarithm. */
struct ka_report_heat_cell {
  int row, column;
  double before, after; /* NaN: unknown; after alone NaN: as before */
  double marked;        /* the part of it that is outlined, 0 to 1 */
  const char *title;
};
ka_status ka_report_heat_svg(struct ka_ctx *ctx, struct ka_str *out, const char *const *columns,
                             int n_columns, const char *const *rows, int n_rows,
                             const struct ka_report_heat_cell *cells, int64_t n_cells);

#endif
