/* SPDX-License-Identifier: Apache-2.0
 * Attention as cuDNN's operation graphs, without a GPU: computed node by node the tables give what
 * the ops' contracts say, and cuDNN makes plans of them for an A100 and an H100 that are not here.
 * What the plans compute, the op tests tell on a GPU. */
#include "tests/support/test.h"

#ifdef KAPPA_HAVE_CUDNN

#include "kernels/cuda/cudnn/attn.h"
#include "kernels/device.h"
#include "tests/kernels/cudnn/evaluate.h"

#include <dlfcn.h>
#include <math.h>
#include <string.h>

enum { BWD = CUDNN_ATTN_BACKWARD, WIN = CUDNN_ATTN_WINDOW, CAP = CUDNN_ATTN_SOFTCAP };
static const int64_t LIMIT = 512 << 20;

/* --- the tables compute the op ---------------------------------------------------------------- */

static double *numbers(struct ka_arena *a, int64_t n, unsigned seed) {
  struct ka_ctx *ctx = a->ctx;
  void *p;
  T_OK(ka_arena_alloc_n(a, &p, n, sizeof(double), "numbers"));
  double *x = p;
  for (int64_t i = 0; i < n; i++) x[i] = sin(1.7 * (double)i + 0.3 * seed) * (seed ? 1.5 : 0);
  return x;
}

static struct ka_tensor view(double *x, int64_t n0, int64_t n1, int64_t n2, int64_t n3) {
  return ka_tensor_view(x, KA_F64, 4, (int64_t[]){n0, n1, n2, n3});
}

static void same(const double *got, const double *expected, int64_t n, const char *what) {
  for (int64_t i = 0; i < n; i++)
    if (!(fabs(got[i] - expected[i]) <= 1e-12 * (1 + fabs(expected[i]))))
      fail_msg("%s[%lld]: the graph gives %.17g, the op %.17g", what, (long long)i, got[i],
               expected[i]);
}

static void compare(struct ka_ctx *ctx, struct ka_dev *dev, const struct cudnn_attn *p) {
  struct ka_arena a;
  ka_arena_init(&a, ctx, "attention");
  int64_t B = p->B, T = p->T, H = p->H, K = p->K, D = p->D, V = p->V, sizes[128];
  int64_t nq = B * T * H * D, nk = B * T * K * D, nv = B * T * K * V, no = B * T * H * V;
  double scale = 0.4, softcap = p->features & CAP ? 1.3 : 0, window = 3, one = 1, low = -INFINITY;
  double *q = numbers(&a, nq, 1), *k = numbers(&a, nk, 2), *v = numbers(&a, nv, 3);
  double *dout = numbers(&a, no, 4), *out = numbers(&a, no, 0), *lse = numbers(&a, B * H * T, 0);
  double *dq = numbers(&a, nq, 0), *dk = numbers(&a, nk, 0), *dv = numbers(&a, nv, 0);
  double *got_out = numbers(&a, no, 0), *got_lse = numbers(&a, B * H * T, 0);
  double *got_dq = numbers(&a, nq, 0), *got_dk = numbers(&a, nk, 0), *got_dv = numbers(&a, nv, 0);
  struct ka_attn_fwd_args f = {.out = view(out, B, T, H, V),
                               .lse = ka_tensor_view(lse, KA_F64, 3, (int64_t[]){B, H, T}),
                               .q = view(q, B, T, H, D),
                               .k = view(k, B, T, K, D),
                               .v = view(v, B, T, K, V),
                               .window = p->features & WIN ? (int64_t)window : 0,
                               .scale = scale,
                               .softcap = softcap};
  T_OK(ka_attn_fwd(dev, &f));
  T_OK(ka_attn_bwd(dev, &(struct ka_attn_bwd_args){.dq = view(dq, B, T, H, D),
                                                   .dk = view(dk, B, T, K, D),
                                                   .dv = view(dv, B, T, K, V),
                                                   .dout = view(dout, B, T, H, V),
                                                   .q = f.q,
                                                   .k = f.k,
                                                   .v = f.v,
                                                   .out = f.out,
                                                   .lse = f.lse,
                                                   .window = f.window,
                                                   .scale = scale,
                                                   .softcap = softcap}));
  double *at[CUDNN_TENSORS] = {[ATTN_Q] = q,
                               [ATTN_KT] = k,
                               [ATTN_V] = v,
                               [ATTN_VT] = v,
                               [ATTN_OUT] = got_out,
                               [ATTN_LSE] = got_lse,
                               [ATTN_DOUT] = dout,
                               [ATTN_DQ] = got_dq,
                               [ATTN_DK] = got_dk,
                               [ATTN_DV] = got_dv,
                               [ATTN_SCALE] = &scale,
                               [ATTN_WINDOW] = &window,
                               [ATTN_SOFTCAP] = &softcap,
                               [ATTN_ONE] = &one,
                               [ATTN_MINUS_INFINITY] = &low};
  struct cudnn_attn pattern = *p;
  struct cudnn_graph g;
  char why[64];
  assert_true(cudnn_attn_graph(&pattern, &g, sizes, why, sizeof why));
  evaluate(&g, at);
  same(got_out, out, no, "out");
  same(got_lse, lse, B * H * T, "lse");
  pattern.features |= BWD;
  assert_true(cudnn_attn_graph(&pattern, &g, sizes, why, sizeof why));
  evaluate(&g, at);
  same(got_dq, dq, nq, "dq");
  same(got_dk, dk, nk, "dk");
  same(got_dv, dv, nv, "dv");
  ka_arena_deinit(&a);
}

static void test_meaning(void **state) {
  (void)state;
  struct ka_ctx context, *ctx = &context;
  struct ka_dev dev;
  ka_ctx_init(ctx);
  T_OK(ka_dev_open(ctx, &dev, "ref"));
  for (int64_t features = 0; features < 8; features += 2) {
    compare(ctx, &dev, &(struct cudnn_attn){2, 7, 4, 2, 8, 16, features});
    compare(ctx, &dev, &(struct cudnn_attn){1, 9, 3, 3, 16, 8, features});
    compare(ctx, &dev, &(struct cudnn_attn){2, 5, 3, 1, 8, 8, features});
  }
  ka_dev_close(&dev);
}

static void test_rows(void **state) {
  (void)state;
  struct cudnn_attn a = {12, 2048, 32, 8, 128, 128, 0};
  assert_int_equal(cudnn_attn_rows(&a, LIMIT), 12);
  a.features = BWD; /* 2 * 32 * 2048^2 bytes of dS a row, and half as much for dk, dv and delta */
  assert_int_equal(cudnn_attn_rows(&a, LIMIT), 1);
  assert_int_equal(cudnn_attn_rows(&a, 5 * LIMIT), 6); /* 7 would fit, but 12 has no such part */
  assert_int_equal(cudnn_attn_rows(&a, LIMIT / 2), 0);
  a.T = (int64_t)1 << 40;
  assert_int_equal(cudnn_attn_rows(&a, LIMIT), 0);
  a.B = 0;
  assert_int_equal(cudnn_attn_rows(&a, LIMIT), 0);
}

/* --- cuDNN takes them ------------------------------------------------------------------------- */

/* What cuDNN 9.19 asks of a device; the last three lines are 9.27's. */
static const char *properties(int sm) {
  bool hopper = sm == 90;
  return t_str("{\"deviceName\": \"%s\", \"deviceVer\": %d0, \"driverVer\": 13000, "
               "\"cudaDeviceId\": 0, \"pciDeviceId\": 0, \"isTccDriver\": 0, "
               "\"totalGlobalMem\": 85899345920, \"l2CacheSize\": %d, "
               "\"multiProcessorCount\": %d, \"smClockRateKHz\": %d, \"memClockRateKHz\": %d, "
               "\"maxGridSize\": [2147483647, 65535, 65535], \"maxBlockSize\": [1024, 1024, 64], "
               "\"warpSize\": 32, \"maxThreadsPerBlock\": 1024, \"maxThreadsPerSM\": 2048, "
               "\"maxCtasPerSM\": 32, \"regsPerBlock\": 65536, \"maxRegistersPerSM\": 65536, "
               "\"maxSharedMemoryPerBlock\": 49152, \"maxSharedMemoryPerBlockOptin\": %d, "
               "\"reservedSharedMemoryPerBlock\": 1024, \"supportCoopLaunch\": 1, "
               "\"smCountOrigin\": 0, "
               "\"oversizedSharedMemoryPerBlock\": 0, "
               "\"memoryBusWidth\": 5120}",
               hopper ? "NVIDIA H100 80GB HBM3" : "NVIDIA A100-SXM4-80GB", sm,
               hopper ? 52428800 : 41943040, hopper ? 132 : 108, hopper ? 1980000 : 1410000,
               hopper ? 2619000 : 1593000, hopper ? 232448 : 166912);
}

/* cuDNN for this device; false, with a word: not here. */
static bool open(struct cudnn *c, int sm) {
  const char *compiler = t_str("libnvrtc.so.%d", CUDART_VERSION / 1000);
  *c = (struct cudnn){0};
  void *driver = dlopen(NO_DEVICE, RTLD_NOW | RTLD_GLOBAL); /* found by its name from now on */
  if (!driver) fail_msg("%s", dlerror());
  if (!cudnn_open(c))
    print_message("skipped: no cuDNN: %s\n", c->why);
  else if (!dlopen(compiler, RTLD_LAZY | RTLD_LOCAL))
    print_message("skipped: cuDNN does nothing without %s\n", compiler);
  else if (!cudnn_use_properties(c, properties(sm)))
    print_message("skipped: this cuDNN asks for other properties: %s\n", c->why);
  else
    return true;
  cudnn_close(c);
  return false;
}

/* From which architecture on; whether half a second is spent on compiling the plan, too. */
static const struct pattern {
  const char *name;
  struct cudnn_attn a;
  int forward, backward;
  bool compile;
} patterns[] = {
    {"D 64", {2, 1024, 8, 2, 64, 64, 0}, 80, 80, true},
    {"D 128, window", {1, 1024, 8, 2, 128, 128, WIN}, 80, 80, true},
    {"D 256, softcap", {1, 1024, 8, 2, 256, 256, CAP}, 80, 90, true},
    {"D 128", {2, 1024, 8, 2, 128, 128, 0}, 80, 80},
    {"D 128, no groups", {1, 2048, 8, 8, 128, 128, 0}, 80, 80},
    {"D 96, odd T", {1, 1001, 6, 3, 96, 96, 0}, 80, 80},
    {"D 8, short", {3, 2, 4, 1, 8, 16, 0}, 80, 80},
    {"D 64, softcap", {1, 1024, 8, 2, 64, 64, CAP}, 80, 90},
    {"window and softcap", {1, 1024, 8, 4, 128, 128, WIN | CAP}, 80, 90},
    {"D 192, V 128", {1, 1024, 4, 4, 192, 128, 0}, 80, 90},
    {"D 256", {1, 1024, 8, 1, 256, 256, 0}, 80, 90},
};

/* How far it is to the next call's tensor. */
static void outside(const struct cudnn_attn *a, int64_t id, int64_t bytes) {
  int64_t q = a->B * a->T * a->H, k = a->B * a->T * a->K;
  const int64_t expected[CUDNN_TENSORS] = {
      [ATTN_Q] = 2 * q * a->D,    [ATTN_KT] = 2 * k * a->D,  [ATTN_V] = 2 * k * a->V,
      [ATTN_VT] = 2 * k * a->V,   [ATTN_OUT] = 2 * q * a->V, [ATTN_LSE] = 4 * q,
      [ATTN_DOUT] = 2 * q * a->V, [ATTN_DQ] = 2 * q * a->D,  [ATTN_DK] = 2 * k * a->D,
      [ATTN_DV] = 2 * k * a->V};
  assert_int_equal(bytes, expected[id]);
}

static void expect(struct cudnn *c, const struct pattern *p, int sm, bool backward) {
  struct cudnn_attn a = p->a;
  struct cudnn_graph g;
  struct cudnn_plan plan = {0};
  int64_t sizes[128];
  if (backward) a.features |= BWD;
  assert_true(cudnn_attn_graph(&a, &g, sizes, c->why, sizeof c->why));
  if (!(p->compile ? cudnn_plan_make(c, &plan, &g, LIMIT) : cudnn_graph_accepted(c, &g)))
    fail_msg("sm_%d, %s, %s: %s", sm, p->name, backward ? "backward" : "forward", c->why);
  for (int i = 0; i < plan.outside.n; i++) outside(&a, plan.outside.id[i], plan.outside.bytes[i]);
  if (p->compile && backward) {
    /* dS is there; without it dq would be summed in no certain order. */
    assert_true(plan.workspace_bytes >= 2 * a.B * a.H * a.T * a.T);
    /* The estimate by which rows are counted is enough, and not much more. */
    assert_int_equal(cudnn_attn_rows(&a, plan.workspace_bytes * 5 / 4), a.B);
    assert_true(cudnn_attn_rows(&a, plan.workspace_bytes - 1) < a.B);
  }
  cudnn_plan_free(c, &plan);
}

static void plans(int sm) {
  struct cudnn c;
  if (!open(&c, sm)) skip();
  for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
    const struct pattern *p = &patterns[i];
    if (sm >= p->forward) expect(&c, p, sm, false);
    if (sm >= p->backward) expect(&c, p, sm, true);
  }
  cudnn_close(&c);
}

static void test_plans_80(void **state) {
  (void)state;
  plans(80);
}
static void test_plans_90(void **state) {
  (void)state;
  plans(90);
}

static void test_describe(void **state) {
  (void)state;
  struct cudnn c;
  char text[96];
  if (!open(&c, 90)) skip();
  cudnn_attn_describe(&c, true, text, sizeof text);
  assert_string_equal(text, "D 64 128 192/128 256 window softcap");
  cudnn_attn_describe(&c, true, text, 8); /* cut off, not over */
  assert_string_equal(text, "D 64 12");
  cudnn_close(&c);
}

/* --- what is not theirs ----------------------------------------------------------------------- */

static void test_refused(void **state) {
  (void)state;
  static const struct {
    struct cudnn_attn a;
    const char *why;
  } cases[] = {{{0, 64, 2, 2, 64, 64, 0}, "there is no row"},
               {{1, 0, 2, 2, 64, 64, BWD}, "there is no row"},
               {{1, 1, 2, 2, 64, 64, BWD}, "there is no row"},
               {{1, (int64_t)1 << 40, 2, 2, 64, 64, 0}, "there is no row"},
               {{1, 64, 6, 4, 64, 64, 0}, "no multiple of K"},
               {{1, 64, 0, 0, 64, 64, 0}, "no multiple of K"},
               {{1, 64, 2, 2, 20, 64, 0}, "multiples of 8"},
               {{1, 64, 2, 2, 64, 12, 0}, "multiples of 8"},
               {{1, 64, 2, 2, 0, 64, 0}, "multiples of 8"},
               {{1, 64, 2, 2, 4096, 4096, BWD}, "no engine"},
               {{4, 2048, 32, 8, 128, 128, BWD}, "MiB of workspace, more than 512.0"}};
  struct cudnn c;
  struct cudnn_graph g;
  struct cudnn_plan plan;
  int64_t sizes[128];
  if (!open(&c, 90)) skip();
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    *c.why = 0;
    if (cudnn_attn_graph(&cases[i].a, &g, sizes, c.why, sizeof c.why) &&
        cudnn_plan_make(&c, &plan, &g, LIMIT))
      fail_msg("case %zu has a plan", i);
    if (!strstr(c.why, cases[i].why)) fail_msg("case %zu: %s", i, c.why);
  }
  expect(&c, &patterns[0], 90, true); /* and goes on as if nothing had been */
  cudnn_close(&c);
  assert_false(cudnn_use_properties(&c, "{\"deviceVer\": 900}"));
  assert_non_null(strstr(c.why, "device properties"));
  cudnn_close(&c);
  cudnn_close(&c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_meaning),  cmocka_unit_test(test_rows),
      cmocka_unit_test(test_plans_80), cmocka_unit_test(test_plans_90),
      cmocka_unit_test(test_describe), cmocka_unit_test(test_refused)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void) {
  print_message("skipped: built without cuDNN's headers\n");
  return 0;
}

#endif
