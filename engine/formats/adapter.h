/* SPDX-License-Identifier: Apache-2.0
 *
 * A LoRA adapter as PEFT saves it (adapter_config.json, adapter_model.safetensors), merged into its
 * base in memory: W + alpha/r B A. The result is that of PEFT's merge_and_unload, except where that
 * differs from what was trained: adapters on tied embeddings (docs/deltas.md). Whatever is not
 * plain LoRA is refused by key and value. kappa trains no adapters. */
#ifndef KAPPA_ENGINE_FORMATS_ADAPTER_H
#define KAPPA_ENGINE_FORMATS_ADAPTER_H

#include "engine/formats/safetensors.h"

/* Holds adapter_config.json and no weights of a whole model. */
bool ka_adapter_is(const char *dir);

/* base_model_name_or_path; "" when absent. In the arena. */
ka_status ka_adapter_base(struct ka_arena *arena, const char *dir, const char **base);

/* `files`, the opened base at base_dir, becomes the merged model: what changes is memory in its
 * arena, in the base's dtypes; tensors that the adapter holds whole (modules_to_save, biases) are
 * views in the adapter's dtypes. *untied: the head is a tensor of its own now, lm_head.weight,
 * although base_dir's config.json says otherwise. *n_elems: of the adapter's own tensors, that is
 * what was trained. On failure `files` is as before, but for memory. */
ka_status ka_adapter_merge(struct ka_ctx *ctx, const char *dir, const char *base_dir,
                           struct ka_safetensors *files, bool *untied, int64_t *n_elems);

#endif
