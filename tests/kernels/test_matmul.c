/* SPDX-License-Identifier: Apache-2.0
 * Matrix products of every back end against ref, on small integers: exact in every dtype. */
#include "kernels/op_cases.h"
#include "tests/support/test.h"

static void small_integers(struct ka_tensor *t, int seed) {
  for (int64_t i = 0; i < t->shape[0] * t->row_stride; i++)
    ka_data_store(t->data, t->dtype, i, (double)((i * 7 + seed) % 5 - 2));
}

static struct ka_tensor make(struct ka_arena *a, enum ka_dtype t, int64_t rows, int64_t cols,
                             int64_t stride, int seed) {
  struct ka_ctx *ctx = a->ctx;
  struct ka_tensor all;
  T_OK(ka_tensor_alloc(a, &all, "t", t, 2, (int64_t[]){rows, stride}));
  small_integers(&all, seed);
  return ka_tensor_slice(all, 0, rows, 0, cols);
}

static void one(struct ka_dev *dev, struct ka_dev *ref, enum ka_dtype t, int bits, int64_t m,
                int64_t n, int64_t k) {
  struct ka_ctx *ctx = dev->ctx;
  struct ka_arena a;
  ka_arena_init(&a, ctx, "test");
  bool ta = bits & 1, tb = bits & 2, acc = bits & 4, wide = bits & 8, packed = bits & 16;
  int64_t pad = bits & 32 ? 3 : 0;
  enum ka_dtype to = wide ? KA_F32 : t;
  struct ka_matmul_args args = {.trans_a = ta, .trans_b = tb, .accumulate = acc};
  args.a = make(&a, t, ta ? k : m, ta ? m : k, (ta ? m : k) + pad, 1);
  args.b = make(&a, t, tb ? n : k, tb ? k : n, (tb ? k : n) + pad, 2);
  if (!acc) args.bias = ka_tensor_1d(make(&a, t, 1, n, n, 3).data, t, n);
  struct ka_matmul_args want = args;
  args.out = make(&a, to, m, n, n + pad, 4);
  want.out = make(&a, to, m, n, n + pad, 4);
  if (packed) {
    struct ka_pack_args p = {.b = args.b, .trans_b = tb, .m = m};
    int64_t n_bytes = (int64_t)ka_pack_bytes(dev, &p);
    T_OK(ka_tensor_alloc(&a, &p.packed, "packed", KA_U8, 1, &n_bytes));
    T_OK(ka_pack(dev, &p));
    if (n_bytes) args.packed_b = p.packed;
  }
  struct ka_op_call call = {.op = KA_OP_matmul, .args.matmul = args};
  struct ka_op_mirror mirror;
  T_OK(ka_op_mirror_open(dev, &mirror, &call, (struct ka_op_layout){0}, false));
  T_OK(ka_matmul(dev, &mirror.call.args.matmul));
  T_OK(ka_op_mirror_fetch(&mirror));
  ka_op_mirror_close(&mirror);
  T_OK(ka_matmul(ref, &want));
  assert_memory_equal(args.out.data, want.out.data, (size_t)(m * (n + pad)) * ka_dtype_bytes(to));
  ka_arena_deinit(&a);
}

static void test_matmul(void **state) {
  (void)state;
  struct ka_ctx context, *ctx = &context;
  ka_ctx_init(ctx);
  struct ka_dev dev, ref;
  T_OK(ka_dev_open(ctx, &dev, t_device()));
  T_OK(ka_dev_open(ctx, &ref, "ref"));
  static const enum ka_dtype types[] = {KA_F32, KA_BF16, KA_F64};
  for (int t = 0; t < 3; t++)
    for (int bits = 0; bits < 64; bits++) {
      if (types[t] == KA_F64 && (bits & 8 || dev.backend->own_memory)) continue;
      one(&dev, &ref, types[t], bits, 7, 33, 17);
      one(&dev, &ref, types[t], bits, 1, 64, 32);
      one(&dev, &ref, types[t], bits, 0, 5, 3);
      one(&dev, &ref, types[t], bits, 3, 5, 0);
    }
  ka_dev_close(&dev);
  ka_dev_close(&ref);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_matmul)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
