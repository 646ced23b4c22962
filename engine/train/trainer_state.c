/* SPDX-License-Identifier: Apache-2.0
 * See trainer_state.h. */
#include "engine/train/trainer_state.h"

#include <string.h>

/* Of train_log.jsonl, and what transformers calls it. */
static const struct {
  const char *ours, *theirs;
} names[] = {{"epoch", "epoch"},
             {"grad_norm", "grad_norm"},
             {"lr", "learning_rate"},
             {"loss", "loss"},
             {"kl", "kl"},
             {"eval_loss", "eval_loss"},
             {"tok", "num_input_tokens_seen"},
             {"step", "step"}};

static json_t *history_row(const json_t *row, bool *failed) {
  json_t *out = json_object();
  bool known = false;
  *failed |= !out;
  for (size_t i = 0; out && i < sizeof names / sizeof *names; i++) {
    json_t *v = json_object_get(row, names[i].ours);
    if (!v) continue;
    *failed |= json_object_set(out, names[i].theirs, v) != 0;
    known |= strcmp(names[i].ours, "loss") == 0 || strcmp(names[i].ours, "eval_loss") == 0;
  }
  if (known) return out;
  json_decref(out); /* an evaluation of what is forgotten has no name there */
  return NULL;
}

static json_t *state_of(const struct ka_run *r, const struct ka_loop *loop, json_t *history) {
  double epochs = (double)(loop->step * loop->config.accumulation) / (double)loop->train.n;
  return json_pack(
      "{s:n, s:n, s:n, s:f, s:I, s:I, s:b, s:b, s:b, s:o, s:I, s:I, s:f, s:I, s:I, s:I}",
      "best_global_step", "best_metric", "best_model_checkpoint", "epoch", epochs, "eval_steps",
      (json_int_t)loop->config.eval_steps, "global_step", (json_int_t)loop->step,
      "is_hyper_param_search", 0, "is_local_process_zero", 1, "is_world_process_zero", 1,
      "log_history", history, "logging_steps", (json_int_t)loop->config.logging_steps, "max_steps",
      (json_int_t)loop->config.schedule.n_steps, "num_train_epochs", epochs,
      "num_input_tokens_seen", (json_int_t)loop->n_tok, "save_steps",
      (json_int_t)loop->config.save_steps, "train_batch_size",
      (json_int_t)r->job->micro_batch_size);
}

ka_status ka_trainer_state_write(struct ka_run *r, const struct ka_loop *loop) {
  struct ka_ctx *ctx = r->ctx;
  json_t *log = NULL, *history = json_array(), *row;
  const char *path;
  bool failed = false;
  size_t i;
  if (!history) return ka_fail(ctx, KA_E_MEMORY, "trainer_state.json: out of memory");
  ka_status st = ka_jsonl_read(ctx, loop->log->path, &log);
  json_array_foreach(log, i, row) {
    json_t *out = history_row(row, &failed);
    if (out) failed |= json_array_append_new(history, out) != 0;
  }
  json_decref(log);
  json_t *state = state_of(r, loop, history);
  if (ka_ok(st) && (failed || !state))
    st = ka_fail(ctx, KA_E_MEMORY, "trainer_state.json: out of memory");
  if (ka_ok(st)) st = ka_path_join(&r->arena, &path, r->job->output_dir, "trainer_state.json");
  if (ka_ok(st)) st = ka_json_write(ctx, state, path);
  json_decref(state);
  return st;
}
