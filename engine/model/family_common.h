/* SPDX-License-Identifier: Apache-2.0
 *
 * What family files share: the tensor names and the recipe of Llama, from which most families
 * differ by a few fields. For family_x.c only. */
#ifndef KAPPA_ENGINE_MODEL_FAMILY_COMMON_H
#define KAPPA_ENGINE_MODEL_FAMILY_COMMON_H

#include "engine/model/branch.h"
#include "engine/model/family.h"

/* All but the norms of the branches, whose places differ. */
#define KA_LLAMA_MATRICES                                                                          \
  {KA_ROLE_EMBED, ".embed_tokens.weight"}, {KA_ROLE_FINAL_NORM, ".norm.weight"},                   \
      {KA_ROLE_HEAD, "lm_head.weight"}, {KA_ROLE_Q, ".layers.{layer}.self_attn.q_proj.weight"},    \
      {KA_ROLE_K, ".layers.{layer}.self_attn.k_proj.weight"},                                      \
      {KA_ROLE_V, ".layers.{layer}.self_attn.v_proj.weight"},                                      \
      {KA_ROLE_O, ".layers.{layer}.self_attn.o_proj.weight"},                                      \
      {KA_ROLE_GATE, ".layers.{layer}.mlp.gate_proj.weight"},                                      \
      {KA_ROLE_UP, ".layers.{layer}.mlp.up_proj.weight"}, {                                        \
    KA_ROLE_DOWN, ".layers.{layer}.mlp.down_proj.weight"                                           \
  }
#define KA_LLAMA_TENSORS                                                                           \
  KA_LLAMA_MATRICES, {KA_ROLE_ATTN_NORM, ".layers.{layer}.input_layernorm.weight"}, {              \
    KA_ROLE_FFN_NORM, ".layers.{layer}.post_attention_layernorm.weight"                            \
  }
#define KA_QKV_BIASES                                                                              \
  {KA_ROLE_Q_BIAS, ".layers.{layer}.self_attn.q_proj.bias"},                                       \
      {KA_ROLE_K_BIAS, ".layers.{layer}.self_attn.k_proj.bias"}, {                                 \
    KA_ROLE_V_BIAS, ".layers.{layer}.self_attn.v_proj.bias"                                        \
  }
#define KA_O_BIAS                                                                                  \
  { KA_ROLE_O_BIAS, ".layers.{layer}.self_attn.o_proj.bias" }
#define KA_MLP_BIASES                                                                              \
  {KA_ROLE_GATE_BIAS, ".layers.{layer}.mlp.gate_proj.bias"},                                       \
      {KA_ROLE_UP_BIAS, ".layers.{layer}.mlp.up_proj.bias"}, {                                     \
    KA_ROLE_DOWN_BIAS, ".layers.{layer}.mlp.down_proj.bias"                                        \
  }
#define KA_QK_NORMS                                                                                \
  {KA_ROLE_Q_NORM, ".layers.{layer}.self_attn.q_norm.weight"}, {                                   \
    KA_ROLE_K_NORM, ".layers.{layer}.self_attn.k_norm.weight"                                      \
  }

extern const char *const ka_llama_prefixes[]; /* "model" */

/* What config.json says alike for all: sizes, eps, activation, tying; grouped attention and a gated
 * feed-forward, full attention without rotation. KA_E_INPUT or KA_E_UNSUPPORTED by key. */
ka_status ka_recipe_common(struct ka_arena *arena, const struct ka_hf_config *config,
                           struct ka_recipe *out);
/* The same with RoPE on every layer. */
ka_status ka_recipe_llama(struct ka_arena *arena, const struct ka_hf_config *config,
                          struct ka_recipe *out);

/* One more set of RoPE parameters, checked. */
ka_status ka_recipe_add_rope(struct ka_ctx *ctx, const struct ka_hf_config *config,
                             const struct ka_hf_rope_params *p, struct ka_recipe *out);

/* attention_bias: biases of q, k, v and o, or none; mlp_bias: of gate, up and down. */
void ka_recipe_attention_bias(const struct ka_hf_config *config, struct ka_recipe *out);
void ka_recipe_mlp_bias(const struct ka_hf_config *config, struct ka_recipe *out);

/* Where layers have two sets of RoPE parameters, transformers takes yarn's truncate from
 * neither. */
ka_status ka_recipe_one_truncation(struct ka_ctx *ctx, const struct ka_hf_config *config);

/* Does the layer slide, by layer_types; without them as said. */
ka_status ka_recipe_slides(struct ka_ctx *ctx, const struct ka_hf_config *config, int64_t layer,
                           bool otherwise, bool *slides);
/* Sliding layers and full ones, by layer_types or every so many a full one; sliding ones have their
 * own RoPE where the config has one. Behind ka_recipe_llama. */
ka_status ka_recipe_windows(struct ka_ctx *ctx, const struct ka_hf_config *config, int64_t every,
                            struct ka_recipe *out);

/* Windows as Qwen2 and Qwen3 choose them: none unless use_sliding_window; then by layer_types, or
 * from layer max_window_layers on. */
#define KA_QWEN_WINDOWS "\"sliding_window\": 4096, \"max_window_layers\": 28"
ka_status ka_recipe_qwen_windows(struct ka_ctx *ctx, const struct ka_hf_config *config,
                                 struct ka_recipe *out);

#endif
