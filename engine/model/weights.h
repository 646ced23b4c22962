/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights as the passes see them. A logical weight (q, gate, one expert's down) is a view of a
 * stored tensor or of a part of it; how it lies there is settled here, from the tensor map. A pass
 * gets a layer's weights by ka_weights_acquire and gives them back; where their bytes are (the
 * file's map, memory of their own in the compute dtype, packed for the product) is storage.c's
 * affair, and later sources' (quantised, sharded, offloaded) too. Nobody outside the room includes
 * this. */
#ifndef KAPPA_ENGINE_MODEL_WEIGHTS_H
#define KAPPA_ENGINE_MODEL_WEIGHTS_H

#include "engine/model/model.h"

/* A trained part of a weight: a rectangle of its view. */
struct ka_piece {
  int64_t slice; /* into m->slices, which owns the gradient */
  int64_t row, n_rows, col, n_cols;
  struct ka_tensor grad; /* [n_rows, n_cols] view into the slice's, any row stride */
};

struct ka_weight {
  struct ka_param *param; /* the stored tensor */
  enum ka_role role;
  int layer, expert;                /* -1: of none */
  int64_t row, n_rows, col, n_cols; /* where in param's matrix, or in the expert's */
  bool transposed;                  /* w is [in, out] */
  struct ka_tensor w; /* [out, in] (vectors [n]) in the compute dtype, any row stride */
  struct ka_tensor packed, packed_t; /* for y = x W^T and dx = dy W, data NULL when not packed */
  int64_t n_pieces;                  /* 0: frozen */
  struct ka_piece *pieces;
};

/* One field a role, NULL: this model has none; shapes in KA_ROLE_TABLE. */
#define KA_FIELD_MODEL_MODEL(field) const struct ka_weight *field;
#define KA_FIELD_MODEL_LAYER(field)
#define KA_FIELD_MODEL_EXPERT(field)
#define KA_FIELD_LAYER_MODEL(field)
#define KA_FIELD_LAYER_LAYER(field) const struct ka_weight *field;
#define KA_FIELD_LAYER_EXPERT(field)
#define KA_FIELD_EXPERT_MODEL(field)
#define KA_FIELD_EXPERT_LAYER(field)
#define KA_FIELD_EXPERT_EXPERT(field) const struct ka_weight *field;

/* Outside the layers. A tied head is the embedding. */
struct ka_outer_weights {
#define X(name, field, rows, cols, scope, heads, fresh) KA_FIELD_MODEL_##scope(field)
  KA_ROLE_TABLE(X)
#undef X
};
struct ka_expert_weights {
#define X(name, field, rows, cols, scope, heads, fresh) KA_FIELD_EXPERT_##scope(field)
  KA_ROLE_TABLE(X)
#undef X
};
struct ka_layer_weights {
#define X(name, field, rows, cols, scope, heads, fresh) KA_FIELD_LAYER_##scope(field)
  KA_ROLE_TABLE(X)
#undef X
  int64_t n_experts;
  struct ka_expert_weights *experts; /* [n_experts] */
};

/* The model that is tuned, or the base that terms of the loss are about. */
enum ka_which { KA_TUNED, KA_BASE, KA_N_WHICH };

/* Where the weights of split layers are gathered: two layers in turn, and their gradients. */
struct ka_layer_slots {
  size_t *used; /* [L] bytes of each layer while it is planned */
  char *weights[2], *grads[2];
  int64_t layer[2]; /* which one lies there, -1: none */
  enum ka_which which[2];
  bool pending; /* a gathering has not been waited for */
  int64_t last; /* the layer that was borrowed last */
  enum ka_which last_which;
};

/* All weights of a model; made when it is opened. */
struct ka_weights {
  int64_t n;
  struct ka_weight *all[KA_N_WHICH]; /* [n]; base's are filled where they differ */
  struct ka_outer_weights outer[KA_N_WHICH];
  struct ka_layer_weights *layers[KA_N_WHICH]; /* [L] */
  struct ka_piece *pieces;
  int64_t n_base; /* stored tensors that the base has to itself */
  struct ka_param *base;
  struct ka_layer_slots slots;
  void *pack_scratch; /* a trained weight in the back end's layout, for the product at hand */
  size_t pack_bytes;
  size_t pack_left; /* of what packed copies of frozen weights may take */
};

static inline bool ka_weight_trained(const struct ka_weight *w) { return w && w->n_pieces > 0; }
bool ka_any_trained(const struct ka_weight *const *list, int n);
/* Is one of these trained? NULLs are not. */
#define KA_TRAINED(...)                                                                            \
  ka_any_trained((const struct ka_weight *const[]){__VA_ARGS__},                                   \
                 sizeof((const struct ka_weight *const[]){__VA_ARGS__}) / sizeof(void *))

/* Logical weights of m->params, into m->weights. */
ka_status ka_weights_open(struct ka_model *m);
/* Of the tuned model; expert -1: the first. NULL: none. For names, not for passes. */
const struct ka_weight *ka_weights_find(const struct ka_model *m, enum ka_role role, int layer,
                                        int expert);
/* Which parts of them m->slices train. */
ka_status ka_weights_train(struct ka_model *m);
/* Which the base has to itself; the lowest layer with such a one (-1: the embedding, L: none below
 * the final norm). */
int64_t ka_weights_base(struct ka_model *m);
ka_status ka_weights_plan(struct ka_model *m); /* allocates weights, packs, gradients */
ka_status ka_weights_fill(struct ka_model *m); /* converts and packs all of them */

/* Makes a layer's weights readable and lends them until the release. Only pass.c calls these. */
ka_status ka_weights_acquire(struct ka_model *m, int64_t layer, enum ka_which which,
                             struct ka_layer_weights *out);
void ka_weights_release(struct ka_model *m, struct ka_layer_weights *w);
/* The same of those outside the layers, which stay. */
const struct ka_outer_weights *ka_weights_outer(const struct ka_model *m, enum ka_which which);

/* --- shards.c: weights that ranks have split --- */
/* A part of it in the dtype, and its place among its layer's gathered weights. */
ka_status ka_shards_plan_param(struct ka_model *m, struct ka_param *p, enum ka_dtype dtype,
                               const char *name);
/* After all of them: memory for two layers, and the weights' views in it. */
ka_status ka_shards_place_weights(struct ka_model *m);
/* The same of the slices' gradients; part_grad and part_weight of every slice. */
ka_status ka_shards_plan_slices(struct ka_model *m);
/* This rank's part, from the file's map. */
ka_status ka_shards_fill_param(struct ka_model *m, struct ka_param *p);
ka_status ka_shards_fill_slices(struct ka_model *m);
/* The layer's weights are there when it returns, and the next one's on their way. */
ka_status ka_shards_acquire(struct ka_model *m, int64_t layer, enum ka_which which);

/* --- linear.c --- */
/* A [rows, cols] view of the compute type, or of the statistics' type. */
struct ka_tensor ka_mat(const struct ka_model *m, void *data, int64_t rows, int64_t cols);
struct ka_tensor ka_stat(const struct ka_model *m, void *data, int64_t n);
/* f32, or f64 with f64. */
enum ka_dtype ka_accum_dtype(const struct ka_model *m);

/* The weight in the back end's layout for a product with `rows` rows: kept, or made now in scratch
 * that the next one overwrites; data NULL when packing does not pay. */
ka_status ka_weight_packed(struct ka_model *m, const struct ka_weight *w, bool forward,
                           int64_t rows, struct ka_tensor *out);
/* out = x W^T (+ bias). */
ka_status ka_linear_fwd(struct ka_model *m, struct ka_tensor out, struct ka_tensor x,
                        const struct ka_weight *w, const struct ka_weight *bias);
/* out = gelu(pre) (the tanh form), pre = x W^T + bias; pre without data: not wanted. */
ka_status ka_linear_gelu_fwd(struct ka_model *m, struct ka_tensor out, struct ka_tensor pre,
                             struct ka_tensor x, const struct ka_weight *w,
                             const struct ka_weight *bias);
/* dx = (dy W) gelu'(pre). */
ka_status ka_linear_gelu_dx(struct ka_model *m, struct ka_tensor dx, struct ka_tensor pre,
                            struct ka_tensor dy, const struct ka_weight *w);
/* dx = or += dy W. */
ka_status ka_linear_dx(struct ka_model *m, struct ka_tensor dx, struct ka_tensor dy,
                       const struct ka_weight *w, bool accumulate);
/* Adds dy^T x to the trained pieces of w and the column sums of dy to those of bias. */
ka_status ka_linear_dw(struct ka_model *m, struct ka_tensor dy, struct ka_tensor x,
                       const struct ka_weight *w, const struct ka_weight *bias);
/* Where a vector's gradient is accumulated: the piece's own memory when it is whole, else zeroed
 * scratch (place 0 or 1, of two at once), to be handed to ka_vector_grad_end; data NULL when
 * nothing of it is trained, or p is NULL. */
ka_status ka_vector_grad_begin(struct ka_model *m, const struct ka_weight *p, int place,
                               struct ka_tensor *dw);
ka_status ka_vector_grad_end(struct ka_model *m, const struct ka_weight *p, struct ka_tensor dw);

/* --- norm.c: the root mean square norm or the layer norm, by the recipe --- */
struct ka_norm {
  const struct ka_weight *w, *bias;
};
struct ka_norm_stats {
  void *mean, *rstd; /* [rows]; NULL: not wanted */
};
/* h = norm(x); with sum, x + b->delta is written there first and normalised. */
ka_status ka_norm_fwd(struct ka_model *m, struct ka_tensor h, struct ka_norm_stats stats,
                      struct ka_tensor x, void *sum, struct ka_norm norm);
/* dx = or += the gradient through the norm of s; the weights' are accumulated. dx may be dy. */
ka_status ka_norm_bwd(struct ka_model *m, struct ka_tensor dx, struct ka_tensor dy,
                      struct ka_tensor s, struct ka_norm_stats stats, struct ka_norm norm,
                      bool accumulate);
/* The root mean square norm alone, of q and k and of latents. */
ka_status ka_rms_fwd(struct ka_model *m, struct ka_tensor y, void *rstd, struct ka_tensor x,
                     const struct ka_weight *w, double eps);
ka_status ka_rms_bwd(struct ka_model *m, struct ka_tensor dx, struct ka_tensor dy,
                     struct ka_tensor s, void *rstd, const struct ka_weight *w);

#endif
