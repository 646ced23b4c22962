/* SPDX-License-Identifier: Apache-2.0
 * Inside eval: what a document's answers are worth, by filter and metric. */
#ifndef KAPPA_ENGINE_EVAL_JUDGE_H
#define KAPPA_ENGINE_EVAL_JUDGE_H

#include "engine/eval/task_set.h"

/* The answer to a request. texts: of generation, [task's repeats] when drawn, else one. */
struct ka_eval_answer {
  double ll;
  bool greedy;
  int64_t n_texts;
  struct ka_str *texts;
};

/* Room for the documents of a task, one after the other. */
struct ka_eval_judge {
  struct ka_ctx *ctx;
  const struct ka_task *task;
  const struct ka_eval_answer *answers; /* of the task's requests */
  struct ka_arena arena;
  double *ll, *ll_alone, *p;
  bool *greedy;
  int64_t *chars, *bytes;
  struct ka_eval_filtered filtered;  /* of the last document, when it is generated */
  struct ka_eval_metric_item *items; /* [n_metrics], of the last document */
};

ka_status ka_eval_judge_open(struct ka_ctx *ctx, struct ka_eval_judge *j,
                             const struct ka_task *task, const struct ka_eval_answer *answers);
void ka_eval_judge_close(struct ka_eval_judge *j);
/* Fills items (and filtered) for document i under a filter. */
ka_status ka_eval_judge_document(struct ka_eval_judge *j, int64_t i, int64_t filter);

/* --- process.c --- */
/* Items of the metrics that are templates of process_results; out [n_metrics], others stay. a: the
 * likelihoods; NULL: j->filtered has texts. */
ka_status ka_eval_process_results(const struct ka_eval_judge *j, const struct ka_eval_item *item,
                                  const struct ka_eval_answers *a, struct ka_eval_metric_item *out);

#endif
