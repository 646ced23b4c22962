/* SPDX-License-Identifier: Apache-2.0
 *
 * Many units: in batches of one shape over the workers of an engine, side by side (on the host,
 * large ones one after another with the library's own threads); order, memory, progress. */
#include "engine/spectral/batch.h"

#include "base/log.h"
#include "engine/spectral/cache.h"
#include "engine/spectral/ends.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* From this many rows of the Gram matrix on, one unit keeps all cores busy by itself. */
enum { BIG = 6144 };

const char *ka_spectral_method_name(enum ka_spectral_method method) {
  static const char *const names[] = {
#define X(id, name) name,
      KA_SPECTRAL_METHODS(X)
#undef X
  };
  return names[method];
}

int64_t ka_unit_elems(const struct ka_unit *unit) {
  return unit->view.shape[0] * unit->view.shape[1];
}

struct ka_unit ka_unit_of_tensor(const char *name, struct ka_tensor t) {
  struct ka_unit u = {
      .name = name, .tensor = name, .layer = -1, .expert = -1, .n_dim = t.n_dim, .affinity = NAN};
  memcpy(u.shape, t.shape, sizeof u.shape);
  u.rows[0] = u.rows[1] = u.cols[0] = u.cols[1] = -1;
  u.view = t.n_dim == 2 ? t : ka_tensor_as_matrix(t);
  return u;
}

void ka_spectrum_clear(struct ka_spectrum *r, const struct ka_unit *unit) {
  *r = (struct ka_spectrum){.unit = unit, .bad_index = -1};
  for (int i = 0; i < KA_N_METRICS; i++) r->metrics[i] = NAN;
  r->kappa_rel_bound = r->sigma_max_rel_bound = r->sigma_min_rel_bound = NAN;
  r->kappa_low = 1;
  r->kappa_high = INFINITY;
}

void ka_spectral_phases_add(struct ka_spectral_phases *to, const struct ka_spectral_phases *from) {
  to->read_s += from->read_s;
  to->gram_s += from->gram_s;
  to->cholesky_s += from->cholesky_s;
  to->lanczos_s += from->lanczos_s;
  to->inverse_s += from->inverse_s;
  to->svd_s += from->svd_s;
  to->hash_s += from->hash_s;
  to->total_s += from->total_s;
  to->gram_flops += from->gram_flops;
  to->n_cached += from->n_cached;
  to->n_computed += from->n_computed;
}

static double flops_of(const struct ka_unit *u, bool full) {
  int64_t r = u->view.shape[0], c = u->view.shape[1];
  return ka_spectral_ends_flops(r > c ? r : c, r > c ? c : r, full);
}

double ka_spectral_flops(const struct ka_unit *units, int64_t n,
                         const struct ka_spectral_options *options) {
  double all = 0;
  for (int64_t i = 0; i < n; i++) all += flops_of(&units[i], options->full);
  return all;
}

/* --- many batches ----------------------------------------------------------------------------- */

static void report(struct ka_spectral_analysis *a, int64_t i) {
#pragma omp atomic
  a->done_flops += a->flops[i];
  if (omp_get_thread_num() == 0 && a->options->progress) {
    double done;
#pragma omp atomic read
    done = a->done_flops;
    a->options->progress(a->options->user, done, a->all_flops, a->units[i].name);
  }
}

/* Most work first; equal shapes stand together. */
static int by_flops(const void *x, const void *y, void *user) {
  const struct ka_spectral_analysis *a = user;
  int64_t i = *(const int64_t *)x, j = *(const int64_t *)y;
  int64_t rows_i = a->units[i].view.shape[0], rows_j = a->units[j].view.shape[0];
  if (a->flops[i] != a->flops[j]) return a->flops[i] > a->flops[j] ? -1 : 1;
  int dtype_i = a->units[i].view.dtype, dtype_j = a->units[j].view.dtype;
  if (rows_i != rows_j) return rows_i > rows_j ? -1 : 1;
  if (dtype_i != dtype_j) return dtype_i < dtype_j ? -1 : 1;
  return i < j ? -1 : i > j;
}

/* Units order[0..n-1] by the workers of one engine. */
struct pool {
  struct ka_linalg_engine engine;
  struct ka_dense_worker *workers;
  int n_workers;
  const int64_t *order;
  int64_t *starts; /* [n_batches + 1] into order */
  int64_t n_batches;
  bool *left; /* by unit: there was no memory for it; NULL: that is a failure */
};

static bool alike(const struct ka_unit *x, const struct ka_unit *y) {
  const struct ka_tensor *a = &x->view, *b = &y->view;
  return a->dtype == b->dtype && a->shape[0] == b->shape[0] && a->shape[1] == b->shape[1];
}

static ka_status form_batches(struct ka_spectral_analysis *a, struct pool *c, struct ka_arena *tmp,
                              int64_t n) {
  struct ka_ctx *ctx = a->ctx;
  KA_TRY(KA_NEW(tmp, &c->starts, n + 1, "batches"));
  for (int64_t at = 0; at < n;) {
    const struct ka_unit *u = &a->units[c->order[at]];
    int most = ka_spectral_batch_size(a, c->engine.dense, u).units, got = 0;
    c->starts[c->n_batches++] = at;
    for (; at < n && got < most && alike(u, &a->units[c->order[at]]); at++) got++;
  }
  c->starts[c->n_batches] = n;
  return KA_STATUS_OK;
}

static ka_status take_batch(struct ka_spectral_analysis *a, struct pool *c,
                            struct ka_dense_worker *worker, int64_t k) {
  struct ka_ctx *ctx = a->ctx;
  const int64_t *order = c->order + c->starts[k];
  int n = (int)(c->starts[k + 1] - c->starts[k]);
  ka_status st = ka_spectral_batch_run(a, worker, order, n);
  if (st.code == KA_E_MEMORY && c->left) {
#pragma omp critical(ka_spectral_error)
    if (ctx->error.code == KA_E_MEMORY) ka_error_clear(ctx); /* else another worker's */
    for (int i = 0; i < n; i++) c->left[order[i]] = true;
    return KA_STATUS_OK;
  }
  KA_TRY(st);
  for (int i = 0; i < n; i++) report(a, order[i]);
  return KA_STATUS_OK;
}

/* Batches from `first` on, side by side. */
static ka_status run_workers(struct ka_spectral_analysis *a, struct pool *c, int64_t first) {
  struct ka_ctx *ctx = a->ctx;
  int failed = KA_OK;
#pragma omp parallel for schedule(dynamic, 1) num_threads(c->n_workers)
  for (int64_t k = first; k < c->n_batches; k++) {
    int stop;
#pragma omp atomic read
    stop = failed;
    if (stop || ka_interrupted(ctx)) continue;
    ka_status st = take_batch(a, c, &c->workers[omp_get_thread_num()], k);
    if (st.code != KA_OK) {
#pragma omp atomic write
      failed = st.code;
    }
  }
  if (failed != KA_OK && ctx->error.code == KA_OK) /* cleared with another's */
    return ka_fail(ctx, failed, "spectra: a worker failed while another was out of memory");
  return (ka_status){failed};
}

static void close_workers(struct pool *c) {
  for (int i = 0; i < c->n_workers; i++) c->engine.dense->close(&c->workers[i]);
  c->n_workers = 0;
}

/* Up to n workers for n_bytes each; fewer when memory for more is not there and `left` is. */
static ka_status open_workers(struct ka_spectral_analysis *a, struct pool *c, struct ka_arena *tmp,
                              int n, int64_t n_bytes) {
  struct ka_ctx *ctx = a->ctx;
  KA_TRY(KA_NEW(tmp, &c->workers, n, "workers"));
  while (c->n_workers < n) {
    struct ka_dense_worker *worker = &c->workers[c->n_workers];
    *worker = (struct ka_dense_worker){.ctx = ctx, .engine = c->engine};
    ka_status st = c->engine.dense->open(worker, n_bytes);
    if (ka_ok(st)) {
      c->n_workers++;
      continue;
    }
    c->engine.dense->close(worker);
    if (st.code != KA_E_MEMORY || !c->left) return st;
    ka_error_clear(ctx);
    break;
  }
  return KA_STATUS_OK;
}

/* --- the host's engine, and a device's -------------------------------------------------------- */

/* How many units may run side by side: no more than fit the memory limit together. */
static int side_by_side(const struct ka_spectral_analysis *a, const int64_t *order, int64_t first,
                        int64_t n, int n_threads) {
  if (a->options->max_bytes <= 0 || first >= n) return n_threads;
  struct ka_dense_size size = ka_spectral_batch_size(a, &ka_dense_host, &a->units[order[first]]);
  int64_t fit = a->options->max_bytes / ka_dense_host.bytes(&size);
  return fit < 1 ? 1 : fit < n_threads ? (int)fit : n_threads;
}

/* The large ones alone, with the library's threads; then side by side, the library single-threaded.
 */
static ka_status run_host(struct ka_spectral_analysis *a, struct ka_linalg_engine engine,
                          const int64_t *order, int64_t n, struct ka_arena *tmp) {
  struct ka_ctx *ctx = a->ctx;
  struct pool c = {.engine = engine, .order = order};
  int n_threads = a->options->n_threads > 0 ? a->options->n_threads : omp_get_max_threads();
  int64_t first = 0;
  ka_status st = KA_STATUS_OK;
  KA_TRY(form_batches(a, &c, tmp, n));
  while (first < n && ka_unit_short_side(&a->units[order[first]]) >= BIG) first++;
  KA_TRY_GOTO(open_workers(a, &c, tmp, side_by_side(a, order, first, n, n_threads), 0), out);
  engine.blas->threads(n_threads);
  for (int64_t k = 0; k < first && !ka_interrupted(ctx); k++)
    KA_TRY_GOTO(take_batch(a, &c, &c.workers[0], k), out);
  engine.blas->threads(1);
  KA_TRY_GOTO(run_workers(a, &c, first), out);
out:
  close_workers(&c);
  return st;
}

/* What does not fit there is left. */
static ka_status run_device(struct ka_spectral_analysis *a, bool *left, struct ka_arena *tmp) {
  struct ka_ctx *ctx = a->ctx;
  struct pool c = {.engine = a->engine, .order = a->order, .left = left};
  const struct ka_dense *d = a->engine.dense;
  int64_t room = 0, most = 0;
  int n_workers = 0;
  ka_status st = KA_STATUS_OK;
  KA_TRY(d->room(ctx, &a->engine, &room, &n_workers));
  if (a->options->max_bytes > 0 && a->options->max_bytes < room) room = a->options->max_bytes;
  if (a->options->full) room /= 2; /* what computes all values takes its own */
  KA_TRY(form_batches(a, &c, tmp, a->n));
  for (int64_t k = 0; k < c.n_batches; k++) {
    struct ka_dense_size size = ka_spectral_batch_size(a, d, &a->units[a->order[c.starts[k]]]);
    int64_t bytes = d->bytes(&size);
    if (bytes <= room && bytes > most) most = bytes;
  }
  if (most > 0 && room / most < n_workers) n_workers = (int)(room / most);
  if (c.n_batches < n_workers) n_workers = (int)c.n_batches;
  KA_TRY_GOTO(open_workers(a, &c, tmp, n_workers, most), out);
  if (c.n_workers > 0) {
    KA_TRY_GOTO(run_workers(a, &c, 0), out);
  } else {
    for (int64_t i = 0; i < a->n; i++) left[i] = true;
  }
out:
  close_workers(&c);
  return st;
}

static ka_status run(struct ka_spectral_analysis *a, struct ka_arena *tmp) {
  struct ka_ctx *ctx = a->ctx;
  if (a->engine.blas) {
    KA_TRY(run_host(a, a->engine, a->order, a->n, tmp));
  } else {
    void *left = NULL, *order = NULL;
    int64_t n = 0;
    KA_TRY(ka_arena_alloc_n(tmp, &left, a->n, sizeof(bool), "left over"));
    KA_TRY(ka_arena_alloc_n(tmp, &order, a->n, sizeof(int64_t), "left over"));
    KA_TRY(run_device(a, left, tmp));
    for (int64_t k = 0; k < a->n; k++) {
      int64_t i = a->order[k];
      if (!((bool *)left)[i]) continue;
      ka_spectrum_clear(&a->results[i], &a->units[i]);
      ((int64_t *)order)[n++] = i;
    }
    if (n > 0) {
      ka_info(ctx, "spectral", "%lld of %lld on the processor: no room for them on the device",
              (long long)n, (long long)a->n);
      KA_TRY(run_host(a, ka_linalg_engine_cpu(), order, n, tmp));
    }
  }
  if (ka_interrupted(ctx))
    return ka_fail(ctx, KA_E_INTERRUPTED, "analysis interrupted; finished tensors are cached");
  return KA_STATUS_OK;
}

static ka_status prepare(struct ka_spectral_analysis *a, struct ka_arena *tmp) {
  struct ka_ctx *ctx = a->ctx;
  void *flops = NULL, *order = NULL;
  KA_TRY(ka_arena_alloc_n(tmp, &flops, a->n + 1, sizeof(double), "order"));
  KA_TRY(ka_arena_alloc_n(tmp, &order, a->n + 1, sizeof(int64_t), "order"));
  a->flops = flops;
  a->order = order;
  for (int64_t i = 0; i < a->n; i++) {
    ka_spectrum_clear(&a->results[i], &a->units[i]);
    a->flops[i] = flops_of(&a->units[i], a->options->full);
    a->order[i] = i;
    a->all_flops += a->flops[i];
  }
  qsort_r(a->order, (size_t)a->n, sizeof *a->order, by_flops, a);
  return KA_STATUS_OK;
}

ka_status ka_spectral_analyze(struct ka_ctx *ctx, struct ka_arena *arena,
                              struct ka_spectrum *results, const struct ka_unit *units, int64_t n,
                              const struct ka_spectral_options *options,
                              struct ka_spectral_phases *phases) {
  struct ka_spectral_phases own = {0};
  struct ka_spectral_analysis a = {
      .ctx = ctx, .arena = arena, .results = results, .units = units, .n = n};
  a.options = options;
  a.engine = options->engine.dense ? options->engine : ka_linalg_engine_cpu();
  a.phases = phases ? phases : &own;
  *a.phases = own;
  double start = ka_now_s();
  struct ka_arena tmp;
  ka_arena_init(&tmp, ctx, "spectral order");
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(prepare(&a, &tmp), out);
  if (options->cache) KA_TRY_GOTO(ka_spectral_cache_open(ctx, &a.cache, options), out);
  st = run(&a, &tmp);
  if (a.cache) KA_TRY_KEEP(ka_spectral_cache_close(a.cache, a.phases));
out:
  ka_arena_deinit(&tmp);
  a.phases->total_s = ka_now_s() - start;
  return st;
}
