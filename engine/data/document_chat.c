/* SPDX-License-Identifier: Apache-2.0
 * Records of messages: what a dataset calls roles, contents and tools, in the words that templates
 * know. Which tokens are trained is engine/data/chat_mask.h's. */
#include "engine/data/document_chat.h"

#include "engine/data/chat_mask.h"

#include <string.h>

struct chat_record {
  const struct ka_document_maker *m;
  json_t *vars;     /* messages, tools: what the template sees */
  json_t *messages; /* borrowed from vars */
  json_t *parsed;   /* messages that came as a text */
  struct ka_document *d;
};

#define SHAREGPT                                                                                   \
  "; for ShareGPT set field_messages: conversations and message_property_mappings: {role: from, "  \
  "content: value}"

/* What ShareGPT and its kin call the roles. */
static const char *const role_names[][2] = {{"human", "user"},
                                            {"gpt", "assistant"},
                                            {"observation", "tool"},
                                            {"function_call", "assistant"}};

/* --- the record's messages as templates know them --------------------------------------------- */

/* A message's own flag: true or false, or 1 or 0 as OpenAI's "weight" has it. NULL: it has none. */
static ka_status own_flag(struct ka_ctx *ctx, const struct chat_record *c, const json_t *message,
                          size_t i, const json_t **flag) {
  const char *key = c->m->dataset->message_field_training;
  const json_t *own = json_object_get(message, key), *weight = json_object_get(message, "weight");
  *flag = NULL;
  if (!own || json_is_null(own)) { /* a weight that nobody asked for only takes out */
    if (json_is_number(weight) && json_number_value(weight) == 0) *flag = json_false();
    return KA_STATUS_OK;
  }
  double v = json_is_number(own) ? json_number_value(own) : -1;
  if (!json_is_boolean(own) && v != 0 && v != 1)
    return ka_fail(ctx, KA_E_INPUT, "%s[%zu]: key \"%s\": expected true or false, or 1 or 0",
                   c->m->dataset->field_messages, i, key);
  *flag = json_is_boolean(own) ? own : json_boolean(v == 1);
  return KA_STATUS_OK;
}

static ka_status add_message(struct ka_ctx *ctx, struct chat_record *c, const json_t *message,
                             size_t i) {
  const struct ka_job_dataset *ds = c->m->dataset;
  const struct ka_job_mapping *map = &ds->message_property_mappings;
  const json_t *role = json_object_get(message, map->role), *flag;
  if (!json_is_object(message))
    return ka_fail(ctx, KA_E_INPUT, "%s[%zu]: expected an object", ds->field_messages, i);
  if (!json_is_string(role))
    return ka_fail(ctx, KA_E_INPUT, "%s[%zu]: key \"%s\": expected a string%s", ds->field_messages,
                   i, map->role, json_is_string(json_object_get(message, "from")) ? SHAREGPT : "");
  KA_TRY(own_flag(ctx, c, message, i, &flag));
  const char *name = json_string_value(role);
  for (size_t k = 0; k < sizeof role_names / sizeof *role_names; k++)
    if (strcmp(name, role_names[k][0]) == 0) name = role_names[k][1];
  ka_document_add_role(c->d->roles, name, strlen(name));
  json_t *copy = json_copy((json_t *)(uintptr_t)message);
  json_t *content = json_incref(json_object_get(copy, map->content));
  json_object_del(copy, map->role);
  json_object_del(copy, map->content);
  json_object_del(copy, ds->message_field_training);
  int rc = json_object_set_new(copy, "role", json_string(name));
  rc |= json_object_set_new(copy, "content", content ? content : json_null());
  if (flag) rc |= json_object_set(copy, ds->message_field_training, (json_t *)(uintptr_t)flag);
  rc |= json_array_append_new(c->messages, copy);
  return rc ? ka_fail(ctx, KA_E_MEMORY, "chat record: out of memory") : KA_STATUS_OK;
}

static ka_status read_tools(struct ka_ctx *ctx, struct chat_record *c, const json_t *record) {
  const char *key = c->m->dataset->field_tools;
  json_t *tools = json_object_get(record, key), *parsed = NULL;
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
    st = ka_fail(ctx, KA_E_MEMORY, "chat record: out of memory");
  json_decref(parsed);
  return st;
}

/* The record's list of messages; a JSON text of one, as CSV and exports of fixed columns have it,
 * is read. */
static ka_status message_list(struct ka_ctx *ctx, struct chat_record *c, const json_t *record,
                              const json_t **list) {
  const char *key = c->m->dataset->field_messages;
  const json_t *v = json_object_get(record, key);
  if (!v && json_is_array(json_object_get(record, "conversations")))
    return ka_fail(ctx, KA_E_INPUT, "key \"%s\" is missing%s", key, SHAREGPT);
  if (!v) return ka_document_no_key(ctx, record, key);
  if (json_is_string(v)) {
    ka_status st = ka_json_parse(ctx, json_string_value(v), json_string_length(v), key, &c->parsed);
    if (st.code != KA_E_INPUT) KA_TRY(st);
    if (!ka_ok(st)) ka_error_clear(ctx);
    v = c->parsed;
  }
  *list = v;
  if (json_is_array(v) && json_array_size(v) > 0) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_INPUT, "key \"%s\": expected a list of messages, or its JSON text", key);
}

static ka_status read_messages(struct ka_ctx *ctx, struct chat_record *c, const json_t *record) {
  const struct ka_job_dataset *ds = c->m->dataset;
  const json_t *list, *message, *system = json_object_get(record, ds->field_system);
  size_t i;
  KA_TRY(message_list(ctx, c, record, &list));
  c->vars = json_object();
  c->messages = json_array();
  if (!c->vars || json_object_set_new(c->vars, "messages", c->messages) != 0)
    return ka_fail(ctx, KA_E_MEMORY, "chat record: out of memory");
  const char *first = json_string_value(
      json_object_get(json_array_get(list, 0), ds->message_property_mappings.role));
  if (json_string_length(system) > 0 && (!first || strcmp(first, "system") != 0) &&
      json_array_append_new(c->messages,
                            json_pack("{s:s,s:O}", "role", "system", "content", system)) != 0)
    return ka_fail(ctx, KA_E_MEMORY, "chat record: out of memory");
  json_array_foreach(list, i, message) KA_TRY(add_message(ctx, c, message, i));
  return read_tools(ctx, c, record);
}

/* --- labels ----------------------------------------------------------------------------------- */

static ka_status label(struct ka_ctx *ctx, const struct chat_record *c, struct ka_document *d) {
  /* Dates in templates are Llama's fixed one, so that the same data gives the same tokens any day.
   */
  static const struct tm fixed = {
      .tm_year = 124, .tm_mon = 6, .tm_mday = 26, .tm_wday = 5, .tm_yday = 207};
  static const char *const nobody[] = {NULL};
  const struct ka_jinja_options jinja = {.now = &fixed};
  const struct ka_job_dataset *ds = c->m->dataset;
  const struct ka_chat_mask_options opts = {
      .roles_to_train =
          ds->roles_to_train.n > 0 ? (const char *const *)ds->roles_to_train.items : nobody,
      .n_roles = ds->roles_to_train.n,
      .train_on_eos = ds->train_on_eos,
      .train_on_inputs = c->m->train_on_inputs,
      .field_training = ds->message_field_training,
      .jinja = &jinja};
  struct ka_chat_masked masked = {0};
  ka_status st = ka_chat_mask(ctx, c->m->chat, c->m->tokenizer, c->vars, &opts, &masked);
  for (int64_t t = 0; ka_ok(st) && t < masked.tokens.n; t++)
    st = ka_document_add(ctx, d, &masked.tokens.ids[t], 1, masked.labels[t] != -100);
  if (ka_ok(st) && masked.n_endless > 0 && opts.train_on_eos != KA_EOS_NONE)
    d->notes |= 1U << KA_NOTE_ENDLESS;
  ka_chat_masked_deinit(&masked);
  return st;
}

ka_status ka_document_chat(struct ka_ctx *ctx, const struct ka_document_maker *m,
                           const json_t *record, struct ka_document *d) {
  struct chat_record c = {.m = m, .d = d};
  ka_status st = read_messages(ctx, &c, record);
  if (ka_ok(st)) st = label(ctx, &c, d);
  json_decref(c.vars);
  json_decref(c.parsed);
  return st;
}
