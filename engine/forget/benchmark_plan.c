/* SPDX-License-Identifier: Apache-2.0
 * How long a benchmark takes and what it leaves; see benchmark_parts.h. */
#include "base/log.h"
#include "engine/forget/benchmark_parts.h"
#include "engine/train/plan_figures.h"

#include <math.h>
#include <string.h>

ka_status ka_bench_estimate(struct ka_bench *b, struct ka_run *r, double *seconds) {
  struct ka_ctx *ctx = b->ctx;
  struct ka_plan_figures f;
  KA_TRY(ka_plan_figures_of(r, &f));
  b->checkpoint_bytes = fmax(b->checkpoint_bytes, f.checkpoint_bytes);
  *seconds = f.timed ? f.all_s : 0;
  return KA_STATUS_OK;
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
