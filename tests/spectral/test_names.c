/* SPDX-License-Identifier: Apache-2.0
 * Names of exports: what tensors of files are called in loaded models (names.json, made from
 * transformers by make_names.py), and what each format does of experts. */
#include "base/json.h"
#include "engine/spectral/export.h"
#include "engine/spectral/memory_names.h"
#include "engine/spectral/units.h"
#include "tests/support/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct ka_ctx the_ctx;

static void test_loaded_names(void **state) {
  (void)state;
  struct ka_ctx *ctx = &the_ctx;
  struct ka_arena arena;
  json_t *root = NULL, *tensors, *row;
  const char *family, *tensor, *home = getenv("KAPPA_SOURCE_DIR");
  int n = 0, n_experts = 0;
  ka_arena_init(&arena, ctx, "test");
  T_OK(ka_json_load(ctx, t_str("%s/tests/spectral/names.json", home ? home : "."), &root));
  json_object_foreach(root, family, tensors) {
    json_object_foreach(tensors, tensor, row) {
      struct ka_memory_name m;
      T_OK(ka_memory_name_of(&arena, tensor, &m));
      const char *name = json_string_value(json_array_get(row, 0));
      if (strcmp(m.name, name) != 0) fail_msg("%s: got %s, expected %s", tensor, m.name, name);
      assert_int_equal(m.expert, json_integer_value(json_array_get(row, 1)));
      n++;
      n_experts += m.expert >= 0;
    }
  }
  assert_true(n > 300 && n_experts > 60);
  json_decref(root);
  ka_arena_deinit(&arena);
}

enum { N = 6 };
static const struct {
  const char *name;
  double kappa;
} table[N] = {
    {"model.layers.0.mlp.experts.0.gate_proj.weight", 2},
    {"model.layers.0.mlp.experts.0.up_proj.weight", 8},
    {"model.layers.0.mlp.experts.2.up_proj.weight", 4},
    {"model.layers.0.mlp.experts.2.down_proj.weight", 3},
    {"model.layers.0.mlp.gate.weight", 5},
    {"model.layers.1.mlp.up_proj.weight", 6},
};

/* The file of a format for these tensors, all of them selected. */
static char *exported(enum ka_spectral_export format) {
  struct ka_ctx *ctx = &the_ctx;
  static double data[N][4];
  struct ka_unit units[N];
  struct ka_spectrum results[N];
  struct ka_selection selection;
  struct ka_arena arena;
  struct ka_str text = {0};
  ka_arena_init(&arena, ctx, "test");
  for (int i = 0; i < N; i++) {
    data[i][0] = 1;
    data[i][3] = 1 / table[i].kappa;
    units[i] = ka_unit_of_tensor(table[i].name, ka_tensor_2d(data[i], KA_F64, 2, 2));
  }
  struct ka_spectral_options o = {.precision = KA_PRECISION_F64, .full = true};
  T_OK(ka_spectral_analyze(ctx, &arena, results, units, N, &o, NULL));
  struct ka_select_spec spec = ka_select_spec_default();
  spec.count = N;
  T_OK(ka_select(ctx, &arena, &selection, &spec, results, N));
  const char *path = t_str("%s/export", t_temp_dir());
  T_OK(ka_spectral_export_write(ctx, format, results, N, &selection, path));
  T_OK(ka_read_file(ctx, path, 0, &text));
  ka_arena_deinit(&arena);
  return text.data;
}

static void has(enum ka_spectral_export format, const char *part, bool wanted) {
  char *text = exported(format);
  if ((strstr(text, part) != NULL) != wanted) fail_msg("%s", text);
  ka_free(text);
}

static void test_formats(void **state) {
  (void)state;
  struct ka_ctx *ctx = &the_ctx;
  ctx->log_level = KA_LOG_QUIET;
  has(KA_EXPORT_AXOLOTL, "  - ^model.layers.0.mlp.experts.gate_up_proj$[0:1]\n", true);
  has(KA_EXPORT_AXOLOTL, "  - ^model.layers.0.mlp.experts.gate_up_proj$[2:3]\n", true);
  has(KA_EXPORT_AXOLOTL, "  - ^model.layers.0.mlp.experts.down_proj$[2:3]\n", true);
  has(KA_EXPORT_AXOLOTL, "experts.0", false);
  char *text = exported(KA_EXPORT_AXOLOTL);
  assert_non_null(strstr(text, "$[0:1]"));
  assert_null(strstr(strstr(text, "$[0:1]") + 1, "$[0:1]")); /* gate and up are one */
  ka_free(text);
  text = exported(KA_EXPORT_PEFT);
  assert_string_equal(text, "{\n  \"target_modules\": [\n  ],\n  \"target_parameters\": [\n"
                            "    \"model.layers.0.mlp.experts.gate_up_proj\",\n"
                            "    \"model.layers.0.mlp.experts.down_proj\",\n"
                            "    \"model.layers.0.mlp.gate.weight\",\n"
                            "    \"model.layers.1.mlp.up_proj.weight\"\n  ]\n}\n");
  ka_free(text);
  text = exported(KA_EXPORT_KAPPATUNE);
  json_t *root = NULL;
  T_OK(ka_json_parse(ctx, text, strlen(text), "export", &root));
  assert_int_equal(json_object_size(root), 4);
  double kappa =
      json_number_value(json_object_get(root, "model.layers.0.mlp.experts.gate_up_proj"));
  assert_true(fabs(kappa - 4) < 1e-7); /* cbrt(2 8 4) */
  json_decref(root);
  ka_free(text);
  has(KA_EXPORT_SPECTRUM, "experts", false);
}

int main(void) {
  ka_ctx_init(&the_ctx);
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_loaded_names),
                                     cmocka_unit_test(test_formats)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
