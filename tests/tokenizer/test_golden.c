/* SPDX-License-Identifier: Apache-2.0
 *
 * Real tokenizers against what the tokenizers library made of 114 texts each, and against
 * llama.cpp's vocabulary tests. The spans of every case tile the text. */
#include "base/json.h"
#include "tests/support/test.h"
#include "tokenizer/tokenizer.h"

#include <stdlib.h>
#include <string.h>

static struct ka_ctx context;
static struct ka_ctx *ctx = &context;

static void assert_ids(const json_t *want, const struct ka_tok_tokens *got, const char *where) {
  bool same = (int64_t)json_array_size(want) == got->n;
  for (int64_t i = 0; same && i < got->n; i++)
    same = json_integer_value(json_array_get(want, (size_t)i)) == got->ids[i];
  if (!same) fail_msg("%s: ids differ", where);
}

static void assert_text(const json_t *want, const struct ka_str *got, const char *where) {
  size_t n = json_string_length(want);
  if (n != got->len || (n && memcmp(json_string_value(want), got->data, n) != 0))
    fail_msg("%s: decoded text differs: \"%s\"", where, got->data);
}

/* Spans are ordered, begin at 0 and leave nothing out but what normalization dropped. */
static void assert_spans(const struct ka_tok_tokens *t, size_t n, const char *where) {
  int64_t at = 0;
  for (int64_t i = 0; i < t->n; i++) {
    const struct ka_tok_span *s = &t->spans[i];
    if (s->begin > s->end || s->end > (int64_t)n || s->begin < (i ? t->spans[i - 1].begin : 0))
      fail_msg("%s: span %lld is [%lld, %lld)", where, (long long)i, (long long)s->begin,
               (long long)s->end);
    if (s->begin > at) fail_msg("%s: a gap before span %lld", where, (long long)i);
    if (s->end > at) at = s->end;
  }
  if (t->n && at != (int64_t)n) fail_msg("%s: the text's end has no token", where);
}

static void check_row(const struct ka_tokenizer *t, const json_t *row, const char *where) {
  struct ka_tok_tokens ids = {.want_spans = true}, plain = {0};
  struct ka_str text = {0};
  const json_t *in = json_object_get(row, "text");
  const char *s = json_string_value(in);
  size_t n = json_string_length(in);
  T_OK(ka_tokenizer_encode(ctx, t, s, n, true, &ids));
  T_OK(ka_tokenizer_encode(ctx, t, s, n, false, &plain));
  assert_ids(json_object_get(row, "ids"), &ids, where);
  assert_ids(json_object_get(row, "ids_plain"), &plain, where);
  assert_spans(&ids, n, where);
  T_OK(ka_tokenizer_decode(ctx, t, plain.ids, plain.n, false, &text));
  assert_text(json_object_get(row, "decoded"), &text, where);
  ka_str_clear(&text);
  T_OK(ka_tokenizer_decode(ctx, t, ids.ids, ids.n, true, &text));
  assert_text(json_object_get(row, "decoded_skip"), &text, where);
  ka_tok_tokens_deinit(&ids);
  ka_tok_tokens_deinit(&plain);
  ka_str_deinit(&text);
}

static void test_golden(void **state) {
  (void)state;
  T_DATA(data);
  struct ka_str file = {0};
  const char *path = t_str("%s/tokenizers/golden.jsonl", data);
  struct ka_tokenizer *t = NULL;
  char open_name[64] = "";
  int line = 0;
  T_OK(ka_read_file(ctx, path, 0, &file));
  for (char *s = file.data, *end; *s; s = end + 1) {
    json_t *row;
    end = strchr(s, '\n');
    const char *where = t_str("golden.jsonl:%d", ++line);
    T_OK(ka_json_parse(ctx, s, (size_t)(end - s), where, &row));
    const char *name = json_string_value(json_object_get(row, "tokenizer"));
    if (strcmp(name, open_name) != 0) {
      ka_tokenizer_close(t);
      T_OK(ka_tokenizer_open(ctx, &t, t_str("%s/tokenizers/%s", data, name)));
      snprintf(open_name, sizeof open_name, "%s", name);
    }
    check_row(t, row, where);
    json_decref(row);
  }
  assert_int_equal(line, 1140);
  ka_tokenizer_close(t);
  ka_str_deinit(&file);
}

static void check_vocab_test(const struct ka_tokenizer *t, const char *data, const char *name) {
  static const char separator[] = "\n__ggml_vocab_test__\n";
  struct ka_str in = {0}, want = {0};
  const char *stem = t_str("%s/tokenizers/llama.cpp-vocab-tests/ggml-vocab-%s.gguf", data, name);
  T_OK(ka_read_file(ctx, t_str("%s.inp", stem), 0, &in));
  T_OK(ka_read_file(ctx, t_str("%s.out", stem), 0, &want));
  int n_texts = 0;
  char *line = want.data;
  for (char *s = in.data; s; n_texts++) {
    struct ka_tok_tokens got = {0};
    char *end = strstr(s, separator);
    T_OK(ka_tokenizer_encode(ctx, t, s, end ? (size_t)(end - s) : strlen(s), false, &got));
    for (int64_t i = 0; i < got.n; i++)
      if (strtol(line, &line, 10) != got.ids[i]) fail_msg("%s: text %d", name, n_texts);
    line += strspn(line, " ");
    assert_true(*line == '\n' || *line == 0);
    line += *line == '\n';
    s = end ? end + sizeof separator - 1 : NULL;
    ka_tok_tokens_deinit(&got);
  }
  assert_true(n_texts > 40);
  ka_str_deinit(&in);
  ka_str_deinit(&want);
}

static void test_llama_cpp(void **state) {
  (void)state;
  T_DATA(data);
  static const char *const pairs[][2] = {
      {"gpt-2", "gpt2"},
      {"llama-bpe", "llama3-rebuilt"},
      {"llama-spm", "llama2-fixed"},
      {"phi-3", "phi-3-mini"},
      {"qwen2", "qwen2.5-rebuilt"},
      {"deepseek-coder", "deepseek-coder-from-gguf"},
  };
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
    struct ka_tokenizer *t;
    T_OK(ka_tokenizer_open(ctx, &t, t_str("%s/tokenizers/%s", data, pairs[i][1])));
    check_vocab_test(t, data, pairs[i][0]);
    ka_tokenizer_close(t);
  }
}

static void test_corrupt_llama2(void **state) {
  (void)state;
  T_DATA(data);
  struct ka_tokenizer *t;
  T_FAILS(ka_tokenizer_open(ctx, &t, t_str("%s/tokenizers/llama2", data)), KA_E_INPUT,
          "no-break spaces");
  assert_null(t);
}

int main(void) {
  ka_ctx_init(ctx);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_golden),
      cmocka_unit_test(test_llama_cpp),
      cmocka_unit_test(test_corrupt_llama2),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
