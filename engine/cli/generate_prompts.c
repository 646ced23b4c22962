/* SPDX-License-Identifier: Apache-2.0
 * See generate_prompts.h. */
#include "engine/cli/generate_prompts.h"

#include "base/file.h"
#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

enum { MAX_BYTES = 1 << 30 };

/* --- files ------------------------------------------------------------------- */

/* poll returns on a signal even where read would go on. */
static ka_status read_stdin(struct ka_ctx *ctx, struct ka_str *out) {
  char buf[1 << 16];
  for (;;) {
    struct pollfd fd = {.fd = STDIN_FILENO, .events = POLLIN};
    int ready = poll(&fd, 1, -1);
    KA_TRY(ka_check_interrupted(ctx, "stdin"));
    if (ready < 0 && errno == EINTR) continue;
    ssize_t n = read(STDIN_FILENO, buf, sizeof buf);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ka_fail(ctx, KA_E_IO, "stdin: %s", strerror(errno));
    if (n == 0) return KA_STATUS_OK;
    if (out->len + (size_t)n > MAX_BYTES)
      return ka_fail(ctx, KA_E_INPUT, "stdin: more than %d bytes", MAX_BYTES);
    KA_TRY(ka_str_append(ctx, out, buf, (size_t)n));
  }
}

static ka_status read_file(struct ka_ctx *ctx, const char *path, struct ka_str *out) {
  return strcmp(path, "-") == 0 ? read_stdin(ctx, out) : ka_read_file(ctx, path, MAX_BYTES, out);
}

static void drop_line_end(struct ka_str *s) {
  if (s->len > 0 && s->data[s->len - 1] == '\n') s->len--;
  if (s->len > 0 && s->data[s->len - 1] == '\r') s->len--;
  if (s->data) s->data[s->len] = 0;
}

/* --- prompts ----------------------------------------------------------------- */

static ka_status add(struct ka_cli_prompts *p, json_t *row, struct ka_cli_prompt **out) {
  struct ka_ctx *ctx = p->ctx;
  void *items = p->items;
  KA_TRY(ka_grow(ctx, &items, &p->cap, p->n + 1, sizeof *p->items, "prompts"));
  p->items = items;
  *out = &p->items[p->n++];
  (*out)->row = json_incref(row);
  return KA_STATUS_OK;
}

static ka_status add_text(struct ka_cli_prompts *p, const char *text, size_t n, json_t *row) {
  struct ka_ctx *ctx = p->ctx;
  struct ka_cli_prompt *item;
  KA_TRY(add(p, row, &item));
  KA_TRY(ka_tokenizer_encode(ctx, p->tokenizer, text, n, true, &item->ids));
  if (item->ids.n > 0) return KA_STATUS_OK;
  int64_t bos = p->bos >= 0 ? p->bos : ka_tokenizer_bos(p->tokenizer);
  void *ids = item->ids.ids;
  if (bos < 0)
    return ka_fail(ctx, KA_E_INPUT, "--prompt: empty, and %s names no bos_token_id to start from",
                   p->model_dir);
  KA_TRY(ka_grow(ctx, &ids, &item->ids.cap, 1, sizeof *item->ids.ids, "token ids"));
  item->ids.ids = ids;
  item->ids.ids[item->ids.n++] = (int32_t)bos;
  return KA_STATUS_OK;
}

/* vars: an object with messages, and what else the template is to see. The template writes BOS. */
static ka_status add_chat(struct ka_cli_prompts *p, json_t *vars, json_t *row) {
  struct ka_ctx *ctx = p->ctx;
  struct ka_cli_prompt *item;
  struct ka_str text = {0};
  p->is_chat = true;
  KA_TRY(add(p, row, &item));
  if (!p->chat) KA_TRY(ka_chat_load_model(ctx, &p->chat, p->model_dir));
  KA_TRY(ka_json_set(ctx, vars, "add_generation_prompt", json_true()));
  ka_status st = ka_chat_render(ctx, p->chat, vars, NULL, &text, NULL);
  if (ka_ok(st))
    st = ka_tokenizer_encode(ctx, p->tokenizer, text.data ? text.data : "", text.len, false,
                             &item->ids);
  ka_str_deinit(&text);
  if (ka_ok(st) && item->ids.n == 0)
    st = ka_fail(ctx, KA_E_INPUT, "the chat template writes nothing for this conversation");
  return st;
}

/* A copy of the conversation with --system's message in front; *out is a new reference. */
static ka_status conversation(struct ka_cli_prompts *p, json_t *row, json_t **out) {
  struct ka_ctx *ctx = p->ctx;
  const char *system = ka_cli_str(p->cli, "system");
  json_t *messages = json_is_array(row) ? row : json_object_get(row, "messages");
  *out = json_is_object(row) ? json_copy(row) : json_object();
  json_t *all = json_array();
  KA_TRY(ka_json_set(ctx, *out, "messages", all));
  if (!json_is_array(messages) || json_array_size(messages) == 0)
    return ka_fail(ctx, KA_E_INPUT,
                   "messages: expected a list of {\"role\": ..., \"content\": ...}");
  const char *role = json_string_value(json_object_get(json_array_get(messages, 0), "role"));
  if (system && role && strcmp(role, "system") == 0)
    return ka_fail(ctx, KA_E_INPUT, "--system: the conversation begins with a system message");
  if (system)
    json_array_append_new(all, json_pack("{s:s, s:s}", "role", "system", "content", system));
  json_array_extend(all, messages);
  return KA_STATUS_OK;
}

static ka_status add_conversation(struct ka_cli_prompts *p, json_t *from, json_t *row) {
  json_t *vars = NULL;
  ka_status st = conversation(p, from, &vars);
  if (ka_ok(st)) st = add_chat(p, vars, row);
  json_decref(vars);
  return st;
}

static ka_status add_prompt(struct ka_cli_prompts *p, const char *text, size_t n, json_t *row) {
  if (!ka_cli_flag(p->cli, "chat") && !ka_cli_given(p->cli, "system"))
    return add_text(p, text, n, row);
  json_t *one = json_pack("[{s:s, s:s%}]", "role", "user", "content", text, n);
  if (!one) return ka_fail(p->ctx, KA_E_INPUT, "--prompt: not valid UTF-8");
  ka_status st = add_conversation(p, one, row);
  json_decref(one);
  return st;
}

/* --- ways to give them ------------------------------------------------------- */

static ka_status read_prompt(struct ka_cli_prompts *p) {
  struct ka_ctx *ctx = p->ctx;
  const char *given = ka_cli_str(p->cli, "prompt");
  struct ka_str text = {0};
  if (given && strcmp(given, "-") != 0) return add_prompt(p, given, strlen(given), NULL);
  if (!given && isatty(STDIN_FILENO))
    return ka_fail(ctx, KA_E_USAGE,
                   "--prompt: missing; give --prompt TEXT, --messages FILE or --prompts FILE, or "
                   "text on stdin");
  ka_status st = read_stdin(ctx, &text);
  drop_line_end(&text);
  if (ka_ok(st)) st = add_prompt(p, text.data ? text.data : "", text.len, NULL);
  ka_str_deinit(&text);
  return st;
}

static ka_status read_audio(struct ka_cli_prompts *p, const char *path) {
  struct ka_ctx *ctx = p->ctx;
  struct ka_cli_prompt *item = NULL;
  const char *text = ka_cli_str(p->cli, "prompt");
  if (ka_cli_flag(p->cli, "chat") || ka_cli_given(p->cli, "system"))
    return ka_fail(ctx, KA_E_USAGE, "--audio: not with --chat or --system");
  if (!p->speech)
    return ka_fail(ctx, KA_E_INPUT,
                   "--audio: %s has no projector.json: the model hears nothing; train it with a "
                   "dataset of type speech",
                   p->model_dir);
  if (!text && p->speech->prompt) {
    text = p->speech->prompt;
    ka_info(ctx, "generate", "behind the sound: \"%.200s\", as in training; --prompt TEXT: another",
            text);
  }
  p->is_chat = true;
  KA_TRY(add(p, NULL, &item));
  return ka_speech_prompt(ctx, p->speech, p->tokenizer, path, text ? text : "",
                          text ? strlen(text) : 0, &item->ids, &item->clip);
}

static ka_status read_messages(struct ka_cli_prompts *p, const char *path) {
  struct ka_ctx *ctx = p->ctx;
  struct ka_str text = {0};
  json_t *root = NULL;
  ka_status st = read_file(ctx, path, &text);
  const char *what = strcmp(path, "-") == 0 ? "stdin" : path;
  if (ka_ok(st)) st = ka_json_parse(ctx, text.data ? text.data : "", text.len, what, &root);
  if (ka_ok(st)) st = add_conversation(p, root, NULL);
  json_decref(root);
  ka_str_deinit(&text);
  return st;
}

static ka_status add_row(struct ka_cli_prompts *p, const char *line, size_t n, bool json,
                         const char *place) {
  struct ka_ctx *ctx = p->ctx;
  json_t *row = NULL;
  if (!json) {
    row = json_pack("{s:s%}", "prompt", line, n);
    if (!row) return ka_fail(ctx, KA_E_INPUT, "not valid UTF-8");
  } else {
    KA_TRY(ka_json_parse(ctx, line, n, place, &row));
  }
  const json_t *prompt = json_is_string(row) ? row : json_object_get(row, "prompt");
  ka_status st;
  if (json_is_array(row) || json_object_get(row, "messages"))
    st = add_conversation(p, row, row);
  else if (json_is_string(prompt))
    st = add_prompt(p, json_string_value(prompt), json_string_length(prompt), row);
  else
    st = ka_fail(ctx, KA_E_INPUT, "expected a \"prompt\" (a text) or \"messages\"");
  json_decref(row);
  return st;
}

static ka_status fail_line(struct ka_ctx *ctx, ka_status st, const char *place) {
  char why[KA_ERROR_MAX / 2];
  if (st.code != KA_E_INPUT || ka_starts_with(ctx->error.message, place)) return st;
  snprintf(why, sizeof why, "%.1000s", ctx->error.message);
  ka_error_clear(ctx);
  return ka_fail(ctx, KA_E_INPUT, "%s: %s", place, why);
}

static ka_status read_batch(struct ka_cli_prompts *p, const char *path) {
  struct ka_ctx *ctx = p->ctx;
  struct ka_str text = {0};
  char place[512];
  bool json = ka_ends_with(path, ".jsonl") || ka_ends_with(path, ".json");
  ka_status st = read_file(ctx, path, &text);
  int line = 0;
  for (size_t i = 0; i < text.len && ka_ok(st);) {
    const char *start = text.data + i, *end = memchr(start, '\n', text.len - i);
    size_t n = end ? (size_t)(end - start) : text.len - i;
    i += n + 1;
    line++;
    if (n > 0 && start[n - 1] == '\r') n--;
    if (strspn(start, " \t\r") >= n) continue;
    snprintf(place, sizeof place, "%.480s:%d", path, line);
    st = fail_line(ctx, add_row(p, start, n, json, place), place);
  }
  ka_str_deinit(&text);
  return ka_ok(st) && p->n == 0 ? ka_fail(ctx, KA_E_INPUT, "%s: no prompt", path) : st;
}

ka_status ka_cli_prompts_read(struct ka_cli_prompts *p) {
  struct ka_ctx *ctx = p->ctx;
  const char *messages = ka_cli_str(p->cli, "messages"), *batch = ka_cli_str(p->cli, "prompts");
  const char *audio = ka_cli_str(p->cli, "audio");
  if (audio && (messages || batch))
    return ka_fail(ctx, KA_E_USAGE, "--audio: not with --messages or --prompts");
  if (ka_cli_given(p->cli, "prompt") + (messages != NULL) + (batch != NULL) > 1)
    return ka_fail(ctx, KA_E_USAGE, "--prompt, --messages and --prompts exclude each other");
  if (batch) return read_batch(p, batch);
  if (messages) return read_messages(p, messages);
  return audio ? read_audio(p, audio) : read_prompt(p);
}

void ka_cli_prompts_close(struct ka_cli_prompts *p) {
  for (int64_t i = 0; i < p->n; i++) {
    ka_tok_tokens_deinit(&p->items[i].ids);
    json_decref(p->items[i].row);
  }
  ka_free(p->items);
  ka_chat_destroy(p->chat);
}
