/* SPDX-License-Identifier: Apache-2.0
 * Heads of latent attention put together from what they share and what they do not, and back; a
 * token at a time. Moves are of bytes, whatever the dtype. */
#include "kernels/cpu/vec.h"

#include <string.h>

static char *element(const struct ka_tensor *t, int64_t i) {
  return (char *)t->data + (size_t)i * ka_dtype_bytes(t->dtype);
}

ka_status latent_kv_fwd_cpu(struct ka_dev *dev, const struct ka_latent_kv_fwd_args *args) {
  (void)dev;
  int64_t n_tok = args->k.shape[0], n_heads = args->k.shape[1], d = args->k.shape[2];
  int64_t dv = args->v.shape[2], rope = args->pe.shape[1], nope = d - rope, width = nope + dv;
  size_t size = ka_dtype_bytes(args->k.dtype);
#pragma omp parallel for if (n_tok * n_heads * width > CPU_PARALLEL)
  for (int64_t t = 0; t < n_tok; t++)
    for (int64_t head = t * n_heads; head < (t + 1) * n_heads; head++) {
      memcpy(element(&args->k, head * d), element(&args->kv, head * width), (size_t)nope * size);
      memcpy(element(&args->k, head * d + nope), element(&args->pe, t * args->pe.row_stride),
             (size_t)rope * size);
      memcpy(element(&args->v, head * dv), element(&args->kv, head * width + nope),
             (size_t)dv * size);
    }
  return KA_STATUS_OK;
}

/* dpe of one token, n channels from `first` on, which fit the buffers. */
static void sum_heads(const struct ka_latent_kv_bwd_args *args, int64_t t, int64_t first,
                      int64_t n) {
  int64_t n_heads = args->dk.shape[1], d = args->dk.shape[2], nope = d - args->dpe.shape[1];
  float sum[CPU_BLOCK], buf[CPU_BLOCK];
  memset(sum, 0, sizeof sum);
  for (int64_t h = 0; h < n_heads; h++) {
    const float *x = load_block(&args->dk, (t * n_heads + h) * d + nope + first, n, buf);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) sum[i] += x[i];
  }
  int64_t at = t * args->dpe.row_stride + first;
  memcpy(open_block(&args->dpe, at, buf), sum, (size_t)n * sizeof *sum);
  store_block(&args->dpe, at, n, sum);
}

ka_status latent_kv_bwd_cpu(struct ka_dev *dev, const struct ka_latent_kv_bwd_args *args) {
  int64_t n_tok = args->dk.shape[0], n_heads = args->dk.shape[1], d = args->dk.shape[2];
  int64_t dv = args->dv.shape[2], rope = args->dpe.shape[1], nope = d - rope, width = nope + dv;
  size_t size = ka_dtype_bytes(args->dk.dtype);
  if (args->dk.dtype == KA_F64) return latent_kv_bwd_ref(dev, args);
#pragma omp parallel for if (n_tok * n_heads * width > CPU_PARALLEL)
  for (int64_t t = 0; t < n_tok; t++) {
    for (int64_t head = t * n_heads; head < (t + 1) * n_heads; head++) {
      memcpy(element(&args->dkv, head * width), element(&args->dk, head * d), (size_t)nope * size);
      memcpy(element(&args->dkv, head * width + nope), element(&args->dv, head * dv),
             (size_t)dv * size);
    }
    for (int64_t i = 0; i < rope; i += CPU_BLOCK) sum_heads(args, t, i, min64(CPU_BLOCK, rope - i));
  }
  return KA_STATUS_OK;
}
