/* SPDX-License-Identifier: Apache-2.0
 *
 * A first job for a model and a data file, by what the first rows look like. */
#ifndef KAPPA_ENGINE_CLI_INIT_JOB_H
#define KAPPA_ENGINE_CLI_INIT_JOB_H

#include "base/str.h"

/* Appends a commented job that trains as it is. Relative paths start at job_dir. KA_E_INPUT: rows
 * of no known form (their keys are named), preference data; what opening model or data says. */
ka_status ka_cli_init_job(struct ka_ctx *ctx, const char *model, const char *data,
                          const char *job_dir, struct ka_str *out);

#endif
