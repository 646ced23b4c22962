/* SPDX-License-Identifier: Apache-2.0
 * Linear layers and vector parameters against the trained pieces: the weight gradient of a piece is
 * a product of a column slice of dy and a column slice of x. A weight stored [in, out] swaps the
 * roles of the two and of the operand that is transposed; nothing is copied. */
#include "engine/model/buffers.h"

enum ka_dtype ka_accum_dtype(const struct ka_model *m) {
  return m->compute == KA_F64 ? KA_F64 : KA_F32;
}

struct ka_tensor ka_mat(const struct ka_model *m, void *data, int64_t rows, int64_t cols) {
  return ka_tensor_2d(data, m->compute, rows, cols);
}

struct ka_tensor ka_stat(const struct ka_model *m, void *data, int64_t n) {
  return ka_tensor_1d(data, ka_accum_dtype(m), n);
}

/* The product with a weight, by what args say besides the weight. */
static ka_status product(struct ka_model *m, const struct ka_weight *w, bool forward,
                         struct ka_matmul_args args) {
  struct ka_ctx *ctx = m->ctx;
  args.b = w->w;
  args.trans_b = forward != w->transposed;
  KA_TRY(ka_weight_packed(m, w, forward, args.a.shape[0], &args.packed_b));
  return ka_matmul(m->dev, &args);
}

static struct ka_tensor bias_of(const struct ka_weight *bias) {
  return bias ? bias->w : (struct ka_tensor){0};
}

ka_status ka_linear_fwd(struct ka_model *m, struct ka_tensor out, struct ka_tensor x,
                        const struct ka_weight *w, const struct ka_weight *bias) {
  return product(m, w, true, (struct ka_matmul_args){.out = out, .a = x, .bias = bias_of(bias)});
}

ka_status ka_linear_gelu_fwd(struct ka_model *m, struct ka_tensor out, struct ka_tensor pre,
                             struct ka_tensor x, const struct ka_weight *w,
                             const struct ka_weight *bias) {
  return product(m, w, true,
                 (struct ka_matmul_args){.out = out,
                                         .a = x,
                                         .pre = pre.data ? pre : (struct ka_tensor){0},
                                         .bias = bias_of(bias),
                                         .epilogue = KA_EPILOGUE_GELU});
}

ka_status ka_linear_dx(struct ka_model *m, struct ka_tensor dx, struct ka_tensor dy,
                       const struct ka_weight *w, bool accumulate) {
  return product(m, w, false,
                 (struct ka_matmul_args){.out = dx, .a = dy, .accumulate = accumulate});
}

ka_status ka_linear_gelu_dx(struct ka_model *m, struct ka_tensor dx, struct ka_tensor pre,
                            struct ka_tensor dy, const struct ka_weight *w) {
  return product(
      m, w, false,
      (struct ka_matmul_args){.out = dx, .a = dy, .pre = pre, .epilogue = KA_EPILOGUE_DGELU});
}

ka_status ka_linear_dw(struct ka_model *m, struct ka_tensor dy, struct ka_tensor x,
                       const struct ka_weight *w, const struct ka_weight *bias) {
  struct ka_ctx *ctx = m->ctx;
  int64_t n = dy.shape[0];
  struct ka_tensor dbias = {0}, open = {0};
  if (bias) KA_TRY(ka_vector_grad_begin(m, bias, 0, &dbias));
  open = dbias; /* goes with the first product over all of dy's columns, or alone */
  struct ka_tensor left = w->transposed ? x : dy, right = w->transposed ? dy : x;
  for (int64_t i = 0; i < w->n_pieces; i++) {
    const struct ka_piece *p = &w->pieces[i];
    bool all = !w->transposed && p->n_rows == dy.shape[1];
    KA_TRY(ka_matmul(m->dev,
                     &(struct ka_matmul_args){.out = p->grad,
                                              .a = ka_tensor_slice(left, 0, n, p->row, p->n_rows),
                                              .b = ka_tensor_slice(right, 0, n, p->col, p->n_cols),
                                              .bias_grad = all ? open : (struct ka_tensor){0},
                                              .trans_a = true,
                                              .accumulate = true}));
    if (all) open.data = NULL;
  }
  if (open.data) KA_TRY(ka_bias_bwd(m->dev, &(struct ka_bias_bwd_args){.dbias = open, .dout = dy}));
  return bias ? ka_vector_grad_end(m, bias, dbias) : KA_STATUS_OK;
}

ka_status ka_vector_grad_begin(struct ka_model *m, const struct ka_weight *p, int place,
                               struct ka_tensor *dw) {
  struct ka_ctx *ctx = m->ctx;
  *dw = (struct ka_tensor){0};
  if (!ka_weight_trained(p)) return KA_STATUS_OK;
  int64_t n = ka_tensor_elems(&p->w);
  bool whole = p->pieces[0].n_cols == n;
  *dw = ka_stat(m, whole ? p->pieces[0].grad.data : m->buffers->dvec[place], n);
  if (!whole) KA_TRY(ka_fill(m->dev, &(struct ka_fill_args){.x = *dw}));
  return KA_STATUS_OK;
}

ka_status ka_vector_grad_end(struct ka_model *m, const struct ka_weight *p, struct ka_tensor dw) {
  struct ka_ctx *ctx = m->ctx;
  if (!dw.data || dw.data == p->pieces[0].grad.data) return KA_STATUS_OK;
  for (int64_t k = 0; k < p->n_pieces; k++) {
    const struct ka_piece *s = &p->pieces[k];
    struct ka_tensor grad = ka_stat(m, s->grad.data, s->n_cols);
    struct ka_tensor part =
        ka_stat(m, (char *)dw.data + (size_t)s->col * ka_dtype_bytes(dw.dtype), s->n_cols);
    KA_TRY(ka_add(m->dev, &(struct ka_add_args){.out = grad, .a = grad, .b = part}));
  }
  return KA_STATUS_OK;
}
