/* SPDX-License-Identifier: Apache-2.0
 * Latent attention (DeepSeek-V2, section 2.1; as many key heads as query heads):
 *
 *   h -Wq_a-norm-Wq_b-> q  (or h -Wq-> q)          q = q without positions, q with RoPE, of a head
 *   h -Wkv_a-> latent, pe;  latent -norm-Wkv_b-> kv: each head's k without positions, and v
 *   k = kv's, RoPE(pe) of all heads;  attention -> out -Wo-> y
 *
 * Kept: the latents before their norm, q, k, v, out and the log-sums. Normed latents are made
 * again. Decoding caches k and v of every head. */
#include "engine/model/buffers.h"

struct acts {
  struct ka_tensor q_pre, q_rstd; /* [N,QR], [N]: the query's latent before its norm */
  struct ka_tensor q_latent;      /* [N,QR]: behind it; later its gradient */
  struct ka_tensor kv_a; /* [N,KVR+R]: latent and pe; in the backward pass their gradient */
  struct ka_tensor kv_pre, kv_rstd; /* [N,KVR], [N]: the latent before its norm */
  struct ka_tensor latent;          /* [N,KVR]: behind it; later its gradient */
  struct ka_tensor kv;              /* [N,H*(D-R+Dv)]; in the backward pass its gradient */
  struct ka_tensor q, k, v;         /* [N,H*D], [N,H*D], [N,H*Dv]: what attention reads */
  struct ka_tensor out;             /* [N,H*Dv] */
  struct ka_tensor lse;             /* [B,H,T] as [N,H] */
  struct ka_tensor da, dq, dk, dv;  /* gradients of out, q, k, v */
};

enum {
  Q_PRE,
  Q_RSTD,
  Q_LATENT,
  KV_ALL,
  KV_PRE,
  KV_RSTD,
  LATENT,
  KV,
  Q,
  K,
  V,
  OUT,
  LSE,
  DA,
  DQ,
  DK,
  DV
};
static const struct ka_value acts[] = {
    [Q_PRE] = KA_VALUE(acts, q_pre, QR),
    [Q_RSTD] = KA_VALUE_STAT(acts, q_rstd, ONE),
    [Q_LATENT] = KA_VALUE(acts, q_latent, QR),
    [KV_ALL] = KA_VALUE(acts, kv_a, KVP),
    [KV_PRE] = KA_VALUE(acts, kv_pre, KVR),
    [KV_RSTD] = KA_VALUE_STAT(acts, kv_rstd, ONE),
    [LATENT] = KA_VALUE(acts, latent, KVR),
    [KV] = KA_VALUE(acts, kv, KVH),
    [Q] = KA_VALUE(acts, q, HD),
    [K] = KA_VALUE(acts, k, HD),
    [V] = KA_VALUE(acts, v, OD),
    [OUT] = KA_VALUE(acts, out, OD),
    [LSE] = KA_VALUE_STAT(acts, lse, H),
    [DA] = KA_VALUE(acts, da, OD),
    [DQ] = KA_VALUE(acts, dq, HD),
    [DK] = KA_VALUE(acts, dk, HD),
    [DV] = KA_VALUE(acts, dv, OD),
    {0},
};
_Static_assert(sizeof(struct acts) <= KA_MAX_VALUE_BYTES, "KA_MAX_VALUES");

static const enum ka_role roles[] = {KA_ROLE_Q,        KA_ROLE_Q_A,       KA_ROLE_Q_A_BIAS,
                                     KA_ROLE_Q_A_NORM, KA_ROLE_Q_B,       KA_ROLE_KV_A,
                                     KA_ROLE_KV_B,     KA_ROLE_KV_A_BIAS, KA_ROLE_KV_A_NORM,
                                     KA_ROLE_O,        KA_ROLE_O_BIAS,    KA_N_ROLES};

/* Is the gradient of the query's latent, of the keys' and values' needed? */
static bool below_q(const struct ka_layer_weights *w, const struct ka_branch_needs *n) {
  return w->q_a && (n->input || KA_TRAINED(w->q_a, w->q_a_bias, w->q_a_norm));
}
static bool below_kv(const struct ka_layer_weights *w, const struct ka_branch_needs *n) {
  return n->input || KA_TRAINED(w->kv_a, w->kv_a_bias, w->kv_a_norm);
}

static void needs(const struct ka_layer_weights *w, struct ka_branch_needs *n) {
  n->reads_h = KA_TRAINED(w->q, w->q_a, w->kv_a);
  n->inner = n->reads_h || below_q(w, n) || below_kv(w, n) || KA_TRAINED(w->q_b, w->kv_b);
  n->grad = n->inner || KA_TRAINED(w->o, w->o_bias);
}

static void keeps(const struct ka_recipe *r, const struct ka_layer_weights *w,
                  const struct ka_branch_needs *n, enum ka_keep *keep) {
  (void)r;
  enum ka_keep kept = n->inner ? KA_KEPT : KA_SHARED, work = n->inner ? KA_SHARED : KA_ABSENT;
  keep[Q_PRE] = w->q_a ? kept : KA_ABSENT;
  keep[Q_RSTD] = keep[Q_LATENT] = w->q_a ? KA_SHARED : KA_ABSENT;
  keep[KV_ALL] = keep[KV] = keep[KV_RSTD] = keep[LATENT] = KA_SHARED;
  keep[KV_PRE] = keep[Q] = keep[K] = keep[V] = kept;
  keep[OUT] = n->inner || (n->grad && KA_TRAINED(w->o)) ? KA_KEPT : KA_SHARED;
  keep[LSE] = n->inner ? KA_KEPT : KA_ABSENT;
  keep[DA] = keep[DQ] = keep[DK] = keep[DV] = work;
}

static bool input_gradient(const struct ka_branch_needs *n, enum ka_role role) {
  bool outer = role == KA_ROLE_Q || role == KA_ROLE_Q_A || role == KA_ROLE_KV_A;
  return outer ? n->input : n->inner;
}

static void kv_width(const struct ka_recipe *r, int64_t width[2]) {
  width[0] = r->H * r->D;
  width[1] = ka_recipe_dim(r, KA_DIM_OD);
}

static double flops(const struct ka_recipe *r, double S) {
  return 2 * S * (double)(r->H * r->D + ka_recipe_dim(r, KA_DIM_OD));
}

/* --- shapes ----------------------------------------------------------------------------------- */

static int64_t v_head(const struct ka_recipe *r) { return ka_recipe_dim(r, KA_DIM_OD) / r->H; }

/* [B,T,H,width], [N,H,width]. */
static struct ka_tensor heads4(const struct ka_branch_call *c, void *data, int64_t T,
                               int64_t width) {
  return ka_tensor_view(data, c->m->compute, 4, (int64_t[]){c->B, T, c->r->H, width});
}
static struct ka_tensor heads3(const struct ka_branch_call *c, struct ka_tensor x) {
  int64_t H = c->r->H;
  return ka_tensor_view(x.data, c->m->compute, 3, (int64_t[]){c->N, H, x.shape[1] / H});
}

/* The two parts of kv_a. */
static struct ka_tensor latent_of(const struct ka_branch_call *c, struct ka_tensor kv_a) {
  return ka_tensor_slice(kv_a, 0, c->N, 0, c->r->kv_rank);
}
static struct ka_tensor pe_of(const struct ka_branch_call *c, struct ka_tensor kv_a) {
  return ka_tensor_slice(kv_a, 0, c->N, c->r->kv_rank, c->r->rope_width);
}

/* RoPE on the last channels of each of `heads` heads of x [N, heads * width], in place. */
static ka_status rope(const struct ka_branch_call *c, struct ka_tensor x, int64_t heads,
                      bool inverse) {
  const struct ka_model_buffers *b = c->m->buffers;
  int64_t width = x.shape[1] / heads, shape[] = {c->N, heads, width};
  return ka_rope(c->m->dev,
                 &(struct ka_rope_args){.x = ka_tensor_view(x.data, c->m->compute, 3, shape),
                                        .cos = b->cos[c->layer->rope],
                                        .sin = b->sin[c->layer->rope],
                                        .pos = b->pos,
                                        .first = width - c->r->rope_width,
                                        .interleaved = c->r->rope_interleaved,
                                        .inverse = inverse});
}

/* --- forward ---------------------------------------------------------------------------------- */

/* The normed latents, from what is kept of them. */
static ka_status norm_q(const struct ka_branch_call *c, const struct acts *a) {
  return ka_rms_fwd(c->m, a->q_latent, a->q_rstd.data, a->q_pre, c->w->q_a_norm, c->r->latent_eps);
}
static ka_status norm_kv(const struct ka_branch_call *c, const struct acts *a) {
  return ka_rms_fwd(c->m, a->latent, a->kv_rstd.data, a->kv_pre, c->w->kv_a_norm, c->r->latent_eps);
}

static ka_status queries(const struct ka_branch_call *c, const struct acts *a, struct ka_tensor h) {
  struct ka_ctx *ctx = c->m->ctx;
  const struct ka_layer_weights *w = c->w;
  if (!w->q_a) {
    KA_TRY(ka_linear_fwd(c->m, a->q, h, w->q, NULL));
  } else {
    KA_TRY(ka_linear_fwd(c->m, a->q_pre, h, w->q_a, w->q_a_bias));
    KA_TRY(norm_q(c, a));
    KA_TRY(ka_linear_fwd(c->m, a->q, a->q_latent, w->q_b, NULL));
  }
  return rope(c, a->q, c->r->H, false);
}

static ka_status keys_and_values(const struct ka_branch_call *c, const struct acts *a,
                                 struct ka_tensor h) {
  struct ka_ctx *ctx = c->m->ctx;
  const struct ka_layer_weights *w = c->w;
  KA_TRY(ka_linear_fwd(c->m, a->kv_a, h, w->kv_a, w->kv_a_bias));
  KA_TRY(ka_copy(c->m->dev, &(struct ka_copy_args){.out = a->kv_pre, .in = latent_of(c, a->kv_a)}));
  KA_TRY(rope(c, a->kv_a, 1, false));
  KA_TRY(norm_kv(c, a));
  KA_TRY(ka_linear_fwd(c->m, a->kv, a->latent, w->kv_b, NULL));
  return ka_latent_kv_fwd(c->m->dev, &(struct ka_latent_kv_fwd_args){.k = heads3(c, a->k),
                                                                     .v = heads3(c, a->v),
                                                                     .kv = heads3(c, a->kv),
                                                                     .pe = pe_of(c, a->kv_a)});
}

static ka_status attention_fwd(const struct ka_branch_call *c, const struct acts *a) {
  struct ka_ctx *ctx = c->m->ctx;
  const struct ka_kv *kv = c->kv;
  int64_t past = kv ? kv->past : 0, S = past + c->T, Dv = v_head(c->r);
  if (kv && c->B > 1) {
    KA_TRY(ka_kv_append(c, a->k, a->v));
    S = kv->capacity;
  }
  struct ka_attn_fwd_args args = {.out = heads4(c, a->out.data, c->T, Dv),
                                  .q = heads4(c, a->q.data, c->T, c->r->D),
                                  .k = heads4(c, kv ? kv->k : a->k.data, S, c->r->D),
                                  .v = heads4(c, kv ? kv->v : a->v.data, S, Dv),
                                  .doc_start = c->m->buffers->doc_start,
                                  .q_offset = past,
                                  .scale = c->r->attn_scale};
  if (a->lse.data)
    args.lse =
        ka_tensor_view(a->lse.data, ka_accum_dtype(c->m), 3, (int64_t[]){c->B, c->r->H, c->T});
  return ka_attn_fwd(c->m->dev, &args);
}

static ka_status fwd(const struct ka_branch_call *c, struct ka_tensor y, struct ka_tensor h) {
  struct ka_ctx *ctx = c->m->ctx;
  struct acts a = *KA_BRANCH_ACTS(acts, c);
  if (c->kv && c->B == 1) ka_kv_behind(c, &a.k, &a.v);
  KA_TRY(queries(c, &a, h));
  KA_TRY(keys_and_values(c, &a, h));
  KA_TRY(attention_fwd(c, &a));
  return ka_linear_fwd(c->m, y, a.out, c->w->o, c->w->o_bias);
}

/* --- backward --------------------------------------------------------------------------------- */

/* da -> dq of the projection's output, and dkv, dpe (in kv and kv_a). */
static ka_status attention_bwd(const struct ka_branch_call *c, const struct acts *a) {
  struct ka_model *m = c->m;
  struct ka_ctx *ctx = m->ctx;
  int64_t D = c->r->D, Dv = v_head(c->r);
  KA_TRY(ka_attn_bwd(
      m->dev, &(struct ka_attn_bwd_args){.dq = heads4(c, a->dq.data, c->T, D),
                                         .dk = heads4(c, a->dk.data, c->T, D),
                                         .dv = heads4(c, a->dv.data, c->T, Dv),
                                         .dout = heads4(c, a->da.data, c->T, Dv),
                                         .q = heads4(c, a->q.data, c->T, D),
                                         .k = heads4(c, a->k.data, c->T, D),
                                         .v = heads4(c, a->v.data, c->T, Dv),
                                         .out = heads4(c, a->out.data, c->T, Dv),
                                         .lse = ka_tensor_view(a->lse.data, ka_accum_dtype(m), 3,
                                                               (int64_t[]){c->B, c->r->H, c->T}),
                                         .doc_start = m->buffers->doc_start,
                                         .scale = c->r->attn_scale}));
  KA_TRY(rope(c, a->dq, c->r->H, true));
  return ka_latent_kv_bwd(m->dev, &(struct ka_latent_kv_bwd_args){.dkv = heads3(c, a->kv),
                                                                  .dpe = pe_of(c, a->kv_a),
                                                                  .dk = heads3(c, a->dk),
                                                                  .dv = heads3(c, a->dv)});
}

/* dq through the query's latent to its first projection: the gradient that is at h. */
static ka_status latent_q_bwd(const struct ka_branch_call *c, const struct acts *a) {
  struct ka_model *m = c->m;
  struct ka_ctx *ctx = m->ctx;
  const struct ka_layer_weights *w = c->w;
  KA_TRY(norm_q(c, a));
  KA_TRY(ka_linear_dw(m, a->dq, a->q_latent, w->q_b, NULL));
  if (!below_q(w, c->needs)) return KA_STATUS_OK;
  KA_TRY(ka_linear_dx(m, a->q_latent, a->dq, w->q_b, false));
  return ka_rms_bwd(m, a->q_latent, a->q_latent, a->q_pre, a->q_rstd.data, w->q_a_norm);
}

/* dkv likewise, and dpe beside it. */
static ka_status latent_kv_bwd(const struct ka_branch_call *c, const struct acts *a) {
  struct ka_model *m = c->m;
  struct ka_ctx *ctx = m->ctx;
  const struct ka_layer_weights *w = c->w;
  KA_TRY(norm_kv(c, a));
  KA_TRY(ka_linear_dw(m, a->kv, a->latent, w->kv_b, NULL));
  if (!below_kv(w, c->needs)) return KA_STATUS_OK;
  KA_TRY(ka_linear_dx(m, a->latent, a->kv, w->kv_b, false));
  KA_TRY(ka_rms_bwd(m, a->latent, a->latent, a->kv_pre, a->kv_rstd.data, w->kv_a_norm));
  KA_TRY(ka_copy(m->dev, &(struct ka_copy_args){.out = latent_of(c, a->kv_a), .in = a->latent}));
  return rope(c, a->kv_a, 1, true);
}

static ka_status bwd(const struct ka_branch_call *c, struct ka_tensor dh, struct ka_tensor dy) {
  struct ka_model *m = c->m;
  struct ka_ctx *ctx = m->ctx;
  const struct ka_layer_weights *w = c->w;
  const struct acts *a = KA_BRANCH_ACTS(acts, c);
  const struct ka_weight *q = w->q_a ? w->q_a : w->q;
  struct ka_tensor h = {0}, dq = w->q_a ? a->q_latent : a->dq;
  KA_TRY(ka_linear_dw(m, dy, a->out, w->o, w->o_bias));
  if (!c->needs->inner) return KA_STATUS_OK;
  KA_TRY(ka_linear_dx(m, a->da, dy, w->o, false));
  KA_TRY(attention_bwd(c, a));
  if (w->q_a) KA_TRY(latent_q_bwd(c, a));
  KA_TRY(latent_kv_bwd(c, a));
  if (c->needs->reads_h) KA_TRY(ka_branch_h(c, &h));
  KA_TRY(ka_linear_dw(m, dq, h, q, w->q_a_bias));
  KA_TRY(ka_linear_dw(m, a->kv_a, h, w->kv_a, w->kv_a_bias));
  if (!c->needs->input) return KA_STATUS_OK;
  KA_TRY(ka_linear_dx(m, dh, dq, q, false));
  return ka_linear_dx(m, dh, a->kv_a, w->kv_a, true);
}

const struct ka_branch_kind ka_attn_mla = {
    .name = "attn_mla",
    .roles = roles,
    .acts = acts,
    .needs = needs,
    .keeps = keeps,
    .fwd = fwd,
    .bwd = bwd,
    .input_gradient = input_gradient,
    .flops = flops,
    .kv_width = kv_width,
};
