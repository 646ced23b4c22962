/* SPDX-License-Identifier: Apache-2.0
 *
 * A transformer on a device: its stored tensors, which parts of them are trained, forward and
 * backward. What a pass reads are logical weights, views of those tensors (weights.h, of this
 * room).
 *
 * What is frozen costs nothing: no weight gradient, no saved input, no gradient below the lowest
 * trained layer. All memory comes from two arenas, sized by ka_model_prepare on measuring ones; a
 * step allocates nothing. Not here: reading jobs, the optimizer's step, batches, devices' memory.
 */
#ifndef KAPPA_ENGINE_MODEL_MODEL_H
#define KAPPA_ENGINE_MODEL_MODEL_H

#include "engine/formats/model_source.h"
#include "engine/model/batch.h"
#include "engine/model/family.h"
#include "engine/model/loss_terms.h"

/* A trained part of a tensor: rows [row, row+n_rows) x columns [col, col+n_cols) of its matrix view
 * ([d0, rest]; vectors are [1, n]). The trainer owns w, m and v (see engine/train), the model
 * accumulates into grad. Slices of one tensor do not overlap. */
struct ka_slice {
  int64_t param; /* index into params */
  int64_t part;  /* and into the parts that ka_model_train_parts was given */
  int64_t row, n_rows, col, n_cols;
  struct ka_tensor grad;   /* [n_rows, n_cols] f32, += by backward, in the run arena */
  struct ka_tensor weight; /* view of the compute weight, any row stride: what the forward reads */
  /* Of both this rank's part: what the optimizer reads and writes. Memory of its own where the
   * weights are split, else a view. */
  struct ka_tensor part_grad, part_weight;
};

/* A stored tensor. What of it is which weight, the tensor map of the family says. */
struct ka_param {
  const char *name;  /* as in the model file */
  enum ka_role role; /* of its first weight: a fused tensor holds several */
  int n_roles;
  int layer;               /* -1 outside layers */
  struct ka_tensor stored; /* view into the file, in the file's dtype; initial values */
  struct ka_tensor base;   /* view into the base model's file: `stored`, or see ka_model_set_base */
  bool moved;              /* stored holds other values than base */
  struct ka_tensor weight; /* in the compute dtype; the stored view itself when frozen, same dtype
                              and the device reads host memory */
  bool trained;            /* any slice */
  struct ka_tensor part; /* [1,n]: what this rank has of a split weight, gathered into `weight` with
                            its layer; else without data */
  bool split;
  size_t layer_offset; /* of the gathered weight, among its layer's */
};

/* Asks for the training of one part of a tensor; rows or cols [0, -1) mean all. */
struct ka_train_part {
  const char *tensor;
  int64_t row, n_rows, col, n_cols; /* n_rows, n_cols -1: to the end */
};

/* Which of n ranks this one is, where they split the optimizer's state of what is trained; n below
 * 2: nothing is split. weights: of the layers also the weights that need memory, and the sums of
 * their gradients; then all ranks make the same passes in the same order, see ka_model_idle. */
struct ka_model;
struct ka_shards {
  int rank, n;
  bool weights;
  /* Tells the others to gather a layer, where this rank makes passes alone; NULL: it does not. */
  ka_status (*ask)(struct ka_model *m, int64_t layer, int which);
};

/* How much each target's cross-entropy counts; its sum is divided by the count of targets all the
 * same. EAFT and DFT: kernels/ops.h, xent; TALR: loss_weights, a document a group. */
enum ka_loss_weight { KA_TOKEN_NONE, KA_TOKEN_EAFT, KA_TOKEN_DFT, KA_TOKEN_TALR };

struct ka_model {
  struct ka_ctx *ctx;
  struct ka_dev *dev;
  struct ka_arena meta; /* names, tables */
  const struct ka_family *family;
  struct ka_hf_config config;
  struct ka_recipe recipe;
  struct ka_safetensors files;
  const char
      *head_copy;  /* a tied head that the files hold as well (formats/tied_head.h), or NULL */
  bool head_alone; /* the files hold the tied weight as the head alone: it is the embedding */
  enum ka_dtype compute; /* KA_F32 or KA_BF16 (KA_F64 with ref, for tests) */
  int64_t n_params;
  struct ka_param *params;        /* in file order by name; behind them the projector's */
  struct ka_projector *projector; /* NULL: text alone; projector.h */
  int64_t n_slices;
  struct ka_slice *slices;  /* sorted by (param, row, col) */
  int lowest_trained_layer; /* L when nothing below the head is trained, -1 for the embedding */
  /* Set before prepare: */
  int64_t recompute;    /* so many blocks, from the lowest trained one up, keep only their input and
                           run their forward pass again */
  int64_t max_position; /* positions the RoPE tables hold; 0: T */
  bool few_rows; /* decoding: products of few rows read weights as they lie, none is packed */
  struct ka_shards shards;          /* of the optimizer's state */
  double term_weight[KA_N_TERMS];   /* of the loss in ka_model_grad; 0: not there. KA_TERM_CE: 1 */
  enum ka_loss_weight token_weight; /* of the cross-entropy of rows of the task */
  /* Told in ka_model_grad, from the top down, when a layer's gradients are complete, on devices
   * whose ops are done when they return; NULL: nobody. */
  ka_status (*layer_done)(struct ka_model *m, int64_t layer);
  int64_t lowest_done;              /* layer_done's own: the last layer it was told; L: none yet */
  struct ka_safetensors base_files; /* of ka_model_set_base */
  struct ka_arena run, step;        /* in the device's memory */
  struct ka_tensor step_stats;      /* struct ka_step_stats, as f64 */
  struct ka_weights *weights;       /* the passes' view of params: weights.h */
  struct ka_model_buffers *buffers; /* of a step: buffers.h */
  int n_stacks;
  struct ka_stack *stacks; /* [n_stacks] runs of layers; the last one is the decoder: buffers.h */
};

/* Sums over all micro-batches since zero_grad that stay on the device, where the optimizer's step
 * looks at them. */
struct ka_step_stats {
  double grad_sumsq; /* squares of all gradients; the optimizer adds them, engine/train/optim.h */
  double term[KA_N_TERMS]; /* of the loss, over their rows' targets, without their weights */
};

/* Reads config.json (end tokens from generation_config.json where there is one) and the headers of
 * the weights of directory `dir`; maps them; checks that every tensor the recipe needs is there
 * with the right shape (all problems in one message), extra tensors are named in a log line. Does
 * not touch weight data, but for a tied head that is stored: is it the embedding? */
ka_status ka_model_open(struct ka_ctx *ctx, struct ka_model *m, struct ka_dev *dev, const char *dir,
                        enum ka_dtype compute);
/* The same of what a MODEL of the command line stands for. The model takes source->files over (of a
 * source without any: those in its directory); source->dir stays the source's. */
ka_status ka_model_open_source(struct ka_ctx *ctx, struct ka_model *m, struct ka_dev *dev,
                               struct ka_model_source *source, enum ka_dtype compute);
void ka_model_close(struct ka_model *m);

/* Index of a tensor by its name in the model file, -1 when unknown. Tied heads are the embedding.
 */
int64_t ka_model_param(const struct ka_model *m, const char *name);
/* Elements of all parameters (tied ones once). */
int64_t ka_model_n_elems(const struct ka_model *m);
/* Elements of the slices that are trained. */
int64_t ka_model_n_trained(const struct ka_model *m);
/* Of all parameters, or of what is trained, those that a token is multiplied by: of experts its k
 * of E, of a table that is only looked up none. */
double ka_model_n_active(const struct ka_model *m, bool trained);
/* Floating-point operations forward, besides two a weight, of a token that sees S keys (within a
 * layer's window), in the decoder's layers from `first` on. */
double ka_model_key_flops(const struct ka_model *m, int64_t first, double S);

/* Does a term of the loss read the base model? */
bool ka_model_reads_base(const struct ka_model *m);

/* Which parts will be trained: before ka_model_prepare. KA_E_INPUT names an unknown tensor, a part
 * out of range, two parts that overlap. n = 0: nothing (evaluation). */
ka_status ka_model_train_parts(struct ka_model *m, const struct ka_train_part *parts, int64_t n);

/* A slice's elements [n_rows, n_cols] of a tensor that is shaped as its stored one; are they
 * all? */
struct ka_tensor ka_model_slice_view(const struct ka_slice *s, struct ka_tensor whole);
bool ka_model_slice_is_whole(const struct ka_model *m, const struct ka_slice *s);

/* Where rank r's part of slice i begins, as an element of the slice's rows behind one another; r =
 * n: their end. A part is any run of elements where the rows lie so in the tensor too, else whole
 * rows. The whole slice where nothing is split. */
int64_t ka_model_shard_start(const struct ka_model *m, int64_t i, int r);
/* This rank's part of `whole` [n_rows, n_cols], any row stride: a view of whole rows, or [1, n]. */
struct ka_tensor ka_model_shard_view(const struct ka_model *m, int64_t i, struct ka_tensor whole);

/* The model that terms of the loss and the optimizer's pull are about, where it is not the one that
 * was opened: the weights in `dir`, which must be those of the same tensors (KA_E_INPUT). Compares
 * all of them with the model's. */
ka_status ka_model_set_base(struct ka_model *m, const char *dir);

/* Plans and allocates for batches of at most B x T: converts weights to the compute dtype, packs
 * frozen ones, makes gradients, step buffers. With `measure`, only counts: m->run.uses and
 * m->step.uses say what for, and nothing is allocated. */
ka_status ka_model_prepare(struct ka_model *m, int64_t B, int64_t T, bool measure);

/* Of a prepared model: tokens that a batch may hold, and positions that they may have. */
int64_t ka_model_rows(const struct ka_model *m);
int64_t ka_model_positions(const struct ka_model *m);

/* Forward. loss_sum: sum over targets of the cross-entropy, in double. loss may be NULL, else
 * [B*T] f32, the loss of predicting the token at each index (0 where none). */
ka_status ka_model_eval(struct ka_model *m, const struct ka_batch *batch, double *loss_sum,
                        float *loss);

/* Forward. For each of the batch's pairs the cross-entropy of its target, -log p, and the likeliest
 * token there, the first of equals; loss and best [pairs.n]. */
ka_status ka_model_score(struct ka_model *m, const struct ka_batch *batch, float *loss,
                         int32_t *best);

/* What routers do with a batch: of each layer l and expert e, how many of the tokens that live take
 * it, and the sum of the weights that they give it, += at [l * E + e]. */
struct ka_model_routes {
  const int32_t *live;  /* [B*T] */
  double *taken, *gate; /* [L*E] */
};
/* Forward through the layers of a model with experts. */
ka_status ka_model_route(struct ka_model *m, const struct ka_batch *batch,
                         const struct ka_model_routes *routes);
/* The tokens that count: those of documents with a target, neither padding nor what is only read.
 * live [B*T] = 1 or 0; returns their number, *targets (may be NULL) that of the targets. */
int64_t ka_batch_live(const struct ka_batch *batch, int32_t *live, int64_t *targets);

/* Has the layer experts, and is something of this one trained? */
bool ka_model_has_experts(const struct ka_model *m, int64_t layer);
bool ka_model_trains_expert(const struct ka_model *m, int64_t layer, int64_t expert);
/* The same counts of ka_model_grad's batches since the last call or ka_model_prepare; where
 * nothing is trained they are 0. taken [L*E] =. Waits for the device. */
ka_status ka_model_taken(struct ka_model *m, double *taken);

/* Forward and backward of one microbatch: adds d(grad_scale * sum of the terms of the batch's rows,
 * each times its weight)/dw to every slice's grad, and the terms' sums to the step statistics.
 * grad_scale is 1 / (targets of the whole optimizer step on rows of that kind). The base's pass
 * shares every frozen weight and all layers below the first trained one. loss_sum, the
 * cross-entropy of rows of the task, may be NULL: then nothing waits for the device. */
ka_status ka_model_grad(struct ka_model *m, const struct ka_batch *batch, double grad_scale,
                        double *loss_sum);

/* Where weights are split: the collectives of ka_model_grad (backward) or ka_model_eval without a
 * batch, for a rank that has none in this round. */
ka_status ka_model_idle(struct ka_model *m, bool backward);
/* The answer to shards.ask. */
ka_status ka_model_gather_layer(struct ka_model *m, int64_t layer, int which);
/* A split weight's new values: of slice i, run [n_rows, n_cols], this rank's part of the tensor. */
ka_status ka_model_keep_part(struct ka_model *m, int64_t i, struct ka_tensor run);
/* Adds this rank's part of a split slice's gradient to its sum and clears the gradient. */
ka_status ka_model_take_part(struct ka_model *m, int64_t i);

/* Sets all gradients and the step statistics to zero. */
ka_status ka_model_zero_grad(struct ka_model *m);

/* Waits for the device. */
ka_status ka_model_step_stats(struct ka_model *m, struct ka_step_stats *out);

/* To be called after the trained weights were changed (repacks them). */
ka_status ka_model_weights_changed(struct ka_model *m);

/* For verify and generate. Hidden states: index 0 the (scaled) embedding, i the output of block i,
 * the last one after the final norm; each [B*T, C] f32, NULL to skip. logits [B*T, V] f32 or NULL.
 */
ka_status ka_model_forward(struct ka_model *m, const struct ka_batch *batch, float *logits,
                           float **hidden);
/* Of the last such pass, which may have skipped them: the logits of rows [first, first + n) of
 * [B*T], logits [n,V] f32. */
ka_status ka_model_logits(struct ka_model *m, int64_t first, int64_t n, float *logits);

#endif
