/* SPDX-License-Identifier: Apache-2.0
 * A struct of keys as JSON, by its table. */
#include "engine/job/keys.h"

static json_t *value_of(const struct ka_key *k, const void *field) {
  const char *text;
  size_t n = 0;
  switch (k->kind) {
  case KA_KEY_BOOL:
    return json_boolean(*(const bool *)field);
  case KA_KEY_INT:
  case KA_KEY_COUNT:
    return json_integer((json_int_t) * (const int64_t *)field);
  case KA_KEY_NUM:
    return json_real(*(const double *)field);
  case KA_KEY_TEXT:
  case KA_KEY_PATH:
  case KA_KEY_CHOICE:
    text = *(const char *const *)field;
    return text ? json_string(text) : json_null();
  case KA_KEY_WORD:
    text = ka_key_word(k, *(const int *)field, &n);
    return json_stringn(text, n);
  case KA_KEY_OBJECT:
  case KA_KEY_ANY:
    break;
  }
  return NULL;
}

static json_t *entry_of(const struct ka_key_table *t, const struct ka_key *k, const void *field) {
  return k->kind == KA_KEY_OBJECT ? ka_key_json(t, k->child, field) : value_of(k, field);
}

static json_t *list_of(const struct ka_key_table *t, const struct ka_key *k, const void *field) {
  const struct ka_key_texts *list = field; /* or of objects: {items, n} too */
  size_t size = k->kind == KA_KEY_OBJECT ? t->scopes[k->child].size : sizeof(const char *);
  json_t *out = json_array();
  for (int64_t i = 0; i < list->n; i++)
    if (json_array_append_new(
            out, entry_of(t, k, (const char *)(const void *)list->items + (size_t)i * size)) != 0) {
      json_decref(out);
      return NULL;
    }
  return out;
}

json_t *ka_key_value_json(const struct ka_key_table *t, const struct ka_key *k, const void *field) {
  return k->list ? list_of(t, k, field) : entry_of(t, k, field);
}

json_t *ka_key_json(const struct ka_key_table *t, int scope, const void *object) {
  json_t *out = json_object();
  for (const struct ka_key *k = t->keys; k->name && out; k++) {
    if (k->scope != scope) continue;
    const void *field = (const char *)object + k->offset;
    if (json_object_set_new(out, k->name, ka_key_value_json(t, k, field)) == 0) continue;
    json_decref(out);
    out = NULL;
  }
  return out;
}
