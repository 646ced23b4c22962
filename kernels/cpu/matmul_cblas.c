/* SPDX-License-Identifier: Apache-2.0
 * Matrix products where oneDNN is not built in: by the BLAS in f32, bf16 converted on the way, or
 * by ref where there is no BLAS either. Blocks of output rows are shared out over OpenMP threads,
 * each a single-threaded call: the library's own threads stay off, and the bits do not depend on
 * how many there are. */
#include "kernels/cpu/vec.h"

#ifndef KAPPA_HAVE_ONEDNN

#include <stdio.h>
#include <string.h>

ka_status cpu_gemm_open(struct ka_dev *dev) {
  (void)dev;
  return KA_STATUS_OK;
}

void cpu_gemm_close(struct ka_dev *dev) { (void)dev; }

size_t cpu_pack_bytes(struct ka_dev *dev, const struct ka_pack_args *args) {
  (void)dev, (void)args;
  return 0;
}

ka_status pack_cpu(struct ka_dev *dev, const struct ka_pack_args *args) {
  return pack_ref(dev, args);
}

#ifndef KAPPA_HAVE_LAPACK

void cpu_gemm_describe(char *text, size_t n) {
  snprintf(text, n, "no oneDNN, no BLAS: slow matrix products");
}

ka_status cpu_product(struct ka_dev *dev, const struct ka_matmul_args *args) {
  return matmul_ref(dev, args);
}

#else

void sgemm_(const char *, const char *, const int *, const int *, const int *, const float *,
            const float *, const int *, const float *, const int *, const float *, float *,
            const int *);
#ifdef KAPPA_HAVE_OPENBLAS
void openblas_set_num_threads(int);
#endif

void cpu_gemm_describe(char *text, size_t n) { snprintf(text, n, "no oneDNN: products by BLAS"); }

/* A matrix in f32: t itself, or converted to `to` (contiguous). */
static struct ka_tensor as_f32(const struct ka_tensor *t, float *to) {
  if (t->dtype == KA_F32) return *t;
  int64_t rows = t->shape[0], cols = t->shape[1];
#pragma omp parallel for if (rows * cols > CPU_PARALLEL)
  for (int64_t r = 0; r < rows; r++)
    floats_from_bf16(to + r * cols, (const uint16_t *)t->data + r * t->row_stride, cols);
  return ka_tensor_2d(to, KA_F32, rows, cols);
}

/* Rows [first, first + n) of out. Row-major [m, n] is the library's column-major [n, m]. */
static void some_rows(const struct ka_matmul_args *args, const struct ka_tensor *a,
                      const struct ka_tensor *b, const struct ka_tensor *out, int64_t first,
                      int64_t n) {
  int rows = (int)n, cols = (int)out->shape[1], inner = (int)a->shape[args->trans_a ? 0 : 1];
  int lda = (int)a->row_stride, ldb = (int)b->row_stride, ldc = (int)out->row_stride;
  float one = 1, beta = args->accumulate || args->bias.data ? 1 : 0;
  float *c = (float *)out->data + first * out->row_stride;
  if (args->bias.data)
    for (int64_t r = 0; r < n; r++) {
      float buf[CPU_BLOCK];
      for (int64_t i = 0; i < cols; i += CPU_BLOCK) {
        int64_t len = min64(CPU_BLOCK, cols - i);
        memcpy(c + r * ldc + i, load_block(&args->bias, i, len, buf), (size_t)len * sizeof *c);
      }
    }
  const float *pa = (const float *)a->data + (args->trans_a ? first : first * a->row_stride);
  sgemm_(args->trans_b ? "T" : "N", args->trans_a ? "T" : "N", &cols, &rows, &inner, &one, b->data,
         &ldb, pa, &lda, &beta, c, &ldc);
}

ka_status cpu_product(struct ka_dev *dev, const struct ka_matmul_args *args) {
  enum { ROWS = 64 };
  struct ka_ctx *ctx = dev->ctx;
  int64_t n_a = ka_tensor_elems(&args->a), n_b = ka_tensor_elems(&args->b);
  int64_t n_out = ka_tensor_elems(&args->out), n_rows = args->out.shape[0];
  if (args->a.dtype == KA_F64 || n_a == 0 || n_b == 0) return matmul_ref(dev, args);
  float *scratch = NULL;
  bool narrow = args->a.dtype == KA_BF16, narrow_out = args->out.dtype == KA_BF16;
  if (narrow) {
    void *p;
    KA_TRY(cpu_scratch(dev, (size_t)(n_a + n_b + n_out) * sizeof *scratch, &p));
    scratch = p;
  }
  struct ka_tensor a = as_f32(&args->a, scratch);
  struct ka_tensor b = as_f32(&args->b, narrow ? scratch + n_a : NULL);
  struct ka_tensor out = args->out;
  if (narrow_out)
    out = args->accumulate ? as_f32(&args->out, scratch + n_a + n_b)
                           : ka_tensor_2d(scratch + n_a + n_b, KA_F32, n_rows, out.shape[1]);
#ifdef KAPPA_HAVE_OPENBLAS
  openblas_set_num_threads(1);
#endif
#pragma omp parallel for schedule(dynamic)
  for (int64_t r = 0; r < n_rows; r += ROWS) {
    int64_t n = min64(ROWS, n_rows - r);
    some_rows(args, &a, &b, &out, r, n);
    for (int64_t i = r; i < r + n && narrow_out; i++)
      bf16_from_floats((uint16_t *)args->out.data + i * args->out.row_stride,
                       (const float *)out.data + i * out.row_stride, out.shape[1]);
  }
  return KA_STATUS_OK;
}

#endif
#endif
