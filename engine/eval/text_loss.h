/* SPDX-License-Identifier: Apache-2.0
 *
 * How well a model predicts plain text: the summed negative log-likelihood of every token of a
 * document, from one pass, and the four figures that come of it.
 *
 * Windows ("rolling"): the first window starts with the prefix token (BOS, else EOS; without
 * either, the document's first token is context only) and predicts the first W tokens; each later
 * one starts with the token before its first target, so a full window has one token of context; the
 * last, short one is filled up to the left with tokens already scored. No token is scored twice,
 * none is skipped. Special tokens that the tokenizer would add are not scored. Perplexities are of
 * the whole text, not means of documents' perplexities. */
#ifndef KAPPA_ENGINE_EVAL_TEXT_LOSS_H
#define KAPPA_ENGINE_EVAL_TEXT_LOSS_H

#include "base/json.h"
#include "engine/model/model.h"
#include "tokenizer/tokenizer.h"

struct ka_eval_text_loss {
  double loss_sum;  /* nats */
  int64_t n_tokens; /* scored */
  int64_t n_words;  /* pieces of the text split at runs of white space, as Python's re.split(\s+):
                       blanks at the ends count */
  int64_t n_bytes;  /* UTF-8 */
  int64_t n_docs;
};

double
ka_eval_text_loss_per_token(const struct ka_eval_text_loss *t); /* nats; NaN when no tokens */
double ka_eval_text_token_perplexity(const struct ka_eval_text_loss *t); /* exp(loss / tokens) */
double ka_eval_text_word_perplexity(const struct ka_eval_text_loss *t);  /* exp(loss / words) */
double ka_eval_text_byte_perplexity(const struct ka_eval_text_loss *t);  /* exp(loss / bytes) */
double ka_eval_text_bits_per_byte(const struct ka_eval_text_loss *t);    /* loss / bytes / ln 2 */
/* {"tokens", "words", "bytes", "documents", "loss", "token_perplexity", ...}; NULL: no memory. */
json_t *ka_eval_text_loss_json(const struct ka_eval_text_loss *t);

/* Tokens predicted at once where nobody says: the model's positions, at most 2048. */
int64_t ka_eval_text_window(int64_t max_positions);
int64_t ka_eval_count_words(const char *text, size_t n_bytes);

/* Scores documents into *total (+=). Zero-initialised by _init; windows are rows of a [B,T] batch,
 * so W = T - 1; the model must be prepared for B x T. */
struct ka_eval_text_scorer {
  struct ka_ctx *ctx;
  struct ka_model *model;
  const struct ka_tokenizer *tokenizer;
  int64_t B, T, n_rows;
  int32_t *input_ids, *labels, *position, *doc_start; /* [B,T] */
  int64_t n_targets;
  struct ka_tok_tokens tokens;
  struct ka_eval_text_loss total;
  struct ka_model *base; /* of the same tokenizer, prepared for B x T: measures kl_sum, no loss */
  double kl_sum;         /* KL(base || model) over the scored tokens, see divergence.h */
  void (*on_batch)(void *user, int64_t n_tokens); /* progress; may be NULL */
  void *user;
};

ka_status ka_eval_text_scorer_init(struct ka_ctx *ctx, struct ka_eval_text_scorer *s,
                                   struct ka_model *m, const struct ka_tokenizer *tokenizer,
                                   int64_t B, int64_t T);
void ka_eval_text_scorer_deinit(struct ka_eval_text_scorer *s);
/* One document. Its loss may be added only by the next document's batch, or by finish. */
ka_status ka_eval_text_scorer_document(struct ka_eval_text_scorer *s, const char *text,
                                       size_t n_bytes);
/* A file: a whole text file is one document; of a .jsonl file each line's "text" is one. */
ka_status ka_eval_text_scorer_file(struct ka_eval_text_scorer *s, const char *path);
ka_status ka_eval_text_scorer_finish(struct ka_eval_text_scorer *s);

#endif
