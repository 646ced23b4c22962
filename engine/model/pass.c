/* SPDX-License-Identifier: Apache-2.0
 * The order of things. A step is ka_pass_step; everything else here is one of its parts. Layers are
 * run from a to b by one function each way: for the model, for the base model in scratch, and again
 * for a block that kept only its input. The only file that borrows a layer's weights. */
#include "engine/model/projector_parts.h"

#include <string.h>

static struct ka_stack *decoder(const struct ka_model *m) { return &m->stacks[m->n_stacks - 1]; }

static struct ka_branch_call call_of(struct ka_model *m, const struct ka_stack *s, int64_t layer,
                                     int place, const struct ka_layer_weights *w) {
  int64_t B = m->buffers->batch_B, T = m->buffers->batch_T;
  struct ka_branch *branch = &s->layers[layer].branch[place];
  return (struct ka_branch_call){.m = m,
                                 .r = s->recipe,
                                 .layer = &s->recipe->layers[layer],
                                 .w = w,
                                 .needs = &branch->needs,
                                 .branch = branch,
                                 .place = place,
                                 .B = B,
                                 .T = T,
                                 .N = B * T};
}

ka_status ka_pass_check_signal(struct ka_model *m) {
  if (m->n_slices > 0 || ka_dev_queues(m->dev)) return KA_STATUS_OK;
  return ka_check_interrupted(m->ctx, "the model's pass");
}

/* Gemma multiplies by a tensor of the weights' dtype. */
static double embed_scale(const struct ka_model *m) {
  double scale = m->recipe.embed_scale;
  if (!m->recipe.embed_scale_rounds || m->compute == KA_F64) return scale;
  float rounded = (float)scale;
  if (m->compute == KA_BF16) rounded = ka_bf16_to_f32(ka_f32_to_bf16(rounded));
  return rounded;
}

/* x = the embedding of the batch. */
static ka_status embed_fwd(struct ka_model *m, const struct ka_outer_weights *w, void *x) {
  struct ka_ctx *ctx = m->ctx;
  const struct ka_model_buffers *b = m->buffers;
  int64_t N = b->batch_B * b->batch_T;
  struct ka_tensor out = ka_mat(m, x, N, m->recipe.C), delta = ka_mat(m, b->delta, N, m->recipe.C);
  KA_TRY(ka_embed_fwd(
      m->dev, &(struct ka_embed_fwd_args){
                  .out = out, .table = w->embed->w, .ids = b->ids, .scale = embed_scale(m)}));
  if (!w->positions) return KA_STATUS_OK;
  KA_TRY(
      ka_embed_fwd(m->dev, &(struct ka_embed_fwd_args){
                               .out = delta, .table = w->positions->w, .ids = b->pos, .scale = 1}));
  struct ka_tensor flat = ka_tensor_1d(x, m->compute, N * m->recipe.C), add = flat;
  add.data = b->delta;
  return ka_add(m->dev, &(struct ka_add_args){.out = flat, .a = flat, .b = add});
}

static ka_status table_bwd(struct ka_model *m, const struct ka_weight *w, struct ka_tensor ids,
                           double scale) {
  struct ka_ctx *ctx = m->ctx;
  int64_t N = ids.shape[0];
  struct ka_tensor dx = ka_mat(m, m->buffers->dx, N, m->recipe.C);
  for (int64_t i = 0; i < w->n_pieces; i++) {
    const struct ka_piece *p = &w->pieces[i];
    KA_TRY(ka_embed_bwd(
        m->dev, &(struct ka_embed_bwd_args){.dtable = p->grad,
                                            .dout = ka_tensor_slice(dx, 0, N, p->col, p->n_cols),
                                            .ids = ids,
                                            .first_id = p->row,
                                            .scale = scale}));
  }
  return KA_STATUS_OK;
}

static ka_status embed_bwd(struct ka_model *m, const struct ka_outer_weights *w) {
  struct ka_ctx *ctx = m->ctx;
  if (w->positions) KA_TRY(table_bwd(m, w->positions, m->buffers->pos, 1));
  return table_bwd(m, w->embed, m->buffers->ids, embed_scale(m));
}

/* b->final = the stream, with its open addend. */
static ka_status stream_end(struct ka_model *m, const struct ka_stream *x) {
  struct ka_model_buffers *b = m->buffers;
  int64_t n = b->batch_B * b->batch_T * m->recipe.C;
  if (!x->delta) return KA_STATUS_OK; /* no layer: it is there */
  return ka_add(m->dev, &(struct ka_add_args){.out = ka_tensor_1d(b->final, m->compute, n),
                                              .a = ka_tensor_1d(x->x, m->compute, n),
                                              .b = ka_tensor_1d(b->delta, m->compute, n)});
}

/* Layers [from, to) forward. kv [L] or NULL. */
static ka_status layers_fwd(struct ka_model *m, struct ka_stack *s, int64_t from, int64_t to,
                            enum ka_which which, const struct ka_kv *kv, struct ka_stream *x) {
  struct ka_ctx *ctx = m->ctx;
  for (int64_t l = from; l < to; l++) {
    struct ka_layer_weights w;
    KA_TRY(ka_pass_check_signal(m));
    ka_status st = ka_weights_acquire(m, l, which, &w);
    for (int i = 0; i < KA_BRANCHES && ka_ok(st) && !m->buffers->idle; i++) {
      struct ka_branch_call call = call_of(m, s, l, i, &w);
      call.kv = kv ? &kv[l] : NULL;
      if (which == KA_BASE) call.branch = ka_branch_shared(s, l, i);
      st = ka_branch_fwd(&call, x);
    }
    ka_weights_release(m, &w);
    KA_TRY(st);
  }
  return KA_STATUS_OK;
}

/* Layers [from, to) backward, from the top. b->dx is the gradient of the stream. */
static ka_status layers_bwd(struct ka_model *m, struct ka_stack *s, int64_t from, int64_t to) {
  struct ka_ctx *ctx = m->ctx;
  for (int64_t l = to - 1; l >= from; l--) {
    struct ka_layer_weights w;
    bool above = l + 1 < s->recipe->L && s->layers[l + 1].recompute;
    if (s->layers[l].recompute && above) { /* the topmost one's values are still there */
      struct ka_stream x = {s->layers[l].branch[0].own.s.data, false};
      KA_TRY(layers_fwd(m, s, l, l + 1, KA_TUNED, NULL, &x));
    }
    ka_status st = ka_weights_acquire(m, l, KA_TUNED, &w);
    for (int i = KA_BRANCHES - 1; i >= 0 && ka_ok(st) && !m->buffers->idle; i--) {
      struct ka_branch_call call = call_of(m, s, l, i, &w);
      st = ka_branch_bwd(&call);
    }
    ka_weights_release(m, &w);
    KA_TRY(st);
    if (m->layer_done) KA_TRY(m->layer_done(m, l));
  }
  return KA_STATUS_OK;
}

static ka_status copy_out(struct ka_model *m, float *out, void *x) {
  int64_t n = m->buffers->batch_B * m->buffers->batch_T * m->recipe.C;
  return ka_dev_get(m->dev, ka_tensor_1d(out, KA_F32, n), ka_tensor_1d(x, m->compute, n));
}

ka_status ka_pass_fwd(struct ka_model *m, float **hidden, const struct ka_kv *kv) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_stack *s = decoder(m);
  struct ka_model_buffers *b = m->buffers;
  int64_t L = s->recipe->L;
  struct ka_stream x = {L > 0 ? s->layers[0].branch[0].own.s.data : b->final, false};
  KA_TRY(embed_fwd(m, ka_weights_outer(m, KA_TUNED), x.x));
  KA_TRY(ka_projector_fwd(m, x.x, false));
  if (hidden && hidden[0]) KA_TRY(copy_out(m, hidden[0], x.x));
  for (int64_t l = 0, to; l < L; l = to) {
    to = hidden ? l + 1 : L;
    KA_TRY(layers_fwd(m, s, l, to, KA_TUNED, kv, &x));
    if (to < L && !hidden[to]) continue;
    KA_TRY(stream_end(m, &x));
    if (to < L) KA_TRY(copy_out(m, hidden[to], b->final));
  }
  return KA_STATUS_OK;
}

/* b->final becomes the base model's: from the first layer that differs on, from its kept input, in
 * scratch that no backward pass reads. */
static ka_status base_fwd(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_stack *s = decoder(m);
  int64_t L = s->recipe->L, from = s->base > 0 ? s->base : 0;
  if (s->base == L) return KA_STATUS_OK; /* the model's own */
  struct ka_stream x = {s->base < 0 ? s->sum.data : s->layers[from].branch[0].own.s.data, false};
  if (s->base < 0) {
    KA_TRY(embed_fwd(m, ka_weights_outer(m, KA_BASE), x.x));
    KA_TRY(ka_projector_fwd(m, x.x, true));
  }
  KA_TRY(layers_fwd(m, s, from, L, KA_BASE, NULL, &x));
  return stream_end(m, &x);
}

ka_status ka_pass_step(void *model) {
  struct ka_model *m = model;
  struct ka_ctx *ctx = m->ctx;
  struct ka_stack *s = decoder(m);
  const struct ka_outer_weights *w = ka_weights_outer(m, KA_TUNED), *base = NULL;
  /* 1. the embedding and all layers, up; what the way back needs is kept */
  KA_TRY(ka_routing_begin(m));
  KA_TRY(ka_pass_fwd(m, NULL, NULL));
  KA_TRY(ka_routing_end(m));
  /* 2. the rows that predict a target, through the final norm */
  KA_TRY(ka_head_pick(m, w));
  /* 3. the base model's, where the loss asks how far the model has gone from it */
  bool anchored =
      m->term_weight[ka_head_divergence(m)] > 0 && m->buffers->n_free < m->buffers->padded_rows;
  bool others = m->shards.weights && ka_model_reads_base(m); /* they may need its weights now */
  if (anchored || others) KA_TRY(base_fwd(m));
  if (anchored) {
    base = ka_weights_outer(m, KA_BASE);
    KA_TRY(ka_head_pick_base(m, base));
  }
  /* 4. the head in chunks: logits, losses, their gradients; then b->dx, the stream's gradient */
  KA_TRY(ka_head_loss(m, w, base, true));
  /* 5. the layers, down to the lowest one with something trained */
  KA_TRY(layers_bwd(m, s, s->lowest > 0 ? s->lowest : 0, s->recipe->L));
  /* 6. what stands in front, and the embedding */
  if (s->lowest >= 0) return KA_STATUS_OK;
  KA_TRY(ka_projector_bwd(m));
  return embed_bwd(m, w);
}

ka_status ka_model_idle(struct ka_model *m, bool backward) {
  struct ka_stack *s = decoder(m);
  int64_t L = s->recipe->L;
  struct ka_stream x = {NULL, false};
  m->buffers->idle = true;
  ka_status st = layers_fwd(m, s, 0, L, KA_TUNED, NULL, &x);
  if (ka_ok(st) && backward && ka_model_reads_base(m))
    st = layers_fwd(m, s, s->base > 0 ? s->base : 0, L, KA_BASE, NULL, &x);
  if (ka_ok(st) && backward) st = layers_bwd(m, s, s->lowest > 0 ? s->lowest : 0, L);
  m->buffers->idle = false;
  return st;
}

ka_status ka_pass_loss(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  const struct ka_outer_weights *w = ka_weights_outer(m, KA_TUNED);
  KA_TRY(ka_head_pick(m, w));
  return ka_head_loss(m, w, NULL, false);
}

ka_status ka_pass_logits(struct ka_model *m, int64_t first, int64_t n, float *hidden,
                         float *logits) {
  return ka_head_logits(m, ka_weights_outer(m, KA_TUNED), first, n, hidden, logits);
}
