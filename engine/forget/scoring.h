/* SPDX-License-Identifier: Apache-2.0
 *
 * Models that are already tuned, by whatever trainer, measured against their base: the same
 * measures as of a training run, from the same code. */
#ifndef KAPPA_ENGINE_FORGET_SCORING_H
#define KAPPA_ENGINE_FORGET_SCORING_H

#include "engine/eval/measures.h"
#include "engine/train/data.h"

struct ka_forget_scoring_spec {
  const char *base, *device;
  const struct ka_job *job; /* its measures, validation data, batches and precision; or NULL, */
  struct ka_measures_spec measures; /* then these ... */
  double weight;                    /* ... and forgetting's weight in the score */
  int64_t window;                   /* without a job: of texts; 0: as kappa eval has it */
  enum ka_dtype dtype;              /* without a job: compute in KA_F32 or KA_BF16 */
  const char
      *tuned; /* without a job: whose projector says how speech tasks are heard; NULL: nobody's */
};

struct ka_forget_scoring {
  struct ka_ctx *ctx;
  struct ka_forget_scoring_spec spec;
  struct ka_arena arena;
  struct ka_session base;
  struct ka_speech speech;
  bool has_speech;
  struct ka_train_data data;
  struct ka_measures measures;
  enum ka_dtype compute;
  int64_t B, T;
  double *values; /* [3, measures.n]: of the base, of the last model, its KL */
};

/* Opens and scores the base. KA_E_INPUT: nothing is measured. Close in either case; the struct must
 * not move. */
ka_status ka_forget_scoring_open(struct ka_ctx *ctx, struct ka_forget_scoring *s,
                                 const struct ka_forget_scoring_spec *spec);
void ka_forget_scoring_close(struct ka_forget_scoring *s);

/* model: a directory, delta or adapter of this base. *out: {"params", "trained_params" (an
 * adapter's own elements, else those between the first and the last row and column of each tensor
 * that differ from the base's; null where dtypes differ),
 * "seconds", "measures", "scores"}; a new reference. */
ka_status ka_forget_scoring_model(struct ka_forget_scoring *s, const char *model, json_t **out);
/* The same of an open source, whose files go to the model; the caller closes it. */
ka_status ka_forget_scoring_source(struct ka_forget_scoring *s, struct ka_model_source *source,
                                   json_t **out);

#endif
