/* SPDX-License-Identifier: Apache-2.0
 * See choose.h. */
#include "engine/spectral/choose.h"

#include "base/log.h"
#include "engine/spectral/cache.h"
#include "engine/spectral/first_pass.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* Units with fewer elements are analysed at once: the first pass would cost as much. */
enum { SMALL_ELEMS = 1 << 19 };

struct choice {
  struct ka_ctx *ctx;
  struct ka_arena *arena;
  struct ka_selection *out;
  struct ka_spectrum *results;
  const struct ka_select_spec *spec;
  const struct ka_unit *units;
  const struct ka_spectral_options *options;
  struct ka_spectral_phases *phases;
  int64_t n;
  bool *wanted, *known, *candidate; /* [n] to analyse now; analysed; may be chosen */
  struct ka_unit *batch;
  struct ka_spectrum *batch_results;
  double *low; /* proven lower bound in the metric of the order */
};

/* Analyses what is wanted and marks it known. */
static ka_status analyse(struct choice *c, enum ka_spectral_precision precision) {
  struct ka_ctx *ctx = c->ctx;
  struct ka_spectral_options o = *c->options;
  struct ka_spectral_phases phases;
  int64_t k = 0;
  o.precision = precision;
  o.full |= ka_select_needs_full(c->spec);
  for (int64_t i = 0; i < c->n; i++)
    if (c->wanted[i]) c->batch[k++] = c->units[i];
  if (k == 0) return KA_STATUS_OK;
  KA_TRY(ka_spectral_analyze(ctx, c->arena, c->batch_results, c->batch, k, &o, &phases));
  ka_spectral_phases_add(c->phases, &phases);
  k = 0;
  for (int64_t i = 0; i < c->n; i++) {
    if (!c->wanted[i]) continue;
    c->results[i] = c->batch_results[k++];
    c->results[i].unit = &c->units[i];
    c->known[i] = true;
    c->wanted[i] = false;
  }
  return KA_STATUS_OK;
}

static ka_status choose(struct choice *c) {
  struct ka_ctx *ctx = c->ctx;
  int64_t k = 0;
  for (int64_t i = 0; i < c->n; i++)
    if (c->known[i]) c->batch_results[k++] = c->results[i];
  return ka_select(ctx, c->arena, c->out, c->spec, c->batch_results, k);
}

static bool chosen(const struct choice *c, int64_t i) {
  for (int64_t k = 0; k < c->out->n_units; k++)
    if (strcmp(c->out->units[k].name, c->units[i].name) == 0) return true;
  return false;
}

static double per_metric(const struct choice *c, int64_t i) {
  const struct ka_unit *u = &c->units[i];
  bool mp = strcmp(c->spec->metric, "kappa_mp") == 0;
  return mp ? 1 / ka_spectral_kappa_of_noise(u->view.shape[0], u->view.shape[1]) : 1;
}

/* --- the first pass --------------------------------------------------------------------------- */

static ka_status first_pass_of(struct choice *c, int64_t i, const struct ka_blas *blas,
                               struct ka_data_cache *cache) {
  struct ka_ctx *ctx = c->ctx;
  const struct ka_unit *u = &c->units[i];
  struct ka_spectrum *r = &c->results[i];
  struct ka_panels p;
  if (cache && ka_spectral_cache_get(cache, c->arena, r)) {
    r->cached = false; /* the bound is, the result is not */
    return KA_STATUS_OK;
  }
  ka_panels_scan(&p, u->view);
  if (p.bad_index >= 0 || p.max_abs == 0 || p.m == 1) return KA_STATUS_OK;
  KA_TRY(ka_spectral_first_pass(ctx, blas, &p, &r->kappa_low));
  if (u->map) ka_map_forget(u->map, u->map_offset, u->map_bytes);
  return cache ? ka_spectral_cache_put(cache, r) : KA_STATUS_OK;
}

/* The host's BLAS that the first pass runs on; NULL on a device, where reading the weights costs
 * more than analysing them. */
static const struct ka_blas *host_blas(const struct choice *c) {
  const struct ka_linalg_engine *e = &c->options->engine;
  return e->dense ? e->blas : ka_linalg_engine_cpu().blas;
}

static ka_status first_pass(struct choice *c) {
  struct ka_ctx *ctx = c->ctx;
  const struct ka_blas *blas = host_blas(c);
  struct ka_spectral_options o = *c->options;
  struct ka_data_cache *cache = NULL;
  double start = ka_now_s();
  int failed = 0;
  o.precision = KA_PRECISION_FIRST_PASS;
  if (o.cache) KA_TRY(ka_spectral_cache_open(ctx, &cache, &o));
  blas->threads(1);
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t i = 0; i < c->n; i++) {
    bool cheap = ka_unit_elems(&c->units[i]) < SMALL_ELEMS || c->units[i].fp8;
    if (!c->candidate[i] || cheap) continue;
    ka_status st = first_pass_of(c, i, blas, cache);
    if (st.code != KA_OK) {
#pragma omp atomic write
      failed = st.code;
    }
  }
  struct ka_spectral_phases ignored = {0};
  if (cache) KA_TRY(ka_spectral_cache_close(cache, &ignored));
  c->phases->total_s += ka_now_s() - start;
  for (int64_t i = 0; i < c->n; i++) c->low[i] = c->results[i].kappa_low * per_metric(c, i);
  return (ka_status){failed};
}

/* The largest value that a chosen unit may truly have; infinite while the count is not reached. */
static double edge_of(const struct choice *c) {
  double edge = -INFINITY;
  if (c->out->n_units < c->spec->count) return INFINITY;
  for (int64_t i = 0; i < c->n; i++)
    if (c->known[i] && chosen(c, i))
      edge = fmax(edge, isnan(c->results[i].metrics[KA_METRIC_KAPPA])
                            ? INFINITY
                            : c->results[i].kappa_high * per_metric(c, i));
  return edge * (1 + 1e-6);
}

static int by_low(const void *x, const void *y, void *user) {
  const double *low = user;
  int64_t i = *(const int64_t *)x, j = *(const int64_t *)y;
  return low[i] != low[j] ? (low[i] < low[j] ? -1 : 1) : i < j ? -1 : i > j;
}

/* Analyses candidates by ascending lower bound until no other can belong to the choice. */
static ka_status analyse_lowest(struct choice *c) {
  struct ka_ctx *ctx = c->ctx;
  int64_t *order, n_candidates = 0, next = 0;
  KA_TRY(KA_NEW(c->arena, &order, c->n + 1, "order"));
  KA_TRY(first_pass(c));
  for (int64_t i = 0; i < c->n; i++)
    if (c->candidate[i]) order[n_candidates++] = i;
  qsort_r(order, (size_t)n_candidates, sizeof *order, by_low, c->low);
  double edge = INFINITY;
  while (next < n_candidates) {
    int64_t wave = c->spec->count > 4 ? c->spec->count : 4;
    for (int64_t k = 0; k < wave && next < n_candidates; k++, next++) {
      if (c->low[order[next]] > edge) {
        next = n_candidates;
        break;
      }
      c->wanted[order[next]] = true;
    }
    KA_TRY(analyse(c, KA_PRECISION_AUTO));
    KA_TRY(choose(c));
    edge = edge_of(c);
  }
  return KA_STATUS_OK;
}

/* --- the edge of the choice ------------------------------------------------------------------- */

/* Half-width that separates two values: its proven bound, and what KA_PRECISION_F64 may differ. */
static double reach(const struct ka_spectrum *r) {
  double kappa = r->metrics[KA_METRIC_KAPPA], srank = r->metrics[KA_METRIC_STABLE_RANK];
  const int64_t *shape = r->unit->view.shape;
  double n = (double)(shape[0] > shape[1] ? shape[0] : shape[1]);
  return r->kappa_rel_bound + 1e-8 + 16 * n * 0x1p-53 * kappa * sqrt(srank);
}

static bool coarse(const struct choice *c, int64_t i) {
  const int64_t *shape = c->units[i].view.shape;
  return c->known[i] && c->candidate[i] && (shape[0] < shape[1] ? shape[0] : shape[1]) > 512 &&
         isfinite(c->results[i].metrics[KA_METRIC_KAPPA]);
}

/* Do the two orders that matter, i before j or j before i, both remain possible? Only kappa and
 * kappa_mp inherit the bound; any other metric is made of well-conditioned sums, so a wide margin
 * is taken. */
static bool unsettled(const struct choice *c, int64_t i, int64_t j) {
  enum ka_spectral_metric metric = KA_METRIC_KAPPA;
  if (!ka_spectral_metric_parse(c->spec->metric, &metric)) return false;
  double a = c->results[i].metrics[metric], b = c->results[j].metrics[metric];
  double room = reach(&c->results[i]) + reach(&c->results[j]);
  return isfinite(a) && isfinite(b) && fabs(a - b) <= room * (1 + 1e-3) * fmax(fabs(a), fabs(b));
}

/* A count is settled when no pair across the edge is open; budgets of parameters and quotas depend
 * on the whole order, a soft choice on none. */
static bool matters(const struct choice *c, int64_t i, int64_t j) {
  if (c->spec->soft) return false;
  bool by_count = c->spec->count >= 0 && c->spec->n_quotas == 0;
  return !by_count || chosen(c, i) != chosen(c, j);
}

static ka_status settle(struct choice *c) {
  struct ka_ctx *ctx = c->ctx;
  int64_t again = 0;
  for (int64_t i = 0; i < c->n; i++)
    for (int64_t j = 0; coarse(c, i) && j < c->n && !c->wanted[i]; j++)
      if (j != i && c->known[j] && c->candidate[j] && unsettled(c, i, j) && matters(c, i, j)) {
        c->wanted[i] = true;
        again++;
      }
  if (again == 0) return KA_STATUS_OK;
  ka_info(ctx, "spectral", "%lld of %lld analysed again in full: the order was not settled",
          (long long)again, (long long)c->n);
  KA_TRY(analyse(c, KA_PRECISION_F64));
  return choose(c);
}

static ka_status run(struct choice *c, bool everything) {
  struct ka_ctx *ctx = c->ctx;
  const struct ka_select_spec *s = c->spec;
  bool spectral = ka_select_needs_spectra(s),
       automatic = c->options->precision == KA_PRECISION_AUTO;
  bool by_kappa = strcmp(s->metric, "kappa") == 0 || strcmp(s->metric, "kappa_mp") == 0;
  KA_TRY(ka_select_check(ctx, s));
  KA_TRY(ka_select_candidates(ctx, s, c->units, c->n, c->candidate));
  bool lowest_few = by_kappa && !s->highest && s->count >= 0 && s->n_quotas == 0;
  if (!everything && automatic && lowest_few && host_blas(c)) {
    KA_TRY(analyse_lowest(c));
    KA_TRY(settle(c));
    c->out->n_candidates = 0;
    for (int64_t i = 0; i < c->n; i++) c->out->n_candidates += c->candidate[i];
    return KA_STATUS_OK;
  }
  for (int64_t i = 0; i < c->n; i++) c->wanted[i] = everything || (spectral && c->candidate[i]);
  KA_TRY(analyse(c, c->options->precision));
  for (int64_t i = 0; i < c->n; i++) c->known[i] |= c->candidate[i] && !spectral;
  KA_TRY(choose(c));
  return automatic && spectral ? settle(c) : KA_STATUS_OK;
}

static ka_status allocate(struct choice *c) {
  struct ka_ctx *ctx = c->ctx;
  KA_TRY(KA_NEW(c->arena, &c->wanted, 3 * (c->n + 1), "choice"));
  c->known = c->wanted + c->n + 1;
  c->candidate = c->known + c->n + 1;
  KA_TRY(KA_NEW(c->arena, &c->batch, c->n + 1, "choice"));
  KA_TRY(KA_NEW(c->arena, &c->batch_results, c->n + 1, "choice"));
  return KA_NEW(c->arena, &c->low, c->n + 1, "choice");
}

ka_status ka_select_units(struct ka_ctx *ctx, struct ka_arena *arena, struct ka_selection *out,
                          struct ka_spectrum *results, const struct ka_select_spec *spec,
                          const struct ka_unit *units, int64_t n, bool everything,
                          const struct ka_spectral_options *options,
                          struct ka_spectral_phases *phases) {
  struct ka_spectral_phases own = {0};
  struct choice c = {.ctx = ctx,
                     .arena = arena,
                     .out = out,
                     .results = results,
                     .spec = spec,
                     .units = units,
                     .n = n,
                     .options = options};
  c.phases = phases ? phases : &own;
  *c.phases = own;
  for (int64_t i = 0; i < n; i++) ka_spectrum_clear(&results[i], &units[i]);
  KA_TRY(allocate(&c));
  KA_TRY(run(&c, everything));
  if (spec->count > out->n_candidates && strcmp(spec->metric, "all") != 0)
    ka_warn(ctx, "select", "count: %lld units are asked for and %lld can be had: all are taken",
            (long long)spec->count, (long long)out->n_candidates);
  return KA_STATUS_OK;
}
