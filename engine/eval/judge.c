/* SPDX-License-Identifier: Apache-2.0
 * See judge.h. */
#include "engine/eval/judge.h"

#include "engine/eval/error_rate.h"
#include "python/regex.h"

#include <string.h>

ka_status ka_eval_judge_open(struct ka_ctx *ctx, struct ka_eval_judge *j,
                             const struct ka_task *task, const struct ka_eval_answer *answers) {
  int64_t most = 1;
  *j = (struct ka_eval_judge){.ctx = ctx, .task = task, .answers = answers};
  ka_arena_init(&j->arena, ctx, "metrics");
  for (int64_t i = 0; i < task->n_items; i++)
    if (task->items[i].n_requests > most) most = task->items[i].n_requests;
  double **reals[] = {&j->ll, &j->ll_alone, &j->p};
  for (int i = 0; i < 3; i++) {
    KA_TRY(KA_NEW(&j->arena, reals[i], most, "metrics"));
  }
  int64_t **wholes[] = {&j->chars, &j->bytes};
  for (int i = 0; i < 2; i++) {
    KA_TRY(KA_NEW(&j->arena, wholes[i], most, "metrics"));
  }
  KA_TRY(KA_NEW(&j->arena, &j->greedy, most, "metrics"));
  return KA_NEW(&j->arena, &j->items, task->n_metrics, "metrics");
}

void ka_eval_judge_close(struct ka_eval_judge *j) {
  ka_eval_filtered_deinit(&j->filtered);
  ka_arena_deinit(&j->arena);
}

/* --- likelihoods ------------------------------------------------------------- */

static void gather_choices(struct ka_eval_judge *j, const struct ka_eval_item *item,
                           struct ka_eval_answers *a) {
  a->n = (int64_t)json_array_size(item->choices);
  a->gold = item->gold;
  a->n_gold = item->n_gold;
  a->chars = j->chars;
  a->bytes = j->bytes;
  if (item->n_requests == 2 * a->n) a->ll_alone = j->ll_alone;
  for (int64_t i = 0; i < a->n; i++) {
    const json_t *choice = json_array_get(item->choices, (size_t)i);
    j->bytes[i] = (int64_t)json_string_length(choice);
    j->chars[i] = ka_py_len(json_string_value(choice), json_string_length(choice));
    if (a->ll_alone) j->ll_alone[i] = j->answers[item->first + a->n + i].ll;
  }
}

static int64_t weight_of(const struct ka_task *t, const struct ka_eval_item *item,
                         const char *metric) {
  const struct ka_eval_request *r = &t->requests[item->first];
  if (strcmp(metric, "word_perplexity") == 0) return item->n_words;
  if (strcmp(metric, "token_perplexity") == 0) return r->n_targets;
  return item->n_bytes;
}

static ka_status judge_likelihoods(struct ka_eval_judge *j, const struct ka_eval_item *item) {
  struct ka_ctx *ctx = j->ctx;
  const struct ka_task *t = j->task;
  struct ka_eval_answers a = {.n = 1, .ll = j->ll, .greedy = j->greedy, .p = j->p};
  for (int64_t i = 0; i < item->n_requests; i++) {
    j->ll[i] = j->answers[item->first + i].ll;
    j->greedy[i] = j->answers[item->first + i].greedy;
  }
  if (t->output == KA_OUT_CHOICE) gather_choices(j, item, &a);
  for (int64_t m = 0; m < t->n_metrics; m++) {
    if (ka_eval_field_given(&t->metrics[m].value)) continue;
    a.weight = weight_of(t, item, t->metrics[m].metric->name);
    KA_TRY(ka_eval_metric_score(ctx, t->metrics[m].metric, &a, &j->items[m]));
  }
  return ka_eval_process_results(j, item, &a, j->items);
}

/* --- generated texts --------------------------------------------------------- */

static ka_status through(struct ka_eval_judge *j, struct ka_str *s, enum ka_py_function f) {
  json_t *v = json_stringn(s->data ? s->data : "", s->len);
  if (!v) return ka_fail(j->ctx, KA_E_MEMORY, "exact_match: out of memory");
  ka_str_clear(s);
  ka_status st = ka_py_call(j->ctx, j->task->py, f, v, s);
  json_decref(v);
  return st;
}

static void remove_bytes(struct ka_str *s, const char *which) {
  size_t n = 0;
  for (size_t i = 0; i < s->len; i++)
    if (!s->data[i] || !strchr(which, s->data[i])) s->data[n++] = s->data[i];
  s->len = n;
}

/* What is to be ignored is taken out, in the harness's order. */
static ka_status normalise(struct ka_eval_judge *j, const struct ka_eval_metric_use *use,
                           struct ka_str *s) {
  struct ka_ctx *ctx = j->ctx;
  const struct ka_task_metric *c = use->config;
  for (int64_t i = 0; c && i < c->regexes_to_ignore.n; i++) {
    struct ka_str left = {0};
    ka_status st = ka_py_regex_sub(ctx, use->ignore[i], "", 0, s->data, s->len, 0, &left);
    ka_str_deinit(s);
    *s = left;
    KA_TRY(st);
  }
  if (c && c->ignore_case) KA_TRY(through(j, s, KA_PY_LOWER));
  if (c && c->ignore_punctuation) remove_bytes(s, "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~");
  if (c && c->ignore_numbers) remove_bytes(s, "0123456789");
  return KA_STATUS_OK;
}

static bool same(const struct ka_str *a, const struct ka_str *b) {
  return a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len) == 0);
}

/* Is the answer this right one? */
static ka_status matches(struct ka_eval_judge *j, const struct ka_eval_metric_use *use,
                         const struct ka_str *answer, const json_t *right, bool *out) {
  struct ka_ctx *ctx = j->ctx;
  struct ka_str a = {0}, b = {0};
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_str_append(ctx, &a, answer->data, answer->len), out);
  KA_TRY_GOTO(ka_py_call(ctx, j->task->py, KA_PY_STR, right, &b), out);
  KA_TRY_GOTO(normalise(j, use, &a), out);
  KA_TRY_GOTO(normalise(j, use, &b), out);
  *out = same(&a, &b);
out:
  ka_str_deinit(&a);
  ka_str_deinit(&b);
  return st;
}

/* The right answers: a new list. One that is a text is, among documents with lists, the list of its
 * characters, as the harness has it; and lists of numbers alone match no text. */
static ka_status right_answers(struct ka_eval_judge *j, const struct ka_eval_item *item,
                               json_t **out) {
  struct ka_ctx *ctx = j->ctx;
  const struct ka_task *t = j->task;
  const json_t *target = item->target, *first = t->items[0].target;
  bool lists = json_is_array(first) && json_array_size(first) > 0;
  bool as_list = t->native ? json_is_array(target) : lists && json_is_array(target);
  if (t->has_choices) {
    int64_t n = (int64_t)json_array_size(item->choices), i = json_integer_value(target);
    const json_t *choice = json_array_get(item->choices, (size_t)(i < 0 ? i + n : i));
    if (!json_is_integer(target) || !choice)
      return ka_fail(ctx, KA_E_INPUT, "doc_to_target: expected the number of a choice");
    *out = json_pack("[O]", choice);
  } else if (as_list) {
    bool text = t->native;
    for (size_t i = 0; i < json_array_size(target); i++)
      text = text || json_is_string(json_array_get(target, i));
    *out = text ? json_incref((json_t *)(uintptr_t)target) : json_array();
  } else if (lists && !t->native && json_is_string(target)) {
    const char *p = json_string_value(target);
    *out = json_array();
    for (size_t i = 0, n = json_string_length(target); i < n;) {
      size_t len = (size_t)ka_utf8_decode(p + i, n - i, NULL);
      json_array_append_new(*out, json_stringn(p + i, len));
      i += len;
    }
  } else {
    *out = json_pack("[O]", target);
  }
  return *out ? KA_STATUS_OK : ka_fail(ctx, KA_E_MEMORY, "exact_match: out of memory");
}

/* With several right answers any will do; of several answers the part that is right counts. */
static ka_status exact_match(struct ka_eval_judge *j, const struct ka_eval_metric_use *use,
                             const json_t *right, double *out) {
  struct ka_ctx *ctx = j->ctx;
  size_t n_right = json_array_size(right);
  double hits = 0;
  for (int64_t i = 0; i < j->filtered.n; i++) {
    bool hit = false;
    for (size_t k = 0; k < n_right && !hit; k++)
      KA_TRY(matches(j, use, &j->filtered.texts[i], json_array_get(right, k), &hit));
    hits += hit;
  }
  const json_t *first = j->task->items[0].target;
  bool any = json_is_array(first) && json_array_size(first) > 0 && !j->task->has_choices;
  *out = any ? hits > 0 : hits / (double)j->filtered.n;
  return KA_STATUS_OK;
}

/* Errors of the first answer against the first right one. */
static ka_status transcript(struct ka_eval_judge *j, const struct ka_eval_metric_use *use,
                            const json_t *right, struct ka_eval_metric_item *out) {
  struct ka_ctx *ctx = j->ctx;
  const struct ka_str *answer = &j->filtered.texts[0];
  struct ka_str a = {0}, b = {0};
  int64_t n_errors = 0, n_right = 0;
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_str_append(ctx, &a, answer->data, answer->len), out);
  KA_TRY_GOTO(ka_py_call(ctx, j->task->py, KA_PY_STR, json_array_get(right, 0), &b), out);
  KA_TRY_GOTO(normalise(j, use, &a), out);
  KA_TRY_GOTO(normalise(j, use, &b), out);
  KA_TRY_GOTO(
      ka_eval_text_errors(ctx, &b, &a, strcmp(use->metric->name, "wer") == 0, &n_errors, &n_right),
      out);
  *out = (struct ka_eval_metric_item){.a = (double)n_errors, .b = (double)n_right};
out:
  ka_str_deinit(&a);
  ka_str_deinit(&b);
  return st;
}

/* Is there a metric that compares texts? */
static bool needs_right(const struct ka_task *t) {
  for (int64_t m = 0; m < t->n_metrics; m++)
    if (!ka_eval_field_given(&t->metrics[m].value)) return true;
  return false;
}

static ka_status judge_texts(struct ka_eval_judge *j, const struct ka_eval_item *item,
                             int64_t filter) {
  struct ka_ctx *ctx = j->ctx;
  const struct ka_task *t = j->task;
  const struct ka_eval_answer *a = &j->answers[item->first];
  json_t *right = NULL;
  j->filtered.n = 0;
  j->filtered.one = false;
  for (int64_t i = 0; i < t->config.repeats; i++) {
    const struct ka_str *text = &a->texts[i < a->n_texts ? i : 0];
    KA_TRY(ka_eval_filtered_add(ctx, &j->filtered, text->data ? text->data : "", text->len));
  }
  KA_TRY(ka_eval_filter_apply(ctx, &t->filters[filter], t->py, item->doc, &j->filtered));
  KA_TRY(ka_eval_process_results(j, item, NULL, j->items));
  if (!needs_right(t)) return KA_STATUS_OK;
  KA_TRY(right_answers(j, item, &right));
  ka_status st = KA_STATUS_OK;
  for (int64_t m = 0; m < t->n_metrics && ka_ok(st); m++) {
    if (ka_eval_field_given(&t->metrics[m].value)) continue;
    j->items[m] = (struct ka_eval_metric_item){0};
    st = t->metrics[m].metric->items == KA_ITEMS_WEIGHTED
             ? transcript(j, &t->metrics[m], right, &j->items[m])
             : exact_match(j, &t->metrics[m], right, &j->items[m].a);
  }
  json_decref(right);
  return st;
}

ka_status ka_eval_judge_document(struct ka_eval_judge *j, int64_t i, int64_t filter) {
  const struct ka_eval_item *item = &j->task->items[i];
  ka_status st = j->task->output == KA_OUT_GENERATE ? judge_texts(j, item, filter)
                                                    : judge_likelihoods(j, item);
  return ka_task_fail_doc(j->task, st, i);
}
