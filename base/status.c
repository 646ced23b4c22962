/* SPDX-License-Identifier: Apache-2.0
 * The error record: first failure wins, the trace grows on the way up. */
#include "base/status.h"

#include "base/str.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static pthread_mutex_t fail_lock = PTHREAD_MUTEX_INITIALIZER;

static const struct {
  int exit_code;
  const char *text;
} codes[KA_N_CODES] = {
#define X(name, exit_code, text) [KA_##name] = {exit_code, text},
    KA_STATUS_TABLE(X)
#undef X
};

void ka_ctx_init(struct ka_ctx *ctx) {
  memset(ctx, 0, sizeof *ctx);
  ctx->log_level = KA_LOG_INFO;
}

int ka_exit_code(int code) { return code >= 0 && code < KA_N_CODES ? codes[code].exit_code : 3; }

const char *ka_code_text(int code) {
  return code >= 0 && code < KA_N_CODES ? codes[code].text : "unknown status";
}

ka_status ka_fail(struct ka_ctx *ctx, int code, const char *fmt, ...) {
  pthread_mutex_lock(&fail_lock);
  if (ctx->error.code == KA_OK) {
    ctx->error.code = code;
    ctx->error.n_trace = 0;
    char text[KA_ERROR_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    ka_visible(ctx->error.message, sizeof ctx->error.message, text);
  }
  pthread_mutex_unlock(&fail_lock);
  return (ka_status){code};
}

ka_status ka_trace(struct ka_ctx *ctx, ka_status s, const char *file, int line) {
  pthread_mutex_lock(&fail_lock);
  if (ctx->error.n_trace < KA_TRACE_MAX) {
    ctx->error.trace[ctx->error.n_trace].file = file;
    ctx->error.trace[ctx->error.n_trace].line = line;
    ctx->error.n_trace++;
  }
  pthread_mutex_unlock(&fail_lock);
  return s;
}

ka_status ka_check_interrupted(struct ka_ctx *ctx, const char *what) {
  if (!ka_interrupted(ctx)) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_INTERRUPTED, "%s: interrupted", what);
}

void ka_error_clear(struct ka_ctx *ctx) {
  ctx->error.code = KA_OK;
  ctx->error.message[0] = 0;
  ctx->error.n_trace = 0;
}
