/* SPDX-License-Identifier: Apache-2.0
 * Algorithms of matrix products on the CUDA stand-in: which are allowed, what happens when one
 * fails, what is believed of remembered ones; recordings that fail. Skipped on a real device. */
#include "kernels/device.h"
#include "tests/support/host.h"

#include <stdio.h>

enum { M = 16, N = 24, K = 32 };

static struct ka_ctx context, *ctx = &context;
static struct ka_dev dev;
static struct ka_arena arena;

static void open_with(const char *without) {
  setenv("KAPPA_CUDA_WITHOUT", without, 1);
  ka_status st = ka_dev_open(ctx, &dev, "cuda");
  unsetenv("KAPPA_CUDA_WITHOUT");
  T_OK(st);
  T_OK(ka_arena_init_fixed(&arena, ctx, "test", 1 << 20, ka_dev_memory(&dev, KA_PLACE_DEVICE)));
}

static void close_all(void) {
  ka_arena_deinit(&arena);
  ka_dev_close(&dev);
  host.reset();
}

static int fresh(void **state) {
  (void)state;
  ka_ctx_init(ctx);
  ctx->log_level = KA_LOG_QUIET;
  setenv("XDG_CACHE_HOME", t_temp_dir(), 1); /* nothing is remembered yet */
  return 0;
}

static struct ka_tensor put(enum ka_dtype t, int64_t rows, int64_t cols, const float *values) {
  struct ka_tensor x;
  T_OK(ka_tensor_alloc(&arena, &x, "x", t, 2, (int64_t[]){rows, cols}));
  T_OK(ka_dev_put(&dev, x, ka_tensor_2d((void *)(uintptr_t)values, KA_F32, rows, cols)));
  return x;
}

static int value(int i, int seed) { return (i * 7 + seed) % 5 - 2; }

/* Small integers, so that every order of a sum gives the same. */
static struct ka_tensor integers(enum ka_dtype t, int64_t rows, int64_t cols, int seed) {
  float values[K * K];
  for (int i = 0; i < rows * cols; i++) values[i] = (float)value(i, seed);
  return put(t, rows, cols, values);
}

struct product {
  struct ka_tensor a, b, out;
  bool accumulate;
};

static struct product make(enum ka_dtype t, bool accumulate) {
  return (struct product){integers(t, M, K, 1), integers(t, K, N, 2),
                          integers(accumulate ? KA_F32 : t, M, N, 3), accumulate};
}

static ka_status run(void *user) {
  const struct product *p = user;
  return ka_matmul(&dev, &(struct ka_matmul_args){
                             .out = p->out, .a = p->a, .b = p->b, .accumulate = p->accumulate});
}

/* `times` products, added to what out held. */
static void is_right(const struct product *p, int times) {
  float got[M * N];
  T_OK(ka_dev_get(&dev, ka_tensor_2d(got, KA_F32, M, N), p->out));
  for (int i = 0; i < M; i++)
    for (int j = 0; j < N; j++) {
      int sum = 0, before = value(i * N + j, 3);
      for (int k = 0; k < K; k++) sum += value(i * K + k, 1) * value(k * N + j, 2);
      assert_true(got[i * N + j] == (float)(p->accumulate ? before + times * sum : sum));
    }
}

/* 257 - 256: partial sums of bf16 would give 0. */
static void partial_sums_are_not_rounded(void **state) {
  float a[K] = {256, 1}, b[2 * K], got[2];
  (void)state;
  a[K - 1] = -256;
  for (int k = 0; k < 2 * K; k++) b[k] = 1;
  open_with("tuning");
  struct product p = {put(KA_BF16, 1, K, a), put(KA_BF16, K, 2, b), put(KA_BF16, 1, 2, a), false};
  T_OK(run(&p));
  T_OK(ka_dev_get(&dev, ka_tensor_2d(got, KA_F32, 1, 2), p.out));
  assert_true(got[0] == 1 && got[1] == 1);
  close_all();
}

/* With the first, the first two and all algorithms failing; with and without measuring. */
static void failing_algorithms_are_passed_over(void **state) {
  (void)state;
  for (int bad = 0; bad <= 4; bad++)
    for (int i = 0; i < 4; i++) {
      open_with(i % 2 ? "tuning" : "");
      host.set("bad_matmuls", t_str("%d", bad));
      struct product p = make(KA_BF16, i / 2);
      for (int times = 1; times <= 3; times++) {
        T_OK(run(&p));
        is_right(&p, times);
      }
      close_all();
    }
}

static int64_t syncs(void) {
  struct cudahost_counters c;
  host.count(&c);
  return c.syncs;
}

/* No memory for a second sum: it is measured in place, and the sum is what it should be. */
static void a_full_device_measures_in_place(void **state) {
  (void)state;
  open_with("");
  struct product p = make(KA_F32, true);
  T_OK(ka_dev_sync(&dev));
  int64_t before = syncs();
  host.set("fail_alloc", "1");
  T_OK(run(&p));
  host.set("fail_alloc", "0");
  assert_true(syncs() > before + 3);
  is_right(&p, 1);
  close_all();
}

/* Choices of an algorithm that this library does not know (byte 4 of an algorithm is its number,
 * here) are asked about and chosen anew. */
static void remembered_ones_are_checked(void **state) {
  struct ka_str choices = {0}, after = {0};
  (void)state;
  open_with("tuning");
  struct product p = make(KA_BF16, false);
  T_OK(run(&p));
  T_OK(ka_dev_choices_get(&dev, &choices));
  assert_non_null(strstr(choices.data, " SMs\n"));
  close_all();
  char *line = strchr(choices.data, '\n'), *algo = strchr(line, ' ') + 1;
  assert_int_equal(strncmp(algo + 8, "00", 2), 0);
  memcpy(algo + 8, "77", 2);
  open_with("tuning");
  T_OK(ka_dev_choices_set(&dev, choices.data));
  p = make(KA_BF16, false);
  T_OK(run(&p));
  is_right(&p, 1);
  T_OK(ka_dev_choices_get(&dev, &after));
  assert_int_equal(strncmp(strchr(strchr(after.data, '\n'), ' ') + 1 + 8, "00", 2), 0);
  close_all();
  ka_str_deinit(&choices);
  ka_str_deinit(&after);
}

/* Each call that a recording makes fails once: the ops run one by one, with the same result. */
static void a_failed_recording_runs_op_by_op(void **state) {
  static const char *const kinds[] = {"fail_create", "fail_launch"};
  (void)state;
  for (int kind = 0; kind < 2; kind++)
    for (int n = 1; n < 20; n++) {
      struct cudahost_counters c;
      struct ka_replay replay = {0};
      open_with("tuning");
      struct product p = make(KA_F32, true);
      T_OK(ka_replay_run(&dev, &replay, run, &p));
      host.set(kinds[kind], t_str("%d:StreamCaptureUnsupported", n));
      T_OK(ka_replay_run(&dev, &replay, run, &p));
      host.count(&c);
      host.set(kinds[kind], "0");
      T_OK(ka_replay_run(&dev, &replay, run, &p));
      is_right(&p, 3);
      assert_int_equal(dev.no_replays, c.injected > 0);
      assert_int_equal(ctx->error.code, KA_OK);
      ka_replay_free(&dev, &replay);
      close_all();
      if (c.injected == 0) break;
      assert_true(n < 19);
    }
}

/* More keys than the table of choices begins with. */
static void many_choices_are_found_again(void **state) {
  (void)state;
  open_with("tuning");
  struct product p = make(KA_F32, false);
  struct ka_str first = {0}, second = {0};
  for (int round = 0; round < 2; round++) {
    for (int64_t m = 1; m <= M; m++)
      for (int64_t n = 4; n <= N; n += 4)
        T_OK(ka_matmul(&dev, &(struct ka_matmul_args){.out = ka_tensor_slice(p.out, 0, m, 0, n),
                                                      .a = ka_tensor_slice(p.a, 0, m, 0, K),
                                                      .b = ka_tensor_slice(p.b, 0, K, 0, n)}));
    T_OK(ka_dev_choices_get(&dev, round ? &second : &first));
  }
  assert_true(first.len > 90 * 64);
  assert_string_equal(first.data, second.data);
  ka_str_deinit(&first);
  ka_str_deinit(&second);
  close_all();
}

/* What is asked of a device before processes of their own train on it takes nothing of it. */
static void finding_takes_nothing(void **state) {
  struct cudahost_counters c;
  const struct ka_backend *found = NULL;
  (void)state;
  host.reset();
  T_OK(ka_dev_find(ctx, "cuda", &found));
  assert_true(found->own_memory);
  host.count(&c);
  assert_true(c.launches == 0 && c.allocations == 0 && c.pinned_allocations == 0);
  host.set("driver", "nodevice");
  T_FAILS(ka_dev_find(ctx, "cuda", &found), KA_E_DEVICE, "the driver shows no GPU");
  host.reset();
}

static void tf32_override_is_told(void **state) {
  char text[512];
  (void)state;
  setenv("NVIDIA_TF32_OVERRIDE", "1", 1);
  open_with("");
  dev.backend->describe(&dev, text, sizeof text);
  unsetenv("NVIDIA_TF32_OVERRIDE");
  assert_non_null(strstr(text, "NVIDIA_TF32_OVERRIDE=1"));
  dev.backend->describe(&dev, text, sizeof text);
  assert_null(strstr(text, "TF32"));
  close_all();
}

/* Heads of 128 take more shared memory than a kernel has unasked. */
static void shared_memory_is_asked_for_once(void **state) {
  enum { T = 8, D = 128 };
  struct cudahost_counters before, after;
  (void)state;
  open_with("");
  struct ka_tensor x[4], lse;
  for (int i = 0; i < 4; i++) {
    T_OK(ka_tensor_alloc(&arena, &x[i], "x", KA_BF16, 4, (int64_t[]){1, T, 1, D}));
    T_OK(ka_fill(&dev, &(struct ka_fill_args){.x = x[i], .value = 0.5}));
  }
  T_OK(ka_tensor_alloc(&arena, &lse, "lse", KA_F32, 3, (int64_t[]){1, 1, T}));
  struct ka_attn_fwd_args args = {
      .out = x[0], .lse = lse, .q = x[1], .k = x[2], .v = x[3], .scale = 0.1};
  T_OK(ka_attn_fwd(&dev, &args));
  host.count(&before);
  for (int i = 0; i < 3; i++) T_OK(ka_attn_fwd(&dev, &args));
  host.count(&after);
  assert_true(before.attributes > 0);
  assert_int_equal(after.attributes, before.attributes);
  close_all();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(partial_sums_are_not_rounded, fresh),
      cmocka_unit_test_setup(failing_algorithms_are_passed_over, fresh),
      cmocka_unit_test_setup(a_full_device_measures_in_place, fresh),
      cmocka_unit_test_setup(remembered_ones_are_checked, fresh),
      cmocka_unit_test_setup(a_failed_recording_runs_op_by_op, fresh),
      cmocka_unit_test_setup(many_choices_are_found_again, fresh),
      cmocka_unit_test_setup(finding_takes_nothing, fresh),
      cmocka_unit_test_setup(tf32_override_is_told, fresh),
      cmocka_unit_test_setup(shared_memory_is_asked_for_once, fresh),
  };
  if (find_host()) return cmocka_run_group_tests(tests, NULL, NULL);
  puts("skipped: the stand-in is not there to ask");
  return 0;
}
