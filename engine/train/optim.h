/* SPDX-License-Identifier: Apache-2.0
 *
 * AdamW over the trained slices of a model: master, first and second moment of what is selected and
 * of nothing else, in f32 or (half the memory, no separate master) in bf16 with stochastic
 * rounding. An f32 weight trained whole is its own master. The state lies on the device, or with
 * `offload` in host memory that the update reaches across the bus.
 *
 * Not here: the gradients (the model accumulates them), the learning rate (schedule.h). */
#ifndef KAPPA_ENGINE_TRAIN_OPTIM_H
#define KAPPA_ENGINE_TRAIN_OPTIM_H

#include "engine/model/model.h"

/* What a trained part has for itself. */
struct ka_optim_part {
  double lr_scale; /* of its learning rate */
  double pull;     /* of config.pull */
};

struct ka_optim_config {
  double beta1, beta2, eps;
  double weight_decay;  /* of everything trained, norms and biases too, as torch does */
  double max_grad_norm; /* 0: no clipping */
  enum ka_dtype state;  /* KA_F32, or KA_BF16: masters too, then a bf16 weight is its own master */
  uint64_t seed;        /* of stochastic rounding */
  bool offload;
  double pull; /* towards the base's weights, like weight_decay, which is towards 0; 0: none */
  const struct ka_optim_part *parts; /* by slice.part, read by ka_optim_init; NULL: 1 and 1 */
};

struct ka_optim_slice {
  const char *tensor;       /* borrowed from the model */
  bool whole;               /* the slice is the whole tensor */
  bool own_master;          /* false: w is the model's compute weight itself */
  struct ka_tensor w, m, v; /* [n_rows, n_cols] of config.state; w of any row stride */
  struct ka_tensor w0;      /* the base's values, of any row stride; data NULL without pull */
  struct ka_optim_part part;
  int64_t t; /* steps this slice has taken */
};

struct ka_optim {
  struct ka_ctx *ctx;
  struct ka_model *model;
  struct ka_optim_config config;
  struct ka_arena arena, tables; /* arena: the state */
  int64_t n;                     /* = model->n_slices, same order */
  struct ka_optim_slice *slices;
  struct ka_adamw_args *steps; /* [n], and */
  struct ka_sumsq_args *norms; /* [n]: of the step at hand */
};

/* State for every slice of a prepared model: masters from the stored values, zero moments. With
 * `measure`, only counts: optim->arena.uses says what for. */
ka_status ka_optim_init(struct ka_ctx *ctx, struct ka_optim *o, struct ka_model *m,
                        const struct ka_optim_config *config, bool measure);
void ka_optim_deinit(struct ka_optim *o);

/* One step: the global 2-norm of all gradients (slices in order, in double), gradients scaled by
 * min(1, max_grad_norm / (norm + 1e-6)) as torch.nn.utils.clip_grad_norm_ does, AdamW, compute
 * weights written, the model told. A pull reaches the base at most: rate * pull counts up to 1.
 * Does not wait for the device: the model's step statistics tell the norm and the loss afterwards,
 * and where one of them is not finite, nothing was written. */
ka_status ka_optim_step(struct ka_optim *o, double lr);

/* Part 0 (w), 1 (m) or 2 (v) of a slice. */
struct ka_tensor *ka_optim_part(struct ka_optim_slice *s, int part);

/* Writes masters into the compute weights (after loading a checkpoint) and tells the model. */
ka_status ka_optim_publish(struct ka_optim *o);

/* Name of a slice in checkpoints: the tensor's, with [row:end,col:end] when it is a part. */
ka_status ka_optim_slice_name(struct ka_arena *a, const struct ka_optim *o, int64_t i,
                              const char **out);

#endif
