/* SPDX-License-Identifier: Apache-2.0
 * Devices by name and what a device says of itself, without one. */
#include "kernels/device.h"
#include "tests/support/fresh.h"

static void names_are_understood(void **state) {
  struct ka_dev dev;
  (void)state;
  T_FAILS(ka_dev_open(ctx, &dev, "cuda:1"), KA_E_USAGE, "CUDA_VISIBLE_DEVICES=1");
  T_FAILS(ka_dev_open(ctx, &dev, "cuda:0"), KA_E_USAGE, "CUDA_VISIBLE_DEVICES=0");
  T_FAILS(ka_dev_open(ctx, &dev, "cuda:many"), KA_E_USAGE, "as in cuda:80GB");
  T_FAILS(ka_dev_open(ctx, &dev, "gpu"), KA_E_DEVICE, "expected auto, cpu, cuda");
  T_OK(ka_dev_open(ctx, &dev, "cuda:80000000000"));
  assert_true(dev.imagined && dev.backend->own_memory);
  ka_dev_close(&dev);
}

static void found_is_what_opens(void **state) {
  static const char *const names[] = {"cpu", "ref", "cuda:80GB"};
  (void)state;
  for (int i = 0; i < 3; i++) {
    const struct ka_backend *found = NULL;
    struct ka_dev dev;
    T_OK(ka_dev_find(ctx, names[i], &found));
    T_OK(ka_dev_open(ctx, &dev, names[i]));
    assert_ptr_equal(found, dev.backend);
    ka_dev_close(&dev);
  }
}

/* Few lengths where each is measured and remembered, every length elsewhere. */
static void lengths_are_rounded(void **state) {
  struct ka_dev host, other;
  (void)state;
  T_OK(ka_dev_open(ctx, &host, "cpu"));
  T_OK(ka_dev_open(ctx, &other, "cuda:80GB"));
  assert_int_equal(ka_dev_round(&host, 77, 8192), 77);
  assert_int_equal(ka_dev_piece(&host, 77), 77);
  assert_int_equal(ka_dev_round(&other, 77, 0), 128);
  assert_int_equal(ka_dev_round(&other, 128, 2048), 128);
  assert_int_equal(ka_dev_round(&other, 77, 8192), 256);
  assert_int_equal(ka_dev_piece(&other, 77), 64);
  assert_int_equal(ka_dev_piece(&other, 1), 1);
  ka_dev_close(&host);
  ka_dev_close(&other);
}

static void products_have_a_rate(void **state) {
  struct ka_dev dev;
  double flops = 0;
  (void)state;
  T_OK(ka_dev_open(ctx, &dev, "cpu"));
  T_OK(ka_dev_matmul_rate(&dev, KA_F32, 64, &flops));
  assert_true(flops > 0);
  ka_dev_close(&dev);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(names_are_understood, fresh),
      cmocka_unit_test_setup(found_is_what_opens, fresh),
      cmocka_unit_test_setup(lengths_are_rounded, fresh),
      cmocka_unit_test_setup(products_have_a_rate, fresh),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
