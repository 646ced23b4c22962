/* SPDX-License-Identifier: Apache-2.0
 * Granite 3 dense: Llama with four multipliers: of the embedding, of the scores, of what branches
 * add, and (a divisor) of the logits. */
#include "engine/model/family_common.h"

static const struct ka_tensor_row rows[] = {
    KA_LLAMA_TENSORS, KA_QKV_BIASES, KA_O_BIAS, KA_MLP_BIASES, {0},
};

static ka_status recipe(struct ka_arena *arena, const struct ka_hf_config *config,
                        struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  double divisor;
  KA_TRY(ka_recipe_llama(arena, config, out));
  ka_recipe_attention_bias(config, out);
  ka_recipe_mlp_bias(config, out);
  KA_TRY(ka_hf_f64_or(ctx, config, "embedding_multiplier", 1, &out->embed_scale));
  KA_TRY(ka_hf_f64_or(ctx, config, "attention_multiplier", 1, &out->attn_scale));
  KA_TRY(ka_hf_f64_or(ctx, config, "residual_multiplier", 1, &out->residual_scale));
  KA_TRY(ka_hf_f64_or(ctx, config, "logits_scaling", 1, &divisor));
  if (divisor == 0)
    return ka_fail(ctx, KA_E_INPUT, "%s: logits_scaling: got 0, expected what divides the logits",
                   config->path);
  out->head_scale = 1 / divisor;
  return KA_STATUS_OK;
}

const struct ka_family ka_family_granite = {
    .name = "granite",
    .architectures = (const char *const[]){"GraniteForCausalLM", NULL},
    .model_types = (const char *const[]){"granite", NULL},
    .map = {ka_llama_prefixes, rows},
    .keys = (const char *const[]){"embedding_multiplier", "attention_multiplier",
                                  "residual_multiplier", "logits_scaling", NULL},
    .recipe = recipe,
};
