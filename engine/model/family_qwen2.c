/* SPDX-License-Identifier: Apache-2.0
 * Qwen2 and Qwen2.5: Llama with biases on q, k and v, and windows on some layers when asked. */
#include "engine/model/family_common.h"

static const struct ka_tensor_row rows[] = {
    KA_LLAMA_TENSORS,
    KA_QKV_BIASES,
    {0},
};

static ka_status recipe(struct ka_arena *arena, const struct ka_hf_config *config,
                        struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  KA_TRY(ka_recipe_llama(arena, config, out));
  return ka_recipe_qwen_windows(ctx, config, out);
}

const struct ka_family ka_family_qwen2 = {
    .name = "qwen2",
    .architectures = (const char *const[]){"Qwen2ForCausalLM", NULL},
    .model_types = (const char *const[]){"qwen2", NULL},
    .map = {ka_llama_prefixes, rows},
    .defaults =
        "{\"num_key_value_heads\": 32, \"max_position_embeddings\": 32768," KA_QWEN_WINDOWS "}",
    .recipe = recipe,
};
