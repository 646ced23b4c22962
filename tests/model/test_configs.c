/* SPDX-License-Identifier: Apache-2.0
 * config.json of the best known public checkpoints (configs.jsonl: the keys that they have, as
 * facts; lists of longrope's factors shortened to made-up ones of the right length): each makes a
 * model of as many parameters as transformers makes of it (public_configs.py), or is refused with
 * the key that cannot be honoured. */
#include "base/json.h"
#include "engine/model/init.h"
#include "tests/support/test.h"

#include <stdlib.h>
#include <string.h>

static struct ka_ctx context, *ctx = &context;

static void check_one(const char *dir, const json_t *line) {
  const char *path = t_str("%s/config.json", dir), *model, *refused;
  struct ka_model_size size;
  model = json_string_value(json_object_get(line, "model"));
  refused = json_string_value(json_object_get(line, "refused"));
  T_OK(ka_json_write(ctx, json_object_get(line, "config"), path));
  if (refused) {
    T_FAILS(ka_model_measure(ctx, path, &size), KA_E_UNSUPPORTED, refused);
    return;
  }
  T_OK(ka_model_measure(ctx, path, &size));
  long long want = json_integer_value(json_object_get(line, "parameters"));
  if (size.n_elems != want)
    fail_msg("%s: %lld parameters, expected %lld", model, (long long)size.n_elems, want);
}

static void public_checkpoints(void **state) {
  (void)state;
  ka_ctx_init(ctx);
  struct ka_str file = {0};
  const char *source = getenv("KAPPA_SOURCE_DIR"), *dir = t_temp_dir();
  int n = 0;
  T_OK(ka_read_file(ctx, t_str("%s/tests/model/configs.jsonl", source ? source : "."), 0, &file));
  for (char *rest = NULL, *text = strtok_r(file.data, "\n", &rest); text; n++) {
    json_t *line = json_loads(text, 0, NULL);
    assert_non_null(line);
    check_one(dir, line);
    json_decref(line);
    text = strtok_r(NULL, "\n", &rest);
  }
  assert_true(n > 60);
  ka_str_deinit(&file);
}

/* One key that changes the result, put into a config that is accepted without it. */
static void keys_that_no_family_has(void **state) {
  (void)state;
  static const char *const keys[] = {"\"attn_logit_softcapping\": 50",
                                     "\"logits_scaling\": 8",
                                     "\"qk_layernorm\": true",
                                     "\"alibi\": true",
                                     "\"clip_qkv\": 8",
                                     "\"no_rope_layers\": [1, 0]",
                                     "\"use_parallel_residual\": true"};
  const char *path = t_str("%s/config.json", t_temp_dir());
  struct ka_model_size size;
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    char key[64];
    const char *text =
        t_str("{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", "
              "\"vocab_size\": 64, \"hidden_size\": 16, \"intermediate_size\": 32, "
              "\"num_hidden_layers\": 2, \"num_attention_heads\": 2, %s}",
              keys[i]);
    T_OK(ka_write_file(ctx, path, text, strlen(text)));
    sscanf(keys[i], "\"%63[a-z_]\"", key);
    T_FAILS(ka_model_measure(ctx, path, &size), KA_E_UNSUPPORTED, key);
  }
}

static void the_command(void **state) {
  (void)state;
  const char *path = t_str("%s/config.json", t_temp_dir());
  static const char text[] =
      "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 64, "
      "\"hidden_size\": 16, \"intermediate_size\": 32, \"num_hidden_layers\": 2, "
      "\"num_attention_heads\": 2}";
  struct ka_str out = {0};
  T_OK(ka_write_file(ctx, path, text, sizeof text - 1));
  assert_int_equal(t_kappa(&out, NULL, "init --config %s --dry-run", path), 0);
  assert_non_null(strstr(out.data, "llama model of 7.2K parameters (7248) in 21 tensors"));
  ka_str_deinit(&out);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(public_checkpoints),
                                     cmocka_unit_test(keys_that_no_family_has),
                                     cmocka_unit_test(the_command)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
