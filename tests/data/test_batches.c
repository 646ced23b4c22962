/* SPDX-License-Identifier: Apache-2.0
 * engine/data/dataset.h: rows packed into batches, addressed by number; validation, weights, the
 * kept tokens. */
#include "tests/data/bed.h"

#include "base/rng.h"
#include "engine/data/pack.h"
#include "engine/data/store.h"

#include <omp.h>
#include <stdio.h>

/* n documents of 2 to 8 tokens; the first token tells which. */
static void many_documents(const char *dir, int n) {
  struct ka_str s = {0};
  for (int i = 0; i < n; i++) {
    T_OK(ka_str_printf(ctx, &s, "{\"input_ids\":[%d", i));
    for (int k = 0; k <= (int)ka_rng_below(1, 2, (uint64_t)i, 7); k++)
      T_OK(ka_str_printf(ctx, &s, ",%d", k));
    T_OK(ka_str_puts(ctx, &s, "]}\n"));
  }
  put(dir, "a.jsonl", s.data);
  ka_str_deinit(&s);
}

/* Every document of an epoch exactly once, in rows that are well formed. */
static void check_epoch(struct ka_data *d, int64_t epoch, int n, int times) {
  int seen[256] = {0};
  int64_t n_batches = ka_data_n_batches(d, KA_DATA_TRAIN), n_tok = 0;
  for (int64_t i = 0; i < n_batches; i++) {
    struct ka_batch b;
    T_OK(ka_data_batch(ctx, d, KA_DATA_TRAIN, epoch * n_batches + i, &b));
    int64_t n_targets = 0;
    n_tok += b.n_tok;
    for (int64_t r = 0; r < b.B; r++)
      for (int64_t t = 0; t < b.T; t++) {
        int64_t at = r * b.T + t;
        int32_t start = b.doc_start[at];
        assert_true(start >= 0 && start <= t && b.position[at] == t - start);
        assert_true(b.labels[at] == -100 || b.labels[at] == b.input_ids[at]);
        if (start == t) assert_int_equal(b.labels[at], -100);
        if (start != t) assert_int_equal(b.doc_start[at - 1], start);
        n_targets += b.labels[at] != -100;
        if (start == t && t + 1 < b.T && b.labels[at + 1] != -100) seen[b.input_ids[at]]++;
      }
    assert_int_equal(b.n_targets, n_targets);
  }
  assert_int_equal(n_tok, ka_data_get_stats(d)->part[KA_DATA_TRAIN].n_tok); /* no padding in it */
  for (int i = 0; i < n; i++) assert_int_equal(seen[i], times);
}

static void epochs_are_permutations_addressed_by_number(void **state) {
  (void)state;
  const char *dir = t_temp_dir();
  many_documents(dir, 101);
  for (int packing = 0; packing < 2; packing++) {
    struct ka_job j;
    job(&j, dir, "[{path: a.jsonl, type: tokenized}]", "");
    j.shuffle = true;
    j.sample_packing = packing;
    j.micro_batch_size = 3;
    struct ka_data *d = open_data(&j, NULL), *e = open_data(&j, NULL);
    const struct ka_data_stats *s = ka_data_get_stats(d);
    if (packing) assert_true(s->part[0].efficiency > 0.9 && s->part[0].n_rows < 101);
    for (int epoch = 0; epoch < 3; epoch++) check_epoch(d, epoch, 101, 1);
    /* Another one, asked in another order, gives the same bits. */
    int64_t n = 2 * s->part[0].n_batches;
    bool differs = false;
    for (int64_t i = n - 1; i >= 0; i--) {
      struct ka_batch x, y;
      T_OK(ka_data_batch(ctx, d, KA_DATA_TRAIN, n - 1 - i, &x));
      T_OK(ka_data_batch(ctx, e, KA_DATA_TRAIN, i, &y));
      T_OK(ka_data_batch(ctx, d, KA_DATA_TRAIN, i, &x));
      assert_true(x.B == y.B && x.T == y.T && x.n_targets == y.n_targets);
      assert_memory_equal(x.input_ids, y.input_ids, (size_t)(x.B * x.T) * 4);
      assert_memory_equal(x.doc_start, y.doc_start, (size_t)(x.B * x.T) * 4);
      T_OK(ka_data_batch(ctx, e, KA_DATA_TRAIN, (i + n / 2) % n, &y));
      differs =
          differs || x.T != y.T || memcmp(x.input_ids, y.input_ids, (size_t)(x.B * x.T) * 4) != 0;
    }
    assert_true(differs); /* epochs are not alike */
    ka_data_close(d);
    ka_data_close(e);
    ka_job_close(&j);
  }
}

/* Tokens of an epoch's micro-batches with their padding; each row is there once. */
static int64_t padded_tokens(struct ka_data *d, int64_t epoch) {
  int64_t n = 0, n_batches = ka_data_n_batches(d, KA_DATA_TRAIN);
  bool seen[100] = {false};
  for (int64_t i = 0; i < n_batches; i++) {
    struct ka_batch b;
    T_OK(ka_data_batch(ctx, d, KA_DATA_TRAIN, epoch * n_batches + i, &b));
    n += b.B * b.T;
    for (int64_t r = 0; r < b.B; r++) {
      assert_false(seen[b.input_ids[r * b.T]]);
      seen[b.input_ids[r * b.T]] = true;
    }
  }
  for (int i = 1; i < 60; i++) assert_true(seen[i]);
  return n;
}

static void rows_are_grouped_by_length(void **state) {
  (void)state;
  const char *dir = t_temp_dir(), *rows = "";
  for (int i = 1; i < 60; i++)
    rows = t_str("%s{\"input_ids\":[%d%.*s]}\n", rows, i, 2 + 2 * (i * 7 % 6), ",1,1,1,1,1,1,1,1");
  put(dir, "a.jsonl", rows);
  int64_t n[2];
  for (int grouped = 0; grouped < 2; grouped++) {
    struct ka_job j;
    job(&j, dir, "[{path: a.jsonl, type: tokenized}]",
        t_str("sample_packing: false\ngroup_by_length: %s", grouped ? "true" : "false"));
    j.shuffle = true;
    struct ka_data *d = open_data(&j, NULL);
    n[grouped] = padded_tokens(d, 0);
    assert_int_equal(padded_tokens(d, 1) > 0, 1);
    assert_int_equal(padded_tokens(d, 0), n[grouped]); /* again, by number */
    ka_data_close(d);
    ka_job_close(&j);
  }
  assert_true(n[1] < n[0]);
}

static void validation_is_set_aside_by_the_seed(void **state) {
  (void)state;
  const char *dir = t_temp_dir();
  many_documents(dir, 100);
  struct ka_job j;
  job(&j, dir, "[{path: a.jsonl, type: tokenized}]", "");
  static const struct {
    double size;
    int64_t n;
  } cases[] = {{0.1, 10}, {0.001, 1}, {7, 7}, {0, 0}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    j.val_set_size = cases[i].size;
    struct ka_data *d = open_data(&j, NULL);
    const struct ka_data_stats *s = ka_data_get_stats(d);
    assert_int_equal(s->part[1].n_documents, cases[i].n);
    assert_int_equal(s->part[0].n_documents, 100 - cases[i].n);
    int seen[100] = {0};
    int32_t id;
    for (int part = 0; part < 2; part++)
      for (int64_t k = 0; ka_data_document(d, (enum ka_data_split)part, k, 1, &id, NULL); k++)
        seen[id]++;
    for (int k = 0; k < 100; k++) assert_int_equal(seen[k], 1);
    ka_data_close(d);
  }
  struct ka_data *d;
  j.val_set_size = 100;
  T_FAILS(open_job(&d, &j, NULL, 258), KA_E_INPUT, "leaves nothing to train on");
  ka_job_close(&j);
  put(dir, "v.jsonl", "{\"input_ids\":[5,6]}\n");
  const char *text = "base_model: m\ndatasets: [{path: a.jsonl, type: tokenized}]\n"
                     "test_datasets: [{path: v.jsonl, type: tokenized}]\n";
  T_OK(ka_job_parse(ctx, &j, text, strlen(text), "job.yaml", dir, NULL, 0));
  d = open_data(&j, NULL);
  assert_int_equal(ka_data_get_stats(d)->part[0].n_documents, 100);
  assert_string_equal(shown(d, KA_DATA_VALIDATION, 0), "5 6*");
  ka_data_close(d);
  ka_job_close(&j);
}

static void weights_repeat_and_thin_out(void **state) {
  (void)state;
  const char *dir = t_temp_dir();
  many_documents(dir, 100);
  put(dir, "b.jsonl", "{\"input_ids\":[200,6]}\n");
  struct ka_job j;
  job(&j, dir,
      "[{path: a.jsonl, type: tokenized, weight: 0.25}, {path: b.jsonl, type: tokenized, weight: "
      "3}]",
      "");
  struct ka_data *d = open_data(&j, NULL);
  assert_int_equal(ka_data_get_stats(d)->part[0].n_documents, 28);
  ka_data_close(d);
  j.datasets.items[0].weight = 2;
  j.datasets.items[1].weight = 0;
  d = open_data(&j, NULL);
  check_epoch(d, 0, 100, 2);
  ka_data_close(d);
  ka_job_close(&j);
}

static void threads_do_not_matter(void **state) {
  (void)state;
  const char *dir = t_temp_dir();
  struct ka_tokenizer *t = byte_tokenizer(dir);
  struct ka_str s = {0};
  for (int i = 0; i < 1000; i++)
    T_OK(ka_str_printf(ctx, &s, "{\"text\":\"row %d %.*s\"}\n", i, i % 40,
                       "0123456789012345678901234567890123456789"));
  put(dir, "a.jsonl", s.data);
  ka_str_deinit(&s);
  struct ka_job j;
  job(&j, dir, "[{path: a.jsonl}]", "");
  int before = omp_get_max_threads();
  omp_set_num_threads(1);
  struct ka_data *one = open_data(&j, t);
  omp_set_num_threads(3);
  struct ka_data *three = open_data(&j, t);
  omp_set_num_threads(before);
  for (int64_t i = 0; i < ka_data_n_batches(one, KA_DATA_TRAIN); i++) {
    struct ka_batch x, y;
    T_OK(ka_data_batch(ctx, one, KA_DATA_TRAIN, i, &x));
    T_OK(ka_data_batch(ctx, three, KA_DATA_TRAIN, i, &y));
    assert_memory_equal(x.input_ids, y.input_ids, (size_t)(x.B * x.T) * 4);
  }
  ka_data_close(one);
  ka_data_close(three);
  ka_job_close(&j);
  ka_tokenizer_close(t);
}

static void packing_is_first_fit_decreasing(void **state) {
  (void)state;
  const int64_t lengths[] = {3, 7, 5, 1, 4, 8, 2};
  struct ka_data_packed p;
  T_OK(ka_data_pack_rows(ctx, &p, lengths, 7, 8, 100)); /* 8 | 7 1 | 5 3 | 4 2 */
  assert_int_equal(p.n_rows, 4);
  const int64_t items[] = {5, 1, 3, 0, 2, 4, 6}, first[] = {0, 1, 3, 5, 7};
  assert_memory_equal(p.items, items, sizeof items);
  assert_memory_equal(p.first, first, sizeof first);
  ka_data_packed_deinit(&p);
  T_OK(ka_data_pack_rows(ctx, &p, lengths, 7, 8, 1));
  assert_int_equal(p.n_rows, 7);
  for (int64_t i = 0; i < 7; i++) assert_int_equal(p.items[i], i);
  ka_data_packed_deinit(&p);
  T_OK(ka_data_pack_rows(ctx, &p, lengths, 0, 8, 100));
  assert_int_equal(p.n_rows, 0);
  ka_data_packed_deinit(&p);
}

static void tokens_spill_into_a_nameless_file(void **state) {
  (void)state;
  const char *dir = t_temp_dir();
  struct ka_data_store memory, file;
  ka_data_store_init(&memory, ctx, dir, 1 << 20);
  ka_data_store_init(&file, ctx, dir, 100);
  for (int i = 0; i < 50; i++) {
    struct ka_document d = {0};
    const int32_t ids[3] = {i, 7, i + 1}, masked[1] = {9};
    T_OK(ka_document_add(ctx, &d, ids, 3, true));
    T_OK(ka_document_add(ctx, &d, masked, 1, false));
    if (i % 5 == 0) d.labels[1] = 200; /* a label of its own */
    struct ka_document copy = {0};
    T_OK(ka_document_add(ctx, &copy, d.ids, 4, true));
    memcpy(copy.labels, d.labels, 4 * sizeof *d.labels);
    T_OK(ka_data_store_add(&memory, &d));
    T_OK(ka_data_store_add(&file, &copy));
    ka_document_deinit(&d);
    ka_document_deinit(&copy);
  }
  T_OK(ka_data_store_seal(&memory));
  T_OK(ka_data_store_seal(&file));
  assert_true(file.map.len > 0 && memory.map.len == 0);
  for (int64_t i = 0; i < 50; i++) {
    int32_t ids[2][4], labels[2][4];
    ka_data_store_read(&memory, i, 0, 4, ids[0], labels[0]);
    ka_data_store_read(&file, i, 0, 4, ids[1], labels[1]);
    assert_memory_equal(ids[0], ids[1], sizeof ids[0]);
    assert_memory_equal(labels[0], labels[1], sizeof labels[0]);
    assert_true(ids[0][0] == i && ids[0][3] == 9 && labels[0][3] == -100);
    assert_int_equal(labels[0][1], i % 5 == 0 ? 200 : 7);
    assert_int_equal(ka_data_store_targets(&file, i, 0, 4), 2);
    assert_int_equal(ka_data_store_targets(&file, i, 2, 2), 0);
  }
  ka_data_store_deinit(&memory);
  ka_data_store_deinit(&file);
  ka_data_store_init(&file, ctx, "/no/such/dir", 0);
  struct ka_document d = {0};
  T_OK(ka_document_add(ctx, &d, (const int32_t[]){1}, 1, true));
  T_FAILS(ka_data_store_add(&file, &d), KA_E_IO, "temporary file");
  ka_document_deinit(&d);
  ka_data_store_deinit(&file);
}

static void failing_allocations_leave_nothing_behind(void **state) {
  (void)state;
  const char *dir = t_temp_dir();
  many_documents(dir, 20);
  struct ka_job j;
  bool done = false;
  job(&j, dir, "[{path: a.jsonl, type: tokenized, weight: 1.5}]", "dataset_prepared_path: cache");
  j.val_set_size = 0.2;
  j.shuffle = true;
  for (int n = 1; n < 400 && !done; n++) {
    struct ka_data *d;
    T_OK(ka_remove_tree(ctx, t_str("%s/cache", dir)));
    ctx->fail_alloc_at = n;
    ka_status st = open_job(&d, &j, NULL, 258);
    ctx->fail_alloc_at = 0;
    done = ka_ok(st);
    if (!done) assert_int_equal(st.code, KA_E_MEMORY);
    ka_data_close(d);
    ka_error_clear(ctx);
  }
  assert_true(done);
  ka_job_close(&j);
}

/* Tokenised data is found again, unless anything that it depends on has changed. */
static void tokens_are_kept_between_runs(void **state) {
  (void)state;
  const char *dir = t_temp_dir(), **names;
  struct ka_arena a;
  struct ka_job j;
  struct ka_data *d;
  int64_t n;
  put(dir, "a.jsonl", "{\"input_ids\":[1,2,3]}\n{\"input_ids\":[]}\n");
  put(dir, "v.jsonl", "{\"input_ids\":[5,6],\"labels\":[5,9]}\n");
  const char *text = "base_model: m\ndatasets: [{path: a.jsonl, type: tokenized}]\n"
                     "test_datasets: [{path: v.jsonl, type: tokenized}]\n"
                     "dataset_prepared_path: cache\n";
  ka_arena_init(&a, ctx, "t");
  T_OK(ka_job_parse(ctx, &j, text, strlen(text), "job.yaml", dir, NULL, 0));
  for (int round = 0; round < 4; round++) {
    /* 0: made, 1: found, 2: the file is damaged and made again, 3: other data, another file */
    if (round == 2) {
      T_OK(ka_list_dir(&a, t_str("%s/cache", dir), &names, &n));
      struct ka_str bytes = {0};
      const char *path = t_str("%s/cache/%s", dir, names[0]);
      T_OK(ka_read_file(ctx, path, 0, &bytes));
      bytes.data[bytes.len - 1] ^= 1;
      T_OK(ka_write_file(ctx, path, bytes.data, bytes.len));
      ka_str_deinit(&bytes);
    }
    if (round == 3) put(dir, "a.jsonl", "{\"input_ids\":[1,2,4]}\n{\"input_ids\":[]}\n");
    d = open_data(&j, NULL);
    assert_string_equal(shown(d, KA_DATA_TRAIN, 0), round == 3 ? "1 2* 4*" : "1 2* 3*");
    int32_t labels[2];
    assert_int_equal(ka_data_document(d, KA_DATA_VALIDATION, 0, 2, NULL, labels), 2);
    assert_int_equal(labels[1], 9);
    assert_int_equal(ka_data_get_stats(d)->n_rows, 3);
    assert_int_equal(ka_data_get_stats(d)->n_empty, 1);
    ka_data_close(d);
    T_OK(ka_list_dir(&a, t_str("%s/cache", dir), &names, &n));
    assert_int_equal(n, round == 3 ? 2 : 1);
  }
  ka_arena_deinit(&a);
  ka_job_close(&j);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(epochs_are_permutations_addressed_by_number, fresh),
      cmocka_unit_test_setup(rows_are_grouped_by_length, fresh),
      cmocka_unit_test_setup(validation_is_set_aside_by_the_seed, fresh),
      cmocka_unit_test_setup(weights_repeat_and_thin_out, fresh),
      cmocka_unit_test_setup(threads_do_not_matter, fresh),
      cmocka_unit_test_setup(packing_is_first_fit_decreasing, fresh),
      cmocka_unit_test_setup(tokens_spill_into_a_nameless_file, fresh),
      cmocka_unit_test_setup(tokens_are_kept_between_runs, fresh),
      cmocka_unit_test_setup(failing_allocations_leave_nothing_behind, fresh),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
