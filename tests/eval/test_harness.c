/* SPDX-License-Identifier: Apache-2.0
 * The tasks in cases/ against what lm-evaluation-harness made of them (make_expected.py): prompts
 * (their hashes), every log-likelihood, every generated text, what filters make of it, metrics,
 * standard errors, groups. And the four tasks of the fixtures. */
#include "engine/eval/tasks.h"
#include "tests/support/fresh.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct bench { /* a model that is ready */
  struct ka_dev dev;
  struct ka_model model;
  struct ka_tokenizer *tokenizer;
  const char *dir;
};

static void open_bench(struct bench *b, const char *dir) {
  b->dir = dir;
  T_OK(ka_dev_open(ctx, &b->dev, "cpu"));
  T_OK(ka_model_open(ctx, &b->model, &b->dev, dir, KA_F32));
  T_OK(ka_tokenizer_open(ctx, &b->tokenizer, dir));
}

static void close_bench(struct bench *b) {
  ka_tokenizer_close(b->tokenizer);
  ka_model_close(&b->model);
  ka_dev_close(&b->dev);
}

static const char *source(const char *path) {
  const char *home = getenv("KAPPA_SOURCE_DIR");
  return t_str("%s/tests/eval/%s", home ? home : ".", path);
}

/* --- comparing --------------------------------------------------------------- */

static void near(const char *what, const json_t *got, const json_t *want, double relative,
                 double absolute) {
  double a = json_number_value(got), b = json_number_value(want);
  if (json_is_number(got) && json_is_number(want) && fabs(a - b) <= absolute + relative * fabs(b))
    return;
  fail_msg("%s: got %s, expected %s", what, json_dumps(got, JSON_ENCODE_ANY),
           json_dumps(want, JSON_ENCODE_ANY));
}

/* Numbers to four digits, all else exactly. */
static void same(const char *what, const json_t *got, const json_t *want) {
  const char *key;
  json_t *value;
  size_t i;
  if (json_is_number(want) && json_is_number(got)) {
    near(what, got, want, 5e-5, 1e-9);
  } else if (json_is_object(want)) {
    json_object_foreach((json_t *)(uintptr_t)want, key, value)
        same(t_str("%s: %s", what, key), json_object_get(got, key), value);
    if (json_object_size(got) != json_object_size(want))
      fail_msg("%s: got %s, expected %s", what, json_dumps(got, 0), json_dumps(want, 0));
  } else if (json_is_array(want)) {
    if (json_array_size(got) != json_array_size(want))
      fail_msg("%s: got %s, expected %s", what, json_dumps(got, 0), json_dumps(want, 0));
    json_array_foreach((json_t *)(uintptr_t)want, i, value)
        same(t_str("%s: %zu", what, i), json_array_get(got, i), value);
  } else if (!json_equal(got, want)) {
    fail_msg("%s: got %s, expected %s", what, got ? json_dumps(got, JSON_ENCODE_ANY) : "nothing",
             json_dumps(want, JSON_ENCODE_ANY));
  }
}

static json_t *as_number(const json_t *text) { return json_real(atof(json_string_value(text))); }

/* got: [["-1.5", "True"]] or ["-1.5"], want: [-1.5, true] or -1.5. The harness sums in float32, so
 * that of a whole text (-28370 at most) the last digits are its rounding. */
static void same_likelihood(const char *what, const json_t *got, const json_t *want) {
  const json_t *first = json_array_get(got, 0);
  json_t *number;
  if (json_is_array(want)) {
    const char *greedy = json_string_value(json_array_get(first, 1));
    number = as_number(json_array_get(first, 0));
    near(what, number, json_array_get(want, 0), FLT_EPSILON, 1e-3);
    if (strcmp(greedy, json_is_true(json_array_get(want, 1)) ? "True" : "False") != 0)
      fail_msg("%s: greedy is %s", what, greedy);
  } else {
    number = as_number(first);
    near(what, number, want, FLT_EPSILON, 1e-3);
  }
  json_decref(number);
}

/* want: [hashes, filter, resps, filtered, values]; the last two of generated texts alone. */
static void same_sample(const char *what, const json_t *got, const json_t *want) {
  static const char *const keys[] = {"doc_hash", "prompt_hash", "target_hash"};
  const char *hashes = json_string_value(json_array_get(want, 0));
  const json_t *resps = json_array_get(want, 2), *got_resps = json_object_get(got, "resps");
  bool texts = json_is_array(json_array_get(want, 3));
  for (int i = 0; i < 3; i++)
    if (strncmp(json_string_value(json_object_get(got, keys[i])), hashes + 8 * i, 8) != 0)
      fail_msg("%s: %s differs: %s", what, keys[i], json_dumps(got, 0));
  assert_string_equal(json_string_value(json_object_get(got, "filter")),
                      json_string_value(json_array_get(want, 1)));
  assert_int_equal(json_array_size(got_resps), json_array_size(resps));
  for (size_t i = 0; i < json_array_size(resps); i++)
    if (texts)
      same(what, json_array_get(json_array_get(got_resps, i), 0), json_array_get(resps, i));
    else
      same_likelihood(what, json_array_get(got_resps, i), json_array_get(resps, i));
  if (!texts) return;
  same(what, json_object_get(got, "filtered_resps"), json_array_get(want, 3));
  const json_t *names = json_object_get(got, "metrics");
  for (size_t m = 0; m < json_array_size(names); m++)
    same(what, json_object_get(got, json_string_value(json_array_get(names, m))),
         json_array_get(json_array_get(want, 4), m));
}

static void same_samples(const char *file, const char *task, const json_t *want) {
  struct ka_str all = {0};
  size_t i = 0;
  T_OK(ka_read_file(ctx, file, 0, &all));
  for (char *line = strtok(all.data, "\n"); line; line = strtok(NULL, "\n"), i++) {
    json_t *got = NULL;
    T_OK(ka_json_parse(ctx, line, strlen(line), file, &got));
    same_sample(t_str("%s, line %zu", task, i), got, json_array_get(want, i));
    json_decref(got);
  }
  assert_int_equal(i, json_array_size(want));
  ka_str_deinit(&all);
}

/* --- running ----------------------------------------------------------------- */

/* The file in dir whose name begins so. */
static const char *find_file(struct ka_arena *a, const char *dir, const char *prefix) {
  const char **names;
  int64_t n;
  T_OK(ka_list_dir(a, dir, &names, &n));
  for (int64_t i = 0; i < n; i++)
    if (ka_starts_with(names[i], prefix)) return t_str("%s/%s", dir, names[i]);
  fail_msg("%s: no file %s...", dir, prefix);
  return NULL;
}

/* Scores and writes; the directory of the files. */
static const char *score(struct bench *b, const char *const *names, int64_t n,
                         const struct ka_tasks_options *o, int64_t bootstrap_iters) {
  struct ka_tasks *tasks;
  struct ka_results results;
  const struct ka_eval_encode_options encoding = {
      .max_length = b->model.recipe.max_positions, .prefix_token = -1, .add_bos = -1};
  struct ka_eval_score_options scoring = KA_SCORE_DEFAULTS;
  scoring.bootstrap_iters = bootstrap_iters;
  T_OK(ka_tasks_load(ctx, &tasks, names, n, o));
  T_OK(ka_tasks_encode(ctx, tasks, b->tokenizer, &encoding));
  b->model.max_position = ka_tasks_positions(tasks);
  T_OK(ka_model_prepare(&b->model, 1, 2048, false));
  T_OK(ka_tasks_score(ctx, tasks, &b->model, &scoring, &results));
  const struct ka_run_info info = {
      .model = "m", .dtype = "f32", .device = "cpu", .tasks = o, .scoring = &scoring};
  json_t *root;
  const char *dir = t_temp_dir();
  T_OK(ka_results_json(ctx, tasks, &results, &info, &root));
  T_OK(ka_results_write(ctx, tasks, &results, &info, root, dir, true));
  json_decref(root);
  ka_results_close(&results);
  ka_tasks_close(tasks);
  return t_str("%s/m", dir);
}

static void check_run(struct bench *b, const json_t *run) {
  const char *names[128], *task;
  const char *paths[] = {source("functions"), source("../../configs/tasks"), source("cases")};
  struct ka_arena a;
  const json_t *list = json_object_get(run, "tasks"), *options = json_object_get(run, "options");
  json_t *results, *want;
  size_t n = json_array_size(list);
  for (size_t i = 0; i < n; i++) names[i] = json_string_value(json_array_get(list, i));
  struct ka_tasks_options o = KA_TASKS_DEFAULTS;
  o.include_paths = paths;
  o.n_include_paths = 3;
  o.limit = json_number_value(json_object_get(options, "limit"));
  if (json_object_get(options, "num_fewshot"))
    o.num_fewshot = json_integer_value(json_object_get(options, "num_fewshot"));
  struct ka_chat *chat = NULL;
  if (json_object_get(options, "template")) {
    const char *name = json_string_value(json_object_get(options, "template"));
    T_OK(ka_chat_load_file(ctx, &chat, source(t_str("templates/%s.jinja", name)), b->dir));
    o.chat.template = chat;
    o.chat.as_turns = json_is_true(json_object_get(options, "fewshot_as_multiturn"));
  }
  o.chat.system_instruction = json_string_value(json_object_get(options, "system_instruction"));
  const char *dir = score(b, names, (int64_t)n, &o, 3000);
  ka_arena_init(&a, ctx, "test");
  json_object_foreach(json_object_get(run, "samples"), task, want)
      same_samples(find_file(&a, dir, t_str("samples_%s_20", task)), task, want);
  T_OK(ka_json_load(ctx, find_file(&a, dir, "results_"), &results));
  static const char *const keys[] = {"results", "groups",           "group_subtasks", "versions",
                                     "n-shot",  "higher_is_better", "n-samples"};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
    if (json_object_get(run, keys[i]))
      same(keys[i], json_object_get(results, keys[i]), json_object_get(run, keys[i]));
  json_decref(results);
  ka_chat_destroy(chat);
  ka_arena_deinit(&a);
}

static void check_all(const char *file, const char *model_dir) {
  struct bench b;
  json_t *runs, *run;
  size_t i;
  open_bench(&b, model_dir);
  T_OK(ka_json_load(ctx, source(file), &runs));
  json_array_foreach(runs, i, run) check_run(&b, run);
  assert_true(i >= 5);
  json_decref(runs);
  close_bench(&b);
}

static void a_model_of_bytes(void **state) {
  (void)state;
  const char *dir = t_temp_dir();
  struct ka_str err = {0};
  int rc = t_kappa(NULL, &err, "init --config %s --out %s --seed 1 --tokenizer bytes --dtype f32",
                   source("bytes.json"), dir);
  if (rc != 0) fail_msg("kappa init: %s", err.data);
  ka_str_deinit(&err);
  check_all("expected_bytes.json", dir);
}

static void a_model_of_stories(void **state) {
  (void)state;
  T_DATA(data);
  check_all("expected_stories.json", t_str("%s/weights/stories260K-hf", data));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(a_model_of_bytes, fresh),
      cmocka_unit_test_setup(a_model_of_stories, fresh),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
