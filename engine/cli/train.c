/* SPDX-License-Identifier: Apache-2.0
 * kappa train: a job from its file to a tuned model directory. */
#include "engine/cli/cli.h"
#include "engine/cli/job_words.h"
#include "engine/train/plan.h"
#include "engine/train/run.h"

static ka_status train_run(struct ka_ctx *ctx, const struct ka_cli *cli) {
  struct ka_job job;
  struct ka_run run;
  bool dry = ka_cli_flag(cli, "dry-run");
  struct ka_run_options options = {
      .device = ka_cli_given(cli, "device") ? ka_cli_str(cli, "device") : NULL,
      .resume = ka_cli_flag(cli, "resume"),
      .plan = dry,
      .command = ka_cli_line(cli),
      .json = ka_cli_str(cli, "json"),
      .base_measures = ka_cli_str(cli, "base-measures"),
  };
  ka_status st = ka_cli_job(ctx, &job, cli, NULL, 0);
  if (ka_ok(st)) {
    st = ka_run_open(ctx, &run, &job, &options);
    if (ka_ok(st)) st = dry ? ka_train_plan_print(&run) : ka_run_train(&run);
    ka_run_close(&run);
  }
  ka_job_close(&job);
  return st;
}

const struct ka_cli_command ka_command_train = {
    .name = "train",
    .args = "JOB.yaml [key=value ...]",
    .summary = "analyse, select, fine-tune, save: the whole job",
    .example = "kappa train job.yaml learning_rate=1e-4 selection.count=40",
    .min_args = 1,
    .max_args = -1,
    .options =
        (const struct ka_cli_option[]){
            {"resume", KA_OPT_FLAG, NULL, NULL,
             "continue from the newest checkpoint in output_dir"},
            {"dry-run", KA_OPT_FLAG, NULL, NULL, "as `kappa plan`: look, say, write nothing"},
            {"json", KA_OPT_STR, "FILE", NULL,
             "what came of the run: steps, losses, time, memory (- for stdout)"},
            {"base-measures", KA_OPT_STR, "FILE", NULL, "where runs share what the base scored"},
            {0}},
    .run = train_run,
    .ranks = true,
};
