/* SPDX-License-Identifier: Apache-2.0
 * The experts of a mixture: products by expert over rows that lie by expert, and their gradients.
 * Gate and up that lie in one matrix by turns (gpt-oss) are multiplied as that and pulled apart. */
#include "engine/model/moe_parts.h"

#include <assert.h>
#include <string.h>

static int64_t rows_of(const struct ka_branch_call *c) { return c->N * c->r->moe->k; }

/* One matrix an expert, all stored alike. */
struct matrices {
  const struct ka_weight *of[KA_MOE_MOST];
  const void *data[KA_MOE_MOST];
};

static struct matrices *take(struct matrices *out, const struct ka_branch_call *c, size_t field) {
  for (int64_t e = 0; e < c->w->n_experts; e++) {
    memcpy(&out->of[e], (const char *)&c->w->experts[e] + field, sizeof out->of[e]);
    out->data[e] = out->of[e]->w.data;
    assert(ka_tensor_contiguous(&out->of[e]->w));
  }
  return out;
}
#define TAKE(out, c, role) take(out, c, offsetof(struct ka_expert_weights, role))

/* The biases of all experts, which lie in one tensor. */
static struct ka_tensor biases(const struct ka_branch_call *c, const struct ka_weight *first) {
  if (!first) return (struct ka_tensor){0};
  return ka_tensor_2d(first->w.data, first->w.dtype, c->w->n_experts, first->n_cols);
}

/* out = or += a W^T (forward) or a W, by expert. */
static ka_status product(const struct ka_branch_call *c, const struct ka_moe_acts *a,
                         struct ka_tensor out, struct ka_tensor x, const struct matrices *w,
                         bool forward, struct ka_tensor bias, bool accumulate) {
  const struct ka_tensor *w0 = &w->of[0]->w;
  int64_t shape[] = {c->w->n_experts, w0->shape[0], w0->shape[1]};
  return ka_expert_matmul(
      c->m->dev, &(struct ka_expert_matmul_args){.out = out,
                                                 .a = x,
                                                 .b = ka_tensor_view(NULL, w0->dtype, 3, shape),
                                                 .bias = bias,
                                                 .offsets = ka_moe_flat(a->offsets),
                                                 .b_of = w->data,
                                                 .trans_b = forward != w->of[0]->transposed,
                                                 .accumulate = accumulate});
}

/* --- gradients ---------------------------------------------------------------------- */

/* dW_e += left^T right of the rows of each expert with a gradient in `at`. */
static ka_status add_gradients(const struct ka_branch_call *c, const struct ka_moe_acts *a,
                               struct ka_tensor left, struct ka_tensor right, void **at) {
  int64_t shape[] = {c->w->n_experts, left.shape[1], right.shape[1]};
  return ka_expert_grad(c->m->dev, &(struct ka_expert_grad_args){
                                       .dw = ka_tensor_view(NULL, ka_accum_dtype(c->m), 3, shape),
                                       .a = left,
                                       .b = right,
                                       .offsets = ka_moe_flat(a->offsets),
                                       .dw_of = at});
}

/* The columns [at, at + n) of x, side by side. */
static ka_status columns(const struct ka_branch_call *c, struct ka_tensor *x, void *to, int64_t at,
                         int64_t n) {
  struct ka_tensor from = ka_tensor_slice(*x, 0, x->shape[0], at, n);
  *x = ka_mat(c->m, to, x->shape[0], n);
  return ka_copy(c->m->dev, &(struct ka_copy_args){.out = *x, .in = from});
}

/* The gradients of y = x W^T: whole experts in one call, each part of one alone. */
static ka_status gradients(const struct ka_branch_call *c, const struct ka_moe_acts *a,
                           struct ka_tensor dy, struct ka_tensor x, const struct matrices *w) {
  struct ka_ctx *ctx = c->m->ctx;
  void *at[KA_MOE_MOST] = {0};
  bool any = false;
  struct ka_tensor left = w->of[0]->transposed ? x : dy, right = w->of[0]->transposed ? dy : x;
  for (int64_t e = 0; e < c->w->n_experts; e++) {
    if (!ka_weight_trained(w->of[e]) || !ka_moe_is_whole(w->of[e])) continue;
    at[e] = w->of[e]->pieces[0].grad.data;
    any = true;
  }
  if (any) KA_TRY(add_gradients(c, a, left, right, at));
  for (int64_t e = 0; e < c->w->n_experts; e++)
    for (int64_t i = 0; i < w->of[e]->n_pieces && !ka_moe_is_whole(w->of[e]); i++) {
      const struct ka_piece *p = &w->of[e]->pieces[i];
      struct ka_tensor l = left, r = right;
      void *one[KA_MOE_MOST] = {0};
      KA_NEVER(ctx, !ka_tensor_contiguous(&p->grad));
      one[e] = p->grad.data;
      KA_TRY(columns(c, &l, a->left.data, p->row, p->n_rows));
      KA_TRY(columns(c, &r, a->right.data, p->col, p->n_cols));
      KA_TRY(add_gradients(c, a, l, r, one));
    }
  return KA_STATUS_OK;
}

/* The gradients of the experts' biases, from scratch that holds all of them. */
static ka_status bias_gradients(const struct ka_branch_call *c, const struct ka_moe_acts *a,
                                struct ka_tensor dy, size_t field) {
  struct ka_model *m = c->m;
  struct ka_ctx *ctx = m->ctx;
  int64_t n = dy.shape[1];
  struct ka_tensor all = ka_tensor_2d(a->dbias.data, ka_accum_dtype(m), c->w->n_experts, n);
  KA_TRY(ka_fill(m->dev, &(struct ka_fill_args){.x = all}));
  KA_TRY(ka_expert_bias_bwd(m->dev,
                            &(struct ka_expert_bias_bwd_args){
                                .dout = dy, .dbias = all, .offsets = ka_moe_flat(a->offsets)}));
  for (int64_t e = 0; e < c->w->n_experts; e++) {
    const struct ka_weight *w;
    memcpy(&w, (const char *)&c->w->experts[e] + field, sizeof w);
    for (int64_t i = 0; i < w->n_pieces; i++) {
      const struct ka_piece *p = &w->pieces[i];
      struct ka_tensor sum = ka_tensor_slice(all, e, 1, p->col, p->n_cols);
      struct ka_tensor grad = ka_stat(m, p->grad.data, p->n_cols);
      KA_TRY(ka_add(m->dev, &(struct ka_add_args){
                                .out = grad, .a = grad, .b = ka_stat(m, sum.data, p->n_cols)}));
    }
  }
  return KA_STATUS_OK;
}
#define BIAS_GRADIENTS(c, a, dy, role)                                                             \
  bias_gradients(c, a, dy, offsetof(struct ka_expert_weights, role))

/* --- forward -------------- */

static ka_status gather(const struct ka_branch_call *c, const struct ka_moe_acts *a,
                        struct ka_tensor h) {
  return ka_gather_rows(c->m->dev,
                        &(struct ka_gather_rows_args){.out = ka_moe_by_row(c, a->xs, c->r->C),
                                                      .x = h,
                                                      .index = ka_moe_flat(a->token)});
}

/* Every second column, the first of them `from`: [S EF, 1] of [S, 2EF]. */
static struct ka_tensor turn(const struct ka_branch_call *c, const struct ka_moe_acts *a,
                             int64_t from) {
  int64_t n = rows_of(c) * c->r->moe->EF;
  return ka_tensor_slice(ka_tensor_2d(a->gate_up.data, a->gate_up.dtype, n, 2), 0, n, from, 1);
}

static ka_status apart(const struct ka_branch_call *c, const struct ka_moe_acts *a, bool back) {
  struct ka_ctx *ctx = c->m->ctx;
  const void *const data[] = {a->gate.data, a->up.data};
  for (int i = 0; i < 2; i++) {
    struct ka_tensor by_turns = turn(c, a, i);
    struct ka_tensor own = ka_mat(c->m, (void *)(uintptr_t)data[i], by_turns.shape[0], 1);
    KA_TRY(ka_copy(c->m->dev, &(struct ka_copy_args){.out = back ? by_turns : own,
                                                     .in = back ? own : by_turns}));
  }
  return KA_STATUS_OK;
}

ka_status ka_moe_glu(const struct ka_branch_call *c, struct ka_tensor out, struct ka_tensor gate,
                     struct ka_tensor up) {
  return ka_glu_fwd(
      c->m->dev, &(struct ka_glu_fwd_args){.out = out, .gate = gate, .up = up, .act = c->r->act});
}

ka_status ka_moe_experts_fwd(const struct ka_branch_call *c, const struct ka_moe_acts *a,
                             struct ka_tensor h) {
  struct ka_ctx *ctx = c->m->ctx;
  KA_TRY(gather(c, a, h));
  const struct ka_expert_weights *first = &c->w->experts[0];
  const struct ka_tensor none = {0};
  struct matrices w;
  int64_t EF = c->r->moe->EF;
  struct ka_tensor xs = ka_moe_by_row(c, a->xs, c->r->C), act = ka_moe_by_row(c, a->act, EF);
  struct ka_tensor gate = ka_moe_by_row(c, a->gate, EF), up = ka_moe_by_row(c, a->up, EF);
  if (first->expert_gate_up) {
    KA_TRY(product(c, a, ka_moe_by_row(c, a->gate_up, 2 * EF), xs, TAKE(&w, c, expert_gate_up),
                   true, biases(c, first->expert_gate_up_bias), false));
    KA_TRY(apart(c, a, false));
  } else {
    KA_TRY(product(c, a, gate, xs, TAKE(&w, c, expert_gate), true, none, false));
    KA_TRY(product(c, a, up, xs, TAKE(&w, c, expert_up), true, none, false));
  }
  KA_TRY(ka_moe_glu(c, act, gate, up));
  return product(c, a, ka_moe_by_row(c, a->ys, c->r->C), act, TAKE(&w, c, expert_down), true,
                 biases(c, first->expert_down_bias), false);
}

/* --- backward ---------- */

ka_status ka_moe_glu_bwd(const struct ka_branch_call *c, struct ka_tensor act,
                         struct ka_tensor gate, struct ka_tensor up, bool with_act) {
  struct ka_glu_bwd_args args = {
      .dgate = gate, .dup = up, .dout = act, .gate = gate, .up = up, .act = c->r->act};
  if (with_act) args.out = act;
  return ka_glu_bwd(c->m->dev, &args);
}

/* Through the experts' down: dys -> dgate, dup; and its own gradients. */
static ka_status down_bwd(const struct ka_branch_call *c, const struct ka_moe_acts *a,
                          const struct ka_moe_wants *s) {
  struct ka_ctx *ctx = c->m->ctx;
  struct matrices w;
  int64_t EF = c->r->moe->EF;
  struct ka_tensor dys = ka_moe_by_row(c, a->ys, c->r->C), act = ka_moe_by_row(c, a->act, EF);
  struct ka_tensor gate = ka_moe_by_row(c, a->gate, EF), up = ka_moe_by_row(c, a->up, EF);
  (void)TAKE(&w, c, expert_down);
  if (s->inner) {
    KA_TRY(product(c, a, act, dys, &w, false, (struct ka_tensor){0}, false));
    KA_TRY(ka_moe_glu_bwd(c, act, gate, up, s->down));
  } else if (s->down) {
    KA_TRY(ka_moe_glu(c, act, gate, up));
  }
  if (s->down) KA_TRY(gradients(c, a, dys, act, &w));
  return s->down_bias ? BIAS_GRADIENTS(c, a, dys, expert_down_bias) : KA_STATUS_OK;
}

/* dgate, dup -> the gradients of gate and up, and of their input by expert, in xs. */
static ka_status in_bwd(const struct ka_branch_call *c, const struct ka_moe_acts *a,
                        struct ka_tensor h, const struct ka_moe_wants *s) {
  struct ka_ctx *ctx = c->m->ctx;
  const struct ka_tensor none = {0};
  struct matrices w;
  int64_t EF = c->r->moe->EF;
  struct ka_tensor xs = ka_moe_by_row(c, a->xs, c->r->C), gu = ka_moe_by_row(c, a->gate_up, 2 * EF);
  struct ka_tensor d[] = {ka_moe_by_row(c, a->gate, EF), ka_moe_by_row(c, a->up, EF)};
  const size_t fields[] = {offsetof(struct ka_expert_weights, expert_gate),
                           offsetof(struct ka_expert_weights, expert_up)};
  if (s->in) KA_TRY(gather(c, a, h));
  if (c->w->experts[0].expert_gate_up) {
    KA_TRY(apart(c, a, true));
    if (s->in) KA_TRY(gradients(c, a, gu, xs, TAKE(&w, c, expert_gate_up)));
    if (s->in_bias) KA_TRY(BIAS_GRADIENTS(c, a, gu, expert_gate_up_bias));
    if (!c->needs->input) return KA_STATUS_OK;
    return product(c, a, xs, gu, TAKE(&w, c, expert_gate_up), false, none, false);
  }
  for (int i = 0; i < 2 && s->in; i++) KA_TRY(gradients(c, a, d[i], xs, take(&w, c, fields[i])));
  for (int i = 0; i < 2 && c->needs->input; i++)
    KA_TRY(product(c, a, xs, d[i], take(&w, c, fields[i]), false, none, i > 0));
  return KA_STATUS_OK;
}

ka_status ka_moe_experts_bwd(const struct ka_branch_call *c, const struct ka_moe_acts *a,
                             struct ka_tensor h, const struct ka_moe_wants *s) {
  struct ka_ctx *ctx = c->m->ctx;
  KA_TRY(down_bwd(c, a, s));
  return s->inner ? in_bwd(c, a, h, s) : KA_STATUS_OK;
}
