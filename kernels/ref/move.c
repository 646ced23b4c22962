/* SPDX-License-Identifier: Apache-2.0
 * Ops that move values: fill, copy, add, scale, clamp, embeddings and picked rows. */
#include "kernels/ref/ref.h"

#include <math.h>

ka_status fill_ref(struct ka_dev *dev, const struct ka_fill_args *args) {
  (void)dev;
  struct ka_tensor x = ref_rows(args->x);
#pragma omp parallel for
  for (int64_t r = 0; r < x.shape[0]; r++)
    for (int64_t c = 0; c < x.shape[1]; c++) put2(&x, r, c, args->value);
  return KA_STATUS_OK;
}

ka_status copy_ref(struct ka_dev *dev, const struct ka_copy_args *args) {
  (void)dev;
  struct ka_tensor out = ref_rows(args->out), in = ref_rows(args->in);
#pragma omp parallel for
  for (int64_t r = 0; r < out.shape[0]; r++)
    for (int64_t c = 0; c < out.shape[1]; c++) put2(&out, r, c, get2(&in, r, c));
  return KA_STATUS_OK;
}

ka_status add_ref(struct ka_dev *dev, const struct ka_add_args *args) {
  (void)dev;
  int64_t n = ka_tensor_elems(&args->out);
#pragma omp parallel for
  for (int64_t i = 0; i < n; i++) put(&args->out, i, get(&args->a, i) + get(&args->b, i));
  return KA_STATUS_OK;
}

ka_status scale_ref(struct ka_dev *dev, const struct ka_scale_args *args) {
  (void)dev;
  int64_t n = ka_tensor_elems(&args->x);
#pragma omp parallel for
  for (int64_t i = 0; i < n; i++) put(&args->x, i, get(&args->x, i) * args->value);
  return KA_STATUS_OK;
}

static double clamp(double x, double limit) { return x > limit ? limit : x < -limit ? -limit : x; }

ka_status clamp_fwd_ref(struct ka_dev *dev, const struct ka_clamp_fwd_args *args) {
  (void)dev;
  int64_t n = ka_tensor_elems(&args->x);
#pragma omp parallel for
  for (int64_t i = 0; i < n; i++) put(&args->out, i, clamp(get(&args->x, i), args->limit));
  return KA_STATUS_OK;
}

ka_status clamp_bwd_ref(struct ka_dev *dev, const struct ka_clamp_bwd_args *args) {
  (void)dev;
  int64_t n = ka_tensor_elems(&args->x);
#pragma omp parallel for
  for (int64_t i = 0; i < n; i++)
    put(&args->dx, i, fabs(get(&args->x, i)) > args->limit ? 0 : get(&args->dout, i));
  return KA_STATUS_OK;
}

ka_status embed_fwd_ref(struct ka_dev *dev, const struct ka_embed_fwd_args *args) {
  (void)dev;
  int64_t n_tok = args->out.shape[0], n_chan = args->out.shape[1];
#pragma omp parallel for
  for (int64_t t = 0; t < n_tok; t++)
    for (int64_t c = 0; c < n_chan; c++)
      put2(&args->out, t, c, args->scale * get2(&args->table, get_id(&args->ids, t), c));
  return KA_STATUS_OK;
}

/* Threads share channels, not tokens: repeated ids then add up in order of i. */
ka_status embed_bwd_ref(struct ka_dev *dev, const struct ka_embed_bwd_args *args) {
  (void)dev;
  int64_t n_tok = args->dout.shape[0], n_chan = args->dout.shape[1];
#pragma omp parallel for
  for (int64_t c = 0; c < n_chan; c++)
    for (int64_t t = 0; t < n_tok; t++) {
      int64_t row = get_id(&args->ids, t) - args->first_id;
      if (row >= 0 && row < args->dtable.shape[0])
        inc(&args->dtable, row * n_chan + c, args->scale * get2(&args->dout, t, c));
    }
  return KA_STATUS_OK;
}

ka_status gather_rows_ref(struct ka_dev *dev, const struct ka_gather_rows_args *args) {
  (void)dev;
  int64_t n_rows = args->out.shape[0], n_chan = args->out.shape[1];
#pragma omp parallel for
  for (int64_t r = 0; r < n_rows; r++) {
    int64_t from = get_id(&args->index, r);
    for (int64_t c = 0; c < n_chan; c++)
      put2(&args->out, r, c, from < 0 ? 0 : get2(&args->x, from, c));
  }
  return KA_STATUS_OK;
}

ka_status put_rows_ref(struct ka_dev *dev, const struct ka_put_rows_args *args) {
  (void)dev;
  int64_t n_rows = args->index.shape[0], n_chan = args->out.shape[1];
#pragma omp parallel for
  for (int64_t r = 0; r < n_rows; r++) {
    int64_t to = get_id(&args->index, r);
    for (int64_t c = 0; c < n_chan && to >= 0; c++)
      put2(&args->out, to, c, args->x.data ? get2(&args->x, r, c) : 0);
  }
  return KA_STATUS_OK;
}

ka_status scatter_rows_ref(struct ka_dev *dev, const struct ka_scatter_rows_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  KA_TRY(fill_ref(dev, &(struct ka_fill_args){.x = args->out}));
  return put_rows_ref(
      dev, &(struct ka_put_rows_args){.out = args->out, .x = args->x, .index = args->index});
}

ka_status sum_rows_ref(struct ka_dev *dev, const struct ka_sum_rows_args *args) {
  (void)dev;
  int64_t n_rows = args->out.shape[0], n_chan = args->out.shape[1], J = args->rows.shape[1];
#pragma omp parallel for
  for (int64_t r = 0; r < n_rows; r++)
    for (int64_t c = 0; c < n_chan; c++) {
      double sum = 0;
      for (int64_t j = 0; j < J; j++) {
        int64_t from = get_id(&args->rows, r * J + j);
        if (from >= 0) sum += get2(&args->x, from, c);
      }
      put2(&args->out, r, c, sum);
    }
  return KA_STATUS_OK;
}
