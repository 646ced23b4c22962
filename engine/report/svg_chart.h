/* SPDX-License-Identifier: Apache-2.0
 * A line chart as inline SVG, coloured by the page's CSS variables --s0, --s1, ... */
#ifndef KAPPA_ENGINE_REPORT_SVG_CHART_H
#define KAPPA_ENGINE_REPORT_SVG_CHART_H

#include "base/str.h"

struct ka_chart_point {
  double x, y;
};

struct ka_chart_series {
  const char *name;
  const struct ka_chart_point *points; /* in ascending x, finite */
  int64_t n;
  bool marks; /* a dot at every point */
};

/* Appends <svg>...</svg>. Series without points are left out; nothing at all gives no svg. */
ka_status ka_chart_svg(struct ka_ctx *ctx, struct ka_str *out, const char *label_x,
                       const char *label_y, const struct ka_chart_series *series, int n_series);

/* Text with &, <, > and quotes escaped. */
ka_status ka_html_escape(struct ka_ctx *ctx, struct ka_str *out, const char *text);

#endif
