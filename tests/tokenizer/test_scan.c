/* SPDX-License-Identifier: Apache-2.0
 *
 * The hand-written scanners are their patterns: on random texts of awkward characters they cut
 * exactly where PCRE2 does. Seeded and bounded. Also what the pattern translator refuses. */
#include "base/rng.h"
#include "tests/support/test.h"
#include "tokenizer/parts.h"

#include <string.h>

static struct ka_ctx context;
static struct ka_ctx *ctx = &context;

static const char *const patterns[] = {
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
};

static uint32_t pick(uint64_t index) {
  static const uint32_t awkward[] = {
      ' ',   ' ',    ' ',    '\n',   '\r',   '\t',   '\'',   's',   'S',     't',     'r',
      'e',   'v',    'l',    'L',    'd',    'M',    'x',    '1',   '9',     '.',     '-',
      0x17F, 0xA0,   0x2028, 0x3000, 0x85,   0x180E, 0x200B, 0x301, 0x4E2D,  0x1F600, 0xBD,
      0x663, 0x2160, 0x212A, 0xE9,   0x1C89, 0xFFFD, 0,      0x7F,  0x10D40, '_',     0x10FFFF};
  uint64_t kind = ka_rng_below(7, 1, index, 40);
  if (kind < 37) return awkward[ka_rng_below(7, 2, index, sizeof awkward / sizeof *awkward)];
  uint32_t cp = (uint32_t)ka_rng_below(7, 3, index, kind < 39 ? 0x3000 : 0x110000);
  return cp >= 0xD800 && cp < 0xE000 ? 'y' : cp;
}

static size_t make_text(uint64_t index, char *out) {
  size_t n = 0, chars = (size_t)ka_rng_below(7, 4, index, 24);
  for (uint64_t k = 0; k <= chars; k++) n += (size_t)ka_utf8_encode(pick(index * 32 + k), out + n);
  return n;
}

static void compare(const struct ka_tok_unicode *u, const struct ka_tok_find *find,
                    const struct ka_rx *rx, struct ka_rx_scan *scan, const char *s, size_t n,
                    uint64_t index) {
  size_t at = 0, b, e;
  bool found;
  ka_tok_rx_begin(scan, rx, s, n);
  for (; at < n; at = e) {
    T_OK(ka_tok_rx_next(ctx, scan, &found, &b, &e));
    size_t len = find->kind == KA_FIND_GPT2
                     ? ka_tok_scan_gpt2(u, s + at, n - at)
                     : ka_tok_scan_cl100k(u, s + at, n - at, find->max_digits);
    if (!found || b != at || e != at + len)
      fail_msg("text %llu: at byte %zu PCRE2 cuts [%zu, %zu), the scanner %zu bytes: \"%s\"",
               (unsigned long long)index, at, b, e, len, s);
  }
}

static void test_scanners(void **state) {
  (void)state;
  struct ka_arena a;
  struct ka_tok_unicode u;
  struct ka_rx_scan *scan;
  ka_arena_init(&a, ctx, "test");
  T_OK(ka_tok_unicode_init(&u, &a));
  T_OK(ka_tok_rx_scan_create(ctx, &scan));
  for (size_t k = 0; k < sizeof patterns / sizeof *patterns; k++) {
    struct ka_tok_find find;
    struct ka_rx *rx;
    assert_true(ka_tok_scan_known(patterns[k], strlen(patterns[k]), &find));
    T_OK(ka_tok_rx_compile(ctx, &rx, patterns[k], strlen(patterns[k]), "test"));
    for (uint64_t i = 0; i < 150000; i++) {
      char text[32 * 4 + 1];
      size_t n = make_text(i, text);
      text[n] = 0;
      compare(&u, &find, rx, scan, text, n, i);
    }
    ka_tok_rx_free(rx);
  }
  ka_tok_rx_scan_free(scan);
  ka_arena_deinit(&a);
}

static void test_refused_patterns(void **state) {
  (void)state;
  static const char *const bad[][2] = {
      {"[a[^bc]]", "column 3"},     {"\\Qa", "column"},       {"a{2,3}+", "{n,m}+"},
      {"(?~a)", "group"},           {"[a", "[ without ]"},    {"\\p{Nonesuch}", "unknown property"},
      {"(a", "parenthes"},          {"\\", "backslash ends"}, {"[^a&&[b]]", "&&"},
      {"\\x{110000}", "too large"}, {"(*UTF)a", "(*"},        {"\\pL", "{NAME}"},
      {"[[:nonesuch:]]", "[: :]"},  {"\\xff", "byte"},        {"a**", "quantifier"},
  };
  for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
    struct ka_rx *rx;
    T_FAILS(ka_tok_rx_compile(ctx, &rx, bad[k][0], strlen(bad[k][0]), "here"), KA_E_UNSUPPORTED,
            bad[k][1]);
    assert_null(rx);
  }
}

int main(void) {
  ka_ctx_init(ctx);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_scanners),
      cmocka_unit_test(test_refused_patterns),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
