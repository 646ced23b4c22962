/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine of linalg/dense.h over a BLAS in the host's memory. A worker holds one matrix, which
 * stays where it is stored: a panel of rows at a time is converted, and that twice or thrice is
 * cheaper than keeping it. */
#include "linalg/dense.h"

#include "base/arena.h"
#include "base/log.h"
#include "base/rng.h"

#include <math.h>
#include <omp.h>
#include <string.h>

/* Terms of a product that are summed before they are added to an entry: keeps its chain short. */
enum { INNER = 64, LANES = 8 };

struct host_worker {
  double *panels;
  int64_t n_panels; /* doubles there */
};

static double *matrix(double *a, int i, int64_t m) { return a + i * m * m; }
static const double *matrix_of(const double *a, int i, int64_t m) { return a + i * m * m; }
static double *vector(struct ka_dense_vectors x, int i) { return x.at + i * x.stride; }

static int64_t rows_from(const struct ka_panels *p, int64_t k0) {
  return p->n - k0 < KA_PANEL ? p->n - k0 : KA_PANEL;
}

/* --- workers ---------------------------------------------------------------------------------- */

static int one_unit(int64_t n, int64_t m) {
  (void)n, (void)m;
  return 1;
}

static int64_t bytes(const struct ka_dense_size *s) {
  int64_t work = s->units * s->work_doubles, values = s->values ? s->n * s->m + 8 * s->m : 0;
  return (int64_t)sizeof(double) * (2 * KA_PANEL * s->m + (work > values ? work : values));
}

static ka_status open(struct ka_dense_worker *worker, int64_t n_bytes) {
  (void)n_bytes; /* memory is taken when it is needed */
  return ka_alloc(worker->ctx, &worker->state, sizeof(struct host_worker), "spectral worker");
}

static void close(struct ka_dense_worker *worker) {
  struct host_worker *h = worker->state;
  if (h) ka_free(h->panels);
  ka_free(h);
  worker->state = NULL;
}

static ka_status take(struct ka_dense_worker *worker, const struct ka_dense_size *size,
                      double **out) {
  /* zero: times_x reads a little across the diagonal */
  return KA_NEW_HEAP(worker->ctx, out, size->units * size->work_doubles, "spectral workspace");
}

static void give(struct ka_dense_worker *worker, double *workspace) {
  (void)worker;
  ka_free(workspace);
}

/* Room for n panels of this matrix. */
static ka_status panels(struct ka_dense_worker *worker, const struct ka_panels *p, int64_t n,
                        double **out) {
  struct ka_ctx *ctx = worker->ctx;
  struct host_worker *h = worker->state;
  int64_t need = n * KA_PANEL * p->m;
  if (need > h->n_panels) {
    ka_free(h->panels);
    h->panels = NULL;
    h->n_panels = 0;
    KA_TRY(KA_NEW_HEAP(ctx, &h->panels, need, "spectral panels"));
    h->n_panels = need;
  }
  *out = h->panels;
  return KA_STATUS_OK;
}

/* One product a thread side by side: how an analysis runs. The best of a few, so that what else
 * the machine does counts less. */
static ka_status rate(struct ka_ctx *ctx, const struct ka_linalg_engine *e, int64_t m,
                      double *flops) {
  enum { REPEATS = 3 };
  int n_threads = omp_get_max_threads();
  void *memory = NULL;
  int64_t one = m * m;
  KA_TRY(ka_alloc_n(ctx, &memory, 2 * one * n_threads, sizeof(double), "GEMM rate"));
  double *x = memory;
  for (int64_t i = 0; i < 2 * one * n_threads; i++) x[i] = ka_rng_uniform(1, 1, (uint64_t)i % 997);
  *flops = 0;
  e->blas->threads(1);
  for (int r = 0; r < REPEATS; r++) {
    double start = ka_now_s();
#pragma omp parallel for schedule(static, 1)
    for (int t = 0; t < n_threads; t++) {
      double *a = x + 2 * one * t;
      e->blas->gemm(false, true, m, m, m, a, m, a, m, 0, a + one, m);
    }
    double n = (double)m, got = 2 * n * n * n * n_threads / (ka_now_s() - start);
    *flops = fmax(*flops, got);
  }
  ka_free(memory);
  return KA_STATUS_OK;
}

/* --- stored matrices -------------------------------------------------------------------------- */

static ka_status hold(struct ka_dense_worker *worker, int n_units, const struct ka_tensor *views,
                      struct ka_panels *p) {
  (void)worker;
  for (int i = 0; i < n_units; i++) ka_panels_scan(&p[i], views[i]);
  return KA_STATUS_OK;
}

static ka_status gram(struct ka_dense_worker *worker, struct ka_dense_set who,
                      const struct ka_panels *all, double *g) {
  struct ka_ctx *ctx = worker->ctx;
  for (KA_EACH(i, who)) {
    const struct ka_panels *p = &all[i];
    double *panel = NULL;
    KA_TRY(panels(worker, p, 1, &panel));
    for (int64_t k0 = 0; k0 < p->n; k0 += KA_PANEL) {
      int64_t kb = rows_from(p, k0);
      double before = ka_now_s();
      ka_panels_load(p, k0, kb, panel);
      worker->read_s += ka_now_s() - before;
      worker->engine.blas->syrk(p->m, kb, p->wide, 1, panel, p->wide ? kb : p->m, k0 > 0,
                                matrix(g, i, p->m), p->m);
    }
  }
  return KA_STATUS_OK;
}

static ka_status norms(struct ka_dense_worker *worker, struct ka_dense_set who,
                       const struct ka_panels *all, struct ka_dense_vectors x, double *norms_,
                       double *sizes) {
  struct ka_ctx *ctx = worker->ctx;
  for (KA_EACH(i, who)) {
    const struct ka_panels *p = &all[i];
    double *panel = NULL;
    KA_TRY(panels(worker, p, 1, &panel));
    ka_panels_norms(p, worker->engine.blas, vector(x, i), 2, panel, norms_ + 2 * i);
    for (int j = 0; j < 2; j++) {
      const double *v = vector(x, i) + j * p->m;
      long double s = 0;
      for (int64_t k = 0; k < p->m; k++) s += (long double)v[k] * v[k];
      sizes[2 * i + j] = (double)sqrtl(s);
    }
  }
  return KA_STATUS_OK;
}

/* product = panel times X, X^T = z [m,m] lower, in the panel's own layout. Blocks of INNER along
 * the sum keep the chain short; only the nonzero triangle is multiplied. */
static void times_x(const struct ka_blas *blas, const struct ka_panels *p, const double *panel,
                    int64_t kb, const double *z, bool add, double *product) {
  int64_t m = p->m, step = 4 * INNER;
  for (int64_t j = 0; j < m; j += step) { /* columns j.. of the product: rows j.. of z */
    int64_t jb = m - j < step ? m - j : step;
    for (int64_t i = 0; i < j + jb; i += INNER) {
      int64_t ib = j + jb - i < INNER ? j + jb - i : INNER;
      double beta = i > 0 || add ? 1 : 0;
      if (p->wide)
        blas->gemm(false, true, kb, jb, ib, panel + i * kb, kb, z + j + i * m, m, beta,
                   product + j * kb, kb);
      else
        blas->gemm(false, false, jb, kb, ib, z + j + i * m, m, panel + i, m, beta, product + j, m);
    }
  }
}

/* x becomes its nearest multiple of quantum; what is cut off goes to low. Exact: round to nearest
 * in the sum with 1.5 * 2^52 quantum. */
static void split(double *x, double *low, int64_t n, double quantum) {
  double big = 0x1.8p52 * quantum;
  for (int64_t i = 0; i < n; i++) {
    volatile double sum = x[i] + big;
    double high = sum - big;
    low[i] = x[i] - high;
    x[i] = high;
  }
}

/* Each row of z is cut; row j of z is column j of X. */
static void split_rows(int64_t m, double *z, double *z_low, int bits) {
  for (int64_t i = 0; i < m; i++) {
    double max = 0;
    for (int64_t j = 0; j <= i; j++) max = fmax(max, fabs(z[i + j * m]));
    int e = 0;
    frexp(max, &e);
    for (int64_t j = 0; j <= i; j++) split(&z[i + j * m], &z_low[i + j * m], 1, ldexp(1, e - bits));
  }
}

/* h from z, or with z_low from what split_rows made of it; more: a third and fourth panel. */
static ka_status sum_products(struct ka_dense_worker *worker, const struct ka_panels *p,
                              const double *z, const double *z_low, int bits, double *more,
                              double *h) {
  struct ka_ctx *ctx = worker->ctx;
  const struct ka_blas *blas = worker->engine.blas;
  double *panel = NULL;
  KA_TRY(panels(worker, p, 2, &panel));
  double *product = panel + KA_PANEL * p->m, *low = more,
         *leading = more ? more + KA_PANEL * p->m : NULL;
  for (int64_t k0 = 0; k0 < p->n; k0 += KA_PANEL) {
    int64_t kb = rows_from(p, k0);
    ka_panels_load(p, k0, kb, panel);
    if (z_low) {
      split(panel, low, kb * p->m, ldexp(1, -bits));
      times_x(blas, p, panel, kb, z, false, leading);
      times_x(blas, p, panel, kb, z_low, false, product);
      times_x(blas, p, low, kb, z, true, product);
      times_x(blas, p, low, kb, z_low, true, product);
      for (int64_t i = 0; i < kb * p->m; i++) product[i] += leading[i];
    } else {
      times_x(blas, p, panel, kb, z, false, product);
    }
    blas->syrk(p->m, kb, p->wide, 1, product, p->wide ? kb : p->m, k0 > 0, h, p->m);
  }
  return KA_STATUS_OK;
}

static ka_status gram_of_product(struct ka_dense_worker *worker, int i, const struct ka_panels *all,
                                 double *z_all, int bits, double *h_all) {
  struct ka_ctx *ctx = worker->ctx;
  const struct ka_panels *p = &all[i];
  int64_t m = p->m;
  double *z = matrix(z_all, i, m), *h = matrix(h_all, i, m);
  if (bits == 0) return sum_products(worker, p, z, NULL, 0, NULL, h);
  void *memory = NULL;
  KA_TRY(ka_alloc_n(ctx, &memory, m * m + 2 * KA_PANEL * m, sizeof(double), "split product"));
  double *z_low = memory;
  split_rows(m, z, z_low, bits);
  ka_status st = sum_products(worker, p, z, z_low, bits, z_low + m * m, h);
  for (int64_t j = 0; j < m; j++)
    for (int64_t k = j; k < m; k++) z[k + j * m] += z_low[k + j * m];
  ka_free(memory);
  return st;
}

static ka_status values(struct ka_dense_worker *worker, struct ka_dense_set who,
                        const struct ka_panels *all, bool exact, double *s) {
  struct ka_ctx *ctx = worker->ctx;
  const struct ka_blas *blas = worker->engine.blas;
  (void)exact; /* always */
  for (KA_EACH(i, who)) {
    const struct ka_panels *p = &all[i];
    void *memory = NULL;
    KA_TRY(ka_alloc_n(ctx, &memory, p->n * p->m, sizeof(double), "matrix for the SVD"));
    ka_panels_load(p, 0, p->n, memory);
    ka_status st = p->wide ? blas->svdvals(ctx, p->n, p->m, memory, p->n, s + i * p->m)
                           : blas->svdvals(ctx, p->m, p->n, memory, p->m, s + i * p->m);
    ka_free(memory);
    KA_TRY(st);
  }
  return KA_STATUS_OK;
}

/* --- matrices --------------------------------------------------------------------------------- */

static ka_status shift(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m, int sign,
                       const double *a_all, const double *add, double *out_all) {
  (void)worker;
  for (KA_EACH(i, who)) {
    const double *a = matrix_of(a_all, i, m);
    double *out = matrix(out_all, i, m);
    for (int64_t j = 0; j < m; j++) {
      const double *from = a + j + j * m;
      double *to = out + j + j * m;
      if (sign > 0)
        memcpy(to, from, (size_t)(m - j) * sizeof *to);
      else
        for (int64_t k = 0; k < m - j; k++) to[k] = -from[k];
      *to += add[i];
    }
  }
  return KA_STATUS_OK;
}

static double sum_of(const double *a, int64_t m, enum ka_dense_sum kind) {
  double s = 0;
  for (int64_t j = 0; j < m; j++) {
    double d = a[j + j * m];
    switch (kind) {
    case KA_SUM_TRACE:
      s += d;
      break;
    case KA_SUM_LOG_DIAGONAL:
      s += log(d);
      break;
    case KA_SUM_SQUARES:
      for (int64_t i = j; i < m; i++) s += a[i + j * m] * a[i + j * m];
      break;
    case KA_SUM_OFF_IDENTITY:
      s += (d - 1) * (d - 1);
      for (int64_t i = j + 1; i < m; i++) s += 2 * a[i + j * m] * a[i + j * m];
      break;
    }
  }
  return s;
}

static ka_status sum(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                     const double *a, enum ka_dense_sum kind, double *out) {
  (void)worker;
  for (KA_EACH(i, who)) out[i] = sum_of(matrix_of(a, i, m), m, kind);
  return KA_STATUS_OK;
}

static ka_status potrf(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                       double *a_all, struct ka_dense_set *done) {
  done->n = 0;
  for (KA_EACH(i, who)) {
    double *a = matrix(a_all, i, m);
    bool ok = worker->engine.blas->potrf(m, a, m) == 0;
    for (int64_t j = 0; j < m && ok; j++) /* libraries let NaN pivots pass */
      ok = a[j + j * m] > 0 && isfinite(a[j + j * m]);
    if (ok) ka_dense_set_add(done, i);
  }
  return KA_STATUS_OK;
}

static ka_status ready(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                       double *l) {
  (void)worker, (void)who, (void)m, (void)l; /* substitution is what `solve` does */
  return KA_STATUS_OK;
}

static ka_status invert(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                        double *l) {
  struct ka_ctx *ctx = worker->ctx;
  for (KA_EACH(i, who)) /* the diagonal of a factor is positive */
    KA_NEVER(ctx, worker->engine.blas->trtri(m, matrix(l, i, m), m) != 0);
  return KA_STATUS_OK;
}

static ka_status trsm(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                      const double *l, double *z_all) {
  for (KA_EACH(i, who)) {
    double *z = matrix(z_all, i, m);
    worker->engine.blas->trsm(m, m, matrix_of(l, i, m), m, z, m);
    for (int64_t j = 1; j < m; j++) memset(z + j * m, 0, (size_t)j * sizeof *z);
  }
  return KA_STATUS_OK;
}

static ka_status lauum(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                       const double *w, double *out) {
  for (KA_EACH(i, who)) {
    const double *from = matrix_of(w, i, m);
    double *to = matrix(out, i, m);
    for (int64_t j = 0; j < m; j++)
      memcpy(to + j + j * m, from + j + j * m, (size_t)(m - j) * sizeof *to);
    worker->engine.blas->lauum(m, to, m);
  }
  return KA_STATUS_OK;
}

static ka_status symv(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                      const double *a, struct ka_dense_vectors x, struct ka_dense_vectors y) {
  for (KA_EACH(i, who))
    worker->engine.blas->symv(m, matrix_of(a, i, m), m, vector(x, i), vector(y, i));
  return KA_STATUS_OK;
}

static ka_status solve(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                       const double *l, struct ka_dense_vectors x, struct ka_dense_vectors y) {
  for (KA_EACH(i, who)) {
    memcpy(vector(y, i), vector(x, i), (size_t)m * sizeof(double));
    worker->engine.blas->trsv(false, m, matrix_of(l, i, m), m, vector(y, i));
    worker->engine.blas->trsv(true, m, matrix_of(l, i, m), m, vector(y, i));
  }
  return KA_STATUS_OK;
}

static ka_status normal(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                        const double *w, struct ka_dense_vectors x, struct ka_dense_vectors y) {
  for (KA_EACH(i, who)) {
    memcpy(vector(y, i), vector(x, i), (size_t)m * sizeof(double));
    worker->engine.blas->trmv(false, m, matrix_of(w, i, m), m, vector(y, i));
    worker->engine.blas->trmv(true, m, matrix_of(w, i, m), m, vector(y, i));
  }
  return KA_STATUS_OK;
}

/* --- vectors ---------------------------------------------------------------------------------- */

static double dot(const double *a, const double *b, int64_t n) {
  double part[LANES] = {0};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int l = 0; l < LANES; l++) part[l] += a[i + l] * b[i + l];
  for (int l = 0; i < n; i++, l++) part[l] += a[i] * b[i];
  double s = 0;
  for (int l = 0; l < LANES; l++) s += part[l];
  return s;
}

static void add_scaled(double *y, double a, const double *x, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] += a * x[i];
}

static void over(double *y, const double *x, double by, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] = x[i] / by;
}

static ka_status put(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t n,
                     const double *from, struct ka_dense_vectors x) {
  (void)worker;
  for (KA_EACH(i, who)) memcpy(vector(x, i), from, (size_t)n * sizeof *from);
  return KA_STATUS_OK;
}

static ka_status get(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t n,
                     struct ka_dense_vectors x, double *to) {
  (void)worker;
  for (KA_EACH(i, who)) memcpy(to + i * n, vector(x, i), (size_t)n * sizeof *to);
  return KA_STATUS_OK;
}

static ka_status divide(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t n,
                        struct ka_dense_vectors x, const double *by, struct ka_dense_vectors y) {
  (void)worker;
  for (KA_EACH(i, who)) over(vector(y, i), vector(x, i), by[i], n);
  return KA_STATUS_OK;
}

static ka_status orthogonalise(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                               int64_t k, struct ka_dense_vectors basis, int64_t n,
                               struct ka_dense_vectors coefficients) {
  (void)worker;
  for (KA_EACH(i, who)) {
    double *rows = vector(basis, i), *v = rows + k * m, *w = v + m;
    vector(coefficients, i)[k] = dot(v, w, m);
    double before = sqrt(dot(w, w, m));
    for (int pass = 0; pass < 2; pass++)
      for (int64_t j = k; j >= 0; j--) add_scaled(w, -dot(rows + j * m, w, m), rows + j * m, m);
    double left = sqrt(dot(w, w, m));
    if (!(left > 1e-15 * before)) left = 0;
    vector(coefficients, i)[n + k] = left;
    if (left > 0) over(w, w, left, m);
  }
  return KA_STATUS_OK;
}

static ka_status combine(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                         const int64_t *n_rows, struct ka_dense_vectors basis, const double *coords,
                         int64_t stride, struct ka_dense_vectors x_all) {
  (void)worker;
  for (KA_EACH(i, who)) {
    double *x = vector(x_all, i);
    memset(x, 0, (size_t)m * sizeof *x);
    for (int64_t j = 0; j < n_rows[i]; j++)
      add_scaled(x, coords[i * stride + j], vector(basis, i) + j * m, m);
    over(x, x, sqrt(dot(x, x, m)), m);
  }
  return KA_STATUS_OK;
}

/* --- chains ----------------------------------------------------------------------------------- */

static int64_t chain_sum(int64_t n, int64_t block) {
  return n <= block ? n + 1 : block + (n + block - 1) / block + 1;
}
static int64_t chain_gram(int64_t n) { return chain_sum(n, KA_PANEL); }
static int64_t chain_product(int64_t m) { return chain_sum(m, INNER); }
static int64_t chain_potrf(const struct ka_linalg_engine *e, int64_t m) {
  return e->blas->chain_potrf(m);
}

const struct ka_dense ka_dense_host = {
    .name = "host",
    .check_every = 6,
    .units_of = one_unit,
    .bytes = bytes,
    .open = open,
    .close = close,
    .take = take,
    .give = give,
    .rate = rate,
    .hold = hold,
    .gram = gram,
    .norms = norms,
    .gram_of_product = gram_of_product,
    .values = values,
    .shift = shift,
    .sum = sum,
    .potrf = potrf,
    .ready = ready,
    .invert = invert,
    .trsm = trsm,
    .lauum = lauum,
    .symv = symv,
    .solve = solve,
    .normal = normal,
    .put = put,
    .get = get,
    .divide = divide,
    .orthogonalise = orthogonalise,
    .combine = combine,
    .chain_gram = chain_gram,
    .chain_norm = ka_panels_norm_chain,
    .chain_product = chain_product,
    .chain_potrf = chain_potrf,
};

struct ka_linalg_engine ka_linalg_engine_cpu(void) {
  return (struct ka_linalg_engine){&ka_dense_host, ka_blas_cpu(), NULL};
}
