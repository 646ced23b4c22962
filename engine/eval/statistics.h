/* SPDX-License-Identifier: Apache-2.0
 *
 * The statistics of a comparison: means with standard errors, Student's t, differences between runs
 * that share their seeds, Holm's correction. Plain functions of numbers; NaN is "no value". */
#ifndef KAPPA_ENGINE_EVAL_STATISTICS_H
#define KAPPA_ENGINE_EVAL_STATISTICS_H

#include "base/status.h"

/* P(T <= t) of Student's t with df > 0 degrees of freedom, not necessarily whole, by the
 * regularised incomplete beta function (DLMF 8.17.4 and 8.17.22, Lentz's continued fraction). */
double ka_eval_student_cdf(double t, double df);
/* The t with P(T <= t) = p, 0 < p < 1. */
double ka_eval_student_quantile(double p, double df);

struct ka_eval_difference {
  double mean;
  double se, df;    /* NaN: nothing was repeated or all is the same, so nothing is known */
  double low, high; /* the 95 % interval, mean -+ t(0.975, df) se; NaN with se */
  double p;         /* two-sided, of "the true mean is 0"; NaN with se */
};

/* The mean of d [n_draws, n_seeds], differences between one method and one draw of another at one
 * seed. Both draws and seeds are samples of what could have been, crossed: the model is d = mean +
 * draw + seed + rest, all three random. With the mean squares of the two-way analysis of variance
 * the variance of the mean is (MS_draw + MS_seed - MS_rest) / (n_draws n_seeds), here at least the
 * larger of the first two; its degrees of freedom are Satterthwaite's (Biometrics Bulletin 2, 1946,
 * p. 110). With one draw (or one seed) this is the ordinary paired t-test. Values that agree to
 * rounding are one value measured often, unless they are 0: no difference at all, p = 1. */
struct ka_eval_difference ka_eval_difference_of(const double *d, int64_t n_draws, int64_t n_seeds);

/* Holm's step-down adjustment of n p-values (Scandinavian Journal of Statistics 6, 1979, p. 65), in
 * place: compare the result with the level of the whole family. NaN stays and does not count. */
void ka_eval_holm(double *p, int64_t n);

#endif
