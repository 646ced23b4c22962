/* SPDX-License-Identifier: Apache-2.0
 * From documents to requests, by output type. */
#include "engine/eval/task.h"

#include "base/log.h"
#include "engine/eval/text_loss.h"

#include <string.h>

enum { OUT_OF_RANGE = INT32_MIN }; /* a right answer that is no choice: always wrong */

static struct ka_eval_text text_of(const json_t *v) {
  return (struct ka_eval_text){json_string_value(v), json_string_length(v)};
}

static ka_status keep(struct ka_task *t, const struct ka_str *s, struct ka_eval_text *out) {
  out->n = s->len;
  return ka_arena_str(&t->arena, &out->p, s->data ? s->data : "", s->len);
}

static ka_status add_request(struct ka_task *t, struct ka_eval_item *item,
                             struct ka_eval_text context, struct ka_eval_text continuation) {
  struct ka_ctx *ctx = t->ctx;
  void *list = t->requests;
  KA_TRY(ka_grow(ctx, &list, &t->cap_requests, t->n_requests + 1, sizeof *t->requests, "requests"));
  t->requests = list;
  t->requests[t->n_requests++] =
      (struct ka_eval_request){.context = context, .continuation = continuation};
  item->n_requests++;
  return KA_STATUS_OK;
}

/* delimiter + text of any value. */
static ka_status delimited(struct ka_task *t, const json_t *v, struct ka_eval_text *out) {
  struct ka_ctx *ctx = t->ctx;
  struct ka_str s = {0};
  ka_status st = ka_str_puts(ctx, &s, ka_eval_choice_delimiter(t));
  if (ka_ok(st)) st = ka_py_call(ctx, t->py, KA_PY_STR, v, &s);
  if (ka_ok(st)) st = keep(t, &s, out);
  ka_str_deinit(&s);
  return st;
}

/* --- right choices ----------------------------------------------------------- */

/* A number counts from the end when negative, as Python's do; a text is looked up. */
static ka_status gold_of(struct ka_task *t, const struct ka_eval_item *item, const json_t *v,
                         bool in_list, int64_t *out) {
  int64_t n = (int64_t)json_array_size(item->choices);
  *out = OUT_OF_RANGE;
  if (json_is_integer(v) || json_is_boolean(v)) {
    int64_t i = json_is_integer(v) ? json_integer_value(v) : json_is_true(v);
    if (i < n && i >= -n) *out = i;
  } else if (json_is_string(v) && !in_list) {
    for (int64_t i = n - 1; i >= 0; i--)
      if (json_equal(v, json_array_get(item->choices, (size_t)i))) *out = i;
  } else {
    return ka_fail(t->ctx, KA_E_INPUT,
                   "doc_to_target: expected the number of a choice, a choice or a list of numbers");
  }
  return KA_STATUS_OK;
}

static ka_status find_gold(struct ka_task *t, struct ka_eval_item *item, const json_t *right) {
  struct ka_ctx *ctx = t->ctx;
  bool list = json_is_array(right);
  void *gold;
  item->n_gold = list ? (int64_t)json_array_size(right) : 1;
  KA_TRY(ka_arena_alloc_n(&t->arena, &gold, item->n_gold, sizeof(int64_t), "documents"));
  item->gold = gold;
  bool wrong = item->n_gold == 0;
  for (int64_t i = 0; i < item->n_gold; i++) {
    KA_TRY(gold_of(t, item, list ? json_array_get(right, (size_t)i) : right, list, &item->gold[i]));
    wrong = wrong || item->gold[i] == OUT_OF_RANGE;
  }
  if (!wrong) return KA_STATUS_OK;
  if (t->native || item->n_gold == 0)
    return ka_fail(ctx, KA_E_INPUT, "doc_to_target: the right answer is not among the choices");
  t->n_without_gold++;
  return KA_STATUS_OK;
}

/* --- by output type ---------------------------------------------------------- */

struct prompt { /* of the document at work */
  struct ka_eval_messages messages;
  struct ka_str context;
  json_t *text;
};

static ka_status make_context(struct ka_task *t, const struct ka_eval_item *item, struct prompt *p,
                              struct ka_eval_text question, bool delimiter,
                              struct ka_eval_text *out) {
  struct ka_ctx *ctx = t->ctx;
  ka_str_clear(&p->context);
  KA_TRY(ka_eval_prompt_question(t, item->doc, question, delimiter, &p->messages, &p->context));
  return keep(t, &p->context, out);
}

/* The choices are contexts, what follows is the same for all: Trinh and Le 2018. */
static ka_status contexts(struct ka_task *t, struct ka_eval_item *item, struct prompt *p) {
  struct ka_ctx *ctx = t->ctx;
  struct ka_eval_text continuation, context;
  KA_TRY(delimited(t, item->target, &continuation));
  for (size_t i = 0; i < json_array_size(item->choices); i++) {
    struct ka_eval_text choice = text_of(json_array_get(item->choices, i));
    KA_TRY(make_context(t, item, p, choice, false, &context));
    KA_TRY(add_request(t, item, context, continuation));
  }
  return find_gold(t, item, p->text);
}

static ka_status continuations(struct ka_task *t, struct ka_eval_item *item, struct prompt *p) {
  struct ka_ctx *ctx = t->ctx;
  struct ka_eval_text continuation, context;
  if (!json_is_string(p->text))
    return ka_fail(ctx, KA_E_INPUT,
                   "doc_to_text: got a number; the first document's is a text, so choices are no "
                   "contexts");
  KA_TRY(make_context(t, item, p, text_of(p->text), true, &context));
  for (size_t i = 0; i < json_array_size(item->choices); i++) {
    KA_TRY(delimited(t, json_array_get(item->choices, i), &continuation));
    KA_TRY(add_request(t, item, context, continuation));
  }
  return find_gold(t, item, item->target);
}

static bool uses(const struct ka_task *t, const char *metric) {
  for (int64_t i = 0; i < t->n_metrics; i++)
    if (strcmp(t->metrics[i].metric->name, metric) == 0) return true;
  return false;
}

static ka_status make_choice(struct ka_task *t, struct ka_eval_item *item, struct prompt *p) {
  struct ka_ctx *ctx = t->ctx;
  if (t->choices_are_contexts)
    KA_TRY(contexts(t, item, p));
  else
    KA_TRY(continuations(t, item, p));
  if (!uses(t, "acc_mutual_info")) return KA_STATUS_OK;
  for (size_t i = 0; i < json_array_size(item->choices); i++) {
    struct ka_eval_text alone;
    KA_TRY(delimited(t, json_array_get(item->choices, i), &alone));
    KA_TRY(add_request(t, item, (struct ka_eval_text){"", 0}, alone));
  }
  return KA_STATUS_OK;
}

static ka_status text_target(struct ka_task *t, const struct ka_eval_item *item,
                             struct ka_eval_text *out) {
  if (!json_is_string(item->target))
    return ka_fail(t->ctx, KA_E_INPUT, "doc_to_target: expected a text with %s",
                   t->config.output_type);
  struct ka_str s = {.data = (char *)(uintptr_t)json_string_value(item->target),
                     .len = json_string_length(item->target)};
  return keep(t, &s, out);
}

static ka_status make_loglikelihood(struct ka_task *t, struct ka_eval_item *item,
                                    struct prompt *p) {
  struct ka_ctx *ctx = t->ctx;
  struct ka_eval_text context, continuation;
  if (!json_is_string(p->text)) return ka_fail(ctx, KA_E_INPUT, "doc_to_text: expected a text");
  KA_TRY(make_context(t, item, p, text_of(p->text), true, &context));
  KA_TRY(text_target(t, item, &continuation));
  return add_request(t, item, context, continuation);
}

static ka_status make_rolling(struct ka_task *t, struct ka_eval_item *item, struct prompt *p) {
  struct ka_ctx *ctx = t->ctx;
  struct ka_eval_text text, counted;
  (void)p;
  KA_TRY(text_target(t, item, &text));
  KA_TRY(add_request(t, item, (struct ka_eval_text){"", 0}, text));
  counted = text;
  json_t *v = NULL;
  if (ka_eval_field_given(&t->count_text)) {
    KA_TRY(ka_eval_field_value(ctx, &t->count_text, item->doc, &v));
    counted = text_of(v);
  }
  if (counted.p) {
    item->n_words = ka_eval_count_words(counted.p, counted.n);
    item->n_bytes = (int64_t)counted.n;
  }
  json_decref(v);
  return counted.p ? KA_STATUS_OK : ka_fail(ctx, KA_E_INPUT, "count_text: expected a text");
}

/* The document's sound file, from the task file's directory. */
static ka_status find_sound(struct ka_task *t, const struct ka_eval_item *item, const char **path) {
  struct ka_ctx *ctx = t->ctx;
  json_t *v = NULL;
  const char *dir;
  *path = NULL;
  if (!ka_eval_field_given(&t->audio)) return KA_STATUS_OK;
  KA_TRY(ka_eval_field_value(ctx, &t->audio, item->doc, &v));
  ka_status st = KA_STATUS_OK;
  if (!json_is_string(v)) st = ka_fail(ctx, KA_E_INPUT, "doc_to_audio: expected a text");
  if (ka_ok(st)) st = ka_path_dir(&t->arena, &dir, t->config.file.path);
  if (ka_ok(st)) st = ka_path_join(&t->arena, path, dir, json_string_value(v));
  if (ka_ok(st)) st = ka_arena_str(&t->arena, path, *path, strlen(*path));
  json_decref(v);
  return st;
}

static ka_status make_generation(struct ka_task *t, struct ka_eval_item *item, struct prompt *p) {
  struct ka_ctx *ctx = t->ctx;
  struct ka_eval_text context;
  if (!json_is_string(p->text)) return ka_fail(ctx, KA_E_INPUT, "doc_to_text: expected a text");
  KA_TRY(make_context(t, item, p, text_of(p->text), true, &context));
  KA_TRY(add_request(t, item, context, (struct ka_eval_text){"", 0}));
  return find_sound(t, item, &t->requests[t->n_requests - 1].clip.path);
}

static ka_status (*const makers[KA_N_OUTPUTS])(struct ka_task *, struct ka_eval_item *,
                                               struct prompt *) = {
    [KA_OUT_GENERATE] = make_generation,
    [KA_OUT_LOGLIKELIHOOD] = make_loglikelihood,
    [KA_OUT_ROLLING] = make_rolling,
    [KA_OUT_CHOICE] = make_choice,
};

/* --- all documents ----------------------------------------------------------- */

static ka_status make_item(struct ka_task *t, struct ka_eval_item *item, struct prompt *p) {
  struct ka_ctx *ctx = t->ctx;
  const struct ka_eval_writer *w = &t->question;
  json_decref(p->text);
  p->text = NULL;
  item->first = t->n_requests;
  KA_TRY(ka_eval_prompt_shots(t, item->doc, &p->messages));
  KA_TRY(ka_eval_doc_text(t, &w->text, item->doc, &p->text));
  KA_TRY(ka_eval_doc_target(t, &w->target, item->doc, &item->target));
  if (t->has_choices) KA_TRY(ka_eval_doc_choices(t, &w->choice, item->doc, &item->choices));
  return makers[t->output](t, item, p);
}

/* The first document decides what kind of task it is. */
static ka_status check_first(struct ka_task *t) {
  struct ka_ctx *ctx = t->ctx;
  const json_t *doc = json_array_get(t->docs, 0);
  json_t *text = NULL;
  struct ka_eval_field *const fields[] = {&t->question.text, &t->question.target,
                                          &t->question.choice};
  static const char *const names[] = {"doc_to_text", "doc_to_target", "doc_to_choice"};
  ka_status st = ka_eval_doc_text(t, &t->question.text, doc, &text);
  t->choices_are_contexts = json_is_integer(text) && t->has_choices;
  json_decref(text);
  for (int i = 0; i < 3; i++) {
    const char *word = fields[i]->text;
    if (word && *word && !strpbrk(word, " {}\n") && !ka_eval_field_is_column(fields[i], doc))
      ka_warn(ctx, "eval", "%s: %s: %s is no column of the documents; it is taken as text",
              ka_task_place(t, names[i]), names[i], word);
  }
  return ka_task_fail_doc(t, st, 0);
}

ka_status ka_task_make_requests(struct ka_task *t, int64_t n) {
  struct ka_ctx *ctx = t->ctx;
  struct prompt p = {0};
  void *items;
  ka_status st = KA_STATUS_OK;
  KA_TRY(check_first(t));
  ka_arena_init(&p.messages.arena, ctx, "prompt");
  KA_TRY(ka_arena_alloc_n(&t->arena, &items, n, sizeof *t->items, "documents"));
  t->items = items;
  for (int64_t i = 0; i < n && ka_ok(st); i++) {
    struct ka_eval_item *item = &t->items[t->n_items++];
    KA_TRY_GOTO(ka_check_interrupted(ctx, "evaluation"), out);
    item->doc = json_array_get(t->docs, (size_t)i);
    st = ka_task_fail_doc(t, make_item(t, item, &p), i);
  }
out:
  ka_eval_messages_deinit(&p.messages);
  ka_str_deinit(&p.context);
  json_decref(p.text);
  if (ka_ok(st) && t->n_without_gold > 0)
    ka_warn(ctx, "eval",
            "%s: %lld of %lld documents have a right answer that is no choice; they "
            "count as wrong",
            t->name, (long long)t->n_without_gold, (long long)n);
  return st;
}
