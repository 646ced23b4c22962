/* SPDX-License-Identifier: Apache-2.0
 * engine/data/chat.h: homes of templates, named tokens, variables; the goldens of transformers. */
#include "engine/data/chat.h"
#include "tests/support/test.h"

#include <string.h>

/* 26 July 2024, as the goldens have it. */
static const struct tm fixed_day = {
    .tm_year = 124, .tm_mon = 6, .tm_mday = 26, .tm_wday = 5, .tm_yday = 207};

static void put(const char *dir, const char *name, const char *text) {
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  T_OK(ka_make_dirs(ctx, dir));
  T_OK(ka_write_file(ctx, t_str("%s/%s", dir, name), text, strlen(text)));
}

/* Renders a conversation given as JSON; the text lives until the program ends. */
static const char *rendered(struct ka_ctx *ctx, const char *dir, const char *vars_json) {
  struct ka_chat *chat;
  struct ka_str out = {0};
  json_t *vars;
  T_OK(ka_chat_load_model(ctx, &chat, dir));
  T_OK(ka_json_parse(ctx, vars_json, strlen(vars_json), "vars", &vars));
  T_OK(ka_chat_render(ctx, chat, vars, NULL, &out, NULL));
  const char *text = t_str("%s", out.data ? out.data : "");
  ka_str_deinit(&out);
  json_decref(vars);
  ka_chat_destroy(chat);
  return text;
}

static const char hello[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}";
static const char hello_tools[] =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}], \"tools\": [{\"name\": \"f\"}]}";

static void the_jinja_file_wins_over_the_config(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  const char *dir = t_temp_dir();
  put(dir, "tokenizer_config.json",
      "{\"chat_template\": \"config {{ bos_token }}\", \"bos_token\": \"<s>\"}");
  assert_string_equal(rendered(ctx, dir, hello), "config <s>");
  put(dir, "chat_template.jinja", "file {{ bos_token }}");
  assert_string_equal(rendered(ctx, dir, hello), "file <s>");
}

static void tools_choose_the_tool_template(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  const char *dir = t_temp_dir();
  put(dir, "tokenizer_config.json",
      "{\"chat_template\": [{\"name\": \"default\", \"template\": \"plain\"},"
      " {\"name\": \"tool_use\", \"template\": \"tools {{ tools|length }}\"}]}");
  assert_string_equal(rendered(ctx, dir, hello), "plain");
  assert_string_equal(rendered(ctx, dir, hello_tools), "tools 1");
  const char *other = t_temp_dir();
  put(other, "chat_template.jinja", "one");
  put(t_str("%s/additional_chat_templates", other), "tool_use.jinja", "two");
  assert_string_equal(rendered(ctx, other, hello), "one");
  assert_string_equal(rendered(ctx, other, hello_tools), "two");
}

static void missing_and_malformed_templates_are_named(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  struct ka_chat *chat;
  const struct ka_jinja *jinja;
  const char *dir = t_temp_dir();
  T_OK(ka_chat_load_model(ctx, &chat, dir));
  assert_false(ka_chat_has_template(chat));
  T_FAILS(ka_chat_template(ctx, chat, NULL, false, &jinja), KA_E_INPUT, "no chat template");
  ka_chat_destroy(chat);
  put(dir, "tokenizer_config.json",
      "{\"chat_template\": [{\"name\": \"rag\", \"template\": \"x\"}]}");
  T_OK(ka_chat_load_model(ctx, &chat, dir));
  T_FAILS(ka_chat_template(ctx, chat, NULL, false, &jinja), KA_E_INPUT, "there are: rag");
  T_OK(ka_chat_template(ctx, chat, "rag", false, &jinja));
  ka_chat_destroy(chat);
  put(dir, "tokenizer_config.json",
      "{\"chat_template\": [{\"name\": \"default\", \"template\": \"x\"},"
      " {\"name\": \"tool_use\", \"template\": \"{{\"}]}");
  T_OK(ka_chat_load_model(ctx, &chat, dir));
  T_OK(ka_chat_template(ctx, chat, NULL, false, &jinja));
  T_FAILS(ka_chat_template(ctx, chat, NULL, true, &jinja), KA_E_INPUT, "\"tool_use\":1:1: {{ is");
  ka_chat_destroy(chat);
  put(dir, "tokenizer_config.json", "{\"chat_template\": 7}");
  T_FAILS(ka_chat_load_model(ctx, &chat, dir), KA_E_INPUT, "expected a string or a list");
  put(dir, "tokenizer_config.json", "{\"chat_template\": [{\"name\": \"a\"}]}");
  T_FAILS(ka_chat_load_model(ctx, &chat, dir), KA_E_INPUT, "chat_template[0]");
  put(dir, "chat_template.jinja", "{% if %}");
  T_FAILS(ka_chat_load_model(ctx, &chat, dir), KA_E_INPUT, "chat_template.jinja:1:7");
  T_FAILS(ka_chat_load_file(ctx, &chat, t_str("%s/none.jinja", dir), NULL), KA_E_INPUT, "none");
}

static void tokens_come_as_text_or_objects(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  const char *dir = t_temp_dir();
  put(dir, "tokenizer_config.json",
      "{\"add_bos_token\": true, \"bos_token\": {\"content\": \"<b>\"}, \"eos_token\": \"</s>\","
      " \"pad_token\": null, \"extra_special_tokens\": {\"image_token\": \"<img>\"}}");
  put(dir, "special_tokens_map.json", "{\"unk_token\": {\"content\": \"<unk>\"}}");
  put(dir, "chat_template.jinja",
      "{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ image_token }}{{ pad_token is defined }}"
      "{{ add_bos_token is defined }}{{ tools }}{{ documents }}{{ add_generation_prompt }}");
  assert_string_equal(rendered(ctx, dir, hello), "<b></s><unk><img>FalseFalseNoneNoneFalse");
  assert_string_equal(
      rendered(ctx, dir,
               "{\"messages\": [{}], \"bos_token\": \"X\", \"add_generation_prompt\": true}"),
      "X</s><unk><img>FalseFalseNoneNoneTrue");
  struct ka_chat *chat;
  T_OK(ka_chat_load_model(ctx, &chat, dir));
  assert_string_equal(ka_chat_token(chat, "eos_token"), "</s>");
  assert_null(ka_chat_token(chat, "pad_token"));
  ka_chat_destroy(chat);
}

static void messages_are_prepared_as_transformers_does(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  const char *dir = t_temp_dir();
  put(dir, "chat_template.jinja", "{{ messages[0]|tojson }}");
  assert_string_equal(
      rendered(ctx, dir, "{\"messages\": [{\"role\": \"a\", \"content\": null, \"b\": [null]}]}"),
      "{\"role\": \"a\", \"b\": [null]}");
  assert_string_equal(
      rendered(ctx, dir, "{\"messages\": [{\"role\": \"a\", \"reasoning\": \"r\"}]}"),
      "{\"thinking\": \"r\", \"role\": \"a\", \"reasoning\": \"r\", \"reasoning_content\": \"r\"}");
  struct ka_chat *chat;
  struct ka_str out = {0};
  static const struct {
    const char *vars, *message;
  } bad[] = {{"{}", "no messages"},
             {"{\"messages\": []}", "no messages"},
             {"{\"messages\": 3}", "expected an array"},
             {"{\"messages\": [3]}", "messages[0]"},
             {"{\"messages\": [{}], \"tools\": [1]}", "tools[0]"}};
  T_OK(ka_chat_load_model(ctx, &chat, dir));
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    json_t *vars;
    T_OK(ka_json_parse(ctx, bad[i].vars, strlen(bad[i].vars), "vars", &vars));
    T_FAILS(ka_chat_render(ctx, chat, vars, NULL, &out, NULL), KA_E_INPUT, bad[i].message);
    json_decref(vars);
  }
  ka_chat_destroy(chat);
  ka_str_deinit(&out);
}

/* --- goldens ---------------------------------------------------------------------------------- */

static void one_golden(struct ka_ctx *ctx, const struct ka_chat *chat, const char *name,
                       json_t *vars, const json_t *expected) {
  const struct ka_jinja_options opts = {.now = &fixed_day};
  struct ka_str out = {0};
  ka_status st = ka_chat_render(ctx, chat, vars, &opts, &out, NULL);
  const char *text = json_string_value(json_object_get(expected, "text"));
  if (!text) {
    if (ka_ok(st)) fail_msg("%s: expected an error, got: %s", name, out.data);
    assert_int_equal(st.code, KA_E_INPUT);
    ka_error_clear(ctx);
  } else {
    t_ok(ctx, st, name, __FILE__, __LINE__);
    assert_string_equal(out.data ? out.data : "", text);
  }
  ka_str_deinit(&out);
}

static void goldens_of_transformers(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  T_DATA(data);
  ka_ctx_init(ctx);
  json_t *golden;
  T_OK(ka_json_load(ctx, t_str("%s/templates/golden.json", data), &golden));
  const char *name, *conversation;
  json_t *cases, *expected;
  int n = 0;
  json_object_foreach(json_object_get(golden, "expected"), name, cases) {
    struct ka_chat *chat;
    T_OK(ka_chat_load_file(ctx, &chat, t_str("%s/templates/%s.jinja", data, name), NULL));
    json_object_foreach(cases, conversation, expected) {
      json_t *vars = json_copy(json_object_get(golden, "context"));
      json_object_del(vars, "tools");
      json_object_del(vars, "strftime_now");
      json_object_update(vars,
                         json_object_get(json_object_get(golden, "conversations"), conversation));
      one_golden(ctx, chat, t_str("%s, %s", name, conversation), vars, expected);
      json_decref(vars);
      n++;
    }
    ka_chat_destroy(chat);
  }
  json_decref(golden);
  assert_int_equal(n, 120);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_jinja_file_wins_over_the_config),
      cmocka_unit_test(tools_choose_the_tool_template),
      cmocka_unit_test(missing_and_malformed_templates_are_named),
      cmocka_unit_test(tokens_come_as_text_or_objects),
      cmocka_unit_test(messages_are_prepared_as_transformers_does),
      cmocka_unit_test(goldens_of_transformers),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
