/* SPDX-License-Identifier: Apache-2.0
 *
 * What families with experts share: tensor names in both ways in which files hold experts, one
 * matrix each or all of a layer in one tensor. For family_x.c only. */
#ifndef KAPPA_ENGINE_MODEL_FAMILY_MOE_H
#define KAPPA_ENGINE_MODEL_FAMILY_MOE_H

#include "engine/model/family_common.h"
#include "engine/model/moe.h"

#define KA_MOE_STACKED                                                                             \
  {KA_ROLE_EXPERT_GATE, ".layers.{layer}.mlp.experts.gate_up_proj", .stacked = true},              \
      {KA_ROLE_EXPERT_UP, ".layers.{layer}.mlp.experts.gate_up_proj", .stacked = true},            \
      {KA_ROLE_EXPERT_GATE, ".layers.{layer}.mlp.experts.gate_proj", .stacked = true},             \
      {KA_ROLE_EXPERT_UP, ".layers.{layer}.mlp.experts.up_proj", .stacked = true}, {               \
    KA_ROLE_EXPERT_DOWN, ".layers.{layer}.mlp.experts.down_proj", .stacked = true                  \
  }
#define KA_MOE_TENSORS                                                                             \
  {KA_ROLE_ROUTER, ".layers.{layer}.mlp.gate.weight"},                                             \
      {KA_ROLE_EXPERT_GATE, ".layers.{layer}.mlp.experts.{expert}.gate_proj.weight"},              \
      {KA_ROLE_EXPERT_UP, ".layers.{layer}.mlp.experts.{expert}.up_proj.weight"},                  \
      {KA_ROLE_EXPERT_DOWN, ".layers.{layer}.mlp.experts.{expert}.down_proj.weight"},              \
      KA_MOE_STACKED

/* out->moe from config.json, and the branch of all layers. The keys of the experts' and of the
 * shared feed-forward's width, the latter NULL: none; the others are named alike in all families,
 * their defaults are the family's. KA_E_INPUT by key. */
ka_status ka_recipe_experts(struct ka_arena *arena, const struct ka_hf_config *config,
                            const char *width, const char *shared_width, struct ka_recipe *out);

/* Layers of the gated feed-forward among them: mlp_only_layers, and all but every
 * decoder_sparse_step-th. */
ka_status ka_recipe_dense_layers(struct ka_ctx *ctx, const struct ka_hf_config *config,
                                 struct ka_recipe *out);

#endif
