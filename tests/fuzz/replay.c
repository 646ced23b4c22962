/* SPDX-License-Identifier: Apache-2.0
 * Runs a fuzz target on every file of a corpus directory, where there is no libFuzzer. */
#include "base/file.h"
#include "base/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static ka_status replay(struct ka_ctx *ctx, struct ka_arena *a, const char *dir) {
  const char **names, *path;
  int64_t n = 0;
  KA_TRY(ka_list_dir(a, dir, &names, &n));
  for (int64_t i = 0; i < n; i++) {
    struct ka_map m;
    KA_TRY(ka_path_join(a, &path, dir, names[i]));
    KA_TRY(ka_map_file(ctx, path, &m));
    LLVMFuzzerTestOneInput(m.data, m.len);
    ka_map_drop(&m);
  }
  if (n == 0) return ka_fail(ctx, KA_E_INPUT, "%s: an empty corpus", dir);
  printf("%lld inputs\n", (long long)n);
  return KA_STATUS_OK;
}

int main(int argc, char **argv) {
  struct ka_ctx ctx;
  struct ka_arena a;
  ka_ctx_init(&ctx);
  ka_arena_init(&a, &ctx, "replay");
  ka_status st = argc == 2 ? replay(&ctx, &a, argv[1])
                           : ka_fail(&ctx, KA_E_USAGE, "usage: fuzz_x CORPUS-DIRECTORY");
  if (!ka_ok(st)) ka_log_error(&ctx);
  ka_arena_deinit(&a);
  return ka_exit_code(st.code);
}
