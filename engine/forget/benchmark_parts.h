/* SPDX-License-Identifier: Apache-2.0
 * Inside the benchmark: what its files share. */
#ifndef KAPPA_ENGINE_FORGET_BENCHMARK_PARTS_H
#define KAPPA_ENGINE_FORGET_BENCHMARK_PARTS_H

#include "engine/forget/benchmark.h"
#include "engine/train/identity.h"
#include "engine/train/run.h"

enum { KA_BENCH_LIST = 64 }; /* the longest list of an option */

struct ka_bench_run {
  const char *method, *dir;
  const char *const *words; /* all key=value words of the run, n_words */
  int64_t n_words;
  double budget, rate; /* budget NaN: everything */
  int64_t seed, draw;
  char identity[KA_IDENTITY_TEXT];
  bool done, tried; /* tried: opened once, for looking */
  double seconds;   /* that it took, or about what it will take; 0: unknown */
  int pid;          /* 0: not running */
};

struct ka_bench_method {
  const char *name;
  bool budget;
  const char *words, *doc;
};

struct ka_bench {
  struct ka_ctx *ctx;
  const struct ka_benchmark_options *o;
  struct ka_arena arena;
  struct ka_job job;
  const struct ka_bench_method *chosen[KA_BENCH_LIST];
  const char *own_rates[KA_BENCH_LIST]; /* of the chosen: "1e-4/1e-3"; NULL: the common ones */
  double rates[KA_BENCH_LIST], budgets[KA_BENCH_LIST];
  int64_t n_chosen, n_rates, n_budgets;
  const char *budget_key;
  struct ka_bench_run *runs;
  int64_t n;
  const struct ka_backend *backend; /* of the runs */
  json_t *also;                     /* the lines of --also, or NULL */
  double run_bytes;                 /* the most that a run takes of the host's memory */
  double checkpoint_bytes;          /* and of the disk, while it runs */
  const char *prepared;             /* where the runs share tokenised data */
};

/* benchmark.c. The failure of a job that measures one side alone. */
ka_status ka_bench_no_measures(struct ka_bench *b);

/* benchmark_plan.c. About how long an open run (of a plan) will take. */
ka_status ka_bench_estimate(struct ka_bench *b, struct ka_run *r, double *seconds);
/* Runs that are not done take what finished ones of the method took; then how long all will take
 * and what disk they need is said. n_parallel at once. */
void ka_bench_say_plan(struct ka_bench *b, int64_t n_parallel);
/* Removes what only a run that goes on needs: checkpoints and their like. */
ka_status ka_bench_sweep_run(struct ka_ctx *ctx, const char *dir);

/* The same and more of a run on a separate device, by a process that ends: whoever opens such a
 * device keeps its context of half a GB, which the runs need. */
ka_status ka_bench_plan_apart(struct ka_bench *b, struct ka_bench_run *run);

/* benchmark_runs.c. `kappa ARGS` (NULL at the end), what it says behind what `log` holds; a signal
 * ends it too. *code: its exit code, -1: ended by a signal. */
ka_status ka_bench_child(struct ka_ctx *ctx, const char *const *args, const char *log, int *code);
/* Runs those that are not done, n_parallel at a time with n_threads each. */
struct ka_bench_execution {
  const char *job, *device, *base_measures; /* device NULL: the job's */
  int64_t n_parallel;
  int n_threads;
};
ka_status ka_bench_execute(struct ka_ctx *ctx, const struct ka_bench_execution *how,
                           struct ka_bench_run *runs, int64_t n);

/* benchmark_json.c. Everything that came out, compared; written to OUT; a new reference. */
ka_status ka_bench_report(struct ka_bench *b, json_t **report);

#endif
