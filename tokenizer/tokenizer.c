/* SPDX-License-Identifier: Apache-2.0
 *
 * The way through a tokenizer: added tokens out of the raw text, the normalizer over what is left,
 * added tokens out of that, pre-tokenizer, model, and the tokens that the post-processor adds. */
#include "tokenizer/tokenizer.h"

#include "base/log.h"
#include "tokenizer/open.h"

#include <string.h>

static ka_status push_token(struct ka_ctx *ctx, struct ka_tok_tokens *out, int32_t id,
                            int64_t begin, int64_t end) {
  void *p = out->ids;
  KA_TRY(ka_grow(ctx, &p, &out->cap, out->n + 1, sizeof *out->ids, "token ids"));
  out->ids = p;
  if (out->want_spans) {
    p = out->spans;
    KA_TRY(ka_grow(ctx, &p, &out->spans_cap, out->n + 1, sizeof *out->spans, "token spans"));
    out->spans = p;
    out->spans[out->n] = (struct ka_tok_span){begin, end};
  }
  out->ids[out->n++] = id;
  return KA_STATUS_OK;
}

/* --- work spaces ----------------------------------------------------------------------------- */

void ka_tok_work_free(struct ka_tok_work *w) {
  if (!w) return;
  ka_tok_bpe_work_free(w->bpe);
  ka_tok_rx_scan_free(w->scan);
  for (int i = 0; i < 2; i++) {
    ka_tok_text_deinit(&w->norm[i]);
    ka_tok_text_deinit(&w->pre[i]);
    ka_free(w->ranges[i].items);
  }
  ka_str_deinit(&w->tmp);
  ka_free(w);
}

ka_status ka_tok_work_take(struct ka_ctx *ctx, const struct ka_tokenizer *t,
                           struct ka_tok_work **out) {
  struct ka_tok_pool *pool = t->pool;
  pthread_mutex_lock(&pool->lock);
  struct ka_tok_work *w = pool->free;
  if (w) pool->free = w->next;
  pthread_mutex_unlock(&pool->lock);
  if (!w) {
    ka_status st = KA_STATUS_OK;
    KA_TRY(KA_NEW_HEAP(ctx, &w, 1, "tokenizer work space"));
    st = ka_tok_bpe_work_create(ctx, &w->bpe);
    if (st.code == KA_OK) st = ka_tok_rx_scan_create(ctx, &w->scan);
    if (st.code != KA_OK) {
      ka_tok_work_free(w);
      return st;
    }
  }
  *out = w;
  return KA_STATUS_OK;
}

/* Once, and only when a text has what the vocabulary cannot spell. */
static void warn_lost(struct ka_ctx *ctx, const struct ka_tokenizer *t, struct ka_tok_work *w) {
  size_t n;
  const char *lost = ka_tok_bpe_lost(w->bpe, &n);
  if (n == 0) return;
  pthread_mutex_lock(&t->pool->lock);
  bool first = !t->pool->warned;
  t->pool->warned = true;
  pthread_mutex_unlock(&t->pool->lock);
  if (first)
    ka_warn(ctx, "tokenizer", "%s: no token spells \"%.*s\" of the text; it %s", t->what, (int)n,
            lost,
            t->bpe.unk < 0 ? "is left out, as in the tokenizers library" : "becomes unk_token");
}

void ka_tok_work_give(const struct ka_tokenizer *t, struct ka_tok_work *w) {
  pthread_mutex_lock(&t->pool->lock);
  w->next = t->pool->free;
  t->pool->free = w;
  pthread_mutex_unlock(&t->pool->lock);
}

enum { INTERRUPT_WORDS = 1024 }; /* between two looks for a signal */

/* --- encode ---------------------------------------------------------------------------------- */

/* Normalized text without added tokens. */
static ka_status encode_words(struct ka_ctx *ctx, const struct ka_tokenizer *t,
                              struct ka_tok_work *w, struct ka_tok_view v,
                              struct ka_tok_tokens *out) {
  const struct ka_tok_ranges *words;
  bool bytes;
  if (v.n == 0) return KA_STATUS_OK;
  KA_TRY(
      ka_tok_pretokenize(ctx, &t->unicode, &t->pretokenizers, w, t->raw_bytes, &v, &words, &bytes));
  for (int64_t i = 0; i < words->n; i++) {
    struct ka_tok_range r = words->items[i];
    int64_t from = out->n;
    if (i % INTERRUPT_WORDS == 0) KA_TRY(ka_check_interrupted(ctx, "tokenizing"));
    KA_TRY(ka_tok_bpe_encode(ctx, &t->bpe, w->bpe, v.s + r.b, r.e - r.b, bytes, out));
    if (!out->want_spans) continue;
    for (int64_t k = from; k < out->n; k++) {
      struct ka_tok_span *span = &out->spans[k];
      size_t b = r.b + (size_t)span->begin, e = r.b + (size_t)span->end;
      if (b >= v.n) b = v.n - 1;
      if (e > v.n) e = v.n;
      span->begin = ka_tok_view_begin(&v, b);
      span->end = e > b ? ka_tok_view_end(&v, e - 1) : span->begin;
    }
  }
  return KA_STATUS_OK;
}

/* Calls `rest` for the text between the tokens of one set and pushes those. */
static ka_status
encode_around(struct ka_ctx *ctx, const struct ka_tokenizer *t, struct ka_tok_work *w,
              const struct ka_tok_added_set *set, const struct ka_tok_view *v,
              ka_status (*rest)(struct ka_ctx *, const struct ka_tokenizer *, struct ka_tok_work *,
                                struct ka_tok_view, struct ka_tok_tokens *),
              struct ka_tok_tokens *out) {
  const struct ka_tok_added *token;
  size_t at = 0, from = 0, b, e;
  while (ka_tok_added_next(&t->added, set, &t->unicode, w->scan, v->s, v->n, &at, from, &token, &b,
                           &e)) {
    if (from < b) KA_TRY(rest(ctx, t, w, ka_tok_view_slice(v, from, b), out));
    if (e > b)
      KA_TRY(push_token(ctx, out, token->id, ka_tok_view_begin(v, b), ka_tok_view_end(v, e - 1)));
    from = e;
  }
  return from < v->n ? rest(ctx, t, w, ka_tok_view_slice(v, from, v->n), out) : KA_STATUS_OK;
}

static ka_status encode_piece(struct ka_ctx *ctx, const struct ka_tokenizer *t,
                              struct ka_tok_work *w, struct ka_tok_view v,
                              struct ka_tok_tokens *out) {
  KA_TRY(ka_tok_normalize(ctx, &t->unicode, &t->normalizers, w, &v));
  return encode_around(ctx, t, w, &t->added.normal, &v, encode_words, out);
}

ka_status ka_tokenizer_encode(struct ka_ctx *ctx, const struct ka_tokenizer *t, const char *text,
                              size_t n_bytes, bool add_special_tokens, struct ka_tok_tokens *out) {
  int64_t n_before = out->n;
  if (n_bytes > INT32_MAX)
    return ka_fail(ctx, KA_E_INPUT, "text of %zu bytes: the limit is 2 GiB; split it", n_bytes);
  size_t valid = ka_utf8_check(text, n_bytes);
  if (valid < n_bytes)
    return ka_fail(ctx, KA_E_INPUT, "text: byte %zu (0x%02X) is not valid UTF-8", valid,
                   (unsigned char)text[valid]);
  struct ka_tok_work *w;
  KA_TRY(ka_tok_work_take(ctx, t, &w));
  ka_status st = KA_STATUS_OK;
  w->aligned = out->want_spans || t->needs_alignment;
  for (int64_t i = 0; i < t->n_before && add_special_tokens; i++)
    KA_TRY_GOTO(push_token(ctx, out, t->before[i], 0, 0), out);
  struct ka_tok_view v = {text ? text : "", n_bytes, 0, NULL, NULL};
  KA_TRY_GOTO(encode_around(ctx, t, w, &t->added.raw, &v, encode_piece, out), out);
  int64_t end = (int64_t)n_bytes;
  for (int64_t i = 0; i < t->n_after && add_special_tokens; i++)
    KA_TRY_GOTO(push_token(ctx, out, t->after[i], end, end), out);
out:
  if (st.code != KA_OK) out->n = n_before;
  warn_lost(ctx, t, w);
  ka_tok_work_give(t, w);
  return st;
}

/* --- decode ---------------------------------------------------------------------------------- */

static void pieces_deinit(struct ka_tok_pieces *p) {
  ka_str_deinit(&p->text);
  ka_free(p->ends);
}

ka_status ka_tokenizer_decode(struct ka_ctx *ctx, const struct ka_tokenizer *t, const int32_t *ids,
                              int64_t n, bool skip_special, struct ka_str *out) {
  struct ka_tok_pieces in = {0}, other = {0}, *result = &in;
  struct ka_tok_work *w;
  KA_TRY(ka_tok_work_take(ctx, t, &w));
  ka_status st = KA_STATUS_OK;
  for (int64_t i = 0; i < n; i++) {
    if (ids[i] < 0 || ids[i] >= t->bpe.n_ids || !t->bpe.tokens[ids[i]].s) continue;
    const struct ka_tok_token_text *text =
        t->decoded[ids[i]].s ? &t->decoded[ids[i]] : &t->bpe.tokens[ids[i]];
    if (skip_special && t->skipped[ids[i]]) continue;
    if (t->decoders.n == 0 && in.n > 0) KA_TRY_GOTO(ka_str_puts(ctx, &in.text, " "), out);
    KA_TRY_GOTO(ka_tok_pieces_push(ctx, &in, text->s, text->n), out);
  }
  if (in.n > 0)
    KA_TRY_GOTO(ka_tok_decode_parts(ctx, &t->unicode, &t->decoders, w->scan, &in, &other, &result),
                out);
  KA_TRY_GOTO(ka_str_append(ctx, out, result->text.data, result->text.len), out);
out:
  pieces_deinit(&in);
  pieces_deinit(&other);
  ka_tok_work_give(t, w);
  return st;
}

static bool ends_open(const struct ka_str *s) {
  return s->len >= 3 && memcmp(s->data + s->len - 3, "\xEF\xBF\xBD", 3) == 0;
}

static ka_status decode_into(struct ka_ctx *ctx, const struct ka_tok_decode_stream *s,
                             const struct ka_tokenizer *t, struct ka_str *out) {
  ka_str_clear(out);
  return ka_tokenizer_decode(ctx, t, s->ids, s->n, s->skip_special, out);
}

/* Hands out what the decoded ids have beyond the prefix, and keeps the last ids as context. */
static ka_status stream_step(struct ka_ctx *ctx, struct ka_tok_decode_stream *s,
                             const struct ka_tokenizer *t, bool flush, struct ka_str *out) {
  KA_TRY(decode_into(ctx, s, t, &s->scratch));
  if (s->scratch.len <= s->prefix.len || (ends_open(&s->scratch) && !flush)) return KA_STATUS_OK;
  KA_TRY(ka_str_append(ctx, out, s->scratch.data + s->prefix.len, s->scratch.len - s->prefix.len));
  int64_t fresh = s->n - s->prefix_n;
  memmove(s->ids, s->ids + s->prefix_n, (size_t)fresh * sizeof *s->ids);
  s->n = s->prefix_n = fresh;
  return decode_into(ctx, s, t, &s->prefix);
}

ka_status ka_tok_decode_stream_push(struct ka_ctx *ctx, struct ka_tok_decode_stream *s,
                                    const struct ka_tokenizer *t, int32_t id, struct ka_str *out) {
  void *p = s->ids;
  KA_TRY(ka_grow(ctx, &p, &s->cap, s->n + 1, sizeof *s->ids, "decoded ids"));
  s->ids = p;
  s->ids[s->n++] = id;
  return stream_step(ctx, s, t, false, out);
}

ka_status ka_tok_decode_stream_flush(struct ka_ctx *ctx, struct ka_tok_decode_stream *s,
                                     const struct ka_tokenizer *t, struct ka_str *out) {
  return s->n > s->prefix_n ? stream_step(ctx, s, t, true, out) : KA_STATUS_OK;
}

void ka_tok_decode_stream_deinit(struct ka_tok_decode_stream *s) {
  ka_free(s->ids);
  ka_str_deinit(&s->prefix);
  ka_str_deinit(&s->scratch);
  *s = (struct ka_tok_decode_stream){0};
}

/* --- questions ------------------------------------------------------------------------------- */

int64_t ka_tokenizer_vocab_size(const struct ka_tokenizer *t) { return t->bpe.n_ids; }

int32_t ka_tokenizer_token_id(const struct ka_tokenizer *t, const char *token, size_t n_bytes) {
  return ka_tok_bpe_find(&t->bpe, token, n_bytes);
}

const char *ka_tokenizer_token_text(const struct ka_tokenizer *t, int32_t id, size_t *n_bytes) {
  if (id < 0 || id >= t->bpe.n_ids) return NULL;
  if (n_bytes) *n_bytes = t->bpe.tokens[id].n;
  return t->bpe.tokens[id].s;
}

bool ka_tokenizer_is_special(const struct ka_tokenizer *t, int32_t id) {
  return id >= 0 && id < t->bpe.n_ids && t->special[id];
}

int32_t ka_tokenizer_bos(const struct ka_tokenizer *t) { return t->bos; }
int32_t ka_tokenizer_eos(const struct ka_tokenizer *t) { return t->eos; }
