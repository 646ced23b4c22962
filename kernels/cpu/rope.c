/* SPDX-License-Identifier: Apache-2.0
 * Rotary position embedding (Su et al. 2021, eq. 34), in place, a head at a time. */
#include "kernels/cpu/vec.h"

/* Pairs [first, first + n) of one head; n pairs fit the buffers. */
static void rotate(const struct ka_rope_args *args, int64_t head, int64_t pos, int64_t first,
                   int64_t n) {
  float buf_a[CPU_BLOCK], buf_b[CPU_BLOCK];
  int64_t n_pairs = args->cos.shape[1];
  const float *cos = (const float *)args->cos.data + pos * n_pairs + first;
  const float *sin = (const float *)args->sin.data + pos * n_pairs + first;
  float sign = args->inverse ? -1.0f : 1.0f;
  int64_t at_a = head + first, at_b = head + n_pairs + first;
  (void)load_block(&args->x, at_a, n, buf_a);
  (void)load_block(&args->x, at_b, n, buf_b);
  float *a = open_block(&args->x, at_a, buf_a), *b = open_block(&args->x, at_b, buf_b);
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    float s = sign * sin[i], x = a[i], y = b[i];
    a[i] = x * cos[i] - y * s;
    b[i] = y * cos[i] + x * s;
  }
  store_block(&args->x, at_a, n, a);
  store_block(&args->x, at_b, n, b);
}

static void rotate_interleaved(const struct ka_rope_args *args, int64_t head, int64_t pos,
                               int64_t first, int64_t n) {
  float buf[2 * CPU_BLOCK];
  int64_t n_pairs = args->cos.shape[1], at = head + 2 * first;
  const float *cos = (const float *)args->cos.data + pos * n_pairs + first;
  const float *sin = (const float *)args->sin.data + pos * n_pairs + first;
  float sign = args->inverse ? -1.0f : 1.0f;
  (void)load_block(&args->x, at, 2 * n, buf);
  float *x = open_block(&args->x, at, buf);
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    float s = sign * sin[i], a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * cos[i] - b * s;
    x[2 * i + 1] = b * cos[i] + a * s;
  }
  store_block(&args->x, at, 2 * n, x);
}

ka_status rope_cpu(struct ka_dev *dev, const struct ka_rope_args *args) {
  int64_t n_tok = args->x.shape[0], n_heads = args->x.shape[1], d = args->x.shape[2];
  int64_t n_pairs = args->cos.shape[1];
  if (args->x.dtype == KA_F64) return rope_ref(dev, args);
#pragma omp parallel for if (n_tok * n_heads * d > CPU_PARALLEL)
  for (int64_t t = 0; t < n_tok; t++)
    for (int64_t h = 0; h < n_heads; h++)
      for (int64_t i = 0; i < n_pairs; i += CPU_BLOCK) {
        int64_t head = (t * n_heads + h) * d + args->first, n = min64(CPU_BLOCK, n_pairs - i);
        if (args->interleaved)
          rotate_interleaved(args, head, get_id(&args->pos, t), i, n);
        else
          rotate(args, head, get_id(&args->pos, t), i, n);
      }
  return KA_STATUS_OK;
}
