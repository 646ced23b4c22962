/* SPDX-License-Identifier: Apache-2.0
 * kappa eval --tasks from outside: the table, JSON, files, names, wrong use. */
#include "base/json.h"
#include "tests/support/test.h"

#include <string.h>

static struct ka_ctx context, *ctx = &context;
static const char *dir; /* with a model, a task and a group */

static void write(const char *name, const char *text) {
  T_OK(ka_write_file(ctx, t_str("%s/%s", dir, name), text, strlen(text)));
}

static int set_up(void **state) {
  (void)state;
  ka_ctx_init(ctx);
  dir = t_temp_dir();
  write("config.json", "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\","
                       "\"vocab_size\":257,\"hidden_size\":16,\"num_hidden_layers\":1,"
                       "\"num_attention_heads\":2,\"intermediate_size\":24,\"hidden_act\":\"silu\","
                       "\"max_position_embeddings\":128,\"rms_norm_eps\":1e-5,"
                       "\"tie_word_embeddings\":true,\"bos_token_id\":256,\"eos_token_id\":256}");
  write("d.jsonl", "{\"q\": \"One?\", \"c\": [\"a\", \"bc\"], \"g\": 1}\n"
                   "{\"q\": \"Two?\", \"c\": [\"d\", \"e\"], \"g\": 0}\n"
                   "{\"q\": \"Three?\", \"c\": [\"f\", \"g\"], \"g\": 0}\n");
  write("choose.yaml",
        "task: choose\ndataset_path: json\ndataset_kwargs: {data_files: {test: d.jsonl}}\n"
        "output_type: multiple_choice\ntest_split: test\ndoc_to_text: q\ndoc_to_choice: c\n"
        "doc_to_target: g\nnum_fewshot: 1\n");
  write("all.yaml", "group: all\ntask: [choose]\naggregate_metric_list: [{metric: acc}]\n");
  struct ka_str err = {0};
  if (t_kappa(NULL, &err, "init --config %s/config.json --out %s/m --tokenizer bytes", dir, dir))
    fail_msg("kappa init: %s", err.data);
  ka_str_deinit(&err);
  return 0;
}

static struct ka_str out, err; /* of the last call */

/* Runs `kappa eval MODEL ...`; what is written to stdout. */
static char *eval(int code, const char *part, const char *args) {
  ka_str_clear(&out);
  ka_str_clear(&err);
  int rc = t_kappa(&out, &err, "eval %s/m %s", dir, args);
  if (rc != code || !strstr(code ? err.data : out.data, part))
    fail_msg("kappa eval %s: got %d, expected %d with %s\n%s%s", args, rc, code, part, out.data,
             err.data);
  return out.data;
}

static void prints_a_table(void **state) {
  (void)state;
  eval(0, "|choose|Yaml   |none  |     1|acc     |", t_str("--tasks %s/choose.yaml", dir));
  eval(0, "|choose|Yaml   |none  |     1|acc     |", t_str("--tasks ' , %s/choose.yaml , '", dir));
  assert_non_null(strstr(err.data, " requests, "));
  assert_non_null(strstr(err.data, " tok/s, peak memory "));
  char *table = eval(0, "|all      |N/A    |none  |      |acc     |",
                     t_str("--tasks all --include-path %s", dir));
  assert_non_null(strstr(table, "| - choose|Yaml   |none  |     1|acc     |"));
  assert_non_null(strstr(table, "|Groups|Version|"));
  eval(0, "|choose|Yaml   |none  |     0|acc     |",
       t_str("--tasks %s/choose.yaml --native --num-fewshot 0 --limit 2", dir));
}

static void writes_files(void **state) {
  (void)state;
  struct ka_arena a;
  const char **names, *home;
  int64_t n;
  json_t *root, *file;
  char *text = eval(0, "\"acc,none\"",
                    t_str("--tasks %s/choose.yaml --json - --output-path %s/out --log-samples "
                          "--bootstrap-iters 10 --limit 0.5",
                          dir, dir));
  T_OK(ka_json_parse(ctx, text, strlen(text), "stdout", &root));
  assert_int_equal(
      2, json_integer_value(json_object_get(
             json_object_get(json_object_get(root, "n-samples"), "choose"), "effective")));
  ka_arena_init(&a, ctx, "test");
  T_OK(ka_list_dir(&a, t_str("%s/out", dir), &names, &n));
  assert_int_equal(n, 1);
  home = t_str("%s/out/%s", dir, names[0]);
  assert_true(ka_starts_with(names[0], "__") && ka_ends_with(names[0], "__m"));
  T_OK(ka_list_dir(&a, home, &names, &n));
  assert_int_equal(n, 2);
  assert_true(ka_starts_with(names[0], "results_20") && ka_ends_with(names[0], ".json"));
  assert_true(ka_starts_with(names[1], "samples_choose_20") && ka_ends_with(names[1], ".jsonl"));
  T_OK(ka_json_load(ctx, t_str("%s/%s", home, names[0]), &file));
  assert_true(json_equal(json_object_get(root, "results"), json_object_get(file, "results")));
  json_decref(root);
  json_decref(file);
  ka_arena_deinit(&a);
}

static void says_what_is_wrong(void **state) {
  (void)state;
  const char *task = t_str("--tasks %s/choose.yaml", dir);
  eval(2, "nothing.yaml: no such file; tasks are named by their YAML files",
       "--tasks nothing.yaml");
  eval(2, "no task, group or tag of this name below --include-path",
       t_str("--tasks chose --include-path %s", dir));
  eval(2, "--tasks: no task is named", "--tasks ,");
  eval(2, "exclude each other", t_str("%s --text %s/d.jsonl", task, dir));
  eval(2, "--limit: got -1, expected 0 or more", t_str("%s --limit -1", task));
  eval(2, "--limit: got nan, expected", t_str("%s --limit nan", task));
  eval(2, "--max-length: got 129, the model's positions are 128",
       t_str("%s --max-length 129", task));
  eval(2, "--num-fewshot: got -1, expected 0 or more", t_str("%s --num-fewshot -1", task));
  eval(2, "4 examples are wanted, there are 3 to draw from", t_str("%s --num-fewshot 4", task));
  eval(2, "--log-samples: --output-path says where to", t_str("%s --log-samples", task));
  eval(3, "cannot create directory", t_str("%s --output-path %s/d.jsonl/x", task, dir));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(prints_a_table),
      cmocka_unit_test(writes_files),
      cmocka_unit_test(says_what_is_wrong),
  };
  return cmocka_run_group_tests(tests, set_up, NULL);
}
