/* SPDX-License-Identifier: Apache-2.0
 * A job of another trainer as a job of kappa's, with comments on what was changed. */
#ifndef KAPPA_ENGINE_JOB_JOB_IMPORT_H
#define KAPPA_ENGINE_JOB_JOB_IMPORT_H

#include "base/str.h"

/* Appends the job as YAML in kappa's words: each key that was renamed says what it was, what was
 * passed over is one comment, what kappa does otherwise and what needs a decision a line each.
 * n_decisions (may be NULL) counts the latter. The text is a job that ka_job_load reads, but for
 * paths that are not there. Relative paths stay as written. KA_E_INPUT: not a YAML mapping, wrong
 * values of keys that are taken. */
ka_status ka_job_import(struct ka_ctx *ctx, const char *path, struct ka_str *out,
                        int64_t *n_decisions);

#endif
