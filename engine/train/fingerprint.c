/* SPDX-License-Identifier: Apache-2.0
 * See fingerprint.h. */
#include "engine/train/fingerprint.h"

#include "base/log.h"
#include "engine/data/files.h"
#include "engine/formats/config.h"
#include "engine/job/job_table.h"
#include "engine/job/yaml.h"

#include <stdlib.h>
#include <string.h>

static const char *const parts[] = {
    [KA_RESUME_SAME] = "same", [KA_RESUME_DATA] = "data", [KA_RESUME_WARN] = "warn"};

struct walk {
  struct ka_ctx *ctx;
  struct ka_arena arena;
  json_t *root;
};

/* --- contents of files ------------------------------------------------------- */

static ka_status add_file(struct walk *w, json_t *list, const char *path) {
  struct ka_ctx *ctx = w->ctx;
  char hash[KA_HASH_TEXT];
  KA_TRY(ka_file_hash(ctx, path, hash));
  json_t *row = json_pack("[s, s]", ka_path_base(path), hash);
  if (row && json_array_append_new(list, row) == 0) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_MEMORY, "%s: hash: out of memory, or its name is not UTF-8", path);
}

/* Those files of a model's directory that anything is computed from. */
static bool counts(const char *name) {
  static const char *const endings[] = {".safetensors", ".json", ".jinja",
                                        ".model",       ".txt",  ".tiktoken"};
  enum ka_hf_file_kind kind = ka_hf_file_kind_of(name);
  if (kind == KA_FILE_WEIGHTS) return true;
  for (size_t i = 0; kind == KA_FILE_MODEL && i < sizeof endings / sizeof *endings; i++)
    if (ka_ends_with(name, endings[i])) return true;
  return false;
}

static ka_status add_dir(struct walk *w, json_t *list, const char *dir) {
  struct ka_ctx *ctx = w->ctx;
  const char **names, *path;
  int64_t n = 0;
  KA_TRY(ka_list_dir(&w->arena, dir, &names, &n));
  for (int64_t i = 0; i < n; i++) {
    KA_TRY(ka_path_join(&w->arena, &path, dir, names[i]));
    if (counts(names[i]) && !ka_path_is_dir(path)) KA_TRY(add_file(w, list, path));
  }
  return KA_STATUS_OK;
}

/* Texts of a task file that are the names of files beside it: data, and files to include. */
static ka_status add_named(struct walk *w, json_t *list, const char *dir, const struct ka_yaml *v) {
  struct ka_ctx *ctx = w->ctx;
  const char *path;
  for (int64_t i = 0; v->kind != KA_YAML_SCALAR && i < v->n; i++)
    KA_TRY(add_named(w, list, dir, v->kind == KA_YAML_MAP ? v->values[i] : v->items[i]));
  if (v->kind != KA_YAML_SCALAR || !*v->text || strlen(v->text) > 512) return KA_STATUS_OK;
  KA_TRY(ka_path_join(&w->arena, &path, dir, v->text));
  return ka_path_is_file(path) ? add_file(w, list, path) : KA_STATUS_OK;
}

static ka_status add_task(struct walk *w, json_t *list, const char *path) {
  struct ka_ctx *ctx = w->ctx;
  struct ka_str text = {0};
  struct ka_yaml *root = NULL;
  const char *dir;
  ka_status st = KA_STATUS_OK;
  if (!ka_path_is_file(path)) return KA_STATUS_OK; /* whoever opens it says so */
  KA_TRY(add_file(w, list, path));
  KA_TRY(ka_path_dir(&w->arena, &dir, path));
  KA_TRY_GOTO(ka_read_file(ctx, path, KA_YAML_MAX_BYTES, &text), out);
  KA_TRY_GOTO(
      ka_yaml_parse(ctx, &w->arena, text.data ? text.data : "", text.len, path, true, &root), out);
  KA_TRY_GOTO(add_named(w, list, dir, root), out);
out:
  ka_str_deinit(&text);
  return st;
}

/* The field of another key of the same object; NULL: its scope has none of this name. */
static const void *beside(int scope, const void *object, const char *name) {
  const struct ka_key *k = ka_key_find(&ka_job_table, scope, name);
  return k ? (const char *)object + k->offset : NULL;
}

/* In place of the value of a key that names files. */
static ka_status add_contents(struct walk *w, const struct ka_key *k, const void *object,
                              json_t *list) {
  struct ka_ctx *ctx = w->ctx;
  const void *field = (const char *)object + k->offset;
  const char *const *format = beside(k->scope, object, "ds_type");
  const char *const *split = beside(k->scope, object, "split");
  const struct ka_key_texts *paths = field;
  const struct ka_data_choice choice = {beside(k->scope, object, "data_files"),
                                        beside(k->scope, object, "exclude_files"),
                                        format ? *format : NULL, split ? *split : NULL};
  struct ka_data_files files;
  if (!k->list) {
    const char *path = *(const char *const *)field;
    if (!path) return KA_STATUS_OK;
    return ka_path_is_dir(path) ? add_dir(w, list, path) : add_file(w, list, path);
  }
  if (choice.data_files) {
    KA_TRY(ka_data_files(&w->arena, paths, &choice, &files));
    for (int64_t i = 0; i < files.n; i++) KA_TRY(add_file(w, list, files.items[i].path));
    return KA_STATUS_OK;
  }
  for (int64_t i = 0; i < paths->n; i++) KA_TRY(add_task(w, list, paths->items[i]));
  return KA_STATUS_OK;
}

/* --- keys -------------------------------------------------------------------- */

static ka_status add_scope(struct walk *w, int scope, const void *object, const char *prefix);

static ka_status add_below(struct walk *w, const struct ka_key *k, const void *field,
                           const char *path) {
  struct ka_ctx *ctx = w->ctx;
  const struct ka_key_texts *list = field; /* {items, n} of any struct */
  size_t size = ka_job_table.scopes[k->child].size;
  const char *prefix;
  for (int64_t i = 0; i < (k->list ? list->n : 1); i++) {
    const void *item = k->list ? (const char *)(const void *)list->items + (size_t)i * size : field;
    KA_TRY(k->list ? ka_arena_printf(&w->arena, &prefix, "%s.%lld.", path, (long long)i)
                   : ka_arena_printf(&w->arena, &prefix, "%s.", path));
    KA_TRY(add_scope(w, k->child, item, prefix));
  }
  return KA_STATUS_OK;
}

static ka_status add_key(struct walk *w, const struct ka_key *k, const void *object,
                         const char *path) {
  struct ka_ctx *ctx = w->ctx;
  const void *field = (const char *)object + k->offset;
  if (k->kind == KA_KEY_OBJECT) return add_below(w, k, field, path);
  json_t *part = json_object_get(w->root, parts[k->resume]);
  json_t *value =
      k->kind == KA_KEY_PATH ? json_array() : ka_key_value_json(&ka_job_table, k, field);
  if (json_object_set_new(part, path, value) != 0)
    return ka_fail(ctx, KA_E_MEMORY, "%s: out of memory, or a text that is not UTF-8", path);
  return k->kind == KA_KEY_PATH ? add_contents(w, k, object, value) : KA_STATUS_OK;
}

static ka_status add_scope(struct walk *w, int scope, const void *object, const char *prefix) {
  struct ka_ctx *ctx = w->ctx;
  const char *path;
  for (const struct ka_key *k = ka_job_table.keys; k->name; k++) {
    if (k->scope != scope || k->resume == KA_RESUME_FREE) continue;
    KA_TRY(ka_arena_printf(&w->arena, &path, "%s%s", prefix, k->name));
    KA_TRY(add_key(w, k, object, path));
  }
  return KA_STATUS_OK;
}

ka_status ka_fingerprint(struct ka_ctx *ctx, const struct ka_job *job, json_t **out) {
  struct walk w = {.ctx = ctx};
  w.root = json_pack("{s:{}, s:{}, s:{}}", parts[KA_RESUME_SAME], parts[KA_RESUME_DATA],
                     parts[KA_RESUME_WARN]);
  *out = w.root;
  if (!w.root) return ka_fail(ctx, KA_E_MEMORY, "fingerprint: out of memory");
  ka_arena_init(&w.arena, ctx, "fingerprint");
  ka_status st = add_scope(&w, KA_SCOPE_JOB, job, "");
  ka_arena_deinit(&w.arena);
  if (ka_ok(st)) return st;
  json_decref(w.root);
  *out = NULL;
  return st;
}

ka_status ka_fingerprint_files(struct ka_ctx *ctx, const char *path, json_t **out) {
  struct walk w = {.ctx = ctx};
  *out = json_array();
  if (!*out) return ka_fail(ctx, KA_E_MEMORY, "fingerprint: out of memory");
  ka_arena_init(&w.arena, ctx, "fingerprint");
  ka_status st = ka_path_is_dir(path) ? add_dir(&w, *out, path) : add_file(&w, *out, path);
  ka_arena_deinit(&w.arena);
  if (ka_ok(st)) return st;
  json_decref(*out);
  *out = NULL;
  return st;
}

/* --- comparing --------------------------------------------------------------- */

/* Name of the first file that differs in two lists of [name, hash]. */
static const char *other_file(const json_t *old, const json_t *now) {
  size_t n =
      json_array_size(now) > json_array_size(old) ? json_array_size(now) : json_array_size(old);
  for (size_t i = 0; i < n; i++) {
    const json_t *a = json_array_get(old, i), *b = json_array_get(now, i);
    if (!a || !b || !json_equal(a, b)) return json_string_value(json_array_get(b ? b : a, 0));
  }
  return NULL;
}

static bool is_files(const json_t *v) {
  return json_is_array(v) && json_is_array(json_array_get(v, 0));
}

static ka_status say(struct ka_ctx *ctx, struct ka_str *out, const char *key, const json_t *old,
                     const json_t *now) {
  const char *between = out->len ? "; " : "";
  if (is_files(old) || is_files(now)) {
    const char *file = other_file(old, now);
    return ka_str_printf(ctx, out, "%s%s: %s is not the file that it was", between, key,
                         file ? file : "a file");
  }
  char *was = old ? json_dumps(old, JSON_ENCODE_ANY) : strdup("absent");
  char *is = now ? json_dumps(now, JSON_ENCODE_ANY) : strdup("absent");
  ka_status st = was && is
                     ? ka_str_printf(ctx, out, "%s%s was %.200s, is %.200s", between, key, was, is)
                     : ka_fail(ctx, KA_E_MEMORY, "fingerprint: out of memory");
  free(was);
  free(is);
  return st;
}

/* Differences of a part, both ways, into out. */
static ka_status compare(struct ka_ctx *ctx, const json_t *saved, const json_t *now,
                         const char *part, struct ka_str *out) {
  const json_t *a = json_object_get(saved, part), *b = json_object_get(now, part);
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)(uintptr_t)b, key, value) {
    const json_t *old = json_object_get(a, key);
    if (!old || !json_equal(old, value)) KA_TRY(say(ctx, out, key, old, value));
  }
  json_object_foreach((json_t *)(uintptr_t)a, key, value) if (!json_object_get(b, key))
      KA_TRY(say(ctx, out, key, value, NULL));
  return KA_STATUS_OK;
}

static ka_status check(struct ka_ctx *ctx, const struct ka_job *job, const json_t *saved,
                       const json_t *now, const char *checkpoint, struct ka_str text[3]) {
  struct ka_str *same = &text[0], *data = &text[1], *warn = &text[2];
  KA_TRY(compare(ctx, saved, now, parts[KA_RESUME_SAME], same));
  KA_TRY(compare(ctx, saved, now, parts[KA_RESUME_DATA], data));
  KA_TRY(compare(ctx, saved, now, parts[KA_RESUME_WARN], warn));
  if (same->len > 0)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: the job does not continue this run: %.1500s%s%.300s; put it back, or start "
                   "anew in another output_dir",
                   checkpoint, same->data, data->len ? "; " : "", data->len ? data->data : "");
  if (data->len > 0 && !job->resume_other_data)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: the job does not continue this run: %.1500s; resume_other_data: true goes "
                   "on with it",
                   checkpoint, data->data);
  if (warn->len + data->len > 0)
    ka_warn(ctx, "train", "the job differs from the interrupted run: %s%s%s",
            data->len ? data->data : "", data->len && warn->len ? "; " : "",
            warn->len ? warn->data : "");
  return KA_STATUS_OK;
}

ka_status ka_fingerprint_check(struct ka_ctx *ctx, const struct ka_job *job, const json_t *saved,
                               const json_t *now, const char *checkpoint) {
  struct ka_str text[3] = {{0}};
  ka_status st = check(ctx, job, saved, now, checkpoint, text);
  for (int i = 0; i < 3; i++) ka_str_deinit(&text[i]);
  return st;
}
