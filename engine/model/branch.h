/* SPDX-License-Identifier: Apache-2.0
 *
 * Branches of a layer. A layer is a list of them; each reads the residual stream and adds to it:
 *
 *   s = in + delta (of the branch before);  h = pre_norm(s);  y = kind(h);
 *   delta = residual_scale post_norm(y)
 *
 * branches.c owns what all share: the sums, the norms before and after (either, both or none, as
 * the tensor map has them), memory for activations, how far down the gradient goes. A kind is one
 * file (attn_gqa.c, ffn_glu.c, ...) with one const struct ka_branch_kind; families name it in the
 * recipe, nothing else knows it. */
#ifndef KAPPA_ENGINE_MODEL_BRANCH_H
#define KAPPA_ENGINE_MODEL_BRANCH_H

#include "engine/model/weights.h"

/* How far down a branch the backward pass goes, from the top; each implies those before it. */
struct ka_branch_needs {
  bool any;     /* something of the branch is trained, or below: it has a backward pass */
  bool grad;    /* the gradient of y is needed: kind.bwd is called */
  bool inner;   /* it passes through the kind's last linear layer */
  bool input;   /* it reaches h: kind.bwd writes dh */
  bool below;   /* something below the branch is trained: it leaves through the stream */
  bool reads_h; /* kind.bwd reads h, for weight gradients: it is made again from s */
};

/* What becomes of a forward value, of one layer. */
enum ka_keep {
  KA_ABSENT, /* not made: the field's data is NULL */
  KA_SHARED, /* scratch that the next layer overwrites; also what only lives within one call */
  KA_KEPT    /* the backward pass reads it */
};

/* A field of a kind's activations: a struct ka_tensor at `at` of its struct. Memory is made for the
 * largest batch; the view is [N, width] of the batch at hand, N = B T tokens, in the compute dtype
 * or (statistics) in f32. */
struct ka_value {
  const char *name;
  size_t at;
  enum ka_dim width;
  bool is_stat, is_int;
  bool once; /* one row, whatever the batch */
};
#define KA_VALUE_OF(type, field, dim, ...)                                                         \
  { .name = #field, .at = offsetof(struct type, field), .width = KA_DIM_##dim, __VA_ARGS__ }
#define KA_VALUE(type, field, dim) KA_VALUE_OF(type, field, dim, .is_stat = false)
#define KA_VALUE_STAT(type, field, dim) KA_VALUE_OF(type, field, dim, .is_stat = true)
#define KA_VALUE_INT(type, field, dim) KA_VALUE_OF(type, field, dim, .is_int = true)
enum { KA_MAX_VALUES = 36, KA_MAX_VALUE_BYTES = KA_MAX_VALUES * sizeof(struct ka_tensor) };

struct ka_kv;

/* A branch of one layer at work on the batch at hand. */
struct ka_branch_call {
  struct ka_model *m;
  const struct ka_recipe *r;
  const struct ka_layer_recipe *layer;
  const struct ka_layer_weights *w;
  const struct ka_branch_needs *needs;
  const struct ka_kv *kv; /* forward, decoding; else NULL */
  struct ka_branch *branch;
  int place; /* of the branch in its layer */
  int64_t B, T, N;
};

struct ka_branch_kind {
  const char *name;
  const enum ka_role *roles;   /* its weights; KA_N_ROLES ends */
  const struct ka_value *acts; /* its activations; NULL name ends */
  /* Sets grad, inner and reads_h from what of w is trained; input is set (below or the norm before
   * is trained), and implies inner, which implies grad. */
  void (*needs)(const struct ka_layer_weights *w, struct ka_branch_needs *needs);
  /* keep[i] of acts[i]; needs of zeros: a pass without a backward. */
  void (*keeps)(const struct ka_recipe *r, const struct ka_layer_weights *w,
                const struct ka_branch_needs *needs, enum ka_keep *keep);
  /* y [N,C] = kind(h [N,C]). */
  ka_status (*fwd)(const struct ka_branch_call *c, struct ka_tensor y, struct ka_tensor h);
  /* From dy [N,C] the gradients of the trained weights and, with needs.input, dh [N,C] =. h is to
   * be had from ka_branch_h, once dh is not yet written (they may share memory with nothing
   * else). */
  ka_status (*bwd)(const struct ka_branch_call *c, struct ka_tensor dh, struct ka_tensor dy);
  /* Is the input gradient of this weight's product made? Then packing it that way may pay. */
  bool (*input_gradient)(const struct ka_branch_needs *needs, enum ka_role role);
  /* Floating-point operations forward of a token that sees S keys, besides two a weight; NULL:
   * none. */
  double (*flops)(const struct ka_recipe *r, double S);
  /* Elements a token that decoding caches in kv->k and kv->v; NULL: none. */
  void (*kv_width)(const struct ka_recipe *r, int64_t width[2]);
};

extern const struct ka_branch_kind ka_attn_gqa, ka_attn_mla, ka_ffn_glu, ka_ffn_mlp, ka_ffn_moe;

/* Keys and values of one layer for decoding, [B, capacity, width]: the branch writes at `past`,
 * attends over past + T. */
struct ka_kv {
  void *k, *v;
  int64_t past, capacity;
};

/* What branches.c itself keeps of a branch. */
struct ka_branch_acts {
  struct ka_tensor s;          /* [N,C]: what is normalised, or h itself */
  struct ka_tensor mean, rstd; /* [N] of the norm before */
  struct ka_tensor y;          /* [N,C]: what is normalised afterwards; else unused */
  struct ka_tensor post_mean, post_rstd;
};

struct ka_branch {
  struct ka_branch_needs needs;
  struct ka_branch_acts own;
  _Alignas(16) char acts[KA_MAX_VALUE_BYTES]; /* the kind's struct */
};

struct ka_layer {
  bool recompute; /* keeps its input alone and is computed again in its backward pass */
  struct ka_branch branch[KA_BRANCHES];
};

/* Is the role one of the norms around branches? */
bool ka_branch_norm(enum ka_role role);

/* Elements a token that decoding caches of a layer. */
void ka_branches_kv_width(const struct ka_recipe *r, int64_t layer, int64_t width[2]);

struct ka_stack;
/* The needs of all branches of a stack; below: something under it is trained. Sets s->lowest. */
void ka_branches_needs(struct ka_model *m, struct ka_stack *s, bool below);
/* Memory (or its measure) for the activations of all layers. */
ka_status ka_branches_plan(struct ka_model *m, struct ka_stack *s);
/* The scratch of a layer's branch, as a branch: where a pass that keeps nothing works. */
struct ka_branch *ka_branch_shared(struct ka_stack *s, int64_t layer, int place);
/* Views for the batch at hand. */
void ka_branches_begin(struct ka_model *m, struct ka_stack *s);

/* The residual stream: x (+ b->delta, when a branch has left its addend there). */
struct ka_stream {
  void *x;
  bool delta;
};
/* The branch's addend to the stream. */
ka_status ka_branch_fwd(const struct ka_branch_call *c, struct ka_stream *x);
/* b->dx is the gradient of the stream above the branch and becomes that below it. */
ka_status ka_branch_bwd(const struct ka_branch_call *c);

/* --- for kinds --- */
#define KA_BRANCH_ACTS(type, call) ((struct type *)(void *)(call)->branch->acts)
/* h again, in the backward pass. */
ka_status ka_branch_h(const struct ka_branch_call *c, struct ka_tensor *h);
/* Decoding. One sequence (B 1): k and v [N,width] move to where they are cached, behind the
 * past. */
void ka_kv_behind(const struct ka_branch_call *c, struct ka_tensor *k, struct ka_tensor *v);
/* Several: the new keys and values of each are copied behind its own past. */
ka_status ka_kv_append(const struct ka_branch_call *c, struct ka_tensor k, struct ka_tensor v);

#endif
