/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensors are views: they own nothing. The memory belongs to an arena, a file map or a buffer, and
 * the view is valid as long as that is. */
#ifndef KAPPA_KERNELS_TENSOR_H
#define KAPPA_KERNELS_TENSOR_H

#include "base/arena.h"

/* name, bytes, name in safetensors files, name in config.json */
#define KA_DTYPE_TABLE(X)                                                                          \
  X(F32, 4, "F32", "float32")                                                                      \
  X(BF16, 2, "BF16", "bfloat16")                                                                   \
  X(F16, 2, "F16", "float16")                                                                      \
  X(F64, 8, "F64", "float64")                                                                      \
  X(I32, 4, "I32", "int32")                                                                        \
  X(I64, 8, "I64", "int64")                                                                        \
  X(U8, 1, "U8", "uint8")

enum ka_dtype {
#define X(name, bytes, file_name, config_name) KA_##name,
  KA_DTYPE_TABLE(X)
#undef X
      KA_N_DTYPES
};

size_t ka_dtype_bytes(enum ka_dtype t);
const char *ka_dtype_name(enum ka_dtype t); /* as in safetensors files: "BF16" */
/* From either spelling ("BF16", "bfloat16"); false when unknown. */
bool ka_dtype_parse(const char *name, enum ka_dtype *out);

enum { KA_MAX_DIM = 6 };

/* Row-major. The last dimension is dense; `row_stride` is the distance in elements between
 * consecutive indices of dimension n_dim-2 (= shape[n_dim-1] when contiguous), and outer dimensions
 * are packed on top of that. A column slice of a matrix is a view with row_stride > shape[1]. */
struct ka_tensor {
  void *data;
  enum ka_dtype dtype;
  int n_dim;
  int64_t shape[KA_MAX_DIM];
  int64_t row_stride;
};

/* Contiguous view of `data`. */
struct ka_tensor ka_tensor_1d(void *data, enum ka_dtype t, int64_t n);
struct ka_tensor ka_tensor_2d(void *data, enum ka_dtype t, int64_t rows, int64_t cols);
struct ka_tensor ka_tensor_view(void *data, enum ka_dtype t, int n_dim, const int64_t *shape);

/* Rows [row, row+n_rows) and columns [col, col+n_cols) of a matrix. */
struct ka_tensor ka_tensor_slice(struct ka_tensor m, int64_t row, int64_t n_rows, int64_t col,
                                 int64_t n_cols);
/* The same elements seen as [shape[0], rest]; one-dimensional tensors become [1, n]. Contiguous
 * tensors only. */
struct ka_tensor ka_tensor_as_matrix(struct ka_tensor t);

int64_t ka_tensor_elems(const struct ka_tensor *t);
bool ka_tensor_contiguous(const struct ka_tensor *t);
/* Bytes of the elements (without row padding). */
size_t ka_tensor_bytes(const struct ka_tensor *t);

/* Allocates a contiguous tensor from an arena (NULL data on a measuring arena). */
ka_status ka_tensor_alloc(struct ka_arena *a, struct ka_tensor *out, const char *name,
                          enum ka_dtype dtype, int n_dim, const int64_t *shape);

/* bf16 is the upper half of an f32; rounding is to nearest even, NaN stays NaN. */
static inline float ka_bf16_to_f32(uint16_t b) {
  union {
    uint32_t u;
    float f;
  } v = {(uint32_t)b << 16};
  return v.f;
}
static inline uint16_t ka_f32_to_bf16(float f) {
  union {
    float f;
    uint32_t u;
  } v = {f};
  if ((v.u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((v.u >> 16) | 0x40u);
  return (uint16_t)((v.u + 0x7fffu + ((v.u >> 16) & 1u)) >> 16);
}
/* Up when the bits that are cut off exceed 2^16 - 1 - random, random in [0, 2^16): on average
 * exact. NaN and infinity stay. */
static inline uint16_t ka_f32_to_bf16_stochastic(float f, uint32_t random) {
  union {
    float f;
    uint32_t u;
  } v = {f};
  if ((v.u & 0x7f800000u) == 0x7f800000u) return ka_f32_to_bf16(f);
  return (uint16_t)((v.u + random) >> 16);
}
float ka_f16_to_f32(uint16_t h);
uint16_t ka_f32_to_f16(float f); /* nearest even, overflow to infinity */

/* Element i of a flat array of any dtype as double, and back (rounded to the dtype). For readers,
 * writers and the ref back end; kernels that care about speed do not use these. */
double ka_load(const void *data, enum ka_dtype t, int64_t i);
void ka_data_store(void *data, enum ka_dtype t, int64_t i, double v);
/* Converts n elements between dtypes; from and to may not overlap unless the dtypes are equal. */
void ka_convert(void *to, enum ka_dtype to_type, const void *from, enum ka_dtype from_type,
                int64_t n);

#endif
