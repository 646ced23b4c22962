/* SPDX-License-Identifier: Apache-2.0
 * See ranks.h. */
#include "engine/train/ranks.h"

#include "engine/dist/dist.h"

bool ka_train_ranks_mine(const struct ka_ctx *ctx, int64_t i) {
  return i % ka_dist_n(ctx->dist) == ka_dist_rank(ctx->dist);
}

/* Of a separate device: through host memory. */
static ka_status sum_staged(struct ka_model *m, const char *what, struct ka_tensor x) {
  struct ka_ctx *ctx = m->ctx;
  void *host;
  size_t n_bytes = ka_tensor_bytes(&x);
  KA_TRY(ka_alloc(ctx, &host, n_bytes, "gradients between ranks"));
  ka_status st = ka_dev_download(m->dev, host, x.data, n_bytes);
  if (ka_ok(st)) st = ka_dist_all_reduce(ctx->dist, what, host, ka_tensor_elems(&x), x.dtype);
  KA_TRY_KEEP(ka_dist_wait(ctx->dist));
  if (ka_ok(st)) st = ka_dev_upload(m->dev, x.data, host, n_bytes);
  ka_free(host);
  return st;
}

static ka_status sum(struct ka_model *m, const char *what, struct ka_tensor x) {
  if (m->dev->backend->separate) return sum_staged(m, what, x);
  return ka_dist_all_reduce(m->ctx->dist, what, x.data, ka_tensor_elems(&x), x.dtype);
}

/* Starts the sums of one layer's gradients (-1: of what is in no layer). All ranks do so from the top
 * layer down, whenever each of them has a layer complete. */
static ka_status start_layer(struct ka_model *m, int64_t layer) {
  struct ka_ctx *ctx = m->ctx;
  for (int64_t i = 0; i < m->n_slices; i++) {
    const struct ka_param *p = &m->params[m->slices[i].param];
    if (p->layer == layer) KA_TRY(sum(m, p->name, m->slices[i].grad));
  }
  m->lowest_done = layer;
  return KA_STATUS_OK;
}

void ka_train_ranks_last(struct ka_model *m) {
  m->lowest_done = m->recipe.L;
  if (ka_dist_n(m->ctx->dist) > 1 && !m->dev->backend->separate) m->layer_done = start_layer;
}

ka_status ka_train_ranks_sum_gradients(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  if (ka_dist_n(ctx->dist) == 1) return KA_STATUS_OK;
  int64_t above = m->layer_done ? m->lowest_done : m->recipe.L;
  m->layer_done = NULL;
  for (int64_t layer = above - 1; layer >= -1; layer--) KA_TRY(start_layer(m, layer));
  KA_TRY(sum(m, "the loss", m->step_stats));
  return ka_dist_wait(ctx->dist);
}

ka_status ka_train_ranks_signalled(struct ka_ctx *ctx, bool own, bool *any) {
  double n = own;
  *any = own;
  if (ka_dist_n(ctx->dist) == 1) return KA_STATUS_OK;
  KA_TRY(ka_dist_sum(ctx->dist, "signals", &n, 1));
  *any = n > 0;
  return KA_STATUS_OK;
}
