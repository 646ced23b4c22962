/* SPDX-License-Identifier: Apache-2.0
 * Spectra on a device beside the host's: batches, selections, memory that is short, calls that
 * fail; asked of the stand-in, which can be told to fail. Skipped on a real device. */
#include "base/rng.h"
#include "engine/spectral/choose.h"
#include "tests/spectral/engine.h"
#include "tests/support/host.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N = 20, ROWS = 24, COLS = 40 };

static struct ka_ctx context, *ctx = &context;

static int fresh(void **state) {
  (void)state;
  ka_ctx_init(ctx);
  ctx->log_level = KA_LOG_QUIET;
  host.reset();
  return 0;
}

/* Matrices of one shape that leave the common path at every place: well conditioned, graded (the
 * inverse route, with and without cut products), singular, zero, not finite. */
struct zoo {
  float data[N][ROWS * COLS];
  struct ka_unit units[N];
  char names[N][16];
};

static void make_zoo(struct zoo *z) {
  for (int i = 0; i < N; i++) {
    float *a = z->data[i];
    for (int k = 0; k < ROWS * COLS; k++) {
      double x = ka_rng_normal(5, (uint64_t)i, (uint64_t)k), row = k / COLS;
      if (i % 5 == 1) x *= pow(10, -row * (1 + i / 5) / 14.0);
      if (i % 5 == 2) x *= pow(2, -row / 8);
      a[k] = (float)x;
    }
    if (i % 5 == 3) memcpy(a + COLS, a, COLS * sizeof *a);
    if (i == 4) memset(a, 0, sizeof z->data[i]);
    if (i == 9) a[100] = NAN;
    if (i == 14) a[3] = INFINITY;
    snprintf(z->names[i], sizeof z->names[i], "layers.%d.x", (7 * i) % N);
    z->units[i] = ka_unit_of_tensor(z->names[i], ka_tensor_2d(a, KA_F32, ROWS, COLS));
  }
}

static ka_status analyse(struct ka_arena *arena, struct ka_linalg_engine engine, bool full,
                         const struct ka_unit *units, int64_t n, struct ka_spectrum *results) {
  struct ka_spectral_options o = {.engine = engine, .full = full, .precision = KA_PRECISION_F64};
  return ka_spectral_analyze(ctx, arena, results, units, n, &o, NULL);
}

static void assert_same(const struct ka_spectrum *a, const struct ka_spectrum *b) {
  assert_memory_equal(a->metrics, b->metrics, sizeof a->metrics);
  assert_memory_equal(&a->kappa_rel_bound, &b->kappa_rel_bound, 5 * sizeof(double));
  assert_int_equal(a->method, b->method);
  assert_int_equal(a->singular, b->singular);
  assert_int_equal(a->bad_index, b->bad_index);
  assert_int_equal(a->n_values, b->n_values);
  if (a->n_values) assert_memory_equal(a->values, b->values, (size_t)a->n_values * sizeof(double));
}

/* To the bit. */
static void companions_change_nothing(void **state) {
  (void)state;
  static struct zoo z;
  struct ka_arena arena;
  struct ka_spectrum together[N], alone;
  int methods[8] = {0};
  make_zoo(&z);
  ka_arena_init(&arena, ctx, "test");
  T_OK(analyse(&arena, t_engine(ctx), true, z.units, N, together));
  for (int i = 0; i < N; i++) {
    T_OK(analyse(&arena, t_engine(ctx), true, &z.units[i], 1, &alone));
    assert_same(&together[i], &alone);
    methods[together[i].method]++;
  }
  assert_true(methods[KA_SPECTRAL_GRAM] > 0 && methods[KA_SPECTRAL_INVERSE] > 0 &&
              methods[KA_SPECTRAL_TESTED] > 0 && methods[KA_SPECTRAL_NONE] == 2);
  ka_arena_deinit(&arena);
}

/* Both engines are right within their bounds, and take the same rungs for granted. */
static void agrees_with_the_host(void **state) {
  (void)state;
  static struct zoo z;
  struct ka_arena arena;
  struct ka_spectrum device[N], cpu[N];
  make_zoo(&z);
  ka_arena_init(&arena, ctx, "test");
  for (int order = 0; order < 2; order++) {
    host.set("order", order ? "eager" : "lazy");
    host.set("threads", order ? "reverse" : "forward");
    T_OK(analyse(&arena, t_engine(ctx), false, z.units, N, device));
    T_OK(analyse(&arena, ka_linalg_engine_cpu(), false, z.units, N, cpu));
    for (int i = 0; i < N; i++) {
      double a = device[i].metrics[KA_METRIC_KAPPA], b = cpu[i].metrics[KA_METRIC_KAPPA];
      assert_int_equal(device[i].singular, cpu[i].singular);
      assert_int_equal(device[i].bad_index, cpu[i].bad_index);
      if (cpu[i].singular || cpu[i].error) continue;
      assert_true(device[i].kappa_low <= cpu[i].kappa_high);
      assert_true(cpu[i].kappa_low <= device[i].kappa_high);
      assert_true(fabs(a - b) <= (device[i].kappa_rel_bound + cpu[i].kappa_rel_bound) * b);
    }
  }
  ka_arena_deinit(&arena);
}

static const char *select_words(struct ka_arena *arena, const struct zoo *z, const char *words,
                                struct ka_linalg_engine engine,
                                enum ka_spectral_precision precision) {
  static char text[2][512];
  static int turn;
  char *to = text[turn++ % 2];
  struct ka_select_spec spec;
  struct ka_selection out;
  struct ka_spectrum results[N];
  struct ka_spectral_options o = {.engine = engine, .precision = precision};
  int64_t n = 0;
  struct ka_unit units[N];
  for (int i = 0; i < N; i++)
    if (i != 9 && i != 14) units[n++] = z->units[i]; /* a selection refuses what is not finite */
  T_OK(ka_select_parse(ctx, arena, words, &spec));
  T_OK(ka_select_units(ctx, arena, &out, results, &spec, units, n, false, &o, NULL));
  to[0] = 0;
  for (int64_t k = 0; k < out.n_units; k++)
    snprintf(to + strlen(to), 512 - strlen(to), "%s ", out.units[k].name);
  return to;
}

static void selects_as_the_host_does(void **state) {
  (void)state;
  static struct zoo z;
  static const char *const words[] = {"kappa lowest 5", "kappa highest 4", "kappa lowest 30%",
                                      "kappa_mp lowest 3", "log_volume highest 6"};
  struct ka_arena arena;
  make_zoo(&z);
  ka_arena_init(&arena, ctx, "test");
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
    enum ka_spectral_precision p = i % 2 ? KA_PRECISION_F64 : KA_PRECISION_AUTO;
    const char *cpu = select_words(&arena, &z, words[i], ka_linalg_engine_cpu(), p);
    assert_string_equal(select_words(&arena, &z, words[i], t_engine(ctx), p), cpu);
  }
  ka_arena_deinit(&arena);
}

/* What does not fit on the device is the host's, bit for bit. */
static void short_memory_goes_to_the_host(void **state) {
  (void)state;
  static struct zoo z;
  struct ka_arena arena;
  struct ka_spectrum device[N], cpu[N];
  struct cudahost_counters c;
  make_zoo(&z);
  ka_arena_init(&arena, ctx, "test");
  T_OK(analyse(&arena, ka_linalg_engine_cpu(), false, z.units, N, cpu));
  host.set("memory", "280m"); /* less than the spare and one worker */
  T_OK(analyse(&arena, t_engine(ctx), false, z.units, N, device));
  for (int i = 0; i < N; i++) assert_same(&device[i], &cpu[i]);
  host.count(&c);
  assert_int_equal(c.launches, 0);
  ka_arena_deinit(&arena);
}

/* The Nth call of a kind fails, for every N until all goes well. Memory that is not there makes the
 * host compute it; all else is an error with a message; and nothing is left. */
static void every_failure_is_told_or_made_good(void **state) {
  (void)state;
  static struct zoo z;
  static const char *const kinds[] = {"fail_alloc", "fail_pinned", "fail_create",
                                      "fail_copy",  "fail_launch", "fail_solver"};
  struct ka_spectrum cpu[N], device[N], results[N];
  struct ka_arena arena;
  struct cudahost_counters c, before;
  make_zoo(&z);
  ka_arena_init(&arena, ctx, "test");
  const struct ka_unit *units = z.units; /* three of them, one for the inverse route */
  T_OK(analyse(&arena, ka_linalg_engine_cpu(), true, units, 3, cpu));
  T_OK(analyse(&arena, t_engine(ctx), true, units, 3, device));
  host.count(&before);
  for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
    int failed = 0;
    for (int n = 1, stride = 1; n < 4000; n += stride) {
      long long injected = (host.count(&c), c.injected);
      host.set(kinds[k], t_str("%d", n));
      ka_status st = analyse(&arena, t_engine(ctx), true, units, 3, results);
      host.set(kinds[k], "0");
      host.count(&c);
      bool planted = c.injected > injected;
      if (!planted && !ka_ok(st)) fail_msg("%s %d: %s", kinds[k], n, ctx->error.message);
      if (!ka_ok(st) && st.code != KA_E_DEVICE)
        fail_msg("%s %d: code %d, %s", kinds[k], n, st.code, ctx->error.message);
      if (!ka_ok(st) && !strstr(ctx->error.message, "cuda: spectra: "))
        fail_msg("%s %d: \"%s\" names nothing", kinds[k], n, ctx->error.message);
      for (int i = 0; i < 3 && ka_ok(st); i++) {
        double got = results[i].metrics[KA_METRIC_KAPPA];
        if (got != cpu[i].metrics[KA_METRIC_KAPPA] && got != device[i].metrics[KA_METRIC_KAPPA])
          fail_msg("%s %d: unit %d is another", kinds[k], n, i);
      }
      ka_error_clear(ctx);
      if (c.live_bytes != before.live_bytes || c.pinned_bytes != before.pinned_bytes)
        fail_msg("%s %d: %lld bytes are left", kinds[k], n, c.live_bytes - before.live_bytes);
      if (!planted) break;
      failed++;
      stride = n < 30 ? 1 : 37; /* the beginning one by one, then samples */
    }
    assert_true(failed > 0);
  }
  ka_arena_deinit(&arena);
}

/* cuSOLVER's three ways, each refused by name: values of small matrices, of A^T A, of R. */
static void solvers_that_do_not_converge_are_named(void **state) {
  (void)state;
  static struct zoo z;
  static float small[20 * 30];
  struct ka_arena arena;
  struct ka_spectrum r;
  make_zoo(&z);
  ka_arena_init(&arena, ctx, "test");
  for (int i = 0; i < 20 * 30; i++) small[i] = (float)ka_rng_normal(6, 0, (uint64_t)i);
  struct ka_unit unit = ka_unit_of_tensor("small", ka_tensor_2d(small, KA_F32, 20, 30));
  const struct {
    const struct ka_unit *unit;
    const char *nth, *says;
  } cases[] = {{&unit, "1", "DgesvdjBatched on a matrix of 30 x 20 did not converge (info 21)"},
               {&z.units[0], "1", "XsyevBatched on a matrix of 40 x 24 did not converge (info 25)"},
               {&z.units[16], "2", "Xgeqrf on a matrix of 40 x 24 did not converge"},
               {&z.units[16], "3", "Xgesvd on a matrix of 40 x 24 did not converge"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    host.set("fail_solver", cases[i].nth);
    T_FAILS(analyse(&arena, t_engine(ctx), true, cases[i].unit, 1, &r), KA_E_DEVICE, cases[i].says);
  }
  ka_arena_deinit(&arena);
}

/* The faster of two measured rates; for little work the host's, unmeasured. */
static void the_faster_engine_is_chosen(void **state) {
  (void)state;
  static const struct {
    double host, device, flops;
    bool takes_device;
  } cases[] = {{50e9, 30e12, 1e13, true},
               {700e9, 550e9, 1e13, false}, /* a GPU whose float64 is a 64th of its float32 */
               {50e9, 30e12, 1e9, false}};
  struct ka_linalg_engine got = t_engine(ctx);
  struct ka_dev *dev = got.dev;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    dev->f64_flops[0] = cases[i].host;
    dev->f64_flops[1] = cases[i].device;
    T_OK(ka_linalg_engine_choose(ctx, dev, cases[i].flops, &got));
    assert_true(cases[i].takes_device == !got.blas);
    assert_string_equal(ka_linalg_engine_name(&got),
                        cases[i].takes_device ? "cublas" : ka_blas_cpu()->name);
  }
  dev->f64_flops[0] = dev->f64_flops[1] = 0;
}

/* Float64 that is not float64 is refused: by what it computes, and by what the environment asks. */
static void emulated_float64_is_refused(void **state) {
  (void)state;
  struct ka_linalg_engine e = t_engine(ctx);
  struct ka_arena arena;
  static struct zoo z;
  struct ka_spectrum results[N];
  double flops = 0;
  make_zoo(&z);
  ka_arena_init(&arena, ctx, "test");
  T_OK(e.dense->rate(ctx, &e, 96, &flops));
  assert_true(flops > 0);
  setenv("CUBLAS_EMULATE_DOUBLE_PRECISION", "1", 1);
  T_FAILS(e.dense->rate(ctx, &e, 96, &flops), KA_E_DEVICE, "does not compute in float64");
  T_FAILS(analyse(&arena, e, false, z.units, 1, results), KA_E_DEVICE, "unset it");
  unsetenv("CUBLAS_EMULATE_DOUBLE_PRECISION");
  ka_arena_deinit(&arena);
}

/* A kernel that goes wrong shows at the worker's next wait and is named. Last: the device is
 * gone. */
static void a_faulting_kernel_is_reported(void **state) {
  (void)state;
  static struct zoo z;
  struct ka_arena arena;
  struct ka_spectrum results[N];
  make_zoo(&z);
  ka_arena_init(&arena, ctx, "test");
  host.set("on_fault", "sticky");
  host.set("fail_kernel", "7:IllegalAddress");
  T_FAILS(analyse(&arena, t_engine(ctx), false, z.units, 3, results), KA_E_DEVICE,
          "the newest work of this worker was");
  ka_arena_deinit(&arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(companions_change_nothing, fresh),
      cmocka_unit_test_setup(agrees_with_the_host, fresh),
      cmocka_unit_test_setup(selects_as_the_host_does, fresh),
      cmocka_unit_test_setup(short_memory_goes_to_the_host, fresh),
      cmocka_unit_test_setup(every_failure_is_told_or_made_good, fresh),
      cmocka_unit_test_setup(solvers_that_do_not_converge_are_named, fresh),
      cmocka_unit_test_setup(the_faster_engine_is_chosen, fresh),
      cmocka_unit_test_setup(emulated_float64_is_refused, fresh),
      cmocka_unit_test_setup(a_faulting_kernel_is_reported, fresh),
  };
  if (!find_host()) {
    print_message("skipped: this is about the cuda engine on its stand-in\n");
    return 0;
  }
  return cmocka_run_group_tests(tests, NULL, NULL);
}
