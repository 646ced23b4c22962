/* SPDX-License-Identifier: Apache-2.0
 * What kappa plan says of a job that is legal and hardly meant, and of models and data that are not
 * there. */
#include "base/file.h"
#include "tests/support/test.h"
#include "tokenizer/tokenizer.h"

#include <stdlib.h>
#include <string.h>

static struct ka_ctx context, *ctx = &context;
static const char *dir; /* with a model of 16 positions, m, that names no EOS, and its data */

static void put(const char *name, const char *text) {
  T_OK(ka_write_file(ctx, t_str("%s/%s", dir, name), text, strlen(text)));
}

static int set_up(void **state) {
  (void)state;
  ka_ctx_init(ctx);
  dir = t_temp_dir();
  setenv("HF_HUB_CACHE", dir, 1); /* empty */
  put("config.json", "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\","
                     "\"vocab_size\":257,\"hidden_size\":16,\"num_hidden_layers\":1,"
                     "\"num_attention_heads\":2,\"intermediate_size\":24,\"hidden_act\":\"silu\","
                     "\"max_position_embeddings\":16,\"rms_norm_eps\":1e-5,"
                     "\"tie_word_embeddings\":true}");
  struct ka_str err = {0};
  if (t_kappa(NULL, &err, "init --config %s/config.json --out %s/m --tokenizer bytes", dir, dir))
    fail_msg("kappa init: %s", err.data);
  ka_str_deinit(&err);
  put("m/tokenizer_config.json", "{}");
  put("a.jsonl", "{\"text\": \"a text of more than sixteen bytes\"}\n{\"text\": \"short\"}\n");
  put("c.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": "
                 "\"assistant\", \"content\": \"a\"}]}\n");
  put("t.jinja", "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}");
  return 0;
}

/* Writes a job of these lines; kappa plan exits with code and says part (NULL: not `never`). */
static void plan(const char *lines, int code, const char *part, const char *never) {
  struct ka_str err = {0};
  put("job.yaml", t_str("output_dir: out\nmax_steps: 1\nval_set_size: 0\nwarmup_ratio: ~\n"
                        "selection: {metric: last_n, count: 1}\n%s",
                        lines));
  assert_int_equal(t_kappa(NULL, &err, "plan %s/job.yaml --quiet", dir), code);
  const char *said = err.data ? err.data : "";
  if (part && !strstr(said, part)) fail_msg("expected \"%s\" in:\n%s", part, said);
  if (never && strstr(said, never)) fail_msg("unexpected \"%s\" in:\n%s", never, said);
  ka_str_deinit(&err);
}

#define MODEL "base_model: m\nsequence_len: 64\n"
#define TEXTS "datasets: [{path: a.jsonl}]\n"

static void rows_beyond_the_positions_are_warned_of(void **state) {
  (void)state;
  plan(MODEL TEXTS, 0, "but the model knows 16 positions", NULL);
  plan("base_model: m\nsequence_len: 16\n" TEXTS, 0, NULL, "positions");
}

static void texts_and_answers_without_an_end_are_warned_of(void **state) {
  (void)state;
  const char *chat = "datasets: [{path: c.jsonl, type: chat_template, chat_template: t.jinja%s}]\n";
  plan(MODEL TEXTS, 0, "2 of 2 records end without EOS", NULL);
  plan(MODEL "datasets: [{path: a.jsonl, add_eos: false}]\n", 0, NULL, "without EOS");
  plan(t_str("%s%s", MODEL, t_str(chat, "")), 0, "1 of 1 records", NULL);
  plan(t_str("%s%s", MODEL, t_str(chat, ", train_on_eos: none")), 0, NULL, "records");
}

static void names_of_the_hub_get_the_command_that_downloads(void **state) {
  (void)state;
  plan("base_model: org/name\ndatasets: [{path: org/texts}]\n", 2, "hf download org/name", NULL);
  plan("base_model: org/name\ndatasets: [{path: org/texts}]\n", 2,
       "hf download --repo-type dataset org/texts", NULL);
}

/* Last: the model is gone then. */
static void a_pointer_is_not_the_weights(void **state) {
  (void)state;
  put("m/model.safetensors", "version https://git-lfs.github.com/spec/v1\n"
                             "oid sha256:0\nsize 134515008\n");
  plan(MODEL TEXTS, 2,
       "m/model.safetensors: a Git LFS pointer, not the weights; run `git lfs pull`", "header of");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rows_beyond_the_positions_are_warned_of),
      cmocka_unit_test(texts_and_answers_without_an_end_are_warned_of),
      cmocka_unit_test(names_of_the_hub_get_the_command_that_downloads),
      cmocka_unit_test(a_pointer_is_not_the_weights),
  };
  return cmocka_run_group_tests(tests, set_up, NULL);
}
