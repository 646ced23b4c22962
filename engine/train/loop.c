/* SPDX-License-Identifier: Apache-2.0
 * The training loop; see loop.h. A step's order is: update, log row, validation, checkpoint, so a
 * checkpoint always has every row up to its step. */
#include "engine/train/loop.h"

#include "base/log.h"
#include "engine/dist/dist.h"
#include "engine/train/checkpoint.h"
#include "engine/train/ranks.h"

#include <math.h>
#include <stdio.h>

static bool due(int64_t step, int64_t every, int64_t n_steps) {
  return step == n_steps || (every > 0 && step % every == 0);
}

int64_t ka_loop_n_micro(const struct ka_loop_config *c) {
  return c->n_micro > 0 ? c->n_micro : c->schedule.n_steps * c->accumulation;
}

/* Micro-batches seen after `step` steps. */
static int64_t micro_after(const struct ka_loop *l, int64_t step) {
  int64_t n = step * l->config.accumulation, all = ka_loop_n_micro(&l->config);
  return n < all ? n : all;
}

/* The loss is normalised over the whole step's targets, so they are counted before its first
 * gradient, which may have happened already. */
static ka_status count_targets(struct ka_loop *l, int64_t step, int64_t *n_targets) {
  struct ka_ctx *ctx = l->ctx;
  int64_t n = 0;
  if (l->counted_step != step + 1) {
    for (int64_t i = micro_after(l, step); i < micro_after(l, step + 1); i++) {
      struct ka_batch batch;
      KA_TRY(l->train.get(l->train.user, i, &batch));
      n += batch.n_targets;
    }
    l->counted_step = step + 1;
    l->counted_targets = n;
  }
  *n_targets = l->counted_targets;
  return KA_STATUS_OK;
}

/* The last micro-batch of the step that this rank computes; -1: none. */
static ka_status last_own(struct ka_loop *l, int64_t *last) {
  struct ka_ctx *ctx = l->ctx;
  *last = -1;
  for (int64_t i = micro_after(l, l->step + 1) - 1; i >= micro_after(l, l->step); i--) {
    struct ka_batch batch;
    if (*last >= 0 || !ka_train_ranks_mine(ctx, i)) continue;
    KA_TRY(l->train.get(l->train.user, i, &batch));
    if (batch.n_targets > 0) *last = i;
  }
  return KA_STATUS_OK;
}

static ka_status accumulate(struct ka_loop *l, int64_t n_targets) {
  struct ka_ctx *ctx = l->ctx;
  int64_t last = -1;
  if (ka_dist_n(ctx->dist) > 1) KA_TRY(last_own(l, &last));
  KA_TRY(ka_model_zero_grad(l->model));
  for (int64_t i = micro_after(l, l->step); i < micro_after(l, l->step + 1); i++) {
    struct ka_batch batch;
    if (i == last) ka_train_ranks_last(l->model);
    KA_TRY(l->train.get(l->train.user, i, &batch));
    l->n_tok += batch.n_tok > 0 ? batch.n_tok : batch.B * batch.T;
    l->n_tok_padded += batch.B * batch.T;
    if (batch.n_targets == 0 || !ka_train_ranks_mine(ctx, i)) continue;
    KA_TRY(ka_model_grad(l->model, &batch, 1.0 / (double)n_targets, NULL));
  }
  return ka_train_ranks_sum_gradients(l->model);
}

static ka_status check_finite(struct ka_loop *l, const struct ka_loop_step *s, double lr) {
  const struct {
    const char *what;
    double value;
  } values[] = {{"the loss", s->loss / (double)s->n_targets},
                {"the divergence from the base", s->kl / (double)s->n_targets},
                {"the gradient norm", s->norm}};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++)
    if (!isfinite(values[i].value))
      return ka_fail(l->ctx, KA_E_CHECK,
                     "step %lld: %s is %g (learning rate %g); the run stops before the update, "
                     "earlier checkpoints are intact; lower learning_rate or check the data",
                     (long long)l->step + 1, values[i].what, values[i].value, lr);
  return KA_STATUS_OK;
}

/* The device works while the next step's data is read. */
static ka_status update(struct ka_loop *l, double lr, struct ka_loop_step *out) {
  struct ka_ctx *ctx = l->ctx;
  struct ka_step_stats stats;
  int64_t next = 0;
  KA_TRY(ka_optim_step(l->optim, lr));
  if (l->step + 1 < l->config.schedule.n_steps) KA_TRY(count_targets(l, l->step + 1, &next));
  KA_TRY(ka_model_step_stats(l->model, &stats));
  out->loss = stats.loss;
  out->kl = stats.kl;
  out->norm = sqrt(stats.grad_sumsq);
  return KA_STATUS_OK;
}

ka_status ka_loop_step(struct ka_loop *l, struct ka_loop_step *out) {
  struct ka_ctx *ctx = l->ctx;
  double lr = ka_schedule_lr(&l->config.schedule, l->step + 1);
  *out = (struct ka_loop_step){0};
  KA_TRY(count_targets(l, l->step, &out->n_targets));
  if (out->n_targets == 0) {
    ka_warn(ctx, "train", "step %lld has no trained target in it; no update",
            (long long)l->step + 1);
  } else {
    KA_TRY(accumulate(l, out->n_targets));
    KA_TRY(update(l, lr, out));
    KA_TRY(check_finite(l, out, lr));
  }
  l->step++;
  return KA_STATUS_OK;
}

/* losses [n]: of the micro-batches of this rank, 0 of the others; then summed over ranks and, in one
 * order whatever their number, over micro-batches. */
static ka_status source_losses(struct ka_model *m, const struct ka_train_batch_source *source,
                               double *losses, int64_t *n_targets) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_progress bar;
  ka_status st = KA_STATUS_OK;
  ka_progress_begin(ctx, &bar, "validation", 0, source->n);
  for (int64_t i = 0; i < source->n; i++) {
    struct ka_batch batch;
    losses[i] = 0;
    ka_progress_update(&bar, i, "");
    KA_TRY_GOTO(source->get(source->user, i, &batch), out);
    *n_targets += batch.n_targets;
    if (batch.n_targets > 0 && ka_train_ranks_mine(ctx, i))
      KA_TRY_GOTO(ka_model_eval(m, &batch, &losses[i], NULL), out);
  }
  st = ka_dist_sum(ctx->dist, "the validation loss", losses, source->n);
out:
  ka_progress_end(&bar);
  return st;
}

ka_status ka_train_source_loss(struct ka_model *m, const struct ka_train_batch_source *source,
                               double *loss, int64_t *n_targets) {
  struct ka_ctx *ctx = m->ctx;
  void *memory;
  double sum = 0;
  *n_targets = 0;
  KA_TRY(ka_alloc_n(ctx, &memory, source->n, sizeof(double), "validation losses"));
  double *losses = memory;
  ka_status st = source_losses(m, source, losses, n_targets);
  for (int64_t i = 0; ka_ok(st) && i < source->n; i++) sum += losses[i];
  ka_free(memory);
  *loss = sum / (double)*n_targets;
  return st;
}

static double epoch_of(const struct ka_loop *l) {
  return l->train.n > 0 ? (double)micro_after(l, l->step) / (double)l->train.n : 0;
}

double ka_loop_seconds(const struct ka_loop *l) { return l->time_s + ka_now_s() - l->start_s; }

json_t *ka_loop_row(const struct ka_loop *l) {
  return json_pack("{s:I, s:f}", "step", (json_int_t)l->step, "epoch", epoch_of(l));
}

static ka_status log_step(struct ka_loop *l, double norm) {
  struct ka_ctx *ctx = l->ctx;
  double now = ka_now_s(), lr = ka_schedule_lr(&l->config.schedule, l->step);
  double targets = (double)l->row_targets, loss = targets > 0 ? l->row_loss / targets : 0;
  double rate = (double)(l->n_tok - l->row_start_tok) / fmax(now - l->row_start_s, 1e-9);
  double kl = targets > 0 ? l->row_kl / targets : 0;
  bool anchored = l->model->kl_weight > 0;
  json_t *row = json_pack(
      "{s:I, s:f, s:f, s:f, s:f, s:I, s:I, s:f, s:f}", "step", (json_int_t)l->step, "epoch",
      epoch_of(l), "loss", loss, "grad_norm", norm, "lr", lr, "tok", (json_int_t)l->n_tok,
      "tok_padded", (json_int_t)l->n_tok_padded, "tok_per_s", rate, "time_s", ka_loop_seconds(l));
  if (anchored) json_object_set_new(row, "kl", json_real(kl));
  KA_TRY(ka_train_experts_gather(&l->experts, l->model));
  KA_TRY(ka_train_experts_row(&l->experts, row, l->tensorboard, l->step));
  KA_TRY(ka_jsonl_row(ctx, l->log, row));
  KA_TRY(ka_tb_scalar(ctx, l->tensorboard, "train/loss", l->step, loss));
  if (anchored) KA_TRY(ka_tb_scalar(ctx, l->tensorboard, "train/kl", l->step, kl));
  KA_TRY(ka_tb_scalar(ctx, l->tensorboard, "train/grad_norm", l->step, norm));
  KA_TRY(ka_tb_scalar(ctx, l->tensorboard, "train/lr", l->step, lr));
  KA_TRY(ka_tb_scalar(ctx, l->tensorboard, "train/epoch", l->step, epoch_of(l)));
  KA_TRY(ka_tb_scalar(ctx, l->tensorboard, "train/tok_per_s", l->step, rate));
  KA_TRY(ka_tb_flush(ctx, l->tensorboard));
  l->row_loss = l->row_kl = 0;
  l->row_targets = 0;
  l->row_start_s = now;
  l->row_start_tok = l->n_tok;
  return KA_STATUS_OK;
}

/* The rate and the bar of training are of training alone. */
static void set_aside(struct ka_loop *l, double seconds) {
  l->row_start_s += seconds;
  l->aside_s += seconds;
  ka_progress_skip(&l->progress, seconds);
}

static ka_status log_validation(struct ka_loop *l) {
  struct ka_ctx *ctx = l->ctx;
  double loss = 0, before = ka_now_s();
  int64_t n_targets = 0;
  KA_TRY(ka_train_source_loss(l->model, &l->validation, &loss, &n_targets));
  if (!isfinite(loss))
    return ka_fail(ctx, KA_E_CHECK, "step %lld: the validation loss is %g", (long long)l->step,
                   loss);
  ka_info(ctx, "train", "step %lld: validation loss %.4f (%lld targets)", (long long)l->step, loss,
          (long long)n_targets);
  l->last_eval_loss = loss;
  set_aside(l, ka_now_s() - before);
  KA_TRY(ka_jsonl_row(ctx, l->log,
                      json_pack("{s:I, s:f, s:f, s:I, s:f}", "step", (json_int_t)l->step, "epoch",
                                epoch_of(l), "eval_loss", loss, "eval_tok", (json_int_t)n_targets,
                                "time_s", ka_loop_seconds(l))));
  KA_TRY(ka_tb_scalar(ctx, l->tensorboard, "eval/loss", l->step, loss));
  return ka_tb_flush(ctx, l->tensorboard);
}

/* The device's choices as a JSON string, null where it makes none. */
static ka_status device_choices(struct ka_loop *l, json_t **out) {
  struct ka_ctx *ctx = l->ctx;
  struct ka_str text = {0};
  ka_status st = ka_dev_choices_get(l->model->dev, &text);
  *out = ka_ok(st) && text.len ? json_stringn(text.data, text.len) : json_null();
  ka_str_deinit(&text);
  return *out ? st : ka_fail(ctx, KA_E_MEMORY, "checkpoint state: out of memory");
}

/* What a checkpoint keeps of the loop itself. */
static const struct {
  const char *key;
  enum { WHOLE, REAL, FLAG } kind;
  size_t offset;
} kept[] = {
    {"step", WHOLE, offsetof(struct ka_loop, step)},
    {"watched", WHOLE, offsetof(struct ka_loop, watched_step)},
    {"stopped", FLAG, offsetof(struct ka_loop, stopped)},
    {"tok", WHOLE, offsetof(struct ka_loop, n_tok)},
    {"tok_padded", WHOLE, offsetof(struct ka_loop, n_tok_padded)},
    {"time_s", REAL, offsetof(struct ka_loop, time_s)},
    {"row_loss", REAL, offsetof(struct ka_loop, row_loss)},
    {"row_kl", REAL, offsetof(struct ka_loop, row_kl)},
    {"row_targets", WHOLE, offsetof(struct ka_loop, row_targets)},
    {"eval_loss", REAL, offsetof(struct ka_loop, last_eval_loss)},
};
enum { N_KEPT = sizeof kept / sizeof *kept };

static ka_status fill_state(struct ka_loop *l, json_t *state) {
  struct ka_ctx *ctx = l->ctx;
  struct ka_loop now = *l;
  json_t *choices, *t = json_array();
  now.time_s = ka_loop_seconds(l);
  KA_TRY(ka_json_set(ctx, state, "version", json_integer(KA_CKPT_VERSION)));
  KA_TRY(ka_json_set(ctx, state, "t", t)); /* owned by the state from here on */
  for (int i = 0; i < N_KEPT; i++) {
    const void *at = (const char *)&now + kept[i].offset;
    KA_TRY(ka_json_set(ctx, state, kept[i].key,
                       kept[i].kind == WHOLE  ? json_integer(*(const int64_t *)at)
                       : kept[i].kind == REAL ? ka_json_real(*(const double *)at)
                                              : json_boolean(*(const bool *)at)));
  }
  for (int64_t i = 0; i < l->optim->n; i++)
    KA_TRY(ka_json_append(ctx, t, json_integer(l->optim->slices[i].t)));
  KA_TRY(ka_train_experts_save(&l->experts, state));
  KA_TRY(device_choices(l, &choices));
  KA_TRY(ka_json_set(ctx, state, "device_choices", choices));
  return ka_json_set(ctx, state, "run", json_incref(l->extra_state));
}

ka_status ka_loop_save(struct ka_loop *l) {
  struct ka_ctx *ctx = l->ctx;
  const struct ka_loop_config *c = &l->config;
  KA_TRY(ka_jsonl_sync(ctx, l->log));
  KA_TRY(ka_train_experts_gather(&l->experts, l->model));
  json_t *state = json_object();
  ka_status st = fill_state(l, state);
  if (ka_ok(st))
    st = ka_ckpt_write(ctx, c->out_dir, l->step, l->optim, state, c->selection_path,
                       c->save_total_limit);
  json_decref(state);
  return st;
}

static ka_status read_counters(struct ka_loop *l, const char *dir, const json_t *state) {
  struct ka_ctx *ctx = l->ctx;
  const json_t *t = json_object_get(state, "t");
  for (int i = 0; i < N_KEPT; i++) {
    void *at = (char *)l + kept[i].offset;
    if (kept[i].kind == WHOLE) KA_TRY(ka_json_i64(ctx, dir, state, kept[i].key, at));
    if (kept[i].kind == REAL) KA_TRY(ka_json_f64_or(ctx, dir, state, kept[i].key, NAN, at));
    if (kept[i].kind == FLAG) KA_TRY(ka_json_bool_or(ctx, dir, state, kept[i].key, false, at));
  }
  if (l->n_tok < 0 || l->row_targets < 0 || l->watched_step < -1 || l->watched_step > l->step)
    return ka_fail(ctx, KA_E_INPUT, "%s/state.json: tok, row_targets or watched is out of range",
                   dir);
  if ((int64_t)json_array_size(t) != l->optim->n)
    return ka_fail(ctx, KA_E_INPUT, "%s/state.json: \"t\": got %zu entries, expected %lld", dir,
                   json_array_size(t), (long long)l->optim->n);
  for (int64_t i = 0; i < l->optim->n; i++) {
    l->optim->slices[i].t = json_integer_value(json_array_get(t, (size_t)i));
    if (l->optim->slices[i].t < 0 || l->optim->slices[i].t > l->step)
      return ka_fail(ctx, KA_E_INPUT, "%s/state.json: t[%lld]: got %lld, expected 0 to %lld", dir,
                     (long long)i, (long long)l->optim->slices[i].t, (long long)l->step);
  }
  KA_TRY(ka_train_experts_load(&l->experts, dir, state));
  const char *choices = json_string_value(json_object_get(state, "device_choices"));
  return choices ? ka_dev_choices_set(l->model->dev, choices) : KA_STATUS_OK;
}

ka_status ka_loop_start(struct ka_loop *l, const char *checkpoint_dir, const json_t *state) {
  struct ka_ctx *ctx = l->ctx;
  l->last_eval_loss = NAN;
  l->watched_step = -1;
  if (checkpoint_dir) {
    KA_TRY(ka_ckpt_load(ctx, checkpoint_dir, l->optim));
    KA_TRY(read_counters(l, checkpoint_dir, state));
  }
  l->start_s = l->row_start_s = ka_now_s();
  l->row_start_tok = l->first_tok = l->n_tok;
  return KA_STATUS_OK;
}

double ka_loop_rate(const struct ka_loop *l) {
  double spent = ka_now_s() - l->start_s - l->aside_s;
  return (double)(l->n_tok - l->first_tok) / fmax(spent, 1e-9);
}

static void note(struct ka_loop *l, double loss) {
  char rate[32];
  ka_fmt_count(ka_loop_rate(l), rate);
  snprintf(l->note, sizeof l->note, "loss %.4f  %s tok/s", loss, rate);
}

bool ka_loop_done(const struct ka_loop *l) {
  return l->stopped || l->step >= l->config.schedule.n_steps;
}

static ka_status save_and_leave(struct ka_loop *l) {
  struct ka_ctx *ctx = l->ctx;
  KA_TRY(ka_loop_save(l));
  return ka_fail(ctx, KA_E_INTERRUPTED,
                 "interrupted; saved %s/checkpoint-%lld, continue with --resume", l->config.out_dir,
                 (long long)l->step);
}

static bool watch_due(const struct ka_loop *l) {
  return l->watch && l->watched_step != l->step &&
         (l->step == 0 || due(l->step, l->config.watch_steps, l->config.schedule.n_steps));
}

/* One that is interrupted is made up for when the run is resumed. */
static ka_status run_watch(struct ka_loop *l) {
  struct ka_ctx *ctx = l->ctx;
  double before = ka_now_s();
  ka_status st = l->watch(l->watch_user, l);
  set_aside(l, ka_now_s() - before);
  if (ka_ok(st)) l->watched_step = l->step;
  if (st.code != KA_E_INTERRUPTED) return st;
  ka_error_clear(ctx);
  return save_and_leave(l);
}

static ka_status after_step(struct ka_loop *l, double norm) {
  struct ka_ctx *ctx = l->ctx;
  const struct ka_loop_config *c = &l->config;
  int64_t n_steps = c->schedule.n_steps;
  bool row = due(l->step, c->logging_steps, n_steps);
  bool watch = watch_due(l);
  if (row) KA_TRY(log_step(l, norm));
  if (l->validation.n > 0 && (watch || due(l->step, c->eval_steps, n_steps)))
    KA_TRY(log_validation(l));
  if (watch) KA_TRY(run_watch(l));
  if (l->stopped && !row) KA_TRY(log_step(l, norm));
  bool stop;
  KA_TRY(ka_train_ranks_signalled(ctx, ka_signalled(l->signal), &stop));
  stop = stop && !ka_loop_done(l);
  bool save = c->save_steps > 0 && (l->stopped || due(l->step, c->save_steps, n_steps));
  if (stop) return save_and_leave(l);
  return save ? ka_loop_save(l) : KA_STATUS_OK;
}

ka_status ka_loop_run(struct ka_loop *l) {
  struct ka_ctx *ctx = l->ctx;
  ka_status st = KA_STATUS_OK;
  ka_progress_begin(ctx, &l->progress, "train", l->step, l->config.schedule.n_steps);
  if (l->step == 0 && l->validation.n > 0 && isnan(l->last_eval_loss))
    KA_TRY_GOTO(log_validation(l), out);
  if (watch_due(l)) KA_TRY_GOTO(run_watch(l), out);
  while (!ka_loop_done(l)) {
    struct ka_loop_step s;
    KA_TRY_GOTO(ka_loop_step(l, &s), out);
    l->row_loss += s.loss;
    l->row_kl += s.kl;
    l->row_targets += s.n_targets;
    note(l, s.n_targets > 0 ? s.loss / (double)s.n_targets : 0);
    ka_progress_update(&l->progress, l->step, l->note);
    KA_TRY_GOTO(after_step(l, s.norm), out);
    if (l->config.refresh_steps > 0 && l->step % l->config.refresh_steps == 0) {
      st = ka_train_experts_gather(&l->experts, l->model); /* which is opened anew */
      break;
    }
  }
out:
  ka_progress_end(&l->progress);
  return st;
}
