/* SPDX-License-Identifier: Apache-2.0
 *
 * Hand-written scanners for the two families of patterns that most byte-level tokenizers use. Each
 * is proven equal to its pattern under PCRE2 by tests/tokenizer/test_scan.c. The patterns cover
 * every text: each call returns the length of the next word, at least one character.
 *
 *   GPT-2   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *   cl100k  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
 * ?[^\s\p{L}\p{N}]+[\r\n]*
 *           |\s*[\r\n]+|\s+(?!\S)|\s+                    (Llama 3, Qwen 2 with \p{N}, OLMo 2) */
#include "tokenizer/parts.h"

#include <string.h>

enum { L = KA_UC_LETTER, N = KA_UC_NUMBER, S = KA_UC_SPACE };

static inline uint16_t class_at(const struct ka_tok_unicode *u, const char *s, size_t *len) {
  unsigned char c = (unsigned char)*s;
  if (c < 0x80) return *len = 1, u->ascii[c];
  uint32_t cp;
  *len = (size_t)ka_utf8_next(s, &cp);
  return ka_tok_uc_of(u, cp);
}

/* End of the run of characters from i whose class meets want (or, inverted, avoids it). */
static inline size_t run(const struct ka_tok_unicode *u, const char *s, size_t n, size_t i,
                         uint16_t mask, bool want) {
  size_t len;
  while (i < n && ((class_at(u, s + i, &len) & mask) != 0) == want) i += len;
  return i;
}

/* Length of an English clitic at s ('s 't 're 've 'm 'll 'd), 0 if none. */
static size_t clitic(const char *s, size_t n, bool any_case) {
  if (n < 2 || s[0] != '\'') return 0;
  unsigned char fold = any_case ? 0x20 : 0;
  char a = (char)(s[1] | fold), b = n > 2 ? (char)(s[2] | fold) : 0;
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
  /* U+017F, long s, is an s to a caseless match. */
  if (any_case && n > 2 && (unsigned char)s[1] == 0xC5 && (unsigned char)s[2] == 0xBF) return 3;
  return 0;
}

/* Whitespace from 0: all of it at the end of the text, else all but its last character, but at
 * least one. */
static size_t spaces(const char *s, size_t n, size_t end) {
  if (end == n) return end;
  size_t last = end - 1;
  while (((unsigned char)s[last] & 0xC0) == 0x80) last--;
  return last > 0 ? last : end;
}

size_t ka_tok_scan_gpt2(const struct ka_tok_unicode *u, const char *s, size_t n) {
  size_t len = 0, at = 0, next;
  if (*s == '\'' && (len = clitic(s, n, false))) return len;
  uint16_t c = class_at(u, s, &len);
  if (*s == ' ' && n > 1) {
    at = 1;
    c = class_at(u, s + 1, &next);
    if (c & S) return spaces(s, n, run(u, s, n, 1, S, true));
    len = 1 + next;
  }
  if (c & L) return run(u, s, n, len, L, true);
  if (c & N) return run(u, s, n, len, N, true);
  if (!(c & S)) return run(u, s, n, len, L | N | S, false);
  return spaces(s, n, run(u, s, n, at, S, true));
}

static size_t newlines(const char *s, size_t n, size_t i) {
  while (i < n && (s[i] == '\r' || s[i] == '\n')) i++;
  return i;
}

/* Whitespace that no letter follows directly: \s*[\r\n]+ | \s+(?!\S) | \s+ */
static size_t blank(const struct ka_tok_unicode *u, const char *s, size_t n) {
  size_t end = run(u, s, n, 0, S, true), newline = end;
  while (newline > 0 && s[newline - 1] != '\n' && s[newline - 1] != '\r') newline--;
  return newline > 0 ? newline : spaces(s, n, end);
}

size_t ka_tok_scan_cl100k(const struct ka_tok_unicode *u, const char *s, size_t n, int max_digits) {
  size_t len = 0, next = 0;
  if (*s == '\'' && (len = clitic(s, n, true))) return len;
  uint16_t c = class_at(u, s, &len);
  if (c & L) return run(u, s, n, len, L, true);
  if (c & N) {
    for (int k = 1; k < max_digits && len < n && (class_at(u, s + len, &next) & N); k++)
      len += next;
    return len;
  }
  uint16_t d = len < n ? class_at(u, s + len, &next) : S;
  if ((d & L) && *s != '\r' && *s != '\n') return run(u, s, n, len + next, L, true);
  if (!(c & S)) return newlines(s, n, run(u, s, n, len, L | N | S, false));
  if (*s == ' ' && len < n && !(d & (L | N | S)))
    return newlines(s, n, run(u, s, n, 1 + next, L | N | S, false));
  return blank(u, s, n);
}

bool ka_tok_scan_known(const char *pattern, size_t n, struct ka_tok_find *find) {
  static const struct {
    const char *pattern;
    enum ka_tok_find_kind kind;
    int max_digits;
  } known[] = {
      {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
       KA_FIND_GPT2, 0},
      {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
       "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
       KA_FIND_CL100K, 3},
      {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
       "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
       KA_FIND_CL100K, 1},
  };
  for (size_t k = 0; k < sizeof known / sizeof *known; k++)
    if (strlen(known[k].pattern) == n && memcmp(known[k].pattern, pattern, n) == 0) {
      *find = (struct ka_tok_find){.kind = known[k].kind, .max_digits = known[k].max_digits};
      return true;
    }
  return false;
}
