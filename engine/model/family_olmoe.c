/* SPDX-License-Identifier: Apache-2.0
 * OLMoE: Llama with experts in every layer and a norm over all of q and of k; clip_qkv clamps q, k
 * and v. */
#include "engine/model/family_moe.h"

#include <math.h>

static const struct ka_tensor_row rows[] = {
    KA_LLAMA_TENSORS, KA_QK_NORMS, KA_QKV_BIASES, KA_O_BIAS, KA_MOE_TENSORS, {0},
};

static ka_status recipe(struct ka_arena *arena, const struct ka_hf_config *config,
                        struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  KA_TRY(ka_recipe_llama(arena, config, out));
  ka_recipe_attention_bias(config, out);
  out->qk_norm_whole = true;
  KA_TRY(ka_hf_f64_or(ctx, config, "clip_qkv", 0, &out->clip_qkv));
  if (ka_hf_get(config, "clip_qkv") && !(out->clip_qkv > 0 && isfinite(out->clip_qkv)))
    return ka_fail(ctx, KA_E_INPUT, "%s: key \"clip_qkv\": got %g, expected null or above 0",
                   config->path, out->clip_qkv);
  return ka_recipe_experts(arena, config, "intermediate_size", NULL, out);
}

const struct ka_family ka_family_olmoe = {
    .name = "olmoe",
    .architectures = (const char *const[]){"OlmoeForCausalLM", NULL},
    .model_types = (const char *const[]){"olmoe", NULL},
    .map = {ka_llama_prefixes, rows},
    .defaults = "{\"num_experts\":64,\"num_experts_per_tok\":8,\"intermediate_size\":2048,"
                "\"router_aux_loss_coef\":0.01,\"rms_norm_eps\":1e-5,"
                "\"max_position_embeddings\":4096}",
    .keys = (const char *const[]){"clip_qkv", NULL},
    .recipe = recipe,
};
