/* SPDX-License-Identifier: Apache-2.0
 *
 * From units to a selection in one call, analysing no more than the choice needs. */
#ifndef KAPPA_ENGINE_SPECTRAL_CHOOSE_H
#define KAPPA_ENGINE_SPECTRAL_CHOOSE_H

#include "engine/spectral/selection.h"

/* Analyses units [n] and chooses among the candidates that spec leaves. results [n] receives what
 * was analysed; the others keep method KA_SPECTRAL_NONE. With `everything`, all units are
 * analysed (for a table of the model), else only what the choice needs.
 *
 * With KA_PRECISION_AUTO, analyses are as exact as that precision says, and then:
 *  - candidates whose proven intervals overlap across the edge of the choice are analysed again as
 *    KA_PRECISION_F64 would, so the chosen units are those that KA_PRECISION_F64 chooses;
 *  - without `everything`, for a count of lowest kappa or kappa_mp, a first pass in float32 proves
 *    a lower bound of each candidate's kappa, and candidates that it excludes are not analysed:
 *    they get that kappa_low and an infinite kappa_high. */
ka_status ka_select_units(struct ka_ctx *ctx, struct ka_arena *arena, struct ka_selection *out,
                          struct ka_spectrum *results, const struct ka_select_spec *spec,
                          const struct ka_unit *units, int64_t n, bool everything,
                          const struct ka_spectral_options *options,
                          struct ka_spectral_phases *phases);

#endif
