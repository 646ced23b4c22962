/* SPDX-License-Identifier: Apache-2.0
 *
 * Sequences that grow: keys and values of the past are kept, so that a token costs one row. One
 * sequence, or several side by side, which grow together. */
#ifndef KAPPA_ENGINE_MODEL_DECODE_H
#define KAPPA_ENGINE_MODEL_DECODE_H

#include "engine/model/model.h"

struct ka_kv; /* buffers.h */

struct ka_decoder {
  struct ka_model *m;
  struct ka_arena memory, cache; /* cache: in the device's memory */
  struct ka_kv *kv;              /* [L] */
  int64_t B, capacity, past, chunk;
  int32_t *skip; /* [B]: tokens at the start of a sequence that are padding; 0 until set */
  int32_t *ids, *position, *labels, *start; /* [B * chunk] */
  int32_t *length;                          /* [B] */
  int32_t *all;                             /* [B * capacity] where longer sequences turn otherwise:
                                               their ids, to go through them anew; else NULL */
  int32_t *row, *target;                    /* [rows of the model], [B] */
  float *loss;                              /* [B] */
  const struct ka_clips *clips; /* heard in the next push, of at most `chunk` tokens; then NULL */
};

/* Prepares the model for decoding one sequence of up to `capacity` tokens; nothing of it may be
 * trained. KA_E_MEMORY: the cache is 2 * L * capacity * K * D numbers. */
ka_status ka_decoder_init(struct ka_decoder *d, struct ka_model *m, int64_t capacity);
/* The same for B sequences on a model that is prepared, for at least B rows and `capacity`
 * positions; it may be in training, between two steps. */
ka_status ka_decoder_attach(struct ka_decoder *d, struct ka_model *m, int64_t B, int64_t capacity);
/* Bytes of keys and values of one sequence of `capacity` tokens; of an open model. */
int64_t ka_decoder_sequence_bytes(const struct ka_model *m, int64_t capacity);
void ka_decoder_deinit(struct ka_decoder *d);

/* Appends n > 0 tokens to each sequence, ids [B,n]; logits [B,V] f32 of what follows the last ones,
 * best [B] the likeliest token there, either NULL. KA_E_INPUT: an id outside the vocabulary, or no
 * room. */
ka_status ka_decoder_push(struct ka_decoder *d, const int32_t *ids, int64_t n, float *logits,
                          int32_t *best);

/* Appends n tokens to the one sequence and scores pairs as ka_model_score does; their rows count
 * from ids[0] and do not fall. */
ka_status ka_decoder_score(struct ka_decoder *d, const int32_t *ids, int64_t n,
                           const struct ka_pairs *pairs, float *loss, int32_t *best);

/* Forgets what came behind the first `past` tokens. */
void ka_decoder_rewind(struct ka_decoder *d, int64_t past);

/* The next token: the first of the likeliest with temperature 0, else drawn from
 * softmax(logits / temperature) by the random number (seed, index). */
int32_t ka_sample(const float *logits, int64_t V, double temperature, uint64_t seed,
                  uint64_t index);

#endif
