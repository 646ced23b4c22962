/* SPDX-License-Identifier: Apache-2.0
 * engine/model/verify.h on references of our own making: any subset of tensors, and every way in
 * which a reference can be wrong. */
#include "engine/model/verify.h"
#include "tests/model/tiny.h"
#include "tests/support/fresh.h"

#include <math.h>

enum { B = 2, T = 6, N = B * T };

static int64_t ids[N], labels[N];
static float logits[N * TINY_V], hidden[N * TINY_C];
static struct ka_st_out list[6];

static struct ka_st_out entry(const char *name, void *data, enum ka_dtype t, int n_dim, int64_t a,
                              int64_t b, int64_t c) {
  return (struct ka_st_out){name, ka_tensor_view(data, t, n_dim, (int64_t[]){a, b, c})};
}

static const char *write_list(int64_t n) {
  const char *path = t_str("%s/ref.safetensors", t_temp_dir());
  T_OK(ka_st_write(ctx, path, list, n, NULL, 0));
  return path;
}

/* Fills list: input_ids, labels, logits, hidden.1 and the loss in `loss`. */
static void compute_reference(const char *dir, float *loss) {
  struct ka_dev dev;
  struct ka_model m;
  int32_t small[N];
  for (int i = 0; i < N; i++) small[i] = (int32_t)(ids[i] = labels[i] = i * 5 % TINY_V);
  T_OK(ka_dev_open(ctx, &dev, "ref"));
  T_OK(ka_model_open(ctx, &m, &dev, dir, KA_F32));
  T_OK(ka_model_prepare(&m, B, T, false));
  struct tiny_batch b = tiny_batch(B, T, small);
  float *states[3] = {NULL, hidden, NULL};
  double sum;
  T_OK(ka_model_forward(&m, &b.batch, logits, states));
  T_OK(ka_model_eval(&m, &b.batch, &sum, NULL));
  *loss = (float)(sum / (double)b.batch.n_targets);
  ka_model_close(&m);
  ka_dev_close(&dev);
  list[0] = entry("input_ids", ids, KA_I64, 2, B, T, 0);
  list[1] = entry("labels", labels, KA_I64, 2, B, T, 0);
  list[2] = entry("loss", loss, KA_F32, 1, 1, 0, 0);
  list[3] = entry("logits", logits, KA_F32, 3, B, T, TINY_V);
  list[4] = entry("hidden.1", hidden, KA_F32, 3, B, T, TINY_C);
}

static ka_status verify(const char *dir, const char *path, struct ka_verify_row *first,
                        int64_t *n) {
  struct ka_dev dev;
  struct ka_arena arena;
  struct ka_verify_row *rows;
  T_OK(ka_dev_open(ctx, &dev, "cpu"));
  ka_arena_init(&arena, ctx, "test");
  ka_status st = ka_verify(&arena, &dev, dir, NULL, path, KA_F32, &rows, n);
  if (ka_ok(st) && *n > 0 && first) *first = rows[0];
  ka_arena_deinit(&arena);
  ka_dev_close(&dev);
  return st;
}

static void any_subset_is_checked(void **state) {
  (void)state;
  const char *dir = tiny_make(ctx, tiny_qwen3, KA_F32);
  float loss;
  int64_t n;
  struct ka_verify_row row;
  compute_reference(dir, &loss);
  T_OK(verify(dir, write_list(5), &row, &n));
  assert_true(n == 3 && row.pass);
  T_OK(verify(dir, write_list(3), &row, &n)); /* loss alone */
  assert_true(n == 1 && row.pass && row.rel_l2 < 1e-6);
  list[1] = list[3]; /* no labels are needed for logits */
  T_OK(verify(dir, write_list(2), &row, &n));
  assert_true(n == 1 && row.pass);
  logits[7] += 1;
  T_OK(verify(dir, write_list(2), &row, &n));
  assert_true(!row.pass && fabs(row.max_abs - 1) < 1e-4);
  logits[7] = NAN;
  T_OK(verify(dir, write_list(2), &row, &n));
  assert_false(row.pass);
  memset(logits, 0, sizeof logits); /* an all-zero reference compares by absolute value */
  T_OK(verify(dir, write_list(2), &row, &n));
  assert_true(!row.pass && row.rel_l2 == row.max_abs);
}

static void wrong_references_are_refused(void **state) {
  (void)state;
  const char *dir = tiny_make(ctx, tiny_qwen3, KA_F32);
  float loss;
  int64_t n;
  compute_reference(dir, &loss);
  list[5] = entry("grad.model.nothing", logits, KA_F32, 1, 3, 0, 0);
  T_FAILS(verify(dir, write_list(6), NULL, &n), KA_E_INPUT, "grad.model.nothing");
  list[5] = entry("hidden.3", logits, KA_F32, 1, 3, 0, 0);
  T_FAILS(verify(dir, write_list(6), NULL, &n), KA_E_INPUT, "hidden.0 to hidden.2");
  list[5] = entry("hidden.2", logits, KA_F32, 3, B, TINY_C, T);
  T_FAILS(verify(dir, write_list(6), NULL, &n), KA_E_INPUT, "hidden.2: its shape");
  labels[3] = -7;
  T_FAILS(verify(dir, write_list(5), NULL, &n), KA_E_INPUT, "labels[0,3]: got -7");
  for (int i = 0; i < N; i++) labels[i] = -100;
  T_FAILS(verify(dir, write_list(5), NULL, &n), KA_E_INPUT, "nothing to predict");
  ids[8] = TINY_V;
  T_FAILS(verify(dir, write_list(5), NULL, &n), KA_E_INPUT, "input_ids[1,2]: got 29");
  list[1] = entry("labels", labels, KA_I64, 2, T, B, 0);
  ids[8] = 0;
  T_FAILS(verify(dir, write_list(3), NULL, &n), KA_E_INPUT, "labels: got [6, 2]");
  list[0] = entry("input_ids", logits, KA_F32, 2, B, T, 0);
  T_FAILS(verify(dir, write_list(3), NULL, &n), KA_E_INPUT, "input_ids: got F32");
  list[0] = list[2];
  T_FAILS(verify(dir, write_list(1), NULL, &n), KA_E_INPUT, "input_ids: missing");
  T_FAILS(verify(dir, "/nonexistent.safetensors", NULL, &n), KA_E_INPUT, "/nonexistent");
}

static void the_command_needs_its_words(void **state) {
  (void)state;
  struct ka_str err = {0};
  assert_int_equal(t_kappa(NULL, &err, "verify /tmp"), 2);
  assert_non_null(strstr(err.data, "--against"));
  ka_str_deinit(&err);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(any_subset_is_checked, fresh),
      cmocka_unit_test_setup(wrong_references_are_refused, fresh),
      cmocka_unit_test_setup(the_command_needs_its_words, fresh),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
