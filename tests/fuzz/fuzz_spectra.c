/* SPDX-License-Identifier: Apache-2.0
 * Any bytes but the last as a cache of spectra, with a checksum that fits where the last is odd:
 * opened, asked for a unit, closed. A cache is never an error. */
#include "engine/spectral/cache.h"
#include "tests/fuzz/scratch.h"

#include <string.h>
#include <xxhash.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  static float weights[12];
  struct ka_ctx ctx;
  struct ka_arena a;
  struct ka_data_cache *cache = NULL;
  struct ka_spectral_phases phases = {0};
  struct ka_unit unit = ka_unit_of_tensor("w", ka_tensor_2d(weights, KA_F32, 3, 4));
  struct ka_spectrum r;
  fuzz_ctx(&ctx);
  bool fits = n > 0 && data[n - 1] & 1;
  n -= n > 0;
  uint8_t *file = malloc(n + 8);
  if (!file) abort();
  if (n) memcpy(file, data, n);
  uint64_t sum = XXH3_64bits(file, n);
  memcpy(file + n, &sum, 8);
  struct ka_spectral_options o = {.cache =
                                      fuzz_file(&ctx, "spectra.bin", file, n + (fits ? 8 : 0))};
  ka_arena_init(&a, &ctx, "spectra");
  ka_spectrum_clear(&r, &unit);
  fuzz_must(ka_spectral_cache_open(&ctx, &cache, &o));
  if (!ka_spectral_cache_get(cache, &a, &r)) fuzz_must(ka_spectral_cache_put(cache, &r));
  if (!ka_spectral_method_name(r.method)) abort();
  fuzz_must(ka_spectral_cache_close(cache, &phases));
  ka_arena_deinit(&a);
  free(file);
  return 0;
}
