/* SPDX-License-Identifier: Apache-2.0
 * Finding turns in a rendered conversation, by prefixes or by differing content. */
#include "engine/data/chat_turns.h"

#include <string.h>

enum { END_WITHIN = 3 };

static ka_status no_memory(struct ka_ctx *ctx) { return ka_fail(ctx, KA_E_MEMORY, "conversation"); }

ka_status ka_chat_turns_render(struct ka_chat_turns *m, int64_t n, int64_t changed, json_t *other,
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
  if (ka_ok(st)) st = ka_chat_render(ctx, m->chat, vars, m->jinja, text, NULL);
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
static ka_status render_prefix(struct ka_chat_turns *m, int64_t n, bool gen_prompt,
                               struct ka_str *text, bool *ok) {
  *ok = false;
  if (n == 0) return KA_STATUS_OK;
  ka_status st = ka_chat_turns_render(m, n, -1, NULL, gen_prompt, text, ok);
  if (!*ok) ka_str_clear(text);
  *ok = *ok && is_prefix(text, m->text);
  return st;
}

/* The first n messages without the prompt that `prompted` ends with: without the EOS, too, that may
 * stand there in its place. *ok: it begins `prompted`. */
static ka_status render_plain(struct ka_chat_turns *m, int64_t n, const struct ka_str *prompted,
                              struct ka_str *text, bool *ok) {
  ka_status st = ka_chat_turns_render(m, n, -1, NULL, false, text, ok);
  const char *eos = ka_chat_token(m->chat, "eos_token");
  size_t n_eos = eos ? strlen(eos) : 0;
  if (*ok && !is_prefix(text, prompted) && n_eos > 0 && text->len >= n_eos &&
      memcmp(text->data + text->len - n_eos, eos, n_eos) == 0)
    text->len -= n_eos;
  *ok = *ok && is_prefix(text, prompted);
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
static ka_status changed_message(struct ka_chat_turns *m, int64_t i, bool whole, json_t **out) {
  const json_t *message = json_array_get(m->messages, (size_t)i);
  json_t *copy = whole ? json_object() : json_copy((json_t *)(uintptr_t)message);
  const char *text = stand_in(m->text);
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
static ka_status differing(struct ka_chat_turns *m, int64_t i, size_t *begin, size_t *end,
                           bool *ok) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_str text = {0};
  const struct ka_str *whole = m->text;
  ka_status st = KA_STATUS_OK;
  *ok = false;
  for (int attempt = 0; attempt < 2 && !*ok; attempt++) {
    json_t *other = NULL;
    st = changed_message(m, i, attempt == 0, &other);
    if (ka_ok(st)) st = ka_chat_turns_render(m, m->n, i, other, false, &text, ok);
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

/* --- where an answer begins ------------------------------------------------------------------ */

static size_t n_common(const struct ka_str *a, const struct ka_str *b) {
  size_t n = 0;
  while (n < a->len && n < b->len && a->data[n] == b->data[n]) n++;
  return n;
}

/* The end of a header that stands at `from`, of which the history shows no more than up to `to`:
 * without a tag or line that the prompt opens and the history goes on with otherwise, as the
 * <think> of a prompt "assistant\n<think>\n" that the history shows as "<think></think>". */
static size_t header_end(const struct ka_chat_turns *m, size_t from, size_t to) {
  const char *text = m->text->data, *line = memrchr(text + from, '\n', to - from);
  if (line) return (size_t)(line + 1 - text);
  const char *tag = memrchr(text + from, '<', to - from);
  if (!tag || tag == text + from) return to;
  const char *close = memchr(tag, '>', (size_t)(text + to - tag));
  if (!close) return (size_t)(tag - text);
  int32_t id = ka_tokenizer_token_id(m->tokenizer, tag, (size_t)(close + 1 - tag));
  return id >= 0 && ka_tokenizer_is_special(m->tokenizer, id) ? to : (size_t)(tag - text);
}

/* Where answer i begins when the prompt behind the messages before it (`prompted`, of which `plain`
 * bytes are theirs) opens what the history does not show: where both part, whatever the answer
 * says. *ok false: the history shows nothing of the prompt. */
static ka_status begin_beside_prompt(struct ka_chat_turns *m, int64_t i,
                                     const struct ka_str *prompted, size_t plain, size_t *begin,
                                     bool *ok) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_str text = {0};
  json_t *other = NULL;
  bool rendered = false;
  size_t shared = n_common(m->text, prompted);
  *ok = false;
  ka_status st = changed_message(m, i, true, &other);
  if (ka_ok(st)) st = ka_chat_turns_render(m, m->n, i, other, false, &text, &rendered);
  if (rendered && n_common(&text, prompted) < shared) shared = n_common(&text, prompted);
  json_decref(other);
  ka_str_deinit(&text);
  KA_TRY(st);
  while (shared > plain && inside_char(m->text, shared)) shared--;
  if (shared <= plain) return KA_STATUS_OK;
  *begin = header_end(m, plain, shared);
  *ok = true;
  return KA_STATUS_OK;
}

/* Where answer i begins, and, once, its header: what the prompt adds to the messages before it. */
static ka_status find_answer_begin(struct ka_chat_turns *m, int64_t i, size_t *begin, bool *ok) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_str prompted = {0}, plain = {0};
  bool known = false;
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(render_prefix(m, i, true, &prompted, ok), out);
  *begin = prompted.len;
  if (prompted.len > 0 && (!*ok || m->header.len == 0))
    KA_TRY_GOTO(render_plain(m, i, &prompted, &plain, &known), out);
  if (known && m->header.len == 0)
    KA_TRY_GOTO(ka_str_append(ctx, &m->header, prompted.data + plain.len, prompted.len - plain.len),
                out);
  if (known && !*ok && is_prefix(&plain, m->text))
    KA_TRY_GOTO(begin_beside_prompt(m, i, &prompted, plain.len, begin, ok), out);
out:
  ka_str_deinit(&prompted);
  ka_str_deinit(&plain);
  return st;
}

/* --- tokens ---------------------------------------------------------------------------------- */

int64_t ka_chat_turns_token_at(const struct ka_tok_tokens *t, size_t at) {
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

int64_t ka_chat_turns_token_over(const struct ka_tok_tokens *t, size_t at) {
  int64_t i = ka_chat_turns_token_at(t, at);
  while (i > 0 && (size_t)t->spans[i - 1].end > at) i--;
  return i;
}

static bool is_special(const struct ka_chat_turns *m, int64_t i) {
  return ka_tokenizer_is_special(m->tokenizer, m->tokens->ids[i]);
}

static bool is_end(const struct ka_chat_turns *m, int32_t id) {
  for (int i = 0; i < m->n_ends; i++)
    if (m->ends[i] == id) return true;
  return false;
}

static void learn_end(struct ka_chat_turns *m, int32_t id) {
  if (!is_end(m, id) && m->n_ends < KA_CHAT_ENDS) m->ends[m->n_ends++] = id;
}

static bool blank_token(const struct ka_chat_turns *m, int64_t i) {
  const struct ka_tok_span *s = &m->tokens->spans[i];
  for (int64_t k = s->begin; k < s->end; k++)
    if (!strchr(" \t\r\n", m->text->data[k]) || !m->text->data[k]) return false;
  return true;
}

int64_t ka_chat_turns_end_before(const struct ka_chat_turns *m, int64_t first, int64_t i) {
  for (i--; i >= first && !is_special(m, i) && blank_token(m, i);) i--;
  return i >= first && (is_special(m, i) || is_end(m, m->tokens->ids[i])) ? i : first - 1;
}

/* The special token that only blanks follow in an exact turn. Some templates write EOS once, behind
 * the end of the last turn. */
static void find_exact_end(struct ka_chat_turns *m, struct ka_chat_turn *turn) {
  const struct ka_tok_tokens *t = m->tokens;
  int64_t first = ka_chat_turns_token_at(t, turn->begin),
          i = ka_chat_turns_end_before(m, first, ka_chat_turns_token_at(t, turn->end));
  if (i < first) return;
  turn->end_token = i;
  int64_t before = ka_chat_turns_end_before(m, first, i);
  if (turn->end == m->text->len && before >= first &&
      (is_end(m, t->ids[before]) || (t->ids[i] == m->eos && before < i - 1))) {
    turn->end_token = before;
    turn->text_end = i;
  }
  learn_end(m, t->ids[turn->end_token]);
}

/* Is special token i the first of message `next` rather than the last of the one before? No other
 * special token follows before that message's words, and it stood before the first answer
 * already. */
static ka_status begins_message(struct ka_chat_turns *m, int64_t i, int64_t next, bool *yes) {
  struct ka_ctx *ctx = m->ctx;
  const struct ka_tok_tokens *t = m->tokens;
  size_t begin, end;
  *yes = false;
  if (next >= m->n) return KA_STATUS_OK;
  KA_TRY(differing(m, next, &begin, &end, yes));
  for (int64_t k = i + 1; *yes && k < t->n && (size_t)t->spans[k].begin < begin; k++)
    *yes = !is_special(m, k);
  int64_t k = 0, first = ka_chat_turns_token_at(t, m->first_answer);
  while (k < first && t->ids[k] != t->ids[i]) k++;
  *yes = *yes && k < first;
  return KA_STATUS_OK;
}

static ka_status find_near_end(struct ka_chat_turns *m, int64_t index, size_t limit) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_chat_turn *turn = &m->turns[index];
  const struct ka_tok_tokens *t = m->tokens;
  int64_t first = ka_chat_turns_token_at(t, turn->end);
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
static void find_text_end(const struct ka_chat_turns *m, struct ka_chat_turn *turn) {
  int64_t first = turn->end_token, i = ka_chat_turns_end_before(m, first, m->tokens->n);
  if (first >= 0 && i > first && ka_chat_turns_end_before(m, first, i) == first) turn->text_end = i;
}

/* --- finding all turns ----------------------------------------------------------------------- */

/* Where turn i ends when the messages up to it, rendered alone, differ from the whole in nothing
 * but the special token that ends them: an <|end|> that is <|return|> in the last place, or an EOS
 * in the last place alone, where the next message's first token stands in the whole. */
static ka_status end_by_other_token(struct ka_chat_turns *m, int64_t turn,
                                    const struct ka_str *alone, size_t *end, bool *ok) {
  const struct ka_str *whole = m->text;
  const struct ka_tok_tokens *t = m->tokens;
  size_t c = 0, begin = m->turns[turn].begin;
  while (c < alone->len && c < whole->len && alone->data[c] == whole->data[c]) c++;
  int64_t i = ka_chat_turns_token_at(t, c + 1) - 1, first = ka_chat_turns_token_at(t, begin);
  if (i < first || !is_special(m, i)) return KA_STATUS_OK;
  size_t at = (size_t)t->spans[i].begin, n = alone->len;
  while (n > at && strchr(" \t\r\n", alone->data[n - 1]) && alone->data[n - 1]) n--;
  if (at > c || n <= at) return KA_STATUS_OK;
  int32_t other = ka_tokenizer_token_id(m->tokenizer, alone->data + at, n - at);
  if (other < 0 || !ka_tokenizer_is_special(m->tokenizer, other)) return KA_STATUS_OK;
  int64_t before = ka_chat_turns_end_before(m, first, i);
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
static ka_status end_before_header(struct ka_chat_turns *m, int64_t i, size_t *end, bool *ok) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_str text = {0};
  const struct ka_str *h = &m->header;
  *ok = false;
  if (h->len == 0) return KA_STATUS_OK;
  ka_status st = ka_chat_turns_render(m, i + 1, -1, NULL, true, &text, ok);
  *ok = *ok && text.len >= h->len && memcmp(text.data + text.len - h->len, h->data, h->len) == 0;
  if (*ok) text.len -= h->len;
  *ok = *ok && is_prefix(&text, m->text);
  *end = text.len;
  ka_str_deinit(&text);
  return st.code == KA_OK ? st : ka_trace(ctx, st, __FILE__, __LINE__);
}

/* The end of an answer whose beginning is certain. */
static ka_status find_answer_end(struct ka_chat_turns *m, int64_t i) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_chat_turn *turn = &m->turns[i];
  struct ka_str alone = {0};
  size_t content;
  bool ok = i == m->n - 1;
  turn->end = m->text->len;
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

static ka_status find_assistant(struct ka_chat_turns *m, int64_t i) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_chat_turn *turn = &m->turns[i];
  bool ok = false;
  if (!m->gen_prompt || i == 0) return KA_STATUS_OK;
  KA_TRY(find_answer_begin(m, i, &turn->begin, &ok));
  if (!ok) return KA_STATUS_OK;
  /* Some templates have no prompt to offer here (behind a tool's answer), but write a header. */
  const struct ka_str *whole = m->text, *h = &m->header;
  if (h->len > 0 && whole->len - turn->begin >= h->len &&
      memcmp(whole->data + turn->begin, h->data, h->len) == 0)
    turn->begin += h->len;
  if (turn->begin < m->first_answer) m->first_answer = turn->begin;
  return find_answer_end(m, i);
}

ka_status ka_chat_turns_find(struct ka_chat_turns *m) {
  struct ka_ctx *ctx = m->ctx;
  const char *eos = ka_chat_token(m->chat, "eos_token");
  m->eos = eos ? ka_tokenizer_token_id(m->tokenizer, eos, strlen(eos)) : -1;
  if (m->eos < 0) m->eos = ka_tokenizer_eos(m->tokenizer);
  if (ka_tokenizer_eos(m->tokenizer) >= 0) learn_end(m, ka_tokenizer_eos(m->tokenizer));
  if (m->eos >= 0) learn_end(m, m->eos);
  for (int64_t i = 0; i < m->n; i++) {
    struct ka_chat_turn *turn = &m->turns[i];
    if (!turn->train && !m->all_ends) continue;
    if (turn->assistant && !turn->found) KA_TRY(find_assistant(m, i));
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
    struct ka_chat_turn *turn = &m->turns[i];
    size_t limit = m->text->len;
    if (i + 1 < m->n && m->turns[i + 1].found) limit = m->turns[i + 1].begin;
    if (turn->found && turn->end_token < 0 && (!turn->exact || turn->marked))
      KA_TRY(find_near_end(m, i, limit));
    if (turn->found && !turn->exact && i == m->n - 1) find_text_end(m, turn);
  }
  return KA_STATUS_OK;
}
