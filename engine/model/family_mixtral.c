/* SPDX-License-Identifier: Apache-2.0
 * Mixtral: Mistral with experts in every layer, whose weights always sum to one. */
#include "engine/model/family_moe.h"

static const struct ka_tensor_row rows[] = {
    KA_LLAMA_TENSORS,
    {KA_ROLE_ROUTER, ".layers.{layer}.block_sparse_moe.gate.weight"},
    {KA_ROLE_ROUTER, ".layers.{layer}.mlp.gate.weight"},
    {KA_ROLE_EXPERT_GATE, ".layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight"},
    {KA_ROLE_EXPERT_UP, ".layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight"},
    {KA_ROLE_EXPERT_DOWN, ".layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight"},
    KA_MOE_STACKED,
    {0},
};

static ka_status recipe(struct ka_arena *arena, const struct ka_hf_config *config,
                        struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  double jitter;
  KA_TRY(ka_recipe_llama(arena, config, out));
  KA_TRY(ka_hf_f64_or(ctx, config, "router_jitter_noise", 0, &jitter));
  if (jitter != 0)
    return ka_fail(ctx, KA_E_UNSUPPORTED,
                   "%s: key \"router_jitter_noise\": got %g, expected 0: noise would make training "
                   "steps other than their own repetition",
                   config->path, jitter);
  for (int64_t l = 0; l < out->L; l++) out->layers[l].window = config->sliding_window;
  KA_TRY(ka_recipe_experts(arena, config, "intermediate_size", NULL, out));
  out->moe->normalise = true;
  return KA_STATUS_OK;
}

const struct ka_family ka_family_mixtral = {
    .name = "mixtral",
    .architectures = (const char *const[]){"MixtralForCausalLM", NULL},
    .model_types = (const char *const[]){"mixtral", NULL},
    .map = {ka_llama_prefixes, rows},
    .defaults = "{\"num_local_experts\":8,\"num_experts_per_tok\":2,\"intermediate_size\":14336,"
                "\"router_aux_loss_coef\":0.001,\"rms_norm_eps\":1e-5,\"rope_theta\":1e6,"
                "\"num_key_value_heads\":8,\"max_position_embeddings\":131072}",
    .recipe = recipe,
};
