/* SPDX-License-Identifier: Apache-2.0
 * adamw6.json by `kappa train`: the rows of golden.safetensors as a tokenized data set, no packing,
 * no shuffling, all rows every step. */
#include "tests/support/test.h"

#include "base/json.h"
#include "engine/formats/safetensors.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void append_ids(struct ka_ctx *ctx, struct ka_str *s, const char *key,
                       const struct ka_tensor *t, int64_t row) {
  T_OK(ka_str_printf(ctx, s, "\"%s\": [", key));
  for (int64_t i = 0; i < t->shape[1]; i++)
    T_OK(ka_str_printf(ctx, s, "%s%d", i ? ", " : "",
                       (int)ka_load(t->data, t->dtype, row * t->shape[1] + i)));
  T_OK(ka_str_puts(ctx, s, "]"));
}

static int64_t write_rows(struct ka_ctx *ctx, const char *golden, const char *path, int64_t *T) {
  struct ka_safetensors f;
  struct ka_str s = {0};
  T_OK(ka_st_open(ctx, &f, golden));
  const struct ka_tensor *ids = &ka_st_find(&f, "input_ids")->t,
                         *labels = &ka_st_find(&f, "labels")->t;
  int64_t B = ids->shape[0];
  *T = ids->shape[1];
  for (int64_t row = 0; row < B; row++) {
    T_OK(ka_str_puts(ctx, &s, "{"));
    append_ids(ctx, &s, "input_ids", ids, row);
    T_OK(ka_str_puts(ctx, &s, ", "));
    append_ids(ctx, &s, "labels", labels, row);
    T_OK(ka_str_puts(ctx, &s, "}\n"));
  }
  T_OK(ka_write_file(ctx, path, s.data, s.len));
  ka_str_deinit(&s);
  ka_st_close(&f);
  return B;
}

static void write_job(struct ka_ctx *ctx, const char *path, const char *base, const json_t *want,
                      int64_t B, int64_t T) {
  struct ka_str s = {0};
  size_t i;
  const json_t *name;
  T_OK(ka_str_printf(ctx, &s,
                     "base_model: %s\ndatasets: [{path: rows.jsonl, type: tokenized}]\n"
                     "sequence_len: %d\nmicro_batch_size: %d\ngradient_accumulation_steps: 1\n"
                     "sample_packing: false\nshuffle: false\nval_set_size: 0\nmax_steps: 6\n"
                     "learning_rate: 0.003\nlr_scheduler: constant\nadam_beta2: 0.95\n"
                     "weight_decay: 0.1\nbf16: false\nlogging_steps: 1\noutput_dir: out\n"
                     "selection: {metric: all, include: [",
                     base, (int)T, (int)B));
  json_array_foreach(json_object_get(want, "selected"), i, name)
      T_OK(ka_str_printf(ctx, &s, "%s^%s$", i ? ", " : "", json_string_value(name)));
  T_OK(ka_str_puts(ctx, &s, "]}\n"));
  T_OK(ka_write_file(ctx, path, s.data, s.len));
  ka_str_deinit(&s);
}

static void compare_log(struct ka_ctx *ctx, const char *path, const json_t *steps) {
  struct ka_str all = {0};
  T_OK(ka_read_file(ctx, path, 0, &all));
  size_t n = 0;
  for (char *line = strtok(all.data, "\n"); line; line = strtok(NULL, "\n"), n++) {
    json_t *row = NULL;
    T_OK(ka_json_parse(ctx, line, strlen(line), "row", &row));
    const json_t *want = json_array_get(steps, n);
    double loss = json_number_value(json_object_get(row, "loss"));
    double norm = json_number_value(json_object_get(row, "grad_norm"));
    assert_int_equal(json_integer_value(json_object_get(row, "step")), n + 1);
    assert_true(fabs(loss - json_number_value(json_object_get(want, "loss"))) < 1e-5);
    assert_true(fabs(norm / json_number_value(json_object_get(want, "grad_norm")) - 1) < 1e-4);
    json_decref(row);
  }
  assert_int_equal(n, 6);
  ka_str_deinit(&all);
}

static void compare_weights(struct ka_ctx *ctx, const char *out, const char *final) {
  struct ka_safetensors got, want;
  T_OK(ka_st_open(ctx, &got, out));
  T_OK(ka_st_open(ctx, &want, final));
  for (int64_t i = 0; i < want.n_entries; i++) {
    const struct ka_st_entry *a = ka_st_find(&got, want.entries[i].name), *b = &want.entries[i];
    double sum = 0, worst = 0;
    int64_t n = ka_tensor_elems(&b->t);
    for (int64_t k = 0; k < n; k++) {
      double d = fabs(ka_load(a->t.data, a->t.dtype, k) - ka_load(b->t.data, b->t.dtype, k));
      sum += d * d;
      worst = fmax(worst, d);
    }
    if (sqrt(sum / (double)n) > 1e-6 || worst > 2e-4)
      fail_msg("%s: RMS %g, worst %g", b->name, sqrt(sum / (double)n), worst);
  }
  ka_st_close(&got);
  ka_st_close(&want);
}

static void run(const char *base) {
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  const char *dir = t_temp_dir();
  json_t *want = NULL;
  int64_t T = 0;
  char absolute[PATH_MAX]; /* paths in a job are relative to the job */
  assert_non_null(realpath(base, absolute));
  T_OK(ka_json_load(ctx, t_str("%s/adamw6.json", base), &want));
  int64_t B =
      write_rows(ctx, t_str("%s/golden.safetensors", base), t_str("%s/rows.jsonl", dir), &T);
  write_job(ctx, t_str("%s/job.yaml", dir), absolute, want, B, T);
  struct ka_str err = {0};
  int rc = t_kappa(NULL, &err, "train %s/job.yaml --threads 1", dir);
  if (rc != 0) fail_msg("exit code %d: %s", rc, err.data);
  ka_str_deinit(&err);
  compare_log(ctx, t_str("%s/out/train_log.jsonl", dir), json_object_get(want, "steps"));
  compare_weights(ctx, t_str("%s/out", dir), t_str("%s/adamw6.safetensors", base));
  json_decref(want);
}

static void llama(void **state) {
  (void)state;
  T_DATA(data);
  run(t_str("%s/golden/llama", data));
}

static void qwen3(void **state) {
  (void)state;
  T_DATA(data);
  run(t_str("%s/golden/qwen3", data));
}

static void gpt2(void **state) {
  (void)state;
  T_DATA(data);
  run(t_str("%s/golden/gpt2", data));
}

static void deepseek(void **state) {
  (void)state;
  T_DATA(data);
  run(t_str("%s/golden/deepseek-v2", data));
}

/* Routers are trained, and the loss has the balance of the experts. */
static void olmoe(void **state) {
  (void)state;
  T_DATA(data);
  run(t_str("%s/golden/olmoe", data));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(llama), cmocka_unit_test(qwen3),
                                     cmocka_unit_test(gpt2), cmocka_unit_test(deepseek),
                                     cmocka_unit_test(olmoe)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
