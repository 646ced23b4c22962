/* SPDX-License-Identifier: Apache-2.0
 * Values: types, ranges, choices, patterns, paths. A problem is noted and reading goes on; a status
 * other than OK means that reading cannot go on. */
#include "engine/job/key_read.h"
#include "base/pattern.h"

#include "engine/formats/hub.h"
#include "engine/job/yaml_json.h"

#include <fnmatch.h>
#include <glob.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static ka_status add_problem(struct ka_key_reader *r, const char *place, const char *fmt,
                             va_list args) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_key_file *f = r->file;
  char text[1024];
  vsnprintf(text, sizeof text, fmt, args);
  void *grown = f->problems.items;
  KA_TRY(ka_grow(ctx, &grown, &f->cap_problems, f->problems.n + 1, sizeof(const char *),
                 "problems of a file"));
  f->problems.items = grown;
  const char **out = &f->problems.items[f->problems.n++];
  *out = "";
  return ka_arena_printf(&f->arena, out, "%s: %s", place, text);
}

static ka_status place_of(struct ka_key_reader *r, const struct ka_yaml *node, const char **out) {
  return ka_arena_printf(&r->file->arena, out, "%s:%d:%d", node->file, node->line, node->column);
}

ka_status ka_key_problem(struct ka_key_reader *r, const struct ka_yaml *node, const char *fmt,
                         ...) {
  struct ka_ctx *ctx = r->ctx;
  const char *place = r->words ? "command line" : r->file->path;
  if (!r->words && node) KA_TRY(place_of(r, node, &place));
  va_list args;
  va_start(args, fmt);
  ka_status st = add_problem(r, place, fmt, args);
  va_end(args);
  return st;
}

ka_status ka_key_problem_at(struct ka_key_reader *r, const char *key, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  ka_status st = add_problem(r, ka_key_place(r->file, key), fmt, args);
  va_end(args);
  return st;
}

ka_status ka_key_note(struct ka_key_reader *r, const struct ka_yaml *at, enum ka_key_note_kind kind,
                      const char *key, const char *text) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_key_file *f = r->file;
  void *grown = f->notes;
  KA_TRY(ka_grow(ctx, &grown, &f->cap_notes, f->n_notes + 1, sizeof *f->notes, "notes on keys"));
  f->notes = grown;
  struct ka_key_note *note = &f->notes[f->n_notes];
  *note = (struct ka_key_note){.kind = kind, .key = key, .place = f->path, .text = text};
  KA_TRY(place_of(r, at, &note->place));
  KA_TRY(ka_arena_str(&f->arena, &note->key, key, strlen(key)));
  KA_TRY(ka_arena_str(&f->arena, &note->text, text, strlen(text)));
  f->n_notes++;
  return KA_STATUS_OK;
}

static ka_status remember(struct ka_key_reader *r, const char *path, const struct ka_yaml *node) {
  struct ka_ctx *ctx = r->ctx;
  const char *key, *place = "command line";
  KA_TRY(ka_arena_str(&r->file->arena, &key, path, strlen(path)));
  if (!r->words) KA_TRY(place_of(r, node, &place));
  return ka_key_place_set(ctx, r->file, key, place);
}

static const char *what_is(const struct ka_yaml *v) {
  return v->kind == KA_YAML_MAP ? "a mapping" : v->kind == KA_YAML_LIST ? "a list" : "a value";
}

static ka_status wrong(struct ka_key_reader *r, const struct ka_yaml *v, const char *path,
                       const char *expected) {
  if (v->kind != KA_YAML_SCALAR)
    return ka_key_problem(r, v, "%s: got %s, expected %s", path, what_is(v), expected);
  return ka_key_problem(
      r, v, v->plain ? "%s: got %.80s, expected %s" : "%s: got the text \"%.80s\", expected %s",
      path, v->text, expected);
}

static const char *range_text(const struct ka_key *key, const char *noun, char buf[128]) {
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

static ka_status read_number(struct ka_key_reader *r, const struct ka_key *key,
                             const struct ka_yaml *v, void *field, const char *path) {
  double d = 0;
  int64_t i = 0;
  char buf[128];
  bool whole = key->kind == KA_KEY_INT, count = key->kind == KA_KEY_COUNT;
  const char *noun = whole ? "an integer" : count ? "a count like 500000 or 50M" : "a number";
  bool good = v->kind == KA_YAML_SCALAR && v->plain;
  bool is_int = good && ka_yaml_int(v, &i);
  if (is_int)
    d = (double)i;
  else if (whole)
    good = false;
  else if (good && !ka_yaml_real(v, &d)) /* 1e-5 and 50M are texts to PyYAML, numbers to readers */
    good = count ? parse_count(v->text, &d) : ka_parse_f64(v->text, &d);
  if (count && d != floor(d)) good = false;
  good = good && d >= key->least && d <= key->most;
  if (good && key->dflt && !*key->dflt && d <= 0) good = false;
  if (!good) return wrong(r, v, path, range_text(key, noun, buf));
  if (key->kind == KA_KEY_NUM)
    *(double *)field = d;
  else
    *(int64_t *)field = is_int ? i : (int64_t)d;
  return KA_STATUS_OK;
}

static ka_status read_bool(struct ka_key_reader *r, const struct ka_yaml *v, bool *field,
                           const char *path) {
  return ka_yaml_bool(v, field) ? KA_STATUS_OK : wrong(r, v, path, "true or false");
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

/* Number of the word `text` among n of the key's words, aliases resolved; -1: none of them. */
static int find_word(const struct ka_key *key, const char *text, size_t n) {
  size_t len = 0;
  const char *word;
  for (int i = 0; (word = ka_key_word(key, i, &len)); i++)
    if (len == n && memcmp(word, text, n) == 0) return i;
  for (const char *p = key->choices; *p; p += len + (p[len] == '|')) {
    len = strcspn(p, "|");
    const char *equals = memchr(p, '=', len);
    if (equals && (size_t)(equals - p) == n && memcmp(p, text, n) == 0)
      return find_word(key, equals + 1, (size_t)(p + len - equals) - 1);
  }
  return -1;
}

/* A word that is none of the choices, with the advice that the table of aliases has for "KEY: WORD"
 * ("KEY: {...}" for a mapping). */
static ka_status wrong_choice(struct ka_key_reader *r, const struct ka_key *key,
                              const struct ka_yaml *v, const char *path, const char *expected) {
  char named[128];
  const char *word = v->kind == KA_YAML_SCALAR ? v->text : "{...}";
  snprintf(named, sizeof named, "%s: %.80s", key->name, word);
  for (const struct ka_key_rule *a = r->table->aliases; a && a->key; a++)
    if (a->scope == key->scope && strcmp(a->key, named) == 0)
      return ka_key_problem(r, v, "%s: got %.80s; %s", path, word, a->advice);
  return wrong(r, v, path, expected);
}

/* A CHOICE's word as a text, a WORD's as its number. */
static ka_status read_choice(struct ka_key_reader *r, const struct ka_key *key,
                             const struct ka_yaml *v, void *field, const char *path) {
  struct ka_ctx *ctx = r->ctx;
  char buf[512], expected[560];
  size_t n = 0;
  snprintf(expected, sizeof expected, "one of %s", choices_text(key->choices, buf));
  bool truth = false;
  int i = v->kind == KA_YAML_SCALAR ? find_word(key, v->text, strlen(v->text)) : -1;
  if (i < 0 && v->kind == KA_YAML_SCALAR && ka_yaml_bool(v, &truth))
    i = find_word(key, truth ? "true" : "false", truth ? 4 : 5);
  if (i < 0) return wrong_choice(r, key, v, path, expected);
  if (key->kind == KA_KEY_WORD) {
    *(int *)field = i;
    return KA_STATUS_OK;
  }
  const char *word = ka_key_word(key, i, &n);
  KA_TRY(ka_arena_str(&r->file->arena, (const char **)field, word, n));
  return KA_STATUS_OK;
}

static ka_status check_regex(struct ka_key_reader *r, const struct ka_yaml *v, const char *path) {
  struct ka_ctx *ctx = r->file->arena.ctx;
  struct ka_pattern_error error;
  pcre2_code *re;
  KA_TRY(ka_pattern_compile(ctx, &re, v->text, strlen(v->text), PCRE2_UTF, &error));
  pcre2_code_free(re);
  if (re) return KA_STATUS_OK;
  return ka_key_problem(r, v, "%s: pattern \"%.80s\": %s at character %zu", path, v->text,
                        error.why, error.at + 1);
}

static bool exists(const char *path, bool globs) {
  if (ka_path_exists(path)) return true;
  if (!globs || !strpbrk(path, "*?[")) return false;
  glob_t g;
  bool found = glob(path, GLOB_NOSORT, NULL, &g) == 0 && g.gl_pathc > 0;
  globfree(&g);
  return found;
}

/* Will a word give this key, or what it stands in? */
static bool overridden(const struct ka_key_reader *r, const char *path) {
  for (int64_t i = 0; i < r->n_overrides; i++) {
    size_t n = strcspn(r->overrides[i], "=");
    if (strncmp(path, r->overrides[i], n) == 0 && (path[n] == 0 || path[n] == '.')) return true;
  }
  return false;
}

/* A path that is not there may be a name on the Hub: then it stands for what this machine has of
 * it, or the problem says how to get it. */
static ka_status missing_path(struct ka_key_reader *r, const struct ka_key *key,
                              const struct ka_yaml *v, const char **field, const char *path) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_arena *a = &r->file->arena;
  bool model = strcmp(key->name, "base_model") == 0, data = strcmp(key->name, "path") == 0;
  const char *found = NULL, *advice = "";
  enum ka_hub_kind kind = model ? KA_HUB_MODEL : KA_HUB_DATASET;
  if (model || data) KA_TRY(ka_hub_find(a, kind, v->text, &found));
  if (found) {
    *field = found;
    return KA_STATUS_OK;
  }
  bool name = (model || data) && ka_hub_is_name(v->text);
  if (name) KA_TRY(ka_hub_advice(a, kind, v->text, &advice));
  if (data && (strcmp(v->text, "json") == 0 || strcmp(v->text, "csv") == 0 ||
               strcmp(v->text, "parquet") == 0 || strcmp(v->text, "text") == 0))
    advice = "a loader of Hugging Face datasets; here path names the files themselves, and the "
             "loader's word is ds_type";
  return ka_key_problem(r, v, "%s: %s: %s%s%s", path, *field,
                        *key->choices ? "no such file, and no built-in template has this name"
                        : key->list   ? "no such file or directory, and no file matches"
                                      : "no such file or directory",
                        *advice ? "; " : "", advice);
}

/* Of a path that may also be a word: the word that it stands for, NULL when it is none. */
static ka_status word_of_path(struct ka_key_reader *r, const struct ka_key *key, const char *text,
                              const char **out) {
  size_t n = strlen(text);
  for (const char *p = key->choices; *p;) {
    size_t len = strcspn(p, "|"), head = strcspn(p, "|=");
    if (head == n && memcmp(p, text, n) == 0) {
      const char *start = head < len ? p + head + 1 : p;
      return ka_arena_str(&r->file->arena, out, start, (size_t)(p + len - start));
    }
    p += len + (p[len] == '|');
  }
  return KA_STATUS_OK;
}

static ka_status read_text(struct ka_key_reader *r, const struct ka_key *key,
                           const struct ka_yaml *v, const char **field, const char *path) {
  struct ka_ctx *ctx = r->ctx;
  const char *expected = key->kind == KA_KEY_PATH ? "a path" : "a text";
  if (v->kind != KA_YAML_SCALAR || (key->kind == KA_KEY_PATH && !*v->text))
    return wrong(r, v, path, expected);
  if (key->regex) KA_TRY(check_regex(r, v, path));
  if (key->kind != KA_KEY_PATH)
    return ka_arena_str(&r->file->arena, field, v->text, strlen(v->text));
  if (*key->choices) { /* or a word, or the text itself */
    const char *word = strstr(v->text, "{%") || strstr(v->text, "{{") ? v->text : NULL;
    if (!word) KA_TRY(word_of_path(r, key, v->text, &word));
    if (word) return ka_arena_str(&r->file->arena, field, word, strlen(word));
  }
  KA_TRY(ka_path_join(&r->file->arena, field, r->dir, v->text));
  if (r->check_paths && key->must_exist && !overridden(r, path) && !exists(*field, key->list))
    return missing_path(r, key, v, field, path);
  return KA_STATUS_OK;
}

static ka_status read_one(struct ka_key_reader *r, const struct ka_key *key,
                          const struct ka_yaml *v, void *field, const char *path) {
  struct ka_ctx *ctx = r->ctx;
  const char *prefix;
  if (++r->n_values > KA_YAML_MAX_NODES)
    return ka_fail(ctx, KA_E_INPUT, "%s: more than %d values", r->file->path, KA_YAML_MAX_NODES);
  if (v->tag && !ka_starts_with(v->tag, "tag:yaml.org,2002:"))
    return ka_key_problem(r, v, "%s: the tag %s means nothing here%s", path, v->tag,
                          strcmp(v->tag, "!function") == 0 ? ": kappa runs no Python" : "");
  switch (key->kind) {
  case KA_KEY_BOOL:
    return read_bool(r, v, field, path);
  case KA_KEY_INT:
  case KA_KEY_NUM:
  case KA_KEY_COUNT:
    return read_number(r, key, v, field, path);
  case KA_KEY_TEXT:
  case KA_KEY_PATH:
    return read_text(r, key, v, field, path);
  case KA_KEY_CHOICE:
  case KA_KEY_WORD:
    return read_choice(r, key, v, field, path);
  case KA_KEY_ANY:
    *(const struct ka_yaml **)field = v;
    return KA_STATUS_OK;
  case KA_KEY_OBJECT:
    if (v->kind != KA_YAML_MAP) return wrong(r, v, path, "a mapping of keys");
    KA_TRY(ka_arena_printf(&r->file->arena, &prefix, "%s.", path));
    return ka_key_read_scope(r, key->child, v, field, prefix);
  }
  return KA_STATUS_OK;
}

/* A list of texts, or of objects: {items, n} in both cases. One value stands for a list of one. */
static ka_status read_list(struct ka_key_reader *r, const struct ka_key *key,
                           const struct ka_yaml *v, void *field, const char *path) {
  struct ka_ctx *ctx = r->ctx;
  bool objects = key->kind == KA_KEY_OBJECT;
  struct ka_yaml *single = (struct ka_yaml *)(uintptr_t)v, **items = &single;
  int64_t n = 1;
  if (v->kind == KA_YAML_LIST) {
    items = v->items;
    n = v->n;
  } else if (objects) {
    return wrong(r, v, path, "a list of mappings");
  }
  size_t size = objects ? r->table->scopes[key->child].size : sizeof(const char *);
  void *list;
  const char *at = path;
  KA_TRY(ka_arena_alloc_n(&r->file->arena, &list, n, size, "list of keys"));
  for (int64_t i = 0; i < n; i++) {
    void *item = (char *)list + (size_t)i * size;
    if (objects) {
      KA_TRY(ka_arena_printf(&r->file->arena, &at, "%s.%lld", path, (long long)i));
      KA_TRY(remember(r, at, items[i]));
      KA_TRY(ka_key_set_defaults(r, key->child, item));
    } else {
      *(const char **)item = "";
    }
    KA_TRY(read_one(r, key, items[i], item, at));
  }
  *(struct ka_key_texts *)field = (struct ka_key_texts){list, n};
  return KA_STATUS_OK;
}

static ka_status read_value(struct ka_key_reader *r, const struct ka_key *key,
                            const struct ka_yaml *v, void *field, const char *path) {
  if (ka_yaml_is_null(v)) return ka_key_set_default(r, key, field);
  return key->list ? read_list(r, key, v, field, path) : read_one(r, key, v, field, path);
}

ka_status ka_key_set_default(struct ka_key_reader *r, const struct ka_key *key, void *field) {
  if (key->kind == KA_KEY_OBJECT && !key->list) return ka_key_set_defaults(r, key->child, field);
  static const size_t sizes[] = {[KA_KEY_BOOL] = sizeof(bool),
                                 [KA_KEY_INT] = sizeof(int64_t),
                                 [KA_KEY_NUM] = sizeof(double),
                                 [KA_KEY_COUNT] = sizeof(int64_t),
                                 [KA_KEY_TEXT] = sizeof(const char *),
                                 [KA_KEY_PATH] = sizeof(const char *),
                                 [KA_KEY_CHOICE] = sizeof(const char *),
                                 [KA_KEY_WORD] = sizeof(int),
                                 [KA_KEY_ANY] = sizeof(const struct ka_yaml *)};
  memset(field, 0, key->list ? sizeof(struct ka_key_texts) : sizes[key->kind]);
  if (!key->dflt || !*key->dflt) return KA_STATUS_OK;
  struct ka_yaml v = {
      .kind = KA_YAML_SCALAR, .file = r->file->path, .text = key->dflt, .plain = true};
  struct ka_key_reader quiet = *r;
  quiet.check_paths = false;
  return read_value(&quiet, key, &v, field, key->name);
}

ka_status ka_key_set_defaults(struct ka_key_reader *r, int scope, void *object) {
  struct ka_ctx *ctx = r->ctx;
  for (const struct ka_key *k = r->table->keys; k->name; k++)
    if (k->scope == scope) KA_TRY(ka_key_set_default(r, k, (char *)object + k->offset));
  return KA_STATUS_OK;
}

/* --- scopes ------------------------------------------------------------------ */

static ka_status unknown_elsewhere(struct ka_key_reader *r, int scope, const char *name,
                                   const struct ka_yaml *node, const char *prefix, bool *done) {
  *done = true;
  for (const struct ka_key_rule *a = r->table->aliases; a->key; a++)
    if (a->scope == scope && fnmatch(a->key, name, 0) == 0)
      return ka_key_problem(r, node, "%s%s is not a key of kappa: %s", prefix, name, a->advice);
  for (const struct ka_key *k = r->table->keys; k->name; k++) {
    if (strcmp(k->name, name) != 0) continue;
    if (k->scope == 0)
      return ka_key_problem(r, node, "unknown key %s%s; %s stands at the top of the %s", prefix,
                            name, name, r->table->what);
    return ka_key_problem(r, node, "unknown key %s%s; %s belongs under %s", prefix, name, name,
                          r->table->scopes[k->scope].name);
  }
  *done = false;
  return KA_STATUS_OK;
}

ka_status ka_key_unknown(struct ka_key_reader *r, int scope, const char *name,
                         const struct ka_yaml *node, const char *prefix) {
  struct ka_ctx *ctx = r->ctx;
  enum { MAX = 128 };
  const char *names[MAX + 1] = {0};
  bool done = false;
  char word[64];
  int n = 0;
  snprintf(word, sizeof word, "%s", name);
  KA_TRY(unknown_elsewhere(r, scope, name, node, prefix, &done));
  if (done) return KA_STATUS_OK;
  for (const struct ka_key *k = r->table->keys; k->name && n < MAX; k++)
    if (k->scope == scope) names[n++] = k->name;
  const char *near = ka_nearest(word, names);
  return ka_key_problem(r, node, "unknown key %s%.80s%s%s%s", prefix, name,
                        near ? ", did you mean " : "", near ? near : "", near ? "?" : "");
}

ka_status ka_key_read(struct ka_key_reader *r, const struct ka_key *k, const struct ka_yaml *at,
                      const struct ka_yaml *v, void *field, const char *path) {
  struct ka_ctx *ctx = r->ctx;
  if (ka_yaml_is_null(v))
    ka_key_forget(r->file, path);
  else
    KA_TRY(remember(r, path, at));
  return read_value(r, k, v, field, path);
}

static ka_status given(struct ka_key_reader *r, const char *prefix, const char *name, bool *out) {
  struct ka_ctx *ctx = r->ctx;
  const char *path;
  *out = false;
  KA_TRY(ka_arena_printf(&r->file->arena, &path, "%s%s", prefix, name));
  *out = ka_key_given(r->file, path);
  return KA_STATUS_OK;
}

ka_status ka_key_check_required(struct ka_key_reader *r, int scope, const struct ka_yaml *map,
                                const char *prefix) {
  struct ka_ctx *ctx = r->ctx;
  for (const struct ka_key *k = r->table->keys; k->name; k++) {
    bool there = false;
    if (k->scope != scope || k->dflt || (k->kind == KA_KEY_OBJECT && !k->list)) continue;
    KA_TRY(given(r, prefix, k->name, &there));
    if (!there) KA_TRY(ka_key_problem(r, map, "%s%s is required: %s", prefix, k->name, k->doc));
  }
  return KA_STATUS_OK;
}

ka_status ka_key_read_scope(struct ka_key_reader *r, int scope, const struct ka_yaml *map,
                            void *object, const char *prefix) {
  struct ka_ctx *ctx = r->ctx;
  for (int64_t i = 0; i < map->n; i++) {
    const struct ka_yaml *at = map->keys[i];
    const struct ka_key *k = ka_key_find(r->table, scope, at->text);
    const char *path;
    if (!k) {
      KA_TRY(ka_key_unknown(r, scope, at->text, at, prefix));
      continue;
    }
    KA_TRY(ka_arena_printf(&r->file->arena, &path, "%s%s", prefix, k->name));
    KA_TRY(ka_key_read(r, k, at, map->values[i], (char *)object + k->offset, path));
  }
  if (scope == 0 && r->required_later) return KA_STATUS_OK;
  return ka_key_check_required(r, scope, map, prefix);
}
