/* SPDX-License-Identifier: Apache-2.0
 * Qwen3 dense: Llama with a norm of each head's q and k before RoPE. */
#include "engine/model/family_common.h"

static const struct ka_family_tensor tensors[] = {
    KA_LLAMA_TENSORS,
    {KA_ROLE_Q_NORM, "model.layers.{}.self_attn.q_norm.weight"},
    {KA_ROLE_K_NORM, "model.layers.{}.self_attn.k_norm.weight"},
    {KA_ROLE_Q_BIAS, "model.layers.{}.self_attn.q_proj.bias"},
    {KA_ROLE_K_BIAS, "model.layers.{}.self_attn.k_proj.bias"},
    {KA_ROLE_V_BIAS, "model.layers.{}.self_attn.v_proj.bias"},
    {KA_ROLE_O_BIAS, "model.layers.{}.self_attn.o_proj.bias"},
    {0, NULL},
};

enum { DEFAULT_HEAD_DIM = 128 }; /* of transformers' Qwen3Config */

static ka_status recipe(struct ka_arena *arena, const struct ka_hf_config *config,
                        struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  struct ka_hf_config c = *config;
  if (!ka_hf_get(config, "head_dim")) c.head_dim = DEFAULT_HEAD_DIM;
  KA_TRY(ka_recipe_llama(arena, &c, out));
  out->qk_norm = true;
  out->qkv_bias = out->o_bias = config->attention_bias;
  return ka_recipe_qwen_windows(ctx, config, out);
}

const struct ka_family ka_family_qwen3 = {
    .name = "qwen3",
    .architectures = (const char *const[]){"Qwen3ForCausalLM", NULL},
    .model_types = (const char *const[]){"qwen3", NULL},
    .tensors = tensors,
    .recipe = recipe,
};
