/* SPDX-License-Identifier: Apache-2.0
 * What stands in for Python: its random numbers, literals, regular expressions, white space. The
 * expected values are CPython 3.11's. */
#include "base/sha256.h"
#include "python/builtins.h"
#include "python/random.h"
#include "python/regex.h"
#include "tests/support/fresh.h"

#include <string.h>

static void sample_is(struct ka_py_mt *mt, int64_t n, int64_t k, const int64_t *want) {
  int64_t got[8];
  T_OK(ka_py_mt_sample(ctx, mt, n, k, got));
  for (int64_t i = 0; i < k; i++) assert_int_equal(got[i], want[i]);
}

static void random_numbers(void **state) {
  (void)state;
  struct ka_py_mt mt;
  ka_py_mt_seed(&mt, 1234);
  sample_is(&mt, 10, 3, (const int64_t[]){7, 1, 0});
  sample_is(&mt, 10, 3, (const int64_t[]){1, 0, 9});
  sample_is(&mt, 10, 3, (const int64_t[]){1, 5, 3});
  sample_is(&mt, 1000, 8, (const int64_t[]){17, 31, 807, 16, 354, 663, 638, 495}); /* by set */
  sample_is(&mt, 30, 6, (const int64_t[]){19, 14, 4, 2, 5, 22});
  sample_is(&mt, 21, 5, (const int64_t[]){3, 0, 16, 15, 7});
  sample_is(&mt, 1, 1, (const int64_t[]){0});
  ka_py_mt_seed(&mt, 0);
  static const int64_t chosen[] = {265, 238, 132, 81, 161, 127};
  for (int i = 0; i < 6; i++) assert_int_equal(ka_py_mt_choice_index(&mt, 315), chosen[i]);
  ka_py_mt_seed(&mt, 7);
  assert_true(ka_py_mt_random(&mt) == 0x1.4b9ad0f953a6ep-2);
  ka_py_mt_seed(&mt, (1ull << 40) + 5);
  assert_true(ka_py_mt_random(&mt) == 0x1.023e2261153dcp-1);
  ka_py_mt_seed(&mt, 99);
  for (int i = 0; i < 2000; i++) ka_py_mt_random(&mt);
  assert_true(ka_py_mt_random(&mt) == 0x1.33cb379bd9f90p-4);
}

/* want NULL: no literal. */
static void literal_is(const char *text, const char *want) {
  json_t *v = NULL;
  bool good = ka_py_literal(text, strlen(text), &v);
  if (!want) {
    if (good) fail_msg("%s: is a literal", text);
    return;
  }
  if (!good) fail_msg("%s: is no literal", text);
  char *got = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
  assert_string_equal(got, want);
  free(got);
  json_decref(v);
}

static void literals(void **state) {
  (void)state;
  static const char *const cases[][2] = {
      {"['a', \"b\"]", "[\"a\",\"b\"]"},
      {"[]", "[]"},
      {"['a' 'b', 'c',]", "[\"ab\",\"c\"]"},
      {"('x')", "\"x\""},
      {"('x',)", "[\"x\"]"},
      {"()", "[]"},
      {"[1, -2, 3.5, 1_000, True, None]", "[1,-2,3.5,1000,true,null]"},
      {"[1e3, .5]", "[1000.0,0.5]"},
      {"{'a': [1], 'b': {}}", "{\"a\":[1],\"b\":{}}"},
      {"['it\\'s', 'a\\nb', '\\x41\\u00e9\\U0001f600', '\\101', '\\q']",
       "[\"it's\",\"a\\nb\",\"A\u00e9\U0001f600\",\"A\",\"\\\\q\"]"},
      {"[r'\\n', '''a\nb''']", "[\"\\\\n\",\"a\\nb\"]"},
      {" [ 1 ,\n 2 ] # rest", "[1,2]"},
      {"007", NULL},
      {"00", "0"},
      {"[1, 2", NULL},
      {"[a]", NULL},
      {"['a' b]", NULL},
      {"[1 2]", NULL},
      {"['a\nb']", NULL},
      {"['\\ud800']", NULL},
      {"", NULL},
      {"[,]", NULL},
      {"99999999999999999999", NULL},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) literal_is(cases[i][0], cases[i][1]);
  char deep[4001];
  memset(deep, '[', 4000);
  deep[4000] = 0;
  literal_is(deep, NULL);
}

static void functions(void **state) {
  (void)state;
  struct ka_py py;
  T_OK(ka_py_open(ctx, &py));
  static const struct {
    enum ka_py_function f;
    const char *json, *want;
  } cases[] = {
      {KA_PY_STR, "1.5", "1.5"},
      {KA_PY_STR, "1e22", "1e+22"},
      {KA_PY_STR, "[1,\"a\",null,true]", "[1, 'a', None, True]"},
      {KA_PY_STR, "\"x\"", "x"},
      {KA_PY_DUMPS, "{\"a\":[1,\"\u00e9\"]}", "{\n  \"a\": [\n    1,\n    \"\u00e9\"\n  ]\n}"},
      {KA_PY_LOWER, "\"\u0130\u03a3A\"", "i\u0307\u03c3a"},
      {KA_PY_UPPER, "\"stra\u00dfe\"", "STRASSE"},
      {KA_PY_STRIP, "\"\u00a0 a b\\u001f\"", "a b"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct ka_str out = {0};
    json_t *v = json_loads(cases[i].json, JSON_DECODE_ANY, NULL);
    T_OK(ka_py_call(ctx, &py, cases[i].f, v, &out));
    assert_string_equal(out.data, cases[i].want);
    ka_str_deinit(&out);
    json_decref(v);
  }
  ka_py_close(&py);
  assert_int_equal(ka_py_rstrip("a \t\u2003\u00a0", 8), 1);
  assert_int_equal(ka_py_rstrip(" \n", 2), 0);
  assert_int_equal(ka_py_len("\u00e9\U0001f600a", 7), 3);
  assert_true(ka_py_starts_with_space("\u3000x", 4) && !ka_py_ends_with_space("\u3000x", 4));
}

/* All matches with "|" between. */
static void finds(const char *pattern, const char *text, const char *want) {
  struct ka_py_regex *re;
  struct ka_py_match m = {0};
  struct ka_str all = {0};
  bool found = true;
  T_OK(ka_py_regex_open(ctx, &re, pattern, strlen(pattern)));
  for (;;) {
    T_OK(ka_py_regex_next(ctx, re, text, strlen(text), &m, &found));
    if (!found) break;
    T_OK(ka_str_append(ctx, &all, text + m.span[0], m.span[1] - m.span[0]));
    T_OK(ka_str_puts(ctx, &all, "|"));
  }
  if (strcmp(all.data ? all.data : "", want) != 0)
    fail_msg("%s in %s: got %s, expected %s", pattern, text, all.data, want);
  ka_str_deinit(&all);
  ka_py_regex_close(re);
}

static void patterns(void **state) {
  (void)state;
  finds("#### (\\-?[0-9\\.\\,]+)", "a #### 1,5. #### -2", "#### 1,5.|#### -2|");
  finds("(-?[$0-9.,]{2,})|(-?[0-9]+)", "is $12.50 or 7.", "$12.50|7.|");
  finds("a*", "baac", "|aa|||");
  finds("\\s+", "a\x1f b\u00a0c", "\x1f |\u00a0|");
  finds("[\\s,]", "a\x1c,", "\x1c|,|");
  finds("\\w+", "\u00fcber-x_1 \u0663", "\u00fcber|x_1|\u0663|");
  finds("x{,2}y", "xxxy", "xxy|");
  finds("\\Aa|b\\Z", "ab", "a|b|");
  finds("(?iu)A", "aA", "a|A|");
  finds("\\u0041\\x42", "AB", "AB|");
  finds("[[:alpha:]]", "a:]", ":]|");
  struct ka_py_regex *re;
  T_FAILS(ka_py_regex_open(ctx, &re, "a\\Q", 3), KA_E_INPUT, "unknown escape at position 2");
  T_FAILS(ka_py_regex_open(ctx, &re, "(*UCP)a", 7), KA_E_INPUT, "nothing to repeat");
  T_FAILS(ka_py_regex_open(ctx, &re, "(a", 2), KA_E_INPUT, "pattern \"(a\"");
  T_FAILS(ka_py_regex_open(ctx, &re, "a\\", 2), KA_E_INPUT, "\\ at the end");
  struct ka_py_match m = {0};
  bool found;
  char text[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!";
  T_OK(ka_py_regex_open(ctx, &re, "(a|aa)+(a|aa)+(a|aa)+$", 22));
  T_FAILS(ka_py_regex_next(ctx, re, text, strlen(text), &m, &found), KA_E_INPUT, "limit");
  ka_py_regex_close(re);
}

static void hashes(void **state) {
  (void)state;
  struct ka_sha256 s;
  char hex[65];
  ka_sha256_init(&s);
  ka_sha256_hex(&s, hex);
  assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  ka_sha256_init(&s);
  for (int i = 0; i < 100; i++) ka_sha256_add(&s, "abc", 3);
  ka_sha256_hex(&s, hex);
  assert_string_equal(hex, "d9f5aeb06abebb3be3f38adec9a2e3b94228d52193be923eb4e24c9b56ee0930");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(random_numbers, fresh), cmocka_unit_test_setup(literals, fresh),
      cmocka_unit_test_setup(functions, fresh),      cmocka_unit_test_setup(patterns, fresh),
      cmocka_unit_test_setup(hashes, fresh),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
