/* SPDX-License-Identifier: Apache-2.0
 * Arithmetic and memory traffic of one call: by the op's row (an operand read and written counts
 * twice), and by functions for the ops of which the row does not know enough. */
#include "kernels/check.h"

static double operand_bytes(enum ka_op op, const void *args) {
  double sum = 0;
  for (const struct ka_operand *o = ka_op_operands(op); o->name; o++) {
    const struct ka_tensor *t = ka_operand_of(o, args);
    if (!t->data) continue;
    double times = (o->flags & KA_READ ? 1 : 0) + (o->flags & KA_WRITE ? 1 : 0);
    sum += times * (double)ka_tensor_bytes(t);
  }
  return sum;
}

/* These touch only the picked rows of the table. */
static void embed_fwd(const struct ka_embed_fwd_args *args, double *flops, double *bytes) {
  *flops = 0;
  *bytes = 2 * (double)ka_tensor_bytes(&args->out) + (double)ka_tensor_bytes(&args->ids);
}

static void embed_bwd(const struct ka_embed_bwd_args *args, double *flops, double *bytes) {
  double rows = (double)ka_tensor_elems(&args->dout);
  *flops = 2 * rows;
  *bytes =
      (double)ka_tensor_bytes(&args->dout) + 2 * rows * (double)ka_dtype_bytes(args->dtable.dtype);
}

static void gather_rows(const struct ka_gather_rows_args *args, double *flops, double *bytes) {
  *flops = 0;
  *bytes = 2 * (double)ka_tensor_bytes(&args->out) + (double)ka_tensor_bytes(&args->index);
}

static void matmul(const struct ka_matmul_args *args, double *flops, double *bytes) {
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

static void attn_fwd(const struct ka_attn_fwd_args *args, double *flops, double *bytes) {
  const int64_t *q = args->q.shape;
  double width = (double)(q[3] + args->v.shape[3]);
  *flops = 2 * width * (double)(q[0] * q[2]) * pairs(q[1], args->q_offset, args->window);
  *bytes = operand_bytes(KA_OP_attn_fwd, args);
}

/* Five products to the forward pass's two. */
static void attn_bwd(const struct ka_attn_bwd_args *args, double *flops, double *bytes) {
  const int64_t *q = args->q.shape;
  double width = 3 * (double)q[3] + 2 * (double)args->v.shape[3];
  *flops = 2 * width * (double)(q[0] * q[2]) * pairs(q[1], 0, args->window);
  *bytes = operand_bytes(KA_OP_attn_bwd, args);
}

static void expert_matmul(const struct ka_expert_matmul_args *args, double *flops, double *bytes) {
  *flops = 2 * (double)args->a.shape[1] * (double)ka_tensor_elems(&args->out);
  *bytes = (double)ka_tensor_bytes(&args->a) + (double)ka_tensor_bytes(&args->b) +
           (args->accumulate ? 2 : 1) * (double)ka_tensor_bytes(&args->out);
}

/* Of the experts with a gradient, as if all had as many rows. */
static void expert_grad(const struct ka_expert_grad_args *args, double *flops, double *bytes) {
  int64_t n_experts = args->dw.shape[0], n = 0;
  for (int64_t e = 0; e < n_experts; e++) n += !args->dw_of || args->dw_of[e];
  double share = n_experts ? (double)n / (double)n_experts : 0;
  *flops = share * 2 * (double)args->b.shape[1] * (double)ka_tensor_elems(&args->a);
  *bytes = share * ((double)ka_tensor_bytes(&args->a) + (double)ka_tensor_bytes(&args->b) +
                    2 * (double)ka_tensor_bytes(&args->dw));
}

void ka_op_cost(enum ka_op op, const void *args, double *flops, double *bytes) {
  static const double flops_an_elem[KA_N_OPS] = {
#define KA_OP(name, class, flops, ...) flops,
#include "kernels/ops.def"
#undef KA_OP
  };
  switch (op) {
#define HAS(name)                                                                                  \
  case KA_OP_##name:                                                                               \
    name(args, flops, bytes);                                                                      \
    break;
    HAS(embed_fwd)
    HAS(embed_bwd)
    HAS(gather_rows)
    HAS(matmul)
    HAS(attn_fwd)
    HAS(attn_bwd)
    HAS(expert_matmul)
    HAS(expert_grad)
#undef HAS
  default:
    *flops = flops_an_elem[op] * (double)ka_tensor_elems(ka_operand_of(ka_op_operands(op), args));
    *bytes = operand_bytes(op, args);
  }
}
