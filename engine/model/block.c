/* SPDX-License-Identifier: Apache-2.0
 * One transformer block, forward and backward, by the recipe.
 *
 *   in + delta -> s1 -norm-> h -Wq,Wk,Wv-> q,k,v -(head norm)-RoPE-attention-> out -Wo-> delta
 *   s1 + delta -> s2 -norm-> h -Wgate,Wup-> gate,up -act(gate)up-> act -Wdown-> delta
 *
 * A feed-forward of another kind (experts) is another pair of ffn_fwd/ffn_bwd, another attention
 * (latent) another pair of qkv_fwd/attention_bwd; norms in other places are more calls of norm_fwd.
 * The backward pass goes only as far down as needs says. Does not know batches or the head. */
#include "engine/model/plan.h"

struct dims {
  int64_t B, T, N, q, kv; /* q, kv: widths of all query and key heads */
};

static struct dims dims_of(const struct ka_model *m) {
  const struct ka_recipe *r = &m->recipe;
  int64_t B = m->buffers->batch_B, T = m->buffers->batch_T;
  return (struct dims){B, T, B * T, r->H * r->D, r->K * r->D};
}

static struct ka_tensor heads4(const struct ka_model *m, void *data, int64_t B, int64_t T,
                               int64_t heads) {
  return ka_tensor_view(data, m->compute, 4, (int64_t[]){B, T, heads, m->recipe.D});
}

static struct ka_rmsnorm_fwd_args norm_args(const struct ka_model *m, struct ka_tensor h,
                                            void *rstd, struct ka_tensor x,
                                            const struct ka_param *w) {
  const struct ka_recipe *r = &m->recipe;
  struct ka_rmsnorm_fwd_args args = {.y = h,
                                     .x = x,
                                     .w = w->weight,
                                     .eps = r->norm_eps,
                                     .round_before_weight = r->norm_round_before_weight};
  if (rstd) args.rstd = ka_stat(m, rstd, x.shape[0]);
  return args;
}

ka_status ka_norm_fwd(struct ka_model *m, struct ka_tensor h, void *rstd, struct ka_tensor x,
                      const struct ka_param *w) {
  struct ka_rmsnorm_fwd_args args = norm_args(m, h, rstd, x, w);
  return ka_rmsnorm_fwd(m->dev, &args);
}

/* sum = x + b->delta, h = norm(sum). */
static ka_status add_norm_fwd(struct ka_model *m, struct ka_tensor h, void *rstd, void *sum,
                              struct ka_tensor x, const struct ka_param *w) {
  struct ka_rmsnorm_fwd_args args = norm_args(m, h, rstd, x, w);
  args.delta = ka_mat(m, m->buffers->delta, x.shape[0], x.shape[1]);
  args.sum = ka_mat(m, sum, x.shape[0], x.shape[1]);
  return ka_rmsnorm_fwd(m->dev, &args);
}

ka_status ka_norm_bwd(struct ka_model *m, struct ka_tensor dx, struct ka_tensor dy,
                      struct ka_tensor s, void *rstd, const struct ka_param *w, bool accumulate) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_tensor dw;
  KA_TRY(ka_vector_grad_begin(m, w, &dw));
  KA_TRY(ka_rmsnorm_bwd(m->dev, &(struct ka_rmsnorm_bwd_args){.dx = dx,
                                                              .dw = dw,
                                                              .dy = dy,
                                                              .s = s,
                                                              .rstd = ka_stat(m, rstd, s.shape[0]),
                                                              .w = w->weight,
                                                              .accumulate = accumulate}));
  return ka_vector_grad_end(m, w, dw);
}

static ka_status rope(struct ka_model *m, void *x, int64_t heads, bool inverse) {
  const struct ka_model_buffers *b = m->buffers;
  int64_t shape[] = {b->batch_B * b->batch_T, heads, m->recipe.D};
  return ka_rope(m->dev, &(struct ka_rope_args){.x = ka_tensor_view(x, m->compute, 3, shape),
                                                .cos = b->cos,
                                                .sin = b->sin,
                                                .pos = b->pos,
                                                .inverse = inverse});
}

/* From the projections to what attention reads: head norm (from pre) and RoPE, in place without. */
static ka_status head_prepare(struct ka_model *m, void *x, void *pre, void *rstd, int64_t heads,
                              const struct ka_param *norm) {
  struct ka_ctx *ctx = m->ctx;
  int64_t n = m->buffers->batch_B * m->buffers->batch_T * heads, D = m->recipe.D;
  if (norm) KA_TRY(ka_norm_fwd(m, ka_mat(m, x, n, D), rstd, ka_mat(m, pre, n, D), norm));
  return rope(m, x, heads, false);
}

static ka_status qkv_fwd(struct ka_model *m, int layer, const struct ka_acts *a) {
  struct ka_ctx *ctx = m->ctx;
  const struct ka_recipe *r = &m->recipe;
  struct dims d = dims_of(m);
  struct ka_tensor h = ka_mat(m, m->buffers->h, d.N, r->C);
  const struct ka_param *q_norm = ka_param_of(m, KA_ROLE_Q_NORM, layer);
  const struct ka_param *k_norm = ka_param_of(m, KA_ROLE_K_NORM, layer);
  void *q = q_norm ? a->q_pre : a->q, *k = k_norm ? a->k_pre : a->k;
  KA_TRY(ka_linear_fwd(m, ka_mat(m, q, d.N, d.q), h, ka_param_of(m, KA_ROLE_Q, layer),
                       ka_param_of(m, KA_ROLE_Q_BIAS, layer)));
  KA_TRY(ka_linear_fwd(m, ka_mat(m, k, d.N, d.kv), h, ka_param_of(m, KA_ROLE_K, layer),
                       ka_param_of(m, KA_ROLE_K_BIAS, layer)));
  KA_TRY(ka_linear_fwd(m, ka_mat(m, a->v, d.N, d.kv), h, ka_param_of(m, KA_ROLE_V, layer),
                       ka_param_of(m, KA_ROLE_V_BIAS, layer)));
  KA_TRY(head_prepare(m, a->q, q, m->buffers->q_rstd, r->H, q_norm));
  return head_prepare(m, a->k, k, m->buffers->k_rstd, r->K, k_norm);
}

/* Several sequences: the new keys and values of each go behind its own past. */
static ka_status append_past(struct ka_model *m, const struct ka_acts *a, const struct ka_kv *kv) {
  struct ka_ctx *ctx = m->ctx;
  struct dims d = dims_of(m);
  int64_t width = d.T * d.kv, at = kv->past * d.kv;
  void *const fresh[] = {a->k, a->v}, *const past[] = {kv->k, kv->v};
  for (int i = 0; i < 2; i++) {
    struct ka_tensor all = ka_mat(m, past[i], d.B, kv->capacity * d.kv);
    KA_TRY(ka_copy(m->dev, &(struct ka_copy_args){.out = ka_tensor_slice(all, 0, d.B, at, width),
                                                  .in = ka_mat(m, fresh[i], d.B, width)}));
  }
  return KA_STATUS_OK;
}

static ka_status attention_fwd(struct ka_model *m, int layer, const struct ka_acts *a,
                               const struct ka_kv *kv) {
  struct ka_ctx *ctx = m->ctx;
  const struct ka_recipe *r = &m->recipe;
  struct dims d = dims_of(m);
  int64_t past = kv ? kv->past : 0, S = past + d.T;
  if (kv && d.B > 1) {
    KA_TRY(append_past(m, a, kv));
    S = kv->capacity;
  }
  struct ka_attn_fwd_args args = {.out = heads4(m, a->out, d.B, d.T, r->H),
                                  .q = heads4(m, a->q, d.B, d.T, r->H),
                                  .k = heads4(m, kv ? kv->k : a->k, d.B, S, r->K),
                                  .v = heads4(m, kv ? kv->v : a->v, d.B, S, r->K),
                                  .doc_start = m->buffers->doc_start,
                                  .window = r->window[layer],
                                  .q_offset = past,
                                  .scale = r->attn_scale};
  if (a->lse) args.lse = ka_tensor_view(a->lse, ka_wide(m), 3, (int64_t[]){d.B, r->H, d.T});
  return ka_attn_fwd(m->dev, &args);
}

static ka_status ffn_fwd(struct ka_model *m, int layer, const struct ka_acts *a) {
  struct ka_ctx *ctx = m->ctx;
  const struct ka_recipe *r = &m->recipe;
  struct dims d = dims_of(m);
  struct ka_tensor h = ka_mat(m, m->buffers->h, d.N, r->C),
                   act = ka_mat(m, m->buffers->act, d.N, r->F);
  struct ka_tensor gate = ka_mat(m, a->gate, d.N, r->F), up = ka_mat(m, a->up, d.N, r->F);
  KA_TRY(ka_linear_fwd(m, gate, h, ka_param_of(m, KA_ROLE_GATE, layer),
                       ka_param_of(m, KA_ROLE_GATE_BIAS, layer)));
  KA_TRY(ka_linear_fwd(m, up, h, ka_param_of(m, KA_ROLE_UP, layer),
                       ka_param_of(m, KA_ROLE_UP_BIAS, layer)));
  KA_TRY(ka_glu_fwd(m->dev,
                    &(struct ka_glu_fwd_args){.out = act, .gate = gate, .up = up, .act = r->act}));
  return ka_linear_fwd(m, ka_mat(m, m->buffers->delta, d.N, r->C), act,
                       ka_param_of(m, KA_ROLE_DOWN, layer),
                       ka_param_of(m, KA_ROLE_DOWN_BIAS, layer));
}

ka_status ka_block_fwd(struct ka_model *m, int layer, const struct ka_acts *a, void *in,
                       bool add_delta, const struct ka_kv *kv) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  const struct ka_recipe *r = &m->recipe;
  struct dims d = dims_of(m);
  struct ka_tensor h = ka_mat(m, b->h, d.N, r->C), s1 = ka_mat(m, a->s1, d.N, r->C);
  const struct ka_param *norm = ka_param_of(m, KA_ROLE_ATTN_NORM, layer);
  if (add_delta)
    KA_TRY(add_norm_fwd(m, h, a->rstd1, a->s1, ka_mat(m, in, d.N, r->C), norm));
  else
    KA_TRY(ka_norm_fwd(m, h, a->rstd1, s1, norm));
  KA_TRY(qkv_fwd(m, layer, a));
  KA_TRY(attention_fwd(m, layer, a, kv));
  KA_TRY(ka_linear_fwd(m, ka_mat(m, b->delta, d.N, r->C), ka_mat(m, a->out, d.N, d.q),
                       ka_param_of(m, KA_ROLE_O, layer), ka_param_of(m, KA_ROLE_O_BIAS, layer)));
  KA_TRY(add_norm_fwd(m, h, a->rstd2, a->s2, s1, ka_param_of(m, KA_ROLE_FFN_NORM, layer)));
  return ffn_fwd(m, layer, a);
}

static bool any_trained(const struct ka_param *a, const struct ka_param *b) {
  return (a && a->trained) || (b && b->trained);
}

/* The norm's output again, for the weight gradients of the linears that read it. */
static ka_status norm_again(struct ka_model *m, int layer, enum ka_role norm, void *s) {
  struct dims d = dims_of(m);
  return ka_norm_fwd(m, ka_mat(m, m->buffers->h, d.N, m->recipe.C), NULL,
                     ka_mat(m, s, d.N, m->recipe.C), ka_param_of(m, norm, layer));
}

/* dx is the gradient of the block's result; adds the one that comes through the feed-forward. */
static ka_status ffn_bwd(struct ka_model *m, int layer) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  const struct ka_recipe *r = &m->recipe;
  const struct ka_layer *l = &b->layers[layer];
  struct dims d = dims_of(m);
  const struct ka_param *down = ka_param_of(m, KA_ROLE_DOWN, layer);
  const struct ka_param *w_gate = ka_param_of(m, KA_ROLE_GATE, layer);
  const struct ka_param *w_up = ka_param_of(m, KA_ROLE_UP, layer);
  const struct ka_param *gate_bias = ka_param_of(m, KA_ROLE_GATE_BIAS, layer);
  const struct ka_param *up_bias = ka_param_of(m, KA_ROLE_UP_BIAS, layer);
  struct ka_tensor dy = ka_mat(m, b->dx, d.N, r->C), act = ka_mat(m, b->act, d.N, r->F);
  struct ka_tensor gate = ka_mat(m, l->acts.gate, d.N, r->F), up = ka_mat(m, l->acts.up, d.N, r->F);
  if (l->needs.gate_up) {
    KA_TRY(ka_linear_dx(m, act, dy, down, false));
    struct ka_glu_bwd_args glu = {
        .dgate = gate, .dup = up, .dout = act, .gate = gate, .up = up, .act = r->act};
    if (down->trained) glu.out = act;
    KA_TRY(ka_glu_bwd(m->dev, &glu));
  } else {
    KA_TRY(ka_glu_fwd(
        m->dev, &(struct ka_glu_fwd_args){.out = act, .gate = gate, .up = up, .act = r->act}));
  }
  KA_TRY(ka_linear_dw(m, dy, act, down, ka_param_of(m, KA_ROLE_DOWN_BIAS, layer)));
  if (!l->needs.gate_up) return KA_STATUS_OK;
  /* gate and up hold their gradients now */
  struct ka_tensor h = ka_mat(m, b->h, d.N, r->C), dh = ka_mat(m, b->delta, d.N, r->C);
  if (any_trained(w_gate, w_up)) KA_TRY(norm_again(m, layer, KA_ROLE_FFN_NORM, l->acts.s2));
  KA_TRY(ka_linear_dw(m, gate, h, w_gate, gate_bias));
  KA_TRY(ka_linear_dw(m, up, h, w_up, up_bias));
  if (!l->needs.ffn_norm) return KA_STATUS_OK;
  KA_TRY(ka_linear_dx(m, dh, gate, w_gate, false));
  KA_TRY(ka_linear_dx(m, dh, up, w_up, true));
  return ka_norm_bwd(m, dy, dh, ka_mat(m, l->acts.s2, d.N, r->C), l->acts.rstd2,
                     ka_param_of(m, KA_ROLE_FFN_NORM, layer), true);
}

static ka_status head_norm_bwd(struct ka_model *m, void *grad, void *pre, void *rstd, int64_t heads,
                               const struct ka_param *norm) {
  int64_t n = m->buffers->batch_B * m->buffers->batch_T * heads, D = m->recipe.D;
  struct ka_tensor dy = ka_mat(m, grad, n, D);
  return ka_norm_bwd(m, dy, dy, ka_mat(m, pre, n, D), rstd, norm, false);
}

/* dout in b->da becomes dq, dk, dv of the projections' outputs. */
static ka_status attention_bwd(struct ka_model *m, int layer) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  const struct ka_recipe *r = &m->recipe;
  const struct ka_acts *a = &b->layers[layer].acts;
  struct dims d = dims_of(m);
  const struct ka_param *q_norm = ka_param_of(m, KA_ROLE_Q_NORM, layer);
  const struct ka_param *k_norm = ka_param_of(m, KA_ROLE_K_NORM, layer);
  if (q_norm) KA_TRY(head_prepare(m, a->q, a->q_pre, b->q_rstd, r->H, q_norm));
  if (k_norm) KA_TRY(head_prepare(m, a->k, a->k_pre, b->k_rstd, r->K, k_norm));
  KA_TRY(ka_attn_bwd(m->dev,
                     &(struct ka_attn_bwd_args){
                         .dq = heads4(m, b->dq, d.B, d.T, r->H),
                         .dk = heads4(m, b->dk, d.B, d.T, r->K),
                         .dv = heads4(m, b->dv, d.B, d.T, r->K),
                         .dout = heads4(m, b->da, d.B, d.T, r->H),
                         .q = heads4(m, a->q, d.B, d.T, r->H),
                         .k = heads4(m, a->k, d.B, d.T, r->K),
                         .v = heads4(m, a->v, d.B, d.T, r->K),
                         .out = heads4(m, a->out, d.B, d.T, r->H),
                         .lse = ka_tensor_view(a->lse, ka_wide(m), 3, (int64_t[]){d.B, r->H, d.T}),
                         .doc_start = b->doc_start,
                         .window = r->window[layer],
                         .scale = r->attn_scale}));
  KA_TRY(rope(m, b->dq, r->H, true));
  KA_TRY(rope(m, b->dk, r->K, true));
  if (q_norm) KA_TRY(head_norm_bwd(m, b->dq, a->q_pre, b->q_rstd, r->H, q_norm));
  if (k_norm) KA_TRY(head_norm_bwd(m, b->dk, a->k_pre, b->k_rstd, r->K, k_norm));
  return KA_STATUS_OK;
}

/* dx is the gradient of s2; adds the one that comes through the attention. */
static ka_status attention_block_bwd(struct ka_model *m, int layer) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  const struct ka_recipe *r = &m->recipe;
  const struct ka_layer *l = &b->layers[layer];
  struct dims d = dims_of(m);
  struct ka_tensor dy = ka_mat(m, b->dx, d.N, r->C), dh = ka_mat(m, b->delta, d.N, r->C);
  struct ka_tensor h = ka_mat(m, b->h, d.N, r->C);
  const struct ka_param *o = ka_param_of(m, KA_ROLE_O, layer);
  KA_TRY(ka_linear_dw(m, dy, ka_mat(m, l->acts.out, d.N, d.q), o,
                      ka_param_of(m, KA_ROLE_O_BIAS, layer)));
  if (!l->needs.qkv) return KA_STATUS_OK;
  KA_TRY(ka_linear_dx(m, ka_mat(m, b->da, d.N, d.q), dy, o, false));
  KA_TRY(attention_bwd(m, layer));
  const struct {
    const struct ka_param *w, *bias;
    struct ka_tensor grad;
  } p[] = {{ka_param_of(m, KA_ROLE_Q, layer), ka_param_of(m, KA_ROLE_Q_BIAS, layer),
            ka_mat(m, b->dq, d.N, d.q)},
           {ka_param_of(m, KA_ROLE_K, layer), ka_param_of(m, KA_ROLE_K_BIAS, layer),
            ka_mat(m, b->dk, d.N, d.kv)},
           {ka_param_of(m, KA_ROLE_V, layer), ka_param_of(m, KA_ROLE_V_BIAS, layer),
            ka_mat(m, b->dv, d.N, d.kv)}};
  if (p[0].w->trained || p[1].w->trained || p[2].w->trained)
    KA_TRY(norm_again(m, layer, KA_ROLE_ATTN_NORM, l->acts.s1));
  for (int i = 0; i < 3; i++) KA_TRY(ka_linear_dw(m, p[i].grad, h, p[i].w, p[i].bias));
  if (!l->needs.attn_norm) return KA_STATUS_OK;
  for (int i = 0; i < 3; i++) KA_TRY(ka_linear_dx(m, dh, p[i].grad, p[i].w, i > 0));
  return ka_norm_bwd(m, dy, dh, ka_mat(m, l->acts.s1, d.N, r->C), l->acts.rstd1,
                     ka_param_of(m, KA_ROLE_ATTN_NORM, layer), true);
}

ka_status ka_block_bwd(struct ka_model *m, int layer) {
  struct ka_ctx *ctx = m->ctx;
  const struct ka_layer_needs *needs = &m->buffers->layers[layer].needs;
  if (needs->down) KA_TRY(ffn_bwd(m, layer));
  if (needs->o) KA_TRY(attention_block_bwd(m, layer));
  return KA_STATUS_OK;
}
