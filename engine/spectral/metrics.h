/* SPDX-License-Identifier: Apache-2.0
 * The metrics of a spectrum, from metrics.def. */
#ifndef KAPPA_ENGINE_SPECTRAL_METRICS_H
#define KAPPA_ENGINE_SPECTRAL_METRICS_H

#include "base/status.h"

enum ka_spectral_metric {
#define KA_METRIC(id, name, full, unit, formula, source) KA_METRIC_##id,
#include "engine/job/metrics.def"
  KA_N_METRICS
};

struct ka_spectral_metric_info {
  const char *name;
  bool needs_full; /* all singular values */
  const char *unit, *formula, *source;
};

const struct ka_spectral_metric_info *ka_spectral_metric_info(enum ka_spectral_metric metric);
/* False when no metric has this name. */
bool ka_spectral_metric_parse(const char *name, enum ka_spectral_metric *out);
/* "kappa|kappa_mp|...": for usage and errors. */
const char *ka_spectral_metric_choices(void);

/* What the aspect ratio alone gives a Gaussian matrix: (sqrt n + sqrt m) / (sqrt n - sqrt(m-1)),
 * m <= n after swapping; docs/spectra.md derives it. */
double ka_spectral_kappa_of_noise(int64_t rows, int64_t cols);

/* The metrics that need all m singular values s (descending, n the longer side); others are left.
 */
void ka_spectral_metrics_full(double metrics[KA_N_METRICS], const double *s, int64_t m, int64_t n);

#endif
