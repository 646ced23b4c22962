/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a selection.json: read and written again, or refused as bad input. What is read must
 * be read from what is written. */
#include "engine/spectral/selection.h"
#include "tests/fuzz/scratch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  struct ka_ctx ctx;
  struct ka_arena a;
  struct ka_selection s = {0}, again = {0};
  fuzz_ctx(&ctx);
  ka_arena_init(&a, &ctx, "selection");
  ka_status st = ka_selection_read(&ctx, &a, &s, fuzz_file(&ctx, "selection.json", data, n));
  if (ka_ok(st)) {
    const char *path = fuzz_file(&ctx, "again.json", "", 0);
    fuzz_must(ka_selection_write(&ctx, &s, path));
    fuzz_must(ka_selection_read(&ctx, &a, &again, path));
    if (again.n_units != s.n_units) abort();
  }
  fuzz_expect(&ctx, st);
  ka_arena_deinit(&a);
  return 0;
}
