/* SPDX-License-Identifier: Apache-2.0
 *
 * What each way of choosing what is trained learned and forgot: one job by many methods, learning
 * rates and seeds. Every run is a `kappa train` of its own under OUT/runs, by a process of its own:
 * same base, same data, for one seed in the same order. A run whose report.json is there is not
 * repeated, an interrupted one is resumed.
 *
 * benchmark.c has the grid, benchmark_plan.c what it will take, benchmark_runs.c the processes,
 * benchmark_json.c the report. */
#ifndef KAPPA_ENGINE_FORGET_BENCHMARK_H
#define KAPPA_ENGINE_FORGET_BENCHMARK_H

#include "base/json.h"
#include "engine/forget/scoring.h"

struct ka_benchmark_options {
  const char *job;          /* JOB.yaml */
  const char *const *words; /* key=value, added to it */
  int64_t n_words;
  const char *methods;        /* names of methods.def, commas between */
  const char *learning_rates; /* numbers; NULL: the job's, a third and three times it */
  const char *budgets;        /* of the job's key, fraction or params; NULL: the job's one */
  const char *also;           /* JSON lines of models tuned elsewhere; NULL: none */
  int64_t n_seeds, n_draws;   /* seeds from the job's on; draws of method random */
  int64_t n_parallel;         /* runs at once; 0: what cores and memory allow */
  bool plan;                  /* only say what would be done, how long it takes and what it needs */
  const char *device;         /* NULL: the job's */
  const char *command;        /* to repeat it */
};

/* Runs what is not there yet, writes OUT/report.* and gives the report (NULL with plan); a new
 * reference. A run that diverges is a result; any other failure ends the benchmark,
 * KA_E_INTERRUPTED after a signal. */
ka_status ka_benchmark(struct ka_ctx *ctx, const struct ka_benchmark_options *o, json_t **report);

/* Models tuned elsewhere, against their base, without a job: labels[i] is a method's name, equal
 * ones are its seeds in order. Writes dir/report.* unless dir is NULL. */
ka_status ka_compare_models(struct ka_ctx *ctx, const struct ka_forget_scoring_spec *spec,
                            const char *const *labels, const char *const *models, int64_t n,
                            const char *dir, const char *command, json_t **report);

/* The table, as text on stdout: the verdict, a line a method. */
void ka_benchmark_print(const json_t *report);

/* "name  doc" lines of methods.def. */
ka_status ka_benchmark_methods(struct ka_ctx *ctx, struct ka_str *out);

#endif
