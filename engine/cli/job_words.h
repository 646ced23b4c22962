/* SPDX-License-Identifier: Apache-2.0
 * What `train`, `plan` and `forget` share: the job of the command line. */
#ifndef KAPPA_ENGINE_CLI_JOB_WORDS_H
#define KAPPA_ENGINE_CLI_JOB_WORDS_H

#include "engine/cli/cli.h"
#include "engine/job/job.h"

/* JOB.yaml and its key=value words, then n `extra` ones; applies the job's `threads`, which
 * --threads overrides. */
ka_status ka_cli_job(struct ka_ctx *ctx, struct ka_job *job, const struct ka_cli *cli,
                     const char *const *extra, int n);

#endif
