/* SPDX-License-Identifier: Apache-2.0
 * RoPE tables against transformers 5.23's own numbers, families by name, and what ka_model_open
 * says about files that are not the config's model. */
#include "engine/model/rope.h"
#include "tests/model/tiny.h"
#include "tests/support/fresh.h"

#include <math.h>

/* LlamaRotaryEmbedding(LlamaConfig(head_dim=16, rope_parameters=...)) at position 40: inv_freq, cos
 * and sin of channels 0..7, attention_scaling. */
static const struct rope_case {
  struct ka_hf_rope_params p;
  float factor, inv[8], cos[8], sin[8];
} ropes[] = {
    {{.kind = KA_ROPE_DEFAULT, .theta = 10000, .partial_rotary_factor = 1},
     1,
     {1.f, 0.316227764f, 0.100000001f, 0.0316227786f, 0.00999999978f, 0.00316227786f,
      0.00100000005f, 0.000316227786f},
     {-0.666938066f, 0.996578991f, -0.653643608f, 0.301137358f, 0.921060979f, 0.992010653f,
      0.999200106f, 0.999920011f},
     {0.745113134f, 0.0826458037f, -0.756802499f, 0.953580797f, 0.389418334f, 0.12615408f,
      0.0399893373f, 0.0126487743f}},
    {{.kind = KA_ROPE_LINEAR, .theta = 10000, .factor = 4, .partial_rotary_factor = 1},
     1,
     {0.25f, 0.079056941f, 0.0250000004f, 0.00790569466f, 0.00249999994f, 0.000790569466f,
      0.000250000012f, 7.90569466e-05f},
     {-0.839071512f, -0.999786079f, 0.540302336f, 0.950415254f, 0.995004177f, 0.999500036f,
      0.999949992f, 0.999994993f},
     {-0.54402113f, -0.0206835698f, 0.841470957f, 0.310983628f, 0.099833414f, 0.0316175073f,
      0.009999834f, 0.00316227251f}},
    {{.kind = KA_ROPE_LLAMA3,
      .theta = 500000,
      .factor = 8,
      .low_freq_factor = 1,
      .high_freq_factor = 4,
      .original_max_position_embeddings = 128,
      .partial_rotary_factor = 1},
     1,
     {1.f, 0.191126496f, 0.00470075384f, 0.000911583134f, 0.000176776681f, 3.42810235e-05f,
      6.64786967e-06f, 1.28917316e-06f},
     {-0.666938066f, 0.207405508f, 0.98237437f, 0.999335289f, 0.999975026f, 0.999999046f, 1.f, 1.f},
     {0.745113134f, 0.978255033f, 0.18692413f, 0.0364552438f, 0.00707100797f, 0.00137124048f,
      0.000265914772f, 5.15669271e-05f}},
    {{.kind = KA_ROPE_YARN,
      .theta = 10000,
      .factor = 4,
      .original_max_position_embeddings = 64,
      .beta_fast = 32,
      .beta_slow = 1,
      .truncate = true,
      .partial_rotary_factor = 1},
     1.13862944f,
     {1.f, 0.237170815f, 0.049999997f, 0.00790569466f, 0.00249999994f, 0.000790569466f,
      0.000250000012f, 7.90569466e-05f},
     {-0.759395301f, -1.13643789f, -0.473836899f, 1.08217084f, 1.13294101f, 1.13806021f,
      1.13857245f, 1.13862371f},
     {0.848407745f, -0.0706119239f, 1.03535283f, 0.354095101f, 0.113673262f, 0.0360006243f,
      0.0113861058f, 0.00360065652f}},
    {{.kind = KA_ROPE_YARN,
      .theta = 10000,
      .factor = 40,
      .original_max_position_embeddings = 4096,
      .beta_fast = 32,
      .beta_slow = 1,
      .mscale = 1,
      .mscale_all_dim = 0.707,
      .partial_rotary_factor = 1},
     1.0857264f,
     {1.f, 0.316227764f, 0.100000001f, 0.0277108587f, 0.00552406255f, 0.000722638157f,
      2.49999994e-05f, 7.90569447e-06f},
     {-0.724112272f, 1.08201206f, -0.709678113f, 0.484302729f, 1.05932903f, 1.08527291f, 1.0857259f,
      1.08572626f},
     {0.808988988f, 0.0897307321f, -0.821680427f, 0.971726656f, 0.237957358f, 0.0313791223f,
      0.0010857262f, 0.00034333684f}},
};

static void rope_as_transformers(void **state) {
  (void)state;
  for (size_t c = 0; c < sizeof ropes / sizeof *ropes; c++) {
    const struct rope_case *r = &ropes[c];
    float inv[8], factor, cos_table[41 * 8], sin_table[41 * 8];
    ka_rope_frequencies(&r->p, 16, false, inv, &factor);
    ka_rope_table(&r->p, 16, 41, false, cos_table, sin_table);
    assert_true(fabsf(factor - r->factor) < 2e-7f);
    for (int i = 0; i < 8; i++) {
      assert_true(fabsf(inv[i] / r->inv[i] - 1) < 3e-7f);
      /* an ulp of the frequency at position 40 is 2e-6 of angle */
      assert_true(fabsf(cos_table[40 * 8 + i] - r->cos[i]) < 5e-6f);
      assert_true(fabsf(sin_table[40 * 8 + i] - r->sin[i]) < 5e-6f);
      assert_true(cos_table[i] == factor && sin_table[i] == 0);
    }
  }
}

static void roles_by_name(void **state) {
  (void)state;
  struct ka_hf_config config;
  const struct ka_family *f = NULL;
  T_OK(ka_hf_config_open(ctx, &config, tiny_config(ctx, tiny_qwen2)));
  T_OK(ka_family_find(ctx, &config, &f));
  assert_string_equal(f->name, "qwen2");
  struct ka_tensor_match match;
  assert_true(ka_tensor_map_match(&f->map, "model.layers.12.self_attn.k_proj.bias", &match));
  assert_true(match.row->role == KA_ROLE_K_BIAS && match.layer == 12 && match.n_rows == 1);
  assert_true(ka_tensor_map_match(&f->map, "model.norm.weight", &match));
  assert_true(match.row->role == KA_ROLE_FINAL_NORM && match.layer == -1);
  const char *const strangers[] = {"model.layers.01.mlp.up_proj.weight",
                                   "model.layers..mlp.up_proj.weight",
                                   "model.layers.-1.mlp.up_proj.weight",
                                   "model.layers.1.mlp.up_proj.weightX",
                                   "model.layers.1.self_attn.o_proj.bias",
                                   "vision_tower.layers.1.mlp.up_proj.weight",
                                   ""};
  for (size_t i = 0; i < sizeof strangers / sizeof *strangers; i++)
    assert_false(ka_tensor_map_match(&f->map, strangers[i], &match));
  ka_hf_config_close(&config);
}

static void open_fails(const char *config, const char *dir, int code, const char *part) {
  struct ka_dev dev;
  struct ka_model m;
  T_OK(ka_dev_open(ctx, &dev, "ref"));
  if (config) T_OK(ka_write_file(ctx, t_str("%s/config.json", dir), config, strlen(config)));
  T_FAILS(ka_model_open(ctx, &m, &dev, dir, KA_F32), code, part);
  ka_dev_close(&dev);
}

#define LLAMA_WITH(more)                                                                           \
  "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\"," TINY_COMMON "," more "}"

static void wrong_models_are_refused(void **state) {
  (void)state;
  const char *dir = tiny_make(ctx, tiny_mistral, KA_F32);
  open_fails(LLAMA_WITH("\"attention_bias\":true,\"tie_word_embeddings\":true"), dir, KA_E_INPUT,
             "model.layers.0.self_attn.q_proj.bias: missing");
  /* every problem in one message, and no more than a screenful */
  open_fails(LLAMA_WITH("\"attention_bias\":true"), dir, KA_E_INPUT, "lm_head.weight: missing");
  open_fails(LLAMA_WITH("\"attention_bias\":true"), dir, KA_E_INPUT, "and 1 more");
  open_fails(
      "{\"architectures\":[\"MistralForCausalLM\"],\"vocab_size\":29,\"hidden_size\":12,"
      "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":1,"
      "\"intermediate_size\":20,\"head_dim\":6,\"tie_word_embeddings\":true}",
      dir, KA_E_INPUT,
      "model.layers.1.self_attn.v_proj.weight: got shape [12, 12], config.json says [6, 12]");
  open_fails(LLAMA_WITH("\"hidden_activation\":\"relu\""), dir, KA_E_UNSUPPORTED, "hidden_act");
  open_fails(LLAMA_WITH("\"rope_scaling\":{\"rope_type\":\"dynamic\",\"factor\":2.0}"), dir,
             KA_E_UNSUPPORTED, "dynamic");
  open_fails(LLAMA_WITH("\"final_logit_softcapping\":30.0"), dir, KA_E_UNSUPPORTED,
             "final_logit_softcapping: it would change what the model computes, and a llama model");
  open_fails(LLAMA_WITH("\"quantization_config\":{\"quant_method\":\"gptq\"}"), dir,
             KA_E_UNSUPPORTED, "quantization_config: the weights are quantised");
  const char *fresh_config = tiny_config(ctx, LLAMA_WITH("\"quantization_config\":{}"));
  T_FAILS(ka_model_init(ctx, fresh_config, t_temp_dir(), 1, KA_F32), KA_E_UNSUPPORTED,
          "quantization_config: a new model is not quantised");
  /* values that change nothing, and a key of tools, go as far as the tensors */
  open_fails(LLAMA_WITH("\"final_logit_softcapping\":null,\"residual_multiplier\":1.0,"
                        "\"use_bidirectional_attention\":false,\"auto_map\":{},"
                        "\"attention_bias\":true"),
             dir, KA_E_INPUT, "q_proj.bias: missing");
  open_fails("{\"architectures\":[\"BertModel\"],\"vocab_size\":29,\"hidden_size\":12,"
             "\"num_hidden_layers\":2,\"num_attention_heads\":4}",
             dir, KA_E_UNSUPPORTED, "got \"BertModel\", expected one of DeepseekV2ForCausalLM, ");
  open_fails(NULL, "/nonexistent", KA_E_INPUT, "/nonexistent");
}

/* What transformers passes over and the authors' code does not, and what cannot be routed. */
static void latent_models_are_refused_by_key(void **state) {
  (void)state;
  static const struct {
    const char *const *config;
    const char *without, *with, *key;
    int code;
  } cases[] = {
      {&tiny_deepseek2, "}", ",\"norm_topk_prob\":true}", "norm_topk_prob", KA_E_UNSUPPORTED},
      {&tiny_deepseek2, "group_limited_greedy", "noaux_tc", "topk_method", KA_E_UNSUPPORTED},
      {&tiny_deepseek2, "}", ",\"scoring_func\":\"sigmoid\"}", "scoring_func", KA_E_UNSUPPORTED},
      {&tiny_deepseek2, "}", ",\"moe_layer_freq\":2}", "moe_layer_freq", KA_E_UNSUPPORTED},
      {&tiny_deepseek2, "}", ",\"mlp_bias\":true}", "mlp_bias", KA_E_UNSUPPORTED},
      {&tiny_deepseek2, "}", ",\"num_key_value_heads\":1}", "num_key_value_heads",
       KA_E_UNSUPPORTED},
      {&tiny_deepseek2, "rope_head_dim\":4", "rope_head_dim\":3", "qk_rope_head_dim", KA_E_INPUT},
      {&tiny_deepseek2, "lora_rank\":7", "lora_rank\":0", "kv_lora_rank", KA_E_INPUT},
      {&tiny_deepseek2, "per_tok\":2", "per_tok\":3", "topk_group", KA_E_INPUT},
      {&tiny_deepseek3, "}", ",\"topk_method\":\"greedy\"}", "topk_method", KA_E_UNSUPPORTED},
      {&tiny_deepseek3, "}", ",\"scoring_func\":\"softmax\"}", "scoring_func", KA_E_UNSUPPORTED},
      {&tiny_deepseek3, "n_group\":2", "n_group\":4", "n_group", KA_E_INPUT}, /* of one expert */
      {&tiny_deepseek3, "topk_group\":2", "topk_group\":3", "topk_group", KA_E_INPUT},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *base = *cases[i].config, *without = cases[i].without;
    const char *at = *without == '}' ? strrchr(base, '}') : strstr(base, without);
    assert_non_null(at);
    const char *text =
        t_str("%.*s%s%s", (int)(at - base), base, cases[i].with, at + strlen(without));
    open_fails(text, tiny_make(ctx, base, KA_F32), cases[i].code,
               t_str("key \"%s\"", cases[i].key));
  }
}

/* The bias that settles choices keeps its digits in bf16. */
static void a_choice_keeps_its_digits(void **state) {
  (void)state;
  struct ka_dev dev;
  struct ka_model m;
  T_OK(ka_dev_open(ctx, &dev, t_device()));
  T_OK(ka_model_open(ctx, &m, &dev, tiny_make(ctx, tiny_deepseek3, KA_F32), KA_BF16));
  T_OK(ka_model_prepare(&m, 1, 8, false));
  int64_t bias = ka_model_param(&m, "model.layers.1.mlp.gate.e_score_correction_bias");
  assert_true(bias >= 0 && m.params[bias].weight.dtype == KA_F32);
  assert_true(m.params[ka_model_param(&m, "model.layers.1.mlp.gate.weight")].weight.dtype ==
              KA_BF16);
  ka_model_close(&m);
  ka_dev_close(&dev);
}

/* Through a window of 5 and two layers, token 0 reaches token 8 and no further. */
static void a_window_limits_what_is_seen(void **state) {
  (void)state;
  enum { T = 16 };
  struct ka_dev dev;
  struct ka_model m;
  static float logits[2][T * TINY_V];
  int32_t ids[T];
  T_OK(ka_dev_open(ctx, &dev, "ref"));
  T_OK(ka_model_open(ctx, &m, &dev, tiny_make(ctx, tiny_mistral, KA_F32), KA_F32));
  T_OK(ka_model_prepare(&m, 1, T, false));
  for (int i = 0; i < T; i++) ids[i] = i;
  for (int k = 0; k < 2; k++) {
    ids[0] = 20 + k;
    struct tiny_batch b = tiny_batch(1, T, ids);
    T_OK(ka_model_forward(&m, &b.batch, logits[k], NULL));
  }
  for (int t = 0; t < T; t++) {
    bool same = memcmp(&logits[0][t * TINY_V], &logits[1][t * TINY_V], TINY_V * sizeof(float)) == 0;
    assert_true(same == (t > 8));
  }
  ka_model_close(&m);
  ka_dev_close(&dev);
}

/* Of experts a token is multiplied by 2 of 5, of the table of tokens by none. */
static void what_a_token_meets(void **state) {
  (void)state;
  struct ka_dev dev;
  struct ka_model m;
  double all = 0, trained = 0;
  T_OK(ka_dev_open(ctx, &dev, "ref"));
  T_OK(ka_model_open(ctx, &m, &dev, tiny_make(ctx, tiny_olmoe, KA_F32), KA_F32));
  for (int64_t i = 0; i < m.n_params; i++) {
    const char *name = m.params[i].name;
    double share = strstr(name, ".experts.") ? 0.4 : strstr(name, "embed_tokens") ? 0 : 1;
    all += share * (double)ka_tensor_elems(&m.params[i].stored);
    if (strstr(name, "experts.3.up"))
      trained += share * (double)ka_tensor_elems(&m.params[i].stored);
  }
  static const struct ka_train_part parts[] = {
      {"model.embed_tokens.weight", 0, -1, 0, -1},
      {"model.layers.0.mlp.experts.3.up_proj.weight", 0, -1, 0, -1},
      {"model.layers.1.mlp.experts.3.up_proj.weight", 0, -1, 0, -1}};
  T_OK(ka_model_train_parts(&m, parts, 3));
  assert_true(fabs(ka_model_n_active(&m, false) - all) < 1e-9 * all);
  assert_true(fabs(ka_model_n_active(&m, true) - trained) < 1e-9 * trained);
  ka_model_close(&m);
  ka_dev_close(&dev);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(rope_as_transformers, fresh),
      cmocka_unit_test_setup(what_a_token_meets, fresh),
      cmocka_unit_test_setup(roles_by_name, fresh),
      cmocka_unit_test_setup(wrong_models_are_refused, fresh),
      cmocka_unit_test_setup(latent_models_are_refused_by_key, fresh),
      cmocka_unit_test_setup(a_choice_keeps_its_digits, fresh),
      cmocka_unit_test_setup(a_window_limits_what_is_seen, fresh),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
