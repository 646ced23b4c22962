/* SPDX-License-Identifier: Apache-2.0
 * See regex.h. The translation walks the pattern once: escapes, character sets, quantifiers. */
#include "python/regex.h"
#include "base/pattern.h"

#include "base/arena.h"

#include <string.h>

enum { MATCH_LIMIT = 20000000, DEPTH_LIMIT = 100000, HEAP_KIB = 64 << 10 };

struct ka_py_regex {
  pcre2_code *code;
  pcre2_match_data *match;
  pcre2_match_context *context;
};

/* --- translation ------------------------------------------------------------- */

struct walk {
  struct ka_ctx *ctx;
  const char *p;
  size_t n, i;
  bool in_set;
  struct ka_str *out;
};

static ka_status bad(struct walk *w, const char *what) {
  return ka_fail(w->ctx, KA_E_INPUT, "%s at position %zu of the pattern \"%.80s\"", what, w->i,
                 w->p);
}

static ka_status put(struct walk *w, const char *text) { return ka_str_puts(w->ctx, w->out, text); }

/* \uhhhh and \Uhhhhhhhh; i stands on the letter. */
static ka_status code_point(struct walk *w, size_t digits) {
  struct ka_ctx *ctx = w->ctx;
  if (w->n - w->i <= digits) return bad(w, "incomplete escape");
  KA_TRY(put(w, "\\x{"));
  KA_TRY(ka_str_append(ctx, w->out, w->p + w->i + 1, digits));
  w->i += digits + 1;
  return put(w, "}");
}

static ka_status escape(struct walk *w) {
  struct ka_ctx *ctx = w->ctx;
  if (++w->i == w->n) return bad(w, "\\ at the end");
  char c = w->p[w->i];
  static const struct {
    char letter;
    const char *outside, *inside;
  } letters[] = {
      {'Z', "\\z", NULL},
      {'v', "\\x0b", "\\x0b"},
      {'s', "[\\s\\x1c-\\x1f]", "\\s\\x1c-\\x1f"},
      {'S', "[^\\s\\x1c-\\x1f]", "\\S"},
      {'A', "\\A", NULL},
      {'B', "\\B", NULL},
      {'b', "\\b", "\\b"},
      {'d', "\\d", "\\d"},
      {'D', "\\D", "\\D"},
      {'w', "\\w", "\\w"},
      {'W', "\\W", "\\W"},
      {'a', "\\x07", "\\x07"},
      {'f', "\\x0c", "\\x0c"},
      {'n', "\\n", "\\n"},
      {'r', "\\r", "\\r"},
      {'t', "\\t", "\\t"},
      {'x', "\\x", "\\x"},
  };
  if (c == 'u') return code_point(w, 4);
  if (c == 'U') return code_point(w, 8);
  bool letter = (c | 32) >= 'a' && (c | 32) <= 'z';
  for (size_t k = 0; letter && k < sizeof letters / sizeof *letters; k++) {
    const char *text = w->in_set ? letters[k].inside : letters[k].outside;
    if (letters[k].letter != c || !text) continue;
    w->i++;
    return put(w, text);
  }
  if (letter) return bad(w, "unknown escape");
  w->i++;
  KA_TRY(put(w, "\\"));
  return ka_str_append(ctx, w->out, &c, 1);
}

/* {,n} is {0,n} in Python. */
static bool open_minimum(const struct walk *w) {
  size_t k = w->i + 2;
  if (w->n - w->i < 4 || w->p[w->i + 1] != ',') return false;
  while (k < w->n && w->p[k] >= '0' && w->p[k] <= '9') k++;
  return k > w->i + 2 && k < w->n && w->p[k] == '}';
}

/* (?u) and the like: the flag u says what holds anyway. */
static ka_status flags(struct walk *w) {
  struct ka_ctx *ctx = w->ctx;
  size_t k = w->i + 2;
  while (k < w->n && strchr("aiLmsux-", w->p[k]) && w->p[k]) k++;
  if (k == w->i + 2 || k >= w->n || (w->p[k] != ')' && w->p[k] != ':')) {
    w->i += 2;
    return put(w, "(?");
  }
  KA_TRY(put(w, "(?"));
  for (w->i += 2; w->i < k; w->i++) {
    if (w->p[w->i] == 'a' || w->p[w->i] == 'L')
      return bad(w, "the flags a and L are not supported:");
    if (w->p[w->i] != 'u') KA_TRY(ka_str_append(ctx, w->out, w->p + w->i, 1));
  }
  return KA_STATUS_OK;
}

static ka_status outside_set(struct walk *w) {
  struct ka_ctx *ctx = w->ctx;
  char c = w->p[w->i];
  if (c == '(' && w->i + 1 < w->n && w->p[w->i + 1] == '*') return bad(w, "nothing to repeat");
  if (c == '(' && w->i + 1 < w->n && w->p[w->i + 1] == '?') return flags(w);
  if (c == '{' && open_minimum(w)) {
    w->i++;
    return put(w, "{0");
  }
  w->in_set = c == '[';
  w->i++;
  KA_TRY(ka_str_append(ctx, w->out, &c, 1));
  if (!w->in_set) return KA_STATUS_OK;
  if (w->i < w->n && w->p[w->i] == '^') {
    w->i++;
    KA_TRY(put(w, "^"));
  }
  if (w->i < w->n && w->p[w->i] == ']') {
    w->i++;
    KA_TRY(put(w, "\\]"));
  }
  return KA_STATUS_OK;
}

static ka_status translate(struct walk *w) {
  struct ka_ctx *ctx = w->ctx;
  while (w->i < w->n) {
    char c = w->p[w->i];
    if (c == '\\') {
      KA_TRY(escape(w));
    } else if (!w->in_set) {
      KA_TRY(outside_set(w));
    } else {
      w->in_set = c != ']';
      w->i++;
      if (c == '[') KA_TRY(put(w, "\\")); /* no nested sets, no [:alpha:] */
      KA_TRY(ka_str_append(ctx, w->out, &c, 1));
    }
  }
  return KA_STATUS_OK;
}

/* --- matching ---------------------------------------------------------------- */

static ka_status compile(struct ka_ctx *ctx, struct ka_py_regex *re,
                         const struct ka_str *translated, const char *pattern) {
  struct ka_pattern_error error;
  KA_TRY(ka_pattern_compile(ctx, &re->code, translated->data ? translated->data : "",
                            translated->len, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C,
                            &error));
  if (!re->code) return ka_fail(ctx, KA_E_INPUT, "pattern \"%.80s\": %s", pattern, error.why);
  pcre2_general_context *memory = ka_pattern_memory();
  re->match = pcre2_match_data_create_from_pattern(re->code, memory);
  re->context = memory ? pcre2_match_context_create(memory) : NULL;
  pcre2_general_context_free(memory);
  if (!re->match || !re->context) return ka_fail(ctx, KA_E_MEMORY, "pattern: out of memory");
  pcre2_set_match_limit(re->context, MATCH_LIMIT);
  pcre2_set_depth_limit(re->context, DEPTH_LIMIT);
  pcre2_set_heap_limit(re->context, HEAP_KIB);
  return KA_STATUS_OK;
}

ka_status ka_py_regex_open(struct ka_ctx *ctx, struct ka_py_regex **out, const char *pattern,
                           size_t n) {
  struct ka_str translated = {0};
  struct walk w = {.ctx = ctx, .p = pattern, .n = n, .out = &translated};
  struct ka_py_regex *re = NULL;
  ka_status st = KA_STATUS_OK;
  *out = NULL;
  KA_TRY_GOTO(KA_NEW_HEAP(ctx, &re, 1, "pattern"), out);
  KA_TRY_GOTO(translate(&w), out);
  KA_TRY_GOTO(compile(ctx, re, &translated, pattern), out);
  *out = re;
out:
  ka_str_deinit(&translated);
  if (!ka_ok(st)) ka_py_regex_close(re);
  return st;
}

void ka_py_regex_close(struct ka_py_regex *re) {
  if (!re) return;
  pcre2_match_data_free(re->match);
  pcre2_match_context_free(re->context);
  pcre2_code_free(re->code);
  ka_free(re);
}

ka_status ka_py_regex_next(struct ka_ctx *ctx, struct ka_py_regex *re, const char *text, size_t n,
                           struct ka_py_match *m, bool *found) {
  *found = false;
  if (m->next > n) return KA_STATUS_OK;
  if (!text) text = "";
  uint32_t options = m->must_advance ? PCRE2_NOTEMPTY_ATSTART : 0;
  int rc = pcre2_match(re->code, (PCRE2_SPTR)text, n, m->next, options, re->match, re->context);
  if (rc == PCRE2_ERROR_NOMATCH) {
    m->next = n + 1;
    return KA_STATUS_OK;
  }
  if (rc < 0) {
    char why[128] = "";
    pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
    return ka_fail(ctx, ka_pattern_match_code(rc), "pattern: %s", why);
  }
  m->span = pcre2_get_ovector_pointer(re->match);
  m->n_groups = (int)pcre2_get_ovector_count(re->match) - 1;
  m->next = m->span[1];
  m->must_advance = m->span[0] == m->span[1];
  *found = true;
  return KA_STATUS_OK;
}

/* --- replacing --------------------------------------------------------------- */

static ka_status put_group(struct ka_ctx *ctx, const struct ka_py_match *m, int64_t group,
                           const char *text, struct ka_str *out) {
  if (group < 0 || group > m->n_groups)
    return ka_fail(ctx, KA_E_INPUT, "replacement: the pattern has no group %lld", (long long)group);
  size_t begin = m->span[2 * group], end = m->span[2 * group + 1];
  return begin == SIZE_MAX ? KA_STATUS_OK : ka_str_append(ctx, out, text + begin, end - begin);
}

/* \g<1> or \g<name>; *i stands on g and moves behind the >. */
static ka_status named_group(struct ka_ctx *ctx, const struct ka_py_regex *re, const char *r,
                             size_t n, size_t *i, int64_t *group) {
  char name[64];
  size_t len = 0;
  for (*i += 2; *i < n && r[*i] != '>' && len + 1 < sizeof name; ++*i) name[len++] = r[*i];
  name[len] = 0;
  if (*i >= n || r[*i] != '>' || len == 0)
    return ka_fail(ctx, KA_E_INPUT, "replacement: \\g needs <a group> behind it");
  ++*i;
  if (!ka_parse_i64(name, group))
    *group = pcre2_substring_number_from_name(re->code, (PCRE2_SPTR)name);
  return KA_STATUS_OK;
}

static ka_status put_replacement(struct ka_ctx *ctx, const struct ka_py_regex *re, const char *r,
                                 size_t n, const struct ka_py_match *m, const char *text,
                                 struct ka_str *out) {
  static const char from[] = "nrtafv\\", to[] = "\n\r\t\a\f\v\\";
  for (size_t i = 0; i < n;) {
    int64_t group = 0;
    const char *simple = NULL;
    if (r[i] != '\\' || i + 1 == n) {
      KA_TRY(ka_str_append(ctx, out, r + i++, 1));
      continue;
    }
    i++;
    if (r[i] >= '1' && r[i] <= '9') {
      for (int k = 0; k < 2 && i < n && r[i] >= '0' && r[i] <= '9'; k++)
        group = group * 10 + (r[i++] - '0');
      KA_TRY(put_group(ctx, m, group, text, out));
    } else if (r[i] == 'g' && i + 1 < n && r[i + 1] == '<') {
      KA_TRY(named_group(ctx, re, r, n, &i, &group));
      KA_TRY(put_group(ctx, m, group, text, out));
    } else if (r[i] && (simple = strchr(from, r[i])) != NULL) {
      KA_TRY(ka_str_append(ctx, out, to + (simple - from), 1));
      i++;
    } else if ((r[i] >= '0' && r[i] <= '9') || ((r[i] | 32) >= 'a' && (r[i] | 32) <= 'z')) {
      return ka_fail(ctx, KA_E_INPUT, "replacement: the escape \\%c is not supported", r[i]);
    } else {
      KA_TRY(ka_str_append(ctx, out, "\\", 1));
    }
  }
  return KA_STATUS_OK;
}

ka_status ka_py_regex_sub(struct ka_ctx *ctx, struct ka_py_regex *re, const char *replacement,
                          size_t n_replacement, const char *text, size_t n, int64_t count,
                          struct ka_str *out) {
  struct ka_py_match m = {0};
  size_t done = 0;
  if (!text) text = "";
  for (int64_t i = 0; count == 0 || i < count; i++) {
    bool found;
    KA_TRY(ka_py_regex_next(ctx, re, text, n, &m, &found));
    if (!found) break;
    KA_TRY(ka_str_append(ctx, out, text + done, m.span[0] - done));
    KA_TRY(put_replacement(ctx, re, replacement, n_replacement, &m, text, out));
    done = m.span[1];
  }
  return ka_str_append(ctx, out, text + done, n - done);
}
