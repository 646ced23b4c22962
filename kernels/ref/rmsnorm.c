/* SPDX-License-Identifier: Apache-2.0
 * Root mean square norm (Zhang and Sennrich 2019, eq. 4), with the residual add. */
#include "kernels/ref/ref.h"

#include <math.h>

ka_status rmsnorm_fwd_ref(struct ka_dev *dev, const struct ka_rmsnorm_fwd_args *args) {
  (void)dev;
  enum ka_dtype type = args->x.dtype;
  int64_t n_tok = args->x.shape[0], n_chan = args->x.shape[1];
#pragma omp parallel for
  for (int64_t t = 0; t < n_tok; t++) {
    if (args->delta.data)
      for (int64_t c = 0; c < n_chan; c++)
        put2(&args->sum, t, c, get2(&args->x, t, c) + get2(&args->delta, t, c));
    const struct ka_tensor *s = args->delta.data ? &args->sum : &args->x;
    double sum = 0;
    for (int64_t c = 0; c < n_chan; c++) sum += get2(s, t, c) * get2(s, t, c);
    double rstd = 1 / sqrt(sum / (double)n_chan + args->eps);
    if (args->rstd.data) put(&args->rstd, t, rstd);
    for (int64_t c = 0; c < n_chan; c++) {
      double x_hat = get2(s, t, c) * rstd;
      if (args->round_before_weight) x_hat = ref_round(type, x_hat);
      put2(&args->y, t, c, x_hat * (args->offset + get(&args->w, c)));
    }
  }
  return KA_STATUS_OK;
}

/* dw column by column, before dx may overwrite dy. */
static void weight_gradient(const struct ka_rmsnorm_bwd_args *args) {
  int64_t n_tok = args->s.shape[0], n_chan = args->s.shape[1];
#pragma omp parallel for
  for (int64_t c = 0; c < n_chan; c++) {
    double sum = 0;
    for (int64_t t = 0; t < n_tok; t++)
      sum += get2(&args->dy, t, c) * get2(&args->s, t, c) * get(&args->rstd, t);
    inc(&args->dw, c, sum);
  }
}

ka_status rmsnorm_bwd_ref(struct ka_dev *dev, const struct ka_rmsnorm_bwd_args *args) {
  (void)dev;
  int64_t n_tok = args->s.shape[0], n_chan = args->s.shape[1];
  if (args->dw.data) weight_gradient(args);
#pragma omp parallel for
  for (int64_t t = 0; t < n_tok; t++) {
    double rstd = get(&args->rstd, t), dot = 0;
    for (int64_t c = 0; c < n_chan; c++)
      dot += get2(&args->dy, t, c) * (args->offset + get(&args->w, c)) * get2(&args->s, t, c);
    double back = rstd * rstd * dot / (double)n_chan;
    for (int64_t c = 0; c < n_chan; c++) {
      double g = get2(&args->dy, t, c) * (args->offset + get(&args->w, c));
      double ds = rstd * (g - get2(&args->s, t, c) * back);
      put2(&args->dx, t, c, args->accumulate ? get2(&args->dx, t, c) + ds : ds);
    }
  }
  return KA_STATUS_OK;
}
