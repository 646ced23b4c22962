/* SPDX-License-Identifier: Apache-2.0
 * See yaml_json.h. */
#include "engine/job/yaml_json.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DIGITS = 64 };

static bool is_word(const char *text, const char *const *words) {
  for (; *words; words++)
    if (strcmp(text, *words) == 0) return true;
  return false;
}

bool ka_yaml_bool(const struct ka_yaml *v, bool *out) {
  static const char *const yes[] = {"yes",  "Yes", "YES", "true", "True",
                                    "TRUE", "on",  "On",  "ON",   NULL};
  static const char *const no[] = {"no",    "No",  "NO",  "false", "False",
                                   "FALSE", "off", "Off", "OFF",   NULL};
  if (v->kind != KA_YAML_SCALAR || !v->plain) return false;
  *out = is_word(v->text, yes);
  return *out || is_word(v->text, no);
}

/* --- numbers, as the patterns of YAML 1.1 have them --------------------------- */

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static const char *skip(const char *s, const char *set) { return s + strspn(s, set); }

/* One or more of :NN, NN below 60; NULL when there is none. */
static const char *skip_base_60(const char *s) {
  int n = 0;
  for (; *s == ':' && is_digit(s[1]); n++) {
    bool two = s[1] < '6' && is_digit(s[2]);
    s += two ? 3 : 2;
  }
  return n > 0 ? s : NULL;
}

/* Without underscores, sign apart. False: too long. */
static bool without_underscores(const char *s, char *out, size_t cap) {
  size_t n = 0;
  for (; *s; s++) {
    if (*s == '_') continue;
    if (n + 1 == cap) return false;
    out[n++] = *s;
  }
  out[n] = 0;
  return true;
}

/* The value of "1:30:05", of which the last part may have a fraction. */
static bool base_60(const char *s, double *out) {
  double value = 0, part;
  char buf[MAX_DIGITS];
  for (;; s++) {
    size_t n = strcspn(s, ":");
    memcpy(buf, s, n);
    buf[n] = 0;
    if (!ka_parse_f64(buf, &part)) return false;
    value = 60 * value + part;
    s += n;
    if (!*s) break;
  }
  *out = value;
  return true;
}

bool ka_yaml_int(const struct ka_yaml *v, int64_t *out) {
  const char *s = v->text, *end;
  char digits[MAX_DIGITS];
  if (v->kind != KA_YAML_SCALAR || !v->plain) return false;
  bool negative = *s == '-', sixty = false;
  if (*s == '-' || *s == '+') s++;
  int base = 10;
  if (*s != '0') {
    if (!is_digit(*s)) return false;
    end = skip(s, "0123456789_");
    const char *more = skip_base_60(end);
    sixty = more != NULL;
    if (sixty) end = more;
  } else if (s[1] == 'b' || s[1] == 'x') {
    base = s[1] == 'b' ? 2 : 16;
    s += 2;
    end = skip(s, base == 2 ? "01_" : "0123456789abcdefABCDEF_");
  } else {
    base = s[1] ? 8 : 10;
    end = skip(s, "01234567_");
  }
  if (*end || !without_underscores(s, digits + 1, MAX_DIGITS - 1)) return false;
  if (sixty) {
    double d;
    if (!base_60(digits + 1, &d) || d > 1e15) return false;
    *out = (int64_t)(negative ? -d : d);
    return true;
  }
  digits[0] = negative ? '-' : '+';
  errno = 0;
  char *stop;
  *out = strtoll(digits, &stop, base);
  return digits[1] && *stop == 0 && errno == 0;
}

bool ka_yaml_real(const struct ka_yaml *v, double *out) {
  static const char *const inf[] = {".inf", ".Inf", ".INF", NULL};
  static const char *const nan_words[] = {".nan", ".NaN", ".NAN", NULL};
  const char *s = v->text, *end;
  char digits[MAX_DIGITS];
  if (v->kind != KA_YAML_SCALAR || !v->plain) return false;
  double sign = *s == '-' ? -1 : 1;
  bool is_signed = *s == '-' || *s == '+';
  if (is_signed) s++;
  if (is_word(s, inf) || (!is_signed && is_word(s, nan_words))) {
    *out = s[1] == 'i' || s[1] == 'I' ? sign * (double)INFINITY : (double)NAN;
    return true;
  }
  if (!is_digit(*s) && (is_signed || *s != '.' || !is_digit(s[1]))) return false;
  end = skip(s, "0123456789_");
  const char *more = is_digit(*s) ? skip_base_60(end) : NULL;
  if (more) end = more;
  if (*end != '.') return false;
  end = skip(end + 1, "0123456789_");
  if (!more && (*end == 'e' || *end == 'E') && (end[1] == '-' || end[1] == '+') && is_digit(end[2]))
    end = skip(end + 2, "0123456789");
  if (*end || !without_underscores(s, digits, MAX_DIGITS)) return false;
  if (more ? !base_60(digits, out) : !ka_parse_f64(digits, out)) return false;
  *out *= sign;
  return true;
}

static json_t *scalar(const struct ka_yaml *v) {
  bool truth;
  int64_t i;
  double d;
  if (ka_yaml_is_null(v)) return json_null();
  if (ka_yaml_bool(v, &truth)) return json_boolean(truth);
  if (ka_yaml_int(v, &i)) return json_integer(i);
  if (!ka_yaml_real(v, &d)) return json_string(v->text);
  return isfinite(d) ? json_real(d) : json_string(isnan(d) ? "nan" : d < 0 ? "-inf" : "inf");
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
