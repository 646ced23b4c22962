/* SPDX-License-Identifier: Apache-2.0
 *
 * What families with experts share: tensor names in both ways in which files hold experts, one
 * matrix each or all of a layer in one tensor. For family_x.c only. */
#ifndef KAPPA_ENGINE_MODEL_FAMILY_MOE_H
#define KAPPA_ENGINE_MODEL_FAMILY_MOE_H

#include "engine/model/family_common.h"
#include "engine/model/ffn_moe.h"

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

#endif
