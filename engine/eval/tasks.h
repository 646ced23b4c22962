/* SPDX-License-Identifier: Apache-2.0
 *
 * Tasks: what a model is asked and what its answers are worth, with lm-evaluation-harness's
 * semantics (docs/evaluation.md). Load task files once, encode them for a tokenizer once, then
 * score as many models, or states of one model in training, as there are:
 *
 *   ka_tasks_load(ctx, &tasks, names, n, &options);
 *   ka_tasks_encode(ctx, tasks, tokenizer, &encoding);
 *   m.max_position = ka_tasks_positions(tasks);  ka_model_prepare(&m, B, T, false);
 *   ka_tasks_score(ctx, tasks, &m, &scoring, &results);   results.values: plain numbers
 *
 * Prompts and requests are made when loading, so that scoring depends on nothing but the model. */
#ifndef KAPPA_ENGINE_EVAL_TASKS_H
#define KAPPA_ENGINE_EVAL_TASKS_H

#include "base/json.h"
#include "engine/data/chat.h"
#include "engine/data/speech.h"
#include "engine/model/model.h"
#include "tokenizer/tokenizer.h"

struct ka_tasks;

/* How prompts are written. All zero: as plain text. */
struct ka_eval_chat {
  const struct ka_chat *template; /* NULL: plain text */
  bool as_turns; /* examples are turns of a conversation, else all stands in the user's one */
  const char *system_instruction; /* in front of the task's description; NULL: none */
};

struct ka_tasks_options {
  double limit;          /* documents of a task: 0 all, below 1 that part, else that many */
  int64_t num_fewshot;   /* -1: as the tasks say; a task that says 0 keeps it */
  bool native;           /* kappa's own mode, without the harness's quirks */
  uint64_t fewshot_seed; /* the harness's is 1234 */
  const char *const *include_paths; /* directories whose task files are known by name */
  int64_t n_include_paths;
  struct ka_eval_chat chat; /* its template must outlive ka_tasks_load */
};
#define KA_TASKS_DEFAULTS                                                                          \
  (struct ka_tasks_options) { .num_fewshot = -1, .fewshot_seed = 1234 }

/* names: files, or names of tasks, groups and tags below include_paths. Reads all documents and
 * writes all prompts. KA_E_INPUT says what is wrong with which file, key or document. *out is NULL
 * on failure; else close it. */
ka_status ka_tasks_load(struct ka_ctx *ctx, struct ka_tasks **out, const char *const *names,
                        int64_t n, const struct ka_tasks_options *o);
void ka_tasks_close(struct ka_tasks *t); /* NULL is fine */

struct ka_eval_encode_options {
  int64_t max_length;             /* tokens that the model takes at once */
  int32_t prefix_token;           /* before texts without a context; -1: BOS, else EOS */
  const struct ka_speech *speech; /* how tasks with sound are heard; NULL: they are refused */
  int add_bos; /* special tokens at the start: 0 no, 1 yes, -1 as tokenizer.json says */
};

/* Texts to ids; the tokenizer must stay open as long as the tasks are scored. Requests that are too
 * long lose their beginning, which is said once. KA_E_INPUT: a target longer than the model takes,
 * or without a token. */
ka_status ka_tasks_encode(struct ka_ctx *ctx, struct ka_tasks *t,
                          const struct ka_tokenizer *tokenizer,
                          const struct ka_eval_encode_options *o);
/* Positions that scoring needs of a model. */
int64_t ka_tasks_positions(const struct ka_tasks *t);
int64_t ka_tasks_n_requests(const struct ka_tasks *t);

struct ka_eval_score_options {
  int64_t batch_size;      /* sequences at once; 0: as many as the model has rows for */
  int64_t bootstrap_iters; /* the harness's are 100000; 0: no standard errors */
  uint64_t seed;           /* of answers that are drawn */
  void (*progress)(void *user, int64_t n_done); /* requests; may be NULL */
  void *user;
};
#define KA_SCORE_DEFAULTS                                                                          \
  (struct ka_eval_score_options) { .bootstrap_iters = 100000, .seed = 1234 }

/* A metric of a task or group. NaN is what there is none of. */
struct ka_task_value {
  const char *task, *metric, *filter; /* "arc_easy", "acc", "none"; borrowed from the tasks */
  double value, stderr_;
  double chance; /* what guessing gives: of choices the mean of 1 / their number */
  bool higher_is_better, is_group;
  int64_t n_docs;
};

struct ka_results {
  struct ka_task_value *values; /* tasks in their order, then groups */
  int64_t n_values;
  struct ka_eval_answer **answers; /* of each task's requests, in order */
  int64_t n_tasks, *n_answers;
  int64_t n_tok; /* of all requests, and of the texts that were generated */
};

/* m: prepared, for ka_tasks_positions(t) positions and any number of rows. Close results in either
 * case. KA_E_INPUT: the tokenizer is not this model's. */
ka_status ka_tasks_score(struct ka_ctx *ctx, const struct ka_tasks *t, struct ka_model *m,
                         const struct ka_eval_score_options *o, struct ka_results *results);
void ka_results_close(struct ka_results *r);
/* The first such value; filter NULL: any. NULL: there is none. */
const struct ka_task_value *ka_results_find(const struct ka_results *r, const char *task,
                                            const char *metric, const char *filter);

/* --- for people and tools -------------------------------------------------------------------- */

struct ka_run_info {
  const char *model; /* as it was named; its directory below output paths comes from it */
  const char *dtype, *device;
  const struct ka_tasks_options *tasks;
  const struct ka_eval_score_options *scoring;
  double started_s, seconds; /* Unix time, duration */
};

/* The harness's results JSON; a new reference. */
ka_status ka_results_json(struct ka_ctx *ctx, const struct ka_tasks *t, const struct ka_results *r,
                          const struct ka_run_info *info, json_t **out);
/* Writes root (of ka_results_json) as DIR/MODEL/results_DATE.json and, with log_samples,
 * DIR/MODEL/samples_TASK_DATE.jsonl, as the harness does. */
ka_status ka_results_write(struct ka_ctx *ctx, const struct ka_tasks *t, const struct ka_results *r,
                           const struct ka_run_info *info, json_t *root, const char *dir,
                           bool log_samples);
/* The harness's table, and that of groups; appended. */
ka_status ka_results_table(struct ka_ctx *ctx, const struct ka_tasks *t, const struct ka_results *r,
                           struct ka_str *out);

#endif
