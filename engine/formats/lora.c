/* SPDX-License-Identifier: Apache-2.0
 * Row i of w gains scale * sum_k left[i, k] right[k, :]; transposed, left is A^T and right B^T. */
#include "engine/formats/lora.h"

#include <math.h>
#include <omp.h>

/* out [rows, cols] or its transpose [cols, rows], in double. */
static ka_status spread(struct ka_ctx *ctx, double **out, const struct ka_tensor *t, bool turn) {
  int64_t rows = t->shape[0], cols = t->shape[1];
  KA_TRY(KA_NEW_HEAP(ctx, out, rows * cols, "adapter"));
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < cols; j++)
      (*out)[turn ? j * rows + i : i * cols + j] = ka_load(t->data, t->dtype, i * cols + j);
  return KA_STATUS_OK;
}

/* sum, row [n]: scratch. Whether all of the new row is finite. */
static bool add_row(struct ka_tensor *w, int64_t i, const double *left, const double *right,
                    int64_t r, float scale, double *sum, float *row) {
  int64_t n = w->shape[1];
  char *at = (char *)w->data + (size_t)(i * n) * ka_dtype_bytes(w->dtype);
  bool finite = true;
  for (int64_t j = 0; j < n; j++) sum[j] = 0;
  for (int64_t k = 0; k < r; k++) {
    double x = left[i * r + k];
    const double *y = right + k * n;
    for (int64_t j = 0; j < n; j++) sum[j] += x * y[j];
  }
  ka_convert(row, KA_F32, at, w->dtype, n);
  for (int64_t j = 0; j < n; j++) {
    row[j] += (float)sum[j] * scale;
    finite = finite && isfinite(row[j]);
  }
  ka_convert(at, w->dtype, row, KA_F32, n);
  return finite;
}

ka_status ka_lora_merge(struct ka_ctx *ctx, struct ka_tensor *w, const struct ka_lora *l,
                        int64_t *bad_row) {
  int64_t rows = w->shape[0], n = w->shape[1], r = l->a.shape[0], bad = rows;
  int threads = omp_get_max_threads();
  double *left = NULL, *right = NULL;
  void *sums = NULL, *lines = NULL;
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(spread(ctx, &left, l->transposed ? &l->a : &l->b, l->transposed), out);
  KA_TRY_GOTO(spread(ctx, &right, l->transposed ? &l->b : &l->a, l->transposed), out);
  KA_TRY_GOTO(ka_alloc_n(ctx, &sums, threads * n, sizeof(double), "adapter"), out);
  KA_TRY_GOTO(ka_alloc_n(ctx, &lines, threads * n, sizeof(float), "adapter"), out);
#pragma omp parallel for schedule(static) reduction(min : bad)
  for (int64_t i = 0; i < rows; i++) {
    int64_t at = omp_get_thread_num() * n;
    if (!add_row(w, i, left, right, r, (float)l->scale, (double *)sums + at, (float *)lines + at) &&
        i < bad)
      bad = i;
  }
  *bad_row = bad < rows ? bad : -1;
out:
  ka_free(left);
  ka_free(right);
  ka_free(sums);
  ka_free(lines);
  return st;
}
