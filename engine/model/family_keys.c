/* SPDX-License-Identifier: Apache-2.0
 * Keys of config.json that change what a model computes and that only some families have: where a
 * family does not know one, it is refused by its name, unless its value changes nothing. What all
 * families read, config.h has; what changes no result (use_cache, the names of tools, dropout,
 * which is not applied here) is in no table. */
#include "engine/model/family.h"

#include "base/log.h"

#include <math.h>
#include <string.h>

/* A family knows a key that it lists (ka_family.keys), or by a role of its tensor map. neutral: the
 * value that changes nothing, false being 0 and true 1; null never changes anything. sentence: what
 * the refusal says in place of the usual. */
#define LISTED KA_N_ROLES
static const struct {
  const char *key;
  double neutral;
  enum ka_role role;
  const char *sentence;
} keys[] = {
    {"quantization_config", NAN, LISTED,
     "the weights are quantised, and kappa reads float32, bfloat16 and float16: write them "
     "unquantised first, as dequantize() of transformers does"},
    {"is_encoder_decoder", 0, LISTED, "kappa trains decoders, and this one has an encoder"},
    {"add_cross_attention", 0, LISTED, "kappa trains decoders that attend to themselves alone"},
    {"pruned_heads", 0, LISTED, "the heads that are left must be the only ones"},
    {"hidden_activation", NAN, LISTED, "models of this architecture have hidden_act in its place"},
    {"attention_bias", 0, KA_ROLE_O_BIAS, NULL},
    {"mlp_bias", 0, KA_ROLE_GATE_BIAS, NULL},
    {"qkv_bias", 0, LISTED, NULL},
    {"use_bias", 0, LISTED, NULL},
    {"use_qk_norm", 0, KA_ROLE_Q_NORM, NULL},
    {"qk_layernorm", 0, KA_ROLE_Q_NORM, NULL},
    {"clip_qkv", NAN, LISTED, NULL},
    {"attn_logit_softcapping", 0, LISTED, NULL},
    {"final_logit_softcapping", 0, LISTED, NULL},
    {"query_pre_attn_scalar", NAN, LISTED, NULL},
    {"attention_multiplier", NAN, LISTED, NULL},
    {"embedding_multiplier", 1, LISTED, NULL},
    {"residual_multiplier", 1, LISTED, NULL},
    {"logits_scaling", 1, LISTED, NULL},
    {"logit_scale", 1, LISTED, NULL},
    {"scale_emb", 1, LISTED, NULL},
    {"scale_depth", NAN, LISTED, NULL},
    {"dim_model_base", NAN, LISTED, NULL},
    {"no_rope_layers", NAN, LISTED, NULL},
    {"no_rope_layer_interval", NAN, LISTED, NULL},
    {"rope_local_base_freq", NAN, LISTED, NULL},
    {"rope_interleaved", 0, LISTED, NULL},
    {"sliding_window_pattern", NAN, LISTED, NULL},
    {"use_bidirectional_attention", 0, LISTED, NULL},
    {"use_parallel_residual", 0, LISTED, NULL},
    {"parallel_attn", 0, LISTED, NULL},
    {"alibi", 0, LISTED, NULL},
    {"scale_attn_by_inverse_layer_idx", 0, LISTED, NULL},
    {"scale_attn_weights", 1, LISTED, NULL},
};

static double value_of(const json_t *v) {
  if (json_is_boolean(v)) return json_is_true(v);
  if (json_is_number(v)) return json_number_value(v);
  bool empty = (json_is_array(v) && json_array_size(v) == 0) ||
               (json_is_object(v) && json_object_size(v) == 0);
  return empty ? 0 : NAN;
}

static bool knows(const struct ka_family *family, const char *key, enum ka_role role) {
  if (role != LISTED) return ka_tensor_map_row(&family->map, role) != NULL;
  for (const char *const *k = family->keys; k && *k; k++)
    if (strcmp(*k, key) == 0) return true;
  return false;
}

ka_status ka_family_check_keys(struct ka_ctx *ctx, const struct ka_family *family,
                               const struct ka_hf_config *c) {
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    const json_t *v = ka_hf_get(c, keys[i].key);
    if (!v || value_of(v) == keys[i].neutral || knows(family, keys[i].key, keys[i].role)) continue;
    if (keys[i].sentence)
      return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: %s: %s", c->path, keys[i].key, keys[i].sentence);
    return ka_fail(ctx, KA_E_UNSUPPORTED,
                   "%s: %s: it would change what the model computes, and a %s model does not have "
                   "it: take the key out if it means nothing",
                   c->path, keys[i].key, family->name);
  }
  if (ka_hf_get(c, "auto_map"))
    ka_info(ctx, "model",
            "%s: auto_map: code that comes with a model is not run; this is read as %s", c->path,
            c->architecture ? c->architecture : c->model_type);
  return KA_STATUS_OK;
}
