/* SPDX-License-Identifier: Apache-2.0
 * Layer norm (Ba, Kiros and Hinton 2016, eq. 4), with the residual add. */
#include "kernels/ref/ref.h"

#include <math.h>

ka_status layernorm_fwd_ref(struct ka_dev *dev, const struct ka_layernorm_fwd_args *args) {
  (void)dev;
  int64_t n_tok = args->x.shape[0], n_chan = args->x.shape[1];
#pragma omp parallel for
  for (int64_t t = 0; t < n_tok; t++) {
    for (int64_t c = 0; c < n_chan && args->delta.data; c++)
      put2(&args->sum, t, c, get2(&args->x, t, c) + get2(&args->delta, t, c));
    const struct ka_tensor *s = args->delta.data ? &args->sum : &args->x;
    double sum = 0, square = 0;
    for (int64_t c = 0; c < n_chan; c++) sum += get2(s, t, c);
    double mean = sum / (double)n_chan;
    for (int64_t c = 0; c < n_chan; c++) square += (get2(s, t, c) - mean) * (get2(s, t, c) - mean);
    double rstd = 1 / sqrt(square / (double)n_chan + args->eps);
    if (args->mean.data) put(&args->mean, t, mean);
    if (args->rstd.data) put(&args->rstd, t, rstd);
    for (int64_t c = 0; c < n_chan; c++)
      put2(&args->y, t, c,
           (get2(s, t, c) - mean) * rstd * get(&args->w, c) +
               (args->b.data ? get(&args->b, c) : 0));
  }
  return KA_STATUS_OK;
}

static double x_hat(const struct ka_layernorm_bwd_args *args, int64_t t, int64_t c) {
  return (get2(&args->s, t, c) - get(&args->mean, t)) * get(&args->rstd, t);
}

/* Column by column, before dx may overwrite dy. */
static void weight_gradients(const struct ka_layernorm_bwd_args *args) {
  int64_t n_tok = args->s.shape[0], n_chan = args->s.shape[1];
#pragma omp parallel for
  for (int64_t c = 0; c < n_chan; c++) {
    double dw = 0, db = 0;
    for (int64_t t = 0; t < n_tok; t++) {
      dw += get2(&args->dy, t, c) * x_hat(args, t, c);
      db += get2(&args->dy, t, c);
    }
    if (args->dw.data) inc(&args->dw, c, dw);
    if (args->db.data) inc(&args->db, c, db);
  }
}

ka_status layernorm_bwd_ref(struct ka_dev *dev, const struct ka_layernorm_bwd_args *args) {
  (void)dev;
  int64_t n_tok = args->s.shape[0], n_chan = args->s.shape[1];
  weight_gradients(args);
#pragma omp parallel for
  for (int64_t t = 0; t < n_tok; t++) {
    double sum = 0, dot = 0;
    for (int64_t c = 0; c < n_chan; c++) {
      double g = get2(&args->dy, t, c) * get(&args->w, c);
      sum += g;
      dot += g * x_hat(args, t, c);
    }
    for (int64_t c = 0; c < n_chan; c++) {
      double g = get2(&args->dy, t, c) * get(&args->w, c), n = (double)n_chan;
      double ds = get(&args->rstd, t) * (g - sum / n - x_hat(args, t, c) * dot / n);
      put2(&args->dx, t, c, args->accumulate ? get2(&args->dx, t, c) + ds : ds);
    }
  }
  return KA_STATUS_OK;
}
