/* SPDX-License-Identifier: Apache-2.0
 * The benchmark's runs as processes; see benchmark.h. Each is a process group of its own, so that
 * Ctrl-C reaches it once, from here: it then saves a checkpoint. */
#include "base/log.h"
#include "engine/forget/benchmark_parts.h"
#include "engine/report/progress.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

enum { MAX_ARGS = 320 };

struct execution {
  struct ka_ctx *ctx;
  const struct ka_bench_execution *how;
  char threads[16];
  struct ka_arena arena;
  struct ka_bench_run *runs;
  int64_t n, n_done, n_running;
  bool stopping;
};

/* The new process: dies with its parent, saving a checkpoint; what it says goes behind what runs
 * before it in that place said. */
static void become(const char *const *args, const char *log, pid_t parent) {
  int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0644);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  setpgid(0, 0);
  if (fd >= 0 && getppid() == parent && dup2(fd, STDOUT_FILENO) >= 0 &&
      dup2(fd, STDERR_FILENO) >= 0)
    execve("/proc/self/exe", (char **)(uintptr_t)args, environ);
  _exit(127);
}

ka_status ka_bench_child(struct ka_ctx *ctx, const char *const *args, const char *log, int *code) {
  const struct timespec moment = {0, 10 * 1000 * 1000};
  bool told = false;
  int how = 0;
  pid_t self = getpid(), pid = fork(), ended = 0;
  if (pid == 0) become(args, log, self);
  if (pid < 0) return ka_fail(ctx, KA_E_IO, "cannot start a process: %s", strerror(errno));
  while ((ended = waitpid(pid, &how, WNOHANG)) == 0) {
    if (ka_interrupted(ctx) && !told) told = kill(pid, SIGTERM) == 0;
    nanosleep(&moment, NULL);
  }
  *code = ended == pid && WIFEXITED(how) ? WEXITSTATUS(how) : -1;
  return KA_STATUS_OK;
}

static ka_status spawn(struct execution *e, struct ka_bench_run *run) {
  struct ka_ctx *ctx = e->ctx;
  const char *args[MAX_ARGS] = {"kappa", "train", e->how->job}, *log;
  int n = 3;
  KA_NEVER(ctx, run->n_words + 14 > MAX_ARGS);
  for (int64_t i = 0; i < run->n_words; i++) args[n++] = run->words[i];
  args[n++] = "--resume";
  args[n++] = "--threads";
  args[n++] = e->threads;
  args[n++] = "--base-measures";
  args[n++] = e->how->base_measures;
  if (e->how->device) args[n++] = "--device";
  if (e->how->device) args[n++] = e->how->device;
  KA_TRY(ka_make_dirs(ctx, run->dir));
  KA_TRY(ka_path_join(&e->arena, &log, run->dir, "log.txt"));
  pid_t self = getpid();
  run->pid = fork();
  if (run->pid == 0) become(args, log, self);
  if (run->pid > 0) return KA_STATUS_OK;
  run->pid = 0;
  return ka_fail(ctx, KA_E_IO, "cannot start a run: %s", strerror(errno));
}

/* What the run said last, without its clock. */
static ka_status last_words(struct execution *e, const struct ka_bench_run *run, const char **out) {
  struct ka_ctx *ctx = e->ctx;
  const char *path;
  struct ka_str text = {0};
  *out = "";
  KA_TRY(ka_path_join(&e->arena, &path, run->dir, "log.txt"));
  KA_TRY(ka_read_file(ctx, path, 0, &text));
  while (text.len > 0 && text.data[text.len - 1] == '\n') text.data[--text.len] = 0;
  const char *line = text.data ? strrchr(text.data, '\n') : NULL;
  line = line ? line + 1 : text.data ? text.data : "";
  ka_status st = ka_arena_str(&e->arena, out, line, strlen(line));
  ka_str_deinit(&text);
  return st;
}

/* A run that diverged has a report too. */
static ka_status record_failure(struct execution *e, const struct ka_bench_run *run) {
  struct ka_ctx *ctx = e->ctx;
  const char *words, *path;
  KA_TRY(last_words(e, run, &words));
  ka_warn(ctx, "forget", "%s: %s", run->dir, words);
  KA_TRY(ka_path_join(&e->arena, &path, run->dir, "report.json"));
  json_t *root = json_pack("{s:s, s:s}", "identity", run->identity, "failed", words);
  if (!root) return ka_fail(ctx, KA_E_MEMORY, "%s: out of memory", path);
  ka_status st = ka_json_write(ctx, root, path);
  json_decref(root);
  return st;
}

static ka_status ended(struct execution *e, struct ka_bench_run *run, int how) {
  struct ka_ctx *ctx = e->ctx;
  int code = WIFEXITED(how) ? WEXITSTATUS(how) : -1;
  const char *words;
  run->pid = 0;
  e->n_running--;
  bool cut_off = code == ka_exit_code(KA_E_INTERRUPTED) || WIFSIGNALED(how);
  if (cut_off && e->stopping) return KA_STATUS_OK;
  if (code == ka_exit_code(KA_E_CHECK)) KA_TRY(record_failure(e, run));
  if (code == 0 || code == ka_exit_code(KA_E_CHECK)) {
    KA_TRY(ka_bench_sweep_run(ctx, run->dir));
    run->done = true;
    e->n_done++;
    return KA_STATUS_OK;
  }
  KA_TRY(last_words(e, run, &words));
  return ka_fail(ctx, code == ka_exit_code(KA_E_INPUT) ? KA_E_INPUT : KA_E_IO,
                 "%s: the run ended with %s %d; its log.txt ends with: %s", run->dir,
                 WIFEXITED(how) ? "exit code" : "signal", WIFEXITED(how) ? code : WTERMSIG(how),
                 words);
}

static void stop_all(struct execution *e, int sig) {
  e->stopping = true;
  for (int64_t i = 0; i < e->n; i++)
    if (e->runs[i].pid > 0) kill(e->runs[i].pid, sig);
}

static struct ka_bench_run *find(struct execution *e, int pid) {
  for (int64_t i = 0; i < e->n; i++)
    if (e->runs[i].pid == pid) return &e->runs[i];
  return NULL;
}

/* Waits until a run has ended, or for a moment. */
static ka_status wait_for_one(struct execution *e) {
  const struct timespec moment = {0, 50 * 1000 * 1000};
  int how = 0, pid = waitpid(-1, &how, WNOHANG);
  struct ka_bench_run *run = pid > 0 ? find(e, pid) : NULL;
  if (run) return ended(e, run, how);
  nanosleep(&moment, NULL);
  return KA_STATUS_OK;
}

static struct ka_bench_run *next_of(struct execution *e) {
  for (int64_t i = 0; i < e->n; i++)
    if (!e->runs[i].done && e->runs[i].pid == 0) return &e->runs[i];
  return NULL;
}

static void show(struct execution *e, struct ka_progress *bar, const struct ka_bench_run *run) {
  char note[96];
  snprintf(note, sizeof note, "%s, %g, seed %lld", run->method, run->rate, (long long)run->seed);
  ka_progress_update(bar, e->n_done, note);
}

static ka_status execute(struct execution *e, struct ka_progress *bar) {
  struct ka_ctx *ctx = e->ctx;
  struct ka_bench_run *next = next_of(e);
  while (e->n_running > 0 || (next && !e->stopping)) {
    if (ka_interrupted(ctx) && !e->stopping) stop_all(e, SIGINT);
    if (next && !e->stopping && e->n_running < e->how->n_parallel) {
      KA_TRY(spawn(e, next));
      e->n_running++;
      show(e, bar, next);
    } else {
      KA_TRY(wait_for_one(e));
    }
    next = next_of(e);
  }
  if (!ka_interrupted(ctx)) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_INTERRUPTED,
                 "interrupted with %lld of %lld runs finished; the same command goes on",
                 (long long)e->n_done, (long long)e->n);
}

ka_status ka_bench_execute(struct ka_ctx *ctx, const struct ka_bench_execution *how,
                           struct ka_bench_run *runs, int64_t n) {
  struct execution e = {.ctx = ctx, .how = how, .runs = runs, .n = n};
  struct ka_progress bar;
  int status;
  for (int64_t i = 0; i < n; i++) e.n_done += runs[i].done;
  if (e.n_done == n) return KA_STATUS_OK;
  snprintf(e.threads, sizeof e.threads, "%d", how->n_threads);
  ka_arena_init(&e.arena, ctx, "benchmark");
  ka_progress_begin(ctx, &bar, "forget", e.n_done, n);
  ka_status st = execute(&e, &bar);
  ka_progress_end(&bar);
  if (!ka_ok(st)) stop_all(&e, SIGINT);
  for (int64_t i = 0; i < n; i++)
    if (runs[i].pid > 0) waitpid(runs[i].pid, &status, 0);
  ka_arena_deinit(&e.arena);
  return st;
}
