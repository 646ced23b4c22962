/* SPDX-License-Identifier: Apache-2.0
 * See ranks.h. */
#include "engine/train/ranks.h"

#include "engine/dist/dist.h"
#include "engine/train/exchange.h"

bool ka_train_ranks_mine(const struct ka_ctx *ctx, int64_t i) {
  return i % ka_dist_n(ctx->dist) == ka_dist_rank(ctx->dist);
}

bool ka_train_ranks_round_ends(const struct ka_model *m, int64_t i, int64_t n) {
  return m->shards.weights && ((i + 1) % m->shards.n == 0 || i + 1 == n);
}

/* Starts the sums of one layer's gradients (-1: of what is in no layer). All ranks do so from the
 * top layer down, whenever each of them has a layer complete. */
static ka_status start_layer(struct ka_model *m, int64_t layer) {
  struct ka_ctx *ctx = m->ctx;
  for (int64_t i = 0; i < m->n_slices; i++) {
    const struct ka_param *p = &m->params[m->slices[i].param];
    if (p->layer == layer) KA_TRY(ka_train_exchange_gradient(m, i));
  }
  m->lowest_done = layer;
  return KA_STATUS_OK;
}

/* What the layer's gradients got from all ranks goes to their sums. */
static ka_status take_layer(struct ka_model *m, int64_t layer) {
  struct ka_ctx *ctx = m->ctx;
  KA_TRY(ka_dist_wait(ctx->dist));
  for (int64_t i = 0; i < m->n_slices; i++)
    if (m->params[m->slices[i].param].layer == layer) KA_TRY(ka_model_take_part(m, i));
  return KA_STATUS_OK;
}

/* Where gradients are split: the layer above is taken while this one travels, for the one below
 * will be written where that lies. */
static ka_status exchange_layer(struct ka_model *m, int64_t layer) {
  struct ka_ctx *ctx = m->ctx;
  if (m->lowest_done < m->recipe.L) KA_TRY(take_layer(m, m->lowest_done));
  return start_layer(m, layer);
}

void ka_train_ranks_begin_pass(struct ka_model *m, bool last) {
  m->lowest_done = m->recipe.L;
  if (m->shards.weights)
    m->layer_done = exchange_layer;
  else if (last && ka_dist_n(m->ctx->dist) > 1 && !ka_dev_queues(m->dev))
    m->layer_done = start_layer;
}

ka_status ka_train_ranks_end_pass(struct ka_model *m) {
  if (!m->shards.weights || m->lowest_done == m->recipe.L) return KA_STATUS_OK;
  return take_layer(m, m->lowest_done);
}

ka_status ka_train_ranks_sum_gradients(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  if (ka_dist_n(ctx->dist) == 1) return KA_STATUS_OK;
  int64_t above = m->shards.weights ? 0 : m->layer_done ? m->lowest_done : m->recipe.L;
  m->layer_done = NULL;
  for (int64_t layer = above - 1; layer >= -1; layer--) KA_TRY(start_layer(m, layer));
  if (m->shards.n < 2) /* else the norm is not known yet, which travels with it */
    KA_TRY(ka_train_exchange_sum(m, "the loss", m->step_stats));
  return ka_dist_wait(ctx->dist);
}

ka_status ka_train_ranks_most(struct ka_ctx *ctx, double *x, int64_t n) {
  int n_ranks = ka_dist_n(ctx->dist);
  void *memory;
  if (n_ranks == 1) return KA_STATUS_OK;
  KA_TRY(ka_alloc_n(ctx, &memory, n * n_ranks, sizeof *x, "ranks"));
  double *all = memory;
  for (int64_t i = 0; i < n; i++) all[ka_dist_rank(ctx->dist) * n + i] = x[i];
  ka_status st = ka_dist_sum(ctx->dist, "choices", all, n * n_ranks);
  for (int64_t i = 0; i < n * n_ranks; i++) x[i % n] = all[i] > x[i % n] ? all[i] : x[i % n];
  ka_free(memory);
  return st;
}

ka_status ka_train_ranks_signalled(struct ka_ctx *ctx, bool own, bool *any) {
  double n = own;
  *any = own;
  if (ka_dist_n(ctx->dist) == 1) return KA_STATUS_OK;
  KA_TRY(ka_dist_sum(ctx->dist, "signals", &n, 1));
  *any = n > 0;
  return KA_STATUS_OK;
}
