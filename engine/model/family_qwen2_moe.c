/* SPDX-License-Identifier: Apache-2.0
 * Qwen2-MoE and Qwen1.5-MoE: Qwen2 with experts in some layers and, beside them, a feed-forward
 * that every token sees behind a switch of its own. */
#include "engine/model/family_moe.h"

static const struct ka_tensor_row rows[] = {
    KA_LLAMA_TENSORS,
    KA_QKV_BIASES,
    KA_MOE_TENSORS,
    {KA_ROLE_SHARED_GATE, ".layers.{layer}.mlp.shared_expert.gate_proj.weight"},
    {KA_ROLE_SHARED_UP, ".layers.{layer}.mlp.shared_expert.up_proj.weight"},
    {KA_ROLE_SHARED_DOWN, ".layers.{layer}.mlp.shared_expert.down_proj.weight"},
    {KA_ROLE_SHARED_SWITCH, ".layers.{layer}.mlp.shared_expert_gate.weight"},
    {0},
};

/* Without layer_types every second layer below max_window_layers slides, from the first one on. */
static ka_status windows(struct ka_ctx *ctx, const struct ka_hf_config *c, struct ka_recipe *out) {
  int64_t end;
  KA_TRY(ka_hf_i64_or(ctx, c, "max_window_layers", 0, &end));
  for (int64_t l = 0; l < out->L; l++) {
    bool slides;
    KA_TRY(ka_recipe_slides(ctx, c, l, c->use_sliding_window && l % 2 == 0 && l < end, &slides));
    if (slides && (!c->use_sliding_window || c->sliding_window == 0))
      return ka_fail(ctx, KA_E_UNSUPPORTED,
                     "%s: layer %lld slides, but %s: expected use_sliding_window and a window",
                     c->path, (long long)l,
                     c->use_sliding_window ? "sliding_window is missing"
                                           : "use_sliding_window is false");
    out->layers[l].window = slides ? c->sliding_window : 0;
  }
  return KA_STATUS_OK;
}

static ka_status recipe(struct ka_arena *arena, const struct ka_hf_config *config,
                        struct ka_recipe *out) {
  static const enum ka_role biases[] = {KA_ROLE_Q_BIAS, KA_ROLE_K_BIAS, KA_ROLE_V_BIAS};
  struct ka_ctx *ctx = arena->ctx;
  bool biased;
  KA_TRY(ka_recipe_llama(arena, config, out));
  KA_TRY(ka_hf_bool_or(ctx, config, "qkv_bias", true, &biased));
  for (int i = 0; i < 3; i++) out->without[biases[i]] = !biased;
  KA_TRY(windows(ctx, config, out));
  KA_TRY(ka_recipe_experts(arena, config, "moe_intermediate_size",
                           "shared_expert_intermediate_size", out));
  return ka_recipe_dense_layers(ctx, config, out);
}

const struct ka_family ka_family_qwen2_moe = {
    .name = "qwen2_moe",
    .architectures = (const char *const[]){"Qwen2MoeForCausalLM", NULL},
    .model_types = (const char *const[]){"qwen2_moe", NULL},
    .map = {ka_llama_prefixes, rows},
    .defaults = "{\"num_experts\":60,\"num_experts_per_tok\":4,\"intermediate_size\":5632,"
                "\"moe_intermediate_size\":1408,\"shared_expert_intermediate_size\":5632,"
                "\"router_aux_loss_coef\":0.001,\"num_key_value_heads\":16,"
                "\"sliding_window\":4096,\"max_window_layers\":28,"
                "\"max_position_embeddings\":32768}",
    .keys = (const char *const[]){"qkv_bias", NULL},
    .recipe = recipe,
};
