/* SPDX-License-Identifier: Apache-2.0
 * What routers of all layers do together: which experts tokens take; the load-balancing loss of a
 * batch: counts of all layers on the way up, the loss behind them, its gradient in each router's on
 * the way down. As transformers adds it to the loss of a batch, and we
 * sum over targets, its factor is the batch's share of the step's targets. */
#include "engine/model/buffers.h"
#include "engine/model/moe.h"

#include <string.h>

static bool balanced(const struct ka_model *m) {
  return m->recipe.moe && m->recipe.moe->aux_factor != 0;
}

ka_status ka_routing_plan(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_routing *x = &m->buffers->routing;
  *x = (struct ka_routing){0};
  if (!m->recipe.moe) return KA_STATUS_OK;
  int64_t E = m->recipe.moe->E, LE = m->recipe.L * E, one = 1;
  x->tracks = m->n_slices > 0;
  if (x->tracks) {
    KA_TRY(ka_tensor_alloc(&m->step, &x->taken, "router", KA_F64, 1, &LE));
    KA_TRY(ka_tensor_alloc(&m->step, &x->unused_sums, "router", KA_F64, 1, &E));
  }
  if (!balanced(m)) return KA_STATUS_OK;
  KA_TRY(ka_tensor_alloc(&m->step, &x->count, "router", KA_F64, 1, &E));
  KA_TRY(ka_tensor_alloc(&m->step, &x->score_sum, "router", KA_F64, 1, &E));
  return ka_tensor_alloc(&m->step, &x->aux, "router", KA_F64, 1, &one);
}

ka_status ka_routing_clear(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_routing *x = &m->buffers->routing;
  if (!x->tracks) return KA_STATUS_OK;
  KA_TRY(ka_fill(m->dev, &(struct ka_fill_args){.x = x->unused_sums}));
  return ka_fill(m->dev, &(struct ka_fill_args){.x = x->taken});
}

ka_status ka_routing_begin(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_routing *x = &m->buffers->routing;
  x->counting = m->recipe.moe && (x->tracks || balanced(m));
  if (!balanced(m)) return KA_STATUS_OK;
  KA_TRY(ka_fill(m->dev, &(struct ka_fill_args){.x = x->count}));
  KA_TRY(ka_fill(m->dev, &(struct ka_fill_args){.x = x->score_sum}));
  return ka_fill(m->dev, &(struct ka_fill_args){.x = x->aux});
}

static struct ka_tensor load_scale(const struct ka_model *m, int which) {
  return ka_tensor_1d(m->buffers->device.load + which, KA_F64, 1);
}

static double load_factor(const struct ka_model *m) {
  return m->recipe.moe->aux_factor * (double)m->recipe.moe->E;
}

ka_status ka_routing_end(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_routing *x = &m->buffers->routing;
  struct ka_step_stats *stats = m->step_stats.data;
  x->counting = false;
  if (!balanced(m)) return KA_STATUS_OK;
  struct ka_router_loss_args args = {.count = x->count,
                                     .score_sum = x->score_sum,
                                     .loss = x->aux,
                                     .scale = load_scale(m, 0),
                                     .load_factor = (double)m->recipe.moe->E};
  KA_TRY(ka_router_loss(m->dev, &args));
  args.load_factor = load_factor(m);
  args.loss = ka_tensor_1d(&stats->term[KA_TERM_CE], KA_F64, 1);
  return ka_router_loss(m->dev, &args);
}

ka_status ka_routing_read(struct ka_model *m, double *aux_sum, double *loss_sum) {
  struct ka_ctx *ctx = m->ctx;
  *aux_sum = 0;
  if (!balanced(m)) return KA_STATUS_OK;
  KA_TRY(ka_dev_download(m->dev, aux_sum, m->buffers->routing.aux.data, sizeof *aux_sum));
  *loss_sum += m->recipe.moe->aux_factor * *aux_sum;
  return KA_STATUS_OK;
}

static int64_t moe_layers(const struct ka_model *m) {
  int64_t n = 0;
  for (int64_t l = 0; l < m->recipe.L; l++) n += ka_model_has_experts(m, l);
  return n;
}

/* Padding is a document without a target; so is a document that only masks, which then counts as
 * little for the balance as for the loss. */
int64_t ka_batch_live(const struct ka_batch *batch, int32_t *live, int64_t *targets) {
  int64_t n_live = 0, n_targets = 0, T = batch->T;
  for (int64_t i = batch->B * T - 1, end = i + 1; i >= 0; i--) {
    bool first = i % T == batch->doc_start[i];
    if (!first && i % T > 0) continue;
    bool any = false;
    for (int64_t k = i; k < end; k++) {
      bool target = batch->labels[k] != KA_LABEL_MASKED && k > i;
      any = any || target;
      n_targets += target;
    }
    for (int64_t k = i; k < end; k++) live[k] = any;
    n_live += any ? end - i : 0;
    end = i;
  }
  if (targets) *targets = n_targets;
  return n_live;
}

void ka_routing_batch(struct ka_model *m, const struct ka_batch *batch, double grad_scale) {
  struct ka_inputs *in = &m->buffers->host;
  int64_t n_targets;
  if (!balanced(m) && !m->buffers->routing.tracks) return;
  int64_t n_live = ka_batch_live(batch, in->live, &n_targets);
  double targets = (double)n_targets;
  double n = (double)(n_live * moe_layers(m));
  bool counts = n > 0 && batch->rows == KA_ROWS_TASK; /* what the base wrote is not balanced */
  in->load[0] = counts ? targets / (n * n) : 0;
  in->load[1] = in->load[0] * grad_scale;
}

static struct ka_tensor live(const struct ka_model *m) {
  const struct ka_model_buffers *b = m->buffers;
  return ka_tensor_1d(b->device.live, KA_I32, b->batch_B * b->batch_T);
}

/* On the host; waits for the device. */
static ka_status count_routes(struct ka_model *m, int64_t layer, struct ka_tensor index,
                              struct ka_tensor weight) {
  struct ka_ctx *ctx = m->ctx;
  const struct ka_model_routes *r = m->buffers->routing.routes;
  int64_t n = ka_tensor_elems(&index), k = m->recipe.moe->k, E = m->recipe.moe->E;
  struct ka_arena a;
  struct ka_tensor i_host, w_host;
  ka_arena_init(&a, ctx, "routes");
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_tensor_alloc(&a, &i_host, "routes", KA_I32, 1, &n), out);
  KA_TRY_GOTO(ka_tensor_alloc(&a, &w_host, "routes", weight.dtype, 1, &n), out);
  KA_TRY_GOTO(ka_dev_download(m->dev, i_host.data, index.data, ka_tensor_bytes(&i_host)), out);
  KA_TRY_GOTO(ka_dev_download(m->dev, w_host.data, weight.data, ka_tensor_bytes(&w_host)), out);
  for (int64_t i = 0; i < n; i++) {
    if (!r->live[i / k]) continue;
    int64_t at = layer * E + ((const int32_t *)i_host.data)[i];
    r->taken[at]++;
    r->gate[at] += ka_load(w_host.data, weight.dtype, i);
  }
out:
  ka_arena_deinit(&a);
  return st;
}

ka_status ka_model_route(struct ka_model *m, const struct ka_batch *batch,
                         const struct ka_model_routes *routes) {
  struct ka_ctx *ctx = m->ctx;
  KA_NEVER(ctx, !m->recipe.moe);
  KA_TRY(ka_batch_begin(m, batch, 0));
  m->buffers->routing.routes = routes;
  ka_status st = ka_pass_fwd(m, NULL, NULL);
  m->buffers->routing.routes = NULL;
  return st;
}

ka_status ka_routing_count(struct ka_model *m, int64_t layer, struct ka_tensor scores,
                           struct ka_tensor index, struct ka_tensor weight) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_routing *x = &m->buffers->routing;
  if (x->routes) return count_routes(m, layer, index, weight);
  if (!x->counting) return KA_STATUS_OK;
  struct ka_router_load_args args = {.scores = scores, .index = index, .live = live(m)};
  if (x->tracks) {
    int64_t E = m->recipe.moe->E;
    args.count = ka_tensor_1d((double *)x->taken.data + layer * E, KA_F64, E);
    args.score_sum = x->unused_sums;
    KA_TRY(ka_router_load(m->dev, &args));
  }
  args.count = x->count;
  args.score_sum = x->score_sum;
  return balanced(m) ? ka_router_load(m->dev, &args) : KA_STATUS_OK;
}

bool ka_model_has_experts(const struct ka_model *m, int64_t layer) {
  bool has = false;
  for (int i = 0; i < KA_BRANCHES; i++)
    has = has || m->recipe.layers[layer].branch[i] == &ka_ffn_moe;
  return has;
}

bool ka_model_trains_expert(const struct ka_model *m, int64_t layer, int64_t expert) {
  const struct ka_expert_weights *x = &m->weights->layers[KA_TUNED][layer].experts[expert];
  return KA_TRAINED(x->expert_gate, x->expert_up, x->expert_down, x->expert_gate_up,
                    x->expert_gate_up_bias, x->expert_down_bias);
}

ka_status ka_model_taken(struct ka_model *m, double *taken) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_routing *x = &m->buffers->routing;
  size_t n_bytes = (size_t)(m->recipe.L * m->recipe.moe->E) * sizeof *taken;
  memset(taken, 0, n_bytes);
  if (!x->tracks) return KA_STATUS_OK;
  KA_TRY(ka_dev_download(m->dev, taken, x->taken.data, n_bytes));
  return ka_routing_clear(m);
}

void ka_routing_gradient(const struct ka_model *m, struct ka_router_bwd_args *args) {
  if (!balanced(m)) return;
  args->count = m->buffers->routing.count;
  args->live = live(m);
  args->scale = load_scale(m, 1);
  args->load_factor = load_factor(m);
}
