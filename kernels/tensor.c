/* SPDX-License-Identifier: Apache-2.0
 * Views, dtypes and conversions. */
#include "kernels/tensor.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static const struct {
  size_t bytes;
  const char *file_name, *config_name;
} dtypes[KA_N_DTYPES] = {
#define X(name, bytes, file_name, config_name) [KA_##name] = {bytes, file_name, config_name},
    KA_DTYPE_TABLE(X)
#undef X
};

size_t ka_dtype_bytes(enum ka_dtype t) { return dtypes[t].bytes; }
const char *ka_dtype_name(enum ka_dtype t) { return dtypes[t].file_name; }

bool ka_dtype_parse(const char *name, enum ka_dtype *out) {
  for (int i = 0; i < KA_N_DTYPES; i++)
    if (strcmp(name, dtypes[i].file_name) == 0 || strcmp(name, dtypes[i].config_name) == 0) {
      *out = (enum ka_dtype)i;
      return true;
    }
  return false;
}

struct ka_tensor ka_tensor_view(void *data, enum ka_dtype t, int n_dim, const int64_t *shape) {
  assert(n_dim >= 0 && n_dim <= KA_MAX_DIM);
  struct ka_tensor v = {.data = data, .dtype = t, .n_dim = n_dim};
  for (int i = 0; i < n_dim; i++) v.shape[i] = shape[i];
  v.row_stride = n_dim > 0 ? shape[n_dim - 1] : 1;
  return v;
}

struct ka_tensor ka_tensor_1d(void *data, enum ka_dtype t, int64_t n) {
  return ka_tensor_view(data, t, 1, &n);
}

struct ka_tensor ka_tensor_2d(void *data, enum ka_dtype t, int64_t rows, int64_t cols) {
  return ka_tensor_view(data, t, 2, (int64_t[]){rows, cols});
}

struct ka_tensor ka_tensor_slice(struct ka_tensor m, int64_t row, int64_t n_rows, int64_t col,
                                 int64_t n_cols) {
  assert(m.n_dim == 2 && row >= 0 && col >= 0 && row + n_rows <= m.shape[0] &&
         col + n_cols <= m.shape[1]);
  if (m.data)
    m.data = (char *)m.data + (size_t)(row * m.row_stride + col) * ka_dtype_bytes(m.dtype);
  m.shape[0] = n_rows;
  m.shape[1] = n_cols;
  return m;
}

struct ka_tensor ka_tensor_as_matrix(struct ka_tensor t) {
  assert(ka_tensor_contiguous(&t));
  int64_t rows = t.n_dim >= 2 ? t.shape[0] : 1, cols = 1;
  for (int i = t.n_dim >= 2 ? 1 : 0; i < t.n_dim; i++) cols *= t.shape[i];
  return ka_tensor_2d(t.data, t.dtype, rows, cols);
}

int64_t ka_tensor_elems(const struct ka_tensor *t) {
  int64_t n = 1;
  for (int i = 0; i < t->n_dim; i++) n *= t->shape[i];
  return n;
}

bool ka_tensor_contiguous(const struct ka_tensor *t) {
  return t->n_dim < 2 || t->row_stride == t->shape[t->n_dim - 1] ||
         ka_tensor_elems(t) == t->shape[t->n_dim - 1];
}

size_t ka_tensor_bytes(const struct ka_tensor *t) {
  return (size_t)ka_tensor_elems(t) * ka_dtype_bytes(t->dtype);
}

ka_status ka_tensor_alloc(struct ka_arena *a, struct ka_tensor *out, const char *name,
                          enum ka_dtype dtype, int n_dim, const int64_t *shape) {
  struct ka_ctx *ctx = a->ctx;
  *out = ka_tensor_view(NULL, dtype, n_dim, shape);
  int64_t n = 1;
  for (int i = 0; i < n_dim; i++)
    if (shape[i] < 0 || __builtin_mul_overflow(n, shape[i], &n))
      return ka_fail(ctx, KA_E_MEMORY, "%s: shape overflows", name);
  KA_TRY(ka_arena_alloc_n(a, &out->data, n, ka_dtype_bytes(dtype), name));
  return KA_STATUS_OK;
}

float ka_f16_to_f32(uint16_t h) {
  int exponent = h >> 10 & 31, mantissa = h & 1023;
  float sign = h & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * ldexpf((float)mantissa, -24);
  return sign * ldexpf((float)(mantissa | 1024), exponent - 25);
}

uint16_t ka_f32_to_f16(float f) {
  uint16_t sign = signbit(f) ? 0x8000 : 0;
  if (isnan(f)) return sign | 0x7e00;
  float a = fabsf(f);
  if (a >= 65520.0f) return sign | 0x7c00;
  if (a == 0) return sign; /* frexpf gives it the exponent of [0.5, 1) */
  int e;
  (void)frexpf(a, &e);                           /* a in [2^(e-1), 2^e) */
  int scale = e - 1 < -14 ? -24 : e - 1 - 10;    /* exponent of the last kept bit */
  long m = lrintf(ldexpf(a, -scale));            /* nearest even in the default mode */
  if (scale == -24) return (uint16_t)(sign | m); /* subnormal, or carries into the first normal */
  return (uint16_t)(sign | (((e - 1 + 15) << 10) + (m - 1024)));
}

double ka_load(const void *data, enum ka_dtype t, int64_t i) {
  switch (t) {
  case KA_F32:
    return ((const float *)data)[i];
  case KA_BF16:
    return ka_bf16_to_f32(((const uint16_t *)data)[i]);
  case KA_F16:
    return ka_f16_to_f32(((const uint16_t *)data)[i]);
  case KA_F64:
    return ((const double *)data)[i];
  case KA_I32:
    return ((const int32_t *)data)[i];
  case KA_I64:
    return (double)((const int64_t *)data)[i];
  case KA_U8:
    return ((const uint8_t *)data)[i];
  case KA_N_DTYPES:
    break;
  }
  assert(!"dtype");
  return NAN;
}

void ka_data_store(void *data, enum ka_dtype t, int64_t i, double v) {
  switch (t) {
  case KA_F32:
    ((float *)data)[i] = (float)v;
    return;
  case KA_BF16:
    ((uint16_t *)data)[i] = ka_f32_to_bf16((float)v);
    return;
  case KA_F16:
    ((uint16_t *)data)[i] = ka_f32_to_f16((float)v);
    return;
  case KA_F64:
    ((double *)data)[i] = v;
    return;
  case KA_I32:
    ((int32_t *)data)[i] = (int32_t)v;
    return;
  case KA_I64:
    ((int64_t *)data)[i] = (int64_t)v;
    return;
  case KA_U8:
    ((uint8_t *)data)[i] = (uint8_t)v;
    return;
  case KA_N_DTYPES:
    break;
  }
  assert(!"dtype");
}

void ka_convert(void *to, enum ka_dtype to_type, const void *from, enum ka_dtype from_type,
                int64_t n) {
  if (to_type == from_type) {
    memmove(to, from, (size_t)n * ka_dtype_bytes(to_type));
  } else if (to_type == KA_F32 && from_type == KA_BF16) {
    for (int64_t i = 0; i < n; i++) ((float *)to)[i] = ka_bf16_to_f32(((const uint16_t *)from)[i]);
  } else if (to_type == KA_BF16 && from_type == KA_F32) {
    for (int64_t i = 0; i < n; i++) ((uint16_t *)to)[i] = ka_f32_to_bf16(((const float *)from)[i]);
  } else {
    for (int64_t i = 0; i < n; i++) ka_data_store(to, to_type, i, ka_load(from, from_type, i));
  }
}
