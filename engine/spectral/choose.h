/* SPDX-License-Identifier: Apache-2.0
 *
 * From units to a selection in one call, analysing no more than the choice needs. */
#ifndef KAPPA_ENGINE_SPECTRAL_CHOOSE_H
#define KAPPA_ENGINE_SPECTRAL_CHOOSE_H

#include "engine/spectral/selection.h"

/* Analyses the candidates that spec leaves of units [n] and chooses among them. results [n]
 * receives what was analysed; the others keep method KA_SPECTRAL_NONE.
 *
 * With KA_PRECISION_AUTO and an order by lowest kappa or kappa_mp, a first pass in float32 gives
 * every candidate a proven lower bound (two vectors u, v: kappa >= ||A u|| / ||A v||); only units
 * that this does not exclude are analysed, and those whose intervals still overlap across the
 * edge of the budget are analysed again as KA_PRECISION_F64 would. So the chosen units are those
 * that KA_PRECISION_F64 chooses. Excluded units get kappa_low and an infinite kappa_high. */
ka_status ka_select_units(struct ka_ctx *ctx, struct ka_arena *arena, struct ka_selection *out,
                          struct ka_spectrum *results, const struct ka_select_spec *spec,
                          const struct ka_unit *units, int64_t n,
                          const struct ka_spectral_options *options,
                          struct ka_spectral_phases *phases);

#endif
