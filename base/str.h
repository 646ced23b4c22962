/* SPDX-License-Identifier: Apache-2.0
 *
 * Growing byte strings and small text helpers. Strings may hold NUL bytes; data is always
 * NUL-terminated one past len. */
#ifndef KAPPA_BASE_STR_H
#define KAPPA_BASE_STR_H

#include "base/status.h"

#include <stdarg.h>

struct ka_str {
  char *data; /* NULL while empty and never grown */
  size_t len, cap;
};

void ka_str_deinit(struct ka_str *s);
void ka_str_clear(struct ka_str *s); /* len 0, keeps the memory */
ka_status ka_str_reserve(struct ka_ctx *ctx, struct ka_str *s, size_t extra_bytes);
ka_status ka_str_append(struct ka_ctx *ctx, struct ka_str *s, const char *bytes, size_t n);
ka_status ka_str_puts(struct ka_ctx *ctx, struct ka_str *s, const char *text);
ka_status ka_str_printf(struct ka_ctx *ctx, struct ka_str *s, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* text with every byte that a terminal may take for a command as \\xNN: control characters but \n
 * and \t, C1 too, and bytes that are not UTF-8. Cut to fit `size` bytes; returns out. */
char *ka_visible(char *out, size_t size, const char *text);

/* The name in `names` (NULL-terminated) nearest to `word` by edit distance, or NULL when none is
 * close enough to be a likely misspelling. For "unknown key X, did you mean Y?". */
const char *ka_nearest(const char *word, const char *const *names);

bool ka_ends_with(const char *s, const char *suffix);
bool ka_starts_with(const char *s, const char *prefix);

/* The words of a list as people write one, "a, b": the next of *list, without the spaces around it,
 * perhaps empty; false at the end. */
bool ka_list_next(const char **list, char separator, const char **word, size_t *n);

/* Length of the UTF-8 sequence at s (1..4), or 0 when the bytes are not valid UTF-8 (overlong,
 * surrogate, above U+10FFFF, truncated at n). *cp receives the code point; may be NULL. */
int ka_utf8_decode(const char *s, size_t n, uint32_t *cp);
/* Writes cp to out (4 bytes room); returns the length. cp must be a valid scalar value. */
int ka_utf8_encode(uint32_t cp, char *out);
/* Offset of the first invalid byte, or n when all is valid. */
size_t ka_utf8_check(const char *s, size_t n);

/* Python's str.isspace, which \s of its regular expressions follows. */
bool ka_is_space(uint32_t cp);

/* Whole-string numbers: false on empty, trailing bytes, overflow. parse_f64 refuses hex; it
 * accepts inf and nan. */
bool ka_parse_i64(const char *s, int64_t *out);
bool ka_parse_f64(const char *s, double *out);

/* A hash of 128 bits in hex; returns buf. */
enum { KA_HASH_TEXT = 33 };
const char *ka_fmt_hash(uint64_t high, uint64_t low, char buf[KA_HASH_TEXT]);

/* "1.1B", "39.6M", "264K" for counts; "2.1 GiB" for bytes; into buf. Returns buf. */
const char *ka_fmt_count(double n, char buf[32]);
const char *ka_fmt_bytes(double n_bytes, char buf[32]);
const char *ka_fmt_duration(double seconds, char buf[32]); /* "1h02m", "3m07s", "4.2 s" */

#endif
