/* SPDX-License-Identifier: Apache-2.0
 * Learning-rate schedules against values of transformers 5.23's get_*_schedule_with_warmup, the
 * rate each optimizer step used (10 steps, 3 of warm-up, peak 1e-3). */
#include "tests/support/test.h"

#include "engine/train/schedule.h"

#include <math.h>

static void check(int kind, double min_ratio, const double *want) {
  struct ka_schedule s = {kind, 1e-3, min_ratio, 3, 10};
  for (int i = 0; i < 10; i++) {
    double got = ka_schedule_lr(&s, i + 1);
    if (fabs(got - want[i]) > 1e-15)
      fail_msg("step %d: got %.17g, expected %.17g", i + 1, got, want[i]);
  }
}

static void as_transformers(void **state) {
  (void)state;
  static const double cosine[10] = {0.0,
                                    0.0003333333333333333,
                                    0.0006666666666666666,
                                    0.001,
                                    0.0009504844339512095,
                                    0.0008117449009293668,
                                    0.0006112604669781572,
                                    0.00038873953302184284,
                                    0.00018825509907063325,
                                    4.9515566048790485e-05};
  static const double cosine_min[10] = {0.0,
                                        0.0003333333333333333,
                                        0.0006666666666666666,
                                        0.001,
                                        0.0009554359905560886,
                                        0.0008305704108364302,
                                        0.0006501344202803415,
                                        0.0004498655797196586,
                                        0.00026942958916356994,
                                        0.00014456400944391147};
  static const double linear[10] = {0.0,
                                    0.0003333333333333333,
                                    0.0006666666666666666,
                                    0.001,
                                    0.0008571428571428571,
                                    0.0007142857142857143,
                                    0.0005714285714285714,
                                    0.00042857142857142855,
                                    0.0002857142857142857,
                                    0.00014285714285714284};
  static const double constant[10] = {
      0.0,  0.0003333333333333333, 0.0006666666666666666, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001,
      0.001};
  check(KA_SCHEDULE_COSINE, 0, cosine);
  check(KA_SCHEDULE_COSINE, 0.1, cosine_min);
  check(KA_SCHEDULE_LINEAR, 0, linear);
  check(KA_SCHEDULE_CONSTANT, 0, constant);
}

static void without_warmup_starts_at_the_peak(void **state) {
  (void)state;
  struct ka_schedule s = {KA_SCHEDULE_LINEAR, 2, 0, 0, 4};
  assert_true(ka_schedule_lr(&s, 1) == 2);
  assert_true(ka_schedule_lr(&s, 4) == 0.5);
  assert_true(ka_schedule_lr(&s, 9) == 0); /* past the end it stays at the floor */
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(as_transformers),
                                     cmocka_unit_test(without_warmup_starts_at_the_peak)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
