/* SPDX-License-Identifier: Apache-2.0
 *
 * Choosing: candidates by pattern, size and layer; an order by a metric or a control; a budget. */
#include "engine/spectral/selection.h"
#include "base/pattern.h"
#include "base/rng.h"
#include "base/str.h"
#include "engine/spectral/units.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The part of a budget that may be left over for the sake of whole rows. */
static const double BUDGET_SLACK = 5e-4;

static const char *const controls[] = {
#define KA_METRIC_CONTROL(name) name,
#include "engine/job/metrics.def"
};
static const char control_words[] =
#define KA_METRIC_CONTROL(name) "|" name
#include "engine/job/metrics.def"
    ;

static bool is(const struct ka_select_spec *s, const char *metric) {
  return strcmp(s->metric, metric) == 0;
}

struct ka_select_spec ka_select_spec_default(void) {
  return (struct ka_select_spec){.metric = "kappa",
                                 .count = -1,
                                 .fraction = -1,
                                 .params = -1,
                                 .n_exclude = -1,
                                 .p = 0.2,
                                 .max_dim = 16384};
}

bool ka_select_needs_spectra(const struct ka_select_spec *spec) {
  enum ka_spectral_metric m;
  return ka_spectral_metric_parse(spec->metric, &m);
}

bool ka_select_needs_full(const struct ka_select_spec *spec) {
  enum ka_spectral_metric m;
  return ka_spectral_metric_parse(spec->metric, &m) && ka_spectral_metric_info(m)->needs_full;
}

/* --- patterns --------------------------------------------------------------------------------- */

struct patterns {
  pcre2_code **codes;
  int64_t n;
};

static void patterns_deinit(struct patterns *p) {
  for (int64_t i = 0; i < p->n; i++) pcre2_code_free(p->codes[i]);
  ka_free(p->codes);
  *p = (struct patterns){0};
}

static ka_status compile(struct ka_ctx *ctx, struct patterns *p, const char *key,
                         const char *const *texts, int64_t n) {
  KA_TRY(KA_NEW_HEAP(ctx, &p->codes, n, "patterns"));
  for (int64_t i = 0; i < n; i++) {
    struct ka_pattern_error error;
    KA_TRY(ka_pattern_compile(ctx, &p->codes[i], texts[i], strlen(texts[i]), PCRE2_UTF, &error));
    if (!p->codes[i])
      return ka_fail(ctx, KA_E_INPUT, "selection.%s: pattern \"%s\", character %zu: %s", key,
                     texts[i], error.at + 1, error.why);
    p->n = i + 1;
  }
  return KA_STATUS_OK;
}

static ka_status any_matches(struct ka_ctx *ctx, const struct patterns *p, const char *name,
                             bool *out) {
  *out = false;
  for (int64_t i = 0; i < p->n && !*out; i++) {
    pcre2_match_data *data = pcre2_match_data_create_from_pattern(p->codes[i], NULL);
    if (!data) return ka_fail(ctx, KA_E_MEMORY, "selection: no memory to match \"%s\"", name);
    int rc = pcre2_match(p->codes[i], (PCRE2_SPTR)name, strlen(name), 0, 0, data, NULL);
    pcre2_match_data_free(data);
    if (rc < 0 && rc != PCRE2_ERROR_NOMATCH)
      return ka_fail(ctx, ka_pattern_match_code(rc),
                     "selection: a pattern cannot be matched against \"%s\" (%d)", name, rc);
    *out = rc >= 0;
  }
  return KA_STATUS_OK;
}

static ka_status compile_both(struct ka_ctx *ctx, const struct ka_select_spec *s,
                              struct patterns *include, struct patterns *exclude) {
  KA_TRY(compile(ctx, include, "include", s->include, s->n_include));
  return compile(ctx, exclude, "exclude", s->exclude, s->n_exclude > 0 ? s->n_exclude : 0);
}

/* --- the spec --------------------------------------------------------------------------------- */

static ka_status check_metric(struct ka_ctx *ctx, const struct ka_select_spec *s) {
  if (ka_select_needs_spectra(s)) return KA_STATUS_OK;
  const char *names[KA_N_METRICS + sizeof controls / sizeof *controls + 1] = {0};
  int n = 0;
  for (size_t i = 0; i < sizeof controls / sizeof *controls; i++) {
    if (is(s, controls[i])) return KA_STATUS_OK;
    names[n++] = controls[i];
  }
  for (int i = 0; i < KA_N_METRICS; i++)
    names[n++] = ka_spectral_metric_info((enum ka_spectral_metric)i)->name;
  const char *near = ka_nearest(s->metric, names);
  return ka_fail(ctx, KA_E_INPUT, "selection.metric: got \"%s\"%s%s%s, expected %s%s", s->metric,
                 near ? " (did you mean " : "", near ? near : "", near ? "?)" : "",
                 ka_spectral_metric_choices(), control_words);
}

ka_status ka_select_check(struct ka_ctx *ctx, const struct ka_select_spec *s) {
  KA_TRY(check_metric(ctx, s));
  int budgets = (s->count >= 0) + (s->fraction >= 0) + (s->params >= 0);
  if (budgets > 1)
    return ka_fail(ctx, KA_E_INPUT, "selection: count, fraction and params exclude each other");
  if (s->soft && (budgets > 0 || (!is(s, "kappa") && !is(s, "kappa_mp"))))
    return ka_fail(ctx, KA_E_INPUT,
                   "selection: soft takes no budget, and kappa or kappa_mp as metric");
  if (budgets == 0 && !is(s, "all") && !is(s, "affinity") && !s->soft)
    return ka_fail(ctx, KA_E_INPUT, "selection: needs one of count, fraction and params");
  if (s->count == 0 || s->params == 0)
    return ka_fail(ctx, KA_E_INPUT, "selection: a budget of 0 trains nothing");
  if (s->fraction >= 0 && !(s->fraction > 0 && s->fraction <= 1))
    return ka_fail(ctx, KA_E_INPUT, "selection.fraction: got %g, expected above 0, at most 1",
                   s->fraction);
  struct patterns include = {0}, exclude = {0};
  ka_status st = compile_both(ctx, s, &include, &exclude);
  patterns_deinit(&include);
  patterns_deinit(&exclude);
  return st;
}

/* Whole tensors train for "all"; else the parts of a fused tensor stand for it. */
static bool kind_fits(const struct ka_unit *u, const struct ka_select_spec *s) {
  const char *part = strchr(u->name, '#');
  bool head = part && strncmp(part, "#head", 5) == 0;
  if (is(s, "all")) return !part;
  if (u->has_parts) return false;
  if (s->unit == KA_UNIT_HEAD) return head;
  if (s->unit == KA_UNIT_EXPERT) return u->role && strncmp(u->role, "expert", 6) == 0;
  return !head;
}

static bool fits(const struct ka_unit *u, const struct ka_select_spec *s) {
  int64_t r = u->view.shape[0], c = u->view.shape[1];
  if (u->skip || u->fixed || !kind_fits(u, s)) return false;
  if (is(s, "all")) return u->layer < 0 || u->layer >= s->min_layer;
  if (u->n_dim < 2 || ka_ends_with(u->tensor, "bias")) return false; /* a table of vectors */
  if (s->max_dim > 0 && (r > s->max_dim || c > s->max_dim)) return false;
  return u->layer < 0 || u->layer >= s->min_layer;
}

/* A pattern that matches nothing but units that are left out by default asks for them by name. */
static ka_status by_name(struct ka_ctx *ctx, const struct patterns *include,
                         const struct ka_unit *units, int64_t n, struct patterns *out) {
  KA_TRY(KA_NEW_HEAP(ctx, &out->codes, include->n, "patterns"));
  for (int64_t i = 0; i < include->n; i++) {
    const struct patterns one = {&include->codes[i], 1};
    bool usual = false;
    for (int64_t k = 0; k < n && !usual; k++)
      if (!units[k].unusual) KA_TRY(any_matches(ctx, &one, units[k].tensor, &usual));
    if (!usual) out->codes[out->n++] = include->codes[i];
  }
  return KA_STATUS_OK;
}

ka_status ka_select_candidates(struct ka_ctx *ctx, const struct ka_select_spec *spec,
                               const struct ka_unit *units, int64_t n, bool *candidate) {
  struct patterns include = {0}, exclude = {0}, named = {0}; /* named: some of include's codes */
  bool dflt = spec->n_exclude < 0 && !is(spec, "all");
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(compile_both(ctx, spec, &include, &exclude), out);
  KA_TRY_GOTO(by_name(ctx, &include, units, n, &named), out);
  for (int64_t i = 0; i < n; i++) {
    bool in = true, ex = false;
    candidate[i] = fits(&units[i], spec);
    if (!candidate[i]) continue;
    if (dflt && units[i].unusual)
      KA_TRY_GOTO(any_matches(ctx, &named, units[i].tensor, &in), out);
    else if (include.n > 0)
      KA_TRY_GOTO(any_matches(ctx, &include, units[i].tensor, &in), out);
    KA_TRY_GOTO(any_matches(ctx, &exclude, units[i].tensor, &ex), out);
    candidate[i] = in && !ex;
  }
out:
  ka_free(named.codes);
  patterns_deinit(&include);
  patterns_deinit(&exclude);
  return st;
}

/* --- order and budget ------------------------------------------------------------------------- */

struct ranked {
  const struct ka_spectrum *r;
  double key; /* ascending */
  bool last;  /* no value (singular): after all others */
};

static int by_rank(const void *x, const void *y) {
  const struct ranked *a = x, *b = y;
  if (a->last != b->last) return a->last ? 1 : -1;
  if (!a->last && a->key != b->key) return a->key < b->key ? -1 : 1;
  return strcmp(ka_unit_logical_name(a->r->unit), ka_unit_logical_name(b->r->unit));
}

static int by_depth(const void *x, const void *y) {
  const struct ranked *a = x, *b = y;
  double da = ka_unit_depth(a->r->unit->tensor), db = ka_unit_depth(b->r->unit->tensor);
  if (da != db) return da < db ? -1 : 1;
  return ka_spectral_name_compare(ka_unit_logical_name(a->r->unit),
                                  ka_unit_logical_name(b->r->unit));
}

static void rank(struct ranked *ranked, int64_t n, const struct ka_select_spec *s) {
  enum ka_spectral_metric metric = KA_METRIC_KAPPA;
  bool spectral = ka_spectral_metric_parse(s->metric, &metric);
  if (is(s, "all") || is(s, "first_n") || is(s, "last_n")) {
    qsort(ranked, (size_t)n, sizeof *ranked, by_depth);
    for (int64_t i = 0; i < n / 2 && is(s, "last_n"); i++) {
      struct ranked t = ranked[i];
      ranked[i] = ranked[n - 1 - i];
      ranked[n - 1 - i] = t;
    }
    return;
  }
  for (int64_t i = 0; i < n; i++) {
    const struct ka_spectrum *r = ranked[i].r;
    double v = is(s, "affinity") ? r->unit->affinity
               : spectral
                   ? r->metrics[metric]
                   : ka_rng_uniform(s->seed, ka_rng_stream(ka_unit_logical_name(r->unit)), 0);
    ranked[i].last = isnan(v);
    ranked[i].key = s->highest ? -v : v;
  }
  qsort(ranked, (size_t)n, sizeof *ranked, by_rank);
}

static bool within_quota(const struct ka_select_spec *s, const struct ka_selection *out,
                         const char *role) {
  for (int64_t q = 0; q < s->n_quotas; q++) {
    if (!role || strcmp(s->quotas[q].role, role) != 0) continue;
    int64_t have = 0;
    for (int64_t i = 0; i < out->n_units; i++)
      have += out->units[i].role && strcmp(out->units[i].role, role) == 0;
    return have < s->quotas[q].count;
  }
  return true;
}

static struct ka_selected *take(struct ka_selection *out, const struct ka_spectrum *r) {
  const struct ka_unit *u = r->unit;
  struct ka_selected *to = &out->units[out->n_units++];
  *to = (struct ka_selected){.name = u->name, .tensor = u->tensor, .role = u->role};
  memcpy(to->rows, u->rows, sizeof to->rows);
  memcpy(to->cols, u->cols, sizeof to->cols);
  memcpy(to->metrics, r->metrics, sizeof to->metrics);
  to->n_elems = ka_unit_elems(u);
  to->kappa_rel_bound = r->kappa_rel_bound;
  to->affinity = u->affinity;
  to->lr_scale = 1;
  out->n_elems += to->n_elems;
  return to;
}

/* Is it a matrix of a stack, whose rows lie in one row of the stored [experts, rest]? */
static bool in_stack(const struct ka_unit *u) {
  return u->n_dim == 3 && u->expert >= 0 && u->rows[0] >= 0;
}

/* The part of the unit's rows from its row `first` on: n_rows of them, the first n_cols elements of
 * each; width: of a row of its own. */
static void narrow(struct ka_selection *out, struct ka_selected *u, bool stack, int64_t first,
                   int64_t n_rows, int64_t n_cols, int64_t width) {
  int64_t row = u->rows[0] >= 0 ? u->rows[0] : 0, col = u->cols[0] >= 0 ? u->cols[0] : 0;
  if (stack) {
    u->cols[0] = col + first * width;
    u->cols[1] = u->cols[0] + (n_rows - 1) * width + n_cols;
  } else {
    u->rows[0] = row + first;
    u->rows[1] = row + first + n_rows;
    if (n_cols < width) {
      u->cols[0] = col;
      u->cols[1] = col + n_cols;
    }
  }
  out->n_elems += n_rows * n_cols - u->n_elems;
  u->n_elems = n_rows * n_cols;
}

/* The first rows of a unit that is larger than what is left of the budget, so that equal budgets
 * are equal whatever is chosen:
 *
 *    ########  whole rows, under the unit's name
 *    ########
 *    ###.....  the rest in the next row, NAME#rest, where leaving it out would show
 *    ........                                                                            */
static ka_status take_slice(struct ka_arena *arena, struct ka_selection *out,
                            const struct ka_spectrum *r, int64_t room, double budget) {
  const struct ka_unit *u = r->unit;
  bool stack = in_stack(u);
  int64_t width = u->view.shape[1], whole = room / width, rest = room % width;
  if (whole > 0) narrow(out, take(out, r), stack, 0, whole, width, width);
  if (whole > 0 && (double)rest <= BUDGET_SLACK * budget) return KA_STATUS_OK;
  if (rest == 0) return KA_STATUS_OK;
  struct ka_selected *last = take(out, r);
  narrow(out, last, stack, whole, 1, rest, width);
  return whole > 0 ? ka_arena_printf(arena, &last->name, "%s#rest", u->name) : KA_STATUS_OK;
}

/* "all" means all: a budget (left in a job whose metric the command line changed) does not apply.
 */
static ka_status fill_budget(struct ka_arena *arena, struct ka_selection *out,
                             const struct ka_select_spec *s, const struct ranked *ranked,
                             int64_t n) {
  bool everything = is(s, "all");
  double all = 0;
  for (int64_t i = 0; i < n; i++) all += (double)ka_unit_elems(ranked[i].r->unit);
  double budget = everything         ? INFINITY
                  : s->params >= 0   ? (double)s->params
                  : s->fraction >= 0 ? fmax(1, floor(s->fraction * all * (1 + 1e-12)))
                                     : INFINITY;
  int64_t count = s->count >= 0 && !everything ? s->count : n;
  for (int64_t i = 0; i < n && out->n_units < count; i++) {
    const struct ka_unit *u = ranked[i].r->unit;
    if (!everything && !within_quota(s, out, u->role)) continue;
    if ((double)(out->n_elems + ka_unit_elems(u)) <= budget) {
      take(out, ranked[i].r);
      continue;
    }
    int64_t room = (int64_t)budget - out->n_elems;
    return room > 0 ? take_slice(arena, out, ranked[i].r, room, budget) : KA_STATUS_OK;
  }
  return KA_STATUS_OK;
}

/* By layer, then as ranked: the experts of a layer stand together. */
static int by_layer(const void *x, const void *y) {
  const struct ranked *a = x, *b = y;
  const struct ka_unit *u = a->r->unit, *v = b->r->unit;
  if (u->layer != v->layer) return u->layer < v->layer ? -1 : 1;
  if (a->last != b->last) return a->last ? 1 : -1;
  if (!a->last && a->key != b->key) return a->key < b->key ? -1 : 1;
  if (u->expert != v->expert) return u->expert < v->expert ? -1 : 1;
  return ka_spectral_name_compare(ka_unit_logical_name(u), ka_unit_logical_name(v));
}

/* Of each layer the first experts whose shares sum to p. */
static void fill_shares(struct ka_selection *out, const struct ka_select_spec *s,
                        struct ranked *ranked, int64_t n) {
  double sum = 0;
  qsort(ranked, (size_t)n, sizeof *ranked, by_layer);
  for (int64_t i = 0; i < n; i++) {
    const struct ka_unit *u = ranked[i].r->unit, *before = i > 0 ? ranked[i - 1].r->unit : NULL;
    bool layer = !before || before->layer != u->layer;
    if (layer) sum = 0;
    bool expert = layer || before->expert != u->expert;
    if (expert && sum >= s->p * (1 - 1e-12)) { /* on to the next layer */
      while (i + 1 < n && ranked[i + 1].r->unit->layer == u->layer) i++;
      continue;
    }
    if (expert) sum += u->affinity;
    if (within_quota(s, out, u->role)) take(out, ranked[i].r);
  }
}

/* The rates of a soft choice. Units without a value (singular), which stand last, and those whose
 * rate underflows are left out. */
static void soften(struct ka_selection *out, const struct ka_select_spec *s) {
  enum ka_spectral_metric metric = KA_METRIC_KAPPA;
  int64_t n = out->n_units;
  ka_spectral_metric_parse(s->metric, &metric);
  double first = out->units[0].metrics[metric];
  out->n_units = out->n_elems = 0;
  for (int64_t i = 0; i < n; i++) {
    struct ka_selected *u = &out->units[i];
    double v = u->metrics[metric];
    u->lr_scale = isnan(v) ? 0 : pow(s->highest ? v / first : first / v, s->power);
    if (u->lr_scale == 0) continue;
    out->units[out->n_units++] = *u;
    out->n_elems += u->n_elems;
  }
}

bool ka_selected_singular(const struct ka_selected *u) {
  return isnan(u->metrics[KA_METRIC_KAPPA]) && isfinite(u->metrics[KA_METRIC_SIGMA_MAX]);
}

static ka_status refuse_failed(struct ka_ctx *ctx, const struct ranked *ranked, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    if (ranked[i].r->error)
      return ka_fail(ctx, KA_E_INPUT, "%s: %s; it cannot be ranked (exclude it or mend the file)",
                     ranked[i].r->unit->name, ranked[i].r->error);
  return KA_STATUS_OK;
}

static ka_status check_affinity(struct ka_ctx *ctx, const struct ranked *ranked, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    if (isnan(ranked[i].r->unit->affinity))
      return ka_fail(ctx, KA_E_INPUT,
                     "selection.metric: affinity is measured on a job's data and not known for %s",
                     ranked[i].r->unit->name);
  return KA_STATUS_OK;
}

/* A quota for a role that nobody has is a misspelling. */
static ka_status check_quotas(struct ka_ctx *ctx, const struct ka_select_spec *s,
                              const struct ranked *ranked, int64_t n) {
  for (int64_t q = 0; q < s->n_quotas; q++) {
    const char *roles[64] = {0};
    bool found = false;
    for (int64_t i = 0, k = 0; i < n && !found; i++) {
      const char *role = ranked[i].r->unit->role;
      found = role && strcmp(role, s->quotas[q].role) == 0;
      if (role && k < 63) roles[k++] = role;
    }
    if (found) continue;
    const char *near = ka_nearest(s->quotas[q].role, roles);
    return ka_fail(ctx, KA_E_INPUT, "selection.quotas: no candidate has the role \"%s\"%s%s%s",
                   s->quotas[q].role, near ? ", did you mean " : "", near ? near : "",
                   near ? "?" : "");
  }
  return KA_STATUS_OK;
}

ka_status ka_select(struct ka_ctx *ctx, struct ka_arena *arena, struct ka_selection *out,
                    const struct ka_select_spec *spec, const struct ka_spectrum *results,
                    int64_t n) {
  KA_TRY(ka_select_check(ctx, spec));
  struct ranked *ranked = NULL;
  struct ka_unit *units = NULL;
  bool *candidate = NULL;
  int64_t m = 0;
  KA_TRY(KA_NEW(arena, &ranked, n + 1, "ranking"));
  KA_TRY(KA_NEW(arena, &units, n + 1, "candidates"));
  KA_TRY(KA_NEW(arena, &candidate, n + 1, "candidates"));
  for (int64_t i = 0; i < n; i++) units[i] = *results[i].unit;
  KA_TRY(ka_select_candidates(ctx, spec, units, n, candidate));
  for (int64_t i = 0; i < n; i++)
    if (candidate[i]) ranked[m++].r = &results[i];
  if (m == 0)
    return ka_fail(ctx, KA_E_INPUT,
                   "selection: none of %lld tensors is left by include, exclude, max_dim, "
                   "min_layer and unit",
                   (long long)n);
  KA_TRY(check_quotas(ctx, spec, ranked, m));
  if (ka_select_needs_spectra(spec)) KA_TRY(refuse_failed(ctx, ranked, m));
  if (is(spec, "affinity")) KA_TRY(check_affinity(ctx, ranked, m));
  rank(ranked, m, spec);
  *out = (struct ka_selection){
      .metric = spec->metric, .highest = spec->highest, .seed = spec->seed, .n_candidates = m};
  KA_TRY(KA_NEW(arena, &out->units, m + 1, "selection"));
  bool by_share = is(spec, "affinity") && spec->count < 0 && spec->fraction < 0 && spec->params < 0;
  if (by_share)
    fill_shares(out, spec, ranked, m);
  else
    KA_TRY(fill_budget(arena, out, spec, ranked, m));
  if (spec->soft) soften(out, spec);
  return KA_STATUS_OK;
}
