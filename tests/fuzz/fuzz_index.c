/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a model.safetensors.index.json beside two good shards: opened, or refused; no name
 * in it reaches a file outside of its directory. */
#include "engine/formats/safetensors.h"
#include "tests/fuzz/scratch.h"

#include <string.h>

static void shard(struct ka_ctx *ctx, const char *name, const char *tensor) {
  unsigned char file[256] = {0};
  int n = snprintf((char *)file + 8, sizeof file - 24,
                   "{\"%s\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}", tensor);
  file[0] = (unsigned char)n;
  fuzz_file(ctx, name, file, 8 + (size_t)n + 16);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  struct ka_ctx ctx;
  struct ka_safetensors st;
  fuzz_ctx(&ctx);
  shard(&ctx, "a.safetensors", "x");
  shard(&ctx, "b.safetensors", "y");
  ka_status s = ka_st_open(&ctx, &st, fuzz_file(&ctx, "model.safetensors.index.json", data, n));
  if (ka_ok(s)) {
    for (int64_t i = 0; i < st.n_shards; i++)
      if (strchr(st.shards[i].file_name, '/')) abort();
    if (st.n_entries < 1 || st.n_entries > 2) abort();
    ka_st_close(&st);
  }
  fuzz_expect(&ctx, s);
  return 0;
}
