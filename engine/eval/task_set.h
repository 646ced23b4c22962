/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside eval: the tasks and groups of one run, and how they are found by name. */
#ifndef KAPPA_ENGINE_EVAL_TASK_SET_H
#define KAPPA_ENGINE_EVAL_TASK_SET_H

#include "engine/eval/task.h"

struct ka_eval_member {
  bool is_group;
  int64_t index; /* into tasks or groups */
};

struct ka_eval_group {
  const char *name, *alias;
  struct ka_eval_group_config config;
  int64_t n_members, cap_members, n_tasks; /* tasks: of the groups inside it too */
  struct ka_eval_member *members;
};

struct ka_tasks {
  struct ka_ctx *ctx;
  struct ka_arena arena; /* names, YAML */
  struct ka_py py;
  struct ka_tasks_options options;
  int64_t n_tasks, cap_tasks, n_groups, cap_groups;
  struct ka_task **tasks;               /* each once, in the order of their first mention */
  struct ka_eval_group **groups;        /* a group behind those inside it */
  const struct ka_tokenizer *tokenizer; /* after encoding */
  struct ka_eval_encode_options encoding;
  int32_t prefix_token;
};

/* The tasks of a group and of the groups inside it, in order, one as often as it is named; out
 * [n_tasks]. */
void ka_eval_group_tasks(const struct ka_tasks *t, const struct ka_eval_group *g, int64_t **out);

#endif
