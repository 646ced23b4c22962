/* SPDX-License-Identifier: Apache-2.0
 * See fp8.h. */
#include "engine/spectral/fp8.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { BLOCK = 128 };

static const char *const ends[] = {"_scale_inv", "_scale"};
enum { N_ENDS = sizeof ends / sizeof *ends };

bool ka_fp8_is(const struct ka_st_entry *e) {
  return strcmp(e->dtype_name, "F8_E4M3") == 0 || strcmp(e->dtype_name, "F8_E4M3FN") == 0 ||
         strcmp(e->dtype_name, "F8_E5M2") == 0;
}

/* The scale of the weight, NULL without. */
static const struct ka_st_entry *scale_of(const struct ka_safetensors *files, const char *weight) {
  char name[1024];
  for (int i = 0; i < N_ENDS; i++) {
    if (snprintf(name, sizeof name, "%s%s", weight, ends[i]) >= (int)sizeof name) return NULL;
    const struct ka_st_entry *e = ka_st_find(files, name);
    if (e) return e;
  }
  return NULL;
}

bool ka_fp8_is_scale(const struct ka_safetensors *files, const struct ka_st_entry *e) {
  char name[1024];
  for (int i = 0; i < N_ENDS; i++) {
    size_t n = strlen(e->name), end = strlen(ends[i]);
    if (n <= end || n >= sizeof name || !ka_ends_with(e->name, ends[i])) continue;
    memcpy(name, e->name, n - end);
    name[n - end] = 0;
    const struct ka_st_entry *weight = ka_st_find(files, name);
    if (weight && ka_fp8_is(weight)) return true;
  }
  return false;
}

/* --- numbers ---------------------------------------------------------------------------------- */

/* Sign, exponent with its bias, mantissa; E4M3 has no infinity and one NaN a sign. */
static double value_of(unsigned char b, bool e5m2) {
  int bits = e5m2 ? 2 : 3, bias = e5m2 ? 15 : 7, top = e5m2 ? 31 : 15;
  int exponent = (b & 0x7f) >> bits, mantissa = b & ((1 << bits) - 1);
  double v = ldexp(mantissa, 1 - bias - bits);
  if (exponent > 0) v = ldexp((1 << bits) + mantissa, exponent - bias - bits);
  if (e5m2 && exponent == top) v = mantissa ? NAN : INFINITY;
  if (!e5m2 && exponent == top && mantissa == 7) v = NAN;
  return b & 0x80 ? -v : v;
}

static double scale_at(const struct ka_fp8 *q, int64_t matrix, int64_t row, int64_t col) {
  if (!q->scale) return 1;
  int64_t i =
      matrix * q->stride[0] + row / q->block[0] * q->stride[1] + col / q->block[1] * q->stride[2];
  const struct ka_tensor *t = &q->scale->t;
  if (!q->scale->unreadable) return ka_load(q->scales, t->dtype, i);
  return ldexp(1, ((const unsigned char *)q->scales)[i] - 127); /* F8_E8M0 */
}

/* --- scales ----------------------------------------------------------------------------------- */

static bool readable(const struct ka_st_entry *e) {
  enum ka_dtype t = e->t.dtype;
  if (e->unreadable) return strcmp(e->dtype_name, "F8_E8M0") == 0 && e->t.n_dim < KA_MAX_DIM;
  return t == KA_F32 || t == KA_BF16 || t == KA_F16;
}

/* n of one side of the scale for `side` of the matrix; 0: they do not fit. */
static int64_t block_of(int64_t side, int64_t n) {
  if (n <= 1) return side > 0 ? side : 1;
  if ((side + BLOCK - 1) / BLOCK == n) return BLOCK;
  return side % n == 0 ? side / n : 0;
}

/* The scale's shape as [matrices, rows, columns], ones where it has fewer. */
static bool understand(struct ka_fp8 *q, int64_t n_matrices) {
  const struct ka_tensor *t = &q->scale->t;
  int64_t shape[3] = {1, 1, 1};
  bool stacked = n_matrices > 1 && t->n_dim > 0 && t->shape[0] == n_matrices;
  int n = t->n_dim, first = stacked || n == 3 ? 0 : 1;
  if (n > 3 - first) return false;
  for (int i = 0; i < n; i++) shape[first + i] = t->shape[i];
  q->block[0] = block_of(q->rows, shape[1]);
  q->block[1] = block_of(q->cols, shape[2]);
  q->stride[2] = shape[2] > 1;
  q->stride[1] = shape[1] > 1 ? shape[2] : 0;
  q->stride[0] = shape[0] > 1 ? shape[1] * shape[2] : 0;
  return q->block[0] > 0 && q->block[1] > 0 && (shape[0] == 1 || shape[0] == n_matrices);
}

static const unsigned char *bytes_of(const struct ka_safetensors *files,
                                     const struct ka_st_entry *e) {
  return files->shards[e->shard].map.data + e->offset_bytes;
}

ka_status ka_fp8_unit(struct ka_arena *arena, const struct ka_safetensors *files,
                      const struct ka_st_entry *e, struct ka_unit *unit) {
  struct ka_ctx *ctx = arena->ctx;
  struct ka_tensor t = e->t;
  t.dtype = KA_U8;
  t.data = (void *)(uintptr_t)bytes_of(files, e);
  struct ka_fp8 *q;
  KA_TRY(KA_NEW(arena, &q, 1, "fp8"));
  *unit = ka_unit_of_tensor(e->name, t);
  bool stack = t.n_dim == 3;
  *q = (struct ka_fp8){.dtype_name = e->dtype_name, .e5m2 = strcmp(e->dtype_name, "F8_E5M2") == 0};
  q->rows = stack ? t.shape[1] : unit->view.shape[0];
  q->cols = stack ? t.shape[2] : unit->view.shape[1];
  q->scale = scale_of(files, e->name);
  unit->fp8 = q;
  if (q->scale) q->scales = q->scale->unreadable ? bytes_of(files, q->scale) : q->scale->t.data;
  if (!q->scale || (readable(q->scale) && understand(q, stack ? t.shape[0] : 1)))
    return KA_STATUS_OK;
  return ka_arena_printf(arena, &unit->skip,
                         "its scale %s (dtype %s) is neither one of the tensor, "
                         "of each row nor of blocks",
                         q->scale->name, q->scale->dtype_name);
}

void ka_fp8_load(struct ka_unit *u, float *data) {
  const struct ka_fp8 *q = u->fp8;
  double table[256];
  int64_t n_rows = u->view.shape[0], n_cols = u->view.shape[1], n = q->cols;
  int64_t row = u->rows[0] > 0 ? u->rows[0] : 0, col = u->cols[0] > 0 ? u->cols[0] : 0;
  bool stack = u->n_dim == 3; /* stored as [matrices, rows * cols] */
  int64_t first = stack ? row * q->rows * n + col : row * n + col;
  for (int i = 0; i < 256; i++) table[i] = value_of((unsigned char)i, q->e5m2);
  for (int64_t r = 0; r < n_rows; r++)
    for (int64_t c = 0; c < n_cols; c++) {
      int64_t at = first + r * u->view.row_stride + c, line = at / n; /* in the stored tensor */
      unsigned char b = ((const unsigned char *)u->view.data)[r * u->view.row_stride + c];
      double scale = scale_at(q, line / q->rows, line % q->rows, at % n);
      data[r * n_cols + c] = (float)(table[b] * scale);
    }
  u->view = ka_tensor_2d(data, KA_F32, n_rows, n_cols);
}
