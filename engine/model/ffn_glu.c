/* SPDX-License-Identifier: Apache-2.0
 * The gated feed-forward (Shazeer 2020): h -Wgate,Wup-> gate,up; act(gate) up -Wdown-> y. Kept are
 * gate and up; act(gate) up is made again on the way back, and their gradients take their place. */
#include "engine/model/buffers.h"

struct acts {
  struct ka_tensor gate, up; /* [N,F]; in the backward pass their gradients */
  struct ka_tensor act;      /* [N,F]: act(gate) up; in the backward pass first its gradient */
};

enum { GATE, UP, ACT };
static const struct ka_value acts[] = {
    [GATE] = KA_VALUE(acts, gate, F),
    [UP] = KA_VALUE(acts, up, F),
    [ACT] = KA_VALUE(acts, act, F),
    {0},
};

static const enum ka_role roles[] = {KA_ROLE_GATE,      KA_ROLE_UP,      KA_ROLE_DOWN,
                                     KA_ROLE_GATE_BIAS, KA_ROLE_UP_BIAS, KA_ROLE_DOWN_BIAS,
                                     KA_N_ROLES};

static void needs(const struct ka_layer_weights *w, struct ka_branch_needs *n) {
  n->reads_h = KA_TRAINED(w->gate, w->up);
  n->inner = n->input || n->reads_h || KA_TRAINED(w->gate_bias, w->up_bias);
  n->grad = n->inner || KA_TRAINED(w->down, w->down_bias);
}

static void keeps(const struct ka_recipe *r, const struct ka_layer_weights *w,
                  const struct ka_branch_needs *n, enum ka_keep *keep) {
  (void)r;
  (void)w;
  keep[GATE] = keep[UP] = n->grad ? KA_KEPT : KA_SHARED;
  keep[ACT] = KA_SHARED;
}

static bool input_gradient(const struct ka_branch_needs *n, enum ka_role role) {
  return role == KA_ROLE_DOWN ? n->inner : n->input;
}

static ka_status glu(const struct ka_branch_call *c, const struct acts *a) {
  return ka_glu_fwd(c->m->dev, &(struct ka_glu_fwd_args){
                                   .out = a->act, .gate = a->gate, .up = a->up, .act = c->r->act});
}

static ka_status fwd(const struct ka_branch_call *c, struct ka_tensor y, struct ka_tensor h) {
  struct ka_ctx *ctx = c->m->ctx;
  const struct ka_layer_weights *w = c->w;
  const struct acts *a = KA_BRANCH_ACTS(acts, c);
  KA_TRY(ka_linear_fwd(c->m, a->gate, h, w->gate, w->gate_bias));
  KA_TRY(ka_linear_fwd(c->m, a->up, h, w->up, w->up_bias));
  KA_TRY(glu(c, a));
  return ka_linear_fwd(c->m, y, a->act, w->down, w->down_bias);
}

static ka_status bwd(const struct ka_branch_call *c, struct ka_tensor dh, struct ka_tensor dy) {
  struct ka_model *m = c->m;
  struct ka_ctx *ctx = m->ctx;
  const struct ka_layer_weights *w = c->w;
  const struct acts *a = KA_BRANCH_ACTS(acts, c);
  struct ka_tensor h = {0};
  if (c->needs->inner) {
    KA_TRY(ka_linear_dx(m, a->act, dy, w->down, false));
    struct ka_glu_bwd_args args = {.dgate = a->gate,
                                   .dup = a->up,
                                   .dout = a->act,
                                   .gate = a->gate,
                                   .up = a->up,
                                   .act = c->r->act};
    if (ka_weight_trained(w->down)) args.out = a->act;
    KA_TRY(ka_glu_bwd(m->dev, &args));
  } else {
    KA_TRY(glu(c, a));
  }
  KA_TRY(ka_linear_dw(m, dy, a->act, w->down, w->down_bias));
  if (!c->needs->inner) return KA_STATUS_OK;
  if (c->needs->reads_h) KA_TRY(ka_branch_h(c, &h));
  KA_TRY(ka_linear_dw(m, a->gate, h, w->gate, w->gate_bias));
  KA_TRY(ka_linear_dw(m, a->up, h, w->up, w->up_bias));
  if (!c->needs->input) return KA_STATUS_OK;
  KA_TRY(ka_linear_dx(m, dh, a->gate, w->gate, false));
  return ka_linear_dx(m, dh, a->up, w->up, true);
}

const struct ka_branch_kind ka_ffn_glu = {
    .name = "ffn_glu",
    .roles = roles,
    .acts = acts,
    .needs = needs,
    .keeps = keeps,
    .fwd = fwd,
    .bwd = bwd,
    .input_gradient = input_gradient,
};
