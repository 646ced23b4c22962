/* SPDX-License-Identifier: Apache-2.0
 * What a run's course depends on, kept in checkpoints and compared on resume. */
#ifndef KAPPA_ENGINE_TRAIN_FINGERPRINT_H
#define KAPPA_ENGINE_TRAIN_FINGERPRINT_H

#include "engine/train/run.h"

/* {key: value} of an open run (new reference; NULL: no memory). */
json_t *ka_fingerprint(const struct ka_run *r);

/* Compares a checkpoint's with this run's. What decides which tokens a step sees and what is
 * minimised must be equal (KA_E_INPUT, all differences named); a changed learning rate, length or
 * the like is the user's choice and is warned about: the resumed run is then not the one that was
 * interrupted. */
ka_status ka_fingerprint_check(struct ka_run *r, const json_t *saved);

#endif
