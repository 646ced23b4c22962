/* SPDX-License-Identifier: Apache-2.0
 * The section about experts: how many tokens each took, layers downwards, experts across.
 *
 *              0  1  2  3 ...
 *   layer 0   [  ][//][  ][  ]     the darker the fuller, by the logarithm; crossed: dead;
 *   layer 1   [  ][  ][  ][  ]     framed: trained, in red where no token reached it
 */
#include "engine/report/report_parts.h"

#include <math.h>

enum { LEFT = 58, TOP = 18, HEIGHT = 14, GAP = 2, WIDE = 640, NARROWEST = 5, WIDEST = 30 };

static bool in_list(const json_t *list, size_t e) {
  size_t i;
  const json_t *v;
  json_array_foreach(list, i, v) if (json_integer_value(v) == (json_int_t)e) return true;
  return false;
}

static double total(const json_t *taken) {
  double sum = 0;
  size_t i;
  const json_t *v;
  json_array_foreach(taken, i, v) sum += json_number_value(v);
  return sum;
}

struct grid {
  struct ka_str *out;
  double width; /* of a cell */
};

/* load: times an even one; from a quarter of it to four times it the colour says how much. */
static ka_status cell(struct ka_ctx *ctx, const struct grid *g, double y, size_t e, double load,
                      bool trained, int64_t layer) {
  double x = LEFT + g->width * (double)e, w = g->width - GAP, h = HEIGHT - GAP;
  double heat = load > 0 ? fmin(1, fmax(0, 0.5 + log2(load) / 4)) : 0;
  KA_TRY(ka_str_printf(ctx, g->out,
                       "<g><title>layer %lld, expert %zu: %.2f times an even load%s</title>"
                       "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" "
                       "style=\"fill:var(--heat);fill-opacity:%.3f\"/>",
                       (long long)layer, e, load, trained ? ", trained" : "", x, y, w, h,
                       load > 0 ? 0.08 + 0.6 * heat : 0.02));
  if (load == 0)
    KA_TRY(ka_str_printf(ctx, g->out,
                         "<path d=\"M%.1f %.1fL%.1f %.1f\" style=\"stroke:currentColor;"
                         "stroke-opacity:.45\"/>",
                         x, y + h, x + w, y));
  if (trained)
    KA_TRY(ka_str_printf(ctx, g->out,
                         "<rect class=\"edge\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" "
                         "height=\"%.1f\"%s/>",
                         x, y, w, h, load == 0 ? " style=\"stroke:var(--s1)\"" : ""));
  return ka_str_puts(ctx, g->out, "</g>\n");
}

static ka_status draw(struct ka_ctx *ctx, struct ka_str *out, const json_t *layers) {
  size_t n = json_array_size(layers), i, e;
  size_t E = json_array_size(json_object_get(json_array_get(layers, 0), "taken"));
  struct grid g = {out, fmin(WIDEST, fmax(NARROWEST, (double)WIDE / (double)E))};
  double width = LEFT + g.width * (double)E, height = TOP + HEIGHT * (double)n;
  const json_t *layer, *v;
  KA_TRY(ka_str_printf(ctx, out,
                       "<svg viewBox=\"0 0 %.0f %.0f\" style=\"min-width:%.0fpx;max-width:%.0fpx\" "
                       "role=\"img\" aria-label=\"layers by experts\">\n",
                       width, height, width, width * 5 / 4));
  for (e = 0; e<E; e += E> 16 ? 8 : 1)
    KA_TRY(ka_str_printf(
        ctx, out, "<text class=\"tick\" x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%zu</text>\n",
        LEFT + g.width * ((double)e + 0.5) - GAP / 2.0, TOP - 6, e));
  json_array_foreach(layers, i, layer) {
    const json_t *taken = json_object_get(layer, "taken"),
                 *trained = json_object_get(layer, "trained");
    double y = TOP + HEIGHT * (double)i, sum = total(taken);
    int64_t l = (int64_t)ka_report_number(layer, "layer");
    KA_TRY(ka_str_printf(
        ctx, out,
        "<text class=\"tick\" x=\"%d\" y=\"%.1f\" text-anchor=\"end\">layer %lld</text>\n",
        LEFT - 6, y + HEIGHT - 4, (long long)l));
    json_array_foreach(taken, e, v)
        KA_TRY(cell(ctx, &g, y, e, sum > 0 ? json_number_value(v) * (double)E / sum : 0,
                    in_list(trained, e), l));
  }
  return ka_str_puts(ctx, out, "</svg>\n");
}

void ka_report_experts(struct ka_page *p, const json_t *root) {
  const json_t *x = json_object_get(root, "experts"), *layers = json_object_get(x, "layers");
  struct ka_str svg = {0};
  if (json_array_size(layers) == 0) return;
  ka_page_section(p, "Experts");
  ka_page_text(p, "lead",
               "The fullest expert took %.2f times an even load; %.0f experts took no token; "
               "%.0f of the %.0f trained ones were reached by none.",
               ka_report_number(x, "max"), ka_report_number(x, "dead"),
               ka_report_number(x, "unreached"), ka_report_number(x, "trained"));
  if (ka_ok(p->st)) p->st = draw(p->ctx, &svg, layers);
  ka_page_figure(p, "Tokens that each expert took in training", &svg, NULL, 0);
  ka_page_text(
      p, "note",
      "The darker the fuller, by the logarithm, from a quarter of an even load to four "
      "times it. Crossed: no token. Framed: trained; a frame of the other colour: trained, "
      "and never reached by a token, so unchanged.");
  ka_str_deinit(&svg);
}
