/* SPDX-License-Identifier: Apache-2.0
 * See exchange.h. What lies in a device's own memory goes through host memory. */
#include "engine/train/exchange.h"

#include "engine/dist/dist.h"

/* Where the ranks' parts of slice i begin, in elements of `size` bytes; the caller frees them. */
static ka_status starts_of(struct ka_model *m, int64_t i, size_t size, int64_t **out) {
  struct ka_ctx *ctx = m->ctx;
  KA_TRY(KA_NEW_HEAP(ctx, out, m->shards.n + 1, "ranks"));
  for (int r = 0; r <= m->shards.n; r++) (*out)[r] = ka_model_shard_start(m, i, r) * (int64_t)size;
  return KA_STATUS_OK;
}

/* The sum of x, or with starts of this rank's part of it. */
static ka_status start_sum(struct ka_model *m, const char *what, void *x, int64_t n,
                           enum ka_dtype dtype, const int64_t *starts) {
  struct ka_dist *d = m->ctx->dist;
  return starts ? ka_dist_reduce_scatter(d, what, x, starts, dtype)
                : ka_dist_all_reduce(d, what, x, n, dtype);
}

static ka_status sum(struct ka_model *m, const char *what, struct ka_tensor x,
                     const int64_t *starts) {
  struct ka_ctx *ctx = m->ctx;
  size_t n_bytes = ka_tensor_bytes(&x);
  int64_t n = ka_tensor_elems(&x);
  void *host;
  if (!ka_dev_own_memory(m->dev)) return start_sum(m, what, x.data, n, x.dtype, starts);
  KA_TRY(ka_alloc(ctx, &host, n_bytes, "gradients between ranks"));
  ka_status st = ka_dev_download(m->dev, host, x.data, n_bytes);
  if (ka_ok(st)) st = start_sum(m, what, host, n, x.dtype, starts);
  KA_TRY_KEEP(ka_dist_wait(ctx->dist));
  if (ka_ok(st)) st = ka_dev_upload(m->dev, x.data, host, n_bytes);
  ka_free(host);
  return st;
}

ka_status ka_train_exchange_sum(struct ka_model *m, const char *what, struct ka_tensor x) {
  return ka_dist_n(m->ctx->dist) > 1 ? sum(m, what, x, NULL) : KA_STATUS_OK;
}

ka_status ka_train_exchange_gradient(struct ka_model *m, int64_t i) {
  struct ka_ctx *ctx = m->ctx;
  const char *name = m->params[m->slices[i].param].name;
  int64_t *starts = NULL;
  if (m->shards.n < 2) return ka_train_exchange_sum(m, name, m->slices[i].grad);
  KA_TRY(starts_of(m, i, 1, &starts));
  ka_status st = sum(m, name, m->slices[i].grad, starts);
  ka_free(starts);
  return st;
}

/* --- the new weights -------------------------------------------------------------------------- */

static bool is_split(const struct ka_model *m, int64_t i) {
  return m->params[m->slices[i].param].split;
}

/* Memory for the weights of slice i, one run: the gradient's, which is read no more. */
static struct ka_tensor run_of(const struct ka_model *m, int64_t i) {
  const struct ka_slice *s = &m->slices[i];
  return ka_tensor_2d(s->grad.data, s->weight.dtype, s->n_rows, s->n_cols);
}

static ka_status start_gather(struct ka_model *m, int64_t i) {
  struct ka_ctx *ctx = m->ctx;
  const struct ka_slice *s = &m->slices[i];
  struct ka_tensor run = s->weight;
  int64_t *starts = NULL;
  if (!ka_tensor_contiguous(&s->weight)) {
    run = run_of(m, i);
    KA_TRY(ka_copy(m->dev, &(struct ka_copy_args){.out = ka_model_shard_view(m, i, run),
                                                  .in = ka_model_shard_view(m, i, s->weight)}));
  }
  KA_TRY(starts_of(m, i, ka_dtype_bytes(run.dtype), &starts));
  ka_status st = ka_dist_all_gather(ctx->dist, m->params[s->param].name, run.data, starts);
  ka_free(starts);
  return st;
}

static ka_status gather_staged(struct ka_model *m, int64_t i) {
  struct ka_ctx *ctx = m->ctx;
  const struct ka_slice *s = &m->slices[i];
  struct ka_tensor host = s->weight;
  int64_t *starts = NULL;
  KA_TRY(ka_alloc(ctx, &host.data, ka_tensor_bytes(&host), "weights between ranks"));
  host.row_stride = s->n_cols;
  ka_status st =
      ka_dev_get(m->dev, ka_model_shard_view(m, i, host), ka_model_shard_view(m, i, s->weight));
  if (ka_ok(st)) st = starts_of(m, i, ka_dtype_bytes(host.dtype), &starts);
  if (ka_ok(st)) st = ka_dist_all_gather(ctx->dist, m->params[s->param].name, host.data, starts);
  KA_TRY_KEEP(ka_dist_wait(ctx->dist));
  if (ka_ok(st)) st = ka_dev_put(m->dev, s->weight, host);
  ka_free(starts);
  ka_free(host.data);
  return st;
}

/* Of a split weight each rank keeps its part; it has it where the slice is the whole tensor. */
static ka_status share_split(struct ka_model *m, int64_t i) {
  struct ka_ctx *ctx = m->ctx;
  const struct ka_slice *s = &m->slices[i];
  struct ka_tensor run = run_of(m, i);
  int64_t *starts = NULL;
  if (ka_model_slice_is_whole(m, s)) return KA_STATUS_OK;
  KA_TRY(ka_copy(
      m->dev, &(struct ka_copy_args){.out = ka_model_shard_view(m, i, run), .in = s->part_weight}));
  KA_TRY(starts_of(m, i, ka_dtype_bytes(run.dtype), &starts));
  ka_status st = ka_dist_all_gather(ctx->dist, m->params[s->param].name, run.data, starts);
  ka_free(starts);
  KA_TRY_KEEP(ka_dist_wait(ctx->dist));
  return ka_ok(st) ? ka_model_keep_part(m, i, run) : st;
}

ka_status ka_train_exchange_weights(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  if (m->shards.n < 2) return KA_STATUS_OK;
  for (int64_t i = 0; i < m->n_slices; i++)
    if (!is_split(m, i))
      KA_TRY(ka_dev_own_memory(m->dev) ? gather_staged(m, i) : start_gather(m, i));
  KA_TRY(ka_dist_wait(ctx->dist));
  for (int64_t i = 0; i < m->n_slices; i++) {
    const struct ka_slice *s = &m->slices[i];
    if (is_split(m, i))
      KA_TRY(share_split(m, i));
    else if (!ka_dev_own_memory(m->dev) && !ka_tensor_contiguous(&s->weight))
      KA_TRY(ka_copy(m->dev, &(struct ka_copy_args){.out = s->weight, .in = run_of(m, i)}));
  }
  return KA_STATUS_OK;
}
