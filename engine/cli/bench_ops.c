/* SPDX-License-Identifier: Apache-2.0
 * kappa bench ops: every case marked PERF in op_cases.def, best of several runs, as a share of the
 * limit that binds it: the product rate or the memory bandwidth, both measured here first. An op
 * whose operands fit the caches can pass 100 % of the memory bandwidth. */
#include "base/json.h"
#include "base/log.h"
#include "engine/cli/bench.h"
#include "kernels/op_cases.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Best seconds of one call: at least 3 runs and 0.15 s. On a device that works on its own, runs of
 * several calls, so that the waiting in between does not count. */
static ka_status time_call(struct ka_dev *dev, const struct ka_op_call *call, double *best) {
  struct ka_ctx *ctx = dev->ctx;
  int calls = ka_dev_queues(dev) ? 10 : 1;
  double begin = ka_now_s();
  *best = INFINITY;
  KA_TRY(ka_op_call_run(dev, call)); /* warm up: kernels are chosen, pages touched */
  KA_TRY(ka_dev_sync(dev));
  for (int i = 0; i < 3 || ka_now_s() - begin < 0.15; i++) {
    double t = ka_now_s();
    for (int k = 0; k < calls; k++) KA_TRY(ka_op_call_run(dev, call));
    KA_TRY(ka_dev_sync(dev));
    *best = fmin(*best, (ka_now_s() - t) / calls);
  }
  return KA_STATUS_OK;
}

static ka_status time_case(struct ka_dev *dev, const struct ka_op_case *c, enum ka_dtype x,
                           double *seconds, double *flops, double *bytes) {
  struct ka_arena a;
  struct ka_op_call call;
  struct ka_op_mirror mirror = {0};
  ka_arena_init(&a, dev->ctx, "bench operands");
  ka_status st = ka_op_call_make(dev, &a, c, x, 1, (struct ka_op_layout){0}, &call);
  if (ka_ok(st)) st = ka_op_mirror_open(dev, &mirror, &call, (struct ka_op_layout){0}, true);
  if (ka_ok(st)) st = time_call(dev, &mirror.call, seconds);
  if (ka_ok(st)) ka_op_call_cost(&call, flops, bytes);
  ka_op_mirror_close(&mirror);
  ka_arena_deinit(&a);
  return st;
}

ka_status bench_measure_limits(struct ka_dev *dev, struct bench_limits *out) {
  struct ka_ctx *ctx = dev->ctx;
  static const enum ka_dtype types[] = {KA_F32, KA_BF16};
  const struct ka_op_case packed =
      KA_OP_CASE(matmul, "M2048 N1024 K512", KA_CASE_PACK, .trans_b = true);
  const struct ka_op_case stream = KA_OP_CASE(add, "N1024 C16384", 0); /* 3 x 64 MiB */
  double seconds, flops, bytes;
  *out = (struct bench_limits){0};
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    double *best = &out->gemm_flops[types[i]];
    KA_TRY(ka_dev_matmul_rate(dev, types[i], ka_dev_big(dev) ? 0 : 2048, best));
    if (!dev->backend->pack_bytes) continue;
    KA_TRY(time_case(dev, &packed, types[i], &seconds, &flops, &bytes));
    *best = fmax(*best, flops / seconds);
  }
  KA_TRY(time_case(dev, &stream, KA_F32, &seconds, &flops, &bytes));
  out->bytes = bytes / seconds;
  return KA_STATUS_OK;
}

static ka_status add_row(struct ka_ctx *ctx, json_t *rows, const struct ka_op_case *c,
                         enum ka_dtype x, double seconds, double gflops, double gbytes,
                         double share, bool print) {
  char text[128];
  ka_op_case_text(c, text);
  if (print)
    printf("%-12s %-42s %-5s %10.1f %9.1f %8.1f %6.0f\n", ka_op_name(c->op), text, ka_dtype_name(x),
           seconds * 1e6, gflops, gbytes, share * 100);
  fflush(stdout);
  json_t *row = json_pack("{s:s,s:s,s:s,s:f,s:f,s:f,s:f}", "op", ka_op_name(c->op), "shape", text,
                          "dtype", ka_dtype_name(x), "time_us", seconds * 1e6, "gflops", gflops,
                          "gbytes_per_s", gbytes, "share_of_limit", share);
  return ka_json_append(ctx, rows, row);
}

static bool wanted(const struct ka_dev *dev, const struct ka_cli *cli, const struct ka_op_case *c,
                   enum ka_dtype x) {
  const char *op = ka_cli_str(cli, "op"), *dtype = ka_cli_str(cli, "dtype");
  bool big = c->flags & KA_CASE_BIG;
  return c->flags & KA_CASE_PERF && big == ka_dev_big(dev) &&
         (!op || strcmp(op, ka_op_name(c->op)) == 0) &&
         (!dtype || strcmp(dtype, x == KA_F32 ? "f32" : "bf16") == 0);
}

static ka_status all_rows(struct ka_dev *dev, const struct ka_cli *cli,
                          const struct bench_limits *limits, json_t *rows, bool print) {
  struct ka_ctx *ctx = dev->ctx;
  static const enum ka_dtype types[] = {KA_BF16, KA_F32};
  for (int i = 0; i < ka_n_op_cases; i++)
    for (int d = 0; d < 2; d++) {
      const struct ka_op_case *c = &ka_op_cases[i];
      double seconds = 0, flops = 0, bytes = 0;
      if (!wanted(dev, cli, c, types[d])) continue;
      KA_TRY(ka_check_interrupted(ctx, "bench"));
      KA_TRY(time_case(dev, c, types[d], &seconds, &flops, &bytes));
      double compute = flops / seconds / limits->gemm_flops[types[d]];
      double memory = bytes / seconds / limits->bytes;
      KA_TRY(add_row(ctx, rows, c, types[d], seconds, flops / seconds * 1e-9,
                     bytes / seconds * 1e-9, fmax(compute, memory), print));
    }
  return KA_STATUS_OK;
}

static ka_status known_op(struct ka_ctx *ctx, const char *name) {
  const char *names[KA_N_OPS + 1] = {0};
  for (int i = 0; i < KA_N_OPS; i++) {
    names[i] = ka_op_name((enum ka_op)i);
    if (!name || strcmp(name, names[i]) == 0) return KA_STATUS_OK;
  }
  const char *near = ka_nearest(name, names);
  return ka_fail(ctx, KA_E_USAGE, "--op: unknown op \"%s\"%s%s%s", name,
                 near ? ", did you mean " : "", near ? near : "", near ? "?" : "");
}

ka_status bench_ops(struct ka_ctx *ctx, const struct ka_cli *cli) {
  const char *json = ka_cli_str(cli, "json");
  bool print = !json || strcmp(json, "-") != 0;
  struct ka_dev dev;
  struct bench_limits limits;
  ka_status st = KA_STATUS_OK;
  KA_TRY(known_op(ctx, ka_cli_str(cli, "op")));
  KA_TRY(ka_dev_open(ctx, &dev, ka_cli_str(cli, "device")));
  json_t *root = NULL, *rows = json_array();
  KA_TRY_GOTO(bench_measure_limits(&dev, &limits), out);
  if (print)
    printf("limits: matmul %.0f GFLOP/s in BF16, %.0f in F32; memory %.1f GB/s\n"
           "%-12s %-42s %-5s %10s %9s %8s %6s\n",
           limits.gemm_flops[KA_BF16] * 1e-9, limits.gemm_flops[KA_F32] * 1e-9, limits.bytes * 1e-9,
           "op", "shape", "dtype", "us", "GFLOP/s", "GB/s", "%limit");
  KA_TRY_GOTO(all_rows(&dev, cli, &limits, rows, print), out);
  root = json_pack("{s:s,s:f,s:f,s:f,s:O}", "device", dev.backend->name, "gemm_bf16_gflops",
                   limits.gemm_flops[KA_BF16] * 1e-9, "gemm_f32_gflops",
                   limits.gemm_flops[KA_F32] * 1e-9, "memory_gbytes_per_s", limits.bytes * 1e-9,
                   "ops", rows);
  if (json) KA_TRY_GOTO(ka_json_write(ctx, root, json), out);
out:
  json_decref(rows);
  json_decref(root);
  ka_dev_close(&dev);
  return st;
}
