/* SPDX-License-Identifier: Apache-2.0
 * kappa eval: loss and perplexities of text files; tasks are in eval_tasks.c. */
#include "engine/eval/text_loss.h"

#include "base/log.h"
#include "engine/cli/eval_tasks.h"
#include "engine/model/session.h"
#include "engine/report/progress.h"

#include <stdio.h>
#include <string.h>

enum { BATCH_TOKENS = 4096 };

struct eval {
  struct ka_session open;
  struct ka_eval_text_scorer scorer;
  struct ka_progress bar;
};

static ka_status window_of(struct ka_ctx *ctx, const struct ka_cli *cli, const struct ka_model *m,
                           int64_t *window) {
  int64_t most = m->recipe.max_positions;
  *window = ka_eval_text_window(most);
  if (!ka_cli_given(cli, "window")) return KA_STATUS_OK;
  *window = ka_cli_int(cli, "window");
  if (*window < 1 || *window > most)
    return ka_fail(ctx, KA_E_USAGE, "--window: got %lld, expected 1 to %lld, the model's positions",
                   (long long)*window, (long long)most);
  return KA_STATUS_OK;
}

static ka_status open_all(struct ka_ctx *ctx, struct eval *e, const struct ka_cli *cli,
                          int64_t *window) {
  const char *dtype = ka_cli_str(cli, "dtype");
  KA_TRY(ka_session_open(ctx, &e->open, ka_cli_arg(cli, 0), ka_cli_str(cli, "base"),
                         ka_cli_str(cli, "device")));
  KA_TRY(ka_session_load(ctx, &e->open, strcmp(dtype, "bf16") == 0 ? KA_BF16 : KA_F32, true));
  KA_TRY(window_of(ctx, cli, &e->open.model, window));
  int64_t T = *window + 1, B = BATCH_TOKENS / T < 1 ? 1 : BATCH_TOKENS / T;
  KA_TRY(ka_model_prepare(&e->open.model, B, T, false));
  return ka_eval_text_scorer_init(ctx, &e->scorer, &e->open.model, e->open.tokenizer, B, T);
}

static void print_row(const char *name, const struct ka_eval_text_loss *t) {
  printf("%-28s %10lld %9.4f %12.4f %12.4f %10.4f %10.4f\n", name, (long long)t->n_tokens,
         ka_eval_text_loss_per_token(t), ka_eval_text_token_perplexity(t),
         ka_eval_text_word_perplexity(t), ka_eval_text_byte_perplexity(t),
         ka_eval_text_bits_per_byte(t));
}

static ka_status score_files(struct ka_ctx *ctx, struct eval *e, const char *const *files, int n,
                             json_t *rows, bool table) {
  double begin = ka_now_s();
  int64_t n_tokens = 0;
  if (table)
    printf("%-28s %10s %9s %12s %12s %10s %10s\n", "file", "tokens", "loss", "token ppl",
           "word ppl", "byte ppl", "bits/byte");
  for (int i = 0; i < n; i++) {
    memset(&e->scorer.total, 0, sizeof e->scorer.total);
    e->scorer.on_batch = ka_progress_add_tokens;
    e->scorer.user = &e->bar;
    ka_progress_begin(ctx, &e->bar, "eval", n_tokens, 0);
    ka_status st = ka_eval_text_scorer_file(&e->scorer, files[i]);
    if (ka_ok(st)) st = ka_eval_text_scorer_finish(&e->scorer);
    ka_progress_end(&e->bar);
    KA_TRY(st);
    if (e->scorer.total.n_tokens == 0)
      return ka_fail(ctx, KA_E_INPUT, "%s: no token to score", files[i]);
    if (table) print_row(files[i], &e->scorer.total);
    json_object_set_new(rows, files[i], ka_eval_text_loss_json(&e->scorer.total));
    n_tokens += e->scorer.total.n_tokens;
  }
  ka_progress_done(ctx, "eval", "", n_tokens, ka_now_s() - begin);
  return KA_STATUS_OK;
}

static ka_status eval_run(struct ka_ctx *ctx, const struct ka_cli *cli) {
  struct eval e = {0};
  const char *json = ka_cli_str(cli, "json"), *const * files;
  int n = ka_cli_list(cli, "text", &files);
  int64_t window = 0;
  if (ka_cli_given(cli, "tasks")) {
    if (n > 0) return ka_fail(ctx, KA_E_USAGE, "--text and --tasks exclude each other");
    return ka_cli_eval_tasks(ctx, cli);
  }
  if (n == 0)
    return ka_fail(ctx, KA_E_USAGE, "--text or --tasks: missing, expected text or task files");
  json_t *rows = json_object();
  ka_status st = open_all(ctx, &e, cli, &window);
  if (ka_ok(st)) st = score_files(ctx, &e, files, n, rows, !json || strcmp(json, "-") != 0);
  if (ka_ok(st) && json) {
    json_t *root = json_pack("{s:s, s:s, s:I, s:O}", "model", ka_cli_arg(cli, 0), "dtype",
                             ka_cli_str(cli, "dtype"), "window", (json_int_t)window, "text", rows);
    st = ka_json_write(ctx, root, json);
    json_decref(root);
  }
  json_decref(rows);
  ka_eval_text_scorer_deinit(&e.scorer);
  ka_session_close(&e.open);
  return st;
}

const struct ka_cli_command ka_command_eval = {
    .name = "eval",
    .args = "MODEL --text FILE... | MODEL --tasks A.yaml,B.yaml",
    .summary = "loss and perplexities of text files; tasks as lm-evaluation-harness scores them",
    .example = "kappa eval path/to/model --text wiki.txt",
    .min_args = 1,
    .max_args = 1,
    .options =
        (const struct ka_cli_option[]){
            {"text", KA_OPT_LIST, "FILE", NULL,
             "UTF-8 text, one document a file; of .jsonl each line's \"text\" is one"},
            {"window", KA_OPT_INT, "N", NULL,
             "tokens of context and targets at once (default: the model's positions, at most "
             "2048)"},
            KA_EVAL_TASK_OPTIONS,
            {"dtype", KA_OPT_STR, "f32|bf16", "f32", "compute in"},
            {"json", KA_OPT_STR, "FILE", NULL, "write the figures as JSON (- for stdout)"},
            KA_OPT_BASE,
            {0}},
    .run = eval_run,
};
