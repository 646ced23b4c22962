/* SPDX-License-Identifier: Apache-2.0
 * Labelling the tokens of a rendered conversation; see chat_mask.h. */
#include "engine/data/chat_mask.h"

#include "base/arena.h"
#include "engine/data/chat_fit.h"
#include "engine/data/chat_turns.h"

#include <stdio.h>
#include <string.h>

struct mask {
  struct ka_chat_turns t;
  const struct ka_chat_mask_options *opts;
  struct ka_chat_masked *out;
};

/* --- the conversation ------------------------------------------------------------------------ */

static ka_status no_memory(struct ka_ctx *ctx) { return ka_fail(ctx, KA_E_MEMORY, "conversation"); }

static bool has_role(const struct ka_chat_mask_options *o, const char *role) {
  if (o->train_on_inputs) return true;
  if (!o->roles_to_train) return strcmp(role, "assistant") == 0;
  for (int64_t i = 0; i < o->n_roles; i++)
    if (strcmp(o->roles_to_train[i], role) == 0) return true;
  return false;
}

/* Joins a content of text parts of which some say whether they are trained. */
static ka_status join_parts(struct mask *m, json_t *message, int64_t index) {
  struct ka_ctx *ctx = m->t.ctx;
  struct ka_chat_turn *turn = &m->t.turns[index];
  json_t *content = json_object_get(message, "content"), *one;
  bool any = false;
  size_t i;
  json_array_foreach(content, i, one) any |= json_object_get(one, m->t.field) != NULL;
  if (!any) return KA_STATUS_OK;
  struct ka_str joined = {0};
  ka_status st = KA_STATUS_OK;
  json_array_foreach(content, i, one) {
    const json_t *text = json_object_get(one, "text"), *flag = json_object_get(one, m->t.field);
    if (!json_is_string(text) || (flag && !json_is_boolean(flag))) {
      st = ka_fail(ctx, KA_E_INPUT,
                   "messages[%lld].content[%zu]: expected a text and \"%s\" true or false",
                   (long long)index, i, m->t.field);
      goto out;
    }
    void *parts = turn->parts;
    KA_TRY_GOTO(ka_grow(ctx, &parts, &turn->parts_cap, turn->n_parts + 1, sizeof *turn->parts,
                        "content parts"),
                out);
    turn->parts = parts;
    size_t begin = joined.len;
    KA_TRY_GOTO(ka_str_append(ctx, &joined, json_string_value(text), json_string_length(text)),
                out);
    turn->parts[turn->n_parts++] =
        (struct ka_chat_part){begin, joined.len, flag ? json_is_true(flag) : turn->train};
  }
  if (json_object_set_new(message, "content", json_stringn(joined.data, joined.len)) != 0)
    st = no_memory(ctx);
  for (int64_t k = 0; k < turn->n_parts; k++) turn->train |= turn->parts[k].train;
out:
  ka_str_deinit(&joined);
  return st;
}

static ka_status prepare(struct mask *m, const json_t *vars) {
  struct ka_ctx *ctx = m->t.ctx;
  json_t *message;
  size_t i;
  void *turns;
  m->t.vars = json_deep_copy(vars);
  if (!m->t.vars) return no_memory(ctx);
  m->t.messages = json_object_get(m->t.vars, "messages");
  m->t.n = (int64_t)json_array_size(m->t.messages);
  KA_TRY(ka_alloc_n(ctx, &turns, m->t.n, sizeof *m->t.turns, "turns"));
  m->t.turns = turns;
  json_array_foreach(m->t.messages, i, message) {
    struct ka_chat_turn *turn = &m->t.turns[i];
    const char *role = json_string_value(json_object_get(message, "role"));
    const json_t *flag = json_object_get(message, m->t.field);
    if (!role) return ka_fail(ctx, KA_E_INPUT, "messages[%zu]: \"role\" is not a text", i);
    if (flag && !json_is_boolean(flag) && !json_is_null(flag))
      return ka_fail(ctx, KA_E_INPUT, "messages[%zu]: \"%s\": expected true or false", i,
                     m->t.field);
    turn->assistant = strcmp(role, "assistant") == 0;
    turn->flagged = json_is_boolean(flag);
    turn->train = turn->flagged ? json_is_true(flag) : has_role(m->opts, role);
    turn->end_token = turn->text_end = -1;
    json_object_del(message, m->t.field);
    KA_TRY(join_parts(m, message, (int64_t)i));
  }
  return KA_STATUS_OK;
}

/* --- labels ---------------------------------------------------------------------------------- */

static void label_bytes(struct mask *m, size_t begin, size_t end, bool train) {
  const struct ka_tok_tokens *t = &m->out->tokens;
  if (begin >= end) return;
  for (int64_t i = ka_chat_turns_token_over(t, begin); i < t->n && (size_t)t->spans[i].begin < end;
       i++)
    if ((size_t)t->spans[i].end > begin) m->out->labels[i] = train ? t->ids[i] : -100;
}

/* Parts of a content that are not trained, where the content stands in the turn. */
static ka_status label_parts(struct mask *m, int64_t index, size_t end) {
  const struct ka_chat_turn *turn = &m->t.turns[index];
  const json_t *content = json_object_get(json_array_get(m->t.messages, (size_t)index), "content");
  const char *s = json_string_value(content), *whole = m->out->text.data;
  size_t n = json_string_length(content), cut = 0;
  while (n > 0 && strchr(" \t\r\n", s[n - 1]) && s[n - 1]) n--;
  while (cut < n && strchr(" \t\r\n", s[cut]) && s[cut]) cut++;
  const char *at = memmem(whole + turn->begin, end - turn->begin, s + cut, n - cut);
  if (!at)
    return ka_fail(m->t.ctx, KA_E_INPUT,
                   "messages[%lld]: the chat template changes the content, so its parts cannot be "
                   "trained one by one",
                   (long long)index);
  label_bytes(m, turn->begin, end, false);
  for (int64_t k = 0; k < turn->n_parts; k++) {
    const struct ka_chat_part *p = &turn->parts[k];
    size_t b = p->begin > cut ? p->begin - cut : 0, e = p->end > cut ? p->end - cut : 0;
    if (e > n - cut) e = n - cut;
    if (p->train && b < e) label_bytes(m, (size_t)(at - whole) + b, (size_t)(at - whole) + e, true);
  }
  return KA_STATUS_OK;
}

static ka_status label_turns(struct mask *m) {
  struct ka_ctx *ctx = m->t.ctx;
  const struct ka_tok_tokens *t = &m->out->tokens;
  int64_t last = -1;
  for (int64_t i = 0; i < m->t.n; i++) {
    const struct ka_chat_turn *turn = &m->t.turns[i];
    if (turn->end_token >= 0) last = turn->end_token;
    if (turn->text_end >= 0) last = turn->text_end;
    if (turn->train) {
      size_t end = turn->end;
      if (turn->end_token >= 0 && turn->exact && (size_t)t->spans[turn->end_token].begin < end)
        end = (size_t)t->spans[turn->end_token].begin;
      label_bytes(m, turn->begin, end, true);
      if (turn->n_parts > 0) KA_TRY(label_parts(m, i, end));
    }
    bool eos = m->opts->train_on_eos == KA_EOS_ALL ||
               (m->opts->train_on_eos == KA_EOS_TURN && turn->train);
    if (turn->end_token >= 0)
      m->out->labels[turn->end_token] = eos ? t->ids[turn->end_token] : -100;
    if (turn->text_end >= 0) m->out->labels[turn->text_end] = eos ? t->ids[turn->text_end] : -100;
    m->out->n_endless += turn->train && turn->end_token < 0;
  }
  if (m->opts->train_on_eos == KA_EOS_LAST && last >= 0) m->out->labels[last] = t->ids[last];
  return KA_STATUS_OK;
}

/* Labels what the template's generation blocks wrote; *done false when they cannot be used. */
static ka_status label_generation(struct mask *m, const struct ka_jinja_spans *spans, bool *done) {
  int64_t n_assistant = 0, k = 0;
  bool flags = false;
  for (int64_t i = 0; i < m->t.n; i++) {
    n_assistant += m->t.turns[i].assistant;
    flags |= m->t.turns[i].flagged || m->t.turns[i].n_parts > 0;
  }
  *done = !flags || n_assistant == spans->n;
  for (int64_t i = 0; i < m->t.n && flags; i++) {
    if (m->t.turns[i].n_parts > 0 || (m->t.turns[i].train && !m->t.turns[i].assistant))
      *done = false;
    if (*done && m->t.turns[i].assistant) {
      const struct ka_jinja_span *s = &spans->at[k++];
      label_bytes(m, s->begin, s->end, m->t.turns[i].train);
    }
  }
  for (int64_t i = 0; i < spans->n && !flags; i++)
    label_bytes(m, spans->at[i].begin, spans->at[i].end, true);
  for (int64_t i = 0; i < m->out->tokens.n && !*done; i++) m->out->labels[i] = -100;
  for (int64_t i = 0; i < spans->n && *done; i++) {
    int64_t last = ka_chat_turns_token_at(&m->out->tokens, spans->at[i].end);
    m->out->n_endless += ka_chat_turns_end_before(&m->t, 0, last) < 0;
  }
  return KA_STATUS_OK;
}

/* Gives assistants' turns the range of their generation blocks, if each has one. */
static void mark_turns(struct mask *m, const struct ka_jinja_spans *spans) {
  int64_t n_assistant = 0, k = 0;
  for (int64_t i = 0; i < m->t.n; i++) n_assistant += m->t.turns[i].assistant;
  for (int64_t i = 0; i < m->t.n && n_assistant == spans->n; i++) {
    struct ka_chat_turn *turn = &m->t.turns[i];
    if (!turn->assistant) continue;
    turn->begin = spans->at[k].begin;
    turn->end = spans->at[k++].end;
    turn->found = turn->exact = turn->marked = true;
  }
}

/* --- all of it ------------------------------------------------------------------------------- */

static bool usual_options(const struct ka_chat_mask_options *o) {
  bool only_assistant =
      !o->roles_to_train || (o->n_roles == 1 && strcmp(o->roles_to_train[0], "assistant") == 0);
  return only_assistant && !o->train_on_inputs && o->train_on_eos == KA_EOS_TURN;
}

/* The template's error with the message at which it arises: the first behind the most messages that
 * the template takes. */
static ka_status blame(struct mask *m, ka_status st) {
  struct ka_ctx *ctx = m->t.ctx;
  struct ka_str text = {0};
  char why[KA_ERROR_MAX];
  int64_t n = m->t.n;
  bool ok = false;
  if (st.code != KA_E_INPUT) return st;
  snprintf(why, sizeof why, "%s", ctx->error.message);
  ka_error_clear(ctx);
  while (!ok && --n > 0) KA_TRY(ka_chat_turns_render(&m->t, n, -1, NULL, false, &text, &ok));
  ka_str_deinit(&text);
  const json_t *message = json_array_get(m->t.messages, (size_t)n);
  if (!ok && m->t.n > 1) return ka_fail(ctx, KA_E_INPUT, "%s", why);
  return ka_fail(ctx, KA_E_INPUT, "messages[%lld] (%s): %s", (long long)n,
                 json_string_value(json_object_get(message, "role")), why);
}

static ka_status render_whole(struct mask *m, bool want_spans, struct ka_jinja_spans *spans,
                              bool *marked) {
  struct ka_ctx *ctx = m->t.ctx;
  if (json_object_set_new(m->t.vars, "add_generation_prompt", json_false()) != 0)
    return no_memory(ctx);
  ka_str_clear(&m->out->text);
  *marked = want_spans;
  ka_status st = ka_chat_render(ctx, m->t.chat, m->t.vars, m->t.jinja, &m->out->text,
                                want_spans ? spans : NULL);
  if (st.code != KA_E_UNSUPPORTED || !want_spans) return blame(m, st);
  ka_error_clear(ctx); /* blocks whose place is not known */
  *marked = false;
  ka_str_clear(&m->out->text);
  return ka_chat_render(ctx, m->t.chat, m->t.vars, m->t.jinja, &m->out->text, NULL);
}

static ka_status mask_all(struct mask *m, const json_t *vars, struct ka_jinja_spans *spans) {
  struct ka_ctx *ctx = m->t.ctx;
  const struct ka_jinja *jinja = NULL;
  const json_t *tools = json_object_get(vars, "tools");
  bool done = false, marked = false;
  KA_TRY(ka_chat_template(ctx, m->t.chat, NULL, tools && !json_is_null(tools), &jinja));
  m->t.gen_prompt = ka_jinja_mentions(jinja, "add_generation_prompt");
  KA_TRY(prepare(m, vars));
  KA_TRY(ka_chat_fit(ctx, m->t.chat, m->t.jinja, m->t.vars));
  m->t.messages = json_object_get(m->t.vars, "messages");
  KA_TRY(render_whole(m, ka_jinja_has_generation(jinja), spans, &marked));
  struct ka_tok_tokens *t = &m->out->tokens;
  ka_tok_tokens_clear(t);
  t->want_spans = true;
  const char *text = m->out->text.data ? m->out->text.data : "";
  KA_TRY(ka_tokenizer_encode(ctx, m->t.tokenizer, text, m->out->text.len, false, t));
  void *labels = m->out->labels;
  KA_TRY(ka_grow(ctx, &labels, &m->out->labels_cap, t->n, sizeof *m->out->labels, "labels"));
  m->out->labels = labels;
  for (int64_t i = 0; i < t->n; i++) m->out->labels[i] = -100;
  m->out->n_endless = 0;
  marked = marked && spans->n > 0;
  if (marked && usual_options(m->opts)) KA_TRY(label_generation(m, spans, &done));
  if (done) return KA_STATUS_OK;
  if (marked) mark_turns(m, spans);
  KA_TRY(ka_chat_turns_find(&m->t));
  return label_turns(m);
}

ka_status ka_chat_mask(struct ka_ctx *ctx, const struct ka_chat *chat,
                       const struct ka_tokenizer *tokenizer, const json_t *vars,
                       const struct ka_chat_mask_options *opts, struct ka_chat_masked *out) {
  struct mask m = {.opts = opts, .out = out};
  m.t = (struct ka_chat_turns){.ctx = ctx,
                               .chat = chat,
                               .tokenizer = tokenizer,
                               .jinja = opts->jinja,
                               .field = opts->field_training ? opts->field_training : "train",
                               .text = &out->text,
                               .tokens = &out->tokens,
                               .all_ends = opts->train_on_eos == KA_EOS_ALL ||
                                           opts->train_on_eos == KA_EOS_LAST,
                               .first_answer = SIZE_MAX};
  struct ka_jinja_spans spans = {0};
  ka_status st = mask_all(&m, vars, &spans);
  for (int64_t i = 0; i < m.t.n && m.t.turns; i++) ka_free(m.t.turns[i].parts);
  ka_free(m.t.turns);
  ka_str_deinit(&m.t.header);
  ka_free(spans.at);
  json_decref(m.t.vars);
  return st;
}

void ka_chat_masked_deinit(struct ka_chat_masked *m) {
  ka_tok_tokens_deinit(&m->tokens);
  ka_free(m->labels);
  ka_str_deinit(&m->text);
}
