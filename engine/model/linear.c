/* SPDX-License-Identifier: Apache-2.0
 * Linear layers and vector parameters against the trained slices: the weight gradient of a slice is
 * a product of a column slice of dy and a column slice of x. */
#include "engine/model/plan.h"

enum ka_dtype ka_wide(const struct ka_model *m) { return m->compute == KA_F64 ? KA_F64 : KA_F32; }

struct ka_tensor ka_mat(const struct ka_model *m, void *data, int64_t rows, int64_t cols) {
  return ka_tensor_2d(data, m->compute, rows, cols);
}

struct ka_tensor ka_stat(const struct ka_model *m, void *data, int64_t n) {
  return ka_tensor_1d(data, ka_wide(m), n);
}

ka_status ka_linear_fwd(struct ka_model *m, struct ka_tensor out, struct ka_tensor x,
                        const struct ka_param *w, const struct ka_param *bias) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_tensor packed;
  KA_TRY(ka_weight_packed(m, w, true, x.shape[0], &packed));
  return ka_matmul(m->dev,
                   &(struct ka_matmul_args){.out = out,
                                            .a = x,
                                            .b = w->weight,
                                            .packed_b = packed,
                                            .bias = bias ? bias->weight : (struct ka_tensor){0},
                                            .trans_b = true});
}

ka_status ka_linear_dx(struct ka_model *m, struct ka_tensor dx, struct ka_tensor dy,
                       const struct ka_param *w, bool accumulate) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_tensor packed;
  KA_TRY(ka_weight_packed(m, w, false, dy.shape[0], &packed));
  return ka_matmul(
      m->dev,
      &(struct ka_matmul_args){
          .out = dx, .a = dy, .b = w->weight, .packed_b = packed, .accumulate = accumulate});
}

ka_status ka_linear_dw(struct ka_model *m, struct ka_tensor dy, struct ka_tensor x,
                       const struct ka_param *w, const struct ka_param *bias) {
  struct ka_ctx *ctx = m->ctx;
  int64_t p = w - m->params, n = dy.shape[0];
  struct ka_tensor dbias = {0}, open = {0};
  if (bias) KA_TRY(ka_vector_grad_begin(m, bias, &dbias));
  open = dbias; /* goes with the first product over all of dy's columns, or alone */
  for (int64_t i = m->buffers->first_slice[p]; i < m->buffers->first_slice[p + 1]; i++) {
    const struct ka_slice *s = &m->slices[i];
    bool all = s->n_rows == dy.shape[1];
    KA_TRY(ka_matmul(m->dev,
                     &(struct ka_matmul_args){.out = s->grad,
                                              .a = ka_tensor_slice(dy, 0, n, s->row, s->n_rows),
                                              .b = ka_tensor_slice(x, 0, n, s->col, s->n_cols),
                                              .bias_grad = all ? open : (struct ka_tensor){0},
                                              .trans_a = true,
                                              .accumulate = true}));
    if (all) open.data = NULL;
  }
  if (open.data) KA_TRY(ka_bias_bwd(m->dev, &(struct ka_bias_bwd_args){.dbias = open, .dout = dy}));
  return bias ? ka_vector_grad_end(m, bias, dbias) : KA_STATUS_OK;
}

static bool whole(const struct ka_slice *s, int64_t n) { return s->col == 0 && s->n_cols == n; }

ka_status ka_vector_grad_begin(struct ka_model *m, const struct ka_param *p, struct ka_tensor *dw) {
  struct ka_ctx *ctx = m->ctx;
  *dw = (struct ka_tensor){0};
  if (!p->trained) return KA_STATUS_OK;
  int64_t n = ka_tensor_elems(&p->weight);
  const struct ka_slice *s = &m->slices[m->buffers->first_slice[p - m->params]];
  *dw = ka_stat(m, whole(s, n) ? s->grad.data : m->buffers->dvec, n);
  if (!whole(s, n)) KA_TRY(ka_fill(m->dev, &(struct ka_fill_args){.x = *dw}));
  return KA_STATUS_OK;
}

ka_status ka_vector_grad_end(struct ka_model *m, const struct ka_param *p, struct ka_tensor dw) {
  struct ka_ctx *ctx = m->ctx;
  if (!dw.data || dw.data != m->buffers->dvec) return KA_STATUS_OK;
  int64_t i = p - m->params;
  for (int64_t k = m->buffers->first_slice[i]; k < m->buffers->first_slice[i + 1]; k++) {
    const struct ka_slice *s = &m->slices[k];
    struct ka_tensor grad = ka_stat(m, s->grad.data, s->n_cols);
    struct ka_tensor part =
        ka_stat(m, (char *)dw.data + (size_t)s->col * ka_dtype_bytes(dw.dtype), s->n_cols);
    KA_TRY(ka_add(m->dev, &(struct ka_add_args){.out = grad, .a = grad, .b = part}));
  }
  return KA_STATUS_OK;
}
