/* SPDX-License-Identifier: Apache-2.0
 *
 * A stored matrix seen as a tall one, n x m with m <= n, scaled by a power of two so that its
 * largest element is in [1/2, 1), and read a panel of rows at a time as float64. Nothing larger
 * than a panel is ever converted. */
#ifndef KAPPA_LINALG_PANEL_H
#define KAPPA_LINALG_PANEL_H

#include "linalg/blas.h"
#include "kernels/tensor.h"

enum {
  KA_PANEL = 128
}; /* rows of a panel: the rounding chain of a Gram matrix is
      KA_PANEL + n / KA_PANEL, and BLAS needs some depth to be fast */

struct ka_panels {
  struct ka_tensor view; /* [rows, cols], any row stride */
  bool wide;             /* rows < cols: the tall matrix is the transpose */
  int64_t n, m;          /* of the tall matrix */
  int exponent;          /* elements are multiplied by 2^-exponent */
  double max_abs;        /* of the stored elements */
  int64_t bad_index;     /* flat index of the first NaN or Inf, -1 without */
};

/* One pass over the elements: the largest, and the first that is not finite. */
void ka_panels_scan(struct ka_panels *p, struct ka_tensor view);

/* Rows [k0, k0 + kb) of the scaled tall matrix into out (kb * m doubles), exactly. wide: column-
 * major [kb, m]; else column-major [m, kb], that is transposed. */
void ka_panels_load(const struct ka_panels *p, int64_t k0, int64_t kb, double *out);

/* norms[j] = ||A x_j|| of n_x <= 4 vectors x [m, n_x], A the scaled matrix. The products carry a
 * rounding error of at most gamma(ka_panels_norm_chain(m)) ||A||_F ||x_j||, the norm itself one of
 * 2u. `panel` is scratch of KA_PANEL * m doubles. */
void ka_panels_norms(const struct ka_panels *p, const struct ka_blas *blas, const double *x,
                     int n_x, double *panel, double *norms);
int64_t ka_panels_norm_chain(int64_t m);

#endif
