/* SPDX-License-Identifier: Apache-2.0
 * kappa analyze from outside: exit codes, pure JSON, the files it writes. */
#include "base/json.h"
#include "engine/formats/safetensors.h"
#include "tests/support/test.h"

#include <math.h>
#include <string.h>

static struct ka_ctx the_ctx;

/* Three matrices: diag(4, 1), a zero one, and one with Inf when `bad`. */
static const char *make_file(bool bad) {
  struct ka_ctx *ctx = &the_ctx;
  static float a[4] = {4, 0, 0, 1}, zero[6], c[4] = {1, 2, 3, 4};
  c[2] = bad ? INFINITY : 3;
  struct ka_st_out out[] = {{"a.weight", ka_tensor_2d(a, KA_F32, 2, 2)},
                            {"b.weight", ka_tensor_2d(zero, KA_F32, 2, 3)},
                            {"c.weight", ka_tensor_2d(c, KA_F32, 2, 2)}};
  const char *path = t_str("%s/%s.safetensors", t_temp_dir(), bad ? "bad" : "good");
  T_OK(ka_st_write(ctx, path, out, 3, NULL, 0));
  return path;
}

static json_t *analyze_json(const char *path, const char *options, int exit_code) {
  struct ka_ctx *ctx = &the_ctx;
  struct ka_str out = {0}, err = {0};
  json_t *root = NULL;
  assert_int_equal(t_kappa(&out, &err, "analyze %s --no-cache --json - %s", path, options),
                   exit_code);
  T_OK(ka_json_parse(ctx, out.data, out.len, "stdout", &root));
  ka_str_deinit(&out);
  ka_str_deinit(&err);
  return root;
}

static const json_t *tensor(const json_t *root, const char *name) {
  return json_object_get(json_object_get(root, "tensors"), name);
}

static void test_json(void **state) {
  (void)state;
  json_t *root = analyze_json(make_file(false), "--select 'kappa lowest 1'", 0);
  const json_t *a = tensor(root, "a.weight"), *b = tensor(root, "b.weight");
  assert_true(fabs(json_number_value(json_object_get(a, "kappa")) - 4) < 1e-8);
  assert_true(json_number_value(json_object_get(a, "kappa_rel_bound")) < 1e-8);
  assert_true(json_is_false(json_object_get(a, "singular")));
  assert_true(json_is_null(json_object_get(a, "effective_rank")));
  assert_true(json_is_null(json_object_get(b, "kappa")));
  assert_true(json_is_true(json_object_get(b, "singular")));
  assert_int_equal(json_integer_value(json_array_get(json_object_get(b, "shape"), 1)), 3);
  assert_string_equal(json_string_value(json_array_get(json_object_get(root, "selected"), 0)),
                      "a.weight");
  json_decref(root);
  root = analyze_json(make_file(true), "--full", 1);
  assert_string_equal(json_string_value(json_object_get(tensor(root, "c.weight"), "error")),
                      "Inf at [1,0]");
  assert_true(fabs(json_number_value(json_object_get(tensor(root, "a.weight"), "kappa")) - 4) <
              1e-8);
  assert_int_equal(json_array_size(json_object_get(tensor(root, "a.weight"), "singular_values")),
                   2);
  json_decref(root);
}

/* What is selected is listed in its order; more than there is, is told. */
static void test_selected(void **state) {
  (void)state;
  struct ka_str out = {0}, err = {0};
  const char *file = make_file(false);
  assert_int_equal(
      t_kappa(&out, &err, "analyze %s --no-cache --top 1 --select 'kappa lowest 9'", file), 0);
  assert_non_null(strstr(err.data, "9 units are asked for and 3 can be had"));
  const char *list = strstr(out.data, "selected (*): 3 of 3");
  assert_non_null(list);
  const char *a = strstr(list, "    1             4        4  a.weight\n");
  const char *c = a ? strstr(a, "  c.weight\n") : NULL;
  if (!c || !strstr(c, "3             -        6  b.weight\n")) fail_msg("%s", out.data);
  assert_null(strstr(out.data, "c.weight            2x2")); /* --top 1 */
  ka_str_clear(&out);
  ka_str_clear(&err);
  assert_int_equal(
      t_kappa(&out, &err, "analyze %s --no-cache --quiet --select 'kappa lowest 36%%'", file), 0);
  if (!strstr(out.data, "c.weight  rows 0-0  columns 0-0\n"))
    fail_msg("%s", out.data); /* 5 of 14: 4 and 1 */
  ka_str_deinit(&out);
  ka_str_deinit(&err);
}

static void test_wrong_use(void **state) {
  (void)state;
  static const char *const wrong[][2] = {
      {"--metric kapa", "expected kappa|"},     {"--rtol 2", "--rtol: got 2"},
      {"--select 'kappa lowest x'", "\"x\""},   {"--export peft", "--select"},
      {"--precision f16", "expected auto|f64"}, {"--unit head", "no config.json"},
  };
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    struct ka_str err = {0};
    assert_int_equal(t_kappa(NULL, &err, "analyze %s --no-cache %s", make_file(false), wrong[i][0]),
                     2);
    if (!strstr(err.data, wrong[i][1])) fail_msg("%s: %s", wrong[i][0], err.data);
    ka_str_deinit(&err);
  }
  assert_int_equal(t_kappa(NULL, NULL, "analyze /no/such/file.safetensors"), 2);
}

static void test_files(void **state) {
  (void)state;
  struct ka_ctx *ctx = &the_ctx;
  const char *dir = t_temp_dir(), *file = make_file(false);
  static const char *const wanted[][2] = {{"kappatune", "\"b.weight\": Infinity"},
                                          {"peft", "\"target_modules\": [\n    \"a\""},
                                          {"axolotl", "  - ^a.weight$\n"},
                                          {"spectrum", "\"type\": \"a\""}};
  for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
    struct ka_str text = {0};
    const char *to = t_str("%s/%s.out", dir, wanted[i][0]);
    assert_int_equal(t_kappa(NULL, NULL,
                             "analyze %s --no-cache --select 'kappa 1' --export %s --output %s",
                             file, wanted[i][0], to),
                     0);
    T_OK(ka_read_file(ctx, to, 0, &text));
    if (!strstr(text.data, wanted[i][1])) fail_msg("%s: %s", wanted[i][0], text.data);
    ka_str_deinit(&text);
  }
  struct ka_str page = {0};
  const char *html = t_str("%s/page.html", dir);
  assert_int_equal(t_kappa(NULL, NULL, "analyze %s --no-cache --html %s", file, html), 0);
  T_OK(ka_read_file(ctx, html, 0, &page));
  assert_non_null(strstr(page.data, "\"name\":\"a.weight\""));
  assert_null(strstr(page.data, "http")); /* nothing from outside */
  ka_str_deinit(&page);
  struct ka_str first = {0}, second = {0};
  const char *cache = t_str("%s/spectra.bin", dir);
  assert_int_equal(t_kappa(&first, NULL, "analyze %s --cache %s", file, cache), 0);
  assert_int_equal(t_kappa(&second, NULL, "analyze %s --cache %s", file, cache), 0);
  assert_null(strstr(first.data, "from the cache"));
  assert_non_null(strstr(second.data, "from the cache"));
  ka_str_deinit(&first);
  ka_str_deinit(&second);
}

/* The path that was taken is said, and one that is not there is refused. */
static void test_engine(void **state) {
  (void)state;
  bool device = strcmp(t_device(), "cuda") == 0;
  const char *file = make_file(false);
  struct ka_str out = {0}, err = {0};
  json_t *root = analyze_json(file, "--full --device cpu", 0);
  assert_string_equal(json_string_value(json_object_get(root, "device")), "cpu");
  json_decref(root);
  assert_int_equal(t_kappa(NULL, &err, "analyze %s --no-cache --device cpu --f64 device", file), 2);
  assert_non_null(strstr(err.data, "--f64 device: got the device \"cpu\""));
  if (device) {
    root = analyze_json(file, "--full --device cuda --f64 device", 0);
    assert_string_equal(json_string_value(json_object_get(root, "engine")), "cublas");
    assert_string_equal(json_string_value(json_object_get(root, "device")), "cuda");
    assert_true(fabs(json_number_value(json_object_get(tensor(root, "a.weight"), "kappa")) - 4) <
                1e-8);
    json_decref(root);
    assert_int_equal(t_kappa(&out, NULL, "analyze %s --no-cache --device cuda --f64 device", file),
                     0);
    assert_non_null(strstr(out.data, " by cublas on cuda"));
    ka_str_clear(&out);
    assert_int_equal(t_kappa(&out, NULL, "analyze %s --no-cache --device cuda", file), 0);
    assert_non_null(strstr(out.data, " on cpu")); /* too little to be worth the device */
  }
  ka_str_deinit(&out);
  ka_str_deinit(&err);
}

int main(void) {
  ka_ctx_init(&the_ctx);
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_json), cmocka_unit_test(test_selected),
                                     cmocka_unit_test(test_wrong_use), cmocka_unit_test(test_files),
                                     cmocka_unit_test(test_engine)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
