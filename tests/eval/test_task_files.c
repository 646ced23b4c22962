/* SPDX-License-Identifier: Apache-2.0
 * Task files: every mistake is said with its place and what to do; what documents are;
 * docs/tasks.md is up to date; files in configs/tasks load. */
#include "engine/eval/docs.h"
#include "engine/eval/metrics.h"
#include "engine/eval/task_config.h"
#include "engine/eval/tasks.h"
#include "tests/support/test.h"

#include <stdlib.h>
#include <string.h>

static struct ka_ctx context, *ctx = &context;
static const char *dir;

static int fresh(void **state) {
  (void)state;
  ka_ctx_init(ctx);
  ctx->log_level = KA_LOG_QUIET;
  dir = t_temp_dir();
  return 0;
}

static const char *write(const char *name, const char *text) {
  const char *path = t_str("%s/%s", dir, name);
  T_OK(ka_write_file(ctx, path, text, strlen(text)));
  return path;
}

static ka_status load(const char *path, struct ka_tasks **out) {
  const struct ka_tasks_options o = KA_TASKS_DEFAULTS;
  return ka_tasks_load(ctx, out, &path, 1, &o);
}

static const char good[] = "task: t\n"
                           "dataset_path: json\n"
                           "dataset_kwargs: {data_files: {test: d.jsonl}}\n"
                           "output_type: multiple_choice\n"
                           "test_split: test\n"
                           "doc_to_text: q\n"
                           "doc_to_choice: c\n"
                           "doc_to_target: g\n";

/* The good file with `line` in place of the line that starts with the same key, or behind it. */
static const char *with(const char *line) {
  static char text[4096];
  size_t key = strcspn(line, ":") + 1, n = 0;
  bool done = false;
  for (const char *p = good; *p;) {
    size_t len = strcspn(p, "\n") + 1;
    bool same = strncmp(p, line, key) == 0;
    n += (size_t)snprintf(text + n, sizeof text - n, "%.*s", same ? (int)strlen(line) : (int)len,
                          same ? line : p);
    if (same) n += (size_t)snprintf(text + n, sizeof text - n, "\n");
    done = done || same;
    p += len;
  }
  if (!done) snprintf(text + n, sizeof text - n, "%s\n", line);
  return text;
}

static void mistakes_have_a_place(void **state) {
  (void)state;
  static const struct {
    const char *line, *message;
  } cases[] = {
      {"task: a/b", "t.yaml:1:1: task: got a/b, expected a name without /"},
      {"tast: x", "t.yaml:9:1: unknown key tast, did you mean task?"},
      {"process_docs: x", "t.yaml:9:15: process_docs: got x, expected a mapping of keys"},
      {"doc_to_text: !function utils.text",
       "t.yaml:6:14: doc_to_text: the tag !function means nothing here: kappa runs no Python"},
      {"dataset_path: cais/mmlu", "t.yaml:2:1: dataset_path: got cais/mmlu, expected json or csv"},
      {"test_split: tset", "t.yaml:5:1: test_split: there is no split tset among the data_files: "
                           "test; did you mean test?"},
      {"test_split: null", "t.yaml: test_split or validation_split is required"},
      {"dataset_kwargs: {data_files: {test: none.jsonl}}", "none.jsonl: No such file"},
      {"dataset_kwargs: {data_files: {test: [1, [2]]}}",
       "t.yaml:3:41: data_files: expected a file"},
      {"dataset_kwargs: {data_files: {test: d.jsonl}, trust_remote_code: On, x: 1}",
       "unknown key dataset_kwargs.x"},
      {"dataset_kwargs: {datafiles: x}", "unknown key dataset_kwargs.datafiles, did you mean "
                                         "data_files?"},
      {"output_type: choice", "t.yaml:4:14: output_type: got choice, expected one of"},
      {"doc_to_choice: [yes, no]", "expected a list of texts (words like yes"},
      {"doc_to_choice: yes",
       "t.yaml:7:16: doc_to_choice: got yes, which YAML does not read as text"},
      {"doc_to_choice: null", "doc_to_choice is required with multiple_choice"},
      {"doc_to_choice: \"{{q}}\"", "prints no list but One? (task t, document 0)"},
      {"doc_to_target: \"{{nope}}\"",
       "t.yaml:8:16: doc_to_target:1:3: 'nope' is undefined (task t, document 0)"},
      {"doc_to_target: \"{{\"", "t.yaml:8:16: doc_to_target:1:1: {{ is never closed"},
      {"doc_to_target: \"{{g|nothing}}\"", "filter 'nothing' is not known"},
      {"doc_to_target: n", "expected the number of a choice"},
      {"metric_list: [{metric: accc}]",
       "t.yaml:9:15: metric: accc is not a metric of multiple_choice, did you mean acc?"},
      {"metric_list: [{metric: bleu}]", "bleu is not a metric of multiple_choice"},
      {"metric_list: [{metric: perplexity}]", "perplexity is not a metric of multiple_choice"},
      {"metric_list: [{metric: acc, aggregation: perplexityy}]",
       "aggregation: perplexityy is none for acc, whose own is mean"},
      {"metric_list: [{metric: acc, aggregation: f1}]", "f1 is none for acc"},
      {"metric_list: [{metric: acc}, {metric: acc}]", "acc is named twice"},
      {"metric_list: []", "t.yaml:9:1: metric_list: no metric"},
      {"metric_list: [{metric: exact_match, regexes_to_ignore: ['(']}]",
       "regexes_to_ignore: pattern \"(\""},
      {"filter_list: [{name: a, filter: [{function: lowercas}]}]",
       "t.yaml:9:1: filter_list: there is no filter lowercas, did you mean lowercase?"},
      {"filter_list: [{name: a, filter: [{function: lowercase}]}]", "multiple_choice has no texts"},
      {"num_fewshot: 2", "2 examples are wanted, there are 1 to draw from"},
      {"num_fewshot: -1", "t.yaml:9:14: num_fewshot: got -1, expected an integer from 0"},
      {"num_fewshot: 1\nfewshot_split: dev", "fewshot_split: there is no split dev among"},
      {"include: t.yaml", "t.yaml:9:10: include: "},
      {"include: none.yaml", "none.yaml: No such file"},
      {"generation_kwargs: {do_sample: true}", "do_sample: true needs a temperature above 0"},
      {"generation_kwargs: {num_beams: 4}", "num_beams: got 4, expected an integer from 1 to 1"},
      {"process_docs: {keep: \"{{ g }}\"}",
       "process_docs.keep: the template prints 1, expected True or False (task t, document 0)"},
      {"process_docs: {columns: [a]}", "columns: expected a mapping"},
      {"process_results: {acc: \"{{\"}", "acc:1:1: {{ is never closed"},
      {"process_results: [a]", "process_results: expected {metric: template"},
      {"generation_kwargs: {stop: x}", "unknown key generation_kwargs.stop"},
      {"group: g", "t.yaml:1:7: task: expected a list of the group's members"},
      {"dataset_path: [", "t.yaml:"},
  };
  write("d.jsonl", "{\"q\": \"One?\", \"c\": [\"a\", \"b\"], \"g\": 1, \"n\": 1.5}\n");
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct ka_tasks *t;
    const char *path = write("t.yaml", with(cases[i].line));
    ka_status st = load(path, &t);
    if (ka_ok(st)) fail_msg("%s: no mistake is found", cases[i].line);
    if (st.code != KA_E_INPUT || !strstr(ctx->error.message, cases[i].message))
      fail_msg("%s: got %s, expected %s", cases[i].line, ctx->error.message, cases[i].message);
    assert_null(t);
    ka_error_clear(ctx);
  }
}

static void groups_say_what_they_miss(void **state) {
  (void)state;
  struct ka_tasks *t;
  write("d.jsonl", "{\"q\": \"One?\", \"c\": [\"a\", \"b\"], \"g\": 1}\n");
  write("t.yaml", good);
  T_FAILS(load(write("g.yaml", "group: g\ntask: [t, nobody]\n"), &t), KA_E_INPUT,
          "g.yaml:2:11: task: no task, group or tag of the name nobody");
  T_FAILS(load(write("g.yaml", "group: g\ntask: [{num_fewshot: 1}]\n"), &t), KA_E_INPUT,
          "g.yaml:2:8: task: expected names, or mappings with the key task or group");
  T_FAILS(load(write("g.yaml", "group: g\ntask: [g]\n"), &t), KA_E_INPUT, "more than 16 deep");
  T_FAILS(load(write("g.yaml", "group: g\ntask: [t, {task: t, num_fewshot: 0}]\n"), &t), KA_E_INPUT,
          "there are two tasks of the name t");
  T_FAILS(
      load(write("g.yaml", "group: g\ntask: [t]\naggregate_metric_list: [{metrik: acc}]\n"), &t),
      KA_E_INPUT, "g.yaml:3:26: unknown key aggregate_metric_list.0.metrik");
  T_FAILS(load(write("g.yaml", "group: g\ntask: [t]\nnonsense: 1\n"), &t), KA_E_INPUT,
          "g.yaml:3:1: unknown key nonsense");
  T_OK(load(write("g.yaml", "group: g\ntask: [t, t.yaml]\n"), &t));
  ka_tasks_close(t);
  T_FAILS(load("nowhere.yaml", &t), KA_E_INPUT, "nowhere.yaml: no such file; tasks are named");
}

static ka_status load_below(const char *name, const char *const *paths, int64_t n,
                            struct ka_tasks **out) {
  struct ka_tasks_options o = KA_TASKS_DEFAULTS;
  o.include_paths = paths;
  o.n_include_paths = n;
  return ka_tasks_load(ctx, out, &name, 1, &o);
}

/* As the harness does: below the paths at any depth, the last path that has the name. */
static void names_are_found_below_paths(void **state) {
  (void)state;
  struct ka_tasks *t;
  const char *first = t_str("%s/first", dir), *second = t_str("%s/second", dir);
  T_OK(ka_make_dirs(ctx, t_str("%s/a/b", first)));
  T_OK(ka_make_dirs(ctx, second));
  const char *row = "{\"q\": \"x\", \"c\": [\"y\", \"z\"], \"g\": 0}\n";
  write("first/a/b/d.jsonl", row);
  write("second/d.jsonl", t_str("%s%s", row, row));
  write("first/a/b/deep.yaml", good);
  write("first/a/broken.yaml", "task: broken\ndoc_to_text: \"x\n");
  write("first/unnamed.yaml", "include: nothing.yaml\n");
  const char *const paths[] = {first, second};
  T_OK(load_below("t", paths, 2, &t));
  assert_int_equal(ka_tasks_n_requests(t), 2);
  ka_tasks_close(t);
  write("second/same.yaml", good);
  T_OK(load_below("t", paths, 2, &t));
  assert_int_equal(ka_tasks_n_requests(t), 4);
  ka_tasks_close(t);
  T_FAILS(load_below("broken", paths, 2, &t), KA_E_INPUT, "broken: the file cannot be read: ");
  T_FAILS(load_below("unnamed", paths, 2, &t), KA_E_INPUT, "nothing.yaml: No such file");
  T_FAILS(load_below("none", paths, 2, &t), KA_E_INPUT, "no task, group or tag of this name");
  write("g.yaml", "group: g\ntask: [broken]\n");
  write("broken.yaml", "task: 'broken'\n  x: [\n");
  T_FAILS(load(t_str("%s/g.yaml", dir), &t), KA_E_INPUT, "broken.yaml:");
}

static void a_signal_ends_loading(void **state) {
  (void)state;
  volatile int interrupted = 15;
  struct ka_tasks *t;
  write("d.jsonl", "{\"q\": \"x\", \"c\": [\"y\", \"z\"], \"g\": 0}\n");
  const char *path = write("t.yaml", good);
  ctx->interrupted = &interrupted;
  T_FAILS(load(path, &t), KA_E_INTERRUPTED, "interrupted");
}

static void rows_are(const char *name, const char *text, const char *want) {
  const char *path = write(name, text);
  const struct ka_key_texts files = {&path, 1};
  json_t *rows;
  T_OK(ka_eval_docs_read(ctx, &files, ka_ends_with(name, ".csv"), &rows));
  char *got = json_dumps(rows, JSON_COMPACT);
  if (strcmp(got, want) != 0) fail_msg("%s: got %s, expected %s", text, got, want);
  free(got);
  json_decref(rows);
}

/* As the datasets library (5.2) types them. */
static void documents_are_typed(void **state) {
  (void)state;
  rows_are("a.jsonl", "{\"a\":1,\"b\":\"x\"}\n\n{\"a\":2.5,\"c\":[1]}\n",
           "[{\"a\":1.0,\"b\":\"x\",\"c\":null},{\"a\":2.5,\"b\":null,\"c\":[1]}]");
  rows_are("b.json", "[{\"a\":[1,2.5]},{\"a\":[3]},{\"a\":null}]",
           "[{\"a\":[1.0,2.5]},{\"a\":[3.0]},{\"a\":null}]");
  rows_are("c.jsonl", "{\"a\":{\"x\":1,\"y\":[1]}}\n{\"a\":{\"y\":[2.5],\"x\":2}}\n",
           "[{\"a\":{\"x\":1,\"y\":[1.0]}},{\"a\":{\"x\":2,\"y\":[2.5]}}]");
  rows_are("d.jsonl", "{\"a\":{\"x\":1}}\n{\"a\":{\"y\":2.5}}\n",
           "[{\"a\":{\"x\":1}},{\"a\":{\"y\":2.5}}]");
  rows_are("e.jsonl", "{\"a\":true}\n{\"a\":1}\n{\"a\":1.5}\n",
           "[{\"a\":true},{\"a\":1},{\"a\":1.5}]");
  rows_are("f.csv", "a,b,c,d,e,f\n1,x,1.5,True,,NA\n2, y ,2,FALSE,3,z\n",
           "[{\"a\":1,\"b\":\"x\",\"c\":1.5,\"d\":true,\"e\":null,\"f\":null},"
           "{\"a\":2,\"b\":\" y \",\"c\":2.0,\"d\":false,\"e\":3.0,\"f\":\"z\"}]");
  rows_are("g.csv", "a,b\n01,\"q, \"\"r\"\"\"\n 2,\n",
           "[{\"a\":1,\"b\":\"q, \\\"r\\\"\"},{\"a\":2,\"b\":null}]");
  /* blanks belong to the field, as pandas has it; blank lines are none */
  rows_are("j.csv", "  \nq,a\n  two blanks, x\n \t\r\n\tplain,y\n  ",
           "[{\"q\":\"  two blanks\",\"a\":\" x\"},{\"q\":\"\\tplain\",\"a\":\"y\"}]");
  json_t *rows;
  const char *path = write("h.jsonl", "{\"a\":1}\n{\"a\":\n");
  T_FAILS(ka_eval_docs_read(ctx, &(struct ka_key_texts){&path, 1}, false, &rows), KA_E_INPUT,
          "h.jsonl:2: not valid JSON");
  path = write("i.jsonl", "[1]");
  T_FAILS(ka_eval_docs_read(ctx, &(struct ka_key_texts){&path, 1}, false, &rows), KA_E_INPUT,
          "i.jsonl:1: expected a JSON object");
}

static void documentation_is_up_to_date(void **state) {
  (void)state;
  struct ka_str made = {0}, file = {0};
  const char *home = getenv("KAPPA_SOURCE_DIR");
  T_OK(ka_task_doc_markdown(ctx, &made));
  T_OK(ka_read_file(ctx, t_str("%s/docs/tasks.md", home ? home : "."), 0, &file));
  if (made.len != file.len || memcmp(made.data, file.data, file.len) != 0)
    fail_msg("docs/tasks.md is out of date: cmake --build build --target docs");
  ka_str_deinit(&made);
  ka_str_deinit(&file);
}

static void every_row_is_complete(void **state) {
  (void)state;
  for (const struct ka_key *k = ka_task_table.keys; k->name; k++) {
    assert_true(strlen(k->doc) > 2);
    assert_ptr_equal(ka_key_find(&ka_task_table, k->scope, k->name), k); /* named once */
  }
  for (const struct ka_key_rule *r = ka_task_table.aliases; r->key; r++)
    assert_null(ka_key_find(&ka_task_table, r->scope, r->key));
  for (const struct ka_eval_metric *m = ka_metrics; m->name; m++) {
    const struct ka_eval_aggregation *a = ka_eval_aggregation_find(m->aggregation);
    assert_non_null(a);
    assert_int_equal(a->items, m->items);
    for (const char *p = m->dflt; *p; p++) assert_non_null(strchr(m->outputs, *p));
  }
}

/* Of every task in configs/tasks the first thing that is missing is its data. */
static void shipped_tasks_want_only_data(void **state) {
  (void)state;
  const char *home = getenv("KAPPA_SOURCE_DIR"), **names;
  struct ka_arena a;
  int64_t n, n_files = 0;
  ka_arena_init(&a, ctx, "test");
  static const char *const folders[] = {"configs/tasks", "configs/tasks/mmlu"};
  for (int f = 0; f < 2; f++) {
    const char *folder = t_str("%s/%s", home ? home : ".", folders[f]);
    T_OK(ka_list_dir(&a, folder, &names, &n));
    for (int64_t i = 0; i < n; i++) {
      struct ka_tasks *t;
      if (!ka_ends_with(names[i], ".yaml") || names[i][0] == '_') continue;
      ka_status st = load(t_str("%s/%s", folder, names[i]), &t);
      if (ka_ok(st)) { /* somebody has the data */
        ka_tasks_close(t);
      } else if (!strstr(ctx->error.message, ".jsonl: No such file")) {
        fail_msg("%s: %s", names[i], ctx->error.message);
      }
      ka_error_clear(ctx);
      n_files++;
    }
  }
  assert_int_equal(n_files, 9 + 57 + 5);
  ka_arena_deinit(&a);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(mistakes_have_a_place, fresh),
      cmocka_unit_test_setup(groups_say_what_they_miss, fresh),
      cmocka_unit_test_setup(names_are_found_below_paths, fresh),
      cmocka_unit_test_setup(a_signal_ends_loading, fresh),
      cmocka_unit_test_setup(documents_are_typed, fresh),
      cmocka_unit_test_setup(documentation_is_up_to_date, fresh),
      cmocka_unit_test_setup(every_row_is_complete, fresh),
      cmocka_unit_test_setup(shipped_tasks_want_only_data, fresh),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
