/* SPDX-License-Identifier: Apache-2.0
 * Gemma-2 and Gemma-3: norms before and after each branch, weights of norms around 0, a scaled
 * embedding, a window on most layers. Gemma-2 caps scores and logits; Gemma-3 has a norm of each
 * head's q and k, and a RoPE for sliding layers. Of a multimodal Gemma-3 the text model, under
 * either of its names. */
#include "engine/model/family_common.h"

#include <math.h>

#define TENSORS                                                                                    \
  KA_LLAMA_MATRICES, KA_QKV_BIASES, KA_O_BIAS,                                                     \
      {KA_ROLE_ATTN_NORM, ".layers.{layer}.input_layernorm.weight"},                               \
      {KA_ROLE_ATTN_POST_NORM, ".layers.{layer}.post_attention_layernorm.weight"},                 \
      {KA_ROLE_FFN_NORM, ".layers.{layer}.pre_feedforward_layernorm.weight"}, {                    \
    KA_ROLE_FFN_POST_NORM, ".layers.{layer}.post_feedforward_layernorm.weight"                     \
  }

static const struct ka_tensor_row rows_2[] = {TENSORS, {0}};
static const struct ka_tensor_row rows_3[] = {
    TENSORS, KA_QK_NORMS, {KA_ROLE_HEAD, "language_model.lm_head.weight"}, {0}};

static const char *const keys[] = {"query_pre_attn_scalar",   "attn_logit_softcapping",
                                   "final_logit_softcapping", "use_bidirectional_attention",
                                   "hidden_activation",       "rope_local_base_freq",
                                   "sliding_window_pattern",  NULL};

/* A full layer behind so many sliding ones. */
enum { PATTERN_2 = 2, PATTERN_3 = 6 };

static ka_status gemma(struct ka_arena *arena, const struct ka_hf_config *c, int64_t every,
                       struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  double scalar;
  bool both_ways;
  KA_TRY(ka_hf_bool_or(ctx, c, "use_bidirectional_attention", false, &both_ways));
  if (both_ways)
    return ka_fail(ctx, KA_E_UNSUPPORTED,
                   "%s: use_bidirectional_attention: got true, expected false: tokens see those "
                   "before them alone",
                   c->path);
  KA_TRY(ka_hf_f64_or(ctx, c, "query_pre_attn_scalar", 256, &scalar));
  if (!(scalar > 0))
    return ka_fail(ctx, KA_E_INPUT, "%s: query_pre_attn_scalar: got %g, expected more than 0",
                   c->path, scalar);
  KA_TRY(ka_recipe_llama(arena, c, out));
  ka_recipe_attention_bias(c, out);
  out->norm_round_before_weight = false;
  out->norm_offset = 1;
  out->attn_scale = 1 / sqrt(scalar);
  out->embed_scale = sqrt((double)c->hidden_size);
  out->embed_scale_rounds = true;
  return ka_recipe_windows(ctx, c, every, out);
}

static ka_status recipe_2(struct ka_arena *arena, const struct ka_hf_config *c,
                          struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  KA_TRY(gemma(arena, c, PATTERN_2, out));
  KA_TRY(ka_hf_f64_or(ctx, c, "attn_logit_softcapping", 0, &out->attn_softcap));
  return ka_hf_f64_or(ctx, c, "final_logit_softcapping", 0, &out->head_softcap);
}

static ka_status recipe_3(struct ka_arena *arena, const struct ka_hf_config *c,
                          struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  int64_t every;
  KA_TRY(ka_recipe_one_truncation(ctx, c));
  KA_TRY(ka_hf_i64_or(ctx, c, "sliding_window_pattern", PATTERN_3, &every));
  if (every < 1)
    return ka_fail(ctx, KA_E_INPUT, "%s: sliding_window_pattern: got %lld, expected at least 1",
                   c->path, (long long)every);
  KA_TRY(gemma(arena, c, every, out));
  if (ka_hf_get(c, "attn_logit_softcapping"))
    return ka_fail(ctx, KA_E_UNSUPPORTED,
                   "%s: attn_logit_softcapping: expected null: Gemma-3 does not cap scores, "
                   "whatever the key says",
                   c->path);
  return ka_hf_f64_or(ctx, c, "final_logit_softcapping", 0, &out->head_softcap);
}

static ka_status recipe_3_vl(struct ka_arena *arena, const struct ka_hf_config *c,
                             struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  KA_TRY(recipe_3(arena, c, out));
  if (out->head_softcap == 0) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_UNSUPPORTED,
                 "%s: final_logit_softcapping: expected null: multimodal Gemma-3 does not cap "
                 "logits, whatever the key says",
                 c->path);
}

const struct ka_family ka_family_gemma2 = {
    .name = "gemma2",
    .architectures = (const char *const[]){"Gemma2ForCausalLM", NULL},
    .model_types = (const char *const[]){"gemma2", NULL},
    .map = {ka_llama_prefixes, rows_2},
    .defaults = "{\"num_key_value_heads\": 4, \"head_dim\": 256, \"sliding_window\": 4096,"
                " \"hidden_activation\": \"gelu_pytorch_tanh\", \"max_position_embeddings\": 8192,"
                " \"tie_word_embeddings\": true, \"attn_logit_softcapping\": 50,"
                " \"final_logit_softcapping\": 30}",
    .keys = keys,
    .recipe = recipe_2,
};

#define DEFAULTS_3                                                                                 \
  "{\"vocab_size\": 262208, \"num_attention_heads\": 8, \"num_key_value_heads\": 4,"               \
  " \"head_dim\": 256, \"sliding_window\": 4096, \"max_position_embeddings\": 131072,"             \
  " \"hidden_activation\": \"gelu_pytorch_tanh\", \"tie_word_embeddings\": true,"                  \
  " \"rope_theta\": 1000000, \"rope_local_base_freq\": 10000}"

const struct ka_family ka_family_gemma3 = {
    .name = "gemma3",
    .architectures = (const char *const[]){"Gemma3ForCausalLM", NULL},
    .model_types = (const char *const[]){"gemma3_text", NULL},
    .map = {ka_llama_prefixes, rows_3},
    .defaults = DEFAULTS_3,
    .keys = keys,
    .recipe = recipe_3,
};

const struct ka_family ka_family_gemma3_vl = {
    .name = "gemma3_vl",
    .architectures = (const char *const[]){"Gemma3ForConditionalGeneration", NULL},
    .model_types = (const char *const[]){NULL},
    .map = {(const char *const[]){"model.language_model", "language_model.model", NULL}, rows_3},
    .defaults = DEFAULTS_3,
    .keys = keys,
    .recipe = recipe_3_vl,
};
