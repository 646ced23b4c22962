/* SPDX-License-Identifier: Apache-2.0
 *
 * From a job's `selection:` to the parts of the model that are trained, and their kappa before and
 * after. */
#ifndef KAPPA_ENGINE_TRAIN_SELECT_H
#define KAPPA_ENGINE_TRAIN_SELECT_H

#include "engine/job/job.h"
#include "engine/model/model.h"
#include "engine/spectral/selection.h"
#include "engine/train/affinity.h"
#include "engine/train/optim.h"

/* Units of a model and what was chosen of them. Everything lives in the arena. */
struct ka_train_selection {
  struct ka_arena arena;
  struct ka_unit *units; /* all units that could be trained, [n_units] */
  int64_t n_units;
  struct ka_selection chosen;
  int64_t n_parts;                   /* chosen.n_units, and behind them the projector's */
  struct ka_train_part *parts;       /* [n_parts], for ka_model_train_parts */
  struct ka_optim_part *optim_parts; /* the same, for the optimizer */
  double analysis_s;
};

/* The job's selection as the spectral room's spec; lists in the arena. */
ka_status ka_select_spec_of_job(struct ka_arena *arena, const struct ka_job *job,
                                struct ka_select_spec *out);

/* Chooses by the job's selection from the opened model's weights, or reads `file` (NULL: the job's
 * selection.file, if any) as it is; where the job's anchor goes by kappa, of every chosen matrix
 * kappa is known afterwards. Spectra are computed on dev where that is faster. Nothing chosen is
 * KA_E_INPUT with the place in the job. step: at which it is chosen; metric random draws by it.
 * shares: of metric affinity, may be NULL without it. Shows progress while spectra are computed.
 * Free with ka_train_selection_close, also after a failure. */
ka_status ka_train_select(struct ka_ctx *ctx, struct ka_train_selection *s, struct ka_dev *dev,
                          const struct ka_job *job, const struct ka_model *model, const char *file,
                          int64_t step, const struct ka_train_shares *shares);
void ka_train_selection_close(struct ka_train_selection *s);

/* Spectra with progress, by the engine that is faster. cache: those of a model's files, which other
 * runs ask for too. */
ka_status ka_train_analyze(struct ka_ctx *ctx, struct ka_dev *dev, struct ka_arena *arena,
                           struct ka_spectrum *results, const struct ka_unit *units, int64_t n,
                           bool cache);
/* What is analysed for reports alone: about a minute of it. */
#define KA_ANALYZE_FLOPS 2e12

/* kappa of every slice of the optimizer, NaN where it is singular, a vector, or where the whole
 * would take more than about a minute. after: of the masters as they are now; else of the stored
 * weights. kappa [optim->n]. */
ka_status ka_train_kappa(struct ka_ctx *ctx, const struct ka_optim *o, bool after, double *kappa);

#endif
