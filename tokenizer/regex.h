/* SPDX-License-Identifier: Apache-2.0
 *
 * Regular expressions as the tokenizers library means them (Oniguruma, Ruby syntax, Unicode 16) on
 * PCRE2 with its JIT. Constructs whose meaning could differ are refused with their column. */
#ifndef KAPPA_TOKENIZER_REGEX_H
#define KAPPA_TOKENIZER_REGEX_H

#include "base/arena.h"

struct ka_rx;

/* Compiles `pattern`; `what` names it in messages. Free with ka_tok_rx_free. */
ka_status ka_tok_rx_compile(struct ka_ctx *ctx, struct ka_rx **out, const char *pattern, size_t n,
                            const char *what);
void ka_tok_rx_free(struct ka_rx *rx);

/* One search's state: which match comes next in s[0..n). Owned by one thread; reusable for any
 * expression. */
struct ka_rx_scan;
ka_status ka_tok_rx_scan_create(struct ka_ctx *ctx, struct ka_rx_scan **out);
void ka_tok_rx_scan_free(struct ka_rx_scan *scan);

/* Starts iterating over the non-overlapping matches in s[0..n), valid UTF-8. */
void ka_tok_rx_begin(struct ka_rx_scan *scan, const struct ka_rx *rx, const char *s, size_t n);
/* The next match: *found false at the end. An empty match right after a match is skipped. */
ka_status ka_tok_rx_next(struct ka_ctx *ctx, struct ka_rx_scan *scan, bool *found, size_t *begin,
                         size_t *end);

#endif
