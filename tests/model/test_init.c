/* SPDX-License-Identifier: Apache-2.0
 * `kappa init` starts every weight as its family's authors do (compare_init.py sets it beside
 * transformers). */
#include "engine/formats/safetensors.h"
#include "tests/model/bed.h"

/* Standard deviation of the tensors whose names hold `part`, of rows [row, row + n_rows) (n_rows 0:
 * all). */
static double deviation(const struct ka_safetensors *files, const char *part, int64_t row,
                        int64_t n_rows) {
  double sum = 0, squares = 0, n = 0;
  for (int64_t i = 0; i < files->n_entries; i++) {
    const struct ka_st_entry *e = &files->entries[i];
    if (!strstr(e->name, part)) continue;
    int64_t width = e->t.n_dim > 1 ? e->t.shape[1] : 1, all = ka_tensor_elems(&e->t);
    int64_t first = row * width, end = n_rows > 0 ? (row + n_rows) * width : all;
    for (int64_t k = first; k < end; k++) {
      double v = ka_load(e->t.data, e->t.dtype, k);
      sum += v;
      squares += v * v;
      n++;
    }
  }
  assert_true(n > 0);
  return sqrt(squares / n - sum * sum / n / n);
}

static void near(double got, double want) {
  if (fabs(got - want) > 0.1 * want) fail_msg("got %g, expected %g", got, want);
}

static void gpt2_narrows_with_the_depth(void **state) {
  (void)state;
  struct ka_safetensors files;
  T_OK(ka_st_open(ctx, &files,
                  tiny_make(ctx,
                            "{\"architectures\":[\"GPT2LMHeadModel\"],\"model_type\":\"gpt2\","
                            "\"vocab_size\":61,\"n_embd\":32,\"n_layer\":8,\"n_head\":4,"
                            "\"n_positions\":40,\"initializer_range\":0.2}",
                            KA_F32)));
  near(deviation(&files, "c_attn.weight", 0, 0), 0.2);
  near(deviation(&files, "c_fc.weight", 0, 0), 0.2);
  near(deviation(&files, "wte.weight", 0, 0), 0.2);
  near(deviation(&files, "attn.c_proj.weight", 0, 0), 0.2 / sqrt(16));
  near(deviation(&files, "mlp.c_proj.weight", 0, 0), 0.2 / sqrt(16));
  ka_st_close(&files);
}

#define PADDED                                                                                     \
  ",\"initializer_range\":0.2,\"vocab_size\":61,\"hidden_size\":32,\"num_hidden_layers\":2,"       \
  "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"intermediate_size\":20,"                  \
  "\"pad_token_id\":7,\"tie_word_embeddings\":false"

static void padding_starts_at_zero(void **state) {
  (void)state;
  static const char *const models[] = {
      "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\"" PADDED "}",
      "{\"architectures\":[\"Gemma2ForCausalLM\"],\"model_type\":\"gemma2\",\"head_dim\":8" PADDED
      "}"};
  for (int i = 0; i < 2; i++) {
    struct ka_safetensors files;
    T_OK(ka_st_open(ctx, &files, tiny_make(ctx, models[i], KA_F32)));
    assert_true(deviation(&files, "embed_tokens", 7, 1) == 0);
    near(deviation(&files, "embed_tokens", 8, 30), 0.2);
    near(deviation(&files, "lm_head", 0, 0), 0.2);
    near(deviation(&files, "down_proj", 0, 0), 0.2);
    ka_st_close(&files);
  }
}

static void gpt_oss_draws_the_routers_bias(void **state) {
  (void)state;
  struct ka_safetensors files;
  T_OK(ka_st_open(ctx, &files, tiny_make(ctx, tiny_gpt_oss, KA_F32)));
  assert_true(deviation(&files, "router.bias", 0, 0) > 0.1);
  assert_true(deviation(&files, "self_attn.sinks", 0, 0) > 0.1);
  assert_true(deviation(&files, "experts.down_proj_bias", 0, 0) == 0);
  ka_st_close(&files);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(gpt2_narrows_with_the_depth, fresh),
      cmocka_unit_test_setup(padding_starts_at_zero, fresh),
      cmocka_unit_test_setup(gpt_oss_draws_the_routers_bias, fresh),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
