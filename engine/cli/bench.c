/* SPDX-License-Identifier: Apache-2.0
 * kappa bench KIND: dispatches to one function a kind. */
#include "engine/cli/bench.h"

#include "base/str.h"

#include <string.h>

static const struct {
  const char *name;
  ka_status (*run)(struct ka_ctx *ctx, const struct ka_cli *cli);
} kinds[] = {
    {"ops", bench_ops},
    {"train", bench_train},
    {"spectral", bench_spectral},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static ka_status bench_run(struct ka_ctx *ctx, const struct ka_cli *cli) {
  const char *kind = ka_cli_arg(cli, 0), *names[N_KINDS + 1] = {0};
  for (int i = 0; i < N_KINDS; i++) {
    if (strcmp(kind, kinds[i].name) == 0) return kinds[i].run(ctx, cli);
    names[i] = kinds[i].name;
  }
  const char *near = ka_nearest(kind, names);
  return ka_fail(ctx, KA_E_USAGE, "bench: got \"%s\"%s%s%s; see `kappa bench --help`", kind,
                 near ? ", did you mean " : "", near ? near : "", near ? "?" : "");
}

static const struct ka_cli_option options[] = {
    {"json", KA_OPT_STR, "FILE", NULL, "write the table as JSON"},
    {"op", KA_OPT_STR, "NAME", NULL, "ops: only this op"},
    {"dtype", KA_OPT_STR, "f32|bf16", NULL, "ops: only this dtype; train: compute in"},
    {"shape", KA_OPT_STR, "40M|1B|8B|moe", "40M", "train: of the Llama, or 64 experts"},
    {"rows", KA_OPT_INT, "N", NULL, "train: rows a step (default: by shape)"},
    {"length", KA_OPT_INT, "N", NULL, "train: tokens a row (default: by shape)"},
    {"select", KA_OPT_STR, "full|upper|five|tenth", NULL,
     "train: only this: everything; q, k, o of the upper half of the layers; 5 % of lowest kappa; "
     "every tenth expert"},
    {"optimizer-dtype", KA_OPT_STR, "f32|bf16", "f32", "train: masters and moments"},
    {"offload", KA_OPT_FLAG, NULL, NULL, "train: masters and moments in host memory"},
    {"kl", KA_OPT_FLOAT, "WEIGHT", NULL, "train: with the KL anchor"},
    {"file", KA_OPT_STR, "FILE", NULL, "spectral: a model or safetensors file"},
    {0},
};

const struct ka_cli_command ka_command_bench = {
    .name = "bench",
    .args = "ops|train|spectral",
    .summary = "measured rates against the machine's limit, measured in the same run",
    .example = "kappa bench train",
    .min_args = 1,
    .max_args = 1,
    .options = options,
    .run = bench_run,
};
