/* SPDX-License-Identifier: Apache-2.0
 * Weights in the compute dtype, packed for matmul where the back end gains by it, and gradients of
 * the trained slices. A frozen weight that needs neither conversion nor packing is the file's map.
 */
#include "engine/model/plan.h"

struct ka_param *ka_param_of(const struct ka_model *m, enum ka_role role, int layer) {
  return m->by_role[(layer + 1) * (int)KA_N_ROLES + (int)role];
}

struct ka_param *ka_base_param_of(const struct ka_model *m, enum ka_role role, int layer) {
  return m->buffers->base_by_role[(layer + 1) * (int)KA_N_ROLES + (int)role];
}

enum ka_role ka_head_role(const struct ka_model *m) {
  return m->recipe.tied ? KA_ROLE_EMBED : KA_ROLE_HEAD;
}

struct ka_param *ka_head_param(const struct ka_model *m) {
  return ka_param_of(m, ka_head_role(m), -1);
}

static bool is_head(const struct ka_model *m, const struct ka_param *p) {
  return p->role == ka_head_role(m);
}

/* Which products with the weight a step makes. */
static bool multiplied(const struct ka_model *m, const struct ka_param *p) {
  bool vector = p->stored.n_dim < 2;
  return !vector && (p->layer >= 0 || is_head(m, p));
}

static bool input_gradient(const struct ka_model *m, const struct ka_param *p) {
  const struct ka_model_buffers *b = m->buffers;
  if (is_head(m, p)) return b->need_head_input;
  if (p->layer < 0) return false;
  const struct ka_layer_needs *n = &b->layers[p->layer].needs;
  switch (p->role) {
  case KA_ROLE_Q:
  case KA_ROLE_K:
  case KA_ROLE_V:
    return n->attn_norm;
  case KA_ROLE_O:
    return n->qkv;
  case KA_ROLE_GATE:
  case KA_ROLE_UP:
    return n->ffn_norm;
  default:
    return n->gate_up;
  }
}

static struct ka_pack_args pack_args(const struct ka_model *m, const struct ka_param *p,
                                     bool trans_b) {
  const struct ka_model_buffers *b = m->buffers;
  return (struct ka_pack_args){.packed = trans_b ? p->packed : p->packed_t,
                               .b = p->weight,
                               .trans_b = trans_b,
                               .m = is_head(m, p) ? b->chunk_rows : b->B * b->T};
}

/* Frozen weights are packed once, and the trained head for its input gradient, whose sum over the
 * vocabulary gains most, after each step: its chunks share the work. Trained weights of a block are
 * packed on the way, see ka_weight_packed; keeping them would take twice their memory again. */
static ka_status plan_pack(struct ka_model *m, const struct ka_param *p, bool trans_b,
                           struct ka_tensor *out) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_pack_args args = pack_args(m, p, trans_b);
  bool head = is_head(m, p);
  *out = (struct ka_tensor){0};
  size_t n_bytes = ka_pack_bytes(m->dev, &args);
  if (n_bytes == 0 || (p->trained && head && trans_b)) return KA_STATUS_OK;
  if (p->trained && !head) {
    if (n_bytes > m->buffers->pack_bytes) m->buffers->pack_bytes = n_bytes;
    return KA_STATUS_OK;
  }
  KA_TRY(ka_tensor_alloc(&m->run, out, "packed weights", KA_U8, 1, (int64_t[]){(int64_t)n_bytes}));
  return KA_STATUS_OK;
}

/* Rows from which packing a weight for a single product pays. */
enum { PACK_ROWS = 1024 };

ka_status ka_weight_packed(struct ka_model *m, const struct ka_param *p, bool trans_b, int64_t rows,
                           struct ka_tensor *out) {
  struct ka_ctx *ctx = m->ctx;
  *out = trans_b ? p->packed : p->packed_t;
  bool on_the_way = p->trained && !is_head(m, p) && rows >= PACK_ROWS;
  if (out->data || !on_the_way || !m->buffers->pack_scratch) return KA_STATUS_OK;
  struct ka_pack_args args = pack_args(m, p, trans_b);
  size_t n_bytes = ka_pack_bytes(m->dev, &args);
  if (n_bytes == 0) return KA_STATUS_OK;
  args.packed = *out = ka_tensor_1d(m->buffers->pack_scratch, KA_U8, (int64_t)n_bytes);
  KA_TRY(ka_pack(m->dev, &args));
  return KA_STATUS_OK;
}

static bool aligned(const struct ka_tensor *t) {
  return (uintptr_t)t->data % ka_dtype_bytes(t->dtype) == 0;
}

static bool in_place(const struct ka_model *m, const struct ka_param *p) {
  return !p->trained && p->stored.dtype == m->compute && aligned(&p->stored) &&
         !m->dev->backend->separate;
}

static ka_status plan_weight(struct ka_model *m, struct ka_param *p, const char *name) {
  struct ka_ctx *ctx = m->ctx;
  p->weight = p->stored;
  if (!in_place(m, p))
    KA_TRY(
        ka_tensor_alloc(&m->run, &p->weight, name, m->compute, p->stored.n_dim, p->stored.shape));
  p->packed = p->packed_t = (struct ka_tensor){0};
  return multiplied(m, p) ? plan_pack(m, p, true, &p->packed) : KA_STATUS_OK;
}

ka_status ka_weights_plan(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  b->pack_bytes = 0;
  for (int64_t i = 0; i < m->n_params; i++) {
    struct ka_param *p = &m->params[i];
    KA_TRY(plan_weight(m, p, "weights"));
    if (multiplied(m, p) && input_gradient(m, p)) KA_TRY(plan_pack(m, p, false, &p->packed_t));
  }
  for (int64_t i = 0; i < b->n_base; i++) KA_TRY(plan_weight(m, &b->base[i], "base weights"));
  b->pack_scratch = NULL;
  if (b->pack_bytes > 0 && b->B * b->T >= PACK_ROWS)
    KA_TRY(ka_arena_alloc(&m->run, &b->pack_scratch, b->pack_bytes, "packed weights"));
  for (int64_t i = 0; i < m->n_slices; i++) {
    struct ka_slice *s = &m->slices[i];
    struct ka_tensor w = ka_tensor_as_matrix(m->params[s->param].weight);
    s->weight = ka_tensor_slice(w, s->row, s->n_rows, s->col, s->n_cols);
    KA_TRY(ka_tensor_alloc(&m->run, &s->grad, "gradients", ka_wide(m), 2,
                           (int64_t[]){s->n_rows, s->n_cols}));
  }
  return KA_STATUS_OK;
}

static ka_status pack(struct ka_model *m, const struct ka_param *p) {
  struct ka_ctx *ctx = m->ctx;
  for (int trans_b = 0; trans_b < 2; trans_b++) {
    struct ka_pack_args args = pack_args(m, p, trans_b);
    if (args.packed.data) KA_TRY(ka_pack(m->dev, &args));
  }
  return KA_STATUS_OK;
}

/* No pass reads the file's own bytes again: copied, or packed for every product. Reading them later
 * stays possible. */
static void forget_stored(const struct ka_model *m, const struct ka_safetensors *files,
                          const struct ka_param *p, bool backward) {
  bool packed = p->packed.data && (p->packed_t.data || !backward || !input_gradient(m, p));
  if (in_place(m, p) && (!packed || p->role == KA_ROLE_EMBED)) return;
  const struct ka_st_entry *e = ka_st_find(files, p->name);
  ka_map_forget(&files->shards[e->shard].map, e->offset_bytes, ka_tensor_bytes(&p->stored));
}

static ka_status fill_weight(struct ka_model *m, const struct ka_safetensors *files,
                             struct ka_param *p, bool backward) {
  struct ka_ctx *ctx = m->ctx;
  if (!in_place(m, p)) KA_TRY(ka_dev_put(m->dev, p->weight, p->stored));
  KA_TRY(pack(m, p));
  forget_stored(m, files, p, backward);
  return KA_STATUS_OK;
}

ka_status ka_weights_fill(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  const struct ka_model_buffers *b = m->buffers;
  const struct ka_safetensors *base = m->base_files.n_shards > 0 ? &m->base_files : &m->files;
  for (int64_t i = 0; i < m->n_params; i++) KA_TRY(fill_weight(m, &m->files, &m->params[i], true));
  for (int64_t i = 0; i < b->n_base; i++) KA_TRY(fill_weight(m, base, &b->base[i], false));
  KA_TRY(ka_dev_sync(m->dev));
  return ka_model_zero_grad(m);
}

ka_status ka_model_weights_changed(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  for (int64_t i = 0; i < m->n_params; i++)
    if (m->params[i].trained) KA_TRY(pack(m, &m->params[i]));
  return KA_STATUS_OK;
}

ka_status ka_model_zero_grad(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  for (int64_t i = 0; i < m->n_slices; i++)
    KA_TRY(ka_fill(m->dev, &(struct ka_fill_args){.x = m->slices[i].grad}));
  return ka_fill(m->dev, &(struct ka_fill_args){.x = m->health});
}
