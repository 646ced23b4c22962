/* SPDX-License-Identifier: Apache-2.0
 * base/: status, arenas, strings, UTF-8, files, JSON, random numbers. */
#include "base/json.h"
#include "base/rng.h"
#include "tests/support/test.h"

#include <math.h>
#include <string.h>

static void first_failure_wins(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  ka_status st = ka_fail(ctx, KA_E_INPUT, "first %d", 1);
  ka_status other = ka_fail(ctx, KA_E_IO, "second");
  assert_int_equal(st.code, KA_E_INPUT);
  assert_int_equal(other.code, KA_E_IO);
  assert_string_equal(ctx->error.message, "first 1");
  assert_int_equal(ka_exit_code(KA_E_INPUT), 2);
  assert_int_equal(ka_exit_code(KA_E_MEMORY), 3);
  assert_int_equal(ka_exit_code(KA_E_INTERRUPTED), 4);
}

static void arenas_measure_what_they_allocate(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  struct ka_arena plan, real;
  ka_arena_init_measure(&plan, ctx, "plan", NULL);
  void *p;
  for (int i = 1; i < 50; i++) T_OK(ka_arena_alloc_n(&plan, &p, i, 12, "x"));
  T_OK(ka_arena_init_fixed(&real, ctx, "real", plan.peak_bytes, NULL));
  for (int i = 1; i < 50; i++) {
    T_OK(ka_arena_alloc_n(&real, &p, i, 12, "x"));
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 64, 0);
  }
  T_FAILS(ka_arena_alloc(&real, &p, 1, "y"), KA_E_INTERNAL, "do not fit");
  ka_arena_reset(&real);
  T_OK(ka_arena_alloc(&real, &p, plan.peak_bytes, "all"));
  T_FAILS(ka_arena_alloc_n(&real, &p, INT64_MAX, 16, "huge"), KA_E_MEMORY, "overflow");
  ka_arena_deinit(&real);
  ka_arena_deinit(&plan);
}

static void allocation_failure_is_reported(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  void *p;
  ctx->fail_alloc_at = 2;
  T_OK(ka_alloc(ctx, &p, 8, "one"));
  ka_free(p);
  T_FAILS(ka_alloc(ctx, &p, 8, "two"), KA_E_MEMORY, "two");
}

static void lists_are_words(void **state) {
  (void)state;
  const char *list = " a, b c ,,d ", *word;
  static const char *const want[] = {"a", "b c", "", "d"};
  size_t n;
  for (int i = 0; i < 4; i++) {
    assert_true(ka_list_next(&list, ',', &word, &n));
    assert_int_equal(n, strlen(want[i]));
    assert_memory_equal(word, want[i], n);
  }
  assert_false(ka_list_next(&list, ',', &word, &n));
}

static void utf8_is_strict(void **state) {
  (void)state;
  uint32_t cp;
  assert_int_equal(ka_utf8_decode("\xe2\x96\x81", 3, &cp), 3);
  assert_int_equal(cp, 0x2581);
  static const char *const bad[] = {
      "\x80", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x96", "\xff"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    assert_int_equal(ka_utf8_decode(bad[i], strlen(bad[i]), NULL), 0);
  for (uint32_t u = 0; u <= 0x10ffff; u += 7) {
    if (u >= 0xd800 && u <= 0xdfff) continue;
    char buf[4];
    int n = ka_utf8_encode(u, buf);
    assert_int_equal(ka_utf8_decode(buf, (size_t)n, &cp), n);
    assert_int_equal(cp, u);
  }
  assert_int_equal(ka_utf8_check("ab\xffz", 4), 2);
}

static void numbers_parse_whole_strings_only(void **state) {
  (void)state;
  int64_t i;
  double f;
  assert_true(ka_parse_i64("-42", &i) && i == -42);
  assert_false(ka_parse_i64("42x", &i) || ka_parse_i64("", &i) || ka_parse_i64(" 1", &i) ||
               ka_parse_i64("9223372036854775808", &i));
  assert_true(ka_parse_f64("2e-5", &f) && f == 2e-5);
  assert_false(ka_parse_f64("0x10", &f) || ka_parse_f64("1e999", &f) || ka_parse_f64("1,5", &f));
}

static void nearest_name_catches_misspellings(void **state) {
  (void)state;
  static const char *const names[] = {"learning_rate", "lr_scheduler", "num_epochs", NULL};
  assert_string_equal(ka_nearest("learing_rate", names), "learning_rate");
  assert_string_equal(ka_nearest("num_epoch", names), "num_epochs");
  assert_null(ka_nearest("zzzzzz", names));
}

static void files_appear_whole_or_not_at_all(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  const char *dir = t_temp_dir(), *path = t_str("%s/a/b", dir);
  T_OK(ka_make_dirs(ctx, path));
  const char *file = t_str("%s/x.txt", path);
  struct ka_publish p;
  T_OK(ka_publish_begin(ctx, &p, file));
  T_OK(ka_publish_write(ctx, &p, "hello", 5));
  assert_false(ka_path_exists(file));
  ka_publish_abort(&p);
  assert_false(ka_path_exists(file));
  T_OK(ka_write_file(ctx, file, "hello", 5));
  struct ka_str text = {0};
  T_OK(ka_read_file(ctx, file, 0, &text));
  assert_string_equal(text.data, "hello");
  ka_str_clear(&text);
  T_FAILS(ka_read_file(ctx, file, 4, &text), KA_E_INPUT, "larger than the limit");
  T_FAILS(ka_read_file(ctx, t_str("%s/none", path), 0, &text), KA_E_INPUT, "No such file");
  struct ka_arena a;
  ka_arena_init(&a, ctx, "t");
  const char **names;
  int64_t n;
  T_OK(ka_list_dir(&a, path, &names, &n));
  assert_int_equal(n, 1);
  assert_string_equal(names[0], "x.txt");
  T_OK(ka_remove_tree(ctx, t_str("%s/a", dir)));
  assert_false(ka_path_exists(path));
  ka_arena_deinit(&a);
  ka_str_deinit(&text);
}

static void messages_cannot_command_a_terminal(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  T_FAILS(ka_fail(ctx, KA_E_INPUT, "a\033]0;x\007 \xc2\x9b \x9b \xc3\xa9 \x7f\n\tz"), KA_E_INPUT,
          "a\\x1b]0;x\\x07 \\xc2\\x9b \\x9b \xc3\xa9 \\x7f\n\tz");
  char small[6];
  assert_string_equal(ka_visible(small, sizeof small, "ab\033c"), "ab");
}

static void json_errors_have_a_place(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  json_t *v;
  T_FAILS(ka_json_parse(ctx, "{\"a\":1,\n \"a\":2}", 16, "x.json", &v), KA_E_INPUT, "x.json:2:");
  T_OK(ka_json_parse(ctx, "{\"a\":1,\"b\":\"t\"}", 15, "x.json", &v));
  int64_t i;
  T_OK(ka_json_i64(ctx, "x.json", v, "a", &i));
  assert_int_equal(i, 1);
  T_FAILS(ka_json_i64(ctx, "x.json", v, "b", &i), KA_E_INPUT, "expected an integer");
  T_OK(ka_json_i64_or(ctx, "x.json", v, "c", 7, &i));
  assert_int_equal(i, 7);
  json_decref(v);
  struct ka_str s = {0};
  T_OK(ka_json_quote(ctx, &s, "a\"\\\n\xff\x01", 6));
  assert_string_equal(s.data, "\"a\\\"\\\\\\n\xef\xbf\xbd\\u0001\"");
  ka_str_deinit(&s);
}

/* What real files hold and jansson refuses; what is refused, and where. */
static void json_is_read_as_python_reads_it(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  static const struct {
    const char *text, *dump; /* dump NULL: refused with `error` */
    const char *error;
  } cases[] = {
      {"{\"model_max_length\": 1000000000000000019884624838656}", "{\"model_max_length\":1e30}",
       NULL},
      {"[9223372036854775807, -9223372036854775808, 0, -0, 12]",
       "[9223372036854775807,-9223372036854775808,0,0,12]", NULL},
      {"[9223372036854775808, -9223372036854775809]",
       "[9.2233720368547758e18,-9.2233720368547758e18]", NULL},
      {"[NaN, Infinity, -Infinity, 1e999]", "[null,null,null,null]", NULL},
      {" \t\r\n[ 1.5 , -2e-3,1E+2, 0.25 ]\n", "[1.5,-0.002,100.0,0.25]", NULL},
      {"\"a\\u00e9\\ud83d\\ude00\\n\\/\\\\\"", "\"a\xc3\xa9\xf0\x9f\x98\x80\\n/\\\\\"", NULL},
      {"{\"a\\tb\":{\"c\":[{},[],\"\"]},\"d\":true,\"e\":false,\"f\":null}",
       "{\"a\\tb\":{\"c\":[{},[],\"\"]},\"d\":true,\"e\":false,\"f\":null}", NULL},
      {"{\"a\":\n  01}", NULL, "f:2:3: not valid JSON: invalid number near '01}'"},
      {"{\"a\": \"\\ud83d half\"}", NULL, "f:1:8: not valid JSON: half of a surrogate pair"},
      {"{\"a\": \"\xc3\xa9\xff\"}", NULL, "f:1:9: not valid JSON: not UTF-8"},
      {"{\"a\": 1,}", NULL, "f:1:9: not valid JSON: expected a key in quotes"},
      {"{\"a\": 1, \"a\": 2}", NULL, "f:1:10: not valid JSON: duplicate key"},
      {"[1 2]", NULL, "f:1:4: not valid JSON: expected , or ]"},
      {"[1", NULL, "f:1:3: not valid JSON: expected , or ]"},
      {"[1,", NULL, "f:1:4: not valid JSON: the end comes too early"},
      {"\"abc", NULL, "f:1:1: not valid JSON: the text has no end"},
      {"\"a\nb\"", NULL, "f:1:3: not valid JSON: a control character"},
      {"\"\\x\"", NULL, "f:1:2: not valid JSON: invalid escape"},
      {"{\"a\\u0000\":1}", NULL, "f:1:2: not valid JSON: a key with a NUL"},
      {"1. ", NULL, "invalid number"},
      {"-", NULL, "invalid number"},
      {"1 x", NULL, "f:1:3: not valid JSON: text after the value"},
      {"nul", NULL, "f:1:1: not valid JSON: expected a value"},
      {"", NULL, "f:1:1: not valid JSON: the end comes too early"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    json_t *v;
    struct ka_str dump = {0};
    ka_status st = ka_json_parse(ctx, cases[i].text, strlen(cases[i].text), "f", &v);
    if (cases[i].dump) {
      T_OK(st);
      T_OK(ka_json_dump_line(ctx, v, &dump));
      dump.data[dump.len - 1] = 0;
      assert_string_equal(dump.data, cases[i].dump);
    } else {
      T_FAILS(st, KA_E_INPUT, cases[i].error);
      assert_null(v);
    }
    json_decref(v);
    ka_str_deinit(&dump);
  }
  struct ka_str deep = {0};
  for (int i = 0; i < 3000; i++) T_OK(ka_str_puts(ctx, &deep, i % 2 ? "[" : "{\"a\":"));
  json_t *v;
  T_FAILS(ka_json_parse(ctx, deep.data, deep.len, NULL, &v), KA_E_INPUT, "nested too deep");
  ka_str_deinit(&deep);
}

/* Known-answer vectors of Random123's kat_vectors for philox4x32-10. */
static void philox_known_answers(void **state) {
  (void)state;
  uint32_t w[4];
  ka_philox(0, 0, 0, w);
  assert_true(w[0] == 0x6627e8d5 && w[1] == 0xe169c58d && w[2] == 0xbc57ac4c && w[3] == 0x9b00dbd8);
  ka_philox(UINT64_MAX, UINT64_MAX, UINT64_MAX, w);
  assert_true(w[0] == 0x408f276d && w[1] == 0x41c83b0e && w[2] == 0xa20bc7c6 && w[3] == 0x6d5451fd);
  ka_philox(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88, w);
  assert_true(w[0] == 0xd16cfe09 && w[1] == 0x94fdcceb && w[2] == 0x5001e420 && w[3] == 0x24126ea1);
  double sum = 0, sq = 0;
  for (int i = 0; i < 20000; i++) {
    double x = ka_rng_normal(1, 2, (uint64_t)i);
    sum += x;
    sq += x * x;
  }
  assert_true(fabs(sum / 20000) < 0.03 && fabs(sq / 20000 - 1) < 0.05);
  int64_t perm[100], seen = 0;
  ka_rng_permutation(3, 4, 100, perm);
  for (int i = 0; i < 100; i++) seen += perm[i];
  assert_int_equal(seen, 4950);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(first_failure_wins),
      cmocka_unit_test(arenas_measure_what_they_allocate),
      cmocka_unit_test(allocation_failure_is_reported),
      cmocka_unit_test(lists_are_words),
      cmocka_unit_test(utf8_is_strict),
      cmocka_unit_test(numbers_parse_whole_strings_only),
      cmocka_unit_test(nearest_name_catches_misspellings),
      cmocka_unit_test(files_appear_whole_or_not_at_all),
      cmocka_unit_test(messages_cannot_command_a_terminal),
      cmocka_unit_test(json_errors_have_a_place),
      cmocka_unit_test(json_is_read_as_python_reads_it),
      cmocka_unit_test(philox_known_answers),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
