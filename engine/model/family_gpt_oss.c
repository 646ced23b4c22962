/* SPDX-License-Identifier: Apache-2.0
 * gpt-oss: grouped attention with a sink a head, every second layer in a window, from the first one
 * on; experts in every layer, all of a layer in one tensor stored [in, out], gate and up by turns,
 * with biases and a clamped activation. */
#include "engine/model/family_moe.h"

static const struct ka_tensor_row rows[] = {
    KA_LLAMA_TENSORS,
    KA_QKV_BIASES,
    KA_O_BIAS,
    {KA_ROLE_SINKS, ".layers.{layer}.self_attn.sinks"},
    {KA_ROLE_ROUTER, ".layers.{layer}.mlp.router.weight"},
    {KA_ROLE_ROUTER_BIAS, ".layers.{layer}.mlp.router.bias"},
    {KA_ROLE_EXPERT_GATE_UP, ".layers.{layer}.mlp.experts.gate_up_proj", true, true},
    {KA_ROLE_EXPERT_GATE_UP_BIAS, ".layers.{layer}.mlp.experts.gate_up_proj_bias", .stacked = true},
    {KA_ROLE_EXPERT_DOWN, ".layers.{layer}.mlp.experts.down_proj", true, true},
    {KA_ROLE_EXPERT_DOWN_BIAS, ".layers.{layer}.mlp.experts.down_proj_bias", .stacked = true},
    {0},
};

/* The activation is one op: its constants are those of the published models. */
static ka_status check_act(struct ka_ctx *ctx, const struct ka_hf_config *c) {
  static const struct {
    const char *key;
    double value;
  } fixed[] = {{"swiglu_alpha", 1.702}, {"swiglu_limit", 7}};
  for (int i = 0; i < 2; i++) {
    double got;
    KA_TRY(ka_hf_f64_or(ctx, c, fixed[i].key, fixed[i].value, &got));
    if (got != fixed[i].value)
      return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: key \"%s\": got %g, expected %g", c->path,
                     fixed[i].key, got, fixed[i].value);
  }
  return KA_STATUS_OK;
}

static ka_status recipe(struct ka_arena *arena, const struct ka_hf_config *config,
                        struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  struct ka_hf_config c = *config;
  KA_TRY(ka_hf_bool_or(ctx, config, "attention_bias", true, &c.attention_bias));
  if (!ka_hf_get(config, "rope_parameters") && !ka_hf_get(config, "rope_scaling"))
    return ka_fail(ctx, KA_E_INPUT, "%s: neither rope_parameters nor rope_scaling: expected one",
                   config->path);
  KA_TRY(ka_recipe_llama(arena, &c, out));
  ka_recipe_attention_bias(&c, out);
  KA_TRY(check_act(ctx, config));
  out->act = KA_ACT_SILU_CLAMPED;
  out->norm_round_before_weight = false;
  KA_TRY(ka_recipe_windows(ctx, config, 2, out));
  KA_TRY(ka_recipe_experts(arena, config, "intermediate_size", NULL, out));
  out->moe->normalise = true; /* a softmax over the chosen */
  return KA_STATUS_OK;
}

const struct ka_family ka_family_gpt_oss = {
    .name = "gpt_oss",
    .architectures = (const char *const[]){"GptOssForCausalLM", NULL},
    .model_types = (const char *const[]){"gpt_oss", NULL},
    .map = {ka_llama_prefixes, rows},
    .defaults = "{\"num_local_experts\":128,\"num_experts_per_tok\":4,\"intermediate_size\":2880,"
                "\"head_dim\":64,\"num_key_value_heads\":8,\"sliding_window\":128,"
                "\"router_aux_loss_coef\":0.001,\"rms_norm_eps\":1e-5,\"rope_theta\":150000,"
                "\"max_position_embeddings\":131072}",
    .recipe = recipe,
};
