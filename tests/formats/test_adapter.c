/* SPDX-License-Identifier: Apache-2.0
 * engine/formats/adapter.h and model_source.h: adapters merged as PEFT merges them (adapters/, made
 * by make_adapters.py), what is not plain LoRA refused, the directory of a merged model. */
#include "engine/formats/config.h"
#include "engine/formats/delta.h"
#include "engine/formats/model_source.h"
#include "tests/support/fresh.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *fixture(const char *name) {
  const char *root = getenv("KAPPA_SOURCE_DIR");
  return t_str("%s/tests/formats/adapters/%s", root ? root : ".", name);
}

static const struct {
  const char *name, *base;
  bool untied;
} cases[] = {{"plain", "llama"},
             {"rslora", "llama"},
             {"patterns", "llama"},
             {"regex", "llama"},
             {"one-layer", "llama"},
             {"saved", "llama"},
             {"embedding", "llama"},
             {"ignored-flag", "llama"},
             {"bf16", "bf16"},
             {"f16", "f16"},
             {"tied-head-saved", "tied", true},
             {"tied-saved", "tied"},
             {"tied-embedding", "tied", true},
             {"tied-head", "tied", true},
             {"bias", "qwen2"},
             {"lora-bias", "qwen2"},
             {"conv1d", "gpt2"}};
enum { N_CASES = sizeof cases / sizeof *cases };

/* f32 to 1e-6 of the largest value; 16 bits equal but for one in fifty, and there neighbours. */
static void expect_close(const char *what, const struct ka_st_entry *got,
                         const struct ka_st_entry *want) {
  int64_t n = ka_tensor_elems(&want->t), n_off = 0;
  double most = 0;
  assert_string_equal(got->dtype_name, want->dtype_name);
  assert_int_equal(ka_tensor_elems(&got->t), n);
  for (int64_t i = 0; i < n; i++) most = fmax(most, fabs(ka_load(want->t.data, want->t.dtype, i)));
  for (int64_t i = 0; i < n; i++) {
    double a = ka_load(got->t.data, got->t.dtype, i), b = ka_load(want->t.data, want->t.dtype, i);
    double off = fabs(a - b), one = fabs(b) * (got->t.dtype == KA_BF16 ? 0x1p-7 : 0x1p-10);
    n_off += off > 0;
    if (off > (got->t.dtype == KA_F32 ? 1e-6 * most : one))
      fail_msg("%s: %s[%d]: got %.9g, expected %.9g", what, want->name, (int)i, a, b);
  }
  if (got->t.dtype != KA_F32) assert_true(50 * n_off <= n);
}

static void expect_merged(const char *name, const struct ka_safetensors *files,
                          const char *base_dir) {
  struct ka_safetensors base, merged;
  int64_t n_new = 0;
  T_OK(ka_st_open(ctx, &base, base_dir));
  T_OK(ka_st_open(ctx, &merged, t_str("%s/merged.safetensors", fixture(name))));
  for (int64_t i = 0; i < merged.n_entries; i++) {
    const struct ka_st_entry *want = &merged.entries[i], *got = ka_st_find(files, want->name);
    if (!got) fail_msg("%s: no %s", name, want->name);
    n_new += ka_st_find(&base, want->name) == NULL;
    expect_close(name, got, want);
    ka_map_forget(&files->shards[got->shard].map, got->offset_bytes, got->n_bytes);
  }
  assert_int_equal(files->n_entries, base.n_entries + n_new);
  for (int64_t i = 0; i < base.n_entries; i++) {
    const struct ka_st_entry *old = &base.entries[i], *got = ka_st_find(files, old->name);
    if (ka_st_find(&merged, old->name)) continue;
    assert_memory_equal(got->t.data, old->t.data, old->n_bytes);
  }
  ka_st_close(&base);
  ka_st_close(&merged);
}

static void adapters_merge_as_peft_merges_them(void **state) {
  (void)state;
  for (int i = 0; i < N_CASES; i++) {
    struct ka_model_source s;
    struct ka_hf_config config;
    const char *base = fixture(t_str("base-%s", cases[i].base));
    T_OK(ka_model_source_open(ctx, &s, fixture(cases[i].name), base));
    expect_merged(cases[i].name, &s.files, base);
    if (!cases[i].untied) assert_string_equal(s.dir, base);
    T_OK(ka_hf_config_open(ctx, &config, s.dir));
    if (strcmp(cases[i].base, "tied") == 0)
      assert_int_equal(config.tie_word_embeddings, !cases[i].untied);
    ka_hf_config_close(&config);
    const char *temp = s.temp_dir ? t_str("%s", s.temp_dir) : NULL;
    ka_model_source_close(&s);
    if (temp) assert_false(ka_path_exists(temp));
  }
}

/* A copy of case `name` whose adapter_config.json has `key` set to the JSON text `value`. */
static const char *edited(const char *name, const char *key, const char *value) {
  const char *dir = t_temp_dir();
  json_t *root, *v;
  T_OK(ka_copy_file(ctx, t_str("%s/adapter_model.safetensors", fixture(name)),
                    t_str("%s/adapter_model.safetensors", dir)));
  T_OK(ka_json_load(ctx, t_str("%s/adapter_config.json", fixture(name)), &root));
  if (key) {
    T_OK(ka_json_parse(ctx, value, strlen(value), "value", &v));
    json_object_set_new(root, key, v);
  }
  T_OK(ka_json_write(ctx, root, t_str("%s/adapter_config.json", dir)));
  json_decref(root);
  return dir;
}

/* Another method is called by its name, whatever keys of its own stand before peft_type. */
static void methods_are_named(void **state) {
  (void)state;
  const char *dir = edited("plain", "peft_type", "\"IA3\"");
  const char *path = t_str("%s/adapter_config.json", dir);
  struct ka_model_source s;
  json_t *root;
  T_OK(ka_json_load(ctx, path, &root));
  json_object_set_new(root, "feedforward_modules", json_pack("[s]", "down_proj"));
  T_OK(ka_json_write(ctx, root, path));
  json_decref(root);
  T_FAILS(ka_model_source_open(ctx, &s, dir, fixture("base-llama")), KA_E_UNSUPPORTED,
          "peft_type: got \"IA3\"");
  ka_model_source_close(&s);
}

static void what_is_not_plain_lora_is_refused(void **state) {
  (void)state;
  static const struct {
    const char *key, *value;
    int code;
    const char *message;
  } refused[] = {
      {"peft_type", "\"LOHA\"", KA_E_UNSUPPORTED, "peft_type: got \"LOHA\""},
      {"peft_type", "\"IA3\"", KA_E_UNSUPPORTED, "peft_type: got \"IA3\""},
      {"peft_type", "null", KA_E_UNSUPPORTED, "peft_type: got null"},
      {"use_dora", "true", KA_E_UNSUPPORTED, "use_dora: got true"},
      {"use_qalora", "true", KA_E_UNSUPPORTED, "use_qalora: got true"},
      {"layer_replication", "[[0,2]]", KA_E_UNSUPPORTED, "layer_replication: got [[0,2]]"},
      {"alora_invocation_tokens", "[1]", KA_E_UNSUPPORTED, "alora_invocation_tokens: got [1]"},
      {"trainable_token_indices", "{\"e\":[1]}", KA_E_UNSUPPORTED,
       "trainable_token_indices: got {\"e\":[1]}"},
      {"target_parameters", "[\"x\"]", KA_E_UNSUPPORTED, "target_parameters: got [\"x\"]"},
      {"kasa_config", "{\"beta\":1}", KA_E_UNSUPPORTED, "kasa_config: got {\"beta\":1}"},
      {"of_a_later_peft", "3", KA_E_UNSUPPORTED, "of_a_later_peft: got 3"},
      {"init_lora_weights", "\"pissa\"", KA_E_UNSUPPORTED, "init_lora_weights: got \"pissa\""},
      {"init_lora_weights", "\"olora\"", KA_E_UNSUPPORTED, "it changed the base's weights"},
      {"bias", "\"some\"", KA_E_UNSUPPORTED, "bias: got \"some\""},
      {"bias", "7", KA_E_INPUT, "key \"bias\""},
      {"r", "\"two\"", KA_E_INPUT, "key \"r\""},
      {"r", "0", KA_E_INPUT, "got rank 0"},
      {"r", "5", KA_E_INPUT, "ranks 2 and 2"},
      {"lora_alpha", "null", KA_OK, ""},
      {"rank_pattern", "[1]", KA_E_INPUT, "rank_pattern: expected an object"},
      {"rank_pattern", "{\"q_proj\":\"x\"}", KA_E_INPUT, "rank_pattern: \"q_proj\""},
      {"rank_pattern", "{\"q_(\":2}", KA_E_INPUT, "not a regular expression"},
      {"rank_pattern", "{\"(a+)+(a+)+(.*_proj)*x\":2}", KA_OK, ""},
  };
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
    struct ka_model_source s;
    ka_status st = ka_model_source_open(ctx, &s, edited("plain", refused[i].key, refused[i].value),
                                        fixture("base-llama"));
    if (refused[i].code == KA_OK)
      T_OK(st);
    else if (ka_ok(st))
      fail_msg("%s: %s is taken", refused[i].key, refused[i].value);
    else
      T_FAILS(st, refused[i].code, refused[i].message);
    ka_model_source_close(&s);
  }
}

/* Case "plain" with one tensor renamed or replaced. */
static const char *with_tensor(const char *from, const char *name, const struct ka_tensor *t) {
  const char *dir = edited("plain", NULL, NULL), *path;
  struct ka_safetensors st;
  struct ka_st_out out[16];
  T_OK(ka_st_open(ctx, &st, path = t_str("%s/adapter_model.safetensors", dir)));
  for (int64_t i = 0; i < st.n_entries; i++) {
    out[i] = (struct ka_st_out){st.entries[i].name, st.entries[i].t};
    if (strstr(out[i].name, from)) {
      out[i].name = name ? name : out[i].name;
      if (t) out[i].t = *t;
    }
  }
  T_OK(ka_st_write(ctx, path, out, st.n_entries, NULL, 0));
  ka_st_close(&st);
  return dir;
}

static void tensors_that_do_not_fit_are_refused(void **state) {
  (void)state;
  static const char q_a[] = "layers.0.self_attn.q_proj.lora_A",
                    q_b[] = "layers.0.self_attn.q_proj.lora_B";
  static float numbers[256];
  static int64_t integers[256];
  for (int i = 0; i < 256; i++) numbers[i] = 1;
  struct ka_tensor wide = ka_tensor_2d(numbers, KA_F32, 2, 9),
                   flat = ka_tensor_1d(numbers, KA_F32, 16);
  struct ka_tensor whole = ka_tensor_2d(integers, KA_I64, 2, 8),
                   tall = ka_tensor_2d(numbers, KA_F32, 12, 8);
  struct ka_tensor norm = ka_tensor_1d(integers, KA_I64, 8);
  const struct {
    const char *from, *name;
    const struct ka_tensor *t;
    int code;
    const char *message;
  } wrong[] = {
      {q_a, "q_proj.lora_A.weight", NULL, KA_E_UNSUPPORTED, "starts with base_model.model."},
      {q_a, "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight", NULL, KA_E_INPUT,
       "without \"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight\""},
      {q_b, "base_model.model.model.layers.9.self_attn.q_proj.lora_B.weight", NULL, KA_E_INPUT,
       "without \"base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight\""},
      {q_a, "base_model.model.model.norm.lora_magnitude_vector", NULL, KA_E_INPUT,
       "has no \"model.norm.lora_magnitude_vector\""},
      {q_a, "base_model.model.lm_head.weight", &tall, KA_E_UNSUPPORTED, "a vocabulary of its own"},
      {q_a, "base_model.model.model.norm.weight", &norm, KA_E_UNSUPPORTED, "expected dtype F32"},
      {q_a, NULL, &wide, KA_E_INPUT, "8 x 9 and does not fit"},
      {q_a, NULL, &flat, KA_E_INPUT, "expected a matrix"},
      {q_a, NULL, &whole, KA_E_INPUT, "expected a matrix"},
  };
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    struct ka_model_source s;
    T_FAILS(ka_model_source_open(ctx, &s, with_tensor(wrong[i].from, wrong[i].name, wrong[i].t),
                                 fixture("base-llama")),
            wrong[i].code, wrong[i].message);
    ka_model_source_close(&s);
  }
  numbers[3] = NAN;
  struct ka_tensor nan = ka_tensor_2d(numbers, KA_F32, 2, 8);
  struct ka_model_source s;
  T_FAILS(ka_model_source_open(ctx, &s, with_tensor(q_a, NULL, &nan), fixture("base-llama")),
          KA_E_INPUT, "has NaN or Inf");
  ka_model_source_close(&s);
  /* Another base. */
  T_FAILS(ka_model_source_open(ctx, &s, fixture("conv1d"), fixture("base-llama")), KA_E_INPUT,
          "has no \"transformer.h.0.attn.c_attn.weight\"");
  ka_model_source_close(&s);
}

static void bases_are_found_or_asked_for(void **state) {
  (void)state;
  struct ka_model_source s;
  const char *lost = edited("plain", "base_model_name_or_path", "\"hub/name\"");
  T_FAILS(ka_model_source_open(ctx, &s, lost, NULL), KA_E_INPUT, "--base DIR");
  ka_model_source_close(&s);
  const char *here = t_str("\"%s\"", fixture("base-llama"));
  T_OK(ka_model_source_open(ctx, &s, edited("plain", "base_model_name_or_path", here), NULL));
  expect_merged("plain", &s.files, fixture("base-llama"));
  ka_model_source_close(&s);
  T_FAILS(ka_model_source_open(ctx, &s, fixture("base-llama"), fixture("base-tied")), KA_E_USAGE,
          "neither a delta nor an adapter");
  ka_model_source_close(&s);
  T_FAILS(ka_model_source_open(ctx, &s, fixture("plain"), fixture("saved")), KA_E_INPUT,
          "no weights");
  ka_model_source_close(&s);
  T_OK(ka_model_source_open(ctx, &s, fixture("base-llama"), NULL));
  assert_string_equal(s.dir, fixture("base-llama"));
  assert_null(s.temp_dir);
  ka_model_source_close(&s);
}

static void expect_text(const char *dir, const char *name, const char *text) {
  struct ka_str got = {0};
  T_OK(ka_read_file(ctx, t_str("%s/%s", dir, name), 0, &got));
  assert_string_equal(got.data, text);
  ka_str_deinit(&got);
}

static void put(const char *dir, const char *name, const char *text) {
  T_OK(ka_write_file(ctx, t_str("%s/%s", dir, name), text, strlen(text)));
}

/* A tokenizer saved with the adapter is the one that it was trained with. */
static void the_directory_of_an_adapter_has_its_tokenizer(void **state) {
  (void)state;
  const char *base = t_temp_dir(), *dir = edited("plain", NULL, NULL);
  static const char *const copied[] = {"config.json", "model.safetensors"};
  struct ka_model_source s;
  for (int i = 0; i < 2; i++)
    T_OK(ka_copy_file(ctx, t_str("%s/%s", fixture("base-llama"), copied[i]),
                      t_str("%s/%s", base, copied[i])));
  put(base, "tokenizer.json", "base");
  put(base, "chat_template.jinja", "base");
  put(base, "generation_config.json", "base");
  for (int own = 0; own < 2; own++) {
    T_OK(ka_model_source_open(ctx, &s, dir, base));
    expect_text(s.dir, "tokenizer.json", own ? "adapter" : "base");
    expect_text(s.dir, "generation_config.json", "base");
    assert_int_equal(ka_path_exists(t_str("%s/chat_template.jinja", s.dir)), !own);
    assert_true(ka_path_exists(t_str("%s/config.json", s.dir)));
    ka_model_source_close(&s);
    T_OK(ka_model_source_open_dir(ctx, &s, dir, base));
    expect_text(s.dir, "tokenizer.json", own ? "adapter" : "base");
    assert_int_equal(s.files.n_entries, 0);
    ka_model_source_close(&s);
    put(dir, "tokenizer.json", "adapter");
    put(dir, "config.json", "{\"another\": true}");
  }
}

/* A delta: its own small files, links to the base's large ones. */
static void the_directory_of_a_delta_is_the_tuned_one(void **state) {
  (void)state;
  const char *base = t_temp_dir(), *tuned = t_temp_dir(), *path = t_str("%s/d.safetensors", base);
  static char large[70000];
  struct ka_model_source s;
  struct ka_safetensors want;
  memset(large, 'x', sizeof large - 1);
  for (int i = 0; i < 2; i++) {
    const char *dir = i ? tuned : base;
    T_OK(ka_copy_file(ctx, t_str("%s/config.json", fixture("base-llama")),
                      t_str("%s/config.json", dir)));
    put(dir, "tokenizer.json", large);
    put(dir, "chat_template.jinja", i ? "tuned" : "base");
  }
  T_OK(ka_st_open(ctx, &want, fixture("base-llama")));
  T_OK(ka_st_rewrite(ctx, &want, base, NULL, 0));
  float row[8] = {0};
  const struct ka_st_out changed[] = {{"model.norm.weight", ka_tensor_1d(row, KA_F32, 8)}};
  T_OK(ka_st_rewrite(ctx, &want, tuned, changed, 1));
  ka_st_close(&want);
  T_OK(ka_delta_export(ctx, base, tuned, path, &(struct ka_delta_options){0}));
  T_OK(ka_st_open(ctx, &want, tuned));
  for (int k = 0; k < 2; k++) { /* the base that it names, and a given one */
    T_OK(ka_model_source_open(ctx, &s, path, k ? base : NULL));
    expect_text(s.dir, "chat_template.jinja", "tuned");
    expect_text(s.dir, "tokenizer.json", large);
    assert_true(ka_path_exists(t_str("%s/config.json", s.dir)));
    for (int64_t i = 0; i < want.n_entries; i++)
      assert_memory_equal(ka_st_find(&s.files, want.entries[i].name)->t.data,
                          want.entries[i].t.data, want.entries[i].n_bytes);
    const char *temp = t_str("%s", s.temp_dir);
    ka_model_source_close(&s);
    assert_false(ka_path_exists(temp));
  }
  ka_st_close(&want);
  T_FAILS(ka_model_source_open(ctx, &s, path, fixture("base-tied")), KA_E_INPUT,
          "tokenizer.json: No such file");
  ka_model_source_close(&s);
  put(base, "tokenizer.json", "another");
  T_FAILS(ka_model_source_open_dir(ctx, &s, path, base), KA_E_INPUT, "not the file that");
  ka_model_source_close(&s);
  T_OK(ka_remove_tree(ctx, base));
  T_FAILS(ka_model_source_open(ctx, &s, path, NULL), KA_E_INPUT, "No such file");
  ka_model_source_close(&s);
}

static void failing_allocations_are_reported(void **state) {
  (void)state;
  static const char *const names[] = {"tied-embedding", "patterns", "saved"};
  for (int i = 0; i < 3; i++) {
    struct ka_model_source s;
    const char *base = fixture(i == 0 ? "base-tied" : "base-llama");
    bool done = false;
    for (int n = 1; n < 600 && !done; n++) {
      ctx->fail_alloc_at = n;
      ka_status st = ka_model_source_open(ctx, &s, fixture(names[i]), base);
      done = ka_ok(st) && ctx->fail_alloc_at > 0;
      if (!done) assert_int_equal(st.code, KA_E_MEMORY);
      ctx->fail_alloc_at = 0;
      ka_model_source_close(&s);
      ka_error_clear(ctx);
    }
    assert_true(done);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(adapters_merge_as_peft_merges_them, fresh),
      cmocka_unit_test_setup(methods_are_named, fresh),
      cmocka_unit_test_setup(what_is_not_plain_lora_is_refused, fresh),
      cmocka_unit_test_setup(tensors_that_do_not_fit_are_refused, fresh),
      cmocka_unit_test_setup(bases_are_found_or_asked_for, fresh),
      cmocka_unit_test_setup(the_directory_of_an_adapter_has_its_tokenizer, fresh),
      cmocka_unit_test_setup(the_directory_of_a_delta_is_the_tuned_one, fresh),
      cmocka_unit_test_setup(failing_allocations_are_reported, fresh),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
