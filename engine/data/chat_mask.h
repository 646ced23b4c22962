/* SPDX-License-Identifier: Apache-2.0
 *
 * From a conversation to token ids and labels: which tokens a chat_template dataset trains.
 *
 * The conversation is rendered once and tokenized once (no special tokens added: the template
 * writes them), so the ids are those of transformers' apply_chat_template. What is trained is found
 * as byte ranges of that text:
 *
 *   <|im_start|>user\n  Hi  <|im_end|>\n  <|im_start|>assistant\n  Hello!  <|im_end|>  \n
 *   header              .   .             header: never            body    end of turn  never
 *
 * 1. A template with {% generation %} blocks says itself what is trained, if the options are the
 *    usual ones (only assistant, train_on_eos turn, no train_on_inputs); with others its blocks are
 *    the assistants' turns, if each has one.
 * 2. An assistant's turn begins where the messages before it end when rendered with
 *    add_generation_prompt, and ends where the messages up to it end, if those renderings are
 *    prefixes of the whole. The last special token of that range is its end of turn. An EOS that
 *    the template writes behind the last turn alone ends that one besides, never an earlier one.
 *    A prompt may open what the history does not show ("assistant\n<think>\n", but "assistant\nYes"
 *    or "assistant\n<think></think>Yes"): the turn begins where they part, before such a tag.
 * 3. Else (other roles; templates that rewrite earlier turns or ignore add_generation_prompt) the
 *    message is rendered once more with another text: what differs between the two renderings is
 *    the body. For example "Bot: Hello!</s>" and "Bot: Bye.</s>" differ in "Hello!", so that is
 *    trained. An end-of-turn token (the model's EOS, or one found by 2) may follow within three
 *    tokens: here "</s>" is trained too.
 *
 * A token belongs to a range when it shares a byte with it, as in transformers: where a template
 * puts a space before an answer and " Yes" is one token, that token is trained. */
#ifndef KAPPA_ENGINE_DATA_CHAT_MASK_H
#define KAPPA_ENGINE_DATA_CHAT_MASK_H

#include "engine/data/chat.h"
#include "engine/job/job.h"
#include "tokenizer/tokenizer.h"

struct ka_chat_mask_options {
  const char *const *roles_to_train; /* NULL: only "assistant" */
  int64_t n_roles;
  int train_on_eos;           /* KA_EOS_TURN, ALL, LAST or NONE: see train_on_eos in job.def */
  bool train_on_inputs;       /* every role's bodies are trained (headers never) */
  const char *field_training; /* a message's or part's own true or false; NULL: "train" */
  const struct ka_jinja_options *jinja; /* may be NULL */
};

/* Growing output; zero-initialise, free with ka_chat_masked_deinit. */
struct ka_chat_masked {
  struct ka_tok_tokens tokens; /* ids and spans (byte ranges of text) */
  int32_t *labels;             /* [tokens.n]: the id, or -100 */
  int64_t labels_cap;
  int64_t n_endless;  /* trained turns without an end-of-turn token */
  struct ka_str text; /* the rendering */
};
void ka_chat_masked_deinit(struct ka_chat_masked *m);

/* Replaces *out by the ids and labels of one conversation. vars as for ka_chat_render: messages
 * with "role" and "content", tools, ...; add_generation_prompt is taken as false. A content that is
 * a list of text parts of which some carry the training field is joined, and each part is trained
 * as it says; a message's own flag beats its role. KA_E_INPUT: what ka_chat_render and
 * ka_tokenizer_encode report, a trained turn that cannot be found in the rendering. Thread-safe
 * with ctx and out per thread. */
ka_status ka_chat_mask(struct ka_ctx *ctx, const struct ka_chat *chat,
                       const struct ka_tokenizer *tokenizer, const json_t *vars,
                       const struct ka_chat_mask_options *opts, struct ka_chat_masked *out);

#endif
