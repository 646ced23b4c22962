/* SPDX-License-Identifier: Apache-2.0
 * The end of a run in words and numbers: the table on stdout, report.json and its two views. */
#ifndef KAPPA_ENGINE_TRAIN_RUN_JSON_H
#define KAPPA_ENGINE_TRAIN_RUN_JSON_H

#include "engine/train/run.h"

/* After the last step, of the state that the output gets; kappa: of its slices, {slice: kappa}.
 * What was before is in loop->extra_state. docs/forgetting.md says what report.json holds. */
ka_status ka_run_report(struct ka_run *r, const struct ka_loop *loop, const json_t *kappa);

/* [["processor", "..."], ...]: where a report's figures come from; a new reference. dev may be
 * NULL.
 */
ka_status ka_report_machine(struct ka_ctx *ctx, struct ka_dev *dev, json_t **out);

/* Appends the data of a job to such a list; which kappa, and when. */
ka_status ka_report_data(struct ka_arena *a, json_t *list, const struct ka_job *job);
ka_status ka_report_by(struct ka_ctx *ctx, json_t *list);

/* Appends [name, text] to such a list. */
ka_status ka_report_fact(struct ka_ctx *ctx, json_t *list, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#endif
