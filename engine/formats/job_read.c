/* SPDX-License-Identifier: Apache-2.0
 * Values: types, ranges, choices, patterns, paths. A problem is noted and reading goes on; a status
 * other than OK means that reading cannot go on. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/formats/job_read.h"

#include <glob.h>
#include <math.h>
#include <pcre2.h>
#include <stdio.h>
#include <string.h>

static ka_status add_problem(struct ka_job_reader *r, const char *place, const char *fmt,
                             va_list args) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_job *job = r->job;
  char text[1024];
  vsnprintf(text, sizeof text, fmt, args);
  void *grown = job->problems.items;
  KA_TRY(ka_grow(ctx, &grown, &job->cap_problems, job->problems.n + 1, sizeof(const char *),
                 "job problems"));
  job->problems.items = grown;
  const char **out = &job->problems.items[job->problems.n++];
  *out = "";
  return ka_arena_printf(&job->arena, out, "%s: %s", place, text);
}

ka_status ka_job_problem(struct ka_job_reader *r, const struct ka_yaml *node, const char *fmt,
                         ...) {
  struct ka_ctx *ctx = r->ctx;
  const char *place = r->file ? r->file : "command line";
  if (r->file && node)
    KA_TRY(ka_arena_printf(&r->job->arena, &place, "%s:%d:%d", r->file, node->line, node->column));
  va_list args;
  va_start(args, fmt);
  ka_status st = add_problem(r, place, fmt, args);
  va_end(args);
  return st;
}

ka_status ka_job_problem_at(struct ka_job_reader *r, const char *key, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  ka_status st = add_problem(r, ka_job_place(r->job, key), fmt, args);
  va_end(args);
  return st;
}

ka_status ka_job_remember(struct ka_job_reader *r, const char *path, const struct ka_yaml *node) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_job *job = r->job;
  struct ka_job_place *p = NULL;
  for (int64_t i = 0; i < job->n_places; i++)
    if (strcmp(job->places[i].key, path) == 0) p = &job->places[i];
  if (!p) {
    void *grown = job->places;
    KA_TRY(ka_grow(ctx, &grown, &job->cap_places, job->n_places + 1, sizeof *p, "job places"));
    job->places = grown;
    p = &job->places[job->n_places++];
    KA_TRY(ka_arena_str(&job->arena, &p->key, path, strlen(path)));
  }
  p->place = "command line";
  if (!r->file) return KA_STATUS_OK;
  return ka_arena_printf(&job->arena, &p->place, "%s:%d:%d", r->file, node->line, node->column);
}

static const char *what_is(const struct ka_yaml *v) {
  return v->kind == KA_YAML_MAP ? "a mapping" : v->kind == KA_YAML_LIST ? "a list" : "a value";
}

static ka_status wrong(struct ka_job_reader *r, const struct ka_yaml *v, const char *path,
                       const char *expected) {
  if (v->kind != KA_YAML_SCALAR)
    return ka_job_problem(r, v, "%s: got %s, expected %s", path, what_is(v), expected);
  return ka_job_problem(
      r, v, v->plain ? "%s: got %.80s, expected %s" : "%s: got the text \"%.80s\", expected %s",
      path, v->text, expected);
}

static const char *range_text(const struct ka_job_key *key, const char *noun, char buf[128]) {
  const char *above = key->dflt && !*key->dflt && key->least == 0 ? "above " : "";
  if (key->most >= 1e9)
    snprintf(buf, 128, "%s %s%.15g", noun, *above ? above : "of at least ", key->least);
  else
    snprintf(buf, 128, "%s from %s%.15g to %.15g", noun, above, key->least, key->most);
  return buf;
}

/* An integer with an optional K, M, B or T: 50M, 1.5B. */
static bool parse_count(const char *s, double *out) {
  static const char units[] = "KMBT";
  char number[40];
  size_t n = strlen(s);
  if (n == 0 || n >= sizeof number) return false;
  memcpy(number, s, n + 1);
  double scale = 1;
  const char *u = strchr(units, s[n - 1] >= 'a' ? s[n - 1] - 'a' + 'A' : s[n - 1]);
  if (u && *u) {
    scale = pow(1000, (double)(u - units) + 1);
    number[n - 1] = 0;
  }
  if (!ka_parse_f64(number, out)) return false;
  *out *= scale;
  return *out == floor(*out);
}

static ka_status read_number(struct ka_job_reader *r, const struct ka_job_key *key,
                             const struct ka_yaml *v, void *field, const char *path) {
  double d = 0;
  int64_t i = 0;
  char buf[128];
  bool whole = key->kind == KA_JOB_INT, count = key->kind == KA_JOB_COUNT;
  const char *noun = whole ? "an integer" : count ? "a count like 500000 or 50M" : "a number";
  bool good = v->kind == KA_YAML_SCALAR && v->plain;
  good = good && (whole   ? ka_parse_i64(v->text, &i)
                  : count ? parse_count(v->text, &d)
                          : ka_parse_f64(v->text, &d));
  if (whole) d = (double)i;
  good = good && d >= key->least && d <= key->most;
  if (good && key->dflt && !*key->dflt && d <= 0) good = false;
  if (!good) return wrong(r, v, path, range_text(key, noun, buf));
  if (key->kind == KA_JOB_NUM)
    *(double *)field = d;
  else
    *(int64_t *)field = whole ? i : (int64_t)d;
  return KA_STATUS_OK;
}

static ka_status read_bool(struct ka_job_reader *r, const struct ka_yaml *v, bool *field,
                           const char *path) {
  static const char *const words[2][3] = {{"false", "False", "FALSE"}, {"true", "True", "TRUE"}};
  for (int value = 0; value < 2; value++)
    for (int i = 0; i < 3; i++)
      if (v->kind == KA_YAML_SCALAR && v->plain && strcmp(v->text, words[value][i]) == 0) {
        *field = value;
        return KA_STATUS_OK;
      }
  return wrong(r, v, path, "true or false");
}

/* "a|b|c=a" in words: "a, b". */
static const char *choices_text(const char *choices, char buf[512]) {
  size_t n = 0;
  buf[0] = 0;
  for (const char *p = choices; *p;) {
    size_t len = strcspn(p, "|");
    if (!memchr(p, '=', len) && n + len + 3 < 512)
      n += (size_t)snprintf(buf + n, 512 - n, "%s%.*s", n ? ", " : "", (int)len, p);
    p += len + (p[len] == '|');
  }
  return buf;
}

static ka_status read_choice(struct ka_job_reader *r, const struct ka_job_key *key,
                             const struct ka_yaml *v, const char **field, const char *path) {
  struct ka_ctx *ctx = r->ctx;
  char buf[512], expected[560];
  snprintf(expected, sizeof expected, "one of %s", choices_text(key->choices, buf));
  if (v->kind != KA_YAML_SCALAR) return wrong(r, v, path, expected);
  size_t n = strlen(v->text);
  for (const char *p = key->choices; *p;) {
    size_t len = strcspn(p, "|");
    const char *equals = memchr(p, '=', len);
    size_t word_len = equals ? (size_t)(equals - p) : len;
    if (word_len == n && memcmp(p, v->text, n) == 0) {
      const char *start = equals ? equals + 1 : p;
      KA_TRY(ka_arena_str(&r->job->arena, field, start, (size_t)(p + len - start)));
      return KA_STATUS_OK;
    }
    p += len + (p[len] == '|');
  }
  return wrong(r, v, path, expected);
}

static ka_status check_regex(struct ka_job_reader *r, const struct ka_yaml *v, const char *path) {
  int code = 0;
  size_t at = 0;
  pcre2_code *re =
      pcre2_compile((PCRE2_SPTR)v->text, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &at, NULL);
  pcre2_code_free(re);
  if (re) return KA_STATUS_OK;
  char why[128] = "";
  pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
  return ka_job_problem(r, v, "%s: pattern \"%.80s\": %s at character %zu", path, v->text, why,
                        at + 1);
}

static bool exists(const char *path, bool globs) {
  if (ka_path_exists(path)) return true;
  if (!globs || !strpbrk(path, "*?[")) return false;
  glob_t g;
  bool found = glob(path, GLOB_NOSORT, NULL, &g) == 0 && g.gl_pathc > 0;
  globfree(&g);
  return found;
}

static ka_status read_text(struct ka_job_reader *r, const struct ka_job_key *key,
                           const struct ka_yaml *v, const char **field, const char *path) {
  struct ka_ctx *ctx = r->ctx;
  const char *expected = key->kind == KA_JOB_PATH ? "a path" : "a text";
  if (v->kind != KA_YAML_SCALAR || (key->kind == KA_JOB_PATH && !*v->text))
    return wrong(r, v, path, expected);
  if (key->regex) KA_TRY(check_regex(r, v, path));
  if (key->kind != KA_JOB_PATH)
    return ka_arena_str(&r->job->arena, field, v->text, strlen(v->text));
  KA_TRY(ka_path_join(&r->job->arena, field, r->dir, v->text));
  if (r->check_paths && key->must_exist && !exists(*field, key->list))
    return ka_job_problem(r, v, "%s: %s: %s", path, *field,
                          key->list ? "no such file or directory, and no file matches"
                                    : "no such file or directory");
  return KA_STATUS_OK;
}

static ka_status read_one(struct ka_job_reader *r, const struct ka_job_key *key,
                          const struct ka_yaml *v, void *field, const char *path) {
  struct ka_ctx *ctx = r->ctx;
  const char *prefix;
  if (++r->n_values > KA_YAML_MAX_NODES)
    return ka_fail(ctx, KA_E_INPUT, "%s: more than %d values", r->job->path, KA_YAML_MAX_NODES);
  if (v->tag && !ka_starts_with(v->tag, "tag:yaml.org,2002:"))
    return ka_job_problem(r, v, "%s: the tag %s means nothing here", path, v->tag);
  switch (key->kind) {
  case KA_JOB_BOOL:
    return read_bool(r, v, field, path);
  case KA_JOB_INT:
  case KA_JOB_NUM:
  case KA_JOB_COUNT:
    return read_number(r, key, v, field, path);
  case KA_JOB_TEXT:
  case KA_JOB_PATH:
    return read_text(r, key, v, field, path);
  case KA_JOB_CHOICE:
    return read_choice(r, key, v, field, path);
  case KA_JOB_OBJECT:
    if (v->kind != KA_YAML_MAP) return wrong(r, v, path, "a mapping of keys");
    KA_TRY(ka_arena_printf(&r->job->arena, &prefix, "%s.", path));
    return ka_job_read_scope(r, key->child, v, field, prefix);
  }
  return KA_STATUS_OK;
}

/* A list of texts, or of objects: {items, n} in both cases. One value stands for a list of one. */
static ka_status read_list(struct ka_job_reader *r, const struct ka_job_key *key,
                           const struct ka_yaml *v, void *field, const char *path) {
  struct ka_ctx *ctx = r->ctx;
  bool objects = key->kind == KA_JOB_OBJECT;
  struct ka_yaml *single = (struct ka_yaml *)(uintptr_t)v, **items = &single;
  int64_t n = 1;
  if (v->kind == KA_YAML_LIST) {
    items = v->items;
    n = v->n;
  } else if (objects) {
    return wrong(r, v, path, "a list of mappings");
  }
  size_t size = objects ? ka_job_scopes[key->child].size : sizeof(const char *);
  void *list;
  const char *at = path;
  KA_TRY(ka_arena_alloc_n(&r->job->arena, &list, n, size, "job list"));
  for (int64_t i = 0; i < n; i++) {
    void *item = (char *)list + (size_t)i * size;
    if (objects) {
      KA_TRY(ka_arena_printf(&r->job->arena, &at, "%s.%lld", path, (long long)i));
      KA_TRY(ka_job_remember(r, at, items[i]));
      KA_TRY(ka_job_set_defaults(r, key->child, item));
    } else {
      *(const char **)item = "";
    }
    KA_TRY(read_one(r, key, items[i], item, at));
  }
  *(struct ka_job_list *)field = (struct ka_job_list){list, n};
  return KA_STATUS_OK;
}

ka_status ka_job_read_value(struct ka_job_reader *r, const struct ka_job_key *key,
                            const struct ka_yaml *v, void *field, const char *path) {
  if (ka_yaml_is_null(v)) return ka_job_set_default(r, key, field);
  return key->list ? read_list(r, key, v, field, path) : read_one(r, key, v, field, path);
}

ka_status ka_job_set_default(struct ka_job_reader *r, const struct ka_job_key *key, void *field) {
  if (key->kind == KA_JOB_OBJECT && !key->list) return ka_job_set_defaults(r, key->child, field);
  static const size_t sizes[] = {
      [KA_JOB_BOOL] = sizeof(bool),          [KA_JOB_INT] = sizeof(int64_t),
      [KA_JOB_NUM] = sizeof(double),         [KA_JOB_COUNT] = sizeof(int64_t),
      [KA_JOB_TEXT] = sizeof(const char *),  [KA_JOB_PATH] = sizeof(const char *),
      [KA_JOB_CHOICE] = sizeof(const char *)};
  memset(field, 0, key->list ? sizeof(struct ka_job_list) : sizes[key->kind]);
  if (!key->dflt || !*key->dflt) return KA_STATUS_OK;
  struct ka_yaml v = {.kind = KA_YAML_SCALAR, .text = key->dflt, .plain = true};
  struct ka_job_reader quiet = *r;
  quiet.check_paths = false;
  return ka_job_read_value(&quiet, key, &v, field, key->name);
}

ka_status ka_job_set_defaults(struct ka_job_reader *r, enum ka_job_scope scope, void *object) {
  struct ka_ctx *ctx = r->ctx;
  for (const struct ka_job_key *k = ka_job_keys; k->name; k++)
    if (k->scope == scope) KA_TRY(ka_job_set_default(r, k, (char *)object + k->offset));
  return KA_STATUS_OK;
}
