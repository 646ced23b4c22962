/* SPDX-License-Identifier: Apache-2.0
 * The feed-forward that every token sees beside a mixture's experts, behind a switch of its own or
 * not: the switch is a router with one expert and a sigmoid. */
#include "engine/model/moe_parts.h"

static ka_status switch_fwd(const struct ka_branch_call *c, const struct ka_moe_acts *a,
                            struct ka_tensor y, struct ka_tensor h) {
  struct ka_ctx *ctx = c->m->ctx;
  KA_TRY(ka_linear_fwd(c->m, a->s_logit, h, c->w->shared_switch, NULL));
  KA_TRY(ka_router_fwd(c->m->dev, &(struct ka_router_fwd_args){.logits = a->s_logit,
                                                               .scores = a->s_score,
                                                               .index = a->s_index,
                                                               .weight = a->s_weight,
                                                               .kind = KA_ROUTER_SIGMOID,
                                                               .factor = 1}));
  KA_TRY(
      ka_expert_sort(c->m->dev, &(struct ka_expert_sort_args){.token = ka_moe_flat(a->s_token),
                                                              .offsets = ka_moe_flat(a->s_offsets),
                                                              .place = a->s_place,
                                                              .index = a->s_index}));
  return ka_expert_combine_fwd(
      c->m->dev, &(struct ka_expert_combine_fwd_args){
                     .out = y, .x = a->s_y, .place = a->s_place, .weight = a->s_weight});
}

ka_status ka_moe_shared_fwd(const struct ka_branch_call *c, const struct ka_moe_acts *a,
                            struct ka_tensor y, struct ka_tensor h) {
  struct ka_ctx *ctx = c->m->ctx;
  const struct ka_layer_weights *w = c->w;
  bool by_switch = w->shared_switch != NULL;
  KA_TRY(ka_linear_fwd(c->m, a->s_gate, h, w->shared_gate, NULL));
  KA_TRY(ka_linear_fwd(c->m, a->s_up, h, w->shared_up, NULL));
  KA_TRY(ka_moe_glu(c, a->s_act, a->s_gate, a->s_up));
  KA_TRY(ka_linear_fwd(c->m, by_switch ? a->s_y : y, a->s_act, w->shared_down, NULL));
  return by_switch ? switch_fwd(c, a, y, h) : KA_STATUS_OK;
}

/* dy -> that of the shared feed-forward's result, in place of the result; the switch's own. */
static ka_status switch_bwd(const struct ka_branch_call *c, const struct ka_moe_acts *a,
                            struct ka_tensor dh, struct ka_tensor dy, struct ka_tensor h,
                            const struct ka_moe_wants *s) {
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

ka_status ka_moe_shared_bwd(const struct ka_branch_call *c, const struct ka_moe_acts *a,
                            struct ka_tensor dh, struct ka_tensor dy, struct ka_tensor h,
                            const struct ka_moe_wants *s) {
  struct ka_model *m = c->m;
  struct ka_ctx *ctx = m->ctx;
  const struct ka_layer_weights *w = c->w;
  if (w->shared_switch) {
    KA_TRY(switch_bwd(c, a, dh, dy, h, s));
    dy = a->s_y;
  }
  if (s->shared_inner) {
    KA_TRY(ka_linear_dx(m, a->s_act, dy, w->shared_down, false));
    KA_TRY(ka_moe_glu_bwd(c, a->s_act, a->s_gate, a->s_up, ka_weight_trained(w->shared_down)));
  } else if (ka_weight_trained(w->shared_down)) {
    KA_TRY(ka_moe_glu(c, a->s_act, a->s_gate, a->s_up));
  }
  KA_TRY(ka_linear_dw(m, dy, a->s_act, w->shared_down, NULL));
  if (!s->shared_inner) return KA_STATUS_OK;
  KA_TRY(ka_linear_dw(m, a->s_gate, h, w->shared_gate, NULL));
  KA_TRY(ka_linear_dw(m, a->s_up, h, w->shared_up, NULL));
  if (!c->needs->input) return KA_STATUS_OK;
  KA_TRY(ka_linear_dx(m, dh, a->s_gate, w->shared_gate, true));
  return ka_linear_dx(m, dh, a->s_up, w->shared_up, true);
}
