/* SPDX-License-Identifier: Apache-2.0
 * See yaml_json.h. */
#include "engine/job/yaml_json.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_word(const char *text, const char *const *words) {
  for (; *words; words++)
    if (strcmp(text, *words) == 0) return true;
  return false;
}

/* Digits of the base with underscores between, without the sign and prefix. */
static bool parse_int(const char *s, int64_t *out) {
  char digits[40];
  size_t n = 0;
  bool negative = *s == '-';
  if (*s == '-' || *s == '+') s++;
  int base = *s != '0' || !s[1] ? 10 : s[1] == 'x' ? 16 : s[1] == 'b' ? 2 : 8;
  if (base == 16 || base == 2) s += 2;
  if (!*s || *s == '_') return false;
  digits[n++] = negative ? '-' : '+';
  for (; *s && n + 1 < sizeof digits; s++)
    if (*s != '_') digits[n++] = *s;
  digits[n] = 0;
  char *end;
  if (*s || strpbrk(digits + 1, "+- \t")) return false;
  errno = 0;
  *out = strtoll(digits, &end, base);
  return *end == 0 && errno == 0;
}

/* A point is needed, and a sign in the exponent. */
static bool parse_float(const char *s, double *out) {
  const char *p = s + (*s == '-' || *s == '+');
  static const char *const inf[] = {".inf", ".Inf", ".INF", NULL};
  static const char *const nan_words[] = {".nan", ".NaN", ".NAN", NULL};
  if (is_word(p, inf)) {
    *out = *s == '-' ? -(double)INFINITY : (double)INFINITY;
    return true;
  }
  if (is_word(s, nan_words)) {
    *out = (double)NAN;
    return true;
  }
  const char *point = strchr(p, '.'), *e = strpbrk(p, "eE");
  if (!point || !((*p >= '0' && *p <= '9') || (p[0] == '.' && p[1] >= '0' && p[1] <= '9')))
    return false;
  if (e && (e < point || (e[1] != '+' && e[1] != '-'))) return false;
  if (p[strspn(p, "0123456789.eE+-")]) return false;
  return ka_parse_f64(s, out);
}

static json_t *scalar(const struct ka_yaml *v) {
  static const char *const yes[] = {"yes",  "Yes", "YES", "true", "True",
                                    "TRUE", "on",  "On",  "ON",   NULL};
  static const char *const no[] = {"no",    "No",  "NO",  "false", "False",
                                   "FALSE", "off", "Off", "OFF",   NULL};
  int64_t i;
  double d;
  if (ka_yaml_is_null(v)) return json_null();
  if (v->plain) {
    if (is_word(v->text, yes)) return json_true();
    if (is_word(v->text, no)) return json_false();
    if (parse_int(v->text, &i)) return json_integer(i);
    if (parse_float(v->text, &d)) return isfinite(d) ? json_real(d) : json_string(v->text);
  }
  return json_string(v->text);
}

ka_status ka_yaml_json(struct ka_ctx *ctx, const struct ka_yaml *v, json_t **out) {
  *out = NULL;
  if (v->tag && !ka_starts_with(v->tag, "tag:yaml.org,2002:"))
    return ka_fail(ctx, KA_E_INPUT, "%s:%d:%d: the tag %s means nothing here", v->file, v->line,
                   v->column, v->tag);
  json_t *root = v->kind == KA_YAML_MAP    ? json_object()
                 : v->kind == KA_YAML_LIST ? json_array()
                                           : scalar(v);
  ka_status st = root ? KA_STATUS_OK : ka_fail(ctx, KA_E_MEMORY, "YAML values: out of memory");
  for (int64_t i = 0; ka_ok(st) && v->kind != KA_YAML_SCALAR && i < v->n; i++) {
    json_t *item = NULL;
    bool map = v->kind == KA_YAML_MAP;
    st = ka_yaml_json(ctx, map ? v->values[i] : v->items[i], &item);
    int rc = !ka_ok(st) ? 0
             : map      ? json_object_set_new(root, v->keys[i]->text, item)
                        : json_array_append_new(root, item);
    if (rc != 0) st = ka_fail(ctx, KA_E_MEMORY, "YAML values: out of memory");
  }
  if (ka_ok(st))
    *out = root;
  else
    json_decref(root);
  return st;
}
