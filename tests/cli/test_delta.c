/* SPDX-License-Identifier: Apache-2.0
 * kappa delta on kappa's own output directories: heads of a model are trained, the delta is a
 * fraction of the model, and the directory comes back without the run's logs. A delta or an adapter
 * stands for its model in every command that takes one. */
#include "base/json.h"
#include "tests/support/test.h"

#include <stdlib.h>
#include <string.h>

static struct ka_ctx context, *ctx = &context;
static const char *dir;

static void write_text(const char *path, const char *text) {
  T_OK(ka_write_file(ctx, path, text, strlen(text)));
}

static int train(void **state) {
  (void)state;
  ka_ctx_init(ctx);
  dir = t_temp_dir();
  write_text(t_str("%s/config.json", dir),
             "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", "
             "\"vocab_size\": 257, \"hidden_size\": 32, \"intermediate_size\": 48, "
             "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
             "\"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-5, "
             "\"tie_word_embeddings\": true, \"hidden_act\": \"silu\"}");
  write_text(t_str("%s/data.jsonl", dir),
             "{\"text\": \"the quick brown fox jumps over the lazy dog\"}\n");
  write_text(t_str("%s/job.yaml", dir),
             "base_model: base\ndatasets: [{path: data.jsonl, type: completion}]\n"
             "selection: {metric: kappa, order: lowest, count: 3, unit: head}\n"
             "sequence_len: 32\nmicro_batch_size: 1\ngradient_accumulation_steps: 1\n"
             "max_steps: 4\nsave_steps: 2\nlearning_rate: 1e-3\noutput_dir: out\n"
             "report_to: [tensorboard]\n");
  int rc =
      t_kappa(NULL, NULL, "init --config %s/config.json --out %s/base --tokenizer bytes", dir, dir);
  return rc ? rc : t_kappa(NULL, NULL, "train %s/job.yaml", dir);
}

static void expect(const char *args, int code, const char *in_stderr) {
  struct ka_str err = {0};
  int got = t_kappa(NULL, &err, "%s", args);
  if (got != code || !strstr(err.data ? err.data : "", in_stderr))
    print_error("kappa %s: exit %d, expected %d with \"%s\" in:\n%s", args, got, code, in_stderr,
                err.data ? err.data : "");
  assert_int_equal(got, code);
  assert_non_null(strstr(err.data ? err.data : "", in_stderr));
  ka_str_deinit(&err);
}

static void a_run_comes_back_without_its_logs(void **state) {
  (void)state;
  struct ka_str json = {0}, back = {0};
  json_t *root;
  assert_int_equal(
      t_kappa(&json, NULL, "delta export %s/base %s/out %s/d.safetensors --json -", dir, dir, dir),
      0);
  T_OK(ka_json_parse(ctx, json.data, json.len, "stdout", &root));
  const json_t *tensors = json_object_get(root, "tensors"), *t;
  size_t i;
  assert_in_range(json_array_size(tensors), 1, 3);
  json_array_foreach(tensors, i, t) assert_true(json_is_true(json_object_get(t, "part")));
  assert_true(json_integer_value(json_object_get(root, "bytes")) < 40000);
  json_decref(root);
  ka_str_deinit(&json);

  assert_int_equal(
      t_kappa(NULL, NULL, "delta apply %s/base %s/d.safetensors %s/back", dir, dir, dir), 0);
  static const char *const kept[] = {"model.safetensors", "config.json", "selection.json",
                                     "tokenizer.json"};
  for (i = 0; i < sizeof kept / sizeof *kept; i++) {
    ka_str_clear(&json);
    ka_str_clear(&back);
    T_OK(ka_read_file(ctx, t_str("%s/out/%s", dir, kept[i]), 0, &json));
    T_OK(ka_read_file(ctx, t_str("%s/back/%s", dir, kept[i]), 0, &back));
    assert_int_equal(json.len, back.len);
    assert_memory_equal(json.data, back.data, json.len);
  }
  ka_str_deinit(&json);
  ka_str_deinit(&back);
  assert_true(ka_path_exists(t_str("%s/out/train_log.jsonl", dir)));
  assert_false(ka_path_exists(t_str("%s/back/train_log.jsonl", dir)));
  assert_false(ka_path_exists(t_str("%s/back/report.html", dir)));
  expect(t_str("delta apply %s/out %s/d.safetensors %s/again", dir, dir, dir), 2,
         "not the base of");
  expect(t_str("delta apply %s/base %s/d.safetensors %s/back", dir, dir, dir), 2, "is not empty");
}

/* What the command prints of the tuned directory and of its delta. */
static void expect_as_tuned(const char *command, const char *rest) {
  struct ka_str tuned = {0}, delta = {0}, base = {0};
  assert_int_equal(t_kappa(&tuned, NULL, "%s %s/out %s --quiet", command, dir, rest), 0);
  assert_int_equal(t_kappa(&delta, NULL, "%s %s/d.safetensors %s --quiet", command, dir, rest), 0);
  assert_int_equal(t_kappa(&base, NULL, "%s %s/base %s --quiet", command, dir, rest), 0);
  assert_string_equal(tuned.data, delta.data);
  if (strcmp(command, "eval") == 0) assert_string_not_equal(tuned.data, base.data);
  ka_str_deinit(&tuned);
  ka_str_deinit(&delta);
  ka_str_deinit(&base);
}

static void a_delta_stands_for_its_model(void **state) {
  (void)state;
  expect_as_tuned("generate", "--prompt fox --max-tokens 12 --ids --temperature 1");
  expect_as_tuned("eval", t_str("--text %s/data.jsonl", dir));
  expect_as_tuned("tokenize", t_str("%s/data.jsonl --ids", dir));
  expect(t_str("eval %s/d.safetensors --base %s/out --text %s/data.jsonl", dir, dir, dir), 2,
         "not the base of");
  expect(t_str("eval %s/out --base %s/base --text %s/data.jsonl", dir, dir, dir), 2,
         "neither a delta nor an adapter");
  expect(t_str("eval %s/base/model.safetensors --text %s/data.jsonl", dir, dir), 2,
         "not a model directory, a delta or an adapter");
}

static void an_adapter_stands_for_its_merged_model(void **state) {
  (void)state;
  static const char *const cases[][2] = {
      {"plain", "llama"},     {"rslora", "llama"},        {"patterns", "llama"},
      {"regex", "llama"},     {"one-layer", "llama"},     {"saved", "llama"},
      {"embedding", "llama"}, {"ignored-flag", "llama"},  {"tied-head-saved", "tied"},
      {"tied-saved", "tied"}, {"tied-embedding", "tied"}, {"tied-head", "tied"},
      {"bias", "qwen2"},      {"lora-bias", "qwen2"}};
  const char *root = getenv("KAPPA_SOURCE_DIR");
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *at = t_str("%s/tests/formats/adapters", root ? root : ".");
    int rc =
        t_kappa(NULL, NULL, "verify %s/%s --base %s/base-%s --against %s/%s/logits.safetensors", at,
                cases[i][0], at, cases[i][1], at, cases[i][0]);
    if (rc) fail_msg("%s: exit %d", cases[i][0], rc);
    rc = t_kappa(NULL, NULL, "verify %s/base-%s --against %s/%s/logits.safetensors", at,
                 cases[i][1], at, cases[i][0]);
    assert_int_equal(rc, 1); /* the base alone is another model */
  }
  expect(t_str("verify %s/tests/formats/adapters/plain --against x", root ? root : "."), 2,
         "x: No such file");
}

static void wrong_use_is_one_line(void **state) {
  (void)state;
  expect("delta", 2, "usage: kappa delta export BASE TUNED FILE | apply BASE FILE OUT | show FILE");
  expect("delta exprot a b c", 2, "expected export, apply or show");
  expect("delta export a b", 2, "usage: kappa delta export BASE TUNED FILE");
  expect("delta export a b c.safetensors --level 20", 2, "expected 1 to 19");
  expect("delta show /nonexistent.safetensors", 2, "No such file");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_run_comes_back_without_its_logs),
      cmocka_unit_test(a_delta_stands_for_its_model),
      cmocka_unit_test(an_adapter_stands_for_its_merged_model),
      cmocka_unit_test(wrong_use_is_one_line),
  };
  return cmocka_run_group_tests(tests, train, NULL);
}
