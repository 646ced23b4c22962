/* SPDX-License-Identifier: Apache-2.0
 * Loading and closing; the parts are in task_set.c, task_open.c, encode.c, answer.c, judge.c. */
#include "engine/eval/tasks.h"

#include "engine/eval/task_set.h"

#include <string.h>

ka_status ka_tasks_load(struct ka_ctx *ctx, struct ka_tasks **out, const char *const *names,
                        int64_t n, const struct ka_tasks_options *o) {
  void *p;
  *out = NULL;
  KA_TRY(ka_alloc(ctx, &p, sizeof **out, "tasks"));
  struct ka_tasks *t = p;
  *t = (struct ka_tasks){.ctx = ctx, .options = *o};
  ka_arena_init(&t->arena, ctx, "tasks");
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_py_open(ctx, &t->py), out);
  KA_TRY_GOTO(ka_task_set_fill(t, names, n), out);
  *out = t;
out:
  if (!ka_ok(st)) ka_tasks_close(t);
  return st;
}

void ka_tasks_close(struct ka_tasks *t) {
  if (!t) return;
  for (int64_t i = 0; i < t->n_tasks; i++) {
    ka_task_close(t->tasks[i]);
    ka_free(t->tasks[i]);
  }
  for (int64_t i = 0; i < t->n_groups; i++) {
    ka_eval_group_config_close(&t->groups[i]->config);
    ka_free(t->groups[i]->members);
    ka_free(t->groups[i]);
  }
  ka_free(t->tasks);
  ka_free(t->groups);
  ka_py_close(&t->py);
  ka_arena_deinit(&t->arena);
  ka_free(t);
}
