/* SPDX-License-Identifier: Apache-2.0
 *
 * The block recipe: everything that distinguishes one decoder-only transformer from another, as
 * data. The forward and backward pass (block.c) are written once against it; a family
 * (family_x.c) fills it from config.json. Options that no family uses yet are not here: a new one
 * is a field with a zero default that means "as Llama". */
#ifndef KAPPA_ENGINE_MODEL_RECIPE_H
#define KAPPA_ENGINE_MODEL_RECIPE_H

#include "engine/formats/config.h"
#include "kernels/device.h"

/* What a weight is for. name: in tables and reports; per_layer; matrix rows are of: attention head
 * structure ('q': H*D rows, 'k': K*D rows, 'o': H*D columns, '-': none) */
#define KA_ROLE_TABLE(X)                                                                           \
  X(EMBED, "embed", false, '-')                                                                    \
  X(FINAL_NORM, "final_norm", false, '-')                                                          \
  X(HEAD, "head", false, '-')                                                                      \
  X(ATTN_NORM, "attn_norm", true, '-')                                                             \
  X(Q, "q", true, 'q')                                                                             \
  X(K, "k", true, 'k')                                                                             \
  X(V, "v", true, 'k')                                                                             \
  X(O, "o", true, 'o')                                                                             \
  X(Q_BIAS, "q_bias", true, '-')                                                                   \
  X(K_BIAS, "k_bias", true, '-')                                                                   \
  X(V_BIAS, "v_bias", true, '-')                                                                   \
  X(O_BIAS, "o_bias", true, '-')                                                                   \
  X(Q_NORM, "q_norm", true, '-')                                                                   \
  X(K_NORM, "k_norm", true, '-')                                                                   \
  X(FFN_NORM, "ffn_norm", true, '-')                                                               \
  X(GATE, "gate", true, '-')                                                                       \
  X(UP, "up", true, '-')                                                                           \
  X(DOWN, "down", true, '-')                                                                       \
  X(GATE_BIAS, "gate_bias", true, '-')                                                             \
  X(UP_BIAS, "up_bias", true, '-')                                                                 \
  X(DOWN_BIAS, "down_bias", true, '-')

enum ka_role {
#define X(name, text, per_layer, heads) KA_ROLE_##name,
  KA_ROLE_TABLE(X)
#undef X
      KA_N_ROLES
};

const char *ka_role_name(enum ka_role role);
bool ka_role_per_layer(enum ka_role role);
char ka_role_heads(enum ka_role role); /* the last column of the table */

struct ka_recipe {
  int64_t V, C, L, H, K, D, F, max_positions;
  double norm_eps;
  bool norm_round_before_weight; /* Llama: true; see rmsnorm_fwd */
  bool qkv_bias, o_bias, mlp_bias;
  bool qk_norm; /* per-head RMS norm of q and k before RoPE (Qwen3) */
  bool tied;    /* head is the embedding */
  enum ka_act act;
  double attn_scale; /* 1/sqrt(D) for most */
  int64_t *window;   /* [L] sliding window of each layer, 0: full */
  struct ka_hf_rope_params rope;
};

#endif
