/* SPDX-License-Identifier: Apache-2.0
 * kappa plan: what a job would do, without doing it. */
#include "engine/train/plan.h"
#include "engine/cli/cli.h"
#include "engine/cli/job_words.h"

#include <string.h>

static ka_status check(struct ka_ctx *ctx, const struct ka_cli *cli) {
  int64_t n = ka_cli_int(cli, "ranks");
  if (ka_cli_given(cli, "ranks") && (n < 1 || n > 1 << 20))
    return ka_fail(ctx, KA_E_INPUT, "--ranks: got %lld, expected 1 to %d", (long long)n, 1 << 20);
  if (ka_cli_given(cli, "link") && !(ka_cli_float(cli, "link") > 0))
    return ka_fail(ctx, KA_E_INPUT, "--link: got %g, expected GB/s above 0",
                   ka_cli_float(cli, "link"));
  if (ka_cli_given(cli, "link") && n < 2)
    return ka_fail(ctx, KA_E_INPUT, "--link: one rank uses none; give --ranks N too");
  return KA_STATUS_OK;
}

static ka_status plan_run(struct ka_ctx *ctx, const struct ka_cli *cli) {
  struct ka_job job;
  struct ka_run run;
  struct ka_run_options options = {.device = ka_cli_given(cli, "device") ? ka_cli_str(cli, "device")
                                                                         : NULL,
                                   .n_ranks = ka_cli_int(cli, "ranks"),
                                   .link = ka_cli_float(cli, "link"),
                                   .plan = true};
  KA_TRY(check(ctx, cli));
  ka_status st = ka_cli_job(ctx, &job, cli, NULL, 0);
  if (ka_ok(st)) {
    st = ka_run_open(ctx, &run, &job, &options);
    const char *jsonl = ka_cli_str(cli, "jsonl"), *json = ka_cli_str(cli, "json");
    bool text = (!json || strcmp(json, "-") != 0) && (!jsonl || strcmp(jsonl, "-") != 0);
    if (ka_ok(st) && jsonl) st = ka_train_plan_documents(&run, jsonl);
    if (ka_ok(st) && json) st = ka_train_plan_json(&run, json);
    if (ka_ok(st) && text) st = ka_train_plan_print(&run);
    ka_run_close(&run);
  }
  ka_job_close(&job);
  return st;
}

static const struct ka_cli_option options[] = {
    {"jsonl", KA_OPT_STR, "FILE", NULL,
     "write every document as {\"ids\", \"labels\"}, -100: not trained; - for stdout, without the "
     "plan"},
    {"ranks", KA_OPT_INT, "N", NULL,
     "for so many ranks: memory of each, what they exchange in a step (docs/ranks.md)"},
    {"link", KA_OPT_FLOAT, "GB/s", NULL, "of each rank: how much of their speed that leaves"},
    {"json", KA_OPT_STR, "FILE", NULL, "the same as JSON (- for stdout, instead of the text)"},
    {0}};

const struct ka_cli_command ka_command_plan = {
    .name = "plan",
    .args = "JOB.yaml [key=value ...]",
    .summary = "what a job would do: selection, first rows, steps, memory, disk, time",
    .example = "kappa plan job.yaml --device cuda:80GB",
    .min_args = 1,
    .max_args = -1,
    .options = options,
    .run = plan_run,
};
