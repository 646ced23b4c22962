/* SPDX-License-Identifier: Apache-2.0
 * Argument checks: one table of operands, one walk over it, and the few relations that a table
 * cannot say. A failure here is the caller's mistake, so KA_E_INTERNAL. Values (token ids, targets)
 * are not looked at. */
#include "kernels/check.h"

#include <string.h>

#define A(op, field, dims, type, flags, may_be)                                                    \
  { #field, offsetof(struct ka_##op##_args, field), dims, KA_TYPE_##type, flags, may_be }

enum { R = KA_READ, W = KA_WRITE, RW = KA_READ | KA_WRITE, O = KA_OPTIONAL, S = KA_STRIDED };

const struct ka_operand ka_operands[KA_N_OPS][KA_MAX_OPERANDS] = {
    [KA_OP_fill] = {A(fill, x, "*", ANY, W | S, NULL)},
    [KA_OP_copy] = {A(copy, out, "*", FLOAT, W | S, "in"), A(copy, in, "*", FLOAT, R | S, NULL)},
    [KA_OP_add] = {A(add, out, "*", X, W, "a b"), A(add, a, "*", X, R, NULL),
                   A(add, b, "*", X, R, NULL)},
    [KA_OP_scale] = {A(scale, x, "*", X, RW, NULL)},
    [KA_OP_embed_fwd] = {A(embed_fwd, out, "NC", X, W, NULL), A(embed_fwd, table, "VC", X, R, NULL),
                         A(embed_fwd, ids, "N", I32, R, NULL)},
    [KA_OP_embed_bwd] = {A(embed_bwd, dout, "NC", X, R | S, NULL),
                         A(embed_bwd, dtable, "VC", SUM, RW, NULL),
                         A(embed_bwd, ids, "N", I32, R, NULL)},
    [KA_OP_gather_rows] = {A(gather_rows, out, "RC", X, W, NULL),
                           A(gather_rows, x, "NC", X, R, NULL),
                           A(gather_rows, index, "R", I32, R, NULL)},
    [KA_OP_scatter_rows] = {A(scatter_rows, out, "NC", X, W, NULL),
                            A(scatter_rows, x, "RC", X, R, NULL),
                            A(scatter_rows, index, "R", I32, R, NULL)},
    [KA_OP_rmsnorm_fwd] = {A(rmsnorm_fwd, y, "NC", X, W, NULL),
                           A(rmsnorm_fwd, rstd, "N", SUM, W | O, NULL),
                           A(rmsnorm_fwd, sum, "NC", X, W | O, "x delta"),
                           A(rmsnorm_fwd, x, "NC", X, R, NULL),
                           A(rmsnorm_fwd, delta, "NC", X, R | O, NULL),
                           A(rmsnorm_fwd, w, "C", X, R, NULL)},
    [KA_OP_rmsnorm_bwd] = {A(rmsnorm_bwd, dx, "NC", X, W, "dy"),
                           A(rmsnorm_bwd, dw, "C", SUM, RW | O, NULL),
                           A(rmsnorm_bwd, dy, "NC", X, R, NULL),
                           A(rmsnorm_bwd, s, "NC", X, R, NULL),
                           A(rmsnorm_bwd, rstd, "N", SUM, R, NULL),
                           A(rmsnorm_bwd, w, "C", X, R, NULL)},
    [KA_OP_rope] = {A(rope, x, "NHD", X, RW, NULL), A(rope, cos, "Pr", F32, R, NULL),
                    A(rope, sin, "Pr", F32, R, NULL), A(rope, pos, "N", I32, R, NULL)},
    [KA_OP_pack] = {A(pack, packed, "?", U8, W, NULL), A(pack, b, "??", X, R | S, NULL)},
    [KA_OP_matmul] = {A(matmul, a, "??", X, R | S, NULL), A(matmul, b, "??", X, R | S, NULL),
                      A(matmul, out, "MN", XF32, W | S, NULL), A(matmul, bias, "N", X, R | O, NULL),
                      A(matmul, packed_b, "?", U8, R | O, NULL),
                      A(matmul, pre, "MN", X, RW | O | S, NULL),
                      A(matmul, bias_grad, "M", SUM, RW | O, NULL)},
    [KA_OP_bias_bwd] = {A(bias_bwd, dout, "MN", X, R | S, NULL),
                        A(bias_bwd, dbias, "N", SUM, RW, NULL)},
    [KA_OP_attn_fwd] = {A(attn_fwd, q, "BTHD", X, R, NULL), A(attn_fwd, k, "BSKD", X, R, NULL),
                        A(attn_fwd, v, "BSKv", X, R, NULL), A(attn_fwd, out, "BTHv", X, W, NULL),
                        A(attn_fwd, lse, "BHT", SUM, W | O, NULL),
                        A(attn_fwd, doc_start, "BT", I32, R | O, NULL)},
    [KA_OP_attn_bwd] = {A(attn_bwd, q, "BTHD", X, R, NULL), A(attn_bwd, k, "BTKD", X, R, NULL),
                        A(attn_bwd, v, "BTKv", X, R, NULL), A(attn_bwd, out, "BTHv", X, R, NULL),
                        A(attn_bwd, dout, "BTHv", X, R, NULL),
                        A(attn_bwd, lse, "BHT", SUM, R, NULL),
                        A(attn_bwd, doc_start, "BT", I32, R | O, NULL),
                        A(attn_bwd, dq, "BTHD", X, W, NULL), A(attn_bwd, dk, "BTKD", X, W, NULL),
                        A(attn_bwd, dv, "BTKv", X, W, NULL)},
    [KA_OP_glu_fwd] = {A(glu_fwd, out, "NF", X, W, "gate up"), A(glu_fwd, gate, "NF", X, R, NULL),
                       A(glu_fwd, up, "NF", X, R, NULL)},
    [KA_OP_glu_bwd] = {A(glu_bwd, dgate, "NF", X, W, "gate"), A(glu_bwd, dup, "NF", X, W, "up"),
                       A(glu_bwd, out, "NF", X, W | O, "dout"), A(glu_bwd, dout, "NF", X, R, NULL),
                       A(glu_bwd, gate, "NF", X, R, NULL), A(glu_bwd, up, "NF", X, R, NULL)},
    [KA_OP_xent] = {A(xent, logits, "RV", X, RW, NULL), A(xent, targets, "R", I32, R, NULL),
                    A(xent, scale, "1", SUM, R | O, NULL), A(xent, base, "RV", X, R | O, NULL),
                    A(xent, loss, "R", SUM, W, NULL), A(xent, kl, "R", SUM, W | O, NULL),
                    A(xent, argmax, "R", I32, W | O, NULL)},
    [KA_OP_sum] = {A(sum, out, "1", F64, RW, NULL), A(sum, x, "?", F32F64, R, NULL)},
    [KA_OP_sumsq] = {A(sumsq, out, "1", F64, RW, NULL), A(sumsq, x, "?", F32, R, NULL)},
    [KA_OP_adamw] = {A(adamw, weight, "*", F32BF16, W | S, "w"),
                     A(adamw, w, "*", F32BF16, RW | S, NULL), A(adamw, m, "*", F32BF16, RW, NULL),
                     A(adamw, v, "*", F32BF16, RW, NULL), A(adamw, grad, "*", F32, R, NULL),
                     A(adamw, w0, "*", F32BF16, R | O | S, NULL),
                     A(adamw, health, "h", F64, R | O, NULL)},
};
#undef A

/* What the walk over one call's operands has learned so far. */
struct call {
  struct ka_ctx *ctx;
  const char *op;
  const struct ka_tensor *star; /* first "*" operand */
  int64_t size[128];            /* by letter, -1 = unseen */
  enum ka_dtype x;
  bool have_x;
};

static ka_status check_type(struct call *c, const struct ka_operand *o, const struct ka_tensor *t) {
  struct ka_ctx *ctx = c->ctx;
  enum ka_dtype d = t->dtype, sum = c->x == KA_F64 ? KA_F64 : KA_F32;
  if (o->type == KA_TYPE_X && !c->have_x) {
    c->x = d;
    c->have_x = true;
  }
  bool is_x = d == KA_F32 || d == KA_BF16 || d == KA_F64;
  const bool good[] = {
      [KA_TYPE_X] = is_x && d == c->x,
      [KA_TYPE_SUM] = d == sum,
      [KA_TYPE_XF32] = d == c->x || (d == KA_F32 && c->x == KA_BF16),
      [KA_TYPE_FLOAT] = is_x || d == KA_F16,
      [KA_TYPE_ANY] = true,
      [KA_TYPE_F32] = d == KA_F32,
      [KA_TYPE_F32BF16] = d == KA_F32 || d == KA_BF16,
      [KA_TYPE_F32F64] = d == KA_F32 || d == KA_F64,
      [KA_TYPE_F64] = d == KA_F64,
      [KA_TYPE_I32] = d == KA_I32,
      [KA_TYPE_U8] = d == KA_U8,
  };
  if (!good[o->type])
    return ka_fail(ctx, KA_E_INTERNAL, "%s: %s has dtype %s%s%s", c->op, o->name, ka_dtype_name(d),
                   c->have_x ? ", which does not go with " : "",
                   c->have_x ? ka_dtype_name(c->x) : "");
  return KA_STATUS_OK;
}

static bool same_shape(const struct ka_tensor *a, const struct ka_tensor *b) {
  return a->n_dim == b->n_dim &&
         memcmp(a->shape, b->shape, (size_t)a->n_dim * sizeof a->shape[0]) == 0;
}

static ka_status check_shape(struct call *c, const struct ka_operand *o,
                             const struct ka_tensor *t) {
  struct ka_ctx *ctx = c->ctx;
  if (*o->dims == '*') {
    if (!c->star) c->star = t;
    if (!same_shape(t, c->star))
      return ka_fail(ctx, KA_E_INTERNAL, "%s: %s has another shape than the first operand", c->op,
                     o->name);
  } else if (*o->dims != '?' || o->dims[1]) {
    if ((size_t)t->n_dim != strlen(o->dims))
      return ka_fail(ctx, KA_E_INTERNAL, "%s: %s has %d dimensions, expected [%s]", c->op, o->name,
                     t->n_dim, o->dims);
    for (int i = 0; i < t->n_dim; i++) {
      int letter = o->dims[i];
      if (letter == '?') continue;
      int64_t *size = &c->size[letter];
      if (letter == '1') *size = 1;
      if (*size < 0) *size = t->shape[i];
      if (*size != t->shape[i])
        return ka_fail(ctx, KA_E_INTERNAL, "%s: %s [%s] has %c = %lld, expected %lld", c->op,
                       o->name, o->dims, letter, (long long)t->shape[i], (long long)*size);
    }
  }
  if (!(o->flags & KA_STRIDED) && !ka_tensor_contiguous(t))
    return ka_fail(ctx, KA_E_INTERNAL, "%s: %s must be contiguous", c->op, o->name);
  if (t->n_dim >= 2 && t->row_stride < t->shape[t->n_dim - 1])
    return ka_fail(ctx, KA_E_INTERNAL, "%s: %s has a row stride below its width", c->op, o->name);
  return KA_STATUS_OK;
}

/* Bytes from the first to one past the last element, padding between rows included. */
static size_t span_bytes(const struct ka_tensor *t) {
  int64_t n = ka_tensor_elems(t);
  if (n == 0) return 0;
  int64_t width = t->n_dim ? t->shape[t->n_dim - 1] : 1;
  if (t->n_dim >= 2) n = (n / width - 1) * t->row_stride + width;
  return (size_t)n * ka_dtype_bytes(t->dtype);
}

/* Two column slices of one matrix interleave without sharing an element. */
static bool interleaved(const struct ka_tensor *a, const struct ka_tensor *b) {
  if (a->n_dim < 2 || b->n_dim < 2 || a->dtype != b->dtype || a->row_stride != b->row_stride)
    return false;
  int64_t stride = a->row_stride, bytes = (int64_t)ka_dtype_bytes(a->dtype);
  int64_t apart = ((const char *)b->data - (const char *)a->data) / bytes % stride;
  if (apart < 0) apart += stride;
  return a->shape[a->n_dim - 1] <= apart && apart + b->shape[b->n_dim - 1] <= stride;
}

static bool overlaps(const struct ka_tensor *a, const struct ka_tensor *b) {
  const char *pa = a->data, *pb = b->data;
  size_t na = span_bytes(a), nb = span_bytes(b);
  return na && nb && pa < pb + nb && pb < pa + na && !interleaved(a, b);
}

static bool identical(const struct ka_tensor *a, const struct ka_tensor *b) {
  return a->data == b->data && a->dtype == b->dtype && a->row_stride == b->row_stride;
}

static bool listed(const char *names, const char *name) {
  size_t n = strlen(name);
  for (const char *p = names; p && (p = strstr(p, name)); p += n)
    if ((p == names || p[-1] == ' ') && (p[n] == ' ' || !p[n])) return true;
  return false;
}

static ka_status check_alias(struct call *c, const struct ka_operand *list,
                             const struct ka_operand *out, const void *args) {
  struct ka_ctx *ctx = c->ctx;
  const struct ka_tensor *t = ka_operand_of(out, args);
  for (const struct ka_operand *o = list; o->name; o++) {
    const struct ka_tensor *u = ka_operand_of(o, args);
    if (o == out || !u->data || !overlaps(t, u)) continue;
    if (identical(t, u) && (listed(out->may_be, o->name) || listed(o->may_be, out->name))) continue;
    return ka_fail(ctx, KA_E_INTERNAL, "%s: %s may not share memory with %s", c->op, out->name,
                   o->name);
  }
  return KA_STATUS_OK;
}

ka_status ka_check_operands(struct ka_ctx *ctx, enum ka_op op, const void *args) {
  struct call c = {.ctx = ctx, .op = ka_op_name(op)};
  for (size_t i = 0; i < sizeof c.size / sizeof *c.size; i++) c.size[i] = -1;
  const struct ka_operand *list = ka_operands[op];
  for (const struct ka_operand *o = list; o->name; o++) {
    const struct ka_tensor *t = ka_operand_of(o, args);
    if (!t->data && o->flags & KA_OPTIONAL) continue;
    KA_TRY(check_type(&c, o, t));
    KA_TRY(check_shape(&c, o, t));
    if (!t->data && ka_tensor_elems(t) > 0)
      return ka_fail(ctx, KA_E_INTERNAL, "%s: %s is NULL", c.op, o->name);
  }
  for (const struct ka_operand *o = list; o->name; o++)
    if (o->flags & KA_WRITE && ka_operand_of(o, args)->data) KA_TRY(check_alias(&c, list, o, args));
  return KA_STATUS_OK;
}
