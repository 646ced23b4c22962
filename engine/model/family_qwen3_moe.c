/* SPDX-License-Identifier: Apache-2.0
 * Qwen3-MoE: Qwen3 with experts in some layers; one window for all of them, when asked. */
#include "engine/model/family_moe.h"

static const struct ka_tensor_row rows[] = {
    KA_LLAMA_TENSORS, KA_QK_NORMS, KA_QKV_BIASES, KA_O_BIAS, KA_MOE_TENSORS, {0},
};

static ka_status recipe(struct ka_arena *arena, const struct ka_hf_config *config,
                        struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  KA_TRY(ka_recipe_llama(arena, config, out));
  ka_recipe_attention_bias(config, out);
  for (int64_t l = 0; l < out->L; l++)
    out->layers[l].window = config->use_sliding_window ? config->sliding_window : 0;
  KA_TRY(ka_recipe_experts(arena, config, "moe_intermediate_size", NULL, out));
  return ka_recipe_dense_layers(ctx, config, out);
}

const struct ka_family ka_family_qwen3_moe = {
    .name = "qwen3_moe",
    .architectures = (const char *const[]){"Qwen3MoeForCausalLM", NULL},
    .model_types = (const char *const[]){"qwen3_moe", NULL},
    .map = {ka_llama_prefixes, rows},
    .defaults = "{\"num_experts\":128,\"num_experts_per_tok\":8,\"intermediate_size\":6144,"
                "\"moe_intermediate_size\":768,\"router_aux_loss_coef\":0.001,"
                "\"num_key_value_heads\":4,\"sliding_window\":4096,"
                "\"max_position_embeddings\":32768}",
    .recipe = recipe,
};
