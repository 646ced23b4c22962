/* SPDX-License-Identifier: Apache-2.0
 * From runs to the report of their comparison; see benchmark.h. */
#include "base/log.h"
#include "base/machine.h"
#include "engine/forget/benchmark_parts.h"
#include "engine/forget/compare.h"
#include "engine/report/jsonl.h"
#include "engine/report/report.h"
#include "engine/train/run_json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct ka_compare_options rules = {"random", "full", 0.05};

static json_t *values_of(const json_t *report) {
  json_t *out = json_array();
  size_t i;
  const json_t *m;
  json_array_foreach(json_object_get(report, "measures"), i, m)
      json_array_append(out, json_object_get(m, "value"));
  return out;
}

/* Appends a row of ka_compare's from a run's report. */
static ka_status add_row(struct ka_ctx *ctx, json_t *rows, const json_t *report, const char *method,
                         double budget, double rate, int64_t seed, int64_t draw, const char *dir) {
  json_t *row = json_pack(
      "{s:s, s:o, s:o, s:I, s:I, s:b, s:o, s:s}", "method", method, "budget", ka_json_real(budget),
      "learning_rate", ka_json_real(rate), "seed", (json_int_t)seed, "draw", (json_int_t)draw,
      "failed", json_object_get(report, "failed") != NULL, "values", values_of(report), "dir", dir);
  static const char *const copied[] = {"trained_params", "params",      "seconds",
                                       "tokens",         "base_tokens", "tokens_per_second",
                                       "peak_bytes",     "scores"};
  int failed = json_array_append_new(rows, row);
  for (size_t i = 0; i < sizeof copied / sizeof *copied; i++) {
    json_t *v = json_object_get(report, copied[i]);
    if (v) failed |= json_object_set(row, copied[i], v);
  }
  return failed ? ka_fail(ctx, KA_E_MEMORY, "report: out of memory") : KA_STATUS_OK;
}

static ka_status load_report(struct ka_arena *a, const char *dir, json_t **out) {
  struct ka_ctx *ctx = a->ctx;
  const char *path;
  KA_TRY(ka_path_join(a, &path, dir, "report.json"));
  return ka_json_load(ctx, path, out);
}

/* All runs are measured on the same: a base that is worth something else says that data changed
 * behind the keys. */
static ka_status same_base(struct ka_ctx *ctx, const json_t *kept, const json_t *measures,
                           const char *dir) {
  size_t i;
  const json_t *m;
  json_array_foreach(kept, i, m) {
    const json_t *other = json_array_get(measures, i);
    double a = json_number_value(json_object_get(m, "base"));
    double b = json_number_value(json_object_get(other, "base"));
    if (!json_equal(json_object_get(m, "n"), json_object_get(other, "n")) ||
        !(fabs(a - b) <= 1e-4 * fabs(a)))
      return ka_fail(ctx, KA_E_INPUT,
                     "%s: %s of the base is %g here and %g in an earlier run: the data changed; "
                     "choose another output_dir, or remove the runs of before",
                     dir, json_string_value(json_object_get(m, "name")), b, a);
  }
  return KA_STATUS_OK;
}

/* Measures with the base's values alone, once. */
static ka_status keep_measures(struct ka_ctx *ctx, json_t *root, const json_t *report,
                               const char *dir) {
  static const char *const of_the_run[] = {"value", "worst", "gain", "kl"};
  const json_t *measures = json_object_get(report, "measures");
  size_t i;
  json_t *m, *copy;
  if (!measures) return KA_STATUS_OK;
  if (json_object_get(root, "measures"))
    return same_base(ctx, json_object_get(root, "measures"), measures, dir);
  copy = json_deep_copy(measures);
  json_array_foreach(copy, i, m) for (size_t k = 0; k < sizeof of_the_run / sizeof *of_the_run; k++)
      json_object_del(m, of_the_run[k]);
  return ka_json_set(ctx, root, "measures", copy);
}

static ka_status collect(struct ka_bench *b, json_t *root, json_t *rows) {
  struct ka_ctx *ctx = b->ctx;
  for (int64_t i = 0; i < b->n; i++) {
    const struct ka_bench_run *run = &b->runs[i];
    json_t *report = NULL;
    KA_TRY(load_report(&b->arena, run->dir, &report));
    ka_status st = keep_measures(ctx, root, report, run->dir);
    if (ka_ok(st))
      st = add_row(ctx, rows, report, run->method, run->budget, run->rate, run->seed, run->draw,
                   run->dir);
    json_decref(report);
    KA_TRY(st);
  }
  return KA_STATUS_OK;
}

/* --- models tuned elsewhere -------------------------------------------------- */

struct other { /* a line of --also */
  const char *method, *model;
  double rate, budget;
  int64_t seed, draw;
  bool failed;
};

static ka_status read_other(struct ka_bench *b, const json_t *line, struct other *x) {
  struct ka_ctx *ctx = b->ctx;
  const char *file = b->o->also, *dir, *model;
  *x = (struct other){0};
  KA_TRY(ka_json_str_or(ctx, file, line, "method", NULL, &x->method));
  KA_TRY(ka_json_str_or(ctx, file, line, "model", NULL, &model));
  KA_TRY(ka_json_f64_or(ctx, file, line, "learning_rate", NAN, &x->rate));
  KA_TRY(ka_json_f64_or(ctx, file, line, "budget", NAN, &x->budget));
  KA_TRY(ka_json_i64_or(ctx, file, line, "seed", 0, &x->seed));
  KA_TRY(ka_json_i64_or(ctx, file, line, "draw", 1, &x->draw));
  KA_TRY(ka_json_bool_or(ctx, file, line, "failed", false, &x->failed));
  if (!x->method || (!model && !x->failed))
    return ka_fail(ctx, KA_E_INPUT, "%s: a line without \"method\" or \"model\"", file);
  if (!model) return KA_STATUS_OK;
  KA_TRY(ka_path_dir(&b->arena, &dir, file));
  return ka_path_join(&b->arena, &x->model, dir, model);
}

/* A model that computes no numbers is a result, as a run that diverged. */
static ka_status failed_report(struct ka_ctx *ctx, ka_status st, const char *model,
                               json_t **report) {
  if (st.code != KA_E_CHECK) return st;
  ka_warn(ctx, "forget", "%s: %s", model, ctx->error.message);
  *report = json_pack("{s:s}", "failed", ctx->error.message);
  ka_error_clear(ctx);
  return *report ? KA_STATUS_OK : ka_fail(ctx, KA_E_MEMORY, "report: out of memory");
}

/* Scores the model, unless that was done before: OUT/also/... keeps the result. */
static ka_status measure_other(struct ka_bench *b, struct ka_forget_scoring *s, bool *opened,
                               const struct other *x, json_t **report) {
  struct ka_ctx *ctx = b->ctx;
  const char *dir, *path;
  char wanted[KA_IDENTITY_TEXT], recorded[KA_IDENTITY_TEXT];
  KA_TRY(ka_arena_printf(&b->arena, &dir, "%s/also/%s/lr-%g-seed-%lld-draw-%lld", b->job.output_dir,
                         x->method, x->rate, (long long)x->seed, (long long)x->draw));
  KA_TRY(ka_path_join(&b->arena, &path, dir, "report.json"));
  KA_TRY(ka_model_identity(ctx, &b->job, x->model, wanted));
  KA_TRY(ka_recorded_identity(ctx, path, recorded));
  if (strcmp(wanted, recorded) == 0) return ka_json_load(ctx, path, report);
  if (!*opened) {
    struct ka_forget_scoring_spec spec = {
        .base = b->job.base_model,
        .device = b->o->device ? b->o->device : ka_job_words_device[b->job.device],
        .job = &b->job};
    *opened = true;
    KA_TRY(ka_forget_scoring_open(ctx, s, &spec));
  }
  KA_TRY(failed_report(ctx, ka_forget_scoring_model(s, x->model, report), x->model, report));
  KA_TRY(ka_json_set(ctx, *report, "identity", json_string(wanted)));
  KA_TRY(ka_make_dirs(ctx, dir));
  return ka_json_write(ctx, *report, path);
}

/* What the line says wins. */
static ka_status score_other(struct ka_bench *b, struct ka_forget_scoring *s, bool *opened,
                             const struct other *x, const json_t *line, json_t **report) {
  struct ka_ctx *ctx = b->ctx;
  static const char *const told[] = {"trained_params", "seconds"};
  int failed = 0;
  KA_TRY(measure_other(b, s, opened, x, report));
  for (size_t i = 0; i < sizeof told / sizeof *told; i++) {
    json_t *value = json_object_get(line, told[i]);
    if (value) failed |= json_object_set(*report, told[i], value);
  }
  return failed ? ka_fail(ctx, KA_E_MEMORY, "report: out of memory") : KA_STATUS_OK;
}

static ka_status add_other(struct ka_bench *b, struct ka_forget_scoring *s, bool *opened,
                           const json_t *line, json_t *rows) {
  struct ka_ctx *ctx = b->ctx;
  struct other x;
  json_t *report = NULL;
  KA_TRY(read_other(b, line, &x));
  ka_status st = KA_STATUS_OK;
  if (!x.failed)
    st = score_other(b, s, opened, &x, line, &report);
  else
    report = json_pack("{s:s}", "failed", "elsewhere");
  if (ka_ok(st))
    st = add_row(ctx, rows, report, x.method, x.budget, x.rate, x.seed, x.draw,
                 x.model ? x.model : "");
  json_decref(report);
  return st;
}

static ka_status add_others(struct ka_bench *b, json_t *rows) {
  struct ka_forget_scoring s = {0};
  const json_t *line;
  bool opened = false;
  size_t i;
  ka_status st = KA_STATUS_OK;
  json_array_foreach(b->also, i, line) if (ka_ok(st)) st = add_other(b, &s, &opened, line, rows);
  if (opened) ka_forget_scoring_close(&s);
  return st;
}

/* --- what the best runs looked like ------------------------------------------ */

static bool same(const json_t *a, const json_t *b, const char *key) {
  return json_equal(json_object_get(a, key), json_object_get(b, key));
}

/* The directory of the first run of a series at its best learning rate. */
static const char *best_dir(const json_t *series, const json_t *rows) {
  const json_t *best = json_object_get(series, "best"), *row;
  const json_t *cell =
      json_array_get(json_object_get(series, "cells"), (size_t)json_integer_value(best));
  size_t i;
  if (!json_is_integer(best)) return NULL;
  json_array_foreach(
      rows, i,
      row) if (same(row, series, "method") && same(row, series, "budget") &&
               same(row, cell, "learning_rate")) return json_string_value(json_object_get(row,
                                                                                          "dir"));
  return NULL;
}

/* "units" of the first method, "curves_of" every one: {name: {"learned": [...], "forgot": [...]}}.
 */
static ka_status add_examples(struct ka_bench *b, const json_t *rows, json_t *root) {
  struct ka_ctx *ctx = b->ctx;
  const json_t *series = json_object_get(json_object_get(root, "comparison"), "series"), *s;
  json_t *curves_of = json_object();
  size_t i;
  int failed = json_object_set_new(root, "curves_of", curves_of);
  json_array_foreach(series, i, s) {
    const char *method = json_string_value(json_object_get(s, "method")), *dir = best_dir(s, rows),
               *path;
    json_t *report = NULL;
    if (!dir) continue;
    KA_TRY(ka_path_join(&b->arena, &path, dir, "report.json"));
    if (!ka_path_exists(path)) continue; /* tuned elsewhere */
    KA_TRY(ka_json_load(ctx, path, &report));
    json_t *units = json_object_get(report, "units"), *curves = json_object_get(report, "curves");
    if (units && !json_object_get(root, "units")) {
      failed |= json_object_set(root, "units", units);
      failed |= json_object_set_new(root, "units_of", json_string(dir));
    }
    if (json_object_get(curves, "forgot") && !json_object_get(curves_of, method)) {
      json_object_del(curves, "loss");
      json_object_del(curves, "eval_loss");
      failed |= json_object_set(curves_of, method, curves);
    }
    json_decref(report);
  }
  return failed ? ka_fail(ctx, KA_E_MEMORY, "report: out of memory") : KA_STATUS_OK;
}

/* --- the report -------------------------------------------------------------- */

static ka_status list(struct ka_arena *a, const double *x, int64_t n, const char **out) {
  struct ka_ctx *ctx = a->ctx;
  *out = "";
  for (int64_t i = 0; i < n; i++)
    KA_TRY(ka_arena_printf(a, out, "%s%s%g", *out, i ? ", " : "", x[i]));
  return KA_STATUS_OK;
}

static ka_status settings(struct ka_bench *b, json_t *facts) {
  struct ka_ctx *ctx = b->ctx;
  const struct ka_job *job = &b->job;
  const char *rates, *budgets;
  KA_TRY(list(&b->arena, b->rates, b->n_rates, &rates));
  KA_TRY(list(&b->arena, b->budgets, b->n_budgets, &budgets));
  KA_TRY(ka_report_fact(ctx, facts, "job", "%s", job->file.path));
  KA_TRY(ka_report_fact(ctx, facts, "base model", "%s", job->base_model));
  KA_TRY(ka_report_data(&b->arena, facts, job));
  if (b->budget_key) KA_TRY(ka_report_fact(ctx, facts, b->budget_key, "%s", budgets));
  KA_TRY(ka_report_fact(ctx, facts, "learning rates", "%s, each method at each", rates));
  for (int64_t m = 0; m < b->n_chosen; m++)
    if (b->own_rates[m])
      KA_TRY(ka_report_fact(ctx, facts, "learning rates of", "%s: %s", b->chosen[m]->name,
                            b->own_rates[m]));
  KA_TRY(ka_report_fact(ctx, facts, "seeds", "%lld, from %lld on: of the data's order",
                        (long long)b->o->n_seeds, (long long)job->seed));
  KA_TRY(ka_report_fact(ctx, facts, "draws of random", "%lld", (long long)b->o->n_draws));
  KA_TRY(ka_report_fact(ctx, facts, "length",
                        "%lld steps (%g epochs where 0) of %lld x %lld tokens",
                        (long long)job->max_steps, job->num_epochs,
                        (long long)(job->micro_batch_size * job->gradient_accumulation_steps),
                        (long long)job->sequence_len));
  KA_TRY(ka_report_fact(ctx, facts, "AdamW", "%s, betas %g and %g, weight decay %g, clipped at %g",
                        ka_job_words_lr_scheduler[job->lr_scheduler], job->adam_beta1,
                        job->adam_beta2, job->weight_decay, job->max_grad_norm));
  KA_TRY(ka_report_fact(ctx, facts, "runs", "%lld, each below %s/runs with its job, log and report",
                        (long long)b->n, job->output_dir));
  return ka_report_by(ctx, facts);
}

static ka_status begin(struct ka_ctx *ctx, const char *title, const char *subtitle,
                       const char *command, json_t **root, json_t **rows, json_t **facts) {
  *rows = json_array();
  *facts = json_array();
  *root = json_pack("{s:s, s:s, s:s, s:s, s:o, s:o, s:[s]}", "kappa", KAPPA_VERSION, "kind",
                    "comparison", "title", title, "subtitle", subtitle, "runs", *rows, "settings",
                    *facts, "commands", command);
  return *root ? KA_STATUS_OK : ka_fail(ctx, KA_E_MEMORY, "report: out of memory");
}

static ka_status compare(struct ka_ctx *ctx, json_t *root, const json_t *rows) {
  json_t *comparison = NULL;
  KA_TRY(ka_compare(ctx, rows, &rules, &comparison));
  return ka_json_set(ctx, root, "comparison", comparison);
}

static ka_status add_machine(struct ka_ctx *ctx, json_t *root, struct ka_dev *dev) {
  json_t *machine = NULL;
  KA_TRY(ka_report_machine(ctx, dev, &machine));
  return ka_json_set(ctx, root, "machine", machine);
}

ka_status ka_bench_report(struct ka_bench *b, json_t **report) {
  struct ka_ctx *ctx = b->ctx;
  json_t *root, *rows, *facts;
  struct ka_dev dev;
  KA_TRY(begin(ctx, ka_path_base(b->job.file.path), b->job.output_dir, b->o->command, &root, &rows,
               &facts));
  ka_status st =
      ka_dev_open(ctx, &dev, b->o->device ? b->o->device : ka_job_words_device[b->job.device]);
  if (ka_ok(st)) st = collect(b, root, rows);
  if (ka_ok(st)) st = add_others(b, rows);
  if (ka_ok(st)) st = compare(ctx, root, rows);
  if (ka_ok(st)) st = add_examples(b, rows, root);
  if (ka_ok(st)) st = settings(b, facts);
  if (ka_ok(st)) st = add_machine(ctx, root, &dev);
  if (ka_ok(st)) st = ka_report_write(ctx, root, b->job.output_dir);
  ka_dev_close(&dev);
  if (ka_ok(st)) *report = root;
  if (!ka_ok(st)) json_decref(root);
  return st;
}

/* --- without a job ----------------------------------------------------------- */

static ka_status score_models(struct ka_forget_scoring *s, const char *const *labels,
                              const char *const *models, int64_t n, json_t *root, json_t *rows) {
  struct ka_ctx *ctx = s->ctx;
  for (int64_t i = 0; i < n; i++) {
    json_t *report = NULL;
    int64_t seed = 1;
    for (int64_t k = 0; k < i; k++) seed += strcmp(labels[k], labels[i]) == 0;
    KA_TRY(ka_forget_scoring_model(s, models[i], &report));
    ka_status st = keep_measures(ctx, root, report, models[i]);
    if (ka_ok(st)) st = add_row(ctx, rows, report, labels[i], NAN, NAN, seed, 1, models[i]);
    json_decref(report);
    KA_TRY(st);
  }
  return KA_STATUS_OK;
}

ka_status ka_compare_models(struct ka_ctx *ctx, const struct ka_forget_scoring_spec *spec,
                            const char *const *labels, const char *const *models, int64_t n,
                            const char *dir, const char *command, json_t **report) {
  struct ka_forget_scoring s;
  json_t *root, *rows, *facts;
  *report = NULL;
  if (dir) KA_TRY(ka_make_dirs(ctx, dir)); /* rather now than after hours */
  KA_TRY(begin(ctx, "What was learned, what was forgotten", spec->base, command, &root, &rows,
               &facts));
  ka_status st = ka_forget_scoring_open(ctx, &s, spec);
  if (ka_ok(st)) st = score_models(&s, labels, models, n, root, rows);
  if (ka_ok(st)) st = compare(ctx, root, rows);
  if (ka_ok(st)) st = ka_report_fact(ctx, facts, "base model", "%s", spec->base);
  for (int64_t i = 0; i < n && ka_ok(st); i++)
    st = ka_report_fact(ctx, facts, labels[i], "%s", models[i]);
  if (ka_ok(st) && spec->job) st = ka_report_data(&s.arena, facts, spec->job);
  if (ka_ok(st))
    st = ka_report_fact(ctx, facts, "peak memory", "%.0f MiB", ka_machine_peak() / (1 << 20));
  if (ka_ok(st)) st = ka_report_by(ctx, facts);
  if (ka_ok(st)) st = add_machine(ctx, root, &s.base.dev);
  if (ka_ok(st) && dir) st = ka_report_write(ctx, root, dir);
  ka_forget_scoring_close(&s);
  if (ka_ok(st)) *report = root;
  if (!ka_ok(st)) json_decref(root);
  return st;
}

/* --- on a terminal ----------------------------------------------------------- */

static double figure(const json_t *cell, const char *name, const char *part) {
  return ka_json_number(json_object_get(json_object_get(cell, name), part));
}

static void print_figure(const json_t *cell, const char *name) {
  double mean = 100 * figure(cell, name, "mean"), se = 100 * figure(cell, name, "se");
  char text[32];
  if (isnan(mean))
    snprintf(text, sizeof text, "-");
  else if (isnan(se))
    snprintf(text, sizeof text, "%+.2f", mean);
  else
    snprintf(text, sizeof text, "%+.2f +- %.2f", mean, se);
  printf("  %17s", text);
}

/* "forgot 8.10 where full forgot 24.30". */
static void print_equal(const json_t *series) {
  const json_t *against = json_object_get(series, "against_baseline");
  double mine = ka_json_number(json_object_get(against, "forgot_there"));
  double its = ka_json_number(json_object_get(against, "other_forgot_there"));
  char text[48] = "-";
  if (!isnan(mine) && !isnan(its))
    snprintf(text, sizeof text, "%+.2f for %+.2f", 100 * mine, 100 * its);
  printf("  %19s", text);
}

static void print_series(const json_t *s) {
  const json_t *best = json_object_get(s, "best");
  const json_t *cell = NULL; /* of the best learning rate, where there is one */
  if (json_is_integer(best))
    cell = json_array_get(json_object_get(s, "cells"), (size_t)json_integer_value(best));
  const char *word =
      json_string_value(json_object_get(json_object_get(s, "against_control"), "word"));
  const json_t *trained = json_object_get(s, "trained_params");
  const json_t *rate = json_object_get(cell, "learning_rate");
  printf("%-16s ", json_string_value(json_object_get(s, "method")));
  if (json_is_number(trained))
    printf("%6.1f %% ",
           100 * json_number_value(trained) / json_number_value(json_object_get(s, "params")));
  else
    printf("%8s ", "-");
  if (json_is_number(rate))
    printf("%9g", json_number_value(rate));
  else
    printf("%9s", "-");
  print_figure(cell, "learned");
  print_figure(cell, "forgot");
  print_equal(s);
  printf("  %s\n", word ? word : "-");
}

void ka_benchmark_print(const json_t *report) {
  const json_t *comparison = json_object_get(report, "comparison"), *s, *line;
  size_t i;
  printf("%-16s %8s %9s  %17s  %17s  %19s  %s\n", "method", "trained", "rate", "learned, %",
         "forgot, %", "for full's, equal", "against random");
  json_array_foreach(json_object_get(comparison, "series"), i, s) print_series(s);
  putchar('\n');
  json_array_foreach(json_object_get(comparison, "verdict"), i, line)
      printf("%s\n", json_string_value(line));
}
