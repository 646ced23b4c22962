/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether a finished run may stand for one that is asked for: the same keys, the same input files.
 * Whether a checkpoint may be continued is fingerprint.h's question. */
#ifndef KAPPA_ENGINE_TRAIN_IDENTITY_H
#define KAPPA_ENGINE_TRAIN_IDENTITY_H

#include "base/json.h"
#include "engine/job/job.h"

enum { KA_IDENTITY_TEXT = KA_HASH_TEXT };

/* The hash, as hex text, of kappa's version and a job's fingerprint (fingerprint.h): of every key
 * that can change a result and of the contents of every file that the job names. */
ka_status ka_identity_of(struct ka_ctx *ctx, const json_t *fingerprint, char out[KA_IDENTITY_TEXT]);
/* The same from the job; reads all those files. */
ka_status ka_job_identity(struct ka_ctx *ctx, const struct ka_job *job, char out[KA_IDENTITY_TEXT]);

/* job.json: {"kappa", "identity", "job": every key}. */
ka_status ka_job_record(struct ka_ctx *ctx, const struct ka_job *job, const char *identity,
                        const char *path);

/* The identity in a file that has one at its top (job.json, report.json); "" when the file or the
 * member is not there. */
ka_status ka_recorded_identity(struct ka_ctx *ctx, const char *path, char out[KA_IDENTITY_TEXT]);

/* Of what the base scores on the job's measures: equal for all runs of a benchmark. */
ka_status ka_identity_of_measures(struct ka_ctx *ctx, const struct ka_job *job,
                                  char out[KA_IDENTITY_TEXT]);

/* Of a tuned model (a directory or file) that is measured as the job says. */
ka_status ka_model_identity(struct ka_ctx *ctx, const struct ka_job *job, const char *model,
                            char out[KA_IDENTITY_TEXT]);

#endif
