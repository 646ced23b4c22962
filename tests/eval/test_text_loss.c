/* SPDX-License-Identifier: Apache-2.0
 * Rolling windows against the definition: every token scored alone, with the context that the
 * window rule gives it. */
#include "tests/support/test.h"

#include "engine/eval/text_loss.h"
#include "engine/model/init.h"

#include <math.h>
#include <omp.h>
#include <string.h>

static const char config_text[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 257,\n"
    " \"hidden_size\": 16, \"num_hidden_layers\": 1, \"num_attention_heads\": 2,\n"
    " \"num_key_value_heads\": 1, \"intermediate_size\": 24, \"max_position_embeddings\": 16,\n"
    " \"rms_norm_eps\": 1e-5, \"hidden_act\": \"silu\", \"tie_word_embeddings\": false,\n"
    " \"initializer_range\": 0.5, \"torch_dtype\": \"float32\"}\n";

struct fixture {
  struct ka_ctx ctx;
  struct ka_dev dev;
  struct ka_model model;
  struct ka_tokenizer *tokenizer;
};

static int setup(void **state) {
  static struct fixture f;
  struct ka_ctx *ctx = &f.ctx;
  ka_ctx_init(ctx);
  ctx->log_level = KA_LOG_WARN;
  omp_set_num_threads(1);
  const char *dir = t_temp_dir(), *config = t_str("%s/config.json", dir),
             *base = t_str("%s/base", dir), *special = "<|endoftext|>";
  T_OK(ka_write_file(ctx, config, config_text, strlen(config_text)));
  T_OK(ka_model_init(ctx, config, base, 3, KA_F32));
  T_OK(ka_tokenizer_write_byte_level(ctx, t_str("%s/tokenizer.json", base), &special, 1));
  const char *names = "{\"eos_token\": \"<|endoftext|>\", \"bos_token\": \"<|endoftext|>\"}";
  T_OK(ka_write_file(ctx, t_str("%s/tokenizer_config.json", base), names, strlen(names)));
  T_OK(ka_tokenizer_open(ctx, &f.tokenizer, base));
  T_OK(ka_dev_open(ctx, &f.dev, "cpu"));
  T_OK(ka_model_open(ctx, &f.model, &f.dev, base, KA_F32));
  *state = &f;
  return 0;
}

static int teardown(void **state) {
  struct fixture *f = *state;
  ka_model_close(&f->model);
  ka_dev_close(&f->dev);
  ka_tokenizer_close(f->tokenizer);
  return 0;
}

static struct ka_eval_text_loss score(struct fixture *f, const char *text, int64_t B,
                                      int64_t window) {
  struct ka_ctx *ctx = &f->ctx;
  struct ka_eval_text_scorer s;
  T_OK(ka_model_prepare(&f->model, B, window + 1, false));
  T_OK(ka_eval_text_scorer_init(ctx, &s, &f->model, f->tokenizer, B, window + 1));
  T_OK(ka_eval_text_scorer_document(&s, text, strlen(text)));
  T_OK(ka_eval_text_scorer_finish(&s));
  struct ka_eval_text_loss total = s.total;
  ka_eval_text_scorer_deinit(&s);
  return total;
}

/* tokens [prefix, ids...]: the loss of tokens[at] after tokens[begin..at). */
static double one_token(struct fixture *f, const int32_t *tokens, int64_t begin, int64_t at) {
  struct ka_ctx *ctx = &f->ctx;
  int32_t labels[32], position[32], start[32] = {0};
  int64_t n = at - begin + 1;
  double loss = 0;
  for (int i = 0; i < n; i++) {
    labels[i] = i == n - 1 ? tokens[at] : -100;
    position[i] = i < 15 ? i : 15;
  }
  struct ka_batch b = {.B = 1,
                       .T = n,
                       .input_ids = tokens + begin,
                       .labels = labels,
                       .position = position,
                       .doc_start = start,
                       .n_targets = 1};
  T_OK(ka_model_eval(&f->model, &b, &loss, NULL));
  return loss;
}

static void windows_follow_the_definition(void **state) {
  struct fixture *f = *state;
  const char *text = "The quick brown fox jumps over it.\n";
  int32_t tokens[64] = {256};
  int64_t n = (int64_t)strlen(text);
  for (int64_t i = 0; i < n; i++) tokens[i + 1] = (unsigned char)text[i];
  for (int64_t window = 1; window <= 16; window += 5) {
    struct ka_eval_text_loss got = score(f, text, 3, window);
    double want = 0;
    for (int64_t at = 1; at <= n; at++) {
      int64_t first = (at - 1) / window * window + 1; /* first target of its window */
      int64_t end = first + window - 1 > n ? n : first + window - 1; /* and the last */
      int64_t begin = end - window > 0 ? end - window : 0;
      want += one_token(f, tokens, begin, at);
    }
    assert_int_equal(got.n_tokens, n);
    assert_int_equal(got.n_bytes, n);
    assert_int_equal(got.n_words, 8); /* seven and the empty piece after the newline */
    if (fabs(got.loss_sum - want) > 1e-4 * want)
      fail_msg("window %d: got %.9g, expected %.9g", (int)window, got.loss_sum, want);
  }
}

static void figures_agree(void **state) {
  (void)state;
  struct ka_eval_text_loss t = {.loss_sum = 20, .n_tokens = 10, .n_words = 5, .n_bytes = 40};
  assert_true(ka_eval_text_loss_per_token(&t) == 2);
  assert_true(fabs(ka_eval_text_token_perplexity(&t) - exp(2)) < 1e-12);
  assert_true(fabs(ka_eval_text_word_perplexity(&t) - exp(4)) < 1e-12);
  assert_true(fabs(ka_eval_text_byte_perplexity(&t) - exp(0.5)) < 1e-12);
  assert_true(fabs(ka_eval_text_bits_per_byte(&t) - 0.5 / log(2)) < 1e-12);
}

static void words_as_python(void **state) {
  (void)state;
  static const struct {
    const char *text;
    int n;
  } cases[] = {{"", 1},        {" ", 2},       {"a", 1},
               {"a b", 2},     {" a  b\n", 4}, {"a\u00a0b\u3000c", 3},
               {"a\u200bb", 1}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    assert_int_equal(ka_eval_count_words(cases[i].text, strlen(cases[i].text)), cases[i].n);
}

static void batches_do_not_matter(void **state) {
  struct fixture *f = *state;
  const char *text = "a few words, then a few more of them";
  struct ka_eval_text_loss a = score(f, text, 1, 8), b = score(f, text, 4, 8);
  assert_true(fabs(a.loss_sum - b.loss_sum) < 1e-5 * a.loss_sum);
  assert_int_equal(score(f, "", 2, 8).n_tokens, 0);
}

/* One window can take long: a signal ends it between layers, not behind them. */
static void signal_ends_a_pass(void **state) {
  struct fixture *f = *state;
  struct ka_ctx *ctx = &f->ctx;
  volatile int interrupted = 15;
  const int32_t ids[] = {1, 2, 3, 4}, position[] = {0, 1, 2, 3}, start[4] = {0};
  struct ka_batch b = {.B = 1,
                       .T = 4,
                       .input_ids = ids,
                       .labels = ids,
                       .position = position,
                       .doc_start = start,
                       .n_targets = 3};
  double loss = 0;
  T_OK(ka_model_prepare(&f->model, 1, 4, false));
  ctx->interrupted = &interrupted;
  T_FAILS(ka_model_eval(&f->model, &b, &loss, NULL), KA_E_INTERRUPTED, "interrupted");
  ctx->interrupted = NULL;
  T_OK(ka_model_eval(&f->model, &b, &loss, NULL));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(windows_follow_the_definition), cmocka_unit_test(figures_agree),
      cmocka_unit_test(words_as_python), cmocka_unit_test(batches_do_not_matter),
      cmocka_unit_test(signal_ends_a_pass)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
