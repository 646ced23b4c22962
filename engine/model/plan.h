/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside the model room: what a step keeps and where (plan.c), and the passes over one block
 * (block.c), the head (head.c) and the weights (weights.c). Nobody else includes this.
 *
 * Buffers are sized for the largest batch and hold bare memory; the passes make views of the actual
 * batch's shape. A layer's activation that no gradient needs lives in the shared set, where the
 * next layer overwrites it. */
#ifndef KAPPA_ENGINE_MODEL_PLAN_H
#define KAPPA_ENGINE_MODEL_PLAN_H

#include "engine/model/model.h"

/* Forward values of a block, by the formulas:
 *   s1 = in + delta; h = norm(s1); q,k,v = W h (+ bias) (q, k: head norm, RoPE)
 *   out = attention; s2 = s1 + (Wo out + bias); h = norm(s2); gate, up = W h;
 *   result = s2 + Wdown (act(gate) up), whose sum the next block (or the head) makes. */
#define KA_ACTS_TABLE(X)                                                                           \
  X(s1, C, false)                                                                                  \
  X(rstd1, one, true)                                                                              \
  X(q_pre, q, false)                                                                               \
  X(k_pre, kv, false)                                                                              \
  X(q, q, false)                                                                                   \
  X(k, kv, false)                                                                                  \
  X(v, kv, false)                                                                                  \
  X(out, q, false)                                                                                 \
  X(lse, heads, true)                                                                              \
  X(s2, C, false)                                                                                  \
  X(rstd2, one, true)                                                                              \
  X(gate, F, false)                                                                                \
  X(up, F, false)

struct ka_acts {
#define X(name, width, is_stat) void *name;
  KA_ACTS_TABLE(X)
#undef X
};

/* How far down a layer the backward pass goes, from the top; each flag implies those before it.
 * ffn_norm and attn_norm: the gradient passes through that norm; input: something below the layer
 * is trained. */
struct ka_layer_needs {
  bool down, gate_up, ffn_norm, o, qkv, attn_norm, input;
};

struct ka_layer {
  struct ka_layer_needs needs;
  struct ka_acts acts;
};

/* What a pass reads besides weights: one block of memory, copied at once. */
struct ka_inputs {
  void *block;
  double *scale;                  /* [1] of the statistics' type: grad_scale */
  int32_t *ids, *pos, *doc_start; /* [N] */
  int32_t *row, *target;          /* [N]: of rows that predict a target */
  size_t n_bytes;
};

/* A forward and backward pass that can be replayed for batches of these sizes. */
struct ka_recorded_pass {
  int64_t B, T, padded_rows;
  bool documents;
  struct ka_replay replay;
};
enum { KA_RECORDED_PASSES = 32 };

struct ka_model_buffers {
  int64_t B, T, P; /* largest rows, tokens a row, positions */
  struct ka_layer *layers;
  int64_t *first_slice; /* [n_params + 1] into slices */
  bool need_head_input; /* final norm or anything below is trained */
  struct ka_tensor cos, sin;

  /* The base model, where there is a kl_weight: its own weights where they differ from the model's,
   * and all of its weights by role. Its pass starts with the kept input of base_layer (-1: at the
   * embedding, L: it is the model's) and keeps nothing. */
  int64_t n_base;
  struct ka_param *base;
  struct ka_param **base_by_role;
  int base_layer;
  struct ka_acts shared; /* what layers overwrite, without statistics */

  /* scratch of both passes */
  void *h, *delta;         /* [N,C] */
  void *act;               /* [N,F] */
  void *final;             /* [N,C]: the last block's result */
  void *q_rstd, *k_rstd;   /* [N*H], [N*K]: statistics of the head norms */
  void *dx;                /* [N,C]: the residual stream's gradient */
  void *da, *dq, *dk, *dv; /* attention gradients */
  void *dvec;              /* [max(C, H*D, F)]: a vector's full gradient, when a part is trained */

  /* a trained weight in the back end's layout, for the product at hand; NULL: not worth it */
  void *pack_scratch;
  size_t pack_bytes;

  /* head */
  int64_t chunk_rows;
  void *picked;           /* [N,C]: the rows that predict a target */
  void *hidden;           /* [N,C]: the same after the final norm; then their gradient */
  void *rstd;             /* [N] */
  void *logits;           /* [chunk_rows,V] */
  void *loss;             /* [N] */
  void *loss_host;        /* [N]: the same, for reading */
  int32_t *best;          /* [N]: the likeliest token at each row, of passes without a backward */
  void *base_logits, *kl; /* as logits, loss */

  /* The batch at hand. A separate device has its own copy of all of it. n_rows counts the rows that
   * predict a target, padded_rows those that the passes work on: more where recordings of a pass
   * are to fit many batches; the surplus has row -1 and target -1. */
  int64_t batch_B, batch_T, n_rows, padded_rows;
  struct ka_inputs host, device;
  struct ka_tensor ids, pos, doc_start; /* doc_start: data NULL when every document starts at 0 */
  struct ka_arena host_arena;

  struct ka_recorded_pass recorded[KA_RECORDED_PASSES];
};

/* Keys and values of one layer for decoding, [B, capacity, K, D]: the block writes at `past`,
 * attends over past + T. */
struct ka_kv {
  void *k, *v;
  int64_t past, capacity;
};

/* --- plan.c --- */
/* Allocates (or measures) everything in m->run and m->step. */
ka_status ka_plan(struct ka_model *m);
/* Does this block keep only its input, and run again before its backward pass? */
bool ka_runs_again(const struct ka_model *m, int64_t layer);
/* Gives back what ka_model_prepare took. */
void ka_model_unprepare(struct ka_model *m);

/* --- weights.c --- */
ka_status ka_weights_plan(struct ka_model *m); /* allocates weights, packs, gradients */
ka_status ka_weights_fill(struct ka_model *m); /* converts and packs all of them */
/* The weight in the back end's layout for a product with `rows` rows: kept, or made now in scratch
 * that the next call reuses; data NULL: multiply with the plain one. */
ka_status ka_weight_packed(struct ka_model *m, const struct ka_param *p, bool trans_b, int64_t rows,
                           struct ka_tensor *out);
struct ka_param *ka_param_of(const struct ka_model *m, enum ka_role role, int layer);
/* The head's own tensor, or the embedding. */
enum ka_role ka_head_role(const struct ka_model *m);
struct ka_param *ka_head_param(const struct ka_model *m);
/* The same of the base model. */
struct ka_param *ka_base_param_of(const struct ka_model *m, enum ka_role role, int layer);

/* --- linear.c --- */
/* A [rows, cols] view of the compute type, or of the statistics' type. */
struct ka_tensor ka_mat(const struct ka_model *m, void *data, int64_t rows, int64_t cols);
struct ka_tensor ka_stat(const struct ka_model *m, void *data, int64_t n);
/* f32, or f64 with f64. */
enum ka_dtype ka_wide(const struct ka_model *m);

/* out = x W^T (+ bias). */
ka_status ka_linear_fwd(struct ka_model *m, struct ka_tensor out, struct ka_tensor x,
                        const struct ka_param *w, const struct ka_param *bias);
/* dx = or += dy W. */
ka_status ka_linear_dx(struct ka_model *m, struct ka_tensor dx, struct ka_tensor dy,
                       const struct ka_param *w, bool accumulate);
/* Adds dy^T x to the trained slices of w and the column sums of dy to those of bias. */
ka_status ka_linear_dw(struct ka_model *m, struct ka_tensor dy, struct ka_tensor x,
                       const struct ka_param *w, const struct ka_param *bias);
/* Where a vector's gradient is accumulated: the slice's own memory when it is whole, else zeroed
 * scratch, to be handed to ka_vector_grad_end; data NULL when nothing of it is trained. */
ka_status ka_vector_grad_begin(struct ka_model *m, const struct ka_param *p, struct ka_tensor *dw);
ka_status ka_vector_grad_end(struct ka_model *m, const struct ka_param *p, struct ka_tensor dw);

/* --- block.c --- */
/* in + b->delta (without add_delta: in, which must be a->s1) -> a->s2, and the block's last addend
 * in b->delta. kv may be NULL. */
ka_status ka_block_fwd(struct ka_model *m, int layer, const struct ka_acts *a, void *in,
                       bool add_delta, const struct ka_kv *kv);
/* h = norm(x); rstd may be NULL. */
ka_status ka_norm_fwd(struct ka_model *m, struct ka_tensor h, void *rstd, struct ka_tensor x,
                      const struct ka_param *w);
/* dx = or += the gradient through the norm of s; the weight's is accumulated. dx may be dy. */
ka_status ka_norm_bwd(struct ka_model *m, struct ka_tensor dx, struct ka_tensor dy,
                      struct ka_tensor s, void *rstd, const struct ka_param *w, bool accumulate);
/* b->dx is the gradient of the block's result and becomes that of its input. */
ka_status ka_block_bwd(struct ka_model *m, int layer);

/* --- inputs.c --- */
/* Memory for the largest batch. */
ka_status ka_inputs_plan(struct ka_model *m);
/* Views of the batch's arrays and the list of rows that predict a target, on the device. */
ka_status ka_batch_begin(struct ka_model *m, const struct ka_batch *batch, double grad_scale);

/* --- pass.c --- */
/* Embedding and all blocks; b->final is the result. hidden as in ka_model_forward. */
ka_status ka_trunk_fwd(struct ka_model *m, float **hidden, const struct ka_kv *kv);
/* After it: b->final becomes the base model's. Overwrites scratch, and nothing that the backward
 * pass reads. */
ka_status ka_base_fwd(struct ka_model *m);
ka_status ka_trunk_bwd(struct ka_model *m);

/* --- head.c --- */
/* Loss of the rows that predict targets, into b->loss. With backward also the divergence from the
 * base, the gradients (of the head's slices, the final norm, and b->dx), and the sums into the
 * health. */
ka_status ka_head_loss(struct ka_model *m, bool backward);
/* Waits for the device. loss [B*T] as in ka_model_eval, may be NULL. */
ka_status ka_head_read_loss(struct ka_model *m, double *loss_sum, float *loss);
/* The same for the batch's pairs: loss and best [pairs.n]. */
ka_status ka_head_read_pairs(struct ka_model *m, float *loss, int32_t *best);
/* hidden [n,C] f32: final norm of b->final's rows [first, first + n); logits [n,V] f32. NULL skips.
 */
ka_status ka_head_logits(struct ka_model *m, int64_t first, int64_t n, float *hidden,
                         float *logits);

#endif
