/* SPDX-License-Identifier: Apache-2.0
 * Attention with grouped heads (Ainslie et al. 2023; as many key heads as query heads is plain
 * attention):
 *
 *   h -Wq,Wk,Wv-> q,k,v -(norm of q and k)-(clamp)-RoPE-attention-> out -Wo-> y
 *
 * Kept: q, k, v (before norm and clamp, where there are some), out and the log-sums. */
#include "engine/model/buffers.h"

struct acts {
  struct ka_tensor q_pre, k_pre;   /* [N,H*D], [N,K*D]: before norm and clamp */
  struct ka_tensor v_pre;          /* [N,K*D]: before the clamp */
  struct ka_tensor q_rstd, k_rstd; /* [N,H], [N,K]: of that norm */
  struct ka_tensor q, k, v;        /* [N,H*D], [N,K*D], [N,K*D]: what attention reads */
  struct ka_tensor out;            /* [N,H*D] */
  struct ka_tensor lse;            /* [B,H,T] as [N,H] */
  struct ka_tensor da, dq, dk, dv; /* gradients of out, q, k, v */
};

enum { Q_PRE, K_PRE, V_PRE, Q_RSTD, K_RSTD, Q, K, V, OUT, LSE, DA, DQ, DK, DV };
static const struct ka_value acts[] = {
    [Q_PRE] = KA_VALUE(acts, q_pre, HD),
    [K_PRE] = KA_VALUE(acts, k_pre, KD),
    [V_PRE] = KA_VALUE(acts, v_pre, KD),
    [Q_RSTD] = KA_VALUE_STAT(acts, q_rstd, H),
    [K_RSTD] = KA_VALUE_STAT(acts, k_rstd, K),
    [Q] = KA_VALUE(acts, q, HD),
    [K] = KA_VALUE(acts, k, KD),
    [V] = KA_VALUE(acts, v, KD),
    [OUT] = KA_VALUE(acts, out, HD),
    [LSE] = KA_VALUE_STAT(acts, lse, H),
    [DA] = KA_VALUE(acts, da, HD),
    [DQ] = KA_VALUE(acts, dq, HD),
    [DK] = KA_VALUE(acts, dk, KD),
    [DV] = KA_VALUE(acts, dv, KD),
    {0},
};
_Static_assert(sizeof(struct acts) <= KA_MAX_VALUE_BYTES, "KA_MAX_VALUES");

static const enum ka_role roles[] = {KA_ROLE_Q,      KA_ROLE_K,      KA_ROLE_V,      KA_ROLE_O,
                                     KA_ROLE_Q_BIAS, KA_ROLE_K_BIAS, KA_ROLE_V_BIAS, KA_ROLE_O_BIAS,
                                     KA_ROLE_Q_NORM, KA_ROLE_K_NORM, KA_ROLE_SINKS,  KA_N_ROLES};

static void needs(const struct ka_layer_weights *w, struct ka_branch_needs *n) {
  n->reads_h = KA_TRAINED(w->q, w->k, w->v);
  n->inner = n->input || n->reads_h ||
             KA_TRAINED(w->q_bias, w->k_bias, w->v_bias, w->q_norm, w->k_norm, w->sinks);
  n->grad = n->inner || KA_TRAINED(w->o, w->o_bias);
}

static void keeps(const struct ka_recipe *r, const struct ka_layer_weights *w,
                  const struct ka_branch_needs *n, enum ka_keep *keep) {
  enum ka_keep kept = n->inner ? KA_KEPT : KA_SHARED, work = n->inner ? KA_SHARED : KA_ABSENT;
  bool norm = w->q_norm != NULL, clip = r->clip_qkv > 0;
  keep[Q_PRE] = keep[K_PRE] = norm || clip ? kept : KA_ABSENT;
  keep[V_PRE] = clip ? kept : KA_ABSENT;
  keep[Q_RSTD] = keep[K_RSTD] = norm ? KA_SHARED : KA_ABSENT;
  keep[Q] = keep[K] = norm || clip ? KA_SHARED : kept; /* made again from q_pre */
  keep[V] = clip ? KA_SHARED : kept;
  keep[OUT] = n->inner || (n->grad && KA_TRAINED(w->o)) ? KA_KEPT : KA_SHARED;
  keep[LSE] = n->inner ? KA_KEPT : w->sinks ? KA_SHARED : KA_ABSENT;
  keep[DA] = keep[DQ] = keep[DK] = keep[DV] = work;
}

static bool input_gradient(const struct ka_branch_needs *n, enum ka_role role) {
  return role == KA_ROLE_O ? n->inner : n->input;
}

static void kv_width(const struct ka_recipe *r, int64_t width[2]) {
  width[0] = width[1] = r->K * r->D;
}

static double flops(const struct ka_recipe *r, double S) { return 4 * S * (double)(r->H * r->D); }

/* [B,T,heads,D] of [N,heads*D]. */
static struct ka_tensor heads4(const struct ka_branch_call *c, void *data, int64_t T,
                               int64_t heads) {
  return ka_tensor_view(data, c->m->compute, 4, (int64_t[]){c->B, T, heads, c->r->D});
}

static ka_status rope(const struct ka_branch_call *c, void *x, int64_t heads, bool inverse) {
  const struct ka_model_buffers *b = c->m->buffers;
  if (c->layer->rope < 0) return KA_STATUS_OK;
  int64_t shape[] = {c->N, heads, c->r->D};
  return ka_rope(c->m->dev, &(struct ka_rope_args){.x = ka_tensor_view(x, c->m->compute, 3, shape),
                                                   .cos = b->cos[c->layer->rope],
                                                   .sin = b->sin[c->layer->rope],
                                                   .pos = b->pos,
                                                   .inverse = inverse});
}

/* Rows of what one norm spans: a head of each token, or all of its heads. */
static struct ka_tensor spans(const struct ka_branch_call *c, struct ka_tensor x,
                              const struct ka_weight *norm) {
  int64_t width = norm->w.shape[0];
  return ka_mat(c->m, x.data, x.shape[0] * x.shape[1] / width, width);
}

/* The limit of the clamp, 0: none, in the compute dtype. */
static double limit_of(const struct ka_branch_call *c) {
  double limit = 0;
  ka_data_store(&limit, c->m->compute, 0, c->r->clip_qkv);
  return ka_load(&limit, c->m->compute, 0);
}

static ka_status clamp_fwd(const struct ka_branch_call *c, struct ka_tensor out,
                           struct ka_tensor x) {
  double limit = limit_of(c);
  if (limit == 0) return KA_STATUS_OK;
  return ka_clamp_fwd(c->m->dev, &(struct ka_clamp_fwd_args){.out = out, .x = x, .limit = limit});
}

/* The norm of a projection's output; the output itself where there is none. */
static ka_status head_norm(const struct ka_branch_call *c, struct ka_tensor out,
                           struct ka_tensor pre, void *rstd, const struct ka_weight *norm) {
  if (!norm) return KA_STATUS_OK;
  struct ka_tensor x = spans(c, pre, norm), y = ka_mat(c->m, out.data, x.shape[0], x.shape[1]);
  return ka_rms_fwd(c->m, y, rstd, x, norm, c->r->norm_eps);
}

/* From the projections (pre) to what attention reads: norm, clamp and RoPE, in place without. */
static ka_status head_prepare(const struct ka_branch_call *c, struct ka_tensor out,
                              struct ka_tensor pre, void *rstd, int64_t heads,
                              const struct ka_weight *norm) {
  struct ka_ctx *ctx = c->m->ctx;
  KA_TRY(head_norm(c, out, pre, rstd, norm));
  KA_TRY(clamp_fwd(c, out, norm ? out : pre));
  return rope(c, out.data, heads, false);
}

static ka_status attention_fwd(const struct ka_branch_call *c, const struct acts *a) {
  struct ka_ctx *ctx = c->m->ctx;
  const struct ka_recipe *r = c->r;
  const struct ka_kv *kv = c->kv;
  int64_t past = kv ? kv->past : 0, S = past + c->T;
  if (kv && c->B > 1) {
    KA_TRY(ka_kv_append(c, a->k, a->v));
    S = kv->capacity;
  }
  struct ka_attn_fwd_args args = {.out = heads4(c, a->out.data, c->T, r->H),
                                  .q = heads4(c, a->q.data, c->T, r->H),
                                  .k = heads4(c, kv ? kv->k : a->k.data, S, r->K),
                                  .v = heads4(c, kv ? kv->v : a->v.data, S, r->K),
                                  .doc_start = c->m->buffers->doc_start,
                                  .window = c->layer->window,
                                  .q_offset = past,
                                  .scale = r->attn_scale,
                                  .softcap = r->attn_softcap};
  if (a->lse.data)
    args.lse = ka_tensor_view(a->lse.data, ka_accum_dtype(c->m), 3, (int64_t[]){c->B, r->H, c->T});
  KA_TRY(ka_attn_fwd(c->m->dev, &args));
  if (!c->w->sinks) return KA_STATUS_OK;
  return ka_attn_sink_fwd(c->m->dev, &(struct ka_attn_sink_fwd_args){
                                         .out = args.out, .lse = args.lse, .sink = c->w->sinks->w});
}

static ka_status sinks_bwd(const struct ka_branch_call *c, const struct acts *a) {
  struct ka_model *m = c->m;
  struct ka_ctx *ctx = m->ctx;
  struct ka_tensor dsink;
  KA_TRY(ka_vector_grad_begin(m, c->w->sinks, 0, &dsink));
  if (!dsink.data) return KA_STATUS_OK;
  int64_t shape[] = {c->B, c->r->H, c->T};
  KA_TRY(
      ka_attn_sink_bwd(m->dev, &(struct ka_attn_sink_bwd_args){
                                   .dsink = dsink,
                                   .dout = heads4(c, a->da.data, c->T, c->r->H),
                                   .out = heads4(c, a->out.data, c->T, c->r->H),
                                   .lse = ka_tensor_view(a->lse.data, ka_accum_dtype(m), 3, shape),
                                   .sink = c->w->sinks->w}));
  return ka_vector_grad_end(m, c->w->sinks, dsink);
}

static ka_status fwd(const struct ka_branch_call *c, struct ka_tensor y, struct ka_tensor h) {
  struct ka_model *m = c->m;
  struct ka_ctx *ctx = m->ctx;
  const struct ka_layer_weights *w = c->w;
  struct acts a = *KA_BRANCH_ACTS(acts, c);
  if (c->kv && c->B == 1) ka_kv_behind(c, &a.k, &a.v);
  struct ka_tensor q = a.q_pre.data ? a.q_pre : a.q, k = a.k_pre.data ? a.k_pre : a.k;
  struct ka_tensor v = a.v_pre.data ? a.v_pre : a.v;
  KA_TRY(ka_linear_fwd(m, q, h, w->q, w->q_bias));
  KA_TRY(ka_linear_fwd(m, k, h, w->k, w->k_bias));
  KA_TRY(ka_linear_fwd(m, v, h, w->v, w->v_bias));
  KA_TRY(head_prepare(c, a.q, q, a.q_rstd.data, c->r->H, w->q_norm));
  KA_TRY(head_prepare(c, a.k, k, a.k_rstd.data, c->r->K, w->k_norm));
  KA_TRY(clamp_fwd(c, a.v, v));
  KA_TRY(attention_fwd(c, &a));
  return ka_linear_fwd(m, y, a.out, w->o, w->o_bias);
}

/* In place: no gradient where the clamp holds. */
static ka_status clamp_bwd(const struct ka_branch_call *c, struct ka_tensor d, struct ka_tensor x) {
  double limit = limit_of(c);
  if (limit == 0) return KA_STATUS_OK;
  struct ka_clamp_bwd_args args = {.dx = d, .dout = d, .x = x, .limit = limit};
  return ka_clamp_bwd(c->m->dev, &args);
}

/* Back through clamp and norm: the norm's weight gradient, and dx in place of dy. out: scratch. */
static ka_status head_bwd(const struct ka_branch_call *c, struct ka_tensor dy, struct ka_tensor out,
                          struct ka_tensor pre, void *rstd, const struct ka_weight *norm) {
  struct ka_ctx *ctx = c->m->ctx;
  if (limit_of(c) > 0) KA_TRY(head_norm(c, out, pre, rstd, norm));
  KA_TRY(clamp_bwd(c, dy, norm ? out : pre));
  if (!norm) return KA_STATUS_OK;
  struct ka_tensor d = spans(c, dy, norm);
  return ka_rms_bwd(c->m, d, d, spans(c, pre, norm), rstd, norm);
}

/* da -> dq, dk, dv, of the projections' outputs. */
static ka_status attention_bwd(const struct ka_branch_call *c, const struct acts *a) {
  struct ka_model *m = c->m;
  struct ka_ctx *ctx = m->ctx;
  const struct ka_recipe *r = c->r;
  const struct ka_weight *q_norm = c->w->q_norm, *k_norm = c->w->k_norm;
  if (a->q_pre.data) KA_TRY(head_prepare(c, a->q, a->q_pre, a->q_rstd.data, r->H, q_norm));
  if (a->k_pre.data) KA_TRY(head_prepare(c, a->k, a->k_pre, a->k_rstd.data, r->K, k_norm));
  KA_TRY(clamp_fwd(c, a->v, a->v_pre));
  KA_TRY(ka_attn_bwd(
      m->dev, &(struct ka_attn_bwd_args){.dq = heads4(c, a->dq.data, c->T, r->H),
                                         .dk = heads4(c, a->dk.data, c->T, r->K),
                                         .dv = heads4(c, a->dv.data, c->T, r->K),
                                         .dout = heads4(c, a->da.data, c->T, r->H),
                                         .q = heads4(c, a->q.data, c->T, r->H),
                                         .k = heads4(c, a->k.data, c->T, r->K),
                                         .v = heads4(c, a->v.data, c->T, r->K),
                                         .out = heads4(c, a->out.data, c->T, r->H),
                                         .lse = ka_tensor_view(a->lse.data, ka_accum_dtype(m), 3,
                                                               (int64_t[]){c->B, r->H, c->T}),
                                         .doc_start = m->buffers->doc_start,
                                         .window = c->layer->window,
                                         .scale = r->attn_scale,
                                         .softcap = r->attn_softcap}));
  KA_TRY(rope(c, a->dq.data, r->H, true));
  KA_TRY(rope(c, a->dk.data, r->K, true));
  KA_TRY(head_bwd(c, a->dq, a->q, a->q_pre, a->q_rstd.data, q_norm));
  KA_TRY(head_bwd(c, a->dk, a->k, a->k_pre, a->k_rstd.data, k_norm));
  return clamp_bwd(c, a->dv, a->v_pre);
}

static ka_status bwd(const struct ka_branch_call *c, struct ka_tensor dh, struct ka_tensor dy) {
  struct ka_model *m = c->m;
  struct ka_ctx *ctx = m->ctx;
  const struct ka_layer_weights *w = c->w;
  const struct acts *a = KA_BRANCH_ACTS(acts, c);
  struct ka_tensor h = {0};
  KA_TRY(ka_linear_dw(m, dy, a->out, w->o, w->o_bias));
  if (!c->needs->inner) return KA_STATUS_OK;
  KA_TRY(ka_linear_dx(m, a->da, dy, w->o, false));
  KA_TRY(sinks_bwd(c, a));
  KA_TRY(attention_bwd(c, a));
  if (c->needs->reads_h) KA_TRY(ka_branch_h(c, &h));
  KA_TRY(ka_linear_dw(m, a->dq, h, w->q, w->q_bias));
  KA_TRY(ka_linear_dw(m, a->dk, h, w->k, w->k_bias));
  KA_TRY(ka_linear_dw(m, a->dv, h, w->v, w->v_bias));
  if (!c->needs->input) return KA_STATUS_OK;
  KA_TRY(ka_linear_dx(m, dh, a->dq, w->q, false));
  KA_TRY(ka_linear_dx(m, dh, a->dk, w->k, true));
  return ka_linear_dx(m, dh, a->dv, w->v, true);
}

const struct ka_branch_kind ka_attn_gqa = {
    .name = "attn_gqa",
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
