/* SPDX-License-Identifier: Apache-2.0
 * What a document's fields mean, and the messages in front of an answer:
 *
 *   system: instruction, description   (user: question   assistant: gen_prefix, answer)*
 *   user: question   assistant: gen_prefix
 *
 * As plain text each is followed by its delimiter; with a chat template they are turns of a
 * conversation, or all of the user's one. Blanks are put in only where there are none. */
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

static bool touches_space(struct ka_eval_text a, struct ka_eval_text b) {
  return ka_py_ends_with_space(a.p, a.n) || ka_py_starts_with_space(b.p, b.n);
}

/* a delimiter b, the delimiter only where neither is empty nor has white space at the border. */
static ka_status joined(struct ka_eval_messages *p, struct ka_eval_text a, const char *delimiter,
                        struct ka_eval_text b, struct ka_eval_text *out) {
  struct ka_ctx *ctx = p->arena.ctx;
  size_t n = a.n > 0 && b.n > 0 && !touches_space(a, b) ? strlen(delimiter) : 0;
  void *text;
  KA_TRY(ka_arena_alloc_n(&p->arena, &text, (int64_t)(a.n + n + b.n + 1), 1, "prompt"));
  if (a.n > 0) memcpy(text, a.p, a.n);
  if (n > 0) memcpy((char *)text + a.n, delimiter, n);
  if (b.n > 0) memcpy((char *)text + a.n + n, b.p, b.n);
  *out = (struct ka_eval_text){text, a.n + n + b.n};
  return KA_STATUS_OK;
}

static ka_status add_message(struct ka_eval_messages *p, const char *role,
                             struct ka_eval_text content, const char *delimiter) {
  struct ka_ctx *ctx = p->arena.ctx;
  void *items = p->items;
  struct ka_eval_text copy = {0};
  KA_TRY(ka_grow(ctx, &items, &p->cap, p->n + 1, sizeof *p->items, "prompt"));
  p->items = items;
  KA_TRY(joined(p, content, "", (struct ka_eval_text){0}, &copy));
  p->items[p->n++] = (struct ka_eval_message){role, copy, delimiter};
  return KA_STATUS_OK;
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

/* answer.p NULL: there is none (yet). */
static ka_status add_turn(struct ka_eval_messages *p, const struct ka_eval_writer *w,
                          struct ka_eval_text question, struct ka_eval_text prefix,
                          struct ka_eval_text answer) {
  struct ka_ctx *ctx = p->arena.ctx;
  bool delimited =
      prefix.n > 0 ? question.n > 0 && !touches_space(question, prefix) : answer.p != NULL;
  KA_TRY(add_message(p, "user", question, delimited ? w->target_delimiter : ""));
  if (!answer.p) return prefix.n > 0 ? add_message(p, "assistant", prefix, "") : KA_STATUS_OK;
  KA_TRY(joined(p, prefix, " ", answer, &answer));
  return add_message(p, "assistant", answer, w->fewshot_delimiter);
}

struct shot { /* values of one example */
  json_t *text, *target, *choices, *prefix;
};

static ka_status write_shot(const struct ka_task *t, const json_t *doc, struct shot *s,
                            struct ka_eval_messages *p) {
  struct ka_ctx *ctx = t->ctx;
  const struct ka_eval_writer *w = &t->shot;
  struct ka_eval_text answer = {0};
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
  return add_turn(p, w, text_of(text), s->prefix ? text_of(s->prefix) : (struct ka_eval_text){0},
                  answer);
}

static ka_status add_shot(const struct ka_task *t, int64_t index, struct ka_eval_messages *p) {
  struct ka_ctx *ctx = t->ctx;
  struct shot s = {0};
  ka_status st = write_shot(t, json_array_get(t->pool, (size_t)index), &s, p);
  json_decref(s.text);
  json_decref(s.target);
  json_decref(s.choices);
  json_decref(s.prefix);
  if (st.code != KA_E_INPUT) return st;
  char why[1024];
  snprintf(why, sizeof why, "%.1000s", ctx->error.message);
  ka_error_clear(ctx);
  return ka_fail(ctx, KA_E_INPUT, "few-shot example %lld: %s", (long long)index, why);
}

static ka_status add_system(const struct ka_task *t, const json_t *doc,
                            struct ka_eval_messages *p) {
  struct ka_ctx *ctx = t->ctx;
  json_t *v = NULL;
  struct ka_eval_text text = {0}, instruction = {0};
  ka_status st = KA_STATUS_OK;
  if (t->chat.system_instruction)
    instruction =
        (struct ka_eval_text){t->chat.system_instruction, strlen(t->chat.system_instruction)};
  if (ka_eval_field_given(&t->description) && *t->description.text) {
    KA_TRY(ka_eval_field_value(ctx, &t->description, doc, &v));
    if (!json_is_string(v)) st = ka_fail(ctx, KA_E_INPUT, "description: expected a text");
    if (ka_ok(st)) text = text_of(v);
  }
  if (ka_ok(st)) st = joined(p, instruction, t->config.fewshot_delimiter, text, &text);
  json_decref(v);
  return ka_ok(st) && text.n > 0 ? add_message(p, "system", text, "") : st;
}

ka_status ka_eval_prompt_shots(struct ka_task *t, const json_t *doc, struct ka_eval_messages *p) {
  struct ka_ctx *ctx = t->ctx;
  p->n = 0;
  ka_arena_reset(&p->arena);
  KA_TRY(add_system(t, doc, p));
  if (t->num_fewshot > 0) {
    void *drawn;
    KA_TRY(ka_alloc_n(ctx, &drawn, t->num_fewshot, sizeof(int64_t), "examples"));
    ka_status st = ka_eval_shots_draw(t, doc, drawn);
    for (int64_t i = 0; i < t->num_fewshot && ka_ok(st); i++)
      st = add_shot(t, ((int64_t *)drawn)[i], p);
    ka_free(drawn);
    KA_TRY(st);
  }
  p->n_shots = p->n;
  return KA_STATUS_OK;
}

/* --- rendering --------------------------------------------------------------- */

static ka_status as_text(struct ka_ctx *ctx, const struct ka_eval_message *m, int64_t n,
                         struct ka_str *out) {
  for (int64_t i = 0; i < n; i++) {
    KA_TRY(ka_str_append(ctx, out, m[i].content.p, m[i].content.n));
    KA_TRY(ka_str_puts(ctx, out, m[i].delimiter));
  }
  return KA_STATUS_OK;
}

static ka_status add_to_chat(struct ka_ctx *ctx, json_t *list, const char *role, const char *p,
                             size_t n) {
  json_t *m = json_pack("{s:s, s:s%}", "role", role, "content", p, n);
  return ka_json_append(ctx, list, m);
}

/* What stands between system and the answer's beginning as one message of the user's. */
static ka_status one_message(struct ka_ctx *ctx, struct ka_eval_message *m, int64_t n,
                             json_t *list) {
  struct ka_str text = {0};
  m[n - 1].delimiter = "";
  ka_status st = as_text(ctx, m, n, &text);
  if (ka_ok(st)) st = add_to_chat(ctx, list, "user", text.data ? text.data : "", text.len);
  ka_str_deinit(&text);
  return st;
}

/* The prompt as a conversation. */
static ka_status conversation(const struct ka_task *t, struct ka_eval_messages *p, json_t *list) {
  struct ka_ctx *ctx = t->ctx;
  int64_t first = strcmp(p->items[0].role, "system") == 0 && !t->chat.as_turns;
  int64_t last = p->n - (strcmp(p->items[p->n - 1].role, "assistant") == 0 && !t->chat.as_turns);
  for (int64_t i = 0; i < p->n; i++) {
    const struct ka_eval_message *m = &p->items[i];
    if (i == first && !t->chat.as_turns)
      KA_TRY(one_message(ctx, p->items + first, last - first, list));
    if (t->chat.as_turns || i < first || i >= last)
      KA_TRY(add_to_chat(ctx, list, m->role, m->content.p, m->content.n));
  }
  return KA_STATUS_OK;
}

/* transformers marks the end of an answer that goes on, and cuts behind it. */
static const char go_on[] = "CONTINUE_FINAL_MESSAGE_TAG ";

static ka_status mark_end(struct ka_ctx *ctx, json_t *list) {
  json_t *last = json_array_get(list, json_array_size(list) - 1);
  const char *content = json_string_value(json_object_get(last, "content"));
  json_t *marked = json_sprintf("%s%s", content, go_on);
  if (json_object_set_new(last, "content", marked) == 0) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_MEMORY, "prompt: out of memory");
}

static ka_status cut_behind_mark(struct ka_ctx *ctx, struct ka_str *text, size_t from) {
  size_t n = sizeof go_on - 2; /* without the blank */
  for (size_t at = text->len; at-- > from;) {
    if (text->len - at < n || memcmp(text->data + at, go_on, n) != 0) continue;
    bool kept = text->len - at > n && text->data[at + n] == ' ';
    text->len = kept ? at : from + ka_py_rstrip(text->data + from, at - from);
    text->data[text->len] = 0;
    return KA_STATUS_OK;
  }
  return ka_fail(ctx, KA_E_INPUT,
                 "gen_prefix: the chat template does not write the answer's beginning");
}

static void drop_system(json_t *list) {
  for (size_t i = json_array_size(list); i-- > 0;)
    if (strcmp(json_string_value(json_object_get(json_array_get(list, i), "role")), "system") == 0)
      json_array_remove(list, i);
}

/* A template that refuses is tried without the system message, as the harness does. */
static ka_status render_chat(const struct ka_task *t, json_t *list, bool goes_on,
                             struct ka_str *out) {
  struct ka_ctx *ctx = t->ctx;
  const char *role = json_string_value(json_object_get(json_array_get(list, 0), "role"));
  bool has_system = strcmp(role, "system") == 0;
  size_t from = out->len;
  if (goes_on) KA_TRY(mark_end(ctx, list));
  json_t *vars = json_pack("{s:O, s:b}", "messages", list, "add_generation_prompt", !goes_on);
  if (!vars) return ka_fail(ctx, KA_E_MEMORY, "prompt: out of memory");
  ka_status st = ka_chat_render(ctx, t->chat.template, vars, NULL, out, NULL);
  if (st.code == KA_E_INPUT && has_system) {
    ka_error_clear(ctx);
    if (out->data) out->data[out->len = from] = 0;
    drop_system(list);
    st = ka_chat_render(ctx, t->chat.template, vars, NULL, out, NULL);
  }
  json_decref(vars);
  return ka_ok(st) && goes_on ? cut_behind_mark(ctx, out, from) : st;
}

ka_status ka_eval_prompt_question(const struct ka_task *t, const json_t *doc,
                                  struct ka_eval_text question, bool delimiter,
                                  struct ka_eval_messages *p, struct ka_str *out) {
  struct ka_ctx *ctx = t->ctx;
  struct ka_eval_writer w = t->question;
  json_t *prefix = NULL, *list = NULL;
  p->n = p->n_shots;
  if (!delimiter) w.target_delimiter = "";
  ka_status st = gen_prefix(t, &w, doc, &prefix);
  struct ka_eval_text text = prefix && ka_ok(st) ? text_of(prefix) : (struct ka_eval_text){0};
  if (ka_ok(st)) st = add_turn(p, &w, question, text, (struct ka_eval_text){0});
  if (ka_ok(st) && !t->chat.template) {
    st = as_text(ctx, p->items, p->n, out);
  } else if (ka_ok(st)) {
    list = json_array();
    st = list ? conversation(t, p, list) : ka_fail(ctx, KA_E_MEMORY, "prompt: out of memory");
    if (ka_ok(st)) st = render_chat(t, list, text.n > 0, out);
  }
  json_decref(list);
  json_decref(prefix);
  return st;
}

const char *ka_eval_choice_delimiter(const struct ka_task *t) {
  const char *prefix = t->config.gen_prefix;
  if (!t->chat.template) return t->question.target_delimiter;
  bool ends = !prefix || !*prefix || ka_py_ends_with_space(prefix, strlen(prefix));
  return ends ? "" : t->question.target_delimiter;
}

void ka_eval_messages_deinit(struct ka_eval_messages *p) {
  ka_free(p->items);
  ka_arena_deinit(&p->arena);
}
