/* SPDX-License-Identifier: Apache-2.0
 * kappa bench train: optimizer steps of a Llama, or of a mixture of experts (OLMoE), of known shape
 * (random weights, random tokens), in full and on a part: tokens a second of the best and the
 * median step, memory, the rate of the model's own arithmetic, and the products' rate as a share of
 * the matmul rate measured in the same run. bench/train.sh puts torch beside it, bench/device.sh
 * runs the large shapes on a GPU. */
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/rng.h"
#include "engine/cli/bench.h"
#include "engine/model/init.h"
#include "engine/spectral/metrics.h"
#include "engine/train/loop.h"
#include "engine/train/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { WARM_UP = 2, MIN_STEPS = 3, MAX_STEPS = 50 };
static const double enough_s = 8;

/* Parts that are trained. */
enum part {
  FULL,  /* everything */
  UPPER, /* q, k, o of the upper half of the layers */
  FIVE,  /* 5 % of the matrices' parameters, lowest kappa first, as Gaussian weights have it */
  TENTH, /* every tenth expert, counted over the layers */
  N_PARTS
};
static const char *const part_names[] = {"full", "q,k,o of the upper half", "5 % of lowest kappa",
                                         "a tenth of the experts"};
static const char *const part_words[] = {"full", "upper", "five", "tenth", NULL};

static const struct shape {
  const char *name;
  int64_t C, L, H, K, F, V, rows, length;
  bool tied;
  enum part second; /* beside full */
  int64_t E, k;     /* experts, and how many a token takes; E 0: none */
} shapes[] = {
    {"40M", 512, 8, 8, 4, 1376, 32000, 8, 256, true, UPPER, 0, 1},
    {"1B", 2048, 16, 32, 8, 8192, 128256, 8, 1024, true, FIVE, 0, 1},
    {"8B", 4096, 32, 32, 8, 14336, 128256, 4, 2048, false, FIVE, 0, 1},
    {"moe", 512, 4, 8, 8, 256, 16384, 8, 256, true, TENTH, 64, 8},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

struct bench {
  struct ka_ctx *ctx;
  struct ka_dev dev;
  struct ka_arena arena;
  const struct shape *shape;
  int64_t rows, length;
  enum ka_dtype compute;
  struct ka_optim_config optim;
  double kl_weight; /* of the anchor; 0: none */
  double gemm_rate;
  const char *dir; /* of the model */
  int32_t *ids, *position, *start;
};

struct figures {
  const char *name;
  int64_t n_trained, recompute;
  double best_tok_per_s, median_tok_per_s, product_share, model_flops, peak_bytes, loss, cpu_s;
};

static ka_status get_batch(void *user, int64_t index, struct ka_batch *out) {
  struct bench *b = user;
  for (int64_t i = 0; i < b->rows * b->length; i++)
    b->ids[i] = (int32_t)ka_rng_below(7, (uint64_t)index, (uint64_t)i, (uint64_t)b->shape->V);
  *out = (struct ka_batch){.B = b->rows,
                           .T = b->length,
                           .input_ids = b->ids,
                           .labels = b->ids,
                           .position = b->position,
                           .doc_start = b->start,
                           .n_targets = b->rows * (b->length - 1)};
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

/* --- what is trained ------------------------------------------------------------------------- */

static double kappa_of(const struct ka_param *p) {
  int64_t r = p->stored.shape[0], c = p->stored.shape[1];
  return ka_spectral_kappa_of_noise(r > c ? r : c, r > c ? c : r);
}

static int by_kappa(const void *x, const void *y) {
  const struct ka_param *a = *(const struct ka_param *const *)x,
                        *b = *(const struct ka_param *const *)y;
  double d = kappa_of(a) - kappa_of(b);
  return d != 0 ? (d > 0) - (d < 0) : (a > b) - (a < b);
}

static void take(struct ka_train_part *parts, int64_t *n, const struct ka_param *p) {
  parts[(*n)++] = (struct ka_train_part){.tensor = p->name, .n_rows = -1, .n_cols = -1};
}

/* The candidates of a selection: matrices inside the layers. */
static int64_t five_percent(struct ka_model *m, const struct ka_param **sorted,
                            struct ka_train_part *parts) {
  int64_t n_sorted = 0, n = 0;
  double all = 0, taken = 0;
  for (int64_t i = 0; i < m->n_params; i++)
    if (m->params[i].layer >= 0 && m->params[i].stored.n_dim == 2) {
      sorted[n_sorted++] = &m->params[i];
      all += (double)ka_tensor_elems(&m->params[i].stored);
    }
  qsort(sorted, (size_t)n_sorted, sizeof *sorted, by_kappa);
  for (int64_t i = 0; i < n_sorted && taken < 0.05 * all; i++) {
    take(parts, &n, sorted[i]);
    taken += (double)ka_tensor_elems(&sorted[i]->stored);
  }
  return n;
}

static bool is_expert(const struct ka_param *p) { return strstr(p->name, ".experts.") != NULL; }

/* Expert 7 of layer 2 is in `model.layers.2.mlp.experts.7.`. */
static bool is_tenth(const struct bench *b, const struct ka_param *p) {
  const char *at = strstr(p->name, ".experts.");
  return at && (p->layer * b->shape->E + atoll(at + strlen(".experts."))) % 10 == 0;
}

static ka_status choose(struct bench *b, struct ka_model *m, enum part part) {
  struct ka_ctx *ctx = b->ctx;
  void *parts, *sorted;
  int64_t n = 0;
  KA_TRY(ka_arena_alloc_n(&b->arena, &parts, m->n_params, sizeof(struct ka_train_part), "parts"));
  KA_TRY(ka_arena_alloc_n(&b->arena, &sorted, m->n_params, sizeof(void *), "parts"));
  for (int64_t i = 0; i < m->n_params && part != FIVE; i++) {
    const struct ka_param *p = &m->params[i];
    bool qko = p->role == KA_ROLE_Q || p->role == KA_ROLE_K || p->role == KA_ROLE_O;
    bool taken = part == TENTH ? is_tenth(b, p) : qko && p->layer >= b->shape->L / 2;
    if (part == FULL || taken) take(parts, &n, p);
  }
  if (part == FIVE) n = five_percent(m, sorted, parts);
  return ka_model_train_parts(m, parts, n);
}

/* Floating-point operations of one step as the model needs them, whatever is computed twice: two a
 * weight and token forward, two more for the input's gradient above the lowest trained layer, two
 * more for what is trained, but for an embedding that is not the head too: its rows are picked, not
 * multiplied; attention's two products forward (half of the square, causal) and twice that
 * backward. */
static double model_flops(const struct bench *b, const struct ka_model *m) {
  const struct shape *s = b->shape;
  double tokens = (double)(b->rows * b->length), trained = 0, D = (double)(s->C / s->H);
  double layer =
      (double)s->C * D * (double)(2 * s->H + 2 * s->K) + 3.0 * (double)(s->C * s->F * s->k);
  double head = (double)(s->C * s->V), L = (double)s->L;
  double back = L - fmin(L, fmax(0, (double)m->lowest_trained_layer));
  int64_t lowest = m->lowest_trained_layer > 0 ? m->lowest_trained_layer : 0;
  for (int64_t i = 0; i < m->n_slices; i++) {
    const struct ka_param *p = &m->params[m->slices[i].param];
    if (p->stored.n_dim == 2 && (s->tied || p->role != KA_ROLE_EMBED))
      trained += (double)(m->slices[i].n_rows * m->slices[i].n_cols) *
                 (is_expert(p) ? (double)s->k / (double)s->E : 1);
  }
  return tokens * (2 * (L * layer + head) + 2 * (back * layer + head) + 2 * trained +
                   ka_model_key_flops(m, 0, (double)b->length / 2) +
                   2 * ka_model_key_flops(m, lowest, (double)b->length / 2));
}

/* --- running --------------------------------------------------------------------------------- */

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

/* One step counts the products, the others are timed. */
static ka_status time_steps(struct bench *b, struct ka_loop *loop, struct figures *out) {
  struct ka_ctx *ctx = b->ctx;
  struct ka_profile_row profile[KA_N_OPS] = {0};
  struct ka_loop_step step;
  double seconds[MAX_STEPS], tokens = (double)(b->rows * b->length);
  int64_t n_steps = 0;
  b->dev.profile = profile;
  ka_status st = ka_loop_step(loop, &step);
  b->dev.profile = NULL;
  KA_TRY(st);
  for (int i = 0; i < WARM_UP; i++) KA_TRY(ka_loop_step(loop, &step));
  double start_s = ka_now_s();
  while (n_steps < MIN_STEPS || (n_steps < MAX_STEPS && ka_now_s() - start_s < enough_s)) {
    double begin = ka_now_s(), cpu = (double)clock();
    KA_TRY(ka_loop_step(loop, &step));
    seconds[n_steps++] = ka_now_s() - begin;
    cpu = ((double)clock() - cpu) / CLOCKS_PER_SEC;
    out->cpu_s = n_steps == 1 ? cpu : fmin(out->cpu_s, cpu);
  }
  qsort(seconds, (size_t)n_steps, sizeof *seconds, by_value);
  out->best_tok_per_s = tokens / seconds[0];
  out->median_tok_per_s = tokens / seconds[n_steps / 2];
  out->product_share = product_flops(profile) / seconds[0] / b->gemm_rate;
  out->model_flops = model_flops(b, loop->model) / seconds[0];
  out->loss = step.term[KA_TERM_CE] / (double)step.n_targets[KA_ROWS_TASK];
  return KA_STATUS_OK;
}

struct fit {
  struct bench *b;
  struct ka_model *m;
};

static ka_status measure_fit(void *user, double *bytes) {
  struct fit *fit = user;
  struct bench *b = fit->b;
  struct ka_ctx *ctx = b->ctx;
  struct ka_optim measured = {0};
  KA_TRY(ka_model_prepare(fit->m, b->rows, b->length, true));
  KA_TRY(ka_optim_init(ctx, &measured, fit->m, &b->optim, true));
  *bytes = (double)(fit->m->run.used_bytes + fit->m->step.used_bytes +
                    (b->optim.offload ? 0 : measured.arena.used_bytes));
  ka_optim_deinit(&measured);
  return KA_STATUS_OK;
}

static ka_status prepare(struct bench *b, struct ka_model *m, struct ka_optim *optim) {
  struct ka_ctx *ctx = b->ctx;
  struct fit fit = {b, m};
  if (ka_dev_own_memory(&b->dev))
    KA_TRY(ka_train_fit_recompute(m, (double)b->dev.free_bytes, measure_fit, &fit));
  KA_TRY(ka_model_prepare(m, b->rows, b->length, false));
  return ka_optim_init(ctx, optim, m, &b->optim, false);
}

static ka_status run_one(struct bench *b, enum part part, struct figures *out) {
  struct ka_ctx *ctx = b->ctx;
  struct ka_model model = {0};
  struct ka_optim optim = {0};
  *out = (struct figures){.name = part_names[part]};
  ka_status st = KA_STATUS_OK;
  reset_peak();
  KA_TRY_GOTO(ka_model_open(ctx, &model, &b->dev, b->dir, b->compute), out);
  model.term_weight[KA_TERM_KL_TASK] = b->kl_weight;
  KA_TRY_GOTO(choose(b, &model, part), out);
  KA_TRY_GOTO(prepare(b, &model, &optim), out);
  out->n_trained = ka_model_n_trained(&model);
  out->recompute = model.recompute;
  struct ka_loop loop = {
      .ctx = ctx,
      .model = &model,
      .optim = &optim,
      .train = {get_batch, b, 1 << 20},
      .config = {.schedule = {KA_SCHEDULE_CONSTANT, 1e-4, 0, 0, 1 << 20}, .accumulation = 1}};
  KA_TRY_GOTO(time_steps(b, &loop, out), out);
  out->peak_bytes = ka_dev_own_memory(&b->dev)
                        ? (double)(b->dev.own_bytes + model.run.used_bytes + model.step.used_bytes +
                                   (b->optim.offload ? 0 : optim.arena.used_bytes))
                        : peak_bytes();
out:
  ka_optim_deinit(&optim);
  ka_model_close(&model);
  return st;
}

/* --- the command ----------------------------------------------------------------------------- */

static ka_status write_json(struct bench *b, const struct figures *f, int n, const char *path) {
  json_t *rows = json_array();
  for (int i = 0; i < n; i++)
    json_array_append_new(
        rows, json_pack("{s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "name", f[i].name,
                        "trained", (json_int_t)f[i].n_trained, "recomputed_blocks",
                        (json_int_t)f[i].recompute, "tok_per_s", f[i].best_tok_per_s,
                        "tok_per_s_median", f[i].median_tok_per_s, "product_share",
                        f[i].product_share, "model_flops", f[i].model_flops, "peak_bytes",
                        f[i].peak_bytes, "loss", f[i].loss, "cpu_s_a_step", f[i].cpu_s));
  json_t *root =
      json_pack("{s:s, s:s, s:I, s:I, s:s, s:f, s:o}", "device", b->dev.backend->name, "shape",
                b->shape->name, "rows", (json_int_t)b->rows, "length", (json_int_t)b->length,
                "dtype", ka_dtype_name(b->compute), "gemm_flops", b->gemm_rate, "runs", rows);
  ka_status st = ka_json_write(b->ctx, root, path);
  json_decref(root);
  return st;
}

static ka_status make_model(struct bench *b) {
  struct ka_ctx *ctx = b->ctx;
  const char *tmp = getenv("TMPDIR"), *path, *text, *experts = "";
  const struct shape *s = b->shape;
  KA_TRY(ka_arena_printf(&b->arena, &b->dir, "%s/kappa-bench-%ld", tmp ? tmp : "/tmp",
                         (long)getpid()));
  KA_TRY(ka_make_dirs(ctx, b->dir));
  KA_TRY(ka_path_join(&b->arena, &path, b->dir, "config.json"));
  if (s->E)
    KA_TRY(ka_arena_printf(&b->arena, &experts,
                           " \"num_experts\": %lld, \"num_experts_per_tok\": %lld,\n",
                           (long long)s->E, (long long)s->k));
  KA_TRY(ka_arena_printf(
      &b->arena, &text,
      "{\"architectures\": [\"%s\"], \"model_type\": \"%s\", \"vocab_size\": %lld,\n%s"
      " \"hidden_size\": %lld, \"num_hidden_layers\": %lld, \"num_attention_heads\": %lld,\n"
      " \"num_key_value_heads\": %lld, \"intermediate_size\": %lld,\n"
      " \"max_position_embeddings\": 131072, \"rms_norm_eps\": 1e-5, \"hidden_act\": \"silu\",\n"
      " \"tie_word_embeddings\": %s, \"initializer_range\": 0.02, \"rope_theta\": 10000.0,\n"
      " \"torch_dtype\": \"bfloat16\"}\n",
      s->E ? "OlmoeForCausalLM" : "LlamaForCausalLM", s->E ? "olmoe" : "llama", (long long)s->V,
      experts, (long long)s->C, (long long)s->L, (long long)s->H, (long long)s->K, (long long)s->F,
      s->tied ? "true" : "false"));
  KA_TRY(ka_write_file(ctx, path, text, strlen(text)));
  return ka_model_init(ctx, path, b->dir, 1, KA_BF16);
}

static ka_status make_batch(struct bench *b) {
  struct ka_ctx *ctx = b->ctx;
  int32_t **arrays[] = {&b->ids, &b->position, &b->start};
  for (int i = 0; i < 3; i++) {
    KA_TRY(KA_NEW(&b->arena, arrays[i], b->rows * b->length, "bench tokens"));
  }
  for (int64_t i = 0; i < b->rows * b->length; i++) b->position[i] = (int32_t)(i % b->length);
  return KA_STATUS_OK;
}

static ka_status read_options(struct bench *b, const struct ka_cli *cli, enum part parts[2],
                              int *n) {
  struct ka_ctx *ctx = b->ctx;
  const char *dtype = ka_cli_str(cli, "dtype"), *state = ka_cli_str(cli, "optimizer-dtype");
  for (int i = 0; i < N_SHAPES; i++)
    if (strcmp(shapes[i].name, ka_cli_str(cli, "shape")) == 0) b->shape = &shapes[i];
  b->rows = ka_cli_given(cli, "rows") ? ka_cli_int(cli, "rows") : b->shape->rows;
  b->length = ka_cli_given(cli, "length") ? ka_cli_int(cli, "length") : b->shape->length;
  if (b->rows < 1 || b->length < 2 || b->rows > 1 << 20 || b->length > 131072)
    return ka_fail(ctx, KA_E_USAGE, "bench: got %lld rows of %lld tokens", (long long)b->rows,
                   (long long)b->length);
  b->compute =
      dtype ? (strcmp(dtype, "f32") == 0 ? KA_F32 : KA_BF16) : (b->dev.has_bf16 ? KA_BF16 : KA_F32);
  b->optim = (struct ka_optim_config){.beta1 = 0.9,
                                      .beta2 = 0.999,
                                      .eps = 1e-8,
                                      .max_grad_norm = 1,
                                      .state = strcmp(state, "bf16") == 0 ? KA_BF16 : KA_F32,
                                      .offload = ka_cli_flag(cli, "offload")};
  b->kl_weight = ka_cli_float(cli, "kl");
  parts[0] = FULL;
  parts[1] = b->shape->second;
  *n = 2;
  for (int i = 0; i < N_PARTS && ka_cli_given(cli, "select"); i++)
    if (strcmp(part_words[i], ka_cli_str(cli, "select")) == 0) parts[ *n = 0] = (enum part)i;
  if (*n == 0) *n = 1;
  return KA_STATUS_OK;
}

static ka_status run_all(struct bench *b, const struct ka_cli *cli) {
  struct ka_ctx *ctx = b->ctx;
  const char *json = ka_cli_str(cli, "json");
  struct bench_limits limits;
  struct figures f[2];
  enum part parts[2];
  int n = 0;
  char memory[32], trained[32];
  bool table = !json || strcmp(json, "-") != 0;
  KA_TRY(read_options(b, cli, parts, &n));
  KA_TRY(make_batch(b));
  KA_TRY(make_model(b));
  KA_TRY(bench_measure_limits(&b->dev, &limits));
  b->gemm_rate = limits.gemm_flops[b->compute];
  if (table)
    printf("%s%s, %lld x %lld tokens a step, %s on %s; matmul %.0f GFLOP/s\n%-24s %8s %9s %9s "
           "%9s %11s %6s %10s\n",
           b->shape->name, b->shape->E ? "" : " Llama", (long long)b->rows, (long long)b->length,
           ka_dtype_name(b->compute), b->dev.backend->name, b->gemm_rate / 1e9, "trained", "params",
           "tok/s", "median", "of matmul", "model TF/s", "again", "memory");
  for (int i = 0; i < n; i++) {
    KA_TRY(run_one(b, parts[i], &f[i]));
    if (table)
      printf("%-24s %8s %9.0f %9.0f %8.0f%% %11.3f %6lld %10s\n", f[i].name,
             ka_fmt_count((double)f[i].n_trained, trained), f[i].best_tok_per_s,
             f[i].median_tok_per_s, 100 * f[i].product_share, f[i].model_flops / 1e12,
             (long long)f[i].recompute, ka_fmt_bytes(f[i].peak_bytes, memory));
    fflush(stdout);
  }
  return json ? write_json(b, f, n, json) : KA_STATUS_OK;
}

ka_status bench_train(struct ka_ctx *ctx, const struct ka_cli *cli) {
  struct bench b = {.ctx = ctx};
  ka_arena_init(&b.arena, ctx, "bench train");
  ka_status st = ka_dev_open(ctx, &b.dev, ka_cli_str(cli, "device"));
  if (ka_ok(st)) {
    st = run_all(&b, cli);
    if (b.dir) KA_TRY_KEEP(ka_remove_tree(ctx, b.dir));
    ka_dev_close(&b.dev);
  }
  ka_arena_deinit(&b.arena);
  return st;
}
