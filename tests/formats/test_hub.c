/* SPDX-License-Identifier: Apache-2.0
 * A MODEL by its name on the Hub: the snapshot that this machine's cache holds, or the command that
 * would download it. */
#include "engine/formats/model_source.h"
#include "tests/support/test.h"

#include <stdlib.h>
#include <string.h>

static struct ka_ctx context, *ctx = &context;

static void put(const char *dir, const char *name, const char *text) {
  T_OK(ka_write_file(ctx, t_str("%s/%s", dir, name), text, strlen(text)));
}

static void a_name_stands_for_its_snapshot(void **state) {
  (void)state;
  struct ka_model_source s;
  const char *hub = t_temp_dir(), *dir = t_str("%s/models--org--tiny", hub);
  ka_ctx_init(ctx);
  ctx->log_level = KA_LOG_QUIET;
  T_OK(ka_make_dirs(ctx, t_str("%s/refs", dir)));
  T_OK(ka_make_dirs(ctx, t_str("%s/blobs", dir)));
  T_OK(ka_make_dirs(ctx, t_str("%s/snapshots/abc", dir)));
  T_OK(ka_make_dirs(ctx, t_str("%s/snapshots/older", dir)));
  put(dir, "refs/main", "abc");
  put(dir, "snapshots/abc/config.json", "{}");
  setenv("HF_HUB_CACHE", hub, 1);
  T_OK(ka_model_source_open_dir(ctx, &s, "org/tiny", NULL));
  assert_string_equal(s.dir, t_str("%s/snapshots/abc", dir));
  ka_model_source_close(&s);
  T_OK(ka_model_source_open_dir(ctx, &s, dir, NULL)); /* the cache's own directory */
  assert_string_equal(s.dir, t_str("%s/snapshots/abc", dir));
  ka_model_source_close(&s);
  T_FAILS(ka_model_source_open_dir(ctx, &s, "org/other", NULL), KA_E_INPUT,
          "downloads nothing: hf download org/other");
  ka_model_source_close(&s);
  unsetenv("HF_HUB_CACHE");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(a_name_stands_for_its_snapshot)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
