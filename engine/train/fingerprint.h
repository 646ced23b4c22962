/* SPDX-License-Identifier: Apache-2.0
 *
 * What a run's results depend on: every key of the job whose row in job.def is not FREE, and in
 * place of paths the hashes of what lies there. Kept in checkpoints and compared on resume; its own
 * hash is the identity of a finished run (identity.h). */
#ifndef KAPPA_ENGINE_TRAIN_FINGERPRINT_H
#define KAPPA_ENGINE_TRAIN_FINGERPRINT_H

#include "base/json.h"
#include "engine/job/job.h"

/* {"same": {"selection.count": 3, "base_model": [["config.json", hash], ...], ...}, "data": {...},
 * "warn": {...}}: one object a word of job.def's column resume. A new reference. Reads all files
 * that the job names; of a task file also those that it names. */
ka_status ka_fingerprint(struct ka_ctx *ctx, const struct ka_job *job, json_t **out);

/* What lies at `path`, a model's directory or a file: [[name, hash], ...]; a new reference. */
ka_status ka_fingerprint_files(struct ka_ctx *ctx, const char *path, json_t **out);

/* Compares a checkpoint's fingerprint with this run's. A difference in "same", or in "data" without
 * resume_other_data, is KA_E_INPUT with all of them named; any other is a warning: the resumed run
 * is then not the one that was interrupted. `checkpoint` names it in messages. */
ka_status ka_fingerprint_check(struct ka_ctx *ctx, const struct ka_job *job, const json_t *saved,
                               const json_t *now, const char *checkpoint);

#endif
