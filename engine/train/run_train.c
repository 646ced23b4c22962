/* SPDX-License-Identifier: Apache-2.0
 * The training of an open run; see run.h. What happened before the first step and must be known at
 * the end (losses and kappa of the untrained model) travels in the checkpoints as "run". */
#include "base/log.h"
#include "base/machine.h"
#include "engine/dist/dist.h"
#include "engine/train/checkpoint.h"
#include "engine/train/gather.h"
#include "engine/train/identity.h"
#include "engine/train/output.h"
#include "engine/train/ranks.h"
#include "engine/train/refresh.h"
#include "engine/train/run_json.h"
#include "engine/train/trainer_state.h"
#include "engine/train/watch.h"

#include <stdio.h>
#include <string.h>

static ka_status kappa_json(struct ka_run *r, bool after, json_t **out) {
  struct ka_ctx *ctx = r->ctx;
  *out = json_object();
  if (!*out) return ka_fail(ctx, KA_E_MEMORY, "kappa: out of memory");
  return ctx->rank == 0 ? ka_train_refresh_kappa(r, after, *out) : KA_STATUS_OK;
}

/* "run" of a fresh run: what the untrained model is. */
static ka_status begin_extra_state(struct ka_run *r, json_t **extra_state) {
  struct ka_ctx *ctx = r->ctx;
  json_t *kappa = NULL;
  ka_status st = kappa_json(r, false, &kappa);
  if (ka_ok(st)) {
    *extra_state = json_pack("{s:O, s:O}", "job", r->fingerprint, "kappa_before", kappa);
    if (!*extra_state) st = ka_fail(ctx, KA_E_MEMORY, "run: out of memory");
  }
  json_decref(kappa);
  return st;
}

static ka_status extra_state_of(struct ka_run *r, json_t **extra_state) {
  struct ka_ctx *ctx = r->ctx;
  if (!r->checkpoint) return begin_extra_state(r, extra_state);
  json_t *saved = json_object_get(r->state, "run");
  if (!json_is_object(saved))
    return ka_fail(ctx, KA_E_INPUT, "%s/state.json: \"run\" is missing", r->checkpoint);
  *extra_state = json_deep_copy(saved);
  return ka_json_set(ctx, *extra_state, "job", json_incref(r->fingerprint));
}

static ka_status prepare_output(struct ka_run *r) {
  struct ka_ctx *ctx = r->ctx;
  KA_TRY(ka_run_agree(r));
  if (ctx->rank > 0) return KA_STATUS_OK;
  KA_TRY(ka_make_dirs(ctx, r->job->output_dir));
  if (r->lock < 0) KA_TRY(ka_lock_dir(ctx, r->job->output_dir, &r->lock));
  const char *path;
  KA_TRY(ka_ckpt_sweep(ctx, r->job->output_dir, r->checkpoint_step, r->job->save_total_limit));
  KA_TRY(ka_path_join(&r->arena, &path, r->job->output_dir, "job.json"));
  KA_TRY(ka_job_record(ctx, r->job, r->identity, path));
  return ka_selection_write(ctx, &r->selection.chosen, r->loop.selection_path);
}

static bool reports_to(const struct ka_job *job, const char *what) {
  for (int64_t i = 0; i < job->report_to.n; i++)
    if (strcmp(job->report_to.items[i], what) == 0) return true;
  return false;
}

static ka_status open_logs(struct ka_run *r, struct ka_jsonl *log, struct ka_tensorboard *tb) {
  struct ka_ctx *ctx = r->ctx;
  const char *path, *dir;
  if (ctx->rank > 0) return KA_STATUS_OK;
  int64_t keep = r->checkpoint ? r->checkpoint_step : -1;
  KA_TRY(ka_path_join(&r->arena, &path, r->job->output_dir, "train_log.jsonl"));
  KA_TRY(ka_jsonl_open(ctx, log, path, keep));
  if (!reports_to(r->job, "tensorboard")) return KA_STATUS_OK;
  KA_TRY(ka_path_join(&r->arena, &dir, r->job->output_dir, "runs"));
  return ka_tb_open(ctx, tb, dir, r->options.resume ? keep + 1 : -1);
}

static void say_start(const struct ka_run *r) {
  char trained[32], all[32];
  double n = (double)ka_model_n_trained(&r->open.model),
         n_all = (double)ka_model_n_elems(&r->open.model);
  ka_info(r->ctx, "train", "%lld units, %s of %s parameters (%.1f %%), %s, %lld steps",
          (long long)r->selection.chosen.n_units, ka_fmt_count(n, trained),
          ka_fmt_count(n_all, all), 100 * n / n_all, ka_dtype_name(r->open.model.compute),
          (long long)r->loop.schedule.n_steps);
  if (r->checkpoint)
    ka_info(r->ctx, "train", "resumes %s", r->checkpoint);
  else if (r->options.resume)
    ka_info(r->ctx, "train", "%s has no checkpoint: starts from the beginning", r->job->output_dir);
}

/* The last line of a run, and the same for programs. */
static ka_status say_end(struct ka_run *r, const struct ka_loop *loop) {
  struct ka_ctx *ctx = r->ctx;
  char time[32], tokens[32], speed[32];
  double peak = ka_machine_peak(), seconds = ka_loop_seconds(loop), rate = ka_loop_rate(loop);
  ka_info(ctx, "train",
          "done: %lld steps, %s in %s, %s tokens, %s tok/s in training, peak memory %.0f MiB",
          (long long)loop->step, r->job->output_dir, ka_fmt_duration(seconds, time),
          ka_fmt_count((double)loop->n_tok, tokens), ka_fmt_count(rate, speed), peak / (1 << 20));
  if (!r->options.json) return KA_STATUS_OK;
  struct ka_dist_stats stats = ka_dist_stats(ctx->dist);
  json_t *root =
      json_pack("{s:s, s:I, s:b, s:I, s:I, s:f, s:f, s:f, s:o, s:i, s:I, s:f}", "output_dir",
                r->job->output_dir, "steps", (json_int_t)loop->step, "stopped", loop->stopped,
                "tokens", (json_int_t)loop->n_tok, "tokens_padded", (json_int_t)loop->n_tok_padded,
                "seconds", seconds, "tok_per_s", rate, "peak_bytes", peak, "eval_loss",
                ka_json_real(loop->last_eval_loss), "ranks", ka_dist_n(ctx->dist), "sent_bytes",
                (json_int_t)stats.sent_bytes, "waited_s", stats.waited_s);
  if (!root) return ka_fail(ctx, KA_E_MEMORY, "result of the run: out of memory");
  ka_status st = ka_json_write(ctx, root, r->options.json);
  json_decref(root);
  return st;
}

static ka_status save_model(struct ka_run *r) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_progress bar;
  double n_bytes = 0;
  for (int64_t i = 0; i < r->open.model.files.n_shards; i++)
    n_bytes += (double)r->open.model.files.shards[i].map.len;
  ka_info(ctx, "train", "saving the model to %s", r->job->output_dir);
  ka_progress_begin_bytes(ctx, &bar, "saving", n_bytes);
  ka_status st = ka_train_output_write(ctx, &r->optim, r->job->base_model, r->job->output_dir);
  ka_progress_end(&bar);
  const char *eos = r->job->eos_token;
  const struct ka_tokenizer *t = r->open.tokenizer;
  int64_t id = eos && t ? ka_tokenizer_token_id(t, eos, strlen(eos)) : -1;
  if (ka_ok(st) && id >= 0) st = ka_model_dir_set_eos(ctx, r->job->output_dir, eos, id);
  return st;
}

static ka_status finish(struct ka_run *r, struct ka_loop *loop) {
  struct ka_ctx *ctx = r->ctx;
  json_t *kappa = NULL;
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_watch_finish(r, loop), out);
  if (ctx->rank > 0) return ka_optim_serve(&r->optim); /* rank 0 writes for all */
  ka_info(ctx, "train", "spectra of the %lld trained units as they are now",
          (long long)r->selection.chosen.n_units);
  KA_TRY_GOTO(kappa_json(r, true, &kappa), out);
  if (r->job->save_model) KA_TRY_GOTO(save_model(r), out);
  if (r->has_speech && r->job->save_model)
    KA_TRY_GOTO(ka_speech_write(ctx, &r->speech, r->job->output_dir), out);
  KA_TRY_GOTO(ka_trainer_state_write(r, loop), out);
  ka_optim_ask_layers(&r->optim);
  KA_TRY_GOTO(ka_run_report(r, loop, kappa), out);
  KA_TRY_GOTO(ka_optim_serve(&r->optim), out);
  ka_info(ctx, "train", "%s is ready%s", r->job->output_dir,
          r->job->save_model ? ": it loads in transformers as it is" : "; save_model is false");
  KA_TRY_GOTO(say_end(r, loop), out);
out:
  json_decref(kappa);
  return st;
}

/* The loop, and a new selection wherever it is due: also right after a resume, when the run was
 * stopped between the step and the selection. */
static ka_status run_loop(struct ka_run *r, struct ka_loop *loop) {
  struct ka_ctx *ctx = r->ctx;
  for (;;) {
    if (ka_train_refresh_due(r, loop->step) && !loop->stopped) {
      KA_TRY(ka_train_refresh(r, loop));
      KA_TRY(ka_loop_save(loop));
      KA_TRY(ka_train_refresh_sweep(r));
    }
    KA_TRY(ka_loop_run(loop));
    if (ka_loop_done(loop)) return ka_train_refresh_sweep(r);
  }
}

/* A signal ends all ranks after the same step; what looks for one itself must not see it sooner. */
static ka_status run_together(struct ka_run *r, struct ka_loop *loop) {
  struct ka_ctx *ctx = r->ctx;
  if (ka_dist_n(ctx->dist) > 1) ctx->interrupted = NULL;
  ka_status st = run_loop(r, loop);
  ctx->interrupted = loop->signal;
  return st;
}

ka_status ka_run_train(struct ka_run *r) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_jsonl log = {0};
  struct ka_tensorboard tb = {0};
  struct ka_loop loop = {.ctx = ctx,
                         .config = r->loop,
                         .model = &r->open.model,
                         .optim = &r->optim,
                         .train = r->data.train,
                         .validation = r->data.validation,
                         .self = ka_self_rows_source(&r->self),
                         .log = &log,
                         .tensorboard = &tb,
                         .watch = r->measures.n > 0 ? ka_watch_eval : NULL,
                         .watch_user = r,
                         .signal = ctx->interrupted};
  json_t *extra_state = NULL;
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(prepare_output(r), out);
  say_start(r);
  KA_TRY_GOTO(extra_state_of(r, &extra_state), out);
  KA_TRY_GOTO(ka_watch_start(r, extra_state), out);
  loop.extra_state = extra_state;
  KA_TRY_GOTO(ka_train_experts_open(&r->arena, &loop.experts, &r->open.model), out);
  KA_TRY_GOTO(open_logs(r, &log, &tb), out);
  KA_TRY_GOTO(ka_loop_start(&loop, r->checkpoint, r->state), out);
  KA_TRY_GOTO(run_together(r, &loop), out);
  KA_TRY_GOTO(finish(r, &loop), out);
out:
  ka_jsonl_close(&log);
  ka_tb_close(&tb);
  json_decref(extra_state);
  return st;
}
