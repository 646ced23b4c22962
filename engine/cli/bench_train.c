/* SPDX-License-Identifier: Apache-2.0
 * kappa bench train: optimizer steps of a 39.6M Llama (random weights, random tokens) in full and
 * with q, k, o of layers 4 to 7 only: tokens a second of the best and the median step, peak
 * resident memory, and the products' rate as a share of the matmul rate measured in the same run.
 * bench/train.sh puts torch beside it. */
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/rng.h"
#include "engine/cli/bench.h"
#include "engine/model/init.h"
#include "engine/train/loop.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROWS = 8, LENGTH = 256, VOCAB = 32000, WARM_UP = 2, MIN_STEPS = 3, MAX_STEPS = 50 };
static const double enough_s = 8;

static const char config_text[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": "
    "32000,\n"
    " \"hidden_size\": 512, \"num_hidden_layers\": 8, \"num_attention_heads\": 8,\n"
    " \"num_key_value_heads\": 4, \"intermediate_size\": 1376, \"max_position_embeddings\": 2048,\n"
    " \"rms_norm_eps\": 1e-5, \"hidden_act\": \"silu\", \"tie_word_embeddings\": true,\n"
    " \"initializer_range\": 0.02, \"rope_theta\": 10000.0, \"torch_dtype\": \"bfloat16\"}\n";

struct figures {
  const char *name;
  int64_t n_trained;
  double best_tok_per_s, median_tok_per_s, product_share, peak_bytes, loss;
};

struct tokens {
  int32_t ids[ROWS * LENGTH], position[ROWS * LENGTH], start[ROWS * LENGTH];
};

static ka_status get_batch(void *user, int64_t index, struct ka_batch *out) {
  struct tokens *t = user;
  for (int64_t i = 0; i < ROWS * LENGTH; i++) {
    t->ids[i] = (int32_t)ka_rng_below(7, (uint64_t)index, (uint64_t)i, VOCAB);
    t->position[i] = (int32_t)(i % LENGTH);
    t->start[i] = 0;
  }
  *out = (struct ka_batch){.B = ROWS,
                           .T = LENGTH,
                           .input_ids = t->ids,
                           .labels = t->ids,
                           .position = t->position,
                           .doc_start = t->start,
                           .n_targets = ROWS * (LENGTH - 1)};
  return KA_STATUS_OK;
}

/* Resident high-water mark; reset where the kernel allows it, so that runs do not see each other.
 */
static void reset_peak(void) {
  FILE *f = fopen("/proc/self/clear_refs", "w");
  if (!f) return;
  fputs("5", f);
  fclose(f);
}

static double peak_bytes(void) {
  char line[256];
  double kib = 0;
  FILE *f = fopen("/proc/self/status", "r");
  while (f && fgets(line, sizeof line, f))
    if (strncmp(line, "VmHWM:", 6) == 0) kib = strtod(line + 6, NULL);
  if (f) fclose(f);
  return kib * 1024;
}

static int64_t choose(struct ka_model *m, bool all, struct ka_train_part *parts) {
  int64_t n = 0;
  for (int64_t i = 0; i < m->n_params; i++) {
    const struct ka_param *p = &m->params[i];
    bool picked =
        p->layer >= 4 && (p->role == KA_ROLE_Q || p->role == KA_ROLE_K || p->role == KA_ROLE_O);
    if (all || picked)
      parts[n++] = (struct ka_train_part){.tensor = p->name, .n_rows = -1, .n_cols = -1};
  }
  return n;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double product_flops(const struct ka_profile_row *profile) {
  double flops = 0;
  for (int op = 0; op < KA_N_OPS; op++)
    if (ka_op_class_of((enum ka_op)op) == KA_CLASS_GEMM) flops += profile[op].flops;
  return flops;
}

static ka_status time_steps(struct ka_loop *loop, double gemm_rate, struct figures *out) {
  struct ka_ctx *ctx = loop->ctx;
  struct ka_profile_row profile[KA_N_OPS] = {0};
  double seconds[MAX_STEPS], loss = 0, norm = 0;
  int64_t n_targets = 0, n_steps = 0;
  for (int i = 0; i < WARM_UP; i++) KA_TRY(ka_loop_step(loop, &loss, &n_targets, &norm));
  double start_s = ka_now_s();
  while (n_steps < MIN_STEPS || (n_steps < MAX_STEPS && ka_now_s() - start_s < enough_s)) {
    memset(profile, 0, sizeof profile);
    loop->model->dev->profile = profile;
    double begin = ka_now_s();
    ka_status st = ka_loop_step(loop, &loss, &n_targets, &norm);
    seconds[n_steps++] = ka_now_s() - begin;
    loop->model->dev->profile = NULL;
    KA_TRY(st);
  }
  qsort(seconds, (size_t)n_steps, sizeof *seconds, by_value);
  out->best_tok_per_s = ROWS * LENGTH / seconds[0];
  out->median_tok_per_s = ROWS * LENGTH / seconds[n_steps / 2];
  out->product_share = product_flops(profile) / seconds[0] / gemm_rate;
  out->peak_bytes = peak_bytes();
  out->loss = loss / (double)n_targets;
  return KA_STATUS_OK;
}

static ka_status run_one(struct ka_dev *dev, const char *dir, bool all, enum ka_dtype compute,
                         double gemm_rate, struct figures *out) {
  struct ka_ctx *ctx = dev->ctx;
  struct ka_model model = {0};
  struct ka_optim optim = {0};
  static const struct ka_optim_config config = {0.9, 0.999, 1e-8, 0, 1};
  struct ka_train_part parts[512];
  struct tokens *tokens = NULL;
  void *mem = NULL;
  *out = (struct figures){.name = all ? "full" : "q,k,o of layers 4-7"};
  ka_status st = KA_STATUS_OK;
  reset_peak();
  KA_TRY_GOTO(ka_alloc(ctx, &mem, sizeof *tokens, "bench tokens"), out);
  tokens = mem;
  KA_TRY_GOTO(ka_model_open(ctx, &model, dev, dir, compute), out);
  KA_TRY_GOTO(ka_model_train_parts(&model, parts, choose(&model, all, parts)), out);
  KA_TRY_GOTO(ka_model_prepare(&model, ROWS, LENGTH, false), out);
  KA_TRY_GOTO(ka_optim_init(ctx, &optim, &model, &config, false), out);
  for (int64_t i = 0; i < model.n_slices; i++)
    out->n_trained += model.slices[i].n_rows * model.slices[i].n_cols;
  struct ka_loop loop = {
      .ctx = ctx,
      .model = &model,
      .optim = &optim,
      .train = {get_batch, tokens, 1 << 20},
      .config = {.schedule = {KA_SCHEDULE_CONSTANT, 1e-4, 0, 0, 1 << 20}, .accumulation = 1}};
  st = time_steps(&loop, gemm_rate, out);
out:
  ka_optim_deinit(&optim);
  ka_model_close(&model);
  ka_free(mem);
  return st;
}

static ka_status write_json(struct ka_ctx *ctx, const struct figures *f, int n, const char *dtype,
                            double gemm_rate, const char *path) {
  json_t *rows = json_array();
  for (int i = 0; i < n; i++)
    json_array_append_new(
        rows, json_pack("{s:s, s:I, s:f, s:f, s:f, s:f, s:f}", "name", f[i].name, "trained",
                        (json_int_t)f[i].n_trained, "tok_per_s", f[i].best_tok_per_s,
                        "tok_per_s_median", f[i].median_tok_per_s, "product_share",
                        f[i].product_share, "peak_bytes", f[i].peak_bytes, "loss", f[i].loss));
  json_t *root =
      json_pack("{s:s, s:f, s:o}", "dtype", dtype, "gemm_flops", gemm_rate, "runs", rows);
  ka_status st = ka_json_write(ctx, root, path);
  json_decref(root);
  return st;
}

static ka_status make_model(struct ka_ctx *ctx, struct ka_arena *a, const char **dir) {
  const char *tmp = getenv("TMPDIR"), *config;
  KA_TRY(ka_arena_printf(a, dir, "%s/kappa-bench-%ld", tmp ? tmp : "/tmp", (long)getpid()));
  KA_TRY(ka_make_dirs(ctx, *dir));
  KA_TRY(ka_path_join(a, &config, *dir, "config.json"));
  KA_TRY(ka_write_file(ctx, config, config_text, strlen(config_text)));
  return ka_model_init(ctx, config, *dir, 1, KA_BF16);
}

static ka_status run_all(struct ka_dev *dev, const struct ka_cli *cli, const char *dir) {
  struct ka_ctx *ctx = dev->ctx;
  const char *json = ka_cli_str(cli, "json"), *word = ka_cli_str(cli, "dtype");
  enum ka_dtype compute =
      word ? (strcmp(word, "f32") == 0 ? KA_F32 : KA_BF16) : (dev->has_bf16 ? KA_BF16 : KA_F32);
  struct bench_limits limits;
  struct figures f[2];
  char memory[32], trained[32];
  bool table = !json || strcmp(json, "-") != 0;
  KA_TRY(bench_measure_limits(dev, &limits));
  double rate = limits.gemm_flops[compute];
  if (table)
    printf("39.6M Llama, %d x %d tokens a step, %s; matmul %.0f GFLOP/s\n%-22s %9s %10s %10s %9s "
           "%10s\n",
           ROWS, LENGTH, ka_dtype_name(compute), rate / 1e9, "trained", "params", "tok/s best",
           "median", "of matmul", "peak");
  for (int i = 0; i < 2; i++) {
    KA_TRY(run_one(dev, dir, i == 0, compute, rate, &f[i]));
    if (table)
      printf("%-22s %9s %10.0f %10.0f %8.0f%% %10s\n", f[i].name,
             ka_fmt_count((double)f[i].n_trained, trained), f[i].best_tok_per_s,
             f[i].median_tok_per_s, 100 * f[i].product_share,
             ka_fmt_bytes(f[i].peak_bytes, memory));
  }
  return json ? write_json(ctx, f, 2, ka_dtype_name(compute), rate, json) : KA_STATUS_OK;
}

ka_status bench_train(struct ka_ctx *ctx, const struct ka_cli *cli) {
  struct ka_dev dev = {0};
  struct ka_arena arena;
  const char *dir = NULL;
  ka_arena_init(&arena, ctx, "bench train");
  ka_status st = ka_dev_open(ctx, &dev, ka_cli_str(cli, "device"));
  if (ka_ok(st)) {
    st = make_model(ctx, &arena, &dir);
    if (ka_ok(st)) st = run_all(&dev, cli, dir);
    if (dir) KA_TRY_KEEP(ka_remove_tree(ctx, dir));
    ka_dev_close(&dev);
  }
  ka_arena_deinit(&arena);
  return st;
}
