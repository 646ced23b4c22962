/* SPDX-License-Identifier: Apache-2.0
 * Real files with known spectra: every expectation met, every true value inside its bound. */
#include "base/json.h"
#include "engine/spectral/units.h"
#include "tests/spectral/engine.h"

#include <math.h>
#include <string.h>

static struct ka_ctx the_ctx;

struct loaded {
  struct ka_arena arena;
  struct ka_safetensors files;
  struct ka_unit *units;
  struct ka_spectrum *results;
  int64_t n;
  json_t *expected;
};

static void load(struct loaded *l, const char *weights, const char *expected, bool full) {
  struct ka_ctx *ctx = &the_ctx;
  ka_arena_init(&l->arena, ctx, "test");
  T_OK(ka_st_open(ctx, &l->files, weights));
  T_OK(ka_json_load(ctx, expected, &l->expected));
  T_OK(ka_units_of_file(ctx, &l->arena, &l->files, NULL, KA_UNIT_TENSOR, false, &l->units, &l->n));
  void *memory = NULL;
  T_OK(ka_arena_alloc_n(&l->arena, &memory, l->n, sizeof *l->results, "results"));
  l->results = memory;
  struct ka_spectral_options o = {
      .engine = t_engine(ctx), .full = full, .precision = KA_PRECISION_F64};
  T_OK(ka_spectral_analyze(ctx, &l->arena, l->results, l->units, l->n, &o, NULL));
}

static void drop(struct loaded *l) {
  json_decref(l->expected);
  ka_st_close(&l->files);
  ka_arena_deinit(&l->arena);
}

static void near_value(const char *name, const char *key, double got, double want, double rtol) {
  if (fabs(got - want) <= rtol * fmax(fabs(want), 1e-12)) return;
  fail_msg("%s: %s: got %.17g, expected %.17g", name, key, got, want);
}

/* The bounds that this room promises up to 512 rows (docs/spectra.md). */
static double promised(double kappa, int64_t n, double stable_rank) {
  if (kappa <= 1e4) return 1e-8;
  if (kappa <= 1e6) return 1e-5;
  return 8 * (double)n * 0x1p-53 * kappa * sqrt(stable_rank);
}

static double want_of(const json_t *e, const char *key) {
  return json_number_value(json_object_get(e, key));
}

static void check_finite(const struct ka_spectrum *r, const json_t *e, bool full) {
  const char *name = r->unit->name;
  double kappa = want_of(e, "kappa"), got = r->metrics[KA_METRIC_KAPPA];
  int64_t rows = r->unit->view.shape[0], cols = r->unit->view.shape[1];
  assert_null(r->error);
  assert_false(r->singular);
  /* the expected values are themselves rounded: 4e-16, and theirs of sigma_min at u kappa */
  if (fabs(got - kappa) > r->kappa_rel_bound * got + 1e-15 * kappa)
    fail_msg("%s: kappa %.17g, true %.17g, outside the bound %g", name, got, kappa,
             r->kappa_rel_bound);
  double limit = promised(kappa, rows > cols ? rows : cols, r->metrics[KA_METRIC_STABLE_RANK]);
  if (r->kappa_rel_bound > limit)
    fail_msg("%s: bound %g, promised %g", name, r->kappa_rel_bound, limit);
  assert_true(r->kappa_low <= kappa * (1 + 1e-15) && kappa <= r->kappa_high * (1 + 1e-15));
  near_value(name, "sigma_max", r->metrics[KA_METRIC_SIGMA_MAX], want_of(e, "sigma_max"), 1e-8);
  near_value(name, "sigma_min", r->metrics[KA_METRIC_SIGMA_MIN], want_of(e, "sigma_min"),
             r->sigma_min_rel_bound + 1e-14);
  near_value(name, "frobenius", r->metrics[KA_METRIC_FROBENIUS], want_of(e, "frobenius"), 1e-12);
  near_value(name, "stable_rank", r->metrics[KA_METRIC_STABLE_RANK], want_of(e, "stable_rank"),
             1e-8);
  if (fabs(r->metrics[KA_METRIC_LOG_VOLUME] - want_of(e, "log_volume")) >
      1e-9 * fmax(1, fabs(want_of(e, "log_volume"))))
    near_value(name, "log_volume", r->metrics[KA_METRIC_LOG_VOLUME], want_of(e, "log_volume"),
               1e-9);
  if (!full) return;
  near_value(name, "effective_rank", r->metrics[KA_METRIC_EFFECTIVE_RANK],
             want_of(e, "effective_rank"), 1e-8);
  near_value(name, "effective_rank_energy", r->metrics[KA_METRIC_EFFECTIVE_RANK_ENERGY],
             want_of(e, "effective_rank_energy"), 1e-8);
  const json_t *s = json_object_get(e, "singular_values");
  for (size_t i = 0; i < json_array_size(s); i++)
    near_value(name, "a singular value", r->values[i], json_number_value(json_array_get(s, i)),
               1e-8);
}

static int check_all(struct loaded *l, bool full) {
  int found = 0;
  for (int64_t i = 0; i < l->n; i++) {
    const struct ka_spectrum *r = &l->results[i];
    const json_t *e = json_object_get(l->expected, r->unit->name), *kappa;
    if (!e) continue;
    found++;
    kappa = json_object_get(e, "kappa");
    if (json_is_number(kappa)) {
      check_finite(r, e, full);
    } else if (strncmp(json_string_value(kappa), "an error", 8) == 0) {
      assert_non_null(r->error);
      assert_true(r->bad_index >= 0);
    } else {
      assert_null(r->error);
      assert_true(r->singular);
      assert_true(isnan(r->metrics[KA_METRIC_KAPPA]));
    }
  }
  return found;
}

static void test_hard(void **state) {
  (void)state;
  T_DATA(data);
  for (int full = 0; full < 2; full++) {
    struct loaded l = {0};
    load(&l, t_str("%s/spectral/hard.safetensors", data), t_str("%s/spectral/hard.json", data),
         full);
    assert_int_equal(check_all(&l, full), (int)json_object_size(l.expected));
    drop(&l);
  }
}

static void test_models(void **state) {
  (void)state;
  T_DATA(data);
  static const char *const models[] = {"golden/deepseek-v2", "golden/gpt2", "golden/llama",
                                       "golden/olmoe", "weights/stories260K-hf"};
  for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
    struct loaded l = {0};
    load(&l, t_str("%s/%s", data, models[i]), t_str("%s/%s/spectrum.json", data, models[i]), true);
    assert_true(check_all(&l, true) > 5);
    drop(&l);
  }
}

int main(void) {
  ka_ctx_init(&the_ctx);
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_hard), cmocka_unit_test(test_models)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
