/* SPDX-License-Identifier: Apache-2.0
 * Final norm, LM head and cross-entropy over the rows that predict a target, in chunks: the logits
 * of one chunk (and the base model's, where a term reads it) are all that ever exists. In bf16 the
 * logits of a training pass are rounded to bf16 (their gradient takes their place), those of an
 * evaluation stay f32. */
#include "engine/model/buffers.h"

#include <math.h>
#include <string.h>

static void *at_row(const struct ka_model *m, void *data, int64_t row, int64_t cols) {
  return (char *)data + (size_t)(row * cols) * ka_dtype_bytes(m->compute);
}

/* Rows of logits of type t that fit. */
static int64_t rows_that_fit(const struct ka_model *m, enum ka_dtype t) {
  int64_t rows =
      m->buffers->chunk_rows * (int64_t)ka_dtype_bytes(m->compute) / (int64_t)ka_dtype_bytes(t);
  return rows > 0 ? rows : 1;
}

/* x *= head_scale: of what the head reads, and of its gradient. */
static ka_status scale(struct ka_model *m, struct ka_tensor x) {
  if (m->recipe.head_scale == 1) return KA_STATUS_OK;
  return ka_scale(
      m->dev, &(struct ka_scale_args){.x = ka_tensor_1d(x.data, m->compute, ka_tensor_elems(&x)),
                                      .value = m->recipe.head_scale});
}

/* Of this batch: 0 where the term is not of its rows. */
static double term_weight(const struct ka_model *m, enum ka_loss_term term) {
  return ka_loss_terms[term].rows == m->buffers->rows ? m->term_weight[term] : 0;
}

enum ka_loss_term ka_head_divergence(const struct ka_model *m) {
  return m->buffers->rows == KA_ROWS_SELF ? KA_TERM_KL_SELF : KA_TERM_KL_TASK;
}

/* The base model's rows after its final norm, in scratch of the blocks. */
static void *base_hidden(const struct ka_model *m) { return m->buffers->delta; }

/* Loss of rows [first, first + n); with backward also the head's gradients, and those of hidden in
 * its place. */
static ka_status chunk(struct ka_model *m, const struct ka_weight *head,
                       const struct ka_weight *base_head, int64_t first, int64_t n, bool backward) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  int64_t C = m->recipe.C, V = m->recipe.V;
  enum ka_dtype t = backward ? m->compute : ka_accum_dtype(m);
  size_t wide_bytes = ka_dtype_bytes(ka_accum_dtype(m));
  struct ka_tensor h = ka_mat(m, at_row(m, b->hidden, first, C), n, C);
  struct ka_tensor logits = ka_tensor_2d(b->logits, t, n, V);
  struct ka_xent_args xent = {
      .logits = logits,
      .targets = ka_tensor_1d(b->device.target + first, KA_I32, n),
      .scale = ka_stat(m, b->device.scale, 1),
      .loss = ka_stat(m, (char *)b->loss + (size_t)first * wide_bytes, n),
      .grad_scale = 1,
      .ce_weight = term_weight(m, KA_TERM_CE),
      .softcap = m->recipe.head_softcap,
      .backward = backward,
  };
  if (backward && b->rows == KA_ROWS_TASK) {
    if (m->token_weight == KA_TOKEN_EAFT) xent.weigh = KA_WEIGH_EAFT;
    if (m->token_weight == KA_TOKEN_DFT) xent.weigh = KA_WEIGH_DFT;
    if (m->token_weight == KA_TOKEN_TALR)
      xent.weight = ka_stat(m, (char *)b->weight + (size_t)first * wide_bytes, n);
  }
  if (!backward) xent.argmax = ka_tensor_1d(b->best + first, KA_I32, n);
  KA_TRY(ka_linear_fwd(m, logits, h, head, NULL));
  if (base_head) {
    xent.base = ka_tensor_2d(b->base_logits, t, n, V);
    xent.kl = ka_stat(m, (char *)b->kl + (size_t)first * wide_bytes, n);
    xent.kl_weight = m->term_weight[ka_head_divergence(m)];
    KA_TRY(ka_linear_fwd(m, xent.base, ka_mat(m, at_row(m, base_hidden(m), first, C), n, C),
                         base_head, NULL));
  }
  KA_TRY(ka_xent(m->dev, &xent));
  if (!backward) return KA_STATUS_OK;
  KA_TRY(ka_linear_dw(m, logits, h, head, NULL));
  return b->need_head_input ? ka_linear_dx(m, h, logits, head, false) : KA_STATUS_OK;
}

/* picked [R,C] = the rows of b->final that predict a target, hidden the same after a norm. */
static ka_status pick(struct ka_model *m, void *picked, void *hidden, struct ka_norm_stats stats,
                      struct ka_norm norm) {
  struct ka_ctx *ctx = m->ctx;
  const struct ka_model_buffers *b = m->buffers;
  int64_t C = m->recipe.C, N = b->batch_B * b->batch_T, R = b->padded_rows;
  KA_TRY(ka_gather_rows(
      m->dev, &(struct ka_gather_rows_args){.out = ka_mat(m, picked, R, C),
                                            .x = ka_mat(m, b->final, N, C),
                                            .index = ka_tensor_1d(b->device.row, KA_I32, R)}));
  struct ka_tensor h = ka_mat(m, hidden, R, C);
  KA_TRY(ka_norm_fwd(m, h, stats, ka_mat(m, picked, R, C), NULL, norm));
  return scale(m, h);
}

/* stats += sum of values [R] from `first` on. */
static ka_status add_up(struct ka_model *m, double *stats, void *values, int64_t first) {
  void *from = (char *)values + (size_t)first * ka_dtype_bytes(ka_accum_dtype(m));
  return ka_sum(m->dev,
                &(struct ka_sum_args){.out = ka_tensor_1d(stats, KA_F64, 1),
                                      .x = ka_stat(m, from, m->buffers->padded_rows - first)});
}

static struct ka_norm final_norm(const struct ka_outer_weights *w) {
  return (struct ka_norm){w->final_norm, w->final_norm_bias};
}

static struct ka_norm_stats final_stats(const struct ka_model *m) {
  return (struct ka_norm_stats){m->buffers->mean, m->buffers->rstd};
}

ka_status ka_head_pick(struct ka_model *m, const struct ka_outer_weights *w) {
  struct ka_model_buffers *b = m->buffers;
  return pick(m, b->picked, b->hidden, final_stats(m), final_norm(w));
}

ka_status ka_head_pick_base(struct ka_model *m, const struct ka_outer_weights *w) {
  return pick(m, m->buffers->h, base_hidden(m), (struct ka_norm_stats){0}, final_norm(w));
}

/* b->weight, from the losses of all rows, for which the head runs once more. */
static ka_status weigh_by_loss(struct ka_model *m, const struct ka_outer_weights *w) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  int64_t R = b->padded_rows, most = rows_that_fit(m, ka_accum_dtype(m));
  for (int64_t first = 0, n; first < R; first += n) {
    n = R - first < most ? R - first : most;
    KA_TRY(chunk(m, w->head, NULL, first, n, false));
  }
  return ka_loss_weights(
      m->dev, &(struct ka_loss_weights_args){.weight = ka_stat(m, b->weight, R),
                                             .loss = ka_stat(m, b->loss, R),
                                             .group = ka_tensor_1d(b->device.group, KA_I32, R)});
}

ka_status ka_head_loss(struct ka_model *m, const struct ka_outer_weights *w,
                       const struct ka_outer_weights *base, bool backward) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  struct ka_step_stats *stats = m->step_stats.data;
  int64_t C = m->recipe.C, N = b->batch_B * b->batch_T, R = b->padded_rows;
  struct ka_tensor picked = ka_mat(m, b->picked, R, C), hidden = ka_mat(m, b->hidden, R, C);
  int64_t most = rows_that_fit(m, backward ? m->compute : ka_accum_dtype(m));
  if (backward && b->rows == KA_ROWS_TASK && b->weight) KA_TRY(weigh_by_loss(m, w));
  for (int64_t first = 0, n; first < R; first += n) {
    bool anchored = base && first >= b->n_free;
    n = (base && !anchored ? b->n_free : R) - first;
    if (n > most) n = most;
    KA_TRY(ka_pass_check_signal(m));
    KA_TRY(chunk(m, w->head, anchored ? base->head : NULL, first, n, backward));
  }
  if (!backward) return KA_STATUS_OK;
  if (b->need_head_input) {
    KA_TRY(scale(m, hidden));
    KA_TRY(ka_norm_bwd(m, hidden, hidden, picked, final_stats(m), final_norm(w), false));
    KA_TRY(ka_scatter_rows(
        m->dev, &(struct ka_scatter_rows_args){.out = ka_mat(m, b->dx, N, C),
                                               .x = hidden,
                                               .index = ka_tensor_1d(b->device.row, KA_I32, R)}));
  }
  if (base) KA_TRY(add_up(m, &stats->term[ka_head_divergence(m)], b->kl, b->n_free));
  if (term_weight(m, KA_TERM_CE) == 0) return KA_STATUS_OK;
  return add_up(m, &stats->term[KA_TERM_CE], b->loss, 0);
}

/* b->loss of all rows, to b->loss_host. */
static ka_status fetch_losses(struct ka_model *m) {
  struct ka_model_buffers *b = m->buffers;
  return ka_dev_download(m->dev, b->loss_host, b->loss,
                         (size_t)b->n_rows * ka_dtype_bytes(ka_accum_dtype(m)));
}

ka_status ka_head_read_loss(struct ka_model *m, double *loss_sum, float *loss) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  KA_TRY(fetch_losses(m));
  *loss_sum = 0;
  if (loss) memset(loss, 0, (size_t)(b->batch_B * b->batch_T) * sizeof *loss);
  for (int64_t r = 0; r < b->n_rows; r++) {
    double value = ka_load(b->loss_host, ka_accum_dtype(m), r);
    *loss_sum += value;
    if (loss) loss[b->host.row[r] + 1] = (float)value;
  }
  return KA_STATUS_OK;
}

ka_status ka_head_read_pairs(struct ka_model *m, float *loss, int32_t *best) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  int64_t R = b->n_rows;
  KA_TRY(fetch_losses(m));
  KA_TRY(ka_dev_download(m->dev, best, b->best, (size_t)R * sizeof *best));
  for (int64_t r = 0; r < R; r++) loss[r] = (float)ka_load(b->loss_host, ka_accum_dtype(m), r);
  return KA_STATUS_OK;
}

ka_status ka_head_logits(struct ka_model *m, const struct ka_outer_weights *w, int64_t first,
                         int64_t n, float *hidden, float *logits) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  int64_t C = m->recipe.C, V = m->recipe.V, step = rows_that_fit(m, ka_accum_dtype(m));
  struct ka_tensor x = ka_mat(m, at_row(m, b->final, first, C), n, C);
  struct ka_tensor h = ka_mat(m, b->hidden, n, C);
  KA_TRY(ka_norm_fwd(m, h, (struct ka_norm_stats){0}, x, NULL, final_norm(w)));
  if (hidden) KA_TRY(ka_dev_get(m->dev, ka_tensor_2d(hidden, KA_F32, n, C), h));
  KA_TRY(scale(m, h));
  for (int64_t r = 0; logits && r < n; r += step) {
    int64_t rows = n - r < step ? n - r : step;
    struct ka_tensor z = ka_tensor_2d(b->logits, ka_accum_dtype(m), rows, V);
    KA_TRY(ka_linear_fwd(m, z, ka_mat(m, at_row(m, b->hidden, r, C), rows, C), w->head, NULL));
    KA_TRY(ka_dev_get(m->dev, ka_tensor_2d(logits + r * V, KA_F32, rows, V), z));
  }
  double cap = m->recipe.head_softcap;
  for (int64_t i = 0; logits && cap > 0 && i < n * V; i++)
    logits[i] = (float)(cap * tanh(logits[i] / cap));
  return KA_STATUS_OK;
}
