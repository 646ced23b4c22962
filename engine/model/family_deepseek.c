/* SPDX-License-Identifier: Apache-2.0
 * DeepSeek-V2 (V2-Lite has no latent of queries) and V3: latent attention; the first layers have a
 * dense feed-forward, the others experts. What transformers passes over and the authors' code does
 * not is refused. */
#include "engine/model/family_common.h"

#include <math.h>

static const struct ka_tensor_row rows[] = {
    {KA_ROLE_EMBED, ".embed_tokens.weight"},
    {KA_ROLE_FINAL_NORM, ".norm.weight"},
    {KA_ROLE_HEAD, "lm_head.weight"},
    {KA_ROLE_ATTN_NORM, ".layers.{layer}.input_layernorm.weight"},
    {KA_ROLE_Q, ".layers.{layer}.self_attn.q_proj.weight"},
    {KA_ROLE_Q_A, ".layers.{layer}.self_attn.q_a_proj.weight"},
    {KA_ROLE_Q_A_BIAS, ".layers.{layer}.self_attn.q_a_proj.bias"},
    {KA_ROLE_Q_A_NORM, ".layers.{layer}.self_attn.q_a_layernorm.weight"},
    {KA_ROLE_Q_B, ".layers.{layer}.self_attn.q_b_proj.weight"},
    {KA_ROLE_KV_A, ".layers.{layer}.self_attn.kv_a_proj_with_mqa.weight"},
    {KA_ROLE_KV_A_BIAS, ".layers.{layer}.self_attn.kv_a_proj_with_mqa.bias"},
    {KA_ROLE_KV_A_NORM, ".layers.{layer}.self_attn.kv_a_layernorm.weight"},
    {KA_ROLE_KV_B, ".layers.{layer}.self_attn.kv_b_proj.weight"},
    {KA_ROLE_O, ".layers.{layer}.self_attn.o_proj.weight"},
    KA_O_BIAS,
    {KA_ROLE_FFN_NORM, ".layers.{layer}.post_attention_layernorm.weight"},
    {KA_ROLE_GATE, ".layers.{layer}.mlp.gate_proj.weight"},
    {KA_ROLE_UP, ".layers.{layer}.mlp.up_proj.weight"},
    {KA_ROLE_DOWN, ".layers.{layer}.mlp.down_proj.weight"},
    KA_MLP_BIASES,
    {0},
};

/* A size that the config must have, in [least, 2^24]. */
static ka_status size(struct ka_ctx *ctx, const struct ka_hf_config *c, const char *key,
                      int64_t least, int64_t *out) {
  KA_TRY(ka_hf_i64_or(ctx, c, key, 0, out));
  if (*out < least || *out > 1 << 24)
    return ka_fail(ctx, KA_E_INPUT, "%s: key \"%s\": got %lld, expected %lld to %d", c->path, key,
                   (long long)*out, (long long)least, 1 << 24);
  return KA_STATUS_OK;
}

/* The softmax scale: yarn's temperature twice, for q and for k (DeepSeek-V2, section 3.1.4). */
static double attention_scale(const struct ka_hf_rope_params *p, int64_t width) {
  double mscale = 1;
  if (p->mscale_all_dim != 0 && p->factor > 1)
    mscale = 0.1 * p->mscale_all_dim * log(p->factor) + 1;
  return mscale * mscale / sqrt((double)width);
}

static ka_status attention(struct ka_ctx *ctx, const struct ka_hf_config *c,
                           struct ka_recipe *out) {
  int64_t nope;
  KA_TRY(size(ctx, c, "qk_nope_head_dim", 0, &nope));
  KA_TRY(size(ctx, c, "v_head_dim", 1, &out->v_width));
  KA_TRY(size(ctx, c, "kv_lora_rank", 1, &out->kv_rank));
  if (ka_hf_get(c, "q_lora_rank")) KA_TRY(size(ctx, c, "q_lora_rank", 1, &out->q_rank));
  if (out->K != out->H)
    return ka_fail(ctx, KA_E_UNSUPPORTED,
                   "%s: key \"num_key_value_heads\": got %lld, expected the %lld of "
                   "num_attention_heads: with latent attention every head has its own keys",
                   c->path, (long long)out->K, (long long)out->H);
  out->rope_width = c->head_dim;
  out->D = nope + out->rope_width;
  out->latent_eps = 1e-6; /* whatever rms_norm_eps says */
  out->attn_scale = attention_scale(&c->rope, out->D);
  bool latent = out->q_rank > 0;
  out->without[KA_ROLE_Q] = latent;
  out->without[KA_ROLE_Q_A] = out->without[KA_ROLE_Q_B] = out->without[KA_ROLE_Q_A_NORM] = !latent;
  out->without[KA_ROLE_Q_A_BIAS] = !latent || !c->attention_bias;
  out->without[KA_ROLE_KV_A_BIAS] = out->without[KA_ROLE_O_BIAS] = !c->attention_bias;
  for (int64_t l = 0; l < out->L; l++) out->layers[l].branch[0] = &ka_attn_mla;
  return KA_STATUS_OK;
}

static ka_status experts(struct ka_ctx *ctx, const struct ka_hf_config *c, struct ka_recipe *out) {
  int64_t dense;
  KA_TRY(size(ctx, c, "first_k_dense_replace", 0, &dense));
  if (dense < out->L)
    return ka_fail(ctx, KA_E_UNSUPPORTED,
                   "%s: key \"first_k_dense_replace\": got %lld, expected %lld: experts are not "
                   "supported",
                   c->path, (long long)dense, (long long)out->L);
  return KA_STATUS_OK;
}

/* What both have. */
static ka_status common(struct ka_arena *arena, const struct ka_hf_config *config,
                        struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  struct ka_hf_config c = *config;
  KA_TRY(size(ctx, config, "qk_rope_head_dim", 2, &c.head_dim)); /* what transformers makes of it */
  if (c.head_dim % 2 != 0)
    return ka_fail(ctx, KA_E_INPUT, "%s: key \"qk_rope_head_dim\": got %lld, expected an even number",
                   c.path, (long long)c.head_dim);
  KA_TRY(ka_recipe_llama(arena, &c, out));
  KA_TRY(attention(ctx, &c, out));
  return experts(ctx, &c, out);
}

static ka_status recipe_v2(struct ka_arena *arena, const struct ka_hf_config *c,
                           struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  KA_TRY(common(arena, c, out));
  ka_recipe_mlp_bias(c, out);
  out->rope_interleaved = true;
  return KA_STATUS_OK;
}

static ka_status recipe_v3(struct ka_arena *arena, const struct ka_hf_config *c,
                           struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  struct ka_hf_config unbiased = *c;
  KA_TRY(common(arena, c, out));
  unbiased.mlp_bias = false; /* it has no such key */
  ka_recipe_mlp_bias(&unbiased, out);
  return ka_hf_bool_or(ctx, c, "rope_interleave", false, &out->rope_interleaved);
}

const struct ka_family ka_family_deepseek_v2 = {
    .name = "deepseek_v2",
    .architectures = (const char *const[]){"DeepseekV2ForCausalLM", NULL},
    .model_types = (const char *const[]){"deepseek_v2", NULL},
    .map = {ka_llama_prefixes, rows},
    .defaults = "{\"q_lora_rank\": 1536, \"kv_lora_rank\": 512, \"qk_nope_head_dim\": 128,"
                " \"qk_rope_head_dim\": 64, \"v_head_dim\": 128, \"first_k_dense_replace\": 0}",
    .recipe = recipe_v2,
};

const struct ka_family ka_family_deepseek_v3 = {
    .name = "deepseek_v3",
    .architectures = (const char *const[]){"DeepseekV3ForCausalLM", NULL},
    .model_types = (const char *const[]){"deepseek_v3", NULL},
    .map = {ka_llama_prefixes, rows},
    .defaults = "{\"q_lora_rank\": 1536, \"kv_lora_rank\": 512, \"qk_nope_head_dim\": 128,"
                " \"qk_rope_head_dim\": 64, \"v_head_dim\": 128, \"first_k_dense_replace\": 3,"
                " \"max_position_embeddings\": 4096, \"rope_interleave\": true}",
    .recipe = recipe_v3,
};
