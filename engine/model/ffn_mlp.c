/* SPDX-License-Identifier: Apache-2.0
 * The plain feed-forward: h -Wup-> pre; gelu(pre) -Wdown-> y, the tanh form of gelu. Kept are pre,
 * for gelu's derivative, and gelu(pre) where Wdown is trained; its gradient takes its place. */
#include "engine/model/buffers.h"

struct acts {
  struct ka_tensor pre; /* [N,F] */
  struct ka_tensor act; /* [N,F]: gelu(pre); in the backward pass the gradient of pre */
};

enum { PRE, ACT };
static const struct ka_value acts[] = {
    [PRE] = KA_VALUE(acts, pre, F),
    [ACT] = KA_VALUE(acts, act, F),
    {0},
};

static const enum ka_role roles[] = {KA_ROLE_UP, KA_ROLE_DOWN, KA_ROLE_UP_BIAS, KA_ROLE_DOWN_BIAS,
                                     KA_N_ROLES};

static void needs(const struct ka_layer_weights *w, struct ka_branch_needs *n) {
  n->reads_h = KA_TRAINED(w->up);
  n->inner = n->input || n->reads_h || KA_TRAINED(w->up_bias);
  n->grad = n->inner || KA_TRAINED(w->down, w->down_bias);
}

static void keeps(const struct ka_recipe *r, const struct ka_layer_weights *w,
                  const struct ka_branch_needs *n, enum ka_keep *keep) {
  (void)r;
  keep[PRE] = n->inner ? KA_KEPT : KA_ABSENT;
  keep[ACT] = n->grad && KA_TRAINED(w->down) ? KA_KEPT : KA_SHARED;
}

static bool input_gradient(const struct ka_branch_needs *n, enum ka_role role) {
  return role == KA_ROLE_DOWN ? n->inner : n->input;
}

static ka_status fwd(const struct ka_branch_call *c, struct ka_tensor y, struct ka_tensor h) {
  struct ka_ctx *ctx = c->m->ctx;
  const struct ka_layer_weights *w = c->w;
  const struct acts *a = KA_BRANCH_ACTS(acts, c);
  KA_TRY(ka_linear_gelu_fwd(c->m, a->act, a->pre, h, w->up, w->up_bias));
  return ka_linear_fwd(c->m, y, a->act, w->down, w->down_bias);
}

static ka_status bwd(const struct ka_branch_call *c, struct ka_tensor dh, struct ka_tensor dy) {
  struct ka_model *m = c->m;
  struct ka_ctx *ctx = m->ctx;
  const struct ka_layer_weights *w = c->w;
  const struct acts *a = KA_BRANCH_ACTS(acts, c);
  struct ka_tensor h = {0};
  KA_TRY(ka_linear_dw(m, dy, a->act, w->down, w->down_bias));
  if (!c->needs->inner) return KA_STATUS_OK;
  KA_TRY(ka_linear_gelu_dx(m, a->act, a->pre, dy, w->down));
  if (c->needs->reads_h) KA_TRY(ka_branch_h(c, &h));
  KA_TRY(ka_linear_dw(m, a->act, h, w->up, w->up_bias));
  return c->needs->input ? ka_linear_dx(m, dh, a->act, w->up, false) : KA_STATUS_OK;
}

const struct ka_branch_kind ka_ffn_mlp = {
    .name = "ffn_mlp",
    .roles = roles,
    .acts = acts,
    .needs = needs,
    .keeps = keeps,
    .fwd = fwd,
    .bwd = bwd,
    .input_gradient = input_gradient,
};
