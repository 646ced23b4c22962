/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a safetensors file: opened, every readable byte read, written again. What opens must
 * be rewritten to the same bytes. */
#include "engine/formats/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Memory where there is such a file system: publishing syncs. */
static const char *scratch(void) { return access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp"; }

static void check(struct ka_ctx *ctx, const struct ka_safetensors *st, const uint8_t *data,
                  size_t n) {
  double sum = 0;
  for (int64_t i = 0; i < st->n_entries; i++) {
    const struct ka_st_entry *e = &st->entries[i];
    if (e->unreadable) continue;
    for (int64_t k = 0; k < ka_tensor_elems(&e->t); k++) sum += ka_load(e->t.data, e->t.dtype, k);
  }
  (void)sum;
  char dir[48], path[96];
  struct ka_map m;
  snprintf(dir, sizeof dir, "%s/kappa-fuzz-XXXXXX", scratch());
  if (!mkdtemp(dir)) abort();
  if (!ka_ok(ka_st_rewrite(ctx, st, dir, NULL, 0))) abort();
  snprintf(path, sizeof path, "%s/%s", dir, st->shards[0].file_name);
  if (!ka_ok(ka_map_file(ctx, path, &m))) abort();
  if (m.len != n || memcmp(m.data, data, n) != 0) abort();
  ka_map_drop(&m);
  if (!ka_ok(ka_remove_tree(ctx, dir))) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  struct ka_ctx ctx;
  struct ka_safetensors st;
  char path[64];
  ka_ctx_init(&ctx);
  ctx.log_level = KA_LOG_QUIET;
  snprintf(path, sizeof path, "%s/kappa-fuzz-%ld.safetensors", scratch(), (long)getpid());
  if (!ka_ok(ka_write_file(&ctx, path, data, n))) abort();
  if (ka_ok(ka_st_open(&ctx, &st, path))) {
    check(&ctx, &st, data, n);
    ka_st_close(&st);
  } else if (ctx.error.code != KA_E_INPUT) {
    abort();
  }
  unlink(path);
  return 0;
}
