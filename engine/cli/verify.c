/* SPDX-License-Identifier: Apache-2.0
 * kappa verify: a model against a reference file; exit code 1 when a tensor differs too much. */
#include "engine/model/verify.h"

#include "base/json.h"
#include "engine/cli/cli.h"

#include <stdio.h>
#include <string.h>

/* JSON has no NaN. */
static ka_status write_json(struct ka_ctx *ctx, const struct ka_verify_row *rows, int64_t n,
                            const char *dtype, const char *path) {
  json_t *list = json_array();
  int64_t n_failed = 0;
  for (int64_t i = 0; i < n; i++) {
    json_array_append_new(list, json_pack("{s:s, s:o, s:o, s:f, s:b}", "name", rows[i].name,
                                          "max_abs", ka_json_real(rows[i].max_abs), "rel_l2",
                                          ka_json_real(rows[i].rel_l2), "tolerance",
                                          rows[i].tolerance, "pass", rows[i].pass));
    n_failed += !rows[i].pass;
  }
  json_t *root = json_pack("{s:s, s:b, s:I, s:o}", "dtype", dtype, "pass", n_failed == 0, "failed",
                           (json_int_t)n_failed, "tensors", list);
  ka_status st = ka_json_write(ctx, root, path);
  json_decref(root);
  return st;
}

static void print_table(const struct ka_verify_row *rows, int64_t n) {
  int width = 8;
  for (int64_t i = 0; i < n; i++)
    if ((int)strlen(rows[i].name) > width) width = (int)strlen(rows[i].name);
  printf("%-*s  %10s  %10s  %8s  verdict\n", width, "tensor", "max |a-b|", "rel. L2", "allowed");
  for (int64_t i = 0; i < n; i++)
    printf("%-*s  %10.3g  %10.3g  %8.1g  %s\n", width, rows[i].name, rows[i].max_abs,
           rows[i].rel_l2, rows[i].tolerance, rows[i].pass ? "ok" : "FAILED");
}

static ka_status check(struct ka_ctx *ctx, struct ka_arena *arena, struct ka_dev *dev,
                       const struct ka_cli *cli) {
  const char *dtype = ka_cli_str(cli, "dtype"), *json = ka_cli_str(cli, "json");
  struct ka_verify_row *rows;
  int64_t n, n_failed = 0;
  if (!ka_cli_given(cli, "against"))
    return ka_fail(ctx, KA_E_USAGE, "--against: missing, expected a reference FILE.safetensors");
  KA_TRY(ka_verify(arena, dev, ka_cli_arg(cli, 0), ka_cli_str(cli, "base"),
                   ka_cli_str(cli, "against"), strcmp(dtype, "bf16") == 0 ? KA_BF16 : KA_F32, &rows,
                   &n));
  for (int64_t i = 0; i < n; i++) n_failed += !rows[i].pass;
  if (!json || strcmp(json, "-") != 0) print_table(rows, n);
  if (json) KA_TRY(write_json(ctx, rows, n, dtype, json));
  if (n_failed > 0)
    return ka_fail(ctx, KA_E_CHECK, "%lld of %lld tensors differ by more than allowed",
                   (long long)n_failed, (long long)n);
  return KA_STATUS_OK;
}

static ka_status verify_run(struct ka_ctx *ctx, const struct ka_cli *cli) {
  struct ka_dev dev = {0};
  struct ka_arena arena;
  ka_arena_init(&arena, ctx, "verify");
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_dev_open(ctx, &dev, ka_cli_str(cli, "device")), out);
  KA_TRY_GOTO(check(ctx, &arena, &dev, cli), close);
close:
  ka_dev_close(&dev);
out:
  ka_arena_deinit(&arena);
  return st;
}

const struct ka_cli_command ka_command_verify = {
    .name = "verify",
    .args = "MODEL --against FILE.safetensors",
    .summary = "logits, hidden states, loss and gradients against a reference",
    .example = "kappa verify path/to/model --against reference.safetensors",
    .min_args = 1,
    .max_args = 1,
    .options =
        (const struct ka_cli_option[]){
            {"against", KA_OPT_STR, "FILE", NULL,
             "input_ids, labels, logits, hidden.I, loss, grad.NAME"},
            {"dtype", KA_OPT_STR, "f32|bf16", "f32", "compute in"},
            {"json", KA_OPT_STR, "FILE", NULL, "write the table as JSON (- for stdout)"},
            KA_OPT_BASE,
            {0}},
    .run = verify_run,
};
