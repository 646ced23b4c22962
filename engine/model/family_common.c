/* SPDX-License-Identifier: Apache-2.0
 * The recipe of Llama from config.json; see family_common.h. */
#include "engine/model/family_common.h"

#include <math.h>
#include <string.h>

static const struct {
  const char *name;
  enum ka_act act;
} acts[] = {
    {"silu", KA_ACT_SILU},          {"swish", KA_ACT_SILU},
    {"gelu", KA_ACT_GELU},          {"gelu_pytorch_tanh", KA_ACT_GELU_TANH},
    {"gelu_new", KA_ACT_GELU_TANH},
};

static ka_status find_act(struct ka_ctx *ctx, const struct ka_hf_config *c, enum ka_act *out) {
  for (size_t i = 0; i < sizeof acts / sizeof *acts; i++)
    if (strcmp(c->hidden_act, acts[i].name) == 0) {
      *out = acts[i].act;
      return KA_STATUS_OK;
    }
  return ka_fail(ctx, KA_E_UNSUPPORTED,
                 "%s: hidden_act: got \"%s\", expected silu, gelu or gelu_pytorch_tanh", c->path,
                 c->hidden_act);
}

const char *const ka_llama_prefixes[] = {"model", NULL};

static ka_status check(struct ka_ctx *ctx, const struct ka_hf_config *c) {
  if (c->intermediate_size <= 0)
    return ka_fail(ctx, KA_E_INPUT, "%s: intermediate_size: missing", c->path);
  if (c->num_key_value_heads <= 0 || c->num_attention_heads % c->num_key_value_heads != 0)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: num_attention_heads: got %lld, expected a multiple of num_key_value_heads "
                   "(%lld)",
                   c->path, (long long)c->num_attention_heads, (long long)c->num_key_value_heads);
  return KA_STATUS_OK;
}

ka_status ka_recipe_add_rope(struct ka_ctx *ctx, const struct ka_hf_config *c,
                             const struct ka_hf_rope_params *p, struct ka_recipe *out) {
  if (p->kind == KA_ROPE_OTHER)
    return ka_fail(ctx, KA_E_UNSUPPORTED,
                   "%s: rope type: got \"%s\", expected default, linear, llama3, yarn or longrope",
                   c->path, p->kind_name);
  int64_t R = (int64_t)((double)c->head_dim * p->partial_rotary_factor);
  if (R % 2 != 0)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: head_dim: got %lld of %lld channels that rotate, expected "
                   "an even number",
                   c->path, (long long)R, (long long)c->head_dim);
  bool is_short = p->n_short != R / 2;
  if (p->kind == KA_ROPE_LONGROPE && (is_short || (p->n_long > 0 && p->n_long != R / 2)))
    return ka_fail(ctx, KA_E_INPUT, "%s: %s: got %lld numbers, expected %lld", c->path,
                   is_short ? "short_factor" : "long_factor",
                   (long long)(is_short ? p->n_short : p->n_long), (long long)R / 2);
  out->ropes[out->n_ropes++] = *p;
  return KA_STATUS_OK;
}

static ka_status check_whole(struct ka_ctx *ctx, const struct ka_hf_config *c) {
  /* transformers' models of these families pass over the key with rope type default, and break on
   * it with others; what was meant cannot be known */
  if (c->rope.partial_rotary_factor != 1)
    return ka_fail(
        ctx, KA_E_UNSUPPORTED,
        "%s: key \"partial_rotary_factor\": got %g, expected 1 or nothing: models of this "
        "architecture rotate whole heads",
        c->path, c->rope.partial_rotary_factor);
  return KA_STATUS_OK;
}

ka_status ka_recipe_common(struct ka_arena *arena, const struct ka_hf_config *c,
                           struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  KA_TRY(check(ctx, c));
  *out = (struct ka_recipe){
      .V = c->vocab_size,
      .C = c->hidden_size,
      .L = c->num_hidden_layers,
      .H = c->num_attention_heads,
      .K = c->num_key_value_heads,
      .D = c->head_dim,
      .F = c->intermediate_size,
      .max_positions = c->max_position_embeddings,
      .norm_eps = c->rms_norm_eps,
      .norm_round_before_weight = true,
      .attn_scale = 1 / sqrt((double)c->head_dim),
      .embed_scale = 1,
      .residual_scale = 1,
      .head_scale = 1,
  };
  KA_TRY(find_act(ctx, c, &out->act));
  void *layers;
  KA_TRY(ka_arena_alloc_n(arena, &layers, out->L, sizeof *out->layers, "recipe"));
  out->layers = layers;
  for (int64_t l = 0; l < out->L; l++)
    out->layers[l] = (struct ka_layer_recipe){.branch = {&ka_attn_gqa, &ka_ffn_glu}, .rope = -1};
  return KA_STATUS_OK;
}

ka_status ka_recipe_llama(struct ka_arena *arena, const struct ka_hf_config *c,
                          struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  KA_TRY(ka_recipe_common(arena, c, out));
  KA_TRY(check_whole(ctx, c));
  KA_TRY(ka_recipe_add_rope(ctx, c, &c->rope, out));
  for (int64_t l = 0; l < out->L; l++) out->layers[l].rope = 0;
  return KA_STATUS_OK;
}

void ka_recipe_attention_bias(const struct ka_hf_config *config, struct ka_recipe *out) {
  static const enum ka_role biases[] = {KA_ROLE_Q_BIAS, KA_ROLE_K_BIAS, KA_ROLE_V_BIAS,
                                        KA_ROLE_O_BIAS};
  for (int i = 0; i < 4; i++) out->without[biases[i]] = !config->attention_bias;
}

void ka_recipe_mlp_bias(const struct ka_hf_config *config, struct ka_recipe *out) {
  static const enum ka_role biases[] = {KA_ROLE_GATE_BIAS, KA_ROLE_UP_BIAS, KA_ROLE_DOWN_BIAS};
  for (int i = 0; i < 3; i++) out->without[biases[i]] = !config->mlp_bias;
}

ka_status ka_recipe_one_truncation(struct ka_ctx *ctx, const struct ka_hf_config *c) {
  if (c->rope.truncate && c->rope_local.truncate) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_UNSUPPORTED,
                 "%s: truncate: got false, expected true: models of this architecture truncate, "
                 "whatever the key says",
                 c->path);
}

ka_status ka_recipe_slides(struct ka_ctx *ctx, const struct ka_hf_config *c, int64_t layer,
                           bool otherwise, bool *slides) {
  *slides = otherwise;
  if (!c->layer_types) return KA_STATUS_OK;
  *slides = strcmp(c->layer_types[layer], "sliding_attention") == 0;
  if (*slides || strcmp(c->layer_types[layer], "full_attention") == 0) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_UNSUPPORTED,
                 "%s: layer_types[%lld]: got \"%s\", expected full_attention or sliding_attention",
                 c->path, (long long)layer, c->layer_types[layer]);
}

ka_status ka_recipe_windows(struct ka_ctx *ctx, const struct ka_hf_config *c, int64_t every,
                            struct ka_recipe *out) {
  if (c->has_rope_local) KA_TRY(ka_recipe_add_rope(ctx, c, &c->rope_local, out));
  for (int64_t l = 0; l < out->L; l++) {
    bool slides;
    KA_TRY(ka_recipe_slides(ctx, c, l, (l + 1) % every != 0, &slides));
    if (slides && c->sliding_window == 0)
      return ka_fail(ctx, KA_E_INPUT,
                     "%s: sliding_window: missing, expected the window of layer %lld", c->path,
                     (long long)l);
    out->layers[l].window = slides ? c->sliding_window : 0;
    out->layers[l].rope = slides && c->has_rope_local;
  }
  return KA_STATUS_OK;
}

ka_status ka_recipe_qwen_windows(struct ka_ctx *ctx, const struct ka_hf_config *c,
                                 struct ka_recipe *out) {
  if (!c->use_sliding_window) return KA_STATUS_OK;
  for (int64_t l = 0; l < out->L; l++) {
    bool slides;
    KA_TRY(ka_recipe_slides(ctx, c, l, l >= c->max_window_layers, &slides));
    out->layers[l].window = slides ? c->sliding_window : 0;
  }
  return KA_STATUS_OK;
}
