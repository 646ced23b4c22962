/* SPDX-License-Identifier: Apache-2.0
 * How long a benchmark takes and what it leaves; see benchmark_parts.h. */
#include "base/log.h"
#include "engine/forget/benchmark_parts.h"
#include "engine/train/plan_figures.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

ka_status ka_bench_estimate(struct ka_bench *b, struct ka_run *r, double *seconds) {
  struct ka_ctx *ctx = b->ctx;
  struct ka_plan_figures f;
  KA_TRY(ka_plan_figures_of(r, &f));
  b->checkpoint_bytes = fmax(b->checkpoint_bytes, f.checkpoint_bytes);
  *seconds = f.timed ? f.all_s : 0;
  return KA_STATUS_OK;
}

/* The message that a failed process ended with, as this process's own. */
static ka_status failed_as(struct ka_bench *b, const char *log, int code) {
  struct ka_ctx *ctx = b->ctx;
  struct ka_str text = {0};
  KA_TRY(ka_read_file(ctx, log, 0, &text));
  const char *last = text.data ? text.data : "", *p = last;
  while ((p = strstr(p, "kappa: "))) last = p++;
  p = strncmp(last, "kappa: ", 7) == 0 ? strstr(last + 7, ": ") : NULL;
  last = p ? p + 2 : last;
  size_t n = strlen(last);
  while (n > 0 && last[n - 1] == '\n') n--;
  ka_status st = ka_fail(ctx,
                         code == ka_exit_code(KA_E_INPUT)         ? KA_E_INPUT
                         : code == ka_exit_code(KA_E_INTERRUPTED) ? KA_E_INTERRUPTED
                                                                  : KA_E_DEVICE,
                         "%.*s", (int)n, last);
  ka_str_deinit(&text);
  return st;
}

static double number_in(const json_t *root, const char *part, const char *key) {
  double v = ka_json_number(json_object_get(json_object_get(root, part), key));
  return isnan(v) ? 0 : v;
}

static ka_status take_plan(struct ka_bench *b, struct ka_bench_run *run, const char *path) {
  struct ka_ctx *ctx = b->ctx;
  json_t *root = NULL;
  KA_TRY(ka_json_load(ctx, path, &root));
  b->run_bytes = fmax(b->run_bytes, number_in(root, "memory", "peak_bytes"));
  b->checkpoint_bytes = fmax(b->checkpoint_bytes, number_in(root, "disk", "checkpoint_bytes"));
  run->seconds = number_in(root, "time", "all_s");
  bool both = number_in(root, "measures", "new") > 0 && number_in(root, "measures", "old") > 0;
  json_decref(root);
  return both ? KA_STATUS_OK : ka_bench_no_measures(b);
}

ka_status ka_bench_plan_apart(struct ka_bench *b, struct ka_bench_run *run) {
  enum { MORE = 9 };
  struct ka_ctx *ctx = b->ctx;
  const char **args, *json, *log;
  int code = 0;
  KA_TRY(KA_NEW(&b->arena, &args, run->n_words + MORE, "arguments"));
  KA_TRY(ka_path_join(&b->arena, &json, b->job.output_dir, ".plan.json"));
  KA_TRY(ka_path_join(&b->arena, &log, b->job.output_dir, ".plan.log"));
  const char *head[] = {"kappa", "plan", b->o->job}, *tail[] = {"--quiet", "--json", json};
  int64_t n = 0;
  for (int i = 0; i < 3; i++) args[n++] = head[i];
  for (int64_t i = 0; i < run->n_words; i++) args[n++] = run->words[i];
  for (int i = 0; i < 3; i++) args[n++] = tail[i];
  if (b->o->device) args[n++] = "--device";
  if (b->o->device) args[n++] = b->o->device;
  args[n] = NULL;
  KA_TRY(ka_make_dirs(ctx, b->job.output_dir));
  ka_status st = ka_bench_child(ctx, args, log, &code);
  if (ka_ok(st)) st = code == 0 ? take_plan(b, run, json) : failed_as(b, log, code);
  (void)remove(json);
  (void)remove(log);
  return st;
}

/* Mean of the finished runs of the method, as a part of this machine alone; 0: none is. */
static double mean_of(const struct ka_bench *b, const struct ka_bench_run *like) {
  double sum = 0, n = 0;
  for (int64_t i = 0; i < b->n; i++) {
    const struct ka_bench_run *run = &b->runs[i];
    if (!run->done || strcmp(run->method, like->method) != 0 || !(run->seconds > 0)) continue;
    sum += run->seconds;
    n++;
  }
  return n > 0 ? sum / n : 0;
}

void ka_bench_say_plan(struct ka_bench *b, int64_t n_parallel) {
  char time[32], disk[32];
  double seconds = 0, kept = (double)b->job.save_total_limit + 1;
  int64_t n_done = 0, n_unknown = 0;
  for (int64_t i = 0; i < b->n; i++) {
    struct ka_bench_run *run = &b->runs[i];
    double took = run->done ? 0 : mean_of(b, run) / (double)n_parallel;
    n_done += run->done;
    if (!run->done) seconds += took > 0 ? took : run->seconds;
    n_unknown += !run->done && !(took > 0) && !(run->seconds > 0);
  }
  ka_info(b->ctx, "forget", "%lld runs, %lld of them finished", (long long)b->n, (long long)n_done);
  if (n_done == b->n || n_unknown > 0) return;
  ka_info(b->ctx, "forget",
          "about %s for the rest, %lld at once; at most %s of disk for "
          "checkpoints meanwhile, none afterwards",
          ka_fmt_duration(seconds, time), (long long)n_parallel,
          ka_fmt_bytes(b->checkpoint_bytes * kept * (double)n_parallel, disk));
}

ka_status ka_bench_sweep_run(struct ka_ctx *ctx, const char *dir) {
  static const char *const prefixes[] = {"checkpoint-", "refresh-", "best-"};
  struct ka_arena a;
  const char **names, *path;
  int64_t n = 0;
  ka_arena_init(&a, ctx, "sweep");
  ka_status st = ka_list_dir(&a, dir, &names, &n);
  for (int64_t i = 0; i < n && ka_ok(st); i++)
    for (size_t k = 0; k < sizeof prefixes / sizeof *prefixes && ka_ok(st); k++) {
      if (!ka_starts_with(names[i], prefixes[k])) continue;
      st = ka_path_join(&a, &path, dir, names[i]);
      if (ka_ok(st)) st = ka_remove_tree(ctx, path);
    }
  ka_arena_deinit(&a);
  return st;
}
