/* SPDX-License-Identifier: Apache-2.0
 * The wrappers refuse what the contracts forbid, with the operand's name; the device by name; the
 * profiler; the names of the table. */
#include "kernels/op_cases.h"
#include "tests/support/test.h"

#include <string.h>

static void test_wrong_arguments(void **state) {
  (void)state;
  struct ka_ctx context, *ctx = &context;
  ka_ctx_init(ctx);
  struct ka_dev dev;
  T_OK(ka_dev_open(ctx, &dev, "cpu"));
  float x[64] = {0}, y[64] = {0};
  uint16_t h[64] = {0};
  struct ka_tensor a = ka_tensor_2d(x, KA_F32, 4, 8), out = ka_tensor_2d(y, KA_F32, 4, 8);
  struct ka_tensor other = ka_tensor_2d(x, KA_F32, 8, 4), half = ka_tensor_2d(h, KA_BF16, 4, 8);
  struct ka_tensor null = ka_tensor_2d(NULL, KA_F32, 4, 8),
                   shifted = ka_tensor_2d(x + 8, KA_F32, 4, 8);
  struct ka_tensor wide = ka_tensor_slice(ka_tensor_2d(x, KA_F32, 4, 16), 0, 4, 0, 8);
#define ADD(o, p, q) ka_add(&dev, &(struct ka_add_args){.out = o, .a = p, .b = q})
  T_OK(ADD(out, a, a));
  T_OK(ADD(a, a, a));
  T_FAILS(ADD(out, a, other), KA_E_INTERNAL, "add: b has another shape");
  T_FAILS(ADD(out, a, half), KA_E_INTERNAL, "add: b has dtype BF16");
  T_FAILS(ADD(out, null, a), KA_E_INTERNAL, "add: a is NULL");
  T_FAILS(ADD(out, wide, a), KA_E_INTERNAL, "add: a must be contiguous");
  T_FAILS(ADD(shifted, a, a), KA_E_INTERNAL, "add: out may not share memory with a");
  struct ka_tensor left = ka_tensor_slice(ka_tensor_2d(x, KA_F32, 4, 16), 0, 4, 8, 8);
  T_OK(ka_copy(&dev, &(struct ka_copy_args){.out = left, .in = wide})); /* two column slices */
  T_FAILS(
      ka_matmul(&dev,
                &(struct ka_matmul_args){.out = out, .a = a, .b = ka_tensor_2d(h, KA_F32, 4, 8)}),
      KA_E_INTERNAL, "matmul: [4,8] = [4,8] x [4,8]");
  T_FAILS(
      ka_rmsnorm_fwd(
          &dev, &(struct ka_rmsnorm_fwd_args){.y = out, .x = a, .w = ka_tensor_1d(h, KA_F32, 7)}),
      KA_E_INTERNAL, "rmsnorm_fwd: w [C] has C = 7, expected 8");
  ka_dev_close(&dev);
}

/* A slot that a back end forgot answers, by the op's name and the back end's. */
static void test_empty_slot(void **state) {
  (void)state;
  struct ka_ctx context, *ctx = &context;
  ka_ctx_init(ctx);
  struct ka_backend lacks = ka_backend_ref;
  struct ka_dev dev;
  float x[8] = {0};
  lacks.name = "planted";
  lacks.ops.scale = NULL;
  T_OK(ka_dev_open(ctx, &dev, "ref"));
  dev.backend = &lacks;
  struct ka_scale_args args = {.x = ka_tensor_1d(x, KA_F32, 8), .value = 2};
  T_FAILS(ka_scale(&dev, &args), KA_E_UNSUPPORTED, "scale: the back end planted does not have it");
  dev.backend = &ka_backend_ref;
  T_OK(ka_scale(&dev, &args));
  ka_dev_close(&dev);
}

static void test_devices(void **state) {
  (void)state;
  struct ka_ctx context, *ctx = &context;
  ka_ctx_init(ctx);
  struct ka_dev dev;
  T_OK(ka_dev_open(ctx, &dev, "auto"));
  assert_string_equal(dev.backend->name, "cpu");
  assert_true(ka_op_overridden(dev.backend, KA_OP_matmul));
  assert_false(ka_op_overridden(&ka_backend_ref, KA_OP_matmul));
  ka_dev_close(&dev);
  T_FAILS(ka_dev_open(ctx, &dev, "tpu"), KA_E_DEVICE, "tpu");
  ctx->fail_alloc_at = 1;
  T_FAILS(ka_dev_open(ctx, &dev, "cpu"), KA_E_MEMORY, "cpu device");
}

static void test_profile(void **state) {
  (void)state;
  struct ka_ctx context, *ctx = &context;
  ka_ctx_init(ctx);
  struct ka_dev dev;
  struct ka_profile_row rows[KA_N_OPS] = {0};
  T_OK(ka_dev_open(ctx, &dev, "ref"));
  dev.profile = rows;
  float x[6] = {1, 2, 3, 4, 5, 6}, w[6] = {0}, y[4];
  struct ka_matmul_args args = {.out = ka_tensor_2d(y, KA_F32, 2, 2),
                                .a = ka_tensor_2d(x, KA_F32, 2, 3),
                                .b = ka_tensor_2d(w, KA_F32, 3, 2)};
  T_OK(ka_matmul(&dev, &args));
  T_OK(ka_matmul(&dev, &args));
  assert_int_equal(rows[KA_OP_matmul].calls, 2);
  assert_true(rows[KA_OP_matmul].flops == 2 * 2 * 2 * 2 * 3);
  assert_true(rows[KA_OP_matmul].bytes == 2 * 4 * (6 + 6 + 4));
  assert_int_equal(rows[KA_OP_add].calls, 0);
  ka_dev_close(&dev);
}

/* One row of the table a field: an operand that the table forgets would go unchecked. Scalars take
 * less than a tensor, but for adamw, which has ten of 8 bytes. */
static void test_table_covers_the_args(void **state) {
  (void)state;
#define KA_OP(name, ...) {#name, sizeof(struct ka_##name##_args)},
  static const struct {
    const char *name;
    size_t bytes;
  } ops[] = {
#include "kernels/ops.def"
  };
#undef KA_OP
  for (int op = 0; op < KA_N_OPS; op++) {
    size_t tensors = 0;
    for (int i = 0; ka_op_operands(op)[i].name; i++) tensors += sizeof(struct ka_tensor);
    assert_string_equal(ops[op].name, ka_op_name((enum ka_op)op));
    assert_true(tensors > 0);
    size_t scalars = op == KA_OP_adamw ? 10 * 8 : sizeof(struct ka_tensor) - 1;
    if (ops[op].bytes - tensors > scalars) fail_msg("%s", ops[op].name);
  }
}

static void test_commands(void **state) {
  (void)state;
  struct ka_str out = {0}, err = {0};
  assert_int_equal(t_kappa(&out, NULL, "doctor --json -"), 0);
  assert_non_null(strstr(out.data, "\"matmul\": {"));
  ka_str_deinit(&out);
  assert_int_equal(t_kappa(NULL, &err, "bench opps"), 2);
  assert_non_null(strstr(err.data, "did you mean ops"));
  ka_str_deinit(&err);
  assert_int_equal(t_kappa(NULL, &err, "bench ops --op matmull"), 2);
  assert_non_null(strstr(err.data, "did you mean matmul"));
  ka_str_deinit(&err);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_wrong_arguments),
      cmocka_unit_test(test_empty_slot),
      cmocka_unit_test(test_devices),
      cmocka_unit_test(test_profile),
      cmocka_unit_test(test_table_covers_the_args),
      cmocka_unit_test(test_commands),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
