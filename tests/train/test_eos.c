/* SPDX-License-Identifier: Apache-2.0
 * The key eos_token: what documents end with, and what the saved model stops at. */
#include "base/json.h"
#include "tests/support/test.h"

#include <string.h>

static struct ka_ctx context, *ctx = &context;
static const char *home;

static void put(const char *name, const char *text) {
  T_OK(ka_write_file(ctx, t_str("%s/%s", home, name), text, strlen(text)));
}

static json_t *load(const char *name) {
  json_t *root = NULL;
  T_OK(ka_json_load(ctx, t_str("%s/%s", home, name), &root));
  return root;
}

static int fresh(void **state) {
  (void)state;
  ka_ctx_init(ctx);
  home = t_temp_dir();
  put("c.json", "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"vocab_size\":"
                "257,\"hidden_size\":16,\"num_hidden_layers\":1,\"num_attention_heads\":2,"
                "\"intermediate_size\":16,\"max_position_embeddings\":64,\"eos_token_id\":256}");
  assert_int_equal(
      t_kappa(NULL, NULL, "init --config %s/c.json --out %s/base --tokenizer bytes", home, home),
      0);
  put("base/chat_template.jinja",
      "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}");
  put("t.jsonl", "{\"text\":\"abcd\"}\n{\"text\":\"efgh\"}\n");
  put("m.jsonl", "{\"messages\":[{\"role\":\"user\",\"content\":\"ab\"},{\"role\":\"assistant\","
                 "\"content\":\"cd\"}]}\n");
  return 0;
}

static void job(const char *data, const char *type, const char *eos) {
  put("job.yaml", t_str("base_model: base\ndatasets: [{path: %s, type: %s}]\nsequence_len: 32\n"
                        "val_set_size: 0\nmax_steps: 1\nselection: {metric: all}\noutput_dir: out\n"
                        "eos_token: %s\n",
                        data, type, eos));
}

/* ids of the first document; the caller drops them */
static json_t *first_ids(json_t **root) {
  struct ka_str out = {0};
  assert_int_equal(t_kappa(&out, NULL, "plan %s/job.yaml --jsonl -", home), 0);
  T_OK(ka_json_parse(ctx, out.data, strcspn(out.data, "\n"), "plan", root));
  ka_str_deinit(&out);
  return json_object_get(*root, "ids");
}

static void expect_end(const char *data, const char *type, const char *eos, int want) {
  json_t *root, *ids;
  job(data, type, eos);
  ids = first_ids(&root);
  assert_int_equal(json_integer_value(json_array_get(ids, json_array_size(ids) - 1)), want);
  json_decref(root);
}

static int id_of_z(void) {
  json_t *root = load("base/tokenizer.json");
  const json_t *vocab = json_object_get(json_object_get(root, "model"), "vocab");
  int id = (int)json_integer_value(json_object_get(vocab, "z"));
  json_decref(root);
  return id;
}

static void documents_end_with_it(void **state) {
  struct ka_str err = {0};
  (void)state;
  expect_end("t.jsonl", "completion", "z", id_of_z());
  expect_end("m.jsonl", "chat_template", "z", id_of_z());
  expect_end("t.jsonl", "completion", "<none>", 256);
  assert_int_equal(t_kappa(NULL, &err, "plan %s/job.yaml", home), 0);
  assert_non_null(strstr(err.data, "<none> is not in the vocabulary"));
  ka_str_deinit(&err);
}

static void the_saved_model_names_it(void **state) {
  (void)state;
  job("t.jsonl", "completion", "z");
  assert_int_equal(t_kappa(NULL, NULL, "train %s/job.yaml", home), 0);
  json_t *tokenizer = load("out/tokenizer_config.json"), *config = load("out/config.json");
  json_t *generation = load("out/generation_config.json");
  const json_t *ids = json_object_get(generation, "eos_token_id");
  assert_string_equal(json_string_value(json_object_get(tokenizer, "eos_token")), "z");
  assert_int_equal(json_integer_value(json_object_get(config, "eos_token_id")), id_of_z());
  assert_int_equal(json_integer_value(json_array_get(ids, 0)), id_of_z());
  assert_int_equal(json_integer_value(json_array_get(ids, 1)), 256);
  json_decref(tokenizer);
  json_decref(config);
  json_decref(generation);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(documents_end_with_it),
      cmocka_unit_test(the_saved_model_names_it),
  };
  return cmocka_run_group_tests(tests, fresh, NULL);
}
