/* SPDX-License-Identifier: Apache-2.0
 * Which tokens may be drawn: those that transformers' warpers leave (make_sampling.py). */
#include "base/json.h"
#include "engine/eval/sampling.h"
#include "tests/support/test.h"

#include <math.h>
#include <stdlib.h>

static struct ka_ctx context, *ctx = &context;

static int fresh(void **state) {
  (void)state;
  ka_ctx_init(ctx);
  return 0;
}

static void those_that_transformers_leaves(void **state) {
  (void)state;
  const char *home = getenv("KAPPA_SOURCE_DIR");
  json_t *cases, *one;
  size_t i;
  T_OK(ka_json_load(ctx, t_str("%s/tests/eval/sampling_cases.json", home ? home : "."), &cases));
  json_array_foreach(cases, i, one) {
    float logits[64];
    int32_t heap[64], id;
    const json_t *list = json_object_get(one, "logits"), *kept = json_object_get(one, "kept");
    size_t n = json_array_size(list), at = 0;
    for (size_t k = 0; k < n; k++) logits[k] = (float)json_number_value(json_array_get(list, k));
    const struct ka_eval_sampling s = {.temperature =
                                           json_number_value(json_object_get(one, "temperature")),
                                       .top_p = json_number_value(json_object_get(one, "top_p")),
                                       .min_p = json_number_value(json_object_get(one, "min_p")),
                                       .top_k = json_integer_value(json_object_get(one, "top_k"))};
    T_OK(ka_eval_sample(ctx, &s, logits, (int64_t)n, heap, 1, i, &id));
    assert_true(isfinite(logits[id]));
    for (size_t k = 0; k < n; k++) {
      bool wanted =
          (size_t)json_integer_value(json_array_get(kept, at)) == k && at < json_array_size(kept);
      if (wanted != (bool)isfinite(logits[k])) fail_msg("case %zu, token %zu", i, k);
      at += wanted;
    }
  }
  assert_true(i > 20);
  json_decref(cases);
}

static void a_nan_is_noticed(void **state) {
  (void)state;
  float logits[] = {1, NAN, 2};
  int32_t id;
  const struct ka_eval_sampling s = KA_SAMPLING_GREEDY;
  T_FAILS(ka_eval_sample(ctx, &s, logits, 3, NULL, 1, 0, &id), KA_E_CHECK, "token 1 is nan");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(those_that_transformers_leaves, fresh),
      cmocka_unit_test_setup(a_nan_is_noticed, fresh),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
