/* SPDX-License-Identifier: Apache-2.0
 * See batch.h. */
#include "engine/spectral/batch.h"

#include "base/log.h"
#include "base/str.h"
#include "engine/spectral/cache.h"
#include "engine/spectral/ends.h"
#include "engine/spectral/fp8.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

int64_t ka_unit_short_side(const struct ka_unit *u) {
  return u->view.shape[0] < u->view.shape[1] ? u->view.shape[0] : u->view.shape[1];
}

/* Strings and values of results are made under a lock: arenas are not shared between threads. */
static ka_status set_error(struct ka_spectral_analysis *a, struct ka_spectrum *r,
                           const char *text) {
  ka_status st;
#pragma omp critical(ka_spectral_arena)
  st = ka_arena_str(a->arena, &r->error, text, strlen(text));
  return st;
}

static ka_status alloc_values(struct ka_spectral_analysis *a, struct ka_spectrum *r, int64_t m) {
  ka_status st;
#pragma omp critical(ka_spectral_arena)
  st = KA_NEW(a->arena, &r->values, m, "singular values");
  r->n_values = m;
  return st;
}

/* --- results ---------------------------------------------------------------------------------- */

static double rel_bound(double value, double low, double high) {
  return fmax(high / value - 1, 1 - low / value) * (1 + 1e-9) + 4.5e-16;
}

/* From the ends of the scaled matrix to the results. */
static void fill(struct ka_spectrum *r, const struct ka_panels *p,
                 const struct ka_spectral_ends *e) {
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
  x[KA_METRIC_KAPPA_MP] = kappa / ka_spectral_kappa_of_noise(p->n, p->m);
  x[KA_METRIC_LOG_VOLUME] = e->log_volume + m * (double)p->exponent * M_LN2;
  x[KA_METRIC_LOG_VOLUME_GAP] = fmax(0, m * log(fro / sqrt(m)) - e->log_volume);
}

/* One row or one column: the norm is the only singular value. */
static void line_ends(const struct ka_panels *p, struct ka_spectral_ends *e) {
  long double s = 0;
  double x[KA_PANEL];
  for (int64_t k = 0; k < p->n; k += KA_PANEL) {
    int64_t kb = p->n - k < KA_PANEL ? p->n - k : KA_PANEL;
    ka_panels_load(p, k, kb, x);
    for (int64_t i = 0; i < kb; i++) s += (long double)x[i] * x[i];
  }
  double norm = (double)sqrtl(s), err = norm * 4e-16;
  *e = (struct ka_spectral_ends){.max = norm,
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

/* sigma_min of a singular matrix is only bounded by the ladder; the decomposition has it to within
 * its backward error. */
static void take_min(struct ka_spectrum *r, double s, int64_t n) {
  double err = 8 * (double)n * 0x1p-53 * r->metrics[KA_METRIC_FROBENIUS];
  r->metrics[KA_METRIC_SIGMA_MIN] = s;
  if (err < s) r->sigma_min_rel_bound = err / s;
}

static ka_status all_values(struct ka_spectral_analysis *a, struct ka_dense_worker *worker,
                            struct ka_dense_set who, const struct ka_panels *p,
                            struct ka_spectrum *const *results) {
  struct ka_ctx *ctx = a->ctx;
  if (who.n == 0) return KA_STATUS_OK;
  int64_t m = p[who.at[0]].m;
  void *memory = NULL;
  KA_TRY(ka_alloc_n(ctx, &memory, (who.at[who.n - 1] + 1) * m, sizeof(double), "singular values"));
  ka_status st = worker->engine.dense->values(worker, who, p, false, memory);
  for (KA_EACH(i, who)) {
    struct ka_spectrum *r = results[i];
    const double *s = (const double *)memory + i * m;
    if (ka_ok(st)) st = alloc_values(a, r, m);
    if (!ka_ok(st)) break;
    for (int64_t k = 0; k < m; k++) r->values[k] = ldexp(s[k], p[i].exponent);
    r->values[0] = r->metrics[KA_METRIC_SIGMA_MAX];
    if (isnan(r->sigma_min_rel_bound)) take_min(r, r->values[m - 1], p[i].n);
    r->values[m - 1] = r->metrics[KA_METRIC_SIGMA_MIN];
    ka_spectral_metrics_full(r->metrics, r->values, m, p[i].n);
  }
  ka_free(memory);
  return st;
}

/* --- a batch of one shape --------------------------------------------------------------------- */

/* The first element that is not finite. */
static ka_status report_bad(struct ka_spectral_analysis *a, struct ka_spectrum *r, int64_t index) {
  const struct ka_unit *u = r->unit;
  char text[96];
  int64_t row = index / u->view.shape[1], col = index % u->view.shape[1];
  double bad = ka_load(u->view.data, u->view.dtype, row * u->view.row_stride + col);
  snprintf(text, sizeof text, "%s at [%lld,%lld]", isnan(bad) ? "NaN" : "Inf", (long long)row,
           (long long)col);
  r->bad_index = index;
  return set_error(a, r, text);
}

static ka_status fill_line(struct ka_spectral_analysis *a, struct ka_spectrum *r,
                           const struct ka_panels *p) {
  struct ka_ctx *ctx = a->ctx;
  struct ka_spectral_ends ends;
  line_ends(p, &ends);
  fill(r, p, &ends);
  r->metrics[KA_METRIC_KAPPA] = 1;
  r->metrics[KA_METRIC_LOG_VOLUME_GAP] = 0;
  r->kappa_rel_bound = 0;
  r->kappa_low = r->kappa_high = 1;
  if (!a->options->full) return KA_STATUS_OK;
  KA_TRY(alloc_values(a, r, 1));
  r->values[0] = r->metrics[KA_METRIC_SIGMA_MAX];
  ka_spectral_metrics_full(r->metrics, r->values, 1, p->n);
  return KA_STATUS_OK;
}

/* Those of n that the ladder is for; the others get their results here. */
static ka_status sort_out(struct ka_spectral_analysis *a, struct ka_spectrum *const *results, int n,
                          const struct ka_panels *p, struct ka_dense_set *who) {
  struct ka_ctx *ctx = a->ctx;
  for (int i = 0; i < n; i++) {
    if (p[i].bad_index >= 0)
      KA_TRY(report_bad(a, results[i], p[i].bad_index));
    else if (p[i].max_abs == 0)
      fill_zero(results[i]);
    else if (p[i].m == 1)
      KA_TRY(fill_line(a, results[i], &p[i]));
    else
      ka_dense_set_add(who, i);
  }
  return KA_STATUS_OK;
}

static ka_status compute(struct ka_spectral_analysis *a, struct ka_dense_worker *worker,
                         struct ka_spectrum *const *results, int n) {
  struct ka_ctx *ctx = a->ctx;
  struct ka_tensor views[KA_BATCH];
  struct ka_panels p[KA_BATCH];
  struct ka_spectral_ends ends[KA_BATCH];
  struct ka_dense_set who = {0};
  struct ka_spectral_phases phases = {.n_computed = n};
  struct ka_spectral_ends_goal goal = {.rtol = a->options->rtol,
                                       .precision = a->options->precision};
  double start = ka_now_s();
  for (int i = 0; i < n; i++) views[i] = results[i]->unit->view;
  if (views[0].shape[0] == 1 || views[0].shape[1] == 1)
    for (int i = 0; i < n; i++) ka_panels_scan(&p[i], views[i]);
  else
    KA_TRY(worker->engine.dense->hold(worker, n, views, p));
  phases.read_s += ka_now_s() - start;
  KA_TRY(sort_out(a, results, n, p, &who));
  KA_TRY(ka_spectral_ends_of(worker, who, p, goal, &phases, ends));
  for (KA_EACH(i, who)) fill(results[i], &p[i], &ends[i]);
  double before = ka_now_s();
  if (a->options->full) KA_TRY(all_values(a, worker, who, p, results));
  phases.svd_s += ka_now_s() - before;
#pragma omp critical(ka_spectral_phases)
  ka_spectral_phases_add(a->phases, &phases);
  for (int i = 0; i < n; i++) results[i]->time_s = (ka_now_s() - start) / n;
  return KA_STATUS_OK;
}

struct ka_dense_size ka_spectral_batch_size(const struct ka_spectral_analysis *a,
                                            const struct ka_dense *d, const struct ka_unit *u) {
  int64_t m = ka_unit_short_side(u), n = u->view.shape[0] + u->view.shape[1] - m;
  int64_t elem_bytes = u->fp8 ? (int64_t)sizeof(float) : (int64_t)ka_dtype_bytes(u->view.dtype);
  return ka_spectral_ends_size(d, n, m, elem_bytes, a->options->full);
}

/* Is there something to compute? Else the result is there: an error, or what the cache knows. */
static ka_status look_up(struct ka_spectral_analysis *a, struct ka_spectrum *r, bool *wanted) {
  const struct ka_unit *u = r->unit;
  const struct ka_spectral_options *o = a->options;
  int64_t rows = u->view.shape[0], cols = u->view.shape[1];
  char text[128];
  *wanted = false;
  if (u->skip) return set_error(a, r, u->skip);
  if (rows == 0 || cols == 0) return set_error(a, r, "no elements");
  if (o->max_dim > 0 && (rows > o->max_dim || cols > o->max_dim)) {
    snprintf(text, sizeof text, "skipped: a side above max_dim %lld", (long long)o->max_dim);
    return set_error(a, r, text);
  }
  struct ka_dense_size size = ka_spectral_batch_size(a, &ka_dense_host, u);
  int64_t bytes = ka_dense_host.bytes(&size);
  if (o->max_bytes > 0 && bytes > o->max_bytes) {
    char need[32], have[32];
    snprintf(text, sizeof text, "skipped: needs %s of workspace, the limit is %s",
             ka_fmt_bytes((double)bytes, need), ka_fmt_bytes((double)o->max_bytes, have));
    return set_error(a, r, text);
  }
  *wanted = !(a->cache && ka_spectral_cache_get(a->cache, a->arena, r));
  return KA_STATUS_OK;
}

static ka_status run_loaded(struct ka_spectral_analysis *a, struct ka_dense_worker *worker,
                            const int64_t *units, int n) {
  struct ka_ctx *ctx = a->ctx;
  struct ka_spectrum *results[KA_BATCH];
  int n_wanted = 0;
  for (int i = 0; i < n; i++) {
    bool wanted;
    results[n_wanted] = &a->results[units[i]];
    KA_TRY(look_up(a, results[n_wanted], &wanted));
    n_wanted += wanted;
  }
  if (n_wanted == 0) return KA_STATUS_OK;
  KA_TRY(compute(a, worker, results, n_wanted));
  for (int i = 0; i < n_wanted; i++) {
    const struct ka_unit *u = results[i]->unit;
    if (u->map) ka_map_forget(u->map, u->map_offset, u->map_bytes);
    if (a->cache && !results[i]->error) KA_TRY(ka_spectral_cache_put(a->cache, results[i]));
  }
  return KA_STATUS_OK;
}

ka_status ka_spectral_batch_run(struct ka_spectral_analysis *a, struct ka_dense_worker *worker,
                                const int64_t *units, int n) {
  struct ka_ctx *ctx = a->ctx;
  struct ka_unit loaded[KA_BATCH];
  void *memory[KA_BATCH] = {NULL};
  ka_status st = KA_STATUS_OK;
  for (int i = 0; i < n && ka_ok(st); i++) {
    const struct ka_unit *u = &a->units[units[i]];
    if (!u->fp8 || u->skip) continue;
    st = ka_alloc_n(ctx, &memory[i], ka_unit_elems(u), sizeof(float), "fp8 weights");
    if (!ka_ok(st)) break;
    loaded[i] = *u;
    ka_fp8_load(&loaded[i], memory[i]);
    a->results[units[i]].unit = &loaded[i];
  }
  if (ka_ok(st)) st = run_loaded(a, worker, units, n);
  for (int i = 0; i < n; i++) {
    a->results[units[i]].unit = &a->units[units[i]];
    ka_free(memory[i]);
  }
  return st;
}
