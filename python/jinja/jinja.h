/* SPDX-License-Identifier: Apache-2.0
 *
 * The part of Jinja (2, 3.1) that chat templates and evaluation tasks use, in two dialects:
 *  - CHAT, the settings of Hugging Face's apply_chat_template: trim_blocks, lstrip_blocks, loop
 *    controls, {% generation %}, an immutable sandbox, no autoescape, JSON as Python's
 *    json.dumps(ensure_ascii=False);
 *  - TASK, those of lm-evaluation-harness: an undefined value may only be tested by `is defined` or
 *    given a `default`, the newline at the end of the template stays, tojson is Jinja's own (sorted
 *    keys, safe in HTML), and there is a filter regex_replace(pattern, repl, count=0), Python's
 *    re.sub.
 *
 * Invariant: a template either gives the very bytes that Jinja gives or an error with
 * NAME:LINE:COLUMN. What is not supported (include, extends, big integers, ...) is an error.
 * Integers are 64 bits; overflow is an error. Parsed templates are immutable and may be rendered
 * from several threads at once, each with its own ctx. */
#ifndef KAPPA_PYTHON_JINJA_JINJA_H
#define KAPPA_PYTHON_JINJA_JINJA_H

#include "base/json.h"

#include <time.h>

struct ka_jinja;

enum ka_jinja_dialect { KA_JINJA_CHAT, KA_JINJA_TASK };

/* Parses text[n] (UTF-8); `name` stands in messages and is copied. Destroy *out with
 * ka_jinja_destroy. KA_E_INPUT: syntax, an unknown or unsupported construct, too large or too
 * deeply nested; KA_E_MEMORY. */
ka_status ka_jinja_parse(struct ka_ctx *ctx, struct ka_jinja **out, enum ka_jinja_dialect dialect,
                         const char *name, const char *text, size_t n);
void ka_jinja_destroy(struct ka_jinja *t); /* NULL is fine */

/* True when the template has a {% generation %} block, or mentions the variable anywhere. */
bool ka_jinja_has_generation(const struct ka_jinja *t);
bool ka_jinja_mentions(const struct ka_jinja *t, const char *variable);

/* Zero members take the defaults named behind them. */
struct ka_jinja_limits {
  int64_t max_steps;      /* 50 million: nodes evaluated plus bytes moved / 64 */
  int64_t max_depth;      /* 400: nested expressions, statements and calls */
  size_t max_out_bytes;   /* 64 MiB */
  size_t max_total_bytes; /* 512 MiB of values */
};

struct ka_jinja_options {
  struct ka_jinja_limits limits;
  const struct tm *now; /* what strftime_now formats; NULL = the local time */
};

/* Byte ranges [begin, end) of the output that {% generation %} blocks wrote, in order. */
struct ka_jinja_span {
  size_t begin, end;
};
struct ka_jinja_spans {
  struct ka_jinja_span *at; /* free with ka_free */
  int64_t n, cap;
};

/* Appends the rendering of t with the members of the object vars to out. spans and opts may be
 * NULL. With spans, a generation block inside a macro or a captured block is KA_E_UNSUPPORTED
 * (its place in the output is not known); spans are appended. KA_E_INPUT: anything the template
 * or its variables do wrong, raise_exception, a limit. */
ka_status ka_jinja_render(struct ka_ctx *ctx, const struct ka_jinja *t, const json_t *vars,
                          const struct ka_jinja_options *opts, struct ka_str *out,
                          struct ka_jinja_spans *spans);

#endif
