/* SPDX-License-Identifier: Apache-2.0
 * OLMo-2: Llama with the norms behind the branches, and a norm over all of q and of k. */
#include "engine/model/family_common.h"

static const struct ka_tensor_row rows[] = {
    KA_LLAMA_MATRICES,
    KA_QK_NORMS,
    KA_QKV_BIASES,
    KA_O_BIAS,
    {KA_ROLE_ATTN_POST_NORM, ".layers.{layer}.post_attention_layernorm.weight"},
    {KA_ROLE_FFN_POST_NORM, ".layers.{layer}.post_feedforward_layernorm.weight"},
    {0},
};

static ka_status recipe(struct ka_arena *arena, const struct ka_hf_config *config,
                        struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  KA_TRY(ka_recipe_llama(arena, config, out));
  ka_recipe_attention_bias(config, out);
  out->qk_norm_whole = true;
  out->norm_round_before_weight = false;
  return KA_STATUS_OK;
}

const struct ka_family ka_family_olmo2 = {
    .name = "olmo2",
    .architectures = (const char *const[]){"Olmo2ForCausalLM", NULL},
    .model_types = (const char *const[]){"olmo2", NULL},
    .map = {ka_llama_prefixes, rows},
    .defaults = "{\"rms_norm_eps\": 1e-5}",
    .recipe = recipe,
};
