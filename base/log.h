/* SPDX-License-Identifier: Apache-2.0
 *
 * Log lines on stderr: "14:03:07 data: 1,204 rows, 3 dropped". Data never goes through here. */
#ifndef KAPPA_BASE_LOG_H
#define KAPPA_BASE_LOG_H

#include "base/status.h"

void ka_log(struct ka_ctx *ctx, enum ka_log_level level, const char *subsystem, const char *fmt,
            ...) __attribute__((format(printf, 4, 5)));
#define ka_info(ctx, sub, ...) ka_log(ctx, KA_LOG_INFO, sub, __VA_ARGS__)
#define ka_warn(ctx, sub, ...) ka_log(ctx, KA_LOG_WARN, sub, __VA_ARGS__)
#define ka_debug(ctx, sub, ...) ka_log(ctx, KA_LOG_DEBUG, sub, __VA_ARGS__)

/* Prints ctx->error as "kappa: error: message" (and the trace at debug level). */
void ka_log_error(struct ka_ctx *ctx);

double ka_now_s(void); /* monotonic seconds */

#endif
