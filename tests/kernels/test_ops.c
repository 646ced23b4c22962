/* SPDX-License-Identifier: Apache-2.0
 * Every case of op_cases.def, every back end against ref: values within the op's tolerance class,
 * guard bands, inputs untouched, the same bits for repeats and thread counts, NaN and infinity
 * where ref has them. */
#include "kernels/op_cases.h"
#include "tests/support/test.h"

#include <math.h>
#include <omp.h>
#include <string.h>

static const enum ka_dtype dtypes[] = {KA_F32, KA_BF16, KA_F64};
enum { N_DTYPES = 3, GUARD = 256 };

struct run {
  struct ka_arena arena;
  struct ka_op_call call;
};

static void start(struct run *r, struct ka_dev *dev, const struct ka_op_case *c, enum ka_dtype x,
                  int64_t offset) {
  struct ka_ctx *ctx = dev->ctx;
  ka_arena_init(&r->arena, ctx, "run");
  T_OK(ka_op_call_make(dev, &r->arena, c, x, 1, (struct ka_op_layout){offset, GUARD}, &r->call));
}

/* Runs the call where the device reads its operands, and brings the results back. */
static void run(struct run *r, struct ka_dev *dev, int64_t offset) {
  struct ka_ctx *ctx = dev->ctx;
  struct ka_op_mirror mirror;
  T_OK(ka_op_mirror_open(dev, &mirror, &r->call, (struct ka_op_layout){offset, GUARD}, false));
  T_OK(ka_op_call_run(dev, &mirror.call));
  T_OK(ka_op_mirror_fetch(&mirror));
  ka_op_mirror_close(&mirror);
}

static int64_t width_of(const struct ka_tensor *t) { return t->n_dim ? t->shape[t->n_dim - 1] : 1; }

/* Index in memory of element i. */
static int64_t place_of(const struct ka_tensor *t, int64_t i) {
  return t->n_dim >= 2 ? i / width_of(t) * t->row_stride + i % width_of(t) : i;
}

static double value(const struct ka_tensor *t, int64_t i) {
  return ka_load(t->data, t->dtype, place_of(t, i));
}

static double eps_of(enum ka_dtype t) {
  return t == KA_BF16 ? 0x1p-8 : t == KA_F16 ? 0x1p-11 : t == KA_F64 ? 0x1p-53 : 0x1p-24;
}

/* An embedding times a factor that is no power of two. */
static bool scaled(const struct ka_op_case *c) {
  return c->op == KA_OP_embed_fwd && ((const struct ka_embed_fwd_args *)c->scalars)->scale != 1;
}

/* How far element values may be from ref's: relative to the element, and to the largest element.
 * Moves are exact. A rounding each for maps. Sums of K terms err like sqrt(K) roundings of the
 * type that the terms are held in (attention holds its weights in x between its two products). An
 * epilogue may see the product rounded to x. */
static void tolerance(const struct ka_op_case *c, enum ka_dtype x, enum ka_dtype out,
                      double *relative, double *absolute) {
  enum ka_op_class class = ka_op_class_of(c->op);
  bool attention = c->op == KA_OP_attn_fwd || c->op == KA_OP_attn_bwd;
  double work = out == KA_F64 ? 0x1p-53 : 0x1p-24, k = 1;
  *relative = *absolute = 0;
  if (class == KA_CLASS_MOVE && !scaled(c)) return;
  for (const char *p = "KCVMTSDvN"; *p; p++) {
    int64_t size = ka_op_case_size(c->sizes, *p);
    bool every = c->op == KA_OP_sumsq && size > 0;
    k = every ? k * (double)size : fmax(k, (double)size);
  }
  *relative = 2.5 * eps_of(out);
  if (class == KA_CLASS_MAP) *absolute = 8 * work;
  if (class == KA_CLASS_REDUCE || class == KA_CLASS_GEMM) *absolute = 4 * work * sqrt(k);
  if (attention) *absolute = (x == KA_BF16 ? 4 : 8) * eps_of(x) * sqrt(x == KA_BF16 ? 1 : k);
  if (c->op == KA_OP_matmul && strstr(c->text, "EPILOGUE_GELU")) *absolute += eps_of(x);
  if (strstr(c->text, "round_before"))
    *relative += 2 * eps_of(x); /* x_hat may round the other way */
}

static void compare(const struct ka_op_case *c, enum ka_dtype x, const char *name,
                    const struct ka_tensor *got, const struct ka_tensor *want) {
  char text[128];
  int64_t n = ka_tensor_elems(want);
  double relative, absolute, largest = 0;
  tolerance(c, x, want->dtype, &relative, &absolute);
  for (int64_t i = 0; i < n; i++)
    if (isfinite(value(want, i))) largest = fmax(largest, fabs(value(want, i)));
  for (int64_t i = 0; i < n; i++) {
    double g = value(got, i), w = value(want, i);
    if (g == w || (isnan(g) && isnan(w))) continue;
    if (fabs(g - w) <= relative * fabs(w) + absolute * largest) continue;
    fail_msg("%s %s %s: %s[%lld] is %.9g, expected %.9g, largest %.3g, error %.3g",
             ka_op_name(c->op), ka_op_case_text(c, text), ka_dtype_name(x), name, (long long)i, g,
             w, largest, fabs(g - w));
  }
}

/* 0xA5 before, after and between the rows. */
static void check_guards(const struct ka_op_case *c, const char *name, const struct ka_tensor *t) {
  const unsigned char *data = t->data;
  int64_t size = (int64_t)ka_dtype_bytes(t->dtype), n = ka_tensor_elems(t), width = width_of(t);
  if (t->dtype == KA_U8 || !data) return;
  int64_t rows = t->n_dim >= 2 && width ? n / width : 1, pitch = t->row_stride * size;
  int64_t used = t->n_dim >= 2 ? width * size : n * size, end = t->n_dim >= 2 ? rows * pitch : used;
  bool good = true;
  for (int64_t i = 1; i <= GUARD; i++) good &= data[-i] == 0xA5;
  for (int64_t i = 0; i < GUARD && n; i++) good &= data[end + i] == 0xA5;
  for (int64_t r = 0; r < rows && n; r++)
    for (int64_t i = used; i < pitch && t->n_dim >= 2; i++) good &= data[r * pitch + i] == 0xA5;
  if (!good) fail_msg("%s %s: wrote outside %s", ka_op_name(c->op), c->sizes, name);
}

static bool same_bits(const struct ka_tensor *a, const struct ka_tensor *b) {
  size_t size = ka_dtype_bytes(a->dtype);
  for (int64_t i = 0; i < ka_tensor_elems(a); i++) {
    const char *pa = (const char *)a->data + (size_t)place_of(a, i) * size;
    const char *pb = (const char *)b->data + (size_t)place_of(b, i) * size;
    if (memcmp(pa, pb, size) != 0) return false;
  }
  return true;
}

/* Is operand i written, itself or through an output that shares its memory? */
static bool written(struct ka_op_call *call, int i) {
  const struct ka_operand *list = ka_op_operands(call->op);
  for (int j = 0; list[j].name; j++)
    if (list[j].flags & KA_WRITE &&
        ka_op_call_operand(call, j)->data == ka_op_call_operand(call, i)->data)
      return true;
  return false;
}

static void one_case(struct ka_dev *dev, struct ka_dev *ref, const struct ka_op_case *c,
                     enum ka_dtype x) {
  static const struct {
    int threads;
    int64_t offset;
  } variants[] = {{2, 0}, {2, 0}, {1, 0}, {3, 0}, {2, 1}};
  const struct ka_operand *list = ka_op_operands(c->op);
  struct run want, first = {0}, before;
  start(&want, ref, c, x, 0);
  start(&before, dev, c, x, 0);
  run(&want, ref, 0);
  for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
    struct run got;
    omp_set_num_threads(variants[v].threads);
    start(&got, dev, c, x, variants[v].offset);
    run(&got, dev, variants[v].offset);
    for (int i = 0; list[i].name; i++) {
      struct ka_tensor *t = ka_op_call_operand(&got.call, i);
      if (!t->data) continue;
      check_guards(c, list[i].name, t);
      if (t->dtype == KA_U8) continue;
      if (!written(&got.call, i)) {
        if (!same_bits(t, ka_op_call_operand(&before.call, i)))
          fail_msg("%s %s: changed its input %s", ka_op_name(c->op), c->sizes, list[i].name);
        continue;
      }
      compare(c, x, list[i].name, t, ka_op_call_operand(&want.call, i));
      if (v > 0 && variants[v].offset == 0 && !same_bits(t, ka_op_call_operand(&first.call, i)))
        fail_msg("%s %s %s: %s has other bits with %d threads", ka_op_name(c->op), c->sizes,
                 ka_dtype_name(x), list[i].name, variants[v].threads);
    }
    if (v == 0)
      first = got;
    else
      ka_arena_deinit(&got.arena);
  }
  omp_set_num_threads(2);
  ka_arena_deinit(&first.arena);
  ka_arena_deinit(&before.arena);
  ka_arena_deinit(&want.arena);
}

/* One NaN or infinity in one input: outputs are NaN or infinite exactly where ref's are. */
static void one_poison(struct ka_dev *dev, struct ka_dev *ref, const struct ka_op_case *c,
                       enum ka_dtype x, int operand, double poison) {
  const struct ka_operand *list = ka_op_operands(c->op);
  struct run got, want;
  struct run *runs[] = {&got, &want};
  struct ka_dev *devs[] = {dev, ref};
  for (int i = 0; i < 2; i++) {
    start(runs[i], devs[i], c, x, 0);
    struct ka_tensor *t = ka_op_call_operand(&runs[i]->call, operand);
    if (t->data && ka_tensor_elems(t) > 0)
      ka_data_store(t->data, t->dtype, place_of(t, ka_tensor_elems(t) / 2), poison);
    run(runs[i], devs[i], 0);
  }
  for (int i = 0; list[i].name; i++) {
    struct ka_tensor *t = ka_op_call_operand(&got.call, i);
    if (!t->data || t->dtype == KA_U8 || t->dtype == KA_I32) continue;
    for (int64_t j = 0; j < ka_tensor_elems(t); j++) {
      double g = value(t, j), w = value(ka_op_call_operand(&want.call, i), j);
      if (isnan(g) == isnan(w) && isinf(g) == isinf(w)) continue;
      fail_msg("%s %s %s: with %g in %s, %s[%lld] is %g, expected %g", ka_op_name(c->op), c->sizes,
               ka_dtype_name(x), poison, list[operand].name, list[i].name, (long long)j, g, w);
    }
  }
  ka_arena_deinit(&got.arena);
  ka_arena_deinit(&want.arena);
}

static bool has(const struct ka_backend *backend, enum ka_op op) {
  const bool slots[] = {
#define KA_OP(name, ...) backend->ops.name != NULL,
#include "kernels/ops.def"
#undef KA_OP
  };
  return slots[op];
}

/* f64 is for gradient checks, which ref does; an empty slot answers by itself. */
static bool served(const struct ka_dev *dev, enum ka_op op, enum ka_dtype x) {
  return (x != KA_F64 || !dev->backend->own_memory) && has(dev->backend, op);
}

static void each_case(void (*visit)(struct ka_dev *, struct ka_dev *, const struct ka_op_case *,
                                    enum ka_dtype)) {
  struct ka_ctx context, *ctx = &context;
  ka_ctx_init(ctx);
  struct ka_dev dev, ref;
  T_OK(ka_dev_open(ctx, &dev, t_device()));
  T_OK(ka_dev_open(ctx, &ref, "ref"));
  for (int i = 0; i < ka_n_op_cases; i++)
    for (int d = 0; d < N_DTYPES; d++)
      if (!(ka_op_cases[i].flags & KA_CASE_PERF) && served(&dev, ka_op_cases[i].op, dtypes[d]))
        visit(&dev, &ref, &ka_op_cases[i], dtypes[d]);
  ka_dev_close(&dev);
  ka_dev_close(&ref);
}

static void test_against_ref(void **state) {
  (void)state;
  each_case(one_case);
}

static void poison_case(struct ka_dev *dev, struct ka_dev *ref, const struct ka_op_case *c,
                        enum ka_dtype x) {
  const struct ka_operand *list = ka_op_operands(c->op);
  bool has_own = x != KA_F64 && c->op != KA_OP_pack && !(c->flags & KA_CASE_PACK);
  has_own &= ka_op_case_size(c->sizes, 'T') < 100; /* ref's attention takes its time */
  for (int i = 0; list[i].name && has_own; i++)
    if (list[i].flags & KA_READ && list[i].type != KA_TYPE_I32 && list[i].type != KA_TYPE_U8) {
      one_poison(dev, ref, c, x, i, NAN);
      one_poison(dev, ref, c, x, i, INFINITY);
      one_poison(dev, ref, c, x, i, -INFINITY);
    }
}

static void test_poison(void **state) {
  (void)state;
  each_case(poison_case);
}

static void *scalar(struct ka_dev *dev) {
  struct ka_ctx *ctx = dev->ctx;
  void *p;
  if (dev->backend->own_memory)
    T_OK(dev->backend->alloc(dev, KA_PLACE_DEVICE, &p, sizeof(double), "scalar"));
  else
    T_OK(ka_alloc(ctx, &p, sizeof(double), "scalar"));
  return p;
}
static void scalar_free(struct ka_dev *dev, void *p) {
  if (dev->backend->own_memory)
    dev->backend->release(dev, KA_PLACE_DEVICE, p);
  else
    ka_free(p);
}

/* A list of steps is the steps one by one, to the bit: slices of several sizes and rates, with and
 * without a base, and more of them than one launch takes. */
static void test_lists(void **state) {
  (void)state;
  enum { N = 70 };
  struct ka_ctx context, *ctx = &context;
  ka_ctx_init(ctx);
  struct ka_dev dev;
  T_OK(ka_dev_open(ctx, &dev, t_device()));
#define STEP                                                                                       \
  .lr = 1e-2, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.1, .pull = 3,           \
  .max_norm = 0.25, .seed = 5, .t = 3
  const struct ka_op_case kinds[] = {
      KA_OP_CASE(adamw, "N7 C64 h2", KA_CASE_OPT, STEP),
      KA_OP_CASE(adamw, "N3 C33 h2", KA_CASE_OPT | KA_CASE_BASE, STEP),
      KA_OP_CASE(adamw, "N0 C5 h2", KA_CASE_OPT, STEP)};
  struct run runs[2][N];
  struct ka_op_mirror mirrors[2][N];
  struct ka_adamw_args steps[N];
  struct ka_sumsq_args norms[N];
  double total[2] = {0.5, 0.5};
  struct ka_tensor sums[2];
  for (int way = 0; way < 2; way++) {
    void *memory;
    memory = scalar(&dev);
    sums[way] = ka_tensor_1d(memory, KA_F64, 1);
    T_OK(ka_dev_upload(&dev, memory, &total[way], sizeof *total));
    for (int i = 0; i < N; i++) {
      struct ka_op_mirror *m = &mirrors[way][i];
      start(&runs[way][i], &dev, &kinds[i % 3], KA_BF16, 0);
      T_OK(ka_op_mirror_open(&dev, m, &runs[way][i].call, (struct ka_op_layout){0, GUARD}, false));
      steps[i] = m->call.args.adamw;
      steps[i].stats = mirrors[way][0].call.args.adamw.stats;
      steps[i].lr *= 1 + i % 5;
      norms[i] = (struct ka_sumsq_args){.out = sums[way], .x = steps[i].grad};
      if (way == 0) T_OK(ka_sumsq(&dev, &norms[i]));
      if (way == 0) T_OK(ka_adamw(&dev, &steps[i]));
    }
    if (way == 1) T_OK(ka_sumsq_list(&dev, norms, N));
    if (way == 1) T_OK(ka_adamw_list(&dev, steps, N));
    T_OK(ka_dev_download(&dev, &total[way], memory, sizeof *total));
  }
  assert_true(total[0] > 0.5 && total[0] == total[1]);
  for (int i = 0; i < N; i++) {
    for (int way = 0; way < 2; way++) T_OK(ka_op_mirror_fetch(&mirrors[way][i]));
    for (int k = 0; ka_op_operands(KA_OP_adamw)[k].name; k++) {
      const struct ka_tensor *one = ka_op_call_operand(&runs[0][i].call, k);
      assert_true(!one->data || same_bits(one, ka_op_call_operand(&runs[1][i].call, k)));
    }
    for (int way = 0; way < 2; way++) {
      ka_op_mirror_close(&mirrors[way][i]);
      ka_arena_deinit(&runs[way][i].arena);
    }
  }
  for (int way = 0; way < 2; way++) scalar_free(&dev, sums[way].data);
  ka_dev_close(&dev);
}

/* A base that says the same: no divergence, and the gradient that there is without it. */
static void test_equal_base(void **state) {
  (void)state;
  const struct ka_op_case kind = KA_OP_CASE(xent, "R5 V3001", KA_CASE_BASE, .grad_scale = 0.125,
                                            .ce_weight = 1, .kl_weight = 0.5, .backward = true);
  struct ka_ctx context, *ctx = &context;
  ka_ctx_init(ctx);
  struct ka_dev dev;
  T_OK(ka_dev_open(ctx, &dev, t_device()));
  for (int d = 0; d < N_DTYPES; d++) {
    struct run with, without;
    if (!served(&dev, KA_OP_xent, dtypes[d])) continue;
    start(&with, &dev, &kind, dtypes[d], 0);
    start(&without, &dev, &kind, dtypes[d], 0);
    struct ka_xent_args *a = &with.call.args.xent, *b = &without.call.args.xent;
    memcpy(a->base.data, a->logits.data, ka_tensor_bytes(&a->logits));
    b->base = b->kl = (struct ka_tensor){0};
    run(&with, &dev, 0);
    run(&without, &dev, 0);
    for (int64_t r = 0; r < 5; r++) assert_true(value(&a->kl, r) == 0);
    assert_true(same_bits(&a->loss, &b->loss) && same_bits(&a->logits, &b->logits));
    ka_arena_deinit(&with.arena);
    ka_arena_deinit(&without.arena);
  }
  ka_dev_close(&dev);
}

/* Every op has a case, and every back end serves f32 and bf16 of it. */
static void test_every_op_has_cases(void **state) {
  (void)state;
  int n_test[KA_N_OPS] = {0};
  for (int i = 0; i < ka_n_op_cases; i++)
    if (!(ka_op_cases[i].flags & KA_CASE_PERF)) n_test[ka_op_cases[i].op]++;
  struct ka_ctx context, *ctx = &context;
  ka_ctx_init(ctx);
  struct ka_dev dev;
  T_OK(ka_dev_open(ctx, &dev, t_device()));
  for (int op = 0; op < KA_N_OPS; op++) {
    if (n_test[op] == 0) fail_msg("%s has no test case", ka_op_name((enum ka_op)op));
    if (!has(dev.backend, (enum ka_op)op))
      print_message("skipped: %s has no %s\n", dev.backend->name, ka_op_name((enum ka_op)op));
  }
  ka_dev_close(&dev);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_op_has_cases), cmocka_unit_test(test_against_ref),
      cmocka_unit_test(test_lists), cmocka_unit_test(test_equal_base),
      cmocka_unit_test(test_poison)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
