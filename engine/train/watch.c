/* SPDX-License-Identifier: Apache-2.0
 * See watch.h. */
#include "engine/train/watch.h"

#include "base/log.h"
#include "engine/train/checkpoint.h"
#include "engine/train/divergence.h"
#include "engine/train/ranks.h"

#include <math.h>
#include <string.h>

static bool keeps_best(const struct ka_job *job) { return job->forgetting.keep == KA_KEEP_BEST; }

static ka_status check_keys(struct ka_run *r) {
  struct ka_ctx *ctx = r->ctx;
  const struct ka_job *job = r->job;
  if (job->forgetting.stop_when > 0 && ka_measures_count(&r->measures, false) == 0)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: forgetting.stop_when: nothing old is measured; name forgetting.tasks or "
                   "held_out texts",
                   ka_job_place(job, "forgetting.stop_when"));
  if (job->forgetting.stop_when_kl > 0 && !ka_train_divergence_any(r, true))
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: forgetting.stop_when_kl: no text of the new skill is measured; name "
                   "validation data or held_out texts with role: new",
                   ka_job_place(job, "forgetting.stop_when_kl"));
  if (!keeps_best(job)) return KA_STATUS_OK;
  if (ka_measures_count(&r->measures, true) == 0)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: forgetting.keep: best needs a measure of what is learned: validation data, "
                   "held_out texts with role: new, or forgetting.new_tasks",
                   ka_job_place(job, "forgetting.keep"));
  if (job->selection.refresh_steps > 0 || job->selection.refresh_epochs > 0)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: forgetting.keep: best and selection.refresh_steps exclude each other: the "
                   "best state may have trained other units than the last",
                   ka_job_place(job, "forgetting.keep"));
  return KA_STATUS_OK;
}

ka_status ka_watch_open(struct ka_run *r) {
  struct ka_ctx *ctx = r->ctx;
  const struct ka_job *job = r->job;
  const struct ka_job_forgetting *f = &job->forgetting;
  bool scheduled = f->tasks.n > 0 || f->new_tasks.n > 0 || f->stop_when > 0 ||
                   f->stop_when_kl > 0 || keeps_best(job) || ka_job_given(job, "forgetting.every");
  r->loop.watch_steps = scheduled ? f->every : 0;
  if (!scheduled && job->held_out.n == 0) return KA_STATUS_OK;
  struct ka_measures_spec spec = ka_measures_spec_of_job(job, r->data.validation.n > 0);
  KA_TRY(ka_measures_open(ctx, &r->measures, &spec, r->has_speech ? &r->speech : NULL,
                          r->open.tokenizer, r->open.model.recipe.max_positions));
  if (spec.validation)
    r->measures.items[0].n = ka_data_get_stats(r->data.data)->part[KA_DATA_VALIDATION].n_targets;
  return check_keys(r);
}

/* --- evaluations in "run" ---------------------------------------------------------- */

static json_t *evaluation(const json_t *extra_state, int64_t i) {
  return json_array_get(json_object_get(extra_state, "watch"), (size_t)i);
}

static int64_t n_evaluations(const json_t *extra_state) {
  return (int64_t)json_array_size(json_object_get(extra_state, "watch"));
}

static int64_t step_of(const json_t *extra_state, int64_t i) {
  return json_integer_value(json_object_get(evaluation(extra_state, i), "step"));
}

void ka_watch_values(const json_t *extra_state, int64_t i, double *out, int64_t n) {
  const json_t *values = json_object_get(evaluation(extra_state, i), "values");
  for (int64_t k = 0; k < n; k++) out[k] = json_number_value(json_array_get(values, (size_t)k));
}

int64_t ka_watch_kept(const json_t *extra_state) {
  const json_t *kept = json_object_get(extra_state, "kept_step");
  int64_t n = n_evaluations(extra_state);
  for (int64_t i = 0; i < n && json_is_integer(kept); i++)
    if (step_of(extra_state, i) == json_integer_value(kept)) return i;
  return n - 1;
}

/* What the measures are, for whoever reads the state, and how much they were measured on. */
static ka_status remember_measures(struct ka_run *r, json_t *extra_state) {
  struct ka_ctx *ctx = r->ctx;
  json_t *list = json_array();
  KA_TRY(ka_json_set(ctx, extra_state, "measures", list));
  for (int64_t i = 0; i < r->measures.n; i++)
    KA_TRY(ka_json_append(ctx, list, ka_measure_json(&r->measures.items[i])));
  return KA_STATUS_OK;
}

ka_status ka_watch_start(struct ka_run *r, json_t *extra_state) {
  struct ka_ctx *ctx = r->ctx;
  const json_t *saved = json_object_get(extra_state, "measures");
  bool same = saved ? (int64_t)json_array_size(saved) == r->measures.n
                    : r->measures.n == 0 || r->checkpoint_step == 0;
  for (int64_t i = 0; i < r->measures.n && same && saved; i++)
    same = ka_measure_recall(&r->measures.items[i], json_array_get(saved, (size_t)i));
  if (!same)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: the job does not continue this run: it measures other texts and tasks",
                   r->checkpoint);
  if (json_object_get(extra_state, "watch")) return KA_STATUS_OK;
  return ka_json_set(ctx, extra_state, "watch", json_array());
}

/* --- one evaluation ------------------------------------------------------------------ */

struct look {
  struct ka_eval_scores s;
  double kl_new; /* mean KL(base || tuned) of the new skill's texts; NaN: not measured */
};

/* The row without what the log's rows start with. */
static json_t *look_json(const struct look *x) {
  return json_pack("{s:o, s:o, s:o, s:o}", "learned", ka_json_real(x->s.learned), "forgot",
                   ka_json_real(x->s.forgot), "score", ka_json_real(x->s.score), "kl_new",
                   ka_json_real(x->kl_new));
}

static ka_status remember(struct ka_run *r, struct ka_loop *l, const double *values,
                          const struct look *x) {
  struct ka_ctx *ctx = r->ctx;
  json_t *eval = look_json(x);
  KA_TRY(ka_json_append(ctx, json_object_get(l->extra_state, "watch"), eval));
  KA_TRY(ka_json_set(ctx, eval, "step", json_integer((json_int_t)l->step)));
  return ka_json_set(ctx, eval, "values", ka_json_reals(values, r->measures.n));
}

static ka_status log_evaluation(struct ka_run *r, struct ka_loop *l, const double *values,
                                const struct look *x) {
  struct ka_ctx *ctx = r->ctx;
  const struct ka_eval_scores *s = &x->s;
  json_t *row = ka_loop_row(l), *scores = look_json(x), *measures = json_object();
  const char *tag;
  for (int64_t i = 0; i < r->measures.n; i++) {
    const struct ka_measure *m = &r->measures.items[i];
    json_object_set_new(measures, m->name, ka_json_real(values[i]));
    KA_TRY(ka_arena_printf(&r->arena, &tag, "%s/%s", m->is_new ? "learn" : "forget", m->name));
    KA_TRY(ka_tb_scalar(ctx, l->tensorboard, tag, l->step, values[i]));
  }
  json_object_update(row, scores);
  json_decref(scores);
  json_object_set_new(row, "measures", measures);
  json_object_set_new(row, "time_s", json_real(ka_loop_seconds(l)));
  KA_TRY(ka_jsonl_row(ctx, l->log, row));
  if (!isnan(s->learned))
    KA_TRY(ka_tb_scalar(ctx, l->tensorboard, "watch/learned", l->step, s->learned));
  if (!isnan(s->forgot))
    KA_TRY(ka_tb_scalar(ctx, l->tensorboard, "watch/forgot", l->step, s->forgot));
  if (!isnan(x->kl_new))
    KA_TRY(ka_tb_scalar(ctx, l->tensorboard, "watch/kl_new", l->step, x->kl_new));
  KA_TRY(ka_tb_scalar(ctx, l->tensorboard, "watch/score", l->step, s->score));
  return ka_tb_flush(ctx, l->tensorboard);
}

static void say(const struct ka_run *r, const struct ka_loop *l, const struct look *x) {
  char learned[40] = "", forgot[64] = "", kl[40] = "";
  const struct ka_eval_scores *s = &x->s;
  if (l->step == 0) return;
  if (!isnan(s->learned)) snprintf(learned, sizeof learned, "learned %+.2f %%", 100 * s->learned);
  if (!isnan(s->forgot)) ka_eval_forgot_text(s->forgot, forgot);
  if (!isnan(x->kl_new))
    snprintf(kl, sizeof kl, "%sKL %.4f", *learned || *forgot ? ", " : "", x->kl_new);
  ka_info(r->ctx, "train", "step %lld: %s%s%s%s", (long long)l->step, learned,
          *learned && *forgot ? ", " : "", forgot, kl);
}

static bool forgot_too_much(const struct ka_run *r, const struct look *x) {
  double bound = r->job->forgetting.stop_when;
  return bound > 0 && x->s.forgot > bound;
}

static bool went_too_far(const struct ka_run *r, const struct look *x) {
  double bound = r->job->forgetting.stop_when_kl;
  return bound > 0 && x->kl_new > bound;
}

/* Writes the state where it is the best so far. */
static ka_status keep(struct ka_run *r, struct ka_loop *l, const struct look *x) {
  struct ka_ctx *ctx = r->ctx;
  const struct ka_eval_scores *s = &x->s;
  const char *name;
  const json_t *best = json_object_get(l->extra_state, "best_score");
  if (!keeps_best(r->job) || l->step == 0) return KA_STATUS_OK;
  if (forgot_too_much(r, x) || went_too_far(r, x)) return KA_STATUS_OK;
  if (json_is_number(best) && !(s->score > json_number_value(best))) return KA_STATUS_OK;
  KA_TRY(ka_arena_printf(&r->arena, &name, "best-%lld", (long long)l->step));
  KA_TRY(ka_ckpt_write_slices(ctx, r->job->output_dir, name, l->optim));
  KA_TRY(ka_json_set(ctx, l->extra_state, "best", json_string(name)));
  KA_TRY(ka_json_set(ctx, l->extra_state, "best_step", json_integer((json_int_t)l->step)));
  KA_TRY(ka_json_set(ctx, l->extra_state, "best_score", ka_json_real(s->score)));
  return ka_ckpt_sweep_named(ctx, r->job->output_dir, "best-", "best", name);
}

const char *ka_watch_stopped_by(const json_t *extra_state) {
  const char *key = json_string_value(json_object_get(extra_state, "stopped_by"));
  return key ? key : "stop_when";
}

static ka_status stop(struct ka_run *r, struct ka_loop *l, const struct look *x) {
  struct ka_ctx *ctx = r->ctx;
  const struct ka_job_forgetting *f = &r->job->forgetting;
  bool forgot = forgot_too_much(r, x);
  if (l->step == 0 || !(forgot || went_too_far(r, x))) return KA_STATUS_OK;
  l->stopped = true;
  if (forgot)
    ka_info(ctx, "train", "step %lld: %.2f %% forgotten, more than stop_when: %g; the run ends",
            (long long)l->step, 100 * x->s.forgot, f->stop_when);
  else
    ka_info(ctx, "train",
            "step %lld: KL(base || tuned) is %.4f nats a token of the new task, more than "
            "stop_when_kl: %g; the run ends",
            (long long)l->step, x->kl_new, f->stop_when_kl);
  return ka_json_set(ctx, l->extra_state, "stopped_by",
                     json_string(forgot ? "stop_when" : "stop_when_kl"));
}

static void warn_of_unknown(struct ka_run *r, const double *base) {
  for (int64_t i = 0; i < r->measures.n; i++)
    if (isnan(ka_eval_gain(&r->measures.items[i], base[i], base[i])))
      ka_warn(r->ctx, "train", "%s: %s of the base is %g: no change can be told relative to it",
              r->measures.items[i].name, r->measures.items[i].metric, base[i]);
}

/* --- the base, measured once for many runs ------------------------------------ */

/* values from the file, where it is of this base and these measures; *found says so. */
static ka_status recall_base(struct ka_run *r, const char *identity, double *values, bool *found) {
  struct ka_ctx *ctx = r->ctx;
  const char *path = r->options.base_measures;
  json_t *root = NULL;
  *found = false;
  if (!ka_path_exists(path)) return KA_STATUS_OK;
  KA_TRY(ka_json_load(ctx, path, &root));
  const json_t *list = json_object_get(root, "values"), *items = json_object_get(root, "measures");
  const char *whose = json_string_value(json_object_get(root, "identity"));
  int64_t n = r->measures.n;
  bool same = whose && strcmp(whose, identity) == 0 && (int64_t)json_array_size(list) == n &&
              (int64_t)json_array_size(items) == n;
  for (int64_t i = 0; i < n && same; i++) {
    same = ka_measure_recall(&r->measures.items[i], json_array_get(items, (size_t)i));
    values[i] = ka_json_number(json_array_get(list, (size_t)i));
    same = same && !isnan(values[i]);
  }
  json_decref(root);
  *found = same;
  return KA_STATUS_OK;
}

static ka_status keep_base(struct ka_run *r, const char *identity, const double *values) {
  struct ka_ctx *ctx = r->ctx;
  json_t *list = json_array(), *items = json_array();
  json_t *root =
      json_pack("{s:s, s:o, s:o}", "identity", identity, "values", list, "measures", items);
  int failed = root == NULL;
  for (int64_t i = 0; i < r->measures.n && !failed; i++) {
    failed |= json_array_append_new(list, ka_json_real(values[i]));
    failed |= json_array_append_new(items, ka_measure_json(&r->measures.items[i]));
  }
  ka_status st = failed ? ka_fail(ctx, KA_E_MEMORY, "base measures: out of memory")
                        : ka_json_write(ctx, root, r->options.base_measures);
  json_decref(root);
  return st;
}

/* The validation loss is the loop's, always. */
static ka_status score(struct ka_run *r, struct ka_loop *l, double *values) {
  struct ka_ctx *ctx = r->ctx;
  bool shared = l->step == 0 && r->options.base_measures, found = false;
  char identity[KA_IDENTITY_TEXT] = "";
  if (shared) KA_TRY(ka_identity_of_measures(ctx, r->job, identity));
  if (shared) KA_TRY(recall_base(r, identity, values, &found));
  double missing = !found; /* on any rank: then all of them measure */
  if (shared) KA_TRY(ka_train_ranks_most(ctx, &missing, 1));
  found = found && missing == 0;
  if (found && r->measures.spec.validation) values[0] = l->last_eval_loss;
  if (found) return KA_STATUS_OK;
  KA_TRY(ka_measures_score(&r->measures, l->model, r->job->micro_batch_size, r->job->sequence_len,
                           l->last_eval_loss, values));
  return shared && ctx->rank == 0 ? keep_base(r, identity, values) : KA_STATUS_OK;
}

/* The base itself is not compared with itself. Without memory for both the run goes on, where
 * nothing depends on it. */
static ka_status distance(struct ka_run *r, const struct ka_loop *l, double *kl, double *kl_new) {
  struct ka_ctx *ctx = r->ctx;
  bool found = true;
  *kl_new = NAN;
  if (r->loop.watch_steps == 0 || !ka_train_divergence_any(r, true)) return KA_STATUS_OK;
  *kl_new = 0;
  if (l->step == 0) return KA_STATUS_OK;
  KA_TRY(ka_train_divergence(r, true, kl, &found));
  *kl_new = found ? ka_measures_mean_divergence(&r->measures, kl, true) : NAN;
  KA_TRY(ka_train_ranks_most(ctx, kl_new, 1)); /* all stop, or none */
  if (found || !(r->job->forgetting.stop_when_kl > 0)) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_MEMORY,
                 "%s: forgetting.stop_when_kl: no memory for the base beside the model",
                 ka_job_place(r->job, "forgetting.stop_when_kl"));
}

ka_status ka_watch_eval(void *run, struct ka_loop *l) {
  struct ka_run *r = run;
  struct ka_ctx *ctx = r->ctx;
  struct ka_measures *ms = &r->measures;
  void *mem;
  KA_TRY(ka_alloc_n(ctx, &mem, 3 * ms->n, sizeof(double), "measures"));
  double *values = mem, *base = values + ms->n;
  ka_status st = score(r, l, values);
  if (st.code == KA_E_CHECK && l->step == 0) /* nothing was trained: it is the base or the data */
    st.code = ctx->error.code = KA_E_INPUT;
  if (l->step == 0)
    memcpy(base, values, (size_t)ms->n * sizeof *base);
  else
    ka_watch_values(l->extra_state, 0, base, ms->n);
  struct look x = {0};
  if (ka_ok(st)) st = distance(r, l, base + ms->n, &x.kl_new);
  if (ka_ok(st)) x.s = ka_eval_scores_of(ms->items, ms->n, base, values, r->job->forgetting.weight);
  if (ka_ok(st) && l->step == 0) warn_of_unknown(r, base);
  if (ka_ok(st) && l->step == 0) st = remember_measures(r, l->extra_state);
  if (ka_ok(st)) st = remember(r, l, values, &x);
  if (ka_ok(st)) st = log_evaluation(r, l, values, &x);
  if (ka_ok(st)) st = keep(r, l, &x);
  if (ka_ok(st)) say(r, l, &x);
  if (ka_ok(st)) st = stop(r, l, &x);
  ka_free(mem);
  return st;
}

/* --- the end ----------------------------------------------------------------- */

ka_status ka_watch_finish(struct ka_run *r, struct ka_loop *l) {
  struct ka_ctx *ctx = r->ctx;
  const char *best = json_string_value(json_object_get(l->extra_state, "best")), *dir;
  const json_t *step = json_object_get(l->extra_state, "best_step");
  if (!keeps_best(r->job)) return KA_STATUS_OK;
  if (!best) {
    ka_warn(ctx, "train",
            "keep: best: no state was within stop_when and stop_when_kl; the output is the last "
            "one, of step %lld",
            (long long)l->step);
    return KA_STATUS_OK;
  }
  if (json_number_value(json_object_get(l->extra_state, "best_score")) < 0)
    ka_warn(ctx, "train", "keep: best: the best score is %.4f: by it the base itself is better",
            json_number_value(json_object_get(l->extra_state, "best_score")));
  ka_info(ctx, "train", "keep: best: the output is the state of step %lld",
          (long long)json_integer_value(step));
  if (json_object_set(l->extra_state, "kept_step", (json_t *)(uintptr_t)step) != 0)
    return ka_fail(ctx, KA_E_MEMORY, "best state: out of memory");
  if (json_integer_value(step) == l->step) return KA_STATUS_OK;
  KA_TRY(ka_path_join(&r->arena, &dir, r->job->output_dir, best));
  return ka_ckpt_load(ctx, dir, l->optim);
}
