/* SPDX-License-Identifier: Apache-2.0
 *
 * Patterns of PCRE2: compiled with one view of what is a wrong pattern and what is no memory, and
 * with an allocator that tests can make fail. What a pattern means, who uses it says. */
#ifndef KAPPA_BASE_PATTERN_H
#define KAPPA_BASE_PATTERN_H

#include "base/status.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

struct ka_pattern_error {
  size_t at; /* byte of the pattern */
  char why[128];
};

/* *out NULL and KA_OK: the pattern is wrong, error says how. Line ends are LF. Free the code with
 * pcre2_code_free. KA_E_MEMORY. */
ka_status ka_pattern_compile(struct ka_ctx *ctx, pcre2_code **out, const char *text, size_t n,
                             uint32_t options, struct ka_pattern_error *error);

/* For PCRE2's other objects; they keep what they need of it. NULL: no memory. */
pcre2_general_context *ka_pattern_memory(void);

/* What a failed match (rc < 0, another than PCRE2_ERROR_NOMATCH) is: KA_E_MEMORY or KA_E_INPUT. */
int ka_pattern_match_code(int rc);

/* Tests: the nth allocation from now fails; 0: none. Has it, then? */
void ka_pattern_fail_at(int64_t n);
bool ka_pattern_failed(void);

#endif
