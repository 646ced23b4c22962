/* SPDX-License-Identifier: Apache-2.0
 * See run_json.h. */
#include "engine/train/run_json.h"

#include "base/log.h"
#include "base/machine.h"
#include "engine/formats/hub.h"
#include "engine/report/card.h"
#include "engine/report/report.h"
#include "engine/train/divergence.h"
#include "engine/train/identity.h"
#include "engine/train/run_units.h"
#include "engine/train/watch.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { CURVE_POINTS = 400 }; /* of a curve, the last one always */

/* --- facts ------------------------------------------------------------------- */

ka_status ka_report_fact(struct ka_ctx *ctx, json_t *list, const char *name, const char *fmt, ...) {
  char buf[1024];
  va_list args;
  va_start(args, fmt);
  vsnprintf(buf, sizeof buf, fmt, args);
  va_end(args);
  return json_array_append_new(list, json_pack("[s, s]", name, buf)) == 0
             ? KA_STATUS_OK
             : ka_fail(ctx, KA_E_MEMORY, "report: out of memory (%s)", name);
}

ka_status ka_report_machine(struct ka_ctx *ctx, struct ka_dev *dev, json_t **out) {
  struct ka_machine m;
  char memory[32], text[256] = "";
  ka_machine_read(&m);
  *out = json_array();
  if (!*out) return ka_fail(ctx, KA_E_MEMORY, "report: out of memory");
  KA_TRY(ka_report_fact(ctx, *out, "processor", "%s", m.processor));
  KA_TRY(ka_report_fact(ctx, *out, "cores, threads", "%d, %d", m.n_cores, omp_get_max_threads()));
  KA_TRY(ka_report_fact(ctx, *out, "memory", "%s", ka_fmt_bytes(m.memory_bytes, memory)));
  if (!dev) return KA_STATUS_OK;
  if (dev->backend->describe) dev->backend->describe(dev, text, sizeof text);
  return ka_report_fact(ctx, *out, "device", "%s%s%s", dev->backend->name, *text ? ": " : "", text);
}

static ka_status list_paths(struct ka_arena *a, const char **names,
                            const struct ka_key_texts *paths) {
  struct ka_ctx *ctx = a->ctx;
  for (int64_t i = 0; i < paths->n; i++)
    KA_TRY(ka_arena_printf(a, names, "%s%s%s", *names, **names ? ", " : "", paths->items[i]));
  return KA_STATUS_OK;
}

ka_status ka_report_data(struct ka_arena *a, json_t *list, const struct ka_job *job) {
  struct ka_ctx *ctx = a->ctx;
  const char *data = "", *held_out = "";
  for (int64_t i = 0; i < job->datasets.n; i++) {
    const struct ka_job_dataset *d = &job->datasets.items[i];
    KA_TRY(list_paths(a, &data, &d->path));
    KA_TRY(ka_arena_printf(a, &data, "%s (%s)", data, ka_job_words_type[d->type]));
  }
  for (int64_t i = 0; i < job->held_out.n; i++)
    KA_TRY(list_paths(a, &held_out, &job->held_out.items[i].path));
  if (*data) KA_TRY(ka_report_fact(ctx, list, "data", "%s", data));
  return *held_out ? ka_report_fact(ctx, list, "held out", "%s", held_out) : KA_STATUS_OK;
}

ka_status ka_report_by(struct ka_ctx *ctx, json_t *list) {
  time_t now = time(NULL);
  struct tm day;
  char date[40] = "";
  if (gmtime_r(&now, &day)) strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", &day);
  return ka_report_fact(ctx, list, "by", "kappa %s, %s", KAPPA_VERSION, date);
}

static ka_status settings(struct ka_run *r, const struct ka_loop *loop, json_t *list) {
  struct ka_ctx *ctx = r->ctx;
  const char *anchor;
  const struct ka_job *job = r->job;
  char a[32], b[32], chosen[128];
  double trained = (double)ka_model_n_trained(&r->open.model),
         all = (double)ka_model_n_elems(&r->open.model);
  KA_TRY(ka_report_fact(ctx, list, "job", "%s", job->file.path));
  KA_TRY(ka_report_fact(ctx, list, "base model", "%s (%s)", job->base_model,
                        r->open.model.family->name));
  KA_TRY(ka_report_data(&r->arena, list, job));
  KA_TRY(ka_report_fact(ctx, list, "selection", "%s",
                        ka_selection_words(&r->selection.chosen, chosen)));
  KA_TRY(ka_report_fact(ctx, list, "trained parameters", "%s of %s (%.2f %%)",
                        ka_fmt_count(trained, a), ka_fmt_count(all, b), 100 * trained / all));
  KA_TRY(ka_report_fact(ctx, list, "steps", "%lld, %s tokens, %lld x %lld a micro-batch%s%s",
                        (long long)loop->step, ka_fmt_count((double)loop->n_tok, a),
                        (long long)job->micro_batch_size, (long long)job->sequence_len,
                        loop->stopped ? "; ended by forgetting." : "",
                        loop->stopped ? ka_watch_stopped_by(loop->extra_state) : ""));
  if (json_object_get(loop->extra_state, "kept_step"))
    KA_TRY(ka_report_fact(
        ctx, list, "kept", "the state of step %lld, the best by score",
        (long long)json_integer_value(json_object_get(loop->extra_state, "kept_step"))));
  KA_TRY(ka_report_fact(ctx, list, "AdamW",
                        "learning rate %g (%s), betas %g and %g, weight decay %g, clipped at %g",
                        job->learning_rate, ka_job_words_lr_scheduler[job->lr_scheduler],
                        job->adam_beta1, job->adam_beta2, job->weight_decay, job->max_grad_norm));
  KA_TRY(ka_run_anchor_text(r, &anchor));
  KA_TRY(ka_report_fact(ctx, list, "anchor", "%s", anchor));
  if (job->token_weight != KA_TARGETS_NONE)
    KA_TRY(ka_report_fact(ctx, list, "token weight", "%s",
                          ka_job_words_token_weight[job->token_weight]));
  if (job->recipe == KA_RECIPE_KEEP && r->self.n > 0)
    KA_TRY(ka_report_fact(ctx, list, "recipe",
                          "keep: before training the base wrote text of its own; every step went "
                          "over some of it, and there the model had to go on predicting what the "
                          "base does, so that learning the new need not cost the old"));
  KA_TRY(ka_report_fact(ctx, list, "computed in", "%s", ka_dtype_name(r->open.model.compute)));
  KA_TRY(ka_report_fact(ctx, list, "took",
                        "%s, %s tokens a second in training, peak memory %.0f MiB",
                        ka_fmt_duration(ka_loop_seconds(loop), a),
                        ka_fmt_count(ka_loop_rate(loop), b), ka_machine_peak() / (1 << 20)));
  KA_TRY(ka_report_by(ctx, list));
  return ka_report_fact(ctx, list, "seed", "%lld", (long long)job->seed);
}

/* --- curves ------------------------------------------------------------------ */

/* [[step, value]] of the log's rows that have the number, thinned evenly. */
static ka_status curve(struct ka_ctx *ctx, const json_t *log, const char *key, json_t *curves) {
  json_t *points = json_array(), *row;
  size_t i, n = 0, k = 0;
  json_array_foreach(log, i, row) n += json_is_number(json_object_get(row, key));
  size_t every = (n + CURVE_POINTS - 1) / CURVE_POINTS;
  json_array_foreach(log, i, row) {
    json_t *v = json_object_get(row, key), *step = json_object_get(row, "step");
    if (!json_is_number(v) || !json_is_number(step)) continue;
    if (k % every == 0 || k == n - 1) json_array_append_new(points, json_pack("[O, O]", step, v));
    k++;
  }
  if (json_array_size(points) > 0) return ka_json_set(ctx, curves, key, points);
  json_decref(points);
  return KA_STATUS_OK;
}

static ka_status curves(struct ka_run *r, const struct ka_loop *loop, json_t *root) {
  struct ka_ctx *ctx = r->ctx;
  static const char *const keys[] = {"loss",    "eval_loss", "kl",         "kl_self",  "kl_new",
                                     "learned", "forgot",    "router_max", "router_cv"};
  json_t *log = NULL, *out = json_object();
  ka_status st = ka_jsonl_read(ctx, loop->log->path, &log);
  for (size_t i = 0; i < sizeof keys / sizeof *keys && ka_ok(st); i++)
    st = curve(ctx, log, keys[i], out);
  json_decref(log);
  ka_status kept = ka_json_set(ctx, root, "curves", out);
  return ka_ok(st) ? kept : st;
}

/* --- measures ---------------------------------------------------------------- */

static ka_status measures(struct ka_run *r, const struct ka_loop *loop, json_t *root) {
  struct ka_ctx *ctx = r->ctx;
  int64_t n = r->measures.n, n_stages = ka_watch_kept(loop->extra_state) + 1;
  void *mem;
  bool found; /* or the report does without */
  if (n == 0 || n_stages < 1) return KA_STATUS_OK;
  KA_TRY(ka_arena_alloc_n(&r->arena, &mem, (n_stages + 1) * n, sizeof(double), "measures"));
  double *stages = mem, *kl = stages + n_stages * n;
  for (int64_t i = 0; i < n_stages; i++) ka_watch_values(loop->extra_state, i, stages + i * n, n);
  KA_TRY(ka_train_divergence(r, false, kl, &found));
  KA_TRY(ka_measures_report(&r->measures, stages, n_stages, kl, r->job->forgetting.weight, root));
  ka_measures_print(&r->measures, stages, stages + (n_stages - 1) * n);
  return KA_STATUS_OK;
}

/* --- all of it --------------------------------------------------------------- */

/* Tokens through the base: of its passes beside the model's, and those that it wrote, in this run
 * or another one that left them in the cache. */
static int64_t base_tokens(const struct ka_run *r, const struct ka_loop *loop) {
  bool task = r->open.model.term_weight[KA_TERM_KL_TASK] > 0;
  return (task ? loop->n_tok : 0) + loop->n_tok_self + r->self.n * r->self.T;
}

static ka_status head(struct ka_run *r, const struct ka_loop *loop, json_t *root) {
  struct ka_ctx *ctx = r->ctx;
  const struct ka_selection *s = &r->selection.chosen;
  KA_TRY(ka_json_set(ctx, root, "kappa", json_string(KAPPA_VERSION)));
  KA_TRY(ka_json_set(ctx, root, "kind", json_string("run")));
  KA_TRY(ka_json_set(ctx, root, "identity", json_string(r->identity)));
  KA_TRY(ka_json_set(ctx, root, "title", json_string(ka_path_base(r->job->file.path))));
  KA_TRY(ka_json_set(ctx, root, "subtitle", json_string(r->job->output_dir)));
  KA_TRY(
      ka_json_set(ctx, root, "params", json_integer((json_int_t)ka_model_n_elems(&r->open.model))));
  KA_TRY(ka_json_set(ctx, root, "trained_params",
                     json_integer((json_int_t)ka_model_n_trained(&r->open.model))));
  KA_TRY(ka_json_set(ctx, root, "metric", json_string(s->metric ? s->metric : "file")));
  KA_TRY(ka_json_set(ctx, root, "learning_rate", json_real(r->job->learning_rate)));
  KA_TRY(ka_json_set(ctx, root, "seed", json_integer((json_int_t)r->job->seed)));
  KA_TRY(ka_json_set(ctx, root, "steps", json_integer((json_int_t)loop->step)));
  KA_TRY(ka_json_set(ctx, root, "stopped", json_boolean(loop->stopped)));
  KA_TRY(ka_json_set(ctx, root, "tokens", json_integer((json_int_t)loop->n_tok)));
  KA_TRY(ka_json_set(ctx, root, "base_tokens", json_integer((json_int_t)base_tokens(r, loop))));
  KA_TRY(ka_json_set(ctx, root, "tokens_per_second", json_real(ka_loop_rate(loop))));
  KA_TRY(ka_json_set(ctx, root, "peak_bytes", json_real(ka_machine_peak())));
  return ka_json_set(ctx, root, "seconds", json_real(ka_loop_seconds(loop)));
}

static ka_status fill(struct ka_run *r, const struct ka_loop *loop, const json_t *kappa,
                      json_t *root) {
  struct ka_ctx *ctx = r->ctx;
  json_t *facts = json_array(), *machine, *units;
  KA_TRY(ka_json_set(ctx, root, "settings", facts));
  KA_TRY(measures(r, loop, root)); /* before what it all took is told */
  KA_TRY(head(r, loop, root));
  KA_TRY(settings(r, loop, facts));
  KA_TRY(curves(r, loop, root));
  KA_TRY(ka_run_units(r, json_object_get(loop->extra_state, "kappa_before"), kappa, &units));
  KA_TRY(ka_json_set(ctx, root, "units", units));
  KA_TRY(ka_train_experts_report(&loop->experts, root));
  KA_TRY(ka_report_machine(ctx, &r->open.dev, &machine));
  KA_TRY(ka_json_set(ctx, root, "machine", machine));
  json_t *commands = json_array();
  if (r->options.command) json_array_append_new(commands, json_string(r->options.command));
  return ka_json_set(ctx, root, "commands", commands);
}

/* The model card; names of the Hub where the job's paths lie in its cache. */
static ka_status card(struct ka_run *r, const json_t *root) {
  struct ka_ctx *ctx = r->ctx;
  const struct ka_job *job = r->job;
  struct ka_report_card c = {.dir = job->output_dir, .base_dir = job->base_model};
  const char **names;
  KA_TRY(KA_NEW(&r->arena, &names, job->datasets.n, "model card"));
  c.datasets = names;
  KA_TRY(ka_hub_name(&r->arena, KA_HUB_MODEL, job->base_model, &c.base));
  for (int64_t i = 0; i < job->datasets.n; i++) {
    const struct ka_key_texts *paths = &job->datasets.items[i].path;
    const char *name = NULL;
    if (paths->n > 0) KA_TRY(ka_hub_name(&r->arena, KA_HUB_DATASET, paths->items[0], &name));
    if (name) names[c.n_datasets++] = name;
  }
  return ka_report_card_write(ctx, root, &c);
}

ka_status ka_run_report(struct ka_run *r, const struct ka_loop *loop, const json_t *kappa) {
  json_t *root = json_object();
  if (!root) return ka_fail(r->ctx, KA_E_MEMORY, "report: out of memory");
  ka_status st = fill(r, loop, kappa, root);
  if (ka_ok(st)) st = card(r, root);
  if (ka_ok(st)) st = ka_report_write(r->ctx, root, r->job->output_dir);
  json_decref(root);
  return st;
}
