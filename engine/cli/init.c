/* SPDX-License-Identifier: Apache-2.0
 * kappa init: a fresh random model, or a first job. */
#include "engine/model/init.h"
#include "engine/model/grow.h"

#include "base/file.h"
#include "base/log.h"
#include "engine/cli/cli.h"
#include "engine/cli/init_job.h"
#include "engine/formats/config.h"
#include "tokenizer/tokenizer.h"

#include <stdio.h>
#include <string.h>

/* A tokenizer whose ids are the 256 bytes and one end-of-text token, for models that learn from
 * scratch. */
static ka_status write_byte_tokenizer(struct ka_ctx *ctx, const char *dir) {
  static const char *const special[] = {"<|endoftext|>"};
  static const char config[] = "{\n \"bos_token\": \"<|endoftext|>\",\n"
                               " \"eos_token\": \"<|endoftext|>\",\n"
                               " \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n";
  struct ka_arena a;
  ka_arena_init(&a, ctx, "byte tokenizer");
  const char *path;
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_path_join(&a, &path, dir, "tokenizer.json"), out);
  KA_TRY_GOTO(ka_tokenizer_write_byte_level(ctx, path, special, 1), out);
  KA_TRY_GOTO(ka_path_join(&a, &path, dir, "tokenizer_config.json"), out);
  KA_TRY_GOTO(ka_write_file(ctx, path, config, sizeof config - 1), out);
out:
  ka_arena_deinit(&a);
  return st;
}

static ka_status check_byte_vocab(struct ka_ctx *ctx, const char *config_path) {
  struct ka_hf_config config;
  ka_status st = ka_hf_config_open(ctx, &config, config_path);
  if (ka_ok(st) && config.vocab_size < 257)
    st = ka_fail(ctx, KA_E_INPUT, "%s: key \"vocab_size\": got %lld, a byte tokenizer needs 257",
                 config_path, (long long)config.vocab_size);
  ka_hf_config_close(&config);
  return st;
}

static ka_status dry_run(struct ka_ctx *ctx, const char *config) {
  struct ka_model_size size;
  char count[32];
  KA_TRY(ka_model_measure(ctx, config, &size));
  printf("%s: %s model of %s parameters (%lld) in %lld tensors\n", config, size.family,
         ka_fmt_count((double)size.n_elems, count), (long long)size.n_elems,
         (long long)size.n_tensors);
  return KA_STATUS_OK;
}

static ka_status init_job(struct ka_ctx *ctx, const struct ka_cli *cli) {
  const char *out = ka_cli_str(cli, "out"), *dir = ".";
  struct ka_str text = {0};
  struct ka_arena a;
  if (ka_cli_n_args(cli) != 2)
    return ka_fail(ctx, KA_E_USAGE, "usage: kappa init --job MODEL DATA [--out job.yaml]");
  if (out && strcmp(out, "-") != 0 && ka_path_exists(out))
    return ka_fail(ctx, KA_E_INPUT, "--out: %s is there already", out);
  ka_arena_init(&a, ctx, "job");
  ka_status st = out && strcmp(out, "-") != 0 ? ka_path_dir(&a, &dir, out) : KA_STATUS_OK;
  if (ka_ok(st)) st = ka_cli_init_job(ctx, ka_cli_arg(cli, 0), ka_cli_arg(cli, 1), dir, &text);
  if (ka_ok(st) && out && strcmp(out, "-") != 0)
    st = ka_write_file(ctx, out, text.data, text.len);
  else if (ka_ok(st))
    fwrite(text.data, 1, text.len, stdout);
  ka_str_deinit(&text);
  ka_arena_deinit(&a);
  return st;
}

static ka_status init_from(struct ka_ctx *ctx, const struct ka_cli *cli, const char *model) {
  struct ka_model_grown grown;
  const char *const *tokens, *out = ka_cli_str(cli, "out");
  int n = ka_cli_list(cli, "tokens", &tokens);
  if (!out || n == 0)
    return ka_fail(ctx, KA_E_USAGE, "usage: kappa init --from MODEL --tokens A B ... --out DIR");
  KA_TRY(ka_model_grow(ctx, model, out, tokens, n, ka_cli_flag(cli, "special"),
                       (uint64_t)ka_cli_int(cli, "seed"), &grown));
  printf("%s: %lld tokens more, %lld rows more\n", out, (long long)grown.n_added,
         (long long)grown.n_rows_added);
  return KA_STATUS_OK;
}

static ka_status init_run(struct ka_ctx *ctx, const struct ka_cli *cli) {
  if (ka_cli_flag(cli, "job")) return init_job(ctx, cli);
  if (ka_cli_str(cli, "from")) return init_from(ctx, cli, ka_cli_str(cli, "from"));
  if (ka_cli_n_args(cli) > 0)
    return ka_fail(ctx, KA_E_USAGE, "%s: only --job takes words", ka_cli_arg(cli, 0));
  const char *config = ka_cli_str(cli, "config"), *out = ka_cli_str(cli, "out");
  const char *word = ka_cli_str(cli, "dtype");
  if (!config) return ka_fail(ctx, KA_E_USAGE, "--config: missing, expected a config.json");
  if (ka_cli_flag(cli, "dry-run")) return dry_run(ctx, config);
  if (!out) return ka_fail(ctx, KA_E_USAGE, "--out: missing, expected a directory");
  enum ka_dtype dtype = strcmp(word, "f32") == 0    ? KA_F32
                        : strcmp(word, "bf16") == 0 ? KA_BF16
                        : strcmp(word, "f16") == 0  ? KA_F16
                                                    : KA_N_DTYPES;
  bool bytes = strcmp(ka_cli_str(cli, "tokenizer"), "bytes") == 0;
  if (bytes) KA_TRY(check_byte_vocab(ctx, config));
  KA_TRY(ka_model_init(ctx, config, out, (uint64_t)ka_cli_int(cli, "seed"), dtype));
  return bytes ? write_byte_tokenizer(ctx, out) : KA_STATUS_OK;
}

const struct ka_cli_command ka_command_init = {
    .name = "init",
    .args =
        "--config config.json --out DIR | --job MODEL DATA | --from MODEL --tokens A B --out DIR",
    .summary = "a fresh random model of any supported family; a first job for a model and data",
    .example = "kappa init --job path/to/model data.jsonl --out job.yaml",
    .max_args = 2,
    .options =
        (const struct ka_cli_option[]){
            {"config", KA_OPT_STR, "FILE", NULL, "config.json, or the directory that holds one"},
            {"out", KA_OPT_STR, "DIR", NULL,
             "where the model goes; the job's file (default: stdout)"},
            {"job", KA_OPT_FLAG, NULL, NULL,
             "write a commented job for MODEL and DATA, by what its first rows look like"},
            {"from", KA_OPT_STR, "MODEL", NULL, "this model with more tokens (--tokens) instead"},
            {"tokens", KA_OPT_LIST, "TOKEN", NULL,
             "with --from: what to add; new rows as transformers' mean resizing draws them"},
            {"special", KA_OPT_FLAG, NULL, NULL, "with --tokens: they are special ones"},
            {"seed", KA_OPT_INT, "N", "42", "of the random weights"},
            {"dtype", KA_OPT_STR, "auto|f32|bf16|f16", "auto",
             "of the weights (auto: config.json's)"},
            {"tokenizer", KA_OPT_STR, "none|bytes", "none",
             "bytes: also a tokenizer of the 256 bytes and "
             "<|endoftext|> (vocab_size 257 or more)"},
            {"dry-run", KA_OPT_FLAG, NULL, NULL,
             "only read config.json: say what it makes, or what it asks that kappa does not have"},
            {0}},
    .run = init_run,
};
