/* SPDX-License-Identifier: Apache-2.0
 *
 * The context of a test program, and the setup that gives each of its tests a fresh and quiet
 * one. */
#ifndef KAPPA_TESTS_SUPPORT_FRESH_H
#define KAPPA_TESTS_SUPPORT_FRESH_H

#include "tests/support/test.h"

static struct ka_ctx context, *ctx = &context;

static inline int fresh(void **state) {
  (void)state;
  ka_ctx_init(ctx);
  ctx->log_level = KA_LOG_QUIET;
  return 0;
}

#endif
