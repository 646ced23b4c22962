/* SPDX-License-Identifier: Apache-2.0
 * The cuda engine of linalg/dense.h: its slots. Everything is asynchronous but what returns
 * numbers. */
#include "linalg/cuda/worker.h"

#include <math.h>
#include <string.h>

/* Columns of a product's block, so that little above a diagonal is done. */
enum { COLUMNS = 1024 };

#define LAUNCHED(what, call) cuda_worker_launched(worker, what, call)

/* --- products --------------------------------------------------------------------------------- */

/* c [m,n] = op(a) op(b)^T + beta c; trans: a is [k,m] and b [k,n], stored with those leading
 * dimensions. */
struct factor {
  const double *at;
  int64_t ld, stride;
};

static ka_status multiply(struct ka_dense_worker *worker, bool ta, bool tb, int64_t m, int64_t n,
                          int64_t k, struct factor a, struct factor b, double beta, double *to,
                          int64_t ld, int64_t stride, int count) {
  struct cuda_worker *c = cuda_worker_of(worker);
  const double one = 1;
  cublasOperation_t oa = ta ? CUBLAS_OP_T : CUBLAS_OP_N, ob = tb ? CUBLAS_OP_T : CUBLAS_OP_N;
  if (count == 1)
    return cuda_worker_blas(worker, cublasDgemm(c->blas, oa, ob, (int)m, (int)n, (int)k, &one, a.at,
                                                (int)a.ld, b.at, (int)b.ld, &beta, to, (int)ld));
  return cuda_worker_blas(worker,
                          cublasDgemmStridedBatched(c->blas, oa, ob, (int)m, (int)n, (int)k, &one,
                                                    a.at, (int)a.ld, a.stride, b.at, (int)b.ld,
                                                    b.stride, &beta, to, (int)ld, stride, count));
}

/* g (lower) = panel^T panel + beta g, panel [kb,m] as ka_panels_load lays it out; for `count`
 * panels and matrices side by side. */
static ka_status add_gram(struct ka_dense_worker *worker, const double *panel, int64_t kb,
                          double beta, double *g, int count) {
  struct ka_ctx *ctx = worker->ctx;
  const struct worker_raws *r = &cuda_worker_of(worker)->raws;
  int64_t m = r->m, stride = WORKER_PANEL * m;
  for (int64_t j = 0; j < m; j += COLUMNS) {
    int64_t n = m - j < COLUMNS ? m - j : COLUMNS;
    struct factor f = {panel + j * (r->wide ? kb : 1), r->wide ? kb : m, stride};
    KA_TRY(multiply(worker, r->wide, !r->wide, m - j, n, kb, f, f, beta, g + j + j * m, m, m * m,
                    count));
  }
  return KA_STATUS_OK;
}

static int64_t rows_from(const struct worker_raws *r, int64_t k0) {
  return r->n - k0 < WORKER_PANEL ? r->n - k0 : WORKER_PANEL;
}

/* Always for the whole batch, with zeros for who is not there: another count might be another
 * algorithm, and a unit's bits would depend on its companions. */
ka_status cuda_worker_gram(struct ka_dense_worker *worker, struct ka_dense_set who,
                           const struct ka_panels *p, double *g) {
  struct ka_ctx *ctx = worker->ctx;
  struct cuda_worker *c = cuda_worker_of(worker);
  int64_t stride = WORKER_PANEL * c->raws.m;
  (void)p;
  if (who.n < c->units)
    WORKER_TRY(worker, cudaMemsetAsync(c->panels, 0, (size_t)(c->units * stride) * sizeof(double),
                                       c->stream));
  for (int64_t k0 = 0; k0 < c->raws.n; k0 += WORKER_PANEL) {
    int64_t kb = rows_from(&c->raws, k0);
    KA_TRY(LAUNCHED("load", worker_load(c->stream, who, &c->raws, k0, kb, c->panels, stride)));
    KA_TRY(add_gram(worker, c->panels, kb, k0 > 0, g, c->units));
  }
  return LAUNCHED("mirror", worker_mirror(c->stream, who, c->raws.m, g));
}

static ka_status norms(struct ka_dense_worker *worker, struct ka_dense_set who,
                       const struct ka_panels *p, struct ka_dense_vectors x, double *norms_,
                       double *sizes) {
  struct ka_ctx *ctx = worker->ctx;
  struct cuda_worker *c = cuda_worker_of(worker);
  (void)p;
  if (who.n == 0) return KA_STATUS_OK;
  KA_TRY(LAUNCHED("norms", worker_norms(c->stream, who, &c->raws, x, c->images, c->back)));
  KA_TRY(cuda_worker_sync(worker));
  for (KA_EACH(i, who))
    for (int j = 0; j < 4; j++) {
      const double *s = c->back + 8 * i + 2 * j;
      double norm = (double)sqrtl((long double)s[0] + s[1]);
      *(j < 2 ? &norms_[2 * i + j] : &sizes[2 * i + j - 2]) = norm;
    }
  return KA_STATUS_OK;
}

/* product = panel times X, X^T = z lower with zeros above, in the panel's own layout; WORKER_PANEL
 * terms of a sum at a time. */
static ka_status times_x(struct ka_dense_worker *worker, const double *panel, int64_t kb,
                         const double *z, bool add, double *product) {
  struct ka_ctx *ctx = worker->ctx;
  const struct worker_raws *r = &cuda_worker_of(worker)->raws;
  int64_t m = r->m;
  for (int64_t i = 0; i < m; i += WORKER_PANEL) { /* columns i.. of the product get terms i.. */
    int64_t n = m - i < WORKER_PANEL ? m - i : WORKER_PANEL;
    double beta = i > 0 || add ? 1 : 0;
    struct factor x = {z + i + i * m, m, 0};
    struct factor a = {panel + i * (r->wide ? kb : 1), r->wide ? kb : m, 0};
    if (r->wide)
      KA_TRY(multiply(worker, false, true, kb, m - i, n, a, x, beta, product + i * kb, kb, 0, 1));
    else
      KA_TRY(multiply(worker, false, false, m - i, kb, n, x, a, beta, product + i, m, 0, 1));
  }
  return KA_STATUS_OK;
}

/* c->product from a panel: by plain products, or with bits from parts that are cut there. */
static ka_status multiply_panel(struct ka_dense_worker *worker, double *panel, int64_t kb,
                                const double *z, int bits) {
  struct ka_ctx *ctx = worker->ctx;
  struct cuda_worker *c = cuda_worker_of(worker);
  int64_t n = kb * c->raws.m, size = WORKER_PANEL * c->raws.m;
  double *product = c->product, *low = product + size, *leading = low + size;
  if (bits == 0) return times_x(worker, panel, kb, z, false, product);
  KA_TRY(LAUNCHED("split", worker_split(c->stream, panel, low, n, ldexp(1, -bits))));
  KA_TRY(times_x(worker, panel, kb, z, false, leading));
  KA_TRY(times_x(worker, panel, kb, c->low, false, product));
  KA_TRY(times_x(worker, low, kb, z, true, product));
  KA_TRY(times_x(worker, low, kb, c->low, true, product));
  return LAUNCHED("add", worker_add(c->stream, product, leading, n));
}

static ka_status gram_of_product(struct ka_dense_worker *worker, int i, const struct ka_panels *p,
                                 double *z_all, int bits, double *h) {
  struct ka_ctx *ctx = worker->ctx;
  struct cuda_worker *c = cuda_worker_of(worker);
  struct ka_dense_set one = {1, {(uint8_t)i}};
  int64_t m = c->raws.m;
  double *z = z_all + i * m * m, *panel = c->panels + i * WORKER_PANEL * m;
  (void)p;
  if (bits > 0) KA_TRY(LAUNCHED("split", worker_split_rows(c->stream, z, c->low, m, bits)));
  for (int64_t k0 = 0; k0 < c->raws.n; k0 += WORKER_PANEL) {
    int64_t kb = rows_from(&c->raws, k0);
    KA_TRY(LAUNCHED("load",
                    worker_load(c->stream, one, &c->raws, k0, kb, c->panels, WORKER_PANEL * m)));
    KA_TRY(multiply_panel(worker, panel, kb, z, bits));
    KA_TRY(add_gram(worker, c->product, kb, k0 > 0, h + i * m * m, 1));
  }
  if (bits > 0) KA_TRY(LAUNCHED("add", worker_add(c->stream, z, c->low, m * m)));
  return LAUNCHED("mirror", worker_mirror(c->stream, one, m, z_all));
}

/* --- matrices --------------------------------------------------------------------------------- */

static struct worker_numbers numbers(struct ka_dense_set who, const double *from) {
  struct worker_numbers n = {{0}};
  for (KA_EACH(i, who)) n.of[i] = from[i];
  return n;
}

static ka_status shift(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m, int sign,
                       const double *a, const double *add, double *out) {
  struct worker_numbers by = numbers(who, add);
  if (who.n == 0) return KA_STATUS_OK;
  return LAUNCHED("shift", worker_shift(cuda_worker_of(worker)->stream, who, m, sign, a, &by, out));
}

static ka_status sum(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                     const double *a, enum ka_dense_sum kind, double *out) {
  struct ka_ctx *ctx = worker->ctx;
  struct cuda_worker *c = cuda_worker_of(worker);
  if (who.n == 0) return KA_STATUS_OK;
  KA_TRY(LAUNCHED("sum", worker_sum(c->stream, who, m, a, kind, c->parts, c->back)));
  KA_TRY(cuda_worker_sync(worker));
  for (KA_EACH(i, who)) out[i] = c->back[i];
  return KA_STATUS_OK;
}

static ka_status potrf(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                       double *a, struct ka_dense_set *done) {
  struct ka_ctx *ctx = worker->ctx;
  struct cuda_worker *c = cuda_worker_of(worker);
  const int *failed = (const int *)(const void *)c->back;
  done->n = 0;
  if (who.n == 0) return KA_STATUS_OK;
  KA_TRY(LAUNCHED("Cholesky", worker_potrf(c->stream, who, m, a, c->failed)));
  WORKER_TRY(worker, cudaMemcpyAsync(c->back, c->failed, KA_BATCH * sizeof *failed,
                                     cudaMemcpyDefault, c->stream));
  KA_TRY(cuda_worker_sync(worker));
  for (KA_EACH(i, who))
    if (failed[i] == 0) ka_dense_set_add(done, i);
  return KA_STATUS_OK;
}

static ka_status ready(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                       double *l) {
  struct ka_ctx *ctx = worker->ctx;
  cudaStream_t s = cuda_worker_of(worker)->stream;
  if (who.n == 0) return KA_STATUS_OK;
  KA_TRY(LAUNCHED("inverse", worker_trtri(s, who, m, l)));
  return LAUNCHED("mirror", worker_mirror(s, who, m, l));
}

static ka_status invert(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                        double *l) {
  if (who.n == 0) return KA_STATUS_OK; /* a ready factor is its inverse */
  return LAUNCHED("zero", worker_zero_above(cuda_worker_of(worker)->stream, who, m, l));
}

static ka_status trsm(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                      const double *l, double *z) {
  struct ka_ctx *ctx = worker->ctx;
  cudaStream_t s = cuda_worker_of(worker)->stream;
  if (who.n == 0) return KA_STATUS_OK;
  KA_TRY(LAUNCHED("substitution", worker_trsm(s, who, m, l, z)));
  return LAUNCHED("mirror", worker_mirror(s, who, m, z));
}

static ka_status lauum(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                       const double *w, double *out) {
  struct ka_ctx *ctx = worker->ctx;
  cudaStream_t s = cuda_worker_of(worker)->stream;
  if (who.n == 0) return KA_STATUS_OK;
  KA_TRY(LAUNCHED("W^T W", worker_lauum(s, who, m, w, out)));
  return LAUNCHED("mirror", worker_mirror(s, who, m, out));
}

static ka_status symv(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                      const double *a, struct ka_dense_vectors x, struct ka_dense_vectors y) {
  if (who.n == 0) return KA_STATUS_OK;
  return LAUNCHED("product with a vector",
                  worker_column_dots(cuda_worker_of(worker)->stream, who, m, a, WORKER_ALL, x, y));
}

/* y = w^T w x; for a ready factor, that is its solution. */
static ka_status normal(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                        const double *w, struct ka_dense_vectors x, struct ka_dense_vectors y) {
  struct ka_ctx *ctx = worker->ctx;
  struct cuda_worker *c = cuda_worker_of(worker);
  struct ka_dense_vectors middle = {c->vector, m};
  if (who.n == 0) return KA_STATUS_OK;
  KA_TRY(LAUNCHED("product with a vector",
                  worker_column_dots(c->stream, who, m, w, WORKER_TO_DIAGONAL, x, middle)));
  return LAUNCHED("product with a vector",
                  worker_column_dots(c->stream, who, m, w, WORKER_FROM_DIAGONAL, middle, y));
}

/* --- vectors ---------------------------------------------------------------------------------- */

/* By way of the first panel: nothing of that is kept between slots. */
static ka_status put(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t n,
                     const double *from, struct ka_dense_vectors x) {
  struct ka_ctx *ctx = worker->ctx;
  struct cuda_worker *c = cuda_worker_of(worker);
  if (who.n == 0) return KA_STATUS_OK;
  KA_NEVER(ctx, n > WORKER_PANEL * c->raws.m);
  KA_TRY(cuda_worker_send(worker, c->panels, from, n * (int64_t)sizeof *from));
  return LAUNCHED("spread", worker_spread(c->stream, who, n, c->panels, x));
}

static ka_status get(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t n,
                     struct ka_dense_vectors x, double *to) {
  struct ka_ctx *ctx = worker->ctx;
  struct cuda_worker *c = cuda_worker_of(worker);
  if (who.n == 0) return KA_STATUS_OK;
  KA_NEVER(ctx, KA_BATCH * n * (int64_t)sizeof *to > WORKER_BACK_BYTES);
  KA_TRY(LAUNCHED("gather", worker_gather(c->stream, who, n, x, c->back)));
  KA_TRY(cuda_worker_sync(worker));
  for (KA_EACH(i, who)) memcpy(to + i * n, c->back + i * n, (size_t)n * sizeof *to);
  return KA_STATUS_OK;
}

static ka_status divide(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t n,
                        struct ka_dense_vectors x, const double *by, struct ka_dense_vectors y) {
  struct worker_numbers b = numbers(who, by);
  if (who.n == 0) return KA_STATUS_OK;
  return LAUNCHED("divide", worker_divide(cuda_worker_of(worker)->stream, who, n, x, &b, y));
}

static ka_status orthogonalise(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                               int64_t k, struct ka_dense_vectors basis, int64_t n,
                               struct ka_dense_vectors coefficients) {
  struct ka_ctx *ctx = worker->ctx;
  struct cuda_worker *c = cuda_worker_of(worker);
  struct ka_dense_vectors dots = {c->dots, WORKER_MAX_STEPS + 2};
  KA_NEVER(ctx, k >= WORKER_MAX_STEPS);
  return LAUNCHED("orthogonalise",
                  worker_orthogonalise(c->stream, who, m, k, basis, n, coefficients, dots));
}

static ka_status combine(struct ka_dense_worker *worker, struct ka_dense_set who, int64_t m,
                         const int64_t *n_rows, struct ka_dense_vectors basis, const double *coords,
                         int64_t stride, struct ka_dense_vectors x) {
  struct ka_ctx *ctx = worker->ctx;
  struct cuda_worker *c = cuda_worker_of(worker);
  struct ka_dense_vectors dots = {c->dots, stride};
  struct worker_counts counts = {{0}};
  if (who.n == 0) return KA_STATUS_OK;
  KA_NEVER(ctx, stride > WORKER_MAX_STEPS);
  for (KA_EACH(i, who)) counts.of[i] = (int)n_rows[i];
  int last = who.at[who.n - 1];
  KA_TRY(cuda_worker_send(worker, dots.at, coords,
                          (last * stride + n_rows[last]) * (int64_t)sizeof *coords));
  return LAUNCHED("combine", worker_combine(c->stream, who, m, &counts, basis, dots, x));
}

/* --- rate, chains ----------------------------------------------------------------------------- */

/* a [m,m]: 2^60 in the first column, 1 elsewhere; b: 0 in the first row, 1 elsewhere. Their product
 * is m - 1 everywhere in IEEE arithmetic, and is not where rows are cut to a common exponent, as
 * emulations of float64 do. */
static ka_status fill(struct ka_dense_worker *worker, int64_t m, double *a, double *b,
                      double *column) {
  struct ka_ctx *ctx = worker->ctx;
  struct cuda_worker *c = cuda_worker_of(worker);
  void *memory = NULL;
  KA_TRY(ka_alloc_n(ctx, &memory, 2 * m, sizeof(double), "GEMM rate"));
  double *ones = memory, *large = ones + m;
  for (int64_t i = 0; i < m; i++) ones[i] = 1, large[i] = 0x1p60;
  ka_status st = KA_STATUS_OK;
  for (int pass = 0; pass < 2 && ka_ok(st); pass++) {
    if (pass == 1) ones[0] = 0;
    st = cuda_worker_send(worker, column, ones, m * (int64_t)sizeof *ones);
    for (int64_t j = 0; j < m && ka_ok(st); j += KA_BATCH) {
      struct ka_dense_set some = {0};
      for (int k = 0; k < KA_BATCH && j + k < m; k++) ka_dense_set_add(&some, k);
      struct ka_dense_vectors to = {(pass == 0 ? a : b) + j * m, m};
      st = LAUNCHED("fill", worker_spread(c->stream, some, m, column, to));
    }
  }
  if (ka_ok(st)) st = cuda_worker_send(worker, a, large, m * (int64_t)sizeof *large);
  ka_free(memory);
  return st;
}

static ka_status check(struct ka_dense_worker *worker, int64_t m, const double *product,
                       double *parts) {
  struct ka_ctx *ctx = worker->ctx;
  struct cuda_worker *c = cuda_worker_of(worker);
  struct ka_dense_set one = {1, {0}};
  double n = (double)m, trace, squares;
  KA_TRY(LAUNCHED("sum", worker_sum(c->stream, one, m, product, KA_SUM_TRACE, parts, c->back)));
  KA_TRY(cuda_worker_sync(worker));
  trace = c->back[0];
  KA_TRY(LAUNCHED("sum", worker_sum(c->stream, one, m, product, KA_SUM_SQUARES, parts, c->back)));
  KA_TRY(cuda_worker_sync(worker));
  squares = c->back[0];
  if (trace == n * (n - 1) && squares == n * (n + 1) / 2 * (n - 1) * (n - 1)) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_DEVICE,
                 "cuda: spectra: cuBLAS does not compute in float64 here (a product of small "
                 "integers is wrong); is an emulation of float64 switched on?");
}

static ka_status time_products(struct ka_dense_worker *worker, int64_t m,
                               const cudaEvent_t events[2], double *flops) {
  enum { REPEATS = 3 };
  struct ka_ctx *ctx = worker->ctx;
  struct cuda_worker *c = cuda_worker_of(worker);
  double *a = (double *)(void *)(c->memory + WORKER_BLAS_BYTES), *b = a + m * m, *to = b + m * m;
  double *column = to + m * m;
  struct factor left = {a, m, 0}, right = {b, m, 0};
  KA_TRY(fill(worker, m, a, b, column));
  *flops = 0;
  for (int r = 0; r <= REPEATS; r++) { /* the first warms up */
    float ms = 0;
    WORKER_TRY(worker, cudaEventRecord(events[0], c->stream));
    KA_TRY(multiply(worker, false, false, m, m, m, left, right, 0, to, m, 0, 1));
    WORKER_TRY(worker, cudaEventRecord(events[1], c->stream));
    WORKER_TRY(worker, cudaEventSynchronize(events[1]));
    WORKER_TRY(worker, cudaEventElapsedTime(&ms, events[0], events[1]));
    double n = (double)m, got = 2e3 * n * n * n / (ms > 1e-6f ? ms : 1e-6f);
    if (r > 0 && got > *flops) *flops = got;
  }
  return check(worker, m, to, column);
}

static ka_status rate(struct ka_ctx *ctx, const struct ka_linalg_engine *engine, int64_t m,
                      double *flops) {
  struct ka_dense_worker worker = {.ctx = ctx, .engine = *engine};
  cudaEvent_t events[2] = {NULL, NULL};
  int64_t doubles = 3 * m * m + (m > WORKER_PARTS ? m : WORKER_PARTS);
  ka_status st = cuda_worker_open(&worker, WORKER_BLAS_BYTES + doubles * (int64_t)sizeof(double));
  for (int i = 0; i < 2 && ka_ok(st); i++) {
    cudaError_t e = cudaEventCreate(&events[i]);
    if (e != cudaSuccess) st = cuda_worker_fail(&worker, e, "cudaEventCreate");
  }
  if (ka_ok(st)) st = time_products(&worker, m, events, flops);
  for (int i = 0; i < 2; i++)
    if (events[i]) (void)cudaEventDestroy(events[i]);
  cuda_worker_close(&worker);
  return st;
}

static int64_t chain_sum(int64_t n) {
  return n <= WORKER_PANEL ? n + 1 : WORKER_PANEL + (n + WORKER_PANEL - 1) / WORKER_PANEL + 1;
}

/* As the host's, see linalg/blas_cpu.c: the same algorithm. */
static int64_t chain_potrf(const struct ka_linalg_engine *engine, int64_t m) {
  int64_t blocks = (m + WORKER_BLOCK - 1) / WORKER_BLOCK;
  (void)engine;
  return blocks == 1 ? m + 8 : 3 * WORKER_BLOCK + 2 * blocks + 8;
}

const struct ka_dense cuda_dense = {
    .name = "cublas",
    .check_every = 12,
    .room = cuda_worker_room,
    .units_of = cuda_worker_units_of,
    .bytes = cuda_worker_bytes,
    .open = cuda_worker_open,
    .close = cuda_worker_close,
    .take = cuda_worker_take,
    .give = cuda_worker_give,
    .rate = rate,
    .hold = cuda_worker_hold,
    .gram = cuda_worker_gram,
    .norms = norms,
    .gram_of_product = gram_of_product,
    .values = cuda_worker_values,
    .shift = shift,
    .sum = sum,
    .potrf = potrf,
    .ready = ready,
    .invert = invert,
    .trsm = trsm,
    .lauum = lauum,
    .symv = symv,
    .solve = normal,
    .normal = normal,
    .put = put,
    .get = get,
    .divide = divide,
    .orthogonalise = orthogonalise,
    .combine = combine,
    .chain_gram = chain_sum,
    .chain_norm = worker_chain_norm,
    .chain_product = chain_sum,
    .chain_potrf = chain_potrf,
};
