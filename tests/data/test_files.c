/* SPDX-License-Identifier: Apache-2.0
 * engine/data/files.h and rows.h: what of a directory is data, splits by name, the Hugging Face
 * cache, and that compressed files give the rows of what was compressed. */
#include "engine/data/records.h"
#include "engine/formats/hub.h"
#include "tests/support/fresh.h"

#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef KAPPA_HAVE_ZLIB
#include <zlib.h>
#endif
#ifdef KAPPA_HAVE_ZSTD
#include <zstd.h>
#endif

static void put_bytes(const char *dir, const char *name, const void *bytes, size_t n) {
  const char *path = t_str("%s/%s", dir, name);
  T_OK(ka_make_dirs(ctx, t_str("%.*s", (int)(strrchr(path, '/') - path), path)));
  T_OK(ka_write_file(ctx, path, bytes, n));
}

static void put(const char *dir, const char *name, const char *text) {
  put_bytes(dir, name, text, strlen(text));
}

/* "a.jsonl data/b.csv": the files below dir that are taken. */
static const char *taken(const char *dir, const struct ka_data_choice *choice) {
  struct ka_arena a;
  struct ka_data_files f;
  const struct ka_key_texts paths = {&dir, 1};
  const char *text = "";
  ka_arena_init(&a, ctx, "files");
  T_OK(ka_data_files(&a, &paths, choice, &f));
  for (int64_t i = 0; i < f.n; i++) {
    const char *below = f.items[i].path + strlen(dir);
    text = t_str("%s%s%s", text, i ? " " : "", below + strspn(below, "/"));
  }
  ka_arena_deinit(&a);
  return text;
}

static void cards_are_no_data(void **state) {
  (void)state;
  const char *dir = t_temp_dir();
  static const char *const names[] = {
      "README.md",    "readme.txt",     "LICENSE",   "Licence.md", "NOTICE",
      "CITATION.cff", ".gitattributes", "notes.txt", "script.py",  "dataset_infos.json",
      "data/README",  "data/a.JSONL",   "data/b.jl", "c.jsonlines"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) put(dir, names[i], "x");
  assert_string_equal(taken(dir, NULL), "c.jsonlines data/a.JSONL data/b.jl notes.txt");
  dir = t_temp_dir(); /* texts alone: all of them but the card */
  put(dir, "README.md", "x");
  put(dir, "a.md", "x");
  put(dir, "b.py", "x");
  assert_string_equal(taken(dir, NULL), "a.md b.py");
  const char *card = t_str("%s/README.md", dir); /* asked for by name */
  assert_string_equal(taken(card, NULL), "");
  dir = t_temp_dir();
  put(dir, "README.md", "x");
  struct ka_arena a;
  struct ka_data_files f;
  const struct ka_key_texts paths = {&dir, 1};
  ka_arena_init(&a, ctx, "files");
  T_FAILS(ka_data_files(&a, &paths, NULL, &f), KA_E_INPUT, "no files with data");
  ka_arena_deinit(&a);
}

static void splits_go_by_names(void **state) {
  (void)state;
  static const struct {
    const char *names, *split, *taken;
  } cases[] = {
      {"train.jsonl test.jsonl", "train", "train.jsonl"},
      {"train.jsonl test.jsonl", "test[:5]", "test.jsonl"},
      {"train.jsonl test.jsonl", "all", "test.jsonl train.jsonl"},
      {"train.jsonl dev.jsonl", "train+validation", "dev.jsonl train.jsonl"},
      {"data/train-00000-of-00001.parquet data/test-00000-of-00001.parquet", "train",
       "data/train-00000-of-00001.parquet"},
      {"a/train/0.jsonl a/validation/0.jsonl", "validation", "a/validation/0.jsonl"},
      {"my_train.csv.gz my_val.csv.gz", "train", "my_train.csv.gz"},
      {"TRAIN.jsonl Eval.jsonl", "test", "Eval.jsonl"},
      {"test.jsonl", "train", "test.jsonl"},
      {"a.jsonl b.jsonl", "train", "a.jsonl b.jsonl"},
      {"training_day.txt test_of_time.txt", "train", "test_of_time.txt training_day.txt"},
      {"train.txt test.txt", "train", "train.txt"},
      {"constrain.jsonl contest.jsonl", "train", "constrain.jsonl contest.jsonl"},
      {"training.jsonl extra.jsonl valid.jsonl", "train", "extra.jsonl training.jsonl"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *dir = t_temp_dir(), *p = cases[i].names;
    for (size_t n; *p; p += n + (p[n] == ' ')) {
      n = strcspn(p, " ");
      put(dir, t_str("%.*s", (int)n, p), t_str("%zu", n));
    }
    const struct ka_data_choice choice = {.split = cases[i].split};
    assert_string_equal(taken(dir, &choice), cases[i].taken);
  }
  const char *dir = t_temp_dir();
  struct ka_arena a;
  struct ka_data_files f;
  const struct ka_key_texts paths = {&dir, 1};
  const struct ka_data_choice choice = {.split = "test"};
  put(dir, "train.jsonl", "{}");
  ka_arena_init(&a, ctx, "files");
  T_FAILS(ka_data_files(&a, &paths, &choice, &f), KA_E_INPUT, "of split test");
  ka_arena_deinit(&a);
}

/* The layout of huggingface_hub: links from snapshots to blobs. */
static void the_cache_is_found_by_name(void **state) {
  (void)state;
  const char *hub = t_temp_dir(), *dir = t_str("%s/datasets--org--some.data", hub), *found;
  struct ka_arena a;
  put(dir, "blobs/0123", "{\"text\": \"a\"}");
  put(dir, "blobs/4567", "card");
  put(dir, "refs/main", "abc\n");
  put(dir, "snapshots/old/train.jsonl", "{\"text\": \"old\"}");
  T_OK(ka_make_dirs(ctx, t_str("%s/snapshots/abc/data", dir)));
  assert_int_equal(symlink("../../../blobs/0123", t_str("%s/snapshots/abc/data/train.jsonl", dir)),
                   0);
  assert_int_equal(symlink("../../blobs/4567", t_str("%s/snapshots/abc/README.md", dir)), 0);
  assert_string_equal(taken(dir, NULL), "snapshots/abc/data/train.jsonl");
  ka_arena_init(&a, ctx, "hub");
  setenv("HF_HUB_CACHE", hub, 1);
  T_OK(ka_hub_find(&a, KA_HUB_DATASET, "org/some.data", &found));
  assert_string_equal(found, t_str("%s/snapshots/abc", dir));
  T_OK(ka_hub_find(&a, KA_HUB_MODEL, "org/some.data", &found));
  assert_null(found);
  unsetenv("HF_HUB_CACHE");
  T_OK(ka_make_dirs(ctx, t_str("%s/home", hub)));
  assert_int_equal(symlink(hub, t_str("%s/home/hub", hub)), 0);
  setenv("HF_HOME", t_str("%s/home", hub), 1);
  T_OK(ka_hub_find(&a, KA_HUB_DATASET, "org/some.data", &found));
  assert_non_null(found);
  unsetenv("HF_HOME");
  assert_true(ka_hub_is_name("HuggingFaceTB/SmolLM2-135M") && !ka_hub_is_name("./a/b"));
  assert_true(!ka_hub_is_name("a/b/c") && !ka_hub_is_name("a") && !ka_hub_is_name("/a/b"));
  ka_arena_deinit(&a);
}

/* --- compressed -------------------------------------------------------------- */

/* Every row with its line. */
static void read_rows(const char *path, const char *type, struct ka_str *out) {
  struct ka_data_file file = {path, true};
  const struct ka_data_files files = {&file, 1, ""};
  struct ka_data_record rows[KA_RECORDS_BATCH];
  struct ka_data_records r;
  int n = 1;
  T_OK(ka_data_records_init(&r, ctx, &files, type, "train", "split"));
  while (n > 0) {
    T_OK(ka_data_records_next(&r, rows, &n));
    for (int i = 0; i < n; i++) {
      T_OK(ka_str_printf(ctx, out, "%lld ", (long long)rows[i].line));
      T_OK(ka_str_append(ctx, out, rows[i].bytes, rows[i].n));
      T_OK(ka_str_puts(ctx, out, "\n"));
    }
  }
  ka_data_records_deinit(&r);
}

static void same_as(const char *plain, const char *packed) {
  struct ka_str a = {0}, b = {0};
  read_rows(plain, "auto", &a);
  read_rows(packed, "auto", &b);
  assert_int_equal(a.len, b.len);
  assert_memory_equal(a.data, b.data, a.len);
  ka_str_deinit(&a);
  ka_str_deinit(&b);
}

/* Rows in a form; some larger than the window. */
static void fill(struct ka_str *text, int form) {
  T_OK(ka_str_puts(ctx, text, form == 1 ? " [\n" : form == 2 ? "id,text\n" : "\n\n"));
  for (int i = 0; i < 3000; i++) {
    int n = i == 1234 ? 5 << 20 : i % 100 == 7 ? 90000 : i % 50;
    T_OK(ka_str_printf(ctx, text, form == 2 ? "%d,\"" : "{\"id\": %d, \"text\": \"", i));
    for (int k = 0; k < n; k += 10)
      T_OK(ka_str_puts(ctx, text, form == 2 ? "ab\n,\"\"cd " : "ab [,] {d "));
    T_OK(ka_str_puts(ctx, text,
                     form == 2               ? "\"\r\n"
                     : form == 1 && i < 2999 ? "\"} ,\n"
                                             : "\"}\n"));
  }
  T_OK(ka_str_puts(ctx, text, form == 1 ? "] \n" : "\n"));
}

static void compressed_rows_are_the_same(void **state) {
  (void)state;
  static const char *const names[] = {"a.jsonl", "a.json", "a.csv"};
  const char *dir = t_temp_dir();
  for (int form = 0; form < 3; form++) {
    struct ka_str text = {0};
    const char *plain = t_str("%s/%s", dir, names[form]), *packed;
    fill(&text, form);
    put_bytes(dir, names[form], text.data, text.len);
#ifdef KAPPA_HAVE_ZLIB
    packed = t_str("%s.gz", plain);
    for (int member = 0; member < 2; member++) { /* two, as `cat a.gz b.gz` makes */
      size_t half = text.len / 2, from = member ? half : 0;
      gzFile f = gzopen(packed, member ? "ab1" : "wb1");
      assert_int_equal(gzwrite(f, text.data + from, (unsigned)(member ? text.len - half : half)),
                       member ? text.len - half : half);
      gzclose(f);
    }
    same_as(plain, packed);
#endif
#ifdef KAPPA_HAVE_ZSTD
    size_t room = ZSTD_compressBound(text.len);
    char *bytes = malloc(room);
    size_t n = ZSTD_compress(bytes, room, text.data, text.len, 1);
    packed = t_str("%s.zst", plain);
    put_bytes(dir, t_str("%s.zst", names[form]), bytes, n);
    same_as(plain, packed);
    put_bytes(dir, t_str("%s.zst", names[form]), bytes, n / 2); /* cut off */
    struct ka_data_file file = {packed, true};
    const struct ka_data_files files = {&file, 1, ""};
    struct ka_data_record rows[KA_RECORDS_BATCH];
    struct ka_data_records r;
    ka_status st = ka_data_records_init(&r, ctx, &files, "auto", "train", "split");
    for (int k = 1; ka_ok(st) && k > 0;) st = ka_data_records_next(&r, rows, &k);
    T_FAILS(st, KA_E_INPUT, "ends too early");
    ka_data_records_deinit(&r);
    free(bytes);
#endif
    (void)plain, (void)packed;
    ka_str_deinit(&text);
  }
}

/* 100 MB behind a window of 2. */
static void a_large_file_costs_a_window(void **state) {
  (void)state;
#ifdef KAPPA_HAVE_ZLIB
  static char row[1000];
  const char *path = t_str("%s/a.jsonl.gz", t_temp_dir());
  struct ka_data_file file = {path, true};
  const struct ka_data_files files = {&file, 1, ""};
  struct ka_data_record rows[KA_RECORDS_BATCH];
  struct ka_data_records r;
  struct rusage before, after;
  int64_t n_rows = 0;
  memset(row, ' ', sizeof row);
  row[0] = '{', row[998] = '}', row[999] = '\n';
  gzFile f = gzopen(path, "wb1");
  for (int i = 0; i < 100000; i++) assert_int_equal(gzwrite(f, row, sizeof row), sizeof row);
  gzclose(f);
  getrusage(RUSAGE_SELF, &before);
  T_OK(ka_data_records_init(&r, ctx, &files, "auto", "train", "split"));
  for (int n = 1; n > 0; n_rows += n) T_OK(ka_data_records_next(&r, rows, &n));
  ka_data_records_deinit(&r);
  getrusage(RUSAGE_SELF, &after);
  assert_int_equal(n_rows, 100000);
  assert_true(after.ru_maxrss - before.ru_maxrss < 32 << 10); /* KiB */
#endif
}

static void what_is_not_read_says_what_to_do(void **state) {
  (void)state;
  static const struct {
    const char *name, *bytes, *message;
  } cases[] = {
      {"a.jsonl", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"},
      {"a.arrow", "ARROW1..........", "an Arrow file; convert it"},
      {"a.zip", "PK\x03\x04........", "a zip archive; unpack it first"},
      {"a.jsonl.xz",
       "\xfd"
       "7zXZ.........",
       "xz -d"},
      {"a.jsonl.bz2", "BZh91AY.....", "bzip2 -d"},
      {"a.parquet", "not parquet at all", "no PAR1 at its begin"},
      {"b.parquet", "PAR1............", "no PAR1 at its end"},
  };
  const char *dir = t_temp_dir();
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    put(dir, cases[i].name, cases[i].bytes);
    struct ka_data_file file = {t_str("%s/%s", dir, cases[i].name), true};
    const struct ka_data_files files = {&file, 1, ""};
    struct ka_data_record rows[KA_RECORDS_BATCH];
    struct ka_data_records r;
    int n;
    T_OK(ka_data_records_init(&r, ctx, &files, "auto", "train", "split"));
    ka_status st = ka_data_records_next(&r, rows, &n);
    T_FAILS(st, st.code, cases[i].message);
    assert_int_equal(ka_exit_code(st.code), 2);
    ka_data_records_deinit(&r);
  }
  const char *pipe = t_str("%s/pipe", dir);
  struct ka_str text = {0};
  struct ka_map m;
  FILE *f;
  assert_int_equal(mkfifo(pipe, 0600), 0);
  T_FAILS(ka_read_file(ctx, pipe, 0, &text), KA_E_INPUT, "neither a file nor a directory");
  T_FAILS(ka_map_file(ctx, pipe, &m), KA_E_INPUT, "neither a file nor a directory");
  T_FAILS(ka_open_file(ctx, pipe, &f), KA_E_INPUT, "neither a file nor a directory");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(a_large_file_costs_a_window, fresh),
      cmocka_unit_test_setup(cards_are_no_data, fresh),
      cmocka_unit_test_setup(splits_go_by_names, fresh),
      cmocka_unit_test_setup(the_cache_is_found_by_name, fresh),
      cmocka_unit_test_setup(compressed_rows_are_the_same, fresh),
      cmocka_unit_test_setup(what_is_not_read_says_what_to_do, fresh),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
