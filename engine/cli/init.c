/* SPDX-License-Identifier: Apache-2.0
 * kappa init: a fresh random model. */
#include "engine/model/init.h"

#include "engine/cli/cli.h"

#include <string.h>

static ka_status init_run(struct ka_ctx *ctx, const struct ka_cli *cli) {
  const char *config = ka_cli_str(cli, "config"), *out = ka_cli_str(cli, "out");
  const char *word = ka_cli_str(cli, "dtype");
  if (!config) return ka_fail(ctx, KA_E_USAGE, "--config: missing, expected a config.json");
  if (!out) return ka_fail(ctx, KA_E_USAGE, "--out: missing, expected a directory");
  enum ka_dtype dtype = strcmp(word, "f32") == 0    ? KA_F32
                        : strcmp(word, "bf16") == 0 ? KA_BF16
                        : strcmp(word, "f16") == 0  ? KA_F16
                                                    : KA_N_DTYPES;
  return ka_model_init(ctx, config, out, (uint64_t)ka_cli_int(cli, "seed"), dtype);
}

const struct ka_command ka_command_init = {
    .name = "init",
    .args = "--config config.json --out DIR",
    .summary = "a fresh random model of any supported family",
    .max_args = 0,
    .options = (const struct ka_option[]){{"config", KA_OPT_STR, "FILE", NULL,
                                           "config.json, or the directory that holds one"},
                                          {"out", KA_OPT_STR, "DIR", NULL, "where the model goes"},
                                          {"seed", KA_OPT_INT, "N", "42", "of the random weights"},
                                          {"dtype", KA_OPT_STR, "auto|f32|bf16|f16", "auto",
                                           "of the weights (auto: config.json's)"},
                                          {0}},
    .run = init_run,
};
