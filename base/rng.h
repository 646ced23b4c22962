/* SPDX-License-Identifier: Apache-2.0
 *
 * Counter-based random numbers: Philox 4x32-10 (Salmon et al., SC 2011, "Parallel random numbers:
 * as easy as 1, 2, 3"). A number depends only on (seed, stream, index), so results do not depend on
 * the order or the thread that draws them. */
#ifndef KAPPA_BASE_RNG_H
#define KAPPA_BASE_RNG_H

#include <stdint.h>

/* Four 32-bit words for one counter. */
void ka_philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]);

double ka_rng_uniform(uint64_t seed, uint64_t stream, uint64_t index); /* [0, 1) */
double ka_rng_normal(uint64_t seed, uint64_t stream, uint64_t index);  /* N(0, 1), Box-Muller */
/* Uniform in [0, n), n > 0, without modulo bias beyond 2^-64. */
uint64_t ka_rng_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n);

/* Stream number from a name (FNV-1a), for "one stream per tensor". */
uint64_t ka_rng_stream(const char *name);

/* Fisher-Yates of 0..n-1 into out. */
void ka_rng_permutation(uint64_t seed, uint64_t stream, int64_t n, int64_t *out);

#endif
