/* SPDX-License-Identifier: Apache-2.0
 * Opening what a job names; see run.h. */
#include "engine/train/run.h"

#include "base/log.h"
#include "engine/dist/dist.h"
#include "engine/train/checkpoint.h"
#include "engine/train/fingerprint.h"
#include "engine/train/memory.h"
#include "engine/train/watch.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static ka_status check_output_dir(struct ka_run *r) {
  struct ka_ctx *ctx = r->ctx;
  const char *dir = r->job->output_dir, **names;
  int64_t n = 0;
  r->checkpoint_step = 0;
  if (ka_path_exists(dir) && !ka_path_is_dir(dir))
    return ka_fail(ctx, KA_E_INPUT, "%s: output_dir: %s is not a directory",
                   ka_job_place(r->job, "output_dir"), dir);
  if (!ka_path_is_dir(dir)) return KA_STATUS_OK;
  if (ka_path_same(dir, r->job->base_model))
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: output_dir: %s is the base model's own directory, which would be "
                   "overwritten; choose another",
                   ka_job_place(r->job, "output_dir"), dir);
  if (!r->options.resume) {
    KA_TRY(ka_list_dir(&r->arena, dir, &names, &n));
    if (n > 0 && !r->options.plan)
      return ka_fail(ctx, KA_E_INPUT,
                     "%s: output_dir: %s is not empty; continue with --resume, or choose another",
                     ka_job_place(r->job, "output_dir"), dir);
    return KA_STATUS_OK;
  }
  if (!r->options.plan && ctx->rank == 0) /* nothing changes from here on */
    KA_TRY(ka_lock_dir(ctx, dir, &r->lock));
  return ka_ckpt_newest(&r->arena, dir, &r->checkpoint, &r->checkpoint_step, &r->state);
}

enum ka_dtype ka_run_dtype(const struct ka_job *job, const struct ka_dev *dev) {
  if (job->bf16 == KA_BF16_AUTO) return dev->has_bf16 ? KA_BF16 : KA_F32;
  return job->bf16 == KA_BF16_TRUE ? KA_BF16 : KA_F32;
}

ka_status ka_run_configure_model(struct ka_run *r, const char *dir) {
  struct ka_ctx *ctx = r->ctx;
  const struct ka_job_anchor *a = &r->job->anchor;
  bool anchored = a->weight > 0 && a->kind != KA_ANCHOR_NONE;
  static_assert((int)KA_TOKEN_EAFT == KA_TARGETS_EAFT && (int)KA_TOKEN_DFT == KA_TARGETS_DFT &&
                    (int)KA_TOKEN_TALR == KA_TARGETS_TALR,
                "words in one order");
  r->open.model.token_weight = (enum ka_loss_weight)r->job->token_weight;
  if (r->has_speech) KA_TRY(ka_speech_open_job(&r->open.model, &r->speech, r->job));
  if (a->kind == KA_ANCHOR_KL && a->on != KA_ANCHOR_SELF)
    r->open.model.term_weight[KA_TERM_KL_TASK] = a->weight;
  if (a->kind == KA_ANCHOR_KL && a->on != KA_ANCHOR_TASK)
    r->open.model.term_weight[KA_TERM_KL_SELF] = a->weight;
  if (!anchored || strcmp(dir, r->job->base_model) == 0) return KA_STATUS_OK;
  return ka_model_set_base(&r->open.model, r->job->base_model);
}

ka_status ka_run_anchor_text(struct ka_run *r, const char **out) {
  const struct ka_job_anchor *a = &r->job->anchor;
  bool kl = a->kind == KA_ANCHOR_KL;
  *out = "none";
  if (a->kind == KA_ANCHOR_NONE || a->weight == 0) return KA_STATUS_OK;
  if (r->self.n > 0)
    return ka_arena_printf(
        &r->arena, out,
        "KL(base || tuned) on %srows that the base wrote itself (%lld beside %lld "
        "a step, from %s), weight %g",
        a->on == KA_ANCHOR_BOTH ? "the task's rows and on " : "", (long long)r->self.per_step,
        (long long)(r->job->micro_batch_size * r->loop.accumulation), r->self.start_name,
        a->weight);
  return ka_arena_printf(&r->arena, out, "%s, weight %g%s",
                         kl ? "KL(base || tuned)" : "decay towards the base's weights", a->weight,
                         a->by == KA_PULL_KAPPA ? " by kappa" : "");
}

ka_status ka_run_self_rows_spec(struct ka_run *r, struct ka_self_rows_spec *out) {
  const struct ka_job *job = r->job;
  *out = (struct ka_self_rows_spec){.share = job->anchor.share,
                                    .task_rows = job->micro_batch_size * r->loop.accumulation,
                                    .n_steps = r->loop.schedule.n_steps,
                                    .T = job->sequence_len,
                                    .micro_batch_size = job->micro_batch_size,
                                    .seed = (uint64_t)job->seed,
                                    .base_model = job->base_model,
                                    .cache_dir = job->dataset_prepared_path};
  if (out->cache_dir) return KA_STATUS_OK;
  return ka_cache_dir(&r->arena, &out->cache_dir);
}

/* Before the model has its memory, so that only one of the two is there. */
static ka_status open_self_rows(struct ka_run *r) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_self_rows_spec spec;
  if (r->open.model.term_weight[KA_TERM_KL_SELF] == 0) return KA_STATUS_OK;
  KA_TRY(ka_run_self_rows_spec(r, &spec));
  KA_TRY(ka_self_rows_init(ctx, &r->self, &spec, &r->open.model, r->open.tokenizer));
  if (r->options.plan) return KA_STATUS_OK;
  const json_t *same = json_object_get(r->fingerprint, "same");
  return ka_self_rows_draw(ctx, &r->self, &spec, &r->open.dev, r->open.model.compute,
                           json_object_get(same, "base_model"));
}

/* A directory without a tokenizer trains from tokenized data. */
static ka_status open_model(struct ka_run *r) {
  struct ka_ctx *ctx = r->ctx;
  const char *device = r->options.device ? r->options.device : ka_job_words_device[r->job->device];
  const char *dir = r->job->base_model;
  const json_t *run = json_object_get(r->state, "run");
  r->weights_from = json_string_value(json_object_get(run, "weights_from"));
  r->refreshed_at = json_integer_value(json_object_get(run, "refreshed_at"));
  if (r->weights_from) KA_TRY(ka_path_join(&r->arena, &dir, r->job->output_dir, r->weights_from));
  r->has_speech = ka_speech_wanted(r->job);
  if (r->job->projector.only && !r->has_speech)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: projector.only: no dataset is of type speech, so there is no projector",
                   ka_job_place(r->job, "projector.only"));
  if (r->has_speech) KA_TRY(ka_speech_of_job(ctx, &r->speech, r->job));
  KA_TRY(ka_session_open_dir(ctx, &r->open, dir, device));
  KA_TRY(ka_session_load(ctx, &r->open, ka_run_dtype(r->job, &r->open.dev), false));
  return ka_run_configure_model(r, dir);
}

static ka_status prepare_model(struct ka_run *r) {
  struct ka_ctx *ctx = r->ctx;
  int64_t positions = ka_measures_positions(&r->measures), T = r->job->sequence_len;
  r->open.model.max_position = positions > T ? positions : T;
  KA_TRY(ka_run_choose_memory(r));
  return ka_model_prepare(&r->open.model, r->job->micro_batch_size, r->job->sequence_len,
                          r->options.plan);
}

ka_status ka_run_select(struct ka_run *r, const char *file, int64_t step) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_train_shares shares, *wanted = file || !ka_train_shares_wanted(r->job) ? NULL : &shares;
  if (wanted)
    KA_TRY(ka_train_shares_measure(&r->arena, &shares, r->job, &r->open.model, &r->data.train));
  if (ctx->rank > 0) KA_TRY(ka_dist_barrier(ctx->dist, "the spectra")); /* then they are cached */
  KA_TRY(ka_train_select(ctx, &r->selection, &r->open.dev, r->job, &r->open.model, file, step,
                         wanted));
  return ctx->rank == 0 ? ka_dist_barrier(ctx->dist, "the spectra") : KA_STATUS_OK;
}

ka_status ka_run_take_selection(struct ka_run *r) {
  struct ka_ctx *ctx = r->ctx;
  KA_TRY(ka_model_train_parts(&r->open.model, r->selection.parts, r->selection.n_parts));
  KA_TRY(prepare_model(r));
  struct ka_optim_config config = ka_run_optim_config(r);
  r->has_optim = true;
  return ka_optim_init(ctx, &r->optim, &r->open.model, &config, r->options.plan);
}

static ka_status open_selection(struct ka_run *r) {
  struct ka_ctx *ctx = r->ctx;
  const char *file = NULL;
  if (r->checkpoint) KA_TRY(ka_path_join(&r->arena, &file, r->checkpoint, "selection.json"));
  KA_TRY(ka_run_select(r, file, 0));
  return ka_run_take_selection(r);
}

/* What the job asks for, before anything is written; a resumed run must be the same. */
static ka_status take_fingerprint(struct ka_run *r) {
  struct ka_ctx *ctx = r->ctx;
  if (r->options.plan && !r->checkpoint) return KA_STATUS_OK;
  KA_TRY(ka_fingerprint(ctx, r->job, &r->fingerprint));
  KA_TRY(ka_identity_of(ctx, r->fingerprint, r->identity));
  /* "auto" is not the same on every device */
  KA_TRY(ka_json_set(ctx, json_object_get(r->fingerprint, "same"), "bf16",
                     json_boolean(r->open.model.compute == KA_BF16)));
  if (r->has_speech) {
    char sound[KA_HASH_TEXT];
    ka_data_sound_hash(r->data.data, sound);
    KA_TRY(ka_json_set(ctx, json_object_get(r->fingerprint, "data"), "sound files",
                       json_string(sound)));
  }
  if (!r->checkpoint) return KA_STATUS_OK;
  const json_t *saved = json_object_get(json_object_get(r->state, "run"), "job");
  return ka_fingerprint_check(ctx, r->job, saved, r->fingerprint, r->checkpoint);
}

/* Micro-batches of a run in epochs, 0 for one in steps. */
static int64_t n_micro_of(const struct ka_run *r) {
  const struct ka_job *job = r->job;
  if (job->max_steps > 0) return 0;
  double micro = ceil(job->num_epochs * (double)r->data.train.n - 1e-9);
  return micro < 1 ? 1 : (int64_t)micro;
}

/* What is legal and hardly meant. */
static void warn(const struct ka_run *r) {
  const struct ka_schedule *s = &r->loop.schedule;
  int64_t T = ka_data_get_stats(r->data.data)->part[KA_DATA_TRAIN].longest_tok;
  int64_t positions = r->open.model.recipe.max_positions;
  if (s->warmup_steps >= s->n_steps && s->warmup_steps > 0)
    ka_warn(r->ctx, "train",
            "warm-up has %lld steps, the run %lld: the learning rate never reaches learning_rate%s",
            (long long)s->warmup_steps, (long long)s->n_steps,
            s->n_steps == 1 ? ", and in the only step it is 0, so nothing is trained" : "");
  if (positions > 0 && T > positions)
    ka_warn(r->ctx, "train",
            "rows of up to %lld tokens, but the model knows %lld positions "
            "(max_position_embeddings): what stands behind them is learned badly; set "
            "sequence_len: %lld",
            (long long)T, (long long)positions, (long long)positions);
}

/* So many times an epoch, as steps. */
static int64_t steps_between(const struct ka_run *r, int64_t per_epoch) {
  double steps = (double)r->data.train.n / (double)r->job->gradient_accumulation_steps;
  double n = round(steps / (double)per_epoch);
  return n < 1 ? 1 : (int64_t)n;
}

static ka_status fill_loop_config(struct ka_run *r) {
  const struct ka_job *job = r->job;
  struct ka_loop_config *c = &r->loop;
  struct ka_schedule *s = &c->schedule;
  s->kind = job->lr_scheduler;
  s->peak_lr = job->learning_rate;
  s->min_ratio = job->cosine_min_lr_ratio;
  c->accumulation = job->gradient_accumulation_steps;
  c->n_micro = n_micro_of(r);
  s->n_steps =
      c->n_micro > 0 ? (c->n_micro + c->accumulation - 1) / c->accumulation : job->max_steps;
  s->warmup_steps = job->warmup_ratio > 0 ? (int64_t)ceil(job->warmup_ratio * (double)s->n_steps)
                                          : job->warmup_steps;
  c->logging_steps = job->logging_steps;
  c->eval_steps =
      job->evals_per_epoch > 0 ? steps_between(r, job->evals_per_epoch) : job->eval_steps;
  c->save_steps =
      job->saves_per_epoch > 0 ? steps_between(r, job->saves_per_epoch) : job->save_steps;
  c->save_total_limit = job->save_total_limit;
  c->refresh_steps = job->selection.refresh_steps;
  if (job->selection.refresh_epochs > 0)
    c->refresh_steps =
        (int64_t)fmax(1, round((double)job->selection.refresh_epochs * (double)r->data.train.n /
                               (double)job->gradient_accumulation_steps));
  c->out_dir = job->output_dir;
  return ka_path_join(&r->arena, &c->selection_path, job->output_dir, "selection.json");
}

ka_status ka_run_open(struct ka_ctx *ctx, struct ka_run *r, const struct ka_job *job,
                      const struct ka_run_options *options) {
  memset(r, 0, sizeof *r);
  r->ctx = ctx;
  r->lock = -1;
  r->job = job;
  r->options = *options;
  ka_arena_init(&r->arena, ctx, "run");
  ka_arena_init(&r->selection.arena, ctx, "selection");
  ka_dist_set_timeout(ctx->dist, job->dist_timeout_s);
  KA_TRY(check_output_dir(r));
  KA_TRY(open_model(r));
  if (!r->has_speech) KA_TRY(take_fingerprint(r)); /* before the data: it is quickly seen */
  r->has_data = true;
  KA_TRY(ka_train_data_open(ctx, &r->data, job, &r->open, r->has_speech ? &r->speech : NULL));
  if (r->has_speech) KA_TRY(take_fingerprint(r));
  ka_data_round_lengths(r->data.data, ka_dev_round(&r->open.dev, 1, 0));
  KA_TRY(fill_loop_config(r));
  warn(r);
  KA_TRY(ka_watch_open(r));
  KA_TRY(open_self_rows(r));
  return open_selection(r);
}

void ka_run_close(struct ka_run *r) {
  if (r->has_optim) ka_optim_deinit(&r->optim);
  ka_measures_close(&r->measures);
  if (r->has_data) ka_train_data_close(&r->data);
  ka_train_selection_close(&r->selection);
  ka_self_rows_deinit(&r->self);
  ka_session_close(&r->open);
  if (r->lock >= 0) close(r->lock);
  json_decref(r->state);
  json_decref(r->fingerprint);
  ka_arena_deinit(&r->arena);
}
