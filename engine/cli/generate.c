/* SPDX-License-Identifier: Apache-2.0
 * kappa generate: text from a model, greedy or sampled, as it comes. */
#include "base/json.h"
#include "base/log.h"
#include "engine/cli/cli.h"
#include "engine/data/chat.h"
#include "engine/model/decode.h"
#include "tokenizer/tokenizer.h"

#include <stdio.h>
#include <string.h>

struct generation {
  struct ka_ctx *ctx;
  const struct ka_cli *cli;
  const char *dir; /* the source's */
  struct ka_model_source source;
  struct ka_dev dev;
  struct ka_model model;
  struct ka_decoder decoder;
  struct ka_tokenizer *tokenizer;
  struct ka_tok_tokens ids; /* prompt, then what was generated */
  int64_t n_prompt;
  struct ka_tok_decode_stream stream;
  struct ka_str text;
  bool print_text;
};

static ka_status print_id(struct generation *g, int32_t id) {
  struct ka_ctx *ctx = g->ctx;
  if (!g->print_text) return KA_STATUS_OK;
  ka_str_clear(&g->text);
  KA_TRY(ka_tok_decode_stream_push(ctx, &g->stream, g->tokenizer, id, &g->text));
  if (g->text.len > 0) fwrite(g->text.data, 1, g->text.len, stdout);
  fflush(stdout);
  return KA_STATUS_OK;
}

static ka_status add_id(struct generation *g, int32_t id) {
  struct ka_ctx *ctx = g->ctx;
  void *ids = g->ids.ids;
  KA_TRY(ka_grow(ctx, &ids, &g->ids.cap, g->ids.n + 1, sizeof *g->ids.ids, "token ids"));
  g->ids.ids = ids;
  g->ids.ids[g->ids.n++] = id;
  return KA_STATUS_OK;
}

/* The prompt as a user's message in the model's chat template; the template writes BOS itself. */
static ka_status read_chat(struct generation *g, const char *prompt) {
  struct ka_ctx *ctx = g->ctx;
  struct ka_chat *chat = NULL;
  struct ka_str text = {0};
  json_t *vars = json_pack("{s:[{s:s, s:s}], s:b}", "messages", "role", "user", "content", prompt,
                           "add_generation_prompt", 1);
  ka_status st = KA_STATUS_OK;
  if (!vars) {
    st = ka_fail(ctx, KA_E_INPUT, "--prompt: not valid UTF-8");
    goto out;
  }
  KA_TRY_GOTO(ka_chat_load_model(ctx, &chat, g->dir), out);
  KA_TRY_GOTO(ka_chat_render(ctx, chat, vars, NULL, &text, NULL), out);
  KA_TRY_GOTO(
      ka_tokenizer_encode(ctx, g->tokenizer, text.data ? text.data : "", text.len, false, &g->ids),
      out);
out:
  json_decref(vars);
  ka_chat_destroy(chat);
  ka_str_deinit(&text);
  return st;
}

static ka_status read_prompt(struct generation *g) {
  struct ka_ctx *ctx = g->ctx;
  const char *prompt = ka_cli_str(g->cli, "prompt");
  if (ka_cli_flag(g->cli, "chat"))
    KA_TRY(read_chat(g, prompt));
  else
    KA_TRY(ka_tokenizer_encode(ctx, g->tokenizer, prompt, strlen(prompt), true, &g->ids));
  if (g->ids.n == 0) {
    int64_t bos = g->model.config.bos_token_id;
    if (bos < 0) bos = ka_tokenizer_bos(g->tokenizer);
    if (bos < 0)
      return ka_fail(ctx, KA_E_INPUT, "--prompt: empty, and %s names no bos_token_id to start from",
                     g->dir);
    KA_TRY(add_id(g, (int32_t)bos));
  }
  g->n_prompt = g->ids.n;
  return KA_STATUS_OK;
}

static bool is_eos(const struct ka_hf_config *c, int32_t id) {
  for (int i = 0; i < c->n_eos; i++)
    if (c->eos_token_ids[i] == id) return true;
  return false;
}

static ka_status generate(struct generation *g, int64_t max_tokens) {
  struct ka_ctx *ctx = g->ctx;
  int64_t V = g->model.recipe.V;
  void *logits;
  KA_TRY(ka_arena_alloc_n(&g->model.meta, &logits, V, sizeof(float), "logits"));
  if (!ka_cli_flag(g->cli, "chat"))
    for (int64_t i = 0; i < g->n_prompt; i++) KA_TRY(print_id(g, g->ids.ids[i]));
  if (max_tokens > 0) KA_TRY(ka_decoder_push(&g->decoder, g->ids.ids, g->n_prompt, logits, NULL));
  for (int64_t i = 0; i < max_tokens; i++) {
    int32_t id = ka_sample(logits, V, ka_cli_float(g->cli, "temperature"),
                           (uint64_t)ka_cli_int(g->cli, "seed"), (uint64_t)i);
    KA_TRY(add_id(g, id));
    if (is_eos(&g->model.config, id)) break;
    KA_TRY(print_id(g, id));
    if (ctx->interrupted && *ctx->interrupted) break;
    if (i + 1 < max_tokens) KA_TRY(ka_decoder_push(&g->decoder, &id, 1, logits, NULL));
  }
  return KA_STATUS_OK;
}

static ka_status finish(struct generation *g) {
  struct ka_ctx *ctx = g->ctx;
  if (g->print_text) {
    ka_str_clear(&g->text);
    KA_TRY(ka_tok_decode_stream_flush(ctx, &g->stream, g->tokenizer, &g->text));
    printf("%s\n", g->text.len ? g->text.data : "");
    return KA_STATUS_OK;
  }
  for (int64_t i = 0; i < g->ids.n; i++) printf("%s%d", i ? ", " : "[", g->ids.ids[i]);
  puts("]");
  return KA_STATUS_OK;
}

/* bf16 files compute in bf16 where that is fast, all others in f32. */
static enum ka_dtype compute_type(const struct generation *g) {
  const char *word = ka_cli_str(g->cli, "dtype");
  if (strcmp(word, "auto") != 0) return strcmp(word, "bf16") == 0 ? KA_BF16 : KA_F32;
  return g->dev.has_bf16 && g->model.n_params > 0 && g->model.params[0].stored.dtype == KA_BF16
             ? KA_BF16
             : KA_F32;
}

static ka_status run(struct generation *g) {
  struct ka_ctx *ctx = g->ctx;
  int64_t max_tokens = ka_cli_int(g->cli, "max-tokens");
  double temperature = ka_cli_float(g->cli, "temperature");
  if (max_tokens < 0 || max_tokens > 1 << 24)
    return ka_fail(ctx, KA_E_USAGE, "--max-tokens: got %lld, expected 0 to %d",
                   (long long)max_tokens, 1 << 24);
  if (!(temperature >= 0 && temperature < 1e6))
    return ka_fail(ctx, KA_E_USAGE, "--temperature: got %g, expected 0 or more", temperature);
  KA_TRY(ka_dev_open(ctx, &g->dev, ka_cli_str(g->cli, "device")));
  KA_TRY(ka_model_source_open(ctx, &g->source, ka_cli_arg(g->cli, 0), ka_cli_str(g->cli, "base")));
  g->dir = g->source.dir;
  KA_TRY(ka_model_open_source(ctx, &g->model, &g->dev, &g->source, KA_F32));
  g->model.compute = compute_type(g);
  KA_TRY(ka_tokenizer_open(ctx, &g->tokenizer, g->dir));
  KA_TRY(read_prompt(g));
  int64_t longest = g->model.recipe.max_positions;
  if (g->n_prompt + max_tokens > longest)
    ka_warn(ctx, "generate", "up to %lld tokens, the model was made for %lld",
            (long long)(g->n_prompt + max_tokens), (long long)longest);
  KA_TRY(ka_decoder_init(&g->decoder, &g->model, g->n_prompt + max_tokens));
  g->print_text = !ka_cli_flag(g->cli, "ids");
  g->stream.skip_special = true;
  KA_TRY(generate(g, max_tokens));
  return finish(g);
}

static ka_status generate_run(struct ka_ctx *ctx, const struct ka_cli *cli) {
  struct generation g = {.ctx = ctx, .cli = cli};
  ka_status st = run(&g);
  ka_tok_decode_stream_deinit(&g.stream);
  ka_str_deinit(&g.text);
  ka_tok_tokens_deinit(&g.ids);
  ka_tokenizer_close(g.tokenizer);
  ka_decoder_deinit(&g.decoder);
  ka_model_close(&g.model);
  ka_model_source_close(&g.source);
  ka_dev_close(&g.dev);
  return st;
}

const struct ka_cli_command ka_command_generate = {
    .name = "generate",
    .args = "MODEL --prompt TEXT",
    .summary = "text from a model, greedy or sampled",
    .min_args = 1,
    .max_args = 1,
    .options =
        (const struct ka_cli_option[]){
            {"prompt", KA_OPT_STR, "TEXT", "", "what to continue; empty starts from BOS"},
            {"max-tokens", KA_OPT_INT, "N", "128", "tokens to add at most"},
            {"temperature", KA_OPT_FLOAT, "T", "0", "0 takes the likeliest token"},
            {"seed", KA_OPT_INT, "S", "42", "of the sampling"},
            {"ids", KA_OPT_FLAG, NULL, NULL, "print token ids, the prompt's too, as a JSON array"},
            {"chat", KA_OPT_FLAG, NULL, NULL,
             "the prompt is a user's message for the model's chat template; print the answer only"},
            {"dtype", KA_OPT_STR, "auto|f32|bf16", "auto", "compute in"},
            KA_OPT_BASE,
            {0}},
    .run = generate_run,
};
