/* SPDX-License-Identifier: Apache-2.0
 * See page.h. */
#include "engine/report/page.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define LIGHT                                                                                      \
  "--bg:#fbfbfa;--fg:#1c1d1f;--dim:#5d6166;--rule:#dcdddf;--card:#fff;--good:#1a7f4b;"             \
  "--bad:#b3362b;--here:#eef3fb;--shade:#0003;--heat:#2266cc;--s0:#2266cc;--s1:#c8641b;--s2:#"     \
  "2f8f4e;"                                                                                        \
  "--s3:#a3358f;--s4:#7a6a00;--s5:#0b8793;--s6:#b3362b;--s7:#6b4fc0;--s8:#6a6d72;--s9:#94541f"
#define DARK                                                                                       \
  "--bg:#141517;--fg:#e7e8ea;--dim:#a2a5ab;--rule:#303236;--card:#1b1d20;--good:#5cc98f;"          \
  "--bad:#ef7f74;--here:#22293a;--shade:#000b;--heat:#6ea3f5;--s0:#6ea3f5;--s1:#f0985a;--s2:#"     \
  "5cc98f;"                                                                                        \
  "--s3:#e07fce;--s4:#d6c452;--s5:#53cbd8;--s6:#ef7f74;--s7:#a996f0;--s8:#a7abb2;--s9:#d09a6a"

static const char style[] =
    ":root{color-scheme:light dark;" LIGHT "}\n"
    "@media(prefers-color-scheme:dark){:root{" DARK "}}\n"
    "*{box-sizing:border-box}\n"
    "body{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif;margin:0}\n"
    "main{max-width:1040px;margin:0 auto;padding:28px 16px 64px}\n"
    "h1{font-size:24px;line-height:1.25;margin:0;overflow-wrap:anywhere}\n"
    "h2{font-size:17px;margin:32px 0 8px}h3{font-size:14px;font-weight:500;margin:0 0 4px}\n"
    "p{margin:6px 0}.note{color:var(--dim);font-size:14px}.lead{font-size:17px}\n"
    ".card{background:var(--card);border:1px solid var(--rule);border-radius:8px;"
    "padding:12px 14px;margin:10px 0;overflow-x:auto}\n"
    /* What lies outside a card throws a shadow on its edge; the outer two go with the content. */
    ".card{background:linear-gradient(90deg,var(--card) 40%,transparent) 0 0/36px 100%,"
    "linear-gradient(270deg,var(--card) 40%,transparent) 100% 0/36px 100%,"
    "linear-gradient(90deg,var(--shade),transparent) 0 0/16px 100%,"
    "linear-gradient(270deg,var(--shade),transparent) 100% 0/16px 100%,var(--card);"
    "background-repeat:no-repeat;background-attachment:local,local,scroll,scroll}\n"
    "details{margin:10px 0}summary{cursor:pointer;color:var(--dim)}\n"
    ".figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,340px),1fr));"
    "gap:10px}.figures .card{margin:0}\n"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums;min-width:50%}\n"
    "th{font-weight:500;color:var(--dim);text-align:left;border-bottom:1px solid var(--rule);"
    "vertical-align:bottom}\n"
    "td,th{padding:4px 16px 4px 0;"
    "overflow-wrap:break-word}th{overflow-wrap:normal}td.word,td.dim{white-space:nowrap}"
    "td.n,th.n{text-align:right;white-space:nowrap}\n"
    "td.good{color:var(--good)}td.bad{color:var(--bad)}td.dim{color:var(--dim)}\n"
    "td.name{font-family:ui-monospace,monospace;font-size:13px;white-space:nowrap}\n"
    "td.here{background:var(--here)}td.long{overflow-wrap:anywhere}\n"
    "@media print{.card{break-inside:avoid;overflow:visible}}\n"
    "svg{width:100%;max-width:560px;height:auto;display:block}.grid{stroke:var(--rule)}"
    ".axis{stroke:var(--dim)}\n"
    ".line{fill:none;stroke-width:1.8;stroke-linejoin:round}.bar{stroke-width:1.2;opacity:.55}\n"
    ".tick{fill:var(--dim);font-size:12px}.key{fill:var(--fg);font-size:12px}\n"
    ".value{fill:var(--fg);font-size:11px}.edge{fill:none;stroke:var(--s1);stroke-width:2.5}\n"
    ".scale i{display:inline-block;width:140px;height:12px;border-radius:3px;margin:0 8px;"
    "vertical-align:-1px;background:linear-gradient(90deg,"
    "color-mix(in srgb,var(--heat) 8%,transparent),"
    "color-mix(in srgb,var(--heat) 60%,transparent))}\n"
    "ul.legend{list-style:none;display:flex;flex-wrap:wrap;gap:2px 16px;margin:8px 0 0;padding:0;"
    "font-size:13px}ul.legend i{display:inline-block;width:12px;height:12px;border-radius:3px;"
    "margin-right:6px;vertical-align:-1px}\n"
    "pre{margin:0;font:13px/1.5 ui-monospace,monospace;white-space:pre-wrap;"
    "overflow-wrap:anywhere}\n";

ka_status ka_report_html_escape(struct ka_ctx *ctx, struct ka_str *out, const char *text) {
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

/* Line breaks end a table's row, pipes its cell, and some signs are marks. */
static ka_status md_escape(struct ka_ctx *ctx, struct ka_str *out, const char *text) {
  for (; *text; text++) {
    if (strchr("|*`<\\", *text)) KA_TRY(ka_str_puts(ctx, out, "\\"));
    KA_TRY(ka_str_append(ctx, out, *text == '\n' ? " " : text, 1));
  }
  return KA_STATUS_OK;
}

static bool ok(struct ka_page *p) { return ka_ok(p->st); }

static void html(struct ka_page *p, const char *raw) {
  if (ok(p)) p->st = ka_str_puts(p->ctx, &p->html, raw);
}
static void md(struct ka_page *p, const char *raw) {
  if (ok(p)) p->st = ka_str_puts(p->ctx, &p->md, raw);
}
static void both(struct ka_page *p, const char *text) {
  if (ok(p)) p->st = ka_report_html_escape(p->ctx, &p->html, text);
  if (ok(p)) p->st = md_escape(p->ctx, &p->md, text);
}

/* p->text = the formatted text. */
static void format(struct ka_page *p, const char *fmt, va_list args) {
  va_list again;
  va_copy(again, args);
  int n = vsnprintf(NULL, 0, fmt, again);
  va_end(again);
  ka_str_clear(&p->text);
  if (ok(p)) p->st = ka_str_reserve(p->ctx, &p->text, (size_t)(n > 0 ? n : 0) + 1);
  if (!ok(p)) return;
  vsnprintf(p->text.data, (size_t)n + 1, fmt, args);
  p->text.len = (size_t)n;
}

void ka_page_begin(struct ka_ctx *ctx, struct ka_page *p, const char *title, const char *subtitle) {
  *p = (struct ka_page){.ctx = ctx};
  html(p,
       "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta name=\"viewport\" "
       "content=\"width=device-width,initial-scale=1\">\n<title>");
  if (ok(p)) p->st = ka_report_html_escape(ctx, &p->html, title);
  html(p, "</title>\n<style>\n");
  html(p, style);
  html(p, "</style></head>\n<body><main>\n<h1>");
  md(p, "# ");
  both(p, title);
  html(p, "</h1>\n");
  md(p, "\n");
  if (*subtitle) ka_page_text(p, "note", "%s", subtitle);
}

ka_status ka_page_end(struct ka_page *p) {
  html(p, "</main></body></html>\n");
  return p->st;
}

void ka_page_deinit(struct ka_page *p) {
  ka_str_deinit(&p->html);
  ka_str_deinit(&p->md);
  ka_str_deinit(&p->text);
}

void ka_page_section(struct ka_page *p, const char *heading) {
  html(p, "<h2>");
  md(p, "\n## ");
  both(p, heading);
  html(p, "</h2>\n");
  md(p, "\n");
}

void ka_page_text(struct ka_page *p, const char *kind, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  format(p, fmt, args);
  va_end(args);
  html(p, "<p class=\"");
  html(p, kind);
  html(p, "\">");
  md(p, "\n");
  if (ok(p)) both(p, p->text.data);
  html(p, "</p>\n");
  md(p, "\n");
}

void ka_page_code(struct ka_page *p, const char *text) {
  html(p, "<div class=\"card\"><pre>");
  if (ok(p)) p->st = ka_report_html_escape(p->ctx, &p->html, text);
  html(p, "</pre></div>\n");
  md(p, "\n```\n");
  md(p, text);
  md(p, "\n```\n");
}

static bool is_number(const struct ka_page *p, int column) {
  return column < 64 && p->numbers >> column & 1;
}

void ka_page_table(struct ka_page *p, const char *columns) {
  p->n_columns = p->column = 0;
  p->numbers = 0;
  bool headed = strspn(columns, "|") < strlen(columns);
  html(p, headed ? "<div class=\"card\"><table>\n<tr>" : "<div class=\"card\"><table>\n");
  md(p, "\n|");
  for (const char *c = columns; ok(p); p->n_columns++) {
    size_t n = strcspn(c, "|");
    bool number = *c == '>';
    if (number && p->n_columns < 64) p->numbers |= UINT64_C(1) << p->n_columns;
    ka_str_clear(&p->text);
    p->st = ka_str_append(p->ctx, &p->text, c + number, n - number);
    if (headed) html(p, number ? "<th scope=\"col\" class=\"n\">" : "<th scope=\"col\">");
    md(p, " ");
    if (ok(p)) both(p, p->text.data);
    if (headed) html(p, "</th>");
    md(p, " |");
    if (!c[n]) break;
    c += n + 1;
  }
  p->n_columns++;
  if (headed) html(p, "</tr>\n");
  md(p, "\n|");
  for (int i = 0; i < p->n_columns; i++) md(p, is_number(p, i) ? "---:|" : "---|");
  md(p, "\n");
}

void ka_page_cell(struct ka_page *p, const char *mark, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  format(p, fmt, args);
  va_end(args);
  html(p, p->column == 0 ? "<tr><td class=\"" : "<td class=\"");
  html(p, mark);
  html(p, is_number(p, p->column) ? " n\">" : "\">");
  md(p, p->column == 0 ? "| " : " ");
  if (ok(p)) both(p, p->text.data);
  html(p, "</td>");
  md(p, " |");
  if (++p->column < p->n_columns) return;
  p->column = 0;
  html(p, "</tr>\n");
  md(p, "\n");
}

void ka_page_table_end(struct ka_page *p) { html(p, "</table></div>\n"); }

void ka_page_fold(struct ka_page *p, const char *summary) {
  html(p, "<details><summary>");
  if (ok(p)) p->st = ka_report_html_escape(p->ctx, &p->html, summary);
  html(p, "</summary>\n");
}

void ka_page_fold_end(struct ka_page *p) { html(p, "</details>\n"); }

void ka_page_figures(struct ka_page *p) { html(p, "<div class=\"figures\">\n"); }

static void legend(struct ka_page *p, const char *const *names, int n) {
  html(p, "<ul class=\"legend\">");
  for (int i = 0; i < n; i++) {
    if (ok(p))
      p->st = ka_str_printf(p->ctx, &p->html, "<li><i style=\"background:var(--s%d)\"></i>",
                            i % KA_PAGE_COLOURS);
    if (ok(p)) p->st = ka_report_html_escape(p->ctx, &p->html, names[i]);
    html(p, "</li>");
  }
  html(p, "</ul>\n");
}

void ka_page_figure(struct ka_page *p, const char *title, const struct ka_str *svg,
                    const char *const *names, int n) {
  html(p, "<div class=\"card\"><h3>");
  if (ok(p)) p->st = ka_report_html_escape(p->ctx, &p->html, title);
  html(p, "</h3>\n");
  html(p, svg->data ? svg->data : "");
  if (n > 0) legend(p, names, n);
  html(p, "</div>\n");
}

void ka_page_figures_end(struct ka_page *p) { html(p, "</div>\n"); }
