/* SPDX-License-Identifier: Apache-2.0
 * Tries the given form first, then the others, and keeps the first that the template renders
 * without printing a part or an encoded text as such. */
#include "engine/data/chat_fit.h"

#include <string.h>

enum { JOIN = 1, DECODE = 2 };

static bool is_tool(const json_t *message) {
  static const char *const names[] = {"tool", "function", "ipython"};
  const char *role = json_string_value(json_object_get(message, "role"));
  for (size_t i = 0; role && i < sizeof names / sizeof *names; i++)
    if (strcmp(role, names[i]) == 0) return true;
  return false;
}

/* A part's text, NULL when it is none. */
static const json_t *part_text(const json_t *part) {
  if (json_is_string(part)) return part;
  const char *type = json_string_value(json_object_get(part, "type"));
  const json_t *text = json_object_get(part, "text");
  return json_is_string(text) && (!type || strcmp(type, "text") == 0) ? text : NULL;
}

static bool all_text(const json_t *content) {
  const json_t *part;
  size_t i;
  json_array_foreach(content, i, part) {
    if (!part_text(part)) return false;
  }
  return json_array_size(content) > 0;
}

static ka_status check_content(struct ka_ctx *ctx, const json_t *message, size_t index) {
  const json_t *content = json_object_get(message, "content"), *part;
  size_t i;
  if (!content || json_is_null(content) || json_is_string(content) || is_tool(message))
    return KA_STATUS_OK;
  if (!json_is_array(content))
    return ka_fail(ctx, KA_E_INPUT, "messages[%zu].content: expected a text or a list of parts",
                   index);
  json_array_foreach(content, i, part) {
    const char *type = json_string_value(json_object_get(part, "type"));
    if (!part_text(part))
      return ka_fail(ctx, KA_E_INPUT,
                     "messages[%zu].content[%zu]: got a part of type \"%s\", expected {\"type\": "
                     "\"text\", \"text\": a string}",
                     index, i, type ? type : "?");
  }
  return KA_STATUS_OK;
}

/* --- the encoded arguments of a message's calls ----------------------------------------------- */

static json_t *call_at(const json_t *message, size_t i) {
  json_t *call = json_array_get(json_object_get(message, "tool_calls"), i);
  json_t *function = json_object_get(call, "function");
  return json_is_object(function) ? function : call;
}

static size_t n_calls(const json_t *message) {
  return json_array_size(json_object_get(message, "tool_calls"));
}

/* The object that a text of arguments holds (new reference), NULL when it holds none. */
static json_t *decoded(const json_t *call) {
  const json_t *arguments = json_object_get(call, "arguments");
  json_t *v = NULL;
  struct ka_ctx quiet;
  if (!json_is_string(arguments)) return NULL;
  ka_ctx_init(&quiet);
  ka_status st =
      ka_json_parse(&quiet, json_string_value(arguments), json_string_length(arguments), NULL, &v);
  if (ka_ok(st) && json_is_object(v)) return v;
  json_decref(v);
  return NULL;
}

/* What can be changed in the messages: JOIN, DECODE. */
static int choices(const json_t *messages) {
  const json_t *message;
  size_t i;
  int found = 0;
  json_array_foreach(messages, i, message) {
    if (all_text(json_object_get(message, "content"))) found |= JOIN;
    for (size_t k = 0; k < n_calls(message); k++) {
      json_t *v = decoded(call_at(message, k));
      if (v) found |= DECODE;
      json_decref(v);
    }
  }
  return found;
}

/* --- trying ----------------------------------------------------------------------------------- */

static ka_status join(struct ka_ctx *ctx, json_t *message) {
  const json_t *content = json_object_get(message, "content"), *part;
  struct ka_str text = {0};
  size_t i;
  if (!all_text(content)) return KA_STATUS_OK;
  ka_status st = KA_STATUS_OK;
  json_array_foreach(content, i, part) {
    const json_t *one = part_text(part);
    KA_TRY_GOTO(ka_str_append(ctx, &text, json_string_value(one), json_string_length(one)), out);
  }
  st = ka_json_set(ctx, message, "content", json_stringn(text.data ? text.data : "", text.len));
out:
  ka_str_deinit(&text);
  return st;
}

static ka_status change(struct ka_ctx *ctx, json_t *messages, int how) {
  json_t *message;
  size_t i;
  json_array_foreach(messages, i, message) {
    if (how & JOIN) KA_TRY(join(ctx, message));
    for (size_t k = 0; (how & DECODE) && k < n_calls(message); k++) {
      json_t *v = decoded(call_at(message, k));
      if (v) KA_TRY(ka_json_set(ctx, call_at(message, k), "arguments", v));
    }
  }
  return KA_STATUS_OK;
}

static bool holds(const struct ka_str *text, const char *what, size_t n) {
  return text->len > 0 && memmem(text->data, text->len, what, n);
}

/* Does the text hold a message's arguments as a JSON or Python string? */
static ka_status quoted(struct ka_ctx *ctx, const json_t *message, const struct ka_str *text,
                        bool *yes) {
  for (size_t k = 0; k < n_calls(message) && !*yes; k++) {
    const json_t *arguments = json_object_get(call_at(message, k), "arguments");
    struct ka_str form = {0};
    if (!json_is_string(arguments) || json_string_length(arguments) == 0) continue;
    const char *s = json_string_value(arguments);
    ka_status st = ka_json_quote(ctx, &form, s, json_string_length(arguments));
    if (ka_ok(st)) *yes = holds(text, form.data, form.len);
    ka_str_clear(&form);
    if (ka_ok(st)) st = ka_str_printf(ctx, &form, "'%s'", s);
    if (ka_ok(st)) *yes |= holds(text, form.data, form.len);
    ka_str_deinit(&form);
    KA_TRY(st);
  }
  return KA_STATUS_OK;
}

/* Renders; *clean: it went, and shows neither a list of parts nor a text encoded twice. */
static ka_status try_form(struct ka_ctx *ctx, const struct ka_chat *chat,
                          const struct ka_jinja_options *opts, const json_t *vars, bool *clean) {
  static const char *const parts[] = {"'text': ", "\"text\": ", "\"text\":"};
  const json_t *messages = json_object_get(vars, "messages"), *message;
  struct ka_str text = {0};
  bool raw = false;
  size_t i;
  ka_status st = ka_chat_render(ctx, chat, vars, opts, &text, NULL);
  *clean = ka_ok(st);
  if (st.code == KA_E_INPUT) {
    ka_error_clear(ctx);
    st = KA_STATUS_OK;
  }
  json_array_foreach(messages, i, message) {
    bool list = all_text(json_object_get(message, "content"));
    for (size_t k = 0; list && k < sizeof parts / sizeof *parts; k++)
      raw |= holds(&text, parts[k], strlen(parts[k]));
    if (ka_ok(st)) st = quoted(ctx, message, &text, &raw);
  }
  *clean = *clean && !raw;
  ka_str_deinit(&text);
  return st;
}

ka_status ka_chat_fit(struct ka_ctx *ctx, const struct ka_chat *chat,
                      const struct ka_jinja_options *opts, json_t *vars) {
  json_t *messages = json_object_get(vars, "messages"), *given, *message;
  bool clean = false;
  size_t i;
  json_array_foreach(messages, i, message) KA_TRY(check_content(ctx, message, i));
  int possible = choices(messages);
  if (possible == 0) return KA_STATUS_OK;
  given = json_deep_copy(messages);
  if (!given) return ka_fail(ctx, KA_E_MEMORY, "conversation: out of memory");
  ka_status st = KA_STATUS_OK;
  for (int how = 0; how <= (JOIN | DECODE) && ka_ok(st) && !clean; how++) {
    if ((how & ~possible) != 0) continue;
    st = ka_json_set(ctx, vars, "messages", json_deep_copy(given));
    if (ka_ok(st)) st = change(ctx, json_object_get(vars, "messages"), how);
    if (ka_ok(st)) st = try_form(ctx, chat, opts, vars, &clean);
  }
  if (ka_ok(st) && !clean) st = ka_json_set(ctx, vars, "messages", json_incref(given));
  json_decref(given);
  return st;
}
