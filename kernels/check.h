/* SPDX-License-Identifier: Apache-2.0
 *
 * The operand table: what every op reads and writes, with which shapes and dtypes. The wrappers
 * check arguments against it, the cost functions take their bytes from it, and the op tests build
 * their operands from it. Private to kernels/ and its tests. */
#ifndef KAPPA_KERNELS_CHECK_H
#define KAPPA_KERNELS_CHECK_H

#include "kernels/device.h"

enum ka_operand_type {
  KA_TYPE_X,     /* f32, bf16 or f64, the same for all operands so marked */
  KA_TYPE_SUM,   /* f32; f64 when x is */
  KA_TYPE_XF32,  /* x, or f32 */
  KA_TYPE_FLOAT, /* f32, bf16, f16 or f64, freely */
  KA_TYPE_ANY,
  KA_TYPE_F32,
  KA_TYPE_F32BF16,
  KA_TYPE_F32F64,
  KA_TYPE_F64,
  KA_TYPE_I32,
  KA_TYPE_U8,
};

enum {
  KA_READ = 1,
  KA_WRITE = 2,
  KA_OPTIONAL = 4,
  KA_STRIDED = 8, /* any row stride */
};

struct ka_operand {
  const char *name; /* the field; NULL ends a list */
  size_t offset;    /* of the struct ka_tensor in the args */
  /* One letter a dimension, equal letters are equal sizes within a call; "*" is any shape, the same
   * for all operands so marked; "?" is any shape at all (checked by hand or not at all). */
  const char *dims;
  enum ka_operand_type type;
  int flags;
  const char *may_be; /* names of operands that this output may share memory with, or NULL */
};

enum { KA_MAX_OPERANDS = 16 };

/* The op's operands as ops.def lists them; a NULL name ends the list. */
const struct ka_operand *ka_op_operands(enum ka_op op);

/* The operand's tensor inside an args struct. */
static inline const struct ka_tensor *ka_operand_of(const struct ka_operand *o, const void *args) {
  return (const struct ka_tensor *)((const char *)args + o->offset);
}

/* Shapes, dtypes, strides, NULL and aliasing of all operands of one call. */
ka_status ka_check_operands(struct ka_ctx *ctx, enum ka_op op, const void *args);

/* What the table cannot say: relations between sizes and scalars. Most ops have none. */
ka_status ka_check_relations(struct ka_dev *dev, enum ka_op op, const void *args);

#endif
