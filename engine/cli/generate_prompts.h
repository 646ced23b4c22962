/* SPDX-License-Identifier: Apache-2.0
 * What `kappa generate` is to continue: a text, a conversation, or a file of them. */
#ifndef KAPPA_ENGINE_CLI_GENERATE_PROMPTS_H
#define KAPPA_ENGINE_CLI_GENERATE_PROMPTS_H

#include "base/json.h"
#include "engine/cli/cli.h"
#include "engine/data/chat.h"
#include "engine/data/speech.h"
#include "tokenizer/tokenizer.h"

/* Its options, for the table of `generate`. */
#define KA_GENERATE_PROMPT_OPTIONS                                                                 \
  {"prompt", KA_OPT_STR, "TEXT", NULL,                                                             \
   "what to continue (\"\" starts from BOS); - or nothing: stdin, without its last line end"},     \
      {"audio", KA_OPT_STR, "FILE", NULL,                                                          \
       "a sound file to answer, for models with a projector; --prompt is then the text behind "    \
       "it (default: the training data's prompt)"},                                                \
      {"messages", KA_OPT_STR, "FILE", NULL,                                                       \
       "a conversation to answer (- is stdin): JSON, [{\"role\": ..., \"content\": ...}, ...] or " \
       "{\"messages\": [...]}"},                                                                   \
      {"prompts", KA_OPT_STR, "FILE", NULL,                                                        \
       "a batch: JSONL rows with \"prompt\" or \"messages\" (other names: a prompt a line); "      \
       "prints a JSON line for each, with its \"text\""},                                          \
      {"chat", KA_OPT_FLAG, NULL, NULL,                                                            \
       "prompts are a user's message for the model's chat template; print answers only"},          \
  {                                                                                                \
    "system", KA_OPT_STR, "TEXT", NULL, "with --chat: a system message in front"                   \
  }

struct ka_cli_prompt {
  struct ka_tok_tokens ids;   /* at least one */
  struct ka_speech_clip clip; /* of --audio; path NULL: none */
  json_t *row;                /* of --prompts: what stands there; else NULL */
};

struct ka_cli_prompts {
  struct ka_ctx *ctx;
  const struct ka_cli *cli;
  const char *model_dir;
  const struct ka_tokenizer *tokenizer;
  const struct ka_speech *speech; /* NULL: the model hears nothing */
  int64_t bos;                    /* of the model, -1: none */
  struct ka_chat *chat;           /* loaded when it is first wanted */
  bool is_chat;                   /* answers alone are printed */
  struct ka_cli_prompt *items;
  int64_t n, cap;
};

/* The caller has set what stands before `chat`. KA_E_USAGE: none is given, or several ways to;
 * KA_E_INPUT "file:line: ..."; KA_E_INTERRUPTED while waiting for stdin. Close in either case. */
ka_status ka_cli_prompts_read(struct ka_cli_prompts *p);
void ka_cli_prompts_close(struct ka_cli_prompts *p);

#endif
