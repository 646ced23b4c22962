/* SPDX-License-Identifier: Apache-2.0
 * A mixture of experts (Shazeer et al. 2017; Fedus, Zoph and Shazeer 2021), the composition that
 * kernels/ops.h describes: each token's k best of E gated feed-forwards, weighted and added; beside
 * them, where the family has one, a feed-forward that every token sees, behind a switch or not:
 *
 *   h -Wrouter-> scores -> k experts, weights;  rows of h by expert -Wgate,Wup-> gate,up;
 *   act(gate) up -Wdown-> ys;  y = sum of weight ys (+ sigmoid(h wswitch)) shared(h))
 *
 * Kept: scores, choice, weights and places; gate and up; ys where a router's gradient reads it. Rows
 * by expert are gathered again on the way back. A frozen expert has no gradient, and one that no
 * token chose costs nothing; what only some experts train is a list of pointers for expert_grad.
 * Gate and up that lie in one matrix by turns (gpt-oss) are multiplied as that and pulled apart. */
#include "engine/model/ffn_moe.h"

#include "engine/model/plan.h"

#include <assert.h>
#include <string.h>

struct acts {
  struct ka_tensor logits, scores; /* [N,E]; logits in the backward pass: their gradient */
  struct ka_tensor dlogits;        /* [N,E] in the compute dtype */
  struct ka_tensor index, place;   /* [N,k] */
  struct ka_tensor weight;         /* [N,k] */
  struct ka_tensor dweight;        /* [N,k] */
  struct ka_tensor token;          /* [S], S = N k rows by expert */
  struct ka_tensor offsets;        /* [E+1] */
  struct ka_tensor xs;             /* [S,C]: h by expert; later its gradient */
  struct ka_tensor gate_up;        /* [S,2EF] by turns; later its gradient */
  struct ka_tensor gate, up;       /* [S,EF]; in the backward pass their gradients */
  struct ka_tensor act;         /* [S,EF]: act(gate) up; in the backward pass first its gradient */
  struct ka_tensor ys;          /* [S,C]: what experts give; in the backward pass its gradient */
  struct ka_tensor left, right; /* [S,..]: columns, where a part of an expert is trained */
  struct ka_tensor dbias;       /* [E,..]: gradients of the experts' biases */
  struct ka_tensor choice;      /* [E]: what is added for the choice */
  struct ka_tensor s_gate, s_up, s_act;        /* [N,SF]: as above, of the shared feed-forward */
  struct ka_tensor s_y;                        /* [N,C]: what it gives, before the switch */
  struct ka_tensor s_logit, s_score, s_weight; /* [N,1]: the switch */
  struct ka_tensor s_dweight, s_dlogit;        /* [N,1] */
  struct ka_tensor s_index, s_place, s_token;  /* [N,1]: every token to the one expert */
  struct ka_tensor s_offsets;                  /* [2] */
};

enum {
  LOGITS,
  SCORES,
  DLOGITS,
  INDEX,
  PLACE,
  WEIGHT,
  DWEIGHT,
  TOKEN,
  OFFSETS,
  XS,
  GATE_UP,
  GATE,
  UP,
  ACT,
  YS,
  LEFT,
  RIGHT,
  DBIAS,
  CHOICE,
  S_GATE,
  S_UP,
  S_ACT,
  S_Y,
  S_LOGIT,
  S_SCORE,
  S_WEIGHT,
  S_DWEIGHT,
  S_DLOGIT,
  S_INDEX,
  S_PLACE,
  S_TOKEN,
  S_OFFSETS,
  N_ACTS
};
static const struct ka_value acts[] = {
    [LOGITS] = KA_VALUE_STAT(acts, logits, E),
    [SCORES] = KA_VALUE_STAT(acts, scores, E),
    [DLOGITS] = KA_VALUE(acts, dlogits, E),
    [INDEX] = KA_VALUE_INT(acts, index, EK),
    [PLACE] = KA_VALUE_INT(acts, place, EK),
    [WEIGHT] = KA_VALUE_STAT(acts, weight, EK),
    [DWEIGHT] = KA_VALUE_STAT(acts, dweight, EK),
    [TOKEN] = KA_VALUE_INT(acts, token, EK),
    [OFFSETS] = KA_VALUE_OF(acts, offsets, EN, .is_int = true, .once = true),
    [XS] = KA_VALUE(acts, xs, EKC),
    [GATE_UP] = KA_VALUE(acts, gate_up, EKU),
    [GATE] = KA_VALUE(acts, gate, EKF),
    [UP] = KA_VALUE(acts, up, EKF),
    [ACT] = KA_VALUE(acts, act, EKF),
    [YS] = KA_VALUE(acts, ys, EKC),
    [LEFT] = KA_VALUE(acts, left, EKW),
    [RIGHT] = KA_VALUE(acts, right, EKW),
    [DBIAS] = KA_VALUE_OF(acts, dbias, EUE, .is_stat = true, .once = true),
    [CHOICE] = KA_VALUE_OF(acts, choice, E, .is_stat = true, .once = true),
    [S_GATE] = KA_VALUE(acts, s_gate, SF),
    [S_UP] = KA_VALUE(acts, s_up, SF),
    [S_ACT] = KA_VALUE(acts, s_act, SF),
    [S_Y] = KA_VALUE(acts, s_y, C),
    [S_LOGIT] = KA_VALUE_STAT(acts, s_logit, UNIT),
    [S_SCORE] = KA_VALUE_STAT(acts, s_score, UNIT),
    [S_WEIGHT] = KA_VALUE_STAT(acts, s_weight, UNIT),
    [S_DWEIGHT] = KA_VALUE_STAT(acts, s_dweight, UNIT),
    [S_DLOGIT] = KA_VALUE(acts, s_dlogit, UNIT),
    [S_INDEX] = KA_VALUE_INT(acts, s_index, UNIT),
    [S_PLACE] = KA_VALUE_INT(acts, s_place, UNIT),
    [S_TOKEN] = KA_VALUE_INT(acts, s_token, UNIT),
    [S_OFFSETS] = KA_VALUE_OF(acts, s_offsets, TWO, .is_int = true, .once = true),
    {0},
};
_Static_assert(sizeof(struct acts) <= KA_MAX_VALUE_BYTES, "KA_MAX_VALUES");

static const enum ka_role roles[] = {KA_ROLE_ROUTER,           KA_ROLE_ROUTER_BIAS,
                                     KA_ROLE_ROUTER_CHOICE,    KA_ROLE_SHARED_GATE,
                                     KA_ROLE_SHARED_UP,        KA_ROLE_SHARED_DOWN,
                                     KA_ROLE_SHARED_SWITCH,    KA_ROLE_EXPERT_GATE,
                                     KA_ROLE_EXPERT_UP,        KA_ROLE_EXPERT_DOWN,
                                     KA_ROLE_EXPERT_GATE_UP,   KA_ROLE_EXPERT_GATE_UP_BIAS,
                                     KA_ROLE_EXPERT_DOWN_BIAS, KA_N_ROLES};

/* --- what is needed and kept ------------------------------------------------------------------- */

/* Of one layer: what of it is trained, and so which gradients are wanted. */
struct wants {
  bool in, in_bias, down, down_bias; /* some expert's gate or up, its bias, its down, its bias */
  bool parts;                        /* of some expert a part alone */
  bool choice;                       /* through the weights, to the router or to h */
  bool inner;                        /* through the experts' down */
  bool shared, shared_inner, shared_switch;
};

static bool is_whole(const struct ka_weight *w) {
  return w->n_pieces == 1 && w->pieces[0].n_rows == w->n_rows && w->pieces[0].n_cols == w->n_cols;
}

static bool is_part(const struct ka_weight *w) { return ka_weight_trained(w) && !is_whole(w); }

static struct wants wants_of(const struct ka_layer_weights *w, bool input) {
  struct wants s = {0};
  for (int64_t e = 0; e < w->n_experts; e++) {
    const struct ka_expert_weights *x = &w->experts[e];
    s.in = s.in || KA_TRAINED(x->expert_gate, x->expert_up, x->expert_gate_up);
    s.in_bias = s.in_bias || KA_TRAINED(x->expert_gate_up_bias);
    s.down = s.down || KA_TRAINED(x->expert_down);
    s.down_bias = s.down_bias || KA_TRAINED(x->expert_down_bias);
    s.parts = s.parts || is_part(x->expert_gate) || is_part(x->expert_up) ||
              is_part(x->expert_gate_up) || is_part(x->expert_down);
  }
  s.choice = input || KA_TRAINED(w->router, w->router_bias);
  s.inner = input || s.in || s.in_bias;
  s.shared_switch = w->shared_switch && (input || KA_TRAINED(w->shared_switch));
  s.shared_inner = w->shared_down && (input || KA_TRAINED(w->shared_gate, w->shared_up));
  s.shared = s.shared_inner || s.shared_switch || KA_TRAINED(w->shared_down);
  return s;
}

static void needs(const struct ka_layer_weights *w, struct ka_branch_needs *n) {
  struct wants s = wants_of(w, n->input);
  n->reads_h = s.in || KA_TRAINED(w->router, w->shared_gate, w->shared_up, w->shared_switch);
  n->inner = s.inner || s.choice || s.shared_inner || s.shared_switch;
  n->grad = n->inner || s.down || s.down_bias || s.shared;
}

static void keeps(const struct ka_layer_weights *w, const struct ka_branch_needs *n,
                  enum ka_keep *keep) {
  struct wants s = n->grad ? wants_of(w, n->input) : (struct wants){0};
  bool experts = s.inner || s.down || s.down_bias || s.choice, turns = w->experts[0].expert_gate_up;
  bool by_switch = w->shared_switch, shared = w->shared_down;
  enum ka_keep work = n->grad ? KA_SHARED : KA_ABSENT;
  for (int i = 0; i < N_ACTS; i++) keep[i] = KA_SHARED;
  keep[SCORES] = keep[DLOGITS] = keep[DWEIGHT] = s.choice ? KA_SHARED : KA_ABSENT;
  keep[SCORES] = s.choice ? KA_KEPT : KA_SHARED;
  keep[INDEX] = keep[PLACE] = keep[WEIGHT] = experts ? KA_KEPT : KA_SHARED;
  keep[TOKEN] = keep[OFFSETS] = experts ? KA_KEPT : KA_SHARED;
  keep[GATE] = keep[UP] = s.inner || s.down ? KA_KEPT : KA_SHARED;
  keep[GATE_UP] = turns ? KA_SHARED : KA_ABSENT;
  keep[YS] = s.choice ? KA_KEPT : KA_SHARED;
  keep[LEFT] = keep[RIGHT] = s.parts ? KA_SHARED : KA_ABSENT;
  keep[DBIAS] = s.in_bias || s.down_bias ? KA_SHARED : KA_ABSENT;
  keep[CHOICE] = w->router_choice ? KA_SHARED : KA_ABSENT;
  keep[S_GATE] = keep[S_UP] = !shared ? KA_ABSENT : s.shared ? KA_KEPT : KA_SHARED;
  keep[S_ACT] = shared ? KA_SHARED : KA_ABSENT;
  keep[S_Y] = !by_switch ? KA_ABSENT : s.shared_switch ? KA_KEPT : KA_SHARED;
  keep[S_LOGIT] = by_switch ? KA_SHARED : KA_ABSENT;
  keep[S_SCORE] = keep[S_WEIGHT] = !by_switch ? KA_ABSENT : s.shared ? KA_KEPT : KA_SHARED;
  keep[S_INDEX] = keep[S_PLACE] = keep[S_SCORE];
  keep[S_TOKEN] = keep[S_OFFSETS] = keep[S_LOGIT];
  keep[S_DWEIGHT] = keep[S_DLOGIT] = by_switch ? work : KA_ABSENT;
}

static bool input_gradient(const struct ka_branch_needs *n, enum ka_role role) {
  return role == KA_ROLE_SHARED_DOWN ? n->inner : n->input;
}

/* Most experts do not see a token: what 2 a weight counts too much. */
static double flops(const struct ka_recipe *r, double S) {
  const struct ka_moe *x = r->moe;
  (void)S;
  return -2 * 3 * (double)(x->E - x->k) * (double)(x->EF * r->C);
}

/* --- views ------------------------------------------------------------------------------------- */

static int64_t rows_of(const struct ka_branch_call *c) { return c->N * c->r->moe->k; }

/* The same memory as rows by expert. */
static struct ka_tensor by_row(const struct ka_branch_call *c, struct ka_tensor t, int64_t cols) {
  return ka_tensor_2d(t.data, t.dtype, rows_of(c), cols);
}

static struct ka_tensor flat(struct ka_tensor t) {
  return ka_tensor_1d(t.data, t.dtype, ka_tensor_elems(&t));
}

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
static ka_status product(const struct ka_branch_call *c, const struct acts *a, struct ka_tensor out,
                         struct ka_tensor x, const struct matrices *w, bool forward,
                         struct ka_tensor bias, bool accumulate) {
  const struct ka_tensor *w0 = &w->of[0]->w;
  int64_t shape[] = {c->w->n_experts, w0->shape[0], w0->shape[1]};
  return ka_expert_matmul(
      c->m->dev, &(struct ka_expert_matmul_args){.out = out,
                                                 .a = x,
                                                 .b = ka_tensor_view(NULL, w0->dtype, 3, shape),
                                                 .bias = bias,
                                                 .offsets = flat(a->offsets),
                                                 .b_of = w->data,
                                                 .trans_b = forward != w->of[0]->transposed,
                                                 .accumulate = accumulate});
}

/* --- gradients of experts ---------------------------------------------------------------------- */

/* dW_e += left^T right of the rows of each expert with a gradient in `at`. */
static ka_status add_gradients(const struct ka_branch_call *c, const struct acts *a,
                               struct ka_tensor left, struct ka_tensor right, void **at) {
  int64_t shape[] = {c->w->n_experts, left.shape[1], right.shape[1]};
  return ka_expert_grad(c->m->dev, &(struct ka_expert_grad_args){
                                       .dw = ka_tensor_view(NULL, ka_accum_dtype(c->m), 3, shape),
                                       .a = left,
                                       .b = right,
                                       .offsets = flat(a->offsets),
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
static ka_status gradients(const struct ka_branch_call *c, const struct acts *a,
                           struct ka_tensor dy, struct ka_tensor x, const struct matrices *w) {
  struct ka_ctx *ctx = c->m->ctx;
  void *at[KA_MOE_MOST] = {0};
  bool any = false;
  struct ka_tensor left = w->of[0]->transposed ? x : dy, right = w->of[0]->transposed ? dy : x;
  for (int64_t e = 0; e < c->w->n_experts; e++) {
    if (!ka_weight_trained(w->of[e]) || !is_whole(w->of[e])) continue;
    at[e] = w->of[e]->pieces[0].grad.data;
    any = true;
  }
  if (any) KA_TRY(add_gradients(c, a, left, right, at));
  for (int64_t e = 0; e < c->w->n_experts; e++)
    for (int64_t i = 0; i < w->of[e]->n_pieces && !is_whole(w->of[e]); i++) {
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
static ka_status bias_gradients(const struct ka_branch_call *c, const struct acts *a,
                                struct ka_tensor dy, size_t field) {
  struct ka_model *m = c->m;
  struct ka_ctx *ctx = m->ctx;
  int64_t n = dy.shape[1];
  struct ka_tensor all = ka_tensor_2d(a->dbias.data, ka_accum_dtype(m), c->w->n_experts, n);
  KA_TRY(ka_fill(m->dev, &(struct ka_fill_args){.x = all}));
  KA_TRY(ka_expert_bias_bwd(m->dev, &(struct ka_expert_bias_bwd_args){
                                        .dout = dy, .dbias = all, .offsets = flat(a->offsets)}));
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

/* --- forward ----------------------------------------------------------------------------------- */

static ka_status route(const struct ka_branch_call *c, const struct acts *a, struct ka_tensor h) {
  struct ka_model *m = c->m;
  struct ka_ctx *ctx = m->ctx;
  const struct ka_moe *x = c->r->moe;
  const struct ka_weight *choice = c->w->router_choice;
  KA_TRY(ka_linear_fwd(m, a->logits, h, c->w->router, c->w->router_bias));
  struct ka_router_fwd_args args = {.logits = a->logits,
                                    .scores = a->scores,
                                    .index = a->index,
                                    .weight = a->weight,
                                    .kind = x->kind,
                                    .n_group = x->n_group,
                                    .topk_group = x->topk_group,
                                    .factor = x->factor,
                                    .normalise = x->normalise,
                                    .group_by_two = x->group_by_two};
  if (choice) { /* in the logits' dtype */
    args.bias = flat(a->choice);
    KA_TRY(ka_copy(m->dev, &(struct ka_copy_args){.out = args.bias, .in = choice->w}));
  }
  KA_TRY(ka_router_fwd(m->dev, &args));
  KA_TRY(ka_routing_count(m, a->scores, a->index));
  return ka_expert_sort(m->dev, &(struct ka_expert_sort_args){.token = flat(a->token),
                                                              .offsets = flat(a->offsets),
                                                              .place = a->place,
                                                              .index = a->index});
}

static ka_status gather(const struct ka_branch_call *c, const struct acts *a, struct ka_tensor h) {
  return ka_gather_rows(c->m->dev, &(struct ka_gather_rows_args){.out = by_row(c, a->xs, c->r->C),
                                                                 .x = h,
                                                                 .index = flat(a->token)});
}

/* Every second column, the first of them `from`: [S EF, 1] of [S, 2EF]. */
static struct ka_tensor turn(const struct ka_branch_call *c, const struct acts *a, int64_t from) {
  int64_t n = rows_of(c) * c->r->moe->EF;
  return ka_tensor_slice(ka_tensor_2d(a->gate_up.data, a->gate_up.dtype, n, 2), 0, n, from, 1);
}

static ka_status apart(const struct ka_branch_call *c, const struct acts *a, bool back) {
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

static ka_status glu(const struct ka_branch_call *c, struct ka_tensor out, struct ka_tensor gate,
                     struct ka_tensor up) {
  return ka_glu_fwd(
      c->m->dev, &(struct ka_glu_fwd_args){.out = out, .gate = gate, .up = up, .act = c->r->act});
}

static ka_status experts_fwd(const struct ka_branch_call *c, const struct acts *a) {
  struct ka_ctx *ctx = c->m->ctx;
  const struct ka_expert_weights *first = &c->w->experts[0];
  const struct ka_tensor none = {0};
  struct matrices w;
  int64_t EF = c->r->moe->EF;
  struct ka_tensor xs = by_row(c, a->xs, c->r->C), act = by_row(c, a->act, EF);
  struct ka_tensor gate = by_row(c, a->gate, EF), up = by_row(c, a->up, EF);
  if (first->expert_gate_up) {
    KA_TRY(product(c, a, by_row(c, a->gate_up, 2 * EF), xs, TAKE(&w, c, expert_gate_up), true,
                   biases(c, first->expert_gate_up_bias), false));
    KA_TRY(apart(c, a, false));
  } else {
    KA_TRY(product(c, a, gate, xs, TAKE(&w, c, expert_gate), true, none, false));
    KA_TRY(product(c, a, up, xs, TAKE(&w, c, expert_up), true, none, false));
  }
  KA_TRY(glu(c, act, gate, up));
  return product(c, a, by_row(c, a->ys, c->r->C), act, TAKE(&w, c, expert_down), true,
                 biases(c, first->expert_down_bias), false);
}

static ka_status switch_fwd(const struct ka_branch_call *c, const struct acts *a,
                            struct ka_tensor y, struct ka_tensor h) {
  struct ka_ctx *ctx = c->m->ctx;
  KA_TRY(ka_linear_fwd(c->m, a->s_logit, h, c->w->shared_switch, NULL));
  KA_TRY(ka_router_fwd(c->m->dev, &(struct ka_router_fwd_args){.logits = a->s_logit,
                                                               .scores = a->s_score,
                                                               .index = a->s_index,
                                                               .weight = a->s_weight,
                                                               .kind = KA_ROUTER_SIGMOID,
                                                               .factor = 1}));
  KA_TRY(ka_expert_sort(c->m->dev, &(struct ka_expert_sort_args){.token = flat(a->s_token),
                                                                 .offsets = flat(a->s_offsets),
                                                                 .place = a->s_place,
                                                                 .index = a->s_index}));
  return ka_expert_combine_fwd(
      c->m->dev, &(struct ka_expert_combine_fwd_args){
                     .out = y, .x = a->s_y, .place = a->s_place, .weight = a->s_weight});
}

/* y = what every token sees. */
static ka_status shared_fwd(const struct ka_branch_call *c, const struct acts *a,
                            struct ka_tensor y, struct ka_tensor h) {
  struct ka_ctx *ctx = c->m->ctx;
  const struct ka_layer_weights *w = c->w;
  bool by_switch = w->shared_switch != NULL;
  KA_TRY(ka_linear_fwd(c->m, a->s_gate, h, w->shared_gate, NULL));
  KA_TRY(ka_linear_fwd(c->m, a->s_up, h, w->shared_up, NULL));
  KA_TRY(glu(c, a->s_act, a->s_gate, a->s_up));
  KA_TRY(ka_linear_fwd(c->m, by_switch ? a->s_y : y, a->s_act, w->shared_down, NULL));
  return by_switch ? switch_fwd(c, a, y, h) : KA_STATUS_OK;
}

static ka_status fwd(const struct ka_branch_call *c, struct ka_tensor y, struct ka_tensor h) {
  struct ka_ctx *ctx = c->m->ctx;
  const struct acts *a = KA_BRANCH_ACTS(acts, c);
  bool shared = c->w->shared_down != NULL;
  KA_TRY(route(c, a, h));
  KA_TRY(gather(c, a, h));
  KA_TRY(experts_fwd(c, a));
  if (shared) KA_TRY(shared_fwd(c, a, y, h));
  return ka_expert_combine_fwd(c->m->dev,
                               &(struct ka_expert_combine_fwd_args){.out = y,
                                                                    .x = by_row(c, a->ys, c->r->C),
                                                                    .place = a->place,
                                                                    .weight = a->weight,
                                                                    .accumulate = shared});
}

/* --- backward ---------------------------------------------------------------------------------- */

/* dact -> dgate and dup in their place; act(gate) up for the weight gradient that reads it. */
static ka_status glu_bwd(const struct ka_branch_call *c, struct ka_tensor act,
                         struct ka_tensor gate, struct ka_tensor up, bool with_act) {
  struct ka_glu_bwd_args args = {
      .dgate = gate, .dup = up, .dout = act, .gate = gate, .up = up, .act = c->r->act};
  if (with_act) args.out = act;
  return ka_glu_bwd(c->m->dev, &args);
}

/* Through the experts' down: dys -> dgate, dup; and its own gradients. */
static ka_status down_bwd(const struct ka_branch_call *c, const struct acts *a,
                          const struct wants *s) {
  struct ka_ctx *ctx = c->m->ctx;
  struct matrices w;
  int64_t EF = c->r->moe->EF;
  struct ka_tensor dys = by_row(c, a->ys, c->r->C), act = by_row(c, a->act, EF);
  struct ka_tensor gate = by_row(c, a->gate, EF), up = by_row(c, a->up, EF);
  (void)TAKE(&w, c, expert_down);
  if (s->inner) {
    KA_TRY(product(c, a, act, dys, &w, false, (struct ka_tensor){0}, false));
    KA_TRY(glu_bwd(c, act, gate, up, s->down));
  } else if (s->down) {
    KA_TRY(glu(c, act, gate, up));
  }
  if (s->down) KA_TRY(gradients(c, a, dys, act, &w));
  return s->down_bias ? BIAS_GRADIENTS(c, a, dys, expert_down_bias) : KA_STATUS_OK;
}

/* dgate, dup -> the gradients of gate and up, and of their input by expert, in xs. */
static ka_status in_bwd(const struct ka_branch_call *c, const struct acts *a, struct ka_tensor h,
                        const struct wants *s) {
  struct ka_ctx *ctx = c->m->ctx;
  const struct ka_tensor none = {0};
  struct matrices w;
  int64_t EF = c->r->moe->EF;
  struct ka_tensor xs = by_row(c, a->xs, c->r->C), gu = by_row(c, a->gate_up, 2 * EF);
  struct ka_tensor d[] = {by_row(c, a->gate, EF), by_row(c, a->up, EF)};
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

static ka_status router_bwd(const struct ka_branch_call *c, const struct acts *a,
                            struct ka_tensor dh, struct ka_tensor h) {
  struct ka_model *m = c->m;
  struct ka_ctx *ctx = m->ctx;
  struct ka_router_bwd_args args = {.dlogits = a->logits,
                                    .dweight = a->dweight,
                                    .scores = a->scores,
                                    .index = a->index,
                                    .kind = c->r->moe->kind,
                                    .factor = c->r->moe->factor,
                                    .normalise = c->r->moe->normalise};
  ka_routing_gradient(m, &args);
  KA_TRY(ka_router_bwd(m->dev, &args));
  KA_TRY(ka_copy(m->dev, &(struct ka_copy_args){.out = a->dlogits, .in = a->logits}));
  KA_TRY(ka_linear_dw(m, a->dlogits, h, c->w->router, c->w->router_bias));
  return c->needs->input ? ka_linear_dx(m, dh, a->dlogits, c->w->router, true) : KA_STATUS_OK;
}

static ka_status experts_bwd(const struct ka_branch_call *c, const struct acts *a,
                             struct ka_tensor dh, struct ka_tensor dy, struct ka_tensor h,
                             const struct wants *s) {
  struct ka_model *m = c->m;
  struct ka_ctx *ctx = m->ctx;
  struct ka_tensor dys = by_row(c, a->ys, c->r->C);
  struct ka_expert_combine_bwd_args back = {
      .dx = dys, .dout = dy, .place = a->place, .weight = a->weight};
  if (s->choice) {
    back.x = dys;
    back.dweight = a->dweight;
  }
  KA_TRY(ka_expert_combine_bwd(m->dev, &back));
  KA_TRY(down_bwd(c, a, s));
  if (s->inner) KA_TRY(in_bwd(c, a, h, s));
  if (c->needs->input)
    KA_TRY(ka_expert_combine_fwd(
        m->dev, &(struct ka_expert_combine_fwd_args){
                    .out = dh, .x = by_row(c, a->xs, c->r->C), .place = a->place}));
  return s->choice ? router_bwd(c, a, dh, h) : KA_STATUS_OK;
}

/* dy -> that of the shared feed-forward's result, in place of the result; the switch's own. */
static ka_status switch_bwd(const struct ka_branch_call *c, const struct acts *a,
                            struct ka_tensor dh, struct ka_tensor dy, struct ka_tensor h,
                            const struct wants *s) {
  struct ka_model *m = c->m;
  struct ka_ctx *ctx = m->ctx;
  struct ka_expert_combine_bwd_args back = {
      .dx = a->s_y, .dout = dy, .place = a->s_place, .weight = a->s_weight};
  if (s->shared_switch) {
    back.x = a->s_y;
    back.dweight = a->s_dweight;
  }
  KA_TRY(ka_expert_combine_bwd(m->dev, &back));
  if (!s->shared_switch) return KA_STATUS_OK;
  KA_TRY(ka_router_bwd(m->dev, &(struct ka_router_bwd_args){.dlogits = a->s_logit,
                                                            .dweight = a->s_dweight,
                                                            .scores = a->s_score,
                                                            .index = a->s_index,
                                                            .kind = KA_ROUTER_SIGMOID,
                                                            .factor = 1}));
  KA_TRY(ka_copy(m->dev, &(struct ka_copy_args){.out = a->s_dlogit, .in = a->s_logit}));
  KA_TRY(ka_linear_dw(m, a->s_dlogit, h, c->w->shared_switch, NULL));
  if (!c->needs->input) return KA_STATUS_OK;
  return ka_linear_dx(m, dh, a->s_dlogit, c->w->shared_switch, true);
}

static ka_status shared_bwd(const struct ka_branch_call *c, const struct acts *a,
                            struct ka_tensor dh, struct ka_tensor dy, struct ka_tensor h,
                            const struct wants *s) {
  struct ka_model *m = c->m;
  struct ka_ctx *ctx = m->ctx;
  const struct ka_layer_weights *w = c->w;
  if (w->shared_switch) {
    KA_TRY(switch_bwd(c, a, dh, dy, h, s));
    dy = a->s_y;
  }
  if (s->shared_inner) {
    KA_TRY(ka_linear_dx(m, a->s_act, dy, w->shared_down, false));
    KA_TRY(glu_bwd(c, a->s_act, a->s_gate, a->s_up, ka_weight_trained(w->shared_down)));
  } else if (ka_weight_trained(w->shared_down)) {
    KA_TRY(glu(c, a->s_act, a->s_gate, a->s_up));
  }
  KA_TRY(ka_linear_dw(m, dy, a->s_act, w->shared_down, NULL));
  if (!s->shared_inner) return KA_STATUS_OK;
  KA_TRY(ka_linear_dw(m, a->s_gate, h, w->shared_gate, NULL));
  KA_TRY(ka_linear_dw(m, a->s_up, h, w->shared_up, NULL));
  if (!c->needs->input) return KA_STATUS_OK;
  KA_TRY(ka_linear_dx(m, dh, a->s_gate, w->shared_gate, true));
  return ka_linear_dx(m, dh, a->s_up, w->shared_up, true);
}

static ka_status bwd(const struct ka_branch_call *c, struct ka_tensor dh, struct ka_tensor dy) {
  struct ka_ctx *ctx = c->m->ctx;
  const struct acts *a = KA_BRANCH_ACTS(acts, c);
  const struct wants s = wants_of(c->w, c->needs->input);
  struct ka_tensor h = {0};
  if (c->needs->reads_h) KA_TRY(ka_branch_h(c, &h));
  if (s.inner || s.down || s.down_bias || s.choice) KA_TRY(experts_bwd(c, a, dh, dy, h, &s));
  return s.shared ? shared_bwd(c, a, dh, dy, h, &s) : KA_STATUS_OK;
}

const struct ka_branch_kind ka_ffn_moe = {
    .name = "ffn_moe",
    .roles = roles,
    .acts = acts,
    .needs = needs,
    .keeps = keeps,
    .fwd = fwd,
    .bwd = bwd,
    .input_gradient = input_gradient,
    .flops = flops,
};
