/* SPDX-License-Identifier: Apache-2.0
 *
 * A page to look at spectra: layers by roles as a heat map of any metric, the spectrum of one
 * tensor against the random-matrix curve, the distribution over tensors, what a selection takes.
 * Self-contained (its own script, no network), readable in light and dark. */
#ifndef KAPPA_ENGINE_REPORT_SPECTRAL_HTML_H
#define KAPPA_ENGINE_REPORT_SPECTRAL_HTML_H

#include "engine/spectral/selection.h"

/* Published by rename. metric: the first one shown. selection may be NULL. Spectra are drawn for
 * results that hold all singular values. */
ka_status ka_spectral_html_write(struct ka_ctx *ctx, const char *title,
                                 const struct ka_spectrum *results, int64_t n,
                                 enum ka_spectral_metric metric,
                                 const struct ka_selection *selection, const char *path);

extern const char ka_spectral_page[];

#endif
