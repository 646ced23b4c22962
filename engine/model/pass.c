/* SPDX-License-Identifier: Apache-2.0
 * A batch through the embedding and all blocks, forward, and backward down to the lowest trained
 * layer. */
#include "engine/model/plan.h"

static struct ka_tensor ints(const int32_t *data, int64_t n) {
  return ka_tensor_1d((void *)(uintptr_t)data, KA_I32, n); /* ops only read them */
}

ka_status ka_batch_begin(struct ka_model *m, const struct ka_batch *batch) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  int64_t B = batch->B, T = batch->T, N = B * T;
  KA_NEVER(ctx, !m->run.head || B * T > b->B * b->T); /* not prepared, or for smaller batches */
  b->batch_B = B;
  b->batch_T = T;
  b->n_rows = 0;
  bool documents = false;
  for (int64_t i = 0; i < N; i++) {
    int64_t t = i % T;
    if (batch->position[i] < 0 || batch->position[i] >= b->P)
      return ka_fail(ctx, KA_E_INPUT,
                     "batch row %lld, token %lld: got position %d, expected below %lld",
                     (long long)(i / T), (long long)t, batch->position[i], (long long)b->P);
    documents = documents || batch->doc_start[i] != 0;
    if (batch->labels[i] == -100 || t <= batch->doc_start[i]) continue;
    b->row[b->n_rows] = (int32_t)(i - 1);
    b->target[b->n_rows++] = batch->labels[i];
  }
  b->ids = ints(batch->input_ids, N);
  b->pos = ints(batch->position, N);
  b->doc_start = (struct ka_tensor){0};
  if (documents) b->doc_start = ka_tensor_2d((void *)(uintptr_t)batch->doc_start, KA_I32, B, T);
  return KA_STATUS_OK;
}

static ka_status copy_out(struct ka_model *m, float *out, void *x, int64_t n) {
  return ka_copy(m->dev, &(struct ka_copy_args){.out = ka_tensor_1d(out, KA_F32, n),
                                                .in = ka_tensor_1d(x, m->compute, n)});
}

/* final = s2 + delta: what the block before `layer` hands on. */
static ka_status block_result(struct ka_model *m, int64_t layer) {
  struct ka_model_buffers *b = m->buffers;
  int64_t n = b->batch_B * b->batch_T * m->recipe.C;
  return ka_add(
      m->dev, &(struct ka_add_args){.out = ka_tensor_1d(b->final, m->compute, n),
                                    .a = ka_tensor_1d(b->layers[layer - 1].acts.s2, m->compute, n),
                                    .b = ka_tensor_1d(b->delta, m->compute, n)});
}

ka_status ka_trunk_fwd(struct ka_model *m, float **hidden, const struct ka_kv *kv) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  int64_t N = b->batch_B * b->batch_T, C = m->recipe.C, L = m->recipe.L;
  void *x = L > 0 ? b->layers[0].acts.s1 : b->final;
  KA_TRY(ka_embed_fwd(
      m->dev, &(struct ka_embed_fwd_args){.out = ka_mat(m, x, N, C),
                                          .table = ka_param_of(m, KA_ROLE_EMBED, -1)->weight,
                                          .ids = b->ids,
                                          .scale = 1}));
  if (hidden && hidden[0]) KA_TRY(copy_out(m, hidden[0], x, N * C));
  for (int64_t l = 0; l < L; l++) {
    struct ka_acts acts = b->layers[l].acts;
    if (kv) { /* new keys and values go straight behind the old ones */
      size_t at = (size_t)(kv[l].past * m->recipe.K * m->recipe.D) * ka_dtype_bytes(m->compute);
      acts.k = (char *)kv[l].k + at;
      acts.v = (char *)kv[l].v + at;
    }
    KA_TRY(ka_block_fwd(m, (int)l, &acts, l > 0 ? b->layers[l - 1].acts.s2 : acts.s1, l > 0,
                        kv ? &kv[l] : NULL));
    bool last = l + 1 == L, wanted = hidden && hidden[l + 1] && !last;
    if (last || wanted) KA_TRY(block_result(m, l + 1));
    if (wanted) KA_TRY(copy_out(m, hidden[l + 1], b->final, N * C));
  }
  return KA_STATUS_OK;
}

/* The gradient of a part of the embedding table: only the tokens whose rows it holds. */
static ka_status embed_part_bwd(struct ka_model *m, const struct ka_slice *s) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  int64_t N = b->batch_B * b->batch_T, C = m->recipe.C, n = 0;
  const int32_t *ids = b->ids.data;
  for (int64_t i = 0; i < N; i++)
    if (ids[i] >= s->row && ids[i] < s->row + s->n_rows) {
      b->part_row[n] = (int32_t)i;
      b->part_id[n++] = (int32_t)(ids[i] - s->row);
    }
  struct ka_tensor rows = ka_mat(m, b->h, n, C), part = ka_mat(m, b->delta, n, s->n_cols);
  KA_TRY(ka_gather_rows(m->dev, &(struct ka_gather_rows_args){.out = rows,
                                                              .x = ka_mat(m, b->dx, N, C),
                                                              .index = ints(b->part_row, n)}));
  KA_TRY(ka_copy(m->dev, &(struct ka_copy_args){
                             .out = part, .in = ka_tensor_slice(rows, 0, n, s->col, s->n_cols)}));
  return ka_embed_bwd(m->dev,
                      &(struct ka_embed_bwd_args){
                          .dtable = s->grad, .dout = part, .ids = ints(b->part_id, n), .scale = 1});
}

static ka_status embed_bwd(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  int64_t N = b->batch_B * b->batch_T, C = m->recipe.C;
  int64_t p = ka_param_of(m, KA_ROLE_EMBED, -1) - m->params;
  for (int64_t i = b->first_slice[p]; i < b->first_slice[p + 1]; i++) {
    const struct ka_slice *s = &m->slices[i];
    if (s->n_rows == m->recipe.V && s->n_cols == C)
      KA_TRY(ka_embed_bwd(m->dev, &(struct ka_embed_bwd_args){.dtable = s->grad,
                                                              .dout = ka_mat(m, b->dx, N, C),
                                                              .ids = b->ids,
                                                              .scale = 1}));
    else
      KA_TRY(embed_part_bwd(m, s));
  }
  return KA_STATUS_OK;
}

ka_status ka_trunk_bwd(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  int64_t L = m->recipe.L;
  for (int64_t l = L - 1; l >= 0 && l >= m->lowest_trained_layer; l--) {
    struct ka_layer *layer = &b->layers[l];
    if (m->checkpoint_blocks && l < L - 1) /* the last one's values are still there */
      KA_TRY(ka_block_fwd(m, (int)l, &layer->acts, layer->acts.s1, false, NULL));
    KA_TRY(ka_block_bwd(m, (int)l));
  }
  return m->lowest_trained_layer < 0 ? embed_bwd(m) : KA_STATUS_OK;
}
