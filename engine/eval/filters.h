/* SPDX-License-Identifier: Apache-2.0
 *
 * From a generated text to what is compared: pipelines of steps, a table of them (filters.def). */
#ifndef KAPPA_ENGINE_EVAL_FILTERS_H
#define KAPPA_ENGINE_EVAL_FILTERS_H

#include "engine/eval/task_config.h"
#include "python/builtins.h"

struct ka_filter_step; /* a step with its pattern */

struct ka_eval_filter {
  const char *name;
  struct ka_filter_step *steps;
  int64_t n_steps;
};

/* Answers on their way: n texts, or, after take_first, the one that counts. */
struct ka_eval_filtered {
  struct ka_str *texts;
  int64_t n, cap;
  bool one;
};
void ka_eval_filtered_deinit(struct ka_eval_filtered *f);
ka_status ka_eval_filtered_add(struct ka_ctx *ctx, struct ka_eval_filtered *f, const char *text,
                               size_t n);

/* config NULL: the harness's default, "none": take_first. KA_E_INPUT: an unknown step, a pattern
 * that is none. Memory from arena and the heap; close in either case. */
ka_status ka_eval_filter_open(struct ka_arena *arena, struct ka_eval_filter *f,
                              const struct ka_task_filter *config, const char *place);
void ka_eval_filter_close(struct ka_eval_filter *f);
/* In place. KA_E_INPUT: a text that `map` does not know; a document without choices. */
ka_status ka_eval_filter_apply(struct ka_ctx *ctx, const struct ka_eval_filter *f,
                               const struct ka_py *py, const json_t *doc,
                               struct ka_eval_filtered *answers);

#endif
