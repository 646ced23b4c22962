/* SPDX-License-Identifier: Apache-2.0
 *
 * Answers to prompts, greedy or drawn, several side by side. An answer ends with the model's end
 * token, with a text that ends answers, or with its longest length; what is kept is the text before
 * the first of those texts. */
#ifndef KAPPA_ENGINE_EVAL_GENERATOR_H
#define KAPPA_ENGINE_EVAL_GENERATOR_H

#include "engine/data/speech.h"
#include "engine/eval/sampling.h"
#include "engine/job/keys.h"
#include "engine/model/model.h"
#include "tokenizer/tokenizer.h"

struct ka_eval_prompt {
  const int32_t *ids; /* [n], n > 0 */
  int64_t n;
  const struct ka_speech_clip *clip; /* heard at its places; NULL: text alone */
  uint64_t draw;                     /* names the draw of this answer */
  struct ka_str text;                /* out; starts empty */
  int64_t n_new;                     /* out: tokens of the answer */
};

struct ka_eval_generation {
  const struct ka_tokenizer *tokenizer;
  const struct ka_key_texts *until;
  int64_t max_tokens;
  struct ka_eval_sampling sampling;
  uint64_t seed;
  const struct ka_speech *speech; /* of clips */
  int64_t batch_size;             /* answers side by side; 0: by default */
  void (*progress)(void *user, int64_t n_done);
  void *user;
};

/* m: prepared, for positions below the longest n + max_tokens. KA_E_INPUT: an id outside its
 * vocabulary; KA_E_CHECK: the model computes what is no number; KA_E_INTERRUPTED. */
ka_status ka_eval_generate_answers(struct ka_ctx *ctx, struct ka_model *m,
                                   struct ka_eval_prompt *prompts, int64_t n,
                                   const struct ka_eval_generation *g);

#endif
