/* SPDX-License-Identifier: Apache-2.0
 * kappa tokenize MODEL --chat: the text of a conversation, its tokens, bad input. */
#include "tests/support/test.h"
#include "tokenizer/tokenizer.h"

#include <string.h>

static const char *put(struct ka_ctx *ctx, const char *dir, const char *name, const char *text) {
  const char *path = t_str("%s/%s", dir, name);
  T_OK(ka_write_file(ctx, path, text, strlen(text)));
  return path;
}

static void prints(const char *args, const char *expected) {
  struct ka_str out = {0};
  assert_int_equal(t_kappa(&out, NULL, "%s", args), 0);
  assert_string_equal(out.data ? out.data : "", expected);
  ka_str_deinit(&out);
}

static void refuses(const char *args, const char *message) {
  struct ka_str out = {0}, err = {0};
  assert_int_equal(t_kappa(&out, &err, "%s", args), 2);
  assert_int_equal(out.len, 0);
  if (!err.data || !strstr(err.data, message)) fail_msg("%s: got %s", message, err.data);
  ka_str_deinit(&out);
  ka_str_deinit(&err);
}

static void a_conversation_is_rendered(void **state) {
  (void)state;
  static const char *const special[] = {"<s>"};
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  const char *dir = t_temp_dir();
  T_OK(ka_tokenizer_write_byte_level(ctx, t_str("%s/tokenizer.json", dir), special, 1));
  put(ctx, dir, "tokenizer_config.json",
      "{\"bos_token\": \"<s>\", \"chat_template\": \"{{ bos_token }}{{ messages[0].content }}\"}");
  const char *hi = put(ctx, dir, "hi.json", "{\"messages\": [{\"content\": \"Hi\"}]}");
  const char *list = put(ctx, dir, "list.json", "[{\"content\": \"Yo\"}]");
  const char *own = put(ctx, dir, "own.json",
                        "{\"messages\": [{}], \"bos_token\": \"B\", \"x\": 7,"
                        " \"strftime_now\": \"2024-07-26\"}");
  const char *other =
      put(ctx, dir, "other.jinja", "{{ bos_token ~ x }} {{ strftime_now('%a %d %b %Y %j') }}\n");
  prints(t_str("tokenize %s --chat %s --text", dir, hi), "<s>Hi");
  prints(t_str("tokenize %s --chat %s --text", dir, list), "<s>Yo");
  prints(t_str("tokenize %s --chat %s --text --template %s", dir, own, other),
         "B7 Fri 26 Jul 2024 208");
  prints(t_str("tokenize %s --chat %s --ids", dir, hi), "256 72 105\n");

  refuses(t_str("tokenize %s --chat %s/none.json --text", dir, dir), "none.json");
  refuses(t_str("tokenize %s/none --chat %s --text --template %s", dir, hi, other),
          "no such model");
  refuses(t_str("tokenize %s --text", dir), "go with --chat");
  refuses(t_str("tokenize %s --chat %s --text", dir, put(ctx, dir, "n.json", "7")),
          "expected an object with messages");
  refuses(t_str("tokenize %s --chat %s --text", dir,
                put(ctx, dir, "d.json", "{\"messages\": [{}], \"strftime_now\": \"soon\"}")),
          "expected a day");
  refuses(t_str("tokenize %s --chat %s --text --template %s", dir, hi,
                put(ctx, dir, "bad.jinja", "a\n{{ nope.x }}")),
          "bad.jinja:2:9: 'nope' is undefined");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(a_conversation_is_rendered)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
