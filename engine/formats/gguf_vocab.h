/* SPDX-License-Identifier: Apache-2.0
 *
 * A tokenizer as facts of a GGUF file: tokens with their kinds, merges or scores, special
 * tokens. */
#ifndef KAPPA_ENGINE_FORMATS_GGUF_VOCAB_H
#define KAPPA_ENGINE_FORMATS_GGUF_VOCAB_H

#include "engine/formats/config.h"
#include "engine/formats/gguf.h"
#include "tokenizer/tokenizer.h"

/* The tokenizer of `dir`, which t is. `pre`: llama.cpp's name for how the text is split into words,
 * NULL: found by the pre-tokenizer. Ids from the tokenizer's end to config's vocab_size become
 * unused tokens. Byte-level tokenizers are "gpt2" there; those of characters with bytes for the
 * rest are "llama", where pieces join by scores: minus the rank of a piece's first merge.
 * KA_E_UNSUPPORTED: neither of the two, words split in a way without a name there (the message says
 * how to give it), more tokens than the model has rows. */
ka_status ka_gguf_vocab(struct ka_gguf *g, const struct ka_tokenizer *t, const char *dir,
                        const struct ka_hf_config *config, const char *pre);

#endif
