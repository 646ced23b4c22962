/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside the model room: the buffers of a step (prepare.c), the order of a pass (pass.c), the head
 * (head.c), a batch on its way in (inputs.c). Nobody else includes this.
 *
 * Buffers are sized for the largest batch and hold bare memory; the passes make views of the actual
 * batch's shape. */
#ifndef KAPPA_ENGINE_MODEL_BUFFERS_H
#define KAPPA_ENGINE_MODEL_BUFFERS_H

#include "engine/model/branch.h"
#include "engine/model/model.h"
#include "engine/model/moe.h"

/* The branches of one kind at one place of a stack's layers share what no gradient reads. */
struct ka_branch_set {
  const struct ka_branch_kind *kind;
  int place;
  struct ka_branch shared; /* scratch: what the base model's pass works in */
  struct ka_branch full;   /* what the block at work keeps, when blocks are recomputed */
};
enum { KA_BRANCH_SETS = 8 };

/* A run of layers: the decoder; a model may have another one in front. */
struct ka_stack {
  const struct ka_recipe *recipe;
  struct ka_layer *layers; /* [L] */
  int64_t lowest; /* lowest layer with a backward pass, L: none; -1 when it goes on below */
  int64_t base;   /* from which layer on the base model differs, L: nowhere; -1: its input does */
  int n_sets;
  struct ka_branch_set sets[KA_BRANCH_SETS];
  struct ka_tensor sum; /* [N,C]: the residual sum, where nobody keeps it */
};

/* What a pass reads besides weights: one block of memory, copied at once. */
struct ka_inputs {
  void *block;
  double *scale;                  /* [1] of the statistics' type: grad_scale */
  int32_t *ids, *pos, *doc_start; /* [N] */
  int32_t *row, *target;          /* [N]: of rows that predict a target */
  double *load;                   /* [2]: factors of the load-balancing loss, and of its gradient */
  int32_t *live;                  /* [N]: not padding */
  int32_t *group;                 /* [N]: of those rows, their document; -1 none */
  size_t n_bytes;
};

/* A forward and backward pass that can be replayed for batches of these sizes. */
struct ka_recorded_pass {
  int64_t B, T, padded_rows;
  bool documents;
  enum ka_batch_rows rows;
  struct ka_replay replay;
};
enum { KA_RECORDED_PASSES = 32 };

struct ka_model_buffers {
  int64_t B, T, P;      /* largest rows, tokens a row, positions */
  bool idle;            /* the pass at hand borrows weights and computes nothing */
  bool need_head_input; /* final norm or anything below is trained */
  /* [P,R/2], or [2P,R/2]: sequences longer than turn_tok find theirs P rows further on; 0: none
   * do */
  struct ka_tensor cos[KA_ROPES], sin[KA_ROPES];
  int64_t turn_tok;

  /* scratch of both passes */
  void *h, *delta; /* [N,C] */
  void *final;     /* [N,C]: the last block's result */
  void *dx;        /* [N,C]: the residual stream's gradient */
  void *dy;        /* [N,C]: the same behind a norm or a factor that follows a branch */
  void *dvec[2];   /* a vector's full gradient, when a part is trained */

  /* head */
  int64_t chunk_rows;
  void *picked;      /* [N,C]: the rows that predict a target */
  void *hidden;      /* [N,C]: the same after the final norm; then their gradient */
  void *mean, *rstd; /* [N]: of the final norm; mean NULL with the root mean square */
  void *logits;      /* [chunk_rows,V] */
  void *loss;        /* [N] */
  void *weight;      /* [N]: of the loss, where token_weight needs the losses first; else NULL */
  void *loss_host;   /* [N]: the same, for reading */
  int32_t *best;     /* [N]: the likeliest token at each row, of passes without a backward */
  void *base_logits, *kl; /* as logits, loss */

  /* The batch at hand. A device with memory of its own has its copy of all of it. n_rows counts the
   * rows that predict a target, padded_rows those that the passes work on: more where recordings of
   * a pass are to fit many batches; the surplus has row -1 and target -1. */
  int64_t batch_B, batch_T, n_rows, padded_rows;
  enum ka_batch_rows rows;
  int64_t n_free; /* the first so many rows stand in documents with clips: the base model, which has
                     never seen such, is no anchor of theirs */
  struct ka_inputs host, device;
  struct ka_tensor ids, pos, doc_start; /* doc_start: data NULL when every document starts at 0 */
  struct ka_arena host_arena;

  struct ka_routing routing;

  struct ka_recorded_pass recorded[KA_RECORDED_PASSES];
};

/* --- prepare.c --- */
/* Gives back what ka_model_prepare took. */
void ka_model_unprepare(struct ka_model *m);

/* --- inputs.c --- */
/* Memory for the largest batch. */
ka_status ka_inputs_plan(struct ka_model *m);
/* Views of the batch's arrays and the list of rows that predict a target, on the device. */
ka_status ka_batch_begin(struct ka_model *m, const struct ka_batch *batch, double grad_scale);

/* --- pass.c --- */
/* Embedding and all layers; b->final is the result. hidden as in ka_model_forward; kv [L] or NULL.
 */
ka_status ka_pass_fwd(struct ka_model *m, float **hidden, const struct ka_kv *kv);
/* A step's forward and backward passes; struct ka_model *. */
ka_status ka_pass_step(void *model);
/* A signal ends the pass of a model that is only read, between layers and chunks of the head: one
 * over a long window takes many seconds of a host. One that is trained ends its step. */
ka_status ka_pass_check_signal(struct ka_model *m);
/* Behind ka_pass_fwd: the losses of ka_head_loss, the logits of ka_head_logits. */
ka_status ka_pass_loss(struct ka_model *m);
ka_status ka_pass_logits(struct ka_model *m, int64_t first, int64_t n, float *hidden,
                         float *logits);

/* --- head.c --- */
/* The term of this batch that reads the base. */
enum ka_loss_term ka_head_divergence(const struct ka_model *m);
/* What the head works on: the rows of b->final that predict a target, after the final norm. */
ka_status ka_head_pick(struct ka_model *m, const struct ka_outer_weights *w);
/* The same of the base model, from its b->final; after ka_head_pick. */
ka_status ka_head_pick_base(struct ka_model *m, const struct ka_outer_weights *w);
/* Their losses, into b->loss. With backward also the divergence from the base (NULL: none), the
 * gradients (of the head's slices, the final norm, and b->dx), and the sums into the step
 * statistics. */
ka_status ka_head_loss(struct ka_model *m, const struct ka_outer_weights *w,
                       const struct ka_outer_weights *base, bool backward);
/* Waits for the device. loss [B*T] as in ka_model_eval, may be NULL. */
ka_status ka_head_read_loss(struct ka_model *m, double *loss_sum, float *loss);
/* The same for the batch's pairs: loss and best [pairs.n]. */
ka_status ka_head_read_pairs(struct ka_model *m, float *loss, int32_t *best);
/* hidden [n,C] f32: final norm of b->final's rows [first, first + n); logits [n,V] f32. NULL skips.
 */
ka_status ka_head_logits(struct ka_model *m, const struct ka_outer_weights *w, int64_t first,
                         int64_t n, float *hidden, float *logits);

#endif
