/* SPDX-License-Identifier: Apache-2.0
 * kappa generate: text from a model, greedy or sampled, as it comes; or answers to a file of
 * prompts, several side by side. What is continued is read in generate_prompts.c. */
#include "base/json.h"
#include "base/log.h"
#include "engine/cli/generate_prompts.h"
#include "engine/eval/generator.h"
#include "engine/model/decode.h"
#include "engine/model/session.h"
#include "engine/report/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH_ROWS = 4096 };

struct generation {
  struct ka_ctx *ctx;
  const struct ka_cli *cli;
  struct ka_session open;
  struct ka_speech speech; /* with has_speech: the model has a projector */
  bool has_speech;
  struct ka_decoder decoder;
  struct ka_cli_prompts prompts;
  struct ka_eval_sampling sampling;
  struct ka_key_texts stop;
  size_t longest_stop;
  struct ka_tok_decode_stream stream;
  struct ka_str text; /* decoded, not yet printed */
  bool print_text, stopped;
  struct ka_progress bar;
};

/* --- one prompt, as it comes ------------------------------------------------- */

static void print(struct generation *g, size_t n) {
  fwrite(g->text.data, 1, n, stdout);
  fflush(stdout);
  memmove(g->text.data, g->text.data + n, g->text.len - n);
  g->text.len -= n;
}

/* Prints what can no longer be the beginning of a text that ends answers. */
static void print_settled(struct generation *g, bool last) {
  size_t hold = last || g->longest_stop == 0 ? 0 : g->longest_stop - 1, end = g->text.len;
  for (int64_t i = 0; i < g->stop.n; i++) {
    const char *stop = g->stop.items[i];
    const char *at = end > 0 ? memmem(g->text.data, end, stop, strlen(stop)) : NULL;
    if (!at) continue;
    end = (size_t)(at - g->text.data);
    g->stopped = true;
  }
  if (g->stopped) hold = 0;
  if (end > hold) print(g, end - hold);
  if (g->stopped) ka_str_clear(&g->text);
}

/* answer: of the model; else of the prompt, where nothing is looked for. */
static ka_status show_id(struct generation *g, int32_t id, bool answer) {
  struct ka_ctx *ctx = g->ctx;
  if (!g->print_text) return KA_STATUS_OK;
  KA_TRY(ka_tok_decode_stream_push(ctx, &g->stream, g->open.tokenizer, id, &g->text));
  if (answer)
    print_settled(g, false);
  else if (g->text.len > 0)
    print(g, g->text.len);
  return KA_STATUS_OK;
}

static ka_status add_id(struct generation *g, struct ka_tok_tokens *to, int32_t id) {
  struct ka_ctx *ctx = g->ctx;
  void *ids = to->ids;
  KA_TRY(ka_grow(ctx, &ids, &to->cap, to->n + 1, sizeof *to->ids, "token ids"));
  to->ids = ids;
  to->ids[to->n++] = id;
  return KA_STATUS_OK;
}

static ka_status read_frames(void *user, int64_t i, float *frames) {
  const struct generation *g = user;
  return ka_speech_frames(g->ctx, &g->speech, &g->prompts.items[i].clip, frames);
}

static ka_status generate(struct generation *g, int64_t max_tokens) {
  struct ka_ctx *ctx = g->ctx;
  const struct ka_speech_clip *sound = &g->prompts.items[0].clip;
  const struct ka_clip clip = {sound->n_frames, sound->at, sound->n_places};
  const struct ka_clips clips = {.n = 1,
                                 .width = g->speech.projector.n_features,
                                 .items = &clip,
                                 .read = read_frames,
                                 .user = g};
  if (sound->path) g->decoder.clips = &clips;
  struct ka_tok_tokens *ids = &g->prompts.items[0].ids;
  int64_t V = g->open.model.recipe.V;
  void *logits, *heap;
  KA_TRY(ka_arena_alloc_n(&g->open.model.meta, &logits, V, sizeof(float), "logits"));
  KA_TRY(ka_arena_alloc_n(&g->open.model.meta, &heap, V, sizeof(int32_t), "logits"));
  if (!g->prompts.is_chat)
    for (int64_t i = 0; i < ids->n; i++) KA_TRY(show_id(g, ids->ids[i], false));
  if (max_tokens > 0) KA_TRY(ka_decoder_push(&g->decoder, ids->ids, ids->n, logits, NULL));
  for (int64_t i = 0; i < max_tokens; i++) {
    int32_t id = 0;
    KA_TRY(ka_eval_sample(ctx, &g->sampling, logits, V, heap, (uint64_t)ka_cli_int(g->cli, "seed"),
                          (uint64_t)i, &id));
    KA_TRY(add_id(g, ids, id));
    if (ka_hf_is_eos(&g->open.model.config, id)) break;
    KA_TRY(show_id(g, id, true));
    if (g->stopped || ka_interrupted(ctx)) break;
    ka_status st = KA_STATUS_OK;
    if (i + 1 < max_tokens) st = ka_decoder_push(&g->decoder, &id, 1, logits, NULL);
    if (st.code == KA_E_INTERRUPTED) break; /* run_one says it behind what there is */
    KA_TRY(st);
  }
  return KA_STATUS_OK;
}

static ka_status finish(struct generation *g) {
  struct ka_ctx *ctx = g->ctx;
  const struct ka_tok_tokens *ids = &g->prompts.items[0].ids;
  if (g->print_text) {
    if (!g->stopped)
      KA_TRY(ka_tok_decode_stream_flush(ctx, &g->stream, g->open.tokenizer, &g->text));
    print_settled(g, true);
    puts("");
    return KA_STATUS_OK;
  }
  for (int64_t i = 0; i < ids->n; i++) printf("%s%d", i ? ", " : "[", ids->ids[i]);
  puts("]");
  return KA_STATUS_OK;
}

static ka_status run_one(struct generation *g, int64_t max_tokens) {
  struct ka_ctx *ctx = g->ctx;
  KA_TRY(ka_decoder_init(&g->decoder, &g->open.model, g->prompts.items[0].ids.n + max_tokens));
  g->print_text = !ka_cli_flag(g->cli, "ids");
  g->stream.skip_special = true;
  KA_TRY(generate(g, max_tokens));
  KA_TRY(finish(g));
  return ka_check_interrupted(ctx, "generation");
}

/* --- a batch ----------------------------------------------------------------- */

static void show(void *user, int64_t n_done) {
  ka_progress_update(&((struct generation *)user)->bar, n_done, "");
}

static ka_status print_row(struct ka_ctx *ctx, const struct ka_cli_prompt *p,
                           const struct ka_eval_prompt *answer) {
  json_t *out = json_is_object(p->row)  ? json_copy(p->row)
                : json_is_array(p->row) ? json_pack("{s:O}", "messages", p->row)
                                        : json_pack("{s:O}", "prompt", p->row);
  json_t *text = json_stringn(answer->text.data ? answer->text.data : "", answer->text.len);
  ka_status st = ka_json_set(ctx, out, "text", text);
  char *line = ka_ok(st) ? json_dumps(out, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
  if (ka_ok(st) && !line) st = ka_fail(ctx, KA_E_MEMORY, "answers: out of memory");
  if (line) puts(line);
  free(line);
  json_decref(out);
  return st;
}

/* Of the answers' tokens, not the prompts'. */
static void say_end(struct ka_ctx *ctx, const struct ka_eval_prompt *list, int64_t n,
                    double seconds) {
  char parts[64];
  int64_t n_tok = 0;
  for (int64_t i = 0; i < n; i++) n_tok += list[i].n_new;
  snprintf(parts, sizeof parts, "%lld answers", (long long)n);
  ka_progress_done(ctx, "generate", parts, n_tok, seconds);
}

static ka_status answer_all(struct generation *g, struct ka_eval_prompt *list, int64_t n,
                            int64_t max_tokens) {
  struct ka_ctx *ctx = g->ctx;
  int64_t longest = 1;
  for (int64_t i = 0; i < n; i++) {
    const struct ka_tok_tokens *ids = &g->prompts.items[i].ids;
    list[i] = (struct ka_eval_prompt){.ids = ids->ids, .n = ids->n, .draw = (uint64_t)i};
    if (ids->n > longest) longest = ids->n;
  }
  g->open.model.max_position = longest + max_tokens;
  KA_TRY(ka_model_prepare(&g->open.model, 1, BATCH_ROWS, false));
  const struct ka_eval_generation o = {.tokenizer = g->open.tokenizer,
                                       .until = &g->stop,
                                       .max_tokens = max_tokens,
                                       .sampling = g->sampling,
                                       .seed = (uint64_t)ka_cli_int(g->cli, "seed"),
                                       .progress = show,
                                       .user = g};
  ka_progress_begin(ctx, &g->bar, "generate", 0, n);
  double begin = ka_now_s();
  ka_status st = ka_eval_generate_answers(ctx, &g->open.model, list, n, &o);
  double seconds = ka_now_s() - begin;
  ka_progress_end(&g->bar);
  for (int64_t i = 0; i < n && ka_ok(st); i++) st = print_row(ctx, &g->prompts.items[i], &list[i]);
  if (ka_ok(st)) say_end(ctx, list, n, seconds);
  return st;
}

static ka_status run_batch(struct generation *g, int64_t max_tokens) {
  struct ka_ctx *ctx = g->ctx;
  int64_t n = g->prompts.n;
  void *list;
  if (ka_cli_flag(g->cli, "ids"))
    return ka_fail(ctx, KA_E_USAGE, "--ids: not with --prompts; `kappa tokenize` gives ids");
  if (max_tokens < 1) return ka_fail(ctx, KA_E_USAGE, "--max-tokens: got 0, expected 1 or more");
  KA_TRY(ka_alloc_n(ctx, &list, n, sizeof(struct ka_eval_prompt), "prompts"));
  ka_status st = answer_all(g, list, n, max_tokens);
  for (int64_t i = 0; i < n; i++) ka_str_deinit(&((struct ka_eval_prompt *)list)[i].text);
  ka_free(list);
  return st;
}

/* --- the command ------------------------------------------------------------- */

/* bf16 files compute in bf16 where that is fast, all others in f32. */
static enum ka_dtype compute_type(const struct generation *g) {
  const char *word = ka_cli_str(g->cli, "dtype");
  if (strcmp(word, "auto") != 0) return strcmp(word, "bf16") == 0 ? KA_BF16 : KA_F32;
  return g->open.dev.has_bf16 && g->open.model.n_params > 0 &&
                 g->open.model.params[0].stored.dtype == KA_BF16
             ? KA_BF16
             : KA_F32;
}

static ka_status in_range(struct generation *g, const char *option, double most) {
  double v = ka_cli_float(g->cli, option);
  if (v >= 0 && v <= most) return KA_STATUS_OK;
  return ka_fail(g->ctx, KA_E_USAGE, "--%s: got %g, expected 0 to %g", option, v, most);
}

static ka_status read_options(struct generation *g) {
  struct ka_ctx *ctx = g->ctx;
  int64_t top_k = ka_cli_int(g->cli, "top-k");
  KA_TRY(in_range(g, "temperature", 1e6));
  KA_TRY(in_range(g, "top-p", 1));
  KA_TRY(in_range(g, "min-p", 1));
  if (top_k < 0)
    return ka_fail(ctx, KA_E_USAGE, "--top-k: got %lld, expected 0 or more", (long long)top_k);
  g->sampling = (struct ka_eval_sampling){.temperature = ka_cli_float(g->cli, "temperature"),
                                          .top_p = ka_cli_float(g->cli, "top-p"),
                                          .min_p = ka_cli_float(g->cli, "min-p"),
                                          .top_k = top_k};
  static const char *const of_draws[] = {"top-p", "min-p", "top-k"};
  for (int i = 0; i < 3; i++)
    if (ka_cli_given(g->cli, of_draws[i]) && g->sampling.temperature == 0)
      return ka_fail(ctx, KA_E_USAGE, "--%s: without meaning unless --temperature is above 0",
                     of_draws[i]);
  const char *const *stop;
  g->stop.n = ka_cli_list(g->cli, "stop", &stop);
  g->stop.items = (const char **)(uintptr_t)stop;
  for (int64_t i = 0; i < g->stop.n; i++) {
    size_t n = strlen(stop[i]);
    if (n == 0) return ka_fail(ctx, KA_E_USAGE, "--stop: got an empty text");
    if (n > g->longest_stop) g->longest_stop = n;
  }
  return KA_STATUS_OK;
}

static ka_status run(struct generation *g) {
  struct ka_ctx *ctx = g->ctx;
  int64_t max_tokens = ka_cli_int(g->cli, "max-tokens"), most = 0;
  if (max_tokens < 0 || max_tokens > 1 << 24)
    return ka_fail(ctx, KA_E_USAGE, "--max-tokens: got %lld, expected 0 to %d",
                   (long long)max_tokens, 1 << 24);
  KA_TRY(read_options(g));
  KA_TRY(ka_session_open(ctx, &g->open, ka_cli_arg(g->cli, 0), ka_cli_str(g->cli, "base"),
                         ka_cli_str(g->cli, "device")));
  KA_TRY(ka_session_load(ctx, &g->open, KA_F32, true));
  KA_TRY(ka_speech_open(&g->open.model, &g->speech, g->open.source.dir, &g->has_speech));
  g->open.model.compute = compute_type(g);
  g->prompts = (struct ka_cli_prompts){.ctx = ctx,
                                       .cli = g->cli,
                                       .model_dir = g->open.source.dir,
                                       .tokenizer = g->open.tokenizer,
                                       .speech = g->has_speech ? &g->speech : NULL,
                                       .bos = g->open.model.config.bos_token_id};
  KA_TRY(ka_cli_prompts_read(&g->prompts));
  for (int64_t i = 0; i < g->prompts.n; i++)
    if (g->prompts.items[i].ids.n > most) most = g->prompts.items[i].ids.n;
  int64_t longest = g->open.model.recipe.max_positions;
  if (most + max_tokens > longest)
    ka_warn(ctx, "generate", "up to %lld tokens, the model was made for %lld",
            (long long)(most + max_tokens), (long long)longest);
  return ka_cli_given(g->cli, "prompts") ? run_batch(g, max_tokens) : run_one(g, max_tokens);
}

static ka_status generate_run(struct ka_ctx *ctx, const struct ka_cli *cli) {
  struct generation g = {.ctx = ctx, .cli = cli};
  ka_status st = run(&g);
  ka_tok_decode_stream_deinit(&g.stream);
  ka_str_deinit(&g.text);
  ka_cli_prompts_close(&g.prompts);
  ka_decoder_deinit(&g.decoder);
  ka_session_close(&g.open);
  return st;
}

const struct ka_cli_command ka_command_generate = {
    .name = "generate",
    .args = "MODEL [--prompt TEXT | --messages FILE | --prompts FILE]",
    .summary = "text from a model, greedy or sampled",
    .example = "kappa generate path/to/model --prompt \"Once upon a time\" --max-tokens 50",
    .min_args = 1,
    .max_args = 1,
    .options =
        (const struct ka_cli_option[]){
            KA_GENERATE_PROMPT_OPTIONS,
            {"max-tokens", KA_OPT_INT, "N", "128", "tokens to add at most"},
            {"temperature", KA_OPT_FLOAT, "T", "0", "0 takes the likeliest token"},
            {"top-p", KA_OPT_FLOAT, "P", "1",
             "draw among the likeliest tokens that have P of the probability together"},
            {"top-k", KA_OPT_INT, "K", "0", "draw among the K likeliest tokens; 0: all"},
            {"min-p", KA_OPT_FLOAT, "P", "0",
             "draw among tokens that have P of the likeliest one's probability"},
            {"stop", KA_OPT_LIST, "TEXT", NULL, "texts that end an answer, left out themselves"},
            {"seed", KA_OPT_INT, "S", "42", "of the sampling"},
            {"ids", KA_OPT_FLAG, NULL, NULL, "print token ids, the prompt's too, as a JSON array"},
            {"dtype", KA_OPT_STR, "auto|f32|bf16", "auto", "compute in"},
            KA_OPT_BASE,
            {0}},
    .run = generate_run,
};
