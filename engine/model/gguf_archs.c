/* SPDX-License-Identifier: Apache-2.0
 * See gguf_archs.h: the table, what is refused, and the facts. */
#include "engine/model/gguf_archs.h"

#include "base/log.h"
#include "engine/model/rope.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define BIASES (KA_ARCH_QKV_BIAS | KA_ARCH_O_BIAS | KA_ARCH_MLP_BIAS)
#define LLAMA (KA_ARCH_PAIRS | BIASES | KA_ARCH_LLAMA3 | KA_ARCH_YARN)

static const struct ka_arch archs[] = {
    {"llama", "llama", .flags = LLAMA},
    {"mistral", "llama", .flags = LLAMA},
    {"mixtral", "llama", .flags = LLAMA | KA_ARCH_NORMALISED},
    {"granite", "granite", .flags = LLAMA | KA_ARCH_SCALES},
    {"smollm3", "smollm3", .no_rope_every = 4, .flags = KA_ARCH_PAIRS | KA_ARCH_YARN},
    {"qwen2", "qwen2", .flags = KA_ARCH_QKV_BIAS | KA_ARCH_YARN},
    {"qwen3", "qwen3", .flags = KA_ARCH_YARN},
    {"qwen2_moe", "qwen2moe", .flags = KA_ARCH_QKV_BIAS | KA_ARCH_YARN},
    {"qwen3_moe", "qwen3moe", .flags = KA_ARCH_YARN | KA_ARCH_NORMALISED},
    {"olmo2", "olmo2", .flags = KA_ARCH_YARN},
    {"olmo3", "olmo2", .full_every = 4, .flags = KA_ARCH_YARN | KA_ARCH_SLIDING_ROPE},
    {"olmoe", "olmoe", .flags = KA_ARCH_YARN},
    {"gemma2", "gemma2", KA_ACT_GELU_TANH, 2, .large_layers = 46,
     .flags = KA_ARCH_OWN_SCALES | KA_ARCH_CAPS},
    {"gemma3", "gemma3", KA_ACT_GELU_TANH, 6, .large_layers = 62,
     .flags = KA_ARCH_OWN_SCALES | KA_ARCH_HEAD_CAP | KA_ARCH_SLIDING_ROPE | KA_ARCH_SLIDING_BASE},
    {"gemma3_vl", "gemma3", KA_ACT_GELU_TANH, 6, .large_layers = 62,
     .flags = KA_ARCH_OWN_SCALES | KA_ARCH_SLIDING_ROPE | KA_ARCH_SLIDING_BASE},
    {"phi3", "phi3", .flags = KA_ARCH_FUSED_QKV | KA_ARCH_FUSED_UP | KA_ARCH_LONGROPE},
    {"gpt2", "gpt2", KA_ACT_GELU_TANH, .flags = KA_ARCH_FUSED_QKV | BIASES},
    {"gpt_oss", "gpt-oss", KA_ACT_SILU_CLAMPED, 2,
     .flags = KA_ARCH_QKV_BIAS | KA_ARCH_O_BIAS | KA_ARCH_YARN | KA_ARCH_NORMALISED |
              KA_ARCH_POST_NAMED},
};

/* --- what it cannot say ----------------------------------------------------------------------- */

static ka_status refuse(const struct ka_model *m, const char *what) {
  return ka_fail(m->ctx, KA_E_UNSUPPORTED,
                 "%s: %s: llama.cpp's code has no such %s model; nothing was written",
                 m->config.path, what, m->family->name);
}

static bool differs(double a, double b) { return fabs(a - b) > 1e-6 * fabs(b); }

static ka_status check_biases(const struct ka_model *m, const struct ka_arch *arch) {
  static const struct {
    unsigned flag;
    enum ka_role role;
    const char *what;
  } biases[] = {{KA_ARCH_QKV_BIAS, KA_ROLE_Q_BIAS, "biases of q, k and v"},
                {KA_ARCH_O_BIAS, KA_ROLE_O_BIAS, "a bias of o"},
                {KA_ARCH_MLP_BIAS, KA_ROLE_UP_BIAS, "biases of the feed-forward"}};
  struct ka_ctx *ctx = m->ctx;
  for (int i = 0; i < 3; i++)
    if (!(arch->flags & biases[i].flag) && ka_weights_find(m, biases[i].role, 0, -1))
      KA_TRY(refuse(m, biases[i].what));
  return KA_STATUS_OK;
}

static ka_status check_layers(const struct ka_model *m, const struct ka_arch *arch) {
  struct ka_ctx *ctx = m->ctx;
  const struct ka_recipe *r = &m->recipe;
  for (int64_t l = 0; l < r->L; l++) {
    const struct ka_layer_recipe *lr = &r->layers[l];
    bool full = arch->full_every > 0 && (l + 1) % arch->full_every == 0;
    bool still = arch->no_rope_every > 0 && (l + 1) % arch->no_rope_every == 0;
    if (arch->full_every > 0 && (lr->window == 0) != full)
      KA_TRY(refuse(m, "layer_types, sliding_window_pattern"));
    if (arch->no_rope_every > 0 && (lr->rope < 0) != still) KA_TRY(refuse(m, "no_rope_layers"));
    if (r->moe && lr->branch[1] != &ka_ffn_moe) KA_TRY(refuse(m, "layers without experts"));
  }
  return KA_STATUS_OK;
}

/* The index of the RoPE of full layers, and of sliding ones where there are some; -1: none. */
static void find_ropes(const struct ka_recipe *r, int *full, int *sliding) {
  *full = *sliding = -1;
  for (int64_t l = 0; l < r->L; l++) {
    const struct ka_layer_recipe *lr = &r->layers[l];
    if (lr->rope >= 0) *(lr->window > 0 ? sliding : full) = lr->rope;
  }
  if (*full < 0) *full = *sliding;
}

static ka_status check_rope(const struct ka_model *m, const struct ka_arch *arch) {
  static const unsigned flags[] = {[KA_ROPE_LLAMA3] = KA_ARCH_LLAMA3,
                                   [KA_ROPE_YARN] = KA_ARCH_YARN,
                                   [KA_ROPE_LONGROPE] = KA_ARCH_LONGROPE};
  struct ka_ctx *ctx = m->ctx;
  int full, sliding;
  find_ropes(&m->recipe, &full, &sliding);
  if (full < 0) return KA_STATUS_OK;
  const struct ka_hf_rope_params *p = &m->recipe.ropes[full];
  bool plain = p->kind == KA_ROPE_DEFAULT || p->kind == KA_ROPE_LINEAR;
  if (!plain && !(arch->flags & flags[p->kind])) KA_TRY(refuse(m, "rope_type"));
  if (p->kind == KA_ROPE_YARN && (p->mscale != 0 || p->mscale_all_dim != 0))
    KA_TRY(refuse(m, "mscale"));
  if (p->kind == KA_ROPE_YARN && (p->beta_fast != 32 || p->beta_slow != 1))
    KA_TRY(refuse(m, "beta_fast, beta_slow"));
  if (sliding < 0 || sliding == full) return KA_STATUS_OK;
  const struct ka_hf_rope_params *s = &m->recipe.ropes[sliding];
  bool own = s->kind == KA_ROPE_DEFAULT && (arch->flags & KA_ARCH_SLIDING_ROPE) &&
             (s->theta == p->theta || (arch->flags & KA_ARCH_SLIDING_BASE));
  return own ? KA_STATUS_OK : refuse(m, "RoPE of sliding layers");
}

/* What scales the scores where no fact says it. */
static double usual_scale(const struct ka_recipe *r, const struct ka_arch *arch) {
  bool large = arch->large_layers > 0 && r->L == arch->large_layers;
  return 1 / sqrt(large ? (double)r->C / (double)r->H : (double)r->D);
}

static ka_status check_numbers(const struct ka_model *m, const struct ka_arch *arch) {
  struct ka_ctx *ctx = m->ctx;
  const struct ka_recipe *r = &m->recipe;
  bool scales = arch->flags & KA_ARCH_SCALES, own = arch->flags & KA_ARCH_OWN_SCALES;
  bool whole = ka_weights_find(m, KA_ROLE_K_NORM, 0, -1) && r->moe && r->qk_norm_whole;
  if (r->act != arch->act) KA_TRY(refuse(m, "hidden_act"));
  if (whole && r->K != r->H) KA_TRY(refuse(m, "num_key_value_heads below num_attention_heads"));
  if (!scales && differs(r->attn_scale, usual_scale(r, arch)))
    KA_TRY(refuse(m, "what scales the scores (query_pre_attn_scalar, scale_attn_weights)"));
  if (!scales && !own && differs(r->embed_scale, 1)) KA_TRY(refuse(m, "embedding's factor"));
  if (r->clip_qkv > 0) KA_TRY(refuse(m, "clip_qkv"));
  bool caps = arch->flags & KA_ARCH_CAPS;
  if ((r->attn_softcap > 0) != caps) KA_TRY(refuse(m, "attn_logit_softcapping"));
  if (caps ? r->head_softcap == 0 : r->head_softcap > 0 && !(arch->flags & KA_ARCH_HEAD_CAP))
    KA_TRY(refuse(m, "final_logit_softcapping"));
  const struct ka_moe *moe = r->moe;
  if (moe && moe->normalise != (bool)(arch->flags & KA_ARCH_NORMALISED))
    KA_TRY(refuse(m, "norm_topk_prob"));
  return KA_STATUS_OK;
}

ka_status ka_arch_of(const struct ka_model *m, const struct ka_arch **out) {
  struct ka_ctx *ctx = m->ctx;
  *out = NULL;
  for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
    if (strcmp(archs[i].family, m->family->name) == 0) *out = &archs[i];
  if (!*out)
    return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: %s models are not written as GGUF", m->config.path,
                   m->family->name);
  KA_TRY(check_biases(m, *out));
  KA_TRY(check_layers(m, *out));
  KA_TRY(check_rope(m, *out));
  return check_numbers(m, *out);
}

/* --- facts ------------------------------------------------------------------------------------ */

struct facts {
  struct ka_gguf *g;
  const char *arch;
  char key[128];
};

static const char *key_of(struct facts *f, const char *key) {
  snprintf(f->key, sizeof f->key, "%s.%s", f->arch, key);
  return f->key;
}

static ka_status u32(struct facts *f, const char *key, int64_t v) {
  return ka_gguf_set_u32(f->g, key_of(f, key), v);
}

static ka_status f32(struct facts *f, const char *key, double v) {
  return ka_gguf_set_f32(f->g, key_of(f, key), v);
}

static ka_status text(struct facts *f, const char *key, const char *v) {
  return ka_gguf_set_text(f->g, key_of(f, key), v, strlen(v));
}

static ka_status scaling_facts(struct facts *f, const struct ka_model *m,
                               const struct ka_hf_rope_params *p) {
  struct ka_ctx *ctx = m->ctx;
  double factor = p->factor, original = p->original_max_position_embeddings;
  if (p->kind == KA_ROPE_LINEAR || p->kind == KA_ROPE_YARN) {
    KA_TRY(text(f, "rope.scaling.type", p->kind == KA_ROPE_YARN ? "yarn" : "linear"));
    KA_TRY(f32(f, "rope.scaling.factor", factor));
  }
  if (p->kind == KA_ROPE_YARN) {
    if (!p->truncate)
      ka_warn(ctx, "export", "%s: truncate false: llama.cpp rounds the bounds of yarn's ramp",
              m->config.path);
    KA_TRY(u32(f, "rope.scaling.original_context_length", (int64_t)original));
    if (p->attention_factor != 0)
      KA_TRY(f32(f, "rope.scaling.attn_factor", p->attention_factor / (1 + 0.1 * log(factor))));
  }
  if (p->kind == KA_ROPE_LONGROPE) {
    double longer = (double)m->recipe.max_positions / original;
    double own = longer > 1 ? sqrt(1 + log(longer) / log(original)) : 1;
    KA_TRY(u32(f, "rope.scaling.original_context_length", (int64_t)original));
    KA_TRY(
        f32(f, "rope.scaling.attn_factor", p->attention_factor != 0 ? p->attention_factor : own));
  }
  return KA_STATUS_OK;
}

static ka_status attention_facts(struct facts *f, const struct ka_model *m,
                                 const struct ka_arch *arch) {
  struct ka_ctx *ctx = m->ctx;
  const struct ka_recipe *r = &m->recipe;
  int64_t window = 0;
  int full, sliding;
  for (int64_t l = 0; l < r->L; l++)
    if (r->layers[l].window > 0) window = r->layers[l].window;
  KA_TRY(u32(f, "attention.head_count", r->H));
  KA_TRY(u32(f, "attention.head_count_kv", r->K));
  KA_TRY(u32(f, "attention.key_length", r->D));
  KA_TRY(u32(f, "attention.value_length", r->D));
  KA_TRY(f32(f, r->layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon",
             r->norm_eps));
  if (window > 0) KA_TRY(u32(f, "attention.sliding_window", window));
  if (arch->full_every == 0 && window > 0 && window < r->max_positions)
    ka_warn(ctx, "export",
            "%s: sliding_window: llama.cpp's %s has none: a text of more than %lld tokens gives "
            "other results there",
            m->config.path, arch->name, (long long)window);
  find_ropes(r, &full, &sliding);
  if (full < 0) return KA_STATUS_OK;
  const struct ka_hf_rope_params *p = &r->ropes[full];
  KA_TRY(u32(f, "rope.dimension_count", ka_rope_channels(p, r->D)));
  KA_TRY(f32(f, "rope.freq_base", p->theta));
  if (sliding >= 0 && (arch->flags & KA_ARCH_SLIDING_BASE))
    KA_TRY(f32(f, "rope.freq_base_swa", r->ropes[sliding].theta));
  return scaling_facts(f, m, p);
}

static ka_status expert_facts(struct facts *f, const struct ka_recipe *r, struct ka_ctx *ctx) {
  const struct ka_moe *moe = r->moe;
  if (!moe) return KA_STATUS_OK;
  KA_TRY(u32(f, "expert_count", moe->E));
  KA_TRY(u32(f, "expert_used_count", moe->k));
  KA_TRY(u32(f, "expert_feed_forward_length", moe->EF));
  if (moe->SF > 0) KA_TRY(u32(f, "expert_shared_feed_forward_length", moe->SF));
  return KA_STATUS_OK;
}

static ka_status number_facts(struct facts *f, const struct ka_recipe *r,
                              const struct ka_arch *arch, struct ka_ctx *ctx) {
  if (arch->flags & KA_ARCH_SCALES) {
    KA_TRY(f32(f, "embedding_scale", r->embed_scale));
    KA_TRY(f32(f, "residual_scale", r->residual_scale));
    KA_TRY(f32(f, "attention.scale", r->attn_scale));
    KA_TRY(f32(f, "logit_scale", 1 / r->head_scale));
  }
  if (r->attn_softcap > 0) KA_TRY(f32(f, "attn_logit_softcapping", r->attn_softcap));
  if (r->head_softcap > 0) KA_TRY(f32(f, "final_logit_softcapping", r->head_softcap));
  return KA_STATUS_OK;
}

ka_status ka_arch_facts(const struct ka_model *m, const struct ka_arch *arch, struct ka_gguf *g) {
  struct ka_ctx *ctx = m->ctx;
  const struct ka_recipe *r = &m->recipe;
  struct facts f = {.g = g, .arch = arch->name};
  KA_TRY(u32(&f, "vocab_size", r->V));
  KA_TRY(u32(&f, "context_length", r->max_positions));
  KA_TRY(u32(&f, "embedding_length", r->C));
  KA_TRY(u32(&f, "block_count", r->L));
  KA_TRY(u32(&f, "feed_forward_length", r->moe && r->F == 0 ? r->moe->EF : r->F));
  KA_TRY(attention_facts(&f, m, arch));
  KA_TRY(expert_facts(&f, r, ctx));
  return number_facts(&f, r, arch, ctx);
}

void ka_arch_llama3_factors(const struct ka_hf_rope_params *p, int64_t R, float *out) {
  struct ka_hf_rope_params plain = {.kind = KA_ROPE_DEFAULT, .theta = p->theta};
  float factor, *unscaled = out + R / 2;
  ka_rope_frequencies(p, R, false, out, &factor);
  ka_rope_frequencies(&plain, R, false, unscaled, &factor);
  for (int64_t i = 0; i < R / 2; i++) out[i] = unscaled[i] / out[i];
}
