/* SPDX-License-Identifier: Apache-2.0
 *
 * Regular expressions as Python's re takes them (str patterns), run by PCRE2: what the two spell
 * differently is translated, what Python does not know is refused. Python's findall and sub. */
#ifndef KAPPA_PYTHON_REGEX_H
#define KAPPA_PYTHON_REGEX_H

#include "base/str.h"

struct ka_py_regex;

/* pattern[n] is UTF-8. KA_E_INPUT: not a pattern; the message says why and where. */
ka_status ka_py_regex_open(struct ka_ctx *ctx, struct ka_py_regex **out, const char *pattern,
                           size_t n);
void ka_py_regex_close(struct ka_py_regex *re); /* NULL is fine */

/* A walk over the matches of one text; zero-initialise. */
struct ka_py_match {
  int n_groups;       /* of the pattern, without group 0 */
  const size_t *span; /* [2 * (n_groups + 1)]: begin, end; of a group without part SIZE_MAX */
  size_t next;
  bool must_advance;
};
/* *found: m holds the next match, until the next call with this expression. KA_E_INPUT: the search
 * takes too long. One thread at a time. */
ka_status ka_py_regex_next(struct ka_ctx *ctx, struct ka_py_regex *re, const char *text, size_t n,
                           struct ka_py_match *m, bool *found);

/* Appends text with its first `count` matches (0: all) replaced; the replacement may say \1, \g<1>,
 * \g<name>, \n and the like. */
ka_status ka_py_regex_sub(struct ka_ctx *ctx, struct ka_py_regex *re, const char *replacement,
                          size_t n_replacement, const char *text, size_t n, int64_t count,
                          struct ka_str *out);

#endif
