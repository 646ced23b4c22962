/* SPDX-License-Identifier: Apache-2.0
 *
 * How far the model in training has gone from its base: KL(base || tuned) a token of texts and of
 * the validation data, with the base opened beside the model for the time that it takes. */
#ifndef KAPPA_ENGINE_TRAIN_DIVERGENCE_H
#define KAPPA_ENGINE_TRAIN_DIVERGENCE_H

#include "engine/train/run.h"

/* Is there anything that the two are compared on? Texts, of the new skill alone or of both; and
 * validation data, but speech, which the base has never heard. */
bool ka_train_divergence_any(const struct ka_run *r, bool new_alone);

/* Opens the job's base beside the run's model, prepared for its batches, or (measure) only counted.
 * The caller closes it, whatever comes back. */
ka_status ka_train_base_open(struct ka_run *r, struct ka_model *base, bool measure);

/* kl [measures.n], NaN of what is not compared. new_alone: by all ranks together, each with the
 * same passes; else by this one alone. *found false: no memory for the base beside the model, said
 * in a warning. */
ka_status ka_train_divergence(struct ka_run *r, bool new_alone, double *kl, bool *found);

/* Mean over all targets of a source, this rank alone; NaN when it has none. Both prepared for its
 * batches. */
ka_status ka_train_source_divergence(struct ka_model *base, struct ka_model *m,
                                     const struct ka_train_batch_source *source, double *kl);

#endif
