/* SPDX-License-Identifier: Apache-2.0
 * engine/formats/config.h: both forms of config.json, what is refused, what is copied. */
#include "engine/formats/config.h"
#include "tests/support/fresh.h"

#include <string.h>
#include <unistd.h>

/* The required keys, then `more`. */
static const char *with(const char *more) {
  return t_str(
      "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"vocab_size\":256,"
      "\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4%s%s}",
      *more ? "," : "", more);
}

static void parse(struct ka_hf_config *c, const char *more) {
  const char *text = with(more);
  T_OK(ka_hf_config_parse(ctx, c, text, strlen(text), "config.json"));
}

static void defaults_are_resolved(void **state) {
  (void)state;
  struct ka_hf_config c;
  parse(&c, "");
  assert_string_equal(c.architecture, "LlamaForCausalLM");
  assert_int_equal(c.num_key_value_heads, 4);
  assert_int_equal(c.head_dim, 16);
  assert_int_equal(c.intermediate_size, 0);
  assert_int_equal(c.bos_token_id, -1);
  assert_int_equal(c.n_eos, 0);
  assert_true(c.rms_norm_eps == 1e-6 && c.rope.theta == 10000 && c.rope.kind == KA_ROPE_DEFAULT);
  assert_true(c.rope.partial_rotary_factor == 1 && !c.has_rope_local && !c.has_dtype);
  assert_false(c.has_tie_word_embeddings || c.has_use_sliding_window);
  assert_string_equal(c.hidden_act, "silu");
  assert_null(c.layer_types);
  ka_hf_config_close(&c);
  parse(&c, "\"eos_token_id\":[1,2],\"bos_token_id\":null,\"head_dim\":null,\"torch_dtype\":"
            "\"bfloat16\",\"layer_types\":[\"full_attention\",\"sliding_attention\"],"
            "\"hidden_act\":\"gelu\",\"hidden_activation\":\"gelu_pytorch_tanh\","
            "\"tie_word_embeddings\":true,\"num_key_value_heads\":2,\"sliding_window\":null");
  assert_true(c.n_eos == 2 && c.eos_token_ids[1] == 2 && c.head_dim == 16 && c.dtype == KA_BF16);
  assert_string_equal(c.layer_types[1], "sliding_attention");
  assert_string_equal(c.hidden_act, "gelu_pytorch_tanh");
  assert_true(c.has_tie_word_embeddings && c.tie_word_embeddings && c.sliding_window == 0);
  ka_hf_config_close(&c);
}

static void nested_text_config_comes_first(void **state) {
  (void)state;
  const char *text =
      "{\"architectures\":[\"Gemma3ForConditionalGeneration\"],\"model_type\":\"gemma3\","
      "\"eos_token_id\":[1,106],\"text_config\":{\"model_type\":\"gemma3_text\",\"vocab_size\":9,"
      "\"hidden_size\":8,\"num_hidden_layers\":1,\"sliding_window\":null,\"rope_theta\":5e5}}";
  struct ka_hf_config c;
  T_OK(ka_hf_config_parse(ctx, &c, text, strlen(text), "config.json"));
  assert_string_equal(c.model_type, "gemma3_text");
  assert_string_equal(c.architecture, "Gemma3ForConditionalGeneration");
  assert_true(c.n_eos == 2 && c.rope.theta == 5e5);
  int64_t v;
  T_OK(ka_hf_i64_or(ctx, &c, "query_pre_attn_scalar", 7, &v));
  assert_int_equal(v, 7);
  /* what the file lacks, the family says; not what it sets to null */
  assert_true(c.num_attention_heads == 8 && c.num_key_value_heads == 4 && c.head_dim == 256);
  assert_true(c.tie_word_embeddings && c.rope_local.theta == 10000 && c.sliding_window == 0);
  ka_hf_config_close(&c);
}

static void gpt2_names_are_known(void **state) {
  (void)state;
  const char *text = "{\"model_type\":\"gpt2\",\"vocab_size\":9,\"n_embd\":8,\"n_layer\":1,"
                     "\"n_head\":2,\"n_positions\":77,\"n_inner\":null,\"layer_norm_epsilon\":1e-5,"
                     "\"activation_function\":\"gelu_new\"}";
  struct ka_hf_config c;
  T_OK(ka_hf_config_parse(ctx, &c, text, strlen(text), "config.json"));
  assert_true(c.hidden_size == 8 && c.max_position_embeddings == 77 && c.rms_norm_eps == 1e-5);
  assert_string_equal(c.hidden_act, "gelu_new");
  ka_hf_config_close(&c);
}

static void rope_is_the_same_in_both_forms(void **state) {
  (void)state;
  static const char *const forms[] = {
      "\"rope_theta\":5e5,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,"
      "\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_max_position_embeddings\":128}",
      "\"rope_theta\":5e5,\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8.0,"
      "\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_max_position_embeddings\":128}",
      "\"rope_parameters\":{\"rope_theta\":5e5,\"rope_type\":\"llama3\",\"factor\":8,"
      "\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_max_position_embeddings\":128}",
      "\"rope_parameters\":{\"rope_theta\":5e5,\"rope_type\":\"llama3\",\"factor\":8,"
      "\"low_freq_factor\":1,\"high_freq_factor\":4},\"original_max_position_embeddings\":128",
      "\"rope_parameters\":{\"rope_theta\":5e5,\"rope_type\":\"llama3\",\"factor\":8,"
      "\"low_freq_factor\":1,\"high_freq_factor\":4},\"max_position_embeddings\":128"};
  struct ka_hf_config c;
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
    parse(&c, forms[i]);
    assert_true(c.rope.kind == KA_ROPE_LLAMA3 && c.rope.theta == 5e5 && c.rope.factor == 8);
    assert_true(c.rope.low_freq_factor == 1 && c.rope.high_freq_factor == 4);
    assert_true(c.rope.original_max_position_embeddings == 128);
    ka_hf_config_close(&c);
  }
  parse(&c, "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"mscale\":0.7,\"truncate\":false,"
            "\"original_max_position_embeddings\":4096},\"partial_rotary_factor\":0.5");
  assert_true(c.rope.kind == KA_ROPE_YARN && c.rope.beta_fast == 32 && c.rope.beta_slow == 1);
  assert_true(c.rope.mscale == 0.7 && c.rope.attention_factor == 0 && !c.rope.truncate);
  assert_true(c.rope.partial_rotary_factor == 0.5);
  ka_hf_config_close(&c);
  parse(&c, "\"rope_scaling\":{\"type\":\"dynamic\"}");
  assert_int_equal(c.rope.kind, KA_ROPE_OTHER);
  assert_string_equal(c.rope.kind_name, "dynamic");
  ka_hf_config_close(&c);
  parse(&c, "\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1,1.5]},"
            "\"original_max_position_embeddings\":1024");
  assert_int_equal(c.rope.kind, KA_ROPE_LONGROPE);
  assert_true(c.rope.n_short == 2 && c.rope.short_factor[1] == 1.5);
  assert_true(c.rope.factor == (double)c.max_position_embeddings / 1024 &&
              c.rope.original_max_position_embeddings == 1024);
  ka_hf_config_close(&c);
  parse(&c, "\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"linear\",\"factor\":8,"
            "\"rope_theta\":1e6},\"sliding_attention\":{\"rope_type\":\"default\","
            "\"rope_theta\":1e4}}");
  assert_true(c.rope.kind == KA_ROPE_LINEAR && c.rope.theta == 1e6 && c.has_rope_local);
  assert_true(c.rope_local.kind == KA_ROPE_DEFAULT && c.rope_local.theta == 1e4);
  ka_hf_config_close(&c);
  parse(&c, "\"rope_theta\":1e6,\"rope_local_base_freq\":1e4,\"rope_scaling\":null");
  assert_true(c.rope.theta == 1e6 && c.has_rope_local && c.rope_local.theta == 1e4);
  ka_hf_config_close(&c);
}

static void bad_files_name_file_and_key(void **state) {
  (void)state;
  static const struct {
    const char *more, *message;
  } cases[] = {
      {"\"head_dim\":\"16\"", "config.json: key \"head_dim\": got a string, expected an integer"},
      {"\"head_dim\":-1", "key \"head_dim\": got -1"},
      {"\"head_dim\":1.5", "key \"head_dim\": got a number"},
      {"\"num_key_value_heads\":3", "expected a divisor"},
      {"\"num_key_value_heads\":0", "num_key_value_heads"},
      {"\"eos_token_id\":\"</s>\"", "eos_token_id"},
      {"\"eos_token_id\":[1,2.5]", "eos_token_id"},
      {"\"eos_token_id\":["
       "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,"
       "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]",
       "at most 64"},
      {"\"layer_types\":[\"full_attention\"]", "list of 2 strings"},
      {"\"layer_types\":[\"full_attention\",3]", "expected a string"},
      {"\"dtype\":\"int3\"", "expected float32"},
      {"\"dtype\":32", "expected a string"},
      {"\"rms_norm_eps\":-1", "rms_norm_eps"},
      {"\"rms_norm_eps\":\"1e-6\"", "expected a number"},
      {"\"tie_word_embeddings\":1", "expected true or false"},
      {"\"rope_theta\":0", "rope_theta"},
      {"\"rope_theta\":-5", "rope_theta"},
      {"\"rope_scaling\":[]", "rope_scaling: expected an object"},
      {"\"rope_scaling\":{\"type\":\"linear\"}", "\"factor\" is missing"},
      {"\"rope_scaling\":{\"type\":\"linear\",\"factor\":-2}", "above 0"},
      {"\"rope_scaling\":{\"type\":\"llama3\",\"factor\":2}", "low_freq_factor"},
      {"\"rope_scaling\":{\"type\":\"llama3\",\"factor\":2,\"low_freq_factor\":4,"
       "\"high_freq_factor\":1}",
       "more than low_freq_factor"},
      {"\"rope_scaling\":{\"type\":7}", "expected a string"},
      {"\"partial_rotary_factor\":1.5", "partial_rotary_factor"},
      {"\"rope_parameters\":{\"full_attention\":{},\"odd\":{}}", "layer type \"odd\""},
      {"\"hidden_size\":64", "duplicate"},
  };
  struct ka_hf_config c;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *text = with(cases[i].more);
    ka_status st = ka_hf_config_parse(ctx, &c, text, strlen(text), "config.json");
    T_FAILS(st, st.code == KA_E_UNSUPPORTED ? KA_E_UNSUPPORTED : KA_E_INPUT, cases[i].message);
    ka_hf_config_close(&c);
  }
  static const struct {
    const char *text, *message;
  } whole[] = {
      {"", "not valid JSON"},
      {"[]", "expected a JSON object"},
      {"{}", "neither \"architectures\" nor \"model_type\""},
      {"{\"architectures\":\"x\"}", "list of strings"},
      {"{\"model_type\":\"llama\",\"hidden_size\":4}",
       "missing: vocab_size, num_hidden_layers, num_attention_heads"},
      {"{\"model_type\":\"llama\",\"vocab_size\":2,\"hidden_size\":7,\"num_hidden_layers\":1,"
       "\"num_attention_heads\":2}",
       "not a multiple"},
  };
  for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) {
    T_FAILS(ka_hf_config_parse(ctx, &c, whole[i].text, strlen(whole[i].text), "config.json"),
            KA_E_INPUT, whole[i].message);
    ka_hf_config_close(&c);
  }
  T_FAILS(ka_hf_config_open(ctx, &c, t_temp_dir()), KA_E_INPUT, "config.json: No such file");
  ka_hf_config_close(&c);
}

static void put(const char *dir, const char *name, const char *text) {
  T_OK(ka_write_file(ctx, t_str("%s/%s", dir, name), text, strlen(text)));
}

static void everything_but_weights_is_carried_over(void **state) {
  (void)state;
  const char *base = t_temp_dir(), *out = t_temp_dir();
  static const char *const kept[] = {"config.json",         "tokenizer.json",  "README.md",
                                     "chat_template.jinja", "tokenizer.model", ".gitattributes"};
  static const char *const left[] = {"model.safetensors",
                                     "model.safetensors.index.json",
                                     "pytorch_model.bin",
                                     "consolidated.00.pth",
                                     "m.gguf",
                                     "train_log.jsonl"};
  for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) put(base, kept[i], "text");
  for (size_t i = 0; i < sizeof left / sizeof *left; i++) put(base, left[i], "x");
  T_OK(ka_make_dirs(ctx, t_str("%s/sub", base)));
  assert_int_equal(symlink(t_str("%s/config.json", base), t_str("%s/link.json", base)), 0);
  T_OK(ka_model_dir_carry(ctx, base, out));
  struct ka_arena a;
  ka_arena_init(&a, ctx, "t");
  const char **names;
  int64_t n;
  T_OK(ka_list_dir(&a, out, &names, &n));
  assert_int_equal(n, sizeof kept / sizeof *kept + 1);
  for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
    assert_true(ka_path_exists(t_str("%s/%s", out, kept[i])));
  ka_arena_deinit(&a);
  T_OK(ka_model_dir_carry(ctx, base, base));
  T_FAILS(ka_model_dir_carry(ctx, t_str("%s/none", base), out), KA_E_INPUT, "No such file");
}

static void fixtures_parse(void **state) {
  (void)state;
  T_DATA(data);
  struct ka_arena a;
  ka_arena_init(&a, ctx, "t");
  const char **names;
  int64_t n;
  T_OK(ka_list_dir(&a, t_str("%s/golden", data), &names, &n));
  assert_true(n >= 15);
  for (int64_t i = 0; i < n; i++) {
    struct ka_hf_config c;
    T_OK(ka_hf_config_open(ctx, &c, t_str("%s/golden/%s", data, names[i])));
    assert_true(c.has_dtype && c.dtype == KA_F32 && c.vocab_size == 256 && c.hidden_size == 64);
    ka_hf_config_close(&c);
  }
  ka_arena_deinit(&a);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(defaults_are_resolved, fresh),
      cmocka_unit_test_setup(nested_text_config_comes_first, fresh),
      cmocka_unit_test_setup(gpt2_names_are_known, fresh),
      cmocka_unit_test_setup(rope_is_the_same_in_both_forms, fresh),
      cmocka_unit_test_setup(bad_files_name_file_and_key, fresh),
      cmocka_unit_test_setup(everything_but_weights_is_carried_over, fresh),
      cmocka_unit_test_setup(fixtures_parse, fresh),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
