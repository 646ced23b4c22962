/* SPDX-License-Identifier: Apache-2.0
 *
 * Class table and normalization forms; see unicode.h. Normalization works on groups that begin at
 * a starter, so that untouched text is never copied character by character; canonical ordering is a
 * counting sort, so that a million combining marks cost linear time. */
#include "tokenizer/unicode.h"

#include <string.h>
#include <utf8proc.h>

enum {
  Lu = KA_UC_LETTER,
  Ll = KA_UC_LETTER,
  Lt = KA_UC_LETTER,
  Lm = KA_UC_LETTER,
  Lo = KA_UC_LETTER,
  Mn = KA_UC_MARK,
  Mc = KA_UC_MARK,
  Me = KA_UC_MARK,
  Nd = KA_UC_NUMBER,
  Nl = KA_UC_NUMBER,
  No = KA_UC_NUMBER,
  Pc = 0,
  Pd = 0,
  Ps = 0,
  Pe = 0,
  Po = 0,
  So = 0,
  Sm = 0,
  Sk = 0,
  Sc = 0,
  Cf = 0,
};

static const struct {
  uint32_t first, last;
  uint16_t flags;
} newer[] = {
#define R(first, last, category) {first, last, category},
#include "tokenizer/unicode_new.def"
#undef R
};

/* The Punctuation pre-tokenizer knows an older Unicode: these are punctuation by now, not to it. */
static const struct {
  uint32_t first, last;
} not_punct[] = {
    {0x61D, 0x61D},     {0x9FD, 0x9FD},     {0xA76, 0xA76},     {0xC77, 0xC77},
    {0xC84, 0xC84},     {0x1B7D, 0x1B7E},   {0x2E43, 0x2E4F},   {0x2E52, 0x2E5D},
    {0x10EAD, 0x10EAD}, {0x10F55, 0x10F59}, {0x10F86, 0x10F89}, {0x1144B, 0x1144F},
    {0x1145A, 0x1145B}, {0x1145D, 0x1145D}, {0x11660, 0x1166C}, {0x116B9, 0x116B9},
    {0x1183B, 0x1183B}, {0x11944, 0x11946}, {0x119E2, 0x119E2}, {0x11A3F, 0x11A46},
    {0x11A9A, 0x11A9C}, {0x11A9E, 0x11AA2}, {0x11B00, 0x11B09}, {0x11C41, 0x11C45},
    {0x11C70, 0x11C71}, {0x11EF7, 0x11EF8}, {0x11F43, 0x11F4F}, {0x11FFF, 0x11FFF},
    {0x12FF1, 0x12FF2}, {0x16E97, 0x16E9A}, {0x16FE2, 0x16FE2}, {0x1E95E, 0x1E95F},
};

static const struct {
  uint32_t first, last;
} unknown_to_forms[] = {
#define R(first, last) {first, last},
#include "tokenizer/unicode_old.def"
#undef R
};

static uint16_t class_of(uint32_t cp) {
  static const uint16_t by_category[32] = {
      [UTF8PROC_CATEGORY_LU] = KA_UC_LETTER, [UTF8PROC_CATEGORY_LL] = KA_UC_LETTER,
      [UTF8PROC_CATEGORY_LT] = KA_UC_LETTER, [UTF8PROC_CATEGORY_LM] = KA_UC_LETTER,
      [UTF8PROC_CATEGORY_LO] = KA_UC_LETTER, [UTF8PROC_CATEGORY_MN] = KA_UC_MARK,
      [UTF8PROC_CATEGORY_MC] = KA_UC_MARK,   [UTF8PROC_CATEGORY_ME] = KA_UC_MARK,
      [UTF8PROC_CATEGORY_ND] = KA_UC_NUMBER, [UTF8PROC_CATEGORY_NL] = KA_UC_NUMBER,
      [UTF8PROC_CATEGORY_NO] = KA_UC_NUMBER, [UTF8PROC_CATEGORY_PC] = KA_UC_PUNCT,
      [UTF8PROC_CATEGORY_PD] = KA_UC_PUNCT,  [UTF8PROC_CATEGORY_PS] = KA_UC_PUNCT,
      [UTF8PROC_CATEGORY_PE] = KA_UC_PUNCT,  [UTF8PROC_CATEGORY_PI] = KA_UC_PUNCT,
      [UTF8PROC_CATEGORY_PF] = KA_UC_PUNCT,  [UTF8PROC_CATEGORY_PO] = KA_UC_PUNCT,
      [UTF8PROC_CATEGORY_ZS] = KA_UC_SPACE,  [UTF8PROC_CATEGORY_ZL] = KA_UC_SPACE,
      [UTF8PROC_CATEGORY_ZP] = KA_UC_SPACE};
  uint16_t f = by_category[utf8proc_category((utf8proc_int32_t)cp)];
  if ((cp >= 9 && cp <= 13) || cp == 0x85) f = KA_UC_SPACE;
  if (cp < 128 && strchr("$+<=>^`|~", (int)cp) && cp) f = KA_UC_PUNCT;
  if (cp == 0x166D || cp == 0x111C9) f = KA_UC_PUNCT; /* it was once */
  return f;
}

static uint16_t *flag_of(struct ka_tok_unicode *u, uint32_t cp) {
  return &u->flags[u->pages[cp >> 8]][cp & 255];
}

/* Full decomposition; returns its length (1: itself, perhaps). */
static int decompose(uint32_t cp, bool compat, utf8proc_int32_t out[32]) {
  int last_class = 0;
  utf8proc_option_t options = UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0);
  return (int)utf8proc_decompose_char((utf8proc_int32_t)cp, out, 32, options, &last_class);
}

static int ccc(utf8proc_int32_t cp) { return utf8proc_get_property(cp)->combining_class; }

/* First pass over the table: everything that may combine with what stands before it. */
static void mark_joiners(struct ka_tok_unicode *u, uint32_t n, uint16_t joins) {
  utf8proc_int32_t d[32];
  for (uint32_t cp = 0xC0; cp < n; cp++) {
    if (utf8proc_get_property((utf8proc_int32_t)cp)->decomp_seqindex == UINT16_MAX) continue;
    int len = decompose(cp, false, d);
    for (int i = 1; i < len; i++) *flag_of(u, (uint32_t)d[i]) |= joins;
  }
  for (uint32_t cp = 0x1161; cp <= 0x11C2; cp++)
    *flag_of(u, cp) |= joins; /* Hangul vowels, tails */
}

static uint16_t stability(const struct ka_tok_unicode *u, uint32_t cp, uint16_t joins) {
  utf8proc_int32_t d[32];
  bool hangul = cp >= 0xAC00 && cp <= 0xD7A3;
  bool plain = utf8proc_get_property((utf8proc_int32_t)cp)->decomp_seqindex == UINT16_MAX;
  if (ccc((utf8proc_int32_t)cp) != 0 || (ka_tok_uc_of(u, cp) & joins)) return 0;
  uint16_t f = KA_UC_STARTER;
  if (hangul) return f | KA_UC_STABLE << KA_NFC | KA_UC_STABLE << KA_NFKC;
  if (plain) return f | KA_UC_STABLE * 15;
  int len = decompose(cp, true, d);
  if (len < 1 || ccc(d[0]) != 0 || (ka_tok_uc_of(u, (uint32_t)d[0]) & joins)) return 0;
  for (int form = KA_NFC; form <= KA_NFKC; form += 2) {
    len = decompose(cp, form == KA_NFKC, d);
    bool same = len == 1 && d[0] == (utf8proc_int32_t)cp;
    if (same) f |= (uint16_t)(KA_UC_STABLE << form | KA_UC_STABLE << (form + 1));
    /* Composable again: one canonical pair that is not excluded from composition. */
    if (!same && len > 1 &&
        utf8proc_normalize_utf32(d, len, UTF8PROC_COMPOSE | UTF8PROC_STABLE) == 1)
      if (d[0] == (utf8proc_int32_t)cp) f |= (uint16_t)(KA_UC_STABLE << form);
  }
  return f;
}

ka_status ka_tok_unicode_init(struct ka_tok_unicode *u, struct ka_arena *a) {
  struct ka_ctx *ctx = a->ctx;
  /* Planes 0 to 3 and the tags at E0000; page 0 of flags serves all that is unassigned beyond. */
  enum { FIRST = 0x34000 >> 8, N_PAGES = FIRST + 16 + 1 };
  KA_TRY(KA_NEW(a, &u->flags, N_PAGES, "character classes"));
  for (int i = 0; i < 256; i++) u->flags[0][i] = KA_UC_STARTER | KA_UC_STABLE * 15;
  memset(u->pages, 0, sizeof u->pages);
  for (uint16_t i = 0; i < FIRST; i++) u->pages[i] = (uint16_t)(i + 1);
  for (uint16_t i = 0; i < 16; i++) u->pages[0xE00 + i] = (uint16_t)(FIRST + 1 + i);
  const uint16_t joins = 0x8000;
  mark_joiners(u, FIRST << 8, joins);
  for (uint32_t page = 0; page < 0x1100; page++)
    for (uint32_t i = 0; i < 256 && u->pages[page]; i++) {
      uint32_t cp = page << 8 | i;
      if (cp >= 0xD800 && cp < 0xE000) continue;
      *flag_of(u, cp) |= class_of(cp) | stability(u, cp, joins);
    }
  for (size_t i = 0; i < sizeof newer / sizeof *newer; i++)
    for (uint32_t cp = newer[i].first; cp <= newer[i].last; cp++) *flag_of(u, cp) |= newer[i].flags;
  for (size_t i = 0; i < sizeof unknown_to_forms / sizeof *unknown_to_forms; i++)
    for (uint32_t cp = unknown_to_forms[i].first; cp <= unknown_to_forms[i].last; cp++)
      *flag_of(u, cp) =
          (*flag_of(u, cp) & ~KA_UC_MARK & (KA_UC_STARTER - 1)) | KA_UC_STARTER | KA_UC_STABLE * 15;
  for (uint32_t cp = 0x1CF2; cp <= 0x1CF3; cp++) *flag_of(u, cp) |= KA_UC_MARK; /* once were */
  for (size_t i = 0; i < sizeof not_punct / sizeof *not_punct; i++)
    for (uint32_t cp = not_punct[i].first; cp <= not_punct[i].last; cp++)
      *flag_of(u, cp) &= (uint16_t)~KA_UC_PUNCT;
  for (uint32_t cp = 0; cp < 128; cp++) u->ascii[cp] = ka_tok_uc_of(u, cp);
  return KA_STATUS_OK;
}

size_t ka_tok_nf_stable(const struct ka_tok_unicode *u, enum ka_tok_nf form, const char *s,
                        size_t n) {
  uint16_t want = (uint16_t)(KA_UC_STABLE << form);
  size_t i = 0;
  while (i < n) {
    uint64_t word;
    while (i + 8 <= n && (memcpy(&word, s + i, 8), !(word & 0x8080808080808080ull))) i += 8;
    if (i >= n) break;
    if ((unsigned char)s[i] < 0x80) {
      i++;
      continue;
    }
    uint32_t cp;
    int len = ka_utf8_next(s + i, &cp);
    uint16_t f = ka_tok_uc_of(u, cp);
    if (!(f & want)) {
      if (f & KA_UC_STARTER || i == 0) return i;
      do i--; /* it may change what stands before it */
      while (((unsigned char)s[i] & 0xC0) == 0x80);
      return i;
    }
    i += (size_t)len;
  }
  return n;
}

size_t ka_tok_nf_group(const struct ka_tok_unicode *u, const char *s, size_t n) {
  uint32_t cp;
  size_t i = (size_t)ka_utf8_next(s, &cp);
  while (i < n) {
    int len = ka_utf8_next(s + i, &cp);
    if (ka_tok_uc_of(u, cp) & KA_UC_STARTER) break;
    i += (size_t)len;
  }
  return i;
}

/* Canonical ordering: stable by combining class between starters. */
static void order(utf8proc_int32_t *d, utf8proc_int32_t *copy, int64_t n) {
  for (int64_t i = 0; i < n;) {
    if (ccc(d[i]) == 0) {
      i++;
      continue;
    }
    int64_t end = i, count[257] = {0};
    for (; end < n && ccc(d[end]) != 0; end++) count[ccc(d[end]) + 1]++;
    for (int c = 0; c < 256; c++) count[c + 1] += count[c];
    for (int64_t j = i; j < end; j++) copy[i + count[ccc(d[j])]++] = d[j];
    memcpy(d + i, copy + i, (size_t)(end - i) * sizeof *d);
    i = end;
  }
}

ka_status ka_tok_nf_append(struct ka_ctx *ctx, enum ka_tok_nf form, const char *s, size_t n,
                           struct ka_str *tmp, struct ka_str *out) {
  bool compat = form >= KA_NFKC;
  int64_t len = 0;
  ka_str_clear(tmp);
  for (size_t i = 0; i < n;) {
    uint32_t cp;
    utf8proc_int32_t d[32];
    i += (size_t)ka_utf8_next(s + i, &cp);
    int m = decompose(cp, compat, d);
    KA_NEVER(ctx, m < 1 || m > 32);
    KA_TRY(ka_str_append(ctx, tmp, (const char *)d, (size_t)m * sizeof *d));
    len += m;
  }
  size_t bytes = (size_t)len * sizeof(utf8proc_int32_t);
  KA_TRY(ka_str_reserve(ctx, tmp, bytes));
  utf8proc_int32_t *d = (utf8proc_int32_t *)(void *)tmp->data;
  order(d, d + len, len);
  if (form == KA_NFC || form == KA_NFKC)
    len = utf8proc_normalize_utf32(d, len, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
  KA_TRY(ka_str_reserve(ctx, out, (size_t)len * 4));
  for (int64_t i = 0; i < len; i++)
    out->len += (size_t)ka_utf8_encode((uint32_t)d[i], out->data + out->len);
  out->data[out->len] = 0;
  return KA_STATUS_OK;
}
