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
#include <string.h>

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

/* Micro-batch k of a step: the data's, then those that the base wrote. Their numbers go on where
 * the data's end, so that ranks share both alike. *number -1: there is none. */
static ka_status micro_of(struct ka_loop *l, int64_t step, int64_t k, struct ka_batch *out,
                          int64_t *number) {
  int64_t first = micro_after(l, step), n = micro_after(l, step + 1) - first;
  *number = k < n + l->self.n ? first + k : -1;
  if (*number < 0) return KA_STATUS_OK;
  if (k < n) return l->train.get(l->train.user, first + k, out);
  return l->self.get(l->self.user, step * l->self.n + k - n, out);
}

/* A term is the mean over the whole step's targets, so they are counted before the first gradient,
 * which may have happened already. */
static ka_status count_targets(struct ka_loop *l, int64_t step, int64_t n_targets[KA_N_ROWS]) {
  struct ka_ctx *ctx = l->ctx;
  if (l->counted_step != step + 1) {
    struct ka_batch batch;
    int64_t number = 0;
    memset(l->counted_targets, 0, sizeof l->counted_targets);
    for (int64_t k = 0; number >= 0; k++) {
      KA_TRY(micro_of(l, step, k, &batch, &number));
      if (number >= 0) l->counted_targets[batch.rows] += batch.n_targets;
    }
    l->counted_step = step + 1;
  }
  memcpy(n_targets, l->counted_targets, sizeof l->counted_targets);
  return KA_STATUS_OK;
}

/* The last micro-batch of the step that this rank computes; -1: none. */
static ka_status last_own(struct ka_loop *l, int64_t *last) {
  struct ka_ctx *ctx = l->ctx;
  struct ka_batch batch;
  int64_t number = 0;
  *last = -1;
  for (int64_t k = 0; number >= 0; k++) {
    KA_TRY(micro_of(l, l->step, k, &batch, &number));
    if (number >= 0 && batch.n_targets > 0 && ka_train_ranks_mine(ctx, number)) *last = number;
  }
  return KA_STATUS_OK;
}

static void count_tokens(struct ka_loop *l, const struct ka_batch *batch) {
  int64_t all = batch->B * batch->T, n = batch->n_tok > 0 ? batch->n_tok : all;
  if (batch->rows == KA_ROWS_SELF) {
    l->n_tok_self += all;
    return;
  }
  l->n_tok += n;
  l->n_tok_padded += all;
}

/* A pass of this rank; batch NULL: it has none, but the others do. */
static ka_status grad(struct ka_model *m, const struct ka_batch *batch,
                      const int64_t n_targets[KA_N_ROWS], bool last) {
  struct ka_ctx *ctx = m->ctx;
  ka_train_ranks_begin_pass(m, last);
  KA_TRY(batch ? ka_model_grad(m, batch, 1.0 / (double)n_targets[batch->rows], NULL)
               : ka_model_idle(m, true));
  return ka_train_ranks_end_pass(m);
}

static ka_status accumulate(struct ka_loop *l, const int64_t n_targets[KA_N_ROWS]) {
  struct ka_ctx *ctx = l->ctx;
  struct ka_batch batch;
  int64_t last = -1, number = 0;
  int64_t n = micro_after(l, l->step + 1) - micro_after(l, l->step) + l->self.n;
  bool passed = false; /* in this round */
  if (ka_dist_n(ctx->dist) > 1) KA_TRY(last_own(l, &last));
  KA_TRY(ka_model_zero_grad(l->model));
  for (int64_t k = 0; k < n; k++) {
    KA_TRY(micro_of(l, l->step, k, &batch, &number));
    count_tokens(l, &batch);
    bool own = batch.n_targets > 0 && ka_train_ranks_mine(ctx, number);
    if (own) KA_TRY(grad(l->model, &batch, n_targets, number == last));
    passed = passed || own;
    if (!ka_train_ranks_round_ends(l->model, k, n)) continue;
    if (!passed) KA_TRY(grad(l->model, NULL, n_targets, false));
    passed = false;
  }
  return ka_train_ranks_sum_gradients(l->model);
}

/* Of a term, over the targets of its rows; 0 where there are none. */
static double mean_of(const double sums[KA_N_TERMS], const int64_t n_targets[KA_N_ROWS],
                      enum ka_loss_term term) {
  int64_t n = n_targets[ka_loss_terms[term].rows];
  return n > 0 ? sums[term] / (double)n : 0;
}

static ka_status not_finite(struct ka_loop *l, const char *what, double value, double lr) {
  return ka_fail(l->ctx, KA_E_CHECK,
                 "step %lld: %s is %g (learning rate %g); the run stops before the update, "
                 "earlier checkpoints are intact; lower learning_rate or check the data",
                 (long long)l->step + 1, what, value, lr);
}

static ka_status check_finite(struct ka_loop *l, const struct ka_loop_step *s, double lr) {
  for (int i = 0; i < KA_N_TERMS; i++) {
    double mean = mean_of(s->term, s->n_targets, (enum ka_loss_term)i);
    const char *what = ka_loss_terms[i].reads_base ? "the divergence from the base" : "the loss";
    if (!isfinite(mean)) return not_finite(l, what, mean, lr);
  }
  return isfinite(s->norm) ? KA_STATUS_OK : not_finite(l, "the gradient norm", s->norm, lr);
}

/* The device works while the next step's data is read. */
static ka_status update(struct ka_loop *l, double lr, struct ka_loop_step *out) {
  struct ka_ctx *ctx = l->ctx;
  struct ka_step_stats stats;
  int64_t next[KA_N_ROWS];
  KA_TRY(ka_optim_step(l->optim, lr));
  if (l->step + 1 < l->config.schedule.n_steps) KA_TRY(count_targets(l, l->step + 1, next));
  KA_TRY(ka_model_step_stats(l->model, &stats));
  memcpy(out->term, stats.term, sizeof out->term);
  out->norm = sqrt(stats.grad_sumsq);
  return KA_STATUS_OK;
}

ka_status ka_loop_step(struct ka_loop *l, struct ka_loop_step *out) {
  struct ka_ctx *ctx = l->ctx;
  double lr = ka_schedule_lr(&l->config.schedule, l->step + 1);
  *out = (struct ka_loop_step){0};
  KA_TRY(count_targets(l, l->step, out->n_targets));
  if (out->n_targets[KA_ROWS_TASK] == 0) {
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

/* losses [n]: of the micro-batches of this rank, 0 of the others; then summed over ranks and, in
 * one order whatever their number, over micro-batches. */
static ka_status source_losses(struct ka_model *m, const struct ka_train_batch_source *source,
                               double *losses, int64_t *n_targets) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_progress bar;
  ka_status st = KA_STATUS_OK;
  bool passed = false;
  ka_progress_begin(ctx, &bar, "validation", 0, source->n);
  for (int64_t i = 0; i < source->n; i++) {
    struct ka_batch batch;
    losses[i] = 0;
    ka_progress_update(&bar, i, "");
    KA_TRY_GOTO(source->get(source->user, i, &batch), out);
    *n_targets += batch.n_targets;
    bool own = batch.n_targets > 0 && ka_train_ranks_mine(ctx, i);
    if (own) KA_TRY_GOTO(ka_model_eval(m, &batch, &losses[i], NULL), out);
    passed = passed || own;
    if (!ka_train_ranks_round_ends(m, i, source->n)) continue;
    if (!passed) KA_TRY_GOTO(ka_model_idle(m, false), out);
    passed = false;
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

/* The mean of every term that the loss has, to the row and to TensorBoard. */
static ka_status log_terms(struct ka_loop *l, json_t *row) {
  struct ka_ctx *ctx = l->ctx;
  for (int i = 0; i < KA_N_TERMS; i++) {
    char name[64];
    double mean = mean_of(l->row_term, l->row_targets, (enum ka_loss_term)i);
    if (l->model->term_weight[i] == 0) continue;
    KA_TRY(ka_json_set(ctx, row, ka_loss_terms[i].key, json_real(mean)));
    snprintf(name, sizeof name, "train/%s", ka_loss_terms[i].key);
    KA_TRY(ka_tb_scalar(ctx, l->tensorboard, name, l->step, mean));
    l->row_term[i] = 0;
  }
  memset(l->row_targets, 0, sizeof l->row_targets);
  return KA_STATUS_OK;
}

static ka_status log_step(struct ka_loop *l, double norm) {
  struct ka_ctx *ctx = l->ctx;
  double now = ka_now_s(), lr = ka_schedule_lr(&l->config.schedule, l->step);
  double rate = (double)(l->n_tok - l->row_start_tok) / fmax(now - l->row_start_s, 1e-9);
  json_t *row = ka_loop_row(l);
  ka_status st = log_terms(l, row);
  if (!ka_ok(st)) json_decref(row);
  KA_TRY(st);
  json_object_update_new(row, json_pack("{s:f, s:f, s:I, s:I, s:f, s:f}", "grad_norm", norm, "lr",
                                        lr, "tok", (json_int_t)l->n_tok, "tok_padded",
                                        (json_int_t)l->n_tok_padded, "tok_per_s", rate, "time_s",
                                        ka_loop_seconds(l)));
  KA_TRY(ka_train_experts_gather(&l->experts, l->model));
  KA_TRY(ka_train_experts_row(&l->experts, row, l->tensorboard, l->step));
  KA_TRY(ka_jsonl_row(ctx, l->log, row));
  KA_TRY(ka_tb_scalar(ctx, l->tensorboard, "train/grad_norm", l->step, norm));
  KA_TRY(ka_tb_scalar(ctx, l->tensorboard, "train/lr", l->step, lr));
  KA_TRY(ka_tb_scalar(ctx, l->tensorboard, "train/epoch", l->step, epoch_of(l)));
  KA_TRY(ka_tb_scalar(ctx, l->tensorboard, "train/tok_per_s", l->step, rate));
  KA_TRY(ka_tb_flush(ctx, l->tensorboard));
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
  enum { WHOLE, WHOLE_OR_0, REAL, FLAG } kind;
  size_t offset;
} kept[] = {
    {"step", WHOLE, offsetof(struct ka_loop, step)},
    {"watched", WHOLE, offsetof(struct ka_loop, watched_step)},
    {"stopped", FLAG, offsetof(struct ka_loop, stopped)},
    {"tok", WHOLE, offsetof(struct ka_loop, n_tok)},
    {"tok_padded", WHOLE, offsetof(struct ka_loop, n_tok_padded)},
    {"time_s", REAL, offsetof(struct ka_loop, time_s)},
#define KA_LOSS_TERM(id, key, ...)                                                                 \
  {"row_" key, REAL, offsetof(struct ka_loop, row_term[KA_TERM_##id])},
#include "engine/model/loss_terms.def"
#undef KA_LOSS_TERM
    {"row_targets", WHOLE, offsetof(struct ka_loop, row_targets[KA_ROWS_TASK])},
    {"row_targets_self", WHOLE_OR_0, offsetof(struct ka_loop, row_targets[KA_ROWS_SELF])},
    {"tok_self", WHOLE_OR_0, offsetof(struct ka_loop, n_tok_self)},
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
                       kept[i].kind <= WHOLE_OR_0 ? json_integer(*(const int64_t *)at)
                       : kept[i].kind == REAL     ? ka_json_real(*(const double *)at)
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
  struct ka_progress bar;
  double before = ka_now_s(), size = l->optim->config.state == KA_BF16 ? 2 : 4;
  ka_progress_begin_bytes(ctx, &bar, "checkpoint", 3 * size * (double)ka_model_n_trained(l->model));
  ka_status st = fill_state(l, state);
  if (ka_ok(st))
    st = ka_ckpt_write(ctx, c->out_dir, l->step, l->optim, state, c->selection_path,
                       c->save_total_limit);
  ka_progress_end(&bar);
  set_aside(l, ka_now_s() - before);
  json_decref(state);
  return st;
}

static ka_status read_counters(struct ka_loop *l, const char *dir, const json_t *state) {
  struct ka_ctx *ctx = l->ctx;
  const json_t *t = json_object_get(state, "t");
  for (int i = 0; i < N_KEPT; i++) {
    void *at = (char *)l + kept[i].offset;
    if (kept[i].kind == WHOLE) KA_TRY(ka_json_i64(ctx, dir, state, kept[i].key, at));
    if (kept[i].kind == WHOLE_OR_0) KA_TRY(ka_json_i64_or(ctx, dir, state, kept[i].key, 0, at));
    if (kept[i].kind == REAL) KA_TRY(ka_json_f64_or(ctx, dir, state, kept[i].key, NAN, at));
    if (kept[i].kind == FLAG) KA_TRY(ka_json_bool_or(ctx, dir, state, kept[i].key, false, at));
  }
  if (l->n_tok < 0 || l->row_targets[KA_ROWS_TASK] < 0 || l->watched_step < -1 ||
      l->watched_step > l->step)
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
  l->start_waited_s = ka_dist_stats(l->ctx->dist).waited_s;
  l->row_start_tok = l->first_tok = l->n_tok;
  return KA_STATUS_OK;
}

double ka_loop_rate(const struct ka_loop *l) {
  double spent = (l->end_s > 0 ? l->end_s : ka_now_s()) - l->start_s - l->aside_s;
  return (double)(l->n_tok - l->first_tok) / fmax(spent, 1e-9);
}

static void note(struct ka_loop *l, double loss) {
  char rate[32];
  ka_fmt_count(ka_loop_rate(l), rate);
  snprintf(l->note, sizeof l->note, "loss %.4f  %s tok/s", loss, rate);
  if (ka_dist_n(l->ctx->dist) > 1) { /* the rate is of all ranks */
    size_t n = strlen(l->note);
    snprintf(l->note + n, sizeof l->note - n, "  %.0f %% waiting",
             100 * (ka_dist_stats(l->ctx->dist).waited_s - l->start_waited_s) /
                 fmax(ka_now_s() - l->start_s, 1e-9));
  }
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
  if (l->end_s > 0) set_aside(l, ka_now_s() - l->end_s);
  l->end_s = 0;
  ka_progress_begin(ctx, &l->progress, "train", l->step, l->config.schedule.n_steps);
  if (l->step == 0 && l->validation.n > 0 && isnan(l->last_eval_loss))
    KA_TRY_GOTO(log_validation(l), out);
  if (watch_due(l)) KA_TRY_GOTO(run_watch(l), out);
  while (!ka_loop_done(l)) {
    struct ka_loop_step s;
    KA_TRY_GOTO(ka_loop_step(l, &s), out);
    for (int i = 0; i < KA_N_TERMS; i++) l->row_term[i] += s.term[i];
    for (int i = 0; i < KA_N_ROWS; i++) l->row_targets[i] += s.n_targets[i];
    note(l, mean_of(s.term, s.n_targets, KA_TERM_CE));
    ka_progress_update(&l->progress, l->step, l->note);
    KA_TRY_GOTO(after_step(l, s.norm), out);
    if (l->config.refresh_steps > 0 && l->step % l->config.refresh_steps == 0) {
      st = ka_train_experts_gather(&l->experts, l->model); /* which is opened anew */
      break;
    }
  }
out:
  l->end_s = ka_now_s();
  ka_progress_end(&l->progress);
  return st;
}
