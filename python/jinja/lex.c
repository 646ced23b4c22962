/* SPDX-License-Identifier: Apache-2.0
 * Template text to tokens. Comments and raw blocks end here.
 *
 * White space rules (Jinja 3.1): a tag's "-" strips all white space on its side. In chat templates
 * (trim_blocks, lstrip_blocks), without a sign the newline after a block or comment tag goes, and
 * blanks between the start of a line and a block or comment tag go; "+" keeps both; one newline at
 * the end of the template goes. */
#include "python/jinja/core.h"

#include <stdlib.h>

struct lexer {
  struct jparser *J;
  const char *s;
  size_t n, i;
  bool line_starting; /* what was matched last ended with a newline */
};

static ka_status add(struct lexer *x, int type, size_t at, const char *s, size_t n) {
  struct jparser *J = x->J;
  void *toks = J->toks;
  J_TRY(ka_grow(J->ctx, &toks, &J->toks_cap, J->n_toks + 1, sizeof *J->toks, "template tokens"));
  J->toks = toks;
  J->toks[J->n_toks++] = (struct jtok){.type = type, .at = (uint32_t)at, .s = s, .n = n};
  return KA_STATUS_OK;
}

static size_t skip_space(const struct lexer *x, size_t i) {
  uint32_t cp;
  while (i < x->n) {
    int len = ka_utf8_decode(x->s + i, x->n - i, &cp);
    if (!ju_space(cp)) break;
    i += (size_t)len;
  }
  return i;
}

static bool starts(const struct lexer *x, size_t i, const char *what) {
  size_t n = strlen(what);
  return i + n <= x->n && memcmp(x->s + i, what, n) == 0;
}

/* The end "%}" (or "#}") of a tag with its sign at i: returns the offset behind it and what it
 * swallows, 0 when there is none. */
static size_t tag_end(const struct lexer *x, size_t i, const char *end, bool plus, bool trim) {
  if (starts(x, i, "-") && starts(x, i + 1, end)) return skip_space(x, i + 1 + strlen(end));
  if (plus && starts(x, i, "+") && starts(x, i + 1, end)) return i + 1 + strlen(end);
  if (!starts(x, i, end)) return 0;
  i += strlen(end);
  if (trim && x->J->t->dialect == KA_JINJA_CHAT && i < x->n && x->s[i] == '\n') i++;
  return i;
}

/* How much of the text [from, to) stays in front of a tag with this sign. */
static size_t strip_before(const struct lexer *x, size_t from, size_t to, char sign, bool print) {
  const char *p = x->s + from;
  size_t n = to - from;
  if (sign == '-') {
    ju_strip(&p, &n, NULL, false, true);
    return n;
  }
  if (sign == '+' || print || x->J->t->dialect == KA_JINJA_TASK) return n;
  size_t line = n;
  while (line > 0 && p[line - 1] != '\n') line--;
  if (line == 0 && !x->line_starting) return n;
  if (skip_space(x, from + line) < to) return n;
  return line;
}

/* "raw" between blanks after a "{%" with its sign: the offset behind the tag, 0 if it is none. */
static size_t raw_tag(const struct lexer *x, size_t i, const char *word, bool begin) {
  i = skip_space(x, i);
  if (!starts(x, i, word)) return 0;
  i = skip_space(x, i + strlen(word));
  return tag_end(x, i, "%}", !begin, !begin);
}

static size_t sign_at(const struct lexer *x, size_t i) {
  return i < x->n && (x->s[i] == '-' || x->s[i] == '+') ? 1 : 0;
}

/* Everything up to {% endraw %} as data; i stands behind {% raw %}. */
static ka_status raw_block(struct lexer *x, size_t begin) {
  struct jparser *J = x->J;
  if (x->i == x->n) return KA_STATUS_OK; /* Jinja lets this one pass */
  for (size_t i = x->i; i + 1 < x->n; i++) {
    if (!starts(x, i, "{%")) continue;
    size_t sign = sign_at(x, i + 2);
    size_t end = raw_tag(x, i + 2 + sign, "endraw", false);
    if (end == 0) continue;
    size_t keep = strip_before(x, x->i, i, sign ? x->s[i + 2] : 0, false);
    if (keep > 0) J_TRY(add(x, JT_DATA, x->i, x->s + x->i, keep));
    x->i = end;
    return KA_STATUS_OK;
  }
  return jp_fail(J, (uint32_t)begin, "raw block without an endraw");
}

static ka_status comment(struct lexer *x, size_t begin) {
  struct jparser *J = x->J;
  for (size_t i = x->i; i < x->n; i++) {
    size_t end = tag_end(x, i, "#}", true, true);
    if (end == 0) continue;
    x->i = end;
    return KA_STATUS_OK;
  }
  return jp_fail(J, (uint32_t)begin, "comment without its end #}");
}

static int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

/* \xhh, \uhhhh, \Uhhhhhhhh, octal: the code point and what it takes; false: malformed. */
static bool numeric_escape(const char *s, size_t n, size_t *i, uint32_t *cp) {
  size_t digits = s[*i] == 'x' ? 2 : s[*i] == 'u' ? 4 : s[*i] == 'U' ? 8 : 0;
  *cp = 0;
  if (digits == 0) {
    for (size_t k = 0; k < 3 && *i < n && s[*i] >= '0' && s[*i] <= '7'; k++, ++*i)
      *cp = *cp * 8 + (uint32_t)(s[*i] - '0');
    return true;
  }
  ++*i;
  if (*i + digits > n) return false;
  for (size_t k = 0; k < digits; k++, ++*i) {
    int v = hex_value(s[*i]);
    if (v < 0) return false;
    *cp = *cp * 16 + (uint32_t)v;
  }
  return *cp <= 0x10ffff && !(*cp >= 0xd800 && *cp <= 0xdfff);
}

/* Python's unicode-escape; s[n] is what stands between the quotes. */
static ka_status unescape(struct lexer *x, const char *s, size_t n, char *out, size_t *n_out) {
  struct jparser *J = x->J;
  static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
  size_t o = 0;
  for (size_t i = 0; i < n;) {
    if (s[i] != '\\') {
      out[o++] = s[i++];
      continue;
    }
    size_t at = (size_t)(s - x->s) + i++;
    const char *simple = strchr(from, s[i]);
    uint32_t cp;
    if (s[i] == '\n') {
      i++;
    } else if (simple && s[i]) {
      out[o++] = to[simple - from];
      i++;
    } else if (strchr("xuU01234567", s[i]) && s[i]) {
      if (!numeric_escape(s, n, &i, &cp))
        return jp_fail(J, (uint32_t)at, "malformed \\x, \\u or \\U escape in a string");
      o += (size_t)ka_utf8_encode(cp, out + o);
    } else if (s[i] == 'N' || (s[i] & 0x80)) {
      return jp_fail(J, (uint32_t)at, "this escape in a string is not supported");
    } else {
      out[o++] = '\\'; /* unknown escapes stay as they are */
    }
  }
  *n_out = o;
  return KA_STATUS_OK;
}

static ka_status string_token(struct lexer *x) {
  struct jparser *J = x->J;
  char quote = x->s[x->i];
  size_t at = x->i, end = at + 1;
  while (end < x->n && x->s[end] != quote) end += x->s[end] == '\\' ? 2 : 1;
  if (end >= x->n) return jp_fail(J, (uint32_t)at, "string without its closing quote");
  void *text;
  size_t n = 0;
  J_TRY(jm_alloc(J->ctx, &J->t->mem, &text, end - at + 4));
  J_TRY(unescape(x, x->s + at + 1, end - at - 1, text, &n));
  J_TRY(add(x, JT_STRING, at, text, n));
  x->i = end + 1;
  return KA_STATUS_OK;
}

static size_t digits(const struct lexer *x, size_t i, int base) {
  size_t start = i;
  while (i < x->n) {
    size_t k = i > start && x->s[i] == '_' && i + 1 < x->n ? i + 1 : i;
    int v = hex_value(x->s[k]);
    if (v < 0 || v >= base) break;
    i = k + 1;
  }
  return i;
}

/* End of a float at i (digits with a fraction, an exponent or both), 0 if it is none. */
static size_t float_end(const struct lexer *x, size_t i) {
  size_t end = digits(x, i, 10);
  if (end == i) return 0;
  bool is_float = false;
  if (end < x->n && x->s[end] == '.' && digits(x, end + 1, 10) > end + 1) {
    end = digits(x, end + 1, 10);
    is_float = true;
  }
  if (end < x->n && (x->s[end] | 32) == 'e') {
    size_t k = end + 1 + sign_at(x, end + 1);
    if (digits(x, k, 10) > k) return digits(x, k, 10);
  }
  return is_float ? end : 0;
}

static ka_status number_token(struct lexer *x) {
  struct jparser *J = x->J;
  size_t at = x->i, end = at > 0 && x->s[at - 1] == '.' ? 0 : float_end(x, at);
  char text[400];
  size_t n = 0;
  bool is_float = end > 0;
  int base = 10;
  size_t from = at;
  if (!is_float) {
    char c = at + 1 < x->n && x->s[at] == '0' ? (char)(x->s[at + 1] | 32) : 0;
    base = c == 'b' ? 2 : c == 'o' ? 8 : c == 'x' ? 16 : 10;
    if (base != 10) {
      from = at + 2 + (at + 2 < x->n && x->s[at + 2] == '_');
      if (digits(x, from, base) == from) {
        base = 10;
        from = at;
      }
    }
    end = base == 10 && x->s[at] == '0' ? at + 1 : digits(x, from, base);
    while (base == 10 && x->s[at] == '0' && end < x->n && x->s[end] == '0') end++;
  }
  for (size_t i = from; i < end && n + 1 < sizeof text; i++)
    if (x->s[i] != '_') text[n++] = x->s[i];
  text[n] = 0;
  J_TRY(add(x, is_float ? JT_FLOAT : JT_INT, at, NULL, 0));
  struct jtok *k = &J->toks[J->n_toks - 1];
  if (is_float) {
    k->f = strtod(text, NULL);
  } else {
    for (size_t i = 0; i < n; i++)
      if (__builtin_mul_overflow(k->i, (int64_t)base, &k->i) ||
          __builtin_add_overflow(k->i, (int64_t)hex_value(text[i]), &k->i))
        return jp_fail(J, (uint32_t)at, "integers above 64 bits are not supported");
  }
  x->i = end;
  return KA_STATUS_OK;
}

static ka_status operator_token(struct lexer *x, char *closers, int *n_open) {
  struct jparser *J = x->J;
  char c = x->s[x->i], next = x->i + 1 < x->n ? x->s[x->i + 1] : 0;
  size_t at = x->i;
  int type = (unsigned char)c;
  static const char *const two[] = {"//", "**", "==", "!=", ">=", "<="};
  for (size_t k = 0; k < sizeof two / sizeof *two; k++)
    if (c == two[k][0] && next == two[k][1]) type = JOP(c, next);
  if (type < 256 && (c == 0 || !strchr("+-/*%~[](){}><=.:|,;", c)))
    return jp_fail(J, (uint32_t)at, "unexpected character in an expression");
  if (c == '(' || c == '[' || c == '{') {
    if (*n_open == 512) return jp_fail(J, (uint32_t)at, "nested more than 512 deep");
    closers[(*n_open)++] = c == '(' ? ')' : c == '[' ? ']' : '}';
  } else if (c == ')' || c == ']' || c == '}') {
    if (*n_open == 0) return jp_fail(J, (uint32_t)at, "unexpected '%c'", c);
    if (closers[--*n_open] != c)
      return jp_fail(J, (uint32_t)at, "unexpected '%c', expected '%c'", c, closers[*n_open]);
  }
  x->i += type < 256 ? 1 : 2;
  return add(x, type, at, x->s + at, x->i - at);
}

/* The inside of {{ }} or {% %}, with its end token. */
static ka_status inside(struct lexer *x, bool print, size_t begin) {
  struct jparser *J = x->J;
  char closers[512];
  int n_open = 0;
  for (;;) {
    x->i = skip_space(x, x->i);
    if (x->i >= x->n) return jp_fail(J, (uint32_t)begin, "%s is never closed", print ? "{{" : "{%");
    if (n_open == 0) {
      size_t end = tag_end(x, x->i, print ? "}}" : "%}", !print, !print);
      if (end > 0) {
        J_TRY(add(x, print ? JT_PRINT_END : JT_BLOCK_END, x->i, NULL, 0));
        x->i = end;
        return KA_STATUS_OK;
      }
    }
    char c = x->s[x->i];
    uint32_t cp;
    int len = ka_utf8_decode(x->s + x->i, x->n - x->i, &cp);
    if (c >= '0' && c <= '9') {
      J_TRY(number_token(x));
    } else if (ju_word(cp)) {
      size_t at = x->i;
      do {
        x->i += (size_t)len;
        len = x->i < x->n ? ka_utf8_decode(x->s + x->i, x->n - x->i, &cp) : 0;
      } while (len > 0 && ju_word(cp));
      J_TRY(add(x, JT_NAME, at, x->s + at, x->i - at));
    } else if (c == '"' || c == '\'') {
      J_TRY(string_token(x));
    } else {
      J_TRY(operator_token(x, closers, &n_open));
    }
  }
}

/* One piece of data and the tag behind it. */
static ka_status next_tag(struct lexer *x) {
  struct jparser *J = x->J;
  size_t from = x->i, at = from;
  while (at < x->n &&
         !(x->s[at] == '{' && at + 1 < x->n && x->s[at + 1] != 0 && strchr("{%#", x->s[at + 1])))
    at++;
  if (at >= x->n) {
    x->i = x->n;
    return add(x, JT_DATA, from, x->s + from, x->n - from);
  }
  char kind = x->s[at + 1];
  size_t sign = sign_at(x, at + 2);
  size_t keep = strip_before(x, from, at, sign ? x->s[at + 2] : 0, kind == '{');
  if (keep > 0) J_TRY(add(x, JT_DATA, from, x->s + from, keep));
  x->i = at + 2 + sign;
  size_t raw = kind == '%' ? raw_tag(x, x->i, "raw", true) : 0;
  if (raw > 0) {
    x->line_starting = x->s[raw - 1] == '\n';
    x->i = raw;
    J_TRY(raw_block(x, at));
  } else if (kind == '#') {
    x->line_starting = false;
    J_TRY(comment(x, at));
  } else {
    J_TRY(add(x, kind == '{' ? JT_PRINT_BEGIN : JT_BLOCK_BEGIN, at, NULL, 0));
    J_TRY(inside(x, kind == '{', at));
  }
  x->line_starting = x->s[x->i - 1] == '\n';
  return KA_STATUS_OK;
}

ka_status jp_tokens(struct jparser *J) {
  struct lexer x = {J, J->t->src, J->t->n_src, 0, true};
  while (x.i < x.n) J_TRY(next_tag(&x));
  J_TRY(add(&x, JT_EOF, x.n, NULL, 0));
  J->tok = J->toks;
  return KA_STATUS_OK;
}
