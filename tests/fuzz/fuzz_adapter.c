/* SPDX-License-Identifier: Apache-2.0
 * An adapter: bytes up to the first NUL as adapter_config.json, the rest as its weights, merged
 * into a base of two matrices, or refused. */
#include "engine/formats/adapter.h"
#include "tests/fuzz/scratch.h"

#include <string.h>

static const char header[] =
    "{\"model.layers.0.self_attn.q_proj.weight\":{\"dtype\":\"F32\",\"shape\":[4,6],"
    "\"data_offsets\":[0,96]},\"model.embed_tokens.weight\":{\"dtype\":\"BF16\",\"shape\":[5,6],"
    "\"data_offsets\":[96,156]}}    ";
static const char config[] = "{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"]}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  struct ka_ctx ctx;
  struct ka_safetensors base;
  unsigned char file[8 + sizeof header - 1 + 156] = {0};
  char dir[128];
  bool untied = false;
  int64_t n_elems = 0;
  fuzz_ctx(&ctx);
  file[0] = (unsigned char)((sizeof header - 1) & 255);
  file[1] = (unsigned char)((sizeof header - 1) >> 8);
  memcpy(file + 8, header, sizeof header - 1);
  const uint8_t *end = n ? memchr(data, 0, n) : NULL;
  size_t first = end ? (size_t)(end - data) : n;
  fuzz_file(&ctx, "config.json", config, sizeof config - 1);
  fuzz_file(&ctx, "adapter_config.json", data, first);
  const char *path =
      fuzz_file(&ctx, "adapter_model.safetensors", end ? end + 1 : data, end ? n - first - 1 : 0);
  snprintf(dir, sizeof dir, "%.*s", (int)(strrchr(path, '/') - path), path);
  fuzz_must(ka_st_open(&ctx, &base, fuzz_file(&ctx, "base.safetensors", file, sizeof file)));
  fuzz_expect(&ctx, ka_adapter_merge(&ctx, dir, dir, &base, &untied, &n_elems));
  ka_st_close(&base);
  return 0;
}
