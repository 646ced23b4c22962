/* SPDX-License-Identifier: Apache-2.0
 * docs/features.md from features.def. */
#include "engine/job/foreign.h"

#include <string.h>

#define KA_FEATURE_GROUP(heading) {heading, {NULL}},
#define KA_FEATURE(...) {NULL, {__VA_ARGS__}},
const struct ka_job_feature ka_job_features[] = {
#include "engine/job/features.def"
    {NULL, {NULL}}};

static const char head[] =
    "# Features of other trainers, and where they are here\n\n"
    "<!-- Made from engine/job/features.def by `cmake --build build --target docs`. -->\n\n"
    "Names in `code` are keys of jobs; those of other trainers are read as they are ([coming from "
    "another\ntrainer](coming-from.md)), but for what the last section of [jobs.md](jobs.md) "
    "refuses. – : nothing, or nothing that a job\nsays. Of the others only what their jobs name is "
    "listed.\n";

ka_status ka_job_doc_features(struct ka_ctx *ctx, struct ka_str *out) {
  KA_TRY(ka_str_puts(ctx, out, head));
  for (const struct ka_job_feature *f = ka_job_features; f->group || f->cells[0]; f++) {
    if (f->group) {
      KA_TRY(ka_str_printf(ctx, out,
                           "\n## %s\n\n| feature | kappa | axolotl | LLaMA-Factory | torchtune | "
                           "TRL |\n|---|---|---|---|---|---|\n",
                           f->group));
      continue;
    }
    for (int c = 0; c < KA_FEATURE_CELLS; c++)
      KA_TRY(ka_str_printf(ctx, out, "| %s ", strcmp(f->cells[c], "-") ? f->cells[c] : "–"));
    KA_TRY(ka_str_puts(ctx, out, "|\n"));
  }
  return KA_STATUS_OK;
}
