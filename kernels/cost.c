/* SPDX-License-Identifier: Apache-2.0
 * Arithmetic and memory traffic of one call. Bytes come from the operand table (an operand read and
 * written counts twice); floating-point operations are counted for the ops where they matter. */
#include "kernels/check.h"

static double operand_bytes(enum ka_op op, const void *args) {
  double sum = 0;
  for (const struct ka_operand *o = ka_operands[op]; o->name; o++) {
    const struct ka_tensor *t = ka_operand_of(o, args);
    if (!t->data) continue;
    double times = (o->flags & KA_READ ? 1 : 0) + (o->flags & KA_WRITE ? 1 : 0);
    sum += times * (double)ka_tensor_bytes(t);
  }
  return sum;
}

/* Elementwise and reduction ops: a few operations an element of the tensor that sets the size. */
#define BY_ELEMENT(name, tensor, flops_an_elem)                                                    \
  void ka_##name##_cost(const struct ka_##name##_args *args, double *flops, double *bytes) {       \
    *flops = flops_an_elem * (double)ka_tensor_elems(&args->tensor);                               \
    *bytes = operand_bytes(KA_OP_##name, args);                                                    \
  }
BY_ELEMENT(fill, x, 0)
BY_ELEMENT(copy, out, 0)
BY_ELEMENT(add, out, 1)
BY_ELEMENT(scale, x, 1)
BY_ELEMENT(scatter_rows, x, 0)
BY_ELEMENT(rmsnorm_fwd, x, 4)
BY_ELEMENT(rmsnorm_bwd, s, 8)
BY_ELEMENT(rope, x, 3)
BY_ELEMENT(pack, b, 0)
BY_ELEMENT(bias_bwd, dout, 1)
BY_ELEMENT(glu_fwd, gate, 5)
BY_ELEMENT(glu_bwd, gate, 10)
BY_ELEMENT(xent, logits, 4)
BY_ELEMENT(sum, x, 1)
BY_ELEMENT(sumsq, x, 2)
BY_ELEMENT(adamw, w, 12)

/* These touch only the picked rows of the table. */
void ka_embed_fwd_cost(const struct ka_embed_fwd_args *args, double *flops, double *bytes) {
  *flops = 0;
  *bytes = 2 * (double)ka_tensor_bytes(&args->out) + (double)ka_tensor_bytes(&args->ids);
}

void ka_embed_bwd_cost(const struct ka_embed_bwd_args *args, double *flops, double *bytes) {
  double rows = (double)ka_tensor_elems(&args->dout);
  *flops = 2 * rows;
  *bytes =
      (double)ka_tensor_bytes(&args->dout) + 2 * rows * (double)ka_dtype_bytes(args->dtable.dtype);
}

void ka_gather_rows_cost(const struct ka_gather_rows_args *args, double *flops, double *bytes) {
  *flops = 0;
  *bytes = 2 * (double)ka_tensor_bytes(&args->out) + (double)ka_tensor_bytes(&args->index);
}

void ka_matmul_cost(const struct ka_matmul_args *args, double *flops, double *bytes) {
  double k = (double)args->a.shape[args->trans_a ? 0 : 1];
  *flops = 2 * k * (double)ka_tensor_elems(&args->out);
  *bytes = (double)ka_tensor_bytes(&args->a) + (double)ka_tensor_bytes(&args->b) +
           (args->accumulate ? 2 : 1) * (double)ka_tensor_bytes(&args->out);
}

/* Query-key pairs of the causal triangle within the window; document borders are not looked at. */
static double pairs(int64_t n_q, int64_t offset, int64_t window) {
  double sum = 0;
  for (int64_t i = 0; i < n_q; i++) {
    int64_t seen = offset + i + 1;
    sum += (double)(window > 0 && window < seen ? window : seen);
  }
  return sum;
}

void ka_attn_fwd_cost(const struct ka_attn_fwd_args *args, double *flops, double *bytes) {
  const int64_t *q = args->q.shape;
  double width = (double)(q[3] + args->v.shape[3]);
  *flops = 2 * width * (double)(q[0] * q[2]) * pairs(q[1], args->q_offset, args->window);
  *bytes = operand_bytes(KA_OP_attn_fwd, args);
}

/* Five products to the forward pass's two. */
void ka_attn_bwd_cost(const struct ka_attn_bwd_args *args, double *flops, double *bytes) {
  const int64_t *q = args->q.shape;
  double width = 3 * (double)q[3] + 2 * (double)args->v.shape[3];
  *flops = 2 * width * (double)(q[0] * q[2]) * pairs(q[1], 0, args->window);
  *bytes = operand_bytes(KA_OP_attn_bwd, args);
}
