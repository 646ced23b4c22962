/* SPDX-License-Identifier: Apache-2.0
 * The table of kappa analyze. */
#ifndef KAPPA_ENGINE_CLI_ANALYZE_TABLE_H
#define KAPPA_ENGINE_CLI_ANALYZE_TABLE_H

#include "engine/spectral/selection.h"

/* To stdout: one row a unit with a bar of the metric (log scale), or of the `top` lowest alone (0:
 * all); a summary; what is selected, in its order. selection may be NULL. KA_E_MEMORY. */
ka_status ka_cli_analyze_table(struct ka_ctx *ctx, const struct ka_spectrum *results, int64_t n,
                               enum ka_spectral_metric metric, int64_t top,
                               const struct ka_selection *selection,
                               const struct ka_spectral_phases *p,
                               const struct ka_linalg_engine *engine);

#endif
