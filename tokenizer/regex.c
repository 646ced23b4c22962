/* SPDX-License-Identifier: Apache-2.0
 *
 * Oniguruma (Ruby syntax) to PCRE2; see regex.h. Where the two read the same text differently the
 * pattern is rewritten: \s \w \d \h and POSIX brackets become explicit classes, \p{Han} the script
 * (not its extensions), {n,m}+ a repetition (not possessive), (?m) dot-matches-newline, && a look-
 * ahead; categories gain what Unicode 16 added. */
#include "tokenizer/regex.h"
#include "base/pattern.h"

#include "base/str.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct ka_rx {
  pcre2_code *code;
  bool jit;
};

struct ka_rx_scan {
  pcre2_match_data *data;
  pcre2_match_context *context;
  pcre2_jit_stack *stack;
  const struct ka_rx *rx;
  const char *s;
  size_t n, at, last_end;
  bool has_last;
};

struct translation {
  struct ka_ctx *ctx;
  const char *p;
  size_t n, i;
  const char *what;
  struct ka_str *out;
  int depth; /* of sets */
};

static const char space_set[] = "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}"
                                "\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
static const char not_space_set[] =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}"
    "\\x{3001}-\\x{d7ff}\\x{e000}-\\x{10ffff}";

static const struct {
  uint32_t first, last;
  char category[3];
} newer[] = {
#define R(first, last, category) {first, last, #category},
#include "tokenizer/unicode_new.def"
#undef R
};

static ka_status refuse(struct translation *t, const char *why) {
  return ka_fail(t->ctx, KA_E_UNSUPPORTED, "%s: regular expression \"%.*s\": column %zu: %s",
                 t->what, (int)(t->n > 200 ? 200 : t->n), t->p, t->i + 1, why);
}

static ka_status put(struct translation *t, const char *s) {
  return ka_str_puts(t->ctx, t->out, s);
}

/* What Unicode 16 added to a category ("L", "Nd"), as class content. */
static ka_status put_newer(struct translation *t, const char *category) {
  for (size_t k = 0; k < sizeof newer / sizeof *newer; k++)
    if (strncmp(newer[k].category, category, strlen(category)) == 0) {
      ka_status st =
          ka_str_printf(t->ctx, t->out, "\\x{%x}-\\x{%x}", newer[k].first, newer[k].last);
      if (st.code != KA_OK) return st;
    }
  return KA_STATUS_OK;
}

static ka_status put_category(struct translation *t, const char *category) {
  struct ka_ctx *ctx = t->ctx;
  KA_TRY(ka_str_printf(ctx, t->out, "\\p{%s}", category));
  return put_newer(t, category);
}

/* Alphabetic marks that PCRE2's Unicode did not know. */
static const char newer_alphabetic[] =
    "\\x{363}-\\x{36f}\\x{897}\\x{c04}\\x{cf3}\\x{f82}-\\x{f83}\\x{1dd3}-\\x{1de6}\\x{10d69}"
    "\\x{10efc}\\x{11080}-\\x{11081}\\x{11241}\\x{113b8}-\\x{113c0}\\x{113c2}\\x{113c5}"
    "\\x{113c7}-\\x{113ca}\\x{113cc}-\\x{113cd}\\x{11f00}-\\x{11f01}\\x{11f03}\\x{11f34}-\\x{11f3a}"
    "\\x{11f3e}-\\x{11f40}\\x{1611e}-\\x{1612e}\\x{1e08f}";

static ka_status put_alphabetic(struct translation *t) {
  struct ka_ctx *ctx = t->ctx;
  KA_TRY(put(t, "\\p{Alphabetic}"));
  KA_TRY(put(t, newer_alphabetic));
  return put_newer(t, "L");
}

static ka_status put_posix_word(struct translation *t) {
  struct ka_ctx *ctx = t->ctx;
  KA_TRY(put_alphabetic(t));
  KA_TRY(put(t, "\\p{Pc}"));
  KA_TRY(put_category(t, "M"));
  return put_category(t, "Nd");
}

/* Oniguruma's \w also takes Latin-1's superscripts and fractions. */
static ka_status put_word(struct translation *t) {
  struct ka_ctx *ctx = t->ctx;
  KA_TRY(put_posix_word(t));
  return put(t, "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}");
}

static ka_status put_alnum(struct translation *t) {
  struct ka_ctx *ctx = t->ctx;
  KA_TRY(put_alphabetic(t));
  return put_category(t, "Nd");
}

static ka_status put_digit(struct translation *t) { return put_category(t, "Nd"); }
static ka_status put_space(struct translation *t) { return put(t, space_set); }
static ka_status put_hex(struct translation *t) { return put(t, "0-9a-fA-F"); }
static ka_status put_any(struct translation *t) { return put(t, "\\x{0}-\\x{10ffff}"); }

static ka_status put_upper(struct translation *t) {
  struct ka_ctx *ctx = t->ctx;
  KA_TRY(put(t, "\\p{Uppercase}"));
  return put_newer(t, "Lu");
}

static ka_status put_lower(struct translation *t) {
  struct ka_ctx *ctx = t->ctx;
  KA_TRY(put(t, "\\p{Lowercase}\\x{10fc}\\x{a7f2}-\\x{a7f4}\\x{ab69}\\x{1e030}-\\x{1e06d}"));
  return put_newer(t, "Ll");
}

static ka_status put_letter(struct translation *t) { return put_category(t, "L"); }
static ka_status put_number(struct translation *t) { return put_category(t, "N"); }
static ka_status put_symbol(struct translation *t) { return put_category(t, "S"); }
static ka_status put_mark(struct translation *t) { return put_category(t, "M"); }

static ka_status put_punct(struct translation *t) { return put_category(t, "P"); }

struct named_set {
  const char *name;
  ka_status (*put)(struct translation *);
};
static const struct named_set posix_sets[] = {
    {"alpha", put_alphabetic}, {"alnum", put_alnum},     {"digit", put_digit},
    {"space", put_space},      {"upper", put_upper},     {"lower", put_lower},
    {"xdigit", put_hex},       {"word", put_posix_word}, {NULL, NULL},
};
static const struct named_set property_sets[] = {
    {"alpha", put_alphabetic},  {"alphabetic", put_alphabetic},
    {"alnum", put_alnum},       {"digit", put_digit},
    {"space", put_space},       {"white_space", put_space},
    {"upper", put_upper},       {"uppercase", put_upper},
    {"lower", put_lower},       {"lowercase", put_lower},
    {"xdigit", put_hex},        {"word", put_word},
    {"punct", put_punct},       {"any", put_any},
    {"letter", put_letter},     {"number", put_number},
    {"symbol", put_symbol},     {"mark", put_mark},
    {"punctuation", put_punct}, {NULL, NULL},
};

/* Other names: PCRE2's spelling, and what Unicode 16 added. Names that are in no table are scripts
 * (by Script, as Oniguruma has it, not by Script_Extensions). */
static const struct {
  const char *name, *set;
} other_properties[] = {
    {"Emoji", "\\p{Emoji}"},
    {"Emoji_Presentation", "\\p{Emoji_Presentation}"},
    {"Extended_Pictographic", "\\p{Extended_Pictographic}"},
    {"Han", "\\p{sc:Han}\\x{2b739}\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}"},
    {"Hiragana", "\\p{sc:Hiragana}\\x{1b132}"},
    {"Katakana", "\\p{sc:Katakana}\\x{1b155}"},
    {"Cyrillic", "\\p{sc:Cyrillic}\\x{1c89}\\x{1c8a}\\x{1e030}-\\x{1e06d}\\x{1e08f}"},
    {"Latin", "\\p{sc:Latin}\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{1df25}-\\x{1df2a}"},
    {"Arabic", "\\p{sc:Arabic}\\x{897}\\x{10ec2}-\\x{10ec4}\\x{10efc}-\\x{10eff}"},
    {"Devanagari", "\\p{sc:Devanagari}\\x{11b00}-\\x{11b09}"},
};

static bool is_category(const char *name) {
  static const char *const all[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me",
                                    "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi",
                                    "Pf", "Po", "S",  "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl",
                                    "Zp", "C",  "Cc", "Cf", "Cn", "Co", "Cs"};
  for (size_t k = 0; k < sizeof all / sizeof *all; k++)
    if (strcasecmp(all[k], name) == 0) return true;
  return false;
}

/* \p{NAME} with i behind it: class content, outside brackets or inside. */
static ka_status property(struct translation *t, bool negated, bool in_class) {
  struct ka_ctx *ctx = t->ctx;
  char name[64];
  const char *close =
      t->i < t->n && t->p[t->i] == '{' ? memchr(t->p + t->i, '}', t->n - t->i) : NULL;
  if (!close) return refuse(t, "\\p needs {NAME}");
  const char *from = t->p + t->i + 1;
  if (*from == '^') {
    negated = !negated;
    from++;
  }
  if (close - from >= (int)sizeof name || close == from) return refuse(t, "unknown property");
  snprintf(name, sizeof name, "%.*s", (int)(close - from), from);
  t->i = (size_t)(close - t->p) + 1;
  if (negated && in_class)
    return ka_str_printf(ctx, t->out, is_category(name) ? "\\P{%s}" : "\\P{sc:%s}", name);
  if (!in_class) KA_TRY(put(t, negated ? "[^" : "["));
  const struct named_set *named = property_sets;
  while (named->name && strcasecmp(named->name, name) != 0) named++;
  size_t k = 0, n_other = sizeof other_properties / sizeof *other_properties;
  while (k < n_other && strcasecmp(other_properties[k].name, name) != 0) k++;
  if (named->name)
    KA_TRY(named->put(t));
  else if (is_category(name))
    KA_TRY(put_category(t, name));
  else if (k < n_other)
    KA_TRY(put(t, other_properties[k].set));
  else
    KA_TRY(ka_str_printf(ctx, t->out, "\\p{sc:%s}", name));
  if (!in_class) KA_TRY(put(t, "]"));
  return KA_STATUS_OK;
}

static ka_status bracketed(struct translation *t, bool negated,
                           ka_status (*set)(struct translation *)) {
  struct ka_ctx *ctx = t->ctx;
  KA_TRY(put(t, negated ? "[^" : "["));
  KA_TRY(set(t));
  return put(t, "]");
}

/* \b and \B by our own \w. */
static ka_status boundary(struct translation *t, bool negated) {
  struct ka_ctx *ctx = t->ctx;
  static const char *const parts[2][5] = {{"(?:(?<=", ")(?!", ")|(?<!", ")(?=", "))"},
                                          {"(?:(?<=", ")(?=", ")|(?<!", ")(?!", "))"}};
  for (int k = 0; k < 5; k++) {
    KA_TRY(put(t, parts[negated][k]));
    if (k < 4) KA_TRY(bracketed(t, false, put_word));
  }
  return KA_STATUS_OK;
}

static ka_status code_point(struct translation *t, size_t digits) {
  char *end, hex[9];
  if (t->i < t->n && t->p[t->i] == '{') {
    const char *close = memchr(t->p + t->i, '}', t->n - t->i);
    if (!close || close - (t->p + t->i) > 9) return refuse(t, "bad code point");
    snprintf(hex, sizeof hex, "%.*s", (int)(close - (t->p + t->i) - 1), t->p + t->i + 1);
    t->i = (size_t)(close - t->p) + 1;
  } else {
    snprintf(hex, sizeof hex, "%.*s", (int)(t->n - t->i < digits ? t->n - t->i : digits),
             t->p + t->i);
    t->i += strlen(hex);
    if (digits == 2 && strtoul(hex, NULL, 16) > 0x7F) return refuse(t, "\\x above 7F means a byte");
  }
  unsigned long cp = strtoul(hex, &end, 16);
  if (*end || end == hex) return refuse(t, "bad code point");
  return ka_str_printf(t->ctx, t->out, "\\x{%lx}", cp);
}

/* A backslash is behind i - 1; i stands on what it escapes. */
static ka_status escape(struct translation *t, bool in_class) {
  struct ka_ctx *ctx = t->ctx;
  if (t->i >= t->n) return refuse(t, "a backslash ends the pattern");
  char c = t->p[t->i++];
  static const struct {
    char lower;
    ka_status (*set)(struct translation *);
  } sets[] = {{'s', put_space}, {'w', put_word}, {'d', put_digit}, {'h', put_hex}};
  for (size_t k = 0; k < sizeof sets / sizeof *sets; k++) {
    if (c == sets[k].lower) return in_class ? sets[k].set(t) : bracketed(t, false, sets[k].set);
    if (c != sets[k].lower - 32) continue;
    if (!in_class) return bracketed(t, true, sets[k].set);
    if (c == 'S') return put(t, not_space_set);
    if (c == 'D') return put(t, "\\P{Nd}");
    return refuse(t, "this negated set is not supported inside [ ]");
  }
  if (c == 'p' || c == 'P') return property(t, c == 'P', in_class);
  if (c == 'x') return code_point(t, 2);
  if (c == 'u') return code_point(t, 4);
  if (c == 'v') return put(t, "\\x{b}");
  if (in_class && c == 'b') return put(t, "\\x{8}");
  if (c == 'b' || c == 'B') return boundary(t, c == 'B');
  bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  if (letter && !strchr(in_class ? "nrtfae" : "nrtfaeAzZGRKk", c))
    return refuse(t, "this escape is not supported");
  char text[3] = {'\\', c, 0};
  if ((unsigned char)c >= 0x80) return ka_str_append(ctx, t->out, &c, 1); /* the rest follows */
  return put(t, text);
}

static ka_status set(struct translation *t);

/* Content of [ ] from i up to its end; *intersected when && was met (i stands behind it). */
static ka_status set_items(struct translation *t, bool *intersected) {
  struct ka_ctx *ctx = t->ctx;
  bool first = true;
  for (; t->i < t->n; first = false) {
    char c = t->p[t->i];
    if (c == ']' && !first) return KA_STATUS_OK;
    if (c == '&' && t->i + 1 < t->n && t->p[t->i + 1] == '&') {
      *intersected = true;
      t->i += 2;
      return KA_STATUS_OK;
    }
    if (c == '[' && t->i + 1 < t->n && t->p[t->i + 1] == ':') {
      const struct named_set *named = posix_sets;
      size_t len = 0;
      for (; named->name; named++) {
        len = strlen(named->name);
        if (t->n - t->i >= len + 4 && strncmp(t->p + t->i + 2, named->name, len) == 0 &&
            strncmp(t->p + t->i + 2 + len, ":]", 2) == 0)
          break;
      }
      if (!named->name) return refuse(t, "this [: :] set is not supported");
      KA_TRY(named->put(t));
      t->i += len + 4;
      continue;
    }
    if (c == '[') { /* a union */
      bool inner = false;
      if (t->i + 1 < t->n && t->p[t->i + 1] == '^')
        return refuse(t, "a negated set inside a set is not supported");
      if (++t->depth > 16) return refuse(t, "sets nest too deep");
      t->i++;
      KA_TRY(set_items(t, &inner));
      if (inner) return refuse(t, "only [A&&[B]] is supported of &&");
      t->depth--;
      t->i++;
      continue;
    }
    t->i++;
    if (c == '\\')
      KA_TRY(escape(t, true));
    else if (c == ']')
      KA_TRY(put(t, "\\]"));
    else
      KA_TRY(ka_str_append(ctx, t->out, &c, 1));
  }
  return refuse(t, "[ without ]");
}

/* [...] with i behind the bracket. [A&&[^B]] becomes (?:(?![^B])... as a look-ahead. */
static ka_status set(struct translation *t) {
  struct ka_ctx *ctx = t->ctx;
  bool negated = t->i < t->n && t->p[t->i] == '^', intersected = false;
  size_t start = t->out->len;
  if (negated) t->i++;
  KA_TRY(put(t, negated ? "[^" : "["));
  KA_TRY(set_items(t, &intersected));
  KA_TRY(put(t, "]"));
  if (intersected) {
    if (++t->depth > 16) return refuse(t, "sets nest too deep");
    if (negated || t->i >= t->n || t->p[t->i] != '[')
      return refuse(t, "only [A&&[B]] is supported of &&");
    struct ka_str left = {0};
    ka_status st = ka_str_append(ctx, &left, t->out->data + start, t->out->len - start);
    t->out->len = start;
    t->i++;
    if (st.code == KA_OK) st = put(t, "(?:(?=");
    if (st.code == KA_OK) st = set(t);
    if (st.code == KA_OK) st = put(t, ")");
    if (st.code == KA_OK) st = ka_str_append(ctx, t->out, left.data, left.len);
    if (st.code == KA_OK) st = put(t, ")");
    ka_str_deinit(&left);
    KA_TRY(st);
    if (t->i >= t->n || t->p[t->i] != ']') return refuse(t, "only [A&&[B]] is supported of &&");
  }
  t->i++;
  return KA_STATUS_OK;
}

/* "(?" with i on the question mark. */
static ka_status group(struct translation *t) {
  struct ka_ctx *ctx = t->ctx;
  size_t i = t->i + 1;
  if (i < t->n && strchr(":=!>#", t->p[i])) return KA_STATUS_OK;
  if (i < t->n && t->p[i] == '<') return KA_STATUS_OK;
  KA_TRY(put(t, "?"));
  for (; i < t->n && strchr("imx-", t->p[i]); i++) {
    char flag[2] = {t->p[i] == 'm' ? 's' : t->p[i], 0};
    KA_TRY(put(t, flag));
  }
  if (i >= t->n || !strchr(":)", t->p[i])) return refuse(t, "this group is not supported");
  t->i = i;
  return KA_STATUS_OK;
}

/* {n}, {n,}, {,m}, {n,m} with i on the brace; anything else is a literal brace. */
static ka_status interval(struct translation *t) {
  struct ka_ctx *ctx = t->ctx;
  long low = 0, high = -1;
  int used = 0;
  char text[48];
  snprintf(text, sizeof text, "%.*s", (int)(t->n - t->i < 40 ? t->n - t->i : 40), t->p + t->i);
  bool fixed = sscanf(text, "{%9ld}%n", &low, &used) == 1 && used > 0;
  if (fixed) high = low;
  /* %n stays untouched unless the closing brace is met. */
  if (!used) sscanf(text, "{%9ld,%9ld}%n", &low, &high, &used);
  if (!used) high = -1, sscanf(text, "{%9ld,}%n", &low, &used);
  if (!used) low = 0, sscanf(text, "{,%9ld}%n", &high, &used);
  if (!used) {
    t->i++;
    return put(t, "\\{");
  }
  t->i += (size_t)used;
  char next = t->i < t->n ? t->p[t->i] : 0;
  if (next == '+') { /* Ruby: repeat the repetition */
    if (low > 1 && high >= 0) return refuse(t, "{n,m}+ with n above 1 is not supported");
    t->i++;
    return ka_str_printf(ctx, t->out, "{%ld,}", low);
  }
  if (fixed && next == '?') return refuse(t, "{n}? is not supported");
  if (high >= 0) return ka_str_printf(ctx, t->out, "{%ld,%ld}", low, high);
  return ka_str_printf(ctx, t->out, "{%ld,}", low);
}

static ka_status translate(struct translation *t) {
  struct ka_ctx *ctx = t->ctx;
  /* DeepSeek's \s+$ would try a run of spaces from each of them; only its first can match. */
  if (t->n == 4 && memcmp(t->p, "\\s+$", 4) == 0) {
    KA_TRY(put(t, "(?<!"));
    KA_TRY(bracketed(t, false, put_space));
    KA_TRY(put(t, ")"));
  }
  while (t->i < t->n) {
    char c = t->p[t->i];
    if (c == '{') {
      KA_TRY(interval(t));
      continue;
    }
    t->i++;
    if (c == '\\') {
      KA_TRY(escape(t, false));
    } else if (c == '[') {
      KA_TRY(set(t));
    } else {
      KA_TRY(ka_str_append(ctx, t->out, &c, 1));
      if (c == '(' && t->i < t->n && t->p[t->i] == '?') KA_TRY(group(t));
      if (c == '(' && t->i < t->n && t->p[t->i] == '*') return refuse(t, "(* is not supported");
    }
  }
  return KA_STATUS_OK;
}

ka_status ka_tok_rx_compile(struct ka_ctx *ctx, struct ka_rx **out, const char *pattern, size_t n,
                            const char *what) {
  struct ka_str text = {0};
  struct translation t = {ctx, pattern, n, 0, what, &text, 0};
  void *p = NULL;
  ka_status st = KA_STATUS_OK;
  *out = NULL;
  KA_TRY_GOTO(ka_str_reserve(ctx, &text, n), out);
  KA_TRY_GOTO(translate(&t), out);
  KA_TRY_GOTO(ka_alloc(ctx, &p, sizeof **out, "regular expression"), out);
  struct ka_pattern_error error;
  struct ka_rx *rx = p;
  KA_TRY_GOTO(ka_pattern_compile(ctx, &rx->code, text.data, text.len,
                                 PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_UTF_CHECK |
                                     PCRE2_NEVER_BACKSLASH_C,
                                 &error),
              out);
  if (!rx->code)
    KA_TRY_GOTO(ka_fail(ctx, KA_E_UNSUPPORTED, "%s: regular expression \"%.*s\": %s", what,
                        (int)(n > 200 ? 200 : n), pattern, error.why),
                out);
  rx->jit = pcre2_jit_compile(rx->code, PCRE2_JIT_COMPLETE) == 0;
out:
  ka_str_deinit(&text);
  if (ka_ok(st))
    *out = p;
  else
    ka_tok_rx_free(p);
  return st;
}

void ka_tok_rx_free(struct ka_rx *rx) {
  if (!rx) return;
  pcre2_code_free(rx->code);
  ka_free(rx);
}

ka_status ka_tok_rx_scan_create(struct ka_ctx *ctx, struct ka_rx_scan **out) {
  *out = NULL;
  struct ka_rx_scan *scan;
  KA_TRY(KA_NEW_HEAP(ctx, &scan, 1, "regular expression state"));
  pcre2_general_context *memory = ka_pattern_memory();
  if (memory) {
    scan->data = pcre2_match_data_create(2, memory);
    scan->context = pcre2_match_context_create(memory);
    scan->stack = pcre2_jit_stack_create(64 << 10, 64 << 20, memory);
  }
  pcre2_general_context_free(memory);
  if (!scan->data || !scan->context || !scan->stack) {
    ka_tok_rx_scan_free(scan);
    return ka_fail(ctx, KA_E_MEMORY, "regular expression state: out of memory");
  }
  pcre2_jit_stack_assign(scan->context, NULL, scan->stack);
  *out = scan;
  return KA_STATUS_OK;
}

void ka_tok_rx_scan_free(struct ka_rx_scan *scan) {
  if (!scan) return;
  pcre2_match_data_free(scan->data);
  pcre2_match_context_free(scan->context);
  pcre2_jit_stack_free(scan->stack);
  ka_free(scan);
}

void ka_tok_rx_begin(struct ka_rx_scan *scan, const struct ka_rx *rx, const char *s, size_t n) {
  scan->rx = rx;
  scan->s = n ? s : "";
  scan->n = n;
  scan->at = scan->last_end = 0;
  scan->has_last = false;
}

ka_status ka_tok_rx_next(struct ka_ctx *ctx, struct ka_rx_scan *scan, bool *found, size_t *begin,
                         size_t *end) {
  *found = false;
  while (scan->at <= scan->n) {
    PCRE2_SPTR s = (PCRE2_SPTR)scan->s;
    pcre2_code *code = scan->rx->code;
    int rc = scan->rx->jit
                 ? pcre2_jit_match(code, s, scan->n, scan->at, 0, scan->data, scan->context)
                 : PCRE2_ERROR_JIT_STACKLIMIT;
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter keeps its frames on the heap */
      rc = pcre2_match(code, s, scan->n, scan->at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, scan->data,
                       scan->context);
    if (rc == PCRE2_ERROR_NOMATCH) return KA_STATUS_OK;
    if (rc < 0) {
      char reason[160];
      pcre2_get_error_message(rc, (PCRE2_UCHAR *)reason, sizeof reason);
      return ka_fail(ctx, ka_pattern_match_code(rc), "text at byte %zu: regular expression: %s",
                     scan->at, reason);
    }
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(scan->data);
    *begin = range[0];
    *end = range[1] < range[0] ? range[0] : range[1];
    if (*begin == *end && scan->has_last && scan->last_end == *end) {
      if (scan->at >= scan->n) return KA_STATUS_OK;
      do scan->at++;
      while (scan->at < scan->n && ((unsigned char)scan->s[scan->at] & 0xC0) == 0x80);
      continue;
    }
    scan->at = scan->last_end = *end;
    scan->has_last = *found = true;
    return KA_STATUS_OK;
  }
  return KA_STATUS_OK;
}
