/* SPDX-License-Identifier: Apache-2.0
 * Inside report: the sections. Each leaves itself out where the root has nothing for it. */
#ifndef KAPPA_ENGINE_REPORT_REPORT_PARTS_H
#define KAPPA_ENGINE_REPORT_REPORT_PARTS_H

#include "base/json.h"
#include "engine/report/page.h"
#include "engine/report/svg_chart.h"

/* NaN, "" where there is none. */
double ka_report_number(const json_t *object, const char *key);
const char *ka_report_text(const json_t *object, const char *key);

/* The cell of a number: an em dash for NaN. fmt takes one double. */
void ka_report_cell(struct ka_page *p, const char *mark, const char *fmt, double v);

/* A condition number as it stands everywhere: 4.85, 73.1, 2462, 1.21e+06. */
const char *ka_report_kappa(double v, char buf[32]);

/* Is there more in a curve than a table of its ends says? */
bool ka_report_tells(const struct ka_report_chart_series *series, int n);

/* Points of [[x, y], ...], y times scale; ka_free(*out). Returns how many. */
int64_t ka_report_points(struct ka_page *p, const json_t *list, double scale,
                         struct ka_report_chart_point **out);

void ka_report_summary(struct ka_page *p, const json_t *root);
void ka_report_measures(struct ka_page *p, const json_t *root);
void ka_report_curves(struct ka_page *p, const json_t *root);
void ka_report_units(struct ka_page *p, const json_t *root);
void ka_report_experts(struct ka_page *p, const json_t *root);
void ka_report_verdict(struct ka_page *p, const json_t *root);
void ka_report_fronts(struct ka_page *p, const json_t *root);
void ka_report_method_curves(struct ka_page *p, const json_t *root);
void ka_report_methods(struct ka_page *p, const json_t *root);

#endif
