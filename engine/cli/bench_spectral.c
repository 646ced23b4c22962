/* SPDX-License-Identifier: Apache-2.0
 *
 * kappa bench spectral: where the time of an analysis goes, against the float64 GEMM rate of the
 * device in the same run. The tensors: a file's, or those of TinyLlama-1.1B's layers made on the
 * spot. */
#include "base/json.h"
#include "base/log.h"
#include "base/rng.h"
#include "base/str.h"
#include "engine/cli/bench.h"
#include "engine/spectral/units.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>

enum { GEMM = 1024, DEVICE_GEMM = 4096 };

static const struct {
  const char *name;
  int64_t rows, cols;
} shapes[] = {
    {"q_proj", 2048, 2048},    {"k_proj", 256, 2048},     {"v_proj", 256, 2048},
    {"o_proj", 2048, 2048},    {"gate_proj", 5632, 2048}, {"up_proj", 5632, 2048},
    {"down_proj", 2048, 5632},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static ka_status made_units(struct ka_ctx *ctx, struct ka_arena *arena, int64_t layers,
                            struct ka_unit **units, int64_t *n) {
  *n = layers * N_SHAPES;
  KA_TRY(KA_NEW(arena, units, *n, "units"));
  for (int64_t i = 0; i < *n; i++) {
    const char *name = NULL;
    int64_t rows = shapes[i % N_SHAPES].rows, cols = shapes[i % N_SHAPES].cols;
    KA_TRY(ka_arena_printf(arena, &name, "model.layers.%lld.%s.weight", (long long)(i / N_SHAPES),
                           shapes[i % N_SHAPES].name));
    uint16_t *w;
    KA_TRY(KA_NEW(arena, &w, rows * cols, "weights"));
#pragma omp parallel for
    for (int64_t k = 0; k < rows * cols; k++)
      w[k] = ka_f32_to_bf16((float)(0.02 * ka_rng_normal(1, (uint64_t)i, (uint64_t)k)));
    (*units)[i] = ka_unit_of_tensor(name, ka_tensor_2d(w, KA_BF16, rows, cols));
  }
  return KA_STATUS_OK;
}

static json_t *print_run(const char *precision, const struct ka_spectral_phases *p, double rate,
                         bool host) {
  int n_threads = omp_get_max_threads();
  double all = p->read_s + p->gram_s + p->cholesky_s + p->lanczos_s + p->inverse_s + p->svd_s;
  const struct {
    const char *name;
    double s;
  } rows[] = {{"read and widen", p->read_s}, {"Gram", p->gram_s},       {"Cholesky", p->cholesky_s},
              {"Lanczos", p->lanczos_s},     {"inverse", p->inverse_s}, {"SVD", p->svd_s}};
  printf("--precision %s: %.1f s, %.0f Gflop by the Gram route\n", precision, p->total_s,
         p->gram_flops * 1e-9);
  json_t *phases = json_object();
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    if (rows[i].s <= 0) continue;
    printf("  %-16s %8.2f s of a %s  %5.1f %%", rows[i].name, rows[i].s, host ? "thread" : "worker",
           100 * rows[i].s / (all > 0 ? all : 1));
    if (i == 1 && host)
      printf("   %.1f Gflop/s, %.0f %% of the GEMM rate of a thread",
             p->gram_flops / rows[i].s * 1e-9, 100 * p->gram_flops * n_threads / rows[i].s / rate);
    printf("\n");
    json_object_set_new(phases, rows[i].name, json_real(rows[i].s));
  }
  printf("  limit            %8.2f s if the Gram products ran at the GEMM rate and all else was "
         "free\n",
         p->gram_flops / rate);
  return json_pack("{s:s, s:f, s:f, s:o}", "precision", precision, "seconds", p->total_s,
                   "gram_flops", p->gram_flops, "thread_seconds", phases);
}

struct bench {
  struct ka_arena arena;
  struct ka_safetensors files;
  struct ka_dev dev;
  bool opened;
  struct ka_unit *units;
  struct ka_spectrum *results;
  int64_t n;
};

static ka_status run(struct ka_ctx *ctx, struct bench *b, const struct ka_cli *cli) {
  static const char *const names[] = {"auto", "f64"};
  const char *file = ka_cli_str(cli, "file"), *json = ka_cli_str(cli, "json");
  double rate = 0;
  if (file) {
    KA_TRY(ka_st_open(ctx, &b->files, file));
    b->opened = true;
    KA_TRY(
        ka_units_of_file(ctx, &b->arena, &b->files, NULL, KA_UNIT_TENSOR, false, &b->units, &b->n));
  } else {
    KA_TRY(made_units(ctx, &b->arena, 2, &b->units, &b->n));
  }
  KA_TRY(KA_NEW(&b->arena, &b->results, b->n + 1, "results"));
  const char *slow = ka_blas_slow_core();
  if (slow) ka_warn(ctx, "bench", "%s", slow);
  KA_TRY(ka_dev_open(ctx, &b->dev, ka_cli_str(cli, "device")));
  struct ka_linalg_engine engine = ka_linalg_engine_of(&b->dev);
  KA_TRY(engine.dense->rate(ctx, &engine, engine.blas ? GEMM : DEVICE_GEMM, &rate));
  printf("%lld tensors of %s; %s, %d threads, float64 GEMM %.1f Gflop/s\n", (long long)b->n,
         file ? file : "two layers of TinyLlama-1.1B's shapes, bf16",
         ka_linalg_engine_name(&engine), omp_get_max_threads(), rate * 1e-9);
  json_t *runs = json_array();
  for (int i = 0; i < 2; i++) {
    struct ka_spectral_options o = {.engine = engine,
                                    .precision = i ? KA_PRECISION_F64 : KA_PRECISION_AUTO};
    struct ka_spectral_phases p;
    KA_TRY(ka_spectral_analyze(ctx, &b->arena, b->results, b->units, b->n, &o, &p));
    json_array_append_new(runs, print_run(names[i], &p, rate, engine.blas != NULL));
  }
  ka_status st = KA_STATUS_OK;
  json_t *root = json_pack("{s:s, s:f, s:i, s:o}", "engine", ka_linalg_engine_name(&engine),
                           "gemm_f64_flops", rate, "threads", omp_get_max_threads(), "runs", runs);
  if (json) st = ka_json_write(ctx, root, json);
  json_decref(root);
  return st;
}

ka_status bench_spectral(struct ka_ctx *ctx, const struct ka_cli *cli) {
  struct bench b = {0};
  ka_arena_init(&b.arena, ctx, "bench spectral");
  ka_status st = run(ctx, &b, cli);
  ka_dev_close(&b.dev);
  if (b.opened) ka_st_close(&b.files);
  ka_arena_deinit(&b.arena);
  return st;
}
