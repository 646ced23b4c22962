/* SPDX-License-Identifier: Apache-2.0
 * What ranks split. A trained slice: evenly, by elements where it is one run of memory, else by
 * rows; its part is what the optimizer knows. With shards.weights also the weights of the layers:
 * each rank has an even run of a tensor's elements, and a layer is gathered where it is borrowed,
 * into the memory of every second one, while the layer before it is at work.
 *
 * Invariant: what is gathered when depends on the passes alone, so all ranks that make the same
 * passes make the same collectives. */
#include "engine/model/buffers.h"

#include "engine/dist/dist.h"

enum { APART = 64 }; /* bytes to which gathered tensors are aligned */

static int64_t share(int64_t n, int r, int n_ranks) {
  return n / n_ranks * r + n % n_ranks * r / n_ranks;
}

static int n_ranks_of(const struct ka_model *m) { return m->shards.n < 1 ? 1 : m->shards.n; }

/* Elements [*first, *end) of n that this rank has. */
static void own_of(const struct ka_model *m, int64_t n, int64_t *first, int64_t *end) {
  *first = share(n, m->shards.rank, n_ranks_of(m));
  *end = share(n, m->shards.rank + 1, n_ranks_of(m));
}

/* Elements [first, end) of a contiguous tensor, as [1, n]. */
static struct ka_tensor run_of(struct ka_tensor t, int64_t first, int64_t end) {
  char *at = t.data ? (char *)t.data + (size_t)first * ka_dtype_bytes(t.dtype) : NULL;
  return ka_tensor_2d(at, t.dtype, 1, end - first);
}

/* --- slices ----------------------------------------------------------------------------------- */

/* The slice's rows lie behind one another in its tensor. */
static bool is_run(const struct ka_model *m, const struct ka_slice *s) {
  struct ka_tensor whole = ka_tensor_as_matrix(m->params[s->param].stored);
  return s->n_rows == 1 || s->n_cols == whole.shape[1];
}

struct ka_tensor ka_model_slice_view(const struct ka_slice *s, struct ka_tensor whole) {
  return ka_tensor_slice(ka_tensor_as_matrix(whole), s->row, s->n_rows, s->col, s->n_cols);
}

bool ka_model_slice_is_whole(const struct ka_model *m, const struct ka_slice *s) {
  return s->n_rows * s->n_cols == ka_tensor_elems(&m->params[s->param].stored);
}

int64_t ka_model_shard_start(const struct ka_model *m, int64_t i, int r) {
  const struct ka_slice *s = &m->slices[i];
  int n = n_ranks_of(m);
  if (is_run(m, s)) return share(s->n_rows * s->n_cols, r, n);
  return share(s->n_rows, r, n) * s->n_cols;
}

struct ka_tensor ka_model_shard_view(const struct ka_model *m, int64_t i, struct ka_tensor whole) {
  const struct ka_slice *s = &m->slices[i];
  if (m->shards.n < 2) return whole;
  int64_t first = ka_model_shard_start(m, i, m->shards.rank);
  int64_t end = ka_model_shard_start(m, i, m->shards.rank + 1);
  if (is_run(m, s)) return run_of(whole, first, end);
  return ka_tensor_slice(whole, first / s->n_cols, (end - first) / s->n_cols, 0, s->n_cols);
}

/* --- memory ----------------------------------------------------------------------------------- */

/* The next place among a layer's, of n_bytes. */
static size_t place(struct ka_model *m, int layer, size_t n_bytes) {
  size_t *used = &m->weights->slots.used[layer], at = *used;
  *used += (n_bytes + APART - 1) / APART * APART;
  return at;
}

/* Memory for the largest layer, twice; then nothing is used again. */
static ka_status take_slots(struct ka_model *m, char *slots[2], const char *name) {
  struct ka_ctx *ctx = m->ctx;
  size_t *used = m->weights->slots.used, most = 0;
  for (int64_t l = 0; l < m->recipe.L; l++) {
    if (used[l] > most) most = used[l];
    used[l] = 0;
  }
  for (int k = 0; k < 2 && most > 0; k++) {
    void *memory;
    KA_TRY(ka_arena_alloc(&m->run, &memory, most, name));
    slots[k] = memory;
  }
  return KA_STATUS_OK;
}

ka_status ka_shards_plan_param(struct ka_model *m, struct ka_param *p, enum ka_dtype dtype,
                               const char *name) {
  int64_t first, end;
  p->weight.dtype = dtype;
  p->weight.data = NULL;
  p->weight.row_stride = p->weight.n_dim > 0 ? p->weight.shape[p->weight.n_dim - 1] : 1;
  p->layer_offset = place(m, p->layer, ka_tensor_bytes(&p->weight));
  own_of(m, ka_tensor_elems(&p->stored), &first, &end);
  return ka_tensor_alloc(&m->run, &p->part, name, dtype, 2, (int64_t[]){1, end - first});
}

ka_status ka_shards_place_weights(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_weights *ws = m->weights;
  struct ka_layer_slots *slots = &ws->slots;
  slots->layer[0] = slots->layer[1] = slots->last = -1;
  KA_TRY(take_slots(m, slots->weights, "weights of two layers"));
  for (int64_t i = 0; i < m->n_params + ws->n_base; i++) {
    struct ka_param *p = i < m->n_params ? &m->params[i] : &ws->base[i - m->n_params];
    char *slot = p->split ? slots->weights[p->layer % 2] : NULL;
    if (slot) p->weight.data = slot + p->layer_offset;
  }
  return KA_STATUS_OK;
}

/* The gradient of a split slice lies in its layer's slot, its sum in memory of its own. */
static ka_status plan_split_slice(struct ka_model *m, int64_t i) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_slice *s = &m->slices[i];
  const struct ka_param *p = &m->params[s->param];
  char *slot = m->weights->slots.grads[p->layer % 2];
  size_t at = place(m, p->layer, ka_tensor_bytes(&s->grad));
  if (slot) s->grad.data = slot + at;
  struct ka_tensor part = ka_model_shard_view(m, i, s->grad);
  KA_TRY(ka_tensor_alloc(&m->run, &s->part_grad, "gradients", s->grad.dtype, 2, part.shape));
  s->part_weight = p->part;
  if (ka_model_slice_is_whole(m, s)) return KA_STATUS_OK;
  return ka_tensor_alloc(&m->run, &s->part_weight, "weights", s->weight.dtype, 2, part.shape);
}

ka_status ka_shards_plan_slices(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  for (int64_t i = 0; i < m->n_slices; i++) {
    struct ka_slice *s = &m->slices[i];
    const struct ka_param *p = &m->params[s->param];
    s->weight = ka_model_slice_view(s, p->weight);
    s->grad = ka_tensor_2d(NULL, ka_accum_dtype(m), s->n_rows, s->n_cols);
    if (p->split) (void)place(m, p->layer, ka_tensor_bytes(&s->grad));
  }
  KA_TRY(take_slots(m, m->weights->slots.grads, "gradients of two layers"));
  for (int64_t i = 0; i < m->n_slices; i++) {
    struct ka_slice *s = &m->slices[i];
    if (m->params[s->param].split) {
      KA_TRY(plan_split_slice(m, i));
      continue;
    }
    KA_TRY(ka_tensor_alloc(&m->run, &s->grad, "gradients", s->grad.dtype, 2, s->grad.shape));
    s->part_grad = ka_model_shard_view(m, i, s->grad);
    s->part_weight = ka_model_shard_view(m, i, s->weight);
  }
  return KA_STATUS_OK;
}

ka_status ka_shards_fill_param(struct ka_model *m, struct ka_param *p) {
  int64_t first, end;
  own_of(m, ka_tensor_elems(&p->stored), &first, &end);
  return ka_dev_put(m->dev, p->part, run_of(p->stored, first, end));
}

ka_status ka_shards_fill_slices(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  for (int64_t i = 0; i < m->n_slices; i++) {
    const struct ka_slice *s = &m->slices[i];
    const struct ka_param *p = &m->params[s->param];
    if (!p->split || ka_model_slice_is_whole(m, s)) continue;
    struct ka_tensor stored = ka_model_slice_view(s, p->stored);
    KA_TRY(ka_dev_put(m->dev, s->part_weight, ka_model_shard_view(m, i, stored)));
  }
  return KA_STATUS_OK;
}

/* --- gathering -------------------------------------------------------------------------------- */

static ka_status start_param(struct ka_model *m, struct ka_param *p) {
  struct ka_ctx *ctx = m->ctx;
  int64_t n = ka_tensor_elems(&p->weight), first, end;
  void *memory;
  own_of(m, n, &first, &end);
  KA_TRY(
      ka_copy(m->dev, &(struct ka_copy_args){.out = run_of(p->weight, first, end), .in = p->part}));
  KA_TRY(ka_alloc_n(ctx, &memory, m->shards.n + 1, sizeof(int64_t), "ranks"));
  int64_t *starts = memory, size = (int64_t)ka_dtype_bytes(p->weight.dtype);
  for (int r = 0; r <= m->shards.n; r++) starts[r] = share(n, r, m->shards.n) * size;
  ka_status st = ka_dist_all_gather(ctx->dist, p->name, p->weight.data, starts);
  ka_free(memory);
  return st;
}

static ka_status wait(struct ka_model *m) {
  if (!m->weights->slots.pending) return KA_STATUS_OK;
  m->weights->slots.pending = false;
  return ka_dist_wait(m->ctx->dist);
}

/* Puts a layer on its way into its slot, unless it is there. */
static ka_status start_layer(struct ka_model *m, int64_t layer, enum ka_which which) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_weights *ws = m->weights;
  struct ka_layer_slots *slots = &ws->slots;
  int k = (int)(layer % 2);
  if (slots->layer[k] == layer && slots->which[k] == which) return KA_STATUS_OK;
  KA_TRY(wait(m)); /* nothing is on its way into the slot that is written now */
  if (m->shards.ask) KA_TRY(m->shards.ask(m, layer, which));
  for (int64_t i = 0; i < m->n_params; i++) {
    struct ka_param *p = &m->params[i];
    bool other = which == KA_BASE && ka_model_reads_base(m) && (p->trained || p->moved);
    if (p->split && p->layer == layer && !other) KA_TRY(start_param(m, p));
  }
  for (int64_t i = 0; i < ws->n_base && which == KA_BASE; i++)
    if (ws->base[i].split && ws->base[i].layer == layer) KA_TRY(start_param(m, &ws->base[i]));
  slots->layer[k] = layer;
  slots->which[k] = which;
  slots->pending = true;
  return KA_STATUS_OK;
}

/* The layer that will be borrowed next, -1: nobody knows. Upwards, but for the way back, which
 * turns round at the top. */
static int64_t next_of(const struct ka_model *m, int64_t layer, enum ka_which which) {
  const struct ka_layer_slots *slots = &m->weights->slots;
  bool same = slots->last_which == which;
  bool down = same && (slots->last == layer || slots->last == layer + 1);
  int64_t next = down ? layer - 1 : layer + 1;
  return next < m->recipe.L && !(down && next < m->lowest_trained_layer) ? next : -1;
}

ka_status ka_shards_acquire(struct ka_model *m, int64_t layer, enum ka_which which) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_layer_slots *slots = &m->weights->slots;
  int64_t next = next_of(m, layer, which);
  slots->last = layer;
  slots->last_which = which;
  KA_TRY(start_layer(m, layer, which));
  KA_TRY(wait(m));
  return next >= 0 && !m->shards.ask ? start_layer(m, next, which) : KA_STATUS_OK;
}

ka_status ka_model_gather_layer(struct ka_model *m, int64_t layer, int which) {
  struct ka_ctx *ctx = m->ctx;
  m->weights->slots.layer[layer % 2] = -1;
  KA_TRY(start_layer(m, layer, (enum ka_which)which));
  return wait(m);
}

/* --- what is trained -------------------------------------------------------------------------- */

ka_status ka_model_keep_part(struct ka_model *m, int64_t i, struct ka_tensor run) {
  struct ka_ctx *ctx = m->ctx;
  const struct ka_slice *s = &m->slices[i];
  const struct ka_param *p = &m->params[s->param];
  int64_t width = ka_tensor_as_matrix(p->stored).shape[1], first, end;
  own_of(m, ka_tensor_elems(&p->stored), &first, &end);
  for (int64_t r = 0; r < s->n_rows; r++) {
    int64_t begin = (s->row + r) * width + s->col;
    int64_t from = begin > first ? begin : first;
    int64_t to = begin + s->n_cols < end ? begin + s->n_cols : end;
    if (to <= from) continue;
    struct ka_tensor in = run_of(run, r * s->n_cols + from - begin, r * s->n_cols + to - begin);
    KA_TRY(ka_copy(m->dev, &(struct ka_copy_args){.out = run_of(p->part, from - first, to - first),
                                                  .in = in}));
  }
  return KA_STATUS_OK;
}

ka_status ka_model_take_part(struct ka_model *m, int64_t i) {
  struct ka_ctx *ctx = m->ctx;
  const struct ka_slice *s = &m->slices[i];
  struct ka_tensor part = ka_model_shard_view(m, i, s->grad);
  KA_TRY(ka_add(m->dev, &(struct ka_add_args){.out = s->part_grad, .a = s->part_grad, .b = part}));
  return ka_fill(m->dev, &(struct ka_fill_args){.x = s->grad});
}
