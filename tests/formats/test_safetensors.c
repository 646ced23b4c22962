/* SPDX-License-Identifier: Apache-2.0
 * engine/formats/safetensors.h: every header check, sharded models, writing, rewriting. */
#include "engine/formats/safetensors.h"
#include "tests/support/fresh.h"

#include <stdio.h>
#include <string.h>

/* A file of the given header text and n data bytes 0, 1, 2, ... */
static const char *raw_file(const char *header, size_t header_len, size_t n) {
  const char *path = t_str("%s/x.safetensors", t_temp_dir());
  struct ka_str s = {0};
  for (int i = 0; i < 8; i++) {
    char byte = (char)(header_len >> (8 * i));
    T_OK(ka_str_append(ctx, &s, &byte, 1));
  }
  T_OK(ka_str_append(ctx, &s, header, strlen(header)));
  for (size_t i = 0; i < n; i++) {
    char byte = (char)i;
    T_OK(ka_str_append(ctx, &s, &byte, 1));
  }
  T_OK(ka_write_file(ctx, path, s.data, s.len));
  ka_str_deinit(&s);
  return path;
}

static void malformed_headers_are_refused(void **state) {
  (void)state;
  static const struct {
    const char *header;
    size_t n_data;
    const char *message;
  } cases[] = {
      {"", 0, "does not start with {"},
      {" {}", 0, "does not start with {"},
      {"[]", 0, "does not start with {"},
      {"{\"a\":", 0, "not valid JSON"},
      {"{} x", 0, "not valid JSON"},
      {"{\"\xff\":1}", 0, "not valid JSON"},
      {"{}", 1, "belong to no tensor"},
      {"{\"__metadata__\":[]}", 0, "__metadata__"},
      {"{\"__metadata__\":{\"a\":1}}", 0, "__metadata__"},
      {"{\"a\":1}", 0, "expected an object"},
      {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype: expected a string"},
      {"{\"a\":{\"dtype\":\"F\\u000032\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype"},
      {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "shape: expected a list"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "none below 0"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, "integers"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
       "elements overflows"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0,
       "bytes overflows"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,0]}}", 0,
       "integers"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "expected [begin, end]"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "[begin, end]"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,\"4\"]}}", 4, "two integers"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4, "none below 0"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "before the begin"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "ask for 8"},
      {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1, "ask for 1"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 3, "cut off"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 5, "no tensor"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "leaving a hole"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
       "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}",
       12, "leaving a hole"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
       "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}}",
       6, "inside the tensor before it"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
       "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
       4, "inside the tensor before it"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
       "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
       8, "duplicate"},
  };
  struct ka_safetensors st;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *path = raw_file(cases[i].header, strlen(cases[i].header), cases[i].n_data);
    T_FAILS(ka_st_open(ctx, &st, path), KA_E_INPUT, cases[i].message);
  }
  T_FAILS(ka_st_open(ctx, &st, raw_file("{}", 3, 0)), KA_E_INPUT, "header of 3 bytes in a file");
  T_FAILS(ka_st_open(ctx, &st, raw_file("{}", 100000001, 0)), KA_E_INPUT, "limit is 100000000");
  T_FAILS(ka_st_open(ctx, &st, raw_file("{}", SIZE_MAX, 0)), KA_E_INPUT, "limit is 100000000");
  const char *path = t_str("%s/short", t_temp_dir());
  T_OK(ka_write_file(ctx, path, "1234567", 7));
  T_FAILS(ka_st_open(ctx, &st, path), KA_E_INPUT, "at least 8");
  T_OK(ka_write_file(ctx, path, "", 0));
  T_FAILS(ka_st_open(ctx, &st, path), KA_E_INPUT, "at least 8");
  T_FAILS(ka_st_open(ctx, &st, t_str("%s/none", t_temp_dir())), KA_E_INPUT, "No such file");
  T_FAILS(ka_st_open(ctx, &st, t_temp_dir()), KA_E_INPUT, "no weights");
}

static void odd_files_that_are_legal_open(void **state) {
  (void)state;
  struct ka_safetensors st;
  T_OK(ka_st_open(ctx, &st, raw_file("{}", 2, 0)));
  assert_int_equal(st.n_entries, 0);
  assert_null(ka_st_find(&st, "a"));
  ka_st_close(&st);
  /* Out of order in the header, an empty tensor, a scalar, padding after the header, odd dtypes. */
  const char *header = "{\"z\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[3,7]},"
                       "\"e\":{\"dtype\":\"F32\",\"shape\":[0,5],\"data_offsets\":[3,3]},"
                       "\"b\":{\"dtype\":\"BOOL\",\"shape\":[2],\"data_offsets\":[0,2]},"
                       "\"q\":{\"dtype\":\"F8_E4M3\",\"shape\":[1],\"data_offsets\":[2,3]},"
                       "\"n\":{\"dtype\":\"NEW\",\"shape\":[9],\"data_offsets\":[7,8]},"
                       "\"d\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1],\"data_offsets\":[8,9]},"
                       "\"__metadata__\":{\"format\":\"pt\"}}   ";
  T_OK(ka_st_open(ctx, &st, raw_file(header, strlen(header), 9)));
  assert_int_equal(st.n_entries, 6);
  assert_string_equal(st.entries[0].name, "b");
  assert_int_equal(st.shards[0].n_metadata, 1);
  assert_string_equal(st.shards[0].metadata[1], "pt");
  struct ka_tensor t;
  T_OK(ka_st_get(ctx, &st, "b", &t));
  assert_true(t.dtype == KA_U8 && ((uint8_t *)t.data)[1] == 1);
  T_OK(ka_st_get(ctx, &st, "z", &t)); /* unaligned in the file, aligned in memory */
  assert_int_equal((uintptr_t)t.data % 4, 0);
  assert_memory_equal(t.data, "\x03\x04\x05\x06", 4);
  assert_int_equal(t.n_dim, 0);
  T_OK(ka_st_get(ctx, &st, "e", &t));
  assert_int_equal(ka_tensor_elems(&t), 0);
  T_FAILS(ka_st_get(ctx, &st, "q", &t), KA_E_INPUT, "dtype F8_E4M3");
  T_FAILS(ka_st_get(ctx, &st, "n", &t), KA_E_INPUT, "dtype NEW");
  T_FAILS(ka_st_get(ctx, &st, "d", &t), KA_E_INPUT, "more than 6 dimensions");
  T_FAILS(ka_st_get(ctx, &st, "none", &t), KA_E_INPUT, "is missing");
  /* Carried over byte for byte, whatever kappa can read. */
  const char *out = t_temp_dir();
  T_OK(ka_st_rewrite(ctx, &st, out, NULL, 0));
  struct ka_map a, b;
  T_OK(ka_map_file(ctx, st.path, &a));
  T_OK(ka_map_file(ctx, t_str("%s/x.safetensors", out), &b));
  assert_int_equal(a.len, b.len);
  assert_memory_equal(a.data, b.data, a.len);
  ka_map_drop(&a);
  ka_map_drop(&b);
  ka_st_close(&st);
}

static void what_is_written_is_read_back(void **state) {
  (void)state;
  float f[12];
  uint16_t h[3] = {0x3f80, 0xc000, 0x7fc0};
  double d[1] = {1e-300};
  uint8_t u[3] = {1, 2, 3};
  for (int i = 0; i < 12; i++) f[i] = (float)i;
  struct ka_tensor m = ka_tensor_2d(f, KA_F32, 3, 4);
  const struct ka_st_out out[] = {
      {"u", ka_tensor_1d(u, KA_U8, 3)},          {"w\"\\\n\xc3\xa9", m},
      {"slice", ka_tensor_slice(m, 1, 2, 1, 2)}, {"h", ka_tensor_1d(h, KA_BF16, 3)},
      {"d", ka_tensor_1d(d, KA_F64, 1)},         {"empty", ka_tensor_2d(NULL, KA_F32, 0, 4)},
  };
  static const char *const meta[] = {"format", "pt", "a \"b\"", "c\td"};
  const char *path = t_str("%s/w.safetensors", t_temp_dir());
  T_OK(ka_st_write(ctx, path, out, 6, meta, 2));
  struct ka_safetensors st;
  T_OK(ka_st_open(ctx, &st, path));
  assert_int_equal(st.n_entries, 6);
  assert_int_equal(st.shards[0].n_metadata, 2);
  assert_string_equal(st.shards[0].metadata[3], "c\td");
  assert_int_equal(st.shards[0].data_offset_bytes % 8, 0);
  for (int64_t i = 0; i < st.n_entries; i++)
    assert_int_equal(st.entries[i].offset_bytes % ka_dtype_bytes(st.entries[i].t.dtype), 0);
  struct ka_tensor t;
  T_OK(ka_st_get(ctx, &st, "slice", &t));
  const float expected[4] = {5, 6, 9, 10};
  assert_memory_equal(t.data, expected, sizeof expected);
  T_OK(ka_st_get(ctx, &st, out[1].name, &t));
  assert_true(t.n_dim == 2 && t.shape[0] == 3 && t.shape[1] == 4);
  assert_memory_equal(t.data, f, sizeof f);
  T_OK(ka_st_get(ctx, &st, "h", &t));
  assert_memory_equal(t.data, h, sizeof h);
  T_OK(ka_st_get(ctx, &st, "d", &t));
  assert_memory_equal(t.data, d, sizeof d);
  ka_st_close(&st);
  const struct ka_st_out twice[] = {out[0], out[0]};
  T_FAILS(ka_st_write(ctx, path, twice, 2, NULL, 0), KA_E_INPUT, "given twice");
  T_FAILS(ka_st_write(ctx, t_str("%s/no/dir.safetensors", t_temp_dir()), out, 1, NULL, 0), KA_E_IO,
          "cannot write");
  T_OK(ka_st_write(ctx, path, NULL, 0, meta, 1));
  T_OK(ka_st_open(ctx, &st, path));
  ka_st_close(&st);
}

static void text_file(const char *dir, const char *name, const char *text) {
  T_OK(ka_write_file(ctx, t_str("%s/%s", dir, name), text, strlen(text)));
}

/* Two shards: a and b in the first, c in the second. */
static const char *sharded_model(void) {
  static float f[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  static uint16_t h[2] = {0x3f80, 0x4000};
  const char *dir = t_temp_dir();
  const struct ka_st_out one[] = {{"a", ka_tensor_2d(f, KA_F32, 2, 2)},
                                  {"b", ka_tensor_1d(h, KA_BF16, 2)}};
  const struct ka_st_out two[] = {{"c", ka_tensor_1d(f + 4, KA_F32, 4)}};
  T_OK(ka_st_write(ctx, t_str("%s/m-1.safetensors", dir), one, 2, NULL, 0));
  T_OK(ka_st_write(ctx, t_str("%s/m-2.safetensors", dir), two, 1, NULL, 0));
  return dir;
}

static void indexes_are_checked(void **state) {
  (void)state;
  static const struct {
    const char *index, *message;
  } cases[] = {
      {"[]", "weight_map"},
      {"{\"weight_map\":[]}", "weight_map"},
      {"{\"weight_map\":{\"a\":1}}", "expected a file name"},
      {"{\"weight_map\":{\"a\":\"../m-1.safetensors\"}}", "not a plain file name"},
      {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "not a plain file name"},
      {"{\"weight_map\":{\"a\":\"..\"}}", "not a plain file name"},
      {"{\"weight_map\":{\"a\":\"\"}}", "not a plain file name"},
      {"{\"weight_map\":{\"a\":\"m-1\\u0000.safetensors\"}}", "not a plain file name"},
      {"{\"weight_map\":{\"a\":\"m-3.safetensors\"}}", "is missing"},
      {"{\"weight_map\":{\"a\":\"m-1.safetensors\",\"a\":\"m-2.safetensors\"}}", "duplicate"},
      {"{\"weight_map\":{\"z\":\"m-1.safetensors\"}}", "listed but not in its shard"},
      {"{\"weight_map\":{\"c\":\"m-1.safetensors\",\"a\":\"m-2.safetensors\"}}", "stands in"},
      {"{\"weight_map\":{\"a\":\"m-1.safetensors\",\"b\":\"m-1.safetensors\","
       "\"c\":\"copy.safetensors\",\"q\":\"m-2.safetensors\"}}",
       "stands in"},
  };
  const char *dir = sharded_model();
  T_OK(ka_copy_file(ctx, t_str("%s/m-2.safetensors", dir), t_str("%s/copy.safetensors", dir)));
  struct ka_safetensors st;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    text_file(dir, "model.safetensors.index.json", cases[i].index);
    T_FAILS(ka_st_open(ctx, &st, dir), KA_E_INPUT, cases[i].message);
  }
}

static void rewriting_replaces_only_what_changed(void **state) {
  (void)state;
  const char *dir = sharded_model(), *out = t_temp_dir();
  const char *index =
      "{\"metadata\":{\"total_size\":36},\n \"weight_map\":{\"a\":\"m-1.safetensors\","
      "\"b\":\"m-1.safetensors\",\"c\":\"m-2.safetensors\"}}\n";
  text_file(dir, "model.safetensors.index.json", index);
  struct ka_safetensors base, made;
  T_OK(ka_st_open(ctx, &base, dir));
  assert_int_equal(base.n_shards, 2);
  float wide[6] = {3, -1, 9, 1.00390625f, 8, 7}; /* b changes: rows of a strided f32 view */
  struct ka_tensor v = ka_tensor_slice(ka_tensor_2d(wide, KA_F32, 2, 3), 0, 2, 0, 1);
  struct ka_tensor flat = ka_tensor_1d(wide, KA_F32, 2);
  const struct ka_st_out changed[] = {{"b", flat}};
  T_OK(ka_st_rewrite(ctx, &base, out, changed, 1));
  T_OK(ka_st_open(ctx, &made, out));
  const uint16_t expected[2] = {0x4040, 0xbf80};
  struct ka_tensor t;
  T_OK(ka_st_get(ctx, &made, "b", &t));
  assert_int_equal(t.dtype, KA_BF16);
  assert_memory_equal(t.data, expected, 4);
  for (int s = 0; s < 2; s++) {
    const struct ka_st_entry *b = ka_st_find(&base, "b");
    const struct ka_map *x = &base.shards[s].map, *y = &made.shards[s].map;
    assert_int_equal(x->len, y->len);
    for (size_t i = 0; i < x->len; i++)
      if (s == 1 || i < b->offset_bytes || i >= b->offset_bytes + b->n_bytes)
        assert_int_equal(x->data[i], y->data[i]);
  }
  struct ka_str text = {0};
  T_OK(ka_read_file(ctx, t_str("%s/model.safetensors.index.json", out), 0, &text));
  assert_string_equal(text.data, index);
  ka_str_deinit(&text);
  ka_st_close(&made);
  /* Onto itself; a strided matrix; wrong names and shapes. */
  const struct ka_st_out shape[] = {{"b", v}}, name[] = {{"bb", flat}},
                         twice[] = {changed[0], changed[0]};
  T_FAILS(ka_st_rewrite(ctx, &base, out, shape, 1), KA_E_INPUT, "another shape");
  T_FAILS(ka_st_rewrite(ctx, &base, out, name, 1), KA_E_INPUT, "is missing");
  T_FAILS(ka_st_rewrite(ctx, &base, out, twice, 2), KA_E_INPUT, "given twice");
  float m[6] = {10, 11, -1, 12, 13, -1};
  const struct ka_st_out matrix[] = {
      {"a", ka_tensor_slice(ka_tensor_2d(m, KA_F32, 2, 3), 0, 2, 0, 2)}};
  T_OK(ka_st_rewrite(ctx, &base, dir, matrix, 1));
  ka_st_close(&base);
  T_OK(ka_st_open(ctx, &base, dir));
  T_OK(ka_st_get(ctx, &base, "a", &t));
  const float rows[4] = {10, 11, 12, 13};
  assert_memory_equal(t.data, rows, sizeof rows);
  ka_st_close(&base);
}

static void failing_allocations_leave_nothing_behind(void **state) {
  (void)state;
  const char *dir = sharded_model();
  const char *path = t_str("%s/m-1.safetensors", dir);
  struct ka_safetensors st;
  bool done = false;
  for (int n = 1; n < 200 && !done; n++) {
    ctx->fail_alloc_at = n;
    ka_status s = ka_st_open(ctx, &st, path);
    done = ka_ok(s);
    if (done) {
      ctx->fail_alloc_at = 0;
      ka_st_close(&st);
    } else {
      assert_int_equal(s.code, KA_E_MEMORY);
    }
    ka_error_clear(ctx);
  }
  assert_true(done);
}

static void fixtures_open_and_rewrite_to_the_same_bytes(void **state) {
  (void)state;
  T_DATA(data);
  static const char *const names[] = {"weights/stories260K-hf", "golden/llama", "golden/gpt2",
                                      "golden/deepseek-v2", "golden/qwen3-moe"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    struct ka_safetensors st;
    const char *out = t_temp_dir();
    T_OK(ka_st_open(ctx, &st, t_str("%s/%s", data, names[i])));
    assert_true(st.n_entries > 10);
    T_OK(ka_st_rewrite(ctx, &st, out, NULL, 0));
    struct ka_map m;
    T_OK(ka_map_file(ctx, t_str("%s/model.safetensors", out), &m));
    assert_int_equal(m.len, st.shards[0].map.len);
    assert_memory_equal(m.data, st.shards[0].map.data, m.len);
    ka_map_drop(&m);
    ka_st_close(&st);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(malformed_headers_are_refused, fresh),
      cmocka_unit_test_setup(odd_files_that_are_legal_open, fresh),
      cmocka_unit_test_setup(what_is_written_is_read_back, fresh),
      cmocka_unit_test_setup(indexes_are_checked, fresh),
      cmocka_unit_test_setup(rewriting_replaces_only_what_changed, fresh),
      cmocka_unit_test_setup(failing_allocations_leave_nothing_behind, fresh),
      cmocka_unit_test_setup(fixtures_open_and_rewrite_to_the_same_bytes, fresh),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
