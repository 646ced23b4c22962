/* SPDX-License-Identifier: Apache-2.0
 * Where a layer's weights come from, see weights.h: the model's own or the base's; a frozen weight
 * that needs neither conversion nor packing is the file's map, others lie in the compute dtype,
 * packed for matmul where the back end gains by it. Trained slices have a gradient. */
#include "engine/model/projector_parts.h"

#include <string.h>

bool ka_any_trained(const struct ka_weight *const *list, int n) {
  for (int i = 0; i < n; i++)
    if (ka_weight_trained(list[i])) return true;
  return false;
}

static enum ka_role head_role(const struct ka_model *m) {
  return m->recipe.without[KA_ROLE_HEAD] ? KA_ROLE_EMBED : KA_ROLE_HEAD;
}

/* --- borrowing -------------------------------------------------------------------------------- */

ka_status ka_weights_acquire(struct ka_model *m, int64_t layer, enum ka_which which,
                             struct ka_layer_weights *out) {
  *out = m->weights->layers[which][layer];
  return m->shards.weights ? ka_shards_acquire(m, layer, which) : KA_STATUS_OK;
}

void ka_weights_release(struct ka_model *m, struct ka_layer_weights *w) {
  (void)m; /* all of them are resident, or stay until another layer takes their place */
  *w = (struct ka_layer_weights){0};
}

const struct ka_outer_weights *ka_weights_outer(const struct ka_model *m, enum ka_which which) {
  return &m->weights->outer[which];
}

/* --- packing ---------------------------------------------------------------------------------- */

/* Which products with the weight a step makes. */
static bool multiplied(const struct ka_model *m, const struct ka_weight *w) {
  if (ka_role_info(w->role)->scope == KA_SCOPE_EXPERT) return false; /* grouped products */
  return w->param->stored.n_dim > 1 && (w->layer >= 0 || w->role == head_role(m));
}

static bool input_gradient(const struct ka_model *m, const struct ka_weight *w) {
  const struct ka_stack *s = m->stacks;
  if (w->layer < 0) return w->role == head_role(m) && m->buffers->need_head_input;
  for (int i = 0; i < KA_BRANCHES; i++) {
    const struct ka_branch_kind *kind = s->recipe->layers[w->layer].branch[i];
    for (const enum ka_role *r = kind->roles; *r != KA_N_ROLES; r++)
      if (*r == w->role) return kind->input_gradient(&s->layers[w->layer].branch[i].needs, *r);
  }
  return false;
}

static struct ka_pack_args pack_args(const struct ka_model *m, const struct ka_weight *w,
                                     bool forward) {
  const struct ka_model_buffers *b = m->buffers;
  return (struct ka_pack_args){.packed = forward ? w->packed : w->packed_t,
                               .b = w->w,
                               .trans_b = forward != w->transposed,
                               .m = w->layer < 0 ? b->chunk_rows : b->B * b->T};
}

/* Bytes of the packed weight, 0: not worth it, or the weight is a part that packing cannot read. */
static size_t packed_bytes(const struct ka_model *m, const struct ka_pack_args *args) {
  return ka_tensor_contiguous(&args->b) ? ka_pack_bytes(m->dev, args) : 0;
}

/* Packed copies of frozen weights, in all. A product of 256 rows or more gains 2 to 6 % by them
 * (SmolLM2-135M, 512 tokens a step: 7 %, for 497 MiB beside a file of 257), so they are worth
 * memory in proportion; a small model gets all of them. */
static size_t pack_bound(const struct ka_model *m) {
  enum { LEAST = 80 << 20, PART = 8 };
  size_t n_bytes = 0;
  for (int64_t i = 0; i < m->n_params; i++) n_bytes += ka_tensor_bytes(&m->params[i].weight);
  if (m->few_rows) return 0;
  return n_bytes / PART > LEAST ? n_bytes / PART : LEAST;
}

/* Frozen weights are packed once, and the trained head for its input gradient, whose sum over the
 * vocabulary gains most, after each step: its chunks share the work. Trained weights of a block are
 * packed on the way, see ka_weight_packed; keeping them would take twice their memory again. */
static ka_status plan_pack(struct ka_model *m, const struct ka_weight *w, bool forward,
                           struct ka_tensor *out) {
  struct ka_pack_args args = pack_args(m, w, forward);
  bool head = w->layer < 0, trained = w->param->trained || w->param->split;
  *out = (struct ka_tensor){0};
  size_t n_bytes = packed_bytes(m, &args);
  if (n_bytes == 0 || (trained && head && forward)) return KA_STATUS_OK;
  if (trained && !head) {
    if (n_bytes > m->weights->pack_bytes) m->weights->pack_bytes = n_bytes;
    return KA_STATUS_OK;
  }
  if (!trained && n_bytes > m->weights->pack_left) return KA_STATUS_OK;
  if (!trained) m->weights->pack_left -= n_bytes;
  return ka_tensor_alloc(&m->run, out, "packed weights", KA_U8, 1, (int64_t[]){(int64_t)n_bytes});
}

/* Rows from which packing a weight for a single product pays. */
enum { PACK_ROWS = 1024 };

ka_status ka_weight_packed(struct ka_model *m, const struct ka_weight *w, bool forward,
                           int64_t rows, struct ka_tensor *out) {
  struct ka_ctx *ctx = m->ctx;
  *out = forward ? w->packed : w->packed_t;
  bool on_the_way = (w->param->trained || w->param->split) && w->layer >= 0 && rows >= PACK_ROWS;
  if (out->data || !on_the_way || !m->weights->pack_scratch) return KA_STATUS_OK;
  struct ka_pack_args args = pack_args(m, w, forward);
  size_t n_bytes = packed_bytes(m, &args);
  if (n_bytes == 0) return KA_STATUS_OK;
  args.packed = *out = ka_tensor_1d(m->weights->pack_scratch, KA_U8, (int64_t)n_bytes);
  KA_TRY(ka_pack(m->dev, &args));
  return KA_STATUS_OK;
}

static ka_status pack(struct ka_model *m, const struct ka_weight *w) {
  struct ka_ctx *ctx = m->ctx;
  for (int forward = 0; forward < 2; forward++) {
    struct ka_pack_args args = pack_args(m, w, forward);
    if (args.packed.data) KA_TRY(ka_pack(m->dev, &args));
  }
  return KA_STATUS_OK;
}

/* --- memory ----------------------------------------------------------------------------------- */

/* The dtype that the passes read: a bias that settles close choices keeps its digits. */
static enum ka_dtype read_as(const struct ka_model *m, const struct ka_param *p) {
  return p->role == KA_ROLE_ROUTER_CHOICE ? ka_accum_dtype(m) : m->compute;
}

static bool in_place(const struct ka_model *m, const struct ka_param *p) {
  bool aligned = (uintptr_t)p->stored.data % ka_dtype_bytes(p->stored.dtype) == 0;
  return !p->trained && p->stored.dtype == read_as(m, p) && aligned && !ka_dev_own_memory(m->dev);
}

static ka_status plan_param(struct ka_model *m, struct ka_param *p, const char *name) {
  p->weight = p->stored;
  p->split = false;
  if (in_place(m, p)) return KA_STATUS_OK;
  p->split = m->shards.weights && p->layer >= 0;
  if (p->split) return ka_shards_plan_param(m, p, read_as(m, p), name);
  return ka_tensor_alloc(&m->run, &p->weight, name, read_as(m, p), p->stored.n_dim,
                         p->stored.shape);
}

/* The weight's view of its tensor in the compute dtype. */
static struct ka_tensor view(const struct ka_weight *w) {
  struct ka_tensor t = w->param->weight;
  int64_t rest = t.shape[t.n_dim - 1];
  if (t.n_dim == 3) {
    size_t at = (size_t)(w->expert * t.shape[1] * rest) * ka_dtype_bytes(t.dtype);
    t = ka_tensor_2d(t.data ? (char *)t.data + at : NULL, t.dtype, t.shape[1], rest);
  }
  struct ka_tensor part =
      ka_tensor_slice(ka_tensor_as_matrix(t), w->row, w->n_rows, w->col, w->n_cols);
  return t.n_dim == 1 ? ka_tensor_1d(part.data, part.dtype, w->n_cols) : part;
}

static ka_status plan_weight(struct ka_model *m, struct ka_weight *w, bool backward) {
  struct ka_ctx *ctx = m->ctx;
  w->w = view(w);
  w->packed = w->packed_t = (struct ka_tensor){0};
  if (!multiplied(m, w)) return KA_STATUS_OK;
  KA_TRY(plan_pack(m, w, true, &w->packed));
  return backward && input_gradient(m, w) ? plan_pack(m, w, false, &w->packed_t) : KA_STATUS_OK;
}

/* The slice's gradient as the weight's own tensor lies: of an expert its matrix. */
static struct ka_tensor grad_view(const struct ka_weight *w, const struct ka_slice *s,
                                  const struct ka_piece *p) {
  const struct ka_tensor *t = &w->param->stored;
  struct ka_tensor g = s->grad;
  int64_t row = s->row, col = s->col;
  if (t->n_dim == 3) { /* rows are experts, each [d1, d2] in a row */
    int64_t d2 = t->shape[2], width = s->n_cols % d2 == 0 ? d2 : s->n_cols;
    size_t at = (size_t)((w->expert - s->row) * s->n_cols) * ka_dtype_bytes(g.dtype);
    g = ka_tensor_2d(g.data ? (char *)g.data + at : NULL, g.dtype, s->n_cols / width, width);
    row = s->col / d2;
    col = s->col % d2;
  }
  return ka_tensor_slice(g, w->row + p->row - row, p->n_rows, w->col + p->col - col, p->n_cols);
}

static ka_status plan_slices(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  KA_TRY(ka_shards_plan_slices(m));
  for (int64_t i = 0; i < m->weights->n; i++) {
    struct ka_weight *w = &m->weights->all[KA_TUNED][i];
    for (int64_t k = 0; k < w->n_pieces; k++)
      w->pieces[k].grad = grad_view(w, &m->slices[w->pieces[k].slice], &w->pieces[k]);
  }
  return KA_STATUS_OK;
}

ka_status ka_weights_plan(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_weights *ws = m->weights;
  struct ka_model_buffers *b = m->buffers;
  ws->pack_bytes = 0;
  memset(ws->slots.used, 0, (size_t)m->recipe.L * sizeof *ws->slots.used);
  int64_t n_params = m->n_params + ka_projector_n_params(m);
  for (int64_t i = 0; i < n_params; i++) KA_TRY(plan_param(m, &m->params[i], "weights"));
  for (int64_t i = 0; i < ws->n_base; i++) KA_TRY(plan_param(m, &ws->base[i], "base weights"));
  KA_TRY(ka_shards_place_weights(m));
  ws->pack_left = pack_bound(m);
  for (int which = 0; which < KA_N_WHICH; which++)
    for (int64_t i = 0; i < ws->n; i++)
      if (which == KA_TUNED || ws->all[which][i].param)
        KA_TRY(plan_weight(m, &ws->all[which][i], which == KA_TUNED));
  ws->pack_scratch = NULL;
  if (ws->pack_bytes > 0 && b->B * b->T >= PACK_ROWS)
    KA_TRY(ka_arena_alloc(&m->run, &ws->pack_scratch, ws->pack_bytes, "packed weights"));
  return plan_slices(m);
}

/* No pass reads the file's own bytes again: copied, or packed for every product. Reading them later
 * stays possible. */
static void forget_stored(const struct ka_model *m, const struct ka_safetensors *files,
                          const struct ka_param *p, bool packed) {
  if (in_place(m, p) && (!packed || p->role == KA_ROLE_EMBED)) return;
  const struct ka_st_entry *e = ka_st_find(files, p->name);
  ka_map_forget(&files->shards[e->shard].map, e->offset_bytes, ka_tensor_bytes(&p->stored));
}

/* From the files, and packed. */
static ka_status fill_params(struct ka_model *m, const struct ka_safetensors *files,
                             struct ka_param *params, int64_t n, enum ka_which which) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_weight *w = m->weights->all[which], *end = w + m->weights->n;
  for (int64_t i = 0; i < n; i++) {
    struct ka_param *p = &params[i];
    bool packed = true;
    if (p->split)
      KA_TRY(ka_shards_fill_param(m, p));
    else if (!in_place(m, p))
      KA_TRY(ka_dev_put(m->dev, p->weight, p->stored));
    for (; w < end && (!w->param || w->param <= p); w++) {
      if (!w->param) continue;
      KA_TRY(pack(m, w));
      packed = packed && w->packed.data &&
               (w->packed_t.data || which == KA_BASE || !input_gradient(m, w));
    }
    forget_stored(m, files, p, packed);
  }
  return KA_STATUS_OK;
}

ka_status ka_weights_fill(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  const struct ka_weights *ws = m->weights;
  const struct ka_safetensors *base = m->base_files.n_shards > 0 ? &m->base_files : &m->files;
  KA_TRY(fill_params(m, &m->files, m->params, m->n_params, KA_TUNED));
  KA_TRY(fill_params(m, base, ws->base, ws->n_base, KA_BASE));
  for (int64_t i = 0; i < ka_projector_n_params(m); i++) {
    struct ka_param *p = &m->params[m->n_params + i];
    if (!in_place(m, p)) KA_TRY(ka_dev_put(m->dev, p->weight, p->stored));
  }
  KA_TRY(ka_shards_fill_slices(m));
  KA_TRY(ka_dev_sync(m->dev));
  return ka_model_zero_grad(m);
}

ka_status ka_model_weights_changed(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  m->weights->slots.layer[0] = m->weights->slots.layer[1] = -1;
  for (int64_t i = 0; i < m->weights->n; i++)
    if (m->weights->all[KA_TUNED][i].param->trained) KA_TRY(pack(m, &m->weights->all[KA_TUNED][i]));
  return KA_STATUS_OK;
}

ka_status ka_model_zero_grad(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  for (int64_t i = 0; i < m->n_slices; i++) {
    KA_TRY(ka_fill(m->dev, &(struct ka_fill_args){.x = m->slices[i].grad}));
    if (m->params[m->slices[i].param].split)
      KA_TRY(ka_fill(m->dev, &(struct ka_fill_args){.x = m->slices[i].part_grad}));
  }
  return ka_fill(m->dev, &(struct ka_fill_args){.x = m->step_stats});
}
