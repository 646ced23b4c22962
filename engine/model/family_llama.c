/* SPDX-License-Identifier: Apache-2.0
 * Llama 1 to 3.x, and everything that is published under its architecture. */
#include "engine/model/family_common.h"

static const struct ka_tensor_row rows[] = {
    KA_LLAMA_TENSORS, KA_QKV_BIASES, KA_O_BIAS, KA_MLP_BIASES, {0},
};

static ka_status recipe(struct ka_arena *arena, const struct ka_hf_config *config,
                        struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  KA_TRY(ka_recipe_llama(arena, config, out));
  ka_recipe_attention_bias(config, out);
  ka_recipe_mlp_bias(config, out);
  return KA_STATUS_OK;
}

const struct ka_family ka_family_llama = {
    .name = "llama",
    .architectures = (const char *const[]){"LlamaForCausalLM", NULL},
    .model_types = (const char *const[]){"llama", NULL},
    .map = {ka_llama_prefixes, rows},
    .recipe = recipe,
};
