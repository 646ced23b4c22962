/* SPDX-License-Identifier: Apache-2.0
 * A batch through the embedding and all blocks, forward, and backward down to the lowest trained
 * layer. */
#include "engine/model/plan.h"

static ka_status copy_out(struct ka_model *m, float *out, void *x, int64_t n) {
  return ka_dev_get(m->dev, ka_tensor_1d(out, KA_F32, n), ka_tensor_1d(x, m->compute, n));
}

/* x [N,C] = the embedding of the batch. */
static ka_status embed_fwd(struct ka_model *m, void *x) {
  const struct ka_model_buffers *b = m->buffers;
  int64_t N = b->batch_B * b->batch_T;
  return ka_embed_fwd(
      m->dev, &(struct ka_embed_fwd_args){.out = ka_mat(m, x, N, m->recipe.C),
                                          .table = ka_param_of(m, KA_ROLE_EMBED, -1)->weight,
                                          .ids = b->ids,
                                          .scale = 1});
}

/* final = s2 + delta: what a block hands on. */
static ka_status block_result(struct ka_model *m, void *s2) {
  struct ka_model_buffers *b = m->buffers;
  int64_t n = b->batch_B * b->batch_T * m->recipe.C;
  return ka_add(m->dev, &(struct ka_add_args){.out = ka_tensor_1d(b->final, m->compute, n),
                                              .a = ka_tensor_1d(s2, m->compute, n),
                                              .b = ka_tensor_1d(b->delta, m->compute, n)});
}

ka_status ka_trunk_fwd(struct ka_model *m, float **hidden, const struct ka_kv *kv) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  int64_t N = b->batch_B * b->batch_T, C = m->recipe.C, L = m->recipe.L;
  void *x = L > 0 ? b->layers[0].acts.s1 : b->final;
  KA_TRY(embed_fwd(m, x));
  if (hidden && hidden[0]) KA_TRY(copy_out(m, hidden[0], x, N * C));
  for (int64_t l = 0; l < L; l++) {
    struct ka_acts acts = b->layers[l].acts;
    if (kv && b->batch_B == 1) { /* new keys and values go straight behind the old ones */
      size_t at = (size_t)(kv[l].past * m->recipe.K * m->recipe.D) * ka_dtype_bytes(m->compute);
      acts.k = (char *)kv[l].k + at;
      acts.v = (char *)kv[l].v + at;
    }
    KA_TRY(ka_block_fwd(m, (int)l, &acts, l > 0 ? b->layers[l - 1].acts.s2 : acts.s1, l > 0,
                        kv ? &kv[l] : NULL));
    bool last = l + 1 == L, wanted = hidden && hidden[l + 1] && !last;
    if (last || wanted) KA_TRY(block_result(m, acts.s2));
    if (wanted) KA_TRY(copy_out(m, hidden[l + 1], b->final, N * C));
  }
  return KA_STATUS_OK;
}

/* From base_layer on, in scratch. */
static ka_status own_blocks_fwd(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  struct ka_acts acts = b->shared;
  bool start = true;
  if (b->base_layer < 0)
    KA_TRY(embed_fwd(m, acts.s1));
  else
    acts.s1 = b->layers[b->base_layer].acts.s1;
  for (int l = b->base_layer < 0 ? 0 : b->base_layer; l < m->recipe.L; l++) {
    KA_TRY(ka_block_fwd(m, l, &acts, start ? acts.s1 : acts.s2, !start, NULL));
    acts.s1 = b->shared.s1;
    start = false;
  }
  return start ? KA_STATUS_OK : block_result(m, acts.s2);
}

ka_status ka_base_fwd(struct ka_model *m) {
  struct ka_param **own = m->by_role;
  m->by_role = m->buffers->base_by_role;
  ka_status st = m->buffers->base_layer < m->recipe.L ? own_blocks_fwd(m) : KA_STATUS_OK;
  m->by_role = own;
  return st;
}

static ka_status embed_bwd(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  int64_t N = b->batch_B * b->batch_T, C = m->recipe.C;
  int64_t p = ka_param_of(m, KA_ROLE_EMBED, -1) - m->params;
  struct ka_tensor dx = ka_mat(m, b->dx, N, C);
  for (int64_t i = b->first_slice[p]; i < b->first_slice[p + 1]; i++) {
    const struct ka_slice *s = &m->slices[i];
    KA_TRY(ka_embed_bwd(
        m->dev, &(struct ka_embed_bwd_args){.dtable = s->grad,
                                            .dout = ka_tensor_slice(dx, 0, N, s->col, s->n_cols),
                                            .ids = b->ids,
                                            .first_id = s->row,
                                            .scale = 1}));
  }
  return KA_STATUS_OK;
}

ka_status ka_trunk_bwd(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  int64_t L = m->recipe.L;
  for (int64_t l = L - 1; l >= 0 && l >= m->lowest_trained_layer; l--) {
    struct ka_layer *layer = &b->layers[l];
    if (ka_runs_again(m, l) && ka_runs_again(m, l + 1)) /* the last one's values are still there */
      KA_TRY(ka_block_fwd(m, (int)l, &layer->acts, layer->acts.s1, false, NULL));
    KA_TRY(ka_block_bwd(m, (int)l));
  }
  return m->lowest_trained_layer < 0 ? embed_bwd(m) : KA_STATUS_OK;
}
