/* SPDX-License-Identifier: Apache-2.0
 * Philox 4x32-10 and what is built on it. */
#include "base/rng.h"

#include <math.h>

void ka_philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]) {
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  uint32_t c[4] = {(uint32_t)index, (uint32_t)(index >> 32), (uint32_t)stream,
                   (uint32_t)(stream >> 32)};
  for (int round = 0; round < 10; round++) {
    uint64_t p0 = (uint64_t)0xD2511F53u * c[0], p1 = (uint64_t)0xCD9E8D57u * c[2];
    uint32_t next[4] = {(uint32_t)(p1 >> 32) ^ c[1] ^ k0, (uint32_t)p1,
                        (uint32_t)(p0 >> 32) ^ c[3] ^ k1, (uint32_t)p0};
    for (int i = 0; i < 4; i++) c[i] = next[i];
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int i = 0; i < 4; i++) out[i] = c[i];
}

static uint64_t random_u64(uint64_t seed, uint64_t stream, uint64_t index) {
  uint32_t w[4];
  ka_philox(seed, stream, index, w);
  return (uint64_t)w[1] << 32 | w[0];
}

double ka_rng_uniform(uint64_t seed, uint64_t stream, uint64_t index) {
  return (double)(random_u64(seed, stream, index) >> 11) * 0x1p-53;
}

double ka_rng_normal(uint64_t seed, uint64_t stream, uint64_t index) {
  uint32_t w[4];
  ka_philox(seed, stream, index, w);
  double u1 = ((double)(((uint64_t)w[1] << 32 | w[0]) >> 11) + 1) * 0x1p-53; /* (0, 1] */
  double u2 = (double)(((uint64_t)w[3] << 32 | w[2]) >> 11) * 0x1p-53;
  return sqrt(-2 * log(u1)) * cos(6.283185307179586 * u2);
}

uint64_t ka_rng_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n) {
  return (uint64_t)((unsigned __int128)random_u64(seed, stream, index) * n >> 64);
}

uint64_t ka_rng_stream(const char *name) {
  uint64_t h = 0xcbf29ce484222325u;
  for (; *name; name++) h = (h ^ (unsigned char)*name) * 0x100000001b3u;
  return h;
}

void ka_rng_permutation(uint64_t seed, uint64_t stream, int64_t n, int64_t *out) {
  for (int64_t i = 0; i < n; i++) out[i] = i;
  for (int64_t i = n - 1; i > 0; i--) {
    int64_t j = (int64_t)ka_rng_below(seed, stream, (uint64_t)i, (uint64_t)i + 1);
    int64_t t = out[i];
    out[i] = out[j];
    out[j] = t;
  }
}
