/* SPDX-License-Identifier: Apache-2.0
 * See metrics.h. */
#include "engine/spectral/metrics.h"

#include <math.h>
#include <string.h>

static const struct ka_spectral_metric_info infos[KA_N_METRICS] = {
#define KA_METRIC(id, name, full, unit, formula, source) {name, full, unit, formula, source},
#include "engine/job/metrics.def"
};

static const char choices[] =
#define KA_METRIC(id, name, full, unit, formula, source) "|" name
#include "engine/job/metrics.def"
    ;

const struct ka_spectral_metric_info *ka_spectral_metric_info(enum ka_spectral_metric metric) {
  return &infos[metric];
}

bool ka_spectral_metric_parse(const char *name, enum ka_spectral_metric *out) {
  for (int i = 0; i < KA_N_METRICS; i++)
    if (strcmp(infos[i].name, name) == 0) {
      *out = (enum ka_spectral_metric)i;
      return true;
    }
  return false;
}

const char *ka_spectral_metric_choices(void) { return choices + 1; }

double ka_spectral_kappa_of_noise(int64_t rows, int64_t cols) {
  double m = (double)(rows < cols ? rows : cols), n = (double)(rows < cols ? cols : rows);
  return (sqrt(n) + sqrt(m)) / (sqrt(n) - sqrt(m - 1));
}

/* exp of the entropy of s_i^power / sum. */
static double effective_rank(const double *s, int64_t m, int power) {
  double sum = 0, h = 0;
  for (int64_t i = 0; i < m; i++) sum += power == 2 ? (s[i] / s[0]) * (s[i] / s[0]) : s[i] / s[0];
  for (int64_t i = 0; i < m; i++) {
    double r = s[i] / s[0], p = (power == 2 ? r * r : r) / sum;
    if (p > 0) h -= p * log(p);
  }
  return exp(h);
}

/* Linear interpolation between order statistics, as torch.quantile; s is descending. */
static double quantile(const double *s, int64_t m, double q) {
  double at = q * (double)(m - 1);
  int64_t low = (int64_t)at, high = low + 1 < m ? low + 1 : low;
  double a = s[m - 1 - low], b = s[m - 1 - high];
  return a + (at - (double)low) * (b - a);
}

static double snr(const double *s, int64_t m, int64_t n) {
  double sigma = (quantile(s, m, 0.75) - quantile(s, m, 0.25)) / 1.349;
  double edge = sigma * (1 + sqrt((double)m / (double)n)), signal = 0, noise = 0;
  for (int64_t i = 0; i < m; i++) *(s[i] > edge ? &signal : &noise) += s[i];
  return noise > 0 ? signal / noise / s[0] : INFINITY;
}

void ka_spectral_metrics_full(double metrics[KA_N_METRICS], const double *s, int64_t m, int64_t n) {
  if (m < 1 || !(s[0] > 0)) return;
  metrics[KA_METRIC_EFFECTIVE_RANK] = effective_rank(s, m, 1);
  metrics[KA_METRIC_EFFECTIVE_RANK_ENERGY] = effective_rank(s, m, 2);
  metrics[KA_METRIC_SNR] = snr(s, m, n);
}
