/* SPDX-License-Identifier: Apache-2.0
 *
 * What family files share: the tensor names and the recipe of Llama, from which most families
 * differ by a few fields. For family_x.c only. */
#ifndef KAPPA_ENGINE_MODEL_FAMILY_COMMON_H
#define KAPPA_ENGINE_MODEL_FAMILY_COMMON_H

#include "engine/model/family.h"

#define KA_LLAMA_TENSORS                                                                           \
  {KA_ROLE_EMBED, "model.embed_tokens.weight"}, {KA_ROLE_FINAL_NORM, "model.norm.weight"},         \
      {KA_ROLE_HEAD, "lm_head.weight"},                                                            \
      {KA_ROLE_ATTN_NORM, "model.layers.{}.input_layernorm.weight"},                               \
      {KA_ROLE_Q, "model.layers.{}.self_attn.q_proj.weight"},                                      \
      {KA_ROLE_K, "model.layers.{}.self_attn.k_proj.weight"},                                      \
      {KA_ROLE_V, "model.layers.{}.self_attn.v_proj.weight"},                                      \
      {KA_ROLE_O, "model.layers.{}.self_attn.o_proj.weight"},                                      \
      {KA_ROLE_FFN_NORM, "model.layers.{}.post_attention_layernorm.weight"},                       \
      {KA_ROLE_GATE, "model.layers.{}.mlp.gate_proj.weight"},                                      \
      {KA_ROLE_UP, "model.layers.{}.mlp.up_proj.weight"}, {                                        \
    KA_ROLE_DOWN, "model.layers.{}.mlp.down_proj.weight"                                           \
  }

/* Sizes, norms, activation, RoPE, tying; full attention, no biases, no q/k norm. KA_E_INPUT or
 * KA_E_UNSUPPORTED by key. */
ka_status ka_recipe_llama(struct ka_arena *arena, const struct ka_hf_config *config,
                          struct ka_recipe *out);

/* Windows as Qwen2 and Qwen3 choose them: none unless use_sliding_window; then by layer_types, or
 * from layer max_window_layers on. */
ka_status ka_recipe_qwen_windows(struct ka_ctx *ctx, const struct ka_hf_config *config,
                                 struct ka_recipe *out);

#endif
