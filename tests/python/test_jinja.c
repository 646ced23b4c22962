/* SPDX-License-Identifier: Apache-2.0
 * python/jinja/jinja.h: every case of jinja_cases.json as transformers renders it, places of
 * errors, limits on hostile templates, generation spans, failing allocations. */
#include "python/jinja/jinja.h"
#include "tests/support/test.h"

#include <stdlib.h>
#include <string.h>

static const struct tm fixed_day = {
    .tm_year = 124, .tm_mon = 6, .tm_mday = 26, .tm_wday = 5, .tm_yday = 207};
static const struct ka_jinja_options fixed = {.now = &fixed_day};

static ka_status render_as(struct ka_ctx *ctx, enum ka_jinja_dialect dialect, const char *text,
                           size_t n, const json_t *vars, const struct ka_jinja_options *opts,
                           struct ka_str *out, struct ka_jinja_spans *spans) {
  struct ka_jinja *t;
  ka_str_clear(out);
  KA_TRY(ka_jinja_parse(ctx, &t, dialect, "t", text, n));
  ka_status st = ka_jinja_render(ctx, t, vars, opts, out, spans);
  ka_jinja_destroy(t);
  return st;
}

static ka_status render(struct ka_ctx *ctx, const char *text, size_t n, const json_t *vars,
                        const struct ka_jinja_options *opts, struct ka_str *out,
                        struct ka_jinja_spans *spans) {
  return render_as(ctx, KA_JINJA_CHAT, text, n, vars, opts, out, spans);
}

/* Every case of the file renders as it says, or fails where it says null; how many. */
static size_t check_cases(const char *file, enum ka_jinja_dialect dialect) {
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  json_t *all, *one;
  const char *home = getenv("KAPPA_SOURCE_DIR");
  T_OK(ka_json_load(ctx, t_str("%s/tests/python/%s", home ? home : ".", file), &all));
  const json_t *vars = json_object_get(all, "vars");
  struct ka_str out = {0};
  size_t i;
  json_array_foreach(json_object_get(all, "cases"), i, one) {
    const json_t *template = json_array_get(one, 0), *text = json_array_get(one, 1);
    ka_status st = render_as(ctx, dialect, json_string_value(template),
                             json_string_length(template), vars, &fixed, &out, NULL);
    if (json_is_null(text) && ka_ok(st))
      fail_msg("%s: expected an error, got %s", json_string_value(template), out.data);
    if (!json_is_null(text) && !ka_ok(st))
      fail_msg("%s: %s", json_string_value(template), ctx->error.message);
    if (ka_ok(st)) {
      assert_int_equal(out.len, json_string_length(text));
      if (out.len > 0 && memcmp(out.data, json_string_value(text), out.len) != 0)
        fail_msg("%s: got %s, expected %s", json_string_value(template), out.data,
                 json_string_value(text));
    } else {
      assert_int_equal(st.code, KA_E_INPUT);
      assert_int_equal(strncmp(ctx->error.message, "t:", 2), 0);
    }
    ka_error_clear(ctx);
  }
  ka_str_deinit(&out);
  json_decref(all);
  return i;
}

static void the_cases_of_transformers(void **state) {
  (void)state;
  assert_true(check_cases("jinja_cases.json", KA_JINJA_CHAT) > 1900);
}

static void the_cases_of_the_harness(void **state) {
  (void)state;
  assert_true(check_cases("jinja_task_cases.json", KA_JINJA_TASK) > 100);
}

/* Vars of the short tests below. */
static json_t *some_vars(void) {
  return json_pack("{s:i, s:s, s:[i,i,i], s:{s:i}, s:[{s:s,s:s},{s:s,s:s}]}", "i", 3, "s", "text",
                   "l", 1, 2, 3, "d", "k", 1, "messages", "role", "user", "content", "hi", "role",
                   "assistant", "content", "yo");
}

static void errors_say_where(void **state) {
  (void)state;
  static const struct {
    const char *template, *message;
  } cases[] = {
      {"ab\n  {{ nope.x }}", "t:2:11: 'nope' is undefined, so it has no attribute 'x'"},
      {"{{ 'gr\xc3\xbc\xc3\x9f' }}{{ 1 + 's' }}",
       "t:1:18: '+' is not supported between int and str"},
      {"{% if i %}\n{{ s|nofilter }}{% endif %}", "t:2:6: filter 'nofilter' is not known"},
      {"{{ s|pprint }}", "t:1:6: filter 'pprint' is not supported"},
      {"{{ s is notest }}", "t:1:9: test 'notest' is not known"},
      {"{{ s.encode() }}", "t:1:6: attribute 'encode' of str is not supported"},
      {"{% include 'x' %}", "t:1:4: statement 'include' is not supported"},
      {"{% endfor %}", "t:1:4: unknown or misplaced statement 'endfor'"},
      {"{% for x in l %}", "t:1:17: the template ends before {% endfor %}"},
      {"{{ 'abc }}", "t:1:4: string without its closing quote"},
      {"{{ (1 }}", "t:1:7: unexpected '}', expected ')'"},
      {"{{ 1 ", "t:1:1: {{ is never closed"},
      {"{{ [1) }}", "t:1:6: unexpected ')', expected ']'"},
      {"x {# y", "t:1:3: comment without its end"},
      {"{% raw %} y", "t:1:1: raw block without an endraw"},
      {"{{ 99999999999999999999 }}", "t:1:4: integers above 64 bits"},
      {"{{ 9223372036854775807 + 1 }}", "t:1:24: the result does not fit into 64 bits"},
      {"{{ raise_exception('only ' ~ i) }}", "the template refuses this conversation: only 3"},
      {"{{ l.append(4) }}", "'append' is undefined and cannot be called"},
      {"{{ l|map('upper') }}", "a generator cannot be printed; add |list"},
      {"{{ d.items }}", "a method cannot be printed; call it with ()"},
      {"{{ 1 // 0 }}", "t:1:6: division by zero"},
      {"{{ undefd|tojson }}", "'undefd' is undefined and has no JSON form"},
      {"\xff", "t:1:1: not valid UTF-8"},
  };
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  json_t *vars = some_vars();
  struct ka_str out = {0};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    T_FAILS(render(ctx, cases[i].template, strlen(cases[i].template), vars, NULL, &out, NULL),
            KA_E_INPUT, cases[i].message);
  ka_str_deinit(&out);
  json_decref(vars);
}

/* --- hostile templates ------------------------------------------------------------------------ */

static char *repeated(const char *part, int times, const char *end) {
  size_t n = strlen(part);
  char *text = malloc(n * (size_t)times + strlen(end) + 1);
  assert_non_null(text);
  for (int i = 0; i < times; i++) memcpy(text + n * (size_t)i, part, n);
  strcpy(text + n * (size_t)times, end);
  return text;
}

static void hostile_templates_end_with_a_message(void **state) {
  (void)state;
  static const struct {
    const char *template, *message;
  } cases[] = {
      {"{{ range(1000000000) }}", "more than 100000 items"},
      {"{% for x in range(999) %}{% for y in range(999) %}{% endfor %}{% endfor %}", "steps"},
      {"{{ 'x' * 1000000000000 }}", "longer than 1 MiB"},
      {"{{ [1] * 1000000000000 }}", "too many items"},
      {"{% set ns = namespace(s='x') %}{% for x in range(99) %}{% set ns.s = ns.s + ns.s %}"
       "{% endfor %}",
       "longer than 1 MiB"},
      {"{% set ns = namespace(s=[1]) %}{% for x in range(99) %}{% set ns.s = ns.s + ns.s %}"
       "{% endfor %}",
       "the template "},
      {"{% set ns = namespace(s=[]) %}{% for x in range(999) %}{% set ns.s = [ns.s] %}{% endfor %}"
       "{{ ns.s }}",
       "nested more than"},
      {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested more than"},
      {"{% for x in range(100000) %}{{ 'yyyyyyyyyyyyyyyyyyyyyyyy' }}{% endfor %}", "longer than"},
      {"{{ '%999999999d' % 1 }}", "longer than 1 MiB"},
      {"{{ '{:999999999}'.format(1) }}", "longer than 1 MiB"},
      {"{{ 'x'|center(999999999) }}", "longer than 1 MiB"},
      {"{{ 'a\nb'|indent(999999999) }}", "longer than 1 MiB"},
      {"{{ [1]|batch(999999999, 0)|list }}", "steps"},
      {"{{ l|tojson(indent=999999999) }}", "longer than 1 MiB"},
      {"{{ 2 ** 99999 }}", "64 bits"},
  };
  const struct ka_jinja_options tight = {
      .limits = {.max_steps = 200000, .max_out_bytes = 1 << 20, .max_total_bytes = 64 << 20}};
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  json_t *vars = some_vars();
  struct ka_str out = {0};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    T_FAILS(render(ctx, cases[i].template, strlen(cases[i].template), vars, &tight, &out, NULL),
            KA_E_INPUT, cases[i].message);
  /* Without limits of the caller's: a width is never cut to one that fits. */
  static const char *const wide[] = {"{{ '%999999999d' % 3 }}", "{{ '%-999999999s' % 'x' }}",
                                     "{{ '{:<99999999999999999999}'.format(3) }}",
                                     "{{ 'x'.rjust(9999999999) }}", "{{ 'x' * 999999999 }}"};
  for (size_t i = 0; i < sizeof wide / sizeof *wide; i++)
    T_FAILS(render(ctx, wide[i], strlen(wide[i]), vars, NULL, &out, NULL), KA_E_INPUT,
            "longer than 64 MiB");
  static const struct {
    const char *part, *end, *message;
  } deep[] = {{"{{ (", "", "is not"},
              {"(", "", NULL},
              {"[", "", NULL},
              {"-", "1", NULL},
              {"not ", "1", NULL},
              {"1 + ", "1", NULL},
              {"{% if 1 %}", "", "nested"},
              {"{% for x in l %}", "", "nested"},
              {"1 if 1 else ", "1", NULL},
              {"l|map(", "", NULL},
              {"{% filter upper %}", "", "nested"}};
  for (size_t i = 0; i < sizeof deep / sizeof *deep; i++) {
    bool statement = deep[i].part[0] == '{';
    char *body = repeated(deep[i].part, 20000, deep[i].end);
    const char *text = statement ? body : t_str("{{ %s }}", body);
    ka_status st = render(ctx, text, strlen(text), vars, &tight, &out, NULL);
    assert_int_equal(st.code, KA_E_INPUT);
    ka_error_clear(ctx);
    free(body);
  }
  ka_str_deinit(&out);
  json_decref(vars);
}

/* --- spans, questions ------------------------------------------------------------------------ */

static void generation_blocks_are_marked(void **state) {
  (void)state;
  static const char text[] =
      "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}"
      "{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}";
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  json_t *vars = some_vars();
  struct ka_str out = {0};
  struct ka_jinja_spans spans = {0};
  T_OK(render(ctx, text, strlen(text), vars, NULL, &out, &spans));
  assert_string_equal(out.data, "<user>hi<assistant>yo");
  assert_int_equal(spans.n, 1);
  assert_int_equal(spans.at[0].begin, 19);
  assert_int_equal(spans.at[0].end, 21);
  static const char inside[] =
      "{% macro m() %}{% generation %}x{% endgeneration %}{% endmacro %}{{ m() }}";
  T_FAILS(render(ctx, inside, strlen(inside), vars, NULL, &out, &spans), KA_E_UNSUPPORTED,
          "inside a macro");
  T_OK(render(ctx, inside, strlen(inside), vars, NULL, &out, NULL));
  assert_string_equal(out.data, "x");
  ka_free(spans.at);
  ka_str_deinit(&out);
  json_decref(vars);
}

static void templates_answer_questions(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  struct ka_jinja *t;
  static const char plain[] = "{{ messages }}", marked[] = "{% generation %}{% endgeneration %}";
  T_OK(ka_jinja_parse(ctx, &t, KA_JINJA_CHAT, "t", plain, strlen(plain)));
  assert_false(ka_jinja_has_generation(t));
  assert_true(ka_jinja_mentions(t, "messages"));
  assert_false(ka_jinja_mentions(t, "tools"));
  ka_jinja_destroy(t);
  T_OK(ka_jinja_parse(ctx, &t, KA_JINJA_CHAT, "t", marked, strlen(marked)));
  assert_true(ka_jinja_has_generation(t));
  struct ka_str out = {0};
  json_t *list = json_array();
  T_FAILS(ka_jinja_render(ctx, t, list, NULL, &out, NULL), KA_E_INPUT, "not a JSON object");
  json_decref(list);
  ka_jinja_destroy(t);
  ka_jinja_destroy(NULL);
}

static void every_failing_allocation_is_survived(void **state) {
  (void)state;
  static const char text[] =
      "{%- macro m(a, b=[1, 2]) -%}{{ a ~ b|tojson }}{%- endmacro -%}"
      "{% set ns = namespace(n=0) %}{% for x in l if x > 1 %}{% set ns.n = ns.n + loop.length %}"
      "{{ m(x) }}{{ '%5d' % x }}{% endfor %}{% generation %}{{ l|sort|map('string')|join }}"
      "{% endgeneration %}{{ 'y' * 70000 }}{{ s.split('e')|list }}";
  struct ka_ctx c, *ctx = &c;
  json_t *vars = some_vars();
  int n = 0;
  for (;; n++) {
    struct ka_str out = {0};
    struct ka_jinja_spans spans = {0};
    ka_ctx_init(ctx);
    ctx->fail_alloc_at = n + 1;
    ka_status st = render(ctx, text, strlen(text), vars, NULL, &out, &spans);
    bool done = ctx->fail_alloc_at > 0;
    if (!done) assert_int_equal(st.code, KA_E_MEMORY);
    if (done) assert_true(ka_ok(st));
    ka_str_deinit(&out);
    ka_free(spans.at);
    if (done) break;
  }
  assert_true(n > 8);
  json_decref(vars);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_cases_of_transformers),
      cmocka_unit_test(the_cases_of_the_harness),
      cmocka_unit_test(errors_say_where),
      cmocka_unit_test(hostile_templates_end_with_a_message),
      cmocka_unit_test(generation_blocks_are_marked),
      cmocka_unit_test(templates_answer_questions),
      cmocka_unit_test(every_failing_allocation_is_survived),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
