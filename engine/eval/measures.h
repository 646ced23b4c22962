/* SPDX-License-Identifier: Apache-2.0
 *
 * All that is measured of a model to say what it learned and forgot: validation loss, texts, tasks.
 * Opened once, then scored as often as there are models, or states of one model in training.
 *
 * A text's measure is its loss in nats a token (text_loss.h). A task file's is the first metric of
 * its task; of a group with metrics of its own the group's first, of one without each member's. */
#ifndef KAPPA_ENGINE_EVAL_MEASURES_H
#define KAPPA_ENGINE_EVAL_MEASURES_H

#include "engine/eval/forgetting.h"
#include "engine/eval/tasks.h"
#include "engine/job/job.h"

struct ka_measures_spec {
  bool validation; /* the first measure, of the new skill: its value is the caller's */
  const struct ka_job_held_out *texts;
  int64_t n_texts;
  struct ka_key_texts old_tasks, new_tasks; /* files */
  double limit;                             /* as in ka_tasks_options */
};

struct ka_measures_spec ka_measures_spec_of_job(const struct ka_job *job, bool validation);

struct ka_measures {
  struct ka_ctx *ctx;
  struct ka_arena arena;
  struct ka_measures_spec spec; /* lists borrowed */
  const struct ka_speech *speech;
  const struct ka_tokenizer *tokenizer;
  int64_t n;
  struct ka_measure *items; /* [n]: validation, texts, tasks; their chance and n after scoring */
  int64_t n_sets;
  struct ka_measure_set { /* a task file */
    struct ka_tasks *tasks;
    int64_t first, n; /* of items */
  } * sets;
};

/* max_length: tokens that the model takes at once; speech: how tasks are heard, NULL: not.
 * KA_E_INPUT: texts or tasks without a tokenizer (NULL), two measures of one name, what is wrong
 * with a task file. Close in either case. */
ka_status ka_measures_open(struct ka_ctx *ctx, struct ka_measures *ms,
                           const struct ka_measures_spec *spec, const struct ka_speech *speech,
                           const struct ka_tokenizer *tokenizer, int64_t max_length);
void ka_measures_close(struct ka_measures *ms);

/* Positions that scoring needs of a model; 0: no more than training. */
int64_t ka_measures_positions(const struct ka_measures *ms);

/* Measures of the side. */
int64_t ka_measures_count(const struct ka_measures *ms, bool is_new);

/* values [n], of m, prepared for B x T. validation: the value of that measure. A value that is not
 * finite is KA_E_CHECK. */
ka_status ka_measures_score(struct ka_measures *ms, struct ka_model *m, int64_t B, int64_t T,
                            double validation, double *values);

/* kl [n]: the mean KL(base || m) a token of the texts, or of the new ones alone; NaN of all else.
 * Both prepared for B x T. */
ka_status ka_measures_divergence(struct ka_measures *ms, struct ka_model *base, struct ka_model *m,
                                 int64_t B, int64_t T, bool new_alone, double *kl);
/* The mean of those of the side that have one; NaN without any. */
double ka_measures_mean_divergence(const struct ka_measures *ms, const double *kl, bool is_new);

/* Adds "measures" and "scores" to a report (docs/forgetting.md). stages [n_stages, n]: the base,
 * what came between, and last the state that is reported; kl [n], may be NULL. */
ka_status ka_measures_report(const struct ka_measures *ms, const double *stages, int64_t n_stages,
                             const double *kl, double weight, json_t *root);
/* The same in short, on stdout. */
void ka_measures_print(const struct ka_measures *ms, const double *base, const double *now);

#endif
