/* SPDX-License-Identifier: Apache-2.0
 * Results in the harness's JSON: the same keys, so that what reads those reads these. */
#include "engine/eval/judge.h"
#include "engine/job/yaml_json.h"

#include <math.h>
#include <string.h>

/* JSON has no infinity and no NaN. */
static json_t *error_of(double v) { return isnan(v) ? json_string("N/A") : ka_json_real(v); }

static ka_status set_text(struct ka_ctx *ctx, json_t *object, const char *key, const char *text) {
  return ka_json_set(ctx, object, key, text ? json_string(text) : json_null());
}

/* "acc,none" or "acc_stderr,none". */
static ka_status set_value(struct ka_ctx *ctx, json_t *object, const struct ka_task_value *v,
                           const char *suffix, json_t *value) {
  struct ka_str key = {0};
  ka_status st = ka_str_printf(ctx, &key, "%s%s,%s", v->metric, suffix, v->filter);
  if (ka_ok(st))
    st = ka_json_set(ctx, object, key.data, value);
  else
    json_decref(value);
  ka_str_deinit(&key);
  return st;
}

/* The values of a task or group: with `chance` only what guessing gives. */
static ka_status add_values(struct ka_ctx *ctx, const struct ka_results *r, const char *name,
                            bool chance, json_t *out) {
  for (int64_t i = 0; i < r->n_values; i++) {
    const struct ka_task_value *v = &r->values[i];
    if (strcmp(v->task, name) != 0) continue;
    if (chance && isnan(v->chance)) continue;
    KA_TRY(set_value(ctx, out, v, "", ka_json_real(chance ? v->chance : v->value)));
    if (!chance) KA_TRY(set_value(ctx, out, v, "_stderr", error_of(v->stderr_)));
  }
  return KA_STATUS_OK;
}

static ka_status add_task(struct ka_ctx *ctx, const struct ka_task *t, const struct ka_results *r,
                          json_t *results) {
  json_t *one = json_pack("{s:s, s:s, s:I}", "name", t->name, "alias", t->alias, "sample_len",
                          (json_int_t)t->n_items);
  KA_TRY(ka_json_set(ctx, results, t->name, one));
  return add_values(ctx, r, t->name, false, one);
}

static ka_status add_group(struct ka_ctx *ctx, const struct ka_tasks *t,
                           const struct ka_eval_group *g, const struct ka_results *r,
                           json_t *root) {
  json_t *one = json_pack("{s:s, s:s}", "alias", g->alias, "name", g->name);
  json_t *counts = json_object(), *groups = json_object_get(root, "groups");
  int64_t total = 0;
  KA_TRY(ka_json_set(ctx, json_object_get(root, "results"), g->name, one));
  if (g->config.aggregate_metric_list.n == 0) {
    json_decref(counts);
    return KA_STATUS_OK;
  }
  void *p;
  ka_status st = ka_alloc_n(ctx, &p, g->n_tasks, sizeof(int64_t), "group");
  if (ka_ok(st)) {
    int64_t *end = p;
    ka_eval_group_tasks(t, g, &end);
    for (int64_t *i = p; i < end; i++) total += t->tasks[*i]->n_items;
    ka_free(p);
    st = ka_json_set(ctx, one, "sample_len", json_integer((json_int_t)total));
  }
  if (ka_ok(st)) st = add_values(ctx, r, g->name, false, one);
  for (int64_t i = 0; i < r->n_values && ka_ok(st); i++)
    if (r->values[i].is_group && strcmp(r->values[i].task, g->name) == 0)
      st = set_value(ctx, counts, &r->values[i], "", json_integer((json_int_t)r->values[i].n_docs));
  if (ka_ok(st) && json_object_size(counts) > 0)
    st = ka_json_set(ctx, one, "sample_count", json_incref(counts));
  json_decref(counts);
  if (ka_ok(st) && !groups) {
    groups = json_object();
    st = ka_json_set(ctx, root, "groups", groups);
  }
  return ka_ok(st) ? ka_json_set(ctx, groups, g->name, json_deep_copy(one)) : st;
}

/* --- the tasks' own keys ----------------------------------------------------- */

static ka_status set_default(struct ka_ctx *ctx, const struct ka_key *k, json_t *out) {
  if (k->list || !k->dflt || !*k->dflt) return KA_STATUS_OK;
  struct ka_yaml v = {.kind = KA_YAML_SCALAR,
                      .text = k->dflt,
                      .plain = k->kind == KA_KEY_INT || k->kind == KA_KEY_BOOL};
  json_t *value = NULL;
  KA_TRY(ka_yaml_json(ctx, &v, &value));
  return ka_json_set(ctx, out, k->name, value);
}

static ka_status config_of(struct ka_ctx *ctx, const struct ka_task *t, json_t **out) {
  const struct ka_yaml *keys = t->config.keys;
  json_t *c = *out = json_object();
  for (const struct ka_key *k = ka_task_table.keys; k->name; k++)
    if (k->scope == KA_SCOPE_TASK) KA_TRY(set_default(ctx, k, c));
  for (int64_t i = 0; i < keys->n; i++) {
    json_t *value = NULL;
    if (ka_key_in_words("tag include", keys->keys[i]->text) || ka_yaml_is_null(keys->values[i]))
      continue;
    KA_TRY(ka_yaml_json(ctx, keys->values[i], &value));
    KA_TRY(ka_json_set(ctx, c, keys->keys[i]->text, value));
  }
  KA_TRY(ka_json_set(ctx, c, "num_fewshot", json_integer((json_int_t)t->num_fewshot)));
  json_t *metadata = json_object_get(c, "metadata");
  if (!metadata) KA_TRY(ka_json_set(ctx, c, "metadata", metadata = json_object()));
  return json_is_object(metadata) ? set_text(ctx, metadata, "config_source", t->config.file.path)
                                  : KA_STATUS_OK;
}

/* metadata.version, or the fallback. */
static ka_status version_of(struct ka_ctx *ctx, const struct ka_yaml *metadata,
                            const char *fallback, bool as_text, json_t **out) {
  const struct ka_yaml *v = metadata ? ka_yaml_get(metadata, "version") : NULL;
  if (v && !as_text) return ka_yaml_json(ctx, v, out);
  *out = json_string(v && v->kind == KA_YAML_SCALAR ? v->text : fallback);
  return KA_STATUS_OK;
}

static ka_status add_facts(struct ka_ctx *ctx, const struct ka_task *t, json_t *root) {
  json_t *config = NULL, *version = NULL, *higher = json_object();
  KA_TRY(ka_json_set(ctx, json_object_get(root, "higher_is_better"), t->name, higher));
  for (int64_t m = 0; m < t->n_metrics; m++)
    KA_TRY(ka_json_set(ctx, higher, t->metrics[m].metric->name,
                       json_boolean(t->metrics[m].higher_is_better)));
  ka_status st = config_of(ctx, t, &config);
  if (!ka_ok(st)) {
    json_decref(config);
    return st;
  }
  KA_TRY(ka_json_set(ctx, json_object_get(root, "configs"), t->name, config));
  KA_TRY(version_of(ctx, t->config.metadata, "Yaml", false, &version));
  KA_TRY(ka_json_set(ctx, json_object_get(root, "versions"), t->name, version));
  KA_TRY(ka_json_set(ctx, json_object_get(root, "n-shot"), t->name,
                     json_integer((json_int_t)t->num_fewshot)));
  json_t *n = json_pack("{s:I, s:I}", "original", (json_int_t)json_array_size(t->docs), "effective",
                        (json_int_t)t->n_items);
  return ka_json_set(ctx, json_object_get(root, "n-samples"), t->name, n);
}

/* Members, version; what the tasks right below it (as in the harness, not those of inner groups)
 * have in common: examples and which way metrics go. */
static ka_status add_group_facts(struct ka_ctx *ctx, const struct ka_tasks *t,
                                 const struct ka_eval_group *g, json_t *root) {
  json_t *members = json_array(), *version = NULL, *common;
  json_t *higher = json_object_get(root, "higher_is_better"),
         *shots = json_object_get(root, "n-shot");
  json_t *same_shots = NULL, *value;
  const char *metric;
  bool differ = false;
  KA_TRY(ka_json_set(ctx, json_object_get(root, "group_subtasks"), g->name, members));
  common = json_object();
  for (int64_t i = 0; i < g->n_members; i++) {
    const struct ka_eval_member *m = &g->members[i];
    const char *name = m->is_group ? t->groups[m->index]->name : t->tasks[m->index]->name;
    json_array_append_new(members, json_string(name));
    if (m->is_group) continue;
    json_object_foreach(json_object_get(higher, name), metric, value) {
      json_t *before = json_object_get(common, metric);
      if (!before)
        json_object_set(common, metric, value);
      else if (!json_equal(before, value))
        json_object_set_new(common, metric, json_null());
    }
    value = json_object_get(shots, name);
    differ = differ || (value && same_shots && !json_equal(value, same_shots));
    if (value) same_shots = value;
  }
  if (json_object_size(common) > 0)
    KA_TRY(ka_json_set(ctx, higher, g->name, common));
  else
    json_decref(common);
  if (same_shots && !differ) KA_TRY(ka_json_set(ctx, shots, g->name, json_incref(same_shots)));
  KA_TRY(version_of(ctx, g->config.metadata, "N/A", true, &version));
  return ka_json_set(ctx, json_object_get(root, "versions"), g->name, version);
}

/* --- the run ----------------------------------------------------------------- */

static json_t *token_of(const struct ka_tokenizer *tok, int32_t id) {
  const char *text = id >= 0 ? ka_tokenizer_token_text(tok, id, NULL) : NULL;
  char number_text[16];
  snprintf(number_text, sizeof number_text, "%d", id);
  return json_pack("[s?, s]", text, id >= 0 ? number_text : "None");
}

static ka_status add_run(struct ka_ctx *ctx, const struct ka_tasks *t,
                         const struct ka_run_info *info, json_t *root) {
  double limit = info->tasks->limit;
  json_t *config = json_pack(
      "{s:s, s:s, s:s, s:I, s:s, s:o, s:I, s:b, s:I}", "model", "kappa", "model_args", info->model,
      "model_dtype", info->dtype, "batch_size", (json_int_t)info->scoring->batch_size, "device",
      info->device, "limit", limit > 0 ? json_real(limit) : json_null(), "bootstrap_iters",
      (json_int_t)info->scoring->bootstrap_iters, "native", info->tasks->native, "fewshot_seed",
      (json_int_t)info->tasks->fewshot_seed);
  KA_TRY(ka_json_set(ctx, root, "config", config));
  KA_TRY(ka_json_set(ctx, root, "date", json_real(info->started_s)));
  KA_TRY(set_text(ctx, root, "kappa_version", KAPPA_VERSION));
  KA_TRY(ka_json_set(ctx, root, "tokenizer_eos_token",
                     token_of(t->tokenizer, ka_tokenizer_eos(t->tokenizer))));
  KA_TRY(ka_json_set(ctx, root, "tokenizer_bos_token",
                     token_of(t->tokenizer, ka_tokenizer_bos(t->tokenizer))));
  KA_TRY(ka_json_set(ctx, root, "eot_token_id",
                     json_integer((json_int_t)ka_tokenizer_eos(t->tokenizer))));
  KA_TRY(ka_json_set(ctx, root, "max_length", json_integer((json_int_t)t->encoding.max_length)));
  KA_TRY(ka_json_set(ctx, root, "task_hashes", json_object()));
  KA_TRY(set_text(ctx, root, "model_source", "kappa"));
  KA_TRY(set_text(ctx, root, "model_name", info->model));
  const struct ka_eval_chat *chat = &info->tasks->chat;
  KA_TRY(set_text(ctx, root, "system_instruction", chat->system_instruction));
  KA_TRY(set_text(ctx, root, "chat_template", chat->template ? "the model's" : NULL));
  KA_TRY(ka_json_set(ctx, root, "fewshot_as_multiturn", json_boolean(chat->as_turns)));
  char seconds[32];
  snprintf(seconds, sizeof seconds, "%.3f", info->seconds);
  return set_text(ctx, root, "total_evaluation_time_seconds", seconds);
}

static ka_status fill(struct ka_ctx *ctx, const struct ka_tasks *t, const struct ka_results *r,
                      const struct ka_run_info *info, json_t *root) {
  static const char *const maps[] = {"results", "group_subtasks",   "configs",   "versions",
                                     "n-shot",  "higher_is_better", "n-samples", "chance"};
  for (size_t i = 0; i < sizeof maps / sizeof *maps; i++)
    KA_TRY(ka_json_set(ctx, root, maps[i], json_object()));
  for (int64_t i = 0; i < t->n_tasks; i++) {
    json_t *chance = json_object();
    KA_TRY(add_task(ctx, t->tasks[i], r, json_object_get(root, "results")));
    KA_TRY(add_facts(ctx, t->tasks[i], root));
    KA_TRY(ka_json_set(ctx, json_object_get(root, "chance"), t->tasks[i]->name, chance));
    KA_TRY(add_values(ctx, r, t->tasks[i]->name, true, chance));
  }
  for (int64_t i = 0; i < t->n_groups; i++) {
    KA_TRY(add_group(ctx, t, t->groups[i], r, root));
    KA_TRY(add_group_facts(ctx, t, t->groups[i], root));
  }
  return add_run(ctx, t, info, root);
}

ka_status ka_results_json(struct ka_ctx *ctx, const struct ka_tasks *t, const struct ka_results *r,
                          const struct ka_run_info *info, json_t **out) {
  *out = json_object();
  if (!*out) return ka_fail(ctx, KA_E_MEMORY, "results: out of memory");
  ka_status st = fill(ctx, t, r, info, *out);
  if (ka_ok(st)) return st;
  json_decref(*out);
  *out = NULL;
  return st;
}
