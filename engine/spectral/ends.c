/* SPDX-License-Identifier: Apache-2.0
 *
 * The certified routes. A is the scaled tall matrix, n x m, u = 2^-53, g(k) = k u / (1 - k u).
 *
 * gram:    G = A^T A in float64; ||error|| <= g(chain) ||A||_F^2. Lanczos on G and on its inverse
 *          through the Cholesky factor estimates both ends. A Cholesky factorisation of a shifted G
 *          that runs to completion proves the other side of each (Rump 2006).
 * inverse: X ~ the inverse of a (shifted) Cholesky factor, B = A X, H = B^T B = L2 L2^T,
 *          W^T = X L2^-T. Then sigma_min(A) >= sigma_min(A X L2^-T) / ||W||: the first is 1 up to
 *          rounding, the second is proven by a Cholesky factorisation. Rounding enters as u kappa,
 *          not u kappa^2.
 * svd:     LAPACK's, with its stated backward error.
 *
 * Error terms are inflated by SAFE, which covers the rounding of their own computation. */
#include "engine/spectral/ends.h"

#include "base/log.h"
#include "engine/spectral/lanczos.h"

#include <float.h>
#include <math.h>
#include <string.h>

static const double U = DBL_EPSILON / 2, SAFE = 1.01, SINGULAR = 0x1p-24;
enum { MAX_STEPS = 320, INNER = 64 };

static double gamma_of(int64_t chain) {
  double k = (double)chain * U;
  return SAFE * k / (1 - k);
}

static int64_t chain_sum(int64_t n, int64_t block) {
  return n <= block ? n + 1 : block + (n + block - 1) / block + 1;
}

struct work {
  struct ka_ctx *ctx;
  const struct ka_dense *d;
  const struct ka_panels *p;
  struct ka_ends_goal goal;
  struct ka_spectral_phases *phases;
  struct ka_ends *out;
  int64_t n, m;
  double *gram, *factor, *scratch; /* [m,m] lower */
  double *panel, *product;         /* KA_PANEL * m */
  double *vectors;                 /* [m,2]: right singular vectors of the two ends */
  double *tmp;                     /* [m] */
  double gram_err;                 /* ||G computed - A^T A|| */
  double lambda_max, lambda_min;   /* estimates of sigma^2 */
  double max_err, min_err;         /* how far Lanczos says they are off */
  double target;                   /* relative bound wanted for kappa */
};

/* --- operators for Lanczos ----------------------------------------------------------------------
 */

static void op_gram(void *user, const double *x, double *y) {
  struct work *w = user;
  w->d->symv(w->m, w->gram, w->m, x, y);
}

static void solve(const struct work *w, const double *l, const double *x, double *y) {
  memcpy(y, x, (size_t)w->m * sizeof *y);
  w->d->trsv(false, w->m, l, w->m, y);
  w->d->trsv(true, w->m, l, w->m, y);
}

/* y = (L L^T)^-1 x, L in factor */
static void op_inverse(void *user, const double *x, double *y) {
  struct work *w = user;
  solve(w, w->factor, x, y);
}

/* The same with the factor that the last proof left in scratch */
static void op_shifted(void *user, const double *x, double *y) {
  struct work *w = user;
  solve(w, w->scratch, x, y);
}

/* y = W^T W x, W in factor */
static void op_normal(void *user, const double *x, double *y) {
  struct work *w = user;
  memcpy(y, x, (size_t)w->m * sizeof *y);
  w->d->trmv(false, w->m, w->factor, w->m, y);
  w->d->trmv(true, w->m, w->factor, w->m, y);
}

static ka_status lanczos(struct work *w, ka_operator op, double rtol, double *vector, double *value,
                         double *err) {
  double start = ka_now_s();
  ka_status st = ka_lanczos_top(w->ctx, w->m, op, w, rtol, MAX_STEPS, vector, value, err);
  /* Once more through the operator: what is left of other directions in the vector of sigma_min
   * would count kappa^2 times in ||A v||. */
  op(w, vector, w->tmp);
  for (int64_t i = 0; i < w->m; i++) vector[i] = w->tmp[i] / *value;
  w->phases->lanczos_s += ka_now_s() - start;
  return st;
}

/* --- small pieces -------------------------------------------------------------------------------
 */

static double trace_of(const double *a, int64_t m) {
  double t = 0;
  for (int64_t i = 0; i < m; i++) t += a[i + i * m];
  return t;
}

static void copy_lower(double *to, const double *from, int64_t m) {
  for (int64_t j = 0; j < m; j++)
    memcpy(to + j + j * m, from + j + j * m, (size_t)(m - j) * sizeof *to);
}

static double norm_lower(const double *a, int64_t m) {
  double s = 0;
  for (int64_t j = 0; j < m; j++)
    for (int64_t i = j; i < m; i++) s += a[i + j * m] * a[i + j * m];
  return sqrt(s);
}

static int64_t factorise(struct work *w, double *a) {
  double start = ka_now_s();
  int64_t info = w->d->potrf(w->m, a, w->m);
  for (int64_t i = 0; i < w->m && info == 0; i++) /* libraries let NaN pivots pass */
    if (!(a[i + i * w->m] > 0) || !isfinite(a[i + i * w->m])) info = i + 1;
  w->phases->cholesky_s += ka_now_s() - start;
  return info;
}

/* Backward error of a completed Cholesky factorisation of a matrix with this trace, with the
 * rounding of a shifted diagonal. */
static double cholesky_err(const struct work *w, double trace) {
  return (gamma_of(w->d->chain_potrf(w->m)) / (1 - gamma_of(w->d->chain_potrf(w->m))) +
          2 * SAFE * U) *
             trace +
         1e-280;
}

/* Proves lambda_max(s) <= *bound, *bound slightly above theta; s is kept. False: not proven. */
static bool prove_below(struct work *w, const double *s, double theta, double *bound) {
  int64_t m = w->m;
  for (int64_t j = 0; j < m; j++)
    for (int64_t i = j; i < m; i++) w->scratch[i + j * m] = (i == j ? theta : 0) - s[i + j * m];
  double trace = trace_of(w->scratch, m);
  if (factorise(w, w->scratch) != 0) return false;
  *bound = theta + cholesky_err(w, trace);
  return true;
}

/* Proves lambda_min(s) >= *bound, *bound slightly below mu; s is kept. */
static bool prove_above(struct work *w, const double *s, double mu, double *bound) {
  int64_t m = w->m;
  copy_lower(w->scratch, s, m);
  for (int64_t i = 0; i < m; i++) w->scratch[i + i * m] -= mu;
  double trace = trace_of(w->scratch, m);
  if (factorise(w, w->scratch) != 0) return false;
  *bound = mu - cholesky_err(w, trace);
  return true;
}

/* --- gram ---------------------------------------------------------------------------------------
 */

static void make_gram(struct work *w) {
  double start = ka_now_s();
  for (int64_t k0 = 0; k0 < w->n; k0 += KA_PANEL) {
    int64_t kb = w->n - k0 < KA_PANEL ? w->n - k0 : KA_PANEL;
    double before = ka_now_s();
    ka_panels_load(w->p, k0, kb, w->panel);
    w->phases->read_s += ka_now_s() - before;
    w->d->syrk(w->m, kb, w->p->wide, 1, w->panel, w->p->wide ? kb : w->m, k0 > 0, w->gram, w->m);
  }
  w->phases->gram_s += ka_now_s() - start;
  w->phases->gram_flops += (double)w->n * (double)w->m * (double)w->m;
  w->out->frobenius2 = trace_of(w->gram, w->m);
  w->gram_err = gamma_of(chain_sum(w->n, KA_PANEL)) * SAFE * w->out->frobenius2 + 1e-280;
}

/* The relative bound that kappa should get (docs/spectra.md, "Targets"). */
static double choose_target(const struct work *w, double kappa) {
  if (w->goal.rtol > 0) return w->goal.rtol;
  if (w->m > 512 && w->goal.precision == KA_PRECISION_AUTO) return 1e-3;
  double frobenius = sqrt(w->out->frobenius2 / w->lambda_max);
  double backward = 8 * (double)w->n * U * kappa * frobenius;
  if (w->m <= 512) return kappa <= 1e4 ? 5e-9 : fmin(5e-6, fmax(5e-9, backward));
  return 0.9 * backward;
}

/* Lanczos works a good deal beyond the target that is known before the ends are. */
static double lanczos_rtol(const struct work *w) {
  bool coarse = w->goal.precision == KA_PRECISION_AUTO && w->m > 512;
  double target = w->goal.rtol > 0 ? w->goal.rtol : coarse ? 1e-3 : 1e-8;
  return fmin(1e-6, fmax(1e-11, target * 1e-3));
}

/* Factor of G + shift I in `factor`, the smallest shift that works; false when none does. */
static bool factor_gram(struct work *w, double *shift) {
  double *f = w->factor, unit = 4 * U * w->out->frobenius2;
  for (*shift = 0; *shift <= 0x1p40 * unit; *shift = *shift > 0 ? 16 * *shift : unit) {
    copy_lower(f, w->gram, w->m);
    for (int64_t i = 0; i < w->m; i++) f[i + i * w->m] += *shift;
    if (factorise(w, f) == 0) return true;
  }
  return false;
}

static double log_diagonal(const double *a, int64_t m) {
  double s = 0;
  for (int64_t i = 0; i < m; i++) s += log(a[i + i * m]);
  return s;
}

/* Rigorous inner bounds (max_low, min_high) from the two vectors. */
static void measure(struct work *w) {
  double norms[2], size[2];
  ka_panels_norms(w->p, w->d, w->vectors, 2, w->panel, norms);
  double err = gamma_of(ka_panels_norm_chain(w->m)) * SAFE * sqrt(w->out->frobenius2) + 1e-280;
  for (int j = 0; j < 2; j++) {
    long double s = 0;
    for (int64_t i = 0; i < w->m; i++)
      s += (long double)w->vectors[i + j * w->m] * w->vectors[i + j * w->m];
    size[j] = (double)sqrtl(s);
  }
  w->out->max_low = (norms[0] / size[0] - err) * (1 - 8 * U);
  double min_high = (norms[1] / size[1] + err) * (1 + 8 * U);
  w->out->min_high = fmin(w->out->min_high, min_high);
  w->out->max = fmax(w->out->max, norms[0] / size[0]);
  w->out->min = fmin(w->out->min, norms[1] / size[1]);
}

/* Proves lambda_max(s) <= *bound for the estimate *theta with the least slack >= `slack`
 * (relative). Lanczos may have missed a value that lies beside the one it found; then the factor
 * that succeeded, of a matrix shifted next to the edge, finds it. vector follows *theta. */
static ka_status tighten_above(struct work *w, const double *s, double slack, double *theta,
                               double *vector, double *bound, bool *proven) {
  struct ka_ctx *ctx = w->ctx;
  *proven = false;
  for (int attempt = 0; attempt < 3; attempt++) {
    double used = slack, upper = 0, value = 0, err = 0;
    while (used < 1 && !prove_below(w, s, *theta * (1 + used), &upper)) used *= 8;
    if (used >= 1) return KA_STATUS_OK;
    if (!*proven || upper < *bound) *bound = upper;
    *proven = true;
    if (used <= slack) return KA_STATUS_OK;
    KA_TRY(lanczos(w, op_shifted, slack / used / 8, vector, &value, &err));
    double better = *theta * (1 + used) - 1 / value;
    if (!(better > *theta)) return KA_STATUS_OK;
    *theta = better;
  }
  return KA_STATUS_OK;
}

static ka_status prove_max(struct work *w) {
  struct ka_ctx *ctx = w->ctx;
  double theta = w->lambda_max, bound = 0;
  bool proven = false;
  double slack = fmax(fmax(4 * w->max_err / theta, w->target / 16), 1e-13);
  KA_TRY(tighten_above(w, w->gram, slack, &theta, w->vectors, &bound, &proven));
  if (!proven) bound = w->out->frobenius2 * SAFE; /* ||A||_2 <= ||A||_F */
  w->out->max_high = sqrt(bound + w->gram_err) * (1 + 4 * U);
  if (theta > w->lambda_max) measure(w);
  w->lambda_max = theta;
  return KA_STATUS_OK;
}

/* One try to reach the target for sigma_min from the Gram matrix alone. */
static bool try_min_gram(struct work *w) {
  double lambda = w->lambda_min, budget = 1.6 * w->target;
  double known = (w->gram_err + cholesky_err(w, w->out->frobenius2)) / lambda;
  double slack = fmin(known, 0.9 * (budget - known));
  slack = fmax(slack, fmax(2 * w->min_err / lambda, 1e-14));
  for (; known + slack <= budget; slack *= 8) {
    double bound = 0;
    if (!prove_above(w, w->gram, lambda * (1 - slack), &bound)) continue;
    bound -= w->gram_err;
    if (!(bound > 0)) return false;
    w->out->min_low = sqrt(bound) * (1 - 4 * U);
    w->out->method = KA_SPECTRAL_GRAM;
    return true;
  }
  return false;
}

/* --- inverse ------------------------------------------------------------------------------------
 */

/* product = panel times X, X^T = z [m,m] lower, in the panel's own layout; beta 0 or 1. Blocks of
 * INNER along the sum keep the chain short; only the nonzero triangle is multiplied. */
static void panel_times_x(struct work *w, const double *panel, int64_t kb, const double *z,
                          bool add) {
  int64_t m = w->m, step = 4 * INNER;
  for (int64_t j = 0; j < m; j += step) { /* columns j.. of the product: rows j.. of z */
    int64_t jb = m - j < step ? m - j : step;
    for (int64_t i = 0; i < j + jb; i += INNER) {
      int64_t ib = j + jb - i < INNER ? j + jb - i : INNER;
      double beta = i > 0 || add ? 1 : 0;
      if (w->p->wide)
        w->d->gemm(false, true, kb, jb, ib, panel + i * kb, kb, z + j + i * m, m, beta,
                   w->product + j * kb, kb);
      else
        w->d->gemm(false, false, jb, kb, ib, z + j + i * m, m, panel + i, m, beta, w->product + j,
                   m);
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

/* H = (A X)^T (A X) in `h`, from X^T = z. Plain products when z_low is NULL. Otherwise z holds X^T
 * rounded row by row to few bits and z_low the rest: the leading product is then exact. */
static void make_h(struct work *w, const double *z, const double *z_low, double *a_low,
                   double quantum, double *h) {
  for (int64_t k0 = 0; k0 < w->n; k0 += KA_PANEL) {
    int64_t kb = w->n - k0 < KA_PANEL ? w->n - k0 : KA_PANEL;
    ka_panels_load(w->p, k0, kb, w->panel);
    if (z_low) {
      split(w->panel, a_low, kb * w->m, quantum);
      panel_times_x(w, w->panel, kb, z, false);
      double *leading = a_low + KA_PANEL * w->m;
      memcpy(leading, w->product, (size_t)(kb * w->m) * sizeof *leading);
      panel_times_x(w, w->panel, kb, z_low, false);
      panel_times_x(w, a_low, kb, z, true);
      panel_times_x(w, a_low, kb, z_low, true);
      for (int64_t i = 0; i < kb * w->m; i++) w->product[i] += leading[i];
    } else {
      panel_times_x(w, w->panel, kb, z, false);
    }
    w->d->syrk(w->m, kb, w->p->wide, 1, w->product, w->p->wide ? kb : w->m, k0 > 0, h, w->m);
  }
}

/* What the product B = A X is off by, as a norm; `split_z` is reached by rounding both factors. */
struct product_err {
  double plain, with_split;
  int bits; /* of each factor in the exact leading product */
};

static struct product_err product_error(const struct work *w, const double *z) {
  double g = gamma_of(chain_sum(w->m, INNER)), x = norm_lower(z, w->m) * SAFE;
  double frobenius = sqrt(w->out->frobenius2) * SAFE;
  int log_m = 0;
  while ((int64_t)1 << log_m < w->m) log_m++;
  struct product_err e = {.plain = g * frobenius * x + 1e-280, .bits = (52 - log_m) / 2};
  /* The parts cut off are at most 2^-bits / 2 of the largest element of A (which is below 1) and
   * of the largest of each row of z; three products of at least one such part, each with its own
   * rounding and that of adding them; the final sum is rounded once, relative to B, which the
   * caller adds with the error of H. */
  double cut = ldexp(1, -e.bits) * sqrt((double)w->n * (double)w->m);
  double cut_z = ldexp(1, -e.bits) * sqrt((double)w->m) * x;
  e.with_split =
      2 * gamma_of(chain_sum(3 * w->m, INNER)) * (frobenius * cut_z + cut * x + cut * cut_z) +
      1e-280;
  return e;
}

/* H by the split product: z is cut row by row (row j of z is column j of X). Restores z. */
static ka_status make_h_split(struct work *w, double *z, int bits, double *h) {
  struct ka_ctx *ctx = w->ctx;
  int64_t m = w->m;
  void *memory = NULL;
  KA_TRY(ka_alloc_n(ctx, &memory, m * m + 2 * KA_PANEL * m, sizeof(double), "split product"));
  double *z_low = memory;
  for (int64_t i = 0; i < m; i++) {
    double max = 0;
    for (int64_t j = 0; j <= i; j++) max = fmax(max, fabs(z[i + j * m]));
    int e = 0;
    frexp(max, &e);
    for (int64_t j = 0; j <= i; j++) split(&z[i + j * m], &z_low[i + j * m], 1, ldexp(1, e - bits));
  }
  make_h(w, z, z_low, z_low + m * m, ldexp(1, -bits), h);
  for (int64_t j = 0; j < m; j++)
    for (int64_t i = j; i < m; i++) z[i + j * m] += z_low[i + j * m];
  ka_free(memory);
  return KA_STATUS_OK;
}

/* ||L2^-1||^2 bound from H = L2 L2^T with error `err`, by a verified shift; 0: not proven. */
static double inverse_norm2(struct work *w, const double *h, double off_identity, double err) {
  if (off_identity < 0.5) return 1 / (1 - off_identity - err) * SAFE;
  double bound = 0;
  for (double mu = 0.5; mu > 64 * err; mu /= 4)
    if (prove_above(w, h, mu, &bound) && bound > err) return 1 / (bound - err) * SAFE;
  return 0;
}

static double off_identity(const double *h, int64_t m) {
  double s = 0;
  for (int64_t j = 0; j < m; j++) {
    double d = h[j + j * m] - 1;
    s += d * d;
    for (int64_t i = j + 1; i < m; i++) s += 2 * h[i + j * m] * h[i + j * m];
  }
  return sqrt(s) * SAFE;
}

/* *tau >= ||W||, W in factor (spoilt: becomes W^T W); 0: not proven. estimate2: of ||W||^2. */
static ka_status prove_norm(struct work *w, double estimate2, double err2, double *tau) {
  struct ka_ctx *ctx = w->ctx;
  double norm2 = norm_lower(w->factor, w->m), bound = 0, theta = estimate2;
  bool proven = false;
  norm2 *= norm2 * SAFE;
  w->d->lauum(w->m, w->factor, w->m);
  double product_err = gamma_of(w->m + 2) * norm2;
  double slack = fmax(fmax(4 * err2 / estimate2, w->target / 16), 1e-13);
  double *vector = w->vectors + w->m;
  KA_TRY(tighten_above(w, w->factor, slack, &theta, vector, &bound, &proven));
  if (theta > estimate2) { /* clear the new vector of other directions, as in lanczos */
    w->d->symv(w->m, w->factor, w->m, vector, w->tmp);
    for (int64_t i = 0; i < w->m; i++) vector[i] = w->tmp[i] / theta;
    measure(w);
  }
  *tau = proven ? sqrt(bound + product_err) * (1 + 4 * U) : 0;
  return KA_STATUS_OK;
}

/* From z = X^T in `factor`: min_low. Spoils gram (H), factor and scratch. */
static ka_status prove_min_inverse(struct work *w) {
  struct ka_ctx *ctx = w->ctx;
  int64_t m = w->m;
  double *h = w->gram, *z = w->factor;
  struct product_err e = product_error(w, z);
  double goal = w->target / 4, b_err = e.plain;
  double start = ka_now_s();
  if (e.plain > goal && e.with_split < e.plain) {
    KA_TRY(make_h_split(w, z, e.bits, h));
    b_err = e.with_split;
  } else {
    make_h(w, z, NULL, NULL, 0, h);
  }
  double b2 = trace_of(h, m) * SAFE;
  double log_volume = -log_diagonal(z, m);
  double off = off_identity(h, m);
  /* Error of H against the exact B^T B of the stored B, and of storing B (split). */
  double h_err = gamma_of(chain_sum(w->n, KA_PANEL)) * b2;
  b_err += 2 * U * sqrt(b2);
  double defect = off + h_err, rho2 = 1, w_err = 0;
  if (off > goal / 4) {
    copy_lower(w->scratch, h, m);
    if (factorise(w, w->scratch) != 0) return KA_STATUS_OK;
    log_volume += log_diagonal(w->scratch, m);
    w->d->trsm(m, m, w->scratch, m, z, m); /* W = L2^-1 X^T */
    defect = h_err + cholesky_err(w, b2);
    double l2_norm = sqrt(b2) * SAFE;
    rho2 = inverse_norm2(w, h, off, cholesky_err(w, b2));
    if (rho2 == 0) return KA_STATUS_OK;
    w_err = gamma_of(m + 4) * norm_lower(z, m) * l2_norm * sqrt(rho2);
  } else {
    log_volume += 0.5 * (trace_of(h, m) - (double)m);
  }
  for (int64_t j = 1; j < m; j++) memset(z + j * m, 0, (size_t)j * sizeof *z);
  w->phases->inverse_s += ka_now_s() - start;
  double value = 0, err = 0;
  KA_TRY(lanczos(w, op_normal, fmin(w->target / 64, 1e-9), w->vectors + m, &value, &err));
  measure(w);
  double tau = 0;
  KA_TRY(prove_norm(w, value, err, &tau));
  double top = 1 - defect * rho2;
  if (tau == 0 || !(top > 0)) return KA_STATUS_OK;
  w->out->min_low = (sqrt(top) - b_err * sqrt(rho2) * SAFE) / (tau + w_err) * (1 - 8 * U);
  w->out->log_volume = log_volume;
  w->out->method = KA_SPECTRAL_INVERSE;
  return KA_STATUS_OK;
}

/* --- svd ----------------------------------------------------------------------------------------
 */

ka_status ka_ends_all_values(struct ka_ctx *ctx, const struct ka_dense *dense,
                             const struct ka_panels *p, double *s) {
  void *memory = NULL;
  KA_TRY(ka_alloc_n(ctx, &memory, p->n * p->m, sizeof(double), "matrix for the SVD"));
  ka_panels_load(p, 0, p->n, memory);
  ka_status st = p->wide ? dense->svdvals(ctx, p->n, p->m, memory, p->n, s)
                         : dense->svdvals(ctx, p->m, p->n, memory, p->m, s);
  ka_free(memory);
  return st;
}

static ka_status prove_by_svd(struct work *w) {
  struct ka_ctx *ctx = w->ctx;
  double start = ka_now_s(), *s = w->tmp;
  KA_TRY(ka_ends_all_values(ctx, w->d, w->p, s));
  w->phases->svd_s += ka_now_s() - start;
  double err = 8 * (double)w->n * U * sqrt(w->out->frobenius2) * SAFE;
  struct ka_ends *o = w->out;
  o->min = s[w->m - 1];
  o->max = s[0];
  o->max_high = fmin(o->max_high, s[0] + err);
  o->max_low = fmax(o->max_low, s[0] - err);
  o->min_high = fmin(o->min_high, o->min + err);
  o->min_low = fmax(0, o->min - err);
  o->log_volume = 0;
  for (int64_t i = 0; i < w->m; i++) o->log_volume += log(s[i]);
  o->method = KA_SPECTRAL_SVD;
  return KA_STATUS_OK;
}

/* --- the ladder ---------------------------------------------------------------------------------
 */

static bool settle_singular(struct work *w) {
  struct ka_ends *o = w->out;
  if (!(o->min_high <= SINGULAR * o->max_low)) return false;
  o->singular = true;
  o->min_low = 0;
  o->log_volume = NAN;
  o->method = KA_SPECTRAL_TESTED;
  return true;
}

/* Bound of kappa reached so far. */
static double reached(const struct ka_ends *o) {
  if (!(o->min_low > 0)) return INFINITY;
  return o->max_high / o->min_low / (o->max_low / o->min_high) - 1;
}

/* Escalation after the Gram matrix did not settle sigma_min: `factor` holds the Cholesky factor of
 * G + shift I. */
static ka_status escalate(struct work *w) {
  struct ka_ctx *ctx = w->ctx;
  double start = ka_now_s();
  int64_t info = w->d->trtri(w->m, w->factor, w->m);
  w->phases->inverse_s += ka_now_s() - start;
  if (info == 0) KA_TRY(prove_min_inverse(w));
  if (settle_singular(w)) return KA_STATUS_OK;
  double frobenius = sqrt(w->out->frobenius2) / w->out->max;
  double svd_bound = 8 * (double)w->n * U * frobenius * w->out->max / w->out->min;
  if (reached(w->out) > 2 * w->target && reached(w->out) > svd_bound) KA_TRY(prove_by_svd(w));
  (void)settle_singular(w);
  return KA_STATUS_OK;
}

static ka_status climb(struct work *w) {
  struct ka_ctx *ctx = w->ctx;
  struct ka_ends *o = w->out;
  *o = (struct ka_ends){.max_high = INFINITY, .min = INFINITY, .min_high = INFINITY};
  make_gram(w);
  double shift = 0;
  KA_TRY(lanczos(w, op_gram, lanczos_rtol(w), w->vectors, &w->lambda_max, &w->max_err));
  if (!factor_gram(w, &shift)) {
    w->target = 1e-8;
    KA_TRY(prove_max(w));
    memcpy(w->vectors + w->m, w->vectors, (size_t)w->m * sizeof *w->vectors);
    measure(w);
    KA_TRY(prove_by_svd(w));
    (void)settle_singular(w);
    return KA_STATUS_OK;
  }
  double inverse = 0;
  KA_TRY(lanczos(w, op_inverse, lanczos_rtol(w), w->vectors + w->m, &inverse, &w->min_err));
  w->lambda_min = 1 / inverse;
  w->min_err *= w->lambda_min * w->lambda_min;
  measure(w);
  if (settle_singular(w)) {
    w->target = 1e-8;
    KA_TRY(prove_max(w));
    return KA_STATUS_OK;
  }
  double kappa = o->max / o->min;
  w->target = choose_target(w, kappa);
  KA_TRY(prove_max(w));
  if (shift == 0) {
    o->log_volume = log_diagonal(w->factor, w->m);
    if (try_min_gram(w)) return KA_STATUS_OK;
  }
  return escalate(w);
}

int64_t ka_ends_bytes(int64_t n, int64_t m, bool full) {
  int64_t ends = 3 * m * m + 2 * KA_PANEL * m + (MAX_STEPS + 1) * m, svd = full ? n * m + 8 * m : 0;
  return (int64_t)sizeof(double) * (ends > svd ? ends : svd);
}

double ka_ends_flops(int64_t n, int64_t m, bool full) {
  double m_ = (double)m, n_ = (double)n;
  return n_ * m_ * m_ + m_ * m_ * m_ + (full ? 4 * n_ * m_ * m_ : 0) + 100 * n_ * m_;
}

ka_status ka_ends_of(struct ka_ctx *ctx, const struct ka_dense *dense, const struct ka_panels *p,
                     struct ka_ends_goal goal, struct ka_spectral_phases *phases,
                     struct ka_ends *out) {
  int64_t m = p->m;
  void *memory = NULL;
  KA_TRY(ka_alloc_n(ctx, &memory, 3 * m * m + 2 * KA_PANEL * m + 3 * m, sizeof(double),
                    "spectral workspace"));
  struct work w = {.ctx = ctx, .d = dense, .p = p, .goal = goal, .phases = phases, .out = out};
  w.n = p->n;
  w.m = m;
  w.gram = memory;
  w.factor = w.gram + m * m;
  w.scratch = w.factor + m * m;
  w.panel = w.scratch + m * m;
  w.product = w.panel + KA_PANEL * m;
  w.vectors = w.product + KA_PANEL * m;
  w.tmp = w.vectors + 2 * m;
  ka_status st = climb(&w);
  ka_free(memory);
  return st;
}
