/* SPDX-License-Identifier: Apache-2.0
 * See builtins.h. */
#include "python/builtins.h"

#include "python/jinja/jinja.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- literals ---------------------------------------------------------------- */

enum { MAX_DEPTH = 100 };

struct literal {
  const char *p, *end;
  int depth;
};

static void skip_space(struct literal *l) {
  while (l->p < l->end && *l->p && strchr(" \t\r\n\f", *l->p)) l->p++;
  if (l->p < l->end && *l->p == '#') {
    while (l->p < l->end && *l->p != '\n') l->p++;
    skip_space(l);
  }
}

static bool skip(struct literal *l, char c) {
  skip_space(l);
  if (l->p >= l->end || *l->p != c) return false;
  l->p++;
  return true;
}

static bool hex(struct literal *l, int digits, uint32_t *cp) {
  for (*cp = 0; digits > 0; digits--, l->p++) {
    const char *at = l->p < l->end && *l->p ? strchr("0123456789abcdef", *l->p | 32) : NULL;
    bool digit = l->p < l->end && *l->p >= '0' && *l->p <= '9';
    if (!at && !digit) return false;
    *cp = *cp * 16 + (uint32_t)(digit ? *l->p - '0' : *l->p - (*l->p >= 'a' ? 'a' : 'A') + 10);
  }
  return *cp <= 0x10ffff && !(*cp >= 0xd800 && *cp <= 0xdfff);
}

/* Behind the backslash; appends what it means to out. */
static bool escape(struct literal *l, char *out, size_t *n) {
  static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
  if (l->p >= l->end) return false;
  char c = *l->p++;
  const char *simple = c ? strchr(from, c) : NULL;
  uint32_t cp = 0;
  if (c == '\n') return true;
  if (simple) {
    out[(*n)++] = to[simple - from];
    return true;
  }
  if (c >= '0' && c <= '7') {
    cp = (uint32_t)(c - '0');
    for (int k = 0; k < 2 && l->p < l->end && *l->p >= '0' && *l->p <= '7'; k++)
      cp = cp * 8 + (uint32_t)(*l->p++ - '0');
  } else if (c == 'x' || c == 'u' || c == 'U') {
    if (!hex(l, c == 'x' ? 2 : c == 'u' ? 4 : 8, &cp)) return false;
  } else if (c == 'N') {
    return false;
  } else {
    out[(*n)++] = '\\'; /* unknown ones stay */
    out[(*n)++] = c;
    return true;
  }
  *n += (size_t)ka_utf8_encode(cp, out + *n);
  return true;
}

/* One quoted text, raw with r; out has room for all that is left. */
static bool quoted(struct literal *l, bool raw, char *out, size_t *n) {
  char quote = *l->p;
  bool triple = l->end - l->p >= 3 && l->p[1] == quote && l->p[2] == quote;
  l->p += triple ? 3 : 1;
  while (l->p < l->end) {
    char c = *l->p;
    bool closes =
        c == quote && (!triple || (l->end - l->p >= 3 && l->p[1] == quote && l->p[2] == quote));
    if (closes) {
      l->p += triple ? 3 : 1;
      return true;
    }
    if (c == '\n' && !triple) return false;
    l->p++;
    if (c == '\\' && !raw) {
      if (!escape(l, out, n)) return false;
      continue;
    }
    out[(*n)++] = c;
    if (c == '\\' && l->p < l->end) out[(*n)++] = *l->p++;
  }
  return false;
}

static bool starts_text(const struct literal *l, bool *raw) {
  const char *p = l->p;
  *raw = p < l->end && (*p | 32) == 'r';
  if (p < l->end && ((*p | 32) == 'r' || (*p | 32) == 'u')) p++;
  return p < l->end && (*p == '\'' || *p == '"');
}

/* Texts behind each other are one. */
static json_t *text(struct literal *l) {
  size_t n = 0, room = (size_t)(l->end - l->p);
  char *out = malloc(room + 8);
  bool raw, good = out != NULL;
  while (good && starts_text(l, &raw)) {
    if (*l->p != '\'' && *l->p != '"') l->p++;
    good = quoted(l, raw, out, &n);
    skip_space(l);
  }
  json_t *v = good ? json_stringn(out, n) : NULL;
  free(out);
  return v;
}

static json_t *number(struct literal *l) {
  char digits[64];
  size_t n = 0;
  bool real = false, negative = false;
  for (; l->p < l->end && (*l->p == '-' || *l->p == '+'); l->p++) {
    negative ^= *l->p == '-';
    skip_space(l);
  }
  digits[n++] = negative ? '-' : '+';
  for (; l->p < l->end && *l->p && n + 1 < sizeof digits; l->p++) {
    char c = *l->p, before = digits[n - 1];
    bool sign = (c == '-' || c == '+') && (before | 32) == 'e';
    if (c == '_') continue;
    if (!sign && !strchr("0123456789.eE", c)) break;
    real = real || c == '.' || (c | 32) == 'e';
    digits[n++] = c;
  }
  digits[n] = 0;
  char *end;
  errno = 0;
  if (n < 2) return NULL;
  if (real) {
    double d = strtod(digits, &end);
    return *end == 0 ? json_real(d) : NULL;
  }
  if (digits[1] == '0' && strspn(digits + 1, "0") != n - 1) return NULL; /* 007 */
  long long i = strtoll(digits, &end, 10);
  return *end == 0 && errno == 0 ? json_integer(i) : NULL;
}

static json_t *word(struct literal *l) {
  static const struct {
    const char *name;
    int kind;
  } words[] = {{"True", 1}, {"False", 0}, {"None", 2}};
  for (int i = 0; i < 3; i++) {
    size_t n = strlen(words[i].name);
    if ((size_t)(l->end - l->p) < n || memcmp(l->p, words[i].name, n) != 0) continue;
    l->p += n;
    return words[i].kind == 2 ? json_null() : json_boolean(words[i].kind);
  }
  return NULL;
}

static json_t *value(struct literal *l);

/* Behind the opening bracket. (a) is a, (a,) a tuple. */
static json_t *list(struct literal *l, char close) {
  json_t *items = json_array();
  bool comma = true;
  while (items && !skip(l, close)) {
    json_t *item = comma ? value(l) : NULL;
    if (!item || json_array_append_new(items, item) != 0) {
      json_decref(items);
      return NULL;
    }
    comma = skip(l, ',');
  }
  if (close == ')' && items && json_array_size(items) == 1 && !comma) {
    json_t *only = json_incref(json_array_get(items, 0));
    json_decref(items);
    return only;
  }
  return items;
}

static json_t *mapping(struct literal *l) {
  json_t *map = json_object();
  bool comma = true;
  while (map && !skip(l, '}')) {
    json_t *key = comma ? value(l) : NULL, *v = NULL;
    if (json_is_string(key) && skip(l, ':')) v = value(l);
    bool good = v && json_object_set_new(map, json_string_value(key), v) == 0;
    json_decref(key);
    if (!good) {
      json_decref(map);
      return NULL;
    }
    comma = skip(l, ',');
  }
  return map;
}

static json_t *value(struct literal *l) {
  bool raw;
  json_t *v = NULL;
  if (++l->depth > MAX_DEPTH) return NULL;
  skip_space(l);
  if (starts_text(l, &raw))
    v = text(l);
  else if (skip(l, '['))
    v = list(l, ']');
  else if (skip(l, '('))
    v = list(l, ')');
  else if (skip(l, '{'))
    v = mapping(l);
  else if (l->p < l->end && *l->p && strchr("+-.0123456789", *l->p))
    v = number(l);
  else
    v = word(l);
  l->depth--;
  return v;
}

bool ka_py_literal(const char *source, size_t n, json_t **out) {
  struct literal l = {source, source + n, 0};
  *out = n > 0 ? value(&l) : NULL;
  skip_space(&l);
  if (*out && l.p == l.end) return true;
  json_decref(*out);
  *out = NULL;
  return false;
}

/* --- functions --------------------------------------------------------------- */

ka_status ka_py_open(struct ka_ctx *ctx, struct ka_py *py) {
  static const char *const templates[] = {
#define X(name, template) template,
      KA_PY_TABLE(X)
#undef X
  };
  *py = (struct ka_py){0};
  for (int i = 0; i < KA_N_PY; i++)
    KA_TRY(ka_jinja_parse(ctx, &py->functions[i], KA_JINJA_CHAT, "python", templates[i],
                          strlen(templates[i])));
  return KA_STATUS_OK;
}

void ka_py_close(struct ka_py *py) {
  for (int i = 0; i < KA_N_PY; i++) ka_jinja_destroy(py->functions[i]);
}

ka_status ka_py_call(struct ka_ctx *ctx, const struct ka_py *py, enum ka_py_function f,
                     const json_t *x, struct ka_str *out) {
  json_t *vars = json_pack("{s:O}", "x", x);
  if (!vars) return ka_fail(ctx, KA_E_MEMORY, "python: out of memory");
  ka_status st = ka_jinja_render(ctx, py->functions[f], vars, NULL, out, NULL);
  json_decref(vars);
  return st;
}

/* --- characters -------------------------------------------------------------- */

/* Start of the last character. */
static size_t last_char(const char *text, size_t n) {
  size_t at = n - 1;
  while (at > 0 && (text[at] & 0xc0) == 0x80) at--;
  return at;
}

bool ka_py_starts_with_space(const char *source, size_t n) {
  uint32_t c = 0;
  return n > 0 && ka_utf8_decode(source, n, &c) > 0 && ka_is_space(c);
}

bool ka_py_ends_with_space(const char *source, size_t n) {
  return n > 0 && ka_py_starts_with_space(source + last_char(source, n), n - last_char(source, n));
}

size_t ka_py_rstrip(const char *source, size_t n) {
  while (ka_py_ends_with_space(source, n)) n = last_char(source, n);
  return n;
}

int64_t ka_py_len(const char *source, size_t n) {
  int64_t count = 0;
  for (size_t i = 0; i < n; i++) count += (source[i] & 0xc0) != 0x80;
  return count;
}
