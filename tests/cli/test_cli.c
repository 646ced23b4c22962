/* SPDX-License-Identifier: Apache-2.0
 * The command line as a user meets it: help, misspellings, exit codes, and that data stays apart
 * from logs. */
#include "base/json.h"
#include "engine/cli/manual.h"
#include "tests/support/test.h"

#include <stdlib.h>
#include <string.h>

static void expect(const char *args, int code, const char *in_stderr) {
  struct ka_str out = {0}, err = {0};
  int got = t_kappa(&out, &err, "%s", args);
  if (got != code || !strstr(err.data ? err.data : "", in_stderr))
    print_error("kappa %s: exit %d, expected %d with \"%s\" in:\n%s", args, got, code, in_stderr,
                err.data ? err.data : "");
  assert_int_equal(got, code);
  assert_non_null(strstr(err.data ? err.data : "", in_stderr));
  ka_str_deinit(&out);
  ka_str_deinit(&err);
}

static void wrong_use_is_one_line_and_exit_2(void **state) {
  (void)state;
  expect("", 2, "no command given");
  expect("analize x", 2, "did you mean analyze?");
  expect("analyze --metrc kappa x", 2, "did you mean --metric?");
  expect("doctor --device", 2, "--device needs a value");
  expect("doctor --device tpu", 2, "expected auto|cpu|cuda|ref");
  expect("doctor --threads many", 2, "expected an integer");
  expect("doctor --threads 0", 2, "expected 1 to 1024");
  expect("doctor --json -", 0, "");
  expect("eval m --apply_chat_template=yes", 2, "--apply-chat-template takes no value");
  expect("eval m --num_fewshot many", 2, "--num-fewshot: got \"many\"");
  expect("eval m --num_fewshots 3", 2, "did you mean --num-fewshot?");
  expect("doctor --quiet=yes", 2, "takes no value");
  expect("verify", 2, "usage: kappa verify");
}

static void every_command_explains_itself(void **state) {
  (void)state;
  struct ka_str overview = {0};
  assert_int_equal(t_kappa(&overview, NULL, "help"), 0);
  for (int i = 0; ka_commands[i]; i++) {
    struct ka_str help = {0};
    assert_int_equal(t_kappa(&help, NULL, "%s --help", ka_commands[i]->name), 0);
    assert_non_null(strstr(help.data, ka_commands[i]->summary));
    assert_non_null(strstr(help.data, "--device"));
    assert_non_null(strstr(overview.data, ka_commands[i]->name));
    for (const struct ka_cli_option *o = ka_commands[i]->options; o && o->name; o++)
      assert_non_null(strstr(help.data, o->name));
    ka_str_deinit(&help);
  }
  ka_str_deinit(&overview);
}

/* Whatever word a user tries first. */
static void help_and_version_have_many_names(void **state) {
  (void)state;
  static const struct {
    const char *args, *says;
  } cases[] = {
      {"-h", "usage: kappa COMMAND"},
      {"--help", "for example"},
      {"help", "kappa help job"},
      {"help train", "usage: kappa train JOB.yaml"},
      {"train -h", "usage: kappa train"},
      {"help job", "| `learning_rate` |"},
      {"-V", "kappa " KAPPA_VERSION " (with"},
      {"--version", "OpenMP"},
      {"version", "kappa " KAPPA_VERSION},
      {"help plan", "--json FILE"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct ka_str out = {0}, err = {0};
    assert_int_equal(t_kappa(&out, &err, "%s", cases[i].args), 0);
    assert_non_null(strstr(out.data, cases[i].says));
    assert_int_equal(err.len, 0);
    ka_str_deinit(&out);
    ka_str_deinit(&err);
  }
  expect("help trian", 2, "did you mean train?");
  expect("plan /no/job.yaml seed = 3 =", 2, "/no/job.yaml");
}

/* Made from the tables: every command and option is in each of them. */
static void man_pages_and_completions_name_everything(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  static const char *const shells[] = {"bash", "zsh", "fish"};
  for (int i = 0; ka_commands[i]; i++) {
    struct ka_str page = {0};
    T_OK(ka_cli_man(ctx, &page, ka_commands[i]));
    assert_non_null(strstr(page.data, ".SH OPTIONS"));
    for (const struct ka_cli_option *o = ka_commands[i]->options; o && o->name; o++)
      assert_non_null(strstr(page.data, t_str("\\-\\-%s", o->name)));
    ka_str_deinit(&page);
  }
  for (size_t s = 0; s < 3; s++) {
    struct ka_str text = {0};
    T_OK(ka_cli_completion(ctx, &text, shells[s]));
    for (int i = 0; ka_commands[i]; i++) assert_non_null(strstr(text.data, ka_commands[i]->name));
    assert_non_null(strstr(text.data, "selection.count="));
    assert_non_null(strstr(text.data, "resume"));
    ka_str_deinit(&text);
  }
}

static const char config[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": %d,"
    " \"hidden_size\": 16, \"intermediate_size\": 24, \"num_hidden_layers\": 1,"
    " \"num_attention_heads\": 2, \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-5,"
    " \"tie_word_embeddings\": true, \"hidden_act\": \"silu\"}";

static const char *write_config(struct ka_ctx *ctx, const char *dir, int vocab) {
  const char *path = t_str("%s/config-%d.json", dir, vocab), *text = t_str(config, vocab);
  T_OK(ka_write_file(ctx, path, text, strlen(text)));
  return path;
}

static void init_makes_a_model_that_other_commands_take(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  const char *dir = t_temp_dir();
  expect(
      t_str("init --config %s --out %s/small --tokenizer bytes", write_config(ctx, dir, 200), dir),
      2, "a byte tokenizer needs 257");
  assert_false(ka_path_exists(t_str("%s/small", dir)));
  const char *good = write_config(ctx, dir, 257);
  assert_int_equal(t_kappa(NULL, NULL, "init --config %s --out %s/m --tokenizer bytes", good, dir),
                   0);
  expect(t_str("init --config %s --out %s/m", good, dir), 2, "holds a model already");

  struct ka_str json = {0};
  assert_int_equal(t_kappa(&json, NULL, "analyze %s/m --no-cache --json -", dir), 0);
  json_t *root;
  T_OK(ka_json_parse(ctx, json.data, json.len, "stdout", &root));
  assert_int_equal(json_object_size(json_object_get(root, "tensors")), 8);
  json_decref(root);
  ka_str_deinit(&json);

  struct ka_str text = {0};
  assert_int_equal(t_kappa(&text, NULL, "generate %s/m --prompt abc --max-tokens 3 --ids", dir), 0);
  T_OK(ka_json_parse(ctx, text.data, text.len, "stdout", &root));
  assert_true(json_is_array(root) && json_array_size(root) >= 3);
  assert_int_equal(json_integer_value(json_array_get(root, 0)), 'a');
  json_decref(root);
  ka_str_deinit(&text);
}

/* Threads that doctor counts with one variable set. */
static long threads_with(const char *name, const char *value, const char *args) {
  struct ka_str out = {0};
  assert_int_equal(setenv(name, value, 1), 0);
  assert_int_equal(t_kappa(&out, NULL, "doctor --quiet --json - %s", args), 0);
  unsetenv(name);
  const char *at = strstr(out.data, "\"threads\": ");
  assert_non_null(at);
  long n = strtol(at + strlen("\"threads\": "), NULL, 10);
  ka_str_deinit(&out);
  return n;
}

/* What a run computes with is the team that comes, whatever the environment says. */
static void the_team_is_what_comes(void **state) {
  (void)state;
  assert_int_equal(threads_with("OMP_DYNAMIC", "true", "--threads 3"), 3);
  assert_int_equal(threads_with("OMP_THREAD_LIMIT", "1", "--threads 3"), 1);
  assert_int_equal(threads_with("OMP_NUM_THREADS", "3", ""), 3);
  assert_int_equal(threads_with("OMP_NUM_THREADS", "100000", "--threads 2"), 2);
  assert_int_equal(threads_with("OMP_NUM_THREADS", "3,2", ""), 3);
  assert_int_equal(threads_with("OMP_STACKSIZE", "16k", "--threads 2"), 2);
  assert_int_equal(threads_with("OMP_PROC_BIND", "true", "--threads 2"), 2);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(wrong_use_is_one_line_and_exit_2),
      cmocka_unit_test(the_team_is_what_comes),
      cmocka_unit_test(every_command_explains_itself),
      cmocka_unit_test(help_and_version_have_many_names),
      cmocka_unit_test(man_pages_and_completions_name_everything),
      cmocka_unit_test(init_makes_a_model_that_other_commands_take),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
