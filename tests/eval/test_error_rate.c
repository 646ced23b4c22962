/* SPDX-License-Identifier: Apache-2.0
 * Word and character error rates against jiwer's (make_error_rates.py). */
#include "base/json.h"
#include "engine/eval/error_rate.h"
#include "tests/support/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct ka_ctx context;
static struct ka_ctx *ctx = &context;

static struct ka_str text_of(const json_t *row, const char *key) {
  struct ka_str s = {0};
  T_OK(ka_str_puts(ctx, &s, json_string_value(json_object_get(row, key))));
  return s;
}

static double number(const json_t *row, const char *key) {
  return json_number_value(json_object_get(row, key));
}

static void test_jiwer(void **state) {
  (void)state;
  json_t *root = NULL, *row;
  size_t i;
  int64_t errors[2] = {0}, all[2] = {0};
  ka_ctx_init(ctx);
  T_OK(ka_json_load(ctx, t_str("%s/tests/eval/error_rates.json", getenv("KAPPA_SOURCE_DIR")),
                    &root));
  json_array_foreach(json_object_get(root, "pairs"), i, row) {
    struct ka_str right = text_of(row, "right"), answer = text_of(row, "answer");
    for (int k = 0; k < 2; k++) {
      int64_t n_errors, n;
      T_OK(ka_eval_text_errors(ctx, &right, &answer, k == 0, &n_errors, &n));
      double rate = (double)n_errors / (double)n, want = number(row, k == 0 ? "wer" : "cer");
      if (fabs(rate - want) > 1e-12)
        fail_msg("%s of \"%s\", \"%s\": got %g, expected %g", k ? "cer" : "wer", right.data,
                 answer.data, rate, want);
      errors[k] += n_errors;
      all[k] += n;
    }
    ka_str_deinit(&right);
    ka_str_deinit(&answer);
  }
  assert_true(i > 50);
  assert_true(fabs((double)errors[0] / (double)all[0] - number(root, "wer")) < 1e-12);
  assert_true(fabs((double)errors[1] / (double)all[1] - number(root, "cer")) < 1e-12);
  json_decref(root);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_jiwer)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
