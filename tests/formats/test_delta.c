/* SPDX-License-Identifier: Apache-2.0
 * engine/formats/delta.h: what is exported comes back byte for byte, wrong bases and hostile files
 * are refused, failures leave nothing behind. */
#include "engine/formats/delta.h"
#include "engine/formats/delta_pack.h"
#include "tests/support/test.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct ka_ctx context, *ctx = &context;
static bool can_pack;

static int fresh(void **state) {
  (void)state;
  ka_ctx_init(ctx);
  ctx->log_level = KA_LOG_QUIET;
  can_pack = ka_ok(ka_delta_pack_check(ctx, "test"));
  ka_error_clear(ctx);
  return 0;
}

#define NEEDS_ZSTD()                                                                               \
  if (!can_pack) {                                                                                 \
    print_message("skipped: no zstd\n");                                                           \
    skip();                                                                                        \
  }

static void put(const char *dir, const char *name, const char *text) {
  T_OK(ka_write_file(ctx, t_str("%s/%s", dir, name), text, strlen(text)));
}

/* A file as transformers writes it, its header by hand: dtypes that kappa does not read too. */
static void put_tensors(const char *dir, const char *name, const char *header,
                        const unsigned char *data, size_t n) {
  struct ka_str s = {0};
  size_t len = strlen(header);
  for (int i = 0; i < 8; i++) {
    char byte = (char)(len >> (8 * i));
    T_OK(ka_str_append(ctx, &s, &byte, 1));
  }
  T_OK(ka_str_append(ctx, &s, header, len));
  T_OK(ka_str_append(ctx, &s, (const char *)data, n));
  T_OK(ka_write_file(ctx, t_str("%s/%s", dir, name), s.data, s.len));
  ka_str_deinit(&s);
}

/* One file: rows [8,16] f32 at 0, cols [12,10] bf16 at 512, fp8 [6] at 752, step [] i64 at 758,
 * gone [3] u8, same [2,2] f16, none [0,4] f32. */
static const char base_header[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"cols\":{\"dtype\":\"BF16\",\"shape\":[12,10],\"data_offsets\":[512,752]},"
    "\"rows\":{\"dtype\":\"F32\",\"shape\":[8,16],\"data_offsets\":[0,512]},"
    "\"fp8\":{\"dtype\":\"F8_E4M3\",\"shape\":[6],\"data_offsets\":[752,758]},"
    "\"step\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[758,766]},"
    "\"gone\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[766,769]},"
    "\"same\":{\"dtype\":\"F16\",\"shape\":[2,2],\"data_offsets\":[769,777]},"
    "\"none\":{\"dtype\":\"F32\",\"shape\":[0,4],\"data_offsets\":[777,777]}}   ";
enum { BASE_BYTES = 777 };

/* Two files with an index, another order, a new tensor and one of another dtype. */
static const char tuned_1[] =
    "{\"step\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]},"
    "\"same\":{\"dtype\":\"F16\",\"shape\":[2,2],\"data_offsets\":[8,16]},"
    "\"cols\":{\"dtype\":\"BF16\",\"shape\":[12,10],\"data_offsets\":[16,256]},"
    "\"fp8\":{\"dtype\":\"F8_E4M3\",\"shape\":[6],\"data_offsets\":[256,262]}}";
static const char tuned_2[] =
    "{\"new\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
    "\"rows\":{\"dtype\":\"F32\",\"shape\":[8,16],\"data_offsets\":[24,536]},"
    "\"none\":{\"dtype\":\"F32\",\"shape\":[0,4],\"data_offsets\":[536,536]}}";
static const char tuned_index[] =
    "{\"metadata\":{},\"weight_map\":{\"step\":\"a.safetensors\",\"same\":\"a.safetensors\","
    "\"cols\":\"a.safetensors\",\"fp8\":\"a.safetensors\",\"new\":\"b.safetensors\","
    "\"rows\":\"b.safetensors\",\"none\":\"b.safetensors\"}}";

static unsigned char base_data[BASE_BYTES];

/* Too large to be stored where the base has it. */
static const char *vocab(void) {
  static char text[70000];
  memset(text, 'v', sizeof text - 1);
  return text;
}

static const char *make_base(void) {
  const char *dir = t_temp_dir();
  for (int i = 0; i < BASE_BYTES; i++) base_data[i] = (unsigned char)(i * 7 + i / 13);
  put_tensors(dir, "model.safetensors", base_header, base_data, BASE_BYTES);
  put(dir, "config.json", "{\"a\": 1}");
  put(dir, "tokenizer.json", "{}");
  put(dir, "vocab.txt", vocab());
  return dir;
}

static const char *make_tuned(void) {
  const char *dir = t_temp_dir();
  unsigned char a[262], b[536];
  memcpy(a, base_data + 758, 8);
  memcpy(a + 8, base_data + 769, 8);
  memcpy(a + 16, base_data + 512, 240);
  memcpy(a + 256, base_data + 752, 6);
  memset(b, 0x3f, 24);
  memcpy(b + 24, base_data, 512);
  a[0] ^= 1;                                                /* step */
  for (int r = 0; r < 12; r++) a[16 + 20 * r + 2 * 4] ^= 9; /* column 4 of cols */
  a[257] ^= 3;                                              /* fp8 */
  for (int r = 2; r < 5; r++) b[24 + 64 * r + 4 * r] ^= 5;  /* rows 2, 3, 4 of rows, columns too */
  b[24 + 64 * 6] ^= 1;                                      /* and row 6, column 0 */
  put_tensors(dir, "a.safetensors", tuned_1, a, sizeof a);
  put_tensors(dir, "b.safetensors", tuned_2, b, sizeof b);
  put(dir, "model.safetensors.index.json", tuned_index);
  put(dir, "config.json", "{\"a\": 1}");
  put(dir, "tokenizer.json", "{\"changed\": true}");
  put(dir, "vocab.txt", vocab());
  put(dir, "selection.json", "{\"new\": true}");
  put(dir, "train_log.jsonl", "a run's own");
  put(dir, "pytorch_model.bin", "weights of another kind");
  put(dir, "other.safetensors", "not the model's");
  T_OK(ka_make_dirs(ctx, t_str("%s/checkpoint-3", dir)));
  return dir;
}

static const struct ka_delta_options plain = {0}, packed = {.pack = true, .level = 3};

static const char *exported(const char *base, const char *tuned,
                            const struct ka_delta_options *options) {
  const char *path = t_str("%s/d.safetensors", t_temp_dir());
  T_OK(ka_delta_export(ctx, base, tuned, path, options));
  return path;
}

/* The names in dir, sorted, a blank after each. */
static const char *names_in(const char *dir) {
  struct ka_arena a;
  const char **names, *all = "";
  int64_t n = 0;
  ka_arena_init(&a, ctx, "names");
  T_OK(ka_list_dir(&a, dir, &names, &n));
  for (int64_t i = 0; i < n; i++) all = t_str("%s%s ", all, names[i]);
  ka_arena_deinit(&a);
  return all;
}

static void expect_same_file(const char *a, const char *b) {
  struct ka_map x, y;
  T_OK(ka_map_file(ctx, a, &x));
  T_OK(ka_map_file(ctx, b, &y));
  assert_int_equal(x.len, y.len);
  assert_memory_equal(x.data, y.data, x.len);
  ka_map_drop(&x);
  ka_map_drop(&y);
}

static void what_is_exported_comes_back_byte_for_byte(void **state) {
  (void)state;
  static const char *const files[] = {
      "a.safetensors",  "b.safetensors",  "config.json", "model.safetensors.index.json",
      "selection.json", "tokenizer.json", "vocab.txt"};
  const char *base = make_base(), *tuned = make_tuned();
  for (int k = 0; k <= can_pack; k++) {
    const char *path = exported(base, tuned, k ? &packed : &plain);
    const char *home = t_temp_dir(), *out = t_str("%s/out", home);
    T_OK(ka_make_dirs(ctx, t_str("%s.tmp.2147483646/left", out))); /* of a killed process */
    T_OK(ka_delta_apply(ctx, base, path, out, NULL));
    assert_string_equal(names_in(home), "out ");
    assert_string_equal(names_in(out),
                        "a.safetensors b.safetensors config.json model.safetensors.index.json "
                        "selection.json tokenizer.json vocab.txt ");
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
      expect_same_file(t_str("%s/%s", out, files[i]), t_str("%s/%s", tuned, files[i]));
    T_FAILS(ka_delta_apply(ctx, base, path, out, NULL), KA_E_INPUT, "is not empty");
    T_FAILS(ka_delta_apply(ctx, base, path, t_str("%s/config.json", out), NULL), KA_E_INPUT,
            "is not a directory");
    const char *empty = t_temp_dir();
    T_OK(ka_delta_apply(ctx, base, path, empty, NULL));
    assert_string_equal(names_in(empty), names_in(out));
  }
}

static void only_what_changed_is_stored(void **state) {
  (void)state;
  struct ka_delta d;
  const char *base = make_base();
  T_OK(ka_delta_open(ctx, &d, exported(base, make_tuned(), &plain)));
  assert_int_equal(d.n_tensors, 5);
  assert_null(ka_delta_find(&d, "same"));
  assert_null(ka_delta_find(&d, "none"));
  assert_false(ka_delta_find(&d, "new")->part);
  assert_false(ka_delta_find(&d, "fp8")->part);
  assert_false(ka_delta_find(&d, "step")->part);
  const struct ka_delta_tensor *cols = ka_delta_find(&d, "cols"), *rows = ka_delta_find(&d, "rows");
  assert_true(cols->part && rows->part);
  assert_int_equal(cols->rows.total, 12);
  assert_int_equal(cols->cols.n, 1);
  assert_int_equal(cols->cols.at[0], 4);
  assert_int_equal(cols->cols.at[1], 5);
  assert_int_equal(rows->rows.n, 2);
  const int64_t expected[] = {2, 5, 6, 7}, columns[] = {0, 1, 2, 5};
  assert_memory_equal(rows->rows.at, expected, sizeof expected);
  assert_memory_equal(rows->cols.at, columns, sizeof columns);
  assert_int_equal(rows->payload->n_bytes, 4 * 4 * 4);
  assert_int_equal(rows->payload->t.shape[0], 4); /* anyone can read it */
  assert_string_equal(rows->payload->dtype_name, "F32");
  ka_delta_close(&d);
  /* Nothing changed: no tensors, and still the whole directory. */
  T_OK(ka_delta_open(ctx, &d, exported(base, base, &plain)));
  assert_int_equal(d.n_tensors, 0);
  assert_int_equal(d.n_files, 4);
  ka_delta_close(&d);
}

/* The tuned model in memory has the same bytes as its files. */
static void a_delta_over_its_base_is_the_tuned_model(void **state) {
  (void)state;
  const char *base = make_base(), *tuned = make_tuned();
  for (int k = 0; k <= can_pack; k++) {
    struct ka_safetensors files, want;
    struct ka_delta d;
    T_OK(ka_delta_open(ctx, &d, exported(base, tuned, k ? &packed : &plain)));
    T_OK(ka_st_open(ctx, &files, base));
    T_OK(ka_st_open(ctx, &want, tuned));
    T_OK(ka_delta_check_base(ctx, &d, &files, NULL));
    T_OK(ka_delta_overlay(ctx, &d, &files));
    ka_delta_close(&d);
    assert_int_equal(files.n_entries, want.n_entries);
    for (int64_t i = 0; i < want.n_entries; i++) {
      const struct ka_st_entry *a = &files.entries[i], *b = &want.entries[i];
      assert_string_equal(a->name, b->name);
      assert_string_equal(a->dtype_name, b->dtype_name);
      assert_int_equal(a->n_bytes, b->n_bytes);
      ka_map_forget(&files.shards[a->shard].map, a->offset_bytes, a->n_bytes);
      if (!b->unreadable) assert_memory_equal(a->t.data, b->t.data, a->n_bytes);
    }
    ka_st_close(&files);
    ka_st_close(&want);
  }
}

static void a_wrong_base_is_refused_by_name(void **state) {
  (void)state;
  const char *base = make_base(), *path = exported(base, make_tuned(), &plain);
  const char *dir = t_temp_dir(), *out = t_str("%s/out", dir);
  static const struct {
    const char *from, *to, *message; /* in the header */
    int byte;                        /* of the data, flipped; -1 none */
  } cases[] = {
      {"", "", "tensor \"rows\" differs (1 of 7", 3},
      {"", "", "tensor \"same\" differs (1 of 7", 770},
      {"\"F16\"", "\"I16\"", "tensor \"same\" differs (1 of 7", -1},
      {"[2,2]", "[4,1]", "tensor \"same\" differs (1 of 7", -1},
      {"\"same\"", "\"sane\"", "tensor \"sane\" is not in that one (2 of 7", -1},
      {"\"step\"", "\"zzzz\"", "tensor \"zzzz\" is not in that one (2 of 7", -1},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *wrong = make_base();
    char header[sizeof base_header];
    strcpy(header, base_header);
    char *at = strstr(header, cases[i].from);
    memcpy(at, cases[i].to, strlen(cases[i].to));
    if (cases[i].byte >= 0) base_data[cases[i].byte] ^= 64;
    put_tensors(wrong, "model.safetensors", header, base_data, BASE_BYTES);
    T_FAILS(ka_delta_apply(ctx, wrong, path, out, NULL), KA_E_INPUT, cases[i].message);
    assert_false(ka_path_exists(out));
  }
  const char *other = make_base();
  put(other, "vocab.txt", "another one");
  T_FAILS(ka_delta_apply(ctx, other, path, out, NULL), KA_E_INPUT,
          "vocab.txt: not what was exported");
  unlink(t_str("%s/vocab.txt", other));
  T_FAILS(ka_delta_apply(ctx, other, path, out, NULL), KA_E_INPUT, "vocab.txt: No such file");
  assert_string_equal(names_in(dir), "");
  /* Another small file than the base's then is no reason. */
  other = make_base();
  put(other, "config.json", "{\"a\": 2}");
  T_OK(ka_delta_apply(ctx, other, path, out, NULL));
}

/* The delta at path again, with delta.json's text changed: the first `from` becomes `to`. */
static const char *forged(const char *path, const char *from, const char *to) {
  struct ka_safetensors st;
  struct ka_st_out out[32];
  struct ka_str text = {0};
  const char *made = t_str("%s/forged.safetensors", t_temp_dir());
  T_OK(ka_st_open(ctx, &st, path));
  for (int64_t i = 0; i < st.n_entries; i++)
    out[i] = (struct ka_st_out){st.entries[i].name, st.entries[i].t};
  struct ka_tensor *t = &out[ka_st_find(&st, "delta.json") - st.entries].t;
  const char *at = memmem(t->data, (size_t)t->shape[0], from, strlen(from));
  if (!at) fail_msg("%s is not in delta.json", from);
  size_t before = (size_t)(at - (const char *)t->data);
  T_OK(ka_str_append(ctx, &text, t->data, before));
  T_OK(ka_str_puts(ctx, &text, to));
  T_OK(ka_str_append(ctx, &text, at + strlen(from), (size_t)t->shape[0] - before - strlen(from)));
  *t = ka_tensor_1d(text.data, KA_U8, (int64_t)text.len);
  T_OK(ka_st_write(ctx, made, out, st.n_entries, (const char *const *)st.shards[0].metadata,
                   st.shards[0].n_metadata));
  ka_str_deinit(&text);
  ka_st_close(&st);
  return made;
}

static void hostile_files_are_refused(void **state) {
  (void)state;
  const char *base = make_base(), *path = exported(base, make_tuned(), &plain);
  static const struct {
    const char *from, *to, *message;
  } cases[] = {
      {"{\"base\"", "[{\"base\"", "not valid JSON"},
      {"{\"base\"", "{\"bose\"", "\"base\" is missing"},
      {"\"fingerprint\":\"", "\"fingerprint\":\"0", "fingerprint is not that of the hashes"},
      {"\"tensors\":{\"cols\":\"", "\"tensors\":{\"cols\":\"00", "expected a hash"},
      {"\"name\":\"config.json\"", "\"name\":\"../config.json\"", "not a plain file name"},
      {"\"name\":\"config.json\"", "\"name\":\"/etc/passwd\"", "not a plain file name"},
      {"\"name\":\"config.json\"", "\"name\":\"..\"", "not a plain file name"},
      {"\"name\":\"config.json\"", "\"name\":\"\"", "not a plain file name"},
      {"\"name\":\"config.json\"", "\"name\":\"a\\u0000b\"", "NUL"},
      {"\"name\":\"config.json\"", "\"name\":\"a.safetensors\"", "there twice"},
      {"\"name\":\"config.json\"", "\"name\":7", "\"name\" is missing or of the wrong type"},
      {"\"bytes\":8", "\"bytes\":-8", "below 0"},
      {"\"from\":\"base\"", "\"from\":\"delta\"", "file:vocab.txt: the delta has no such tensor"},
      {"\"from\":\"base\"", "\"from\":\"hub\"", "expected base, delta or tensors"},
      {"\"from\":\"tensors\"", "\"from\":\"delta\"", "not what is stored"},
      {"\"from\":\"delta\"", "\"from\":\"tensors\"",
       "config.json: header of 8 bytes in a file of 8"},
      {"\"rows\":[0,12]", "\"rows\":[0,13]", "cols: rows: expected ascending ranges"},
      {"\"rows\":[0,12]", "\"rows\":[-1,12]", "expected ascending ranges"},
      {"\"rows\":[0,12]", "\"rows\":[0,6,5,12]", "expected ascending ranges"},
      {"\"rows\":[0,12]", "\"rows\":[0,6,6,12]", "expected ascending ranges"},
      {"\"rows\":[0,12]", "\"rows\":[0]", "expected ascending ranges"},
      {"\"rows\":[0,12]", "\"rows\":[]", "expected ascending ranges"},
      {"\"rows\":[0,12]", "\"rows\":[0,1e1]", "expected ascending ranges"},
      {"\"rows\":[0,12]", "\"rows\":[0,11]", "has 24 bytes, its header asks for 22"},
      {"\"cols\":[4,5]", "\"cols\":[4,9223372036854775807]", "expected ascending ranges"},
      {"\"cols\":[4,5]", "\"colz\":[4,5]", "\"cols\" is missing"},
      {"{\"name\":\"fp8\"", "{\"name\":\"fp9\"", "no header has a tensor of this name"},
      {"{\"name\":\"fp8\"", "{\"rows\":[0,1],\"cols\":[0,6],\"name\":\"fp8\"",
       "the delta has no such tensor"},
      {"{\"name\":\"fp8\"", "{\"packed\":true,\"name\":\"fp8\"",
       "fp8#packed: the delta has no such tensor"},
      {"{\"name\":\"fp8\"},{\"name\":\"new\"}", "{\"name\":\"new\"},{\"name\":\"fp8\"}",
       "not in ascending order"},
      {"{\"name\":\"fp8\"},{\"name\":\"new\"}", "{\"name\":\"fp8\"},{\"name\":\"fp8\"}",
       "not in ascending order"},
      {"{\"name\":\"fp8\"},{\"name\":\"new\"}", "{\"name\":\"fp8\"}",
       "new: neither the base nor the delta"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct ka_delta d;
    ka_status st = ka_delta_open(ctx, &d, forged(path, cases[i].from, cases[i].to));
    if (ka_ok(st)) fail_msg("case %zu opens", i);
    T_FAILS(st, KA_E_INPUT, cases[i].message);
  }
  struct ka_delta d;
  T_FAILS(ka_delta_open(ctx, &d, t_str("%s/model.safetensors", base)), KA_E_INPUT,
          "not a delta of kappa");
  /* Consistent in itself, but not what was exported. */
  const char *out = t_str("%s/out", t_temp_dir());
  const char *lie = forged(path, "\"rows\":[2,5,6,7]", "\"rows\":[1,4,6,7]");
  T_FAILS(ka_delta_apply(ctx, base, lie, out, NULL), KA_E_INPUT, "the delta is damaged");
  /* `new` as the base's: there is none, or only one of another shape. */
  lie = forged(path, "{\"name\":\"new\"}", "{\"name\":\"new\",\"rows\":[0,1],\"cols\":[0,1]}");
  T_FAILS(ka_delta_open(ctx, &d, lie), KA_E_INPUT, "new#part: the delta has no such tensor");
  assert_false(ka_path_exists(out));
}

/* Any cut of the file is noticed, and any flipped bit of a payload when it is applied. */
static void damage_is_noticed(void **state) {
  (void)state;
  const char *base = make_base(), *out = t_str("%s/out", t_temp_dir());
  for (int k = 0; k <= can_pack; k++) {
    struct ka_map m;
    const char *path = exported(base, make_tuned(), k ? &packed : &plain);
    const char *bad = t_str("%s/bad.safetensors", t_temp_dir());
    T_OK(ka_map_file(ctx, path, &m));
    void *copy = malloc(m.len);
    for (size_t n = 0; n < m.len; n += 1 + m.len / 30) {
      struct ka_delta d;
      T_OK(ka_write_file(ctx, bad, m.data, n));
      T_FAILS(ka_delta_open(ctx, &d, bad), KA_E_INPUT, "bad.safetensors");
      memcpy(copy, m.data, m.len);
      ((unsigned char *)copy)[n] ^= 16;
      T_OK(ka_write_file(ctx, bad, copy, m.len));
      ka_status st = ka_delta_apply(ctx, base, bad, out, NULL);
      if (ka_ok(st)) { /* a bit that nobody reads: padding, or text about the delta */
        T_OK(ka_remove_tree(ctx, out));
      } else {
        assert_int_equal(st.code, KA_E_INPUT);
        assert_false(ka_path_exists(out));
      }
      ka_error_clear(ctx);
    }
    free(copy);
    ka_map_drop(&m);
  }
}

static void packed_sizes_must_match(void **state) {
  (void)state;
  NEEDS_ZSTD();
  const char *base = make_base();
  struct ka_safetensors st;
  struct ka_st_out out[32];
  struct ka_delta d;
  T_OK(ka_st_open(ctx, &st, exported(base, make_tuned(), &packed)));
  const char *path = t_str("%s/bomb.safetensors", t_temp_dir());
  /* A frame of another size under the name of `rows`: less, more, junk behind it, junk alone. */
  const char *const names[] = {"new#packed", "cols#packed", "step#packed"};
  for (int i = 0; i < 5; i++) {
    unsigned char bytes[4096];
    for (int64_t k = 0; k < st.n_entries; k++)
      out[k] = (struct ka_st_out){st.entries[k].name, st.entries[k].t};
    struct ka_tensor *t = &out[ka_st_find(&st, "rows#packed") - st.entries].t, other;
    if (i < 3) {
      T_OK(ka_st_get(ctx, &st, names[i], &other));
      *t = other;
    } else if (i == 3) {
      size_t n = (size_t)t->shape[0];
      memcpy(bytes, t->data, n);
      memset(bytes + n, 0, 9);
      *t = ka_tensor_1d(bytes, KA_U8, (int64_t)n + 9);
    } else {
      memset(bytes, 0xff, sizeof bytes);
      *t = ka_tensor_1d(bytes, KA_U8, 64);
    }
    T_OK(ka_st_write(ctx, path, out, st.n_entries, (const char *const *)st.shards[0].metadata,
                     st.shards[0].n_metadata));
    T_FAILS(ka_delta_open(ctx, &d, path), KA_E_INPUT, "rows#packed");
  }
  ka_st_close(&st);
}

/* Blocks of more than one frame, odd ends, all widths. */
static ka_status collect(void *user, const void *bytes, size_t n) {
  return ka_str_append(ctx, user, bytes, n);
}

static void packing_is_lossless(void **state) {
  (void)state;
  NEEDS_ZSTD();
  size_t most = 2 * KA_DELTA_BLOCK + 24;
  unsigned char *x = malloc(most), *y = malloc(most), *back = malloc(most);
  for (size_t i = 0; i < most; i++) {
    x[i] = (unsigned char)(i * 2654435761u >> 13);
    y[i] = i % 5 ? x[i] : (unsigned char)(i >> 3);
  }
  const size_t sizes[] = {0, 8, 24, KA_DELTA_BLOCK, KA_DELTA_BLOCK + 8, most};
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
    for (size_t width = 1; width <= 8; width *= 2)
      for (int with_base = 0; with_base < 2; with_base++) {
        struct ka_str out = {0};
        const unsigned char *base = with_base ? y : NULL;
        T_OK(ka_delta_pack(ctx, x, base, sizes[s], width, 1, collect, &out));
        T_OK(ka_delta_unpack(ctx, "x", back, base, sizes[s], width, (unsigned char *)out.data,
                             out.len));
        assert_memory_equal(back, x, sizes[s]);
        ka_str_deinit(&out);
      }
  free(x);
  free(y);
  free(back);
}

static void names_of_its_own_are_refused(void **state) {
  (void)state;
  const char *base = make_base(), *tuned = t_temp_dir();
  static const char *const names[] = {"x#part", "x#packed", "file:x", "delta.json"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    put_tensors(tuned, "model.safetensors",
                t_str("{\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", names[i]),
                base_data, 1);
    T_FAILS(ka_delta_export(ctx, base, tuned, t_str("%s/d.safetensors", base), &plain),
            KA_E_UNSUPPORTED, names[i]);
  }
  T_FAILS(ka_delta_export(ctx, base, tuned, t_str("%s/d.bin", base), &plain), KA_E_USAGE,
          "NAME.safetensors");
  assert_false(ka_path_exists(t_str("%s/d.safetensors", base)));
}

static void interruption_leaves_nothing(void **state) {
  (void)state;
  volatile int stop = 1;
  const char *base = make_base(), *tuned = make_tuned(), *path = exported(base, tuned, &plain);
  const char *dir = t_temp_dir();
  ctx->interrupted = &stop;
  T_FAILS(ka_delta_export(ctx, base, tuned, t_str("%s/d.safetensors", dir), &plain),
          KA_E_INTERRUPTED, "nothing was written");
  T_FAILS(ka_delta_apply(ctx, base, path, t_str("%s/out", dir), NULL), KA_E_INTERRUPTED,
          "nothing was written");
  assert_string_equal(names_in(dir), "");
}

static void failing_allocations_leave_nothing_behind(void **state) {
  (void)state;
  const char *base = make_base(), *tuned = make_tuned(), *dir = t_temp_dir();
  const char *path = t_str("%s/d.safetensors", dir), *out = t_str("%s/out", dir);
  for (int k = 0; k <= can_pack; k++) {
    bool done = false;
    for (int n = 1; n < 600 && !done; n++) {
      ctx->fail_alloc_at = n;
      ka_status st = ka_delta_export(ctx, base, tuned, path, k ? &packed : &plain);
      done = ka_ok(st) && ctx->fail_alloc_at > 0;
      ctx->fail_alloc_at = 0;
      if (!done) assert_int_equal(st.code, KA_E_MEMORY);
      assert_string_equal(names_in(dir), done ? "d.safetensors " : "");
      ka_error_clear(ctx);
    }
    assert_true(done);
    done = false;
    for (int n = 1; n < 600 && !done; n++) {
      ctx->fail_alloc_at = n;
      ka_status st = ka_delta_apply(ctx, base, path, out, NULL);
      done = ka_ok(st) && ctx->fail_alloc_at > 0;
      ctx->fail_alloc_at = 0;
      if (!done) assert_int_equal(st.code, KA_E_MEMORY);
      assert_string_equal(names_in(dir), done ? "d.safetensors out " : "d.safetensors ");
      ka_error_clear(ctx);
    }
    assert_true(done);
    T_OK(ka_remove_tree(ctx, out));
    T_OK(ka_remove_tree(ctx, path));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(what_is_exported_comes_back_byte_for_byte, fresh),
      cmocka_unit_test_setup(only_what_changed_is_stored, fresh),
      cmocka_unit_test_setup(a_delta_over_its_base_is_the_tuned_model, fresh),
      cmocka_unit_test_setup(a_wrong_base_is_refused_by_name, fresh),
      cmocka_unit_test_setup(hostile_files_are_refused, fresh),
      cmocka_unit_test_setup(damage_is_noticed, fresh),
      cmocka_unit_test_setup(packed_sizes_must_match, fresh),
      cmocka_unit_test_setup(packing_is_lossless, fresh),
      cmocka_unit_test_setup(names_of_its_own_are_refused, fresh),
      cmocka_unit_test_setup(interruption_leaves_nothing, fresh),
      cmocka_unit_test_setup(failing_allocations_leave_nothing_behind, fresh),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
