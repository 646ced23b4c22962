/* SPDX-License-Identifier: Apache-2.0
 * Phi-3 and Phi-4-mini: Llama with q, k and v in one tensor and gate and up in another; part of a
 * head may rotate. */
#include "engine/model/family_common.h"

static const struct ka_tensor_row rows[] = {
    {KA_ROLE_EMBED, ".embed_tokens.weight"},
    {KA_ROLE_FINAL_NORM, ".norm.weight"},
    {KA_ROLE_HEAD, "lm_head.weight"},
    {KA_ROLE_ATTN_NORM, ".layers.{layer}.input_layernorm.weight"},
    {KA_ROLE_Q, ".layers.{layer}.self_attn.qkv_proj.weight"},
    {KA_ROLE_K, ".layers.{layer}.self_attn.qkv_proj.weight"},
    {KA_ROLE_V, ".layers.{layer}.self_attn.qkv_proj.weight"},
    {KA_ROLE_O, ".layers.{layer}.self_attn.o_proj.weight"},
    {KA_ROLE_FFN_NORM, ".layers.{layer}.post_attention_layernorm.weight"},
    {KA_ROLE_GATE, ".layers.{layer}.mlp.gate_up_proj.weight"},
    {KA_ROLE_UP, ".layers.{layer}.mlp.gate_up_proj.weight"},
    {KA_ROLE_DOWN, ".layers.{layer}.mlp.down_proj.weight"},
    {0},
};

static ka_status recipe(struct ka_arena *arena, const struct ka_hf_config *config,
                        struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  enum ka_hf_rope_kind kind = config->rope.kind;
  KA_TRY(ka_recipe_common(arena, config, out));
  if (kind != KA_ROPE_DEFAULT && kind != KA_ROPE_LONGROPE)
    return ka_fail(ctx, KA_E_UNSUPPORTED,
                   "%s: rope type: got \"%s\", expected default or longrope, as Phi-3 has them",
                   config->path, config->rope.kind_name);
  KA_TRY(ka_recipe_add_rope(ctx, config, &config->rope, out));
  for (int64_t l = 0; l < out->L; l++) {
    out->layers[l].rope = 0;
    out->layers[l].window = config->sliding_window;
  }
  return KA_STATUS_OK;
}

const struct ka_family ka_family_phi3 = {
    .name = "phi3",
    .architectures = (const char *const[]){"Phi3ForCausalLM", NULL},
    .model_types = (const char *const[]){"phi3", NULL},
    .map = {ka_llama_prefixes, rows},
    .defaults = "{\"rms_norm_eps\": 1e-5, \"max_position_embeddings\": 4096,"
                " \"original_max_position_embeddings\": 4096}",
    .recipe = recipe,
};
