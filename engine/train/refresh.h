/* SPDX-License-Identifier: Apache-2.0
 *
 * Selecting again while training (selection.refresh_steps): spectra of the candidates as they are
 * now, units enter and leave, optimizer state follows those that stay.
 *
 * The model as it stands is written to OUT/refresh-STEP, which the run then reads its weights from:
 * units that leave are frozen as stored there (in the base's dtype), units that stay keep their
 * f32 masters and moments, units that enter start from the stored values with zero moments. A
 * checkpoint names the directory it needs; a directory that no checkpoint needs is removed. */
#ifndef KAPPA_ENGINE_TRAIN_REFRESH_H
#define KAPPA_ENGINE_TRAIN_REFRESH_H

#include "engine/train/run.h"

/* Is the run, at this step, to be selected anew, and has that not happened yet? */
bool ka_train_refresh_due(const struct ka_run *r, int64_t step);

/* Selects anew; afterwards loop->extra_state names the directory and holds kappa of what entered.
 * The caller writes the checkpoint and then calls ka_train_refresh_sweep. */
ka_status ka_train_refresh(struct ka_run *r, struct ka_loop *loop);

/* Removes the directories of OUT that neither the run nor one of its checkpoints needs. */
ka_status ka_train_refresh_sweep(struct ka_run *r);

/* kappa of the optimizer's slices as {name: kappa or null} into `into`, keeping names that are
 * there. */
ka_status ka_train_refresh_kappa(struct ka_run *r, bool after, json_t *into);

#endif
