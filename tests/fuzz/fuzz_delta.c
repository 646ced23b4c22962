/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a delta: opened, and every tensor restored over a base of one file. The base's hash
 * is not asked, so that what follows a match is reached; its kind (dtype, shape) is. */
#include "engine/formats/delta_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char base_header[] =
    "{\"cols\":{\"dtype\":\"BF16\",\"shape\":[12,10],\"data_offsets\":[512,752]},"
    "\"rows\":{\"dtype\":\"F32\",\"shape\":[8,16],\"data_offsets\":[0,512]},"
    "\"same\":{\"dtype\":\"F16\",\"shape\":[2,2],\"data_offsets\":[752,760]}}";

/* Memory where there is such a file system: publishing syncs. */
static const char *scratch(void) { return access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp"; }

static void must(ka_status st) {
  if (!ka_ok(st)) abort();
}

static void open_base(struct ka_ctx *ctx, struct ka_safetensors *base) {
  static unsigned char file[8 + sizeof base_header - 1 + 760];
  char path[64];
  for (int i = 0; i < 8; i++) file[i] = (unsigned char)((sizeof base_header - 1) >> (8 * i));
  memcpy(file + 8, base_header, sizeof base_header - 1);
  snprintf(path, sizeof path, "%s/kappa-fuzz-base-%ld.safetensors", scratch(), (long)getpid());
  must(ka_write_file(ctx, path, file, sizeof file));
  must(ka_st_open(ctx, base, path));
  unlink(path);
}

static void restore(struct ka_ctx *ctx, const struct ka_delta *d, const struct ka_delta_tensor *t,
                    const struct ka_safetensors *base) {
  const struct ka_st_entry *old = ka_st_find(base, t->entry->name);
  if (t->part && !(old && ka_delta_same_kind(old, t->entry))) return;
  void *out = malloc(t->entry->n_bytes + 1);
  ka_status st = ka_delta_restore(ctx, d, t, base, out);
  if (!ka_ok(st) && st.code != KA_E_INPUT) abort();
  ka_error_clear(ctx);
  free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  struct ka_ctx ctx;
  struct ka_safetensors base;
  struct ka_delta d;
  char path[64];
  ka_ctx_init(&ctx);
  ctx.log_level = KA_LOG_QUIET;
  snprintf(path, sizeof path, "%s/kappa-fuzz-%ld.safetensors", scratch(), (long)getpid());
  must(ka_write_file(&ctx, path, data, n));
  ka_status st = ka_delta_open(&ctx, &d, path);
  if (ka_ok(st)) {
    open_base(&ctx, &base);
    for (int64_t i = 0; i < d.n_tensors; i++) restore(&ctx, &d, &d.tensors[i], &base);
    ka_st_close(&base);
    ka_delta_close(&d);
  } else if (st.code != KA_E_INPUT && st.code != KA_E_UNSUPPORTED) {
    abort();
  }
  unlink(path);
  return 0;
}
