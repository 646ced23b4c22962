/* SPDX-License-Identifier: Apache-2.0
 * engine/data/parquet.h on files that pyarrow, polars and DuckDB wrote (make_parquet.py). */
#include "base/json.h"
#include "engine/data/parquet.h"
#include "tests/support/fresh.h"

#include <dirent.h>
#include <string.h>

static const char *here(const char *name) {
  const char *dir = getenv("KAPPA_PARQUET"); /* files of make_parquet.py OUT ROWS */
  return t_str("%s/%s", dir ? dir : t_str("%s/tests/data/parquet", getenv("KAPPA_SOURCE_DIR")),
               name);
}

/* All rows as text. */
static ka_status read_all(const struct ka_map *m, struct ka_str *out, char *unread) {
  struct ka_parquet *p;
  bool end = false;
  KA_TRY(ka_parquet_open(ctx, &p, "x.parquet", m));
  ka_status st = KA_STATUS_OK;
  while (ka_ok(st) && !end) st = ka_parquet_next(ctx, p, out, &end);
  if (unread) snprintf(unread, 512, "%s", ka_parquet_unread(p));
  ka_parquet_close(p);
  return st;
}

static void same_rows(const char *name, const char *got, const struct ka_map *golden) {
  const char *want = (const char *)golden->data, *end = want + golden->len;
  int row = 1;
  for (; want < end && *got; row++) {
    size_t n = strcspn(got, "\n"), m = strcspn(want, "\n");
    json_t *a = json_loadb(got, n, JSON_DECODE_ANY, NULL);
    json_t *b = json_loadb(want, m, JSON_DECODE_ANY, NULL);
    if (!a || !json_equal(a, b))
      fail_msg("%s: row %d: got %.*s, expected %.*s", name, row, (int)n, got, (int)m, want);
    json_decref(a);
    json_decref(b);
    got += n + 1;
    want += m + 1;
  }
  if (*got || want < end) fail_msg("%s: another number of rows, from %d on", name, row);
}

static void rows_are_those_that_were_written(void **state) {
  (void)state;
  const char **names;
  struct ka_arena a;
  int64_t n, n_read = 0;
  ka_arena_init(&a, ctx, "names");
  T_OK(ka_list_dir(&a, here(""), &names, &n));
  for (int64_t i = 0; i < n; i++) {
    struct ka_map m, golden;
    struct ka_str rows = {0};
    if (!ka_ends_with(names[i], ".parquet")) continue;
    const char *base = t_str("%.*s", (int)strlen(names[i]) - 8, names[i]);
    const char *own = here(t_str("%s.jsonl", base));
    const char *shared = here(ka_starts_with(base, "encoding_") ? "flat.jsonl" : "rows.jsonl");
    T_OK(ka_map_file(ctx, here(names[i]), &m));
    T_OK(ka_map_file(ctx, ka_path_exists(own) ? own : shared, &golden));
    T_OK(read_all(&m, &rows, NULL));
    same_rows(names[i], rows.data ? rows.data : "", &golden);
    ka_str_deinit(&rows);
    ka_map_drop(&m);
    ka_map_drop(&golden);
    n_read++;
  }
  assert_true(n_read >= 20);
  ka_arena_deinit(&a);
}

static void what_is_left_out_is_named(void **state) {
  (void)state;
  struct ka_map m;
  struct ka_str rows = {0};
  char unread[512];
  T_OK(ka_map_file(ctx, here("odd.parquet"), &m));
  T_OK(read_all(&m, &rows, unread));
  assert_string_equal(
      unread, "when (timestamp), price (decimal), day (date), image.bytes (binary), raw (binary)");
  ka_str_deinit(&rows);
  ka_map_drop(&m);
}

/* Every cut and many single changed bytes of a file: an error or rows, never more. */
static void broken_files_are_refused(void **state) {
  (void)state;
  struct ka_map m;
  T_OK(ka_map_file(ctx, here("polars.parquet"), &m));
  unsigned char *copy = malloc(m.len);
  for (size_t i = 0; i < 2 * m.len; i++) {
    bool cut = i < m.len;
    size_t at = cut ? i : i - m.len;
    struct ka_str rows = {0};
    memcpy(copy, m.data, m.len);
    if (!cut) copy[at] ^= (unsigned char)(1 << at % 8);
    struct ka_map bad = {copy, cut ? at : m.len};
    ka_status st = read_all(&bad, &rows, NULL);
    if (cut) assert_int_equal(st.code, KA_E_INPUT);
    if (!ka_ok(st)) assert_true(st.code == KA_E_INPUT || st.code == KA_E_UNSUPPORTED);
    ka_error_clear(ctx);
    ka_str_deinit(&rows);
  }
  free(copy);
  ka_map_drop(&m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(rows_are_those_that_were_written, fresh),
      cmocka_unit_test_setup(what_is_left_out_is_named, fresh),
      cmocka_unit_test_setup(broken_files_are_refused, fresh),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
