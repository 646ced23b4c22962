/* SPDX-License-Identifier: Apache-2.0
 * Roles, parts of fused tensors, heads and experts, by name and config. */
#include "engine/spectral/units.h"
#include "tests/support/test.h"

#include <string.h>

static struct ka_ctx the_ctx;

static void config_of(struct ka_hf_config *c, const char *text) {
  struct ka_ctx *ctx = &the_ctx;
  T_OK(ka_hf_config_parse(ctx, c, text, strlen(text), "config.json"));
}

static const char *const small =
    "{\"model_type\": \"llama\", \"vocab_size\": 8, \"hidden_size\": 8, \"num_hidden_layers\": 1, "
    "\"num_attention_heads\": 4, \"num_key_value_heads\": 2}";

static const char *const small_gpt2 =
    "{\"model_type\": \"gpt2\", \"vocab_size\": 8, \"n_embd\": 8, \"n_layer\": 1, \"n_head\": 4}";

static int64_t parts(const char *name, int n_dim, const int64_t *shape, int kind,
                     struct ka_unit *whole, struct ka_unit *out) {
  struct ka_ctx *ctx = &the_ctx;
  static float data[4096];
  static struct ka_arena arena;
  struct ka_hf_config c;
  int64_t n = 0;
  if (!arena.ctx) ka_arena_init(&arena, ctx, "test");
  for (int i = 0; i < 4096; i++) data[i] = (float)i;
  config_of(&c, strstr(name, "c_attn") ? small_gpt2 : small);
  *whole = ka_unit_of_tensor(name, ka_tensor_view(data, KA_F32, n_dim, shape));
  T_OK(ka_unit_parts(ctx, &arena, whole, &c, kind, out, &n));
  ka_hf_config_close(&c);
  return n;
}

static void test_layers_and_order(void **state) {
  (void)state;
  assert_int_equal(ka_unit_layer("model.layers.12.mlp.experts.3.up_proj.weight"), 12);
  assert_int_equal(ka_unit_layer("transformer.h.0.attn.c_attn.weight"), 0);
  assert_int_equal(ka_unit_layer("lm_head.weight"), -1);
  assert_true(ka_spectral_name_compare("layers.2.q", "layers.10.k") < 0);
  assert_true(ka_spectral_name_compare("a", "a.b") < 0);
  assert_int_equal(ka_spectral_name_compare("a.1", "a.1"), 0);
}

static void test_heads(void **state) {
  (void)state;
  struct ka_unit w, p[8];
  int64_t q[] = {8, 8}, k[] = {4, 8};
  assert_int_equal(parts("model.layers.0.self_attn.q_proj.weight", 2, q, KA_UNIT_HEAD, &w, p), 4);
  assert_string_equal(p[3].name, "model.layers.0.self_attn.q_proj.weight#head3");
  assert_int_equal(p[3].rows[0], 6);
  assert_int_equal(p[3].rows[1], 8);
  assert_int_equal(p[3].cols[0], -1);
  assert_true(((float *)p[3].view.data)[0] == 48);
  assert_string_equal(w.role, "q");
  assert_false(w.has_parts);
  assert_int_equal(parts("model.layers.0.self_attn.v_proj.weight", 2, k, KA_UNIT_HEAD, &w, p), 2);
  assert_int_equal(parts("model.layers.0.self_attn.o_proj.weight", 2, q, KA_UNIT_HEAD, &w, p), 4);
  assert_int_equal(p[1].cols[0], 2);
  assert_int_equal(p[1].rows[0], -1);
  assert_int_equal(p[1].view.row_stride, 8);
  assert_int_equal(p[1].view.shape[1], 2);
  assert_int_equal(parts("model.layers.0.self_attn.q_proj.weight", 2, q, KA_UNIT_TENSOR, &w, p), 0);
}

static void test_fused(void **state) {
  (void)state;
  struct ka_unit w, p[8];
  int64_t qkv[] = {16, 8}, c_attn[] = {8, 24}, up[] = {24, 8}, experts[] = {3, 4, 6};
  assert_int_equal(parts("m.layers.0.self_attn.qkv_proj.weight", 2, qkv, KA_UNIT_TENSOR, &w, p), 3);
  assert_true(w.has_parts);
  assert_string_equal(p[2].name, "m.layers.0.self_attn.qkv_proj.weight#v");
  assert_int_equal(p[2].rows[0], 12);
  assert_int_equal(p[2].rows[1], 16);
  assert_int_equal(parts("transformer.h.0.attn.c_attn.weight", 2, c_attn, KA_UNIT_TENSOR, &w, p),
                   3);
  assert_string_equal(p[1].role, "k");
  assert_int_equal(p[1].cols[0], 8);
  assert_int_equal(p[1].cols[1], 16);
  assert_string_equal(w.role, "qkv");
  assert_int_equal(parts("m.layers.0.mlp.gate_up_proj.weight", 2, up, KA_UNIT_TENSOR, &w, p), 2);
  assert_string_equal(p[1].name, "m.layers.0.mlp.gate_up_proj.weight#up");
  assert_int_equal(parts("m.layers.0.mlp.experts.down_proj", 3, experts, KA_UNIT_EXPERT, &w, p), 3);
  assert_int_equal(p[2].rows[0], 2);
  assert_int_equal(p[2].view.shape[0], 4);
  assert_int_equal(p[2].view.shape[1], 6);
  assert_true(((float *)p[2].view.data)[0] == 48);
  assert_string_equal(p[2].name, "m.layers.0.mlp.experts.down_proj#expert2");
  assert_string_equal(p[2].role, "expert_down");
  assert_int_equal(p[2].expert, 2);
  assert_int_equal(parts("m.layers.0.mlp.experts.gate_up_proj", 3, experts, KA_UNIT_EXPERT, &w, p),
                   6);
  assert_true(w.has_parts);
  assert_string_equal(p[3].name, "m.layers.0.mlp.experts.gate_up_proj#expert1.up");
  assert_string_equal(p[3].role, "expert_up");
  assert_memory_equal(p[3].rows, ((int64_t[]){1, 2}), sizeof p[3].rows);
  assert_memory_equal(p[3].cols, ((int64_t[]){12, 24}), sizeof p[3].cols);
  assert_int_equal(p[3].view.shape[0], 2);
  assert_int_equal(p[3].view.shape[1], 6);
  assert_true(((float *)p[3].view.data)[0] == 36);
}

/* Embeddings, heads and routers of every family are no candidates by default. */
static void test_unusual(void **state) {
  (void)state;
  struct ka_unit w, p[8];
  int64_t shape[] = {8, 8};
  static const char *const unusual[] = {"model.embed_tokens.weight",
                                        "transformer.wte.weight",
                                        "wpe.weight",
                                        "lm_head.weight",
                                        "model.layers.0.mlp.gate.weight",
                                        "m.layers.0.block_sparse_moe.gate.weight"};
  for (size_t i = 0; i < sizeof unusual / sizeof *unusual; i++) {
    parts(unusual[i], 2, shape, KA_UNIT_TENSOR, &w, p);
    if (!w.unusual) fail_msg("%s", unusual[i]);
  }
  parts("model.layers.0.mlp.gate_proj.weight", 2, shape, KA_UNIT_TENSOR, &w, p);
  assert_false(w.unusual);
  assert_string_equal(w.role, "gate");
  parts("m.layers.0.block_sparse_moe.experts.3.w2.weight", 2, shape, KA_UNIT_EXPERT, &w, p);
  assert_string_equal(w.role, "expert_down");
}

/* What the model does not read as a weight is never chosen, however it is asked for. */
static void test_fixed(void **state) {
  (void)state;
  static const struct {
    const char *name;
    bool fixed;
  } cases[] = {{"model.layers.0.mlp.gate.e_score_correction_bias", true},
               {"model.layers.0.mlp.gate.weight", false},
               {"model.layers.0.self_attn.q_proj.weight", false},
               {"model.layers.1.self_attn.q_proj.weight", true},
               {"model.layers.0.self_attn.rotary_emb.inv_freq", true}};
  struct ka_ctx *ctx = &the_ctx;
  struct ka_hf_config c;
  struct ka_arena arena;
  ka_arena_init(&arena, ctx, "test");
  config_of(&c, "{\"model_type\": \"deepseek_v3\", \"vocab_size\": 8, \"hidden_size\": 8, "
                "\"num_hidden_layers\": 1, \"num_attention_heads\": 4}");
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    float data[4] = {0};
    int64_t n, four = 4;
    bool candidate[1];
    struct ka_select_spec spec;
    struct ka_unit u = ka_unit_of_tensor(cases[i].name, ka_tensor_view(data, KA_F32, 1, &four));
    T_OK(ka_unit_parts(ctx, &arena, &u, &c, KA_UNIT_TENSOR, NULL, &n));
    T_OK(ka_select_parse(ctx, &arena, "all", &spec));
    T_OK(ka_select_candidates(ctx, &spec, &u, 1, candidate));
    assert_true(candidate[0] == !cases[i].fixed);
  }
  ka_hf_config_close(&c);
  ka_arena_deinit(&arena);
}

int main(void) {
  ka_ctx_init(&the_ctx);
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_layers_and_order),
                                     cmocka_unit_test(test_heads), cmocka_unit_test(test_fused),
                                     cmocka_unit_test(test_unusual), cmocka_unit_test(test_fixed)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
