/* SPDX-License-Identifier: Apache-2.0
 * --precision auto never changes which units are selected, and analyses fewer of them. */
#include "base/rng.h"
#include "engine/spectral/cache.h"
#include "engine/spectral/choose.h"
#include "tests/support/test.h"

#include <math.h>
#include <string.h>

static struct ka_ctx the_ctx;
enum { N = 8, ROWS = 514, COLS = 1030 };

struct world {
  float *data[N];
  struct ka_unit units[N];
  struct ka_spectrum results[N];
  struct ka_arena arena;
};

/* Gaussian matrices; the later ones with one row ever larger (a larger kappa), and twins whose
 * kappa differs by less than the coarse bound: rows 0 of twins are scaled by 1 + 1e-6. */
static void make(struct world *w) {
  struct ka_ctx *ctx = &the_ctx;
  static char names[N][16];
  ka_arena_init(&w->arena, ctx, "test");
  for (int i = 0; i < N; i++) {
    void *memory = NULL;
    T_OK(ka_arena_alloc_n(&w->arena, &memory, ROWS * COLS, sizeof(float), "matrix"));
    w->data[i] = memory;
    for (int64_t k = 0; k < ROWS * COLS; k++) {
      uint64_t twin = (uint64_t)(i / 2);
      w->data[i][k] = (float)ka_rng_normal(3, twin, (uint64_t)k);
      double scale = i % 2 ? 1 + 1e-6 : 1;
      if (k < COLS) w->data[i][k] = (float)(w->data[i][k] * scale * (i < 4 ? 1 : 4 * i));
    }
    snprintf(names[i], sizeof names[i], "layers.%d.x", (i * 7) % N);
    w->units[i] = ka_unit_of_tensor(names[i], ka_tensor_2d(w->data[i], KA_F32, ROWS, COLS));
  }
}

static const char *choose(struct world *w, const char *words, enum ka_spectral_precision precision,
                          bool everything, const char *cache, int64_t *n_computed) {
  struct ka_ctx *ctx = &the_ctx;
  struct ka_select_spec spec;
  struct ka_selection out;
  struct ka_spectral_phases phases;
  struct ka_spectral_options o = {.precision = precision, .cache = cache};
  static char text[4][512];
  static int turn;
  char *to = text[turn++ % 4];
  T_OK(ka_select_parse(ctx, &w->arena, words, &spec));
  T_OK(ka_select_units(ctx, &w->arena, &out, w->results, &spec, w->units, N, everything, &o,
                       &phases));
  to[0] = 0;
  for (int i = 0; i < N; i++)
    for (int64_t k = 0; k < out.n_units; k++)
      if (strcmp(out.units[k].name, w->units[i].name) == 0)
        snprintf(to + strlen(to), 512 - strlen(to), "%d ", i);
  *n_computed = phases.n_computed;
  return to;
}

static void test_same_choice(void **state) {
  (void)state;
  struct world w;
  int64_t n_auto, n_f64;
  make(&w);
  static const char *const words[] = {"kappa lowest 1", "kappa_mp lowest 3", "kappa lowest 30%"};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
    const char *exact = choose(&w, words[i], KA_PRECISION_F64, true, NULL, &n_f64);
    assert_string_equal(choose(&w, words[i], KA_PRECISION_AUTO, false, NULL, &n_auto), exact);
    if (i == 0) {
      assert_int_equal(n_f64, N);
      assert_true(n_auto < n_f64); /* the ones with a large row are excluded by the first pass */
    }
    for (int u = 0; u < N; u++) {
      const struct ka_spectrum *r = &w.results[u];
      struct ka_spectrum exact_result;
      struct ka_ctx *ctx = &the_ctx;
      if (i > 0 || u % 4) continue;
      struct ka_spectral_options o = {.precision = KA_PRECISION_F64};
      T_OK(ka_spectral_analyze(ctx, &w.arena, &exact_result, &w.units[u], 1, &o, NULL));
      double kappa = exact_result.metrics[KA_METRIC_KAPPA];
      assert_true(r->kappa_low <= kappa && kappa <= r->kappa_high);
      assert_true(r->kappa_low > 1);
    }
  }
  ka_arena_deinit(&w.arena);
}

static void test_cache(void **state) {
  (void)state;
  struct ka_ctx *ctx = &the_ctx;
  struct world w;
  int64_t first, second;
  make(&w);
  const char *cache = t_str("%s/deep/spectra.bin", t_temp_dir());
  const char *a = choose(&w, "kappa lowest 1", KA_PRECISION_AUTO, false, cache, &first);
  const char *b = choose(&w, "kappa lowest 1", KA_PRECISION_AUTO, false, cache, &second);
  assert_string_equal(a, b);
  assert_true(first > 0);
  assert_int_equal(second, 0);
  struct ka_spectral_options o = {.precision = KA_PRECISION_F64, .full = true, .cache = cache};
  struct ka_spectrum once, again;
  w.units[0] = ka_unit_of_tensor("small", ka_tensor_2d(w.data[0], KA_F32, 40, 30));
  T_OK(ka_spectral_analyze(ctx, &w.arena, &once, &w.units[0], 1, &o, NULL));
  T_OK(ka_spectral_analyze(ctx, &w.arena, &again, &w.units[0], 1, &o, NULL));
  assert_true(!once.cached && again.cached);
  assert_memory_equal(once.metrics, again.metrics, sizeof once.metrics);
  assert_int_equal(again.n_values, 30);
  assert_memory_equal(once.values, again.values, sizeof(double) * 30);
  w.data[0][5] += 1;
  T_OK(ka_spectral_analyze(ctx, &w.arena, &again, &w.units[0], 1, &o, NULL));
  assert_false(again.cached);
  /* a damaged cache is not used and not fatal */
  struct ka_str file = {0};
  T_OK(ka_read_file(ctx, cache, 0, &file));
  file.data[file.len / 2] ^= 1;
  T_OK(ka_write_file(ctx, cache, file.data, file.len));
  ka_str_deinit(&file);
  ctx->log_level = KA_LOG_QUIET;
  T_OK(ka_spectral_analyze(ctx, &w.arena, &again, &w.units[0], 1, &o, NULL));
  assert_false(again.cached);
  ka_arena_deinit(&w.arena);
}

int main(void) {
  ka_ctx_init(&the_ctx);
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_choice),
                                     cmocka_unit_test(test_cache)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
