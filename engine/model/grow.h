/* SPDX-License-Identifier: Apache-2.0
 *
 * A model with more tokens. */
#ifndef KAPPA_ENGINE_MODEL_GROW_H
#define KAPPA_ENGINE_MODEL_GROW_H

#include "base/status.h"

#include <stdint.h>

struct ka_model_grown {
  int64_t n_added, n_rows_added; /* tokens; rows of the embedding, fewer where some were free */
};

/* Writes the model of model_dir with n more tokens into out_dir (made; must hold no model): the
 * tokenizer's files, config.json's vocab_size, the embedding and an own head, everything else as it
 * is. Tokens that the vocabulary has are passed over. New rows are drawn as transformers'
 * mean_resizing draws them: from the normal distribution with the mean of the old rows and 1e-9 of
 * their covariance, by the seed. special: decoding may leave the tokens out.
 * KA_E_INPUT, KA_E_UNSUPPORTED: no tokenizer, a vocabulary with NUL, weights that cannot be
 * read. */
ka_status ka_model_grow(struct ka_ctx *ctx, const char *model_dir, const char *out_dir,
                        const char *const *tokens, int64_t n, bool special, uint64_t seed,
                        struct ka_model_grown *grown);

#endif
