/* SPDX-License-Identifier: Apache-2.0
 * A batch on its way to the device: checked, the rows that predict a target listed, everything in
 * one block of memory and one copy. Where the device is the host, the batch's own arrays serve. */
#include "engine/model/projector_parts.h"

#include <string.h>

static ka_status lay_out(struct ka_arena *a, struct ka_inputs *in, int64_t N) {
  struct ka_ctx *ctx = a->ctx;
  int32_t **arrays[] = {&in->row,       &in->target, &in->ids,  &in->pos,
                        &in->doc_start, &in->live,   &in->group};
  enum { N_ARRAYS = sizeof arrays / sizeof *arrays };
  in->n_bytes = 3 * sizeof(double) + (size_t)N * N_ARRAYS * sizeof(int32_t);
  KA_TRY(ka_arena_alloc(a, &in->block, in->n_bytes, "batch"));
  if (!in->block) return KA_STATUS_OK;
  in->scale = in->block;
  in->load = in->scale + 1;
  for (int i = 0; i < N_ARRAYS; i++) *arrays[i] = (int32_t *)(in->load + 2) + i * N;
  return KA_STATUS_OK;
}

ka_status ka_inputs_plan(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  int64_t N = b->B * b->T;
  KA_TRY(lay_out(&m->step, &b->device, N));
  b->host = b->device;
  b->loss_host = b->loss;
  if (m->step.measuring || !ka_dev_own_memory(m->dev)) return KA_STATUS_OK;
  ka_arena_init(&b->host_arena, ctx, "batch");
  KA_TRY(ka_arena_alloc_n(&b->host_arena, &b->loss_host, N, sizeof(double), "losses"));
  return lay_out(&b->host_arena, &b->host, N);
}

static ka_status take_pairs(struct ka_model *m, const struct ka_batch *batch) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  const struct ka_pairs *p = &batch->pairs;
  KA_NEVER(ctx, p->n > b->B * b->T);
  for (int64_t i = 0; i < p->n; i++) {
    KA_NEVER(ctx, p->row[i] < 0 || p->row[i] >= batch->B * batch->T);
    b->host.row[i] = p->row[i];
    b->host.target[i] = p->target[i];
  }
  return KA_STATUS_OK;
}

/* Does a clip stand in the document of token i? */
static bool has_clip(const struct ka_batch *batch, int64_t i) {
  int64_t row = i / batch->T, start = batch->doc_start[i];
  for (int64_t c = 0; c < batch->clips.n; c++) {
    int64_t at = batch->clips.items[c].at;
    if (at / batch->T == row && batch->doc_start[at] == start) return true;
  }
  return false;
}

/* The rows of targets in documents with a clip, or of the others, behind n; the new n. */
static int64_t list_targets(struct ka_model *m, const struct ka_batch *batch, bool clips,
                            int64_t n) {
  struct ka_inputs *host = &m->buffers->host;
  for (int64_t i = 0; i < batch->B * batch->T; i++) {
    if (batch->labels[i] == KA_LABEL_MASKED || i % batch->T <= batch->doc_start[i]) continue;
    if (has_clip(batch, i) != clips) continue;
    host->row[n] = (int32_t)(i - 1);
    host->group[n] = (int32_t)(i - i % batch->T) + batch->doc_start[i];
    host->target[n++] = batch->labels[i];
  }
  return n;
}

/* Where the base wrote the rows itself all positions count; what came next is the last one's
 * least. */
static int64_t take_all(struct ka_model *m, const struct ka_batch *batch) {
  struct ka_inputs *in = &m->buffers->host;
  int64_t N = batch->B * batch->T;
  for (int64_t i = 0; i < N; i++) {
    in->row[i] = (int32_t)i;
    in->target[i] = (i + 1) % batch->T ? batch->input_ids[i + 1] : 0;
  }
  return N;
}

/* Fills the lists of rows and targets; *documents: some row holds more than one. */
static ka_status list_rows(struct ka_model *m, const struct ka_batch *batch, bool *documents) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  int64_t N = batch->B * batch->T, n = batch->pairs.n, most = n > 0 ? b->B * b->T : N;
  bool labels = n == 0 && batch->rows == KA_ROWS_TASK;
  *documents = false;
  KA_TRY(take_pairs(m, batch));
  if (batch->rows == KA_ROWS_SELF) n = take_all(m, batch);
  for (int64_t i = 0; i < N; i++) {
    int64_t t = i % batch->T;
    if (batch->position[i] < 0 || batch->position[i] >= b->P)
      return ka_fail(ctx, KA_E_INPUT,
                     "batch row %lld, token %lld: got position %d, expected below %lld",
                     (long long)(i / batch->T), (long long)t, batch->position[i], (long long)b->P);
    *documents = *documents || batch->doc_start[i] != 0;
  }
  b->n_free = labels && batch->clips.n > 0 ? list_targets(m, batch, true, 0) : 0;
  if (labels) n = list_targets(m, batch, false, b->n_free);
  b->n_rows = b->padded_rows = n;
  if (m->dev->backend->record_begin) { /* few sizes, so that few recordings fit all batches */
    int64_t unit = b->B * b->T / KA_RECORDED_PASSES + 1;
    b->padded_rows = (n + unit - 1) / unit * unit;
    if (b->padded_rows > most) b->padded_rows = most;
  }
  for (int64_t i = n; i < b->padded_rows; i++)
    b->host.row[i] = b->host.target[i] = b->host.group[i] = -1;
  return KA_STATUS_OK;
}

/* Positions as rows of the tables of RoPE: those of long documents lie behind the others. */
static const int32_t *turned(const struct ka_model *m, const struct ka_batch *batch) {
  const struct ka_model_buffers *b = m->buffers;
  int64_t N = batch->B * batch->T, T = batch->T;
  for (int64_t i = 0, end; i < N; i = end) {
    int64_t row = i / T, n_tok = 0;
    for (end = i; end < N && end / T == row && batch->doc_start[end] == batch->doc_start[i]; end++)
      if (batch->position[end] >= n_tok) n_tok = batch->position[end] + 1;
    if (batch->length) n_tok = batch->length[row];
    int32_t further = n_tok > b->turn_tok ? (int32_t)b->P : 0;
    for (int64_t k = i; k < end; k++) b->host.pos[k] = batch->position[k] + further;
  }
  return b->host.pos;
}

static struct ka_tensor ints(const int32_t *data, int64_t n) {
  return ka_tensor_1d((void *)(uintptr_t)data, KA_I32, n); /* ops only read them */
}

ka_status ka_batch_begin(struct ka_model *m, const struct ka_batch *batch, double grad_scale) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  int64_t B = batch->B, T = batch->T, N = B * T;
  bool documents;
  KA_NEVER(ctx, !m->run.head || N > b->B * b->T); /* not prepared, or for smaller batches */
  b->batch_B = B;
  b->batch_T = T;
  b->rows = batch->rows;
  for (int i = 0; i < m->n_stacks; i++) ka_branches_begin(m, &m->stacks[i]);
  KA_TRY(list_rows(m, batch, &documents));
  ka_data_store(b->host.scale, ka_accum_dtype(m), 0, grad_scale);
  ka_routing_batch(m, batch, grad_scale);
  KA_NEVER(ctx, batch->clips.n > 0 && !m->projector);
  KA_TRY(ka_projector_begin(m, batch));
  const int32_t *ids = batch->input_ids, *pos = batch->position, *doc_start = batch->doc_start;
  if (b->turn_tok > 0) pos = turned(m, batch);
  if (ka_dev_own_memory(m->dev)) {
    memcpy(b->host.ids, ids, (size_t)N * sizeof *ids);
    if (pos != b->host.pos) memcpy(b->host.pos, pos, (size_t)N * sizeof *pos);
    memcpy(b->host.doc_start, doc_start, (size_t)N * sizeof *doc_start);
    KA_TRY(ka_dev_upload(m->dev, b->device.block, b->host.block, b->host.n_bytes));
    ids = b->device.ids;
    pos = b->device.pos;
    doc_start = b->device.doc_start;
  }
  b->ids = ints(ids, N);
  b->pos = ints(pos, N);
  b->doc_start = (struct ka_tensor){0};
  if (documents) b->doc_start = ka_tensor_2d((void *)(uintptr_t)doc_start, KA_I32, B, T);
  return KA_STATUS_OK;
}
