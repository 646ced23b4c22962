/* SPDX-License-Identifier: Apache-2.0
 * Finding a model's chat templates and named tokens; the variables of a rendering. */
#include "engine/data/chat.h"

#include "base/file.h"

#include <string.h>

struct chat_template {
  const char *name; /* from the arena */
  struct ka_jinja *jinja;
  const char *text;
  const char *error; /* why jinja is NULL: a template besides the default one that does not parse */
};

struct ka_chat {
  struct ka_arena arena;
  struct chat_template *templates;
  int64_t n, cap;
  json_t *tokens;    /* object of strings */
  const char *where; /* for messages */
};

/* --- loading ---------------------------------------------------------------------------------- */

static ka_status add_template(struct ka_ctx *ctx, struct ka_chat *chat, const char *name,
                              const char *where, const char *text, size_t n) {
  for (int64_t i = 0; i < chat->n; i++)
    if (strcmp(chat->templates[i].name, name) == 0)
      return ka_fail(ctx, KA_E_INPUT, "%s: two chat templates are named \"%s\"", where, name);
  void *items = chat->templates;
  KA_TRY(ka_grow(ctx, &items, &chat->cap, chat->n + 1, sizeof *chat->templates, "chat templates"));
  chat->templates = items;
  struct chat_template *t = &chat->templates[chat->n];
  KA_TRY(ka_arena_str(&chat->arena, &t->name, name, strlen(name)));
  KA_TRY(ka_arena_str(&chat->arena, &t->text, text, n));
  ka_status st = ka_jinja_parse(ctx, &t->jinja, KA_JINJA_CHAT, where, text, n);
  if (st.code == KA_E_INPUT && strcmp(name, "default") != 0) { /* told when it is wanted */
    KA_TRY(ka_arena_str(&chat->arena, &t->error, ctx->error.message, strlen(ctx->error.message)));
    ka_error_clear(ctx);
    st = KA_STATUS_OK;
  }
  KA_TRY(st);
  chat->n++;
  return KA_STATUS_OK;
}

static ka_status add_template_file(struct ka_ctx *ctx, struct ka_chat *chat, const char *name,
                                   const char *path) {
  struct ka_str text = {0};
  ka_status st = ka_read_file(ctx, path, (size_t)16 << 20, &text);
  if (ka_ok(st)) st = add_template(ctx, chat, name, path, text.data ? text.data : "", text.len);
  ka_str_deinit(&text);
  return st;
}

static ka_status load_jinja_files(struct ka_ctx *ctx, struct ka_chat *chat, const char *dir) {
  const char *path, *more, **names = NULL;
  int64_t n = 0;
  KA_TRY(ka_path_join(&chat->arena, &path, dir, "chat_template.jinja"));
  if (ka_path_exists(path)) KA_TRY(add_template_file(ctx, chat, "default", path));
  KA_TRY(ka_path_join(&chat->arena, &more, dir, "additional_chat_templates"));
  if (!ka_path_is_dir(more)) return KA_STATUS_OK;
  KA_TRY(ka_list_dir(&chat->arena, more, &names, &n));
  for (int64_t i = 0; i < n; i++) {
    if (!ka_ends_with(names[i], ".jinja")) continue;
    const char *name;
    KA_TRY(ka_path_join(&chat->arena, &path, more, names[i]));
    KA_TRY(ka_arena_str(&chat->arena, &name, names[i], strlen(names[i]) - strlen(".jinja")));
    KA_TRY(add_template_file(ctx, chat, name, path));
  }
  return KA_STATUS_OK;
}

static ka_status load_config_templates(struct ka_ctx *ctx, struct ka_chat *chat, const char *path,
                                       const json_t *config) {
  const json_t *t = json_object_get(config, "chat_template");
  const char *where;
  if (!t || json_is_null(t)) return KA_STATUS_OK;
  if (json_is_string(t)) {
    KA_TRY(ka_arena_printf(&chat->arena, &where, "%s: chat_template", path));
    return add_template(ctx, chat, "default", where, json_string_value(t), json_string_length(t));
  }
  if (!json_is_array(t))
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: key \"chat_template\": expected a string or a list of {name, template}",
                   path);
  size_t i;
  const json_t *one;
  json_array_foreach(t, i, one) {
    const json_t *text = json_object_get(one, "template");
    const char *name = json_string_value(json_object_get(one, "name"));
    if (!name || !json_is_string(text))
      return ka_fail(ctx, KA_E_INPUT, "%s: chat_template[%zu]: expected {name, template}", path, i);
    KA_TRY(ka_arena_printf(&chat->arena, &where, "%s: chat_template \"%s\"", path, name));
    KA_TRY(add_template(ctx, chat, name, where, json_string_value(text), json_string_length(text)));
  }
  return KA_STATUS_OK;
}

/* Takes the members that name tokens: "..._token", a string or {"content": string}. */
static ka_status take_tokens(struct ka_ctx *ctx, struct ka_chat *chat, const json_t *from,
                             bool any_name) {
  const char *key;
  json_t *v;
  json_object_foreach((json_t *)(uintptr_t)from, key, v) {
    json_t *text = json_is_object(v) ? json_object_get(v, "content") : v;
    if (!json_is_string(text) || !(any_name || ka_ends_with(key, "_token"))) continue;
    if (json_object_set(chat->tokens, key, text) != 0)
      return ka_fail(ctx, KA_E_MEMORY, "special tokens");
  }
  return KA_STATUS_OK;
}

static ka_status load_json(struct ka_ctx *ctx, struct ka_chat *chat, const char *dir,
                           const char *name, const char **path, json_t **out) {
  *out = NULL;
  KA_TRY(ka_path_join(&chat->arena, path, dir, name));
  if (!ka_path_exists(*path)) return KA_STATUS_OK;
  KA_TRY(ka_json_load(ctx, *path, out));
  if (json_is_object(*out)) return KA_STATUS_OK;
  json_decref(*out);
  *out = NULL;
  return ka_fail(ctx, KA_E_INPUT, "%s: expected a JSON object", *path);
}

/* Tokens, and templates too if the directory has no .jinja files and they are wanted. */
static ka_status load_config(struct ka_ctx *ctx, struct ka_chat *chat, const char *dir,
                             bool templates) {
  ka_status st = KA_STATUS_OK;
  const char *path;
  json_t *config = NULL, *map = NULL;
  KA_TRY_GOTO(load_json(ctx, chat, dir, "tokenizer_config.json", &path, &config), out);
  if (config) {
    KA_TRY_GOTO(take_tokens(ctx, chat, config, false), out);
    const json_t *extra = json_object_get(config, "extra_special_tokens");
    if (json_is_object(extra)) KA_TRY_GOTO(take_tokens(ctx, chat, extra, true), out);
    extra = json_object_get(config, "model_specific_special_tokens");
    if (json_is_object(extra)) KA_TRY_GOTO(take_tokens(ctx, chat, extra, true), out);
    if (templates) KA_TRY_GOTO(load_config_templates(ctx, chat, path, config), out);
  }
  if (!json_object_get(config, "added_tokens_decoder")) { /* else transformers ignores the map */
    KA_TRY_GOTO(load_json(ctx, chat, dir, "special_tokens_map.json", &path, &map), out);
    if (map) KA_TRY_GOTO(take_tokens(ctx, chat, map, false), out);
  }
out:
  json_decref(config);
  json_decref(map);
  return st;
}

static ka_status create(struct ka_ctx *ctx, struct ka_chat **out, const char *where) {
  *out = NULL;
  struct ka_chat *chat;
  KA_TRY(KA_NEW_HEAP(ctx, &chat, 1, "chat templates"));
  ka_arena_init(&chat->arena, ctx, "chat templates");
  chat->tokens = json_object();
  ka_status st = ka_arena_str(&chat->arena, &chat->where, where, strlen(where));
  if (ka_ok(st) && !chat->tokens) st = ka_fail(ctx, KA_E_MEMORY, "special tokens");
  if (!ka_ok(st)) {
    ka_chat_destroy(chat);
    return st;
  }
  *out = chat;
  return st;
}

ka_status ka_chat_load_model(struct ka_ctx *ctx, struct ka_chat **out, const char *model_dir) {
  struct ka_chat *chat = NULL;
  *out = NULL;
  KA_TRY(create(ctx, &chat, model_dir));
  ka_status st = load_jinja_files(ctx, chat, model_dir);
  if (ka_ok(st)) st = load_config(ctx, chat, model_dir, chat->n == 0);
  if (!ka_ok(st)) {
    ka_chat_destroy(chat);
    return ka_trace(ctx, st, __FILE__, __LINE__);
  }
  *out = chat;
  return st;
}

ka_status ka_chat_load_text(struct ka_ctx *ctx, struct ka_chat **out, const char *name,
                            const char *text, size_t n, const char *model_dir) {
  struct ka_chat *chat = NULL;
  *out = NULL;
  KA_TRY(create(ctx, &chat, name));
  ka_status st = add_template(ctx, chat, "default", name, text, n);
  if (ka_ok(st) && model_dir) st = load_config(ctx, chat, model_dir, false);
  if (!ka_ok(st)) {
    ka_chat_destroy(chat);
    return ka_trace(ctx, st, __FILE__, __LINE__);
  }
  *out = chat;
  return st;
}

ka_status ka_chat_load_file(struct ka_ctx *ctx, struct ka_chat **out, const char *jinja_path,
                            const char *model_dir) {
  struct ka_str text = {0};
  const char *own = ka_chat_builtin(jinja_path);
  *out = NULL;
  if (own) return ka_chat_load_text(ctx, out, jinja_path, own, strlen(own), model_dir);
  if (strstr(jinja_path, "{%") || strstr(jinja_path, "{{"))
    return ka_chat_load_text(ctx, out, "chat_template", jinja_path, strlen(jinja_path), model_dir);
  ka_status st = ka_read_file(ctx, jinja_path, (size_t)16 << 20, &text);
  if (ka_ok(st))
    st = ka_chat_load_text(ctx, out, jinja_path, text.data ? text.data : "", text.len, model_dir);
  ka_str_deinit(&text);
  return st;
}

void ka_chat_destroy(struct ka_chat *chat) {
  if (!chat) return;
  for (int64_t i = 0; i < chat->n; i++) ka_jinja_destroy(chat->templates[i].jinja);
  ka_free(chat->templates);
  json_decref(chat->tokens);
  ka_arena_deinit(&chat->arena);
  ka_free(chat);
}

/* --- asking ----------------------------------------------------------------------------------- */

bool ka_chat_has_template(const struct ka_chat *chat) { return chat->n > 0; }

const char *ka_chat_token(const struct ka_chat *chat, const char *name) {
  return json_string_value(json_object_get(chat->tokens, name));
}

ka_status ka_chat_set_token(struct ka_ctx *ctx, struct ka_chat *chat, const char *name,
                            const char *text) {
  return ka_json_set(ctx, chat->tokens, name, json_string(text));
}

static const struct chat_template *find(const struct ka_chat *chat, const char *name) {
  for (int64_t i = 0; i < chat->n; i++)
    if (strcmp(chat->templates[i].name, name) == 0) return &chat->templates[i];
  return NULL;
}

const char *ka_chat_text(const struct ka_chat *chat) {
  const struct chat_template *t = find(chat, "default");
  return t ? t->text : NULL;
}

ka_status ka_chat_template(struct ka_ctx *ctx, const struct ka_chat *chat, const char *name,
                           bool with_tools, const struct ka_jinja **out) {
  *out = NULL;
  if (chat->n == 0)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: the model has no chat template (chat_template.jinja, or chat_template in "
                   "tokenizer_config.json)",
                   chat->where);
  const struct chat_template *t = NULL;
  if (name)
    t = find(chat, name);
  else if (with_tools)
    t = find(chat, "tool_use");
  if (!t && !name) t = find(chat, "default");
  if (t && t->error) return ka_fail(ctx, KA_E_INPUT, "%s", t->error);
  if (t) {
    *out = t->jinja;
    return KA_STATUS_OK;
  }
  struct ka_str names = {0};
  for (int64_t i = 0; i < chat->n; i++)
    KA_TRY(ka_str_printf(ctx, &names, "%s%s", i ? ", " : "", chat->templates[i].name));
  ka_status st = ka_fail(ctx, KA_E_INPUT, "%s: no chat template \"%s\"; there are: %s", chat->where,
                         name ? name : "default", names.data);
  ka_str_deinit(&names);
  return st;
}

/* --- rendering -------------------------------------------------------------------------------- */

/* The first of the three names under which messages carry reasoning. */
static json_t *reasoning_of(const json_t *message) {
  static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    json_t *v = json_object_get(message, names[i]);
    if (v && !json_is_null(v)) return v;
  }
  return NULL;
}

/* message without its null members, its reasoning under the names that templates read. */
static json_t *plain_message(const json_t *message) {
  json_t *out = json_object(), *reasoning = reasoning_of(message), *v;
  const char *key;
  int bad = !out;
  if (!bad && reasoning) bad = json_object_set(out, "thinking", reasoning);
  json_object_foreach((json_t *)(uintptr_t)message, key, v) {
    if (!bad && !json_is_null(v)) bad = json_object_set(out, key, v);
  }
  if (!bad && reasoning) bad = json_object_set(out, "reasoning_content", reasoning);
  if (!bad) return out;
  json_decref(out);
  return NULL;
}

static ka_status check_objects(struct ka_ctx *ctx, const struct ka_chat *chat, const json_t *vars,
                               const char *key) {
  const json_t *list = json_object_get(vars, key), *v;
  size_t i;
  if (!list || json_is_null(list)) return KA_STATUS_OK;
  if (!json_is_array(list))
    return ka_fail(ctx, KA_E_INPUT, "%s: chat variable \"%s\": expected an array", chat->where,
                   key);
  json_array_foreach(list, i, v) {
    if (!json_is_object(v))
      return ka_fail(ctx, KA_E_INPUT, "%s: %s[%zu]: expected an object", chat->where, key, i);
  }
  return KA_STATUS_OK;
}

static ka_status fill_variables(struct ka_ctx *ctx, const struct ka_chat *chat, const json_t *vars,
                                json_t *all) {
  const json_t *messages = json_object_get(vars, "messages"), *m;
  json_t *plain;
  size_t i;
  KA_TRY(check_objects(ctx, chat, vars, "messages"));
  KA_TRY(check_objects(ctx, chat, vars, "tools"));
  KA_TRY(check_objects(ctx, chat, vars, "documents"));
  if (json_array_size(messages) == 0)
    return ka_fail(ctx, KA_E_INPUT, "%s: the conversation has no messages", chat->where);
  KA_TRY(ka_json_set(ctx, all, "tools", json_null()));
  KA_TRY(ka_json_set(ctx, all, "documents", json_null()));
  KA_TRY(ka_json_set(ctx, all, "add_generation_prompt", json_false()));
  if (json_object_update(all, chat->tokens) != 0 ||
      json_object_update(all, (json_t *)(uintptr_t)vars) != 0)
    return ka_fail(ctx, KA_E_MEMORY, "chat variables");
  KA_TRY(ka_json_set(ctx, all, "messages", json_array()));
  plain = json_object_get(all, "messages");
  json_array_foreach(messages, i, m) { KA_TRY(ka_json_append(ctx, plain, plain_message(m))); }
  return KA_STATUS_OK;
}

ka_status ka_chat_render(struct ka_ctx *ctx, const struct ka_chat *chat, const json_t *vars,
                         const struct ka_jinja_options *opts, struct ka_str *out,
                         struct ka_jinja_spans *spans) {
  const struct ka_jinja *jinja = NULL;
  const json_t *tools = json_object_get(vars, "tools");
  KA_TRY(ka_chat_template(ctx, chat, NULL, tools && !json_is_null(tools), &jinja));
  json_t *all = json_object();
  if (!all) return ka_fail(ctx, KA_E_MEMORY, "chat variables");
  ka_status st = fill_variables(ctx, chat, vars, all);
  if (ka_ok(st)) st = ka_jinja_render(ctx, jinja, all, opts, out, spans);
  json_decref(all);
  return st;
}
