/* SPDX-License-Identifier: Apache-2.0
 * Builds sample calls from the operand table: shapes from the letters, contents from a hash, index
 * operands by name. */
#include "kernels/op_cases.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  OPT = KA_CASE_OPT,
  STRIDE = KA_CASE_STRIDE,
  ALIAS = KA_CASE_ALIAS,
  ACC = KA_CASE_ACC,
  WIDE = KA_CASE_WIDE,
  HALF = KA_CASE_HALF,
  PACK = KA_CASE_PACK,
  DOCS = KA_CASE_DOCS,
  SKIP = KA_CASE_SKIP,
  SR = KA_CASE_SR,
  BASE = KA_CASE_BASE,
  PERF = KA_CASE_PERF,
  BIG = KA_CASE_BIG | KA_CASE_PERF,
};

const struct ka_op_case ka_op_cases[] = {
#define KA_CASE(op, sizes, flags, ...) KA_OP_CASE(op, sizes, flags, __VA_ARGS__),
#include "kernels/op_cases.def"
#undef KA_CASE
};
const int ka_n_op_cases = sizeof ka_op_cases / sizeof *ka_op_cases;

int64_t ka_op_case_size(const char *sizes, char letter) {
  for (const char *p = sizes; p && *p; p = strchr(p, ' ') ? strchr(p, ' ') + 1 : NULL)
    if (*p == letter) return strtoll(p + 1, NULL, 10);
  return -1;
}

const char *ka_op_case_text(const struct ka_op_case *c, char buf[128]) {
  static const struct {
    int flag;
    const char *name;
  } names[] = {{WIDE, "f32 out"}, {PACK, "packed"},   {DOCS, "docs"},
               {SKIP, "skip"},    {SR, "bf16 state"}, {BASE, "base"}};
  int n = snprintf(buf, 128, "%s", c->sizes);
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (c->flags & names[i].flag) n += snprintf(buf + n, (size_t)(128 - n), " %s", names[i].name);
  snprintf(buf + n, (size_t)(128 - n), "%s%.60s", c->text && *c->text ? " " : "",
           c->text ? c->text : "");
  return buf;
}

/* splitmix64 (Steele et al. 2014) of a counter: cheap, and the same for any filling order. */
static uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

static double uniform(uint64_t seed, int64_t i) { /* [-1, 1) */
  return (double)(mix(seed + (uint64_t)i) >> 40) * 0x1p-23 - 1;
}

/* What ka_op_call_make works with. */
struct make {
  struct ka_dev *dev;
  struct ka_arena *arena;
  const struct ka_op_case *c;
  enum ka_dtype x;
  uint64_t seed;
  struct ka_op_layout layout;
  struct ka_op_call *call;
};

static enum ka_dtype type_of(const struct make *m, const struct ka_operand *o) {
  bool output = o->flags & KA_WRITE, narrow = m->x == KA_F32 || m->x == KA_BF16;
  switch (o->type) {
  case KA_TYPE_SUM:
    return m->x == KA_F64 ? KA_F64 : KA_F32;
  case KA_TYPE_XF32:
  case KA_TYPE_FLOAT:
    if (output && m->c->flags & HALF) return KA_F16;
    return output && m->c->flags & WIDE && m->x == KA_BF16 ? KA_F32 : m->x;
  case KA_TYPE_F32BF16: /* adamw: state is read and written, the other weights are not */
    if (output && (o->flags & KA_READ || m->c->flags & ALIAS))
      return m->c->flags & SR && m->x == KA_BF16 ? KA_BF16 : KA_F32;
    return narrow ? m->x : KA_F32;
  case KA_TYPE_F32F64:
    return m->x == KA_F64 ? KA_F64 : KA_F32;
  case KA_TYPE_F32:
    return KA_F32;
  case KA_TYPE_F64:
    return KA_F64;
  case KA_TYPE_I32:
    return KA_I32;
  case KA_TYPE_U8:
    return KA_U8;
  case KA_TYPE_X:
  case KA_TYPE_ANY:
    break;
  }
  return m->x;
}

/* The dims string of an operand, with the table's wild cards filled in. */
static const char *dims_of(const struct make *m, const struct ka_operand *o) {
  if (*o->dims == '*' || strcmp(o->name, "x") == 0) return *o->dims == '?' ? "NC" : o->dims;
  if (strncmp(o->dims, "??", 2) != 0) return o->dims;
  if (m->c->op == KA_OP_expert_matmul) return m->call->args.expert_matmul.trans_b ? "ENK" : "EKN";
  if (m->c->op == KA_OP_pack) return m->call->args.pack.trans_b ? "NK" : "KN";
  const struct ka_matmul_args *mm = &m->call->args.matmul;
  if (strcmp(o->name, "a") == 0) return mm->trans_a ? "KM" : "MK";
  return mm->trans_b ? "NK" : "KN";
}

static ka_status place(struct make *m, struct ka_tensor *t, const char *name) {
  struct ka_ctx *ctx = m->dev->ctx;
  int64_t guard = m->layout.guard_bytes, size = (int64_t)ka_dtype_bytes(t->dtype);
  int64_t span = ka_tensor_elems(t), lead = m->layout.offset_elems * size;
  if (t->n_dim >= 2 && t->shape[t->n_dim - 1]) span = span / t->shape[t->n_dim - 1] * t->row_stride;
  int64_t total = guard + lead + span * size + guard;
  void *p;
  KA_TRY(ka_arena_alloc_n(m->arena, &p, total, 1, name));
  memset(p, 0xA5, (size_t)total);
  t->data = (char *)p + guard + lead;
  return KA_STATUS_OK;
}

/* index: k distinct experts a token, place: a permutation, live: every third is not. */
static int64_t expert_index(const struct make *m, const char *name, const struct ka_tensor *t,
                            int64_t i) {
  int64_t n = ka_tensor_elems(t), k = ka_op_case_size(m->c->sizes, 'k');
  int64_t n_experts = ka_op_case_size(m->c->sizes, 'E');
  if (strcmp(name, "place") == 0) return n - 1 - i;
  if (strcmp(name, "live") == 0) return i % 3 != 1;
  if (n_experts < 1) return 0;
  return (int64_t)((mix(m->seed + (uint64_t)(i / k)) + (uint64_t)(i % k)) % (uint64_t)n_experts);
}

/* Some experts have no rows, the last ones the most. */
static int64_t expert_offset(const struct make *m, const struct ka_tensor *t, int64_t i) {
  int64_t n_experts = t->shape[0] - 1, n_rows = ka_op_case_size(m->c->sizes, 'S');
  return n_experts > 0 ? n_rows * i * i / (n_experts * n_experts) : 0;
}

static void fill_indices(const struct make *m, const char *name, struct ka_tensor *t) {
  const char *sizes = m->c->sizes;
  int64_t n = ka_tensor_elems(t), range = ka_op_case_size(sizes, strcmp(name, "pos") ? 'V' : 'P');
  for (int64_t i = 0; i < n; i++) {
    int64_t v = range > 0 ? (int64_t)(mix(m->seed + (uint64_t)i) % (uint64_t)range) : 0;
    if (strcmp(name, "index") == 0) v = ka_op_case_size(sizes, 'N') - 1 - i;
    if (m->c->flags & SKIP && strcmp(name, "ids") != 0 && i % 3 == 1) v = -1;
    if (ka_op_case_size(sizes, 'k') > 0) v = expert_index(m, name, t, i);
    if (strcmp(name, "offsets") == 0) v = expert_offset(m, t, i);
    if (strcmp(name, "doc_start") == 0) {
      int64_t at = i % t->shape[1], length = 13 + 29 * (i / t->shape[1]);
      v = at - at % length;
    }
    ((int32_t *)t->data)[i] = (int32_t)v;
  }
}

static void fill_values(const struct make *m, const struct ka_operand *o, int number,
                        struct ka_tensor *t) {
  int64_t n = ka_tensor_elems(t), width = t->n_dim ? t->shape[t->n_dim - 1] : 1;
  bool pure_output = !(o->flags & KA_READ) && !(m->c->flags & ACC);
  bool positive = strcmp(o->name, "rstd") == 0 || strcmp(o->name, "scores") == 0 ||
                  strcmp(o->name, "stats") == 0 || (m->c->op == KA_OP_adamw && *o->name == 'v') ||
                  m->c->op == KA_OP_loss_weights;
  for (int64_t i = 0; i < n; i++) {
    int64_t at = t->n_dim >= 2 ? i / width * t->row_stride + i % width : i;
    double v = uniform(m->seed + (uint64_t)number * 0x100000001b3u, i);
    if (strcmp(o->name, "cos") == 0) v = cos(0.37 * (double)i);
    if (strcmp(o->name, "sin") == 0) v = sin(0.37 * (double)i);
    if (m->c->op == KA_OP_xent || strstr(m->c->text, "CLAMPED")) v *= 8;
    ka_data_store(t->data, t->dtype, at, pure_output ? NAN : positive ? fabs(v) : v);
  }
}

/* Is the operand there? Most that are optional go with OPT, some with flags of their own. */
static bool wanted(const struct make *m, const struct ka_operand *o) {
  static const struct {
    const char *name;
    int any_of;
  } own[] = {{"doc_start", DOCS}, {"base", BASE}, {"kl", BASE}, {"w0", BASE}};
  int f = m->c->flags;
  if (!(o->flags & KA_OPTIONAL)) return true;
  if (m->c->op == KA_OP_expert_matmul && strcmp(o->name, "b") == 0) return true;
  if (m->c->op == KA_OP_expert_grad) return true;
  if (m->c->op == KA_OP_matmul) {
    const struct ka_matmul_args *mm = &m->call->args.matmul;
    if (strcmp(o->name, "pre") == 0) return mm->epilogue != KA_EPILOGUE_NONE;
    if (strcmp(o->name, "bias_grad") == 0) return f & OPT && mm->trans_a;
    if (strcmp(o->name, "bias") == 0)
      return f & OPT && !mm->accumulate && mm->epilogue != KA_EPILOGUE_DGELU;
  }
  for (size_t i = 0; i < sizeof own / sizeof *own; i++)
    if (strcmp(o->name, own[i].name) == 0) return f & own[i].any_of;
  return f & OPT;
}

static ka_status make_operand(struct make *m, struct ka_op_call *call, int number) {
  struct ka_ctx *ctx = m->dev->ctx;
  const struct ka_operand *o = &ka_op_operands(call->op)[number];
  struct ka_tensor *t = ka_op_call_operand(call, number);
  if (!wanted(m, o) || o->type == KA_TYPE_U8) return KA_STATUS_OK;
  const char *dims = dims_of(m, o);
  if (*dims == '*') dims = "NC";
  int64_t shape[KA_MAX_DIM] = {0};
  for (int i = 0; dims[i]; i++)
    shape[i] = dims[i] == '1' ? 1 : ka_op_case_size(m->c->sizes, dims[i]);
  *t = ka_tensor_view(NULL, type_of(m, o), (int)strlen(dims), shape);
  if (t->n_dim == 2 && o->flags & KA_STRIDED && m->c->flags & STRIDE) t->row_stride += 5;
  KA_TRY(place(m, t, o->name));
  if (t->dtype == KA_I32)
    fill_indices(m, o->name, t);
  else
    fill_values(m, o, number, t);
  return KA_STATUS_OK;
}

/* Outputs that may be an input become it; only the first name of the list is tried. */
static void alias_operands(struct ka_op_call *call) {
  const struct ka_operand *list = ka_op_operands(call->op);
  for (int i = 0; list[i].name; i++)
    for (int j = 0; list[j].name && list[i].may_be; j++) {
      struct ka_tensor *out = ka_op_call_operand(call, i), *in = ka_op_call_operand(call, j);
      size_t n = strlen(list[j].name);
      if (strncmp(list[i].may_be, list[j].name, n) == 0 && strchr(" ", list[i].may_be[n]) &&
          out->data && in->data && out->dtype == in->dtype)
        *out = *in;
    }
}

/* out and lse of the forward pass, so that the backward pass sees a softmax that sums to one. */
static ka_status forward_first(struct make *m, struct ka_attn_bwd_args *args) {
  const struct ka_attn_fwd_args fwd = {.out = args->out,
                                       .lse = args->lse,
                                       .q = args->q,
                                       .k = args->k,
                                       .v = args->v,
                                       .doc_start = args->doc_start,
                                       .window = args->window,
                                       .scale = args->scale,
                                       .softcap = args->softcap};
  return ka_backend_ref.ops.attn_fwd(m->dev, &fwd);
}

static ka_status make_packed(struct make *m, struct ka_op_call *call) {
  struct ka_ctx *ctx = m->dev->ctx;
  struct ka_pack_args p = call->args.pack;
  if (call->op == KA_OP_matmul) {
    const struct ka_matmul_args *mm = &call->args.matmul;
    p = (struct ka_pack_args){.b = mm->b, .trans_b = mm->trans_b, .m = mm->out.shape[0]};
  }
  int64_t n_bytes = (int64_t)ka_pack_bytes(m->dev, &p);
  p.packed = ka_tensor_1d(NULL, KA_U8, n_bytes);
  KA_TRY(ka_tensor_alloc(m->arena, &p.packed, "packed", KA_U8, 1, &n_bytes));
  if (call->op == KA_OP_pack) call->args.pack = p;
  if (call->op != KA_OP_matmul || n_bytes == 0) return KA_STATUS_OK;
  KA_TRY(ka_pack(m->dev, &p));
  call->args.matmul.packed_b = p.packed;
  return KA_STATUS_OK;
}

static size_t args_bytes(enum ka_op op) {
  static const size_t bytes[KA_N_OPS] = {
#define KA_OP(name, ...) sizeof(struct ka_##name##_args),
#include "kernels/ops.def"
#undef KA_OP
  };
  return bytes[op];
}

ka_status ka_op_call_make(struct ka_dev *dev, struct ka_arena *a, const struct ka_op_case *c,
                          enum ka_dtype x, uint64_t seed, struct ka_op_layout layout,
                          struct ka_op_call *out) {
  struct ka_ctx *ctx = dev->ctx;
  struct make m = {dev, a, c, x, seed, layout, out};
  memset(out, 0, sizeof *out);
  out->op = c->op;
  if (c->scalars) memcpy(&out->args, c->scalars, args_bytes(c->op));
  for (int i = 0; ka_op_operands(c->op)[i].name; i++) KA_TRY(make_operand(&m, out, i));
  if (c->flags & ALIAS) alias_operands(out);
  if (c->op == KA_OP_attn_bwd && !(c->flags & PERF)) KA_TRY(forward_first(&m, &out->args.attn_bwd));
  if (c->flags & PACK || c->op == KA_OP_pack) KA_TRY(make_packed(&m, out));
  return KA_STATUS_OK;
}

struct ka_tensor *ka_op_call_operand(struct ka_op_call *call, int i) {
  return (struct ka_tensor *)((char *)&call->args + ka_op_operands(call->op)[i].offset);
}

ka_status ka_op_call_run(struct ka_dev *dev, const struct ka_op_call *call) {
  switch (call->op) {
#define KA_OP(name, ...)                                                                           \
  case KA_OP_##name:                                                                               \
    return ka_##name(dev, &call->args.name);
#include "kernels/ops.def"
#undef KA_OP
  case KA_N_OPS:
    break;
  }
  return ka_fail(dev->ctx, KA_E_INTERNAL, "op %d does not exist", (int)call->op);
}

void ka_op_call_cost(const struct ka_op_call *call, double *flops, double *bytes) {
  ka_op_cost(call->op, &call->args, flops, bytes);
}
