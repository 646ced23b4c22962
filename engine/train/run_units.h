/* SPDX-License-Identifier: Apache-2.0
 * kappa of a run's units, before and after, for its report. */
#ifndef KAPPA_ENGINE_TRAIN_RUN_UNITS_H
#define KAPPA_ENGINE_TRAIN_RUN_UNITS_H

#include "engine/train/run.h"

/* [{"name", "role", "layer", "params", "trained", "rate", "kappa_before", "kappa_after"}] of every
 * matrix that a selection of the job's kind picks as a whole, and of trained vectors; a new
 * reference. trained: which part of it, 0 to 1; rate: of the learning rate, its largest.
 * kappa_after is null where nothing moved, both where there is none (singular, a vector) or where
 * finding out would take more than about a minute. before and after: {slice: kappa} of the
 * optimizer's slices (ka_train_refresh_kappa). */
ka_status ka_run_units(struct ka_run *r, const json_t *before, const json_t *after, json_t **out);

#endif
