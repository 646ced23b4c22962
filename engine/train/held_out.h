/* SPDX-License-Identifier: Apache-2.0
 * The job's held_out texts: their loss now, and the table of before and after. */
#ifndef KAPPA_ENGINE_TRAIN_HELD_OUT_H
#define KAPPA_ENGINE_TRAIN_HELD_OUT_H

#include "engine/report/report_html.h"
#include "engine/train/run.h"

/* {"name", "loss", "tokens"} of every entry, in the job's order (new reference). Refused
 * (KA_E_INPUT) without a tokenizer. */
ka_status ka_held_out_measure(struct ka_run *r, json_t **out);

/* Rows for the report from two measurements; *rows lives in the arena. */
ka_status ka_held_out_rows(struct ka_arena *a, const json_t *before, const json_t *after,
                           struct ka_report_held_out **rows, int64_t *n);

/* "name  loss before  after  change" on stdout. */
void ka_held_out_print(const struct ka_report_held_out *rows, int64_t n);

#endif
