/* SPDX-License-Identifier: Apache-2.0
 * tokenizer/convert.h: vocab.json and merges.txt give the ids that transformers 5.24 gives for the
 * same files; other tokenizers are refused with the command that converts them. */
#include "tests/support/fresh.h"
#include "tokenizer/bpe.h"
#include "tokenizer/tokenizer.h"

#include <string.h>

static void put(const char *dir, const char *name, const char *text) {
  T_OK(ka_write_file(ctx, t_str("%s/%s", dir, name), text, strlen(text)));
}

/* The 256 bytes of GPT-2's alphabet, then the results of nine merges. */
static void put_model(const char *dir) {
  static const char *const merges[] = {"h e", "l l",        "he ll", "hell o", "\u0120 w",
                                       "o r", "\u0120w or", "1 2",   "' s"};
  struct ka_str vocab = {0}, lines = {0};
  T_OK(ka_str_puts(ctx, &vocab, "{"));
  for (int b = 0; b < 256; b++) {
    char c[5] = {0};
    ka_utf8_encode(ka_tok_byte_char((unsigned char)b), c);
    T_OK(ka_str_puts(ctx, &vocab, b ? ", " : ""));
    T_OK(ka_json_quote(ctx, &vocab, c, strlen(c)));
    T_OK(ka_str_printf(ctx, &vocab, ": %d", b));
  }
  T_OK(ka_str_puts(ctx, &lines, "#version: 0.2\n"));
  for (int i = 0; i < 9; i++) {
    int n = (int)strcspn(merges[i], " ");
    T_OK(ka_str_printf(ctx, &vocab, ", \"%.*s%s\": %d", n, merges[i], merges[i] + n + 1, 256 + i));
    T_OK(ka_str_printf(ctx, &lines, "%s\n", merges[i]));
  }
  T_OK(ka_str_puts(ctx, &vocab, "}"));
  put(dir, "vocab.json", vocab.data);
  put(dir, "merges.txt", lines.data);
  ka_str_deinit(&vocab);
  ka_str_deinit(&lines);
}

#define FLAGS "\"lstrip\": false, \"rstrip\": false, \"single_word\": false, \"normalized\": false"
#define DECODER                                                                                    \
  "\"added_tokens_decoder\": {"                                                                    \
  "\"266\": {\"content\": \"<|im_start|>\", \"special\": true, " FLAGS "}, "                       \
  "\"265\": {\"content\": \"<|endoftext|>\", \"special\": true, " FLAGS "}, "                      \
  "\"267\": {\"content\": \"<tool>\", \"special\": false, " FLAGS "}}"

static void ids_are_those_of_transformers(void **state) {
  (void)state;
  static const struct {
    const char *config, *ids;
  } cases[] = {
      {"{\"tokenizer_class\": \"GPT2Tokenizer\", \"model_max_length\": 1e30}",
       "259 32 262 108 100 32 263 51 264 10 10 32 60 124 105 109 95 115 116 97 114 116 124 62 99 "
       "97 102 101 204 129 32 60 116 111 111 108 62 265 32 120 60 115 62"},
      {"{\"tokenizer_class\": \"GPT2TokenizerFast\", \"add_prefix_space\": true, "
       "\"bos_token\": \"<s>\", " DECODER "}",
       "32 259 32 262 108 100 32 263 51 264 10 10 32 266 32 99 97 102 101 204 129 32 267 265 32 "
       "120 268"},
      {"{\"tokenizer_class\": \"Qwen2Tokenizer\", \"eos_token\": \"<|im_start|>\", "
       "\"additional_special_tokens\": [\"<|im_start|>\", \"<s>\"], " DECODER "}",
       "259 32 262 108 100 32 49 50 51 264 10 10 32 266 99 97 102 195 169 32 267 265 32 120 268"},
      {"{\"tokenizer_class\": \"Qwen2Tokenizer\"}",
       "259 32 262 108 100 32 49 50 51 264 10 10 32 60 124 105 109 95 115 116 97 114 116 124 62 99 "
       "97 102 195 169 32 60 116 111 111 108 62 265 32 120 60 115 62"},
  };
  static const char text[] =
      "hello  world 123's\n\n <|im_start|>cafe\u0301 <tool><|endoftext|> x<s>";
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *dir = t_temp_dir(), *ids = "";
    struct ka_tokenizer *t;
    struct ka_tok_tokens tokens = {0};
    put_model(dir);
    put(dir, "tokenizer_config.json", cases[i].config);
    assert_true(ka_tokenizer_is_in(dir));
    T_OK(ka_tokenizer_open(ctx, &t, dir));
    T_OK(ka_tokenizer_encode(ctx, t, text, strlen(text), true, &tokens));
    for (int64_t k = 0; k < tokens.n; k++) ids = t_str("%s%s%d", ids, k ? " " : "", tokens.ids[k]);
    assert_string_equal(ids, cases[i].ids);
    ka_tok_tokens_deinit(&tokens);
    ka_tokenizer_close(t);
  }
}

static void others_are_refused_with_the_command(void **state) {
  (void)state;
  const char *dir = t_temp_dir();
  struct ka_tokenizer *t;
  assert_false(ka_tokenizer_is_in(dir));
  T_FAILS(ka_tokenizer_open(ctx, &t, dir), KA_E_INPUT, "no such file");
  put_model(dir);
  T_FAILS(ka_tokenizer_open(ctx, &t, dir), KA_E_UNSUPPORTED, "none is named");
  put(dir, "tokenizer_config.json", "{\"tokenizer_class\": \"RobertaTokenizer\"}");
  T_FAILS(ka_tokenizer_open(ctx, &t, dir), KA_E_UNSUPPORTED, "RobertaTokenizer, which is not read");
  dir = t_temp_dir();
  put(dir, "tokenizer.model", "x");
  assert_true(ka_tokenizer_is_in(dir));
  T_FAILS(ka_tokenizer_open(ctx, &t, dir), KA_E_UNSUPPORTED, "save_pretrained");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(ids_are_those_of_transformers, fresh),
      cmocka_unit_test_setup(others_are_refused_with_the_command, fresh),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
