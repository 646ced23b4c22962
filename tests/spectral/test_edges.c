/* SPDX-License-Identifier: Apache-2.0
 * Values at the edges: a single row, and the smallest value of singular matrices. */
#include "base/rng.h"
#include "engine/spectral/spectral_json.h"
#include "tests/support/test.h"

#include <math.h>
#include <string.h>

static struct ka_ctx the_ctx;

static struct ka_spectrum analyse(struct ka_arena *arena, struct ka_unit *unit, bool full) {
  struct ka_ctx *ctx = &the_ctx;
  struct ka_spectrum r;
  struct ka_spectral_options o = {.precision = KA_PRECISION_F64, .full = full};
  T_OK(ka_spectral_analyze(ctx, arena, &r, unit, 1, &o, NULL));
  return r;
}

/* kappa is 1; a random row of n has (sqrt n + 1) / sqrt n by the formula that all shapes share. */
static void test_line(void **state) {
  (void)state;
  struct ka_arena arena;
  static double row[37] = {3, 1, 4, 1, 5};
  ka_arena_init(&arena, &the_ctx, "test");
  struct ka_unit unit = ka_unit_of_tensor("w", ka_tensor_2d(row, KA_F64, 1, 37));
  struct ka_spectrum r = analyse(&arena, &unit, false);
  double want = sqrt(37) / (sqrt(37) + 1);
  assert_true(fabs(r.metrics[KA_METRIC_KAPPA_MP] - want) < 1e-15);
  unit = ka_unit_of_tensor("w", ka_tensor_2d(row, KA_F64, 1, 1));
  assert_true(fabs(analyse(&arena, &unit, false).metrics[KA_METRIC_KAPPA_MP] - 0.5) < 1e-15);
  ka_arena_deinit(&arena);
}

enum { M = 24 };

/* H diag(1, ..., 1, tiny) with H = I - 2 v v^T / v^T v: its last value is known. */
static void test_singular(void **state) {
  (void)state;
  struct ka_arena arena;
  static double a[M * M];
  static const double tiny[] = {1e-9, 1e-10, 3e-12};
  double v[M], vv = 0;
  ka_arena_init(&arena, &the_ctx, "test");
  for (int i = 0; i < M; i++) {
    v[i] = ka_rng_normal(3, 7, (uint64_t)i);
    vv += v[i] * v[i];
  }
  for (size_t t = 0; t < sizeof tiny / sizeof *tiny; t++) {
    for (int i = 0; i < M; i++)
      for (int j = 0; j < M; j++)
        a[i * M + j] = ((i == j) - 2 * v[i] * v[j] / vv) * (j == M - 1 ? tiny[t] : 1);
    struct ka_unit unit = ka_unit_of_tensor("w", ka_tensor_2d(a, KA_F64, M, M));
    struct ka_spectrum r = analyse(&arena, &unit, true);
    assert_true(r.singular);
    double last = r.values[M - 1], err = fabs(last - tiny[t]);
    assert_true(last == r.metrics[KA_METRIC_SIGMA_MIN]);
    if (!(err <= r.sigma_min_rel_bound * last && err < 1e-2 * tiny[t]))
      fail_msg("%g: got %.17g, bound %g", tiny[t], last, r.sigma_min_rel_bound);
    /* Without all values the smallest is bounded, and the JSON says that it is no more. */
    r = analyse(&arena, &unit, false);
    json_t *o = ka_spectrum_json(&r);
    assert_true(json_is_null(json_object_get(o, "sigma_min")));
    assert_true(json_number_value(json_object_get(o, "sigma_min_high")) >= tiny[t] * (1 - 1e-2));
    json_decref(o);
  }
  ka_arena_deinit(&arena);
}

int main(void) {
  ka_ctx_init(&the_ctx);
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_line), cmocka_unit_test(test_singular)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
