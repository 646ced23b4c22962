/* SPDX-License-Identifier: Apache-2.0
 * kappa forget: what was learned and what was forgotten, of models that are there (BASE TUNED...)
 * or of one job by many methods (JOB.yaml). */
#include "base/log.h"
#include "engine/cli/cli.h"
#include "engine/cli/measure_options.h"
#include "engine/forget/benchmark.h"
#include "engine/report/progress.h"

#include <omp.h>
#include <stdio.h>
#include <string.h>

enum { MAX_WORDS = 256 };

/* --- JOB.yaml ---------------------------------------------------------------- */

static ka_status run_benchmark(struct ka_ctx *ctx, const struct ka_cli *cli, json_t **report) {
  const char *words[MAX_WORDS];
  struct ka_benchmark_options o = {
      .job = ka_cli_arg(cli, 0),
      .words = words,
      .methods = ka_cli_str(cli, "methods"),
      .learning_rates = ka_cli_str(cli, "learning-rates"),
      .budgets = ka_cli_str(cli, "budgets"),
      .also = ka_cli_str(cli, "also"),
      .n_seeds = ka_cli_int(cli, "seeds"),
      .n_draws = ka_cli_int(cli, "draws"),
      .n_parallel = ka_cli_int(cli, "parallel"),
      .plan = ka_cli_flag(cli, "plan"),
      .device = ka_cli_given(cli, "device") ? ka_cli_str(cli, "device") : NULL,
      .command = ka_cli_line(cli),
  };
  for (int i = 1; i < ka_cli_n_args(cli); i++) {
    if (i > MAX_WORDS)
      return ka_fail(ctx, KA_E_USAGE, "more than %d key=value words; put them into the job file",
                     MAX_WORDS);
    words[o.n_words++] = ka_cli_arg(cli, i);
  }
  return ka_benchmark(ctx, &o, report);
}

/* --- BASE TUNED... ----------------------------------------------------------- */

struct models {
  struct ka_arena arena;
  struct ka_forget_scoring_spec spec;
  struct ka_measure_options measures;
  const char *labels[MAX_WORDS], *paths[MAX_WORDS];
  int64_t n;
};

/* NAME=PATH, or PATH. */
static ka_status read_models(struct ka_ctx *ctx, struct models *m, const struct ka_cli *cli) {
  for (int i = 1; i < ka_cli_n_args(cli); i++) {
    const char *arg = ka_cli_arg(cli, i), *equals = strchr(arg, '=');
    size_t n = equals ? (size_t)(equals - arg) : 0;
    if (m->n == MAX_WORDS) return ka_fail(ctx, KA_E_USAGE, "more than %d models", MAX_WORDS);
    bool named = n > 0 && !memchr(arg, '/', n);
    m->paths[m->n] = named ? equals + 1 : arg;
    KA_TRY(ka_arena_str(&m->arena, &m->labels[m->n], arg, named ? n : strlen(arg)));
    m->n++;
  }
  return KA_STATUS_OK;
}

static ka_status read_all(struct ka_ctx *ctx, struct models *m, const struct ka_cli *cli) {
  m->spec.base = ka_cli_arg(cli, 0);
  if (ka_cli_n_args(cli) < 2)
    return ka_fail(ctx, KA_E_USAGE, "forget: a JOB.yaml, or BASE and one TUNED model or more");
  KA_TRY(ka_cli_measure_options(ctx, &m->arena, cli, &m->measures, &m->spec));
  KA_TRY(read_models(ctx, m, cli));
  m->spec.tuned = m->paths[0];
  return KA_STATUS_OK;
}

static ka_status compare_models(struct ka_ctx *ctx, const struct ka_cli *cli, json_t **report) {
  struct models *m;
  KA_TRY(KA_NEW_HEAP(ctx, &m, 1, "models"));
  ka_arena_init(&m->arena, ctx, "forget");
  ka_status st = read_all(ctx, m, cli);
  if (ka_ok(st))
    st = ka_compare_models(ctx, &m->spec, m->labels, m->paths, m->n, ka_cli_str(cli, "report"),
                           ka_cli_line(cli), report);
  ka_arena_deinit(&m->arena);
  ka_free(m);
  return st;
}

/* --- both -------------------------------------------------------------------- */

static ka_status print_methods(struct ka_ctx *ctx) {
  struct ka_str text = {0};
  ka_status st = ka_benchmark_methods(ctx, &text);
  if (ka_ok(st)) fputs(text.data, stdout);
  ka_str_deinit(&text);
  return st;
}

/* Of a job the tokens of its runs, those that were there already too. */
static void say_end(struct ka_ctx *ctx, const json_t *report, const char *what, double seconds) {
  const json_t *row, *rows = json_object_get(report, "runs");
  char parts[64];
  int64_t n_tok = 0;
  size_t i;
  json_array_foreach(rows, i, row) n_tok += json_integer_value(json_object_get(row, "tokens"));
  snprintf(parts, sizeof parts, "%zu %s", json_array_size(rows), what);
  ka_progress_done(ctx, "forget", parts, n_tok, seconds);
}

static ka_status forget_run(struct ka_ctx *ctx, const struct ka_cli *cli) {
  double begin = ka_now_s();
  const char *json = ka_cli_str(cli, "json"), *what = ka_cli_arg(cli, 0);
  json_t *report = NULL;
  if (strcmp(ka_cli_str(cli, "methods"), "list") == 0) return print_methods(ctx);
  if (!what) return ka_fail(ctx, KA_E_USAGE, "forget: a JOB.yaml, or BASE and TUNED models");
  bool job = ka_ends_with(what, ".yaml") || ka_ends_with(what, ".yml");
  KA_TRY(job ? run_benchmark(ctx, cli, &report) : compare_models(ctx, cli, &report));
  if (!report) return KA_STATUS_OK; /* --plan */
  ka_status st = json ? ka_json_write(ctx, report, json) : KA_STATUS_OK;
  if (!json || strcmp(json, "-") != 0) ka_benchmark_print(report);
  if (ka_ok(st)) say_end(ctx, report, job ? "runs" : "models", ka_now_s() - begin);
  json_decref(report);
  return st;
}

const struct ka_cli_command ka_command_forget = {
    .name = "forget",
    .args = "JOB.yaml [key=value ...] | BASE [NAME=]TUNED...",
    .summary = "what was learned and what was forgotten: one job by many methods, or tuned models",
    .example = "kappa forget job.yaml --methods kappa_lowest,random,full",
    .min_args = 0,
    .max_args = -1,
    .options =
        (const struct ka_cli_option[]){
            {"methods", KA_OPT_STR, "A,B,...", "kappa_lowest,kappa_highest,random,last_n,full",
             "of a job: what is compared; \"list\" names all"},
            {"learning-rates", KA_OPT_STR, "A,B,...", NULL,
             "of a job: each method's sweep, NAME=A/B/... for one alone (default: the job's, a "
             "third and "
             "three times it)"},
            {"budgets", KA_OPT_STR, "A,B,...", NULL,
             "of a job: values of its selection.fraction or selection.params"},
            {"seeds", KA_OPT_INT, "N", "3",
             "of a job: runs of each, differing in the data's order"},
            {"draws", KA_OPT_INT, "N", "4", "of a job: selections of method random"},
            {"parallel", KA_OPT_INT, "N", "0",
             "of a job: runs at once; 0: as cores and memory allow"},
            {"plan", KA_OPT_FLAG, NULL, NULL,
             "of a job: say how many runs, how long and how much disk; run nothing"},
            {"also", KA_OPT_STR, "FILE.jsonl", NULL,
             "of a job: models tuned elsewhere, measured too: {\"method\", \"learning_rate\", "
             "\"seed\", \"model\"} a line"},
            KA_MEASURE_CLI_OPTIONS("of models: "),
            {"report", KA_OPT_STR, "DIR", NULL,
             "of models: where report.html, .md and .json go (a job's: its output_dir)"},
            {"json", KA_OPT_STR, "FILE", NULL, "write the report as JSON (- for stdout)"},
            {0}},
    .run = forget_run,
};
