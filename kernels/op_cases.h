/* SPDX-License-Identifier: Apache-2.0
 *
 * Sample calls of every op, for the op tests and `kappa bench ops`: a case names sizes and flags,
 * and ka_op_call_make builds operands with reproducible contents for a device and a dtype. */
#ifndef KAPPA_KERNELS_OP_CASES_H
#define KAPPA_KERNELS_OP_CASES_H

#include "kernels/check.h"

enum {
  KA_CASE_OPT = 1 << 0,    /* with the optional operands */
  KA_CASE_STRIDE = 1 << 1, /* rows further apart than their width, where the contract allows */
  KA_CASE_ALIAS = 1 << 2,  /* outputs in the memory of inputs, where the contract allows */
  KA_CASE_ACC = 1 << 3,    /* what is written holds values before */
  KA_CASE_WIDE = 1 << 4,   /* f32 output */
  KA_CASE_HALF = 1 << 5,   /* f16 output */
  KA_CASE_PACK = 1 << 6,
  KA_CASE_DOCS = 1 << 7,
  KA_CASE_SKIP = 1 << 8,  /* some indices say: skip this one */
  KA_CASE_SR = 1 << 9,    /* optimizer state in bf16, rounded stochastically */
  KA_CASE_BASE = 1 << 10, /* with the operands of a base model */
  KA_CASE_PERF = 1 << 11, /* for the bench, too large for the tests */
  KA_CASE_BIG = 1 << 12,  /* PERF with the sizes of an 8B Llama, for devices of their own */
};

struct ka_op_case {
  enum ka_op op;
  const char *sizes; /* "M33 N17 K101" */
  int flags;
  const char *text;    /* the scalars as written */
  const void *scalars; /* args of the op with nothing but scalars */
};

/* A case with its scalars: KA_OP_CASE(matmul, "M33 N17 K101", KA_CASE_PACK, .trans_b = 1). */
#define KA_OP_CASE(op, sizes, flags, ...)                                                          \
  {                                                                                                \
    KA_OP_##op, sizes, flags, #__VA_ARGS__, &(const struct ka_##op##_args) { __VA_ARGS__ }         \
  }

extern const struct ka_op_case ka_op_cases[];
extern const int ka_n_op_cases;

/* The args of any op. */
union ka_op_args {
#define KA_OP(name, ...) struct ka_##name##_args name;
#include "kernels/ops.def"
#undef KA_OP
};

struct ka_op_call {
  enum ka_op op;
  union ka_op_args args;
};

/* How the operands lie in memory. */
struct ka_op_layout {
  int64_t offset_elems; /* every operand starts this far from a 64-byte boundary */
  int64_t guard_bytes;  /* of 0xA5 before and after each operand */
};

/* Size of a letter in "M33 N17", or -1. */
int64_t ka_op_case_size(const char *sizes, char letter);

/* Builds one call, in host memory; operands come from `a`. Inputs lie in [-1, 1) and depend on
 * (seed, operand) only, so that two calls with one seed are equal; pure outputs start as NaN.
 * Operands marked x have dtype `x`. attn_bwd gets out and lse from ref's attn_fwd, but for PERF
 * cases, see ka_op_mirror_open. */
ka_status ka_op_call_make(struct ka_dev *dev, struct ka_arena *a, const struct ka_op_case *c,
                          enum ka_dtype x, uint64_t seed, struct ka_op_layout layout,
                          struct ka_op_call *out);

ka_status ka_op_call_run(struct ka_dev *dev, const struct ka_op_call *call);
void ka_op_call_cost(const struct ka_op_call *call, double *flops, double *bytes);

/* The call's tensor for operand i of ka_op_operands(call->op), writable. */
struct ka_tensor *ka_op_call_operand(struct ka_op_call *call, int i);

/* --- op_mirror.c --- */
struct ka_op_span {
  void *host, *device;
  size_t n_bytes;
};
struct ka_op_mirror {
  struct ka_dev *dev;
  struct ka_op_call call; /* with the operands where the device reads them */
  struct ka_op_span spans[KA_MAX_OPERANDS];
  int n;
};
/* Copies the operands (made with `layout`, on the host) to the device. forward_first: attn_bwd's
 * out and lse are made there. Close also after a failure. */
ka_status ka_op_mirror_open(struct ka_dev *dev, struct ka_op_mirror *m,
                            const struct ka_op_call *call, struct ka_op_layout layout,
                            bool forward_first);
/* Waits, and copies everything back into the host call's memory. */
ka_status ka_op_mirror_fetch(struct ka_op_mirror *m);
void ka_op_mirror_close(struct ka_op_mirror *m);

/* "M33 N17 K101 trans_b packed" */
const char *ka_op_case_text(const struct ka_op_case *c, char buf[128]);

#endif
