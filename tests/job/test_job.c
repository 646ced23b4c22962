/* SPDX-License-Identifier: Apache-2.0
 * engine/job/job.h and yaml.h: defaults, every kind of wrong value with its place, words of
 * the command line, alternatives, paths, hostile YAML. */
#include "engine/job/job.h"
#include "engine/job/yaml.h"
#include "tests/support/fresh.h"

#include <stdio.h>
#include <string.h>

static const char *const least = "base_model: m\ndatasets: [{path: a.jsonl}]\n";

static ka_status parse(struct ka_job *j, const char *text, const char *const *words, int64_t n) {
  return ka_job_parse(ctx, j, text, strlen(text), "job.yaml", "dir", words, n);
}

static void defaults_are_those_of_the_table(void **state) {
  (void)state;
  struct ka_job j;
  T_OK(parse(&j, least, NULL, 0));
  assert_string_equal(j.base_model, "dir/m");
  assert_string_equal(j.output_dir, "dir/out");
  assert_true(j.datasets.n == 1 && j.datasets.items[0].path.n == 1);
  assert_string_equal(j.datasets.items[0].path.items[0], "dir/a.jsonl");
  assert_int_equal(j.datasets.items[0].type, KA_DOCUMENT_COMPLETION);
  assert_string_equal(j.datasets.items[0].message_property_mappings.role, "role");
  assert_true(j.datasets.items[0].weight == 1);
  assert_true(j.sequence_len == 2048 && j.sample_packing && j.shuffle && !j.train_on_inputs);
  assert_true(j.micro_batch_size == 2 && j.gradient_accumulation_steps == 8);
  assert_true(j.num_epochs == 3 && j.max_steps == 0 && j.learning_rate == 2e-5);
  assert_true(j.adam_beta1 == 0.9 && j.adam_beta2 == 0.999 && j.adam_epsilon == 1e-8);
  assert_true(j.weight_decay == 0 && j.max_grad_norm == 1 && j.val_set_size == 0.02);
  assert_true(j.eval_steps == 100 && j.save_steps == 200 && j.save_total_limit == 2);
  assert_true(j.seed == 42 && j.logging_steps == 10 && j.report_to.n == 1);
  assert_int_equal(j.lr_scheduler, KA_SCHEDULE_COSINE);
  assert_int_equal(j.bf16, KA_BF16_AUTO);
  assert_string_equal(j.selection.metric, "kappa");
  assert_true(j.selection.count == 20 && j.selection.exclude.n == 0);
  assert_null(j.selection.file);
  assert_int_equal(j.anchor.kind, KA_ANCHOR_NONE);
  assert_true(ka_job_given(&j, "base_model") && !ka_job_given(&j, "seed"));
  assert_string_equal(ka_job_place(&j, "datasets.0.path"), "job.yaml:2:13");
  ka_job_close(&j);
}

/* A recipe fills in what the job leaves open, and nothing else. */
static void recipe_is_defaults(void **state) {
  (void)state;
  static const struct {
    const char *text, *metric;
    int kind, on;
    double weight;
  } ways[] = {
      {"recipe: keep\n", "all", KA_ANCHOR_KL, KA_ANCHOR_SELF, 1},
      {"recipe: keep\nanchor: {weight: 3}\n", "all", KA_ANCHOR_KL, KA_ANCHOR_SELF, 3},
      {"recipe: keep\nselection: {fraction: 0.1}\n", "kappa", KA_ANCHOR_KL, KA_ANCHOR_SELF, 1},
      {"recipe: keep\nanchor: {kind: none}\n", "all", KA_ANCHOR_NONE, KA_ANCHOR_TASK, 0.3},
      {"recipe: keep\nanchor: {on: task}\n", "all", KA_ANCHOR_KL, KA_ANCHOR_TASK, 0.3},
      {"", "kappa", KA_ANCHOR_NONE, KA_ANCHOR_TASK, 0.3},
  };
  for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
    struct ka_job j;
    T_OK(parse(&j, t_str("%s%s", least, ways[i].text), NULL, 0));
    assert_string_equal(j.selection.metric, ways[i].metric);
    assert_true(j.anchor.kind == ways[i].kind && j.anchor.on == ways[i].on);
    assert_true(j.anchor.weight == ways[i].weight);
    ka_job_close(&j);
  }
}

static void alternatives_replace_defaults(void **state) {
  (void)state;
  struct ka_job j;
  T_OK(parse(&j,
             t_str("%smax_steps: 7\nwarmup_ratio: 0.1\ntest_datasets: [{path: v}]\n"
                   "selection: {params: 1.5M, exclude: []}\n",
                   least),
             NULL, 0));
  assert_true(j.max_steps == 7 && j.num_epochs == 0 && j.warmup_ratio == 0.1);
  assert_true(j.val_set_size == 0 && j.selection.count == 0 && j.selection.params == 1500000);
  assert_int_equal(j.selection.exclude.n, 0);
  ka_job_close(&j);
  T_OK(parse(&j, t_str("%sselection: {metric: all}\nmax_steps: ~\n", least), NULL, 0));
  assert_true(j.selection.count == 0 && j.selection.exclude.n == 0 && j.num_epochs == 3);
  ka_job_close(&j);
  T_OK(parse(&j, t_str("%sgradient_checkpointing: false\nanchor: {kind: none}\n", least), NULL, 0));
  ka_job_close(&j);
}

static void wrong_values_say_where_and_what(void **state) {
  (void)state;
  static const struct {
    const char *line, *message;
  } cases[] = {
      {"learing_rate: 1", "job.yaml:3:1: unknown key learing_rate, did you mean learning_rate?"},
      {"metric: kappa", "unknown key metric; metric belongs under selection"},
      {"selection: {max_steps: 1}",
       "job.yaml:3:13: unknown key selection.max_steps; max_steps stands at the top"},
      {"selection: {fractoin: 0.1}", "did you mean fraction?"},
      {"num_train_epochs: x", "job.yaml:3:19: num_epochs: got x"},
      {"adapter: lora",
       "adapter is not supported: kappa trains whole units; there are no adapters"},
      {"learning_rate: fast", "job.yaml:3:16: learning_rate: got fast, expected a number"},
      {"learning_rate: \"2e-5\"", "got the text \"2e-5\", expected a number"},
      {"learning_rate: -1", "got -1, expected a number from 0 to 1000"},
      {"learning_rate: .nan", "expected a number"},
      {"learning_rate: nan", "expected a number"},
      {"learning_rate: 1e999", "expected a number"},
      {"learning_rate: 0xg", "expected a number"},
      {"learning_rate: [1]", "got a list, expected a number"},
      {"learning_rate: {a: 1}", "got a mapping, expected a number"},
      {"sequence_len: 2048.5", "expected an integer"},
      {"sequence_len: 1", "sequence_len: got 1, expected an integer from 2"},
      {"sequence_len: 99999999999999999999", "expected an integer"},
      {"max_steps: 0", "max_steps: got 0, expected an integer of at least 1"},
      {"num_epochs: 0", "num_epochs: got 0, expected a number above 0"},
      {"warmup_ratio: 0", "expected a number from above 0 to 1"},
      {"shuffle: yes", "NONE"}, /* YAML 1.1 */
      {"shuffle: maybe", "shuffle: got maybe, expected true or false"},
      {"shuffle: 1", "expected true or false"},
      {"shuffle: \"true\"", "expected true or false"},
      {"lr_scheduler: cosin", "got cosin, expected one of cosine, linear, constant"},
      {"lr_scheduler: [cosine]", "got a list, expected one of"},
      {"report_to: [tensorboard, wands]", "job.yaml:3:26: report_to: got wands, expected one of"},
      {"selection: {mode: soft, count: 5}", "job.yaml:3:25: selection.count and selection.mode"},
      {"selection: {mode: soft, metric: snr}", "soft goes with metric kappa or kappa_mp, not snr"},
      {"selection: {mode: soft, power: -1}", "selection.power: got -1, expected a number from 0"},
      {"selection: {mode: soft, metric: kappa_mp, power: 0.5}", "NONE"},
      {"selection: {unit: heads}", "expected one of tensor, head, expert"},
      {"selection: kappa", "got kappa, expected a mapping of keys"},
      {"selection: {params: 1.5}", "a count like 500000 or 50M"},
      {"selection: {params: 10Q}", "a count like"},
      {"selection: {params: 0.5K}", "NONE"},
      {"selection: {params: 0}", "a count like"},
      {"selection: {fraction: 1.5}", "from above 0 to 1"},
      {"selection: {include: ['(']}", "job.yaml:3:23: selection.include: pattern \"(\": missing"},
      {"selection: {include: [[a]]}", "expected a text"},
      {"selection: {count: 3, fraction: 0.5}", "selection.count and selection.fraction exclude"},
      {"num_epochs: 1\nmax_steps: 2", "job.yaml:4:1: num_epochs and max_steps exclude each other"},
      {"val_set_size: 0.1\ntest_datasets: [{path: x}]", "exclude each other"},
      {"val_set_size: 1.5", "a fraction below 1 or a whole number"},
      {"test_datasets: x", "got x, expected a list of mappings"},
      {"test_datasets: [x]", "expected a mapping of keys"},
      {"test_datasets: [{type: alpaca}]", "job.yaml:3:17: test_datasets.0.path is required"},
      {"test_datasets: [{path: ''}]", "expected a path"},
      {"test_datasets: [{path: x, type: sharegpt}]", "NONE"},
      {"test_datasets: [{path: x, type: {format: a}}]", "NONE"},
      {"test_datasets: [{path: x, message_property_mappings: {from: a}}]", "unknown key"},
      {"held_out: [{name: x}]", "held_out.0.path is required"},
      {"anchor: {kind: kl, weight: -1}", "anchor.weight: got -1, expected a number from 0"},
      {"anchor: {kind: ewc}", "got ewc, expected one of none, kl, l2"},
      {"anchor: {kind: kl, by: kappa}", "job.yaml:3:20: anchor.by: kappa goes with kind: l2"},
      {"anchor: {kind: l2, by: kappa, weight: 10}", "NONE"},
      {"forgetting: {keep: best, stop_when: 0}", "forgetting.stop_when: got 0, expected a number"},
      {"seed: !date 4", "the tag !date means nothing here"},
      {"3: 4", "unknown key 3"},
  };
  struct ka_job j;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *text = t_str("%s%s\n", least, cases[i].line);
    ka_status st = parse(&j, text, NULL, 0);
    if (strcmp(cases[i].message, "NONE") == 0) {
      T_OK(st);
    } else {
      T_FAILS(st, KA_E_INPUT, cases[i].message);
      assert_int_equal(j.file.problems.n, 1);
    }
    ka_job_close(&j);
  }
}

static void broken_yaml_has_a_place(void **state) {
  (void)state;
  static const struct {
    const char *text, *message;
  } cases[] = {
      {"", "expected a mapping of keys"},
      {"# nothing\n", "expected a mapping"},
      {"just text", "job.yaml:1:1: expected a mapping"},
      {"- a\n- b\n", "expected a mapping"},
      {"a: [1, 2\n", "job.yaml:2:1:"},
      {"seed: 1\nseed: 2\n", "job.yaml:2:1: key \"seed\" is given twice"},
      {"seed: \"x\n", "job.yaml:1:7: found unexpected end of stream, while scanning a quoted"},
      {"a: b: c\n", "job.yaml:1:"},
      {"\tseed: 1\n", "job.yaml:1:"},
      {"---\nseed: 1\n---\nseed: 2\n", "second YAML document"},
      {"seed: *x\n", "job.yaml:1:7: alias *x has no anchor"},
      {"a: &a [*a]\n", "inside its own anchor"},
      {"? [a]\n: b\n", "as the key"},
      {"seed: \x01\n", "job.yaml:1:7: control character"},
      {"seed: \xff\n", "job.yaml:1:7: not valid UTF-8"},
      {"seed: \"\\0\"\n", "NUL"},
      {"<<: 3\n", "<<: expected a mapping"},
      {"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", "nested too deeply"},
  };
  struct ka_job j;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    T_FAILS(parse(&j, cases[i].text, NULL, 0), KA_E_INPUT, cases[i].message);
    ka_job_close(&j);
  }
}

static void all_problems_come_at_once(void **state) {
  (void)state;
  struct ka_job j;
  const char *text = "sequence_len: x\nfoo_bar_baz: 1\ndatasets:\n- type: alpacca\n  path: a\n"
                     "selection: {order: up}\n";
  T_FAILS(parse(&j, text, NULL, 0), KA_E_INPUT, "5 problems in the job");
  static const char *const expected[] = {
      "job.yaml:1:15: sequence_len", "job.yaml:2:1: unknown key", "job.yaml:4:9: datasets.0.type",
      "job.yaml:6:20: selection.order", "job.yaml: base_model is required"};
  assert_int_equal(j.file.problems.n, 5);
  for (int i = 0; i < 5; i++) assert_non_null(strstr(j.file.problems.items[i], expected[i]));
  ka_job_close(&j);
  /* However many there are. */
  struct ka_str many = {0};
  for (int i = 0; i < 500; i++) T_OK(ka_str_printf(ctx, &many, "no_such_key_%d: 1\n", i));
  T_FAILS(parse(&j, many.data, NULL, 0), KA_E_INPUT, "unknown key no_such_key_499");
  assert_int_equal(j.file.problems.n, 502);
  ka_job_close(&j);
  ka_str_deinit(&many);
}

static void words_of_the_command_line_win(void **state) {
  (void)state;
  static const char *const words[] = {"learning_rate=1e-3",
                                      "max_steps=5",
                                      "selection.include=[q_proj, k_proj]",
                                      "base_model=other",
                                      "datasets.0.type=alpaca",
                                      "seed=",
                                      "selection.params=2K"};
  struct ka_job j;
  const char *text = t_str("%snum_epochs: 2\nseed: 7\nselection: {fraction: 0.5}\n", least);
  T_OK(parse(&j, text, words, 7));
  assert_true(j.learning_rate == 1e-3 && j.max_steps == 5 && j.num_epochs == 0 && j.seed == 42);
  assert_true(j.selection.include.n == 2 && j.selection.params == 2000);
  assert_true(j.selection.fraction == 0 && j.selection.count == 0);
  assert_string_equal(j.base_model, "other"); /* the current directory */
  assert_int_equal(j.datasets.items[0].type, KA_DOCUMENT_ALPACA);
  assert_string_equal(ka_job_place(&j, "learning_rate"), "command line");
  ka_job_close(&j);
  static const struct {
    const char *word, *message;
  } cases[] = {
      {"learning_rate", "command line: got \"learning_rate\", expected key=value"},
      {"=3", "expected key=value"},
      {"lerning_rate=3", "command line: unknown key lerning_rate, did you mean learning_rate?"},
      {"learning_rate=x", "command line: learning_rate: got x, expected a number"},
      {"learning_rate=[", "command line: learning_rate:"},
      {"selection.cuont=3", "unknown key selection.cuont, did you mean count?"},
      {"selection=3", "expected a mapping"},
      {"seed.a=3", "seed has no keys below it"},
      {"datasets.1.path=a", "N below 1"},
      {"datasets.x.path=a", "expected datasets.N.KEY"},
      {"datasets.0=a", "expected datasets.N.KEY"},
      {"datasets.0.type=sharegpt", "with field_messages: conversations"},
      {"cutoff_len=x", "command line: sequence_len: got x"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    T_FAILS(parse(&j, least, &cases[i].word, 1), KA_E_INPUT, cases[i].message);
    ka_job_close(&j);
  }
  static const char *const both[] = {"max_steps=5", "num_epochs=2"};
  T_FAILS(parse(&j, least, both, 2), KA_E_INPUT, "exclude each other");
  ka_job_close(&j);
  static const char *const spaced[] = {" selection.count = 7 ", "cutoff_len=64"};
  T_OK(parse(&j, least, spaced, 2));
  assert_true(j.selection.count == 7 && j.sequence_len == 64 && ka_job_given(&j, "sequence_len"));
  ka_job_close(&j);
  static const char *const whole[] = {"base_model=m", "datasets=[{path: x}]"};
  T_OK(parse(&j, "{}", whole, 2));
  ka_job_close(&j);
}

static void anchors_and_merge_keys_work(void **state) {
  (void)state;
  struct ka_job j;
  const char *text = "base_model: m\n"
                     "datasets:\n"
                     "- &one {path: a, type: alpaca, weight: 2}\n"
                     "- {<<: *one, path: b}\n"
                     "test_datasets: [*one]\n";
  T_OK(parse(&j, text, NULL, 0));
  assert_int_equal(j.datasets.n, 2);
  assert_string_equal(j.datasets.items[1].path.items[0], "dir/b");
  assert_int_equal(j.datasets.items[1].type, KA_DOCUMENT_ALPACA);
  assert_true(j.datasets.items[1].weight == 2 && j.test_datasets.n == 1);
  ka_job_close(&j);
}

static void hostile_yaml_is_bounded(void **state) {
  (void)state;
  struct ka_job j;
  struct ka_str s = {0};
  T_OK(ka_str_puts(ctx, &s, "base_model: m\na0: &a0 [x,x,x,x,x,x,x,x,x]\n"));
  for (int i = 1; i < 40; i++) {
    T_OK(ka_str_printf(ctx, &s, "a%d: &a%d [", i, i));
    for (int k = 0; k < 9; k++) T_OK(ka_str_printf(ctx, &s, "%s*a%d", k ? "," : "", i - 1));
    T_OK(ka_str_puts(ctx, &s, "]\n"));
  }
  T_OK(ka_str_puts(ctx, &s, "report_to: *a39\n"));
  T_FAILS(parse(&j, s.data, NULL, 0), KA_E_INPUT, "problems");
  ka_job_close(&j);
  /* A long list used very often. */
  ka_str_clear(&s);
  T_OK(ka_str_puts(ctx, &s, "base_model: m\nx: &l [a"));
  for (int i = 0; i < 2000; i++) T_OK(ka_str_puts(ctx, &s, ",a"));
  T_OK(ka_str_puts(ctx, &s, "]\ndatasets: ["));
  for (int i = 0; i < 2000; i++) T_OK(ka_str_puts(ctx, &s, "{path: *l},"));
  T_OK(ka_str_puts(ctx, &s, "]\n"));
  T_FAILS(parse(&j, s.data, NULL, 0), KA_E_INPUT, "more than 100000 values");
  ka_job_close(&j);
  /* Merge keys that double. */
  ka_str_clear(&s);
  T_OK(ka_str_puts(ctx, &s, "m0: &m0 {a: 1}\n"));
  for (int i = 1; i < 500; i++)
    T_OK(ka_str_printf(ctx, &s, "m%d: &m%d {<<: *m%d, k%d: 1}\n", i, i, i - 1, i));
  T_FAILS(parse(&j, s.data, NULL, 0), KA_E_INPUT, "merge keys add too many");
  ka_job_close(&j);
  ka_str_clear(&s);
  for (int i = 0; i < 60000; i++) T_OK(ka_str_puts(ctx, &s, "- a\n- b\n"));
  T_FAILS(parse(&j, s.data, NULL, 0), KA_E_INPUT, "more than 100000 values");
  ka_job_close(&j);
  ka_str_deinit(&s);
}

static void paths_are_checked_when_loaded(void **state) {
  (void)state;
  const char *dir = t_temp_dir();
  T_OK(ka_make_dirs(ctx, t_str("%s/model", dir)));
  T_OK(ka_write_file(ctx, t_str("%s/a.jsonl", dir), "", 0));
  const char *path = t_str("%s/job.yaml", dir);
  const char *good = "base_model: model\ndatasets: [{path: ['*.jsonl', a.jsonl]}]\n"
                     "output_dir: new/out\n";
  T_OK(ka_write_file(ctx, path, good, strlen(good)));
  struct ka_job j;
  T_OK(ka_job_load(ctx, &j, path, NULL, 0));
  assert_string_equal(j.base_model, t_str("%s/model", dir));
  assert_string_equal(j.output_dir, t_str("%s/new/out", dir));
  ka_job_close(&j);
  const char *bad = "base_model: /no/model\ndatasets: [{path: ['*.csv', b.jsonl]}]\n"
                    "selection: {file: s.json}\n";
  T_OK(ka_write_file(ctx, path, bad, strlen(bad)));
  T_FAILS(ka_job_load(ctx, &j, path, NULL, 0), KA_E_INPUT, "4 problems in the job");
  assert_non_null(strstr(j.file.problems.items[0], ":1:13: base_model: /no/model: no such file"));
  assert_non_null(strstr(j.file.problems.items[1], "no file matches"));
  ka_job_close(&j);
  const char *words[] = {t_str("base_model=%s/model", dir),
                         t_str("datasets.0.path=%s/a.jsonl", dir),
                         "selection.file=", "selection.count=1"};
  T_OK(ka_job_load(ctx, &j, path, words, 4)); /* what words replace need not exist */
  assert_string_equal(j.base_model, t_str("%s/model", dir));
  ka_job_close(&j);
  T_FAILS(ka_job_load(ctx, &j, t_str("%s/none.yaml", dir), NULL, 0), KA_E_INPUT, "No such file");
  ka_job_close(&j);
}

static void failing_allocations_are_reported(void **state) {
  (void)state;
  struct ka_job j;
  bool done = false;
  for (int n = 1; n < 400 && !done; n++) {
    ctx->fail_alloc_at = n;
    ka_status st = parse(&j, least, NULL, 0);
    done = ka_ok(st);
    if (!done) assert_int_equal(st.code, KA_E_MEMORY);
    ctx->fail_alloc_at = 0;
    ka_job_close(&j);
    ka_error_clear(ctx);
  }
  assert_true(done);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(defaults_are_those_of_the_table, fresh),
      cmocka_unit_test_setup(recipe_is_defaults, fresh),
      cmocka_unit_test_setup(alternatives_replace_defaults, fresh),
      cmocka_unit_test_setup(wrong_values_say_where_and_what, fresh),
      cmocka_unit_test_setup(broken_yaml_has_a_place, fresh),
      cmocka_unit_test_setup(all_problems_come_at_once, fresh),
      cmocka_unit_test_setup(words_of_the_command_line_win, fresh),
      cmocka_unit_test_setup(anchors_and_merge_keys_work, fresh),
      cmocka_unit_test_setup(hostile_yaml_is_bounded, fresh),
      cmocka_unit_test_setup(paths_are_checked_when_loaded, fresh),
      cmocka_unit_test_setup(failing_allocations_are_reported, fresh),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
