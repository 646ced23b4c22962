/* SPDX-License-Identifier: Apache-2.0
 * kappa generate: ways to give what is continued, texts that end answers, batches, drawing among
 * some. A random model of bytes: what it writes does not matter, only that it is the same. */
#include "base/json.h"
#include "tests/support/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct ka_ctx context, *ctx = &context;
static const char *model;

static const char *home(const char *path) {
  const char *dir = getenv("KAPPA_SOURCE_DIR");
  return t_str("%s/%s", dir ? dir : ".", path);
}

static int setup(void **state) {
  (void)state;
  ka_ctx_init(ctx);
  model = t_temp_dir();
  return t_kappa(NULL, NULL, "init --config %s --out %s --seed 1 --tokenizer bytes --dtype f32",
                 home("tests/eval/bytes.json"), model);
}

/* What it prints; input: for stdin, NULL: nothing. */
static const char *generate(const char *input, const char *args) {
  struct ka_str out = {0};
  const char *bin = getenv("KAPPA_BIN"), *path = t_str("%s/input", model);
  T_OK(ka_write_file(ctx, path, input ? input : "", input ? strlen(input) : 0));
  int rc = system(t_str("%s generate %s --quiet %s < %s > %s/out", bin ? bin : "build/kappa", model,
                        args, path, model));
  if (rc != 0) fail_msg("%s: exit %d", args, rc);
  T_OK(ka_read_file(ctx, t_str("%s/out", model), 0, &out));
  const char *text = t_str("%s", out.data ? out.data : "");
  ka_str_deinit(&out);
  return text;
}

static void refused(const char *args, int code, const char *part) {
  struct ka_str err = {0};
  int rc = t_kappa(NULL, &err, "generate %s --quiet %s", model, args);
  if (rc != code || !err.data || !strstr(err.data, part))
    fail_msg("%s: exit %d, %s; expected %d with %s", args, rc, err.data ? err.data : "", code,
             part);
  ka_str_deinit(&err);
}

static void a_prompt_comes_from_anywhere(void **state) {
  (void)state;
  const char *ids = generate(NULL, "--prompt 'a b' --max-tokens 9 --ids");
  assert_string_equal(generate("a b\n", "--prompt - --max-tokens 9 --ids"), ids);
  assert_string_equal(generate("a b\r\n", "--max-tokens 9 --ids"), ids);
  assert_string_not_equal(generate("a b\n\n", "--max-tokens 9 --ids"), ids);
  refused("--prompt x --prompts y", 2, "exclude each other");
  refused("--prompt x --stop ''", 2, "--stop: got an empty text");
  refused("--prompt x --top-k 3", 2, "without meaning unless --temperature");
  refused("--prompt x --temperature 1 --top-p 2", 2, "--top-p: got 2, expected 0 to 1");
  refused("--prompt x --system y", 2, "no chat template");
}

static void a_stop_text_ends_the_answer(void **state) {
  (void)state;
  const char *whole = generate(NULL, "--prompt abc --max-tokens 40 --temperature 1 --seed 5");
  size_t n = strlen(whole);
  assert_true(n > 20);
  const char *stop = ""; /* two plain letters in a row, behind the prompt */
  for (size_t i = 6; i + 3 < n && !*stop; i++) {
    bool plain = true;
    for (size_t k = i; k < i + 2; k++)
      plain =
          plain && ((whole[k] >= 'a' && whole[k] <= 'z') || (whole[k] >= 'A' && whole[k] <= 'Z'));
    if (plain) stop = t_str("%.2s", whole + i);
  }
  if (!*stop) skip();
  const char *cut = generate(
      NULL, t_str("--prompt abc --max-tokens 40 --temperature 1 --seed 5 --stop zzzz %s", stop));
  const char *at = strstr(whole + 3, stop);
  assert_int_equal(strlen(cut), (size_t)(at - whole) + 1);
  assert_memory_equal(cut, whole, (size_t)(at - whole));
}

static void few_tokens_to_draw_from(void **state) {
  (void)state;
  const char *best = generate(NULL, "--prompt abc --max-tokens 12 --ids");
  assert_string_equal(
      generate(NULL, "--prompt abc --max-tokens 12 --ids --temperature 1 --top-k 1"), best);
  assert_string_equal(
      generate(NULL, "--prompt abc --max-tokens 12 --ids --temperature 1 --top-p 0"), best);
  assert_string_equal(
      generate(NULL, "--prompt abc --max-tokens 12 --ids --temperature 1 --min-p 1"), best);
}

static void conversations(void **state) {
  (void)state;
  const char *file = t_str("%s/talk.json", model),
             *template = t_str("%s/chat_template.jinja", model);
  static const char talk[] =
      "[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":\"q\"}]";
  static const char text[] = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<a>";
  T_OK(ka_write_file(ctx, file, talk, sizeof talk - 1));
  T_OK(ka_write_file(ctx, template, text, sizeof text - 1));
  const char *want = generate(NULL, "--prompt '<system>S<user>q<a>' --max-tokens 8 --ids");
  assert_string_equal(generate(NULL, t_str("--messages %s --max-tokens 8 --ids", file)), want);
  assert_string_equal(generate(talk, "--messages - --max-tokens 8 --ids"), want);
  assert_string_equal(generate(NULL, "--prompt q --system S --max-tokens 8 --ids"), want);
  assert_string_equal(generate("q\n", "--chat --system S --max-tokens 8 --ids"), want);
  refused(t_str("--messages %s --system S", file), 2, "begins with a system message");
}

static void a_batch_is_as_one_by_one(void **state) {
  (void)state;
  const char *file = t_str("%s/batch.jsonl", model);
  const char *rows = "{\"prompt\":\"abc\",\"id\":7}\n\n\"x\"\n{\"messages\":[{\"role\":\"user\","
                     "\"content\":\"q\"}]}\n";
  struct ka_str out = {0}, err = {0};
  json_t *row;
  T_OK(ka_write_file(ctx, file, rows, strlen(rows)));
  assert_int_equal(
      t_kappa(&out, &err, "generate %s --prompts %s --max-tokens 8 --stop @@", model, file), 0);
  assert_non_null(strstr(err.data, "done: 3 answers, "));
  assert_non_null(strstr(err.data, " tok/s, peak memory "));
  ka_str_deinit(&err);
  char *line = strtok(out.data, "\n");
  T_OK(ka_json_parse(ctx, line, strlen(line), "row", &row));
  assert_int_equal(json_integer_value(json_object_get(row, "id")), 7);
  assert_non_null(json_object_get(row, "text"));
  json_decref(row);
  line = strtok(NULL, "\n");
  assert_memory_equal(line, "{\"prompt\":\"x\",\"text\":", 20);
  line = strtok(NULL, "\n");
  assert_memory_equal(line, "{\"messages\":", 12);
  assert_null(strtok(NULL, "\n"));
  ka_str_deinit(&out);
  T_OK(ka_write_file(ctx, file, "\"x\"\n{\"promt\":\"y\"}\n", 18));
  refused(t_str("--prompts %s", file), 2, "batch.jsonl:2: expected a \"prompt\"");
  T_OK(ka_write_file(ctx, file, "\n", 1));
  refused(t_str("--prompts %s", file), 2, "no prompt");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_prompt_comes_from_anywhere), cmocka_unit_test(a_stop_text_ends_the_answer),
      cmocka_unit_test(few_tokens_to_draw_from),      cmocka_unit_test(conversations),
      cmocka_unit_test(a_batch_is_as_one_by_one),
  };
  return cmocka_run_group_tests(tests, setup, NULL);
}
