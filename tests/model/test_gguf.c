/* SPDX-License-Identifier: Apache-2.0
 * engine/model/gguf.h, gguf_vocab.h and `kappa export`: what is in the file of a tiny model of each
 * family, read by a reader of the test's own. That llama.cpp computes the same from such files was
 * measured once, with random models of every family (docs/export.md). */
#include "engine/model/gguf.h"

#include "engine/formats/gguf_vocab.h"
#include "tests/model/tiny.h"
#include "tests/support/fresh.h"

#include <math.h>

/* --- a reader --------------------------------------------------------------------------------- */

struct reading {
  struct ka_str file;
  const char *dir;
};

static uint64_t u64_at(const char *p) {
  uint64_t v;
  memcpy(&v, p, sizeof v);
  return v;
}

static uint32_t u32_at(const char *p) {
  uint32_t v;
  memcpy(&v, p, sizeof v);
  return v;
}

static size_t value_bytes(uint32_t type, const char *p) {
  if (type == 7) return 1;
  if (type == 8) return 8 + u64_at(p);
  if (type != 9) return 4;
  size_t at = 12;
  for (uint64_t i = 0; i < u64_at(p + 4); i++) at += value_bytes(u32_at(p), p + at);
  return at;
}

/* Past the facts; `key`'s value on the way, NULL: it is not there. */
static const char *facts(const struct reading *r, const char *key, const char **value) {
  const char *p = r->file.data;
  assert_memory_equal(p, "GGUF\3\0\0\0", 8);
  uint64_t n = u64_at(p + 16);
  p += 24;
  *value = NULL;
  for (uint64_t i = 0; i < n; i++) {
    uint64_t len = u64_at(p);
    const char *name = p + 8;
    p += 8 + len;
    uint32_t type = u32_at(p);
    p += 4;
    if (key && strlen(key) == len && memcmp(name, key, len) == 0) *value = p;
    p += value_bytes(type, p);
  }
  return p;
}

static double number(const struct reading *r, const char *key, bool real) {
  const char *v;
  float f;
  facts(r, key, &v);
  if (!v) fail_msg("no %s", key);
  memcpy(&f, v, sizeof f);
  return real ? (double)f : (double)u32_at(v);
}

static void expect_text(const char *v, const char *want) {
  assert_non_null(v);
  assert_int_equal(u64_at(v), strlen(want));
  assert_memory_equal(v + 8, want, strlen(want));
}

static void expect_fact(const struct reading *r, const char *key, const char *want) {
  const char *v;
  facts(r, key, &v);
  expect_text(v, want);
}

/* Values of a tensor that must be f32 with so many elements; NULL: absent. */
static const float *values(const struct reading *r, const char *name, int64_t n_elems) {
  const char *v, *p = facts(r, NULL, &v), *found = NULL;
  uint64_t offset = 0;
  int64_t n = 1;
  for (uint64_t i = 0; i < u64_at(r->file.data + 8); i++) {
    uint64_t len = u64_at(p);
    bool it = strlen(name) == len && memcmp(p + 8, name, len) == 0;
    p += 8 + len;
    uint32_t n_dim = u32_at(p);
    for (uint32_t d = 0; d < n_dim && it; d++) n *= (int64_t)u64_at(p + 4 + 8 * d);
    p += 4 + 8 * n_dim;
    if (it) {
      assert_int_equal(u32_at(p), 0);
      offset = u64_at(p + 4);
      found = p;
    }
    p += 12;
  }
  if (!found) return NULL;
  assert_int_equal(n, n_elems);
  size_t begin = ((size_t)(p - r->file.data) + 31) / 32 * 32 + offset;
  assert_true(begin % 4 == 0 && begin + (size_t)n * 4 <= r->file.len);
  return (const float *)(const void *)(r->file.data + begin);
}

static const float *need(const struct reading *r, const char *name, int64_t n) {
  const float *v = values(r, name, n);
  if (!v) fail_msg("no %s", name);
  return v;
}

/* --- models ----------------------------------------------------------------------------------- */

static void make(const char *config, const char *dir) {
  const char *path = t_str("%s/config.json", dir);
  T_OK(ka_write_file(ctx, path, config, strlen(config)));
  T_OK(ka_model_init(ctx, path, dir, 7, KA_F32));
}

static ka_status export_to(const char *dir, const char *path) {
  struct ka_dev dev = {0};
  struct ka_model m = {0};
  struct ka_gguf g;
  ka_gguf_init(&g, ctx);
  ka_status st = ka_dev_open(ctx, &dev, "cpu");
  if (ka_ok(st)) st = ka_model_open(ctx, &m, &dev, dir, KA_F32);
  if (ka_ok(st)) st = ka_model_gguf_plan(&m, &g, KA_GGUF_F32, "tiny");
  if (ka_ok(st)) st = ka_gguf_begin(&g, path);
  if (ka_ok(st)) st = ka_model_gguf_write(&m, &g, NULL, NULL);
  if (ka_ok(st)) st = ka_gguf_commit(&g);
  ka_gguf_deinit(&g);
  ka_model_close(&m);
  ka_dev_close(&dev);
  return st;
}

static struct reading exported(const char *config) {
  struct reading r = {.dir = t_temp_dir()};
  const char *path = t_str("%s/m.gguf", r.dir);
  make(config, r.dir);
  T_OK(export_to(r.dir, path));
  T_OK(ka_read_file(ctx, path, 0, &r.file));
  return r;
}

static const float *ours(const struct reading *r, struct ka_safetensors *st, const char *name) {
  struct ka_tensor t;
  if (!st->n_entries) T_OK(ka_st_open(ctx, st, r->dir));
  T_OK(ka_st_get(ctx, st, name, &t));
  assert_int_equal(t.dtype, KA_F32);
  return t.data;
}

static void same(const float *got, const float *want, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    if (got[i] != want[i]) fail_msg("element %lld: %g, not %g", (long long)i, got[i], want[i]);
}

/* C 12, H 4, K 2, D 6, F 20, V 29 */
static void llama_turns_its_rows(void **state) {
  static const int turned[6] = {0, 3, 1, 4, 2, 5};
  struct reading r = exported(tiny_llama);
  struct ka_safetensors st = {0};
  (void)state;
  expect_fact(&r, "general.architecture", "llama");
  assert_int_equal(number(&r, "llama.attention.head_count_kv", false), 2);
  assert_int_equal(number(&r, "llama.rope.dimension_count", false), 6);
  assert_true(fabs(number(&r, "llama.attention.layer_norm_rms_epsilon", true) - 1e-5) < 1e-10);
  const float *q = need(&r, "blk.1.attn_q.weight", 24 * 12);
  const float *k = need(&r, "blk.1.attn_k.bias", 12);
  const float *from = ours(&r, &st, "model.layers.1.self_attn.q_proj.weight");
  const float *bias = ours(&r, &st, "model.layers.1.self_attn.k_proj.bias");
  for (int h = 0; h < 4; h++)
    for (int i = 0; i < 6; i++) same(q + (h * 6 + i) * 12, from + (h * 6 + turned[i]) * 12, 12);
  for (int i = 0; i < 12; i++) assert_true(k[i] == bias[i / 6 * 6 + turned[i % 6]]);
  same(need(&r, "blk.0.attn_v.weight", 12 * 12),
       ours(&r, &st, "model.layers.0.self_attn.v_proj.weight"), 144);
  same(need(&r, "output.weight", 29 * 12), ours(&r, &st, "lm_head.weight"), 29 * 12);
  const float *factors = need(&r, "rope_freqs.weight", 3);
  assert_true(factors[0] > 1 && factors[0] < 4 && factors[1] == 4 && factors[2] == 4);
  ka_st_close(&st);
  ka_str_deinit(&r.file);
}

static void gpt2_is_fused_and_turned_over(void **state) {
  struct reading r = exported(tiny_gpt2);
  struct ka_safetensors st = {0};
  (void)state;
  expect_fact(&r, "general.architecture", "gpt2");
  const float *qkv = need(&r, "blk.0.attn_qkv.weight", 36 * 12);
  const float *from = ours(&r, &st, "transformer.h.0.attn.c_attn.weight"); /* [12, 36] */
  for (int o = 0; o < 36; o++)
    for (int i = 0; i < 12; i++) assert_true(qkv[o * 12 + i] == from[i * 36 + o]);
  need(&r, "blk.0.attn_qkv.bias", 36);
  need(&r, "position_embd.weight", 512 * 12);
  need(&r, "output_norm.bias", 12);
  assert_null(values(&r, "output.weight", 0)); /* tied */
  ka_st_close(&st);
  ka_str_deinit(&r.file);
}

static void gemmas_norms_say_what_they_multiply_by(void **state) {
  static const char config[] =
      "{\"architectures\":[\"Gemma2ForCausalLM\"],\"model_type\":\"gemma2\"," TINY_COMMON
      ",\"hidden_activation\":\"gelu_pytorch_tanh\",\"query_pre_attn_scalar\":6,"
      "\"layer_types\":[\"sliding_attention\",\"full_attention\"],\"sliding_window\":4,"
      "\"attn_logit_softcapping\":1.5,\"final_logit_softcapping\":2.5}";
  struct reading r = exported(config);
  (void)state;
  const float *norm = need(&r, "blk.1.post_ffw_norm.weight", 12);
  for (int i = 0; i < 12; i++) assert_true(norm[i] == 1); /* stored as 0 */
  assert_true(number(&r, "gemma2.attn_logit_softcapping", true) == 1.5);
  assert_int_equal(number(&r, "gemma2.attention.sliding_window", false), 4);
  ka_str_deinit(&r.file);
}

static void experts_are_one_tensor(void **state) {
  struct reading r = exported(tiny_mixtral);
  struct ka_safetensors st = {0};
  (void)state;
  expect_fact(&r, "general.architecture", "llama");
  assert_int_equal(number(&r, "llama.expert_count", false), 3);
  assert_int_equal(number(&r, "llama.expert_used_count", false), 2);
  const float *down = need(&r, "blk.1.ffn_down_exps.weight", 3 * 12 * 20);
  for (int e = 0; e < 3; e++)
    same(down + e * 240,
         ours(&r, &st, t_str("model.layers.1.block_sparse_moe.experts.%d.w2.weight", e)), 240);
  need(&r, "blk.0.ffn_gate_inp.weight", 3 * 12);
  ka_st_close(&st);
  ka_str_deinit(&r.file);
}

static void gate_and_up_by_turns_are_told_apart(void **state) {
  struct reading r = exported(tiny_gpt_oss);
  struct ka_safetensors st = {0};
  struct ka_tensor t;
  (void)state;
  expect_fact(&r, "general.architecture", "gpt-oss");
  ours(&r, &st, "model.layers.0.mlp.experts.gate_up_proj_bias");
  T_OK(ka_st_get(ctx, &st, "model.layers.0.mlp.experts.gate_up_proj", &t)); /* [E, C, 2F] */
  int64_t E = t.shape[0], C = t.shape[1], F = t.shape[2] / 2;
  const float *both = t.data, *gate = need(&r, "blk.0.ffn_gate_exps.weight", E * F * C);
  const float *up = need(&r, "blk.0.ffn_up_exps.weight", E * F * C);
  for (int64_t e = 0; e < E; e++)
    for (int64_t f = 0; f < F; f++)
      for (int64_t c = 0; c < C; c++) {
        const float *pair = both + (e * C + c) * 2 * F + 2 * f;
        assert_true(gate[(e * F + f) * C + c] == pair[0] && up[(e * F + f) * C + c] == pair[1]);
      }
  need(&r, "blk.0.ffn_up_exps.bias", E * F);
  need(&r, "blk.0.attn_sinks.weight", 4);
  need(&r, "blk.0.post_attention_norm.weight", 12);
  ka_st_close(&st);
  ka_str_deinit(&r.file);
}

/* What llama.cpp would compute otherwise is refused by the key; nothing is written. */
static void what_cannot_be_said_is_refused(void **state) {
  static const struct {
    const char *config, *part;
  } cases[] = {{tiny_gemma2, "query_pre_attn_scalar"},
               {tiny_smollm3, "biases of the feed-forward"},
               {tiny_olmo2, "biases of q, k and v"},
               {tiny_deepseek3, "deepseek_v3 models are not written as GGUF"}};
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *dir = t_temp_dir(), *path = t_str("%s/m.gguf", dir);
    make(cases[i].config, dir);
    T_FAILS(export_to(dir, path), KA_E_UNSUPPORTED, cases[i].part);
    assert_false(ka_path_exists(path));
  }
}

/* --- tokenizers ------------------------------------------------------------------------------- */

static struct reading with_tokens(const char *tokenizer, const char *config, const char *options) {
  struct reading r = {.dir = t_temp_dir()};
  struct ka_str err = {0};
  make(tiny_qwen3, r.dir);
  const char *path = t_str("%s/tokenizer.json", r.dir), *out = t_str("%s/m.gguf", r.dir);
  T_OK(ka_write_file(ctx, path, tokenizer, strlen(tokenizer)));
  path = t_str("%s/tokenizer_config.json", r.dir);
  T_OK(ka_write_file(ctx, path, config, strlen(config)));
  if (t_kappa(NULL, &err, "export %s %s %s", r.dir, out, options) == 0)
    T_OK(ka_read_file(ctx, out, 0, &r.file));
  else
    r.file = err, r.dir = NULL;
  if (r.dir) ka_str_deinit(&err);
  return r;
}

static const char *item(const struct reading *r, const char *key, int64_t i) {
  const char *v;
  facts(r, key, &v);
  assert_non_null(v);
  uint32_t type = u32_at(v);
  v += 12;
  while (i-- > 0) v += value_bytes(type, v);
  return v;
}

#define FLAGS "\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false"

#define BYTES                                                                                      \
  "{\"added_tokens\":[{\"id\":6,\"content\":\"<end>\",\"special\":true," FLAGS "},"                \
  "{\"id\":7,\"content\":\"<tool>\",\"special\":false," FLAGS                                      \
  "}],\"pre_tokenizer\":%s,\"model\":{"                                                            \
  "\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"\\u0120\":2,\"ab\":3,\"\\u0120ab\":4,\"c\":5},"   \
  "\"merges\":[\"a b\",\"\\u0120 ab\"]}}"
#define WORDS                                                                                      \
  "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}"

static void byte_level_tokens(void **state) {
  static const int kinds[] = {1, 1, 1, 1, 1, 1, 3, 4, 5};
  (void)state;
  struct reading r = with_tokens(
      t_str(BYTES, WORDS),
      "{\"eos_token\":\"<end>\",\"pad_token\":\"<tool>\",\"chat_template\":\"{{ 'x' }}\"}", "");
  assert_non_null(r.dir);
  expect_fact(&r, "tokenizer.ggml.model", "gpt2");
  expect_fact(&r, "tokenizer.ggml.pre", "gpt-2");
  expect_fact(&r, "tokenizer.chat_template", "{{ 'x' }}");
  for (int i = 0; i < 9; i++)
    assert_int_equal(u32_at(item(&r, "tokenizer.ggml.token_type", i)), kinds[i]);
  expect_text(item(&r, "tokenizer.ggml.tokens", 4), "\xc4\xa0"
                                                    "ab");
  expect_text(item(&r, "tokenizer.ggml.tokens", 28), "[PAD28]");
  expect_text(item(&r, "tokenizer.ggml.merges", 1), "\xc4\xa0 ab");
  assert_int_equal(number(&r, "tokenizer.ggml.eos_token_id", false), 6);
  assert_int_equal(number(&r, "tokenizer.ggml.padding_token_id", false), 7);
  const char *first;
  facts(&r, "tokenizer.ggml.add_bos_token", &first);
  assert_int_equal(first[0], 0);
  ka_str_deinit(&r.file);
}

static void unknown_words_need_a_name(void **state) {
  static const char odd[] =
      "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"x+\"}"
      ","
      "\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\",\"add_prefix_space\":"
      "false,\"trim_offsets\":true,\"use_regex\":false}]}";
  (void)state;
  struct reading r = with_tokens(t_str(BYTES, odd), "{}", "");
  assert_null(r.dir);
  assert_non_null(strstr(r.file.data, "split x+;bytes;"));
  assert_non_null(strstr(r.file.data, "--pre NAME"));
  ka_str_deinit(&r.file);
  r = with_tokens(t_str(BYTES, odd), "{}", "--pre tekken");
  assert_non_null(r.dir);
  expect_fact(&r, "tokenizer.ggml.pre", "tekken");
  ka_str_deinit(&r.file);
}

static void pieces_have_scores(void **state) {
  static const char pieces[] =
      "{\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true," FLAGS
      "},{\"id\":1,\"content\":"
      "\"<s>\",\"special\":true," FLAGS
      "}],\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":"
      "\"Prepend\",\"prepend\":\"\\u2581\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},"
      "\"content\":\"\\u2581\"}]},\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
      "{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}"
      "}],\"pair\":[],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[1],\"tokens\":[\"<s>\"]"
      "}}},\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"byte_fallback\":true,\"vocab\":{"
      "\"<unk>\":0,\"<s>\":1,\"<0x0A>\":2,\"\\u2581\":3,\"a\":4,\"b\":5,\"ab\":6,\"\\u2581ab\":7},"
      "\"merges\":[\"a b\",\"\\u2581 ab\"]}}";
  static const int kinds[] = {2, 3, 6, 1, 1, 1, 1, 1, 5};
  (void)state;
  struct reading r = with_tokens(pieces, "{\"bos_token\":\"<s>\"}", "--type q8_0");
  assert_non_null(r.dir);
  expect_fact(&r, "tokenizer.ggml.model", "llama");
  for (int i = 0; i < 9; i++)
    assert_int_equal(u32_at(item(&r, "tokenizer.ggml.token_type", i)), kinds[i]);
  float two[2];
  memcpy(two, item(&r, "tokenizer.ggml.scores", 6), sizeof two);
  assert_true(two[0] == -1 && two[1] == -2);
  const char *first, *space;
  facts(&r, "tokenizer.ggml.add_bos_token", &first);
  facts(&r, "tokenizer.ggml.add_space_prefix", &space);
  assert_true(first[0] == 1 && space[0] == 1);
  ka_str_deinit(&r.file);
}

/* What stands in front of a model is no part of the file, which is said. */
static void a_projector_stays_behind(void **state) {
  const char *dir = t_temp_dir(), *path = t_str("%s/projector.safetensors", dir);
  struct ka_str err = {0};
  (void)state;
  make(tiny_qwen3, dir);
  assert_int_equal(t_kappa(NULL, &err, "export %s %s/a.gguf --quiet", dir, dir), 0);
  assert_null(strstr(err.data ? err.data : "", "projector"));
  T_OK(ka_write_file(ctx, path, "x", 1));
  ka_str_clear(&err);
  assert_int_equal(t_kappa(NULL, &err, "export %s %s/b.gguf --quiet", dir, dir), 0);
  assert_non_null(strstr(err.data, t_str("%s stays behind", path)));
  ka_str_deinit(&err);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(llama_turns_its_rows),
      cmocka_unit_test(gpt2_is_fused_and_turned_over),
      cmocka_unit_test(gemmas_norms_say_what_they_multiply_by),
      cmocka_unit_test(experts_are_one_tensor),
      cmocka_unit_test(gate_and_up_by_turns_are_told_apart),
      cmocka_unit_test(what_cannot_be_said_is_refused),
      cmocka_unit_test(byte_level_tokens),
      cmocka_unit_test(unknown_words_need_a_name),
      cmocka_unit_test(pieces_have_scores),
      cmocka_unit_test(a_projector_stays_behind),
  };
  return cmocka_run_group_tests(tests, fresh, NULL);
}
