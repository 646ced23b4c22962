/* SPDX-License-Identifier: Apache-2.0
 * kappa init --job: what rows are is seen from them, and the job plans as it is written. */
#include "tests/support/test.h"

#include <string.h>

static struct ka_ctx context, *ctx = &context;
static const char *home;

static int fresh(void **state) {
  static const char config[] =
      "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"vocab_size\":300,"
      "\"hidden_size\":16,\"num_hidden_layers\":1,\"num_attention_heads\":2,"
      "\"intermediate_size\":16,\"max_position_embeddings\":512}";
  (void)state;
  ka_ctx_init(ctx);
  home = t_temp_dir();
  const char *path = t_str("%s/c.json", home);
  T_OK(ka_write_file(ctx, path, config, strlen(config)));
  assert_int_equal(
      t_kappa(NULL, NULL, "init --config %s --out %s/base --tokenizer bytes", path, home), 0);
  return 0;
}

static void put(const char *name, const char *row, int n) {
  struct ka_str text = {0};
  for (int i = 0; i < n; i++) T_OK(ka_str_printf(ctx, &text, "%s\n", row));
  T_OK(ka_write_file(ctx, t_str("%s/%s", home, name), text.data, text.len));
  ka_str_deinit(&text);
}

static const struct {
  const char *file, *row, *want;
} cases[] = {
    {"m.jsonl",
     "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":"
     "\"b\"}]}",
     "type: chat_template, chat_template: chatml}"},
    {"s.jsonl",
     "{\"conversations\":[{\"from\":\"human\",\"value\":\"a\"},{\"from\":\"gpt\",\"value\":\"b\"}]"
     "}",
     "type: chat_template, field_messages: conversations, message_property_mappings: {role: from, "
     "content: value}, chat_template: chatml}"},
    {"a.jsonl", "{\"instruction\":\"a\",\"input\":\"\",\"output\":\"b\"}", "type: alpaca}"},
    {"q.jsonl", "{\"question\":\"a\",\"answer\":\"b\"}",
     "type: alpaca, field_instruction: question, field_output: answer}"},
    {"io.jsonl", "{\"input\":\"a\",\"output\":\"b\"}",
     "type: alpaca, field_instruction: input, field_input: none}"},
    {"p.jsonl", "{\"prompt\":\"a\",\"completion\":\"b\"}", "type: prompt_completion}"},
    {"t.jsonl", "{\"text\":\"once upon a time\"}", "type: completion}"},
    {"f.jsonl", "{\"id\":3,\"story\":\"once upon\"}", "type: completion, field: story}"},
    {"i.jsonl", "{\"input_ids\":[1,2,3]}", "type: tokenized}"},
    {"g.jsonl", "{\"segments\":[{\"label\":true,\"text\":\"abc\"}]}", "type: input_output}"},
    {"c.csv", "question,answer\na,b", "type: alpaca, field_instruction: question"},
    {"a text.txt", "once upon a time", "a text.txt\", type: completion}"},
};

static void jobs_plan_as_they_are(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct ka_str text = {0};
    const char *job = t_str("%s/job%zu.yaml", home, i);
    put(cases[i].file, cases[i].row, strstr(cases[i].file, ".csv") ? 1 : 40);
    if (strstr(cases[i].file, ".csv")) put(cases[i].file, "question,answer\nwhy,so", 1);
    assert_int_equal(
        t_kappa(NULL, NULL, "init --job %s/base '%s/%s' --out %s", home, home, cases[i].file, job),
        0);
    T_OK(ka_read_file(ctx, job, 0, &text));
    if (!strstr(text.data, cases[i].want)) fail_msg("%s: %s", cases[i].file, text.data);
    ka_str_deinit(&text);
    if (strstr(cases[i].file, ".csv")) continue; /* one row is none when some are set aside */
    if (t_kappa(NULL, &text, "plan %s output_dir=%s/out", job, home) != 0)
      fail_msg("%s: %s", cases[i].file, text.data);
    ka_str_deinit(&text);
  }
}

static void what_is_unknown_is_named(void **state) {
  struct ka_str err = {0};
  (void)state;
  put("x.jsonl", "{\"foo\":\"a\",\"bar\":\"b\"}", 3);
  assert_int_equal(t_kappa(NULL, &err, "init --job %s/base %s/x.jsonl", home, home), 2);
  assert_non_null(strstr(err.data, "\"foo\", \"bar\""));
  ka_str_clear(&err);
  put("d.jsonl", "{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"c\"}", 3);
  assert_int_equal(t_kappa(NULL, &err, "init --job %s/base %s/d.jsonl", home, home), 2);
  assert_non_null(strstr(err.data, "preferences"));
  ka_str_deinit(&err);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(jobs_plan_as_they_are),
      cmocka_unit_test(what_is_unknown_is_named),
  };
  return cmocka_run_group_tests(tests, fresh, NULL);
}
