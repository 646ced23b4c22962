/* SPDX-License-Identifier: Apache-2.0
 *
 * One progress bar on stderr: a redrawn line on a terminal, plain lines at long intervals
 * elsewhere, nothing when the log is quiet. While a bar is open it owns ctx->log_clear, so that log
 * lines do not run into it; a bar that is opened meanwhile gives it back. */
#ifndef KAPPA_ENGINE_REPORT_PROGRESS_H
#define KAPPA_ENGINE_REPORT_PROGRESS_H

#include "base/status.h"

struct ka_progress {
  struct ka_ctx *ctx;
  const char *what; /* "train", "eval": a literal */
  int64_t total, done, first;
  double start_s, last_s, interval_s;
  bool terminal, drawn, open;
  bool share; /* set after begin: the units say nothing to a reader, the percent alone is shown */
  void (*outer_clear)(void *user); /* of the bar that this one interrupts */
  void *outer_user;
  bool bytes; /* owns ctx->wrote */
};

/* total 0: unknown length. `done` starts at `first` (a resumed run), which the rate does not count.
 */
void ka_progress_begin(struct ka_ctx *ctx, struct ka_progress *p, const char *what, int64_t first,
                       int64_t total);
/* A bar of the bytes that are written to files until it ends. */
void ka_progress_begin_bytes(struct ka_ctx *ctx, struct ka_progress *p, const char *what,
                             double total);
/* Redraws when the last drawing is old enough. note: "loss 2.31  1.2K tok/s"; may be "". */
void ka_progress_update(struct ka_progress *p, int64_t done, const char *note);
/* So many tokens more than before; `bar` is a struct ka_progress, as a callback's user pointer. */
void ka_progress_add_tokens(void *bar, int64_t n_tokens);
/* So many seconds went into something else: they count neither for the rate nor for the ETA. */
void ka_progress_skip(struct ka_progress *p, double seconds);
/* Clears the bar and gives ctx->log_clear back. No-op when not open. */
void ka_progress_end(struct ka_progress *p);

/* The last line of a command, "done: 12 prompts, 1.2K tokens in 3 s, 400 tok/s, peak memory 90
 * MiB": what was done (parts, which may be ""), tokens and their rate where n_tok is above 0, and
 * the largest process of the command. */
void ka_progress_done(struct ka_ctx *ctx, const char *what, const char *parts, int64_t n_tok,
                      double seconds);

/* The bar alone, for tests: `width` cells of text into buf, NUL-terminated; returns bytes. */
int ka_progress_bar(char *buf, size_t n, double fraction, int width);

#endif
