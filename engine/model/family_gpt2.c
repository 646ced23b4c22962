/* SPDX-License-Identifier: Apache-2.0
 * GPT-2: layer norms, learned positions, weights stored [in, out], q, k and v in one tensor. */
#include "engine/model/family_common.h"

static const struct ka_tensor_row rows[] = {
    {KA_ROLE_EMBED, ".wte.weight"},
    {KA_ROLE_POSITIONS, ".wpe.weight"},
    {KA_ROLE_FINAL_NORM, ".ln_f.weight"},
    {KA_ROLE_FINAL_NORM_BIAS, ".ln_f.bias"},
    {KA_ROLE_HEAD, "lm_head.weight"},
    {KA_ROLE_ATTN_NORM, ".h.{layer}.ln_1.weight"},
    {KA_ROLE_ATTN_NORM_BIAS, ".h.{layer}.ln_1.bias"},
    {KA_ROLE_Q, ".h.{layer}.attn.c_attn.weight", .transposed = true},
    {KA_ROLE_K, ".h.{layer}.attn.c_attn.weight", .transposed = true},
    {KA_ROLE_V, ".h.{layer}.attn.c_attn.weight", .transposed = true},
    {KA_ROLE_Q_BIAS, ".h.{layer}.attn.c_attn.bias"},
    {KA_ROLE_K_BIAS, ".h.{layer}.attn.c_attn.bias"},
    {KA_ROLE_V_BIAS, ".h.{layer}.attn.c_attn.bias"},
    {KA_ROLE_O, ".h.{layer}.attn.c_proj.weight", .transposed = true},
    {KA_ROLE_O_BIAS, ".h.{layer}.attn.c_proj.bias"},
    {KA_ROLE_FFN_NORM, ".h.{layer}.ln_2.weight"},
    {KA_ROLE_FFN_NORM_BIAS, ".h.{layer}.ln_2.bias"},
    {KA_ROLE_UP, ".h.{layer}.mlp.c_fc.weight", .transposed = true},
    {KA_ROLE_UP_BIAS, ".h.{layer}.mlp.c_fc.bias"},
    {KA_ROLE_DOWN, ".h.{layer}.mlp.c_proj.weight", .transposed = true},
    {KA_ROLE_DOWN_BIAS, ".h.{layer}.mlp.c_proj.bias"},
    {0},
};

static ka_status recipe(struct ka_arena *arena, const struct ka_hf_config *config,
                        struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  struct ka_hf_config c = *config;
  bool scaled;
  KA_TRY(ka_hf_bool_or(ctx, config, "scale_attn_weights", true, &scaled));
  if (c.intermediate_size == 0) c.intermediate_size = 4 * c.hidden_size;
  if (!ka_hf_get(config, "layer_norm_epsilon")) c.rms_norm_eps = 1e-5;
  if (!ka_hf_get(config, "activation_function")) c.hidden_act = "gelu_new";
  KA_TRY(ka_recipe_common(arena, &c, out));
  if (out->act != KA_ACT_GELU_TANH)
    return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: activation_function: got \"%s\", expected gelu_new",
                   c.path, c.hidden_act);
  out->layer_norm = true;
  if (!scaled) out->attn_scale = 1;
  for (int64_t l = 0; l < out->L; l++) out->layers[l].branch[1] = &ka_ffn_mlp;
  return KA_STATUS_OK;
}

const struct ka_family ka_family_gpt2 = {
    .name = "gpt2",
    .architectures = (const char *const[]){"GPT2LMHeadModel", NULL},
    .model_types = (const char *const[]){"gpt2", NULL},
    .map = {(const char *const[]){"transformer", "", NULL}, rows, .tied = true},
    .keys = (const char *const[]){"scale_attn_weights", NULL},
    .init_by_depth = true,
    .recipe = recipe,
};
