/* SPDX-License-Identifier: Apache-2.0
 *
 * Text generation, one sequence at a time: keys and values of the past are kept, so that a token
 * costs one row. */
#ifndef KAPPA_ENGINE_MODEL_DECODE_H
#define KAPPA_ENGINE_MODEL_DECODE_H

#include "engine/model/model.h"

struct ka_kv; /* plan.h */

struct ka_decoder {
  struct ka_model *m;
  struct ka_arena memory, cache; /* cache: in the device's memory */
  struct ka_kv *kv;              /* [L] */
  int64_t capacity, past;
  int32_t *position, *labels, *start; /* [chunk] */
};

/* Prepares the model for decoding sequences of up to `capacity` tokens; nothing of it may be
 * trained. KA_E_MEMORY: the cache is 2 * L * capacity * K * D numbers. */
ka_status ka_decoder_init(struct ka_decoder *d, struct ka_model *m, int64_t capacity);
void ka_decoder_deinit(struct ka_decoder *d);

/* Appends n > 0 tokens to the sequence; logits [V] f32 of what follows the last one. KA_E_INPUT: an
 * id outside the vocabulary, or no room. */
ka_status ka_decoder_push(struct ka_decoder *d, const int32_t *ids, int64_t n, float *logits);

/* The next token: the first of the likeliest with temperature 0, else drawn from
 * softmax(logits / temperature) by the random number (seed, index). */
int32_t ka_sample(const float *logits, int64_t V, double temperature, uint64_t seed,
                  uint64_t index);

#endif
