/* SPDX-License-Identifier: Apache-2.0
 * --tasks, --new-tasks, --text, --new-text, --limit, --window, --dtype, --weight: what models are
 * measured on, for the commands that compare models without a job. */
#ifndef KAPPA_ENGINE_CLI_MEASURE_OPTIONS_H
#define KAPPA_ENGINE_CLI_MEASURE_OPTIONS_H

#include "engine/cli/cli.h"
#include "engine/forget/scoring.h"

enum { KA_MEASURE_WORDS = 256 };

struct ka_measure_options {
  struct ka_job_held_out texts[KA_MEASURE_WORDS];
  const char *tasks[2][KA_MEASURE_WORDS]; /* old, new */
};

#define KA_MEASURE_CLI_OPTIONS(of)                                                                 \
  {"tasks", KA_OPT_STR, "A.yaml,...", NULL, of "tasks of old skills"},                             \
      {"new-tasks", KA_OPT_STR, "A.yaml,...", NULL, of "tasks of the new skill"},                  \
      {"text", KA_OPT_LIST, "FILE", NULL, of "texts of old skills"},                               \
      {"new-text", KA_OPT_LIST, "FILE", NULL, of "texts of the new skill"},                        \
      {"limit", KA_OPT_FLOAT, "N", "0", of "documents of a task; below 1 that part; 0 all"},       \
      {"window", KA_OPT_INT, "N", NULL, of "tokens of a text at once (default: as kappa eval)"},   \
      {"dtype", KA_OPT_STR, "f32|bf16", "f32", of "compute in"}, {                                 \
    "weight", KA_OPT_FLOAT, "W", "1", of "of forgetting in the score"                              \
  }

/* Into spec, which then points into m and the arena. KA_E_USAGE. */
ka_status ka_cli_measure_options(struct ka_ctx *ctx, struct ka_arena *arena,
                                 const struct ka_cli *cli, struct ka_measure_options *m,
                                 struct ka_forget_scoring_spec *spec);

#endif
