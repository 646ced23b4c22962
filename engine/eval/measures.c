/* SPDX-License-Identifier: Apache-2.0
 * See measures.h. */
#include "engine/eval/measures.h"
#include "engine/dist/dist.h"

#include "base/log.h"
#include "engine/data/records.h"
#include "engine/eval/task_set.h"
#include "engine/eval/text_loss.h"
#include "engine/report/progress.h"

#include <math.h>
#include <string.h>

struct ka_measures_spec ka_measures_spec_of_job(const struct ka_job *job, bool validation) {
  return (struct ka_measures_spec){
      .validation = validation,
      .texts = job->held_out.items,
      .n_texts = job->held_out.n,
      .old_tasks = job->forgetting.tasks,
      .new_tasks = job->forgetting.new_tasks,
      .limit = job->forgetting.limit,
  };
}

/* --- what is measured -------------------------------------------------------- */

static ka_status add(struct ka_measures *ms, int64_t *cap, const struct ka_measure *m) {
  struct ka_ctx *ctx = ms->ctx;
  void *items = ms->items;
  for (int64_t i = 0; i < ms->n; i++)
    if (strcmp(ms->items[i].name, m->name) == 0)
      return ka_fail(ctx, KA_E_INPUT, "held_out and forgetting: two measures have the name \"%s\"",
                     m->name);
  KA_TRY(ka_grow(ctx, &items, cap, ms->n + 1, sizeof *ms->items, "measures"));
  ms->items = items;
  ms->items[ms->n++] = *m;
  return KA_STATUS_OK;
}

/* Of a group's metric: as its tasks have it. */
static bool higher_is_better(const struct ka_tasks *t, const char *metric) {
  for (int64_t i = 0; i < t->n_tasks; i++)
    for (int64_t k = 0; k < t->tasks[i]->n_metrics; k++)
      if (strcmp(t->tasks[i]->metrics[k].metric->name, metric) == 0)
        return t->tasks[i]->metrics[k].higher_is_better;
  return true;
}

static ka_status add_set_measures(struct ka_measures *ms, int64_t *cap, struct ka_measure_set *set,
                                  bool is_new) {
  struct ka_ctx *ctx = ms->ctx;
  const struct ka_tasks *t = set->tasks;
  const struct ka_eval_group *g = t->n_groups > 0 ? t->groups[t->n_groups - 1] : NULL;
  struct ka_measure m = {.is_new = is_new, .chance = NAN, .unit = "documents"};
  bool whole = g && g->config.aggregate_metric_list.n > 0;
  set->first = ms->n;
  set->n = whole ? 1 : t->n_tasks;
  for (int64_t i = 0; i < set->n; i++) {
    m.name = whole ? g->name : t->tasks[i]->name;
    m.metric = whole ? g->config.aggregate_metric_list.items[0].metric
                     : t->tasks[i]->metrics[0].metric->name;
    m.higher_is_better = higher_is_better(t, m.metric);
    KA_TRY(add(ms, cap, &m));
  }
  return KA_STATUS_OK;
}

static ka_status add_tasks(struct ka_measures *ms, int64_t *cap, const struct ka_key_texts *paths,
                           bool is_new, int64_t max_length) {
  struct ka_ctx *ctx = ms->ctx;
  struct ka_tasks_options options = KA_TASKS_DEFAULTS;
  const struct ka_eval_encode_options encoding = {
      .max_length = max_length, .prefix_token = -1, .add_bos = -1, .speech = ms->speech};
  options.limit = ms->spec.limit;
  for (int64_t i = 0; i < paths->n; i++) {
    struct ka_measure_set *set = &ms->sets[ms->n_sets++];
    KA_TRY(ka_tasks_load(ctx, &set->tasks, &paths->items[i], 1, &options));
    KA_TRY(ka_tasks_encode(ctx, set->tasks, ms->tokenizer, &encoding));
    KA_TRY(add_set_measures(ms, cap, set, is_new));
  }
  return KA_STATUS_OK;
}

ka_status ka_measures_open(struct ka_ctx *ctx, struct ka_measures *ms,
                           const struct ka_measures_spec *spec, const struct ka_speech *speech,
                           const struct ka_tokenizer *tokenizer, int64_t max_length) {
  int64_t n_sets = spec->old_tasks.n + spec->new_tasks.n, cap = 0;
  *ms = (struct ka_measures){.ctx = ctx, .spec = *spec, .speech = speech, .tokenizer = tokenizer};
  ka_arena_init(&ms->arena, ctx, "measures");
  KA_TRY(KA_NEW(&ms->arena, &ms->sets, n_sets, "task files"));
  if (!tokenizer && n_sets + spec->n_texts > 0)
    return ka_fail(ctx, KA_E_INPUT,
                   "held_out and forgetting: the model has no tokenizer.json to read text with");
  struct ka_measure m = {
      .name = "validation", .metric = "loss", .is_new = true, .chance = NAN, .unit = "tokens"};
  if (spec->validation) KA_TRY(add(ms, &cap, &m));
  for (int64_t i = 0; i < spec->n_texts; i++) {
    m.name = spec->texts[i].name;
    m.is_new = spec->texts[i].role == KA_ROLE_NEW;
    KA_TRY(add(ms, &cap, &m));
  }
  KA_TRY(add_tasks(ms, &cap, &spec->new_tasks, true, max_length));
  return add_tasks(ms, &cap, &spec->old_tasks, false, max_length);
}

void ka_measures_close(struct ka_measures *ms) {
  for (int64_t i = 0; i < ms->n_sets; i++) ka_tasks_close(ms->sets[i].tasks);
  ka_free(ms->items);
  ka_arena_deinit(&ms->arena);
  *ms = (struct ka_measures){0};
}

int64_t ka_measures_positions(const struct ka_measures *ms) {
  int64_t most = 0;
  for (int64_t i = 0; i < ms->n_sets; i++) {
    int64_t n = ka_tasks_positions(ms->sets[i].tasks);
    if (n > most) most = n;
  }
  return most;
}

int64_t ka_measures_count(const struct ka_measures *ms, bool is_new) {
  int64_t n = 0;
  for (int64_t i = 0; i < ms->n; i++) n += ms->items[i].is_new == is_new;
  return n;
}

/* --- texts ------------------------------------------------------------------- */

/* A row is a document: a whole text file, or the text of a JSON or CSV row. */
static ka_status score_row(struct ka_eval_text_scorer *s, const struct ka_job_held_out *h,
                           const struct ka_data_record *row) {
  struct ka_ctx *ctx = s->ctx;
  if (ka_data_record_is_text(row)) {
    size_t bad = ka_utf8_check(row->bytes, row->n);
    if (bad == row->n) return ka_eval_text_scorer_document(s, row->bytes, row->n);
    if (!ka_data_record_named(row)) return KA_STATUS_OK; /* only a directory or glob found it */
    return ka_fail(ctx, KA_E_INPUT, "%s: byte %zu is not valid UTF-8", ka_data_record_path(row),
                   bad);
  }
  json_t *object = NULL;
  const char *why;
  KA_TRY(ka_data_record_parse(ctx, row, &object, &why));
  const json_t *text = json_object_get(object, h->field);
  ka_status st = KA_STATUS_OK;
  if (json_is_string(text))
    st = ka_eval_text_scorer_document(s, json_string_value(text), json_string_length(text));
  else
    st = ka_fail(ctx, KA_E_INPUT, "%s:%lld: \"%s\": a string is expected%s%s",
                 ka_data_record_path(row), (long long)row->line, h->field, why ? "; " : "",
                 why ? why : "");
  json_decref(object);
  return st;
}

static ka_status score_files(struct ka_eval_text_scorer *s, const struct ka_job_held_out *h,
                             struct ka_arena *arena) {
  struct ka_ctx *ctx = s->ctx;
  struct ka_data_files files;
  struct ka_data_records rows;
  struct ka_data_record batch[KA_RECORDS_BATCH];
  int n = 0;
  const struct ka_data_choice choice = {&h->data_files, &h->exclude_files, NULL, h->split};
  KA_TRY(ka_data_files(arena, &h->path, &choice, &files));
  KA_TRY(ka_data_records_init(&rows, ctx, &files, "auto", h->split, "held_out: split"));
  ka_status st = KA_STATUS_OK;
  do {
    KA_TRY_GOTO(ka_data_records_next(&rows, batch, &n), out);
    for (int i = 0; i < n; i++) KA_TRY_GOTO(score_row(s, h, &batch[i]), out);
  } while (n > 0);
  KA_TRY_GOTO(ka_eval_text_scorer_finish(s), out);
out:
  ka_data_records_deinit(&rows);
  return st;
}

/* s->total and, with a base, s->kl_sum of one text. */
static ka_status score_text(struct ka_measures *ms, int64_t i, struct ka_model *base,
                            struct ka_model *m, int64_t B, int64_t T,
                            struct ka_eval_text_scorer *s) {
  struct ka_arena arena;
  struct ka_progress bar;
  ka_arena_init(&arena, ms->ctx, "held-out files");
  ka_status st = ka_eval_text_scorer_init(ms->ctx, s, m, ms->tokenizer, B, T);
  s->base = base;
  s->on_batch = ka_progress_add_tokens;
  s->user = &bar;
  ka_progress_begin(ms->ctx, &bar, base ? "divergence" : "held-out", 0,
                    ms->items[ms->spec.validation + i].n); /* 0 until it was scored once */
  if (ka_ok(st)) st = score_files(s, &ms->spec.texts[i], &arena);
  ka_progress_end(&bar);
  ka_eval_text_scorer_deinit(s);
  ka_arena_deinit(&arena);
  return st;
}

/* Of texts and then task files, the k-th is this rank's. */
static bool is_own(const struct ka_measures *ms, int64_t k) {
  return k % ka_dist_n(ms->ctx->dist) == ka_dist_rank(ms->ctx->dist);
}

static ka_status score_texts(struct ka_measures *ms, struct ka_model *m, int64_t B, int64_t T,
                             bool shared, double *values) {
  struct ka_ctx *ctx = ms->ctx;
  for (int64_t i = 0; i < ms->spec.n_texts; i++) {
    struct ka_eval_text_scorer s = {0};
    int64_t at = ms->spec.validation + i;
    ms->items[at].window = T - 1;
    if (shared && !is_own(ms, i)) continue;
    KA_TRY(score_text(ms, i, NULL, m, B, T, &s));
    values[at] = ka_eval_text_loss_per_token(&s.total);
    ms->items[at].n = s.total.n_tokens;
    if (s.total.n_tokens == 0)
      return ka_fail(ctx, KA_E_INPUT, "held_out %s: no token to measure; its files are empty",
                     ms->items[at].name);
    if (!isfinite(values[at]))
      return ka_fail(ctx, KA_E_CHECK, "held_out %s: the loss is %g over %lld tokens",
                     ms->items[at].name, values[at], (long long)s.total.n_tokens);
  }
  return KA_STATUS_OK;
}

ka_status ka_measures_divergence(struct ka_measures *ms, struct ka_model *base, struct ka_model *m,
                                 int64_t B, int64_t T, bool new_alone, double *kl) {
  struct ka_ctx *ctx = ms->ctx;
  for (int64_t i = 0; i < ms->n; i++) kl[i] = NAN;
  for (int64_t i = 0; i < ms->spec.n_texts; i++) {
    struct ka_eval_text_scorer s = {0};
    int64_t at = ms->spec.validation + i;
    if (new_alone && !ms->items[at].is_new) continue;
    KA_TRY(score_text(ms, i, base, m, B, T, &s));
    kl[at] = s.kl_sum / (double)s.total.n_tokens;
  }
  return KA_STATUS_OK;
}

/* --- tasks ------------------------------------------------------------------- */

static ka_status score_set(struct ka_measures *ms, const struct ka_measure_set *set,
                           struct ka_model *m, double *values) {
  struct ka_ctx *ctx = ms->ctx;
  struct ka_results r = {0};
  struct ka_eval_score_options options = KA_SCORE_DEFAULTS;
  options.bootstrap_iters = 0;
  ka_status st = ka_tasks_score(ctx, set->tasks, m, &options, &r);
  for (int64_t i = set->first; ka_ok(st) && i < set->first + set->n; i++) {
    struct ka_measure *to = &ms->items[i];
    const struct ka_task_value *v = ka_results_find(&r, to->name, to->metric, NULL);
    if (!v || !isfinite(v->value)) {
      st = ka_fail(ctx, KA_E_CHECK, "task %s: %s is %g", to->name, to->metric, v ? v->value : NAN);
      continue;
    }
    values[i] = v->value;
    to->chance = v->chance;
    to->n = v->n_docs;
  }
  ka_results_close(&r);
  return st;
}

/* What each rank found out goes to all: a measure is one rank's, whatever their number. */
static ka_status share(struct ka_measures *ms, double *values) {
  struct ka_ctx *ctx = ms->ctx;
  void *memory;
  KA_TRY(ka_alloc_n(ctx, &memory, 3 * ms->n, sizeof(double), "measures"));
  double *all = memory;
  for (int64_t i = 0; i < ms->n; i++) {
    bool own = !isnan(values[i]);
    all[3 * i] = own ? values[i] : 0;
    all[3 * i + 1] = own ? ms->items[i].chance : 0;
    all[3 * i + 2] = own ? (double)ms->items[i].n : 0;
  }
  ka_status st = ka_dist_sum(ctx->dist, "what is measured", all, 3 * ms->n);
  for (int64_t i = ms->spec.validation; ka_ok(st) && i < ms->n; i++) {
    values[i] = all[3 * i];
    ms->items[i].chance = all[3 * i + 1];
    ms->items[i].n = (int64_t)all[3 * i + 2];
  }
  ka_free(memory);
  return st;
}

ka_status ka_measures_score(struct ka_measures *ms, struct ka_model *m, int64_t B, int64_t T,
                            double validation, double *values) {
  struct ka_ctx *ctx = ms->ctx;
  /* ranks that split weights make all passes together */
  bool shared = ka_dist_n(ctx->dist) > 1 && !m->shards.weights;
  for (int64_t i = 0; i < ms->n; i++) values[i] = NAN;
  KA_TRY(score_texts(ms, m, B, T, shared, values));
  for (int64_t i = 0; i < ms->n_sets; i++)
    if (!shared || is_own(ms, ms->spec.n_texts + i)) KA_TRY(score_set(ms, &ms->sets[i], m, values));
  if (shared) KA_TRY(share(ms, values));
  if (ms->spec.validation) values[0] = validation;
  return KA_STATUS_OK;
}
