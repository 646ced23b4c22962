/* SPDX-License-Identifier: Apache-2.0
 * ka_tasks_score: every request of every task to the model, then metrics of tasks and groups. */
#include "base/log.h"
#include "engine/eval/generator.h"
#include "engine/eval/judge.h"
#include "engine/eval/scorer.h"

#include <math.h>
#include <string.h>

struct run {
  struct ka_ctx *ctx;
  const struct ka_tasks *t;
  struct ka_model *m;
  const struct ka_eval_score_options *o;
  struct ka_results *r;
  int64_t n_done, cap_values;
};

static void progress(void *user, int64_t n_done) {
  struct run *x = user;
  if (x->o->progress) x->o->progress(x->o->user, x->n_done + n_done);
}

/* --- likelihoods ------------------------------------------------------------- */

/* A text longer than the model takes comes in windows. The first starts with the prefix token; a
 * full one after it has one token of context, the last is filled up with tokens scored before. */
static int64_t windows(const struct ka_eval_request *r, int64_t most, struct ka_eval_sequence *out,
                       struct ka_eval_answer *a) {
  int64_t n = r->n - 1, k = 0;
  for (int64_t done = 0; done < n; k++) {
    int64_t part = n - done < most ? n - done : most, end = done + part;
    int64_t begin = done == 0 ? 0 : end - most;
    if (out)
      out[k] = (struct ka_eval_sequence){r->ids + begin, end + 1 - begin, part, &a->ll, &a->greedy};
    done = end;
  }
  return k;
}

static int64_t list_sequences(const struct run *x, struct ka_eval_sequence *out) {
  int64_t n = 0;
  for (int64_t i = 0; i < x->t->n_tasks; i++) {
    const struct ka_task *task = x->t->tasks[i];
    for (int64_t k = 0; k < task->n_requests && task->output != KA_OUT_GENERATE; k++) {
      const struct ka_eval_request *r = &task->requests[k];
      struct ka_eval_answer *a = &x->r->answers[i][k];
      a->greedy = true;
      if (task->output == KA_OUT_ROLLING)
        n += windows(r, x->t->encoding.max_length, out ? out + n : NULL, a);
      else if (out)
        out[n++] = (struct ka_eval_sequence){r->ids, r->n, r->n_targets, &a->ll, &a->greedy};
      else
        n++;
    }
  }
  return n;
}

static ka_status score_sequences(struct run *x) {
  struct ka_ctx *ctx = x->ctx;
  int64_t n = list_sequences(x, NULL);
  void *list;
  KA_TRY(ka_alloc_n(ctx, &list, n, sizeof(struct ka_eval_sequence), "requests"));
  list_sequences(x, list);
  for (int64_t i = 0; i < n; i++) x->r->n_tok += ((struct ka_eval_sequence *)list)[i].n;
  const struct ka_eval_scoring o = {
      .batch_size = x->o->batch_size, .progress = progress, .user = x};
  ka_status st = ka_eval_score_sequences(ctx, x->m, list, n, &o);
  x->n_done += n;
  ka_free(list);
  return st;
}

/* A model that computes NaN has answered nothing. */
static ka_status check_likelihoods(const struct run *x) {
  for (int64_t i = 0; i < x->t->n_tasks; i++) {
    const struct ka_task *task = x->t->tasks[i];
    for (int64_t d = 0; d < task->n_items; d++)
      for (int64_t k = 0; k < task->items[d].n_requests; k++) {
        double ll = x->r->answers[i][task->items[d].first + k].ll;
        if (!isfinite(ll))
          return ka_fail(x->ctx, KA_E_CHECK,
                         "task %s, document %lld: the log-likelihood is %g, expected a finite "
                         "number; the model's weights are damaged or too large for its arithmetic",
                         task->name, (long long)d, ll);
      }
  }
  return KA_STATUS_OK;
}

/* --- texts ------------------------------------------------------------------- */

static ka_status generate(struct run *x, int64_t i) {
  struct ka_ctx *ctx = x->ctx;
  const struct ka_task *task = x->t->tasks[i];
  int64_t each = task->sampling.temperature > 0 ? task->config.repeats : 1,
          n = task->n_requests * each;
  void *p;
  struct ka_eval_prompt *prompts;
  KA_TRY(KA_NEW_HEAP(ctx, &prompts, n, "requests"));
  bool sound = ka_eval_field_given(&task->audio);
  for (int64_t k = 0; k < n; k++) {
    const struct ka_eval_request *r = &task->requests[k / each];
    prompts[k] = (struct ka_eval_prompt){
        .ids = r->ids, .n = r->n, .clip = r->clip.path ? &r->clip : NULL, .draw = (uint64_t)k};
  }
  const struct ka_eval_generation g = {.tokenizer = x->t->tokenizer,
                                       .until = &task->config.generation_kwargs.until,
                                       .max_tokens = task->max_gen_toks,
                                       .sampling = task->sampling,
                                       .seed = x->o->seed,
                                       .speech = sound ? x->t->encoding.speech : NULL,
                                       .batch_size = x->o->batch_size,
                                       .progress = progress,
                                       .user = x};
  bool deaf = sound && !ka_projector_config_of(x->m);
  if (deaf)
    ka_warn(ctx, "eval",
            "task %s: the model has no projector: it hears nothing, all of its answers "
            "are empty",
            task->name);
  ka_status st = deaf ? KA_STATUS_OK : ka_eval_generate_answers(ctx, x->m, prompts, n, &g);
  for (int64_t k = 0; k < task->n_requests && ka_ok(st); k++) {
    struct ka_eval_answer *a = &x->r->answers[i][k];
    st = ka_alloc_n(ctx, &p, each, sizeof *a->texts, "answers");
    if (!ka_ok(st)) break;
    a->texts = p;
    for (a->n_texts = 0; a->n_texts < each; a->n_texts++) {
      a->texts[a->n_texts] = prompts[k * each + a->n_texts].text;
      prompts[k * each + a->n_texts].text = (struct ka_str){0};
    }
  }
  for (int64_t k = 0; k < n; k++) {
    x->r->n_tok += deaf ? 0 : prompts[k].n + prompts[k].n_new;
    ka_str_deinit(&prompts[k].text);
  }
  ka_free(prompts);
  x->n_done += n;
  return st;
}

/* --- metrics ----------------------------------------------------------------- */

static ka_status add_value(struct run *x, const struct ka_task_value *v) {
  struct ka_ctx *ctx = x->ctx;
  void *list = x->r->values;
  KA_TRY(ka_grow(ctx, &list, &x->cap_values, x->r->n_values + 1, sizeof *v, "metrics"));
  x->r->values = list;
  x->r->values[x->r->n_values++] = *v;
  return KA_STATUS_OK;
}

static double chance_of(const struct ka_task *t, const struct ka_eval_metric *m) {
  double sum = 0;
  if (m->chance == KA_CHANCE_NONE) return NAN;
  if (m->chance == KA_CHANCE_ZERO || t->output != KA_OUT_CHOICE) return 0;
  for (int64_t i = 0; i < t->n_items; i++)
    sum += (double)t->items[i].n_gold / (double)json_array_size(t->items[i].choices);
  return sum / (double)t->n_items;
}

/* items [n_metrics * n_items]; probabilities are copied into arena. */
static ka_status judge_all(struct ka_eval_judge *j, int64_t filter,
                           struct ka_eval_metric_item *items, struct ka_arena *arena) {
  struct ka_ctx *ctx = j->ctx;
  const struct ka_task *t = j->task;
  for (int64_t i = 0; i < t->n_items; i++) {
    KA_TRY(ka_eval_judge_document(j, i, filter));
    for (int64_t m = 0; m < t->n_metrics; m++) {
      struct ka_eval_metric_item *item = &items[m * t->n_items + i];
      *item = j->items[m];
      if (!item->p) continue;
      void *p;
      KA_TRY(ka_arena_alloc_n(arena, &p, item->n, sizeof(double), "metrics"));
      memcpy(p, item->p, (size_t)item->n * sizeof(double));
      item->p = p;
    }
  }
  return KA_STATUS_OK;
}

static ka_status value_task(struct run *x, struct ka_eval_judge *j, struct ka_arena *arena) {
  struct ka_ctx *ctx = x->ctx;
  const struct ka_task *t = j->task;
  void *p;
  KA_TRY(ka_arena_alloc_n(arena, &p, t->n_metrics * t->n_items, sizeof(struct ka_eval_metric_item),
                          "metrics"));
  const struct ka_eval_metric_item *items = p;
  for (int64_t f = 0; f < t->n_filters; f++) {
    KA_TRY(judge_all(j, f, p, arena));
    for (int64_t m = 0; m < t->n_metrics; m++) {
      const struct ka_eval_metric_use *use = &t->metrics[m];
      struct ka_task_value v = {.task = t->name,
                                .metric = use->metric->name,
                                .filter = t->filters[f].name,
                                .chance = chance_of(t, use->metric),
                                .higher_is_better = use->higher_is_better,
                                .n_docs = t->n_items};
      KA_TRY(
          ka_eval_aggregate(ctx, use->aggregation, items + m * t->n_items, t->n_items, &v.value));
      KA_TRY(ka_eval_aggregate_stderr(ctx, use->aggregation, items + m * t->n_items, t->n_items,
                                      x->o->bootstrap_iters, &v.stderr_));
      KA_TRY(add_value(x, &v));
    }
  }
  return KA_STATUS_OK;
}

static ka_status judge_task(struct run *x, int64_t i) {
  struct ka_eval_judge j;
  struct ka_arena arena;
  ka_arena_init(&arena, x->ctx, "metrics");
  ka_status st = ka_eval_judge_open(x->ctx, &j, x->t->tasks[i], x->r->answers[i]);
  if (ka_ok(st)) st = value_task(x, &j, &arena);
  ka_eval_judge_close(&j);
  ka_arena_deinit(&arena);
  return st;
}

/* --- groups ------------------------------------------------------------------ */

/* One value of a group: of all its tasks that have this metric and filter. */
static ka_status value_group(struct run *x, const struct ka_eval_group *g,
                             const struct ka_task_aggregate *a, const char *filter,
                             const int64_t *tasks, int64_t n_tasks) {
  struct ka_ctx *ctx = x->ctx;
  void *p;
  int64_t n = 0;
  KA_TRY(ka_alloc_n(ctx, &p, n_tasks, 3 * sizeof(double), "group"));
  double *values = p, *errors = values + n_tasks, chance = 0;
  int64_t *sizes = (int64_t *)(errors + n_tasks);
  struct ka_task_value v = {
      .task = g->name, .metric = a->metric, .filter = filter, .is_group = true};
  for (int64_t i = 0; i < n_tasks; i++) {
    const struct ka_task_value *of =
        ka_results_find(x->r, x->t->tasks[tasks[i]]->name, a->metric, filter);
    if (!of) continue;
    values[n] = of->value;
    errors[n] = of->stderr_;
    sizes[n++] = of->n_docs;
    chance += of->chance * (a->weight_by_size ? (double)of->n_docs : 1);
    v.n_docs += of->n_docs;
    v.higher_is_better = of->higher_is_better;
  }
  v.value = ka_eval_group_mean(values, sizes, n, a->weight_by_size);
  v.stderr_ = ka_eval_group_stderr(errors, sizes, n, a->weight_by_size);
  v.chance = chance / (a->weight_by_size ? (double)v.n_docs : (double)n);
  ka_free(p);
  return n > 0 ? add_value(x, &v) : KA_STATUS_OK;
}

static bool first_mention(const struct run *x, const int64_t *tasks, int64_t i, int64_t f,
                          const char *filter) {
  for (int64_t k = 0; k <= i; k++) {
    const struct ka_task *t = x->t->tasks[tasks[k]];
    for (int64_t e = 0; e < (k < i ? t->n_filters : f); e++)
      if (strcmp(t->filters[e].name, filter) == 0) return false;
  }
  return true;
}

static ka_status judge_metric(struct run *x, const struct ka_eval_group *g,
                              const struct ka_task_aggregate *a, const int64_t *tasks, int64_t n) {
  struct ka_ctx *ctx = x->ctx;
  for (int64_t i = 0; i < a->filter_list.n; i++)
    KA_TRY(value_group(x, g, a, a->filter_list.items[i], tasks, n));
  if (a->filter_list.n > 0) return KA_STATUS_OK;
  for (int64_t i = 0; i < n; i++) /* without a list: every filter of its tasks */
    for (int64_t f = 0; f < x->t->tasks[tasks[i]]->n_filters; f++) {
      const char *filter = x->t->tasks[tasks[i]]->filters[f].name;
      if (first_mention(x, tasks, i, f, filter)) KA_TRY(value_group(x, g, a, filter, tasks, n));
    }
  return KA_STATUS_OK;
}

static ka_status judge_group(struct run *x, const struct ka_eval_group *g) {
  struct ka_ctx *ctx = x->ctx;
  void *tasks;
  KA_TRY(ka_alloc_n(ctx, &tasks, g->n_tasks, sizeof(int64_t), "group"));
  int64_t *end = tasks;
  ka_eval_group_tasks(x->t, g, &end);
  ka_status st = KA_STATUS_OK;
  for (int64_t i = 0; i < g->config.aggregate_metric_list.n && ka_ok(st); i++)
    st = judge_metric(x, g, &g->config.aggregate_metric_list.items[i], tasks, g->n_tasks);
  ka_free(tasks);
  return st;
}

/* --- all --------------------------------------------------------------------- */

static ka_status make_room(struct run *x) {
  struct ka_ctx *ctx = x->ctx;
  int64_t n = x->t->n_tasks;
  void *p;
  KA_TRY(KA_NEW_HEAP(ctx, &x->r->answers, n, "answers"));
  KA_TRY(KA_NEW_HEAP(ctx, &x->r->n_answers, n, "answers"));
  x->r->n_tasks = n;
  for (int64_t i = 0; i < n; i++) {
    KA_TRY(
        ka_alloc_n(ctx, &p, x->t->tasks[i]->n_requests, sizeof(struct ka_eval_answer), "answers"));
    x->r->answers[i] = p;
    x->r->n_answers[i] = x->t->tasks[i]->n_requests;
  }
  return KA_STATUS_OK;
}

ka_status ka_tasks_score(struct ka_ctx *ctx, const struct ka_tasks *t, struct ka_model *m,
                         const struct ka_eval_score_options *o, struct ka_results *results) {
  struct run x = {.ctx = ctx, .t = t, .m = m, .o = o, .r = results};
  *results = (struct ka_results){0};
  KA_NEVER(ctx, !t->tokenizer || ka_model_positions(m) < ka_tasks_positions(t));
  KA_TRY(make_room(&x));
  KA_TRY(score_sequences(&x));
  KA_TRY(check_likelihoods(&x));
  for (int64_t i = 0; i < t->n_tasks; i++)
    if (t->tasks[i]->output == KA_OUT_GENERATE) KA_TRY(generate(&x, i));
  for (int64_t i = 0; i < t->n_tasks; i++) KA_TRY(judge_task(&x, i));
  for (int64_t i = 0; i < t->n_groups; i++) KA_TRY(judge_group(&x, t->groups[i]));
  return KA_STATUS_OK;
}

void ka_results_close(struct ka_results *r) {
  for (int64_t i = 0; i < r->n_tasks; i++) {
    for (int64_t k = 0; r->answers[i] && k < r->n_answers[i]; k++) {
      struct ka_eval_answer *a = &r->answers[i][k];
      for (int64_t e = 0; e < a->n_texts; e++) ka_str_deinit(&a->texts[e]);
      ka_free(a->texts);
    }
    ka_free(r->answers[i]);
  }
  ka_free(r->answers);
  ka_free(r->n_answers);
  ka_free(r->values);
  *r = (struct ka_results){0};
}

const struct ka_task_value *ka_results_find(const struct ka_results *r, const char *task,
                                            const char *metric, const char *filter) {
  for (int64_t i = 0; i < r->n_values; i++) {
    const struct ka_task_value *v = &r->values[i];
    if (strcmp(v->task, task) == 0 && strcmp(v->metric, metric) == 0 &&
        (!filter || strcmp(v->filter, filter) == 0))
      return v;
  }
  return NULL;
}
