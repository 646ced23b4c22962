/* SPDX-License-Identifier: Apache-2.0
 * Forgetting from outside, on a tiny model of bytes: `train` watches, stops and keeps the best;
 * `forget` compares methods of a job, and models with their base. */
#include "tests/support/test.h"

#include "base/json.h"
#include "engine/formats/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct ka_ctx context, *ctx = &context;
static const char *dir;

static void put(const char *name, const char *text) {
  T_OK(ka_write_file(ctx, t_str("%s/%s", dir, name), text, strlen(text)));
}

#define JOB "base_model: base\ndatasets: [{path: new.txt}]\n" REST
#define REST                                                                                       \
  REST_OF "held_out: [{name: new, path: new.txt, role: new}, {name: old, path: old.txt}]\n"
#define REST_OF                                                                                    \
  "sequence_len: 32\nmicro_batch_size: 2\n"                                                        \
  "gradient_accumulation_steps: 1\nmax_steps: 6\nlearning_rate: 1e-2\nval_set_size: 0\n"           \
  "save_steps: 3\nlogging_steps: 1\nbf16: false\nthreads: 1\nreport_to: none\n"                    \
  "selection: {metric: kappa, fraction: 0.3}\n"

static int set_up(void **state) {
  (void)state;
  struct ka_str err = {0};
  ka_ctx_init(ctx);
  ctx->log_level = KA_LOG_QUIET;
  dir = t_temp_dir();
  put("config.json", "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\","
                     "\"vocab_size\":257,\"hidden_size\":32,\"num_hidden_layers\":2,"
                     "\"num_attention_heads\":2,\"intermediate_size\":40,\"hidden_act\":\"silu\","
                     "\"max_position_embeddings\":128,\"rms_norm_eps\":1e-5,"
                     "\"tie_word_embeddings\":true,\"bos_token_id\":256,\"eos_token_id\":256}");
  put("new.txt", "abcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabc");
  put("old.txt", "The quick brown fox jumps over the lazy dog, and the dog sleeps on and on.");
  put("qa.jsonl", "{\"q\": \"ab\", \"c\": [\"c\", \"x\"], \"g\": 0}\n"
                  "{\"q\": \"bc\", \"c\": [\"y\", \"a\"], \"g\": 1}\n");
  put("qa.yaml", "task: qa\ndataset_path: json\ndataset_kwargs: {data_files: {test: qa.jsonl}}\n"
                 "output_type: multiple_choice\ntest_split: test\ndoc_to_text: q\n"
                 "doc_to_choice: c\ndoc_to_target: g\n");
  put("job.yaml", JOB "forgetting: {every: 2}\n");
  put("tasks.yaml", JOB "forgetting: {every: 3, tasks: [qa.yaml]}\n");
  put("plain.yaml", JOB);
  put("teach.yaml", "base_model: blank\ndatasets: [{path: old.txt}]\n" REST);
  if (t_kappa(NULL, &err, "init --config %s/config.json --out %s/blank --tokenizer bytes", dir,
              dir))
    fail_msg("kappa init: %s", err.data);
  ka_str_clear(&err);
  /* A base that knows the old text. */
  if (t_kappa(NULL, &err,
              "train %s/teach.yaml output_dir=%s/base selection.metric=all max_steps=40", dir, dir))
    fail_msg("the base: %s", err.data);
  ka_str_deinit(&err);
  return 0;
}

/* `kappa ARGS` with this exit code and `part` in stderr (in stdout with code 0). */
static void kappa(int code, const char *part, const char *args) {
  struct ka_str out = {0}, err = {0};
  int rc = t_kappa(&out, &err, "%s", args);
  const char *text = code == 0 ? out.data : err.data;
  if (rc != code || !strstr(text ? text : "", part))
    fail_msg("kappa %s: got %d, expected %d with %s\n%s%s", args, rc, code, part,
             out.data ? out.data : "", err.data ? err.data : "");
  ka_str_deinit(&out);
  ka_str_deinit(&err);
}

static void train(int code, const char *part, const char *job, const char *out, const char *words) {
  kappa(code, part, t_str("train %s/%s output_dir=%s/%s %s", dir, job, dir, out, words));
}

static json_t *load(const char *path) {
  json_t *root = NULL;
  T_OK(ka_json_load(ctx, t_str("%s/%s", dir, path), &root));
  return root;
}

/* "step learned forgot" of the log's looks; what a clock says is not in it. */
static char *looks(const char *out) {
  struct ka_str text = {0}, all = {0};
  T_OK(ka_read_file(ctx, t_str("%s/%s/train_log.jsonl", dir, out), 0, &text));
  T_OK(ka_str_puts(ctx, &all, ""));
  for (char *line = strtok(text.data, "\n"); line; line = strtok(NULL, "\n")) {
    json_t *row = NULL;
    T_OK(ka_json_parse(ctx, line, strlen(line), "row", &row));
    if (json_object_get(row, "learned"))
      T_OK(ka_str_printf(ctx, &all, "%lld %.17g %.17g\n",
                         (long long)json_integer_value(json_object_get(row, "step")),
                         json_number_value(json_object_get(row, "learned")),
                         json_number_value(json_object_get(row, "forgot"))));
    json_decref(row);
  }
  ka_str_deinit(&text);
  return all.data;
}

static double score(const char *out, const char *key) {
  json_t *r = load(t_str("%s/report.json", out));
  double v = json_number_value(json_object_get(json_object_get(r, "scores"), key));
  json_decref(r);
  return v;
}

static bool same_weights(const char *a, const char *b) {
  struct ka_str x = {0}, y = {0};
  T_OK(ka_read_file(ctx, t_str("%s/%s/model.safetensors", dir, a), 0, &x));
  T_OK(ka_read_file(ctx, t_str("%s/%s/model.safetensors", dir, b), 0, &y));
  bool same = x.len == y.len && memcmp(x.data, y.data, x.len) == 0;
  ka_str_deinit(&x);
  ka_str_deinit(&y);
  return same;
}

/* --- train ------------------------------------------------------------------- */

static void watching_changes_nothing(void **state) {
  (void)state;
  train(0, "learned", "job.yaml", "watched", "");
  train(0, "learned", "plain.yaml", "unwatched", "");
  assert_true(same_weights("watched", "unwatched"));
  char *x = looks("watched"), *y = looks("unwatched");
  int n = 0;
  for (const char *p = x; *p; p++) n += *p == '\n';
  assert_int_equal(n, 4); /* 0, 2, 4, 6 */
  n = 0;
  for (const char *p = y; *p; p++) n += *p == '\n';
  assert_int_equal(n, 2); /* before and after */
  assert_true(score("watched", "learned") > 0);
  assert_true(score("watched", "learned") == score("unwatched", "learned"));
  assert_true(score("watched", "kl") > 0);
  ka_free(x);
  ka_free(y);
  static const char *const files[] = {"report.html", "report.md", "job.json"};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++)
    assert_true(ka_path_exists(t_str("%s/watched/%s", dir, files[i])));
}

/* The learning rate is far too high on purpose: the state gets worse. */
static void stops_and_keeps(void **state) {
  (void)state;
  const char *bad = "learning_rate=0.1 lr_scheduler=constant forgetting.every=1 max_steps=6 ";
  train(0, "learned", "job.yaml", "all", bad);
  assert_true(score("all", "forgot") > 0.05);
  train(0, "learned", "job.yaml", "stopped", t_str("%sforgetting.stop_when=0.05", bad));
  json_t *r = load("stopped/report.json");
  assert_true(json_is_true(json_object_get(r, "stopped")));
  assert_true(json_integer_value(json_object_get(r, "steps")) < 6);
  json_decref(r);
  train(0, "learned", "job.yaml", "best", t_str("%sforgetting.keep=best", bad));
  /* The output is that state: its scores are the best of all looks. */
  double best = -INFINITY, of_best = NAN, l, f;
  char *x = looks("all");
  for (char *line = strchr(x, '\n') + 1; sscanf(line, "%*d %lf %lf", &l, &f) == 2;
       line = strchr(line, '\n') + 1)
    best = fmax(best, l - f);
  of_best = score("best", "score");
  if (fabs(of_best - best) > 1e-12) fail_msg("%g, expected %g\n%s", of_best, best, x);
  ka_free(x);
  assert_false(same_weights("best", "all"));
  kappa(0, "no verdict",
        t_str("forget %s/base %s/best --new-text %s/new.txt --text %s/old.txt --json %s/f.json",
              dir, dir, dir, dir, dir));
}

/* The log's "kl_new" of a step; NaN: it has none. */
static double distance_at(const char *out, int64_t step) {
  struct ka_str text = {0};
  double found = NAN;
  T_OK(ka_read_file(ctx, t_str("%s/%s/train_log.jsonl", dir, out), 0, &text));
  for (char *line = strtok(text.data, "\n"); line; line = strtok(NULL, "\n")) {
    json_t *row = NULL;
    T_OK(ka_json_parse(ctx, line, strlen(line), "row", &row));
    if (json_integer_value(json_object_get(row, "step")) == step && json_object_get(row, "kl_new"))
      found = ka_json_number(json_object_get(row, "kl_new"));
    json_decref(row);
  }
  ka_str_deinit(&text);
  return found;
}

/* The forecast of forgetting: live, in the report, and the same in `forget BASE TUNED`. */
static void distance_is_measured(void **state) {
  (void)state;
  assert_true(distance_at("watched", 0) == 0 && distance_at("watched", 2) > 0);
  double last = distance_at("watched", 6);
  assert_true(last > 0 && last == score("watched", "kl_new"));
  assert_true(isnan(distance_at("unwatched", 6)) && score("unwatched", "kl_new") == last);
  kappa(0, "no verdict",
        t_str("forget %s/base %s/watched --new-text %s/new.txt --text %s/old.txt --window 31 "
              "--json %s/k.json",
              dir, dir, dir, dir, dir));
  json_t *r = load("k.json");
  const json_t *run = json_array_get(json_object_get(r, "runs"), 0);
  double again = json_number_value(json_object_get(json_object_get(run, "scores"), "kl_new"));
  if (fabs(again - last) > 1e-6) fail_msg("forget: %.9g, train: %.9g", again, last);
  json_decref(r);
  put("lines.jsonl", "{\"text\": \"abcab\"}\n{\"text\": \"bca\"}\n{\"text\": \"cabcabc\"}\n"
                     "{\"text\": \"ab\"}\n{\"text\": \"bcabc\"}\n{\"text\": \"cab\"}\n");
  /* Validation data is a text of the new task, in the mean with the others. */
  train(0, "validation", "job.yaml", "validated",
        t_str("datasets.0.path=%s/lines.jsonl val_set_size=2", dir));
  r = load("validated/report.json");
  const json_t *m = json_object_get(r, "measures");
  double a = ka_json_number(json_object_get(json_array_get(m, 0), "kl"));
  double b = ka_json_number(json_object_get(json_array_get(m, 1), "kl"));
  assert_string_equal(json_string_value(json_object_get(json_array_get(m, 0), "name")),
                      "validation");
  assert_true(a > 0 && b > 0 && fabs(score("validated", "kl_new") - (a + b) / 2) < 1e-12);
  json_decref(r);
}

static void stops_by_distance(void **state) {
  (void)state;
  const char *words =
      "learning_rate=0.05 lr_scheduler=constant forgetting.every=1 max_steps=12 save_steps=1 ";
  train(0, "learned", "job.yaml", "far", words);
  double bound = (distance_at("far", 3) + distance_at("far", 4)) / 2;
  int64_t step = 1;
  while (!(distance_at("far", step) > bound)) step++;
  words = t_str("%sforgetting.stop_when_kl=%.17g", words, bound);
  train(0, "learned", "job.yaml", "near", words);
  json_t *r = load("near/report.json");
  assert_true(json_is_true(json_object_get(r, "stopped")));
  assert_int_equal(json_integer_value(json_object_get(r, "steps")), step);
  char *settings = json_dumps(json_object_get(r, "settings"), 0);
  assert_non_null(strstr(settings, "ended by forgetting.stop_when_kl"));
  free(settings);
  json_decref(r);
  /* Its state is that of the step; a run that was killed before it ends there, too. */
  train(0, "learned", "job.yaml", "cut", words);
  T_OK(ka_remove_tree(ctx, t_str("%s/cut/checkpoint-%lld", dir, (long long)step)));
  train(0, "learned", "job.yaml", "cut", t_str("%s --resume", words));
  char *x = looks("near"), *y = looks("cut");
  assert_string_equal(x, y);
  assert_true(same_weights("near", "cut") && !same_weights("near", "far"));
  ka_free(x);
  ka_free(y);
  /* Resumed after its end, nothing is left to do. */
  train(0, "", "job.yaml", "cut", t_str("%s --resume", words));
  assert_true(same_weights("near", "cut"));
}

/* As if it had been killed between two looks. */
static void resumes_the_same(void **state) {
  (void)state;
  const char *words = "forgetting.keep=best forgetting.every=1 learning_rate=0.05";
  train(0, "learned", "job.yaml", "whole", words);
  train(0, "learned", "job.yaml", "resumed", words);
  T_OK(ka_remove_tree(ctx, t_str("%s/resumed/checkpoint-6", dir)));
  train(0, "learned", "job.yaml", "resumed", t_str("%s --resume", words));
  char *x = looks("whole"), *y = looks("resumed");
  assert_string_equal(x, y);
  assert_true(same_weights("whole", "resumed"));
  ka_free(x);
  ka_free(y);
  T_OK(ka_remove_tree(ctx, t_str("%s/resumed/checkpoint-6", dir)));
  train(2, "forgetting.tasks: qa.yaml is not the file that it was", "tasks.yaml", "resumed",
        t_str("%s --resume", words));
}

static void tasks_are_measures(void **state) {
  (void)state;
  train(0, "qa", "tasks.yaml", "with-tasks", "");
  json_t *r = load("with-tasks/report.json"), *m;
  m = json_array_get(json_object_get(r, "measures"), 2);
  assert_string_equal(json_string_value(json_object_get(m, "name")), "qa");
  assert_string_equal(json_string_value(json_object_get(m, "metric")), "acc");
  assert_true(json_number_value(json_object_get(m, "chance")) == 0.5);
  assert_int_equal(json_integer_value(json_object_get(m, "n")), 2);
  json_decref(r);
}

/* The paper's setting in small: a classification is learned, a text may be forgotten. */
static void classification_is_learned(void **state) {
  (void)state;
  put("rows.jsonl",
      "{\"segments\": [{\"label\": false, \"text\": \"ab\"}, {\"label\": true, \"text\": \"c\"}]}\n"
      "{\"segments\": [{\"label\": false, \"text\": \"bc\"}, {\"label\": true, \"text\": "
      "\"a\"}]}\n");
  put("classify.yaml", "base_model: base\ndatasets: [{path: rows.jsonl, type: input_output}]\n"
                       "sample_packing: false\nheld_out: [{name: text, path: old.txt}]\n"
                       "forgetting: {new_tasks: [qa.yaml], every: 10, keep: best}\n" REST_OF);
  train(0, "qa", "classify.yaml", "classified", "max_steps=30");
  json_t *r = load("classified/report.json"), *m;
  m = json_array_get(json_object_get(r, "measures"), 1);
  assert_string_equal(json_string_value(json_object_get(m, "role")), "new");
  assert_true(json_number_value(json_object_get(m, "value")) == 1); /* of two questions, both */
  json_decref(r);
}

static void wrong_keys(void **state) {
  (void)state;
  train(2, "two measures have the name \"old\"", "job.yaml", "x", "held_out.0.name=old");
  train(2, "nothing old is measured", "job.yaml", "x",
        "held_out.1.role=new forgetting.stop_when=1");
  train(2, "no text of the new skill is measured", "job.yaml", "x",
        "held_out.0.role=old forgetting.stop_when_kl=1");
  train(2, "needs a measure of what is learned", "job.yaml", "x",
        "held_out.0.role=old forgetting.keep=best");
  train(2, "exclude each other", "job.yaml", "x", "forgetting.keep=best selection.refresh_steps=2");
  assert_false(ka_path_exists(t_str("%s/x", dir)));
}

/* --- forget JOB.yaml --------------------------------------------------------- */

static const char *benchmark(const char *out, const char *words) {
  return t_str("forget %s/job.yaml output_dir=%s/%s %s", dir, dir, out, words);
}

static int64_t n_new_logs(const char *out) {
  struct ka_str text = {0};
  int rc = system(
      t_str("find %s/%s -name log.txt -newer %s/mark | wc -l > %s/count", dir, out, dir, dir));
  assert_int_equal(rc, 0);
  T_OK(ka_read_file(ctx, t_str("%s/count", dir), 0, &text));
  int64_t n = strtoll(text.data, NULL, 10);
  ka_str_deinit(&text);
  return n;
}

/* What a clock or the allocator says leaves the cells. */
static void forget_clock(const json_t *series) {
  size_t i, k;
  json_t *s, *cell;
  json_array_foreach(series, i, s) json_array_foreach(json_object_get(s, "cells"), k, cell) {
    json_object_del(cell, "seconds");
    json_object_del(cell, "tokens_per_second");
    json_object_del(cell, "peak_bytes");
  }
}

static void compares_methods(void **state) {
  (void)state;
  const char *words = "--methods kappa_lowest,random,full --seeds 2 --draws 2 --learning-rates "
                      "1e-3,1e-2 --parallel 2";
  put("mark", "");
  kappa(0, "random selection", benchmark("bench", words));
  assert_int_equal(n_new_logs("bench"), 16);
  json_t *r = load("bench/report.json");
  const json_t *list = json_object_get(json_object_get(r, "comparison"), "series");
  assert_int_equal(json_array_size(list), 3);
  assert_int_equal(json_array_size(json_object_get(r, "runs")), 16);
  const json_t *random = json_array_get(list, 1), *full = json_array_get(list, 2);
  assert_int_equal(json_integer_value(json_object_get(random, "draws")), 2);
  assert_int_equal(json_integer_value(json_object_get(random, "seeds")), 2);
  double part = json_number_value(json_object_get(random, "trained_params")) /
                json_number_value(json_object_get(random, "params"));
  assert_true(part > 0.05 && part < 0.3);
  assert_true(json_number_value(json_object_get(full, "trained_params")) ==
              json_number_value(json_object_get(full, "params")));
  /* Equal seeds see equal data: the bases are one. */
  assert_non_null(json_object_get(json_array_get(json_object_get(r, "measures"), 0), "base"));
  assert_true(json_array_size(json_object_get(r, "units")) > 0);
  /* Nothing is repeated; what was lost is. */
  usleep(1100000);
  put("mark", "");
  kappa(0, "random selection", benchmark("bench", words));
  assert_int_equal(n_new_logs("bench"), 0);
  T_OK(ka_remove_tree(ctx, t_str("%s/bench/runs/full/lr-0.01-seed-43", dir)));
  kappa(0, "random selection", benchmark("bench", words));
  assert_int_equal(n_new_logs("bench"), 1);
  json_t *again = load("bench/report.json");
  json_t *same = json_object_get(json_object_get(again, "comparison"), "series");
  forget_clock(list);
  forget_clock(same);
  assert_true(json_equal(list, same));
  json_decref(again);
  json_decref(r);
  kappa(2, "holds a run with other keys", benchmark("bench", t_str("max_steps=5 %s", words)));
}

/* The methods that choose among experts, on a model that has some. */
static void methods_of_experts_train(void **state) {
  (void)state;
  put("experts.json", "{\"architectures\":[\"OlmoeForCausalLM\"],\"model_type\":\"olmoe\","
                      "\"vocab_size\":257,\"hidden_size\":16,\"num_hidden_layers\":2,"
                      "\"num_attention_heads\":2,\"intermediate_size\":8,\"num_experts\":4,"
                      "\"num_experts_per_tok\":2,\"hidden_act\":\"silu\",\"rms_norm_eps\":1e-5,"
                      "\"max_position_embeddings\":128,\"tie_word_embeddings\":false,"
                      "\"bos_token_id\":256,\"eos_token_id\":256}");
  kappa(0, "", t_str("init --config %s/experts.json --out %s/experts --tokenizer bytes", dir, dir));
  kappa(0, "esft",
        benchmark("of_experts", t_str("base_model=%s/experts --methods affinity,esft --seeds 1 "
                                      "--learning-rates 1e-3 max_steps=1",
                                      dir)));
  json_t *r = load("of_experts/report.json");
  assert_int_equal(json_array_size(json_object_get(r, "runs")), 2);
  json_decref(r);
}

/* Each row of methods.def is a job that runs; those that choose among experts are tried above, that
 * of a projector with speech (tests/train/test_speech.c). */
static void every_method_trains(void **state) {
  (void)state;
  static const char *const others[] = {"affinity ", "esft ", "projector "};
  struct ka_str names = {0}, list = {0};
  t_kappa(&names, NULL, "forget --methods list");
  int64_t n = 0, n_other = 0;
  for (char *line = strtok(names.data, "\n"); line; line = strtok(NULL, "\n")) {
    bool skip = false;
    for (int i = 0; i < 3; i++) skip |= ka_starts_with(line + 2, others[i]);
    n_other += skip;
    if (skip) continue;
    T_OK(
        ka_str_printf(ctx, &list, "%s%.*s", n++ ? "," : "", (int)strcspn(line + 2, " "), line + 2));
  }
  assert_int_equal(n_other, 3);
  assert_true(n >= 11);
  kappa(
      0, "random selection",
      benchmark("every", t_str("--methods %s --seeds 1 --draws 1 --learning-rates 1e-3 max_steps=1",
                               list.data)));
  json_t *r = load("every/report.json");
  assert_int_equal(json_array_size(json_object_get(r, "runs")), n);
  json_decref(r);
  ka_str_deinit(&names);
  ka_str_deinit(&list);
}

/* Runs of one benchmark share what the base scored and the tokenised data, and leave nothing that
 * only a run that goes on needs; --plan says what is to come and runs nothing. */
static void runs_share(void **state) {
  (void)state;
  const char *words =
      "--methods full,half,random --seeds 2 --draws 1 save_steps=2 --learning-rates ";
  const char *all = benchmark("shared", t_str("%s 1e-3,full=1e-3/2e-3", words));
  struct ka_str err = {0};
  assert_int_equal(t_kappa(NULL, &err, "%s --plan --verbose", all), 0);
  if (!strstr(err.data, "8 runs, 0 of them finished") || !strstr(err.data, "for the rest"))
    fail_msg("%s", err.data);
  ka_str_deinit(&err);
  assert_false(ka_path_exists(t_str("%s/shared/runs", dir)));
  kappa(0, "half", t_str("%s --parallel 1", all));
  json_t *r = load("shared/report.json"), *base = load("shared/base.json"), *row;
  size_t i;
  assert_int_equal(json_array_size(json_object_get(r, "runs")), 8);
  json_array_foreach(json_object_get(r, "measures"), i, row)
      assert_true(json_number_value(json_object_get(row, "base")) ==
                  json_number_value(json_array_get(json_object_get(base, "values"), i)));
  json_decref(base);
  json_decref(r);
  assert_true(ka_path_exists(t_str("%s/shared/prepared", dir)));
  const char *one = t_str("%s/shared/runs/full/lr-0.001-seed-42", dir);
  assert_true(ka_path_exists(t_str("%s/report.json", one)));
  assert_int_equal(system(t_str("test -z \"$(find %s/shared -name 'checkpoint-*')\"", dir)), 0);
  /* Another base is not taken for this one. */
  put("shared/base.json", "{\"identity\": \"x\", \"values\": [1, 1], \"measures\": []}");
  kappa(0, "full", t_str("%s --parallel 1", benchmark("shared", t_str("%s 3e-3", words))));
  base = load("shared/base.json");
  assert_true(json_number_value(json_array_get(json_object_get(base, "values"), 0)) != 1);
  json_decref(base);
  kappa(2, "is not among --methods", benchmark("x", "--methods full --learning-rates half=1"));
}

/* HFT: half of the matrices, others at every epoch; the same when it is run again. */
static void half_is_drawn_anew(void **state) {
  (void)state;
  const char *words = "selection.metric=random selection.fraction=0.5 selection.refresh_epochs=2";
  train(0, "", "plain.yaml", "half-a", words);
  train(0, "", "plain.yaml", "half-b", words);
  train(0, "", "plain.yaml", "half-once", "selection.metric=random selection.fraction=0.5");
  assert_true(same_weights("half-a", "half-b"));
  json_t *a = load("half-a/selection.json"), *b = load("half-once/selection.json");
  assert_false(json_equal(json_object_get(a, "units"), json_object_get(b, "units")));
  json_decref(a);
  json_decref(b);
  train(2, "refresh", "plain.yaml", "x", "selection.refresh_epochs=1 forgetting.keep=best");
}

/* A signal reaches the runs once: each saves a checkpoint and the same command goes on. */
static void interrupted_and_continued(void **state) {
  (void)state;
  const char *bin = getenv("KAPPA_BIN"), *words, *count = t_str("%s/count", dir);
  words =
      benchmark("long", "--methods kappa_lowest,full --seeds 1 --learning-rates 1e-3 --parallel 2 "
                        "forgetting.every=1000000 max_steps=4000 save_steps=0");
  struct ka_str text = {0};
  int rc =
      system(t_str("%s %s >/dev/null 2>&1 & p=$!; until [ $(find %s/long -name train_log.jsonl "
                   "-size +0 2>/dev/null | wc -l) = 2 ]; do sleep 0.05; done; kill -TERM $p; "
                   "wait $p; echo $? $(find %s/long -name 'checkpoint-*' | wc -l) > %s",
                   bin ? bin : "build/kappa", words, dir, dir, count));
  assert_int_equal(rc, 0);
  T_OK(ka_read_file(ctx, count, 0, &text));
  assert_string_equal(text.data, "4 2\n");
  ka_str_deinit(&text);
  kappa(0, "no verdict", words);
}

/* A learning rate that makes the loss infinite is a result. */
static void divergence_is_a_result(void **state) {
  (void)state;
  const char *words = "--methods full --seeds 1 --learning-rates 1e-4,1000 weight_decay=1000";
  kappa(0, "no verdict", benchmark("diverges", words));
  json_t *r = load("diverges/report.json");
  const json_t *s = json_array_get(json_object_get(json_object_get(r, "comparison"), "series"), 0);
  const json_t *cells = json_object_get(s, "cells");
  assert_int_equal(json_integer_value(json_object_get(json_array_get(cells, 1), "failed")), 1);
  assert_int_equal(json_integer_value(json_object_get(s, "best")), 0);
  json_decref(r);
}

static void models_tuned_elsewhere_join(void **state) {
  (void)state;
  put("also.jsonl", "{\"method\": \"mine\", \"learning_rate\": 0.01, \"seed\": 42, \"model\": "
                    "\"watched\", \"trained_params\": 7}\n");
  const char *words =
      t_str("--methods full --seeds 1 --learning-rates 1e-3 --also %s/also.jsonl", dir);
  kappa(0, "mine", benchmark("also", words));
  json_t *r = load("also/report.json"), *report = load("watched/report.json");
  const json_t *row = json_array_get(json_object_get(r, "runs"), 1);
  /* The same figures as training it found. */
  double want = json_number_value(json_object_get(json_object_get(report, "scores"), "learned"));
  double got = json_number_value(json_object_get(json_object_get(row, "scores"), "learned"));
  assert_true(fabs(got - want) < 1e-6);
  assert_true(json_number_value(json_object_get(row, "trained_params")) == 7);
  json_decref(report);
  json_decref(r);
  /* A last line without its end counts, and what it says now wins over what was kept. */
  put("also.jsonl", "{\"method\": \"mine\", \"learning_rate\": 0.01, \"seed\": 42, \"model\": "
                    "\"watched\", \"trained_params\": 8}");
  kappa(0, "mine", benchmark("also", words));
  r = load("also/report.json");
  row = json_array_get(json_object_get(r, "runs"), 1);
  assert_true(json_number_value(json_object_get(row, "trained_params")) == 8);
  json_decref(r);
  put("also.jsonl", "{\"method\": \"mine\"}\n");
  kappa(2, "without \"method\" or \"model\"", benchmark("also", words));
  put("also.jsonl", "\n{\"method\": ");
  kappa(2, "also.jsonl:2", benchmark("none", words));
  kappa(2, "none.jsonl: No such file", benchmark("none", "--methods full --also none.jsonl"));
  assert_false(ka_path_exists(t_str("%s/none/runs", dir))); /* told before anything ran */
}

/* All seeds are validated on the same text, and data that changes between runs is told. */
static void all_runs_are_measured_on_the_same(void **state) {
  (void)state;
  struct ka_str lines = {0};
  for (int i = 0; i < 20; i++) T_OK(ka_str_printf(ctx, &lines, "{\"text\": \"abc %d\"}\n", i * i));
  put("lines.jsonl", lines.data);
  ka_str_deinit(&lines);
  put("split.yaml", "base_model: base\ndatasets: [{path: lines.jsonl}]\n" REST_OF
                    "forgetting: {tasks: [qa.yaml]}\n");
  const char *words = "--methods full --learning-rates 1e-3 max_steps=1 val_set_size=5 --seeds";
  const char *command =
      t_str("forget %s/split.yaml 'output_dir=\"%s/a split, of #1: so\"' %s", dir, dir, words);
  kappa(0, "no verdict", t_str("%s 2", command));
  json_t *r = load("a split, of #1: so/report.json");
  assert_int_equal(json_array_size(json_object_get(r, "runs")), 2);
  json_decref(r);
  put("qa.jsonl", "{\"q\": \"ab\", \"c\": [\"c\", \"x\"], \"g\": 0}\n");
  kappa(2, "holds a run with other keys, data", t_str("%s 3", command));
}

/* Of two runs in one directory the second is refused. */
static void one_run_a_directory(void **state) {
  (void)state;
  int rc =
      system(t_str("mkdir -p %s/busy && flock -x %s/busy sleep 20 & echo $! > %s/pid; sleep 0.3",
                   dir, dir, dir));
  assert_int_equal(rc, 0);
  train(2, "another process is writing here", "plain.yaml", "busy", "");
  (void)!system(t_str("kill $(cat %s/pid); pkill -P $(cat %s/pid) 2>/dev/null", dir, dir));
}

static void wrong_use_of_forget(void **state) {
  (void)state;
  kappa(2, "holds a trained model", benchmark("watched", "--methods full"));
  kappa(2, "did you mean kappa_lowest?", benchmark("x", "--methods kappa_lowst"));
  kappa(2, "random is there twice", benchmark("x", "--methods random,full,random"));
  kappa(2, "--learning-rates: got \"-1\"", benchmark("x", "--learning-rates -1,2"));
  kappa(2, "equal numbers of parameters", benchmark("x", "selection.fraction=~ selection.count=3"));
  kappa(2, "need measures of both", benchmark("x", "held_out.1.role=new --methods full"));
  kappa(2, "expected 1 or more", benchmark("x", "--seeds 0"));
  kappa(2, "expected 1 to 64 entries", benchmark("x", "--methods ''"));
  kappa(2, "a JOB.yaml, or BASE", "forget");
  kappa(2, "one TUNED model or more", t_str("forget %s/base", dir));
  kappa(2, "nothing to measure", t_str("forget %s/base %s/base", dir, dir));
  kappa(0, "kappa_lowest ", "forget --methods list");
  assert_false(ka_path_exists(t_str("%s/x/runs", dir)));
}

/* --- forget BASE TUNED... ---------------------------------------------------- */

static void compares_models(void **state) {
  (void)state;
  kappa(
      0, "copy",
      t_str("forget %s/base copy=%s/base tuned=%s/watched --text %s/old.txt --new-text %s/new.txt "
            "--tasks %s/qa.yaml --report %s/models",
            dir, dir, dir, dir, dir, dir, dir));
  json_t *r = load("models/report.json");
  const json_t *rows = json_object_get(r, "runs"), *copy = json_array_get(rows, 0);
  const json_t *s = json_object_get(copy, "scores");
  static const char *const zero[] = {"learned", "forgot", "kl", "score"};
  for (size_t i = 0; i < sizeof zero / sizeof *zero; i++)
    assert_true(json_number_value(json_object_get(s, zero[i])) == 0);
  assert_int_equal(json_integer_value(json_object_get(copy, "trained_params")), 0);
  const json_t *tuned = json_array_get(rows, 1);
  assert_true(json_number_value(json_object_get(json_object_get(tuned, "scores"), "learned")) > 0);
  /* What changed is what was trained. */
  json_t *report = load("watched/report.json");
  assert_int_equal(json_integer_value(json_object_get(tuned, "trained_params")),
                   json_integer_value(json_object_get(report, "trained_params")));
  json_decref(report);
  json_decref(r);
}

/* A window and a dtype that are asked for give the losses that kappa eval gives by them. */
static void compares_by_window_and_dtype(void **state) {
  (void)state;
  const char *options = "--window 8 --dtype bf16";
  kappa(0, "copy",
        t_str("forget %s/base copy=%s/base --text %s/old.txt --json %s/w.json %s", dir, dir, dir,
              dir, options));
  kappa(0, "old.txt",
        t_str("eval %s/base --text %s/old.txt --json %s/e.json %s", dir, dir, dir, options));
  json_t *compared = load("w.json"), *evaluated = load("e.json");
  const json_t *run = json_array_get(json_object_get(compared, "runs"), 0);
  json_t *text = json_object_get(evaluated, "text");
  const json_t *e = json_object_iter_value(json_object_iter(text));
  double a = json_number_value(json_array_get(json_object_get(run, "values"), 0));
  double b = json_number_value(json_object_get(e, "loss"));
  if (!(a > 0 && a == b)) fail_msg("forget %.17g, eval %.17g", a, b);
  json_decref(compared);
  json_decref(evaluated);
  kappa(2, "expected 1 to",
        t_str("forget %s/base %s/base --text %s/old.txt --window 99999999", dir, dir, dir));
}

/* An adapter trains its own numbers, whatever its merge touches. */
static void adapters_count_what_they_train(void **state) {
  (void)state;
  static float a[2 * 32], b[32 * 2];
  const char *name = "base_model.model.model.layers.0.self_attn.q_proj.lora_%s.weight";
  char names[2][128];
  for (int i = 0; i < 2 * 32; i++) a[i] = b[i] = 0.01f * (float)(i % 7);
  for (int i = 0; i < 2; i++) snprintf(names[i], sizeof names[i], name, i ? "B" : "A");
  struct ka_st_out out[] = {{names[0], ka_tensor_2d(a, KA_F32, 2, 32)},
                            {names[1], ka_tensor_2d(b, KA_F32, 32, 2)}};
  T_OK(ka_make_dirs(ctx, t_str("%s/lora", dir)));
  T_OK(ka_st_write(ctx, t_str("%s/lora/adapter_model.safetensors", dir), out, 2, NULL, 0));
  put("lora/adapter_config.json", t_str("{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 4, "
                                        "\"base_model_name_or_path\": \"%s/base\"}",
                                        dir));
  kappa(
      0, "lora",
      t_str(
          "forget %s/base lora=%s/lora --text %s/old.txt --new-text %s/new.txt --report %s/adapter",
          dir, dir, dir, dir, dir));
  json_t *r = load("adapter/report.json");
  const json_t *row = json_array_get(json_object_get(r, "runs"), 0);
  assert_int_equal(json_integer_value(json_object_get(row, "trained_params")), 2 * 2 * 32);
  json_decref(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(watching_changes_nothing),
      cmocka_unit_test(stops_and_keeps),
      cmocka_unit_test(distance_is_measured),
      cmocka_unit_test(stops_by_distance),
      cmocka_unit_test(resumes_the_same),
      cmocka_unit_test(tasks_are_measures),
      cmocka_unit_test(wrong_keys),
      cmocka_unit_test(classification_is_learned),
      cmocka_unit_test(compares_methods),
      cmocka_unit_test(methods_of_experts_train),
      cmocka_unit_test(every_method_trains),
      cmocka_unit_test(runs_share),
      cmocka_unit_test(half_is_drawn_anew),
      cmocka_unit_test(interrupted_and_continued),
      cmocka_unit_test(divergence_is_a_result),
      cmocka_unit_test(models_tuned_elsewhere_join),
      cmocka_unit_test(wrong_use_of_forget),
      cmocka_unit_test(compares_models),
      cmocka_unit_test(compares_by_window_and_dtype),
      cmocka_unit_test(adapters_count_what_they_train),
      cmocka_unit_test(all_runs_are_measured_on_the_same),
      cmocka_unit_test(one_run_a_directory),
  };
  return cmocka_run_group_tests(tests, set_up, NULL);
}
