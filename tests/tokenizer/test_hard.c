/* SPDX-License-Identifier: Apache-2.0
 *
 * Corrupt files, bad text, hostile text, failing allocations, many threads, streaming. The fixture
 * is a small tokenizer written out here, bent one way at a time. */
#include "base/rng.h"
#include "tests/support/test.h"
#include "tokenizer/tokenizer.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct ka_ctx context;
static struct ka_ctx *ctx = &context;

/* Parts of the file in order; a test replaces some. */
struct parts {
  const char *added, *normalizer, *pre, *post, *decoder, *type, *options, *vocab, *merges;
};
static const struct parts plain = {
    .added = "{\"id\": 8, \"content\": \"<s>\", \"single_word\": false, \"lstrip\": false, "
             "\"rstrip\": false, \"normalized\": false, \"special\": true}",
    .normalizer = "null",
    .pre = "null",
    .post = "null",
    .decoder = "{\"type\": \"Fuse\"}",
    .type = "\"BPE\"",
    .options = "\"unk_token\": \"?\", \"fuse_unk\": true,",
    .vocab =
        "\"?\": 0, \"a\": 1, \"b\": 2, \"ab\": 3, \"aa\": 4, \" \": 5, \"aaaa\": 6, \"abab\": 7",
    .merges = "\"a b\", \"a a\", [\"aa\", \"aa\"], [\"ab\", \"ab\"]",
};

/* Not ka_write_file: thousands of fsyncs would take minutes. */
static void put_file(const char *path, const char *bytes, size_t n) {
  FILE *f = fopen(path, "wb");
  assert_non_null(f);
  assert_true(fwrite(bytes, 1, n, f) == n && fclose(f) == 0);
}

static const char *write_parts(struct parts p) {
  const char *path = t_str("%s/tokenizer.json", t_temp_dir());
  const char *text = t_str(
      "{\"version\": \"1.0\", \"added_tokens\": [%s], \"normalizer\": %s, \"pre_tokenizer\": %s, "
      "\"post_processor\": %s, \"decoder\": %s, \"model\": {\"type\": %s, %s \"vocab\": {%s}, "
      "\"merges\": [%s]}}",
      p.added, p.normalizer, p.pre, p.post, p.decoder, p.type, p.options, p.vocab, p.merges);
  put_file(path, text, strlen(text));
  return path;
}

static void refuses(struct parts p, int code, const char *message) {
  struct ka_tokenizer *t;
  T_FAILS(ka_tokenizer_open(ctx, &t, write_parts(p)), code, message);
  assert_null(t);
}

#define BENT(field, value, code, message)                                                          \
  do {                                                                                             \
    struct parts bent = plain;                                                                     \
    bent.field = value;                                                                            \
    refuses(bent, code, message);                                                                  \
  } while (0)

static void test_refused_files(void **state) {
  (void)state;
  BENT(type, "\"Unigram\"", KA_E_UNSUPPORTED, "Unigram");
  BENT(type, "\"WordPiece\"", KA_E_UNSUPPORTED, "WordPiece");
  BENT(type, "\"WordLevel\"", KA_E_UNSUPPORTED, "WordLevel");
  BENT(options, "\"dropout\": 0.1,", KA_E_UNSUPPORTED, "dropout");
  BENT(options, "\"fuse_unk\": 1,", KA_E_INPUT, "fuse_unk");
  BENT(vocab, "", KA_E_INPUT, "vocab is empty");
  BENT(vocab, "\"a\": 1, \"b\": 1", KA_E_INPUT, "share id 1");
  BENT(vocab, "\"a\": -1", KA_E_INPUT, "\"a\"");
  BENT(vocab, "\"a\": 4294967295", KA_E_INPUT, "integer id");
  BENT(vocab, "\"a\": 99999999999999999999", KA_E_INPUT, "integer id");
  BENT(vocab, "\"a\": 1.5", KA_E_INPUT, "integer id");
  BENT(vocab, "\"a\": 1, \"a\": 2", KA_E_INPUT, "duplicate");
  BENT(merges, "\"a c\"", KA_E_INPUT, "\"c\" is not in the vocabulary");
  BENT(merges, "\"b b\"", KA_E_INPUT, "\"bb\" is not in the vocabulary");
  BENT(merges, "\"a b\", \"   \"", KA_E_INPUT, "merges[1]");
  BENT(merges, "\"ab\"", KA_E_INPUT, "merges[0]");
  BENT(merges, "[\"a\"]", KA_E_INPUT, "merges[0]");
  BENT(merges, "7", KA_E_INPUT, "merges[0]");
  BENT(normalizer, "{\"type\": \"Precompiled\"}", KA_E_UNSUPPORTED, "Precompiled");
  BENT(normalizer, "{\"type\": \"NFX\"}", KA_E_UNSUPPORTED, "normalizer: unknown type \"NFX\"");
  BENT(normalizer, "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}, 3]}",
       KA_E_INPUT, "normalizers[1]");
  BENT(normalizer, "[]", KA_E_INPUT, "normalizer");
  BENT(normalizer, "{\"type\": \"Prepend\"}", KA_E_INPUT, "\"prepend\"");
  BENT(pre, "{\"type\": \"Bytelevel\"}", KA_E_UNSUPPORTED, "did you mean ByteLevel?");
  BENT(pre, "{\"type\": \"UnicodeScripts\"}", KA_E_UNSUPPORTED, "UnicodeScripts");
  BENT(pre,
       "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"(\"}, \"behavior\": \"Removed\", "
       "\"invert\": false}",
       KA_E_UNSUPPORTED, "regular expression");
  BENT(pre,
       "{\"type\": \"Split\", \"pattern\": {\"String\": \"a\"}, \"behavior\": \"removed\", "
       "\"invert\": false}",
       KA_E_INPUT, "\"behavior\"");
  BENT(pre, "{\"type\": \"Metaspace\", \"replacement\": \"ab\"}", KA_E_INPUT, "one character");
  BENT(decoder, "{\"type\": \"CTC\"}", KA_E_UNSUPPORTED, "CTC");
  BENT(decoder, "{\"type\": \"Strip\", \"content\": \"a\", \"start\": -1, \"stop\": 0}", KA_E_INPUT,
       "at least 0");
  BENT(post, "{\"type\": \"Nonesuch\"}", KA_E_UNSUPPORTED, "Nonesuch");
  BENT(post,
       "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"x\"}}], "
       "\"special_tokens\": {}}",
       KA_E_INPUT, "\"x\" has no ids");
  BENT(post,
       "{\"type\": \"TemplateProcessing\", \"single\": [{\"Sequence\": {\"id\": \"B\"}}], "
       "\"special_tokens\": {}}",
       KA_E_UNSUPPORTED, "Sequence A");
  BENT(added, "{\"id\": 0}", KA_E_INPUT, "added_tokens[0]");
  BENT(added, "7", KA_E_INPUT, "added_tokens[0]");
}

static void test_broken_json(void **state) {
  (void)state;
  struct ka_tokenizer *t;
  struct ka_str good = {0};
  const char *path = write_parts(plain), *cut = t_str("%s/tokenizer.json", t_temp_dir());
  T_OK(ka_read_file(ctx, path, 0, &good));
  for (size_t n = 0; n < good.len; n += 7) { /* truncated anywhere: never a crash, never success */
    put_file(cut, good.data, n);
    T_FAILS(ka_tokenizer_open(ctx, &t, cut), KA_E_INPUT, "tokenizer.json:");
  }
  for (uint64_t i = 0; i < 4000; i++) { /* one byte changed: refused, or it opens and encodes */
    struct ka_tok_tokens out = {0};
    size_t at = (size_t)ka_rng_below(3, 1, i, good.len);
    char keep = good.data[at];
    good.data[at] = (char)ka_rng_below(3, 2, i, 256);
    put_file(cut, good.data, good.len);
    good.data[at] = keep;
    if (ka_ok(ka_tokenizer_open(ctx, &t, cut))) {
      ka_status st = ka_tokenizer_encode(ctx, t, "ab aab<s>c", 10, true, &out);
      for (int64_t k = 0; ka_ok(st) && k < out.n; k++)
        assert_true(out.ids[k] >= 0 && out.ids[k] < ka_tokenizer_vocab_size(t));
    }
    ka_error_clear(ctx);
    ka_tok_tokens_deinit(&out);
    ka_tokenizer_close(t);
  }
  T_FAILS(ka_tokenizer_open(ctx, &t, "/nonexistent"), KA_E_INPUT, "/nonexistent");
  T_FAILS(ka_tokenizer_open(ctx, &t, t_temp_dir()), KA_E_INPUT, "tokenizer.json");
  ka_str_deinit(&good);
}

static void assert_encodes(const struct ka_tokenizer *t, const char *text, const char *want) {
  struct ka_tok_tokens out = {0};
  struct ka_str got = {0};
  T_OK(ka_tokenizer_encode(ctx, t, text, strlen(text), true, &out));
  for (int64_t i = 0; i < out.n; i++)
    T_OK(ka_str_printf(ctx, &got, "%s%d", i ? " " : "", out.ids[i]));
  assert_string_equal(got.data ? got.data : "", want);
  ka_tok_tokens_deinit(&out);
  ka_str_deinit(&got);
}

static void test_text(void **state) {
  (void)state;
  struct ka_tokenizer *t;
  struct ka_tok_tokens out = {.want_spans = true};
  T_OK(ka_tokenizer_open(ctx, &t, write_parts(plain)));
  assert_encodes(t, "", "");
  assert_encodes(t, "abab ab", "7 5 3");
  assert_encodes(t, "aaaaaa", "6 4");
  assert_encodes(t, "a<s>zzb<s", "1 8 0 2 0");
  T_FAILS(ka_tokenizer_encode(ctx, t, "ab\xC3", 3, true, &out), KA_E_INPUT, "byte 2 (0xC3)");
  T_FAILS(ka_tokenizer_encode(ctx, t, "\xED\xA0\x80", 3, true, &out), KA_E_INPUT, "byte 0");
  assert_int_equal(out.n, 0);
  T_OK(ka_tokenizer_encode(ctx, t, "a\0b", 3, true, &out)); /* NUL is a character like others */
  assert_int_equal(out.n, 3);
  assert_int_equal(out.ids[1], 0);
  assert_int_equal(out.spans[1].begin, 1);
  assert_int_equal(out.spans[1].end, 2);
  assert_int_equal(ka_tokenizer_vocab_size(t), 9);
  assert_int_equal(ka_tokenizer_token_id(t, "abab", 4), 7);
  assert_int_equal(ka_tokenizer_token_id(t, "zz", 2), -1);
  assert_string_equal(ka_tokenizer_token_text(t, 8, NULL), "<s>");
  assert_null(ka_tokenizer_token_text(t, 9, NULL));
  assert_true(ka_tokenizer_is_special(t, 8) && !ka_tokenizer_is_special(t, 7));
  assert_int_equal(ka_tokenizer_bos(t), -1);
  ka_tok_tokens_deinit(&out);
  ka_tokenizer_close(t);
}

/* Tokens that only tokenizer_config.json or special_tokens_map.json name, as transformers adds
 * them: those of added_tokens_decoder by id, then the special ones, the map only without a
 * decoder. */
static void test_configured_tokens(void **state) {
  (void)state;
  static const struct {
    const char *config, *map, *ids;
    bool special;
  } cases[] = {
      {"{\"added_tokens_decoder\": {\"10\": {\"content\": \"<y>\", \"special\": true}, "
       "\"9\": {\"content\": \"<x>\", \"special\": true}}}",
       NULL, "1 9 2 10", true},
      {"{\"additional_special_tokens\": [\"<x>\", {\"content\": \"<y>\"}]}", NULL, "1 9 2 10",
       true},
      {"{\"extra_special_tokens\": {\"y\": \"<y>\", \"x\": \"<x>\"}}", NULL, "1 10 2 9", true},
      {"{\"pad_token\": \"<x>\", \"eos_token\": \"<y>\"}", NULL, "1 10 2 9", true},
      {NULL, "{\"additional_special_tokens\": [\"<y>\", \"<x>\"]}", "1 10 2 9", true},
      {"{\"added_tokens_decoder\": {\"9\": {\"content\": \"<x>\"}}}",
       "{\"additional_special_tokens\": [\"<y>\"]}", "1 9 2 0", false},
  };
  const char *path = write_parts(plain), *slash = strrchr(path, '/');
  const char *config = t_str("%.*s/tokenizer_config.json", (int)(slash - path), path);
  const char *map = t_str("%.*s/special_tokens_map.json", (int)(slash - path), path);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct ka_tokenizer *t;
    if (cases[i].config) put_file(config, cases[i].config, strlen(cases[i].config));
    if (cases[i].map) put_file(map, cases[i].map, strlen(cases[i].map));
    T_OK(ka_tokenizer_open(ctx, &t, path));
    assert_encodes(t, "a<x>b<y>", cases[i].ids);
    assert_true(ka_tokenizer_is_special(t, 9) == cases[i].special);
    ka_tokenizer_close(t);
    remove(config);
    remove(map);
  }
}

/* A text with what no token spells: said once a tokenizer, and only then. */
static void test_lost_characters(void **state) {
  (void)state;
  struct parts p = plain;
  struct ka_str out = {0}, err = {0};
  const char *text = t_str("%s/lost.txt", t_temp_dir());
  p.options = "";
  const char *path = write_parts(p);
  put_file(text, "ab", 2);
  assert_int_equal(t_kappa(&out, &err, "tokenize %s %s --ids", path, text), 0);
  assert_int_equal(err.len, 0);
  ka_str_clear(&out);
  put_file(text, "azb zz", 6);
  assert_int_equal(t_kappa(&out, &err, "tokenize %s %s --ids", path, text), 0);
  assert_string_equal(out.data, "3 5\n");
  const char *said = strstr(err.data, "no token spells \"z\"");
  assert_non_null(said);
  assert_null(strstr(said + 1, "no token spells"));
  ka_str_deinit(&out);
  ka_str_deinit(&err);
}

/* A tokenizer whose unk_token its vocabulary lacks is fine until a text needs it. */
static void test_unk_missing(void **state) {
  (void)state;
  struct parts p = plain;
  struct ka_tokenizer *t;
  struct ka_tok_tokens out = {0};
  p.options = "\"unk_token\": \"<unk>\",";
  T_OK(ka_tokenizer_open(ctx, &t, write_parts(p)));
  assert_encodes(t, "ab", "3");
  T_FAILS(ka_tokenizer_encode(ctx, t, "az", 2, false, &out), KA_E_INPUT, "\"z\"");
  ka_tok_tokens_deinit(&out);
  ka_tokenizer_close(t);
}

/* One word of the whole text, through the heap. */
static void test_long_words(void **state) {
  (void)state;
  enum { N = 300000 };
  struct ka_tokenizer *t;
  struct ka_tok_tokens out = {.want_spans = true};
  struct ka_str text = {0}, back = {0};
  T_OK(ka_tokenizer_open(ctx, &t, write_parts(plain)));
  T_OK(ka_str_reserve(ctx, &text, N));
  memset(text.data, 'a', N);
  text.len = N;
  T_OK(ka_tokenizer_encode(ctx, t, text.data, N, true, &out));
  assert_int_equal(out.n, N / 4);
  for (int64_t i = 0; i < out.n; i++) assert_int_equal(out.ids[i], 6);
  assert_int_equal(out.spans[out.n - 1].end, N);
  T_OK(ka_tokenizer_decode(ctx, t, out.ids, out.n, true, &back));
  assert_true(back.len == N && memcmp(back.data, text.data, N) == 0);
  for (size_t i = 1; i < N; i += 2) text.data[i] = 'b';
  ka_tok_tokens_clear(&out);
  T_OK(ka_tokenizer_encode(ctx, t, text.data, N, true, &out));
  assert_int_equal(out.n, N / 4);
  assert_int_equal(out.ids[0], 7);
  ka_tok_tokens_deinit(&out);
  ka_str_deinit(&text);
  ka_str_deinit(&back);
  ka_tokenizer_close(t);
}

static void test_failing_allocations(void **state) {
  (void)state;
  struct parts p = plain;
  p.normalizer = "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFKC\"}, "
                 "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"c+\"}, \"content\": \"b\"}]}";
  p.pre = "{\"type\": \"Metaspace\", \"replacement\": \" \", \"prepend_scheme\": \"first\"}";
  const char *path = write_parts(p);
  int64_t n = 0;
  for (bool done = false; !done; n++) {
    struct ka_tokenizer *t = NULL;
    struct ka_tok_tokens out = {.want_spans = true};
    struct ka_str text = {0};
    ctx->fail_alloc_at = n + 1;
    ka_status st = ka_tokenizer_open(ctx, &t, path);
    if (ka_ok(st)) st = ka_tokenizer_encode(ctx, t, "a\xEF\xAC\x81 ccb", 7, true, &out);
    if (ka_ok(st)) st = ka_tokenizer_decode(ctx, t, out.ids, out.n, true, &text);
    done = ka_ok(st);
    if (!done) assert_int_equal(st.code, KA_E_MEMORY);
    ctx->fail_alloc_at = 0;
    ka_error_clear(ctx);
    ka_tok_tokens_deinit(&out);
    ka_str_deinit(&text);
    ka_tokenizer_close(t);
    assert_true(n < 2000);
  }
  assert_true(n > 20);
}

static void test_threads(void **state) {
  (void)state;
  struct ka_tokenizer *t;
  int wrong = 0;
  T_OK(ka_tokenizer_open(ctx, &t, write_parts(plain)));
#pragma omp parallel for num_threads(4) reduction(+ : wrong)
  for (int i = 0; i < 2000; i++) {
    struct ka_tok_tokens out = {0};
    char text[64];
    int n = snprintf(text, sizeof text, "%.*s", i % 40, "abababababababababababababababababababab");
    wrong += !ka_ok(ka_tokenizer_encode(ctx, t, text, (size_t)n, true, &out));
    wrong += out.n != i % 40 / 4 + (i % 40 % 4 + 1) / 2;
    ka_tok_tokens_deinit(&out);
  }
  assert_int_equal(wrong, 0);
  ka_tokenizer_close(t);
}

static void test_byte_level(void **state) {
  (void)state;
  static const char *const special[] = {"<|endoftext|>", "<|\"quoted\"|>"};
  struct ka_tokenizer *t;
  struct ka_tok_tokens out = {0};
  struct ka_str back = {0}, streamed = {0};
  const char *path = t_str("%s/tokenizer.json", t_temp_dir());
  T_OK(ka_tokenizer_write_byte_level(ctx, path, special, 2));
  T_OK(ka_tokenizer_open(ctx, &t, path));
  assert_int_equal(ka_tokenizer_vocab_size(t), 258);
  char text[2048];
  size_t n = 0;
  for (uint32_t cp = 0; cp < 0x1F600; cp += cp < 0x100 ? 1 : 997)
    if (cp < 0xD800 || cp >= 0xE000) n += (size_t)ka_utf8_encode(cp, text + n);
  memcpy(text + n, "<|endoftext|>\xF0\x9F\x98\x80", 17);
  n += 17;
  T_OK(ka_tokenizer_encode(ctx, t, text, n, true, &out));
  assert_int_equal(out.n, (int64_t)n - 12);
  assert_int_equal(out.ids[out.n - 5], 256);
  assert_int_equal(out.ids[(unsigned char)'A'], 'A');
  T_OK(ka_tokenizer_decode(ctx, t, out.ids, out.n, false, &back));
  assert_true(back.len == n && memcmp(back.data, text, n) == 0);

  struct ka_tok_decode_stream s = {0};
  for (int64_t i = 0; i < out.n; i++) {
    T_OK(ka_tok_decode_stream_push(ctx, &s, t, out.ids[i], &streamed));
    assert_true(ka_utf8_check(streamed.data, streamed.len) == streamed.len);
  }
  T_OK(ka_tok_decode_stream_flush(ctx, &s, t, &streamed));
  assert_true(streamed.len == n && memcmp(streamed.data, text, n) == 0);
  T_OK(ka_tok_decode_stream_push(ctx, &s, t, 0xF0, &streamed)); /* a character that never ends */
  assert_int_equal(streamed.len, n);
  T_OK(ka_tok_decode_stream_flush(ctx, &s, t, &streamed));
  assert_string_equal(streamed.data + n, "\xEF\xBF\xBD");
  ka_tok_decode_stream_deinit(&s);
  ka_tok_tokens_deinit(&out);
  ka_str_deinit(&back);
  ka_str_deinit(&streamed);
  ka_tokenizer_close(t);
}

static void test_command(void **state) {
  (void)state;
  struct ka_str out = {0}, err = {0};
  const char *path = write_parts(plain), *in = t_str("%s/in", t_temp_dir());
  const char *lines = "{\"text\": \"ab\"}\n\n{\"text\": \"\\u0000<s>\"}\n";
  put_file(in, lines, strlen(lines));
  assert_int_equal(t_kappa(&out, NULL, "tokenize %s %s --jsonl --threads 2", path, in), 0);
  assert_string_equal(out.data,
                      "{\"ids\": [3], \"ids_plain\": [3], \"decoded\": \"ab\", \"decoded_skip\": "
                      "\"ab\"}\n{\"ids\": [0, 8], \"ids_plain\": [0, 8], \"decoded\": \"?<s>\", "
                      "\"decoded_skip\": \"?\"}\n");
  lines = "{\"text\": \"ab\"}\n{\"txt\": 1}\n";
  put_file(in, lines, strlen(lines));
  assert_int_equal(t_kappa(NULL, &err, "tokenize %s %s --jsonl", path, in), 2);
  assert_non_null(strstr(err.data, "in:2: expected {\"text\": a string}"));
  put_file(in, "abab", 4);
  ka_str_clear(&out);
  assert_int_equal(t_kappa(&out, NULL, "tokenize %s %s --ids", path, in), 0);
  assert_string_equal(out.data, "7\n");
  put_file(in, "ab\xFF", 3);
  ka_str_clear(&err);
  assert_int_equal(t_kappa(NULL, &err, "tokenize %s %s", path, in), 2);
  assert_non_null(strstr(err.data, "byte 2 (0xFF)"));
  assert_int_equal(t_kappa(NULL, NULL, "tokenize %s /nonexistent", path), 2);
  ka_str_deinit(&out);
  ka_str_deinit(&err);
}

int main(void) {
  ka_ctx_init(ctx);
  ctx->log_level = KA_LOG_QUIET;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_refused_files),
      cmocka_unit_test(test_broken_json),
      cmocka_unit_test(test_text),
      cmocka_unit_test(test_configured_tokens),
      cmocka_unit_test(test_lost_characters),
      cmocka_unit_test(test_unk_missing),
      cmocka_unit_test(test_long_words),
      cmocka_unit_test(test_failing_allocations),
      cmocka_unit_test(test_threads),
      cmocka_unit_test(test_byte_level),
      cmocka_unit_test(test_command),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
