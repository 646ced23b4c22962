/* SPDX-License-Identifier: Apache-2.0
 *
 * Task files: YAML in, plain fields out. Keys stand in task.def; a field has its key's name. A task
 * may be put together from several files (include, a group's keys for its members): its keys are
 * one merged mapping whose values know their file. Opens no data and knows no documents. */
#ifndef KAPPA_ENGINE_EVAL_TASK_CONFIG_H
#define KAPPA_ENGINE_EVAL_TASK_CONFIG_H

#include "engine/job/keys.h"
#include "engine/job/yaml.h"

enum ka_task_scope {
  KA_SCOPE_TASK,
  KA_SCOPE_GROUP,
  KA_SCOPE_DATA,
  KA_SCOPE_PROCESS,
  KA_SCOPE_FEWSHOT,
  KA_SCOPE_GENERATION,
  KA_SCOPE_METRIC,
  KA_SCOPE_FILTER,
  KA_SCOPE_STEP,
  KA_SCOPE_AGGREGATE,
  KA_N_TASK_SCOPES
};

#define KA_TASK_FIELD(type, name, ...) KA_KEY_C_##type name;
#define KA_KEY_C_DATA struct ka_task_data
#define KA_KEY_C_PROCESS struct ka_task_process
#define KA_KEY_C_FEWSHOT struct ka_task_fewshot
#define KA_KEY_C_GENERATION struct ka_task_generation
#define KA_KEY_C_METRICS struct ka_task_metrics
#define KA_KEY_C_FILTERS struct ka_task_filters
#define KA_KEY_C_STEPS struct ka_task_steps
#define KA_KEY_C_AGGREGATES struct ka_task_aggregates

struct ka_task_data {
#define KA_DATA_KEY KA_TASK_FIELD
#include "engine/eval/task.def"
};

struct ka_task_process {
#define KA_PROCESS_KEY KA_TASK_FIELD
#include "engine/eval/task.def"
};

struct ka_task_fewshot {
#define KA_FEWSHOT_KEY KA_TASK_FIELD
#include "engine/eval/task.def"
};

struct ka_task_generation {
#define KA_GENERATION_KEY KA_TASK_FIELD
#include "engine/eval/task.def"
};

struct ka_task_metric {
#define KA_METRIC_KEY KA_TASK_FIELD
#include "engine/eval/task.def"
};
struct ka_task_metrics {
  struct ka_task_metric *items;
  int64_t n;
};

struct ka_task_step {
#define KA_STEP_KEY KA_TASK_FIELD
#include "engine/eval/task.def"
};
struct ka_task_steps {
  struct ka_task_step *items;
  int64_t n;
};

struct ka_task_filter {
#define KA_FILTER_KEY KA_TASK_FIELD
#include "engine/eval/task.def"
};
struct ka_task_filters {
  struct ka_task_filter *items;
  int64_t n;
};

struct ka_task_aggregate {
#define KA_AGGREGATE_KEY KA_TASK_FIELD
#include "engine/eval/task.def"
};
struct ka_task_aggregates {
  struct ka_task_aggregate *items;
  int64_t n;
};

struct ka_task_config {
#define KA_TASK_KEY KA_TASK_FIELD
#include "engine/eval/task.def"
  struct ka_key_file file; /* memory, places of keys */
  const struct ka_yaml *keys;
};

struct ka_eval_group_config {
#define KA_GROUP_KEY KA_TASK_FIELD
#include "engine/eval/task.def"
  struct ka_key_file file;
};

extern const struct ka_key_table ka_task_table;

/* Reads a file and what it includes (with a cycle: KA_E_INPUT) into one mapping; all memory from
 * arena. */
ka_status ka_task_file_read(struct ka_arena *arena, const char *path, struct ka_yaml **keys);
/* base's keys, but those that `over` has; either may be NULL. */
ka_status ka_task_keys_merge(struct ka_arena *arena, const struct ka_yaml *base,
                             const struct ka_yaml *over, struct ka_yaml **out);

/* From keys, which must outlive the config, to fields. All problems are one KA_E_INPUT. Close in
 * either case. `path` is for messages about what is missing. */
ka_status ka_task_config_open(struct ka_ctx *ctx, struct ka_task_config *c,
                              const struct ka_yaml *keys, const char *path);
void ka_task_config_close(struct ka_task_config *c);
ka_status ka_eval_group_config_open(struct ka_ctx *ctx, struct ka_eval_group_config *g,
                                    const struct ka_yaml *keys, const char *path);
void ka_eval_group_config_close(struct ka_eval_group_config *g);

/* docs/tasks.md, appended to out. */
ka_status ka_task_doc_markdown(struct ka_ctx *ctx, struct ka_str *out);

#endif
