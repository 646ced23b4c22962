/* SPDX-License-Identifier: Apache-2.0
 * The end of a run in words: the held-out table on stdout, held_out.json and report.html. */
#ifndef KAPPA_ENGINE_TRAIN_RUN_REPORT_H
#define KAPPA_ENGINE_TRAIN_RUN_REPORT_H

#include "engine/train/run.h"

/* held_out and kappa are of the trained model; those of the untrained one are in loop->carried. */
ka_status ka_run_report(struct ka_run *r, const struct ka_loop *loop, const json_t *held_out,
                        const json_t *kappa);

#endif
