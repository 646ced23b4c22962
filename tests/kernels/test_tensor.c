/* SPDX-License-Identifier: Apache-2.0
 * kernels/tensor.h: numbers of 16 bits. */
#include "kernels/tensor.h"
#include "tests/support/test.h"

#include <math.h>

static void every_f16_comes_back(void **state) {
  (void)state;
  for (uint32_t h = 0; h < 0x10000; h++) {
    float f = ka_f16_to_f32((uint16_t)h);
    uint16_t back = ka_f32_to_f16(f);
    if (isnan(f) ? !isnan(ka_f16_to_f32(back)) : back != h)
      fail_msg("0x%04x is %g, which becomes 0x%04x", h, (double)f, back);
  }
}

static void f16_rounds_to_the_nearest_even(void **state) {
  (void)state;
  assert_int_equal(ka_f32_to_f16(1.0f + 0x1p-11f), 0x3c00);
  assert_int_equal(ka_f32_to_f16(1.0f + 0x3p-11f), 0x3c02);
  assert_int_equal(ka_f32_to_f16(0x1p-25f), 0);
  assert_int_equal(ka_f32_to_f16(0x3p-26f), 1);
  assert_int_equal(ka_f32_to_f16(-0x1p-40f), 0x8000);
  assert_int_equal(ka_f32_to_f16(65519.0f), 0x7bff);
  assert_int_equal(ka_f32_to_f16(65520.0f), 0x7c00);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_f16_comes_back),
      cmocka_unit_test(f16_rounds_to_the_nearest_even),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
