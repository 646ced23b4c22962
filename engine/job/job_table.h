/* SPDX-License-Identifier: Apache-2.0
 * Inside formats: job.def as tables, for the parser and the documentation. */
#ifndef KAPPA_ENGINE_JOB_JOB_TABLE_H
#define KAPPA_ENGINE_JOB_JOB_TABLE_H

#include "engine/job/job.h"

enum ka_job_scope {
  KA_SCOPE_JOB,
  KA_SCOPE_SELECTION,
  KA_SCOPE_FORGETTING,
  KA_SCOPE_ANCHOR,
  KA_SCOPE_PROJECTOR,
  KA_SCOPE_DATASET,
  KA_SCOPE_MAPPING,
  KA_SCOPE_HELD_OUT,
  KA_N_SCOPES
};

extern const struct ka_key_table ka_job_table;

/* docs/jobs.md and docs/job.schema.json, appended to out. */
ka_status ka_job_doc_markdown(struct ka_ctx *ctx, struct ka_str *out);
ka_status ka_job_doc_schema(struct ka_ctx *ctx, struct ka_str *out);

#endif
