/* SPDX-License-Identifier: Apache-2.0
 * kappa export: a model as one GGUF file, for llama.cpp and what is built on it. */
#include "base/log.h"
#include "engine/cli/cli.h"
#include "engine/data/chat.h"
#include "engine/formats/gguf_vocab.h"
#include "engine/model/gguf.h"
#include "engine/model/session.h"
#include "engine/report/progress.h"

#include <stdio.h>
#include <string.h>

struct exporting {
  struct ka_session open;
  struct ka_gguf gguf;
  struct ka_chat *chat;
  struct ka_progress bar;
};

static void show_progress(void *user, int64_t n, int64_t of) {
  struct ka_progress *bar = user;
  bar->total = of;
  ka_progress_update(bar, n, "tensors");
}

/* The model's own width: bf16 when its weights are, else all bits of them. */
static enum ka_gguf_type type_of(const struct ka_cli *cli, const struct ka_model *m) {
  const char *word = ka_cli_str(cli, "type");
  if (strcmp(word, "q8_0") == 0) return KA_GGUF_Q8_0;
  if (strcmp(word, "auto") != 0) return strcmp(word, "bf16") == 0 ? KA_GGUF_BF16 : KA_GGUF_F32;
  for (int64_t i = 0; i < m->n_params; i++)
    if (m->params[i].stored.dtype != KA_BF16) return KA_GGUF_F32;
  return KA_GGUF_BF16;
}

/* general.name: the last part of what the model was called by. */
static const char *name_of(const char *model) {
  static char name[128];
  size_t n = strlen(model);
  while (n > 1 && model[n - 1] == '/') n--;
  size_t at = n;
  while (at > 0 && model[at - 1] != '/') at--;
  snprintf(name, sizeof name, "%.*s", (int)(n - at), model + at);
  return name;
}

static ka_status describe_tokens(struct ka_ctx *ctx, struct exporting *e, const char *pre) {
  const char *dir = e->open.source.dir;
  if (!ka_tokenizer_is_in(dir)) {
    ka_warn(ctx, "export", "%s has no tokenizer: the file will take ids, no text", dir);
    return ka_gguf_set_text(&e->gguf, "tokenizer.ggml.model", "none", 4);
  }
  KA_TRY(ka_tokenizer_open(ctx, &e->open.tokenizer, dir));
  KA_TRY(ka_gguf_vocab(&e->gguf, e->open.tokenizer, dir, &e->open.model.config, pre));
  KA_TRY(ka_chat_load_model(ctx, &e->chat, dir));
  const char *text = ka_chat_text(e->chat);
  if (!text) return KA_STATUS_OK;
  return ka_gguf_set_text(&e->gguf, "tokenizer.chat_template", text, strlen(text));
}

/* GGUF files of a decoder have no place for what stands in front of it. */
static ka_status warn_of_projector(struct ka_ctx *ctx, struct exporting *e) {
  const char *path;
  KA_TRY(ka_path_join(&e->open.model.meta, &path, e->open.source.dir, "projector.safetensors"));
  if (ka_path_exists(path))
    ka_warn(ctx, "export", "%s stays behind: the GGUF file reads text and hears nothing", path);
  return KA_STATUS_OK;
}

static ka_status write_file(struct ka_ctx *ctx, struct exporting *e, const struct ka_cli *cli) {
  const char *path = ka_cli_arg(cli, 1);
  struct ka_model *m = &e->open.model;
  char size[32];
  KA_TRY(ka_session_open(ctx, &e->open, ka_cli_arg(cli, 0), ka_cli_str(cli, "base"), "cpu"));
  KA_TRY(ka_model_open_source(ctx, m, &e->open.dev, &e->open.source, KA_F32));
  KA_TRY(warn_of_projector(ctx, e));
  KA_TRY(ka_model_gguf_plan(m, &e->gguf, type_of(cli, m), name_of(ka_cli_arg(cli, 0))));
  KA_TRY(describe_tokens(ctx, e, ka_cli_str(cli, "pre")));
  KA_TRY(ka_gguf_begin(&e->gguf, path));
  KA_TRY(ka_model_gguf_write(m, &e->gguf, show_progress, &e->bar));
  KA_TRY(ka_gguf_commit(&e->gguf));
  ka_progress_end(&e->bar);
  printf("%s: %lld tensors, %s\n", path, (long long)e->gguf.n_tensors,
         ka_fmt_bytes((double)e->gguf.end, size));
  return KA_STATUS_OK;
}

static ka_status export_run(struct ka_ctx *ctx, const struct ka_cli *cli) {
  struct exporting e = {0};
  const char *path = ka_cli_arg(cli, 1);
  size_t n = strlen(path);
  if (n < 6 || !ka_ends_with(path, ".gguf"))
    return ka_fail(ctx, KA_E_USAGE, "%s: expected a name that ends in .gguf", path);
  if (ka_path_exists(path)) return ka_fail(ctx, KA_E_INPUT, "%s is there already", path);
  ka_gguf_init(&e.gguf, ctx);
  ka_progress_begin(ctx, &e.bar, "export", 0, 1);
  ka_status st = write_file(ctx, &e, cli);
  ka_progress_end(&e.bar);
  ka_chat_destroy(e.chat);
  ka_gguf_deinit(&e.gguf);
  ka_session_close(&e.open);
  return st;
}

static const struct ka_cli_option options[] = {
    {"type", KA_OPT_STR, "auto|f32|bf16|q8_0", "auto",
     "of matrices; auto: bf16 when the model's are, else f32"},
    {"pre", KA_OPT_STR, "NAME", NULL,
     "llama.cpp's name for how its tokenizer splits text (default: found)"},
    KA_OPT_BASE,
    {0}};

const struct ka_cli_command ka_command_export = {
    .name = "export",
    .args = "MODEL OUT.gguf",
    .summary = "a model as a GGUF file, for llama.cpp, Ollama, LM Studio",
    .example = "kappa export out model.gguf --type q8_0",
    .min_args = 2,
    .max_args = 2,
    .options = options,
    .run = export_run,
};
