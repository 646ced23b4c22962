/* SPDX-License-Identifier: Apache-2.0
 * A whole small job with its first, second, third ... allocation failing, until it runs through:
 * always one message about memory, nothing half-written, nothing leaked (under ASan), and a
 * checkpoint that was there before is still good. */
#include "tests/support/test.h"

#include "base/json.h"
#include "base/pattern.h"
#include "engine/model/init.h"
#include "engine/train/run.h"
#include "python/regex.h"
#include "tokenizer/regex.h"

#include <omp.h>
#include <string.h>

static const char config_text[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 64,\n"
    " \"hidden_size\": 16, \"num_hidden_layers\": 1, \"num_attention_heads\": 2,\n"
    " \"num_key_value_heads\": 1, \"intermediate_size\": 24, \"max_position_embeddings\": 64,\n"
    " \"rms_norm_eps\": 1e-5, \"hidden_act\": \"silu\", \"tie_word_embeddings\": true,\n"
    " \"initializer_range\": 0.1, \"torch_dtype\": \"float32\"}\n";

static ka_status run_job(struct ka_ctx *ctx, const char *path, const char *out, const char *anchor,
                         const char *steps) {
  struct ka_job job = {0};
  struct ka_run run;
  struct ka_run_options options = {.resume = true};
  const char *words[] = {t_str("output_dir=%s", out), t_str("anchor={%s}", anchor), steps};
  ka_status st = ka_job_load(ctx, &job, path, words, 3);
  if (ka_ok(st)) {
    st = ka_run_open(ctx, &run, &job, &options);
    if (ka_ok(st)) st = ka_run_train(&run);
    ka_run_close(&run);
  }
  ka_job_close(&job);
  return st;
}

static void every_allocation_may_fail(const char *anchor) {
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  ctx->log_level = KA_LOG_QUIET;
  omp_set_num_threads(1);
  const char *dir = t_temp_dir(), *config = t_str("%s/config.json", dir);
  const char *path = t_str("%s/job.yaml", dir), *out = t_str("%s/out", dir);
  const char rows[] = "{\"input_ids\": [1, 2, 3, 4, 5, 6]}\n{\"input_ids\": [7, 8, 9, 10, 11]}\n";
  const char job[] = "base_model: base\ndatasets: [{path: rows.jsonl, type: tokenized}]\n"
                     "sequence_len: 8\nmicro_batch_size: 1\ngradient_accumulation_steps: 1\n"
                     "val_set_size: 1\nlogging_steps: 1\nbf16: false\nthreads: 1\nsave_steps: 1\n"
                     "selection: {metric: kappa, count: 2}\nmax_steps: 1\n";
  T_OK(ka_write_file(ctx, config, config_text, strlen(config_text)));
  T_OK(ka_write_file(ctx, path, job, strlen(job)));
  T_OK(ka_write_file(ctx, t_str("%s/rows.jsonl", dir), rows, strlen(rows)));
  T_OK(ka_model_init(ctx, config, t_str("%s/base", dir), 1, KA_F32));
  T_OK(run_job(ctx, path, out, anchor, "max_steps=1"));
  int64_t n = 1;
  for (;; n++) {
    ctx->fail_alloc_at = n;
    ka_status st = run_job(ctx, path, out, anchor, "max_steps=2");
    bool fired = ctx->fail_alloc_at <= 0;
    ctx->fail_alloc_at = 0;
    if (ka_ok(st) && !fired) break;
    /* A cache or a hint may do without; what fails must say why. */
    if (!ka_ok(st) && st.code != KA_E_MEMORY)
      fail_msg("allocation %d: code %d \"%s\"", (int)n, st.code, ctx->error.message);
    if (!ka_ok(st)) assert_true(strlen(ctx->error.message) > 10);
    ka_error_clear(ctx);
    assert_true(ka_path_exists(t_str("%s/checkpoint-1/state.json", out)));
    if (ka_path_exists(t_str("%s/checkpoint-2", out))) {
      T_OK(ka_remove_tree(ctx, out));
      T_OK(run_job(ctx, path, out, anchor, "max_steps=1"));
    }
  }
  print_message("%d allocations failed in turn\n", (int)n - 1);
  assert_true(n > 50);
}

/* The JSON library's allocations: whoever forgets to look at one is found by ka_json_check. */
static void every_json_allocation_may_fail(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  ctx->log_level = KA_LOG_QUIET;
  const char *dir = t_temp_dir(), *config = t_str("%s/config.json", dir);
  const char *path = t_str("%s/job.yaml", dir), *out = t_str("%s/out", dir);
  const char rows[] = "{\"input_ids\": [1, 2, 3, 4, 5, 6]}\n{\"input_ids\": [7, 8, 9, 10, 11]}\n";
  const char job[] = "base_model: base\ndatasets: [{path: rows.jsonl, type: tokenized}]\n"
                     "sequence_len: 8\nmicro_batch_size: 1\ngradient_accumulation_steps: 1\n"
                     "val_set_size: 1\nlogging_steps: 1\nbf16: false\nthreads: 1\nsave_steps: 1\n"
                     "selection: {metric: kappa, count: 2}\nmax_steps: 1\n";
  T_OK(ka_write_file(ctx, config, config_text, strlen(config_text)));
  T_OK(ka_write_file(ctx, path, job, strlen(job)));
  T_OK(ka_write_file(ctx, t_str("%s/rows.jsonl", dir), rows, strlen(rows)));
  T_OK(ka_model_init(ctx, config, t_str("%s/base", dir), 1, KA_F32));
  int n_failed = 0;
  for (int64_t n = 1;; n += 1 + n / 12) {
    T_OK(ka_remove_tree(ctx, out));
    ka_json_fail_at(n);
    ka_status st = run_job(ctx, path, out, "kind: none", "max_steps=1");
    ka_status memory = ka_json_check(ctx);
    ka_json_fail_at(0);
    if (ka_ok(memory)) { /* none was left to fail */
      T_OK(st);
      break;
    }
    n_failed++;
    if (!ka_ok(st) && st.code != KA_E_MEMORY)
      fail_msg("allocation %d: code %d \"%s\"", (int)n, st.code, ctx->error.message);
    ka_error_clear(ctx);
  }
  print_message("%d allocations of the JSON library failed\n", n_failed);
  assert_true(n_failed > 20);
}

/* Compiled and matched, as a tokenizer, a filter of tasks and a selection do. */
static ka_status use_patterns(struct ka_ctx *ctx, const char *job) {
  struct ka_rx *rx = NULL;
  struct ka_rx_scan *scan = NULL;
  struct ka_py_regex *re = NULL;
  struct ka_py_match match = {0};
  struct ka_job loaded = {0};
  bool found = false;
  size_t begin, end;
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_tok_rx_compile(ctx, &rx, "\\p{L}+|(a|b)*c", 15, "test"), out);
  KA_TRY_GOTO(ka_tok_rx_scan_create(ctx, &scan), out);
  ka_tok_rx_begin(scan, rx, "abc def", 7);
  KA_TRY_GOTO(ka_tok_rx_next(ctx, scan, &found, &begin, &end), out);
  assert_true(found && end == 3);
  KA_TRY_GOTO(ka_py_regex_open(ctx, &re, "(d)(e)f", 7), out);
  KA_TRY_GOTO(ka_py_regex_next(ctx, re, "abc def", 7, &match, &found), out);
  assert_true(found);
  KA_TRY_GOTO(ka_job_load(ctx, &loaded, job, NULL, 0), out);
out:
  ka_job_close(&loaded);
  ka_py_regex_close(re);
  ka_tok_rx_scan_free(scan);
  ka_tok_rx_free(rx);
  return st;
}

static void every_pattern_allocation_may_fail(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  ctx->log_level = KA_LOG_QUIET;
  const char *dir = t_temp_dir(), *path = t_str("%s/job.yaml", dir);
  const char job[] =
      "base_model: base\ndatasets: [{path: job.yaml, type: completion}]\n"
      "output_dir: out\nselection: {metric: kappa, count: 2, exclude: [\"(a|b)+$\"]}\n";
  T_OK(ka_write_file(ctx, path, job, strlen(job)));
  T_OK(ka_make_dirs(ctx, t_str("%s/base", dir)));
  T_OK(use_patterns(ctx, path));
  int64_t n = 1;
  for (;; n++) {
    ka_pattern_fail_at(n);
    ka_status st = use_patterns(ctx, path);
    bool failed = ka_pattern_failed();
    ka_pattern_fail_at(0);
    if (!failed) break;
    if (!ka_ok(st) && st.code != KA_E_MEMORY) /* the JIT's memory may be done without */
      fail_msg("allocation %d: code %d \"%s\"", (int)n, st.code, ctx->error.message);
    ka_error_clear(ctx);
  }
  print_message("%d allocations of PCRE2 failed in turn\n", (int)n - 1);
  assert_true(n > 10);
}

static void without_anchor(void **state) {
  (void)state;
  every_allocation_may_fail("kind: none");
}

static void with_kl(void **state) {
  (void)state;
  every_allocation_may_fail("kind: kl");
}

static void with_l2(void **state) {
  (void)state;
  every_allocation_may_fail("kind: l2, by: kappa");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(without_anchor), cmocka_unit_test(with_kl),
                                     cmocka_unit_test(with_l2),
                                     cmocka_unit_test(every_json_allocation_may_fail),
                                     cmocka_unit_test(every_pattern_allocation_may_fail)};
  ka_json_init();
  return cmocka_run_group_tests(tests, NULL, NULL);
}
