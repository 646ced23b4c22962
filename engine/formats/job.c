/* SPDX-License-Identifier: Apache-2.0
 * Jobs: scopes of keys, words of the command line, and what only shows when all keys are read. */
#include "engine/formats/job.h"

#include "engine/formats/job_read.h"

#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static ka_status unknown_elsewhere(struct ka_job_reader *r, enum ka_job_scope scope,
                                   const char *name, const struct ka_yaml *node, const char *prefix,
                                   bool *done) {
  *done = true;
  for (const struct ka_job_rule *a = ka_job_aliases; a->key; a++)
    if (a->scope == scope && fnmatch(a->key, name, 0) == 0)
      return ka_job_problem(r, node, "%s%s is not a key of kappa: %s", prefix, name, a->advice);
  for (const struct ka_job_key *k = ka_job_keys; k->name; k++) {
    if (strcmp(k->name, name) != 0) continue;
    if (k->scope == KA_SCOPE_JOB)
      return ka_job_problem(r, node, "unknown key %s%s; %s stands at the top of the job", prefix,
                            name, name);
    return ka_job_problem(r, node, "unknown key %s%s; %s belongs under %s", prefix, name, name,
                          ka_job_scopes[k->scope].name);
  }
  *done = false;
  return KA_STATUS_OK;
}

ka_status ka_job_unknown(struct ka_job_reader *r, enum ka_job_scope scope, const char *name,
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
  for (const struct ka_job_key *k = ka_job_keys; k->name && n < MAX; k++)
    if (k->scope == scope) names[n++] = k->name;
  const char *near = ka_nearest(word, names);
  return ka_job_problem(r, node, "unknown key %s%.80s%s%s%s", prefix, name,
                        near ? ", did you mean " : "", near ? near : "", near ? "?" : "");
}

/* Is the field other than its default? For keys that are only parsed so far. */
static ka_status differs(struct ka_job_reader *r, const struct ka_job_key *k, const void *field,
                         bool *out) {
  struct ka_ctx *ctx = r->ctx;
  union {
    bool b;
    int64_t i;
    double d;
    const char *s;
    struct ka_job_list l;
  } dflt, got = {0};
  *out = false;
  if (k->kind == KA_JOB_OBJECT) return KA_STATUS_OK;
  if (k->list) {
    *out = ((const struct ka_job_list *)field)->n > 0;
    return KA_STATUS_OK;
  }
  memset(&dflt, 0, sizeof dflt);
  KA_TRY(ka_job_set_default(r, k, &dflt));
  if (k->kind == KA_JOB_TEXT || k->kind == KA_JOB_PATH || k->kind == KA_JOB_CHOICE) {
    const char *s = *(const char *const *)field;
    *out = s != dflt.s && (!s || !dflt.s || strcmp(s, dflt.s) != 0);
    return KA_STATUS_OK;
  }
  memcpy(&got, field, k->kind == KA_JOB_BOOL ? sizeof(bool) : sizeof(int64_t));
  *out = k->kind == KA_JOB_BOOL ? got.b != dflt.b : got.i != dflt.i;
  return KA_STATUS_OK;
}

/* A key that no part of kappa honours yet may only say what holds anyway. */
static ka_status refuse_later(struct ka_job_reader *r, const struct ka_job_key *k,
                              const struct ka_yaml *node, const void *field, const char *path) {
  struct ka_ctx *ctx = r->ctx;
  bool other = false;
  if (k->kind == KA_JOB_OBJECT && !k->list) {
    for (const struct ka_job_key *c = ka_job_keys; c->name; c++) {
      bool one = false;
      if (c->scope == k->child) KA_TRY(differs(r, c, (const char *)field + c->offset, &one));
      other = other || one;
    }
  } else {
    KA_TRY(differs(r, k, field, &other));
  }
  if (!other) return KA_STATUS_OK;
  return ka_job_problem(r, node, "%s: not supported yet; leave it out", path);
}

static void forget(struct ka_job *job, const char *path) {
  for (int64_t i = 0; i < job->n_places; i++)
    if (strcmp(job->places[i].key, path) == 0) job->places[i] = job->places[--job->n_places];
}

static ka_status read_key(struct ka_job_reader *r, const struct ka_job_key *k,
                          const struct ka_yaml *at, const struct ka_yaml *v, void *field,
                          const char *path) {
  struct ka_ctx *ctx = r->ctx;
  if (ka_yaml_is_null(v))
    forget(r->job, path);
  else
    KA_TRY(ka_job_remember(r, path, at));
  KA_TRY(ka_job_read_value(r, k, v, field, path));
  return ka_job_is_later(k) ? refuse_later(r, k, at, field, path) : KA_STATUS_OK;
}

static ka_status given(struct ka_job_reader *r, const char *prefix, const char *name, bool *out) {
  struct ka_ctx *ctx = r->ctx;
  const char *path;
  *out = false;
  KA_TRY(ka_arena_printf(&r->job->arena, &path, "%s%s", prefix, name));
  *out = ka_job_given(r->job, path);
  return KA_STATUS_OK;
}

static ka_status check_required(struct ka_job_reader *r, enum ka_job_scope scope,
                                const struct ka_yaml *map, const char *prefix) {
  struct ka_ctx *ctx = r->ctx;
  for (const struct ka_job_key *k = ka_job_keys; k->name; k++) {
    bool there = false;
    if (k->scope != scope || k->dflt || (k->kind == KA_JOB_OBJECT && !k->list)) continue;
    KA_TRY(given(r, prefix, k->name, &there));
    if (!there) KA_TRY(ka_job_problem(r, map, "%s%s is required: %s", prefix, k->name, k->doc));
  }
  return KA_STATUS_OK;
}

ka_status ka_job_read_scope(struct ka_job_reader *r, enum ka_job_scope scope,
                            const struct ka_yaml *map, void *object, const char *prefix) {
  struct ka_ctx *ctx = r->ctx;
  for (int64_t i = 0; i < map->n; i++) {
    const struct ka_yaml *at = map->keys[i];
    const struct ka_job_key *k = ka_job_key_find(scope, at->text);
    const char *path;
    if (!k) {
      KA_TRY(ka_job_unknown(r, scope, at->text, at, prefix));
      continue;
    }
    KA_TRY(ka_arena_printf(&r->job->arena, &path, "%s%s", prefix, k->name));
    KA_TRY(read_key(r, k, at, map->values[i], (char *)object + k->offset, path));
  }
  if (scope == KA_SCOPE_JOB) return KA_STATUS_OK; /* the command line may still give them */
  return check_required(r, scope, map, prefix);
}

/* --- key=value --------------------------------------------------------------- */

/* A key that is given on the command line wins over its alternatives in the file. */
static ka_status drop_alternatives(struct ka_job_reader *r, const struct ka_job_key *k,
                                   void *object, const char *prefix) {
  struct ka_ctx *ctx = r->ctx;
  for (const struct ka_job_rule *rule = ka_job_one_of; rule->key; rule++) {
    if (rule->scope != k->scope || !ka_job_in_words(rule->key, k->name)) continue;
    for (const struct ka_job_key *o = ka_job_keys; o->name; o++) {
      const char *path;
      if (o->scope != k->scope || o == k || !ka_job_in_words(rule->key, o->name)) continue;
      KA_TRY(ka_arena_printf(&r->job->arena, &path, "%s%s", prefix, o->name));
      if (!ka_job_given(r->job, path) || strcmp(ka_job_place(r->job, path), "command line") == 0)
        continue;
      forget(r->job, path);
      KA_TRY(ka_job_set_default(r, o, (char *)object + o->offset));
    }
  }
  return KA_STATUS_OK;
}

/* Walks "a.b" or "list.0.b" to a key and its object; NULL key: a problem was noted. */
static ka_status walk(struct ka_job_reader *r, const char *path, const struct ka_job_key **key,
                      void **object, size_t *prefix_len) {
  struct ka_ctx *ctx = r->ctx;
  enum ka_job_scope scope = KA_SCOPE_JOB;
  const char *at = path;
  *key = NULL;
  *object = r->job;
  for (;;) {
    const char *word, *prefix;
    size_t n = strcspn(at, ".");
    *prefix_len = (size_t)(at - path);
    KA_TRY(ka_arena_str(&r->job->arena, &word, at, n));
    KA_TRY(ka_arena_str(&r->job->arena, &prefix, path, *prefix_len));
    const struct ka_job_key *k = ka_job_key_find(scope, word);
    if (!k) return ka_job_unknown(r, scope, word, NULL, prefix);
    if (at[n] == 0) {
      *key = k;
      return KA_STATUS_OK;
    }
    if (k->kind != KA_JOB_OBJECT)
      return ka_job_problem(r, NULL, "%s: %s has no keys below it", path, word);
    void *field = (char *)*object + k->offset;
    at += n + 1;
    if (k->list) {
      const struct ka_job_list *list = field;
      const char *index;
      int64_t i = -1;
      n = strcspn(at, ".");
      KA_TRY(ka_arena_str(&r->job->arena, &index, at, n));
      if (!ka_parse_i64(index, &i) || i < 0 || i >= list->n || at[n] == 0)
        return ka_job_problem(r, NULL, "%s: expected %s.N.KEY with N below %lld, its entries", path,
                              word, (long long)list->n);
      field = (char *)(uintptr_t)list->items + (size_t)i * ka_job_scopes[k->child].size;
      at += n + 1;
    }
    *object = field;
    scope = k->child;
  }
}

static ka_status read_override(struct ka_job_reader *r, const char *word) {
  struct ka_ctx *ctx = r->ctx;
  const char *equals = strchr(word, '='), *path, *prefix;
  const struct ka_job_key *key = NULL;
  void *object = NULL;
  size_t prefix_len = 0;
  if (!equals || equals == word)
    return ka_job_problem(r, NULL, "got \"%.80s\", expected key=value", word);
  KA_TRY(ka_arena_str(&r->job->arena, &path, word, (size_t)(equals - word)));
  KA_TRY(walk(r, path, &key, &object, &prefix_len));
  if (!key) return KA_STATUS_OK;
  KA_TRY(ka_arena_str(&r->job->arena, &prefix, path, prefix_len));
  struct ka_yaml *v = NULL;
  ka_status st = ka_yaml_parse(ctx, &r->job->arena, equals + 1, strlen(equals + 1), path, &v);
  if (st.code == KA_E_INPUT) {
    st = ka_job_problem(r, NULL, "%s", ctx->error.message);
    if (ka_ok(st)) ka_error_clear(ctx);
    return st;
  }
  KA_TRY(st);
  KA_TRY(drop_alternatives(r, key, object, prefix));
  return read_key(r, key, v, v, (char *)object + key->offset, path);
}

/* --- when all keys are read -------------------------------------------------- */

static ka_status check_one_of(struct ka_job_reader *r, const struct ka_job_rule *rule) {
  struct ka_ctx *ctx = r->ctx;
  const char *prefix = rule->scope == KA_SCOPE_SELECTION ? "selection." : "", *first = NULL;
  for (const struct ka_job_key *k = ka_job_keys; k->name; k++) {
    bool there = false;
    if (k->scope != rule->scope || !ka_job_in_words(rule->key, k->name)) continue;
    KA_TRY(given(r, prefix, k->name, &there));
    if (!there) continue;
    const char *path;
    KA_TRY(ka_arena_printf(&r->job->arena, &path, "%s%s", prefix, k->name));
    if (first)
      return ka_job_problem_at(r, path, "%s and %s exclude each other; give one", first, path);
    first = path;
  }
  return KA_STATUS_OK;
}

/* Every unit at its own rate: nothing is cut, so there is no budget. */
static ka_status check_soft(struct ka_job_reader *r, const struct ka_job_selection *s) {
  struct ka_ctx *ctx = r->ctx;
  static const char *const budgets[] = {"selection.count", "selection.fraction", "selection.params",
                                        "selection.file"};
  for (size_t i = 0; i < sizeof budgets / sizeof *budgets; i++)
    if (ka_job_given(r->job, budgets[i]))
      KA_TRY(ka_job_problem_at(r, budgets[i], "%s and selection.mode: soft exclude each other",
                               budgets[i]));
  if (strcmp(s->metric, "kappa") != 0 && strcmp(s->metric, "kappa_mp") != 0)
    KA_TRY(ka_job_problem_at(r, "selection.mode",
                             "selection.mode: soft goes with metric kappa or kappa_mp, not %s",
                             s->metric));
  return KA_STATUS_OK;
}

static ka_status finish_selection(struct ka_job_reader *r, struct ka_job_selection *s) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_job *j = r->job;
  bool all = strcmp(s->metric, "all") == 0, soft = strcmp(s->mode, "soft") == 0;
  bool other = all || soft || s->fraction > 0 || s->params > 0 || s->file;
  if (soft) KA_TRY(check_soft(r, s));
  if (other && !ka_job_given(j, "selection.count")) s->count = 0;
  if (all || ka_job_given(j, "selection.exclude")) return KA_STATUS_OK;
  static const char *const usual[] = {"embed_tokens", "lm_head"};
  void *list;
  KA_TRY(ka_arena_alloc_n(&j->arena, &list, 2, sizeof *usual, "exclude"));
  memcpy(list, usual, sizeof usual);
  s->exclude = (struct ka_job_list){list, 2};
  return KA_STATUS_OK;
}

static ka_status finish(struct ka_job_reader *r) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_job *j = r->job;
  KA_TRY(check_required(r, KA_SCOPE_JOB, NULL, ""));
  for (const struct ka_job_rule *rule = ka_job_one_of; rule->key; rule++)
    KA_TRY(check_one_of(r, rule));
  if (ka_job_given(j, "datasets") && j->datasets.n == 0 && j->problems.n == 0)
    KA_TRY(ka_job_problem_at(r, "datasets", "datasets: the list is empty"));
  if (j->max_steps > 0 && !ka_job_given(j, "num_epochs")) j->num_epochs = 0;
  if (j->num_epochs <= 0 && j->max_steps == 0)
    KA_TRY(ka_job_problem_at(r, "num_epochs", "num_epochs: got 0, expected a number above 0"));
  if (j->test_datasets.n > 0 && !ka_job_given(j, "val_set_size")) j->val_set_size = 0;
  if (j->val_set_size >= 1 && j->val_set_size != floor(j->val_set_size))
    KA_TRY(ka_job_problem_at(r, "val_set_size",
                             "val_set_size: got %g, expected a fraction below 1 or a whole number "
                             "of rows",
                             j->val_set_size));
  if (strcmp(j->anchor.by, "kappa") == 0 && strcmp(j->anchor.kind, "l2") != 0)
    KA_TRY(ka_job_problem_at(r, "anchor.by", "anchor.by: kappa goes with kind: l2"));
  return finish_selection(r, &j->selection);
}

/* One message from all problems, as many as fit. */
static ka_status report(struct ka_ctx *ctx, const struct ka_job *job) {
  char text[KA_ERROR_MAX - 64];
  size_t at = 0;
  int64_t i = 0, n = job->problems.n;
  if (n == 0) return KA_STATUS_OK;
  if (n > 1) at = (size_t)snprintf(text, sizeof text, "%lld problems in the job", (long long)n);
  for (; i < n; i++) {
    const char *line = job->problems.items[i];
    if (at + strlen(line) + 32 > sizeof text && i > 0) break;
    at += (size_t)snprintf(text + at, sizeof text - at, "%s%s", n > 1 ? "\n  " : "", line);
    if (at >= sizeof text) at = sizeof text - 1;
  }
  if (i < n) snprintf(text + at, sizeof text - at, "\n  and %lld more", (long long)(n - i));
  return ka_fail(ctx, KA_E_INPUT, "%s", text);
}

static ka_status read_job(struct ka_job_reader *r, const char *text, size_t len,
                          const char *const *overrides, int64_t n) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_job *job = r->job;
  struct ka_yaml *root;
  KA_TRY(ka_job_set_defaults(r, KA_SCOPE_JOB, job));
  KA_TRY(ka_yaml_parse(ctx, &job->arena, text, len, job->path, &root));
  if (root->kind == KA_YAML_MAP)
    KA_TRY(ka_job_read_scope(r, KA_SCOPE_JOB, root, job, ""));
  else
    KA_TRY(ka_job_problem(r, root, "expected a mapping of keys, as in base_model: path"));
  struct ka_job_reader words = *r;
  words.file = NULL;
  words.dir = "";
  for (int64_t i = 0; i < n; i++) KA_TRY(read_override(&words, overrides[i]));
  KA_TRY(finish(r));
  return report(ctx, job);
}

static ka_status start(struct ka_ctx *ctx, struct ka_job *job, const char *path) {
  *job = (struct ka_job){0};
  ka_arena_init(&job->arena, ctx, "job");
  return ka_arena_str(&job->arena, &job->path, path, strlen(path));
}

ka_status ka_job_parse(struct ka_ctx *ctx, struct ka_job *job, const char *text, size_t len,
                       const char *path, const char *dir, const char *const *overrides, int64_t n) {
  KA_TRY(start(ctx, job, path));
  struct ka_job_reader r = {.ctx = ctx, .job = job, .file = job->path, .dir = dir};
  return read_job(&r, text, len, overrides, n);
}

ka_status ka_job_load(struct ka_ctx *ctx, struct ka_job *job, const char *path,
                      const char *const *overrides, int64_t n) {
  KA_TRY(start(ctx, job, path));
  struct ka_job_reader r = {.ctx = ctx, .job = job, .file = job->path, .check_paths = true};
  struct ka_str text = {0};
  const char *dir;
  KA_TRY(ka_path_dir(&job->arena, &dir, path));
  r.dir = strcmp(dir, ".") == 0 ? "" : dir; /* paths look as they were written */
  ka_status st = ka_read_file(ctx, path, KA_YAML_MAX_BYTES, &text);
  if (ka_ok(st)) st = read_job(&r, text.data, text.len, overrides, n);
  ka_str_deinit(&text);
  return st;
}

void ka_job_close(struct ka_job *job) {
  ka_free(job->problems.items);
  ka_free(job->places);
  ka_arena_deinit(&job->arena);
  *job = (struct ka_job){0};
}

const char *ka_job_place(const struct ka_job *job, const char *key) {
  for (int64_t i = 0; i < job->n_places; i++)
    if (strcmp(job->places[i].key, key) == 0) return job->places[i].place;
  return job->path;
}

bool ka_job_given(const struct ka_job *job, const char *key) {
  for (int64_t i = 0; i < job->n_places; i++)
    if (strcmp(job->places[i].key, key) == 0) return true;
  return false;
}
