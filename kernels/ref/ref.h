/* SPDX-License-Identifier: Apache-2.0
 *
 * The reference back end: plain C in double, one rounding when a result is stored. It serves every
 * dtype of the contract, and other back ends fall back to it slot by slot. */
#ifndef KAPPA_KERNELS_REF_REF_H
#define KAPPA_KERNELS_REF_REF_H

#include "kernels/device.h"

#define KA_OP(name, ...)                                                                           \
  ka_status name##_ref(struct ka_dev *dev, const struct ka_##name##_args *args);
#include "kernels/ops.def"
#undef KA_OP

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
