/* SPDX-License-Identifier: Apache-2.0
 * Loss of plain text in rolling windows; see text_loss.h. */
#include "engine/eval/text_loss.h"

#include "base/file.h"
#include "engine/eval/divergence.h"

#include <math.h>
#include <string.h>

double ka_eval_text_loss_per_token(const struct ka_eval_text_loss *t) {
  return t->loss_sum / (double)t->n_tokens;
}
double ka_eval_text_token_perplexity(const struct ka_eval_text_loss *t) {
  return exp(t->loss_sum / (double)t->n_tokens);
}
double ka_eval_text_word_perplexity(const struct ka_eval_text_loss *t) {
  return exp(t->loss_sum / (double)t->n_words);
}
double ka_eval_text_byte_perplexity(const struct ka_eval_text_loss *t) {
  return exp(t->loss_sum / (double)t->n_bytes);
}
double ka_eval_text_bits_per_byte(const struct ka_eval_text_loss *t) {
  return t->loss_sum / (double)t->n_bytes / M_LN2;
}

/* JSON has no infinity: a perplexity beyond a double is null. */
json_t *ka_eval_text_loss_json(const struct ka_eval_text_loss *t) {
  return json_pack("{s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o}", "tokens",
                   (json_int_t)t->n_tokens, "words", (json_int_t)t->n_words, "bytes",
                   (json_int_t)t->n_bytes, "documents", (json_int_t)t->n_docs, "loss_sum",
                   ka_json_real(t->loss_sum), "loss", ka_json_real(ka_eval_text_loss_per_token(t)),
                   "token_perplexity", ka_json_real(ka_eval_text_token_perplexity(t)),
                   "word_perplexity", ka_json_real(ka_eval_text_word_perplexity(t)),
                   "byte_perplexity", ka_json_real(ka_eval_text_byte_perplexity(t)),
                   "bits_per_byte", ka_json_real(ka_eval_text_bits_per_byte(t)));
}

int64_t ka_eval_text_window(int64_t max_positions) {
  enum { MOST = 2048 };
  return max_positions < MOST ? max_positions : MOST;
}

int64_t ka_eval_count_words(const char *text, size_t n_bytes) {
  int64_t n = 1;
  bool in_space = false;
  for (size_t i = 0; i < n_bytes;) {
    uint32_t c = 0;
    int len = ka_utf8_decode(text + i, n_bytes - i, &c);
    bool space = len > 0 && ka_is_space(c);
    n += space && !in_space;
    in_space = space;
    i += len > 0 ? (size_t)len : 1;
  }
  return n;
}

ka_status ka_eval_text_scorer_init(struct ka_ctx *ctx, struct ka_eval_text_scorer *s,
                                   struct ka_model *m, const struct ka_tokenizer *tokenizer,
                                   int64_t B, int64_t T) {
  *s = (struct ka_eval_text_scorer){.ctx = ctx, .model = m, .tokenizer = tokenizer, .B = B, .T = T};
  int32_t **arrays[] = {&s->input_ids, &s->labels, &s->position, &s->doc_start};
  for (int i = 0; i < 4; i++) {
    KA_TRY(KA_NEW_HEAP(ctx, arrays[i], B * T, "evaluation batch"));
  }
  return KA_STATUS_OK;
}

void ka_eval_text_scorer_deinit(struct ka_eval_text_scorer *s) {
  ka_free(s->input_ids);
  ka_free(s->labels);
  ka_free(s->position);
  ka_free(s->doc_start);
  ka_tok_tokens_deinit(&s->tokens);
}

ka_status ka_eval_text_scorer_finish(struct ka_eval_text_scorer *s) {
  struct ka_ctx *ctx = s->ctx;
  if (s->n_rows == 0) return KA_STATUS_OK;
  KA_TRY(ka_check_interrupted(ctx, "evaluation"));
  struct ka_batch batch = {.B = s->n_rows,
                           .T = s->T,
                           .input_ids = s->input_ids,
                           .labels = s->labels,
                           .position = s->position,
                           .doc_start = s->doc_start,
                           .n_targets = s->n_targets};
  double loss_sum = 0;
  if (s->base)
    KA_TRY(ka_eval_divergence(ctx, s->base, s->model, &batch, &s->kl_sum));
  else
    KA_TRY(ka_model_eval(s->model, &batch, &loss_sum, NULL));
  s->total.loss_sum += loss_sum;
  s->total.n_tokens += s->n_targets;
  if (s->on_batch) s->on_batch(s->user, s->n_targets);
  s->n_rows = s->n_targets = 0;
  return KA_STATUS_OK;
}

/* One window: n tokens of which the last n_scored are targets; n <= T. The last token's own output
 * is not used, so its position may stay within the model's range although n can exceed it by one.
 */
static ka_status add_window(struct ka_eval_text_scorer *s, const int32_t *ids, int64_t n,
                            int64_t n_scored) {
  int64_t at = s->n_rows * s->T, last_position = s->model->recipe.max_positions - 1;
  for (int64_t i = 0; i < s->T; i++) {
    bool in = i < n;
    int64_t position = in ? i : i - n;
    s->input_ids[at + i] = in ? ids[i] : 0;
    s->labels[at + i] = in && i >= n - n_scored ? ids[i] : -100;
    s->position[at + i] = (int32_t)(position < last_position ? position : last_position);
    s->doc_start[at + i] = in ? 0 : (int32_t)n;
  }
  s->n_targets += n_scored;
  s->n_rows++;
  return s->n_rows == s->B ? ka_eval_text_scorer_finish(s) : KA_STATUS_OK;
}

static ka_status check_ids(struct ka_eval_text_scorer *s) {
  struct ka_ctx *ctx = s->ctx;
  for (int64_t i = 0; i < s->tokens.n; i++)
    if (s->tokens.ids[i] < 0 || s->tokens.ids[i] >= s->model->recipe.V)
      return ka_fail(ctx, KA_E_INPUT,
                     "token id %d is outside the model's vocabulary of %lld; the tokenizer is not "
                     "this model's",
                     s->tokens.ids[i], (long long)s->model->recipe.V);
  return KA_STATUS_OK;
}

/* tokens = [prefix] + ids, so targets are tokens[1..n). */
static ka_status score_tokens(struct ka_eval_text_scorer *s) {
  struct ka_ctx *ctx = s->ctx;
  const int32_t *ids = s->tokens.ids;
  int64_t n = s->tokens.n, max_len = s->T - 1;
  KA_TRY(check_ids(s));
  for (int64_t done = 1; done < n;) {
    int64_t n_scored = n - done < max_len ? n - done : max_len, end = done + n_scored;
    int64_t begin = end - s->T > 0 && done > 1 ? end - s->T : 0;
    KA_TRY(add_window(s, ids + begin, end - begin, n_scored));
    done = end;
  }
  return KA_STATUS_OK;
}

ka_status ka_eval_text_scorer_document(struct ka_eval_text_scorer *s, const char *text,
                                       size_t n_bytes) {
  struct ka_ctx *ctx = s->ctx;
  s->total.n_docs++;
  s->total.n_words += ka_eval_count_words(text, n_bytes);
  s->total.n_bytes += (int64_t)n_bytes;
  int32_t prefix = ka_tokenizer_bos(s->tokenizer);
  if (prefix < 0) prefix = ka_tokenizer_eos(s->tokenizer);
  ka_tok_tokens_clear(&s->tokens);
  if (prefix >= 0) {
    void *ids = s->tokens.ids;
    KA_TRY(ka_grow(ctx, &ids, &s->tokens.cap, 1, sizeof(int32_t), "tokens"));
    s->tokens.ids = ids;
    s->tokens.ids[s->tokens.n++] = prefix;
  }
  KA_TRY(ka_tokenizer_encode(ctx, s->tokenizer, text, n_bytes, false, &s->tokens));
  return score_tokens(s);
}

static ka_status score_lines(struct ka_eval_text_scorer *s, const char *path,
                             const struct ka_str *all) {
  struct ka_ctx *ctx = s->ctx;
  int64_t line = 1;
  for (size_t at = 0; at < all->len; line++) {
    const char *p = all->data + at, *newline = memchr(p, '\n', all->len - at);
    size_t n = newline ? (size_t)(newline - p) : all->len - at;
    at += n + 1;
    if (n == 0) continue;
    char what[1200];
    snprintf(what, sizeof what, "%s:%lld", path, (long long)line);
    json_t *row = NULL;
    KA_TRY(ka_json_parse(ctx, p, n, what, &row));
    const json_t *text = json_object_get(row, "text");
    ka_status st = KA_STATUS_OK;
    if (!json_is_string(text))
      st = ka_fail(ctx, KA_E_INPUT, "%s: \"text\": a string is expected", what);
    else
      st = ka_eval_text_scorer_document(s, json_string_value(text), json_string_length(text));
    json_decref(row);
    KA_TRY(st);
  }
  return KA_STATUS_OK;
}

ka_status ka_eval_text_scorer_file(struct ka_eval_text_scorer *s, const char *path) {
  struct ka_ctx *ctx = s->ctx;
  struct ka_str all = {0};
  ka_status st = ka_read_file(ctx, path, 0, &all);
  size_t bad = ka_ok(st) ? ka_utf8_check(all.data ? all.data : "", all.len) : 0;
  if (ka_ok(st) && bad < all.len)
    st = ka_fail(ctx, KA_E_INPUT, "%s: byte %zu is not valid UTF-8", path, bad);
  if (ka_ok(st) && ka_ends_with(path, ".jsonl"))
    st = score_lines(s, path, &all);
  else if (ka_ok(st))
    st = ka_eval_text_scorer_document(s, all.data ? all.data : "", all.len);
  ka_str_deinit(&all);
  return st;
}
