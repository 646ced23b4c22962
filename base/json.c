/* SPDX-License-Identifier: Apache-2.0
 * Typed getters, output, files. The reader stands in json_read.c. */
#include "base/json.h"

#include "base/file.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static atomic_bool lost;
static atomic_llong fail_at;

static void *json_alloc(size_t n) {
  bool fail = atomic_load(&fail_at) > 0 && atomic_fetch_sub(&fail_at, 1) == 1;
  void *p = fail ? NULL : malloc(n);
  if (!p) atomic_store(&lost, true);
  return p;
}

void ka_json_init(void) { json_set_alloc_funcs(json_alloc, free); }

ka_status ka_json_check(struct ka_ctx *ctx) {
  if (!atomic_load(&lost)) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_MEMORY, "JSON: out of memory; nothing incomplete is written");
}

void ka_json_fail_at(int64_t n) {
  atomic_store(&lost, false);
  atomic_store(&fail_at, n);
}

ka_status ka_json_load(struct ka_ctx *ctx, const char *path, json_t **out) {
  struct ka_map m;
  *out = NULL;
  KA_TRY(ka_map_file(ctx, path, &m));
  ka_status st = ka_json_parse(ctx, (const char *)m.data, m.len, path, out);
  ka_map_drop(&m);
  return st;
}

static const char *type_name(const json_t *v) {
  static const char *const names[] = {
      [JSON_OBJECT] = "an object",   [JSON_ARRAY] = "an array", [JSON_STRING] = "a string",
      [JSON_INTEGER] = "an integer", [JSON_REAL] = "a number",  [JSON_TRUE] = "true",
      [JSON_FALSE] = "false",        [JSON_NULL] = "null"};
  return v ? names[json_typeof(v)] : "nothing";
}

static ka_status wrong_type(struct ka_ctx *ctx, const char *what, const char *key, const json_t *v,
                            const char *want) {
  return ka_fail(ctx, KA_E_INPUT, "%s: key \"%s\": got %s, expected %s", what, key, type_name(v),
                 want);
}

ka_status ka_json_i64(struct ka_ctx *ctx, const char *what, const json_t *obj, const char *key,
                      int64_t *out) {
  const json_t *v = json_object_get(obj, key);
  if (!json_is_integer(v)) return wrong_type(ctx, what, key, v, "an integer");
  *out = json_integer_value(v);
  return KA_STATUS_OK;
}

ka_status ka_json_i64_or(struct ka_ctx *ctx, const char *what, const json_t *obj, const char *key,
                         int64_t dflt, int64_t *out) {
  const json_t *v = json_object_get(obj, key);
  *out = dflt;
  if (!v || json_is_null(v)) return KA_STATUS_OK;
  return ka_json_i64(ctx, what, obj, key, out);
}

ka_status ka_json_f64_or(struct ka_ctx *ctx, const char *what, const json_t *obj, const char *key,
                         double dflt, double *out) {
  const json_t *v = json_object_get(obj, key);
  *out = dflt;
  if (!v || json_is_null(v)) return KA_STATUS_OK;
  if (!json_is_number(v)) return wrong_type(ctx, what, key, v, "a number");
  *out = json_number_value(v);
  return KA_STATUS_OK;
}

ka_status ka_json_bool_or(struct ka_ctx *ctx, const char *what, const json_t *obj, const char *key,
                          bool dflt, bool *out) {
  const json_t *v = json_object_get(obj, key);
  *out = dflt;
  if (!v || json_is_null(v)) return KA_STATUS_OK;
  if (!json_is_boolean(v)) return wrong_type(ctx, what, key, v, "true or false");
  *out = json_is_true(v);
  return KA_STATUS_OK;
}

ka_status ka_json_str_or(struct ka_ctx *ctx, const char *what, const json_t *obj, const char *key,
                         const char *dflt, const char **out) {
  const json_t *v = json_object_get(obj, key);
  *out = dflt;
  if (!v || json_is_null(v)) return KA_STATUS_OK;
  if (!json_is_string(v)) return wrong_type(ctx, what, key, v, "a string");
  *out = json_string_value(v);
  return KA_STATUS_OK;
}

struct sink {
  struct ka_ctx *ctx;
  struct ka_str *out;
  ka_status st;
};

static int to_str(const char *bytes, size_t n, void *user) {
  struct sink *s = user;
  if (s->st.code == KA_OK) s->st = ka_str_append(s->ctx, s->out, bytes, n);
  return s->st.code == KA_OK ? 0 : -1;
}

static ka_status dump(struct ka_ctx *ctx, const json_t *v, size_t flags, struct ka_str *out) {
  struct sink s = {ctx, out, KA_STATUS_OK};
  KA_TRY(ka_json_check(ctx));
  int rc = json_dump_callback(v, to_str, &s, flags | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
  KA_TRY(s.st);
  if (rc != 0) return ka_fail(ctx, KA_E_MEMORY, "JSON output: out of memory");
  return ka_str_append(ctx, out, "\n", 1);
}

json_t *ka_json_real(double v) { return isfinite(v) ? json_real(v) : json_null(); }

json_t *ka_json_reals(const double *v, int64_t n) {
  json_t *list = json_array();
  for (int64_t i = 0; i < n; i++) json_array_append_new(list, ka_json_real(v[i]));
  return list;
}

double ka_json_number(const json_t *v) { return json_is_number(v) ? json_number_value(v) : NAN; }

ka_status ka_json_set(struct ka_ctx *ctx, json_t *object, const char *key, json_t *value) {
  if (json_object_set_new(object, key, value) == 0) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_MEMORY, "%s: out of memory", key);
}

ka_status ka_json_append(struct ka_ctx *ctx, json_t *array, json_t *value) {
  if (json_array_append_new(array, value) == 0) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_MEMORY, "JSON list: out of memory");
}

ka_status ka_json_dump(struct ka_ctx *ctx, const json_t *v, struct ka_str *out) {
  return dump(ctx, v, JSON_INDENT(1), out);
}

ka_status ka_json_dump_line(struct ka_ctx *ctx, const json_t *v, struct ka_str *out) {
  return dump(ctx, v, JSON_COMPACT, out);
}

ka_status ka_json_write(struct ka_ctx *ctx, const json_t *v, const char *path) {
  struct ka_str text = {0};
  ka_status st = ka_json_dump(ctx, v, &text);
  if (st.code == KA_OK && strcmp(path, "-") == 0) {
    if (fwrite(text.data, 1, text.len, stdout) != text.len || fflush(stdout) != 0)
      st = ka_fail(ctx, KA_E_IO, "stdout: write failed");
  } else if (st.code == KA_OK) {
    st = ka_write_file(ctx, path, text.data, text.len);
  }
  ka_str_deinit(&text);
  return st;
}

ka_status ka_json_quote(struct ka_ctx *ctx, struct ka_str *out, const char *text, size_t n) {
  KA_TRY(ka_str_append(ctx, out, "\"", 1));
  for (size_t i = 0; i < n;) {
    unsigned char c = (unsigned char)text[i];
    int len = ka_utf8_decode(text + i, n - i, NULL);
    if (len == 0) {
      KA_TRY(ka_str_puts(ctx, out, "\xef\xbf\xbd"));
      i++;
      continue;
    }
    if (c == '"' || c == '\\')
      KA_TRY(ka_str_printf(ctx, out, "\\%c", c));
    else if (c == '\n')
      KA_TRY(ka_str_puts(ctx, out, "\\n"));
    else if (c < 0x20 || c == 0x7f)
      KA_TRY(ka_str_printf(ctx, out, "\\u%04x", c));
    else
      KA_TRY(ka_str_append(ctx, out, text + i, (size_t)len));
    i += (size_t)len;
  }
  return ka_str_append(ctx, out, "\"", 1);
}
