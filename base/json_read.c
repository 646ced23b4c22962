/* SPDX-License-Identifier: Apache-2.0
 * The one reader of JSON: RFC 8259 as Python's json reads it, into jansson's values.
 *
 * What jansson refuses and real files hold is read: an integer beyond 64 bits is the nearest real,
 * NaN and the infinities (which jansson has no value for) are null. Duplicate keys, bytes that are
 * not UTF-8, half surrogates, NUL in a key and nesting beyond MAX_DEPTH are refused. Rows of data
 * are not refused for what Python takes: of duplicate keys the last one holds, and a member with
 * one of those texts is kept as something that no reader of texts or lists takes. */
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 2048, SHOWN = 20 };

struct reader {
  struct ka_ctx *ctx;
  const char *text, *what;
  size_t n, at;
  int depth;
  bool row;              /* of data */
  const char *damaged;   /* row: why the member at hand has no value */
  const char *why;       /* row: the last such reason */
  struct ka_str scratch; /* keys of the open objects, each with its NUL, then the text at hand */
};

/* "WHAT:LINE:COLUMN: not valid JSON: ...", for the byte `at`; columns count characters. */
static ka_status bad(const struct reader *r, size_t at, const char *why) {
  int64_t line = 1, column = 1;
  for (size_t i = 0; i < at && i < r->n; i++) {
    if (r->text[i] == '\n') {
      line++;
      column = 1;
    } else if (((unsigned char)r->text[i] & 0xc0) != 0x80) {
      column++;
    }
  }
  const char *near = r->text + at;
  int shown = 0;
  while (at + (size_t)shown < r->n && shown < SHOWN && near[shown] > ' ') shown++;
  const char *open = shown > 0 ? " near '" : "", *close = shown > 0 ? "'" : "";
  if (!r->what)
    return ka_fail(r->ctx, KA_E_INPUT, "not valid JSON: column %lld: %s%s%.*s%s", (long long)column,
                   why, open, shown, near, close);
  return ka_fail(r->ctx, KA_E_INPUT, "%s:%lld:%lld: not valid JSON: %s%s%.*s%s", r->what,
                 (long long)line, (long long)column, why, open, shown, near, close);
}

/* What Python's json reads and no text can hold: noted in a row, else refused. */
static ka_status no_text(struct reader *r, size_t at, const char *why) {
  if (!r->row) return bad(r, at, why);
  r->damaged = why;
  return KA_STATUS_OK;
}

static ka_status no_memory(const struct reader *r) {
  return ka_fail(r->ctx, KA_E_MEMORY, "%s: out of memory", r->what ? r->what : "JSON");
}

static void cut(struct ka_str *s, size_t n) {
  s->len = n;
  if (s->data) s->data[n] = 0;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static char peek(const struct reader *r) { return r->at < r->n ? r->text[r->at] : 0; }

static void skip_space(struct reader *r) {
  while (r->at < r->n && (r->text[r->at] == ' ' || r->text[r->at] == '\n' ||
                          r->text[r->at] == '\t' || r->text[r->at] == '\r'))
    r->at++;
}

/* --- texts ------------------------------------------------------------------- */

/* Four hexadecimal digits at `at`, or -1. */
static int32_t hex4(const struct reader *r, size_t at) {
  int32_t v = 0;
  if (r->n - at < 4) return -1;
  for (size_t i = at; i < at + 4; i++) {
    char c = r->text[i];
    int digit = is_digit(c)            ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
    if (digit < 0) return -1;
    v = v * 16 + digit;
  }
  return v;
}

/* \uXXXX, or the pair of them that a character beyond U+FFFF is. */
static ka_status unicode_escape(struct reader *r) {
  struct ka_ctx *ctx = r->ctx;
  char utf8[4];
  size_t start = r->at;
  int32_t c = hex4(r, r->at + 2);
  if (c < 0) return bad(r, start, "invalid escape");
  r->at += 6;
  if (c >= 0xd800 && c < 0xdc00 && r->n - r->at >= 6 && memcmp(r->text + r->at, "\\u", 2) == 0) {
    int32_t low = hex4(r, r->at + 2);
    if (low >= 0xdc00 && low < 0xe000) {
      c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
      r->at += 6;
    }
  }
  if (c >= 0xd800 && c < 0xe000) {
    KA_TRY(no_text(r, start, "half of a surrogate pair is no character"));
    c = 0xfffd;
  }
  int n = ka_utf8_encode((uint32_t)c, utf8);
  return ka_str_append(ctx, &r->scratch, utf8, (size_t)n);
}

static ka_status escape(struct reader *r) {
  static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
  struct ka_ctx *ctx = r->ctx;
  char c = r->at + 1 < r->n ? r->text[r->at + 1] : 0;
  if (c == 'u') return unicode_escape(r);
  const char *p = c ? strchr(from, c) : NULL;
  if (!p) return bad(r, r->at, "invalid escape");
  r->at += 2;
  return ka_str_append(ctx, &r->scratch, &to[p - from], 1);
}

/* Bytes up to the next quote, backslash or control character; checks that they are UTF-8. */
static ka_status plain_run(struct reader *r, size_t *n) {
  const char *p = r->text + r->at;
  size_t left = r->n - r->at, i = 0;
  unsigned char high = 0;
  for (; i < left && p[i] != '"' && p[i] != '\\' && (unsigned char)p[i] >= 0x20; i++)
    high |= (unsigned char)p[i];
  *n = i;
  if (high < 0x80) return KA_STATUS_OK;
  size_t good = ka_utf8_check(p, i);
  return good == i ? KA_STATUS_OK : bad(r, r->at + good, "not UTF-8");
}

/* The text whose opening quote is at `at`: borrowed from the source, or, with escapes, at the end
 * of the scratch. */
static ka_status text(struct reader *r, const char **out, size_t *n) {
  struct ka_ctx *ctx = r->ctx;
  size_t start = r->at++, kept = r->scratch.len, run;
  KA_TRY(plain_run(r, &run));
  *out = r->text + r->at;
  *n = run;
  r->at += run;
  if (peek(r) == '"' && r->at < r->n) {
    r->at++;
    return KA_STATUS_OK;
  }
  KA_TRY(ka_str_append(ctx, &r->scratch, *out, run));
  while (r->at < r->n && r->text[r->at] == '\\') {
    KA_TRY(escape(r));
    KA_TRY(plain_run(r, &run));
    KA_TRY(ka_str_append(ctx, &r->scratch, r->text + r->at, run));
    r->at += run;
  }
  if (r->at >= r->n) return bad(r, start, "the text has no end");
  if (r->text[r->at] != '"') return bad(r, r->at, "a control character in a text");
  r->at++;
  *out = r->scratch.data + kept;
  *n = r->scratch.len - kept;
  return KA_STATUS_OK;
}

static ka_status read_text(struct reader *r, json_t **out) {
  struct ka_ctx *ctx = r->ctx;
  const char *s;
  size_t n, kept = r->scratch.len;
  KA_TRY(text(r, &s, &n));
  *out = json_stringn_nocheck(s, n);
  cut(&r->scratch, kept);
  return *out ? KA_STATUS_OK : no_memory(r);
}

/* --- numbers and words ------------------------------------------------------- */

static size_t digits(const struct reader *r, size_t at) {
  while (at < r->n && is_digit(r->text[at])) at++;
  return at;
}

static ka_status real(struct reader *r, size_t start, size_t end, json_t **out) {
  struct ka_ctx *ctx = r->ctx;
  size_t kept = r->scratch.len;
  KA_TRY(ka_str_append(ctx, &r->scratch, r->text + start, end - start));
  *out = ka_json_real(strtod(r->scratch.data + kept, NULL));
  cut(&r->scratch, kept);
  return *out ? KA_STATUS_OK : no_memory(r);
}

static ka_status number(struct reader *r, json_t **out) {
  size_t start = r->at, first = start + (r->text[start] == '-'), end = digits(r, first);
  bool whole = true;
  if (end == first || (r->text[first] == '0' && end > first + 1))
    return bad(r, start, "invalid number");
  if (end < r->n && r->text[end] == '.') {
    size_t more = digits(r, end + 1);
    if (more == end + 1) return bad(r, start, "invalid number");
    end = more;
    whole = false;
  }
  if (end < r->n && (r->text[end] == 'e' || r->text[end] == 'E')) {
    size_t from = end + 1;
    if (from < r->n && (r->text[from] == '+' || r->text[from] == '-')) from++;
    size_t more = digits(r, from);
    if (more == from) return bad(r, start, "invalid number");
    end = more;
    whole = false;
  }
  r->at = end;
  uint64_t v = 0, limit = (uint64_t)INT64_MAX + (first > start);
  for (size_t i = first; whole && i < end; i++) {
    uint64_t digit = (uint64_t)(r->text[i] - '0');
    whole = v <= (limit - digit) / 10;
    v = v * 10 + digit;
  }
  if (!whole) return real(r, start, end, out);
  *out = json_integer(first > start ? (json_int_t)(0 - v) : (json_int_t)v);
  return *out ? KA_STATUS_OK : no_memory(r);
}

static ka_status word(struct reader *r, json_t **out) {
  static const struct {
    const char *word;
    json_type type;
  } words[] = {{"true", JSON_TRUE}, {"false", JSON_FALSE},   {"null", JSON_NULL},
               {"NaN", JSON_NULL},  {"Infinity", JSON_NULL}, {"-Infinity", JSON_NULL}};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
    size_t n = strlen(words[i].word);
    if (r->n - r->at < n || memcmp(r->text + r->at, words[i].word, n) != 0) continue;
    r->at += n;
    *out = words[i].type == JSON_TRUE    ? json_true()
           : words[i].type == JSON_FALSE ? json_false()
                                         : json_null();
    return KA_STATUS_OK;
  }
  if (is_digit(peek(r)) || peek(r) == '-') return number(r, out);
  return bad(r, r->at, r->at < r->n ? "expected a value" : "the end comes too early");
}

/* --- lists and objects ------------------------------------------------------- */

static ka_status value(struct reader *r, json_t **out);

/* After an element: a comma and on, or the closing bracket. */
static ka_status next(struct reader *r, char close, bool *done) {
  skip_space(r);
  char c = peek(r);
  *done = c == close;
  if (c != close && c != ',')
    return bad(r, r->at, close == ']' ? "expected , or ]" : "expected , or }");
  r->at++;
  return KA_STATUS_OK;
}

static ka_status array(struct reader *r, json_t *list) {
  struct ka_ctx *ctx = r->ctx;
  bool done = false;
  r->at++;
  skip_space(r);
  if (peek(r) == ']') {
    r->at++;
    return KA_STATUS_OK;
  }
  while (!done) {
    json_t *v = NULL;
    KA_TRY(value(r, &v));
    if (json_array_append_new(list, v) != 0) return no_memory(r);
    KA_TRY(next(r, ']', &done));
  }
  return KA_STATUS_OK;
}

/* A key onto the scratch, with its NUL. */
static ka_status key(struct reader *r, const json_t *object) {
  struct ka_ctx *ctx = r->ctx;
  const char *s;
  size_t n, kept = r->scratch.len, start;
  skip_space(r);
  start = r->at;
  if (peek(r) != '"') return bad(r, r->at, "expected a key in quotes");
  KA_TRY(text(r, &s, &n));
  if (memchr(s, 0, n)) KA_TRY(no_text(r, start, "a key with a NUL character"));
  if (r->scratch.len == kept) KA_TRY(ka_str_append(ctx, &r->scratch, s, n));
  KA_TRY(ka_str_append(ctx, &r->scratch, "", 1));
  if (!r->row && json_object_get(object, r->scratch.data + kept))
    return bad(r, start, "duplicate key");
  skip_space(r);
  if (peek(r) != ':') return bad(r, r->at, "expected :");
  r->at++;
  return KA_STATUS_OK;
}

/* A row's member: without a value where its texts cannot be held, left out where its name
 * cannot. */
static ka_status set_column(struct reader *r, json_t *members, size_t name, json_t *v,
                            const char *bad_name) {
  if (r->damaged) {
    json_decref(v);
    v = json_false();
    r->why = r->damaged;
    r->damaged = NULL;
  }
  if (bad_name) r->why = bad_name;
  if (bad_name) json_decref(v);
  if (bad_name || json_object_set_new_nocheck(members, r->scratch.data + name, v) == 0)
    return KA_STATUS_OK;
  return no_memory(r);
}

static ka_status object(struct reader *r, json_t *members) {
  struct ka_ctx *ctx = r->ctx;
  bool done = false, column = r->row && r->depth == 1;
  r->at++;
  skip_space(r);
  if (peek(r) == '}') {
    r->at++;
    return KA_STATUS_OK;
  }
  while (!done) {
    json_t *v = NULL;
    size_t kept = r->scratch.len;
    KA_TRY(key(r, members));
    const char *bad_name = column ? r->damaged : NULL;
    if (column) r->damaged = NULL;
    KA_TRY(value(r, &v));
    if (column)
      KA_TRY(set_column(r, members, kept, v, bad_name));
    else if (json_object_set_new_nocheck(members, r->scratch.data + kept, v) != 0)
      return no_memory(r);
    cut(&r->scratch, kept);
    KA_TRY(next(r, '}', &done));
  }
  return KA_STATUS_OK;
}

/* Leading blanks, then a value. *out is NULL on failure. */
static ka_status value(struct reader *r, json_t **out) {
  *out = NULL;
  skip_space(r);
  char c = peek(r);
  if (c == '"') return read_text(r, out);
  if (c != '{' && c != '[') return word(r, out);
  if (r->depth == MAX_DEPTH) return bad(r, r->at, "nested too deep");
  *out = c == '{' ? json_object() : json_array();
  if (!*out) return no_memory(r);
  r->depth++;
  ka_status st = c == '{' ? object(r, *out) : array(r, *out);
  r->depth--;
  if (ka_ok(st)) return st;
  json_decref(*out);
  *out = NULL;
  return st;
}

static ka_status parse(struct reader *r, json_t **out) {
  ka_status st = value(r, out);
  skip_space(r);
  if (ka_ok(st) && r->at < r->n) st = bad(r, r->at, "text after the value");
  ka_str_deinit(&r->scratch);
  if (ka_ok(st)) return st;
  json_decref(*out);
  *out = NULL;
  return st;
}

ka_status ka_json_parse(struct ka_ctx *ctx, const char *source, size_t n, const char *what,
                        json_t **out) {
  struct reader r = {.ctx = ctx, .text = source, .what = what, .n = n};
  return parse(&r, out);
}

ka_status ka_json_parse_row(struct ka_ctx *ctx, const char *source, size_t n, json_t **out,
                            const char **why) {
  struct reader r = {.ctx = ctx, .text = source, .n = n, .row = true};
  ka_status st = parse(&r, out);
  *why = r.why;
  return st;
}
