/* SPDX-License-Identifier: Apache-2.0
 *
 * What the certified ladder of spectra (engine/spectral/ladder.h) computes with: the host's BLAS,
 * or a device. A worker of such an engine is used by one thread at a time; workers of one
 * engine work side by side. A worker holds up to KA_BATCH stored matrices of one shape, its units,
 * and every slot does the same to the members of a set of them, so that many small matrices cost
 * no more calls than one. Workspaces lie in the engine's memory, which nobody else touches: what
 * comes back are scalars and short vectors, in arrays that are indexed by unit.
 *
 * Matrices of a workspace are [m,m], column-major, unit i's at a + i * m * m, and lower: what lies
 * above the diagonal is the engine's own.
 *
 * What proofs rest on: slots compute conventionally, that is, each entry is the textbook sum
 * evaluated in some order with IEEE double operations (fused or not; division by a diagonal may be
 * multiplication by its rounded reciprocal). No Strassen, no lower precision inside, no emulation
 * of float64. The chain_* slots give the largest number of roundings that any term of an entry
 * passes through, so that |error| <= gamma(chain) * (sum of absolute terms), gamma(k) = k u / (1 -
 * k u), u = 2^-53. A unit's results do not depend on which others are in the batch. */
#ifndef KAPPA_LINALG_DENSE_H
#define KAPPA_LINALG_DENSE_H

#include "linalg/blas.h"
#include "linalg/panel.h"

struct ka_dev;
struct ka_dense;

enum { KA_BATCH = 64 };

/* Some units of a worker, ascending. */
struct ka_dense_set {
  int n;
  uint8_t at[KA_BATCH];
};

#define KA_EACH(i, set)                                                                            \
  int i = 0, i##_k = 0;                                                                            \
  i##_k < (set).n && (i = (set).at[i##_k], true);                                                  \
  i##_k++

static inline void ka_dense_set_add(struct ka_dense_set *s, int i) { s->at[s->n++] = (uint8_t)i; }

/* A vector a unit: unit i's at `at + i * stride`. */
struct ka_dense_vectors {
  double *at;
  int64_t stride;
};

/* Which engine: its slots, and whose memory they work in. */
struct ka_linalg_engine {
  const struct ka_dense *dense; /* NULL: none chosen */
  const struct ka_blas *blas;   /* of the host; NULL on a device */
  struct ka_dev *dev;           /* NULL: the host */
};

/* The processor's best BLAS. */
struct ka_linalg_engine ka_linalg_engine_cpu(void);

/* A device's engine, the host's where it has none or dev is NULL. choose: the one of the two that
 * computes float64 products faster, measured once a device and said in the log; the host's for so
 * few operations that it is done at once. KA_E_DEVICE when the device's products are not float64.
 */
struct ka_linalg_engine ka_linalg_engine_of(struct ka_dev *dev);
ka_status ka_linalg_engine_choose(struct ka_ctx *ctx, struct ka_dev *dev, double flops,
                                  struct ka_linalg_engine *out);
const char *ka_linalg_engine_name(const struct ka_linalg_engine *engine); /* "openblas", "cublas" */

struct ka_dense_worker {
  struct ka_ctx *ctx;
  struct ka_linalg_engine engine;
  void *state;   /* the engine's own */
  double read_s; /* spent on reading and converting elements, where the engine can tell */
};

/* What a worker is to hold. */
struct ka_dense_size {
  int64_t n, m; /* of the tall matrices */
  int units;
  int64_t elem_bytes;   /* stored */
  int64_t work_doubles; /* that will be taken, of each unit */
  bool values;          /* all singular values will be asked for */
};

enum ka_dense_sum {
  KA_SUM_TRACE,
  KA_SUM_LOG_DIAGONAL,
  KA_SUM_SQUARES,      /* of the lower triangle */
  KA_SUM_OFF_IDENTITY, /* ||a - I||_F^2 of the symmetric matrix */
};

struct ka_dense {
  const char *name; /* "host": the name is the BLAS's; "cublas" */
  int check_every;  /* Lanczos steps between two readings of their coefficients: a device waits */

  /* --- workers ---
   * room: bytes that all workers together may take and how many of them keep the engine busy; NULL:
   * as many as there are threads, memory is the host's. units_of: how many matrices of a shape
   * make a batch. bytes: what a worker takes. */
  ka_status (*room)(struct ka_ctx *ctx, const struct ka_linalg_engine *engine, int64_t *n_bytes,
                    int *n_workers);
  int (*units_of)(int64_t n, int64_t m);
  int64_t (*bytes)(const struct ka_dense_size *size);
  /* ctx and engine are set. n_bytes: the most that `bytes` will say of what the worker is to
   * hold; KA_E_MEMORY when it is not there. */
  ka_status (*open)(struct ka_dense_worker *worker, int64_t n_bytes);
  void (*close)(struct ka_dense_worker *worker); /* after a failed open too */
  /* A workspace of size.units times size.work_doubles, one at a time, until `give`. KA_E_MEMORY
   * when the worker was opened for less. */
  ka_status (*take)(struct ka_dense_worker *worker, const struct ka_dense_size *size, double **out);
  void (*give)(struct ka_dense_worker *worker, double *workspace);
  /* Float64 operations a second of products [m,m], all cores and workers working; for choosing
   * between engines and for benches. KA_E_DEVICE when the products are not what is promised
   * above. */
  ka_status (*rate)(struct ka_ctx *ctx, const struct ka_linalg_engine *engine, int64_t m,
                    double *flops);

  /* --- stored matrices ---
   * hold: units 0..n_units-1 are these from now on; scans them into p (see ka_panels_scan). The
   * slots below read finite ones of equal shape and orientation. */
  ka_status (*hold)(struct ka_dense_worker *worker, int n_units, const struct ka_tensor *views,
                    struct ka_panels *p);
  /* g = A^T A, A the scaled tall matrix. */
  ka_status (*gram)(struct ka_dense_worker *worker, struct ka_dense_set who,
                    const struct ka_panels *p, double *g);
  /* norms[2 i + j] = ||A x_ij|| and sizes[2 i + j] = ||x_ij|| for j = 0, 1: x are two vectors [m] a
   * unit, one behind the other. The products carry a rounding error of at most
   * gamma(chain_norm(m)) ||A||_F ||x_ij||, both norms one of 2u. */
  ka_status (*norms)(struct ka_dense_worker *worker, struct ka_dense_set who,
                     const struct ka_panels *p, struct ka_dense_vectors x, double *norms,
                     double *sizes);
  /* h = B^T B with B = fl(A X), X^T = z (lower), of unit i. bits 0: by plain products. Else A,
   * whose elements are below 1, is cut into its nearest multiple of 2^-bits and a rest, and each
   * row of z at 2^-bits of the power of two above its largest element; the product of the two
   * leading parts is exact, the three others are added to each other and then to it. */
  ka_status (*gram_of_product)(struct ka_dense_worker *worker, int i, const struct ka_panels *p,
                               double *z, int bits, double *h);
  /* s [m] at s + i * m (host): all singular values of A, descending. exact: each within
   * 8 n u ||A||_F. Otherwise those below 1e-4 of the largest, if any, are so, and the others may
   * come from A^T A (docs/cuda.md). */
  ka_status (*values)(struct ka_dense_worker *worker, struct ka_dense_set who,
                      const struct ka_panels *p, bool exact, double *s);

  /* --- matrices --- */
  /* out = sign * a + add[i] I, sign 1 or -1. */
  ka_status (*shift)(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m, int sign,
                     const double *a, const double *add, double *out);
  ka_status (*sum)(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                   const double *a, enum ka_dense_sum kind, double *out);
  /* a becomes its Cholesky factor; done: the members whose pivots were all positive and finite (the
   * others are spoilt). Its chain is chain_potrf. */
  ka_status (*potrf)(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m, double *a,
                     struct ka_dense_set *done);
  /* A factor made ready for `solve` (a device inverts it: substitution is slow there), and a ready
   * one made its inverse. Accurate enough for estimates. */
  ka_status (*ready)(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m, double *l);
  ka_status (*invert)(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                      double *l);
  /* z = l^-1 z, by substitution: |l z' - z| <= gamma(m + 4) |l| |z'|. */
  ka_status (*trsm)(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                    const double *l, double *z);
  /* out = w^T w, chain m + 1. */
  ka_status (*lauum)(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                     const double *w, double *out);
  /* y = a x, a symmetric; y = (l l^T)^-1 x, l ready; y = w^T w x. */
  ka_status (*symv)(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                    const double *a, struct ka_dense_vectors x, struct ka_dense_vectors y);
  ka_status (*solve)(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                     const double *l, struct ka_dense_vectors x, struct ka_dense_vectors y);
  ka_status (*normal)(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                      const double *w, struct ka_dense_vectors x, struct ka_dense_vectors y);

  /* --- vectors, for estimates --- */
  /* x = from [n] (host), for each member. */
  ka_status (*put)(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t n,
                   const double *from, struct ka_dense_vectors x);
  /* to + i * n (host) = x */
  ka_status (*get)(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t n,
                   struct ka_dense_vectors x, double *to);
  /* y = x / by[i] */
  ka_status (*divide)(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t n,
                      struct ka_dense_vectors x, const double *by, struct ka_dense_vectors y);
  /* A step of Lanczos behind the operator. basis: rows of [m]; row k+1 is Op(row k). It is made
   * orthogonal to the rows up to k, twice, and a unit vector. coefficients: [k] = its product with
   * row k, [n + k] = what was left of its norm; where that is nothing but rounding (1e-15 of it),
   * 0, and the rows from k+1 on mean nothing. */
  ka_status (*orthogonalise)(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                             int64_t k, struct ka_dense_vectors basis, int64_t n,
                             struct ka_dense_vectors coefficients);
  /* x = the unit vector along the sum over j < n_rows[i] of coords[i * stride + j] (host) times row
   * j. x is no row that is read. */
  ka_status (*combine)(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                       const int64_t *n_rows, struct ka_dense_vectors basis, const double *coords,
                       int64_t stride, struct ka_dense_vectors x);

  int64_t (*chain_gram)(int64_t n); /* of A^T A, and of B^T B in gram_of_product */
  int64_t (*chain_norm)(int64_t m);
  int64_t (*chain_product)(int64_t m); /* of A X: sums of m terms */
  int64_t (*chain_potrf)(const struct ka_linalg_engine *engine, int64_t m);
};

extern const struct ka_dense ka_dense_host;

#endif
