/* SPDX-License-Identifier: Apache-2.0
 * OLMo-3: OLMo-2 with a window on three layers of four; what scales RoPE is for the others
 * alone. */
#include "engine/model/family_common.h"

static const struct ka_tensor_row rows[] = {
    KA_LLAMA_MATRICES,
    KA_QK_NORMS,
    KA_QKV_BIASES,
    KA_O_BIAS,
    {KA_ROLE_ATTN_POST_NORM, ".layers.{layer}.post_attention_layernorm.weight"},
    {KA_ROLE_FFN_POST_NORM, ".layers.{layer}.post_feedforward_layernorm.weight"},
    {0},
};

enum { PATTERN = 4 };

static ka_status recipe(struct ka_arena *arena, const struct ka_hf_config *config,
                        struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  double theta;
  KA_TRY(ka_recipe_llama(arena, config, out));
  ka_recipe_attention_bias(config, out);
  out->qk_norm_whole = true;
  out->norm_round_before_weight = false;
  KA_TRY(ka_hf_f64_or(ctx, config, "rope_theta", 0, &theta));
  bool flat = !ka_hf_get(config, "rope_parameters");
  if (flat && theta != config->rope_local.theta)
    return ka_fail(ctx, KA_E_UNSUPPORTED,
                   "%s: key \"rope_theta\": got %g: some versions of transformers use it for the "
                   "sliding layers and some %g; write rope_parameters with full_attention and "
                   "sliding_attention",
                   config->path, theta, config->rope_local.theta);
  KA_TRY(ka_recipe_one_truncation(ctx, config));
  return ka_recipe_windows(ctx, config, PATTERN, out);
}

const struct ka_family ka_family_olmo3 = {
    .name = "olmo3",
    .architectures = (const char *const[]){"Olmo3ForCausalLM", NULL},
    .model_types = (const char *const[]){"olmo3", NULL},
    .map = {ka_llama_prefixes, rows},
    .defaults = "{\"rms_norm_eps\": 1e-5, \"sliding_window\": 4096, \"rope_theta\": 500000,"
                " \"rope_local_base_freq\": 500000}",
    .keys = (const char *const[]){"rope_local_base_freq", NULL},
    .recipe = recipe,
};
