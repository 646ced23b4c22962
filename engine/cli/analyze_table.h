/* SPDX-License-Identifier: Apache-2.0
 * The table of kappa analyze. */
#ifndef KAPPA_ENGINE_CLI_ANALYZE_TABLE_H
#define KAPPA_ENGINE_CLI_ANALYZE_TABLE_H

#include "engine/spectral/selection.h"

/* To stdout: one row a unit with a bar of the metric (log scale), then a summary. selection may be
 * NULL. */
void ka_cli_analyze_table(const struct ka_spectrum *results, int64_t n,
                          enum ka_spectral_metric metric, const struct ka_selection *selection,
                          const struct ka_spectral_phases *p,
                          const struct ka_linalg_engine *engine);

#endif
