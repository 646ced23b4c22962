/* SPDX-License-Identifier: Apache-2.0
 * RoPE parameters from the older form (rope_theta, rope_scaling {type | rope_type, ...}) and the
 * newer one (rope_parameters {rope_theta, rope_type, ...}, or one such object per layer type),
 * with the defaults of transformers' RotaryEmbeddingConfigMixin. */
#include "engine/formats/config_rope.h"

#include <math.h>
#include <string.h>

static const struct {
  const char *name;
  enum ka_hf_rope_kind kind;
} kinds[] = {{"default", KA_ROPE_DEFAULT},   {"linear", KA_ROPE_LINEAR},
             {"llama3", KA_ROPE_LLAMA3},     {"yarn", KA_ROPE_YARN},
             {"longrope", KA_ROPE_LONGROPE}, {"su", KA_ROPE_LONGROPE}};

/* Where one set of parameters comes from. */
struct source {
  struct ka_hf_config *c;
  const json_t *obj; /* NULL: nothing but the top-level keys */
  const char *what;  /* "config.json: rope_scaling" */
  bool top_level;    /* original_max_position_embeddings beside the object wins */
};

static ka_status check(struct ka_ctx *ctx, const char *what, const char *key, double dflt,
                       double v) {
  if (v == dflt || (isfinite(v) && v > 0)) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_INPUT, "%s: key \"%s\": got %g, expected a number above 0", what, key,
                 v);
}

static ka_status number(struct ka_ctx *ctx, const struct source *s, const char *key, double dflt,
                        double *out) {
  *out = dflt;
  if (s->obj) KA_TRY(ka_json_f64_or(ctx, s->what, s->obj, key, dflt, out));
  return check(ctx, s->what, key, dflt, *out);
}

static ka_status top_number(struct ka_ctx *ctx, const struct ka_hf_config *c, const char *key,
                            double dflt, double *out) {
  KA_TRY(ka_hf_f64_or(ctx, c, key, dflt, out));
  return check(ctx, c->path, key, dflt, *out);
}

static ka_status need(struct ka_ctx *ctx, const struct source *s, const char *kind, const char *key,
                      double *out) {
  KA_TRY(number(ctx, s, key, 0, out));
  if (*out == 0)
    return ka_fail(ctx, KA_E_INPUT, "%s: key \"%s\" is missing, which RoPE type \"%s\" needs",
                   s->what, key, kind);
  return KA_STATUS_OK;
}

static ka_status read_original(struct ka_ctx *ctx, const struct source *s,
                               struct ka_hf_rope_params *r) {
  static const char *const key = "original_max_position_embeddings";
  double dflt = (double)s->c->max_position_embeddings;
  if (s->top_level && ka_hf_get(s->c, key))
    return top_number(ctx, s->c, key, dflt, &r->original_max_position_embeddings);
  return number(ctx, s, key, dflt, &r->original_max_position_embeddings);
}

static ka_status read_yarn(struct ka_ctx *ctx, const struct source *s,
                           struct ka_hf_rope_params *r) {
  KA_TRY(read_original(ctx, s, r));
  double ratio = (double)s->c->max_position_embeddings / r->original_max_position_embeddings;
  if (json_is_null(json_object_get(s->obj, "factor")))
    r->factor = ratio; /* transformers' _compute_yarn_parameters */
  else
    KA_TRY(need(ctx, s, "yarn", "factor", &r->factor));
  KA_TRY(number(ctx, s, "beta_fast", 32, &r->beta_fast));
  KA_TRY(number(ctx, s, "beta_slow", 1, &r->beta_slow));
  KA_TRY(number(ctx, s, "attention_factor", 0, &r->attention_factor));
  KA_TRY(number(ctx, s, "mscale", 0, &r->mscale));
  return ka_json_bool_or(ctx, s->what, s->obj, "truncate", true, &r->truncate);
}

static ka_status read_factors(struct ka_ctx *ctx, const struct source *s, const char *key,
                              const double **out, int64_t *out_n) {
  const json_t *list = json_object_get(s->obj, key), *v;
  size_t i, n = json_array_size(list);
  double *factors;
  KA_TRY(KA_NEW(&s->c->arena, &factors, (int64_t)n, "RoPE factors"));
  json_array_foreach((json_t *)(uintptr_t)list, i, v) factors[i] = json_number_value(v);
  bool good = n > 0;
  for (i = 0; i < n; i++) good = good && isfinite(factors[i]) && factors[i] > 0;
  if (!good)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: key \"%s\": expected a list of numbers above 0, one a pair of rotated "
                   "channels",
                   s->what, key);
  *out = factors;
  *out_n = (int64_t)n;
  return KA_STATUS_OK;
}

/* What is not given is the ratio of the lengths, as transformers' _compute_longrope_parameters. */
static ka_status read_longrope(struct ka_ctx *ctx, const struct source *s,
                               struct ka_hf_rope_params *r) {
  KA_TRY(read_original(ctx, s, r));
  KA_TRY(number(ctx, s, "factor", 0, &r->factor));
  if (r->factor == 0)
    r->factor = (double)s->c->max_position_embeddings / r->original_max_position_embeddings;
  KA_TRY(number(ctx, s, "attention_factor", 0, &r->attention_factor));
  KA_TRY(read_factors(ctx, s, "short_factor", &r->short_factor, &r->n_short));
  if (!json_object_get(s->obj, "long_factor")) return KA_STATUS_OK;
  return read_factors(ctx, s, "long_factor", &r->long_factor, &r->n_long);
}

static ka_status read_llama3(struct ka_ctx *ctx, const struct source *s,
                             struct ka_hf_rope_params *r) {
  KA_TRY(need(ctx, s, "llama3", "factor", &r->factor));
  KA_TRY(need(ctx, s, "llama3", "low_freq_factor", &r->low_freq_factor));
  KA_TRY(need(ctx, s, "llama3", "high_freq_factor", &r->high_freq_factor));
  if (r->high_freq_factor <= r->low_freq_factor)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: key \"high_freq_factor\": got %g, expected more than low_freq_factor %g",
                   s->what, r->high_freq_factor, r->low_freq_factor);
  return read_original(ctx, s, r);
}

static ka_status read_one(struct ka_ctx *ctx, const struct source *s, struct ka_hf_rope_params *r) {
  double theta = 0, partial = 0;
  *r = (struct ka_hf_rope_params){.kind_name = "default", .truncate = true};
  KA_TRY(top_number(ctx, s->c, "rope_theta", 10000, &theta));
  KA_TRY(top_number(ctx, s->c, "partial_rotary_factor", 1, &partial));
  KA_TRY(number(ctx, s, "rope_theta", theta, &r->theta));
  KA_TRY(number(ctx, s, "partial_rotary_factor", partial, &r->partial_rotary_factor));
  if (r->partial_rotary_factor > 1)
    return ka_fail(ctx, KA_E_INPUT, "%s: key \"partial_rotary_factor\": got %g, expected 0 to 1",
                   s->what, r->partial_rotary_factor);
  if (s->obj) {
    KA_TRY(ka_json_str_or(ctx, s->what, s->obj, "type", "default", &r->kind_name));
    KA_TRY(ka_json_str_or(ctx, s->what, s->obj, "rope_type", r->kind_name, &r->kind_name));
  }
  r->kind = KA_ROPE_OTHER;
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (strcmp(r->kind_name, kinds[i].name) == 0) r->kind = kinds[i].kind;
  if (r->kind != KA_ROPE_DEFAULT) KA_TRY(number(ctx, s, "mscale_all_dim", 0, &r->mscale_all_dim));
  switch (r->kind) {
  case KA_ROPE_LINEAR:
    return need(ctx, s, "linear", "factor", &r->factor);
  case KA_ROPE_LLAMA3:
    return read_llama3(ctx, s, r);
  case KA_ROPE_YARN:
    return read_yarn(ctx, s, r);
  case KA_ROPE_LONGROPE:
    return read_longrope(ctx, s, r);
  case KA_ROPE_DEFAULT:
  case KA_ROPE_OTHER:
    break;
  }
  return KA_STATUS_OK;
}

/* Sliding layers by their own theta, unscaled: Gemma-3's older form. */
static const char local_key[] = "rope_local_base_freq";
static ka_status read_local(struct ka_ctx *ctx, struct ka_hf_config *c) {
  double theta;
  c->rope_local = c->rope;
  KA_TRY(top_number(ctx, c, local_key, 0, &theta));
  if (theta == 0) return KA_STATUS_OK;
  c->has_rope_local = true;
  c->rope_local =
      (struct ka_hf_rope_params){.kind_name = "default",
                                 .theta = theta,
                                 .truncate = true,
                                 .partial_rotary_factor = c->rope.partial_rotary_factor};
  return KA_STATUS_OK;
}

/* rope_parameters {full_attention: {...}, sliding_attention: {...}}. */
static ka_status read_nested(struct ka_ctx *ctx, struct source *s) {
  struct ka_hf_config *c = s->c;
  const json_t *all = s->obj, *full = json_object_get(all, "full_attention"),
               *local = json_object_get(all, "sliding_attention");
  const char *what = s->what, *key;
  s->top_level = false;
  const json_t *v;
  json_object_foreach((json_t *)(uintptr_t)all, key, v) {
    if (v == full || v == local || !json_is_object(v)) continue;
    return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: layer type \"%s\" is not supported", what, key);
  }
  bool two = ka_hf_get(c, local_key) != NULL; /* the family tells layers apart anyway */
  s->obj = json_is_object(full) || two ? full : local;
  KA_TRY(ka_arena_printf(&c->arena, &s->what, "%s.%s", what,
                         s->obj == full ? "full_attention" : "sliding_attention"));
  KA_TRY(read_one(ctx, s, &c->rope));
  if (!json_is_object(local)) return read_local(ctx, c);
  c->rope_local = c->rope;
  c->has_rope_local = json_is_object(full) || two;
  if (!c->has_rope_local) return KA_STATUS_OK;
  s->obj = local;
  KA_TRY(ka_arena_printf(&c->arena, &s->what, "%s.sliding_attention", what));
  return read_one(ctx, s, &c->rope_local);
}

ka_status ka_hf_config_rope(struct ka_ctx *ctx, struct ka_hf_config *c) {
  const char *key = ka_hf_get(c, "rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (ka_hf_get(c, "rope_parameters") && ka_hf_get(c, "rope_scaling"))
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: rope_parameters and rope_scaling: expected one of them, they are two forms "
                   "of the same",
                   c->path);
  struct source s = {c, ka_hf_get(c, key), NULL, true};
  KA_TRY(ka_arena_printf(&c->arena, &s.what, "%s: %s", c->path, key));
  if (s.obj && !json_is_object(s.obj))
    return ka_fail(ctx, KA_E_INPUT, "%s: expected an object", s.what);
  if (json_is_object(json_object_get(s.obj, "full_attention")) ||
      json_is_object(json_object_get(s.obj, "sliding_attention")))
    return read_nested(ctx, &s);
  if (s.obj && ka_hf_get(c, local_key) && strcmp(key, "rope_parameters") == 0)
    return ka_fail(ctx, KA_E_UNSUPPORTED,
                   "%s: expected objects full_attention and sliding_attention: transformers passes "
                   "over one for all layers in models of this architecture",
                   s.what);
  if (ka_hf_get(c, local_key) && json_object_get(s.obj, "type") &&
      !json_object_get(s.obj, "rope_type"))
    return ka_fail(
        ctx, KA_E_UNSUPPORTED,
        "%s: type: expected rope_type: transformers passes over the older name in models "
        "of this architecture",
        s.what);
  KA_TRY(read_one(ctx, &s, &c->rope));
  return read_local(ctx, c);
}
