/* SPDX-License-Identifier: Apache-2.0
 * Experts from config.json; see family_moe.h. */
#include "engine/model/family_moe.h"

static ka_status check(struct ka_ctx *ctx, const struct ka_hf_config *c, const char *key,
                       int64_t got, int64_t most) {
  if (got >= 1 && got <= most) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_INPUT, "%s: key \"%s\": got %lld, expected 1 to %lld", c->path, key,
                 (long long)got, (long long)most);
}

/* transformers takes either name for either family. */
static const char *experts_key(const struct ka_hf_config *c) {
  static const char *const names[] = {"num_experts", "num_local_experts", "n_routed_experts"};
  for (int i = 0; i < 3; i++)
    if (json_object_get(c->body, names[i])) return names[i];
  for (int i = 0; i < 3; i++)
    if (ka_hf_get(c, names[i])) return names[i];
  return names[0];
}

ka_status ka_recipe_experts(struct ka_arena *arena, const struct ka_hf_config *c, const char *width,
                            const char *shared_width, struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  const char *experts = experts_key(c);
  bool balanced;
  struct ka_moe *x;
  KA_TRY(KA_NEW(arena, &x, 1, "recipe"));
  *x = (struct ka_moe){.factor = 1};
  KA_TRY(ka_hf_i64_or(ctx, c, experts, 0, &x->E));
  KA_TRY(ka_hf_i64_or(ctx, c, "num_experts_per_tok", 0, &x->k));
  KA_TRY(ka_hf_i64_or(ctx, c, width, 0, &x->EF));
  if (shared_width) KA_TRY(ka_hf_i64_or(ctx, c, shared_width, 0, &x->SF));
  KA_TRY(check(ctx, c, experts, x->E, KA_MOE_MOST));
  KA_TRY(check(ctx, c, "num_experts_per_tok", x->k, x->E));
  KA_TRY(check(ctx, c, width, x->EF, 1 << 26));
  if (shared_width) KA_TRY(check(ctx, c, shared_width, x->SF, 1 << 26));
  KA_TRY(ka_hf_bool_or(ctx, c, "norm_topk_prob", false, &x->normalise));
  KA_TRY(ka_hf_f64_or(ctx, c, "router_aux_loss_coef", 0, &x->aux_factor));
  KA_TRY(ka_hf_bool_or(ctx, c, "output_router_logits", false, &balanced));
  if (!balanced) x->aux_factor = 0;
  out->moe = x;
  for (int64_t l = 0; l < out->L; l++) out->layers[l].branch[1] = &ka_ffn_moe;
  return KA_STATUS_OK;
}

static bool listed(const json_t *list, int64_t layer) {
  for (size_t i = 0; i < json_array_size(list); i++)
    if (json_integer_value(json_array_get(list, i)) == layer) return true;
  return false;
}

ka_status ka_recipe_dense_layers(struct ka_ctx *ctx, const struct ka_hf_config *c,
                                 struct ka_recipe *out) {
  const json_t *dense = ka_hf_get(c, "mlp_only_layers");
  int64_t step;
  KA_TRY(ka_hf_i64_or(ctx, c, "decoder_sparse_step", 1, &step));
  KA_TRY(check(ctx, c, "decoder_sparse_step", step, INT32_MAX));
  if (dense && !json_is_array(dense))
    return ka_fail(ctx, KA_E_INPUT, "%s: key \"mlp_only_layers\": expected a list of layers",
                   c->path);
  for (size_t i = 0; i < json_array_size(dense); i++)
    if (!json_is_integer(json_array_get(dense, i)))
      return ka_fail(ctx, KA_E_INPUT, "%s: key \"mlp_only_layers\": entry %zu: expected a layer",
                     c->path, i);
  for (int64_t l = 0; l < out->L; l++)
    if (listed(dense, l) || (l + 1) % step != 0) out->layers[l].branch[1] = &ka_ffn_glu;
  return KA_STATUS_OK;
}
