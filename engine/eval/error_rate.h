/* SPDX-License-Identifier: Apache-2.0
 *
 * Errors of a transcript: the least insertions, deletions and replacements that make it the right
 * text (Levenshtein 1966), in words or in characters. */
#ifndef KAPPA_ENGINE_EVAL_ERROR_RATE_H
#define KAPPA_ENGINE_EVAL_ERROR_RATE_H

#include "base/str.h"

/* Words are what stands between Python's white space; characters are code points, white space at
 * both ends left out. *n_right: words or characters of the right text. */
ka_status ka_eval_text_errors(struct ka_ctx *ctx, const struct ka_str *right,
                              const struct ka_str *answer, bool words, int64_t *n_errors,
                              int64_t *n_right);

#endif
