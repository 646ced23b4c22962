/* SPDX-License-Identifier: Apache-2.0
 * kappa import: a job of another trainer in kappa's words. */
#include "base/file.h"
#include "base/log.h"
#include "engine/cli/cli.h"
#include "engine/job/job_import.h"

#include <stdio.h>

static ka_status import_run(struct ka_ctx *ctx, const struct ka_cli *cli) {
  struct ka_str text = {0};
  const char *out = ka_cli_str(cli, "out");
  int64_t decisions = 0;
  ka_status st = KA_STATUS_OK;
  if (out && ka_path_exists(out))
    return ka_fail(ctx, KA_E_INPUT, "--out: %s is there already", out);
  st = ka_job_import(ctx, ka_cli_arg(cli, 0), &text, &decisions);
  if (ka_ok(st) && out) st = ka_write_file(ctx, out, text.data, text.len);
  if (ka_ok(st) && !out) fwrite(text.data, 1, text.len, stdout);
  if (ka_ok(st) && decisions > 0)
    ka_warn(ctx, "import", "%lld keys need a decision: the lines that begin with # DECIDE",
            (long long)decisions);
  ka_str_deinit(&text);
  return st;
}

const struct ka_cli_command ka_command_import = {
    .name = "import",
    .args = "JOB.yaml",
    .summary = "a job of axolotl, LLaMA-Factory, torchtune or TRL in kappa's words",
    .example = "kappa import axolotl.yaml --out job.yaml",
    .min_args = 1,
    .max_args = 1,
    .options =
        (const struct ka_cli_option[]){{"out", KA_OPT_STR, "FILE", NULL,
                                        "write it there, beside the old one (default: stdout)"},
                                       {0}},
    .run = import_run,
};
