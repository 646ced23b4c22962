/* SPDX-License-Identifier: Apache-2.0
 * A mixture of experts (Shazeer et al. 2017; Fedus, Zoph and Shazeer 2021), the composition that
 * kernels/ops.h describes: each token's k best of E gated feed-forwards, weighted and added; beside
 * them, where the family has one, a feed-forward that every token sees, behind a switch or not:
 *
 *   h -Wrouter-> scores -> k experts, weights;  rows of h by expert -Wgate,Wup-> gate,up;
 *   act(gate) up -Wdown-> ys;  y = sum of weight ys (+ sigmoid(h wswitch)) shared(h))
 *
 * Kept: scores, choice, weights and places; gate and up; ys where a router's gradient reads it.
 * Rows by expert are gathered again on the way back. A frozen expert has no gradient, and one that
 * no token chose costs nothing; what only some experts train is a list of pointers for expert_grad.
 * The products by expert are in moe_experts.c, what every token sees in moe_shared.c. */
#include "engine/model/moe_parts.h"

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
    [LOGITS] = KA_VALUE_STAT(ka_moe_acts, logits, E),
    [SCORES] = KA_VALUE_STAT(ka_moe_acts, scores, E),
    [DLOGITS] = KA_VALUE(ka_moe_acts, dlogits, E),
    [INDEX] = KA_VALUE_INT(ka_moe_acts, index, EK),
    [PLACE] = KA_VALUE_INT(ka_moe_acts, place, EK),
    [WEIGHT] = KA_VALUE_STAT(ka_moe_acts, weight, EK),
    [DWEIGHT] = KA_VALUE_STAT(ka_moe_acts, dweight, EK),
    [TOKEN] = KA_VALUE_INT(ka_moe_acts, token, EK),
    [OFFSETS] = KA_VALUE_OF(ka_moe_acts, offsets, EN, .is_int = true, .once = true),
    [XS] = KA_VALUE(ka_moe_acts, xs, EKC),
    [GATE_UP] = KA_VALUE(ka_moe_acts, gate_up, EKU),
    [GATE] = KA_VALUE(ka_moe_acts, gate, EKF),
    [UP] = KA_VALUE(ka_moe_acts, up, EKF),
    [ACT] = KA_VALUE(ka_moe_acts, act, EKF),
    [YS] = KA_VALUE(ka_moe_acts, ys, EKC),
    [LEFT] = KA_VALUE(ka_moe_acts, left, EKW),
    [RIGHT] = KA_VALUE(ka_moe_acts, right, EKW),
    [DBIAS] = KA_VALUE_OF(ka_moe_acts, dbias, EUE, .is_stat = true, .once = true),
    [CHOICE] = KA_VALUE_OF(ka_moe_acts, choice, E, .is_stat = true, .once = true),
    [S_GATE] = KA_VALUE(ka_moe_acts, s_gate, SF),
    [S_UP] = KA_VALUE(ka_moe_acts, s_up, SF),
    [S_ACT] = KA_VALUE(ka_moe_acts, s_act, SF),
    [S_Y] = KA_VALUE(ka_moe_acts, s_y, C),
    [S_LOGIT] = KA_VALUE_STAT(ka_moe_acts, s_logit, UNIT),
    [S_SCORE] = KA_VALUE_STAT(ka_moe_acts, s_score, UNIT),
    [S_WEIGHT] = KA_VALUE_STAT(ka_moe_acts, s_weight, UNIT),
    [S_DWEIGHT] = KA_VALUE_STAT(ka_moe_acts, s_dweight, UNIT),
    [S_DLOGIT] = KA_VALUE(ka_moe_acts, s_dlogit, UNIT),
    [S_INDEX] = KA_VALUE_INT(ka_moe_acts, s_index, UNIT),
    [S_PLACE] = KA_VALUE_INT(ka_moe_acts, s_place, UNIT),
    [S_TOKEN] = KA_VALUE_INT(ka_moe_acts, s_token, UNIT),
    [S_OFFSETS] = KA_VALUE_OF(ka_moe_acts, s_offsets, TWO, .is_int = true, .once = true),
    {0},
};
_Static_assert(sizeof(struct ka_moe_acts) <= KA_MAX_VALUE_BYTES, "KA_MAX_VALUES");

static const enum ka_role roles[] = {KA_ROLE_ROUTER,           KA_ROLE_ROUTER_BIAS,
                                     KA_ROLE_ROUTER_CHOICE,    KA_ROLE_SHARED_GATE,
                                     KA_ROLE_SHARED_UP,        KA_ROLE_SHARED_DOWN,
                                     KA_ROLE_SHARED_SWITCH,    KA_ROLE_EXPERT_GATE,
                                     KA_ROLE_EXPERT_UP,        KA_ROLE_EXPERT_DOWN,
                                     KA_ROLE_EXPERT_GATE_UP,   KA_ROLE_EXPERT_GATE_UP_BIAS,
                                     KA_ROLE_EXPERT_DOWN_BIAS, KA_N_ROLES};

/* --- what is needed and kept ------------------------------------------------------------------ */

static bool is_part(const struct ka_weight *w) {
  return ka_weight_trained(w) && !ka_moe_is_whole(w);
}

static struct ka_moe_wants wants_of(const struct ka_layer_weights *w, bool input) {
  struct ka_moe_wants s = {0};
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
  struct ka_moe_wants s = wants_of(w, n->input);
  n->reads_h = s.in || KA_TRAINED(w->router, w->shared_gate, w->shared_up, w->shared_switch);
  n->inner = s.inner || s.choice || s.shared_inner || s.shared_switch;
  n->grad = n->inner || s.down || s.down_bias || s.shared;
}

static void keeps(const struct ka_recipe *r, const struct ka_layer_weights *w,
                  const struct ka_branch_needs *n, enum ka_keep *keep) {
  (void)r;
  struct ka_moe_wants s = n->grad ? wants_of(w, n->input) : (struct ka_moe_wants){0};
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

/* --- forward ------------------- */

static ka_status route(const struct ka_branch_call *c, const struct ka_moe_acts *a,
                       struct ka_tensor h) {
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
    args.bias = ka_moe_flat(a->choice);
    KA_TRY(ka_copy(m->dev, &(struct ka_copy_args){.out = args.bias, .in = choice->w}));
  }
  KA_TRY(ka_router_fwd(m->dev, &args));
  KA_TRY(ka_routing_count(m, c->layer - c->r->layers, a->scores, a->index, a->weight));
  return ka_expert_sort(m->dev, &(struct ka_expert_sort_args){.token = ka_moe_flat(a->token),
                                                              .offsets = ka_moe_flat(a->offsets),
                                                              .place = a->place,
                                                              .index = a->index});
}

static ka_status fwd(const struct ka_branch_call *c, struct ka_tensor y, struct ka_tensor h) {
  struct ka_ctx *ctx = c->m->ctx;
  const struct ka_moe_acts *a = KA_BRANCH_ACTS(ka_moe_acts, c);
  bool shared = c->w->shared_down != NULL;
  KA_TRY(route(c, a, h));
  KA_TRY(ka_moe_experts_fwd(c, a, h));
  if (shared) KA_TRY(ka_moe_shared_fwd(c, a, y, h));
  return ka_expert_combine_fwd(
      c->m->dev, &(struct ka_expert_combine_fwd_args){.out = y,
                                                      .x = ka_moe_by_row(c, a->ys, c->r->C),
                                                      .place = a->place,
                                                      .weight = a->weight,
                                                      .accumulate = shared});
}

/* --- backward ---- */

static ka_status router_bwd(const struct ka_branch_call *c, const struct ka_moe_acts *a,
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

static ka_status experts_bwd(const struct ka_branch_call *c, const struct ka_moe_acts *a,
                             struct ka_tensor dh, struct ka_tensor dy, struct ka_tensor h,
                             const struct ka_moe_wants *s) {
  struct ka_model *m = c->m;
  struct ka_ctx *ctx = m->ctx;
  struct ka_tensor dys = ka_moe_by_row(c, a->ys, c->r->C);
  struct ka_expert_combine_bwd_args back = {
      .dx = dys, .dout = dy, .place = a->place, .weight = a->weight};
  if (s->choice) {
    back.x = dys;
    back.dweight = a->dweight;
  }
  KA_TRY(ka_expert_combine_bwd(m->dev, &back));
  KA_TRY(ka_moe_experts_bwd(c, a, h, s));
  if (c->needs->input)
    KA_TRY(ka_expert_combine_fwd(
        m->dev, &(struct ka_expert_combine_fwd_args){
                    .out = dh, .x = ka_moe_by_row(c, a->xs, c->r->C), .place = a->place}));
  return s->choice ? router_bwd(c, a, dh, h) : KA_STATUS_OK;
}

static ka_status bwd(const struct ka_branch_call *c, struct ka_tensor dh, struct ka_tensor dy) {
  struct ka_ctx *ctx = c->m->ctx;
  const struct ka_moe_acts *a = KA_BRANCH_ACTS(ka_moe_acts, c);
  const struct ka_moe_wants s = wants_of(c->w, c->needs->input);
  struct ka_tensor h = {0};
  if (c->needs->reads_h) KA_TRY(ka_branch_h(c, &h));
  if (s.inner || s.down || s.down_bias || s.choice) KA_TRY(experts_bwd(c, a, dh, dy, h, &s));
  return s.shared ? ka_moe_shared_bwd(c, a, dh, dy, h, &s) : KA_STATUS_OK;
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
};
