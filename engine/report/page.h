/* SPDX-License-Identifier: Apache-2.0
 *
 * A document that is written once and comes out twice: as a self-contained HTML page (no script, no
 * network, light and dark, a phone's width) and as Markdown. Figures are in the HTML alone.
 *
 * Texts are given as they are and escaped here. Errors stick: calls after a failure do nothing, and
 * ka_page_end returns the first one. */
#ifndef KAPPA_ENGINE_REPORT_PAGE_H
#define KAPPA_ENGINE_REPORT_PAGE_H

#include "base/str.h"

struct ka_page {
  struct ka_ctx *ctx;
  ka_status st;
  struct ka_str html, md, text;
  int n_columns, column; /* of the open table */
  uint64_t numbers;      /* of the first 64 columns, those whose cells are aligned to the right */
};

void ka_page_begin(struct ka_ctx *ctx, struct ka_page *p, const char *title, const char *subtitle);
ka_status ka_page_end(struct ka_page *p);
void ka_page_deinit(struct ka_page *p);

void ka_page_section(struct ka_page *p, const char *heading);
/* A paragraph; "lead" is larger, "note" dimmer, "" plain. */
void ka_page_text(struct ka_page *p, const char *kind, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void ka_page_code(struct ka_page *p, const char *text);

/* columns: headings with | between; one that starts with > holds numbers. Cells come row by row;
 * mark: a CSS class for this cell (good, bad, dim, here, name) or "". */
void ka_page_table(struct ka_page *p, const char *columns);
void ka_page_cell(struct ka_page *p, const char *mark, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void ka_page_table_end(struct ka_page *p);

/* An <svg> with the names of its colours --s0, --s1, ... (n 0: none); between figures and
 * figures_end several stand side by side where there is room. */
void ka_page_figures(struct ka_page *p);
void ka_page_figure(struct ka_page *p, const char *title, const struct ka_str *svg,
                    const char *const *names, int n);
void ka_page_figures_end(struct ka_page *p);

/* What follows, up to fold_end, is shown when the reader asks for it. */
void ka_page_fold(struct ka_page *p, const char *summary);
void ka_page_fold_end(struct ka_page *p);

enum { KA_PAGE_COLOURS = 10 };

/* Text with &, <, > and quotes escaped. */
ka_status ka_report_html_escape(struct ka_ctx *ctx, struct ka_str *out, const char *text);

#endif
