/* SPDX-License-Identifier: Apache-2.0
 * What Python's str methods know of Unicode: white space, printability, case with its
 * special cases (SpecialCasing.txt), predicates. On utf8proc's tables. */
#include "python/jinja/core.h"

#include <utf8proc.h>

bool ju_space(uint32_t cp) { return ka_is_space(cp); }

static int category(uint32_t cp) { return (int)utf8proc_category((utf8proc_int32_t)cp); }

bool ju_printable(uint32_t cp) {
  if (cp < 128) return cp >= 32 && cp < 127;
  switch (category(cp)) {
  case UTF8PROC_CATEGORY_CN:
  case UTF8PROC_CATEGORY_CC:
  case UTF8PROC_CATEGORY_CF:
  case UTF8PROC_CATEGORY_CS:
  case UTF8PROC_CATEGORY_CO:
  case UTF8PROC_CATEGORY_ZL:
  case UTF8PROC_CATEGORY_ZP:
  case UTF8PROC_CATEGORY_ZS:
    return false;
  default:
    return true;
  }
}

static bool letter(uint32_t cp) {
  if (cp < 128) return (cp | 32) >= 'a' && (cp | 32) <= 'z';
  int c = category(cp);
  return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

static bool decimal(uint32_t cp) {
  return cp < 128 ? cp >= '0' && cp <= '9' : category(cp) == UTF8PROC_CATEGORY_ND;
}

/* Digits that are no decimals: superscripts, circled digits and the like. */
static bool digit(uint32_t cp) {
  static const uint32_t ranges[][2] = {
      {0xb2, 0xb3},       {0xb9, 0xb9},       {0x1369, 0x1371},   {0x19da, 0x19da},
      {0x2070, 0x2070},   {0x2074, 0x2079},   {0x2080, 0x2089},   {0x2460, 0x2468},
      {0x2474, 0x247c},   {0x2488, 0x2490},   {0x24ea, 0x24ea},   {0x24f5, 0x24fd},
      {0x24ff, 0x24ff},   {0x2776, 0x277e},   {0x2780, 0x2788},   {0x278a, 0x2792},
      {0x10a40, 0x10a43}, {0x10e60, 0x10e68}, {0x11052, 0x1105a}, {0x1f100, 0x1f10a}};
  if (decimal(cp)) return true;
  for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
    if (cp >= ranges[i][0] && cp <= ranges[i][1]) return true;
  return false;
}

/* Ideographs with a numeric value count too in Python; they are letters here, see isalnum. */
static bool numeric(uint32_t cp) {
  static const uint32_t ideographs[] = {0x3007, 0x4e00, 0x4e03, 0x4e07, 0x4e09, 0x4e5d, 0x4e8c,
                                        0x4e94, 0x4ebf, 0x5104, 0x5146, 0x516b, 0x516d, 0x5341,
                                        0x5343, 0x53c1, 0x56db, 0x58f9, 0x767e, 0x96f6};
  for (size_t i = 0; i < sizeof ideographs / sizeof *ideographs; i++)
    if (cp == ideographs[i]) return true;
  if (cp < 128) return decimal(cp);
  int c = category(cp);
  return digit(cp) || (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO);
}

bool ju_word(uint32_t cp) { return cp == '_' || letter(cp) || numeric(cp); }

static bool upper(uint32_t cp) {
  if (cp < 128) return cp >= 'A' && cp <= 'Z';
  return utf8proc_isupper((utf8proc_int32_t)cp) || (cp >= 0x2160 && cp <= 0x216f) ||
         (cp >= 0x24b6 && cp <= 0x24cf) || (cp >= 0x1f130 && cp <= 0x1f149) ||
         (cp >= 0x1f150 && cp <= 0x1f169) || (cp >= 0x1f170 && cp <= 0x1f189);
}

static bool lower(uint32_t cp) {
  if (cp < 128) return cp >= 'a' && cp <= 'z';
  return utf8proc_islower((utf8proc_int32_t)cp);
}

static bool title(uint32_t cp) { return cp >= 128 && category(cp) == UTF8PROC_CATEGORY_LT; }
static bool cased(uint32_t cp) { return upper(cp) || lower(cp) || title(cp); }

/* Characters that word-final sigma looks through (the property Case_Ignorable). */
static bool case_ignorable(uint32_t cp) {
  if (cp == '\'' || cp == '.' || cp == ':' || cp == '^' || cp == '`' || cp == 0xa8 || cp == 0xad ||
      cp == 0xaf || cp == 0xb4 || cp == 0xb7 || cp == 0xb8 || cp == 0x2018 || cp == 0x2019)
    return true;
  if (cp < 128) return false;
  int c = category(cp);
  return c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_ME || c == UTF8PROC_CATEGORY_CF ||
         c == UTF8PROC_CATEGORY_LM || c == UTF8PROC_CATEGORY_SK;
}

static bool next_cp(const char *p, size_t n, size_t *i, uint32_t *cp) {
  if (*i >= n) return false;
  int len = ka_utf8_decode(p + *i, n - *i, cp);
  *i += (size_t)(len > 0 ? len : 1);
  return true;
}

/* Is the sigma that ends at byte `end` (and starts at `begin`) the last letter of a word? */
static bool final_sigma(const char *p, size_t n, size_t begin, size_t end) {
  uint32_t cp;
  bool before = false;
  for (size_t i = begin; i > 0;) {
    size_t k = i - 1;
    while (k > 0 && (p[k] & 0xc0) == 0x80) k--;
    ka_utf8_decode(p + k, i - k, &cp);
    i = k;
    if (case_ignorable(cp)) continue;
    before = cased(cp);
    break;
  }
  if (!before) return false;
  for (size_t i = end; next_cp(p, n, &i, &cp);)
    if (!case_ignorable(cp)) return !cased(cp);
  return true;
}

static ka_status put_upper(struct jrun *J, uint32_t cp, bool title_case, struct jbuf *out) {
  utf8proc_int32_t c = (utf8proc_int32_t)cp;
  if (cp < 128) return jb_cp(J, out, (uint32_t)utf8proc_toupper(c));
  /* Where case folding gives several characters, their capitals are the special capital; the
   * exceptions are capitals already. */
  utf8proc_int32_t folded[8];
  int boundary = 0;
  utf8proc_ssize_t n = cp == 0x1e9e || cp == 0x130
                           ? 0
                           : utf8proc_decompose_char(c, folded, 8, UTF8PROC_CASEFOLD, &boundary);
  bool iota = (cp >= 0x1f80 && cp <= 0x1faf) || cp == 0x1fb3 || cp == 0x1fbc || cp == 0x1fc3 ||
              cp == 0x1fcc || cp == 0x1ff3 || cp == 0x1ffc;
  if (n > 1 && n <= 8 && !(title_case && iota)) {
    for (utf8proc_ssize_t i = 0; i < n; i++) {
      bool keep = title_case && i > 0 && cp != 0x149; /* an iota subscript stays one */
      uint32_t one = (uint32_t)(keep ? folded[i] : utf8proc_toupper(folded[i]));
      if (keep && one == 0x3b9) one = 0x345;
      J_TRY(jb_cp(J, out, one));
    }
    return KA_STATUS_OK;
  }
  if (cp == 0xdf) return jb_puts(J, out, title_case ? "Ss" : "SS");
  return jb_cp(J, out, (uint32_t)(title_case ? utf8proc_totitle(c) : utf8proc_toupper(c)));
}

static ka_status put_lower(struct jrun *J, const char *p, size_t n, size_t begin, size_t end,
                           uint32_t cp, struct jbuf *out) {
  if (cp == 0x3a3) return jb_cp(J, out, final_sigma(p, n, begin, end) ? 0x3c2 : 0x3c3);
  if (cp == 0x130) return jb_puts(J, out, "i\xcc\x87");
  return jb_cp(J, out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp));
}

ka_status ju_case(struct jrun *J, enum ju_case how, const char *p, size_t n, struct jbuf *out) {
  uint32_t cp;
  bool in_word = false;
  for (size_t i = 0, begin = 0; next_cp(p, n, &i, &cp); begin = i) {
    bool up = how == JU_UPPER || (how == JU_TITLE && !in_word) ||
              (how == JU_CAPITALIZE && begin == 0) || (how == JU_SWAPCASE && lower(cp));
    bool keep = how == JU_SWAPCASE && !lower(cp) && !upper(cp);
    if (keep)
      J_TRY(jb_cp(J, out, cp));
    else if (up)
      J_TRY(put_upper(J, cp, how == JU_TITLE || how == JU_CAPITALIZE, out));
    else
      J_TRY(put_lower(J, p, n, begin, i, cp, out));
    in_word = cased(cp);
  }
  return KA_STATUS_OK;
}

static bool is_title(const char *p, size_t n) {
  uint32_t cp;
  bool any = false, in_word = false;
  for (size_t i = 0; next_cp(p, n, &i, &cp);) {
    if (upper(cp) || title(cp)) {
      if (in_word) return false;
      in_word = any = true;
    } else if (lower(cp)) {
      if (!in_word) return false;
      any = true;
    } else {
      in_word = false;
    }
  }
  return any;
}

static bool is_cased(const char *p, size_t n, bool (*wrong)(uint32_t), bool (*right)(uint32_t)) {
  uint32_t cp;
  bool any = false;
  for (size_t i = 0; next_cp(p, n, &i, &cp);) {
    if (wrong(cp) || title(cp)) return false;
    any |= right(cp);
  }
  return any;
}

static bool alnum(uint32_t cp) { return letter(cp) || numeric(cp); }
static bool is_space(uint32_t cp) { return ju_space(cp); }

bool ju_is(char what, const char *p, size_t n) {
  static const struct {
    char what;
    bool (*test)(uint32_t);
  } tests[] = {{'a', letter},  {'m', alnum},   {'d', digit},
               {'c', decimal}, {'n', numeric}, {'s', is_space}};
  if (what == 't') return is_title(p, n);
  if (what == 'u') return is_cased(p, n, lower, upper);
  if (what == 'l') return is_cased(p, n, upper, lower);
  for (size_t k = 0; k < sizeof tests / sizeof *tests; k++) {
    if (tests[k].what != what) continue;
    uint32_t cp;
    for (size_t i = 0; next_cp(p, n, &i, &cp);)
      if (!tests[k].test(cp)) return false;
  }
  return n > 0;
}

static bool in_set(const struct jstr *set, uint32_t cp) {
  if (!set) return ju_space(cp);
  uint32_t c;
  for (size_t i = 0; next_cp(set->p, set->n, &i, &c);)
    if (c == cp) return true;
  return false;
}

void ju_strip(const char **p, size_t *n, const struct jstr *set, bool left, bool right) {
  uint32_t cp;
  while (left && *n > 0) {
    int len = ka_utf8_decode(*p, *n, &cp);
    if (!in_set(set, cp)) break;
    *p += len;
    *n -= (size_t)len;
  }
  while (right && *n > 0) {
    size_t k = *n - 1;
    while (k > 0 && ((*p)[k] & 0xc0) == 0x80) k--;
    ka_utf8_decode(*p + k, *n - k, &cp);
    if (!in_set(set, cp)) break;
    *n = k;
  }
}
