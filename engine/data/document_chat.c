/* SPDX-License-Identifier: Apache-2.0
 * Rows of messages. The whole conversation is rendered once and tokenised once; which tokens are
 * trained is found by where they stand in the text. Where a message stands is found by rendering
 * again with a sentinel in its place: what differs is the message. The first part of an answer's
 * frame (<|im_start|>assistant) is so never trained, its end token as train_on_eos says. A template
 * with {% generation %} blocks says itself what is trained, where the row and the job leave it to
 * the defaults. */
#include "engine/data/document_chat.h"

#include <string.h>

struct chat_row {
  const struct ka_document_maker *m;
  json_t *vars;     /* messages, tools: what the template sees */
  json_t *messages; /* borrowed from vars */
  bool *train;      /* [messages] */
  bool flags;       /* a message has its own flag */
  struct ka_str text, other;
  struct ka_jinja_spans spans; /* of the text: trained */
  struct ka_tokens tokens;
  bool *trained; /* [tokens] */
};

/* What ShareGPT and its kin call the roles. */
static const char *const role_names[][2] = {{"human", "user"},
                                            {"gpt", "assistant"},
                                            {"observation", "tool"},
                                            {"function_call", "assistant"}};

/* --- the row's messages as templates know them
 * ---------------------------------------------------- */

static ka_status add_message(struct ka_ctx *ctx, struct chat_row *c, const json_t *message,
                             size_t i) {
  const struct ka_job_mapping *map = &c->m->dataset->message_property_mappings;
  const char *flag = c->m->dataset->message_field_training;
  const json_t *role = json_object_get(message, map->role), *own = json_object_get(message, flag);
  if (!json_is_string(role))
    return ka_fail(ctx, KA_E_INPUT, "%s[%zu]: key \"%s\": expected a string",
                   c->m->dataset->field_messages, i, map->role);
  if (own && !json_is_null(own) && !json_is_boolean(own))
    return ka_fail(ctx, KA_E_INPUT, "%s[%zu]: key \"%s\": expected true or false",
                   c->m->dataset->field_messages, i, flag);
  const char *name = json_string_value(role);
  for (size_t k = 0; k < sizeof role_names / sizeof *role_names; k++)
    if (strcmp(name, role_names[k][0]) == 0) name = role_names[k][1];
  bool train = false;
  for (int64_t k = 0; k < c->m->dataset->roles_to_train.n; k++)
    train = train || strcmp(name, c->m->dataset->roles_to_train.items[k]) == 0;
  if (json_is_boolean(own)) {
    train = json_is_true(own);
    c->flags = true;
  }
  c->train[json_array_size(c->messages)] = train;
  json_t *copy = json_copy((json_t *)(uintptr_t)message);
  json_t *content = json_incref(json_object_get(copy, map->content));
  json_object_del(copy, map->role);
  json_object_del(copy, map->content);
  json_object_del(copy, flag);
  int rc = json_object_set_new(copy, "role", json_string(name));
  rc |= json_object_set_new(copy, "content", content ? content : json_null());
  rc |= json_array_append_new(c->messages, copy);
  return rc ? ka_fail(ctx, KA_E_MEMORY, "chat row: out of memory") : KA_STATUS_OK;
}

static ka_status read_tools(struct ka_ctx *ctx, struct chat_row *c, const json_t *row) {
  const char *key = c->m->dataset->field_tools;
  json_t *tools = json_object_get(row, key), *parsed = NULL;
  if (!tools || json_is_null(tools)) return KA_STATUS_OK;
  if (json_is_string(tools)) { /* a JSON text, as data sets of fixed columns have it */
    if (json_string_length(tools) == 0) return KA_STATUS_OK;
    KA_TRY(ka_json_parse(ctx, json_string_value(tools), json_string_length(tools), key, &parsed));
    tools = parsed;
  }
  ka_status st = KA_STATUS_OK;
  if (!json_is_array(tools))
    st = ka_fail(ctx, KA_E_INPUT, "key \"%s\": expected a list of tools", key);
  else if (json_object_set(c->vars, "tools", tools) != 0)
    st = ka_fail(ctx, KA_E_MEMORY, "chat row: out of memory");
  json_decref(parsed);
  return st;
}

static ka_status read_messages(struct ka_ctx *ctx, struct chat_row *c, const json_t *row) {
  const struct ka_job_dataset *ds = c->m->dataset;
  const json_t *list = json_object_get(row, ds->field_messages), *message,
               *system = json_object_get(row, ds->field_system);
  size_t i;
  if (!json_is_array(list) || json_array_size(list) == 0)
    return ka_fail(ctx, KA_E_INPUT, "key \"%s\": expected a list of messages%s", ds->field_messages,
                   json_is_array(json_object_get(row, "conversations"))
                       ? "; for ShareGPT set field_messages: conversations and "
                         "message_property_mappings: {role: from, content: value}"
                       : "");
  void *train;
  KA_TRY(ka_alloc_n(ctx, &train, (int64_t)json_array_size(list) + 1, sizeof(bool), "chat row"));
  c->train = train;
  c->vars = json_object();
  c->messages = json_array();
  if (!c->vars || json_object_set_new(c->vars, "messages", c->messages) != 0)
    return ka_fail(ctx, KA_E_MEMORY, "chat row: out of memory");
  const char *first = json_string_value(
      json_object_get(json_array_get(list, 0), ds->message_property_mappings.role));
  if (json_string_length(system) > 0 && (!first || strcmp(first, "system") != 0) &&
      json_array_append_new(c->messages,
                            json_pack("{s:s,s:O}", "role", "system", "content", system)) != 0)
    return ka_fail(ctx, KA_E_MEMORY, "chat row: out of memory");
  json_array_foreach(list, i, message) KA_TRY(add_message(ctx, c, message, i));
  return read_tools(ctx, c, row);
}

/* --- where a message stands in the text
 * ------------------------------------------------------------ */

/* Dates in templates are Llama's fixed one, so that the same data gives the same tokens any day. */
static ka_status render(struct ka_ctx *ctx, struct chat_row *c, struct ka_str *out,
                        struct ka_jinja_spans *spans) {
  static const struct tm fixed = {
      .tm_year = 124, .tm_mon = 6, .tm_mday = 26, .tm_wday = 5, .tm_yday = 207};
  const struct ka_jinja_options opts = {.now = &fixed};
  ka_str_clear(out);
  return ka_chat_render(ctx, c->m->chat, c->vars, &opts, out, spans);
}

/* Renders with message i replaced; puts it back. */
static ka_status render_with(struct ka_ctx *ctx, struct chat_row *c, size_t i, json_t *instead) {
  json_t *kept = json_incref(json_array_get(c->messages, i));
  ka_status st;
  if (!instead || json_array_set(c->messages, i, instead) != 0)
    st = ka_fail(ctx, KA_E_MEMORY, "chat row: out of memory");
  else
    st = render(ctx, c, &c->other, NULL);
  json_array_set_new(c->messages, i, kept);
  json_decref(instead);
  return st;
}

/* A private-use character that the text does not hold. */
static const char *sentinel(const struct ka_str *text) {
  static const char *const choices[] = {"\xee\x80\x80", "\xee\x80\x81", "\xef\xa3\xbf"};
  int i = 0;
  while (i < 2 && text->data && strstr(text->data, choices[i])) i++;
  return choices[i];
}

/* The text that only message i wrote. First all of it is replaced, calls of tools too; a template
 * that refuses that has its content alone replaced. */
static ka_status find_message(struct ka_ctx *ctx, struct chat_row *c, size_t i,
                              struct ka_jinja_span *span) {
  json_t *message = json_array_get(c->messages, i);
  const char *mark = sentinel(&c->text);
  ka_status st = render_with(
      ctx, c, i, json_pack("{s:O,s:s}", "role", json_object_get(message, "role"), "content", mark));
  if (st.code == KA_E_INPUT) {
    ka_error_clear(ctx);
    json_t *copy = json_copy(message);
    if (copy) json_object_set_new(copy, "content", json_string(mark));
    st = render_with(ctx, c, i, copy);
  }
  KA_TRY(st);
  const char *a = c->text.data, *b = c->other.data;
  size_t n = c->text.len, m = c->other.len, least = n < m ? n : m, begin = 0, tail = 0;
  while (begin < least && a[begin] == b[begin]) begin++;
  while (begin > 0 && begin < n && (a[begin] & 0xc0) == 0x80) begin--; /* whole characters */
  while (tail < least - begin && a[n - 1 - tail] == b[m - 1 - tail]) tail++;
  *span = (struct ka_jinja_span){begin, n - tail};
  return KA_STATUS_OK;
}

/* --- which tokens are trained
 * ------------------------------------------------------------------------ */

enum { EOS_REACH = 3 }; /* as axolotl: the end token stands that near behind the message */

/* Marks the tokens that start in the span; returns the end-of-turn token behind it, or -1. */
static int64_t mark_span(struct chat_row *c, struct ka_jinja_span span) {
  int64_t behind = c->tokens.n;
  for (int64_t t = 0; t < c->tokens.n; t++) {
    const struct ka_token_span *s = &c->tokens.spans[t];
    if (s->begin >= (int64_t)span.begin && s->begin < (int64_t)span.end) c->trained[t] = true;
    if (s->begin >= (int64_t)span.end && t < behind) behind = t;
  }
  for (int64_t t = behind; t < c->tokens.n && t < behind + EOS_REACH; t++)
    if (ka_tokenizer_is_special(c->m->tokenizer, c->tokens.ids[t])) return t;
  return -1;
}

static ka_status mark_messages(struct ka_ctx *ctx, struct chat_row *c) {
  const char *eos = c->m->dataset->train_on_eos;
  int64_t last = -1;
  for (size_t i = 0; i < json_array_size(c->messages); i++) {
    struct ka_jinja_span span;
    if (!c->train[i]) continue;
    KA_TRY(find_message(ctx, c, i, &span));
    int64_t end = mark_span(c, span);
    if (end < 0) continue;
    last = end;
    if (strcmp(eos, "turn") == 0) c->trained[end] = true;
    for (int64_t t = 0; t < c->tokens.n && strcmp(eos, "all") == 0; t++)
      c->trained[t] = c->trained[t] || c->tokens.ids[t] == c->tokens.ids[end];
  }
  if (last >= 0 && strcmp(eos, "last") == 0) c->trained[last] = true;
  return KA_STATUS_OK;
}

static bool template_decides(struct ka_ctx *ctx, const struct chat_row *c) {
  const struct ka_job_dataset *ds = c->m->dataset;
  const struct ka_jinja *t = NULL;
  if (c->flags || strcmp(ds->train_on_eos, "turn") != 0 || ds->roles_to_train.n != 1 ||
      strcmp(ds->roles_to_train.items[0], "assistant") != 0)
    return false;
  bool tools = json_object_get(c->vars, "tools") != NULL;
  ka_status st = ka_chat_template(ctx, c->m->chat, NULL, tools, &t);
  if (!ka_ok(st)) ka_error_clear(ctx); /* rendering says it again */
  return ka_ok(st) && ka_jinja_has_generation(t);
}

static ka_status make(struct ka_ctx *ctx, struct chat_row *c, const json_t *row,
                      struct ka_document *d) {
  void *p;
  KA_TRY(read_messages(ctx, c, row));
  bool spans = template_decides(ctx, c);
  KA_TRY(render(ctx, c, &c->text, spans ? &c->spans : NULL));
  c->tokens.want_spans = true;
  KA_TRY(ka_tokenizer_encode(ctx, c->m->tokenizer, c->text.data ? c->text.data : "", c->text.len,
                             false, &c->tokens));
  KA_TRY(ka_alloc_n(ctx, &p, c->tokens.n, sizeof(bool), "chat row"));
  c->trained = p;
  if (c->m->train_on_inputs)
    memset(c->trained, 1, (size_t)c->tokens.n);
  else if (spans)
    for (int64_t i = 0; i < c->spans.n; i++) (void)mark_span(c, c->spans.at[i]);
  else
    KA_TRY(mark_messages(ctx, c));
  for (int64_t t = 0; t < c->tokens.n; t++)
    KA_TRY(ka_document_add(ctx, d, &c->tokens.ids[t], 1, c->trained[t]));
  return KA_STATUS_OK;
}

ka_status ka_document_chat(struct ka_ctx *ctx, const struct ka_document_maker *m, const json_t *row,
                           struct ka_document *d) {
  struct chat_row c = {.m = m};
  ka_status st = make(ctx, &c, row, d);
  json_decref(c.vars);
  ka_free(c.train);
  ka_free(c.trained);
  ka_free(c.spans.at);
  ka_str_deinit(&c.text);
  ka_str_deinit(&c.other);
  ka_tokens_deinit(&c.tokens);
  return st;
}
