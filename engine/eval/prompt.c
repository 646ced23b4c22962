/* SPDX-License-Identifier: Apache-2.0
 * What a document's fields mean, and the text in front of a question:
 *
 *   description (question delimiter answer fewshot_delimiter)* question
 *
 * A gen_prefix stands between question and answer; blanks are put in only where there are none. */
#include "engine/eval/task.h"

#include <string.h>

static bool all_digits(const char *p, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (p[i] < '0' || p[i] > '9') return false;
  return n > 0;
}

/* What a template printed, when it is digits and there are choices: their number. */
static ka_status as_number(const struct ka_task *t, json_t **v) {
  json_t *number = NULL;
  const char *p = json_string_value(*v);
  size_t n = json_string_length(*v);
  if (!t->has_choices || !all_digits(p, n)) return KA_STATUS_OK;
  if (!ka_py_literal(p, n, &number))
    return ka_fail(t->ctx, KA_E_INPUT, "got the number %.40s, which Python does not write so", p);
  json_decref(*v);
  *v = number;
  return KA_STATUS_OK;
}

ka_status ka_eval_doc_text(const struct ka_task *t, const struct ka_eval_field *f,
                           const json_t *doc, json_t **out) {
  struct ka_ctx *ctx = t->ctx;
  KA_TRY(ka_eval_field_value(ctx, f, doc, out));
  if (f->text && !ka_eval_field_is_column(f, doc)) KA_TRY(as_number(t, out));
  if (json_is_string(*out) || json_is_integer(*out)) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_INPUT, "doc_to_text: expected a text; the column %s has none here",
                 f->text ? f->text : "");
}

ka_status ka_eval_doc_target(const struct ka_task *t, const struct ka_eval_field *f,
                             const json_t *doc, json_t **out) {
  struct ka_ctx *ctx = t->ctx;
  KA_TRY(ka_eval_field_value(ctx, f, doc, out));
  if (!f->text || ka_eval_field_is_column(f, doc)) return KA_STATUS_OK;
  KA_TRY(as_number(t, out));
  const char *p = json_string_value(*out);
  size_t n = json_string_length(*out);
  json_t *list = NULL;
  if (!p || n < 2 || p[0] != '[' || p[n - 1] != ']' || !ka_py_literal(p, n, &list))
    return KA_STATUS_OK;
  json_decref(*out);
  *out = list;
  return KA_STATUS_OK;
}

ka_status ka_eval_doc_choices(const struct ka_task *t, const struct ka_eval_field *f,
                              const json_t *doc, json_t **out) {
  struct ka_ctx *ctx = t->ctx;
  KA_TRY(ka_eval_field_value(ctx, f, doc, out));
  if (f->text && !ka_eval_field_is_column(f, doc)) {
    json_t *list = NULL;
    const char *p = json_string_value(*out);
    if (!ka_py_literal(p, json_string_length(*out), &list))
      return ka_fail(ctx, KA_E_INPUT, "doc_to_choice: the template prints no list but %.120s", p);
    json_decref(*out);
    *out = list;
  }
  bool good = json_is_array(*out) && json_array_size(*out) > 0;
  for (size_t i = 0; good && i < json_array_size(*out); i++)
    good = json_is_string(json_array_get(*out, i));
  if (good) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_INPUT,
                 "doc_to_choice: expected a list of texts (words like yes and "
                 "numbers need quotes in YAML)");
}

/* --- writing ----------------------------------------------------------------- */

static struct ka_eval_text text_of(const json_t *v) {
  return (struct ka_eval_text){json_string_value(v), json_string_length(v)};
}

static ka_status put(struct ka_ctx *ctx, struct ka_str *out, struct ka_eval_text text) {
  return ka_str_append(ctx, out, text.p, text.n);
}

static bool touches_space(struct ka_eval_text a, struct ka_eval_text b) {
  return ka_py_ends_with_space(a.p, a.n) || ka_py_starts_with_space(b.p, b.n);
}

/* The gen_prefix of a document, a new reference or NULL. */
static ka_status gen_prefix(const struct ka_task *t, const struct ka_eval_writer *w,
                            const json_t *doc, json_t **out) {
  *out = NULL;
  if (!ka_eval_field_given(&w->gen_prefix)) return KA_STATUS_OK;
  ka_status st = ka_eval_field_value(t->ctx, &w->gen_prefix, doc, out);
  if (ka_ok(st) && !json_is_string(*out))
    st = ka_fail(t->ctx, KA_E_INPUT, "gen_prefix: expected a text");
  return st;
}

/* What an example answers: choices[target], the first of a list, or the target's text. None or an
 * empty text is no answer (p NULL). */
static ka_status answer_of(const struct ka_task *t, const json_t *target, const json_t *choices,
                           struct ka_eval_text *out) {
  const json_t *v = target;
  *out = (struct ka_eval_text){0};
  if (json_is_null(target) || (json_is_string(target) && json_string_length(target) == 0))
    return KA_STATUS_OK;
  if (choices && (json_is_integer(target) || json_is_boolean(target))) {
    int64_t i = json_is_integer(target) ? json_integer_value(target) : json_is_true(target);
    int64_t n = (int64_t)json_array_size(choices);
    v = json_array_get(choices, (size_t)(i < 0 ? i + n : i));
  } else if (json_is_array(target)) {
    v = json_array_get(target, 0);
  }
  if (!json_is_string(v))
    return ka_fail(t->ctx, KA_E_INPUT,
                   "doc_to_target: the answer of a few-shot example is no text; a number needs "
                   "doc_to_choice or a template around it");
  *out = text_of(v);
  return KA_STATUS_OK;
}

static ka_status put_answer(struct ka_ctx *ctx, const struct ka_eval_writer *w,
                            struct ka_eval_text prefix, struct ka_eval_text answer,
                            struct ka_str *out) {
  if (prefix.n > 0) {
    KA_TRY(put(ctx, out, prefix));
    if (answer.n > 0 && !touches_space(prefix, answer)) KA_TRY(ka_str_puts(ctx, out, " "));
  }
  KA_TRY(put(ctx, out, answer));
  return ka_str_puts(ctx, out, w->fewshot_delimiter);
}

static ka_status put_question(struct ka_ctx *ctx, const struct ka_eval_writer *w,
                              struct ka_eval_text question, struct ka_eval_text prefix,
                              bool answered, struct ka_str *out) {
  bool delimiter = prefix.n > 0 ? question.n > 0 && !touches_space(question, prefix) : answered;
  KA_TRY(put(ctx, out, question));
  return delimiter ? ka_str_puts(ctx, out, w->target_delimiter) : KA_STATUS_OK;
}

struct shot { /* values of one example */
  json_t *text, *target, *choices, *prefix;
};

static ka_status write_shot(const struct ka_task *t, const json_t *doc, struct shot *s,
                            struct ka_str *out) {
  struct ka_ctx *ctx = t->ctx;
  const struct ka_eval_writer *w = &t->shot;
  struct ka_eval_text answer = {0}, question;
  KA_TRY(ka_eval_doc_text(t, &w->text, doc, &s->text));
  if (ka_eval_field_given(&w->choice)) KA_TRY(ka_eval_doc_choices(t, &w->choice, doc, &s->choices));
  KA_TRY(ka_eval_doc_target(t, &w->target, doc, &s->target));
  KA_TRY(gen_prefix(t, w, doc, &s->prefix));
  const json_t *text = s->text, *choices = s->choices;
  if (t->choices_are_contexts && json_is_integer(text)) {
    text = json_array_get(choices, (size_t)json_integer_value(text));
    choices = NULL;
  }
  if (!json_is_string(text))
    return ka_fail(ctx, KA_E_INPUT, "doc_to_text: expected a text for a few-shot example");
  KA_TRY(answer_of(t, s->target, choices, &answer));
  question = text_of(text);
  struct ka_eval_text prefix = s->prefix ? text_of(s->prefix) : (struct ka_eval_text){0};
  KA_TRY(put_question(ctx, w, question, prefix, answer.p != NULL, out));
  if (answer.p) return put_answer(ctx, w, prefix, answer, out);
  return prefix.n > 0 ? put(ctx, out, prefix) : KA_STATUS_OK;
}

static ka_status put_shot(const struct ka_task *t, int64_t index, struct ka_str *out) {
  struct ka_ctx *ctx = t->ctx;
  struct shot s = {0};
  ka_status st = write_shot(t, json_array_get(t->pool, (size_t)index), &s, out);
  json_decref(s.text);
  json_decref(s.target);
  json_decref(s.choices);
  json_decref(s.prefix);
  if (st.code != KA_E_INPUT) return st;
  char why[KA_ERROR_MAX / 2];
  snprintf(why, sizeof why, "%.1000s", ctx->error.message);
  ka_error_clear(ctx);
  return ka_fail(ctx, KA_E_INPUT, "few-shot example %lld: %s", (long long)index, why);
}

ka_status ka_eval_prompt_shots(struct ka_task *t, const json_t *doc, struct ka_str *out) {
  struct ka_ctx *ctx = t->ctx;
  if (ka_eval_field_given(&t->description) && *t->description.text) {
    json_t *v = NULL;
    KA_TRY(ka_eval_field_value(ctx, &t->description, doc, &v));
    ka_status st = json_is_string(v) ? put(ctx, out, text_of(v))
                                     : ka_fail(ctx, KA_E_INPUT, "description: expected a text");
    json_decref(v);
    KA_TRY(st);
  }
  if (t->num_fewshot == 0) return KA_STATUS_OK;
  void *drawn;
  KA_TRY(ka_alloc_n(ctx, &drawn, t->num_fewshot, sizeof(int64_t), "examples"));
  ka_status st = ka_eval_shots_draw(t, doc, drawn);
  for (int64_t i = 0; i < t->num_fewshot && ka_ok(st); i++)
    st = put_shot(t, ((int64_t *)drawn)[i], out);
  ka_free(drawn);
  return st;
}

ka_status ka_eval_prompt_question(const struct ka_task *t, const json_t *doc,
                                  struct ka_eval_text question, bool delimiter,
                                  struct ka_str *out) {
  struct ka_ctx *ctx = t->ctx;
  struct ka_eval_writer w = t->question;
  json_t *prefix = NULL;
  if (!delimiter) w.target_delimiter = "";
  ka_status st = gen_prefix(t, &w, doc, &prefix);
  struct ka_eval_text text = prefix && ka_ok(st) ? text_of(prefix) : (struct ka_eval_text){0};
  if (ka_ok(st)) st = put_question(ctx, &w, question, text, false, out);
  if (ka_ok(st) && text.n > 0) st = put(ctx, out, text);
  json_decref(prefix);
  return st;
}
