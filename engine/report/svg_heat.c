/* SPDX-License-Identifier: Apache-2.0
 * The heat map of svg_chart.h: the left half of a cell is before, the right half after.
 *
 *            q        k     ...
 *   layer 0  [12|12.4][8.1 ]      a value that did not change fills its cell
 */
#include "engine/report/report_parts.h"

#include <math.h>

enum { LEFT = 62, TOP = 22, CELL_W = 84, CELL_H = 26, GAP = 3 };

static double least_of(const struct ka_report_heat_cell *c, int64_t n, double sign) {
  double least = INFINITY;
  for (int64_t i = 0; i < n; i++) {
    least = fmin(least, sign * log(c[i].before));
    least = fmin(least, sign * log(c[i].after)); /* fmin passes over NaN */
  }
  return least;
}

static ka_status half(struct ka_ctx *ctx, struct ka_str *out, double x, double y, double w,
                      double value, double lo, double hi) {
  double heat = isnan(value) ? 0 : hi > lo ? (log(value) - lo) / (hi - lo) : 0.5;
  KA_TRY(ka_str_printf(ctx, out,
                       "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%d\" "
                       "style=\"fill:var(--heat);fill-opacity:%.3f\"/>",
                       x, y, w, CELL_H - GAP, isnan(value) ? 0.03 : 0.08 + 0.52 * heat));
  if (isnan(value)) return KA_STATUS_OK;
  char text[32];
  return ka_str_printf(
      ctx, out, "<text class=\"value\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%s</text>",
      x + w / 2, y + CELL_H / 2.0 + 2.5, ka_report_kappa(value, text));
}

static ka_status cell(struct ka_ctx *ctx, struct ka_str *out, const struct ka_report_heat_cell *c,
                      double lo, double hi) {
  double x = LEFT + CELL_W * (double)c->column, y = TOP + CELL_H * (double)c->row;
  double w = CELL_W - GAP;
  KA_TRY(ka_str_puts(ctx, out, "<g><title>"));
  KA_TRY(ka_report_html_escape(ctx, out, c->title));
  KA_TRY(ka_str_puts(ctx, out, "</title>"));
  bool two = !isnan(c->after);
  KA_TRY(half(ctx, out, x, y, two ? w / 2 : w, c->before, lo, hi));
  if (two) KA_TRY(half(ctx, out, x + w / 2, y, w / 2, c->after, lo, hi));
  if (c->marked > 0)
    KA_TRY(ka_str_printf(
        ctx, out,
        "<rect class=\"edge\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" "
        "rx=\"2\"%s/>",
        x, y, w, (double)CELL_H - GAP, c->marked < 1 ? " stroke-dasharray=\"5 3\"" : ""));
  return ka_str_puts(ctx, out, "</g>\n");
}

static ka_status label(struct ka_ctx *ctx, struct ka_str *out, double x, double y,
                       const char *anchor, const char *text) {
  KA_TRY(ka_str_printf(ctx, out, "<text class=\"tick\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">",
                       x, y, anchor));
  KA_TRY(ka_report_html_escape(ctx, out, text));
  return ka_str_puts(ctx, out, "</text>\n");
}

ka_status ka_report_heat_svg(struct ka_ctx *ctx, struct ka_str *out, const char *const *columns,
                             int n_columns, const char *const *rows, int n_rows,
                             const struct ka_report_heat_cell *cells, int64_t n_cells) {
  double lo = least_of(cells, n_cells, 1), hi = -least_of(cells, n_cells, -1);
  char least[32], most[32];
  int width = LEFT + CELL_W * n_columns, height = TOP + CELL_H * n_rows + 2;
  KA_TRY(ka_str_printf(ctx, out,
                       "<svg viewBox=\"0 0 %d %d\" style=\"min-width:%dpx;max-width:%dpx\" "
                       "role=\"img\" aria-label=\"layers by roles\">\n",
                       width, height, width, width * 5 / 4));
  for (int c = 0; c < n_columns; c++)
    KA_TRY(label(ctx, out, LEFT + CELL_W * (c + 0.5) - GAP / 2.0, TOP - 8, "middle", columns[c]));
  for (int r = 0; r < n_rows; r++)
    KA_TRY(label(ctx, out, LEFT - 8, TOP + CELL_H * (r + 0.5) + 2.5, "end", rows[r]));
  for (int64_t i = 0; i < n_cells; i++) KA_TRY(cell(ctx, out, &cells[i], lo, hi));
  return ka_str_printf(ctx, out,
                       "</svg>\n<p class=\"note scale\">%s<i></i>%s, by the logarithm; framed: "
                       "trained, left before and right after; dashed: trained in part</p>\n",
                       ka_report_kappa(exp(lo), least), ka_report_kappa(exp(hi), most));
}
