/* SPDX-License-Identifier: Apache-2.0
 * The built-in chat templates give what transformers gives (templates.json by make_templates.py),
 * and job.def names exactly those that there are. */
#include "engine/data/chat.h"
#include "engine/job/job_table.h"
#include "tests/support/test.h"

#include <string.h>

static void each_renders_as_in_transformers(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  json_t *cases;
  T_OK(ka_json_load(ctx, "tests/data/templates.json", &cases));
  assert_true(json_array_size(cases) >= 60);
  size_t i;
  json_t *one;
  json_array_foreach(cases, i, one) {
    struct ka_chat *chat;
    struct ka_str out = {0};
    T_OK(ka_chat_load_file(ctx, &chat, json_string_value(json_object_get(one, "name")), NULL));
    T_OK(ka_chat_render(ctx, chat, json_object_get(one, "vars"), NULL, &out, NULL));
    assert_string_equal(out.data, json_string_value(json_object_get(one, "text")));
    ka_str_deinit(&out);
    ka_chat_destroy(chat);
  }
  json_decref(cases);
}

static void the_words_of_the_key_are_the_templates(void **state) {
  (void)state;
  const struct ka_key *key = ka_key_find(&ka_job_table, KA_SCOPE_DATASET, "chat_template");
  char word[64];
  int n = 0;
  for (const char *p = key->choices; *p; n++) {
    size_t len = strcspn(p, "|");
    const char *equals = memchr(p, '=', len), *start = equals ? equals + 1 : p;
    snprintf(word, sizeof word, "%.*s", (int)(p + len - start), start);
    assert_non_null(ka_chat_builtin(word));
    p += len + (p[len] == '|');
  }
  assert_true(n > 20);
  assert_null(ka_chat_builtin("no_such"));
}

static void a_template_may_be_given_as_text(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  struct ka_chat *chat;
  struct ka_str out = {0};
  json_t *vars = json_pack("{s:[{s:s,s:s}]}", "messages", "role", "user", "content", "x");
  T_OK(ka_chat_load_file(ctx, &chat, "{{ messages[0]['content'] }}!", NULL));
  T_OK(ka_chat_render(ctx, chat, vars, NULL, &out, NULL));
  assert_string_equal(out.data, "x!");
  ka_str_deinit(&out);
  json_decref(vars);
  ka_chat_destroy(chat);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(each_renders_as_in_transformers),
      cmocka_unit_test(the_words_of_the_key_are_the_templates),
      cmocka_unit_test(a_template_may_be_given_as_text),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
