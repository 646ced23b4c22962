/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside eval: a task with its documents, and the requests that they make. The outside sees
 * tasks.h.
 *
 * A task file becomes a struct ka_task (task_open.c); its documents become items with prompts
 * (prompt.c, shots.c) and requests (request.c), which are encoded (encode.c) for one tokenizer and
 * then answered by a model (scorer.c, generator.c). What the answers are worth is in judge.c. */
#ifndef KAPPA_ENGINE_EVAL_TASK_H
#define KAPPA_ENGINE_EVAL_TASK_H

#include "engine/eval/field.h"
#include "engine/eval/filters.h"
#include "engine/eval/metrics.h"
#include "engine/eval/sampling.h"
#include "engine/eval/tasks.h"
#include "python/random.h"

struct ka_eval_text {
  const char *p; /* may hold NUL */
  size_t n;
};

/* In the order of output_type's words. */
enum ka_eval_output {
  KA_OUT_GENERATE,
  KA_OUT_LOGLIKELIHOOD,
  KA_OUT_ROLLING,
  KA_OUT_CHOICE,
  KA_N_OUTPUTS
};

/* One question to a model. GENERATE: what follows the context? ROLLING: how likely is the
 * continuation, all by itself? Else: how likely is it behind the context? */
struct ka_eval_request {
  struct ka_eval_text context, continuation;
  struct ka_speech_clip clip; /* heard first; path NULL: nothing is */
  int32_t
      *ids; /* encoded: both together, the last n_targets are scored; ROLLING: the prefix first */
  int64_t n, n_targets;
};

/* A document that is evaluated. */
struct ka_eval_item {
  json_t *doc, *target; /* target: what doc_to_target gives, any type */
  json_t *choices;      /* list of texts, or NULL */
  int64_t *gold;        /* CHOICE: right choices, as ka_eval_answers has them */
  int64_t n_gold;
  int64_t first, n_requests; /* of the task's requests */
  int64_t n_words, n_bytes;  /* ROLLING */
};

/* How questions, or few-shot examples, are written. */
struct ka_eval_writer {
  struct ka_eval_field text, target, choice, gen_prefix;
  const char *target_delimiter, *fewshot_delimiter;
};

struct ka_eval_message {
  const char *role; /* "system", "user", "assistant" */
  struct ka_eval_text content;
  const char *delimiter; /* behind it, in plain text */
};

/* Messages of the document at work: n_shots of them stand before its question. */
struct ka_eval_messages {
  struct ka_arena arena; /* the contents' */
  struct ka_eval_message *items;
  int64_t n, n_shots, cap;
};

struct ka_eval_metric_use {
  const struct ka_eval_metric *metric;
  const struct ka_eval_aggregation *aggregation;
  bool higher_is_better;
  const struct ka_task_metric *config; /* NULL: the output type's own */
  struct ka_py_regex **ignore;         /* [config->regexes_to_ignore.n] */
  struct ka_eval_field value;          /* given: a metric of process_results */
};

struct ka_task {
  struct ka_ctx *ctx;
  const struct ka_py *py;
  struct ka_arena arena;
  struct ka_task_config config;
  const char *name, *alias;
  enum ka_eval_output output;
  struct ka_eval_writer question, shot;
  struct ka_eval_field description, count_text, audio;
  bool native, has_choices, choices_are_contexts;
  struct ka_eval_chat chat;
  int64_t num_fewshot;
  json_t *splits;           /* {name: rows}: those that were read */
  json_t *docs;             /* of the evaluated split; borrowed from splits */
  json_t *pool;             /* few-shot examples; borrowed; NULL when none are wanted */
  bool first_n, spare_self; /* sampler; the question's own document may not be an example */
  struct ka_py_mt mt;
  int64_t n_items, n_without_gold, n_requests, cap_requests;
  struct ka_eval_item *items;
  struct ka_eval_request *requests;
  int64_t n_metrics, n_filters;
  struct ka_eval_metric_use *metrics;
  struct ka_eval_filter *filters;
  int64_t max_gen_toks;
  struct ka_eval_sampling sampling;
};

/* --- task_open.c --- */
/* keys as ka_task_config_open wants them; py must outlive the task. Close in either case. */
ka_status ka_task_open(struct ka_ctx *ctx, struct ka_task *t, const struct ka_py *py,
                       const struct ka_yaml *keys, const char *path,
                       const struct ka_tasks_options *o);
void ka_task_close(struct ka_task *t);
/* Where the key stands in the task's file. */
const char *ka_task_place(const struct ka_task *t, const char *key);
/* Fails with `st`'s message and the document it is about. */
ka_status ka_task_fail_doc(const struct ka_task *t, ka_status st, int64_t doc);

/* --- task_data.c --- */
/* The documents and the pool of examples. */
ka_status ka_task_read_data(struct ka_task *t);

/* --- process.c --- */
/* process_docs on the rows of a split, in place. */
ka_status ka_eval_process_docs(struct ka_task *t, json_t *rows);

/* --- prompt.c --- */
/* New references. text: a string, or the number of a choice; target: any; choices: strings. */
ka_status ka_eval_doc_text(const struct ka_task *t, const struct ka_eval_field *f,
                           const json_t *doc, json_t **out);
ka_status ka_eval_doc_target(const struct ka_task *t, const struct ka_eval_field *f,
                             const json_t *doc, json_t **out);
ka_status ka_eval_doc_choices(const struct ka_task *t, const struct ka_eval_field *f,
                              const json_t *doc, json_t **out);
/* Everything before the question: instruction, description and examples, drawn from t->mt. */
ka_status ka_eval_prompt_shots(struct ka_task *t, const json_t *doc, struct ka_eval_messages *p);
/* Appends all that, and the question as the model is to go on behind it. delimiter false: none
 * between question and gen_prefix. */
ka_status ka_eval_prompt_question(const struct ka_task *t, const json_t *doc,
                                  struct ka_eval_text question, bool delimiter,
                                  struct ka_eval_messages *p, struct ka_str *out);
void ka_eval_messages_deinit(struct ka_eval_messages *p);
/* What stands between a prompt and a choice. */
const char *ka_eval_choice_delimiter(const struct ka_task *t);

/* --- shots.c --- */
/* The examples of a document: indices into the pool, out [t->num_fewshot]. */
ka_status ka_eval_shots_draw(struct ka_task *t, const json_t *doc, int64_t *out);

/* --- request.c --- */
/* Items and requests of the first n documents. */
ka_status ka_task_make_requests(struct ka_task *t, int64_t n);

#endif
