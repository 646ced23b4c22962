/* SPDX-License-Identifier: Apache-2.0
 * docs/jobs.md and docs/job.schema.json are what job.def says today. */
#include "base/json.h"
#include "engine/job/job_table.h"
#include "tests/support/test.h"

#include <stdlib.h>
#include <string.h>

static void same_as_checked_in(ka_status (*make)(struct ka_ctx *, struct ka_str *),
                               const char *name) {
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  struct ka_str made = {0}, file = {0};
  const char *source = getenv("KAPPA_SOURCE_DIR");
  T_OK(make(ctx, &made));
  T_OK(ka_read_file(ctx, t_str("%s/docs/%s", source ? source : ".", name), 0, &file));
  if (made.len != file.len || memcmp(made.data, file.data, file.len) != 0)
    fail_msg("docs/%s is out of date: cmake --build build --target docs", name);
  ka_str_deinit(&made);
  ka_str_deinit(&file);
}

static void documentation_is_up_to_date(void **state) {
  (void)state;
  same_as_checked_in(ka_job_doc_markdown, "jobs.md");
  same_as_checked_in(ka_job_doc_schema, "job.schema.json");
}

static void every_row_is_complete(void **state) {
  (void)state;
  int n = 0;
  for (const struct ka_key *k = ka_job_table.keys; k->name; k++, n++) {
    assert_true(strlen(k->doc) > 5);
    assert_ptr_equal(ka_key_find(&ka_job_table, k->scope, k->name), k); /* named once */
    if (k->kind == KA_KEY_CHOICE) assert_true(*k->choices != 0);
  }
  assert_true(n > 60);
  for (const struct ka_key_rule *r = ka_job_table.aliases; r->key; r++)
    assert_null(ka_key_find(&ka_job_table, r->scope, r->key));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(documentation_is_up_to_date),
      cmocka_unit_test(every_row_is_complete),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
