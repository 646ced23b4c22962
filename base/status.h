/* SPDX-License-Identifier: Apache-2.0
 *
 * Statuses, the error record, and the context every fallible function takes first.
 *
 * Invariant: the first failure writes the message (what, where, got, expected, hint) into
 * ctx->error; every KA_TRY on the way up adds its file:line. main() prints it once and turns the
 * code into the exit code. Nothing here prints or exits. */
#ifndef KAPPA_BASE_STATUS_H
#define KAPPA_BASE_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* name, exit code, text */
#define KA_STATUS_TABLE(X)                                                                         \
  X(OK, 0, "ok")                                                                                   \
  X(E_CHECK, 1, "a check failed")                                                                  \
  X(E_USAGE, 2, "wrong use")                                                                       \
  X(E_INPUT, 2, "bad input")                                                                       \
  X(E_UNSUPPORTED, 2, "not supported")                                                             \
  X(E_MEMORY, 3, "out of memory")                                                                  \
  X(E_IO, 3, "input/output error")                                                                 \
  X(E_DEVICE, 3, "device error")                                                                   \
  X(E_INTERNAL, 3, "internal error, please report")                                                \
  X(E_INTERRUPTED, 4, "interrupted, resumable")

enum ka_code {
#define X(name, exit_code, text) KA_##name,
  KA_STATUS_TABLE(X)
#undef X
      KA_N_CODES
};

/* A struct, so that KA_TRY in an int function does not compile. Dropping one is a warning with
 * clang
 * (`lint` builds with it); gcc has no such attribute for types before C23. */
#ifdef __clang__
#define KA_NODISCARD __attribute__((warn_unused_result))
#else
#define KA_NODISCARD
#endif
typedef struct KA_NODISCARD {
  int code; /* enum ka_code */
} ka_status;

#define KA_STATUS_OK ((ka_status){KA_OK})

enum { KA_ERROR_MAX = 1 << 16, KA_TRACE_MAX = 12 };

struct ka_error {
  int code;
  char message[KA_ERROR_MAX];
  bool elsewhere; /* rank 0 prints it, or has: main need not */
  int n_trace;
  struct {
    const char *file;
    int line;
  } trace[KA_TRACE_MAX];
};

struct ka_dist;

enum ka_log_level { KA_LOG_QUIET, KA_LOG_WARN, KA_LOG_INFO, KA_LOG_DEBUG };

/* One per process (or per rank); no other mutable state is shared between modules. */
struct ka_ctx {
  struct ka_error error;
  enum ka_log_level log_level;
  int rank;                      /* 0 without ranks */
  struct ka_dist *dist;          /* the ranks, engine/dist/dist.h; NULL: this process is alone */
  volatile int *interrupted;     /* set by a signal handler; may be NULL */
  int64_t fail_alloc_at;         /* tests: the Nth ka_alloc from now fails; 0 = never */
  void (*log_clear)(void *user); /* called before a log line (progress bars); may be NULL */
  void *log_user;
  /* Told how many bytes went to a file that is published (progress bars); may be NULL. */
  void (*wrote)(void *user, size_t n_bytes);
  void *wrote_user;
};

void ka_ctx_init(struct ka_ctx *ctx);

int ka_exit_code(int code);         /* KA_E_INPUT -> 2 */
const char *ka_code_text(int code); /* "bad input" */

/* Records the first failure and returns it. Later failures before ka_error_clear keep the first
 * message. Control characters of data and names are written out. Message style: "FILE:LINE:COL:
 * what: got X, expected Y; hint". Thread-safe. */
ka_status ka_fail(struct ka_ctx *ctx, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Adds one trace entry to a failing status; used by KA_TRY. */
ka_status ka_trace(struct ka_ctx *ctx, ka_status s, const char *file, int line);

/* Forgets the recorded failure (after it was handled or printed). */
void ka_error_clear(struct ka_ctx *ctx);

static inline bool ka_signalled(const volatile int *signal) { return signal && *signal; }
/* Has a signal asked for the end? Work that takes long asks often. */
static inline bool ka_interrupted(const struct ka_ctx *ctx) {
  return ka_signalled(ctx->interrupted);
}
/* KA_E_INTERRUPTED "WHAT: interrupted" then. */
ka_status ka_check_interrupted(struct ka_ctx *ctx, const char *what);

static inline bool ka_ok(ka_status s) { return s.code == KA_OK; }

/* All three expect a variable `ctx` in scope. */
#define KA_TRY(call)                                                                               \
  do {                                                                                             \
    ka_status try_ = (call);                                                                       \
    if (try_.code != KA_OK) return ka_trace(ctx, try_, __FILE__, __LINE__);                        \
  } while (0)

/* For functions with one `out:` label and a `ka_status st` that starts as KA_STATUS_OK. */
#define KA_TRY_GOTO(call, label)                                                                   \
  do {                                                                                             \
    st = (call);                                                                                   \
    if (st.code != KA_OK) {                                                                        \
      st = ka_trace(ctx, st, __FILE__, __LINE__);                                                  \
      goto label;                                                                                  \
    }                                                                                              \
  } while (0)

/* In clean-up: keeps the first error in `st`. */
#define KA_TRY_KEEP(call)                                                                          \
  do {                                                                                             \
    ka_status keep_ = (call);                                                                      \
    if (st.code == KA_OK) st = keep_;                                                              \
  } while (0)

/* A condition that cannot be true unless kappa itself is wrong. */
#define KA_NEVER(ctx, cond)                                                                        \
  do {                                                                                             \
    if (cond) return ka_fail(ctx, KA_E_INTERNAL, "%s:%d: %s", __FILE__, __LINE__, #cond);          \
  } while (0)

#endif
