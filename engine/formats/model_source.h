/* SPDX-License-Identifier: Apache-2.0
 *
 * What a MODEL of the command line stands for: a Hugging Face directory (or the name on the Hub of
 * one that this machine's cache holds), a delta (delta.h) or an
 * adapter (adapter.h) over its base. The last two become the tuned model in memory: only replaced
 * tensors take any, all others stay the base's map. Nothing behind this interface knows. */
#ifndef KAPPA_ENGINE_FORMATS_MODEL_SOURCE_H
#define KAPPA_ENGINE_FORMATS_MODEL_SOURCE_H

#include "engine/formats/safetensors.h"

struct ka_model_source {
  struct ka_arena arena;
  const char *dir; /* with the tuned model's config.json, tokenizer and templates; until close */
  const char *temp_dir;        /* dir when it was made for this, else NULL; removed by close */
  int64_t n_adapter;           /* elements of an adapter's tensors; 0: it is none */
  struct ka_safetensors files; /* a user may take them over: then zero them */
};

/* base: where the base of a delta or adapter is; NULL: where they say it is. A bare .safetensors
 * file that is no delta is itself, without a directory (dir: the file). KA_E_USAGE for a base of
 * what has none. Free with ka_model_source_close, also after a failure. */
ka_status ka_model_source_open(struct ka_ctx *ctx, struct ka_model_source *s, const char *model,
                               const char *base);
/* Only dir, without looking at any weights: `model` may then also be a tokenizer.json. */
ka_status ka_model_source_open_dir(struct ka_ctx *ctx, struct ka_model_source *s, const char *model,
                                   const char *base);
void ka_model_source_close(struct ka_model_source *s);

#endif
