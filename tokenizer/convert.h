/* SPDX-License-Identifier: Apache-2.0
 *
 * A tokenizer.json from the older files of a model directory, as transformers converts them. */
#ifndef KAPPA_TOKENIZER_CONVERT_H
#define KAPPA_TOKENIZER_CONVERT_H

#include "base/json.h"

/* vocab.json and merges.txt of dir, of the classes GPT2Tokenizer and Qwen2Tokenizer, as the object
 * that tokenizer.json would hold (new reference). KA_E_INPUT when there is no tokenizer at all,
 * KA_E_UNSUPPORTED with the command that writes a tokenizer.json for any other. */
ka_status ka_tok_convert(struct ka_ctx *ctx, const char *dir, json_t **root);

/* What the tokenizer of a model directory is, for other formats: its tokenizer.json, or what
 * ka_tok_convert makes, with the tokens that only tokenizer_config.json names (new reference). A
 * NUL in a token's text is U+FDD0 in the vocabulary's keys. */
ka_status ka_tok_read(struct ka_ctx *ctx, const char *dir, json_t **root);

/* The two halves of merges[i] of such an object's model, in either spelling: "a b" or ["a", "b"].
 * Borrowed. KA_E_INPUT names `what` and the merge. */
ka_status ka_tok_merge_halves(struct ka_ctx *ctx, const json_t *merges, int64_t i, const char *what,
                              const char *half[2], size_t len[2]);

#endif
