/* SPDX-License-Identifier: Apache-2.0
 * docs/families.md is what the tables say today. */
#include "engine/model/family.h"
#include "tests/support/test.h"

#include <stdlib.h>
#include <string.h>

static void documentation_is_up_to_date(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  struct ka_str made = {0}, file = {0};
  const char *source = getenv("KAPPA_SOURCE_DIR");
  T_OK(ka_family_doc_markdown(ctx, &made));
  T_OK(ka_read_file(ctx, t_str("%s/docs/families.md", source ? source : "."), 0, &file));
  if (made.len != file.len || memcmp(made.data, file.data, file.len) != 0)
    fail_msg("docs/families.md is out of date: cmake --build build --target docs");
  assert_null(strstr(made.data, "not all")); /* every weight of every family has a gradient */
  ka_str_deinit(&made);
  ka_str_deinit(&file);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(documentation_is_up_to_date)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
