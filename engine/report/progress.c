/* SPDX-License-Identifier: Apache-2.0
 * A progress bar; see progress.h. Draws at most ten times a second, writes plain lines at most
 * twice a minute. */
#include "engine/report/progress.h"

#include "base/log.h"
#include "base/machine.h"
#include "base/str.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static void clear_line(void *user) {
  struct ka_progress *p = user;
  if (!p->drawn) return;
  fputs("\r\033[K", stderr);
  p->drawn = false;
}

void ka_progress_begin(struct ka_ctx *ctx, struct ka_progress *p, const char *what, int64_t first,
                       int64_t total) {
  bool terminal = isatty(STDERR_FILENO) == 1;
  *p = (struct ka_progress){.ctx = ctx,
                            .what = what,
                            .total = total,
                            .done = first,
                            .first = first,
                            .start_s = ka_now_s(),
                            .interval_s = terminal ? 0.1 : 30,
                            .terminal = terminal,
                            .open = ctx->log_level >= KA_LOG_INFO && ctx->rank == 0};
  p->last_s = terminal ? 0 : p->start_s;
  if (!p->open || !terminal) return;
  if (ctx->log_clear) ctx->log_clear(ctx->log_user); /* a bar within a bar takes its line */
  p->outer_clear = ctx->log_clear;
  p->outer_user = ctx->log_user;
  ctx->log_clear = clear_line;
  ctx->log_user = p;
}

static void wrote(void *user, size_t n_bytes) {
  struct ka_progress *p = user;
  char done[32], note[48];
  snprintf(note, sizeof note, "%s", ka_fmt_bytes((double)(p->done + (int64_t)n_bytes), done));
  ka_progress_update(p, p->done + (int64_t)n_bytes, note);
}

void ka_progress_begin_bytes(struct ka_ctx *ctx, struct ka_progress *p, const char *what,
                             double total) {
  ka_progress_begin(ctx, p, what, 0, (int64_t)total);
  p->share = true;
  p->bytes = p->open && !ctx->wrote;
  if (!p->bytes) return;
  ctx->wrote = wrote;
  ctx->wrote_user = p;
}

int ka_progress_bar(char *buf, size_t n, double fraction, int width) {
  static const char *const part[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  fraction = fraction < 0 ? 0 : fraction > 1 ? 1 : fraction;
  int eighths = (int)(fraction * width * 8), full = eighths / 8, rest = eighths % 8;
  size_t at = 0;
  buf[0] = 0;
  for (int i = 0; i < width; i++) {
    const char *cell = i < full ? "█" : i == full && rest ? part[rest] : "·";
    size_t len = strlen(cell);
    if (at + len + 1 > n) break;
    memcpy(buf + at, cell, len + 1);
    at += len;
  }
  return (int)at;
}

static int columns(void) {
  struct winsize w = {0};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) != 0 || w.ws_col < 20) return 80;
  return w.ws_col;
}

static void eta_text(const struct ka_progress *p, double now, char *out, size_t n) {
  char t[32];
  double spent = now - p->start_s;
  int64_t done = p->done - p->first, left = p->total - p->done;
  out[0] = 0;
  if (done > 0 && left > 0)
    snprintf(out, n, "ETA %s", ka_fmt_duration(spent / (double)done * (double)left, t));
}

static void draw(struct ka_progress *p, double now, const char *note) {
  char tail[256], eta[48], bar[256], count[64];
  eta_text(p, now, eta, sizeof eta);
  double fraction = p->total > 0 ? (double)p->done / (double)p->total : 0;
  if (p->total > 0 && p->share)
    snprintf(count, sizeof count, "%3.0f%%", 100 * fraction);
  else if (p->total > 0)
    snprintf(count, sizeof count, "%3.0f%% %lld/%lld", 100 * fraction, (long long)p->done,
             (long long)p->total);
  else
    snprintf(count, sizeof count, "%lld", (long long)p->done);
  int width = columns() - 1;
  int used = snprintf(tail, sizeof tail, " %s  %s%s%s", count, note, note[0] ? "  " : "", eta);
  int room = width - used - (int)strlen(p->what) - 1;
  if (!p->terminal) {
    ka_info(p->ctx, p->what, "%s  %s%s%s", count, note, note[0] ? "  " : "", eta);
    return;
  }
  ka_progress_bar(bar, sizeof bar, fraction, room < 0 ? 0 : room > 40 ? 40 : room);
  int keep = width - (int)strlen(p->what) - 1; /* a narrow terminal cuts the tail, never wraps */
  fprintf(stderr, "\r%s %s%.*s\033[K", p->what, bar, keep < 0 ? 0 : keep, tail);
  p->drawn = true;
}

void ka_progress_update(struct ka_progress *p, int64_t done, const char *note) {
  p->done = done;
  if (!p->open) return;
  double now = ka_now_s();
  if (now - p->last_s < p->interval_s) return;
  p->last_s = now;
  draw(p, now, note);
}

void ka_progress_add_tokens(void *bar, int64_t n_tokens) {
  struct ka_progress *p = bar;
  ka_progress_update(p, p->done + n_tokens, "tokens");
}

void ka_progress_skip(struct ka_progress *p, double seconds) { p->start_s += seconds; }

void ka_progress_end(struct ka_progress *p) {
  if (!p->open) return;
  clear_line(p);
  p->open = false;
  if (p->bytes) p->ctx->wrote = NULL;
  if (p->ctx->log_user == p) {
    p->ctx->log_clear = p->outer_clear;
    p->ctx->log_user = p->outer_user;
  }
}

void ka_progress_done(struct ka_ctx *ctx, const char *what, const char *parts, int64_t n_tok,
                      double seconds) {
  char time[32], count[32], rate[32], tokens[64] = "", speed[64] = "";
  double n = (double)n_tok;
  if (n_tok > 0) {
    snprintf(tokens, sizeof tokens, "%s%s tokens", *parts ? ", " : "", ka_fmt_count(n, count));
    snprintf(speed, sizeof speed, "%s tok/s, ", ka_fmt_count(n / fmax(seconds, 1e-9), rate));
  }
  ka_info(ctx, what, "done: %s%s in %s, %speak memory %.0f MiB", parts, tokens,
          ka_fmt_duration(seconds, time), speed, ka_machine_peak_of_all() / (1 << 20));
}
