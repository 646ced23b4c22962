/* SPDX-License-Identifier: Apache-2.0
 *
 * The reference back end: plain C in double, one rounding when a result is stored. It serves every
 * dtype of the contract, and other back ends fall back to it slot by slot. */
#ifndef KAPPA_KERNELS_REF_REF_H
#define KAPPA_KERNELS_REF_REF_H

#include "kernels/device.h"

#define KA_OP(name, class, summary)                                                                \
  ka_status name##_ref(struct ka_dev *dev, const struct ka_##name##_args *args);
#include "kernels/ops.def"
#undef KA_OP

/* All slots of a vtable as ref's, for designated initialisers. */
#define KA_REF_OPS                                                                                 \
  .fill = fill_ref, .copy = copy_ref, .add = add_ref, .scale = scale_ref,                          \
  .embed_fwd = embed_fwd_ref, .embed_bwd = embed_bwd_ref, .gather_rows = gather_rows_ref,          \
  .scatter_rows = scatter_rows_ref, .rmsnorm_fwd = rmsnorm_fwd_ref,                                \
  .rmsnorm_bwd = rmsnorm_bwd_ref, .rope = rope_ref, .pack = pack_ref, .matmul = matmul_ref,        \
  .bias_bwd = bias_bwd_ref, .attn_fwd = attn_fwd_ref, .attn_bwd = attn_bwd_ref,                    \
  .glu_fwd = glu_fwd_ref, .glu_bwd = glu_bwd_ref, .xent = xent_ref, .sum = sum_ref,                \
  .sumsq = sumsq_ref, .adamw = adamw_ref

/* Element i of a contiguous tensor. */
static inline double get(const struct ka_tensor *t, int64_t i) {
  return ka_load(t->data, t->dtype, i);
}
static inline void put(const struct ka_tensor *t, int64_t i, double v) {
  ka_data_store(t->data, t->dtype, i, v);
}
static inline void inc(const struct ka_tensor *t, int64_t i, double v) { put(t, i, get(t, i) + v); }

/* Element (r, c) of a matrix with any row stride. */
static inline double get2(const struct ka_tensor *t, int64_t r, int64_t c) {
  return get(t, r * t->row_stride + c);
}
static inline void put2(const struct ka_tensor *t, int64_t r, int64_t c, double v) {
  put(t, r * t->row_stride + c, v);
}

static inline int64_t get_id(const struct ka_tensor *t, int64_t i) {
  return ((const int32_t *)t->data)[i];
}

/* act(x) and its derivative. */
void ref_activate(enum ka_act act, double x, double *y, double *dy);

/* v rounded to a dtype and back. */
static inline double ref_round(enum ka_dtype t, double v) {
  double slot;
  ka_data_store(&slot, t, 0, v);
  return ka_load(&slot, t, 0);
}

/* A tensor of any rank as rows of its last dimension. */
static inline struct ka_tensor ref_rows(struct ka_tensor t) {
  int64_t width = t.n_dim ? t.shape[t.n_dim - 1] : 1, n = ka_tensor_elems(&t);
  struct ka_tensor m = ka_tensor_2d(t.data, t.dtype, width ? n / width : 0, width);
  if (t.n_dim >= 2) m.row_stride = t.row_stride;
  return m;
}

#endif
