/* SPDX-License-Identifier: Apache-2.0
 *
 * The inverse route (docs/spectra.md): X ~ the inverse of a (shifted) Cholesky factor, B = A X,
 * H = B^T B = L2 L2^T, W^T = X L2^-T. Then sigma_min(A) >= sigma_min(A X L2^-T) / ||W||: the first
 * is 1 up to rounding, the second is proven by a Cholesky factorisation. Rounding enters as u
 * kappa, not u kappa^2. */
#include "engine/spectral/ladder.h"

#include "base/log.h"

#include <math.h>

static const double U = LADDER_U, SAFE = LADDER_SAFE;

/* What the product B = A X is off by, as a norm; `with_split` is reached by cutting both factors.
 */
struct product_err {
  double plain, with_split;
  int bits; /* of each factor in the exact leading product */
};

static struct product_err product_error(const struct ladder *w, int i, double norm_z) {
  double g = ladder_gamma(w->d->chain_product(w->m)), x = norm_z * SAFE;
  double frobenius = sqrt(w->out[i].frobenius2) * SAFE;
  int log_m = 0;
  while ((int64_t)1 << log_m < w->m) log_m++;
  struct product_err e = {.plain = g * frobenius * x + 1e-280, .bits = (52 - log_m) / 2};
  /* The parts cut off are at most 2^-bits / 2 of the largest element of A (which is below 1) and
   * of the largest of each row of z; three products of at least one such part, each with its own
   * rounding and that of adding them; the final sum is rounded once, relative to B, which the
   * caller adds with the error of H. */
  double cut = ldexp(1, -e.bits) * sqrt((double)w->n * (double)w->m);
  double cut_z = ldexp(1, -e.bits) * sqrt((double)w->m) * x;
  e.with_split = 2 * ladder_gamma(w->d->chain_product(3 * w->m)) *
                     (frobenius * cut_z + cut * x + cut * cut_z) +
                 1e-280;
  return e;
}

static ka_status sum_of(struct ladder *w, int i, const double *a, enum ka_dense_sum kind,
                        double *out) {
  struct ka_ctx *ctx = w->ctx;
  double sums[KA_BATCH];
  KA_TRY(w->d->sum(w->worker, ladder_one(i), w->m, a, kind, sums));
  *out = sums[i];
  return KA_STATUS_OK;
}

static ka_status norm_of(struct ladder *w, int i, const double *a, double *out) {
  struct ka_ctx *ctx = w->ctx;
  KA_TRY(sum_of(w, i, a, KA_SUM_SQUARES, out));
  *out = sqrt(*out);
  return KA_STATUS_OK;
}

/* *norm2 >= ||L2^-1||^2 from H = L2 L2^T with error `err`, by a verified shift; 0: not proven. */
static ka_status inverse_norm2(struct ladder *w, int i, double off_identity, double err,
                               double *norm2) {
  struct ka_ctx *ctx = w->ctx;
  *norm2 = 0;
  if (off_identity < 0.5) {
    *norm2 = 1 / (1 - off_identity - err) * SAFE;
    return KA_STATUS_OK;
  }
  double mu[KA_BATCH] = {0}, bound[KA_BATCH] = {0};
  for (mu[i] = 0.5; mu[i] > 64 * err; mu[i] /= 4) {
    struct ka_dense_set proven;
    KA_TRY(ladder_prove_above(w, ladder_one(i), w->gram, mu, bound, &proven));
    if (proven.n == 0 || !(bound[i] > err)) continue;
    *norm2 = 1 / (bound[i] - err) * SAFE;
    break;
  }
  return KA_STATUS_OK;
}

/* y = W^T W x, W in factor */
static ka_status op_normal(void *user, struct ka_dense_set who, struct ka_dense_vectors x,
                           struct ka_dense_vectors y) {
  struct ladder *w = user;
  return w->d->normal(w->worker, who, w->m, w->factor, x, y);
}

/* *tau >= ||W||, W in factor; 0: not proven. estimate2: of ||W||^2. gram becomes W^T W. */
static ka_status prove_norm(struct ladder *w, int i, double estimate2, double err2, double *tau) {
  struct ka_ctx *ctx = w->ctx;
  struct ka_dense_set one = ladder_one(i), proven;
  struct ka_dense_vectors vector = ladder_end(w, 1);
  double norm2 = 0, bound[KA_BATCH] = {0}, theta[KA_BATCH] = {0}, slack[KA_BATCH] = {0};
  KA_TRY(norm_of(w, i, w->factor, &norm2));
  norm2 *= norm2 * SAFE;
  KA_TRY(w->d->lauum(w->worker, one, w->m, w->factor, w->gram));
  double product_err = ladder_gamma(w->m + 2) * norm2;
  theta[i] = estimate2;
  slack[i] = fmax(fmax(4 * err2 / estimate2, w->target[i] / 16), 1e-13);
  KA_TRY(ladder_tighten_above(w, one, w->gram, slack, theta, vector, bound, &proven));
  if (theta[i] > estimate2) { /* clear the new vector of other directions, as ladder_lanczos does */
    KA_TRY(w->d->symv(w->worker, one, w->m, w->gram, vector, w->tmp));
    KA_TRY(w->d->divide(w->worker, one, w->m, w->tmp, theta, vector));
    KA_TRY(ladder_measure(w, one));
  }
  *tau = proven.n ? sqrt(bound[i] + product_err) * (1 + 4 * U) : 0;
  return KA_STATUS_OK;
}

/* What is known of unit i once W stands in `factor`. */
struct preconditioned {
  double defect, rho2; /* bounds of ||B^T B - L2 L2^T|| and ||L2^-1||^2; rho2 0: not proven */
  double b_err, w_err; /* of B and W as norms */
  double log_volume;
};

/* W = L2^-1 X^T where H is not close enough to I to be taken for it. */
static ka_status divide_by_factor(struct ladder *w, int i, double b2, double h_err, double off,
                                  struct preconditioned *c) {
  struct ka_ctx *ctx = w->ctx;
  struct ka_dense_set one = ladder_one(i), done;
  double zero[KA_BATCH] = {0}, log_l2 = 0, norm_w = 0, err = ladder_cholesky_err(w, b2);
  KA_TRY(w->d->shift(w->worker, one, w->m, 1, w->gram, zero, w->scratch));
  KA_TRY(ladder_factorise(w, one, w->scratch, &done));
  c->rho2 = 0;
  if (done.n == 0) return KA_STATUS_OK;
  KA_TRY(sum_of(w, i, w->scratch, KA_SUM_LOG_DIAGONAL, &log_l2));
  KA_TRY(w->d->trsm(w->worker, one, w->m, w->scratch, w->factor));
  KA_TRY(norm_of(w, i, w->factor, &norm_w));
  KA_TRY(inverse_norm2(w, i, off, err, &c->rho2));
  c->log_volume += log_l2;
  c->defect = h_err + err;
  c->w_err = ladder_gamma(w->m + 4) * norm_w * (sqrt(b2) * SAFE) * sqrt(c->rho2);
  return KA_STATUS_OK;
}

/* B, H and W from z = X^T in `factor`. */
static ka_status precondition(struct ladder *w, int i, struct preconditioned *c) {
  struct ka_ctx *ctx = w->ctx;
  double norm_z = 0, log_z = 0, trace = 0, off = 0, goal = w->target[i] / 4;
  KA_TRY(norm_of(w, i, w->factor, &norm_z));
  struct product_err e = product_error(w, i, norm_z);
  bool split = e.plain > goal && e.with_split < e.plain;
  KA_TRY(w->d->gram_of_product(w->worker, i, w->p, w->factor, split ? e.bits : 0, w->gram));
  KA_TRY(sum_of(w, i, w->gram, KA_SUM_TRACE, &trace));
  KA_TRY(sum_of(w, i, w->factor, KA_SUM_LOG_DIAGONAL, &log_z));
  KA_TRY(sum_of(w, i, w->gram, KA_SUM_OFF_IDENTITY, &off));
  off = sqrt(off) * SAFE;
  /* Error of H against the exact B^T B of the stored B, and of storing B (split). */
  double b2 = trace * SAFE, h_err = ladder_gamma(w->d->chain_gram(w->n)) * b2;
  *c = (struct preconditioned){.defect = off + h_err,
                               .rho2 = 1,
                               .b_err = (split ? e.with_split : e.plain) + 2 * U * sqrt(b2),
                               .log_volume = -log_z};
  if (off > goal / 4) return divide_by_factor(w, i, b2, h_err, off, c);
  c->log_volume += 0.5 * (trace - (double)w->m);
  return KA_STATUS_OK;
}

ka_status ladder_prove_min_inverse(struct ladder *w, int i) {
  struct ka_ctx *ctx = w->ctx;
  struct ka_dense_set one = ladder_one(i);
  struct preconditioned c = {0};
  double start = ka_now_s(), tau = 0, rtol[KA_BATCH] = {0}, value[KA_BATCH], err[KA_BATCH];
  KA_TRY(w->d->invert(w->worker, one, w->m, w->factor)); /* z = X^T */
  KA_TRY(precondition(w, i, &c));
  w->phases->inverse_s += ka_now_s() - start;
  if (c.rho2 == 0) return KA_STATUS_OK;
  rtol[i] = fmin(w->target[i] / 64, 1e-9);
  KA_TRY(ladder_lanczos(w, one, op_normal, rtol, ladder_end(w, 1), value, err));
  KA_TRY(ladder_measure(w, one));
  KA_TRY(prove_norm(w, i, value[i], err[i], &tau));
  double top = 1 - c.defect * c.rho2;
  if (tau == 0 || !(top > 0)) return KA_STATUS_OK;
  w->out[i].min_low = (sqrt(top) - c.b_err * sqrt(c.rho2) * SAFE) / (tau + c.w_err) * (1 - 8 * U);
  w->out[i].log_volume = c.log_volume;
  w->out[i].method = KA_SPECTRAL_INVERSE;
  return KA_STATUS_OK;
}
