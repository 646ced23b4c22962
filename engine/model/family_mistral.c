/* SPDX-License-Identifier: Apache-2.0
 * Mistral 7B and its kin: Llama with a sliding window on every layer. */
#include "engine/model/family_common.h"

static const struct ka_tensor_row rows[] = {
    KA_LLAMA_TENSORS,
    {0},
};

static ka_status recipe(struct ka_arena *arena, const struct ka_hf_config *config,
                        struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  KA_TRY(ka_recipe_llama(arena, config, out));
  for (int64_t l = 0; l < out->L; l++) out->layers[l].window = config->sliding_window;
  return KA_STATUS_OK;
}

const struct ka_family ka_family_mistral = {
    .name = "mistral",
    .architectures = (const char *const[]){"MistralForCausalLM", NULL},
    .model_types = (const char *const[]){"mistral", NULL},
    .map = {ka_llama_prefixes, rows},
    .defaults = "{\"num_key_value_heads\": 8, \"max_position_embeddings\": 131072,"
                " \"sliding_window\": 4096}",
    .recipe = recipe,
};
