/* SPDX-License-Identifier: Apache-2.0
 *
 * Many units: which run side by side (OpenMP over units, the library single-threaded) and which
 * one after another with the library's own threads; memory, progress, cache, metrics. */
#include "engine/spectral/spectral.h"

#include "base/log.h"
#include "base/str.h"
#include "engine/spectral/cache.h"
#include "engine/spectral/ends.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
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
  struct ka_unit u = {.name = name, .tensor = name, .layer = -1, .n_dim = t.n_dim};
  memcpy(u.shape, t.shape, sizeof u.shape);
  u.rows[0] = u.rows[1] = u.cols[0] = u.cols[1] = -1;
  u.view = t.n_dim == 2 ? t : ka_tensor_as_matrix(t);
  return u;
}

struct batch {
  struct ka_ctx *ctx;
  struct ka_arena *arena;
  struct ka_spectrum *results;
  const struct ka_unit *units;
  const struct ka_spectral_options *options;
  const struct ka_dense *dense;
  struct ka_cache *cache;
  struct ka_spectral_phases *phases;
  double *flops; /* of each unit, for the order and the progress */
  int64_t *order;
  int64_t n;
  double done_flops, all_flops;
};

static double flops_of(const struct ka_unit *u, bool full) {
  int64_t r = u->view.shape[0], c = u->view.shape[1];
  return ka_ends_flops(r > c ? r : c, r > c ? c : r, full);
}

double ka_spectral_flops(const struct ka_unit *units, int64_t n,
                         const struct ka_spectral_options *options) {
  double all = 0;
  for (int64_t i = 0; i < n; i++) all += flops_of(&units[i], options->full);
  return all;
}

static int64_t short_side(const struct ka_unit *u) {
  return u->view.shape[0] < u->view.shape[1] ? u->view.shape[0] : u->view.shape[1];
}

/* Strings and values of results are made under a lock: arenas are not shared between threads. */
static ka_status set_error(struct batch *b, struct ka_spectrum *r, const char *text) {
  ka_status st;
#pragma omp critical(ka_spectral_arena)
  st = ka_arena_str(b->arena, &r->error, text, strlen(text));
  return st;
}

static ka_status alloc_values(struct batch *b, struct ka_spectrum *r, int64_t m) {
  void *memory = NULL;
  ka_status st;
#pragma omp critical(ka_spectral_arena)
  st = ka_arena_alloc_n(b->arena, &memory, m, sizeof(double), "singular values");
  r->values = memory;
  r->n_values = m;
  return st;
}

void ka_spectrum_clear(struct ka_spectrum *r, const struct ka_unit *unit) {
  *r = (struct ka_spectrum){.unit = unit, .bad_index = -1};
  for (int i = 0; i < KA_N_METRICS; i++) r->metrics[i] = NAN;
  r->kappa_rel_bound = r->sigma_max_rel_bound = r->sigma_min_rel_bound = NAN;
  r->kappa_low = 1;
  r->kappa_high = INFINITY;
}

static double rel_bound(double value, double low, double high) {
  return fmax(high / value - 1, 1 - low / value) * (1 + 1e-9) + 4.5e-16;
}

/* From the ends of the scaled matrix to the results. */
static void fill(struct ka_spectrum *r, const struct ka_panels *p, const struct ka_ends *e) {
  double m = (double)p->m, *x = r->metrics;
  double fro = sqrt(e->frobenius2);
  r->method = e->method;
  r->singular = e->singular;
  x[KA_METRIC_SIGMA_MAX] = ldexp(e->max, p->exponent);
  x[KA_METRIC_SIGMA_MIN] = ldexp(e->min, p->exponent);
  x[KA_METRIC_FROBENIUS] = ldexp(fro, p->exponent);
  x[KA_METRIC_STABLE_RANK] = e->frobenius2 / (e->max * e->max);
  r->sigma_max_rel_bound = rel_bound(e->max, e->max_low, e->max_high);
  r->kappa_low = e->max_low / e->min_high * (1 - 4.5e-16);
  if (e->singular) {
    r->kappa_low = fmax(r->kappa_low, 0x1p24 * (1 - 1e-15));
    return;
  }
  r->sigma_min_rel_bound = rel_bound(e->min, e->min_low, e->min_high);
  r->kappa_high = e->min_low > 0 ? e->max_high / e->min_low * (1 + 4.5e-16) : INFINITY;
  double kappa = e->max / e->min;
  x[KA_METRIC_KAPPA] = kappa;
  r->kappa_rel_bound = rel_bound(kappa, r->kappa_low, r->kappa_high);
  x[KA_METRIC_KAPPA_MP] = kappa / ka_kappa_of_noise(p->n, p->m);
  x[KA_METRIC_LOG_VOLUME] = e->log_volume + m * (double)p->exponent * M_LN2;
  x[KA_METRIC_LOG_VOLUME_GAP] = fmax(0, m * log(fro / sqrt(m)) - e->log_volume);
}

/* One row or one column: the norm is the only singular value. */
static void line_ends(const struct ka_panels *p, struct ka_ends *e) {
  long double s = 0;
  double x[KA_PANEL];
  for (int64_t k = 0; k < p->n; k += KA_PANEL) {
    int64_t kb = p->n - k < KA_PANEL ? p->n - k : KA_PANEL;
    ka_panels_load(p, k, kb, x);
    for (int64_t i = 0; i < kb; i++) s += (long double)x[i] * x[i];
  }
  double norm = (double)sqrtl(s), err = norm * 4e-16;
  *e = (struct ka_ends){.max = norm,
                        .min = norm,
                        .frobenius2 = (double)s,
                        .log_volume = log(norm),
                        .method = KA_SPECTRAL_EXACT};
  e->max_low = e->min_low = norm - err;
  e->max_high = e->min_high = norm + err;
}

static void fill_zero(struct ka_spectrum *r) {
  r->zero = r->singular = true;
  r->method = KA_SPECTRAL_EXACT;
  r->metrics[KA_METRIC_SIGMA_MAX] = r->metrics[KA_METRIC_SIGMA_MIN] = 0;
  r->metrics[KA_METRIC_FROBENIUS] = 0;
  r->sigma_max_rel_bound = 0;
  r->kappa_low = INFINITY;
}

static ka_status all_values(struct batch *b, struct ka_spectrum *r, const struct ka_panels *p,
                            struct ka_spectral_phases *phases) {
  struct ka_ctx *ctx = b->ctx;
  KA_TRY(alloc_values(b, r, p->m));
  double start = ka_now_s();
  KA_TRY(ka_ends_all_values(ctx, b->dense, p, r->values));
  for (int64_t i = 0; i < p->m; i++) r->values[i] = ldexp(r->values[i], p->exponent);
  r->values[0] = r->metrics[KA_METRIC_SIGMA_MAX]; /* the ends come from the certified route */
  r->values[p->m - 1] = r->metrics[KA_METRIC_SIGMA_MIN];
  ka_metrics_full(r->metrics, r->values, p->m, p->n);
  phases->svd_s += ka_now_s() - start;
  return KA_STATUS_OK;
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

static ka_status compute(struct batch *b, struct ka_spectrum *r) {
  struct ka_ctx *ctx = b->ctx;
  const struct ka_unit *u = r->unit;
  struct ka_panels p;
  struct ka_ends ends = {0};
  struct ka_spectral_phases phases = {.n_computed = 1};
  double start = ka_now_s();
  ka_panels_scan(&p, u->view);
  phases.read_s += ka_now_s() - start;
  if (p.bad_index >= 0) {
    char text[96];
    int64_t cols = u->view.shape[1];
    double bad = ka_load(u->view.data, u->view.dtype,
                         p.bad_index / cols * u->view.row_stride + p.bad_index % cols);
    snprintf(text, sizeof text, "%s at [%lld,%lld]", isnan(bad) ? "NaN" : "Inf",
             (long long)(p.bad_index / cols), (long long)(p.bad_index % cols));
    r->bad_index = p.bad_index;
    return set_error(b, r, text);
  }
  if (p.max_abs == 0) {
    fill_zero(r);
  } else if (p.m == 1) {
    line_ends(&p, &ends);
    fill(r, &p, &ends);
    r->metrics[KA_METRIC_KAPPA] = 1;
    r->metrics[KA_METRIC_LOG_VOLUME_GAP] = 0;
    r->kappa_rel_bound = 0;
    r->kappa_low = r->kappa_high = 1;
  } else {
    struct ka_ends_goal goal = {.rtol = b->options->rtol, .precision = b->options->precision};
    KA_TRY(ka_ends_of(ctx, b->dense, &p, goal, &phases, &ends));
    fill(r, &p, &ends);
  }
  if (b->options->full && !r->zero) KA_TRY(all_values(b, r, &p, &phases));
#pragma omp critical(ka_spectral_phases)
  ka_spectral_phases_add(b->phases, &phases);
  r->time_s = ka_now_s() - start;
  return KA_STATUS_OK;
}

static ka_status one(struct batch *b, int64_t i) {
  struct ka_ctx *ctx = b->ctx;
  struct ka_spectrum *r = &b->results[i];
  const struct ka_unit *u = r->unit;
  const struct ka_spectral_options *o = b->options;
  int64_t rows = u->view.shape[0], cols = u->view.shape[1], m = short_side(u);
  char text[128];
  if (u->skip) return set_error(b, r, u->skip);
  if (rows == 0 || cols == 0) return set_error(b, r, "no elements");
  if (o->max_dim > 0 && (rows > o->max_dim || cols > o->max_dim)) {
    snprintf(text, sizeof text, "skipped: a side above max_dim %lld", (long long)o->max_dim);
    return set_error(b, r, text);
  }
  int64_t bytes = ka_ends_bytes(rows > cols ? rows : cols, m, o->full);
  if (o->max_bytes > 0 && bytes > o->max_bytes) {
    char need[32], have[32];
    snprintf(text, sizeof text, "skipped: needs %s of workspace, the limit is %s",
             ka_fmt_bytes((double)bytes, need), ka_fmt_bytes((double)o->max_bytes, have));
    return set_error(b, r, text);
  }
  if (b->cache && ka_cache_get(b->cache, b->arena, r)) return KA_STATUS_OK;
  KA_TRY(compute(b, r));
  if (u->map) ka_map_forget(u->map, u->map_offset, u->map_bytes);
  if (b->cache && !r->error) KA_TRY(ka_cache_put(b->cache, r));
  return KA_STATUS_OK;
}

static void report(struct batch *b, int64_t i) {
#pragma omp atomic
  b->done_flops += b->flops[i];
  if (omp_get_thread_num() == 0 && b->options->progress) {
    double done;
#pragma omp atomic read
    done = b->done_flops;
    b->options->progress(b->options->user, done, b->all_flops, b->units[i].name);
  }
}

static bool interrupted(const struct ka_ctx *ctx) { return ctx->interrupted && *ctx->interrupted; }

static int by_flops(const void *x, const void *y, void *user) {
  const double *flops = user;
  int64_t i = *(const int64_t *)x, j = *(const int64_t *)y;
  if (flops[i] != flops[j]) return flops[i] > flops[j] ? -1 : 1;
  return i < j ? -1 : i > j;
}

/* How many units may run side by side: no more than fit the memory limit together. */
static int side_by_side(const struct batch *b, int64_t first, int n_threads) {
  if (b->options->max_bytes <= 0 || first >= b->n) return n_threads;
  const struct ka_unit *u = &b->units[b->order[first]];
  int64_t m = short_side(u), n = ka_unit_elems(u) / (m ? m : 1);
  int64_t fit = b->options->max_bytes / ka_ends_bytes(n, m, b->options->full);
  return fit < 1 ? 1 : fit < n_threads ? (int)fit : n_threads;
}

static ka_status run(struct batch *b) {
  struct ka_ctx *ctx = b->ctx;
  int n_threads = b->options->n_threads > 0 ? b->options->n_threads : omp_get_max_threads();
  int64_t first = 0;
  ka_status failed = KA_STATUS_OK;
  b->dense->threads(n_threads);
  for (; first < b->n && short_side(&b->units[b->order[first]]) >= BIG; first++) {
    if (interrupted(ctx)) break;
    KA_TRY(one(b, b->order[first]));
    report(b, b->order[first]);
  }
  b->dense->threads(1);
  int n_side = side_by_side(b, first, n_threads);
#pragma omp parallel for schedule(dynamic, 1) num_threads(n_side)
  for (int64_t k = first; k < b->n; k++) {
    int stop;
#pragma omp atomic read
    stop = failed.code;
    if (stop || interrupted(ctx)) continue;
    ka_status st = one(b, b->order[k]);
    if (st.code != KA_OK) {
#pragma omp atomic write
      failed.code = st.code;
    }
    report(b, b->order[k]);
  }
  if (failed.code == KA_OK && interrupted(ctx))
    return ka_fail(ctx, KA_E_INTERRUPTED, "analysis interrupted; finished tensors are cached");
  return failed;
}

static ka_status prepare(struct batch *b, struct ka_arena *tmp) {
  struct ka_ctx *ctx = b->ctx;
  void *flops = NULL, *order = NULL;
  KA_TRY(ka_arena_alloc_n(tmp, &flops, b->n + 1, sizeof(double), "order"));
  KA_TRY(ka_arena_alloc_n(tmp, &order, b->n + 1, sizeof(int64_t), "order"));
  b->flops = flops;
  b->order = order;
  for (int64_t i = 0; i < b->n; i++) {
    ka_spectrum_clear(&b->results[i], &b->units[i]);
    b->flops[i] = flops_of(&b->units[i], b->options->full);
    b->order[i] = i;
    b->all_flops += b->flops[i];
  }
  qsort_r(b->order, (size_t)b->n, sizeof *b->order, by_flops, b->flops);
  return KA_STATUS_OK;
}

ka_status ka_spectral_analyze(struct ka_ctx *ctx, struct ka_arena *arena,
                              struct ka_spectrum *results, const struct ka_unit *units, int64_t n,
                              const struct ka_spectral_options *options,
                              struct ka_spectral_phases *phases) {
  struct ka_spectral_phases own = {0};
  struct batch b = {.ctx = ctx, .arena = arena, .results = results, .units = units, .n = n};
  b.options = options;
  b.dense = options->dense ? options->dense : ka_dense_cpu();
  b.phases = phases ? phases : &own;
  *b.phases = own;
  double start = ka_now_s();
  struct ka_arena tmp;
  ka_arena_init(&tmp, ctx, "spectral order");
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(prepare(&b, &tmp), out);
  if (options->cache) KA_TRY_GOTO(ka_cache_open(ctx, &b.cache, options), out);
  st = run(&b);
  if (b.cache) KA_TRY_KEEP(ka_cache_close(b.cache, b.phases));
out:
  ka_arena_deinit(&tmp);
  b.phases->total_s = ka_now_s() - start;
  return st;
}
