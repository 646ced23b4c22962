/* SPDX-License-Identifier: Apache-2.0
 * kappa init --from MODEL --tokens ...: old rows bit for bit, new ones at the mean, tokenizer files
 * that agree. */
#include "base/json.h"
#include "engine/formats/safetensors.h"
#include "tests/support/test.h"
#include "tokenizer/tokenizer.h"

#include <math.h>
#include <string.h>

enum { C = 16, V = 257 };

static struct ka_ctx context, *ctx = &context;
static const char *home;

static int fresh(void **state) {
  (void)state;
  ka_ctx_init(ctx);
  home = t_temp_dir();
  return 0;
}

/* A model with `rows` rows for the 257 tokens of its tokenizer. */
static void make(const char *name, int rows, bool tied) {
  const char *config =
      t_str("{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"vocab_size\":%d,"
            "\"hidden_size\":%d,\"num_hidden_layers\":1,\"num_attention_heads\":2,\"intermediate_"
            "size\":16,"
            "\"initializer_range\":0.5,\"max_position_embeddings\":64,\"tie_word_embeddings\":%s}",
            rows, C, tied ? "true" : "false");
  const char *path = t_str("%s/%s.json", home, name);
  T_OK(ka_write_file(ctx, path, config, strlen(config)));
  assert_int_equal(t_kappa(NULL, NULL, "init --config %s --out %s/%s --tokenizer bytes --dtype f32",
                           path, home, name),
                   0);
}

static void grow(const char *from, const char *to, const char *words) {
  struct ka_str err = {0};
  if (t_kappa(NULL, &err, "init --from %s/%s --out %s/%s %s", home, from, home, to, words) != 0)
    fail_msg("%s", err.data);
  ka_str_deinit(&err);
}

static const float *values(struct ka_safetensors *st, const char *dir, const char *name, int rows) {
  struct ka_tensor t;
  if (!st->n_entries) T_OK(ka_st_open(ctx, st, t_str("%s/%s", home, dir)));
  T_OK(ka_st_get(ctx, st, name, &t));
  assert_int_equal(t.shape[0], rows);
  assert_int_equal(t.shape[1], C);
  return t.data;
}

static void expect_grown(const char *from, const char *to, const char *name) {
  struct ka_safetensors a = {0}, b = {0};
  const float *old = values(&a, from, name, V), *now = values(&b, to, name, V + 2);
  assert_memory_equal(old, now, sizeof(float) * V * C);
  for (int c = 0; c < C; c++) {
    double mean = 0;
    for (int v = 0; v < V; v++) mean += old[v * C + c] / (double)V;
    for (int i = 0; i < 2; i++) { /* 1e-9 of the variance 0.25: 1.6e-5 */
      double off = fabs(now[(V + i) * C + c] - mean);
      assert_true(off > 0 && off < 1e-4);
    }
  }
  assert_true(memcmp(now + V * C, now + (V + 1) * C, sizeof(float) * C) != 0);
  ka_st_close(&a);
  ka_st_close(&b);
}

static void rows_are_added_at_the_mean(void **state) {
  (void)state;
  json_t *config = NULL;
  struct ka_tokenizer *t;
  struct ka_tok_tokens ids = {0};
  make("base", V, false);
  grow("base", "more", "--tokens '<a>' '<b c>' '<a>' z");
  expect_grown("base", "more", "model.embed_tokens.weight");
  expect_grown("base", "more", "lm_head.weight");
  T_OK(ka_json_load(ctx, t_str("%s/more/config.json", home), &config));
  assert_int_equal(json_integer_value(json_object_get(config, "vocab_size")), V + 2);
  json_decref(config);
  T_OK(ka_tokenizer_open(ctx, &t, t_str("%s/more", home)));
  T_OK(ka_tokenizer_encode(ctx, t, "x<b c>", 6, true, &ids));
  assert_int_equal(ids.n, 2);
  assert_int_equal(ids.ids[1], V + 1);
  assert_false(ka_tokenizer_is_special(t, V + 1));
  ka_tok_tokens_deinit(&ids);
  ka_tokenizer_close(t);
  assert_int_equal(t_kappa(NULL, NULL, "generate %s/more --prompt '<a>' --max-tokens 2", home), 0);
}

static void the_same_seed_gives_the_same_bytes(void **state) {
  (void)state;
  struct ka_str a = {0}, b = {0};
  make("tied", V, true);
  grow("tied", "one", "--special --tokens '<x>' '<y>'");
  grow("tied", "two", "--special --tokens '<x>' '<y>'");
  expect_grown("tied", "one", "model.embed_tokens.weight");
  T_OK(ka_read_file(ctx, t_str("%s/one/model.safetensors", home), 0, &a));
  T_OK(ka_read_file(ctx, t_str("%s/two/model.safetensors", home), 0, &b));
  assert_true(a.len == b.len && memcmp(a.data, b.data, a.len) == 0);
  ka_str_deinit(&a);
  ka_str_deinit(&b);
}

static void free_rows_are_taken_first(void **state) {
  (void)state;
  struct ka_safetensors a = {0}, b = {0};
  make("wide", V + 7, false);
  grow("wide", "wide2", "--tokens '<x>'");
  const float *old = values(&a, "wide", "model.embed_tokens.weight", V + 7);
  const float *now = values(&b, "wide2", "model.embed_tokens.weight", V + 7);
  assert_memory_equal(old, now, sizeof(float) * (V + 7) * C);
  ka_st_close(&a);
  ka_st_close(&b);
}

static void a_model_is_not_overwritten(void **state) {
  (void)state;
  struct ka_str err = {0};
  assert_int_equal(
      t_kappa(NULL, &err, "init --from %s/wide --tokens '<q>' --out %s/wide2", home, home), 2);
  assert_non_null(strstr(err.data, "there is a model already"));
  ka_str_deinit(&err);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rows_are_added_at_the_mean),
      cmocka_unit_test(the_same_seed_gives_the_same_bytes),
      cmocka_unit_test(free_rows_are_taken_first),
      cmocka_unit_test(a_model_is_not_overwritten),
  };
  return cmocka_run_group_tests(tests, fresh, NULL);
}
