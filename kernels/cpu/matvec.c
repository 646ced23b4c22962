/* SPDX-License-Identifier: Apache-2.0
 * Products of few rows with a weight, as one token after the other makes them: bound by reading the
 * weight, once, as it lies; a packed copy would only be read instead. Row by row, so that memory is
 * one stream: four rows at a time reach 10 of the 24 GB/s that one does. Each output is summed by
 * one thread, so that their number changes no bit. */
#include "kernels/cpu/dot.h"
#include "kernels/cpu/vec.h"

enum {
  MOST = 8, /* rows of a: beyond, the library gains more than reading b less often */
  SHARE = 64,
  AHEAD = 2048
};

bool cpu_matvec_takes(const struct ka_matmul_args *args) {
  return args->out.shape[0] <= MOST && !args->trans_a && args->trans_b && args->a.dtype != KA_F64;
}

static void store(const struct ka_matmul_args *args, int64_t r, int64_t o, float y) {
  const struct ka_tensor *out = &args->out;
  int64_t at = r * out->row_stride + o;
  if (args->bias.data) y += (float)ka_load(args->bias.data, args->bias.dtype, o);
  if (args->accumulate) y += (float)ka_load(out->data, out->dtype, at);
  if (out->dtype == KA_F32)
    ((float *)out->data)[at] = y;
  else
    ((uint16_t *)out->data)[at] = ka_f32_to_bf16(y);
}

static void output(const struct ka_matmul_args *args, int64_t o) {
  const struct ka_tensor *a = &args->a, *b = &args->b;
  int64_t k = b->shape[1], at = o * b->row_stride;
  bool f32 = b->dtype == KA_F32;
  const char *row = (const char *)b->data + (size_t)at * ka_dtype_bytes(b->dtype);
  for (int64_t i = 0; i < k * (f32 ? 4 : 2); i += 64) __builtin_prefetch(row + AHEAD + i);
  for (int64_t r = 0; r < args->out.shape[0]; r++) {
    int64_t from = r * a->row_stride;
    store(args, r, o,
          f32 ? dot_f32((const float *)a->data + from, (const float *)row, k)
              : dot_bf16((const uint16_t *)a->data + from, (const uint16_t *)row, k));
  }
}

ka_status cpu_matvec(struct ka_dev *dev, const struct ka_matmul_args *args) {
  int64_t n = args->out.shape[1];
  (void)dev;
#pragma omp parallel for if (n * args->a.shape[1] > CPU_PARALLEL)
  for (int64_t o = 0; o < n; o += SHARE)
    for (int64_t i = o; i < min64(o + SHARE, n); i++) output(args, i);
  return KA_STATUS_OK;
}
