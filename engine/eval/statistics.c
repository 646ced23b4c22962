/* SPDX-License-Identifier: Apache-2.0
 * See stats.h. */
#include "engine/eval/statistics.h"

#include <math.h>

/* --- Student's t ------------------------------------------------------------- */

/* The continued fraction of DLMF 8.17.22 for x below (a + 1) / (a + b + 2), by the modified method
 * of Lentz (Thompson and Barnett 1986). */
static double beta_fraction(double a, double b, double x) {
  const double tiny = 1e-300;
  double c = 1, d = 1 - (a + b) * x / (a + 1), f;
  d = 1 / (fabs(d) < tiny ? tiny : d);
  f = d;
  for (int m = 1; m < 10000; m++) {
    double factor = 1;
    for (int odd = 0; odd < 2; odd++) {
      double k = odd ? -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
                     : m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
      d = 1 + k * d;
      c = 1 + k / c;
      d = 1 / (fabs(d) < tiny ? tiny : d);
      c = fabs(c) < tiny ? tiny : c;
      factor = c * d;
      f *= factor;
    }
    if (fabs(factor - 1) < 1e-15) break;
  }
  return f;
}

/* I_x(a, b) */
static double beta_regularised(double a, double b, double x) {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  double front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x));
  if (x < (a + 1) / (a + b + 2)) return front * beta_fraction(a, b, x) / a;
  return 1 - front * beta_fraction(b, a, 1 - x) / b;
}

double ka_eval_student_cdf(double t, double df) {
  if (isnan(t) || !(df > 0)) return NAN;
  double tail = isinf(t) ? 0 : 0.5 * beta_regularised(df / 2, 0.5, df / (df + t * t));
  return t > 0 ? 1 - tail : tail;
}

double ka_eval_student_quantile(double p, double df) {
  if (!(p > 0 && p < 1) || !(df > 0)) return NAN;
  double low = -1, high = 1;
  while (ka_eval_student_cdf(low, df) > p) low *= 2;
  while (ka_eval_student_cdf(high, df) < p) high *= 2;
  for (int i = 0; i < 200 && high - low > 1e-14 * fmax(1, fabs(low)); i++) {
    double middle = low + (high - low) / 2;
    *(ka_eval_student_cdf(middle, df) < p ? &low : &high) = middle;
  }
  return low + (high - low) / 2;
}

/* --- differences ------------------------------------------------------------- */

/* Sums of squares of the two-way analysis of variance with one value a cell. */
struct squares {
  double mean, draw, seed, rest;
};

static struct squares squares_of(const double *d, int64_t R, int64_t S) {
  struct squares q = {0};
  double all = 0, n = (double)(R * S);
  for (int64_t i = 0; i < R * S; i++) q.mean += d[i] / n;
  for (int64_t i = 0; i < R * S; i++) all += (d[i] - q.mean) * (d[i] - q.mean);
  for (int64_t r = 0; r < R; r++) {
    double m = -q.mean;
    for (int64_t s = 0; s < S; s++) m += d[r * S + s] / (double)S;
    q.draw += (double)S * m * m;
  }
  for (int64_t s = 0; s < S; s++) {
    double m = -q.mean;
    for (int64_t r = 0; r < R; r++) m += d[r * S + s] / (double)R;
    q.seed += (double)R * m * m;
  }
  q.rest = fmax(0, all - q.draw - q.seed);
  return q;
}

static double mean_square(double squares, double df) { return df > 0 ? squares / df : 0; }
static double share(double ms, double df) { return df > 0 ? ms * ms / df : 0; }

struct ka_eval_difference ka_eval_difference_of(const double *d, int64_t n_draws, int64_t n_seeds) {
  struct squares q = squares_of(d, n_draws, n_seeds);
  struct ka_eval_difference out = {q.mean, NAN, NAN, NAN, NAN, NAN};
  double R = (double)n_draws, S = (double)n_seeds;
  double draw = mean_square(q.draw, R - 1), seed = mean_square(q.seed, S - 1);
  double rest = mean_square(q.rest, (R - 1) * (S - 1));
  if (isnan(q.mean) || n_draws * n_seeds < 2) return out;
  bool together = draw + seed - rest >= fmax(draw, seed);
  double ms = together ? draw + seed - rest : fmax(draw, seed);
  double shares = together
                      ? share(draw, R - 1) + share(seed, S - 1) + share(rest, (R - 1) * (S - 1))
                  : draw >= seed ? share(draw, R - 1)
                                 : share(seed, S - 1);
  double rounding = 1e-12 * q.mean; /* values that are all the same say nothing of their spread */
  if (q.mean != 0 && ms <= rounding * rounding) return out;
  out.se = sqrt(ms / (R * S));
  out.df = shares > 0 ? ms * ms / shares : fmax(R, S) - 1;
  double t = ka_eval_student_quantile(0.975, out.df);
  out.low = out.mean - t * out.se;
  out.high = out.mean + t * out.se;
  out.p = out.se > 0 ? 2 * ka_eval_student_cdf(-fabs(out.mean) / out.se, out.df) : 1;
  return out;
}

/* --- many at once ------------------------------------------------------------ */

void ka_eval_holm(double *p, int64_t n) {
  int64_t left = 0;
  double so_far = 0;
  for (int64_t i = 0; i < n; i++) left += !isnan(p[i]);
  /* Adjusted values are marked by adding 2, which no p-value reaches. */
  for (; left > 0; left--) {
    int64_t least = -1;
    for (int64_t i = 0; i < n; i++)
      if (!isnan(p[i]) && p[i] < 2 && (least < 0 || p[i] < p[least])) least = i;
    so_far = fmax(so_far, fmin(1, (double)left * p[least]));
    p[least] = 2 + so_far;
  }
  for (int64_t i = 0; i < n; i++) p[i] -= 2; /* NaN stays NaN */
}
