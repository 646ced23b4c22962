/* SPDX-License-Identifier: Apache-2.0
 * Where documents come from: data_files by split, the evaluated split, the pool of examples. */
#include "engine/eval/docs.h"
#include "engine/eval/task.h"
#include "engine/job/yaml_json.h"

#include <string.h>

static ka_status bad_node(const struct ka_task *t, const struct ka_yaml *v, const char *expected) {
  return ka_fail(t->ctx, KA_E_INPUT, "%s:%d:%d: data_files: expected %s", v->file, v->line,
                 v->column, expected);
}

/* A file, or a list of files; relative ones start where the YAML file is. */
static ka_status file_list(struct ka_task *t, const struct ka_yaml *v, struct ka_key_texts *out) {
  struct ka_ctx *ctx = t->ctx;
  bool list = v->kind == KA_YAML_LIST;
  int64_t n = list ? v->n : 1;
  void *items;
  KA_TRY(ka_arena_alloc_n(&t->arena, &items, n, sizeof(const char *), "data files"));
  *out = (struct ka_key_texts){items, n};
  if (n == 0) return bad_node(t, v, "a file, a glob or a list of them");
  for (int64_t i = 0; i < n; i++) {
    const struct ka_yaml *name = list ? v->items[i] : v;
    const char *dir;
    if (name->kind != KA_YAML_SCALAR || !*name->text)
      return bad_node(t, name, "a file, a glob or a list of them");
    KA_TRY(ka_path_dir(&t->arena, &dir, name->file));
    KA_TRY(ka_path_join(&t->arena, &out->items[i], strcmp(dir, ".") == 0 ? "" : dir, name->text));
  }
  return KA_STATUS_OK;
}

static ka_status no_such_split(const struct ka_task *t, const struct ka_yaml *files,
                               const char *split, const char *key) {
  const char *names[32] = {0};
  struct ka_str all = {0};
  struct ka_ctx *ctx = t->ctx;
  ka_status st = KA_STATUS_OK;
  for (int64_t i = 0; files->kind == KA_YAML_MAP && i < files->n && ka_ok(st); i++) {
    if (i < 31) names[i] = files->keys[i]->text;
    st = ka_str_printf(ctx, &all, "%s%s", i ? ", " : "", files->keys[i]->text);
  }
  const char *near = ka_nearest(split, names);
  if (ka_ok(st))
    st = ka_fail(ctx, KA_E_INPUT, "%s: %s: there is no split %.80s among the data_files: %s%s%s%s",
                 ka_task_place(t, key), key, split, all.data ? all.data : "train",
                 near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
  ka_str_deinit(&all);
  return st;
}

/* The rows of a split, read when first asked for; borrowed. */
static ka_status read_split(struct ka_task *t, const char *split, const char *key, json_t **out) {
  struct ka_ctx *ctx = t->ctx;
  const struct ka_yaml *files = t->config.dataset_kwargs.data_files, *of_split = NULL;
  struct ka_key_texts list;
  *out = json_object_get(t->splits, split);
  if (*out) return KA_STATUS_OK;
  if (files->kind == KA_YAML_MAP)
    of_split = ka_yaml_get(files, split);
  else if (strcmp(split, "train") == 0)
    of_split = files;
  if (!of_split) return no_such_split(t, files, split, key);
  KA_TRY(file_list(t, of_split, &list));
  KA_TRY(ka_eval_docs_read(ctx, &list, strcmp(t->config.dataset_path, "csv") == 0, out));
  KA_TRY(ka_json_set(ctx, t->splits, split, *out));
  KA_TRY(ka_eval_process_docs(t, *out));
  if (json_array_size(*out) == 0)
    return ka_fail(ctx, KA_E_INPUT, "%s: %s: the split %s has no documents", ka_task_place(t, key),
                   key, split);
  return KA_STATUS_OK;
}

static ka_status check_source(struct ka_task *t) {
  const char *path = t->config.dataset_path;
  if (strcmp(path, "json") != 0 && strcmp(path, "csv") != 0)
    return ka_fail(t->ctx, KA_E_INPUT,
                   "%s: dataset_path: got %.80s, expected json or csv: kappa reads local files; "
                   "export the data set and name the files in dataset_kwargs.data_files",
                   ka_task_place(t, "dataset_path"), path);
  if (!t->config.dataset_kwargs.data_files)
    return ka_fail(t->ctx, KA_E_INPUT,
                   "%s: dataset_kwargs is required: {data_files: {test: FILE.jsonl}}",
                   t->config.file.path);
  return KA_STATUS_OK;
}

static ka_status given_samples(struct ka_task *t, json_t **out) {
  struct ka_ctx *ctx = t->ctx;
  const struct ka_yaml *v = t->config.fewshot_config.samples;
  const char *place = ka_task_place(t, "fewshot_config.samples");
  KA_TRY(ka_yaml_json(ctx, v, out));
  bool good = json_is_array(*out) && json_array_size(*out) > 0;
  for (size_t i = 0; good && i < json_array_size(*out); i++)
    good = json_is_object(json_array_get(*out, i));
  KA_TRY(ka_json_set(ctx, t->splits, "fewshot_config.samples", *out));
  if (good) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_INPUT, "%s: samples: expected a list of mappings", place);
}

static const char *evaluated_split(const struct ka_task *t, const char **key) {
  *key = t->config.test_split ? "test_split" : "validation_split";
  return t->config.test_split ? t->config.test_split : t->config.validation_split;
}

/* fewshot_config.split, fewshot_split, samples, or the first of training, validation, test. */
static ka_status read_pool(struct ka_task *t) {
  const struct ka_task_config *c = &t->config;
  const char *split = c->fewshot_config.split ? c->fewshot_config.split : c->fewshot_split;
  const char *key = c->fewshot_config.split ? "fewshot_config.split" : "fewshot_split";
  t->spare_self = t->native || (split && c->test_split ? strcmp(split, c->test_split) == 0
                                                       : !split && !c->test_split);
  if (t->num_fewshot == 0) return KA_STATUS_OK;
  if (!split && c->fewshot_config.samples) return given_samples(t, &t->pool);
  if (!split) split = c->training_split, key = "training_split";
  if (!split) split = c->validation_split, key = "validation_split";
  if (!split) split = c->test_split, key = "test_split";
  return read_split(t, split, key, &t->pool);
}

ka_status ka_task_read_data(struct ka_task *t) {
  struct ka_ctx *ctx = t->ctx;
  const char *key, *split = evaluated_split(t, &key);
  t->splits = json_object();
  if (!t->splits) return ka_fail(ctx, KA_E_MEMORY, "documents: out of memory");
  KA_TRY(check_source(t));
  if (!split)
    return ka_fail(ctx, KA_E_INPUT, "%s: test_split or validation_split is required",
                   t->config.file.path);
  KA_TRY(read_split(t, split, key, &t->docs));
  return read_pool(t);
}
