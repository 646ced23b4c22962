/* SPDX-License-Identifier: Apache-2.0
 * Qwen3 dense: Llama with a norm of each head's q and k before RoPE. */
#include "engine/model/family_common.h"

static const struct ka_tensor_row rows[] = {
    KA_LLAMA_TENSORS, KA_QK_NORMS, KA_QKV_BIASES, KA_O_BIAS, {0},
};

static ka_status recipe(struct ka_arena *arena, const struct ka_hf_config *config,
                        struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  KA_TRY(ka_recipe_llama(arena, config, out));
  ka_recipe_attention_bias(config, out);
  return ka_recipe_qwen_windows(ctx, config, out);
}

const struct ka_family ka_family_qwen3 = {
    .name = "qwen3",
    .architectures = (const char *const[]){"Qwen3ForCausalLM", NULL},
    .model_types = (const char *const[]){"qwen3", NULL},
    .map = {ka_llama_prefixes, rows},
    .defaults = "{\"num_key_value_heads\": 32, \"max_position_embeddings\": 32768, \"head_dim\": "
                "128," KA_QWEN_WINDOWS "}",
    .recipe = recipe,
};
