/* SPDX-License-Identifier: Apache-2.0
 * See random.h. */
#include "python/random.h"

#include "base/arena.h"

#include <math.h>

enum { N = 624, M = 397 };

static void seed_word(struct ka_py_mt *mt, uint32_t seed) {
  mt->state[0] = seed;
  for (uint32_t i = 1; i < N; i++)
    mt->state[i] = 1812433253u * (mt->state[i - 1] ^ (mt->state[i - 1] >> 30)) + i;
}

/* The key is the seed in words, the lowest first (init_by_array). */
void ka_py_mt_seed(struct ka_py_mt *mt, uint64_t seed) {
  const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
  uint32_t n_key = key[1] ? 2 : 1, i = 1, j = 0, *s = mt->state;
  seed_word(mt, 19650218u);
  for (int k = N; k > 0; k--) {
    s[i] = (s[i] ^ ((s[i - 1] ^ (s[i - 1] >> 30)) * 1664525u)) + key[j] + j;
    j = (j + 1) % n_key;
    if (++i == N) {
      s[0] = s[N - 1];
      i = 1;
    }
  }
  for (int k = N - 1; k > 0; k--) {
    s[i] = (s[i] ^ ((s[i - 1] ^ (s[i - 1] >> 30)) * 1566083941u)) - i;
    if (++i == N) {
      s[0] = s[N - 1];
      i = 1;
    }
  }
  s[0] = 0x80000000u;
  mt->next = N;
}

static void refill(struct ka_py_mt *mt) {
  uint32_t *s = mt->state;
  for (int i = 0; i < N; i++) {
    uint32_t y = (s[i] & 0x80000000u) | (s[(i + 1) % N] & 0x7fffffffu);
    s[i] = s[(i + M) % N] ^ (y >> 1) ^ (y & 1 ? 0x9908b0dfu : 0);
  }
  mt->next = 0;
}

static uint32_t word(struct ka_py_mt *mt) {
  if (mt->next == N) refill(mt);
  uint32_t y = mt->state[mt->next++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680u;
  y ^= (y << 15) & 0xefc60000u;
  return y ^ (y >> 18);
}

double ka_py_mt_random(struct ka_py_mt *mt) {
  uint32_t a = word(mt) >> 5, b = word(mt) >> 6;
  return ((double)a * 67108864.0 + (double)b) * (1.0 / 9007199254740992.0);
}

int64_t ka_py_mt_choice_index(struct ka_py_mt *mt, double n) {
  return (int64_t)floor(ka_py_mt_random(mt) * n);
}

/* As many bits as n has, until they are below n. */
/* _randbelow(n), 1 <= n < 2^32 */
static int64_t below(struct ka_py_mt *mt, int64_t n) {
  int bits = 64 - __builtin_clzll((unsigned long long)n);
  int64_t r;
  do r = word(mt) >> (32 - bits);
  while (r >= n);
  return r;
}

/* CPython keeps a set of the drawn ones when that is smaller than a list of all. */
static int64_t set_size(int64_t k) {
  return 21 + (k > 5 ? (int64_t)pow(4, ceil(log((double)k * 3) / log(4))) : 0);
}

ka_status ka_py_mt_sample(struct ka_ctx *ctx, struct ka_py_mt *mt, int64_t n, int64_t k,
                          int64_t *out) {
  void *p;
  bool list = n <= set_size(k);
  KA_TRY(ka_alloc_n(ctx, &p, list ? n : 1, sizeof(int64_t), "sample"));
  int64_t *pool = p;
  for (int64_t i = 0; list && i < n; i++) pool[i] = i;
  for (int64_t i = 0; i < k; i++) {
    if (list) {
      int64_t j = below(mt, n - i);
      out[i] = pool[j];
      pool[j] = pool[n - i - 1];
      continue;
    }
    for (bool fresh = false; !fresh;) {
      out[i] = below(mt, n);
      fresh = true;
      for (int64_t j = 0; j < i; j++) fresh = fresh && out[j] != out[i];
    }
  }
  ka_free(p);
  return KA_STATUS_OK;
}
