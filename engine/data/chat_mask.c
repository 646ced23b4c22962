/* SPDX-License-Identifier: Apache-2.0
 * Finding turns in a rendered conversation and labelling their tokens; see chat_mask.h. */
#include "engine/data/chat_mask.h"

#include "base/arena.h"
#include "engine/data/chat_fit.h"

#include <stdio.h>
#include <string.h>

enum { MAX_ENDS = 8, END_WITHIN = 3 };

struct part { /* of a content given in parts; bytes of the joined content */
  size_t begin, end;
  bool train;
};

struct turn {
  bool train, assistant, flagged; /* flagged: by its own training field */
  bool found, exact;              /* exact: by prefixes, else by differing content */
  size_t begin, end;              /* body with its end of turn (exact), or without */
  int64_t end_token;              /* index of the end-of-turn token, -1 = none */
  int64_t text_end;               /* of the last turn: the EOS behind that token, -1 = none */
  struct part *parts;
  int64_t n_parts, parts_cap;
};

struct mask {
  struct ka_ctx *ctx;
  const struct ka_chat *chat;
  const struct ka_tokenizer *tokenizer;
  const struct ka_chat_mask_options *opts;
  const char *field;
  json_t *vars;     /* ours: without training fields, parts joined */
  json_t *messages; /* borrowed from vars */
  struct ka_chat_masked *out;
  struct turn *turns;
  int64_t n;
  int32_t ends[MAX_ENDS]; /* ids that end turns */
  int n_ends;
  size_t first_answer;  /* where the first answer begins */
  int32_t eos;          /* the model's, -1 = none */
  bool gen_prompt;      /* the template knows add_generation_prompt */
  struct ka_str header; /* what it adds for it; empty = not known */
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
  struct ka_ctx *ctx = m->ctx;
  struct turn *turn = &m->turns[index];
  json_t *content = json_object_get(message, "content"), *one;
  bool any = false;
  size_t i;
  json_array_foreach(content, i, one) any |= json_object_get(one, m->field) != NULL;
  if (!any) return KA_STATUS_OK;
  struct ka_str joined = {0};
  ka_status st = KA_STATUS_OK;
  json_array_foreach(content, i, one) {
    const json_t *text = json_object_get(one, "text"), *flag = json_object_get(one, m->field);
    if (!json_is_string(text) || (flag && !json_is_boolean(flag))) {
      st = ka_fail(ctx, KA_E_INPUT,
                   "messages[%lld].content[%zu]: expected a text and \"%s\" true or false",
                   (long long)index, i, m->field);
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
        (struct part){begin, joined.len, flag ? json_is_true(flag) : turn->train};
  }
  if (json_object_set_new(message, "content", json_stringn(joined.data, joined.len)) != 0)
    st = no_memory(ctx);
  for (int64_t k = 0; k < turn->n_parts; k++) turn->train |= turn->parts[k].train;
out:
  ka_str_deinit(&joined);
  return st;
}

static ka_status prepare(struct mask *m, const json_t *vars) {
  struct ka_ctx *ctx = m->ctx;
  json_t *message;
  size_t i;
  void *turns;
  m->vars = json_deep_copy(vars);
  if (!m->vars) return no_memory(ctx);
  m->messages = json_object_get(m->vars, "messages");
  m->n = (int64_t)json_array_size(m->messages);
  KA_TRY(ka_alloc_n(ctx, &turns, m->n, sizeof *m->turns, "turns"));
  m->turns = turns;
  json_array_foreach(m->messages, i, message) {
    struct turn *turn = &m->turns[i];
    const char *role = json_string_value(json_object_get(message, "role"));
    const json_t *flag = json_object_get(message, m->field);
    if (!role) return ka_fail(ctx, KA_E_INPUT, "messages[%zu]: \"role\" is not a text", i);
    if (flag && !json_is_boolean(flag) && !json_is_null(flag))
      return ka_fail(ctx, KA_E_INPUT, "messages[%zu]: \"%s\": expected true or false", i, m->field);
    turn->assistant = strcmp(role, "assistant") == 0;
    turn->flagged = json_is_boolean(flag);
    turn->train = turn->flagged ? json_is_true(flag) : has_role(m->opts, role);
    turn->end_token = turn->text_end = -1;
    json_object_del(message, m->field);
    KA_TRY(join_parts(m, message, (int64_t)i));
  }
  return KA_STATUS_OK;
}

/* Renders the first n messages, message `changed` (-1: none) replaced by `other`. A template that
 * refuses them gives *ok false. */
static ka_status render_some(struct mask *m, int64_t n, int64_t changed, json_t *other,
                             bool gen_prompt, struct ka_str *text, bool *ok) {
  struct ka_ctx *ctx = m->ctx;
  json_t *vars = json_copy(m->vars), *list = json_array();
  bool bad = !vars || !list;
  for (int64_t i = 0; i < n && !bad; i++)
    bad = json_array_append(list, i == changed ? other : json_array_get(m->messages, (size_t)i));
  if (!bad) bad = json_object_set(vars, "messages", list) != 0;
  if (!bad) bad = json_object_set_new(vars, "add_generation_prompt", json_boolean(gen_prompt)) != 0;
  json_decref(list);
  ka_status st = bad ? no_memory(ctx) : KA_STATUS_OK;
  ka_str_clear(text);
  if (ka_ok(st)) st = ka_chat_render(ctx, m->chat, vars, m->opts->jinja, text, NULL);
  json_decref(vars);
  *ok = ka_ok(st);
  if (st.code != KA_E_INPUT) return st;
  ka_error_clear(ctx);
  return KA_STATUS_OK;
}

/* --- turns by prefixes ----------------------------------------------------------------------- */

static bool is_prefix(const struct ka_str *part, const struct ka_str *whole) {
  return part->len <= whole->len &&
         (part->len == 0 || memcmp(part->data, whole->data, part->len) == 0);
}

/* Renders the first n messages into text; *ok: it is a prefix of the whole. */
static ka_status render_prefix(struct mask *m, int64_t n, bool gen_prompt, struct ka_str *text,
                               bool *ok) {
  *ok = false;
  if (n == 0) return KA_STATUS_OK;
  ka_status st = render_some(m, n, -1, NULL, gen_prompt, text, ok);
  if (!*ok) ka_str_clear(text);
  *ok = *ok && is_prefix(text, &m->out->text);
  return st;
}

/* The answer's header: what the generation prompt adds behind the first n messages, which rendered
 * with it give `prompted`, and without it may end in an EOS. Learned once. */
static ka_status learn_header(struct mask *m, int64_t n, const struct ka_str *prompted) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_str text = {0};
  bool ok = false;
  if (m->header.len > 0) return KA_STATUS_OK;
  ka_status st = render_some(m, n, -1, NULL, false, &text, &ok);
  const char *eos = ka_chat_token(m->chat, "eos_token");
  size_t n_eos = eos ? strlen(eos) : 0;
  if (ok && !is_prefix(&text, prompted) && n_eos > 0 && text.len >= n_eos &&
      memcmp(text.data + text.len - n_eos, eos, n_eos) == 0)
    text.len -= n_eos;
  if (ka_ok(st) && ok && is_prefix(&text, prompted) && prompted->len > text.len)
    st = ka_str_append(ctx, &m->header, prompted->data + text.len, prompted->len - text.len);
  ka_str_deinit(&text);
  return st;
}

/* --- turns by differing content -------------------------------------------------------------- */

/* A private-use character that the text does not hold. */
static const char *stand_in(const struct ka_str *text) {
  static const char *const choices[] = {"\xee\x80\x80", "\xee\x80\x81", "\xef\xa3\xbf"};
  int i = 0;
  while (i < 2 && text->data && memmem(text->data, text->len, choices[i], 3)) i++;
  return choices[i];
}

/* The message with a stand-in for all that it says, or (whole false) for its content alone. A list
 * of parts stays a list: there are templates that know nothing else. */
static ka_status changed_message(struct mask *m, int64_t i, bool whole, json_t **out) {
  const json_t *message = json_array_get(m->messages, (size_t)i);
  json_t *copy = whole ? json_object() : json_copy((json_t *)(uintptr_t)message);
  const char *text = stand_in(&m->out->text);
  json_t *mark = json_is_array(json_object_get(message, "content"))
                     ? json_pack("[{s:s, s:s}]", "type", "text", "text", text)
                     : json_string(text);
  *out = copy;
  bool bad = !copy || !mark ||
             json_object_set(copy, "role", json_object_get(message, "role")) != 0 ||
             json_object_set(copy, "content", mark) != 0;
  json_decref(mark);
  return bad ? no_memory(m->ctx) : KA_STATUS_OK;
}

static bool inside_char(const struct ka_str *s, size_t i) {
  return i < s->len && (s->data[i] & 0xc0) == 0x80;
}

/* What changes in the text when message i says something else. */
static ka_status differing(struct mask *m, int64_t i, size_t *begin, size_t *end, bool *ok) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_str text = {0};
  const struct ka_str *whole = &m->out->text;
  ka_status st = KA_STATUS_OK;
  *ok = false;
  for (int attempt = 0; attempt < 2 && !*ok; attempt++) {
    json_t *other = NULL;
    st = changed_message(m, i, attempt == 0, &other);
    if (ka_ok(st)) st = render_some(m, m->n, i, other, false, &text, ok);
    json_decref(other);
    KA_TRY_GOTO(st, out);
  }
  size_t shorter = text.len < whole->len ? text.len : whole->len, b = 0, e = 0;
  while (*ok && b < shorter && text.data[b] == whole->data[b]) b++;
  while (*ok && b > 0 && inside_char(whole, b)) b--;
  while (*ok && e < shorter - b && text.data[text.len - 1 - e] == whole->data[whole->len - 1 - e])
    e++;
  if (b == whole->len && b == text.len) *ok = false; /* the template ignores the message */
  *begin = b;
  *end = whole->len - e;
  while (*ok && inside_char(whole, *end)) ++*end;
out:
  ka_str_deinit(&text);
  return st;
}

/* --- tokens ---------------------------------------------------------------------------------- */

/* First token that begins at byte `at` or behind it. */
static int64_t token_at(const struct ka_tok_tokens *t, size_t at) {
  int64_t lo = 0, hi = t->n;
  while (lo < hi) {
    int64_t mid = lo + (hi - lo) / 2;
    if ((size_t)t->spans[mid].begin < at)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

/* First token that holds something behind byte `at`. */
static int64_t token_over(const struct ka_tok_tokens *t, size_t at) {
  int64_t i = token_at(t, at);
  while (i > 0 && (size_t)t->spans[i - 1].end > at) i--;
  return i;
}

static bool is_special(const struct mask *m, int64_t i) {
  return ka_tokenizer_is_special(m->tokenizer, m->out->tokens.ids[i]);
}

static bool is_end(const struct mask *m, int32_t id) {
  for (int i = 0; i < m->n_ends; i++)
    if (m->ends[i] == id) return true;
  return false;
}

static void learn_end(struct mask *m, int32_t id) {
  if (!is_end(m, id) && m->n_ends < MAX_ENDS) m->ends[m->n_ends++] = id;
}

static bool blank_token(const struct mask *m, int64_t i) {
  const struct ka_tok_span *s = &m->out->tokens.spans[i];
  for (int64_t k = s->begin; k < s->end; k++)
    if (!strchr(" \t\r\n", m->out->text.data[k]) || !m->out->text.data[k]) return false;
  return true;
}

/* The token before i that is not blank, if it ends a turn; first - 1 when there is none. */
static int64_t end_before(const struct mask *m, int64_t first, int64_t i) {
  for (i--; i >= first && !is_special(m, i) && blank_token(m, i);) i--;
  return i >= first && (is_special(m, i) || is_end(m, m->out->tokens.ids[i])) ? i : first - 1;
}

/* The special token that only blanks follow in an exact turn. Some templates write EOS once, behind
 * the end of the last turn. */
static void find_exact_end(struct mask *m, struct turn *turn) {
  const struct ka_tok_tokens *t = &m->out->tokens;
  int64_t first = token_at(t, turn->begin), i = end_before(m, first, token_at(t, turn->end));
  if (i < first) return;
  turn->end_token = i;
  int64_t before = end_before(m, first, i);
  if (turn->end == m->out->text.len && before >= first &&
      (is_end(m, t->ids[before]) || (t->ids[i] == m->eos && before < i - 1))) {
    turn->end_token = before;
    turn->text_end = i;
  }
  learn_end(m, t->ids[turn->end_token]);
}

/* Is special token i the first of message `next` rather than the last of the one before? No other
 * special token follows before that message's words, and it stood before the first answer already. */
static ka_status begins_message(struct mask *m, int64_t i, int64_t next, bool *yes) {
  struct ka_ctx *ctx = m->ctx;
  const struct ka_tok_tokens *t = &m->out->tokens;
  size_t begin, end;
  *yes = false;
  if (next >= m->n) return KA_STATUS_OK;
  KA_TRY(differing(m, next, &begin, &end, yes));
  for (int64_t k = i + 1; *yes && k < t->n && (size_t)t->spans[k].begin < begin; k++)
    *yes = !is_special(m, k);
  int64_t k = 0, first = token_at(t, m->first_answer);
  while (k < first && t->ids[k] != t->ids[i]) k++;
  *yes = *yes && k < first;
  return KA_STATUS_OK;
}

static ka_status find_near_end(struct mask *m, int64_t index, size_t limit) {
  struct ka_ctx *ctx = m->ctx;
  struct turn *turn = &m->turns[index];
  const struct ka_tok_tokens *t = &m->out->tokens;
  int64_t first = token_at(t, turn->end);
  for (int64_t i = first; i < t->n && i <= first + END_WITHIN; i++) {
    if ((size_t)t->spans[i].begin >= limit) return KA_STATUS_OK;
    bool end = is_end(m, t->ids[i]), header = false;
    /* a model that names no eos: an answer's end is the special token behind it */
    if (m->n_ends == 0 && turn->assistant && is_special(m, i)) {
      KA_TRY(begins_message(m, i, index + 1, &header));
      end = !header;
    }
    if (end) turn->end_token = i;
    if (end || header) return KA_STATUS_OK;
  }
  return KA_STATUS_OK;
}

/* The special token that ends the text behind the last turn's own end. */
static void find_text_end(const struct mask *m, struct turn *turn) {
  int64_t first = turn->end_token, i = end_before(m, first, m->out->tokens.n);
  if (first >= 0 && i > first && end_before(m, first, i) == first) turn->text_end = i;
}

/* --- finding all turns ----------------------------------------------------------------------- */

/* Where turn i ends when the messages up to it, rendered alone, differ from the whole in nothing
 * but the special token that ends them: an <|end|> that is <|return|> in the last place, or an EOS
 * in the last place alone, where the next message's first token stands in the whole. */
static ka_status end_by_other_token(struct mask *m, int64_t turn, const struct ka_str *alone,
                                    size_t *end, bool *ok) {
  const struct ka_str *whole = &m->out->text;
  const struct ka_tok_tokens *t = &m->out->tokens;
  size_t c = 0, begin = m->turns[turn].begin;
  while (c < alone->len && c < whole->len && alone->data[c] == whole->data[c]) c++;
  int64_t i = token_at(t, c + 1) - 1, first = token_at(t, begin);
  if (i < first || !is_special(m, i)) return KA_STATUS_OK;
  size_t at = (size_t)t->spans[i].begin, n = alone->len;
  while (n > at && strchr(" \t\r\n", alone->data[n - 1]) && alone->data[n - 1]) n--;
  if (at > c || n <= at) return KA_STATUS_OK;
  int32_t other = ka_tokenizer_token_id(m->tokenizer, alone->data + at, n - at);
  if (other < 0 || !ka_tokenizer_is_special(m->tokenizer, other)) return KA_STATUS_OK;
  int64_t before = end_before(m, first, i);
  if (before >= first) {
    *end = (size_t)t->spans[before].end;
    *ok = true;
    return KA_STATUS_OK;
  }
  *end = (size_t)t->spans[i].end;
  ka_status st = begins_message(m, i, turn + 1, ok);
  *ok = ka_ok(st) && !*ok;
  return st;
}

/* Turn i up to its end, without an EOS that the template writes behind the last turn: what stands
 * before the header of an answer that would follow. *ok: it is a prefix of the whole. */
static ka_status end_before_header(struct mask *m, int64_t i, size_t *end, bool *ok) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_str text = {0};
  const struct ka_str *h = &m->header;
  *ok = false;
  if (h->len == 0) return KA_STATUS_OK;
  ka_status st = render_some(m, i + 1, -1, NULL, true, &text, ok);
  *ok = *ok && text.len >= h->len && memcmp(text.data + text.len - h->len, h->data, h->len) == 0;
  if (*ok) text.len -= h->len;
  *ok = *ok && is_prefix(&text, &m->out->text);
  *end = text.len;
  ka_str_deinit(&text);
  return st.code == KA_OK ? st : ka_trace(ctx, st, __FILE__, __LINE__);
}

/* The end of an answer whose beginning is certain. */
static ka_status find_answer_end(struct mask *m, int64_t i) {
  struct ka_ctx *ctx = m->ctx;
  struct turn *turn = &m->turns[i];
  struct ka_str alone = {0};
  size_t content;
  bool ok = i == m->n - 1;
  turn->end = m->out->text.len;
  ka_status st = KA_STATUS_OK;
  if (!ok) {
    st = render_prefix(m, i + 1, false, &alone, &ok);
    turn->end = alone.len;
  }
  if (ka_ok(st) && !ok) st = end_before_header(m, i, &turn->end, &ok);
  if (ka_ok(st) && !ok) st = end_by_other_token(m, i, &alone, &turn->end, &ok);
  ka_str_deinit(&alone);
  KA_TRY(st);
  turn->exact = turn->found = ok && turn->end >= turn->begin;
  if (turn->exact) return KA_STATUS_OK;
  KA_TRY(differing(m, i, &content, &turn->end, &ok));
  turn->found = ok && content >= turn->begin && turn->end >= turn->begin;
  return KA_STATUS_OK;
}

static ka_status find_assistant(struct mask *m, int64_t i) {
  struct ka_ctx *ctx = m->ctx;
  struct turn *turn = &m->turns[i];
  struct ka_str before = {0};
  bool ok = false;
  if (!m->gen_prompt || i == 0) return KA_STATUS_OK;
  ka_status st = render_prefix(m, i, true, &before, &ok);
  if (ka_ok(st) && ok) st = learn_header(m, i, &before);
  turn->begin = before.len;
  ka_str_deinit(&before);
  KA_TRY(st);
  if (!ok) return KA_STATUS_OK;
  /* Some templates have no prompt to offer here (behind a tool's answer), but write a header. */
  const struct ka_str *whole = &m->out->text, *h = &m->header;
  if (h->len > 0 && whole->len - turn->begin >= h->len &&
      memcmp(whole->data + turn->begin, h->data, h->len) == 0)
    turn->begin += h->len;
  if (turn->begin < m->first_answer) m->first_answer = turn->begin;
  return find_answer_end(m, i);
}

static ka_status find_turns(struct mask *m) {
  struct ka_ctx *ctx = m->ctx;
  bool all = m->opts->train_on_eos == KA_EOS_ALL || m->opts->train_on_eos == KA_EOS_LAST;
  const char *eos = ka_chat_token(m->chat, "eos_token");
  m->eos = eos ? ka_tokenizer_token_id(m->tokenizer, eos, strlen(eos)) : -1;
  if (m->eos < 0) m->eos = ka_tokenizer_eos(m->tokenizer);
  if (ka_tokenizer_eos(m->tokenizer) >= 0) learn_end(m, ka_tokenizer_eos(m->tokenizer));
  if (m->eos >= 0) learn_end(m, m->eos);
  for (int64_t i = 0; i < m->n; i++) {
    struct turn *turn = &m->turns[i];
    if (!turn->train && !all) continue;
    if (turn->assistant) KA_TRY(find_assistant(m, i));
    if (turn->exact) find_exact_end(m, turn);
    if (!turn->found) KA_TRY(differing(m, i, &turn->begin, &turn->end, &turn->found));
    if (turn->found && turn->assistant && turn->begin < m->first_answer)
      m->first_answer = turn->begin;
    if (turn->found || !turn->train) continue;
    return ka_fail(
        ctx, KA_E_INPUT,
        "messages[%lld]: the chat template shows nothing of this %s message, so what to "
        "train cannot be found; give it \"%s\": false",
        (long long)i,
        json_string_value(json_object_get(json_array_get(m->messages, (size_t)i), "role")),
        m->field);
  }
  for (int64_t i = 0; i < m->n; i++) {
    struct turn *turn = &m->turns[i];
    size_t limit = m->out->text.len;
    if (i + 1 < m->n && m->turns[i + 1].found) limit = m->turns[i + 1].begin;
    if (turn->found && !turn->exact) KA_TRY(find_near_end(m, i, limit));
    if (turn->found && !turn->exact && i == m->n - 1) find_text_end(m, turn);
  }
  return KA_STATUS_OK;
}

/* --- labels ---------------------------------------------------------------------------------- */

static void label_bytes(struct mask *m, size_t begin, size_t end, bool train) {
  const struct ka_tok_tokens *t = &m->out->tokens;
  if (begin >= end) return;
  for (int64_t i = token_over(t, begin); i < t->n && (size_t)t->spans[i].begin < end; i++)
    if ((size_t)t->spans[i].end > begin) m->out->labels[i] = train ? t->ids[i] : -100;
}

/* Parts of a content that are not trained, where the content stands in the turn. */
static ka_status label_parts(struct mask *m, int64_t index, size_t end) {
  const struct turn *turn = &m->turns[index];
  const json_t *content = json_object_get(json_array_get(m->messages, (size_t)index), "content");
  const char *s = json_string_value(content), *whole = m->out->text.data;
  size_t n = json_string_length(content), cut = 0;
  while (n > 0 && strchr(" \t\r\n", s[n - 1]) && s[n - 1]) n--;
  while (cut < n && strchr(" \t\r\n", s[cut]) && s[cut]) cut++;
  const char *at = memmem(whole + turn->begin, end - turn->begin, s + cut, n - cut);
  if (!at)
    return ka_fail(m->ctx, KA_E_INPUT,
                   "messages[%lld]: the chat template changes the content, so its parts cannot be "
                   "trained one by one",
                   (long long)index);
  label_bytes(m, turn->begin, end, false);
  for (int64_t k = 0; k < turn->n_parts; k++) {
    const struct part *p = &turn->parts[k];
    size_t b = p->begin > cut ? p->begin - cut : 0, e = p->end > cut ? p->end - cut : 0;
    if (e > n - cut) e = n - cut;
    if (p->train && b < e) label_bytes(m, (size_t)(at - whole) + b, (size_t)(at - whole) + e, true);
  }
  return KA_STATUS_OK;
}

static ka_status label_turns(struct mask *m) {
  struct ka_ctx *ctx = m->ctx;
  const struct ka_tok_tokens *t = &m->out->tokens;
  int64_t last = -1;
  for (int64_t i = 0; i < m->n; i++) {
    const struct turn *turn = &m->turns[i];
    if (turn->end_token >= 0) last = turn->end_token;
    if (turn->text_end >= 0) last = turn->text_end;
    if (turn->train) {
      size_t end = turn->end;
      if (turn->end_token >= 0 && turn->exact) end = (size_t)t->spans[turn->end_token].begin;
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
  for (int64_t i = 0; i < m->n; i++) {
    n_assistant += m->turns[i].assistant;
    flags |= m->turns[i].flagged || m->turns[i].n_parts > 0;
  }
  *done = !flags || n_assistant == spans->n;
  for (int64_t i = 0; i < m->n && flags; i++) {
    if (m->turns[i].n_parts > 0 || (m->turns[i].train && !m->turns[i].assistant)) *done = false;
    if (*done && m->turns[i].assistant) {
      const struct ka_jinja_span *s = &spans->at[k++];
      label_bytes(m, s->begin, s->end, m->turns[i].train);
    }
  }
  for (int64_t i = 0; i < spans->n && !flags; i++)
    label_bytes(m, spans->at[i].begin, spans->at[i].end, true);
  for (int64_t i = 0; i < m->out->tokens.n && !*done; i++) m->out->labels[i] = -100;
  for (int64_t i = 0; i < spans->n && *done; i++) {
    int64_t last = token_at(&m->out->tokens, spans->at[i].end);
    m->out->n_endless += end_before(m, 0, last) < 0;
  }
  return KA_STATUS_OK;
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
  struct ka_ctx *ctx = m->ctx;
  struct ka_str text = {0};
  char why[KA_ERROR_MAX];
  int64_t n = m->n;
  bool ok = false;
  if (st.code != KA_E_INPUT) return st;
  snprintf(why, sizeof why, "%s", ctx->error.message);
  ka_error_clear(ctx);
  while (!ok && --n > 0) KA_TRY(render_some(m, n, -1, NULL, false, &text, &ok));
  ka_str_deinit(&text);
  const json_t *message = json_array_get(m->messages, (size_t)n);
  if (!ok && m->n > 1) return ka_fail(ctx, KA_E_INPUT, "%s", why);
  return ka_fail(ctx, KA_E_INPUT, "messages[%lld] (%s): %s", (long long)n,
                 json_string_value(json_object_get(message, "role")), why);
}

static ka_status render_whole(struct mask *m, bool want_spans, struct ka_jinja_spans *spans,
                              bool *marked) {
  struct ka_ctx *ctx = m->ctx;
  if (json_object_set_new(m->vars, "add_generation_prompt", json_false()) != 0)
    return no_memory(ctx);
  ka_str_clear(&m->out->text);
  *marked = want_spans;
  ka_status st = ka_chat_render(ctx, m->chat, m->vars, m->opts->jinja, &m->out->text,
                                want_spans ? spans : NULL);
  if (st.code != KA_E_UNSUPPORTED || !want_spans) return blame(m, st);
  ka_error_clear(ctx); /* blocks whose place is not known */
  *marked = false;
  ka_str_clear(&m->out->text);
  return ka_chat_render(ctx, m->chat, m->vars, m->opts->jinja, &m->out->text, NULL);
}

static ka_status mask_all(struct mask *m, const json_t *vars, struct ka_jinja_spans *spans) {
  struct ka_ctx *ctx = m->ctx;
  const struct ka_jinja *jinja = NULL;
  const json_t *tools = json_object_get(vars, "tools");
  bool done = false, marked = false;
  KA_TRY(ka_chat_template(ctx, m->chat, NULL, tools && !json_is_null(tools), &jinja));
  m->gen_prompt = ka_jinja_mentions(jinja, "add_generation_prompt");
  KA_TRY(prepare(m, vars));
  KA_TRY(ka_chat_fit(ctx, m->chat, m->opts->jinja, m->vars));
  m->messages = json_object_get(m->vars, "messages");
  bool want_spans = ka_jinja_has_generation(jinja) && usual_options(m->opts);
  KA_TRY(render_whole(m, want_spans, spans, &marked));
  struct ka_tok_tokens *t = &m->out->tokens;
  ka_tok_tokens_clear(t);
  t->want_spans = true;
  const char *text = m->out->text.data ? m->out->text.data : "";
  KA_TRY(ka_tokenizer_encode(ctx, m->tokenizer, text, m->out->text.len, false, t));
  void *labels = m->out->labels;
  KA_TRY(ka_grow(ctx, &labels, &m->out->labels_cap, t->n, sizeof *m->out->labels, "labels"));
  m->out->labels = labels;
  for (int64_t i = 0; i < t->n; i++) m->out->labels[i] = -100;
  m->out->n_endless = 0;
  if (marked && spans->n > 0) KA_TRY(label_generation(m, spans, &done));
  if (done) return KA_STATUS_OK;
  KA_TRY(find_turns(m));
  return label_turns(m);
}

ka_status ka_chat_mask(struct ka_ctx *ctx, const struct ka_chat *chat,
                       const struct ka_tokenizer *tokenizer, const json_t *vars,
                       const struct ka_chat_mask_options *opts, struct ka_chat_masked *out) {
  struct mask m = {.ctx = ctx,
                   .chat = chat,
                   .tokenizer = tokenizer,
                   .opts = opts,
                   .field = opts->field_training ? opts->field_training : "train",
                   .first_answer = SIZE_MAX,
                   .out = out};
  struct ka_jinja_spans spans = {0};
  ka_status st = mask_all(&m, vars, &spans);
  for (int64_t i = 0; i < m.n && m.turns; i++) ka_free(m.turns[i].parts);
  ka_free(m.turns);
  ka_str_deinit(&m.header);
  ka_free(spans.at);
  json_decref(m.vars);
  return st;
}

void ka_chat_masked_deinit(struct ka_chat_masked *m) {
  ka_tok_tokens_deinit(&m->tokens);
  ka_free(m->labels);
  ka_str_deinit(&m->text);
}
