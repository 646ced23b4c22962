/* SPDX-License-Identifier: Apache-2.0
 * What is generated in docs/ from job.def, foreign.def, features.def and commands.def is up to
 * date. */
#include "base/json.h"
#include "engine/cli/manual.h"
#include "engine/job/foreign.h"
#include "engine/job/job_table.h"
#include "tests/support/test.h"

#include <stdio.h>
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
  same_as_checked_in(ka_job_doc_features, "features.md");
  same_as_checked_in(ka_cli_cheat_sheet, "cheat-sheet.md");
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

/* "selection.metric: last_n": the key is there, and the word is one of its choices. */
static void expect_ours(const char *word) {
  char name[128];
  int scope = KA_SCOPE_JOB;
  size_t n = strcspn(word, ":");
  if (strncmp(word, "kappa ", 6) == 0 || strncmp(word, "mpirun ", 7) == 0) return;
  if (strncmp(word, "selection.", 10) == 0) scope = KA_SCOPE_SELECTION;
  if (strncmp(word, "datasets.", 9) == 0) scope = KA_SCOPE_DATASET;
  const char *key = scope == KA_SCOPE_JOB ? word : strchr(word, '.') + 1;
  snprintf(name, sizeof name, "%.*s", (int)(n - (size_t)(key - word)), key);
  const struct ka_key *k = ka_key_find(&ka_job_table, scope, name);
  if (!k) fail_msg("features.def: kappa has no key %s", word);
  if (word[n] && *k->choices && !strstr(k->choices, word + n + 2))
    fail_msg("features.def: %s is none of %s", word, k->choices);
}

/* Every word in ` is a key: ours, or one that a job of theirs may have. */
static void features_name_keys(void **state) {
  (void)state;
  for (const struct ka_job_feature *f = ka_job_features; f->group || f->cells[0]; f++)
    for (int c = 1; c < KA_FEATURE_CELLS && !f->group; c++)
      for (const char *p = strchr(f->cells[c], '`'), *end; p; p = strchr(end + 1, '`')) {
        char word[128];
        end = strchr(p + 1, '`');
        assert_non_null(end);
        snprintf(word, sizeof word, "%.*s", (int)(end - p - 1), p + 1);
        if (c == 1) expect_ours(word);
        if (c > 1 && !ka_foreign_known(KA_SCOPE_JOB, word))
          fail_msg("features.def: nothing is known of %s", word);
      }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(documentation_is_up_to_date),
      cmocka_unit_test(every_row_is_complete),
      cmocka_unit_test(features_name_keys),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
