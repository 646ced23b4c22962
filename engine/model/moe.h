/* SPDX-License-Identifier: Apache-2.0
 *
 * What a mixture of experts is, as data: the options of the branch kind ka_ffn_moe, and what all
 * layers count together. Which biases and shared experts there are, the tensor map says. */
#ifndef KAPPA_ENGINE_MODEL_MOE_H
#define KAPPA_ENGINE_MODEL_MOE_H

#include "engine/model/branch.h"

enum { KA_MOE_MOST = 1024 }; /* experts; the bound of router_fwd */

struct ka_moe {
  int64_t E, k, EF, SF;        /* experts, those a token takes, their width, that of the shared */
  enum ka_router kind;         /* router_fwd of kernels/ops.h has these */
  int64_t n_group, topk_group; /* 0: no groups */
  bool group_by_two, normalise;
  double factor;     /* of the weights, 1 for most */
  double aux_factor; /* of the load-balancing loss in a training step's loss, 0: none */
};

/* --- routing.c: what the layers' routers do together ------------------------------------------ */

struct ka_routing {
  bool counting;                     /* the pass at hand is a training step's way up */
  struct ka_tensor count, score_sum; /* [E] f64: of the batch, all layers */
  struct ka_tensor aux;         /* [1] f64: the batch's targets times its load-balancing loss */
  bool tracks;                  /* something is trained: what is taken is counted */
  struct ka_tensor taken;       /* [L*E] f64: of training steps since it was read */
  struct ka_tensor unused_sums; /* [E] f64: scratch of that */
  const struct ka_model_routes *routes; /* of the pass at hand, see model.h; NULL: nobody asks */
};
ka_status ka_routing_plan(struct ka_model *m);
/* Sets what is counted to 0. */
ka_status ka_routing_clear(struct ka_model *m);
/* Before the layers; after them: the loss, also into the step statistics. */
ka_status ka_routing_begin(struct ka_model *m);
ka_status ka_routing_end(struct ka_model *m);
/* The load-balancing loss of the last step times its targets; that with its factor is added to
 * *loss_sum. Waits for the device. */
ka_status ka_routing_read(struct ka_model *m, double *aux_sum, double *loss_sum);
/* The host's share of a batch: which tokens are alive, and the factors of the loss. */
void ka_routing_batch(struct ka_model *m, const struct ka_batch *batch, double grad_scale);
/* Of one layer, what its router has decided. */
ka_status ka_routing_count(struct ka_model *m, int64_t layer, struct ka_tensor scores,
                           struct ka_tensor index, struct ka_tensor weight);
/* What router_bwd takes of it. */
void ka_routing_gradient(const struct ka_model *m, struct ka_router_bwd_args *args);

#endif
