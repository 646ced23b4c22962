/* SPDX-License-Identifier: Apache-2.0
 * See eval_tasks.h. */
#include "engine/cli/eval_tasks.h"
#include "engine/model/session.h"

#include "base/log.h"
#include "engine/eval/tasks.h"
#include "engine/report/progress.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum { ROWS = 4096, MAX_TASKS = 256 };

struct evaluation {
  struct ka_ctx *ctx;
  const struct ka_cli *cli;
  struct ka_arena arena;
  struct ka_tasks_options tasks_options;
  struct ka_eval_encode_options encoding;
  struct ka_eval_score_options scoring;
  struct ka_tasks *tasks;
  struct ka_chat *chat;
  struct ka_session open;
  struct ka_speech speech; /* with has_speech: the model has a projector */
  bool has_speech;
  struct ka_results results;
  struct ka_progress bar;
};

static void show(void *user, int64_t n_done) {
  ka_progress_update(&((struct evaluation *)user)->bar, n_done, "");
}

static ka_status at_least(struct evaluation *e, const char *option, int64_t least) {
  int64_t v = ka_cli_int(e->cli, option);
  if (!ka_cli_given(e->cli, option) || v >= least) return KA_STATUS_OK;
  return ka_fail(e->ctx, KA_E_USAGE, "--%s: got %lld, expected %lld or more", option, (long long)v,
                 (long long)least);
}

static ka_status read_options(struct evaluation *e) {
  struct ka_ctx *ctx = e->ctx;
  const struct ka_cli *cli = e->cli;
  const char *bos = ka_cli_str(cli, "add-bos");
  static const struct {
    const char *name;
    int64_t least;
  } ints[] = {{"num-fewshot", 0},
              {"batch-size", 0},
              {"max-length", 1},
              {"prefix-token", 0},
              {"bootstrap-iters", 0}};
  for (size_t i = 0; i < sizeof ints / sizeof *ints; i++)
    KA_TRY(at_least(e, ints[i].name, ints[i].least));
  e->tasks_options = KA_TASKS_DEFAULTS;
  e->scoring = KA_SCORE_DEFAULTS;
  e->tasks_options.limit = ka_cli_float(cli, "limit");
  if (!(e->tasks_options.limit >= 0))
    return ka_fail(ctx, KA_E_USAGE, "--limit: got %s, expected 0 or more",
                   ka_cli_str(cli, "limit"));
  if (ka_cli_given(cli, "num-fewshot"))
    e->tasks_options.num_fewshot = ka_cli_int(cli, "num-fewshot");
  e->tasks_options.native = ka_cli_flag(cli, "native");
  e->tasks_options.n_include_paths =
      ka_cli_list(cli, "include-path", &e->tasks_options.include_paths);
  e->encoding.prefix_token =
      ka_cli_given(cli, "prefix-token") ? (int32_t)ka_cli_int(cli, "prefix-token") : -1;
  e->encoding.add_bos = strcmp(bos, "auto") == 0 ? -1 : strcmp(bos, "true") == 0;
  e->scoring.batch_size = ka_cli_int(cli, "batch-size");
  e->scoring.bootstrap_iters = ka_cli_int(cli, "bootstrap-iters");
  e->scoring.progress = show;
  e->scoring.user = e;
  if (ka_cli_flag(cli, "log-samples") && !ka_cli_given(cli, "output-path"))
    return ka_fail(ctx, KA_E_USAGE, "--log-samples: --output-path says where to, it is missing");
  return KA_STATUS_OK;
}

/* The model's chat template, where prompts are to be conversations. */
static ka_status read_chat(struct evaluation *e) {
  struct ka_ctx *ctx = e->ctx;
  struct ka_eval_chat *c = &e->tasks_options.chat;
  if (ka_cli_given(e->cli, "system-instruction"))
    c->system_instruction = ka_cli_str(e->cli, "system-instruction");
  if (!ka_cli_flag(e->cli, "apply-chat-template")) {
    if (ka_cli_given(e->cli, "fewshot-as-multiturn"))
      return ka_fail(ctx, KA_E_USAGE, "--fewshot-as-multiturn: goes with --apply-chat-template");
    return KA_STATUS_OK;
  }
  KA_TRY(ka_chat_load_model(ctx, &e->chat, e->open.source.dir));
  if (!ka_chat_has_template(e->chat))
    return ka_fail(ctx, KA_E_INPUT, "--apply-chat-template: %s has no chat template",
                   e->open.source.dir);
  c->template = e->chat;
  c->as_turns = strcmp(ka_cli_str(e->cli, "fewshot-as-multiturn"), "true") == 0;
  return KA_STATUS_OK;
}

static ka_status load_tasks(struct evaluation *e) {
  struct ka_ctx *ctx = e->ctx;
  const char *names[MAX_TASKS];
  int64_t n;
  KA_TRY(ka_cli_words(&e->arena, e->cli, "tasks", names, MAX_TASKS, &n));
  if (n == 0) return ka_fail(ctx, KA_E_USAGE, "--tasks: no task is named");
  return ka_tasks_load(ctx, &e->tasks, names, n, &e->tasks_options);
}

static ka_status prepare(struct evaluation *e) {
  struct ka_ctx *ctx = e->ctx;
  const char *dtype = ka_cli_str(e->cli, "dtype");
  KA_TRY(ka_session_load(ctx, &e->open, strcmp(dtype, "bf16") == 0 ? KA_BF16 : KA_F32, true));
  KA_TRY(ka_speech_open(&e->open.model, &e->speech, e->open.source.dir, &e->has_speech));
  int64_t most = e->open.model.recipe.max_positions;
  if (e->has_speech) e->encoding.speech = &e->speech;
  e->encoding.max_length =
      ka_cli_given(e->cli, "max-length") ? ka_cli_int(e->cli, "max-length") : most;
  if (e->encoding.max_length > most)
    return ka_fail(ctx, KA_E_USAGE, "--max-length: got %lld, the model's positions are %lld",
                   (long long)e->encoding.max_length, (long long)most);
  KA_TRY(ka_tasks_encode(ctx, e->tasks, e->open.tokenizer, &e->encoding));
  int64_t positions = ka_tasks_positions(e->tasks);
  int64_t rows = e->scoring.batch_size > 0 ? e->scoring.batch_size * positions : ROWS;
  e->open.model.max_position = positions;
  return ka_model_prepare(&e->open.model, 1, rows, false);
}

static ka_status score(struct evaluation *e) {
  struct ka_ctx *ctx = e->ctx;
  const char *dir = ka_cli_str(e->cli, "output-path");
  if (dir) KA_TRY(ka_make_dirs(ctx, dir)); /* rather now than after hours */
  ka_progress_begin(e->ctx, &e->bar, "eval", 0, ka_tasks_n_requests(e->tasks));
  ka_status st = ka_tasks_score(e->ctx, e->tasks, &e->open.model, &e->scoring, &e->results);
  ka_progress_end(&e->bar);
  return st;
}

static ka_status write_results(struct evaluation *e, double started_s, double seconds) {
  struct ka_ctx *ctx = e->ctx;
  const char *json = ka_cli_str(e->cli, "json"), *dir = ka_cli_str(e->cli, "output-path");
  const struct ka_run_info info = {.model = ka_cli_arg(e->cli, 0),
                                   .dtype = ka_cli_str(e->cli, "dtype"),
                                   .device = e->open.dev.backend->name,
                                   .tasks = &e->tasks_options,
                                   .scoring = &e->scoring,
                                   .started_s = started_s,
                                   .seconds = seconds};
  struct ka_str table = {0};
  json_t *root = NULL;
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_results_json(ctx, e->tasks, &e->results, &info, &root), out);
  if (dir)
    KA_TRY_GOTO(ka_results_write(ctx, e->tasks, &e->results, &info, root, dir,
                                 ka_cli_flag(e->cli, "log-samples")),
                out);
  if (json) KA_TRY_GOTO(ka_json_write(ctx, root, json), out);
  if (json && strcmp(json, "-") == 0) goto out;
  KA_TRY_GOTO(ka_results_table(ctx, e->tasks, &e->results, &table), out);
  fputs(table.data ? table.data : "", stdout);
out:
  json_decref(root);
  ka_str_deinit(&table);
  return st;
}

static void say_end(const struct evaluation *e, double seconds) {
  char parts[64];
  snprintf(parts, sizeof parts, "%lld requests", (long long)ka_tasks_n_requests(e->tasks));
  ka_progress_done(e->ctx, "eval", parts, e->results.n_tok, seconds);
}

static ka_status run(struct evaluation *e) {
  struct ka_ctx *ctx = e->ctx;
  double started_s = (double)time(NULL), start = ka_now_s();
  KA_TRY(read_options(e));
  KA_TRY(ka_session_open(ctx, &e->open, ka_cli_arg(e->cli, 0), ka_cli_str(e->cli, "base"),
                         ka_cli_str(e->cli, "device")));
  KA_TRY(read_chat(e));
  KA_TRY(load_tasks(e));
  KA_TRY(prepare(e));
  double begin = ka_now_s();
  KA_TRY(score(e));
  double end = ka_now_s();
  KA_TRY(write_results(e, started_s, end - start));
  say_end(e, end - begin);
  return KA_STATUS_OK;
}

ka_status ka_cli_eval_tasks(struct ka_ctx *ctx, const struct ka_cli *cli) {
  struct evaluation e = {.ctx = ctx, .cli = cli};
  ka_arena_init(&e.arena, ctx, "eval");
  ka_status st = run(&e);
  ka_results_close(&e.results);
  ka_tasks_close(e.tasks);
  ka_chat_destroy(e.chat);
  ka_session_close(&e.open);
  ka_arena_deinit(&e.arena);
  return st;
}
