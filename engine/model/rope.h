/* SPDX-License-Identifier: Apache-2.0
 * Rotary position tables, bit for bit in the order of operations of transformers'
 * modeling_rope_utils.py, in float32. */
#ifndef KAPPA_ENGINE_MODEL_ROPE_H
#define KAPPA_ENGINE_MODEL_ROPE_H

#include "engine/formats/config.h"

/* Channels of a head of D that rotate. */
int64_t ka_rope_channels(const struct ka_hf_rope_params *p, int64_t D);

/* Do sequences longer than original_max_position_embeddings turn by other frequencies? */
bool ka_rope_turns(const struct ka_hf_rope_params *p);

/* inv_freq [R/2] f32 and the factor on cos and sin (1 but for yarn and longrope). beyond: of such
 * sequences. */
void ka_rope_frequencies(const struct ka_hf_rope_params *p, int64_t R, bool beyond, float *inv_freq,
                         float *attention_factor);

/* cos, sin [P,R/2] f32 with the factor in. */
void ka_rope_table(const struct ka_hf_rope_params *p, int64_t R, int64_t P, bool beyond,
                   float *cos_out, float *sin_out);

#endif
