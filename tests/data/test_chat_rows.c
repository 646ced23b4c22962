/* SPDX-License-Identifier: Apache-2.0
 * Rows of type chat_template: the text, and which tokens of it are trained. */
#include "engine/train/data.h"
#include "tests/support/fresh.h"

#include <stdio.h>
#include <string.h>

static const char *const chatml =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% if m.tool_calls %}CALL "
    "{{ m.tool_calls[0].name }}{% endif %}<|im_end|>\n{% endfor %}";

static void put(const char *dir, const char *name, const char *text) {
  T_OK(ka_write_file(ctx, t_str("%s/%s", dir, name), text, strlen(text)));
}

/* The document of one row, trained tokens between [ and ]. */
static const char *shown(const char *template, const char *row, const char *entry,
                         const char *top) {
  static const char *const special[] = {"<|im_start|>", "<|im_end|>"};
  const char *dir = t_temp_dir();
  struct ka_tokenizer *t;
  struct ka_job j;
  struct ka_data *d;
  struct ka_str s = {0};
  T_OK(ka_make_dirs(ctx, t_str("%s/m", dir)));
  put(dir, "m/chat_template.jinja", template);
  put(dir, "m/tokenizer_config.json", "{\"eos_token\":\"<|im_end|>\"}");
  put(dir, "a.jsonl", row);
  T_OK(ka_tokenizer_write_byte_level(ctx, t_str("%s/m/tokenizer.json", dir), special, 2));
  T_OK(ka_tokenizer_open(ctx, &t, t_str("%s/m", dir)));
  const char *yaml = t_str("base_model: m\nval_set_size: 0\ndatasets: [{path: a.jsonl, type: "
                           "chat_template%s}]\n%s\n",
                           entry, top);
  T_OK(ka_job_parse(ctx, &j, yaml, strlen(yaml), "job.yaml", dir, NULL, 0));
  struct ka_data_spec spec = ka_train_data_spec(&j, NULL);
  if (!ka_ok(ka_data_open(ctx, &d, &spec, t, 258))) {
    const char *message =
        t_str("%s", strstr(ctx->error.message, "a.jsonl") ? strstr(ctx->error.message, "a.jsonl")
                                                          : ctx->error.message);
    ka_error_clear(ctx);
    ka_job_close(&j);
    ka_tokenizer_close(t);
    return message;
  }
  int32_t ids[512], labels[512];
  int64_t n = ka_data_document(d, KA_DATA_TRAIN, 0, 512, ids, labels);
  bool on = false;
  for (int64_t i = 0; i < n; i++) {
    if ((labels[i] != -100) != on) T_OK(ka_str_puts(ctx, &s, on ? "]" : "["));
    on = labels[i] != -100;
    T_OK(ka_tokenizer_decode(ctx, t, &ids[i], 1, false, &s));
  }
  if (on) T_OK(ka_str_puts(ctx, &s, "]"));
  const char *text = t_str("%s", s.data);
  ka_str_deinit(&s);
  ka_data_close(d);
  ka_job_close(&j);
  ka_tokenizer_close(t);
  return text;
}

static const char *const two_turns =
    "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"a "
    "a\"},"
    "{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\"}]}\n";

static void answers_and_their_ends_are_trained(void **state) {
  (void)state;
  static const struct {
    const char *entry, *top, *text;
  } cases[] = {
      {"", "",
       "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n[a a<|im_end|>]\n"
       "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]\n"},
      {", train_on_eos: none", "",
       "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n[a a]<|im_end|>\n"
       "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[b]<|im_end|>\n"},
      {", train_on_eos: last", "",
       "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n[a a]<|im_end|>\n"
       "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]\n"},
      {", train_on_eos: all", "",
       "<|im_start|>user\nq[<|im_end|>]\n<|im_start|>assistant\n[a a<|im_end|>]\n"
       "<|im_start|>user\na[<|im_end|>]\n<|im_start|>assistant\n[b<|im_end|>]\n"},
      {", roles_to_train: [user, assistant]", "",
       "<|im_start|>user\n[q<|im_end|>]\n<|im_start|>assistant\n[a a<|im_end|>]\n"
       "<|im_start|>user\n[a<|im_end|>]\n<|im_start|>assistant\n[b<|im_end|>]\n"},
      {"", "train_on_inputs: true",
       "<|im_start|>user\n[q<|im_end|>]\n<|im_start|>assistant\n[a a<|im_end|>]\n"
       "<|im_start|>user\n[a<|im_end|>]\n<|im_start|>assistant\n[b<|im_end|>]\n"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    assert_string_equal(shown(chatml, two_turns, cases[i].entry, cases[i].top), cases[i].text);
}

static void other_shapes_of_rows_are_mapped(void **state) {
  (void)state;
  const char *mapped = ", field_messages: conversations, message_property_mappings: {role: from, "
                       "content: value}";
  assert_string_equal(
      shown(chatml,
            "{\"system\":\"s\",\"conversations\":[{\"from\":\"human\",\"value\":\"q\"},"
            "{\"from\":\"gpt\",\"value\":\"\xc3\xa9\"}]}",
            mapped, ""),
      "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
      "[\xef\xbf\xbd\xef\xbf\xbd<|im_end|>]\n");
  /* A flag of its own, an empty answer, calls of tools without content. */
  assert_string_equal(
      shown(chatml,
            "{\"messages\":[{\"role\":\"user\",\"content\":\"q\",\"train\":true},"
            "{\"role\":\"assistant\",\"content\":\"x\",\"train\":false},"
            "{\"role\":\"assistant\",\"content\":\"\"}]}",
            "", ""),
      "<|im_start|>user\n[q<|im_end|>]\n<|im_start|>assistant\nx<|im_end|>\n<|im_start|>assistant\n"
      "[<|im_end|>]\n");
  assert_string_equal(
      shown(chatml,
            "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\","
            "\"content\":\"\",\"tool_calls\":[{\"name\":\"f\"}]}]}",
            "", ""),
      "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n[CALL f<|im_end|>]\n");
}

/* OpenAI's weight, a JSON text of messages, parts, encoded arguments. */
static void clients_forms_are_read(void **state) {
  (void)state;
  const char *weights = "{\"messages\":[{\"role\":\"user\",\"content\":\"q\",\"weight\":1},"
                        "{\"role\":\"assistant\",\"content\":\"a\",\"weight\":0},"
                        "{\"role\":\"assistant\",\"content\":\"b\",\"weight\":1}]}";
  const char *rest = "<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n<|im_start|>assistant\n"
                     "[b<|im_end|>]\n";
  assert_string_equal(shown(chatml, weights, "", ""), t_str("<|im_start|>user\nq%s", rest));
  assert_string_equal(shown(chatml, weights, ", message_field_training: weight", ""),
                      t_str("<|im_start|>user\n[q<|im_end|>]%s", rest + strlen("<|im_end|>")));
  const char *qa = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n[a<|im_end|>]\n";
  assert_string_equal(
      shown(chatml,
            "{\"messages\":\"[{\\\"role\\\":\\\"user\\\",\\\"content\\\":\\\"q\\\"},"
            "{\\\"role\\\":\\\"assistant\\\",\\\"content\\\":\\\"a\\\"}]\"}",
            "", ""),
      qa);
  const char *parts = "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":"
                      "\"q\"}]},{\"role\":\"assistant\",\"content\":[{\"text\":\"a\"},"
                      "{\"type\":\"text\",\"text\":\"b\"}]}]}";
  const char *prints = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}";
  const char *reads = "{% for m in messages %}{{ m.role }}:{% for p in m.content %}({{ p.text }})"
                      "{% endfor %};{% endfor %}";
  assert_string_equal(shown(prints, parts, "", ""), "user:q;assistant:[ab];");
  assert_string_equal(shown(reads, parts, "", ""), "user:(q);assistant:([a)(b]);");
  const char *call =
      "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\","
      "\"content\":\"\",\"tool_calls\":[{\"type\":\"function\",\"function\":{\"name\":\"f\","
      "\"arguments\":\"{\\\"c\\\": \\\"X\\\"}\"}}]}]}";
  const char *dumps =
      "{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or "
      "[] %}{{ c.function | tojson }}{% endfor %};{% endfor %}";
  const char *adds =
      "{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or "
      "[] %}{{ c.function.name + c.function.arguments }}{% endfor %};{% endfor %}";
  assert_string_equal(shown(dumps, call, "", ""),
                      "user:q;assistant:[{\"name\": \"f\", \"arguments\": {\"c\": \"X\"}}];");
  assert_string_equal(shown(adds, call, "", ""), "user:q;assistant:[f{\"c\": \"X\"}];");
}

static void templates_may_trim_and_mark(void **state) {
  (void)state;
  const char *trims = "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}";
  const char *row = "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},"
                    "{\"role\":\"assistant\",\"content\":\"  a \"}]}";
  assert_string_equal(shown(trims, row, "", ""), "user: q\nassistant: [a]\n");
  const char *marks = "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>"
                      "{% generation %}A {{ m.content }}<|im_end|>{% endgeneration %}"
                      "{% else %}{{ m.content }}{% endif %}{% endfor %}";
  assert_string_equal(shown(marks, row, "", ""), "q<|im_start|>[A   a <|im_end|>]");
  assert_string_equal(shown(marks, row, ", train_on_eos: none", ""),
                      "q<|im_start|>[A   a ]<|im_end|>");
}

static void wrong_rows_are_told(void **state) {
  (void)state;
  static const struct {
    const char *row, *message;
  } cases[] = {
      {"{}", "a.jsonl:1: key \"messages\" is missing"},
      {"{\"message\":1,\"id\":2}", "key \"messages\" is missing; there are: message, id"},
      {"{\"messages\":\"no JSON\"}", "key \"messages\": expected a list of messages, or its JSON"},
      {"{\"messages\":[{\"rol\":\"user\"}]}", "messages[0]: key \"role\": expected a string"},
      {"{\"messages\":[{\"from\":\"gpt\"}]}", "for ShareGPT set field_messages"},
      {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image\"}]}]}",
       "messages[0].content[0]: got a part of type \"image\""},
      {"{\"messages\":[{\"role\":\"user\",\"content\":{\"a\":1}}]}",
       "messages[0].content: expected"},
      {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"model\",\"content\":\"b\"}"
       "]}",
       "the roles seen are user, model: name those that answer in roles_to_train"},
      {"{\"messages\":[]}", "a.jsonl:1: key \"messages\": expected a list"},
      {"{\"conversations\":[]}", "for ShareGPT set field_messages"},
      {"{\"messages\":[{\"content\":\"a\"}]}", "a.jsonl:1: messages[0]: key \"role\""},
      {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"train\":2}]}", "key \"train\""},
      {"{\"messages\":[3]}", "messages[0]: expected an object"},
      {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":3}", "list of tools"},
      {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":\"[\"}", "not valid JSON"},
      {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}", "nothing to train on"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *got = shown(chatml, cases[i].row, "", "");
    if (!strstr(got, cases[i].message)) fail_msg("got %s, expected %s", got, cases[i].message);
  }
  const char *raises = "{{ raise_exception('no such role') }}";
  assert_non_null(strstr(shown(raises, two_turns, "", ""), "no such role"));
  const char *second =
      "{% for m in messages %}{{ m.content + (1 if loop.index0 == 2 else '') }}{% endfor %}";
  const char *got = shown(second, two_turns, "", "");
  if (!strstr(got, "a.jsonl:1: messages[2] (user): ")) fail_msg("got %s", got);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(answers_and_their_ends_are_trained, fresh),
      cmocka_unit_test_setup(other_shapes_of_rows_are_mapped, fresh),
      cmocka_unit_test_setup(clients_forms_are_read, fresh),
      cmocka_unit_test_setup(templates_may_trim_and_mark, fresh),
      cmocka_unit_test_setup(wrong_rows_are_told, fresh),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
