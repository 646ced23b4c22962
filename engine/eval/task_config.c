/* SPDX-License-Identifier: Apache-2.0
 * task.def as tables, files and what they include, keys to fields. */
#include "engine/eval/task_config.h"

#include "engine/job/key_read.h"

#include <string.h>

enum { MAX_INCLUDED = 64 };

#define KA_KEY_T_DATA KA_KEY_OBJECT, false, false, false, KA_SCOPE_DATA
#define KA_KEY_T_PROCESS KA_KEY_OBJECT, false, false, false, KA_SCOPE_PROCESS
#define KA_KEY_T_FEWSHOT KA_KEY_OBJECT, false, false, false, KA_SCOPE_FEWSHOT
#define KA_KEY_T_GENERATION KA_KEY_OBJECT, false, false, false, KA_SCOPE_GENERATION
#define KA_KEY_T_METRICS KA_KEY_OBJECT, true, false, false, KA_SCOPE_METRIC
#define KA_KEY_T_FILTERS KA_KEY_OBJECT, true, false, false, KA_SCOPE_FILTER
#define KA_KEY_T_STEPS KA_KEY_OBJECT, true, false, false, KA_SCOPE_STEP
#define KA_KEY_T_AGGREGATES KA_KEY_OBJECT, true, false, false, KA_SCOPE_AGGREGATE

#define ROW(scope, owner, type, name, dflt, least, most, choices, unit, doc)                       \
  {scope, KA_KEY_T_##type, #name, dflt, least,                                                     \
   most,  choices,         unit,  doc,  offsetof(struct owner, name)},

static const struct ka_key keys[] = {
#define KA_TASK_KEY(...) ROW(KA_SCOPE_TASK, ka_task_config, __VA_ARGS__)
#define KA_GROUP_KEY(...) ROW(KA_SCOPE_GROUP, ka_eval_group_config, __VA_ARGS__)
#define KA_DATA_KEY(...) ROW(KA_SCOPE_DATA, ka_task_data, __VA_ARGS__)
#define KA_PROCESS_KEY(...) ROW(KA_SCOPE_PROCESS, ka_task_process, __VA_ARGS__)
#define KA_FEWSHOT_KEY(...) ROW(KA_SCOPE_FEWSHOT, ka_task_fewshot, __VA_ARGS__)
#define KA_GENERATION_KEY(...) ROW(KA_SCOPE_GENERATION, ka_task_generation, __VA_ARGS__)
#define KA_METRIC_KEY(...) ROW(KA_SCOPE_METRIC, ka_task_metric, __VA_ARGS__)
#define KA_FILTER_KEY(...) ROW(KA_SCOPE_FILTER, ka_task_filter, __VA_ARGS__)
#define KA_STEP_KEY(...) ROW(KA_SCOPE_STEP, ka_task_step, __VA_ARGS__)
#define KA_AGGREGATE_KEY(...) ROW(KA_SCOPE_AGGREGATE, ka_task_aggregate, __VA_ARGS__)
#include "engine/eval/task.def"
    {0}};

static const struct ka_key_rule aliases[] = {
#define KA_TASK_ALIAS(scope, key, advice) {KA_SCOPE_##scope, key, advice},
#include "engine/eval/task.def"
    {0}};

static const struct ka_key_rule none[] = {{0}};

static const struct ka_key_scope scopes[KA_N_TASK_SCOPES] = {
    [KA_SCOPE_TASK] = {"task", sizeof(struct ka_task_config)},
    [KA_SCOPE_GROUP] = {"group", sizeof(struct ka_eval_group_config)},
    [KA_SCOPE_DATA] = {"dataset_kwargs", sizeof(struct ka_task_data)},
    [KA_SCOPE_PROCESS] = {"process_docs", sizeof(struct ka_task_process)},
    [KA_SCOPE_FEWSHOT] = {"fewshot_config", sizeof(struct ka_task_fewshot)},
    [KA_SCOPE_GENERATION] = {"generation_kwargs", sizeof(struct ka_task_generation)},
    [KA_SCOPE_METRIC] = {"metric_list", sizeof(struct ka_task_metric)},
    [KA_SCOPE_FILTER] = {"filter_list", sizeof(struct ka_task_filter)},
    [KA_SCOPE_STEP] = {"filter", sizeof(struct ka_task_step)},
    [KA_SCOPE_AGGREGATE] = {"aggregate_metric_list", sizeof(struct ka_task_aggregate)},
};

const struct ka_key_table ka_task_table = {
    .what = "task",
    .keys = keys,
    .one_of = none,
    .aliases = aliases,
    .scopes = scopes,
};

/* --- files ------------------------------------------------------------------- */

static ka_status new_map(struct ka_arena *arena, int64_t n, const struct ka_yaml *like,
                         struct ka_yaml **out) {
  struct ka_ctx *ctx = arena->ctx;
  KA_TRY(KA_NEW(arena, out, 1, "yaml"));
  **out = (struct ka_yaml){
      .kind = KA_YAML_MAP, .file = like->file, .line = like->line, .column = like->column};
  KA_TRY(KA_NEW(arena, &(*out)->keys, n, "yaml"));
  return KA_NEW(arena, &(*out)->values, n, "yaml");
}

static void add_pair(struct ka_yaml *map, struct ka_yaml *key, struct ka_yaml *value) {
  map->keys[map->n] = key;
  map->values[map->n++] = value;
}

ka_status ka_task_keys_merge(struct ka_arena *arena, const struct ka_yaml *base,
                             const struct ka_yaml *over, struct ka_yaml **out) {
  struct ka_ctx *ctx = arena->ctx;
  int64_t n = (base ? base->n : 0) + (over ? over->n : 0);
  KA_NEVER(ctx, !base && !over);
  KA_TRY(new_map(arena, n, over ? over : base, out));
  for (int64_t i = 0; base && i < base->n; i++)
    if (!over || !ka_yaml_get(over, base->keys[i]->text))
      add_pair(*out, base->keys[i], base->values[i]);
  for (int64_t i = 0; over && i < over->n; i++) add_pair(*out, over->keys[i], over->values[i]);
  return KA_STATUS_OK;
}

struct includes {
  const char *path;
  const struct includes *by;
};

static ka_status read_file(struct ka_arena *arena, const struct includes *at,
                           struct ka_yaml **keys);

static ka_status include_one(struct ka_arena *arena, const struct includes *at,
                             const struct ka_yaml *name, struct ka_yaml **merged) {
  struct ka_ctx *ctx = arena->ctx;
  struct ka_yaml *keys_of;
  const char *dir, *path;
  int depth = 0;
  if (name->kind != KA_YAML_SCALAR || !*name->text)
    return ka_fail(ctx, KA_E_INPUT, "%s:%d:%d: include: expected a file, or a list of files",
                   name->file, name->line, name->column);
  KA_TRY(ka_path_dir(arena, &dir, at->path));
  KA_TRY(ka_path_join(arena, &path, strcmp(dir, ".") == 0 ? "" : dir, name->text));
  for (const struct includes *i = at; i; i = i->by)
    if (strcmp(i->path, path) == 0 || ++depth > MAX_INCLUDED)
      return ka_fail(ctx, KA_E_INPUT, "%s:%d:%d: include: %s includes itself", name->file,
                     name->line, name->column, path);
  KA_TRY(read_file(arena, &(struct includes){path, at}, &keys_of));
  return ka_task_keys_merge(arena, *merged, keys_of, merged);
}

/* Later includes win over earlier ones, the file's own keys over all. */
static ka_status read_file(struct ka_arena *arena, const struct includes *at,
                           struct ka_yaml **merged) {
  struct ka_ctx *ctx = arena->ctx;
  struct ka_str text = {0};
  struct ka_yaml *own = NULL, *base = NULL;
  const char *path;
  *merged = NULL;
  KA_TRY(ka_arena_str(arena, &path, at->path, strlen(at->path)));
  ka_status st = ka_read_file(ctx, path, KA_YAML_MAX_BYTES, &text);
  if (ka_ok(st))
    st = ka_yaml_parse(ctx, arena, text.data ? text.data : "", text.len, path, true, &own);
  ka_str_deinit(&text);
  KA_TRY(st);
  if (own->kind != KA_YAML_MAP)
    return ka_fail(ctx, KA_E_INPUT, "%s:%d:%d: expected a mapping of keys, as in task: name", path,
                   own->line, own->column);
  struct ka_yaml *include = ka_yaml_get(own, "include");
  if (include && include->kind == KA_YAML_LIST) {
    for (int64_t i = 0; i < include->n; i++)
      KA_TRY(include_one(arena, at, include->items[i], &base));
  } else if (include && !ka_yaml_is_null(include)) {
    KA_TRY(include_one(arena, at, include, &base));
  }
  return ka_task_keys_merge(arena, base, own, merged);
}

ka_status ka_task_file_read(struct ka_arena *arena, const char *path, struct ka_yaml **merged) {
  return read_file(arena, &(struct includes){path, NULL}, merged);
}

/* --- keys to fields ---------------------------------------------------------- */

static ka_status read_scope(struct ka_ctx *ctx, struct ka_key_file *file, int scope, void *object,
                            const struct ka_yaml *map, const char *path) {
  KA_TRY(ka_key_file_open(ctx, file, path));
  struct ka_key_reader r = {.ctx = ctx, .table = &ka_task_table, .file = file, .dir = ""};
  KA_TRY(ka_key_set_defaults(&r, scope, object));
  KA_TRY(ka_key_read_scope(&r, scope, map, object, ""));
  return ka_key_report(ctx, file, scopes[scope].name);
}

ka_status ka_task_config_open(struct ka_ctx *ctx, struct ka_task_config *c,
                              const struct ka_yaml *map, const char *path) {
  *c = (struct ka_task_config){.keys = map};
  return read_scope(ctx, &c->file, KA_SCOPE_TASK, c, map, path);
}

void ka_task_config_close(struct ka_task_config *c) { ka_key_file_close(&c->file); }

ka_status ka_eval_group_config_open(struct ka_ctx *ctx, struct ka_eval_group_config *g,
                                    const struct ka_yaml *map, const char *path) {
  *g = (struct ka_eval_group_config){0};
  return read_scope(ctx, &g->file, KA_SCOPE_GROUP, g, map, path);
}

void ka_eval_group_config_close(struct ka_eval_group_config *g) { ka_key_file_close(&g->file); }
