/* SPDX-License-Identifier: Apache-2.0
 *
 * Where fuzz targets of files put their bytes: a directory of this process, in memory where there
 * is such a file system, for publishing syncs. It is left to the system. */
#ifndef KAPPA_TESTS_FUZZ_SCRATCH_H
#define KAPPA_TESTS_FUZZ_SCRATCH_H

#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void fuzz_must(ka_status st) {
  if (!ka_ok(st)) abort();
}

static inline void fuzz_ctx(struct ka_ctx *ctx) {
  ka_ctx_init(ctx);
  ctx->log_level = KA_LOG_QUIET;
}

/* dir/name holds the bytes; the path is good until the next call. */
static inline const char *fuzz_file(struct ka_ctx *ctx, const char *name, const void *data,
                                    size_t n) {
  static char dir[64], path[128];
  if (!dir[0]) {
    bool memory = access("/dev/shm", W_OK) == 0;
    snprintf(dir, sizeof dir, "%s/kappa-fuzz-XXXXXX", memory ? "/dev/shm" : "/tmp");
    if (!mkdtemp(dir)) abort();
  }
  snprintf(path, sizeof path, "%s/%s", dir, name);
  FILE *f = fopen(path, "w");
  if (!f || (n > 0 && fwrite(data, 1, n, f) != n) || fclose(f) != 0) abort();
  (void)ctx;
  return path;
}

/* Good, or bad input said so. */
static inline void fuzz_expect(struct ka_ctx *ctx, ka_status st) {
  if (!ka_ok(st) && st.code != KA_E_INPUT && st.code != KA_E_UNSUPPORTED) abort();
  if (!ka_ok(st) && !ctx->error.message[0]) abort();
  ka_error_clear(ctx);
}

#endif
