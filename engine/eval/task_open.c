/* SPDX-License-Identifier: Apache-2.0
 * A task's keys to what runs: fields, metrics, filters, how answers are generated. */
#include "base/log.h"
#include "engine/eval/task.h"
#include "python/regex.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char output_letters[] = "glrc"; /* by enum ka_eval_output */

const char *ka_task_place(const struct ka_task *t, const char *key) {
  return ka_key_place(&t->config.file, key);
}

static bool given(const struct ka_task *t, const char *key) {
  return ka_key_given(&t->config.file, key);
}

ka_status ka_task_fail_doc(const struct ka_task *t, ka_status st, int64_t doc) {
  struct ka_ctx *ctx = t->ctx;
  if (st.code != KA_E_INPUT) return st;
  char message[1024];
  snprintf(message, sizeof message, "%.1000s", ctx->error.message);
  ka_error_clear(ctx);
  return ka_fail(ctx, KA_E_INPUT, "%s (task %s, document %lld)", message, t->name, (long long)doc);
}

/* --- fields ------------------------------------------------------------------ */

static ka_status open_text(struct ka_task *t, struct ka_eval_field *f, const char *text,
                           const char *key) {
  return ka_eval_field_open_text(&t->arena, f, text, ka_task_place(t, key), key);
}

static ka_status open_question(struct ka_task *t) {
  struct ka_ctx *ctx = t->ctx;
  const struct ka_task_config *c = &t->config;
  struct ka_eval_writer *w = &t->question;
  KA_TRY(ka_eval_field_open(&t->arena, &w->text, c->doc_to_text, "doc_to_text"));
  KA_TRY(ka_eval_field_open(&t->arena, &w->target, c->doc_to_target, "doc_to_target"));
  KA_TRY(ka_eval_field_open(&t->arena, &w->choice, c->doc_to_choice, "doc_to_choice"));
  KA_TRY(open_text(t, &w->gen_prefix, c->gen_prefix, "gen_prefix"));
  KA_TRY(open_text(t, &t->description, c->description, "description"));
  KA_TRY(open_text(t, &t->count_text, c->count_text, "count_text"));
  KA_TRY(open_text(t, &t->audio, c->doc_to_audio, "doc_to_audio"));
  if (c->doc_to_audio && t->output != KA_OUT_GENERATE)
    return ka_fail(ctx, KA_E_INPUT, "%s: doc_to_audio goes with output_type: generate_until",
                   ka_task_place(t, "doc_to_audio"));
  w->target_delimiter = c->target_delimiter;
  w->fewshot_delimiter = c->fewshot_delimiter;
  t->has_choices = ka_eval_field_given(&w->choice);
  return KA_STATUS_OK;
}

/* As the questions are, where fewshot_config does not say otherwise. */
static ka_status open_shot(struct ka_task *t) {
  struct ka_ctx *ctx = t->ctx;
  const struct ka_task_config *c = &t->config;
  const struct ka_task_fewshot *f = &c->fewshot_config;
  struct ka_eval_writer *w = &t->shot;
  KA_TRY(ka_eval_field_open(&t->arena, &w->text, f->doc_to_text ? f->doc_to_text : c->doc_to_text,
                            "doc_to_text"));
  KA_TRY(ka_eval_field_open(&t->arena, &w->target,
                            f->doc_to_target ? f->doc_to_target : c->doc_to_target,
                            "doc_to_target"));
  KA_TRY(ka_eval_field_open(&t->arena, &w->choice,
                            f->doc_to_choice ? f->doc_to_choice : c->doc_to_choice,
                            "doc_to_choice"));
  KA_TRY(open_text(t, &w->gen_prefix, f->gen_prefix ? f->gen_prefix : c->gen_prefix, "gen_prefix"));
  w->target_delimiter = f->target_delimiter ? f->target_delimiter : c->target_delimiter;
  w->fewshot_delimiter = f->fewshot_delimiter ? f->fewshot_delimiter : c->fewshot_delimiter;
  if (f->fewshot_indices)
    ka_warn(ctx, "eval", "%s: fewshot_indices has no effect, in the harness too",
            ka_task_place(t, "fewshot_config.fewshot_indices"));
  t->first_n = strcmp(f->sampler, "first_n") == 0;
  return KA_STATUS_OK;
}

/* --- metrics ----------------------------------------------------------------- */

static bool scores(const struct ka_eval_metric *m, enum ka_eval_output output) {
  return strchr(m->outputs, output_letters[output]) != NULL;
}

static ka_status unknown_metric(struct ka_task *t, const char *name, const char *place) {
  const char *names[64] = {0};
  int n = 0;
  for (const struct ka_eval_metric *m = ka_metrics; m->name && n < 63; m++)
    if (scores(m, t->output)) names[n++] = m->name;
  const char *near = ka_nearest(name, names);
  return ka_fail(t->ctx, KA_E_INPUT, "%s: metric: %.80s is not a metric of %s%s%s%s", place, name,
                 t->config.output_type, near ? ", did you mean " : "", near ? near : "",
                 near ? "?" : "");
}

static ka_status open_aggregation(struct ka_task *t, struct ka_eval_metric_use *use,
                                  const char *name, const char *place) {
  use->aggregation = ka_eval_aggregation_find(name);
  if (use->aggregation && use->aggregation->items == use->metric->items) return KA_STATUS_OK;
  return ka_fail(t->ctx, KA_E_INPUT, "%s: aggregation: %.80s is none for %s, whose own is %s",
                 place, name, use->metric->name, use->metric->aggregation);
}

static ka_status open_ignored(struct ka_task *t, struct ka_eval_metric_use *use,
                              const char *place) {
  struct ka_ctx *ctx = t->ctx;
  const struct ka_key_texts *patterns = &use->config->regexes_to_ignore;
  KA_TRY(KA_NEW(&t->arena, &use->ignore, patterns->n, "patterns"));
  for (int64_t i = 0; i < patterns->n; i++) {
    const char *text = patterns->items[i];
    ka_status st = ka_py_regex_open(ctx, &use->ignore[i], text, strlen(text));
    if (ka_ok(st)) continue;
    if (st.code != KA_E_INPUT) return st;
    char why[256];
    snprintf(why, sizeof why, "%.255s", ctx->error.message);
    ka_error_clear(ctx);
    return ka_fail(ctx, KA_E_INPUT, "%s: regexes_to_ignore: %s", place, why);
  }
  return KA_STATUS_OK;
}

/* A row of its own for a metric of process_results. */
static ka_status open_template(struct ka_task *t, struct ka_eval_metric_use *use, int64_t i) {
  struct ka_ctx *ctx = t->ctx;
  const struct ka_yaml *map = t->config.process_results;
  struct ka_eval_metric *m;
  KA_TRY(KA_NEW(&t->arena, &m, 1, "metrics"));
  *m = (struct ka_eval_metric){.name = map->keys[i]->text,
                               .items = KA_ITEMS_VALUE,
                               .aggregation = "mean",
                               .higher_is_better = true,
                               .chance = KA_CHANCE_NONE};
  use->metric = m;
  use->higher_is_better = true;
  return ka_eval_field_open(&t->arena, &use->value, map->values[i], m->name);
}

/* Which metric of process_results has the name; -1: none. */
static int64_t template_of(const struct ka_task *t, const char *name) {
  const struct ka_yaml *map = t->config.process_results;
  for (int64_t i = 0; map && i < map->n; i++)
    if (strcmp(map->keys[i]->text, name) == 0) return i;
  return -1;
}

static ka_status open_metric(struct ka_task *t, int64_t i) {
  struct ka_ctx *ctx = t->ctx;
  struct ka_eval_metric_use *use = &t->metrics[i];
  const struct ka_task_metric *c = &t->config.metric_list.items[i];
  const char *path;
  KA_TRY(ka_arena_printf(&t->arena, &path, "metric_list.%lld", (long long)i));
  const char *place = ka_task_place(t, path);
  KA_TRY(ka_arena_printf(&t->arena, &path, "metric_list.%lld.higher_is_better", (long long)i));
  *use = (struct ka_eval_metric_use){.config = c};
  int64_t template = template_of(t, c->metric);
  if (template >= 0)
    KA_TRY(open_template(t, use, template));
  else
    use->metric = ka_eval_metric_find(c->metric);
  if (!use->metric || (template <0 && !scores(use->metric, t->output)))
    return unknown_metric(t, c->metric, place);
  KA_TRY(
      open_aggregation(t, use, c->aggregation ? c->aggregation : use->metric->aggregation, place));
  use->higher_is_better = given(t, path) ? c->higher_is_better : use->metric->higher_is_better;
  return open_ignored(t, use, place);
}

/* Those that the output type, or process_results, has by itself. */
static ka_status open_own_metrics(struct ka_task *t) {
  struct ka_ctx *ctx = t->ctx;
  const struct ka_yaml *map = t->config.process_results;
  for (int64_t i = 0; map && i < map->n; i++) {
    struct ka_eval_metric_use *use = &t->metrics[t->n_metrics++];
    *use = (struct ka_eval_metric_use){0};
    KA_TRY(open_template(t, use, i));
    KA_TRY(open_aggregation(t, use, "mean", t->config.file.path));
  }
  for (const struct ka_eval_metric *m = ka_metrics; !map && m->name; m++)
    if (strchr(m->dflt, output_letters[t->output])) {
      struct ka_eval_metric_use *use = &t->metrics[t->n_metrics++];
      *use = (struct ka_eval_metric_use){.metric = m, .higher_is_better = m->higher_is_better};
      KA_TRY(open_aggregation(t, use, m->aggregation, t->config.file.path));
    }
  return KA_STATUS_OK;
}

static ka_status open_metrics(struct ka_task *t) {
  struct ka_ctx *ctx = t->ctx;
  const struct ka_yaml *map = t->config.process_results;
  int64_t n = t->config.metric_list.n, most = n;
  if (map && (map->kind != KA_YAML_MAP || map->n == 0))
    return ka_fail(ctx, KA_E_INPUT, "%s: process_results: expected {metric: template, ...}",
                   ka_task_place(t, "process_results"));
  for (const struct ka_eval_metric *m = ka_metrics; m->name; m++) most++;
  if (map) most += map->n;
  KA_TRY(KA_NEW(&t->arena, &t->metrics, most, "metrics"));
  if (!given(t, "metric_list")) KA_TRY(open_own_metrics(t));
  for (int64_t i = 0; i < n; i++) {
    t->n_metrics++;
    KA_TRY(open_metric(t, i));
    for (int64_t k = 0; k < i; k++)
      if (strcmp(t->metrics[k].metric->name, t->metrics[i].metric->name) == 0)
        return ka_fail(ctx, KA_E_INPUT, "%s: metric_list: %s is named twice",
                       ka_task_place(t, "metric_list"), t->metrics[i].metric->name);
  }
  if (t->n_metrics > 0) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_INPUT, "%s: metric_list: no metric", ka_task_place(t, "metric_list"));
}

/* --- answers ----------------------------------------------------------------- */

static ka_status open_filters(struct ka_task *t) {
  struct ka_ctx *ctx = t->ctx;
  const struct ka_task_filters *c = &t->config.filter_list;
  int64_t n = c->n > 0 ? c->n : 1;
  KA_TRY(KA_NEW(&t->arena, &t->filters, n, "filters"));
  for (int64_t i = 0; i < n; i++) {
    t->n_filters++;
    KA_TRY(ka_eval_filter_open(&t->arena, &t->filters[i], c->n > 0 ? &c->items[i] : NULL,
                               ka_task_place(t, "filter_list")));
    for (int64_t k = 0; k < i; k++)
      if (strcmp(t->filters[k].name, t->filters[i].name) == 0)
        return ka_fail(ctx, KA_E_INPUT, "%s: filter_list: %s is named twice",
                       ka_task_place(t, "filter_list"), t->filters[i].name);
  }
  if (c->n > 0 && t->output != KA_OUT_GENERATE)
    for (int64_t i = 0; i < c->n; i++)
      for (int64_t k = 0; k < c->items[i].filter.n; k++)
        if (strcmp(c->items[i].filter.items[k].function, "take_first") != 0)
          return ka_fail(ctx, KA_E_INPUT, "%s: filter_list: %s has no texts, only take_first works",
                         ka_task_place(t, "filter_list"), t->config.output_type);
  return KA_STATUS_OK;
}

static ka_status open_generation(struct ka_task *t) {
  struct ka_ctx *ctx = t->ctx;
  struct ka_task_generation *g = &t->config.generation_kwargs;
  const int64_t lengths[] = {g->max_gen_toks, g->max_new_tokens, g->max_tokens,
                             g->max_completion_tokens, 256};
  const char *place = ka_task_place(t, "generation_kwargs");
  bool sample = strcmp(g->do_sample, "true") == 0;
  for (int i = 0; i < 5 && t->max_gen_toks == 0; i++) t->max_gen_toks = lengths[i];
  t->sampling = (struct ka_eval_sampling){
      .temperature = g->temperature, .top_p = g->top_p, .min_p = g->min_p, .top_k = g->top_k};
  if (strcmp(g->do_sample, "false") == 0) t->sampling.temperature = 0;
  if (sample && t->sampling.temperature <= 0)
    return ka_fail(ctx, KA_E_INPUT, "%s: do_sample: true needs a temperature above 0", place);
  if (given(t, "generation_kwargs.until")) return KA_STATUS_OK;
  void *until;
  KA_TRY(ka_arena_alloc_n(&t->arena, &until, 1, sizeof(const char *), "until"));
  *(const char **)until = t->config.fewshot_delimiter;
  g->until = (struct ka_key_texts){until, 1};
  return KA_STATUS_OK;
}

static ka_status open_output(struct ka_task *t) {
  static const char *const words[] = {"generate_until", "loglikelihood", "loglikelihood_rolling",
                                      "multiple_choice"};
  for (int i = 0; i < KA_N_OUTPUTS; i++)
    if (strcmp(t->config.output_type, words[i]) == 0) t->output = (enum ka_eval_output)i;
  if (t->output == KA_OUT_CHOICE && !t->config.doc_to_choice)
    return ka_fail(t->ctx, KA_E_INPUT, "%s: doc_to_choice is required with multiple_choice",
                   t->config.file.path);
  return KA_STATUS_OK;
}

static int64_t shots_wanted(const struct ka_task *t, const struct ka_tasks_options *o) {
  bool fixed = given(t, "num_fewshot") && t->config.num_fewshot == 0;
  if (t->output == KA_OUT_ROLLING) return 0;
  return o->num_fewshot >= 0 && !fixed ? o->num_fewshot : t->config.num_fewshot;
}

static ka_status open_parts(struct ka_task *t, const struct ka_tasks_options *o) {
  struct ka_ctx *ctx = t->ctx;
  KA_TRY(open_output(t));
  KA_TRY(open_question(t));
  KA_TRY(open_shot(t));
  KA_TRY(open_metrics(t));
  KA_TRY(open_filters(t));
  KA_TRY(open_generation(t));
  t->native = o->native;
  t->chat = o->chat;
  t->num_fewshot = shots_wanted(t, o);
  ka_py_mt_seed(&t->mt, o->fewshot_seed);
  KA_TRY(ka_task_read_data(t));
  double n = (double)json_array_size(t->docs), limit = o->limit;
  if (limit > 0 && limit < 1) limit = ceil(n * limit);
  return ka_task_make_requests(t, limit > 0 && limit < n ? (int64_t)limit : (int64_t)n);
}

ka_status ka_task_open(struct ka_ctx *ctx, struct ka_task *t, const struct ka_py *py,
                       const struct ka_yaml *keys, const char *path,
                       const struct ka_tasks_options *o) {
  *t = (struct ka_task){.ctx = ctx, .py = py};
  ka_arena_init(&t->arena, ctx, "task");
  KA_TRY(ka_task_config_open(ctx, &t->config, keys, path));
  t->name = t->config.task;
  if (strchr(t->name, '/'))
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: task: got %s, expected a name without /: files are called by it",
                   ka_task_place(t, "task"), t->name);
  t->alias = t->config.task_alias ? t->config.task_alias : t->name;
  return open_parts(t, o);
}

static void close_writer(struct ka_eval_writer *w) {
  struct ka_eval_field *const fields[] = {&w->text, &w->target, &w->choice, &w->gen_prefix};
  for (int i = 0; i < 4; i++) ka_eval_field_close(fields[i]);
}

void ka_task_close(struct ka_task *t) {
  close_writer(&t->question);
  close_writer(&t->shot);
  ka_eval_field_close(&t->description);
  ka_eval_field_close(&t->count_text);
  ka_eval_field_close(&t->audio);
  for (int64_t i = 0; i < t->n_items; i++) {
    json_decref(t->items[i].target);
    json_decref(t->items[i].choices);
  }
  for (int64_t i = 0; i < t->n_metrics; i++) ka_eval_field_close(&t->metrics[i].value);
  for (int64_t i = 0; i < t->n_metrics; i++)
    for (int64_t k = 0; t->metrics[i].ignore && k < t->metrics[i].config->regexes_to_ignore.n; k++)
      ka_py_regex_close(t->metrics[i].ignore[k]);
  for (int64_t i = 0; i < t->n_filters; i++) ka_eval_filter_close(&t->filters[i]);
  for (int64_t i = 0; i < t->n_requests; i++) ka_free(t->requests[i].ids);
  ka_free(t->requests);
  json_decref(t->splits);
  ka_task_config_close(&t->config);
  ka_arena_deinit(&t->arena);
  *t = (struct ka_task){0};
}
