/* SPDX-License-Identifier: Apache-2.0
 * Decoding with a cache against whole forward passes, sampling, kappa generate and kappa init. */
#include "engine/model/decode.h"
#include "engine/model/init.h"
#include "tests/model/tiny.h"
#include "tests/support/fresh.h"

#include <math.h>
#include <string.h>

static int32_t ids[40];

/* Chunked prefill and single steps give the logits of one pass over all tokens. */
static void decoding_equals_a_whole_pass(void **state) {
  (void)state;
  const char *const configs[] = {tiny_llama,     tiny_mistral, tiny_qwen3,     tiny_olmo2,
                                 tiny_gpt2,      tiny_olmo3,   tiny_smollm3,   tiny_granite,
                                 tiny_phi3,      tiny_gemma2,  tiny_gemma3,    tiny_deepseek2,
                                 tiny_deepseek3, tiny_olmoe,   tiny_qwen2_moe, tiny_gpt_oss};
  for (size_t c = 0; c < sizeof configs / sizeof *configs; c++) {
    struct ka_dev dev;
    struct ka_model m;
    struct ka_decoder d;
    float logits[TINY_V], *all = calloc((size_t)(40 * TINY_V), sizeof *all);
    const char *dir = tiny_make(ctx, configs[c], KA_F32);
    T_OK(ka_dev_open(ctx, &dev, t_device()));
    for (int i = 0; i < 40; i++) ids[i] = i * 7 % TINY_V;
    struct tiny_batch b = tiny_batch(1, 40, ids);
    T_OK(ka_model_open(ctx, &m, &dev, dir, KA_F32));
    T_OK(ka_model_prepare(&m, 1, 40, false));
    T_OK(ka_model_forward(&m, &b.batch, all, NULL));
    ka_model_close(&m);
    T_OK(ka_model_open(ctx, &m, &dev, dir, KA_F32));
    T_OK(ka_decoder_init(&d, &m, 40));
    T_OK(ka_decoder_push(&d, ids, 13, logits, NULL));
    for (int t = 13; t <= 40; t++) {
      /* The products of one row and of many may add in different orders: 3e-6 to 6e-6 was seen
       * where the largest logit of the row was 4. */
      const float *row = all + (t - 1) * TINY_V;
      float largest = 0;
      for (int i = 0; i < TINY_V; i++) largest = fmaxf(largest, fabsf(row[i]));
      for (int i = 0; i < TINY_V; i++) assert_true(fabsf(logits[i] - row[i]) < 1e-5f * largest);
      if (t < 40) T_OK(ka_decoder_push(&d, ids + t, 1, logits, NULL));
    }
    T_FAILS(ka_decoder_push(&d, ids, 1, logits, NULL), KA_E_INPUT, "do not fit");
    ka_decoder_deinit(&d);
    T_OK(ka_decoder_init(&d, &m, 2));
    int32_t beyond = TINY_V;
    T_FAILS(ka_decoder_push(&d, &beyond, 1, logits, NULL), KA_E_INPUT, "vocabulary");
    ka_decoder_deinit(&d);
    ka_model_close(&m);
    ka_dev_close(&dev);
    free(all);
  }
}

static void same_logits(struct ka_model *m, const float *logits, const int32_t *all, int64_t n) {
  float whole[40 * TINY_V], largest = 0;
  struct tiny_batch b = tiny_batch(1, n, all);
  T_OK(ka_model_forward(m, &b.batch, whole, NULL));
  const float *row = whole + (n - 1) * TINY_V;
  for (int i = 0; i < TINY_V; i++) largest = fmaxf(largest, fabsf(row[i]));
  for (int i = 0; i < TINY_V; i++)
    if (fabsf(logits[i] - row[i]) > 1e-5f * largest)
      fail_msg("%d tokens, id %d: %g, not %g", (int)n, i, (double)logits[i], (double)row[i]);
}

/* A sequence that outgrows what longrope calls short goes through anew, and back when it is cut. */
static void decoding_turns_with_the_length(void **state) {
  (void)state;
  struct ka_dev dev;
  struct ka_model m, whole;
  struct ka_decoder d;
  float logits[TINY_V];
  const char *dir = tiny_make(ctx, tiny_phi3, KA_F32);
  T_OK(ka_dev_open(ctx, &dev, t_device()));
  for (int i = 0; i < 40; i++) ids[i] = i * 7 % TINY_V;
  T_OK(ka_model_open(ctx, &whole, &dev, dir, KA_F32));
  T_OK(ka_model_prepare(&whole, 1, 40, false));
  T_OK(ka_model_open(ctx, &m, &dev, dir, KA_F32));
  T_OK(ka_decoder_init(&d, &m, 40));
  T_OK(ka_decoder_push(&d, ids, 5, logits, NULL));
  for (int n = 5; n < 15; n++) {
    same_logits(&whole, logits, ids, n);
    T_OK(ka_decoder_push(&d, ids + n, 1, logits, NULL));
  }
  ka_decoder_rewind(&d, 6);
  T_OK(ka_decoder_push(&d, ids + 6, 2, logits, NULL));
  same_logits(&whole, logits, ids, 8);
  T_OK(ka_decoder_push(&d, ids + 8, 9, logits, NULL));
  same_logits(&whole, logits, ids, 17);
  ka_decoder_deinit(&d);
  ka_model_close(&m);
  ka_model_close(&whole);
  ka_dev_close(&dev);
}

static double log_p(const float *logits, int32_t id) {
  double sum = 0;
  for (int i = 0; i < TINY_V; i++) sum += exp((double)logits[i]);
  return (double)logits[id] - log(sum);
}

/* Pairs are scored as the logits say, in any order and repeatedly, and behind a kept past too. */
static void pairs_equal_the_logits(void **state) {
  (void)state;
  enum { T = 20, N = 9 };
  const int32_t row[N] = {0, 2, 2, 7, 11, 11, 11, 19, 19};
  const int32_t target[N] = {3, 0, 28, 5, 1, 1, 2, 8, 9};
  const struct ka_pairs pairs = {N, row, target};
  const char *const configs[] = {tiny_llama, tiny_mistral}, *const devices[] = {"ref", "cpu"};
  for (int c = 0; c < 4; c++) {
    struct ka_dev dev;
    struct ka_model m;
    struct ka_decoder d;
    float logits[T * TINY_V], loss[N], again[N];
    int32_t best[N], best_again[N];
    T_OK(ka_dev_open(ctx, &dev, devices[c / 2]));
    for (int i = 0; i < T; i++) ids[i] = i * 11 % TINY_V;
    struct tiny_batch b = tiny_batch(1, T, ids);
    T_OK(ka_model_open(ctx, &m, &dev, tiny_make(ctx, configs[c % 2], KA_F32), KA_F32));
    T_OK(ka_model_prepare(&m, 1, T, false));
    T_OK(ka_model_forward(&m, &b.batch, logits, NULL));
    b.batch.pairs = pairs;
    T_OK(ka_model_score(&m, &b.batch, loss, best));
    for (int i = 0; i < N; i++) {
      const float *z = logits + row[i] * TINY_V;
      assert_true(fabs(log_p(z, target[i]) + (double)loss[i]) < 1e-5);
      assert_int_equal(best[i], ka_sample(z, TINY_V, 0, 0, 0));
    }
    for (int chunk = T; chunk >= 7; chunk -= 13) { /* at once, and in three chunks */
      T_OK(ka_model_prepare(&m, 1, T, false));
      T_OK(ka_decoder_attach(&d, &m, 1, T));
      d.chunk = chunk;
      T_OK(ka_decoder_score(&d, ids, T, &pairs, again, best_again));
      for (int i = 0; i < N; i++) assert_true(fabsf(loss[i] - again[i]) < 1e-5f);
      assert_memory_equal(best, best_again, sizeof best);
      const struct ka_pairs rest = {2, (const int32_t[]){0, 8}, (const int32_t[]){1, 8}};
      ka_decoder_rewind(&d, 11);
      T_OK(ka_decoder_score(&d, ids + 11, T - 11, &rest, again, best_again));
      assert_true(fabsf(loss[4] - again[0]) < 1e-5f && fabsf(loss[7] - again[1]) < 1e-5f);
      ka_decoder_deinit(&d);
    }
    ka_model_close(&m);
    ka_dev_close(&dev);
  }
}

/* Sequences of different lengths side by side give what each gives alone. */
static void decoding_side_by_side(void **state) {
  (void)state;
  enum { B = 3, T = 9, STEPS = 6 };
  const char *const configs[] = {tiny_llama, tiny_mistral, tiny_deepseek3, tiny_phi3};
  const char *const devices[] = {"ref", "cpu"};
  for (int c = 0; c < 8; c++) {
    struct ka_dev dev;
    struct ka_model m;
    struct ka_decoder all, one;
    float logits[B * TINY_V], alone[TINY_V];
    int32_t best[B], prompts[B * T], next;
    T_OK(ka_dev_open(ctx, &dev, devices[c / 4]));
    T_OK(ka_model_open(ctx, &m, &dev, tiny_make(ctx, configs[c % 4], KA_F32), KA_F32));
    m.max_position = T + STEPS;
    T_OK(ka_model_prepare(&m, 1, 4 * B, false));
    T_OK(ka_decoder_attach(&all, &m, B, T + STEPS));
    for (int i = 0; i < B * T; i++) prompts[i] = i * 5 % TINY_V;
    for (int b = 0; b < B; b++) all.skip[b] = 3 * b;
    int32_t made[STEPS][B];
    T_OK(ka_decoder_push(&all, prompts, T, logits, best));
    for (int s = 0; s < STEPS; s++) {
      for (int b = 0; b < B; b++) {
        assert_int_equal(best[b], ka_sample(logits + b * TINY_V, TINY_V, 0, 0, 0));
        made[s][b] = best[b];
      }
      if (s + 1 < STEPS) T_OK(ka_decoder_push(&all, made[s], 1, logits, best));
    }
    for (int b = 0; b < B; b++) {
      T_OK(ka_decoder_attach(&one, &m, 1, T + STEPS));
      T_OK(ka_decoder_push(&one, prompts + b * T + 3 * b, T - 3 * b, alone, &next));
      for (int s = 0; s < STEPS; s++) {
        assert_int_equal(next, made[s][b]);
        if (s + 1 < STEPS) T_OK(ka_decoder_push(&one, &next, 1, alone, &next));
      }
      for (int i = 0; i < TINY_V; i++)
        assert_true(fabsf(alone[i] - logits[b * TINY_V + i]) < 1e-5f);
      ka_decoder_deinit(&one);
    }
    ka_decoder_deinit(&all);
    ka_model_close(&m);
    ka_dev_close(&dev);
  }
}

static void sampling(void **state) {
  (void)state;
  const float logits[] = {0, 1, 3, 3};
  assert_int_equal(ka_sample(logits, 4, 0, 1, 0), 2);
  int counts[4] = {0};
  for (uint64_t i = 0; i < 4000; i++) counts[ka_sample(logits, 4, 1, 5, i)]++;
  double z = 1 + exp(1) + 2 * exp(3);
  for (int i = 0; i < 4; i++)
    assert_true(fabs(counts[i] / 4000.0 - exp((double)logits[i]) / z) < 0.03);
  assert_int_equal(ka_sample(logits, 4, 1, 5, 9), ka_sample(logits, 4, 1, 5, 9));
}

static void greedy_golden(void **state) {
  (void)state;
  T_DATA(data);
  struct ka_str out = {0}, want = {0};
  const char *dir = t_str("%s/weights/stories260K-hf", data);
  T_OK(ka_read_file(ctx, t_str("%s/weights/stories260K.greedy200.txt", data), 0, &want));
  assert_int_equal(t_kappa(&out, NULL, "generate %s --max-tokens 200", dir), 0);
  assert_string_equal(out.data, want.data);
  ka_str_clear(&want);
  ka_str_clear(&out);
  T_OK(ka_read_file(ctx, t_str("%s/weights/stories260K.greedy200.ids.json", data), 0, &want));
  T_OK(ka_str_puts(ctx, &want, "\n"));
  assert_int_equal(t_kappa(&out, NULL, "generate %s --max-tokens 200 --ids", dir), 0);
  assert_string_equal(out.data, want.data);
  ka_str_deinit(&out);
  ka_str_deinit(&want);
}

static void chat_takes_the_models_template(void **state) {
  (void)state;
  struct ka_str out = {0}, err = {0};
  const char *config = "{\"architectures\":[\"LlamaForCausalLM\"],\"vocab_size\":257,"
                       "\"hidden_size\":16,\"num_hidden_layers\":1,\"num_attention_heads\":2,"
                       "\"intermediate_size\":24,\"initializer_range\":0.5}";
  const char *path = tiny_config(ctx, config), *dir = t_temp_dir();
  assert_int_equal(t_kappa(NULL, NULL, "init --config %s --out %s --tokenizer bytes", path, dir),
                   0);
  int rc = t_kappa(NULL, &err, "generate %s --chat --prompt hi --max-tokens 3", dir);
  assert_int_equal(rc, 2);
  assert_non_null(strstr(err.data, "template"));
  const char *template = "<{{ messages[0].content }}>{% if add_generation_prompt %}:{% endif %}";
  T_OK(ka_write_file(ctx, t_str("%s/chat_template.jinja", dir), template, strlen(template)));
  rc = t_kappa(&out, NULL, "generate %s --chat --prompt hi --max-tokens 3 --ids", dir);
  assert_int_equal(rc, 0);
  assert_int_equal(strncmp(out.data, "[60, 104, 105, 62, 58, ", 23), 0); /* <hi>: in bytes */
  ka_str_clear(&out);
  assert_int_equal(t_kappa(&out, NULL, "generate %s --chat --prompt hi --max-tokens 3", dir), 0);
  assert_null(strstr(out.data, "hi>:")); /* the answer only */
  ka_str_deinit(&out);
  ka_str_deinit(&err);
}

static void init_depends_on_seed_and_name_only(void **state) {
  (void)state;
  struct ka_safetensors a, b;
  const char *path = tiny_config(ctx, tiny_qwen2), *one = t_temp_dir(), *two = t_temp_dir(),
             *three = t_temp_dir();
  T_OK(ka_model_init(ctx, path, one, 1, KA_N_DTYPES));
  T_OK(ka_model_init(ctx, path, two, 1, KA_N_DTYPES));
  T_OK(ka_model_init(ctx, path, three, 2, KA_BF16));
  T_FAILS(ka_model_init(ctx, path, one, 1, KA_F32), KA_E_INPUT, "holds a model already");
  T_OK(ka_st_open(ctx, &a, one));
  T_OK(ka_st_open(ctx, &b, two));
  assert_int_equal(a.n_entries, b.n_entries);
  for (int64_t i = 0; i < a.n_entries; i++)
    assert_memory_equal(a.entries[i].t.data, b.entries[i].t.data, ka_tensor_bytes(&a.entries[i].t));
  const struct ka_st_entry *q = ka_st_find(&a, "model.layers.0.self_attn.q_proj.weight");
  double sum2 = 0;
  for (int64_t i = 0; i < ka_tensor_elems(&q->t); i++)
    sum2 += pow(ka_load(q->t.data, q->t.dtype, i), 2);
  assert_true(fabs(sqrt(sum2 / (double)ka_tensor_elems(&q->t)) - 0.3) < 0.03);
  const struct ka_st_entry *norm = ka_st_find(&a, "model.norm.weight");
  const struct ka_st_entry *bias = ka_st_find(&a, "model.layers.1.self_attn.k_proj.bias");
  assert_true(ka_load(norm->t.data, KA_F32, 3) == 1 && ka_load(bias->t.data, KA_F32, 3) == 0);
  ka_st_close(&b);
  T_OK(ka_st_open(ctx, &b, three));
  assert_int_equal(b.entries[0].t.dtype, KA_BF16);
  ka_st_close(&a);
  ka_st_close(&b);
  struct ka_hf_config config;
  T_OK(ka_hf_config_open(ctx, &config, three));
  assert_int_equal(config.dtype, KA_BF16);
  ka_hf_config_close(&config);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(decoding_equals_a_whole_pass, fresh),
      cmocka_unit_test_setup(decoding_turns_with_the_length, fresh),
      cmocka_unit_test_setup(pairs_equal_the_logits, fresh),
      cmocka_unit_test_setup(decoding_side_by_side, fresh),
      cmocka_unit_test_setup(sampling, fresh),
      cmocka_unit_test_setup(greedy_golden, fresh),
      cmocka_unit_test_setup(chat_takes_the_models_template, fresh),
      cmocka_unit_test_setup(init_depends_on_seed_and_name_only, fresh),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
