/* SPDX-License-Identifier: Apache-2.0
 * Products of sorted rows with their experts' matrices, and the matrices' gradients. The work is
 * cut into blocks of one expert's product, which threads take in turn: an expert with many rows is
 * shared, one with few takes little, and the bits depend on neither the threads nor the rows of
 * others. Both operands of a block are laid out anew in units (tile.h: one f32, or two bf16 along
 * the inner dimension), DEPTH of the inner dimension at a time, so that the second-level cache
 * feeds the registers; bf16 is multiplied as bf16 where the processor does so, else as f32.
 *
 *   out [ROWS, COLS] = a [ROWS, K] B [K, COLS]        dW [COLS, COLS] += a^T b over the rows
 *
 *   left   [tiles of TILE_M rows][TILE_M][DEPTH], of a gradient [..][DEPTH][TILE_M]
 *   right  [panels of TILE_N columns][DEPTH][TILE_N]
 */
#include "kernels/cpu/tile.h"
#include "kernels/cpu/vec.h"

#include <omp.h>
#include <string.h>

enum { ROWS = 256, COLS = 256, DEPTH = 128 /* units */, SQUARE = 16 };

/* 32 bits of whatever is there: written as f32 or bf16, moved as units. */
typedef uint32_t unit __attribute__((may_alias));

/* One thread's memory. */
struct local {
  unit left[ROWS * DEPTH], right[DEPTH * COLS];
  unit rows[SQUARE * DEPTH]; /* on their way to `right`, transposed */
  float sum[ROWS * COLS];
};

/* Up to ROWS rows of one expert. */
struct piece {
  int64_t e, row, end;
};

static inline struct ka_tensor matrix(const struct ka_tensor *all, const void *own, int64_t e) {
  int64_t rows = all->shape[1], cols = all->shape[2];
  const char *first = all->data;
  const void *p = own ? own : first + (size_t)(e * rows * cols) * ka_dtype_bytes(all->dtype);
  return ka_tensor_2d((void *)(uintptr_t)p, all->dtype, rows, cols);
}

static bool has_pairs(const struct ka_tensor *t) { return TILE_HAS_PAIRS && t->dtype == KA_BF16; }

/* n values of row `row` from column `col` on, as they are multiplied: m's own memory, or in buf,
 * with zeros where m has none. */
static inline const void *values(const struct ka_tensor *m, int64_t row, int64_t col, int64_t n,
                                 void *buf) {
  int64_t there = row < m->shape[0] ? max64(0, min64(n, m->shape[1] - col)) : 0;
  size_t bytes = has_pairs(m) ? 2 : 4;
  const char *from = (const char *)m->data + (size_t)(row * m->row_stride + col) * bytes;
  bool converted = m->dtype == KA_BF16 && !has_pairs(m);
  if (there == n && !converted) return from;
  if (converted)
    floats_from_bf16(buf, (const uint16_t *)m->data + row * m->row_stride + col, there);
  else if (there > 0)
    memcpy(buf, from, (size_t)there * bytes);
  memset((char *)buf + (size_t)there * bytes, 0, (size_t)(n - there) * bytes);
  return buf;
}

/* Units [at, at + n) along row `row`. */
static void row_units(const struct ka_tensor *m, int64_t row, int64_t at, int64_t n, unit *to) {
  int64_t per = has_pairs(m) ? 2 : 1;
  const void *from = values(m, row, at * per, n * per, to);
  if (from != to) memcpy(to, from, (size_t)n * sizeof *to);
}

/* to[c * TILE_N + r] = from[r * DEPTH + c] of SQUARE rows. */
static void transpose(const unit *from, int64_t n, unit *to) {
#ifdef __AVX512F__
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int64_t c = 0; c < n; c += SQUARE) {
    __m512i x[SQUARE];
#pragma GCC unroll 16
    for (int i = 0; i < SQUARE; i++) x[i] = _mm512_loadu_si512(from + i * DEPTH + c);
#pragma GCC unroll 4
    for (int s = 1; s < SQUARE; s *= 2) { /* swap the off-diagonal s x s squares */
      const __m512i bit = _mm512_set1_epi32(s);
      const __mmask16 second = _mm512_test_epi32_mask(lane, bit);
      const __m512i top = _mm512_mask_add_epi32(lane, second, lane, _mm512_set1_epi32(SQUARE - s));
      const __m512i low = _mm512_mask_add_epi32(_mm512_add_epi32(lane, bit), second, lane,
                                                _mm512_set1_epi32(SQUARE));
#pragma GCC unroll 16
      for (int i = 0; i < SQUARE; i++)
        if (!(i & s)) {
          __m512i a = x[i], b = x[i + s];
          x[i] = _mm512_permutex2var_epi32(a, top, b);
          x[i + s] = _mm512_permutex2var_epi32(a, low, b);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < SQUARE; i++) _mm512_storeu_si512(to + (c + i) * TILE_N, x[i]);
  }
#else
  for (int64_t c = 0; c < n; c++)
    for (int i = 0; i < SQUARE; i++) to[c * TILE_N + i] = from[i * DEPTH + c];
#endif
}

/* right of B = m^T: column j is row `row` + j of m, from unit `at` of it on. */
static void right_of_rows(const struct ka_tensor *m, int64_t row, int64_t n_cols, int64_t at,
                          int64_t n, struct local *l) {
  int64_t all = round_up(n, SQUARE);
  for (int64_t j = 0; j < n_cols; j += SQUARE) {
    for (int64_t i = 0; i < SQUARE; i++) row_units(m, row + j + i, at, all, l->rows + i * DEPTH);
    transpose(l->rows, all, l->right + j / TILE_N * DEPTH * TILE_N + j % TILE_N);
  }
}

/* Units down the rows of m, from unit `at` on: n of each of n_cols columns, in panels of
 * `width`. */
static inline __attribute__((always_inline)) void panels(const struct ka_tensor *m, int64_t at,
                                                         int64_t n, int64_t col, int64_t n_cols,
                                                         unit *restrict to, int64_t width) {
  uint16_t low_buf[COLS], high_buf[COLS];
  unit buf[COLS];
  for (int64_t k = 0; k < n; k++)
    if (has_pairs(m)) {
      const uint16_t *restrict low = values(m, 2 * (at + k), col, n_cols, low_buf);
      const uint16_t *restrict high = values(m, 2 * (at + k) + 1, col, n_cols, high_buf);
      for (int64_t c = 0; c < n_cols; c += width)
        for (int64_t i = 0; i < width; i++)
          to[c * DEPTH + k * width + i] = low[c + i] | (uint32_t)high[c + i] << 16;
    } else {
      const unit *restrict row = values(m, at + k, col, n_cols, buf);
      for (int64_t c = 0; c < n_cols; c += width)
        for (int64_t i = 0; i < width; i++) to[c * DEPTH + k * width + i] = row[c + i];
    }
}

static inline void tile(float *c, int64_t ldc, struct tile_a a, const unit *b, int64_t k, bool add,
                        bool pairs) {
  if (pairs)
    tile_block_pairs(c, ldc, a.data, a.stride_m, a.stride_k, (const float *)b, TILE_N, k, add);
  else
    tile_block(c, ldc, a.data, a.stride_m, a.stride_k, (const float *)b, TILE_N, k, add);
}

/* --- out = a op(B) ---------------------------------------------------------------------------- */

/* sum [n_rows, n_cols] to out: = or +=, with a bias. */
static void finish(const struct ka_expert_matmul_args *args, int64_t e, int64_t row, int64_t n_rows,
                   int64_t col, int64_t n_cols, const float *sum) {
  const struct ka_tensor *out = &args->out;
  float bias[COLS] = {0}, buf[COLS];
  if (args->bias.data)
    memcpy(bias, load_block(&args->bias, e * out->shape[1] + col, n_cols, buf),
           (size_t)n_cols * sizeof *bias);
  for (int64_t r = 0; r < n_rows; r++) {
    int64_t at = (row + r) * out->shape[1] + col;
    const float *before = args->accumulate ? load_block(out, at, n_cols, buf) : bias;
    float *to = open_block(out, at, buf);
    for (int64_t c = 0; c < n_cols; c++) to[c] = sum[r * COLS + c] + before[c];
    store_block(out, at, n_cols, to);
  }
}

static void product_block(const struct ka_expert_matmul_args *args, struct piece piece, int64_t col,
                          struct local *l) {
  struct ka_tensor a = args->a;
  struct ka_tensor b = matrix(&args->b, args->b_of ? args->b_of[piece.e] : NULL, piece.e);
  bool pairs = has_pairs(&a);
  int64_t n_units = (a.shape[1] + pairs) / (1 + pairs), n_rows = piece.end - piece.row;
  int64_t n_cols = min64(COLS, args->out.shape[1] - col), width = round_up(n_cols, TILE_N);
  a.shape[0] = piece.end; /* the next expert's rows are not there */
  if (n_units == 0) memset(l->sum, 0, sizeof l->sum);
  for (int64_t k = 0; k < n_units; k += DEPTH) {
    int64_t len = min64(DEPTH, n_units - k);
    if (args->trans_b)
      right_of_rows(&b, col, width, k, len, l);
    else
      panels(&b, k, len, col, width, l->right, TILE_N);
    for (int64_t r = 0; r < round_up(n_rows, TILE_M); r++)
      row_units(&a, piece.row + r, k, len, l->left + r * DEPTH);
    for (int64_t c = 0; c < width; c += TILE_N)
      for (int64_t r = 0; r < n_rows; r += TILE_M)
        tile(l->sum + r * COLS + c, COLS,
             (struct tile_a){(const float *)l->left + r * DEPTH, DEPTH, 1}, l->right + c * DEPTH,
             len, k > 0, pairs);
  }
  finish(args, piece.e, piece.row, n_rows, col, n_cols, l->sum);
}

/* Every thread's memory and, behind it, that of n_pieces. */
static ka_status locals(struct ka_dev *dev, struct local **out, struct piece **pieces,
                        int64_t n_pieces) {
  struct ka_ctx *ctx = dev->ctx;
  int n_threads = omp_get_max_threads();
  void *p;
  KA_TRY(cpu_scratch(
      dev, (size_t)n_threads * sizeof **out + (size_t)n_pieces * sizeof(struct piece), &p));
  *out = p;
  if (pieces) *pieces = (struct piece *)(*out + n_threads);
  return KA_STATUS_OK;
}

ka_status expert_matmul_cpu(struct ka_dev *dev, const struct ka_expert_matmul_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  const int32_t *offsets = args->offsets.data;
  int64_t n_experts = args->b.shape[0], n = 0;
  struct local *l;
  struct piece *pieces;
  if (args->a.dtype == KA_F64) return expert_matmul_ref(dev, args);
  KA_TRY(locals(dev, &l, &pieces, args->a.shape[0] / ROWS + n_experts));
  for (int64_t e = 0; e < n_experts; e++)
    for (int64_t row = offsets[e]; row < offsets[e + 1]; row += ROWS)
      pieces[n++] = (struct piece){e, row, min64(row + ROWS, offsets[e + 1])};
  int64_t n_strips = (args->out.shape[1] + COLS - 1) / COLS;
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < n * n_strips; i++)
    product_block(args, pieces[i / n_strips], i % n_strips * COLS, l + omp_get_thread_num());
  return KA_STATUS_OK;
}

/* --- dW += a^T b ------------------------------------------------------------------------------ */

/* Sums of a tile that is only partly there go by way of `sum`. */
static void grad_tile(const struct ka_tensor *dw, int64_t m, int64_t n, const unit *left,
                      const unit *right, int64_t k, bool pairs, float *sum) {
  struct tile_a a = {(const float *)left, 1, TILE_M};
  float *to = (float *)dw->data + m * dw->row_stride + n;
  for (int64_t i = 0; i < TILE_M; i++) { /* the next tile's */
    __builtin_prefetch(to + TILE_N + i * dw->row_stride, 1);
    __builtin_prefetch(to + TILE_N + i * dw->row_stride + TILE_N / 2, 1);
  }
  int64_t n_m = min64(TILE_M, dw->shape[0] - m), n_n = min64(TILE_N, dw->shape[1] - n);
  if (n_m == TILE_M && n_n == TILE_N) {
    tile(to, dw->row_stride, a, right, k, true, pairs);
    return;
  }
  tile(sum, TILE_N, a, right, k, false, pairs);
  for (int64_t r = 0; r < n_m; r++)
    for (int64_t c = 0; c < n_n; c++) to[r * dw->row_stride + c] += sum[r * TILE_N + c];
}

/* The part at row m and column n of one expert's gradient. */
static void grad_block(const struct ka_expert_grad_args *args, int64_t e, int64_t m, int64_t n,
                       struct local *l) {
  const int32_t *offsets = args->offsets.data;
  struct ka_tensor dw = matrix(&args->dw, args->dw_of ? args->dw_of[e] : NULL, e);
  struct ka_tensor a = args->a, b = args->b;
  bool pairs = has_pairs(&a);
  int64_t n_m = min64(COLS, dw.shape[0] - m), n_n = min64(COLS, dw.shape[1] - n);
  int64_t first = offsets[e], n_rows = offsets[e + 1] - first;
  int64_t n_units = (n_rows + pairs) / (1 + pairs);
  a = ka_tensor_slice(a, first, n_rows, 0, a.shape[1]);
  b = ka_tensor_slice(b, first, n_rows, 0, b.shape[1]);
  for (int64_t k = 0; k < n_units; k += DEPTH) {
    int64_t len = min64(DEPTH, n_units - k);
    panels(&a, k, len, m, round_up(n_m, TILE_M), l->left, TILE_M);
    panels(&b, k, len, n, round_up(n_n, TILE_N), l->right, TILE_N);
    for (int64_t i = 0; i < n_m; i += TILE_M)
      for (int64_t j = 0; j < n_n; j += TILE_N)
        grad_tile(&dw, m + i, n + j, l->left + i * DEPTH, l->right + j * DEPTH, len, pairs, l->sum);
  }
}

ka_status expert_grad_cpu(struct ka_dev *dev, const struct ka_expert_grad_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  struct local *l;
  if (args->a.dtype == KA_F64) return expert_grad_ref(dev, args);
  KA_TRY(locals(dev, &l, NULL, 0));
  int64_t n_m = (args->dw.shape[1] + COLS - 1) / COLS;
  int64_t n_n = (args->dw.shape[2] + COLS - 1) / COLS, n = args->dw.shape[0] * n_m * n_n;
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < n; i++) {
    int64_t e = i / (n_m * n_n), m = i / n_n % n_m;
    if (args->dw_of && !args->dw_of[e]) continue;
    grad_block(args, e, m * COLS, i % n_n * COLS, l + omp_get_thread_num());
  }
  return KA_STATUS_OK;
}
