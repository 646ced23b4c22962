/* SPDX-License-Identifier: Apache-2.0
 * The grid of a benchmark and its report; see benchmark.h. */
#include "engine/forget/benchmark_parts.h"

#include "base/log.h"
#include "base/machine.h"
#include "engine/train/memory.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_WORDS = 24, MAX_RUNS = 100000 };

static const char control[] = "random";

static const struct ka_bench_method methods[] = {
#define KA_METHOD(name, budget, words, doc) {name, budget, words, doc},
#include "engine/forget/methods.def"
#undef KA_METHOD
};
enum { N_METHODS = sizeof methods / sizeof *methods };

ka_status ka_benchmark_methods(struct ka_ctx *ctx, struct ka_str *out) {
  for (int i = 0; i < N_METHODS; i++)
    KA_TRY(ka_str_printf(ctx, out, "  %-16s %s\n", methods[i].name, methods[i].doc));
  return KA_STATUS_OK;
}

/* --- what was asked for ------------------------------------------------------ */

/* The words between commas or slashes. */
static ka_status split(struct ka_bench *b, const char *option, const char *list, char separator,
                       const char **words, int64_t *n) {
  struct ka_ctx *ctx = b->ctx;
  const char *word = list, *rest = list;
  size_t len = 0;
  for (*n = 0; *n < KA_BENCH_LIST && ka_list_next(&rest, separator, &word, &len) && len > 0;)
    KA_TRY(ka_arena_str(&b->arena, &words[(*n)++], word, len));
  if (*rest || len == 0)
    return ka_fail(ctx, KA_E_USAGE, "--%s: got \"%s\", expected 1 to %d entries, %s between",
                   option, list, KA_BENCH_LIST, separator == ',' ? "commas" : "slashes");
  return KA_STATUS_OK;
}

static ka_status numbers(struct ka_bench *b, const char *option, const char *list, char separator,
                         double *out, int64_t *n) {
  struct ka_ctx *ctx = b->ctx;
  const char *words[KA_BENCH_LIST];
  KA_TRY(split(b, option, list, separator, words, n));
  for (int64_t i = 0; i < *n; i++) {
    if (!ka_parse_f64(words[i], &out[i]) || !(out[i] > 0) || isinf(out[i]))
      return ka_fail(ctx, KA_E_USAGE, "--%s: got \"%s\", expected a number above 0", option,
                     words[i]);
    for (int64_t k = 0; k < i; k++)
      if (out[k] == out[i])
        return ka_fail(ctx, KA_E_USAGE, "--%s: %s is there twice", option, words[i]);
  }
  return KA_STATUS_OK;
}

/* A, B, ... for all methods, NAME=A/B/... for one. */
static ka_status read_rates(struct ka_bench *b, const char *option) {
  struct ka_ctx *ctx = b->ctx;
  const char *words[KA_BENCH_LIST];
  int64_t n;
  double own[KA_BENCH_LIST];
  struct ka_str common = {0};
  KA_TRY(split(b, "learning-rates", option, ',', words, &n));
  ka_status st = KA_STATUS_OK;
  for (int64_t i = 0; i < n && ka_ok(st); i++) {
    const char *equals = strchr(words[i], '=');
    int64_t m = 0, n_own;
    if (!equals) {
      st = ka_str_printf(ctx, &common, "%s%s", common.len ? "," : "", words[i]);
      continue;
    }
    for (; m < b->n_chosen; m++)
      if (strlen(b->chosen[m]->name) == (size_t)(equals - words[i]) &&
          strncmp(b->chosen[m]->name, words[i], (size_t)(equals - words[i])) == 0)
        break;
    if (m == b->n_chosen)
      st = ka_fail(ctx, KA_E_USAGE, "--learning-rates: %s: that method is not among --methods",
                   words[i]);
    if (ka_ok(st)) st = numbers(b, "learning-rates", equals + 1, '/', own, &n_own);
    if (ka_ok(st)) b->own_rates[m] = equals + 1;
  }
  if (ka_ok(st) && common.len > 0)
    st = numbers(b, "learning-rates", common.data, ',', b->rates, &b->n_rates);
  ka_str_deinit(&common);
  return st;
}

static ka_status find_methods(struct ka_bench *b) {
  struct ka_ctx *ctx = b->ctx;
  const char *words[KA_BENCH_LIST], *names[N_METHODS + 1] = {NULL};
  KA_TRY(split(b, "methods", b->o->methods, ',', words, &b->n_chosen));
  for (int m = 0; m < N_METHODS; m++) names[m] = methods[m].name;
  for (int64_t i = 0; i < b->n_chosen; i++) {
    const char *near = ka_nearest(words[i], names);
    for (int m = 0; m < N_METHODS; m++)
      if (strcmp(words[i], names[m]) == 0) b->chosen[i] = &methods[m];
    if (!b->chosen[i])
      return ka_fail(
          ctx, KA_E_USAGE,
          "--methods: got \"%s\", which is none; %s%s%s`kappa forget --methods list` names them",
          words[i], near ? "did you mean " : "", near ? near : "", near ? "? " : "");
    for (int64_t k = 0; k < i; k++)
      if (b->chosen[k] == b->chosen[i])
        return ka_fail(ctx, KA_E_USAGE, "--methods: %s is there twice", words[i]);
  }
  return KA_STATUS_OK;
}

/* Equal budgets are shares or numbers of parameters; so many units of one method may be ten times
 * as large as those of another. */
static ka_status find_budgets(struct ka_bench *b) {
  struct ka_ctx *ctx = b->ctx;
  const struct ka_job_selection *s = &b->job.selection;
  bool needed = false;
  for (int64_t i = 0; i < b->n_chosen; i++) needed |= b->chosen[i]->budget;
  if (!needed) return KA_STATUS_OK;
  b->budget_key = s->params > 0 ? "selection.params" : "selection.fraction";
  if (s->params == 0 && s->fraction == 0)
    return ka_fail(
        ctx, KA_E_INPUT,
        "%s: methods are compared at equal numbers of parameters: give selection.fraction "
        "or selection.params instead of count or file",
        ka_job_place(&b->job, "selection"));
  if (b->o->budgets) return numbers(b, "budgets", b->o->budgets, ',', b->budgets, &b->n_budgets);
  b->budgets[b->n_budgets++] = s->params > 0 ? (double)s->params : s->fraction;
  return KA_STATUS_OK;
}

/* Strictly: a line that is lost is a model that is not compared. */
static ka_status read_also(struct ka_bench *b) {
  struct ka_ctx *ctx = b->ctx;
  struct ka_str text = {0};
  const char *file = b->o->also, *place;
  int64_t line = 1;
  if (!file) return KA_STATUS_OK;
  b->also = json_array();
  if (!b->also) return ka_fail(ctx, KA_E_MEMORY, "%s: out of memory", file);
  ka_status st = ka_read_file(ctx, file, 0, &text);
  for (const char *p = text.data; ka_ok(st) && p && *p; line++) {
    size_t n = strcspn(p, "\n");
    json_t *row = NULL;
    st = ka_arena_printf(&b->arena, &place, "%s:%lld", file, (long long)line);
    if (ka_ok(st) && strspn(p, " \t\r") < n) st = ka_json_parse(ctx, p, n, place, &row);
    if (row) st = ka_json_append(ctx, b->also, row);
    p += n + (p[n] == '\n');
  }
  ka_str_deinit(&text);
  return st;
}

static ka_status read_options(struct ka_bench *b) {
  struct ka_ctx *ctx = b->ctx;
  const struct ka_benchmark_options *o = b->o;
  KA_TRY(ka_job_load(ctx, &b->job, o->job, o->words, o->n_words));
  KA_TRY(ka_path_join(&b->arena, &b->prepared, b->job.output_dir, "prepared"));
  KA_TRY(find_methods(b));
  KA_TRY(read_also(b));
  KA_TRY(find_budgets(b));
  if (o->learning_rates) KA_TRY(read_rates(b, o->learning_rates));
  bool none = b->n_rates == 0;
  for (int i = -1; i <= 1 && none; i++) b->rates[b->n_rates++] = b->job.learning_rate * pow(3, i);
  if (o->n_seeds < 1 || o->n_draws < 1)
    return ka_fail(ctx, KA_E_USAGE, "--seeds, --draws: expected 1 or more");
  return KA_STATUS_OK;
}

/* --- the grid ---------------------------------------------------------------- */

/* KEY="PATH": a path may be anything, and the word's value is YAML. */
static ka_status quoted_word(struct ka_bench *b, const char *key, const char *path,
                             const char **out) {
  struct ka_str quoted = {0};
  ka_status st = ka_json_quote(b->ctx, &quoted, path, strlen(path));
  if (ka_ok(st)) st = ka_arena_printf(&b->arena, out, "%s=%s", key, quoted.data);
  ka_str_deinit(&quoted);
  return st;
}

static ka_status words_of(struct ka_bench *b, struct ka_bench_run *run,
                          const struct ka_bench_method *m) {
  struct ka_ctx *ctx = b->ctx;
  int64_t n = 0;
  const char **words;
  KA_TRY(KA_NEW(&b->arena, &words, b->o->n_words + MAX_WORDS, "words"));
  for (; n < b->o->n_words; n++) words[n] = b->o->words[n];
  words[n++] = "recipe=none"; /* a method says all of it */
  for (const char *p = m->words; *p;) {
    size_t len = strcspn(p, " ");
    KA_TRY(ka_arena_printf(&b->arena, &words[n++], "%.*s", (int)len, p));
    p += len + (p[len] == ' ');
  }
  if (m->budget)
    KA_TRY(ka_arena_printf(&b->arena, &words[n++], "%s=%.15g", b->budget_key, run->budget));
  if (strcmp(m->name, control) == 0)
    KA_TRY(ka_arena_printf(&b->arena, &words[n++], "selection.seed=%lld", (long long)run->draw));
  KA_TRY(ka_arena_printf(&b->arena, &words[n++], "learning_rate=%.15g", run->rate));
  KA_TRY(ka_arena_printf(&b->arena, &words[n++], "seed=%lld", (long long)run->seed));
  KA_TRY(ka_arena_printf(&b->arena, &words[n++], "save_model=false"));
  if (!ka_job_given(&b->job, "dataset_prepared_path")) {
    const char *word;
    KA_TRY(quoted_word(b, "dataset_prepared_path", b->prepared, &word));
    words[n++] = word;
  }
  KA_TRY(quoted_word(b, "output_dir", run->dir, &words[n++]));
  run->words = words;
  run->n_words = n;
  return KA_STATUS_OK;
}

static ka_status add_run(struct ka_bench *b, const struct ka_bench_method *m, double budget,
                         double rate, int64_t seed, int64_t draw) {
  struct ka_ctx *ctx = b->ctx;
  struct ka_bench_run *run = &b->runs[b->n++];
  char part[64] = "", drawn[32] = "";
  *run = (struct ka_bench_run){
      .method = m->name, .budget = budget, .rate = rate, .seed = seed, .draw = draw};
  if (m->budget) snprintf(part, sizeof part, "-%.15g", budget);
  if (strcmp(m->name, control) == 0) snprintf(drawn, sizeof drawn, "-draw-%lld", (long long)draw);
  KA_TRY(ka_arena_printf(&b->arena, &run->dir, "%s/runs/%s%s/lr-%.15g-seed-%lld%s",
                         b->job.output_dir, m->name, part, rate, (long long)seed, drawn));
  return words_of(b, run, m);
}

static ka_status rates_of(struct ka_bench *b, int64_t m, double *rates, int64_t *n) {
  if (b->own_rates[m]) return numbers(b, "learning-rates", b->own_rates[m], '/', rates, n);
  memcpy(rates, b->rates, sizeof b->rates);
  *n = b->n_rates;
  return KA_STATUS_OK;
}

/* Seeds outermost: an early reading compares all methods on few seeds. */
static ka_status make_grid(struct ka_bench *b) {
  struct ka_ctx *ctx = b->ctx;
  double rates[KA_BENCH_LIST], most = 0;
  int64_t n_rates;
  for (int64_t m = 0; m < b->n_chosen; m++) {
    KA_TRY(rates_of(b, m, rates, &n_rates));
    most += (double)(b->n_budgets + 1) * (double)n_rates * (double)b->o->n_seeds *
            (double)b->o->n_draws;
  }
  if (most > MAX_RUNS)
    return ka_fail(ctx, KA_E_USAGE,
                   "more than %d runs; fewer seeds, draws, budgets or rates, please", MAX_RUNS);
  KA_TRY(KA_NEW(&b->arena, &b->runs, (int64_t)most, "runs"));
  for (int64_t s = 0; s < b->o->n_seeds; s++)
    for (int64_t m = 0; m < b->n_chosen; m++) {
      const struct ka_bench_method *method = b->chosen[m];
      int64_t n_draws = strcmp(method->name, control) == 0 ? b->o->n_draws : 1;
      KA_TRY(rates_of(b, m, rates, &n_rates));
      for (int64_t k = 0; k < (method->budget ? b->n_budgets : 1); k++)
        for (int64_t l = 0; l < n_rates; l++)
          for (int64_t d = 1; d <= n_draws; d++)
            KA_TRY(add_run(b, method, method->budget ? b->budgets[k] : NAN, rates[l],
                           b->job.seed + s, d));
    }
  return KA_STATUS_OK;
}

/* The seconds that a report says. */
static ka_status took(struct ka_bench *b, const char *report, double *seconds) {
  json_t *root = NULL;
  ka_status st = ka_json_load(b->ctx, report, &root);
  double s = ka_json_number(json_object_get(root, "seconds"));
  *seconds = isnan(s) ? 0 : s;
  json_decref(root);
  return st;
}

/* Is it finished, is it another job's? */
static ka_status check_run(struct ka_bench *b, struct ka_bench_run *run) {
  struct ka_ctx *ctx = b->ctx;
  struct ka_job job;
  const char *report, *record;
  char reported[KA_IDENTITY_TEXT], recorded[KA_IDENTITY_TEXT];
  ka_status st = ka_job_load(ctx, &job, b->o->job, run->words, run->n_words);
  if (ka_ok(st)) st = ka_job_identity(ctx, &job, run->identity);
  ka_job_close(&job);
  KA_TRY(st);
  KA_TRY(ka_path_join(&b->arena, &report, run->dir, "report.json"));
  KA_TRY(ka_path_join(&b->arena, &record, run->dir, "job.json"));
  KA_TRY(ka_recorded_identity(ctx, report, reported));
  KA_TRY(ka_recorded_identity(ctx, record, recorded));
  run->done = strcmp(reported, run->identity) == 0;
  if (run->done) KA_TRY(took(b, report, &run->seconds));
  if (run->done) KA_TRY(ka_bench_sweep_run(ctx, run->dir));
  bool other = (*reported && !run->done) || (*recorded && strcmp(recorded, run->identity) != 0);
  if (!other) return KA_STATUS_OK;
  return ka_fail(
      ctx, KA_E_INPUT,
      "%s: holds a run with other keys, data or another kappa; choose another output_dir, "
      "or remove it",
      run->dir);
}

ka_status ka_bench_no_measures(struct ka_bench *b) {
  return ka_fail(
      b->ctx, KA_E_INPUT,
      "%s: learning and forgetting need measures of both: validation data, held_out with "
      "role: new or forgetting.new_tasks; held_out or forgetting.tasks",
      ka_job_place(&b->job, "held_out"));
}

/* Opens a run without training it: what is wrong with it shows before the first one starts. */
static ka_status try_run(struct ka_bench *b, struct ka_bench_run *run) {
  struct ka_ctx *ctx = b->ctx;
  struct ka_job job;
  struct ka_run r = {0};
  struct ka_run_memory memory;
  struct ka_run_options options = {.device = b->o->device, .plan = true};
  enum ka_log_level level = ctx->log_level;
  ka_status st = ka_job_load(ctx, &job, b->o->job, run->words, run->n_words);
  if (level == KA_LOG_INFO) ctx->log_level = KA_LOG_WARN;
  if (ka_ok(st)) {
    st = ka_run_open(ctx, &r, &job, &options);
    if (ka_ok(st) &&
        (ka_measures_count(&r.measures, true) == 0 || ka_measures_count(&r.measures, false) == 0))
      st = ka_bench_no_measures(b);
    if (ka_ok(st)) st = ka_run_measure(&r, &memory);
    if (ka_ok(st)) b->run_bytes = fmax(b->run_bytes, (double)memory.all_bytes);
    if (ka_ok(st)) st = ka_bench_estimate(b, &r, &run->seconds);
    ka_run_close(&r);
  }
  ctx->log_level = level;
  ka_job_close(&job);
  return st;
}

/* A run of the same method and budget that was opened already. */
static const struct ka_bench_run *tried_like(const struct ka_bench *b,
                                             const struct ka_bench_run *run) {
  for (int64_t i = 0; i < b->n; i++) {
    const struct ka_bench_run *x = &b->runs[i];
    bool same = x->budget == run->budget || (isnan(x->budget) && isnan(run->budget));
    if (x->tried && same && strcmp(x->method, run->method) == 0) return x;
  }
  return NULL;
}

/* A training run has its report and its runs/ under the same names. */
static ka_status own_directory(struct ka_bench *b) {
  struct ka_ctx *ctx = b->ctx;
  const char *log;
  KA_TRY(ka_path_join(&b->arena, &log, b->job.output_dir, "train_log.jsonl"));
  if (!ka_path_exists(log)) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_INPUT,
                 "%s: %s holds a trained model, whose report the comparison's would replace; give "
                 "it a directory of its own: output_dir=%s-methods",
                 ka_job_place(&b->job, "output_dir"), b->job.output_dir, b->job.output_dir);
}

static ka_status check_runs(struct ka_bench *b) {
  struct ka_ctx *ctx = b->ctx;
  const struct ka_bench_run *tried = NULL;
  int64_t n_done = 0;
  for (int64_t i = 0; i < b->n; i++) {
    KA_TRY(check_run(b, &b->runs[i]));
    n_done += b->runs[i].done;
  }
  for (int64_t i = 0; i < b->n && n_done < b->n; i++) {
    struct ka_bench_run *run = &b->runs[i];
    if (run->done) continue;
    tried = tried_like(b, run);
    if (tried)
      run->seconds = tried->seconds;
    else
      KA_TRY(b->backend->own_memory ? ka_bench_plan_apart(b, run) : try_run(b, run));
    run->tried = true;
  }
  return KA_STATUS_OK;
}

/* As many as cores and three quarters of the free memory allow; one where a device is shared. */
static int64_t parallel_of(const struct ka_bench *b, const struct ka_machine *m, bool own_memory) {
  double process_bytes = b->run_bytes + (256 << 20);
  double fit = m->free_bytes > 0 ? 0.75 * m->free_bytes / process_bytes : 1;
  if (b->o->n_parallel > 0) return b->o->n_parallel;
  if (own_memory || fit < 1) return 1;
  return fit < m->n_cores ? (int64_t)fit : m->n_cores;
}

/* Not opened: its memory is the runs'. */
static ka_status find_device(struct ka_bench *b) {
  const char *device = b->o->device ? b->o->device : ka_job_words_device[b->job.device];
  return ka_dev_find(b->ctx, device, &b->backend);
}

static ka_status execute(struct ka_bench *b) {
  struct ka_ctx *ctx = b->ctx;
  struct ka_machine m;
  ka_machine_read(&m);
  int64_t n = parallel_of(b, &m, b->backend->own_memory);
  int threads = n < m.n_cores ? m.n_cores / (int)n : 1;
  ka_bench_say_plan(b, n);
  if (b->o->plan) return KA_STATUS_OK;
  ka_info(ctx, "forget", "%lld at once, %d threads each", (long long)n, threads);
  struct ka_bench_execution how = {
      .job = b->o->job, .device = b->o->device, .n_parallel = n, .n_threads = threads};
  KA_TRY(ka_path_join(&b->arena, &how.base_measures, b->job.output_dir, "base.json"));
  return ka_bench_execute(ctx, &how, b->runs, b->n);
}

ka_status ka_benchmark(struct ka_ctx *ctx, const struct ka_benchmark_options *o, json_t **report) {
  struct ka_bench b = {.ctx = ctx, .o = o};
  ka_status st = KA_STATUS_OK;
  *report = NULL;
  ka_arena_init(&b.arena, ctx, "benchmark");
  KA_TRY_GOTO(read_options(&b), out);
  KA_TRY_GOTO(own_directory(&b), out);
  KA_TRY_GOTO(make_grid(&b), out);
  KA_TRY_GOTO(find_device(&b), out);
  KA_TRY_GOTO(check_runs(&b), out);
  KA_TRY_GOTO(execute(&b), out);
  if (!o->plan) KA_TRY_GOTO(ka_bench_report(&b, report), out);
out:
  ka_job_close(&b.job);
  json_decref(b.also);
  ka_arena_deinit(&b.arena);
  return st;
}
