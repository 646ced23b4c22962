/* SPDX-License-Identifier: Apache-2.0
 * What PyYAML reads is read so (make_yaml_cases.py wrote what it reads), at a cost that follows the
 * file's length. */
#include "engine/job/keys.h"
#include "engine/job/yaml_json.h"
#include "tests/support/test.h"

#include <stdlib.h>
#include <string.h>

static struct ka_ctx context, *ctx = &context;
static struct ka_arena arena;

static int fresh(void **state) {
  (void)state;
  ka_ctx_init(ctx);
  ctx->log_level = KA_LOG_QUIET;
  ka_arena_init(&arena, ctx, "test");
  return 0;
}

static int done(void **state) {
  (void)state;
  ka_arena_deinit(&arena);
  return 0;
}

/* Compares and says which item of a long list differs. */
static void same(const char *text, const json_t *got, const json_t *want) {
  if (json_equal(got, want)) return;
  if (json_is_array(got) && json_array_size(got) == json_array_size(want))
    for (size_t i = 0; i < json_array_size(want); i++)
      if (!json_equal(json_array_get(got, i), json_array_get(want, i)))
        fail_msg("item %zu: got %s, expected %s", i,
                 json_dumps(json_array_get(got, i), JSON_ENCODE_ANY),
                 json_dumps(json_array_get(want, i), JSON_ENCODE_ANY));
  fail_msg("%s\n got %s, expected %s", text, json_dumps(got, JSON_ENCODE_ANY),
           json_dumps(want, JSON_ENCODE_ANY));
}

static void values_are_those_of_pyyaml(void **state) {
  (void)state;
  const char *home = getenv("KAPPA_SOURCE_DIR");
  json_t *cases, *one;
  size_t i;
  T_OK(ka_json_load(ctx, t_str("%s/tests/job/yaml_cases.json", home ? home : "."), &cases));
  json_array_foreach(cases, i, one) {
    struct ka_yaml *root;
    json_t *got;
    const char *text = json_string_value(json_array_get(one, 0));
    T_OK(ka_yaml_parse(ctx, &arena, text, strlen(text), "x.yaml", true, &root));
    T_OK(ka_yaml_json(ctx, root, &got));
    same(text, got, json_array_get(one, 1));
    json_decref(got);
  }
  assert_true(i > 10);
  json_decref(cases);
}

/* The same list of keys in any order of asking. */
static void many_keys_are_found(void **state) {
  (void)state;
  enum { N = 40000 };
  struct ka_str text = {0};
  struct ka_yaml *root;
  for (int i = 0; i < N; i++) T_OK(ka_str_printf(ctx, &text, "k%d: %d\n", i, i));
  T_OK(ka_yaml_parse(ctx, &arena, text.data, text.len, "x.yaml", false, &root));
  assert_int_equal(root->n, N);
  assert_string_equal(ka_yaml_get(root, "k39999")->text, "39999");
  T_OK(ka_str_puts(ctx, &text, "k7: 1\n"));
  T_FAILS(ka_yaml_parse(ctx, &arena, text.data, text.len, "x.yaml", false, &root), KA_E_INPUT,
          "x.yaml:40001:1: key \"k7\" is given twice");
  T_OK(ka_yaml_parse(ctx, &arena, text.data, text.len, "x.yaml", true, &root));
  assert_int_equal(root->n, N);
  assert_string_equal(ka_yaml_get(root, "k7")->text, "1");
  ka_str_deinit(&text);
}

static void places_of_many_keys(void **state) {
  (void)state;
  enum { N = 40000 };
  struct ka_key_file f;
  T_OK(ka_key_file_open(ctx, &f, "x.yaml"));
  for (int i = 0; i < N; i++) {
    const char *key;
    T_OK(ka_arena_printf(&arena, &key, "list.%d", i));
    T_OK(ka_key_place_set(ctx, &f, key, key));
  }
  T_OK(ka_key_place_set(ctx, &f, "list.5", "elsewhere"));
  assert_string_equal(ka_key_place(&f, "list.39999"), "list.39999");
  assert_string_equal(ka_key_place(&f, "list.5"), "elsewhere");
  assert_string_equal(ka_key_place(&f, "list"), "x.yaml");
  ka_key_forget(&f, "list.7");
  assert_false(ka_key_given(&f, "list.7"));
  assert_true(ka_key_given(&f, "list.8"));
  ka_key_file_close(&f);
}

static void a_signal_ends_it(void **state) {
  (void)state;
  volatile int interrupted = 15;
  struct ka_yaml *root;
  ctx->interrupted = &interrupted;
  T_FAILS(ka_yaml_parse(ctx, &arena, "a: 1", 4, "x.yaml", false, &root), KA_E_INTERRUPTED,
          "interrupted");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(values_are_those_of_pyyaml, fresh, done),
      cmocka_unit_test_setup_teardown(many_keys_are_found, fresh, done),
      cmocka_unit_test_setup_teardown(places_of_many_keys, fresh, done),
      cmocka_unit_test_setup_teardown(a_signal_ends_it, fresh, done),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
