/* SPDX-License-Identifier: Apache-2.0
 * Llama 1 to 3.x, and everything that is published under its architecture. */
#include "engine/model/family_common.h"

static const struct ka_family_tensor tensors[] = {
    KA_LLAMA_TENSORS,
    {KA_ROLE_Q_BIAS, "model.layers.{}.self_attn.q_proj.bias"},
    {KA_ROLE_K_BIAS, "model.layers.{}.self_attn.k_proj.bias"},
    {KA_ROLE_V_BIAS, "model.layers.{}.self_attn.v_proj.bias"},
    {KA_ROLE_O_BIAS, "model.layers.{}.self_attn.o_proj.bias"},
    {KA_ROLE_GATE_BIAS, "model.layers.{}.mlp.gate_proj.bias"},
    {KA_ROLE_UP_BIAS, "model.layers.{}.mlp.up_proj.bias"},
    {KA_ROLE_DOWN_BIAS, "model.layers.{}.mlp.down_proj.bias"},
    {0, NULL},
};

static ka_status recipe(struct ka_arena *arena, const struct ka_hf_config *config,
                        struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  KA_TRY(ka_recipe_llama(arena, config, out));
  out->qkv_bias = out->o_bias = config->attention_bias;
  out->mlp_bias = config->mlp_bias;
  return KA_STATUS_OK;
}

const struct ka_family ka_family_llama = {
    .name = "llama",
    .architectures = (const char *const[]){"LlamaForCausalLM", NULL},
    .model_types = (const char *const[]){"llama", NULL},
    .tensors = tensors,
    .recipe = recipe,
};
