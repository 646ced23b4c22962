/* SPDX-License-Identifier: Apache-2.0
 * A cheap proven lower bound of kappa: a short Golub-Kahan bidiagonalisation in float32 finds two
 * vectors, ||A u|| / ||A v|| in float64 is the bound. */
#ifndef KAPPA_ENGINE_SPECTRAL_FIRST_PASS_H
#define KAPPA_ENGINE_SPECTRAL_FIRST_PASS_H

#include "linalg/panel.h"

/* p scanned, finite, not zero, m > 1. *kappa_low >= 1 is true whatever float32 did. */
ka_status ka_spectral_first_pass(struct ka_ctx *ctx, const struct ka_blas *blas,
                                 const struct ka_panels *p, double *kappa_low);

#endif
