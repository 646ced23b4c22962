/* SPDX-License-Identifier: Apache-2.0
 *
 * The recipe: everything that distinguishes one transformer from another, as data. The passes are
 * written once against it; a family (family_x.c) fills it from config.json. Options that no family
 * uses yet are not here: a new one is a field whose zero means "as Llama", of the layer where
 * layers may differ, else of the recipe. Which norms, biases and heads there are, the tensor map
 * says. */
#ifndef KAPPA_ENGINE_MODEL_RECIPE_H
#define KAPPA_ENGINE_MODEL_RECIPE_H

#include "engine/formats/tensor_map.h"
#include "kernels/device.h"

struct ka_branch_kind; /* branch.h */
struct ka_moe;         /* moe.h */

enum { KA_BRANCHES = 2 }; /* of a layer: attention, feed-forward */
enum { KA_ROPES = 2 };    /* sets of RoPE parameters in one model */

struct ka_layer_recipe {
  const struct ka_branch_kind *branch[KA_BRANCHES];
  int64_t window; /* sliding window of the attention, 0: full */
  int rope;       /* index into ropes, -1: no rotation */
};

struct ka_recipe {
  int64_t V, C, L, H, K, D, F, max_positions;
  bool without
      [KA_N_ROLES]; /* of the map's weights: not in this model; HEAD: tied to the embedding */

  bool layer_norm; /* mean and variance, with bias; else the root mean square alone */
  double norm_eps;
  bool norm_round_before_weight; /* Llama: true; see rmsnorm_fwd */
  bool qk_norm_whole;            /* the norm of q and k spans all heads (OLMo-2), not each */
  double norm_offset;            /* of every norm: x_hat * (offset + w); 1 for Gemma */

  enum ka_act act;
  double attn_scale;   /* 1/sqrt(D) for most */
  double attn_softcap; /* c: scores become c tanh(score / c); 0: they stay */
  double head_softcap; /* the same of the logits */
  double clip_qkv;     /* q (behind its norm), k and v are held within it; 0: they stay */

  /* factors; ka_recipe_common sets 1 */
  double embed_scale, residual_scale, head_scale; /* of the embedding, of what a branch adds to the
                                                     stream, of what the head reads */
  bool embed_scale_rounds;                        /* to the weights' dtype */

  /* latent attention: ranks of the latents and the eps of their norms, the channels at the end of
     each of a head's D that rotate, its value's channels; 0: none, and the value has D */
  int64_t q_rank, kv_rank, rope_width, v_width;
  double latent_eps;
  bool rope_interleaved; /* pairs of neighbours */
  struct ka_moe *moe;    /* NULL: no experts */

  int n_ropes;
  struct ka_hf_rope_params ropes[KA_ROPES];
  struct ka_layer_recipe *layers; /* [L] */
};

int64_t ka_recipe_dim(const struct ka_recipe *r, enum ka_dim dim);

#endif
