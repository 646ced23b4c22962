/* SPDX-License-Identifier: Apache-2.0
 *
 * The order of the routes, and the first:
 *
 * gram:    G = A^T A in float64; ||error|| <= g(chain) ||A||_F^2. Lanczos on G and on its inverse
 *          through the Cholesky factor estimates both ends. A Cholesky factorisation of a shifted G
 *          that runs to completion proves the other side of each (Rump 2006).
 * inverse: see inverse.c.
 * svd:     LAPACK's or the device's, with its stated backward error. */
#include "engine/spectral/ladder.h"

#include "base/log.h"

#include <float.h>
#include <math.h>
#include <string.h>

static const double U = LADDER_U, SAFE = LADDER_SAFE, SINGULAR = 0x1p-24;
enum { MAX_STEPS = 320 };

double ladder_gamma(int64_t chain) {
  double k = (double)chain * U;
  return SAFE * k / (1 - k);
}

/* Members of a that are not in b. */
static struct ka_dense_set minus(struct ka_dense_set a, struct ka_dense_set b) {
  struct ka_dense_set left = {0};
  bool in_b[KA_BATCH] = {false};
  for (KA_EACH(i, b)) in_b[i] = true;
  for (KA_EACH(i, a))
    if (!in_b[i]) ka_dense_set_add(&left, i);
  return left;
}

static struct ka_dense_set members(struct ka_dense_set a, const bool *are) {
  struct ka_dense_set set = {0};
  for (KA_EACH(i, a))
    if (are[i]) ka_dense_set_add(&set, i);
  return set;
}

/* --- operators for Lanczos -------------------------------------------------------------------- */

static ka_status op_gram(void *user, struct ka_dense_set who, struct ka_dense_vectors x,
                         struct ka_dense_vectors y) {
  struct ladder *w = user;
  return w->d->symv(w->worker, who, w->m, w->gram, x, y);
}

/* y = (L L^T)^-1 x, L ready in factor */
static ka_status op_inverse(void *user, struct ka_dense_set who, struct ka_dense_vectors x,
                            struct ka_dense_vectors y) {
  struct ladder *w = user;
  return w->d->solve(w->worker, who, w->m, w->factor, x, y);
}

/* The same with the factor that the last proof left in scratch */
static ka_status op_shifted(void *user, struct ka_dense_set who, struct ka_dense_vectors x,
                            struct ka_dense_vectors y) {
  struct ladder *w = user;
  return w->d->solve(w->worker, who, w->m, w->scratch, x, y);
}

ka_status ladder_lanczos(struct ladder *w, struct ka_dense_set who, ka_operator op,
                         const double *rtol, struct ka_dense_vectors vector, double *value,
                         double *err) {
  struct ka_ctx *ctx = w->ctx;
  double start = ka_now_s();
  if (who.n == 0) return KA_STATUS_OK;
  KA_TRY(ka_spectral_lanczos_top(&w->lanczos, who, op, w, rtol, vector, value, err));
  KA_TRY(op(w, who, vector, w->tmp));
  KA_TRY(w->d->divide(w->worker, who, w->m, w->tmp, value, vector));
  w->phases->lanczos_s += ka_now_s() - start;
  return KA_STATUS_OK;
}

/* --- proofs by Cholesky factorisations -------------------------------------------------------- */

ka_status ladder_factorise(struct ladder *w, struct ka_dense_set who, double *a,
                           struct ka_dense_set *done) {
  struct ka_ctx *ctx = w->ctx;
  double start = ka_now_s();
  KA_TRY(w->d->potrf(w->worker, who, w->m, a, done));
  w->phases->cholesky_s += ka_now_s() - start;
  return KA_STATUS_OK;
}

double ladder_cholesky_err(const struct ladder *w, double trace) {
  double g = ladder_gamma(w->d->chain_potrf(&w->worker->engine, w->m));
  return (g / (1 - g) + 2 * SAFE * U) * trace + 1e-280;
}

/* scratch = sign * s + by[i] I factorised: those that ran to completion, and its traces. */
static ka_status factorise_shifted(struct ladder *w, struct ka_dense_set who, int sign,
                                   const double *s, const double *by, double *trace,
                                   struct ka_dense_set *done) {
  struct ka_ctx *ctx = w->ctx;
  KA_TRY(w->d->shift(w->worker, who, w->m, sign, s, by, w->scratch));
  KA_TRY(w->d->sum(w->worker, who, w->m, w->scratch, KA_SUM_TRACE, trace));
  return ladder_factorise(w, who, w->scratch, done);
}

/* Proves lambda_max(s) <= bound[i], bound[i] slightly above theta[i]; s is kept. */
static ka_status prove_below(struct ladder *w, struct ka_dense_set who, const double *s,
                             const double *theta, double *bound, struct ka_dense_set *proven) {
  struct ka_ctx *ctx = w->ctx;
  double trace[KA_BATCH];
  KA_TRY(factorise_shifted(w, who, -1, s, theta, trace, proven));
  for (KA_EACH(i, *proven)) bound[i] = theta[i] + ladder_cholesky_err(w, trace[i]);
  return KA_STATUS_OK;
}

ka_status ladder_prove_above(struct ladder *w, struct ka_dense_set who, const double *s,
                             const double *mu, double *bound, struct ka_dense_set *proven) {
  struct ka_ctx *ctx = w->ctx;
  double trace[KA_BATCH], by[KA_BATCH] = {0};
  for (KA_EACH(i, who)) by[i] = -mu[i];
  KA_TRY(factorise_shifted(w, who, 1, s, by, trace, proven));
  for (KA_EACH(i, *proven)) bound[i] = mu[i] - ladder_cholesky_err(w, trace[i]);
  return KA_STATUS_OK;
}

/* prove_below with the least of the slacks slack, 8 slack, ... below 1 that works: used[i]. */
static ka_status prove_with_slack(struct ladder *w, struct ka_dense_set who, const double *s,
                                  const double *theta, const double *slack, double *used,
                                  double *upper, struct ka_dense_set *proven) {
  struct ka_ctx *ctx = w->ctx;
  bool is_proven[KA_BATCH] = {false};
  struct ka_dense_set todo = {0}, done;
  for (KA_EACH(i, who)) used[i] = slack[i];
  for (KA_EACH(i, who))
    if (used[i] < 1) ka_dense_set_add(&todo, i);
  while (todo.n > 0) {
    double at[KA_BATCH] = {0};
    struct ka_dense_set left = {0};
    for (KA_EACH(i, todo)) at[i] = theta[i] * (1 + used[i]);
    KA_TRY(prove_below(w, todo, s, at, upper, &done));
    for (KA_EACH(i, done)) is_proven[i] = true;
    todo = minus(todo, done);
    for (KA_EACH(i, todo))
      if ((used[i] *= 8) < 1) ka_dense_set_add(&left, i);
    todo = left;
  }
  *proven = members(who, is_proven);
  return KA_STATUS_OK;
}

ka_status ladder_tighten_above(struct ladder *w, struct ka_dense_set who, const double *s,
                               const double *slack, double *theta, struct ka_dense_vectors vector,
                               double *bound, struct ka_dense_set *proven) {
  struct ka_ctx *ctx = w->ctx;
  bool is_proven[KA_BATCH] = {false};
  struct ka_dense_set todo = who;
  for (int attempt = 0; attempt < 3 && todo.n > 0; attempt++) {
    double used[KA_BATCH], upper[KA_BATCH], rtol[KA_BATCH] = {0}, value[KA_BATCH], err[KA_BATCH];
    struct ka_dense_set done, wide = {0}, better = {0};
    KA_TRY(prove_with_slack(w, todo, s, theta, slack, used, upper, &done));
    for (KA_EACH(i, done)) {
      if (!is_proven[i] || upper[i] < bound[i]) bound[i] = upper[i];
      is_proven[i] = true;
      if (used[i] > slack[i]) ka_dense_set_add(&wide, i);
      rtol[i] = slack[i] / used[i] / 8;
    }
    KA_TRY(w->d->ready(w->worker, wide, w->m, w->scratch));
    KA_TRY(ladder_lanczos(w, wide, op_shifted, rtol, vector, value, err));
    for (KA_EACH(i, wide)) {
      double found = theta[i] * (1 + used[i]) - 1 / value[i];
      if (!(found > theta[i])) continue;
      theta[i] = found;
      ka_dense_set_add(&better, i);
    }
    todo = better;
  }
  *proven = members(who, is_proven);
  return KA_STATUS_OK;
}

/* --- gram ------------------------------------------------------------------------------------- */

static ka_status make_gram(struct ladder *w, struct ka_dense_set who) {
  struct ka_ctx *ctx = w->ctx;
  double start = ka_now_s(), trace[KA_BATCH];
  KA_TRY(w->d->gram(w->worker, who, w->p, w->gram));
  KA_TRY(w->d->sum(w->worker, who, w->m, w->gram, KA_SUM_TRACE, trace));
  w->phases->gram_s += ka_now_s() - start;
  w->phases->gram_flops += who.n * (double)w->n * (double)w->m * (double)w->m;
  for (KA_EACH(i, who)) {
    w->out[i].frobenius2 = trace[i];
    w->gram_err[i] = ladder_gamma(w->d->chain_gram(w->n)) * SAFE * trace[i] + 1e-280;
  }
  return KA_STATUS_OK;
}

/* The relative bound that kappa should get (docs/spectra.md, "Targets"). */
static double choose_target(const struct ladder *w, int i) {
  double kappa = w->out[i].max / w->out[i].min;
  if (w->goal.rtol > 0) return w->goal.rtol;
  if (w->m > 512 && w->goal.precision == KA_PRECISION_AUTO) return 1e-3;
  double frobenius = sqrt(w->out[i].frobenius2 / w->lambda_max[i]);
  double backward = 8 * (double)w->n * U * kappa * frobenius;
  if (w->m <= 512) return kappa <= 1e4 ? 5e-9 : fmin(5e-6, fmax(5e-9, backward));
  return 0.9 * backward;
}

/* Lanczos works a good deal beyond the target that is known before the ends are. */
static double lanczos_rtol(const struct ladder *w) {
  bool coarse = w->goal.precision == KA_PRECISION_AUTO && w->m > 512;
  double target = w->goal.rtol > 0 ? w->goal.rtol : coarse ? 1e-3 : 1e-8;
  return fmin(1e-6, fmax(1e-11, target * 1e-3));
}

/* Factor of G + shift I in `factor`, the smallest shift that works, for the members of done. */
static ka_status factor_gram(struct ladder *w, struct ka_dense_set who, double *shift,
                             struct ka_dense_set *done) {
  struct ka_ctx *ctx = w->ctx;
  bool has[KA_BATCH] = {false};
  struct ka_dense_set todo = who, now;
  for (KA_EACH(i, who)) shift[i] = 0;
  while (todo.n > 0) {
    struct ka_dense_set left = {0};
    KA_TRY(w->d->shift(w->worker, todo, w->m, 1, w->gram, shift, w->factor));
    KA_TRY(ladder_factorise(w, todo, w->factor, &now));
    for (KA_EACH(i, now)) has[i] = true;
    todo = minus(todo, now);
    for (KA_EACH(i, todo)) {
      double unit = 4 * U * w->out[i].frobenius2;
      shift[i] = shift[i] > 0 ? 16 * shift[i] : unit;
      if (shift[i] <= 0x1p40 * unit) ka_dense_set_add(&left, i);
    }
    todo = left;
  }
  *done = members(who, has);
  return KA_STATUS_OK;
}

ka_status ladder_measure(struct ladder *w, struct ka_dense_set who) {
  struct ka_ctx *ctx = w->ctx;
  double norms[2 * KA_BATCH], sizes[2 * KA_BATCH];
  KA_TRY(w->d->norms(w->worker, who, w->p, w->vectors, norms, sizes));
  for (KA_EACH(i, who)) {
    struct ka_spectral_ends *o = &w->out[i];
    double err = ladder_gamma(w->d->chain_norm(w->m)) * SAFE * sqrt(o->frobenius2) + 1e-280;
    double max = norms[2 * i] / sizes[2 * i], min = norms[2 * i + 1] / sizes[2 * i + 1];
    o->max_low = (max - err) * (1 - 8 * U);
    o->min_high = fmin(o->min_high, (min + err) * (1 + 8 * U));
    o->max = fmax(o->max, max);
    o->min = fmin(o->min, min);
  }
  return KA_STATUS_OK;
}

static ka_status prove_max(struct ladder *w, struct ka_dense_set who) {
  struct ka_ctx *ctx = w->ctx;
  double theta[KA_BATCH] = {0}, slack[KA_BATCH] = {0}, bound[KA_BATCH] = {0};
  struct ka_dense_set proven, moved = {0};
  for (KA_EACH(i, who)) {
    theta[i] = w->lambda_max[i];
    slack[i] = fmax(fmax(4 * w->max_err[i] / theta[i], w->target[i] / 16), 1e-13);
    bound[i] = w->out[i].frobenius2 * SAFE; /* ||A||_2 <= ||A||_F */
  }
  KA_TRY(ladder_tighten_above(w, who, w->gram, slack, theta, ladder_end(w, 0), bound, &proven));
  for (KA_EACH(i, who)) {
    w->out[i].max_high = sqrt(bound[i] + w->gram_err[i]) * (1 + 4 * U);
    if (theta[i] > w->lambda_max[i]) ka_dense_set_add(&moved, i);
    w->lambda_max[i] = theta[i];
  }
  return moved.n > 0 ? ladder_measure(w, moved) : KA_STATUS_OK;
}

/* What the Gram matrix costs a bound of sigma_min, whatever the proof finds. */
static double known_slack(const struct ladder *w, int i) {
  double err = w->gram_err[i] + ladder_cholesky_err(w, w->out[i].frobenius2);
  return err / w->lambda_min[i];
}

/* Tries to reach the target for sigma_min from the Gram matrix alone; settled: those that did. */
static ka_status try_min_gram(struct ladder *w, struct ka_dense_set who,
                              struct ka_dense_set *settled) {
  struct ka_ctx *ctx = w->ctx;
  double slack[KA_BATCH] = {0}, mu[KA_BATCH] = {0}, bound[KA_BATCH] = {0};
  bool is_settled[KA_BATCH] = {false};
  struct ka_dense_set todo = {0}, proven;
  for (KA_EACH(i, who)) {
    double known = known_slack(w, i), budget = 1.6 * w->target[i];
    slack[i] = fmin(known, 0.9 * (budget - known));
    slack[i] = fmax(slack[i], fmax(2 * w->min_err[i] / w->lambda_min[i], 1e-14));
    if (known + slack[i] <= budget) ka_dense_set_add(&todo, i);
  }
  while (todo.n > 0) {
    struct ka_dense_set left = {0};
    for (KA_EACH(i, todo)) mu[i] = w->lambda_min[i] * (1 - slack[i]);
    KA_TRY(ladder_prove_above(w, todo, w->gram, mu, bound, &proven));
    for (KA_EACH(i, proven)) {
      bound[i] -= w->gram_err[i];
      if (!(bound[i] > 0)) continue;
      w->out[i].min_low = sqrt(bound[i]) * (1 - 4 * U);
      w->out[i].method = KA_SPECTRAL_GRAM;
      is_settled[i] = true;
    }
    todo = minus(todo, proven);
    for (KA_EACH(i, todo)) {
      slack[i] *= 8;
      if (known_slack(w, i) + slack[i] <= 1.6 * w->target[i]) ka_dense_set_add(&left, i);
    }
    todo = left;
  }
  *settled = members(who, is_settled);
  return KA_STATUS_OK;
}

/* --- svd -------------------------------------------------------------------------------------- */

static ka_status prove_by_svd(struct ladder *w, int i) {
  struct ka_ctx *ctx = w->ctx;
  void *memory = NULL;
  double start = ka_now_s();
  KA_TRY(ka_alloc_n(ctx, &memory, (i + 1) * w->m, sizeof(double), "singular values"));
  ka_status st = w->d->values(w->worker, ladder_one(i), w->p, true, memory);
  w->phases->svd_s += ka_now_s() - start;
  const double *s = (const double *)memory + i * w->m;
  double err = 8 * (double)w->n * U * sqrt(w->out[i].frobenius2) * SAFE;
  struct ka_spectral_ends *o = &w->out[i];
  if (ka_ok(st)) {
    o->min = s[w->m - 1];
    o->max = s[0];
    o->max_high = fmin(o->max_high, s[0] + err);
    o->max_low = fmax(o->max_low, s[0] - err);
    o->min_high = fmin(o->min_high, o->min + err);
    o->min_low = fmax(0, o->min - err);
    o->log_volume = 0;
    for (int64_t k = 0; k < w->m; k++) o->log_volume += log(s[k]);
    o->method = KA_SPECTRAL_SVD;
  }
  ka_free(memory);
  return st;
}

/* --- the ladder ------------------------------------------------------------------------------- */

static bool settle_singular(struct ka_spectral_ends *o) {
  if (!(o->min_high <= SINGULAR * o->max_low)) return false;
  o->singular = true;
  o->min_low = 0;
  o->log_volume = NAN;
  o->method = KA_SPECTRAL_TESTED;
  return true;
}

/* Bound of kappa reached so far. */
static double reached(const struct ka_spectral_ends *o) {
  if (!(o->min_low > 0)) return INFINITY;
  return o->max_high / o->min_low / (o->max_low / o->min_high) - 1;
}

/* After the Gram matrix did not settle sigma_min: `factor` holds the ready Cholesky factor of
 * G + shift I. */
static ka_status escalate(struct ladder *w, int i) {
  struct ka_ctx *ctx = w->ctx;
  struct ka_spectral_ends *o = &w->out[i];
  KA_TRY(ladder_prove_min_inverse(w, i));
  if (settle_singular(o)) return KA_STATUS_OK;
  double frobenius = sqrt(o->frobenius2) / o->max;
  double svd_bound = 8 * (double)w->n * U * frobenius * o->max / o->min;
  if (reached(o) > 2 * w->target[i] && reached(o) > svd_bound) KA_TRY(prove_by_svd(w, i));
  (void)settle_singular(o);
  return KA_STATUS_OK;
}

/* Not even G + shift I has a Cholesky factor: nothing is known of sigma_min. */
static ka_status without_factor(struct ladder *w, struct ka_dense_set who) {
  struct ka_ctx *ctx = w->ctx;
  double one[KA_BATCH] = {0};
  for (KA_EACH(i, who)) {
    w->target[i] = 1e-8;
    one[i] = 1;
  }
  KA_TRY(prove_max(w, who));
  KA_TRY(w->d->divide(w->worker, who, w->m, ladder_end(w, 0), one, ladder_end(w, 1)));
  KA_TRY(ladder_measure(w, who));
  for (KA_EACH(i, who)) {
    KA_TRY(prove_by_svd(w, i));
    (void)settle_singular(&w->out[i]);
  }
  return KA_STATUS_OK;
}

/* Estimates of sigma_min from the factor; then both ends are measured. */
static ka_status estimate_min(struct ladder *w, struct ka_dense_set who, const double *rtol) {
  struct ka_ctx *ctx = w->ctx;
  double inverse[KA_BATCH];
  KA_TRY(w->d->ready(w->worker, who, w->m, w->factor));
  KA_TRY(ladder_lanczos(w, who, op_inverse, rtol, ladder_end(w, 1), inverse, w->min_err));
  for (KA_EACH(i, who)) {
    w->lambda_min[i] = 1 / inverse[i];
    w->min_err[i] *= w->lambda_min[i] * w->lambda_min[i];
  }
  return ladder_measure(w, who);
}

static ka_status climb(struct ladder *w, struct ka_dense_set who) {
  struct ka_ctx *ctx = w->ctx;
  double rtol[KA_BATCH] = {0}, shift[KA_BATCH], log_volume[KA_BATCH];
  struct ka_dense_set factored, singular = {0}, exact = {0}, settled;
  for (KA_EACH(i, who)) {
    w->out[i] =
        (struct ka_spectral_ends){.max_high = INFINITY, .min = INFINITY, .min_high = INFINITY};
    rtol[i] = lanczos_rtol(w);
  }
  KA_TRY(make_gram(w, who));
  KA_TRY(ladder_lanczos(w, who, op_gram, rtol, ladder_end(w, 0), w->lambda_max, w->max_err));
  KA_TRY(factor_gram(w, who, shift, &factored));
  KA_TRY(without_factor(w, minus(who, factored)));
  KA_TRY(w->d->sum(w->worker, factored, w->m, w->factor, KA_SUM_LOG_DIAGONAL, log_volume));
  KA_TRY(estimate_min(w, factored, rtol));
  for (KA_EACH(i, factored)) {
    bool found = settle_singular(&w->out[i]);
    w->target[i] = found ? 1e-8 : choose_target(w, i);
    if (found) ka_dense_set_add(&singular, i);
    if (!found && shift[i] == 0) ka_dense_set_add(&exact, i);
  }
  KA_TRY(prove_max(w, factored));
  for (KA_EACH(i, exact)) w->out[i].log_volume = log_volume[i];
  KA_TRY(try_min_gram(w, exact, &settled));
  struct ka_dense_set left = minus(minus(factored, singular), settled);
  for (KA_EACH(i, left)) KA_TRY(escalate(w, i));
  return KA_STATUS_OK;
}

/* --- the entry -------------------------------------------------------------------------------- */

static int64_t max_steps(int64_t m) { return m < MAX_STEPS ? m : MAX_STEPS; }

struct ka_dense_size ka_spectral_ends_size(const struct ka_dense *d, int64_t n, int64_t m,
                                           int64_t elem_bytes, bool full) {
  int64_t k = max_steps(m), doubles = 3 * m * m + 3 * m + (k + 1) * m + 2 * k;
  return (struct ka_dense_size){n, m, d->units_of(n, m), elem_bytes, doubles, full};
}

double ka_spectral_ends_flops(int64_t n, int64_t m, bool full) {
  double m_ = (double)m, n_ = (double)n;
  return n_ * m_ * m_ + m_ * m_ * m_ + (full ? 4 * n_ * m_ * m_ : 0) + 100 * n_ * m_;
}

/* Cuts the workspace up: everything of one kind side by side, by unit. */
static void lay_out(struct ladder *w, double *at, int64_t units) {
  int64_t m = w->m, k = max_steps(m);
  w->gram = at;
  w->factor = w->gram + units * m * m;
  w->scratch = w->factor + units * m * m;
  w->vectors = (struct ka_dense_vectors){w->scratch + units * m * m, 2 * m};
  w->tmp = (struct ka_dense_vectors){w->vectors.at + units * 2 * m, m};
  w->lanczos = (struct ka_spectral_lanczos){.worker = w->worker, .m = m, .max_steps = k};
  w->lanczos.basis = (struct ka_dense_vectors){w->tmp.at + units * m, (k + 1) * m};
  w->lanczos.coefficients =
      (struct ka_dense_vectors){w->lanczos.basis.at + units * (k + 1) * m, 2 * k};
}

ka_status ka_spectral_ends_of(struct ka_dense_worker *worker, struct ka_dense_set who,
                              const struct ka_panels *p, struct ka_spectral_ends_goal goal,
                              struct ka_spectral_phases *phases, struct ka_spectral_ends *out) {
  struct ka_ctx *ctx = worker->ctx;
  if (who.n == 0) return KA_STATUS_OK;
  struct ladder w = {
      .ctx = ctx, .worker = worker, .p = p, .goal = goal, .phases = phases, .out = out};
  double *memory = NULL, read_s = worker->read_s;
  w.d = worker->engine.dense;
  w.n = p[who.at[0]].n;
  w.m = p[who.at[0]].m;
  struct ka_dense_size size = ka_spectral_ends_size(w.d, w.n, w.m, 0, false);
  KA_TRY(w.d->take(worker, &size, &memory));
  lay_out(&w, memory, size.units);
  ka_status st = climb(&w, who);
  w.d->give(worker, memory);
  phases->read_s += worker->read_s - read_s;
  return st;
}
