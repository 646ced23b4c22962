/* SPDX-License-Identifier: Apache-2.0
 * Jobs: scopes of keys, words of the command line, and what only shows when all keys are read. */
#include "engine/job/job.h"

#include "engine/job/foreign.h"
#include "engine/job/job_table.h"
#include "engine/job/key_read.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* --- key=value --------------------------------------------------------------- */

/* A key that is given on the command line wins over its alternatives in the file. */
static ka_status drop_alternatives(struct ka_key_reader *r, const struct ka_key *k, void *object,
                                   const char *prefix) {
  struct ka_ctx *ctx = r->ctx;
  for (const struct ka_key_rule *rule = r->table->one_of; rule->key; rule++) {
    if (rule->scope != k->scope || !ka_key_in_words(rule->key, k->name)) continue;
    for (const struct ka_key *o = r->table->keys; o->name; o++) {
      const char *path;
      if (o->scope != k->scope || o == k || !ka_key_in_words(rule->key, o->name)) continue;
      KA_TRY(ka_arena_printf(&r->file->arena, &path, "%s%s", prefix, o->name));
      if (!ka_key_given(r->file, path) || strcmp(ka_key_place(r->file, path), "command line") == 0)
        continue;
      ka_key_forget(r->file, path);
      KA_TRY(ka_key_set_default(r, o, (char *)object + o->offset));
    }
  }
  return KA_STATUS_OK;
}

/* Walks "a.b" or "list.0.b" to a key and its object; NULL key: a problem was noted. */
static ka_status walk(struct ka_key_reader *r, struct ka_job *job, const char *path,
                      const struct ka_key **key, void **object, size_t *prefix_len) {
  struct ka_ctx *ctx = r->ctx;
  int scope = KA_SCOPE_JOB;
  const char *at = path;
  *key = NULL;
  *object = job;
  for (;;) {
    const char *word, *prefix;
    size_t n = strcspn(at, ".");
    *prefix_len = (size_t)(at - path);
    KA_TRY(ka_arena_str(&r->file->arena, &word, at, n));
    KA_TRY(ka_arena_str(&r->file->arena, &prefix, path, *prefix_len));
    const char *other = ka_foreign_same(scope, word);
    const struct ka_key *k = ka_key_find(r->table, scope, other ? other : word);
    if (!k) return ka_key_unknown(r, scope, word, NULL, prefix);
    if (at[n] == 0) {
      *key = k;
      return KA_STATUS_OK;
    }
    if (k->kind != KA_KEY_OBJECT)
      return ka_key_problem(r, NULL, "%s: %s has no keys below it", path, word);
    void *field = (char *)*object + k->offset;
    at += n + 1;
    if (k->list) {
      const struct ka_key_texts *list = field;
      const char *index;
      int64_t i = -1;
      n = strcspn(at, ".");
      KA_TRY(ka_arena_str(&r->file->arena, &index, at, n));
      if (!ka_parse_i64(index, &i) || i < 0 || i >= list->n || at[n] == 0)
        return ka_key_problem(r, NULL, "%s: expected %s.N.KEY with N below %lld, its entries", path,
                              word, (long long)list->n);
      field = (char *)(uintptr_t)list->items + (size_t)i * r->table->scopes[k->child].size;
      at += n + 1;
    }
    *object = field;
    scope = k->child;
  }
}

static ka_status read_override(struct ka_key_reader *r, struct ka_job *job, const char *word) {
  struct ka_ctx *ctx = r->ctx;
  const char *equals = strchr(word, '='), *path, *prefix;
  const struct ka_key *key = NULL;
  void *object = NULL;
  size_t prefix_len = 0;
  if (!equals || equals == word)
    return ka_key_problem(r, NULL, "got \"%.80s\", expected key=value", word);
  const char *end = equals;
  word += strspn(word, " \t");
  while (end > word && (end[-1] == ' ' || end[-1] == '\t')) end--;
  KA_TRY(ka_arena_str(&r->file->arena, &path, word, (size_t)(end - word)));
  KA_TRY(walk(r, job, path, &key, &object, &prefix_len));
  if (!key) return KA_STATUS_OK;
  KA_TRY(ka_arena_str(&r->file->arena, &prefix, path, prefix_len));
  KA_TRY(ka_arena_printf(&r->file->arena, &path, "%s%s", prefix, key->name));
  struct ka_yaml *v = NULL;
  ka_status st =
      ka_yaml_parse(ctx, &r->file->arena, equals + 1, strlen(equals + 1), path, false, &v);
  if (st.code == KA_E_INPUT) {
    st = ka_key_problem(r, NULL, "%s", ctx->error.message);
    if (ka_ok(st)) ka_error_clear(ctx);
    return st;
  }
  KA_TRY(st);
  KA_TRY(drop_alternatives(r, key, object, prefix));
  return ka_key_read(r, key, v, v, (char *)object + key->offset, path);
}

/* --- when all keys are read -------------------------------------------------- */

static ka_status check_one_of(struct ka_key_reader *r, const struct ka_key_rule *rule) {
  struct ka_ctx *ctx = r->ctx;
  const char *prefix = rule->scope == KA_SCOPE_SELECTION ? "selection." : "", *first = NULL;
  for (const struct ka_key *k = r->table->keys; k->name; k++) {
    const char *path;
    if (k->scope != rule->scope || !ka_key_in_words(rule->key, k->name)) continue;
    KA_TRY(ka_arena_printf(&r->file->arena, &path, "%s%s", prefix, k->name));
    if (!ka_key_given(r->file, path)) continue;
    if (first)
      return ka_key_problem_at(r, path, "%s and %s exclude each other; give one", first, path);
    first = path;
  }
  return KA_STATUS_OK;
}

/* Every unit at its own rate: nothing is cut, so there is no budget. */
static ka_status check_soft(struct ka_key_reader *r, const struct ka_job_selection *s) {
  struct ka_ctx *ctx = r->ctx;
  static const char *const budgets[] = {"selection.count", "selection.fraction", "selection.params",
                                        "selection.file"};
  for (size_t i = 0; i < sizeof budgets / sizeof *budgets; i++)
    if (ka_key_given(r->file, budgets[i]))
      KA_TRY(ka_key_problem_at(r, budgets[i], "%s and selection.mode: soft exclude each other",
                               budgets[i]));
  if (strcmp(s->metric, "kappa") != 0 && strcmp(s->metric, "kappa_mp") != 0)
    KA_TRY(ka_key_problem_at(r, "selection.mode",
                             "selection.mode: soft goes with metric kappa or kappa_mp, not %s",
                             s->metric));
  return KA_STATUS_OK;
}

/* Experts, those that the task uses most. */
static ka_status finish_affinity(struct ka_key_reader *r, struct ka_job_selection *s) {
  struct ka_ctx *ctx = r->ctx;
  if (!ka_key_given(r->file, "selection.order")) s->order = KA_ORDER_HIGHEST;
  if (ka_key_given(r->file, "selection.unit") && s->unit != KA_UNIT_EXPERT)
    KA_TRY(ka_key_problem_at(r, "selection.unit",
                             "selection.unit: got %s, but metric affinity picks experts",
                             ka_job_words_unit[s->unit]));
  if (!(s->p > 0))
    KA_TRY(ka_key_problem_at(r, "selection.p", "selection.p: got %g, expected above 0", s->p));
  s->unit = KA_UNIT_EXPERT;
  return KA_STATUS_OK;
}

static ka_status finish_selection(struct ka_key_reader *r, struct ka_job_selection *s) {
  struct ka_ctx *ctx = r->ctx;
  bool all = strcmp(s->metric, "all") == 0, soft = s->mode == KA_MODE_SOFT;
  bool affinity = strcmp(s->metric, "affinity") == 0;
  bool other = all || soft || affinity || s->fraction > 0 || s->params > 0 || s->file;
  if (affinity) KA_TRY(finish_affinity(r, s));
  if (soft) KA_TRY(check_soft(r, s));
  if (other && !ka_key_given(r->file, "selection.count")) s->count = 0;
  return KA_STATUS_OK;
}

/* A recipe is defaults: what the job gives, it keeps. */
static void take_recipe(const struct ka_key_reader *r, struct ka_job *j) {
  static const char *const choices[] = {"selection.metric", "selection.count", "selection.fraction",
                                        "selection.params", "selection.file",  "selection.mode"};
  bool chosen = false;
  if (j->recipe != KA_RECIPE_KEEP) return;
  for (size_t i = 0; i < sizeof choices / sizeof *choices; i++)
    chosen = chosen || ka_key_given(r->file, choices[i]);
  if (!chosen) j->selection.metric = "all";
  if (!ka_key_given(r->file, "anchor.kind")) j->anchor.kind = KA_ANCHOR_KL;
  if (j->anchor.kind == KA_ANCHOR_KL && !ka_key_given(r->file, "anchor.on"))
    j->anchor.on = KA_ANCHOR_SELF;
}

static ka_status finish_anchor(struct ka_key_reader *r, struct ka_job_anchor *a) {
  struct ka_ctx *ctx = r->ctx;
  bool self = a->on != KA_ANCHOR_TASK;
  if (a->by == KA_PULL_KAPPA && a->kind != KA_ANCHOR_L2)
    KA_TRY(ka_key_problem_at(r, "anchor.by", "anchor.by: kappa goes with kind: l2"));
  if (self && a->kind != KA_ANCHOR_KL)
    KA_TRY(ka_key_problem_at(r, "anchor.on", "anchor.on: %s goes with kind: kl",
                             ka_job_words_on[a->on]));
  if (!self && ka_key_given(r->file, "anchor.share"))
    KA_TRY(ka_key_problem_at(r, "anchor.share", "anchor.share goes with on: self or both"));
  if (self && !ka_key_given(r->file, "anchor.weight")) a->weight = 1;
  return KA_STATUS_OK;
}

static ka_status finish(struct ka_key_reader *r, struct ka_job *j) {
  struct ka_ctx *ctx = r->ctx;
  KA_TRY(ka_key_check_required(r, KA_SCOPE_JOB, NULL, ""));
  for (const struct ka_key_rule *rule = r->table->one_of; rule->key; rule++)
    KA_TRY(check_one_of(r, rule));
  if (ka_job_given(j, "datasets") && j->datasets.n == 0 && j->file.problems.n == 0)
    KA_TRY(ka_key_problem_at(r, "datasets", "datasets: the list is empty"));
  if (j->max_steps > 0 && !ka_job_given(j, "num_epochs")) j->num_epochs = 0;
  if (j->num_epochs <= 0 && j->max_steps == 0)
    KA_TRY(ka_key_problem_at(r, "num_epochs", "num_epochs: got 0, expected a number above 0"));
  if (j->test_datasets.n > 0 && !ka_job_given(j, "val_set_size")) j->val_set_size = 0;
  if (j->val_set_size >= 1 && j->val_set_size != floor(j->val_set_size))
    KA_TRY(ka_key_problem_at(r, "val_set_size",
                             "val_set_size: got %g, expected a fraction below 1 or a whole number "
                             "of rows",
                             j->val_set_size));
  take_recipe(r, j);
  KA_TRY(finish_anchor(r, &j->anchor));
  return finish_selection(r, &j->selection);
}

static ka_status read_job(struct ka_ctx *ctx, struct ka_job *job, const char *text, size_t len,
                          const char *dir, bool check_paths, const char *const *overrides,
                          int64_t n) {
  struct ka_key_reader r = {.ctx = ctx,
                            .table = &ka_job_table,
                            .file = &job->file,
                            .required_later = true,
                            .dir = dir,
                            .check_paths = check_paths,
                            .overrides = overrides,
                            .n_overrides = n};
  struct ka_yaml *root;
  KA_TRY(ka_key_set_defaults(&r, KA_SCOPE_JOB, job));
  KA_TRY(ka_yaml_parse(ctx, &job->file.arena, text, len, job->file.path, false, &root));
  if (root->kind == KA_YAML_MAP) {
    KA_TRY(ka_foreign_translate(&r, root, false));
    KA_TRY(ka_key_read_scope(&r, KA_SCOPE_JOB, root, job, ""));
  } else
    KA_TRY(ka_key_problem(&r, root, "expected a mapping of keys, as in base_model: path"));
  struct ka_key_reader words = r;
  words.words = true;
  words.n_overrides = 0;
  words.dir = "";
  for (int64_t i = 0; i < n; i++) KA_TRY(read_override(&words, job, overrides[i]));
  KA_TRY(finish(&r, job));
  return ka_key_report(ctx, &job->file, "job");
}

ka_status ka_job_parse(struct ka_ctx *ctx, struct ka_job *job, const char *text, size_t len,
                       const char *path, const char *dir, const char *const *overrides, int64_t n) {
  *job = (struct ka_job){0};
  KA_TRY(ka_key_file_open(ctx, &job->file, path));
  return read_job(ctx, job, text, len, dir, false, overrides, n);
}

ka_status ka_job_load(struct ka_ctx *ctx, struct ka_job *job, const char *path,
                      const char *const *overrides, int64_t n) {
  struct ka_str text = {0};
  const char *dir;
  *job = (struct ka_job){0};
  KA_TRY(ka_key_file_open(ctx, &job->file, path));
  KA_TRY(ka_path_dir(&job->file.arena, &dir, path));
  if (strcmp(dir, ".") == 0) dir = ""; /* paths look as they were written */
  ka_status st = ka_read_file(ctx, path, KA_YAML_MAX_BYTES, &text);
  if (ka_ok(st)) st = read_job(ctx, job, text.data, text.len, dir, true, overrides, n);
  ka_str_deinit(&text);
  return st;
}

void ka_job_close(struct ka_job *job) {
  ka_key_file_close(&job->file);
  *job = (struct ka_job){0};
}

ka_status ka_job_json(struct ka_ctx *ctx, const struct ka_job *job, json_t **out) {
  *out = ka_key_json(&ka_job_table, KA_SCOPE_JOB, job);
  if (*out) return KA_STATUS_OK;
  KA_TRY(ka_json_check(ctx));
  return ka_fail(ctx, KA_E_INPUT, "%s: a text is not valid UTF-8", job->file.path);
}
