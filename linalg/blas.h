/* SPDX-License-Identifier: Apache-2.0
 *
 * Dense float64 linear algebra on the host: the seam behind which LAPACK or plain C stands; what
 * spectra compute with on any engine is dense.h. All matrices are column-major; "lower" means that
 * only the lower triangle is read and written.
 *
 * What proofs rest on: every slot computes conventionally, that is, each entry is the textbook sum
 * evaluated in some order with IEEE double operations (fused or not; division by a diagonal may be
 * multiplication by its rounded reciprocal). No Strassen, no lower precision inside. The chain_*
 * slots give the largest number of roundings that any term of an entry passes through, so that
 * |error| <= gamma(chain) * (sum of absolute terms), gamma(k) = k u / (1 - k u), u = 2^-53. */
#ifndef KAPPA_LINALG_BLAS_H
#define KAPPA_LINALG_BLAS_H

#include "base/status.h"

struct ka_blas {
  const char *name; /* "openblas", "lapack", "plain C" */

  /* The library's own threads; 1 inside OpenMP regions, so that both are never active together. */
  void (*threads)(int n);

  /* c [m,m] lower = alpha * op(p) op(p)^T + beta * c; trans false: p is [m,k], true: p is [k,m]
   * and op(p) = p^T. */
  void (*syrk)(int64_t m, int64_t k, bool trans, double alpha, const double *p, int64_t ldp,
               double beta, double *c, int64_t ldc);
  /* c [m,n] = op(a) op(b) + beta * c, inner size k. */
  void (*gemm)(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const double *a,
               int64_t lda, const double *b, int64_t ldb, double beta, double *c, int64_t ldc);
  /* a [m,m] lower becomes its Cholesky factor: 0, or the 1-based column whose pivot was not
   * positive (then a is spoilt). */
  int64_t (*potrf)(int64_t m, double *a, int64_t lda);
  /* a [m,m] lower becomes its inverse: 0, or the 1-based zero diagonal. */
  int64_t (*trtri)(int64_t m, double *a, int64_t lda);
  /* a [m,m] lower becomes (lower triangle of) a^T a. */
  void (*lauum)(int64_t m, double *a, int64_t lda);
  /* b [m,n] = a^-1 b, a [m,m] lower. */
  void (*trsm)(int64_t m, int64_t n, const double *a, int64_t lda, double *b, int64_t ldb);
  /* y = a x, a [m,m] symmetric, lower read. */
  void (*symv)(int64_t m, const double *a, int64_t lda, const double *x, double *y);
  /* x = op(a)^-1 x and x = op(a) x, a [m,m] lower. */
  void (*trsv)(bool trans, int64_t m, const double *a, int64_t lda, double *x);
  void (*trmv)(bool trans, int64_t m, const double *a, int64_t lda, double *x);
  /* y += op(a) x in float32, a [m,n] and y [m]; trans: y [n] += a^T x. No proof rests on it. */
  void (*gemv_f32)(bool trans, int64_t m, int64_t n, const float *a, int64_t lda, const float *x,
                   float *y);
  /* s [min(m,n)] = singular values of a [m,n], descending; a is spoilt. KA_E_INTERNAL when the
   * iteration does not converge. Backward stable: each value is within 8 max(m,n) u ||a||_F. */
  ka_status (*svdvals)(struct ka_ctx *ctx, int64_t m, int64_t n, double *a, int64_t lda, double *s);

  /* a [m,n] = u diag(s) v^T with orthonormal columns of u [m,k] and v [n,k], k = min(m,n); a is
   * dense and spoilt, s descending. As exact as svdvals. */
  ka_status (*svd)(struct ka_ctx *ctx, int64_t m, int64_t n, double *a, double *s, double *u,
                   double *v);

  int64_t (*chain_potrf)(int64_t m);
};

/* Plain C. Slow and easy to read; always there. */
extern const struct ka_blas ka_blas_ref;

/* The processor's best: OpenBLAS or LAPACK where the build found them, plain C otherwise. */
const struct ka_blas *ka_blas_cpu(void);

/* Text when the environment pins OpenBLAS to the kernels of a processor older than this one
 * (OPENBLAS_CORETYPE), which costs up to half the speed; NULL otherwise. */
const char *ka_blas_slow_core(void);

#endif
