/* SPDX-License-Identifier: Apache-2.0
 * Products of sorted rows with their experts' matrices, and the matrices' gradients, in f32. The
 * work is cut into strips of STRIP columns of one expert's product, which threads take in turn: an
 * expert with many rows is shared, and the bits depend on neither the threads nor the rows of
 * others. A strip's part of the matrix is unpacked once for ROWS rows.
 *
 *   out [rows, strip] = a [rows, K] B [K, strip]        dW [strip, strip] += a^T b over the rows
 */
#include "kernels/cpu/tile.h"
#include "kernels/cpu/vec.h"

#include <omp.h>
#include <string.h>

enum { STRIP = 64, ROWS = 512, STEP = 256 }; /* STEP of the inner dimension at a time */

/* One thread's memory. */
struct local {
  float right[STEP * STRIP]; /* [STEP, STRIP] */
  float left[STEP * STRIP];  /* [TILE_M, STEP], or [STEP, STRIP] */
  float sum[ROWS * STRIP];
};

static inline struct ka_tensor matrix(const struct ka_tensor *all, const void *own, int64_t e) {
  int64_t rows = all->shape[1], cols = all->shape[2];
  const char *first = all->data;
  const void *p = own ? own : first + (size_t)(e * rows * cols) * ka_dtype_bytes(all->dtype);
  return ka_tensor_2d((void *)(uintptr_t)p, all->dtype, rows, cols);
}

/* Rows and columns of m as floats in `to` [n_rows, width], zero where m has nothing. */
static void unpack(const struct ka_tensor *m, int64_t row, int64_t n_rows, int64_t col,
                   int64_t n_cols, float *to, int64_t width) {
  for (int64_t r = 0; r < n_rows; r++) {
    float buf[STEP > STRIP ? STEP : STRIP];
    bool there = row + r < m->shape[0];
    int64_t n = there ? min64(n_cols, m->shape[1] - col) : 0;
    if (n > 0)
      memcpy(to + r * width, load_block(m, (row + r) * m->row_stride + col, n, buf),
             (size_t)n * sizeof *to);
    if (n < width) memset(to + r * width + max64(n, 0), 0, (size_t)(width - n) * sizeof *to);
  }
}

/* As unpack of the transpose: to[k][j] = m[row + j][col + k]. */
static void unpack_t(const struct ka_tensor *m, int64_t row, int64_t col, int64_t n_k, float *to) {
  enum { SQUARE = 16 };
  memset(to, 0, (size_t)(n_k * STRIP) * sizeof *to);
  for (int64_t j = 0; j < STRIP && row + j < m->shape[0]; j += SQUARE)
    for (int64_t k = 0; k < n_k; k += SQUARE) {
      int64_t rows = min64(SQUARE, m->shape[0] - row - j), cols = min64(SQUARE, n_k - k);
      for (int64_t r = 0; r < rows; r++) {
        float buf[SQUARE];
        const float *from = load_block(m, (row + j + r) * m->row_stride + col + k, cols, buf);
        for (int64_t c = 0; c < cols; c++) to[(k + c) * STRIP + j + r] = from[c];
      }
    }
}

/* sum [n_rows, n_cols] to out: = or +=, with a bias. */
static void finish(const struct ka_expert_matmul_args *args, int64_t e, int64_t row, int64_t n_rows,
                   int64_t col, int64_t n_cols, float *sum) {
  const struct ka_tensor *out = &args->out;
  float bias[STRIP] = {0}, buf[STRIP];
  if (args->bias.data)
    memcpy(bias, load_block(&args->bias, e * out->shape[1] + col, n_cols, buf),
           (size_t)n_cols * sizeof *bias);
  for (int64_t r = 0; r < n_rows; r++) {
    int64_t at = (row + r) * out->shape[1] + col;
    const float *before = args->accumulate ? load_block(out, at, n_cols, buf) : bias;
    float *to = open_block(out, at, sum + r * STRIP);
    for (int64_t c = 0; c < n_cols; c++) to[c] = sum[r * STRIP + c] + before[c];
    store_block(out, at, n_cols, to);
  }
}

static void product_strip(const struct ka_expert_matmul_args *args, int64_t e, int64_t col,
                          struct local *l) {
  const int32_t *offsets = args->offsets.data;
  int64_t n_k = args->a.shape[1], n_cols = min64(STRIP, args->out.shape[1] - col);
  struct ka_tensor b = matrix(&args->b, args->b_of ? args->b_of[e] : NULL, e);
  for (int64_t row = offsets[e]; row < offsets[e + 1]; row += ROWS) {
    int64_t n_rows = min64(ROWS, offsets[e + 1] - row);
    memset(l->sum, 0, (size_t)(round_up(n_rows, TILE_M) * STRIP) * sizeof *l->sum);
    struct ka_tensor a = args->a;
    a.shape[0] = row + n_rows; /* the next expert's rows are not there */
    for (int64_t k = 0; k < n_k; k += STEP) {
      int64_t len = min64(STEP, n_k - k);
      if (args->trans_b)
        unpack_t(&b, col, k, len, l->right);
      else
        unpack(&b, k, len, col, n_cols, l->right, STRIP);
      for (int64_t r = 0; r < n_rows; r += TILE_M) {
        unpack(&a, row + r, TILE_M, k, len, l->left, len);
        tile_gemm(l->sum + r * STRIP, STRIP, (struct tile_a){l->left, len, 1}, l->right, STRIP,
                  TILE_M, STRIP, len, true, false);
      }
    }
    finish(args, e, row, n_rows, col, n_cols, l->sum);
  }
}

static ka_status locals(struct ka_dev *dev, struct local **out) {
  struct ka_ctx *ctx = dev->ctx;
  void *p;
  KA_TRY(cpu_scratch(dev, (size_t)omp_get_max_threads() * sizeof **out, &p));
  *out = p;
  return KA_STATUS_OK;
}

ka_status expert_matmul_cpu(struct ka_dev *dev, const struct ka_expert_matmul_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  struct local *l;
  if (args->a.dtype == KA_F64) return expert_matmul_ref(dev, args);
  KA_TRY(locals(dev, &l));
  int64_t n_strips = (args->out.shape[1] + STRIP - 1) / STRIP, n = args->b.shape[0] * n_strips;
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < n; i++)
    product_strip(args, i / n_strips, i % n_strips * STRIP, l + omp_get_thread_num());
  return KA_STATUS_OK;
}

/* Rows [m, m + STRIP) and columns [n, n + STRIP) of one expert's gradient. */
static void grad_square(const struct ka_expert_grad_args *args, int64_t e, int64_t m, int64_t n,
                        struct local *l) {
  const int32_t *offsets = args->offsets.data;
  struct ka_tensor dw = matrix(&args->dw, args->dw_of ? args->dw_of[e] : NULL, e);
  int64_t n_m = min64(STRIP, dw.shape[0] - m), n_n = min64(STRIP, dw.shape[1] - n);
  if (offsets[e] == offsets[e + 1]) return;
  memset(l->sum, 0, STRIP * STRIP * sizeof *l->sum);
  for (int64_t row = offsets[e]; row < offsets[e + 1]; row += STEP) {
    int64_t len = min64(STEP, offsets[e + 1] - row);
    unpack(&args->a, row, len, m, n_m, l->left, STRIP);
    unpack(&args->b, row, len, n, n_n, l->right, STRIP);
    tile_gemm(l->sum, STRIP, (struct tile_a){l->left, 1, STRIP}, l->right, STRIP, STRIP, STRIP, len,
              true, false);
  }
  for (int64_t r = 0; r < n_m; r++) {
    float *to = (float *)dw.data + (m + r) * dw.row_stride + n;
    for (int64_t c = 0; c < n_n; c++) to[c] += l->sum[r * STRIP + c];
  }
}

ka_status expert_grad_cpu(struct ka_dev *dev, const struct ka_expert_grad_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  struct local *l;
  if (args->a.dtype == KA_F64) return expert_grad_ref(dev, args);
  KA_TRY(locals(dev, &l));
  int64_t n_m = (args->dw.shape[1] + STRIP - 1) / STRIP;
  int64_t n_n = (args->dw.shape[2] + STRIP - 1) / STRIP, n = args->dw.shape[0] * n_m * n_n;
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < n; i++) {
    int64_t e = i / (n_m * n_n), m = i / n_n % n_m;
    if (args->dw_of && !args->dw_of[e]) continue;
    grad_square(args, e, m * STRIP, i % n_n * STRIP, l + omp_get_thread_num());
  }
  return KA_STATUS_OK;
}
