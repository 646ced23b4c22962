/* SPDX-License-Identifier: Apache-2.0
 * Growing strings, UTF-8, number parsing, and the nearest-name search for error messages. */
#include "base/str.h"

#include "base/arena.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ka_str_deinit(struct ka_str *s) {
  ka_free(s->data);
  *s = (struct ka_str){0};
}

void ka_str_clear(struct ka_str *s) {
  s->len = 0;
  if (s->data) s->data[0] = 0;
}

ka_status ka_str_reserve(struct ka_ctx *ctx, struct ka_str *s, size_t extra_bytes) {
  size_t need;
  if (__builtin_add_overflow(s->len, extra_bytes, &need) || need > SIZE_MAX / 4)
    return ka_fail(ctx, KA_E_MEMORY, "string of %zu + %zu bytes is too long", s->len, extra_bytes);
  if (need + 1 <= s->cap) return KA_STATUS_OK;
  size_t cap = s->cap < 64 ? 64 : s->cap;
  while (cap < need + 1) cap *= 2;
  bool inject = ctx->fail_alloc_at > 0 && --ctx->fail_alloc_at == 0;
  char *grown = inject ? NULL : realloc(s->data, cap);
  if (!grown) return ka_fail(ctx, KA_E_MEMORY, "string: could not allocate %zu bytes", cap);
  s->data = grown;
  s->cap = cap;
  s->data[s->len] = 0;
  return KA_STATUS_OK;
}

ka_status ka_str_append(struct ka_ctx *ctx, struct ka_str *s, const char *bytes, size_t n) {
  KA_TRY(ka_str_reserve(ctx, s, n));
  if (n > 0) memcpy(s->data + s->len, bytes, n);
  s->len += n;
  s->data[s->len] = 0;
  return KA_STATUS_OK;
}

ka_status ka_str_puts(struct ka_ctx *ctx, struct ka_str *s, const char *text) {
  return ka_str_append(ctx, s, text, strlen(text));
}

ka_status ka_str_printf(struct ka_ctx *ctx, struct ka_str *s, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  int n = vsnprintf(NULL, 0, fmt, args);
  va_end(args);
  KA_NEVER(ctx, n < 0);
  KA_TRY(ka_str_reserve(ctx, s, (size_t)n));
  va_start(args, fmt);
  vsnprintf(s->data + s->len, (size_t)n + 1, fmt, args);
  va_end(args);
  s->len += (size_t)n;
  return KA_STATUS_OK;
}

/* Levenshtein distance with adjacent transpositions counted as one; capped word length. */
static int edit_distance(const char *a, const char *b) {
  enum { MAX = 64 };
  size_t na = strlen(a), nb = strlen(b);
  if (na > MAX || nb > MAX) return MAX;
  int d[3][MAX + 1];
  for (size_t j = 0; j <= nb; j++) d[0][j] = (int)j;
  for (size_t i = 1; i <= na; i++) {
    int *row = d[i % 3], *up = d[(i + 2) % 3], *up2 = d[(i + 1) % 3];
    row[0] = (int)i;
    for (size_t j = 1; j <= nb; j++) {
      int best = up[j - 1] + (a[i - 1] != b[j - 1]);
      if (up[j] + 1 < best) best = up[j] + 1;
      if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && up2[j - 2] + 1 < best)
        best = up2[j - 2] + 1;
      row[j] = best;
    }
  }
  return d[na % 3][nb];
}

const char *ka_nearest(const char *word, const char *const *names) {
  const char *best = NULL;
  int best_d = strlen(word) < 5 ? 2 : 3; /* two letters swapped are two edits */
  for (; *names; names++) {
    int d = edit_distance(word, *names);
    if (d < best_d) {
      best_d = d;
      best = *names;
    }
  }
  return best;
}

bool ka_ends_with(const char *s, const char *suffix) {
  size_t n = strlen(s), m = strlen(suffix);
  return n >= m && memcmp(s + n - m, suffix, m) == 0;
}

bool ka_starts_with(const char *s, const char *prefix) {
  return strncmp(s, prefix, strlen(prefix)) == 0;
}

int ka_utf8_decode(const char *s, size_t n, uint32_t *cp) {
  const unsigned char *p = (const unsigned char *)s;
  uint32_t c;
  int len;
  if (n == 0) return 0;
  if (p[0] < 0x80) {
    c = p[0];
    len = 1;
  } else if (p[0] >= 0xc2 && p[0] <= 0xdf) {
    c = p[0] & 0x1fu;
    len = 2;
  } else if ((p[0] & 0xf0) == 0xe0) {
    c = p[0] & 0x0fu;
    len = 3;
  } else if (p[0] >= 0xf0 && p[0] <= 0xf4) {
    c = p[0] & 0x07u;
    len = 4;
  } else {
    return 0;
  }
  if ((size_t)len > n) return 0;
  for (int i = 1; i < len; i++) {
    if ((p[i] & 0xc0) != 0x80) return 0;
    c = c << 6 | (p[i] & 0x3fu);
  }
  static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
  if (c < least[len] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) return 0;
  if (cp) *cp = c;
  return len;
}

int ka_utf8_encode(uint32_t cp, char *out) {
  if (cp < 0x80) {
    out[0] = (char)cp;
    return 1;
  }
  if (cp < 0x800) {
    out[0] = (char)(0xc0 | cp >> 6);
    out[1] = (char)(0x80 | (cp & 0x3f));
    return 2;
  }
  if (cp < 0x10000) {
    out[0] = (char)(0xe0 | cp >> 12);
    out[1] = (char)(0x80 | (cp >> 6 & 0x3f));
    out[2] = (char)(0x80 | (cp & 0x3f));
    return 3;
  }
  out[0] = (char)(0xf0 | cp >> 18);
  out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
  out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
  out[3] = (char)(0x80 | (cp & 0x3f));
  return 4;
}

bool ka_is_space(uint32_t c) {
  return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

size_t ka_utf8_check(const char *s, size_t n) {
  size_t i = 0;
  while (i < n) {
    int len = ka_utf8_decode(s + i, n - i, NULL);
    if (len == 0) return i;
    i += (size_t)len;
  }
  return n;
}

bool ka_parse_i64(const char *s, int64_t *out) {
  if (*s == 0 || strchr(" \t\n\v\f\r", *s)) return false;
  char *end;
  errno = 0;
  long long v = strtoll(s, &end, 10);
  if (errno != 0 || *end != 0) return false;
  *out = v;
  return true;
}

bool ka_parse_f64(const char *s, double *out) {
  if (*s == 0 || strchr(" \t\n\v\f\r", *s) || strpbrk(s, "xX")) return false;
  char *end;
  errno = 0;
  double v = strtod(s, &end);
  if (*end != 0 || (errno == ERANGE && fabs(v) > 1)) return false;
  *out = v;
  return true;
}

const char *ka_fmt_count(double n, char buf[32]) {
  static const char unit[] = {0, 'K', 'M', 'B', 'T'};
  int u = 0;
  double v = n;
  while (fabs(v) >= 999.5 && u < 4) {
    v /= 1000;
    u++;
  }
  if (u == 0)
    snprintf(buf, 32, "%.0f", v);
  else
    snprintf(buf, 32, fabs(v) < 99.95 ? "%.1f%c" : "%.0f%c", v, unit[u]);
  return buf;
}

const char *ka_fmt_bytes(double n_bytes, char buf[32]) {
  static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int u = 0;
  double v = n_bytes;
  while (fabs(v) >= 1023.5 && u < 4) {
    v /= 1024;
    u++;
  }
  snprintf(buf, 32, u == 0 || v >= 99.95 ? "%.0f %s" : "%.1f %s", v, unit[u]);
  return buf;
}

const char *ka_fmt_duration(double seconds, char buf[32]) {
  long long s = (long long)(seconds + 0.5);
  if (seconds < 10)
    snprintf(buf, 32, "%.1f s", seconds);
  else if (s < 60)
    snprintf(buf, 32, "%lld s", s);
  else if (s < 3600)
    snprintf(buf, 32, "%lldm%02llds", s / 60, s % 60);
  else
    snprintf(buf, 32, "%lldh%02lldm", s / 3600, s % 3600 / 60);
  return buf;
}

const char *ka_fmt_hash(uint64_t high, uint64_t low, char buf[KA_HASH_TEXT]) {
  snprintf(buf, KA_HASH_TEXT, "%016" PRIx64 "%016" PRIx64, high, low);
  return buf;
}

bool ka_list_next(const char **list, char separator, const char **word, size_t *n) {
  const char *p = *list, *end;
  if (!*p) return false;
  while (*p == ' ') p++;
  for (end = p; *end && *end != separator;) end++;
  *list = *end ? end + 1 : end;
  while (end > p && end[-1] == ' ') end--;
  *word = p;
  *n = (size_t)(end - p);
  return true;
}

char *ka_visible(char *out, size_t size, const char *text) {
  size_t used = 0, left = strlen(text);
  while (left > 0) {
    uint32_t cp = 0;
    int n = ka_utf8_decode(text, left, &cp);
    bool plain = n > 0 && (cp >= 0xa0 || (cp >= ' ' && cp < 0x7f) || cp == '\n' || cp == '\t');
    size_t step = n > 0 ? (size_t)n : 1, needed = plain ? step : 4 * step;
    if (used + needed >= size) break;
    if (plain) memcpy(out + used, text, step);
    for (size_t i = 0; i < step && !plain; i++)
      snprintf(out + used + 4 * i, 5, "\\x%02x", (unsigned char)text[i]);
    used += needed;
    text += step;
    left -= step;
  }
  out[used] = 0;
  return out;
}
