/* SPDX-License-Identifier: Apache-2.0
 * DeepSeek-V2 (V2-Lite has no latent of queries) and V3: latent attention; the first layers have a
 * dense feed-forward, the others experts. What transformers passes over and the authors' code does
 * not is refused. */
#include "engine/model/family_moe.h"

#include <math.h>
#include <string.h>

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
    {KA_ROLE_ROUTER_CHOICE, ".layers.{layer}.mlp.gate.e_score_correction_bias"},
    KA_MOE_TENSORS,
    {KA_ROLE_SHARED_GATE, ".layers.{layer}.mlp.shared_experts.gate_proj.weight"},
    {KA_ROLE_SHARED_UP, ".layers.{layer}.mlp.shared_experts.up_proj.weight"},
    {KA_ROLE_SHARED_DOWN, ".layers.{layer}.mlp.shared_experts.down_proj.weight"},
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

/* A key that transformers passes over: it must say what transformers does. */
static ka_status only(struct ka_ctx *ctx, const struct ka_hf_config *c, const char *key,
                      const char *expected) {
  const char *got;
  KA_TRY(ka_hf_str_or(ctx, c, key, expected, &got));
  if (strcmp(got, expected) == 0) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: key \"%s\": got \"%s\", expected \"%s\"", c->path, key,
                 got, expected);
}

/* Groups of experts of which a token's may come from a few: n_group, topk_group. */
static ka_status groups(struct ka_ctx *ctx, const struct ka_hf_config *c, struct ka_moe *x) {
  enum { MOST = 64 };                      /* router_fwd's */
  int64_t least = x->group_by_two ? 2 : 1; /* experts of a group, to be ranked */
  KA_TRY(size(ctx, c, "n_group", 1, &x->n_group));
  KA_TRY(size(ctx, c, "topk_group", 1, &x->topk_group));
  if (x->n_group > MOST || x->E % x->n_group != 0 || x->E / x->n_group < least)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: key \"n_group\": got %lld, expected at most %d groups that divide the %lld "
                   "experts, of %lld or more",
                   c->path, (long long)x->n_group, MOST, (long long)x->E, (long long)least);
  if (x->topk_group > x->n_group || x->k > x->topk_group * (x->E / x->n_group))
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: key \"topk_group\": got %lld, expected at most n_group (%lld), and groups "
                   "with num_experts_per_tok (%lld) experts",
                   c->path, (long long)x->topk_group, (long long)x->n_group, (long long)x->k);
  return KA_STATUS_OK;
}

/* V2: softmax; groups are ranked by their best expert; weights as they are, times the factor. */
static ka_status routing_v2(struct ka_ctx *ctx, const struct ka_hf_config *c, struct ka_moe *x) {
  const char *method;
  KA_TRY(only(ctx, c, "scoring_func", "softmax"));
  KA_TRY(ka_hf_str_or(ctx, c, "topk_method", "", &method));
  if (x->normalise)
    return ka_fail(
        ctx, KA_E_UNSUPPORTED,
        "%s: key \"norm_topk_prob\": got true, expected false: the authors' code divides "
        "the weights by their sum then, transformers does not",
        c->path);
  if (strcmp(method, "group_limited_greedy") == 0) return groups(ctx, c, x);
  if (strcmp(method, "greedy") == 0) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_UNSUPPORTED,
                 "%s: key \"topk_method\": got \"%s\", expected greedy or group_limited_greedy",
                 c->path, method);
}

/* V3: sigmoid; a bias for the choice alone; groups are ranked by their two best experts. */
static ka_status routing_v3(struct ka_ctx *ctx, const struct ka_hf_config *c, struct ka_moe *x) {
  KA_TRY(only(ctx, c, "scoring_func", "sigmoid"));
  KA_TRY(only(ctx, c, "topk_method", "noaux_tc"));
  x->kind = KA_ROUTER_SIGMOID;
  x->group_by_two = true;
  return groups(ctx, c, x);
}

typedef ka_status routing_fn(struct ka_ctx *ctx, const struct ka_hf_config *c, struct ka_moe *x);

static ka_status experts(struct ka_arena *arena, const struct ka_hf_config *c, routing_fn *routing,
                         struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  int64_t n_dense, n_shared, every;
  KA_TRY(size(ctx, c, "first_k_dense_replace", 0, &n_dense));
  if (n_dense >= out->L) return KA_STATUS_OK;
  KA_TRY(size(ctx, c, "n_shared_experts", 0, &n_shared));
  KA_TRY(ka_hf_i64_or(ctx, c, "moe_layer_freq", 1, &every));
  if (every != 1)
    return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: key \"moe_layer_freq\": got %lld, expected 1",
                   c->path, (long long)every);
  KA_TRY(ka_recipe_experts(arena, c, "moe_intermediate_size", NULL, out));
  struct ka_moe *x = out->moe;
  x->SF = n_shared * x->EF; /* one feed-forward */
  x->aux_factor = 0;        /* neither has transformers */
  KA_TRY(ka_hf_f64_or(ctx, c, "routed_scaling_factor", 0, &x->factor));
  if (!isfinite(x->factor) || x->factor == 0)
    return ka_fail(ctx, KA_E_INPUT, "%s: key \"routed_scaling_factor\": got %g, expected a number",
                   c->path, x->factor);
  for (int role = KA_ROLE_SHARED_GATE; role <= KA_ROLE_SHARED_DOWN; role++)
    out->without[role] = n_shared == 0;
  for (int64_t l = 0; l < n_dense; l++) out->layers[l].branch[1] = &ka_ffn_glu;
  return routing(ctx, c, x);
}

/* What both have. */
static ka_status common(struct ka_arena *arena, const struct ka_hf_config *config,
                        routing_fn *routing, struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  struct ka_hf_config c = *config;
  KA_TRY(size(ctx, config, "qk_rope_head_dim", 2, &c.head_dim)); /* what transformers makes of it */
  if (c.head_dim % 2 != 0)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: key \"qk_rope_head_dim\": got %lld, expected an even number", c.path,
                   (long long)c.head_dim);
  KA_TRY(ka_recipe_llama(arena, &c, out));
  KA_TRY(attention(ctx, &c, out));
  return experts(arena, &c, routing, out);
}

static ka_status recipe_v2(struct ka_arena *arena, const struct ka_hf_config *c,
                           struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  KA_TRY(common(arena, c, routing_v2, out));
  ka_recipe_mlp_bias(c, out);
  out->without[KA_ROLE_ROUTER_CHOICE] = true;
  out->rope_interleaved = true;
  if (!c->mlp_bias || !out->moe || out->moe->SF == 0) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_UNSUPPORTED,
                 "%s: key \"mlp_bias\": got true, expected false where there are shared experts",
                 c->path);
}

static ka_status recipe_v3(struct ka_arena *arena, const struct ka_hf_config *c,
                           struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  struct ka_hf_config unbiased = *c;
  KA_TRY(common(arena, c, routing_v3, out));
  unbiased.mlp_bias = false; /* it has no such key */
  ka_recipe_mlp_bias(&unbiased, out);
  return ka_hf_bool_or(ctx, c, "rope_interleave", false, &out->rope_interleaved);
}

const struct ka_family ka_family_deepseek_v2 = {
    .name = "deepseek_v2",
    .architectures = (const char *const[]){"DeepseekV2ForCausalLM", NULL},
    .model_types = (const char *const[]){"deepseek_v2", NULL},
    .map = {ka_llama_prefixes, rows},
    .defaults =
        "{\"q_lora_rank\": 1536, \"kv_lora_rank\": 512, \"qk_nope_head_dim\": 128,"
        " \"qk_rope_head_dim\": 64, \"v_head_dim\": 128, \"first_k_dense_replace\": 0,"
        " \"moe_intermediate_size\": 1407, \"n_routed_experts\": 64, \"n_shared_experts\": 2,"
        " \"topk_method\": \"greedy\", \"routed_scaling_factor\": 1}",
    .recipe = recipe_v2,
};

const struct ka_family ka_family_deepseek_v3 = {
    .name = "deepseek_v3",
    .architectures = (const char *const[]){"DeepseekV3ForCausalLM", NULL},
    .model_types = (const char *const[]){"deepseek_v3", NULL},
    .map = {ka_llama_prefixes, rows},
    .defaults = "{\"q_lora_rank\": 1536, \"kv_lora_rank\": 512, \"qk_nope_head_dim\": 128,"
                " \"qk_rope_head_dim\": 64, \"v_head_dim\": 128, \"first_k_dense_replace\": 3,"
                " \"moe_intermediate_size\": 2048, \"n_routed_experts\": 256,"
                " \"n_shared_experts\": 1, \"num_experts_per_tok\": 8, \"n_group\": 8,"
                " \"topk_group\": 4, \"norm_topk_prob\": true, \"routed_scaling_factor\": 2.5,"
                " \"max_position_embeddings\": 4096, \"rope_interleave\": true}",
    .recipe = recipe_v3,
};
