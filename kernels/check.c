/* SPDX-License-Identifier: Apache-2.0
 * Argument checks: one table of operands, one walk over it, and the few relations that a table
 * cannot say. A failure here is the caller's mistake, so KA_E_INTERNAL. Values (token ids, targets)
 * are not looked at. */
#include "kernels/check.h"

#include <assert.h>
#include <string.h>

enum { R = KA_READ, W = KA_WRITE, RW = KA_READ | KA_WRITE, O = KA_OPTIONAL, S = KA_STRIDED };

/* One list an op, in a function of its own, so that `args` names the op's own struct. */
#define A(field, dims, ...) OPERAND(field, dims, __VA_ARGS__, NULL, )
#define OPERAND(field, dims, type, flags, may_be, ...)                                             \
  { #field, offsetof(args, field), dims, KA_TYPE_##type, flags, may_be }
#define KA_OP(name, class, flops, summary, ...)                                                    \
  static const struct ka_operand *name##_operands(void) {                                          \
    typedef struct ka_##name##_args args;                                                          \
    static const struct ka_operand list[] = {__VA_ARGS__, {0}};                                    \
    static_assert(sizeof list / sizeof *list <= KA_MAX_OPERANDS + 1, #name);                       \
    return list;                                                                                   \
  }
#include "kernels/ops.def"
#undef KA_OP

const struct ka_operand *ka_op_operands(enum ka_op op) {
  static const struct ka_operand *(*const lists[KA_N_OPS])(void) = {
#define KA_OP(name, ...) name##_operands,
#include "kernels/ops.def"
#undef KA_OP
  };
  return lists[op]();
}

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
  const struct ka_operand *list = ka_op_operands(op);
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
