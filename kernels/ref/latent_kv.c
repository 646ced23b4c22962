/* SPDX-License-Identifier: Apache-2.0
 * Heads of latent attention put together from what they share and what they do not, and back. */
#include "kernels/ref/ref.h"

ka_status latent_kv_fwd_ref(struct ka_dev *dev, const struct ka_latent_kv_fwd_args *args) {
  (void)dev;
  int64_t n_heads = args->k.shape[1], d = args->k.shape[2], dv = args->v.shape[2];
  int64_t nope = d - args->pe.shape[1], width = nope + dv;
  for (int64_t head = 0; head < args->k.shape[0] * n_heads; head++) {
    for (int64_t i = 0; i < d; i++)
      put(&args->k, head * d + i,
          i < nope ? get(&args->kv, head * width + i) : get2(&args->pe, head / n_heads, i - nope));
    for (int64_t i = 0; i < dv; i++)
      put(&args->v, head * dv + i, get(&args->kv, head * width + nope + i));
  }
  return KA_STATUS_OK;
}

ka_status latent_kv_bwd_ref(struct ka_dev *dev, const struct ka_latent_kv_bwd_args *args) {
  (void)dev;
  int64_t n_tok = args->dk.shape[0], n_heads = args->dk.shape[1], d = args->dk.shape[2];
  int64_t dv = args->dv.shape[2], nope = d - args->dpe.shape[1], width = nope + dv;
  for (int64_t head = 0; head < n_tok * n_heads; head++)
    for (int64_t i = 0; i < width; i++)
      put(&args->dkv, head * width + i,
          i < nope ? get(&args->dk, head * d + i) : get(&args->dv, head * dv + i - nope));
  for (int64_t t = 0; t < n_tok; t++)
    for (int64_t i = nope; i < d; i++) {
      double sum = 0;
      for (int64_t h = 0; h < n_heads; h++) sum += get(&args->dk, (t * n_heads + h) * d + i);
      put2(&args->dpe, t, i - nope, sum);
    }
  return KA_STATUS_OK;
}
