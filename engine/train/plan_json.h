/* SPDX-License-Identifier: Apache-2.0
 * The plan of a job as JSON. */
#ifndef KAPPA_ENGINE_TRAIN_PLAN_JSON_H
#define KAPPA_ENGINE_TRAIN_PLAN_JSON_H

#include "engine/train/plan_figures.h"

/* {model, selection, data, steps, memory, disk, time}: bytes, seconds, tokens. A new reference. */
ka_status ka_plan_json(struct ka_run *r, const struct ka_plan_figures *f, json_t **out);

#endif
