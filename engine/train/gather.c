/* SPDX-License-Identifier: Apache-2.0
 * See gather.h. A request is a broadcast, its answer an all-to-all in which all parts go to rank 0;
 * the order of calls is rank 0's, whatever it writes. */
#include "engine/train/gather.h"

#include "engine/dist/dist.h"

#include <string.h>

struct request {
  int64_t slice, part, first, n; /* slice NO_MORE; or A_LAYER: first, of part: which model */
};
enum { NO_MORE = -1, A_LAYER = -2 };

/* Elements [first, first + n) of a matrix with any row stride. */
static ka_status read_elems(struct ka_dev *dev, struct ka_tensor t, int64_t first, int64_t n,
                            char *to) {
  struct ka_ctx *ctx = dev->ctx;
  size_t size = ka_dtype_bytes(t.dtype);
  int64_t width = ka_tensor_contiguous(&t) ? ka_tensor_elems(&t) : t.shape[1];
  while (n > 0) {
    int64_t row = first / width, col = first % width, m = n < width - col ? n : width - col;
    char *at = (char *)t.data + (size_t)(row * t.row_stride + col) * size;
    KA_TRY(ka_dev_get(dev, ka_tensor_1d(to, t.dtype, m), ka_tensor_1d(at, t.dtype, m)));
    to += (size_t)m * size;
    first += m;
    n -= m;
  }
  return KA_STATUS_OK;
}

/* What a rank has of the request: elements [*from, *to) of the slice. */
static void own_of(const struct ka_optim *o, const struct request *q, int rank, int64_t *from,
                   int64_t *to) {
  int64_t a = ka_model_shard_start(o->model, q->slice, rank);
  int64_t b = ka_model_shard_start(o->model, q->slice, rank + 1), end = q->first + q->n;
  *from = a > q->first ? a : q->first;
  *to = b < end ? b : end;
  if (*to < *from) *to = *from;
}

/* starts of what rank 0 gets from each (its own view), or of what this rank gives to each. */
static void fill_starts(const struct ka_optim *o, const struct request *q, size_t size, int64_t *in,
                        int64_t *out) {
  int n = o->model->shards.n, rank = o->model->shards.rank;
  int64_t from, to;
  in[0] = out[0] = 0;
  for (int r = 0; r < n; r++) {
    own_of(o, q, r, &from, &to);
    out[r + 1] = out[r] + (rank == 0 ? (to - from) * (int64_t)size : 0);
    own_of(o, q, rank, &from, &to);
    in[r + 1] = (to - from) * (int64_t)size;
  }
}

static ka_status answer(const struct ka_optim *o, const struct request *q, void *to) {
  struct ka_ctx *ctx = o->ctx;
  struct ka_optim_slice slice = o->slices[q->slice];
  struct ka_tensor *t = ka_optim_part(&slice, (int)q->part);
  int n = o->model->shards.n;
  size_t size = ka_dtype_bytes(t->dtype);
  int64_t from, end, begin = ka_model_shard_start(o->model, q->slice, o->model->shards.rank);
  void *memory;
  own_of(o, q, o->model->shards.rank, &from, &end);
  size_t n_bytes = (size_t)(end - from) * size;
  KA_TRY(ka_alloc(ctx, &memory, n_bytes + 2 * (size_t)(n + 1) * sizeof(int64_t), "ranks"));
  int64_t *in = memory, *out = in + n + 1;
  char *own = (char *)(out + n + 1);
  fill_starts(o, q, size, in, out);
  ka_status st = read_elems(o->model->dev, *t, from - begin, end - from, own);
  if (ka_ok(st))
    st = ka_dist_all_to_all(ctx->dist, q->part == 0 ? "masters" : "moments", to ? to : own, out,
                            own, in);
  KA_TRY_KEEP(ka_dist_wait(ctx->dist));
  ka_free(memory);
  return st;
}

/* The others wait for it as long as rank 0 lives: it may be writing. */
static ka_status tell(struct ka_ctx *ctx, struct request *q) {
  KA_TRY(ka_dist_barrier(ctx->dist, "what is written"));
  KA_TRY(ka_dist_broadcast(ctx->dist, "what is written", q, sizeof *q, 0));
  return ka_dist_wait(ctx->dist);
}

ka_status ka_optim_fetch(const struct ka_optim *o, int64_t i, int part, int64_t first, int64_t n,
                         void *to) {
  struct ka_ctx *ctx = o->ctx;
  struct request q = {i, part, first, n};
  struct ka_optim_slice slice = o->slices[i];
  if (o->model->shards.n < 2)
    return read_elems(o->model->dev, *ka_optim_part(&slice, part), first, n, to);
  KA_TRY(tell(ctx, &q));
  return answer(o, &q, to);
}

ka_status ka_optim_read(void *reader, int64_t first, int64_t n, void *to) {
  const struct ka_optim_reader *r = reader;
  return ka_optim_fetch(r->optim, r->i, r->part, first, n, to);
}

static ka_status ask(struct ka_model *m, int64_t layer, int which) {
  struct request q = {A_LAYER, which, layer, 0};
  return tell(m->ctx, &q);
}

void ka_optim_ask_layers(struct ka_optim *o) {
  if (o->model->shards.weights) o->model->shards.ask = ask;
}

ka_status ka_optim_serve(const struct ka_optim *o) {
  struct ka_ctx *ctx = o->ctx;
  struct request q = {.slice = NO_MORE};
  if (o->model->shards.n < 2) return KA_STATUS_OK;
  do {
    KA_TRY(tell(ctx, &q));
    if (q.slice >= 0) KA_TRY(answer(o, &q, NULL));
    if (q.slice == A_LAYER) KA_TRY(ka_model_gather_layer(o->model, q.first, (int)q.part));
  } while (q.slice != NO_MORE && o->model->shards.rank > 0);
  o->model->shards.ask = NULL;
  return KA_STATUS_OK;
}
