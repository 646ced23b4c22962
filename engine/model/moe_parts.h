/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside the branch kind ka_ffn_moe: its activations, and what its files offer each other.
 * ffn_moe.c has the router and the order, moe_experts.c the products of the experts and their
 * gradients, moe_shared.c the feed-forward that every token sees. */
#ifndef KAPPA_ENGINE_MODEL_MOE_PARTS_H
#define KAPPA_ENGINE_MODEL_MOE_PARTS_H

#include "engine/model/buffers.h"

struct ka_moe_acts {
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

/* Of one layer: what of it is trained, and so which gradients are wanted. */
struct ka_moe_wants {
  bool in, in_bias, down, down_bias; /* some expert's gate or up, its bias, its down, its bias */
  bool parts;                        /* of some expert a part alone */
  bool choice;                       /* through the weights, to the router or to h */
  bool inner;                        /* through the experts' down */
  bool shared, shared_inner, shared_switch;
};

/* Is all of w trained, as one piece? */
static inline bool ka_moe_is_whole(const struct ka_weight *w) {
  return w->n_pieces == 1 && w->pieces[0].n_rows == w->n_rows && w->pieces[0].n_cols == w->n_cols;
}

/* The same memory as rows by expert, and as one row. */
static inline struct ka_tensor ka_moe_by_row(const struct ka_branch_call *c, struct ka_tensor t,
                                             int64_t cols) {
  return ka_tensor_2d(t.data, t.dtype, c->N * c->r->moe->k, cols);
}

static inline struct ka_tensor ka_moe_flat(struct ka_tensor t) {
  return ka_tensor_1d(t.data, t.dtype, ka_tensor_elems(&t));
}

/* --- moe_experts.c --- */
/* a->ys = down(act(gate) up) of the rows of h that each expert takes. */
ka_status ka_moe_experts_fwd(const struct ka_branch_call *c, const struct ka_moe_acts *a,
                             struct ka_tensor h);
/* dys in a->ys -> the gradients of the experts' weights, and with needs.input that of their input
 * in a->xs. */
ka_status ka_moe_experts_bwd(const struct ka_branch_call *c, const struct ka_moe_acts *a,
                             struct ka_tensor h, const struct ka_moe_wants *s);
/* out = act(gate) up, and backward: dact -> dgate and dup in their place; with_act: act(gate) up in
 * act's. */
ka_status ka_moe_glu(const struct ka_branch_call *c, struct ka_tensor out, struct ka_tensor gate,
                     struct ka_tensor up);
ka_status ka_moe_glu_bwd(const struct ka_branch_call *c, struct ka_tensor act,
                         struct ka_tensor gate, struct ka_tensor up, bool with_act);

/* --- moe_shared.c --- */
/* y = what every token sees. */
ka_status ka_moe_shared_fwd(const struct ka_branch_call *c, const struct ka_moe_acts *a,
                            struct ka_tensor y, struct ka_tensor h);
/* dh += through it; the gradients of its weights. */
ka_status ka_moe_shared_bwd(const struct ka_branch_call *c, const struct ka_moe_acts *a,
                            struct ka_tensor dh, struct ka_tensor dy, struct ka_tensor h,
                            const struct ka_moe_wants *s);

#endif
