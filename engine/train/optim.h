/* SPDX-License-Identifier: Apache-2.0
 *
 * AdamW over the trained slices of a model: f32 master, first and second moment of what is selected
 * and of nothing else. An f32 weight trained whole is its own master.
 *
 * Not here: the gradients (the model accumulates them), the learning rate (schedule.h). */
#ifndef KAPPA_ENGINE_TRAIN_OPTIM_H
#define KAPPA_ENGINE_TRAIN_OPTIM_H

#include "engine/model/model.h"

struct ka_optim_config {
  double beta1, beta2, eps;
  double weight_decay;  /* of everything trained, norms and biases too, as torch does */
  double max_grad_norm; /* 0: no clipping */
};

struct ka_optim_slice {
  const char *tensor; /* borrowed from the model */
  bool whole;         /* the slice is the whole tensor */
  bool own_master;          /* false: w is the model's compute weight itself */
  struct ka_tensor w, m, v; /* [n_rows, n_cols] f32 */
  int64_t t;                /* steps this slice has taken */
};

struct ka_optim {
  struct ka_ctx *ctx;
  struct ka_model *model;
  struct ka_optim_config config;
  struct ka_arena arena;
  int64_t n; /* = model->n_slices, same order */
  struct ka_optim_slice *slices;
  struct ka_tensor norm_sq; /* [1] f64 */
};

/* State for every slice of a prepared model: masters from the stored values, zero moments. With
 * `measure`, only counts: optim->arena.uses says what for. */
ka_status ka_optim_init(struct ka_ctx *ctx, struct ka_optim *o, struct ka_model *m,
                        const struct ka_optim_config *config, bool measure);
void ka_optim_deinit(struct ka_optim *o);

/* Global 2-norm of all gradients, slices summed in order, in double. Synchronises the device. */
ka_status ka_optim_grad_norm(struct ka_optim *o, double *norm);

/* One step with gradients scaled by min(1, max_grad_norm / (norm + 1e-6)), the rule of
 * torch.nn.utils.clip_grad_norm_; writes the compute weights and tells the model. */
ka_status ka_optim_step(struct ka_optim *o, double lr, double norm);

/* Writes masters into the compute weights (after loading a checkpoint) and tells the model. */
ka_status ka_optim_publish(struct ka_optim *o);

/* Name of a slice in checkpoints: the tensor's, with [row:end,col:end] when it is a part. */
ka_status ka_optim_slice_name(struct ka_arena *a, const struct ka_optim *o, int64_t i,
                              const char **out);

#endif
