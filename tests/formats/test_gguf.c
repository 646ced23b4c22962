/* SPDX-License-Identifier: Apache-2.0
 * GGUF files against those of the public gguf package (make_gguf.py). */
#include "engine/formats/gguf.h"
#include "tests/support/fresh.h"

#include <stdlib.h>
#include <string.h>

static void load(const char *path, struct ka_str *out) { T_OK(ka_read_file(ctx, path, 0, out)); }

static const char *golden(const char *name) {
  const char *root = getenv("KAPPA_SOURCE_DIR");
  return t_str("%s/tests/formats/gguf/%s", root ? root : ".", name);
}

static void same_bytes(const struct ka_str *got, const struct ka_str *want) {
  size_t at = 0;
  while (at < got->len && at < want->len && got->data[at] == want->data[at]) at++;
  if (at < got->len || at < want->len)
    fail_msg("%zu and %zu bytes differ from byte %zu on (%d, %d)", got->len, want->len, at,
             got->data[at], want->data[at]);
}

static void a_file_is_the_packages(void **state) {
  static const int64_t odd[] = {3, 5}, blocks[] = {2, 2, 32}, halves[] = {2, 7};
  static const int32_t kinds[] = {1, 3, 6};
  static const float scores[] = {0.5f, -1, 2.25f};
  struct ka_gguf g;
  struct ka_str got = {0}, want = {0};
  float v[128], short_rows[14];
  const char *path = t_str("%s/small.gguf", t_temp_dir());
  (void)state;
  ka_gguf_init(&g, ctx);
  T_OK(ka_gguf_set_text(&g, "general.architecture", "llama", 5));
  T_OK(ka_gguf_set_u32(&g, "llama.block_count", 3));
  T_OK(ka_gguf_set_f32(&g, "llama.rope.freq_base", 10000.5));
  T_OK(ka_gguf_set_bool(&g, "tokenizer.ggml.add_bos_token", true));
  T_OK(ka_gguf_list_text(&g, "tokenizer.ggml.tokens", 3));
  T_OK(ka_gguf_put_text(&g, "a", 1));
  T_OK(ka_gguf_put_text(&g, "", 0));
  T_OK(ka_gguf_put_text(&g, "\xc3\xbc\xe4\xb8\xad", 5));
  T_OK(ka_gguf_set_i32_list(&g, "tokenizer.ggml.token_type", kinds, 3));
  T_OK(ka_gguf_set_f32_list(&g, "tokenizer.ggml.scores", scores, 3));
  T_OK(ka_gguf_add_tensor(&g, "odd", KA_GGUF_Q8_0, 2, odd)); /* rows of 5: f32 */
  T_OK(ka_gguf_add_tensor(&g, "blocks", KA_GGUF_Q8_0, 3, blocks));
  T_OK(ka_gguf_add_tensor(&g, "halves", KA_GGUF_BF16, 2, halves));
  T_OK(ka_gguf_begin(&g, path));
  for (int i = 0; i < 15; i++) v[i] = (float)i;
  T_OK(ka_gguf_write_rows(&g, v, 1));
  T_OK(ka_gguf_write_rows(&g, v + 5, 2));
  for (int i = 0; i < 128; i++) v[i] = (float)(i - 40) / 7;
  T_OK(ka_gguf_write_rows(&g, v, 3));
  T_OK(ka_gguf_write_rows(&g, v + 96, 1));
  for (int i = 0; i < 14; i++) short_rows[i] = v[i / 7 * 32 + i % 7];
  T_OK(ka_gguf_write_rows(&g, short_rows, 2));
  T_OK(ka_gguf_commit(&g));
  ka_gguf_deinit(&g);
  load(path, &got);
  load(golden("small.gguf"), &want);
  same_bytes(&got, &want);
  ka_str_deinit(&got);
  ka_str_deinit(&want);
}

/* Halves, zeros, a scale below f16's range, one above it. */
static void blocks_are_the_packages(void **state) {
  struct ka_gguf g;
  struct ka_str values = {0}, want = {0}, got = {0};
  const char *path = t_str("%s/q.gguf", t_temp_dir());
  (void)state;
  load(golden("values.f32"), &values);
  load(golden("values.q8_0"), &want);
  int64_t shape[] = {(int64_t)(values.len / 128), 32};
  float *v = calloc(values.len / 4, sizeof *v);
  assert_non_null(v);
  memcpy(v, values.data, values.len);
  ka_gguf_init(&g, ctx);
  T_OK(ka_gguf_add_tensor(&g, "v", KA_GGUF_Q8_0, 2, shape));
  T_OK(ka_gguf_begin(&g, path));
  T_OK(ka_gguf_write_rows(&g, v, shape[0]));
  T_OK(ka_gguf_commit(&g));
  ka_gguf_deinit(&g);
  load(path, &got);
  size_t padded = (want.len + 31) / 32 * 32;
  assert_true(got.len > padded);
  struct ka_str tail = {.data = got.data + got.len - padded, .len = want.len};
  same_bytes(&tail, &want);
  free(v);
  ka_str_deinit(&values);
  ka_str_deinit(&want);
  ka_str_deinit(&got);
}

static void what_is_not_whole_disappears(void **state) {
  struct ka_gguf g;
  int64_t shape[] = {2, 4};
  float row[4] = {0};
  const char *path = t_str("%s/half.gguf", t_temp_dir());
  (void)state;
  ka_gguf_init(&g, ctx);
  T_OK(ka_gguf_add_tensor(&g, "v", KA_GGUF_F32, 2, shape));
  T_OK(ka_gguf_begin(&g, path));
  T_OK(ka_gguf_write_rows(&g, row, 1));
  T_FAILS(ka_gguf_commit(&g), KA_E_INTERNAL, "gguf");
  ka_gguf_deinit(&g);
  assert_false(ka_path_exists(path));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_file_is_the_packages),
      cmocka_unit_test(blocks_are_the_packages),
      cmocka_unit_test(what_is_not_whole_disappears),
  };
  return cmocka_run_group_tests(tests, fresh, NULL);
}
