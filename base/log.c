/* SPDX-License-Identifier: Apache-2.0
 * One write per line, so lines of several ranks do not mix. */
#include "base/log.h"

#include "base/str.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

void ka_log(struct ka_ctx *ctx, enum ka_log_level level, const char *subsystem, const char *fmt,
            ...) {
  if (level > ctx->log_level) return;
  char line[4096], text[3800];
  time_t now = time(NULL);
  struct tm tm;
  localtime_r(&now, &tm);
  size_t n = strftime(line, sizeof line, "%H:%M:%S ", &tm);
  int m = ctx->rank > 0 ? snprintf(line + n, sizeof line - n, "[%d] ", ctx->rank) : 0;
  n += (size_t)m;
  m = snprintf(line + n, sizeof line - n, "%s: %s", subsystem,
               level == KA_LOG_WARN ? "warning: " : "");
  n += (size_t)m;
  va_list args;
  va_start(args, fmt);
  vsnprintf(text, sizeof text, fmt, args);
  va_end(args);
  ka_visible(line + n, sizeof line - n - 1, text);
  n += strlen(line + n);
  line[n++] = '\n';
  if (ctx->log_clear) ctx->log_clear(ctx->log_user);
  fwrite(line, 1, n, stderr);
}

void ka_log_error(struct ka_ctx *ctx) {
  if (ctx->log_clear) ctx->log_clear(ctx->log_user);
  fprintf(stderr, "kappa: %s: %s\n", ka_code_text(ctx->error.code), ctx->error.message);
  if (ctx->log_level < KA_LOG_DEBUG && ctx->error.code != KA_E_INTERNAL) return;
  for (int i = 0; i < ctx->error.n_trace; i++)
    fprintf(stderr, "  at %s:%d\n", ctx->error.trace[i].file, ctx->error.trace[i].line);
}

double ka_now_s(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
