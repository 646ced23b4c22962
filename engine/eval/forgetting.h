/* SPDX-License-Identifier: Apache-2.0
 *
 * What was learned and what was forgotten, as numbers: definitions with their sources are in
 * docs/forgetting.md. A measure is a text's loss or a task's metric, of the new skill or of old
 * ones; its values before and after training are what everything here is made of. */
#ifndef KAPPA_ENGINE_EVAL_FORGETTING_H
#define KAPPA_ENGINE_EVAL_FORGETTING_H

#include "base/json.h"

struct ka_measure {
  const char *name, *metric; /* "WikiText", "loss" (nats a token); "arc_easy", "acc" */
  bool is_new;               /* of what is to be learned; else of what may be forgotten */
  bool higher_is_better;
  double chance;    /* what guessing gives; NaN: no such thing */
  int64_t n;        /* tokens of a text, documents of a task */
  const char *unit; /* of n: "tokens", "documents" */
  int64_t window;   /* of a text: tokens predicted at once, which its loss depends on; 0: no text */
};

/* {"name", "metric", "role", "higher_is_better", "chance", "n", "unit", "window"}; a new reference,
 * NULL: no memory. recall takes chance, n and window back, and is false where name, metric or role
 * are others. */
json_t *ka_measure_json(const struct ka_measure *m);
bool ka_measure_recall(struct ka_measure *m, const json_t *saved);

/* The improvement as a part of the base's value: 0.1 is a tenth better, -0.1 a tenth worse.
 * Perplexities count as their logarithms, which are losses: so one text gives the same number
 * whether it is measured in nats a token, bits a byte or word perplexity. NaN where the base has
 * nothing to divide by. */
double ka_eval_gain(const struct ka_measure *m, double base, double now);

struct ka_eval_scores {
  double learned; /* mean gain of the new measures; NaN without any */
  double forgot;  /* minus the mean gain of the old ones (FG of Luo et al. 2023); NaN likewise */
  double score;   /* learned - weight * forgot; one that is missing counts as 0 */
  double beyond_chance; /* mean part of what old ones knew beyond guessing that is gone */
};
struct ka_eval_scores ka_eval_scores_of(const struct ka_measure *m, int64_t n, const double *base,
                                        const double *now, double weight);

/* "forgot 2.10 %", "forgot nothing (old skill 0.34 % better)". */
const char *ka_eval_forgot_text(double forgot, char buf[64]);

/* Of the old measures, on their own scales turned so that higher is better, where all share one
 * scale (an accuracy, nats a token); else NaN. a [n_stages, n]: the first stage is the base.
 * Backward transfer (Lopez-Paz and Ranzato 2017): mean of last - first. Average forgetting
 * (Chaudhry et al. 2018): mean of the best of the earlier stages - last. */
double ka_eval_backward_transfer(const struct ka_measure *m, int64_t n, const double *a,
                                 int64_t n_stages);
double ka_eval_average_forgetting(const struct ka_measure *m, int64_t n, const double *a,
                                  int64_t n_stages);

#endif
