/* SPDX-License-Identifier: Apache-2.0
 *
 * Results kept between runs, by the hash of a unit's bytes (XXH3, 128 bits, with dtype, shape and
 * what was asked). A file that cannot be read, or of another version, is simply not used. */
#ifndef KAPPA_ENGINE_SPECTRAL_CACHE_H
#define KAPPA_ENGINE_SPECTRAL_CACHE_H

#include "engine/spectral/spectral.h"

struct ka_data_cache;

/* Reads options->cache if it is there. */
ka_status ka_spectral_cache_open(struct ka_ctx *ctx, struct ka_data_cache **out,
                                 const struct ka_spectral_options *options);
/* Fills r (unit set) when its result is known. Thread-safe. */
bool ka_spectral_cache_get(struct ka_data_cache *cache, struct ka_arena *arena,
                           struct ka_spectrum *r);
/* Remembers a result that ka_spectral_cache_get did not find. Thread-safe. */
ka_status ka_spectral_cache_put(struct ka_data_cache *cache, const struct ka_spectrum *r);
/* Publishes what is new and frees; adds hits and hashing time to phases. A cache directory that
 * cannot be written is a warning, not a failure. */
ka_status ka_spectral_cache_close(struct ka_data_cache *cache, struct ka_spectral_phases *phases);

/* $XDG_CACHE_HOME/kappa/spectra.bin, or ~/.cache/kappa/spectra.bin; NULL without a home. */
ka_status ka_spectral_cache_default_path(struct ka_arena *arena, const char **out);

#endif
