/* SPDX-License-Identifier: Apache-2.0
 *
 * Every part and option of tokenizer.json on small tokenizers, against what the tokenizers library
 * makes of them: cases.jsonl, written by make_cases.py. Line 1 holds the texts and the models, each
 * other line a tokenizer without its model and one row a text (null where the library panics). */
#include "base/json.h"
#include "tests/support/test.h"
#include "tokenizer/tokenizer.h"

#include <stdlib.h>
#include <string.h>

static struct ka_ctx context;
static struct ka_ctx *ctx = &context;

static bool same_ids(const json_t *want, const struct ka_tok_tokens *got) {
  bool same = (int64_t)json_array_size(want) == got->n;
  for (int64_t i = 0; same && i < got->n; i++)
    same = json_integer_value(json_array_get(want, (size_t)i)) == got->ids[i];
  return same;
}

static bool same_text(const json_t *want, const struct ka_str *got) {
  size_t n = json_string_length(want);
  return n == got->len && (n == 0 || memcmp(json_string_value(want), got->data, n) == 0);
}

static void check(const struct ka_tokenizer *t, const json_t *text, const json_t *row,
                  const char *where) {
  struct ka_tok_tokens ids = {.want_spans = true}, plain = {0};
  struct ka_str all = {0}, skipped = {0};
  const char *s = json_string_value(text);
  size_t n = json_string_length(text);
  T_OK(ka_tokenizer_encode(ctx, t, s, n, true, &ids));
  T_OK(ka_tokenizer_encode(ctx, t, s, n, false, &plain));
  T_OK(ka_tokenizer_decode(ctx, t, plain.ids, plain.n, false, &all));
  T_OK(ka_tokenizer_decode(ctx, t, ids.ids, ids.n, true, &skipped));
  if (!same_ids(json_array_get(row, 0), &ids)) fail_msg("%s: ids of \"%s\"", where, s);
  if (!same_ids(json_array_get(row, 1), &plain)) fail_msg("%s: plain ids of \"%s\"", where, s);
  if (!same_text(json_array_get(row, 2), &all)) fail_msg("%s: decoded \"%s\"", where, s);
  if (!same_text(json_array_get(row, 3), &skipped)) fail_msg("%s: decoded_skip \"%s\"", where, s);
  for (int64_t i = 0; i < ids.n; i++) {
    struct ka_tok_span span = ids.spans[i];
    if (span.begin < 0 || span.begin > span.end || span.end > (int64_t)n)
      fail_msg("%s: span %lld of \"%s\"", where, (long long)i, s);
  }
  ka_tok_tokens_deinit(&ids);
  ka_tok_tokens_deinit(&plain);
  ka_str_deinit(&all);
  ka_str_deinit(&skipped);
}

static void test_cases(void **state) {
  (void)state;
  struct ka_str file = {0};
  json_t *head = NULL;
  const char *root = getenv("KAPPA_SOURCE_DIR"), *path = t_str("%s/tokenizer.json", t_temp_dir());
  T_OK(ka_read_file(ctx, t_str("%s/tests/tokenizer/cases.jsonl", root ? root : "."), 0, &file));
  int line = 0, n_rows = 0;
  for (char *s = file.data, *end; *s; s = end + 1) {
    json_t *v;
    end = strchr(s, '\n');
    const char *where = t_str("cases.jsonl:%d", ++line);
    T_OK(ka_json_parse(ctx, s, (size_t)(end - s), where, &v));
    if (line == 1) {
      head = v;
      continue;
    }
    struct ka_tokenizer *t;
    json_t *tokenizer = json_object_get(v, "tokenizer"), *rows = json_object_get(v, "rows");
    size_t k = (size_t)json_integer_value(json_object_get(v, "model"));
    json_object_set(tokenizer, "model", json_array_get(json_object_get(head, "models"), k));
    assert_int_equal(json_dump_file(tokenizer, path, 0), 0); /* no fsync, 155 times */
    T_OK(ka_tokenizer_open(ctx, &t, path));
    for (size_t i = 0; i < json_array_size(rows); i++) {
      if (json_is_null(json_array_get(rows, i))) continue;
      check(t, json_array_get(json_object_get(head, "texts"), i), json_array_get(rows, i), where);
      n_rows++;
    }
    ka_tokenizer_close(t);
    json_decref(v);
  }
  assert_true(line > 140 && n_rows > 2000);
  json_decref(head);
  ka_str_deinit(&file);
}

int main(void) {
  ka_ctx_init(ctx);
  ctx->log_level = KA_LOG_QUIET;
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_cases)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
