/* SPDX-License-Identifier: Apache-2.0
 * SmolLM3: Llama with layers that have no positions, by default every fourth. */
#include "engine/model/family_common.h"

static const struct ka_tensor_row rows[] = {
    KA_LLAMA_TENSORS, KA_QKV_BIASES, KA_O_BIAS, KA_MLP_BIASES, {0},
};

/* no_rope_layers[layer] is 1 where the layer has RoPE, in spite of its name. */
static ka_status rotates(struct ka_ctx *ctx, const struct ka_hf_config *c, int64_t layer,
                         bool *out) {
  const json_t *list = ka_hf_get(c, "no_rope_layers"), *v = json_array_get(list, (size_t)layer);
  int64_t every;
  if (!list) {
    KA_TRY(ka_hf_i64_or(ctx, c, "no_rope_layer_interval", 4, &every));
    if (every < 1)
      return ka_fail(ctx, KA_E_INPUT, "%s: no_rope_layer_interval: got %lld, expected at least 1",
                     c->path, (long long)every);
    *out = (layer + 1) % every != 0;
    return KA_STATUS_OK;
  }
  if (!json_is_integer(v) && !json_is_boolean(v))
    return ka_fail(ctx, KA_E_INPUT, "%s: no_rope_layers: expected a list of 0 and 1, one a layer",
                   c->path);
  *out = json_is_true(v) || json_integer_value(v) != 0;
  return KA_STATUS_OK;
}

static ka_status recipe(struct ka_arena *arena, const struct ka_hf_config *c,
                        struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  KA_TRY(ka_recipe_llama(arena, c, out));
  ka_recipe_attention_bias(c, out);
  ka_recipe_mlp_bias(c, out);
  for (int64_t l = 0; l < out->L; l++) {
    bool rope = true, slides = false;
    KA_TRY(rotates(ctx, c, l, &rope));
    KA_TRY(ka_recipe_slides(ctx, c, l, c->use_sliding_window && c->sliding_window > 0 && !rope,
                            &slides));
    if (slides && c->sliding_window == 0)
      return ka_fail(ctx, KA_E_INPUT,
                     "%s: sliding_window: missing, expected the window of layer %lld", c->path,
                     (long long)l);
    out->layers[l].window = slides ? c->sliding_window : 0;
    if (!rope) out->layers[l].rope = -1;
  }
  return KA_STATUS_OK;
}

const struct ka_family ka_family_smollm3 = {
    .name = "smollm3",
    .architectures = (const char *const[]){"SmolLM3ForCausalLM", NULL},
    .model_types = (const char *const[]){"smollm3", NULL},
    .map = {ka_llama_prefixes, rows},
    .defaults = "{\"num_key_value_heads\": 4, \"max_position_embeddings\": 32768,"
                " \"rope_theta\": 2000000, \"tie_word_embeddings\": true}",
    .keys = (const char *const[]){"no_rope_layers", "no_rope_layer_interval", NULL},
    .recipe = recipe,
};
