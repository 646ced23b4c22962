/* SPDX-License-Identifier: Apache-2.0
 * See field.h. */
#include "engine/eval/field.h"

#include "engine/job/yaml_json.h"
#include "python/jinja/jinja.h"

#include <string.h>

ka_status ka_eval_field_open_text(struct ka_arena *arena, struct ka_eval_field *f, const char *text,
                                  const char *place, const char *name) {
  struct ka_ctx *ctx = arena->ctx;
  const char *what;
  *f = (struct ka_eval_field){0};
  if (!text) return KA_STATUS_OK;
  KA_TRY(ka_arena_printf(arena, &what, "%s: %s", place, name));
  KA_TRY(ka_arena_str(arena, &f->text, text, strlen(text)));
  return ka_jinja_parse(ctx, &f->template, KA_JINJA_TASK, what, f->text, strlen(f->text));
}

ka_status ka_eval_field_open(struct ka_arena *arena, struct ka_eval_field *f,
                             const struct ka_yaml *node, const char *name) {
  struct ka_ctx *ctx = arena->ctx;
  json_t *v = NULL;
  const char *place;
  *f = (struct ka_eval_field){0};
  if (!node || ka_yaml_is_null(node)) return KA_STATUS_OK;
  KA_TRY(ka_arena_printf(arena, &place, "%s:%d:%d", node->file, node->line, node->column));
  KA_TRY(ka_yaml_json(ctx, node, &v));
  ka_status st = KA_STATUS_OK;
  if (json_is_string(v)) {
    st = ka_eval_field_open_text(arena, f, json_string_value(v), place, name);
  } else if (json_is_integer(v) || json_is_array(v)) {
    f->value = json_incref(v);
  } else if (json_is_object(v)) {
    const char *key;
    json_t *item;
    f->value = json_array();
    json_object_foreach(v, key, item) json_array_append(f->value, item);
  } else {
    st = ka_fail(ctx, KA_E_INPUT,
                 "%s: %s: got %s, which YAML does not read as text; put it in quotes", place, name,
                 node->text);
  }
  json_decref(v);
  return st;
}

void ka_eval_field_close(struct ka_eval_field *f) {
  ka_jinja_destroy(f->template);
  json_decref(f->value);
  *f = (struct ka_eval_field){0};
}

bool ka_eval_field_given(const struct ka_eval_field *f) { return f->text || f->value; }

bool ka_eval_field_is_column(const struct ka_eval_field *f, const json_t *doc) {
  return f->text && json_object_get(doc, f->text);
}

ka_status ka_eval_field_value(struct ka_ctx *ctx, const struct ka_eval_field *f, const json_t *doc,
                              json_t **out) {
  *out = NULL;
  KA_NEVER(ctx, !ka_eval_field_given(f));
  if (f->value || ka_eval_field_is_column(f, doc)) {
    *out = json_incref(f->value ? f->value : json_object_get(doc, f->text));
    return KA_STATUS_OK;
  }
  struct ka_str text = {0};
  ka_status st = ka_jinja_render(ctx, f->template, doc, NULL, &text, NULL);
  if (ka_ok(st)) *out = json_stringn(text.data ? text.data : "", text.len);
  ka_str_deinit(&text);
  if (ka_ok(st) && !*out) st = ka_fail(ctx, KA_E_MEMORY, "template: out of memory");
  return st;
}
