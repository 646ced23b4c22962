/* SPDX-License-Identifier: Apache-2.0
 *
 * Normalizer, pre-tokenizer and decoder objects of tokenizer.json into rows of parts.h. One table a
 * kind of part: type name and reader. A type that is not in the table is refused by name. */
#include "base/json.h"
#include "tokenizer/parts.h"

#include <string.h>
#include <utf8proc.h>

struct loader {
  struct ka_arena *a;
  struct ka_tok_parts *parts;
  const struct reader *readers;
  const char *sequence_key; /* where Sequence keeps its list */
};

struct reader {
  const char *type;
  ka_status (*read)(struct loader *l, const json_t *v, const char *where);
  const char *refuse; /* why it is not supported, with read NULL */
};

static ka_status add(struct loader *l, struct ka_tok_part part) {
  struct ka_ctx *ctx = l->a->ctx;
  void *p = l->parts->items;
  KA_TRY(ka_grow(ctx, &p, &l->parts->cap, l->parts->n + 1, sizeof part, "tokenizer parts"));
  l->parts->items = p;
  l->parts->items[l->parts->n++] = part;
  return KA_STATUS_OK;
}

static ka_status load_any(struct loader *l, const json_t *v, const char *where) {
  struct ka_ctx *ctx = l->a->ctx;
  if (!v || json_is_null(v)) return KA_STATUS_OK;
  const char *type = json_string_value(json_object_get(v, "type"));
  if (!type) return ka_fail(ctx, KA_E_INPUT, "%s: expected an object with a \"type\"", where);
  if (strcmp(type, "Sequence") == 0) {
    const json_t *list = json_object_get(v, l->sequence_key);
    if (!json_is_array(list))
      return ka_fail(ctx, KA_E_INPUT, "%s: Sequence without a list \"%s\"", where, l->sequence_key);
    for (size_t i = 0; i < json_array_size(list); i++) {
      const char *inner;
      KA_TRY(ka_arena_printf(l->a, &inner, "%.300s.%s[%zu]", where, l->sequence_key, i));
      if (json_is_null(json_array_get(list, i)))
        return ka_fail(ctx, KA_E_INPUT, "%s: expected an object, got null", inner);
      KA_TRY(load_any(l, json_array_get(list, i), inner));
    }
    return KA_STATUS_OK;
  }
  for (const struct reader *r = l->readers; r->type; r++) {
    if (strcmp(type, r->type) != 0) continue;
    if (r->read) return r->read(l, v, where);
    return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: type %s is not supported: %s", where, type,
                   r->refuse);
  }
  const char *names[32] = {0};
  for (int i = 0; l->readers[i].type; i++) names[i] = l->readers[i].type;
  const char *near = ka_nearest(type, names);
  return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: unknown type \"%.60s\"%s%s%s", where, type,
                 near ? ", did you mean " : "", near ? near : "", near ? "?" : "");
}

/* --- members --------------------------------------------------------------------------------- */

static ka_status need_text(struct loader *l, const json_t *v, const char *key, const char *where,
                           const char **out, size_t *n) {
  struct ka_ctx *ctx = l->a->ctx;
  const json_t *s = json_object_get(v, key);
  if (!json_is_string(s))
    return ka_fail(ctx, KA_E_INPUT, "%s: key \"%s\": expected a string", where, key);
  *n = json_string_length(s);
  return ka_arena_str(l->a, out, json_string_value(s), *n);
}

static ka_status need_char(struct loader *l, const json_t *v, const char *key, const char *where,
                           const char **out, size_t *n) {
  struct ka_ctx *ctx = l->a->ctx;
  KA_TRY(need_text(l, v, key, where, out, n));
  if (*n == 0 || (size_t)ka_utf8_decode(*out, *n, NULL) != *n)
    return ka_fail(ctx, KA_E_INPUT, "%s: key \"%s\": expected one character, got \"%.40s\"", where,
                   key, *out);
  return KA_STATUS_OK;
}

static ka_status need_bool(struct loader *l, const json_t *v, const char *key, const char *where,
                           bool *out) {
  struct ka_ctx *ctx = l->a->ctx;
  const json_t *b = json_object_get(v, key);
  if (!json_is_boolean(b))
    return ka_fail(ctx, KA_E_INPUT, "%s: key \"%s\": expected true or false", where, key);
  *out = json_is_true(b);
  return KA_STATUS_OK;
}

static ka_status need_count(struct loader *l, const json_t *v, const char *key, const char *where,
                            int64_t low, int64_t *out) {
  struct ka_ctx *ctx = l->a->ctx;
  KA_TRY(ka_json_i64(ctx, where, v, key, out));
  if (*out < low)
    return ka_fail(ctx, KA_E_INPUT, "%s: key \"%s\": got %lld, expected at least %lld", where, key,
                   (long long)*out, (long long)low);
  return KA_STATUS_OK;
}

/* {"String": S} or {"Regex": R}. */
static ka_status need_pattern(struct loader *l, const json_t *v, const char *where,
                              struct ka_tok_find *find) {
  struct ka_ctx *ctx = l->a->ctx;
  const json_t *pattern = json_object_get(v, "pattern");
  const json_t *text = json_object_get(pattern, "String"), *rx = json_object_get(pattern, "Regex");
  if (json_object_size(pattern) != 1 || (!json_is_string(text) && !json_is_string(rx)))
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: key \"pattern\": expected {\"String\": text} or "
                   "{\"Regex\": expression}",
                   where);
  if (text && json_string_length(text) > 0) {
    find->kind = KA_FIND_TEXT;
    find->n = json_string_length(text);
    return ka_arena_str(l->a, &find->text, json_string_value(text), find->n);
  }
  const char *s = rx ? json_string_value(rx) : "";
  size_t n = rx ? json_string_length(rx) : 0;
  if (ka_tok_scan_known(s, n, find)) return KA_STATUS_OK;
  find->kind = KA_FIND_REGEX;
  return ka_tok_rx_compile(ctx, &find->rx, s, n, where);
}

static ka_status need_word(struct ka_ctx *ctx, const json_t *v, const char *key, const char *where,
                           const char *const *words, int *out) {
  const char *s = json_string_value(json_object_get(v, key));
  for (*out = 0; s && words[*out]; ++*out)
    if (strcmp(words[*out], s) == 0) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_INPUT, "%s: key \"%s\": got \"%.40s\", expected %s, %s, ...", where, key,
                 s ? s : "nothing", words[0], words[1]);
}

static ka_status need_behavior(struct ka_ctx *ctx, const json_t *v, const char *where,
                               enum ka_tok_behavior *out) {
  static const char *const words[] = {"Removed",        "Isolated",   "MergedWithPrevious",
                                      "MergedWithNext", "Contiguous", NULL};
  int i;
  KA_TRY(need_word(ctx, v, "behavior", where, words, &i));
  *out = (enum ka_tok_behavior)i;
  return KA_STATUS_OK;
}

/* --- normalizers ----------------------------------------------------------------------------- */

static int map_lowercase(const struct ka_tok_unicode *u, uint32_t cp, uint32_t out[3]) {
  (void)u;
  if (cp < 128) return out[0] = cp >= 'A' && cp <= 'Z' ? cp + 32 : cp, 1;
  if (cp == 0x130) return out[0] = 'i', out[1] = 0x307, 2;
  /* Pairs newer than utf8proc. */
  static const struct {
    uint32_t first, last, to;
  } newer[] = {{0x1C89, 0x1C89, 0x1C8A},   {0xA7CB, 0xA7CB, 0x264},  {0xA7CC, 0xA7CC, 0xA7CD},
               {0xA7CE, 0xA7CE, 0xA7CF},   {0xA7D2, 0xA7D2, 0xA7D3}, {0xA7D4, 0xA7D4, 0xA7D5},
               {0xA7DA, 0xA7DA, 0xA7DB},   {0xA7DC, 0xA7DC, 0x19B},  {0x10D50, 0x10D65, 0x10D70},
               {0x16EA0, 0x16EB8, 0x16EBB}};
  for (size_t i = 0; i < sizeof newer / sizeof *newer; i++)
    if (cp >= newer[i].first && cp <= newer[i].last)
      return out[0] = newer[i].to + (cp - newer[i].first), 1;
  return out[0] = (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp), 1;
}

static int map_no_marks(const struct ka_tok_unicode *u, uint32_t cp, uint32_t out[3]) {
  return out[0] = cp, !(ka_tok_uc_of(u, cp) & KA_UC_MARK);
}

static int map_no_spacing_marks(const struct ka_tok_unicode *u, uint32_t cp, uint32_t out[3]) {
  if (!(ka_tok_uc_of(u, cp) & KA_UC_MARK)) return out[0] = cp, 1;
  return out[0] = cp, utf8proc_category((utf8proc_int32_t)cp) != UTF8PROC_CATEGORY_MN;
}

static int map_nmt(const struct ka_tok_unicode *u, uint32_t cp, uint32_t out[3]) {
  (void)u;
  bool dropped = (cp >= 1 && cp <= 8) || cp == 0xB || (cp >= 0xE && cp <= 0x1F) || cp == 0x7F ||
                 cp == 0x8F || cp == 0x9F;
  bool space = cp == 9 || cp == 0xA || cp == 0xC || cp == 0xD || cp == 0x1680 ||
               (cp >= 0x200B && cp <= 0x200F) || cp == 0x2028 || cp == 0x2029 || cp == 0x2581 ||
               cp == 0xFEFF || cp == 0xFFFD;
  return out[0] = space ? ' ' : cp, !dropped;
}

static int map_bert_clean(const struct ka_tok_unicode *u, uint32_t cp, uint32_t out[3]) {
  bool blank = (ka_tok_uc_of(u, cp) & KA_UC_SPACE) != 0;
  utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
  bool control =
      c == UTF8PROC_CATEGORY_CC || c == UTF8PROC_CATEGORY_CF || c == UTF8PROC_CATEGORY_CO;
  bool newer = cp == 0x890 || cp == 0x891 || cp == 0x8E2 || cp == 0x110CD ||
               (cp >= 0x13430 && cp <= 0x1343F); /* not control characters to the library */
  if (cp == 0 || cp == 0xFFFD || (control && !newer && cp != '\t' && cp != '\n' && cp != '\r'))
    return 0;
  return out[0] = blank ? ' ' : cp, 1;
}

static int map_bert_chinese(const struct ka_tok_unicode *u, uint32_t cp, uint32_t out[3]) {
  static const uint32_t blocks[][2] = {{0x4E00, 0x9FFF},   {0x3400, 0x4DBF},   {0x20000, 0x2A6DF},
                                       {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF},
                                       {0xF900, 0xFAFF},   {0x2F800, 0x2FA1F}};
  (void)u;
  for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
    if (cp >= blocks[i][0] && cp <= blocks[i][1]) return out[0] = ' ', out[1] = cp, out[2] = ' ', 3;
  return out[0] = cp, 1;
}

static ka_status read_form(struct loader *l, const json_t *v, const char *where) {
  static const char *const names[] = {"NFC", "NFD", "NFKC", "NFKD", NULL};
  struct ka_ctx *ctx = l->a->ctx;
  int i;
  KA_TRY(need_word(ctx, v, "type", where, names, &i));
  return add(l, (struct ka_tok_part){.kind = KA_NORM_FORM, .form = (enum ka_tok_nf)i});
}

static ka_status add_map(struct loader *l, ka_map_fn map) {
  return add(l, (struct ka_tok_part){.kind = KA_NORM_MAP, .map = map});
}

static ka_status read_lowercase(struct loader *l, const json_t *v, const char *where) {
  (void)v, (void)where;
  return add_map(l, map_lowercase);
}

static ka_status read_strip_accents(struct loader *l, const json_t *v, const char *where) {
  (void)v, (void)where;
  return add_map(l, map_no_marks);
}

static ka_status read_nmt(struct loader *l, const json_t *v, const char *where) {
  (void)v, (void)where;
  return add_map(l, map_nmt);
}

static ka_status read_bert(struct loader *l, const json_t *v, const char *where) {
  struct ka_ctx *ctx = l->a->ctx;
  bool clean = false, chinese = false, lowercase = false, accents = false;
  KA_TRY(need_bool(l, v, "clean_text", where, &clean));
  KA_TRY(need_bool(l, v, "handle_chinese_chars", where, &chinese));
  KA_TRY(need_bool(l, v, "lowercase", where, &lowercase));
  KA_TRY(ka_json_bool_or(ctx, where, v, "strip_accents", lowercase, &accents));
  if (clean) KA_TRY(add_map(l, map_bert_clean));
  if (chinese) KA_TRY(add_map(l, map_bert_chinese));
  if (accents) {
    KA_TRY(add(l, (struct ka_tok_part){.kind = KA_NORM_FORM, .form = KA_NFD}));
    KA_TRY(add_map(l, map_no_spacing_marks));
  }
  return lowercase ? add_map(l, map_lowercase) : KA_STATUS_OK;
}

static ka_status read_prepend(struct loader *l, const json_t *v, const char *where) {
  struct ka_ctx *ctx = l->a->ctx;
  struct ka_tok_part p = {.kind = KA_NORM_PREPEND};
  KA_TRY(need_text(l, v, "prepend", where, &p.text, &p.text_n));
  return add(l, p);
}

static ka_status read_replace_as(struct loader *l, const json_t *v, const char *where,
                                 enum ka_tok_part_kind kind) {
  struct ka_ctx *ctx = l->a->ctx;
  struct ka_tok_part p = {.kind = kind};
  KA_TRY(need_text(l, v, "content", where, &p.text, &p.text_n));
  KA_TRY(need_pattern(l, v, where, &p.find));
  ka_status st = add(l, p);
  if (st.code != KA_OK) ka_tok_rx_free(p.find.rx);
  return st;
}

static ka_status read_replace(struct loader *l, const json_t *v, const char *where) {
  return read_replace_as(l, v, where, KA_NORM_REPLACE);
}

static ka_status read_strip(struct loader *l, const json_t *v, const char *where) {
  struct ka_ctx *ctx = l->a->ctx;
  struct ka_tok_part p = {.kind = KA_NORM_STRIP};
  KA_TRY(need_bool(l, v, "strip_left", where, &p.left));
  KA_TRY(need_bool(l, v, "strip_right", where, &p.right));
  return add(l, p);
}

static ka_status read_norm_bytes(struct loader *l, const json_t *v, const char *where) {
  (void)v, (void)where;
  return add(l, (struct ka_tok_part){.kind = KA_NORM_BYTES});
}

static const struct reader normalizers[] = {
    {"NFC", read_form, 0},
    {"NFD", read_form, 0},
    {"NFKC", read_form, 0},
    {"NFKD", read_form, 0},
    {"Lowercase", read_lowercase, 0},
    {"StripAccents", read_strip_accents, 0},
    {"Nmt", read_nmt, 0},
    {"BertNormalizer", read_bert, 0},
    {"Prepend", read_prepend, 0},
    {"Replace", read_replace, 0},
    {"Strip", read_strip, 0},
    {"ByteLevel", read_norm_bytes, 0},
    {"Precompiled", NULL, "SentencePiece's compiled character map belongs to Unigram models"},
    {NULL, NULL, NULL},
};

/* --- pre-tokenizers -------------------------------------------------------------------------- */

static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static ka_status read_byte_level(struct loader *l, const json_t *v, const char *where) {
  struct ka_ctx *ctx = l->a->ctx;
  bool prefix = true, regex = true, trim = true;
  KA_TRY(need_bool(l, v, "add_prefix_space", where, &prefix));
  KA_TRY(need_bool(l, v, "trim_offsets", where, &trim));
  KA_TRY(ka_json_bool_or(ctx, where, v, "use_regex", true, &regex));
  if (prefix) KA_TRY(add(l, (struct ka_tok_part){.kind = KA_PRE_PREFIX_SPACE}));
  if (regex) {
    struct ka_tok_part p = {.kind = KA_PRE_SPLIT, .behavior = KA_ISOLATED};
    KA_NEVER(ctx, !ka_tok_scan_known(gpt2_pattern, sizeof gpt2_pattern - 1, &p.find));
    KA_TRY(add(l, p));
  }
  return add(l, (struct ka_tok_part){.kind = KA_PRE_BYTES});
}

static ka_status read_split(struct loader *l, const json_t *v, const char *where) {
  struct ka_ctx *ctx = l->a->ctx;
  struct ka_tok_part p = {.kind = KA_PRE_SPLIT};
  KA_TRY(need_behavior(ctx, v, where, &p.behavior));
  KA_TRY(need_bool(l, v, "invert", where, &p.invert));
  KA_TRY(need_pattern(l, v, where, &p.find));
  ka_status st = add(l, p);
  if (st.code != KA_OK) ka_tok_rx_free(p.find.rx);
  return st;
}

static ka_status add_class(struct loader *l, uint16_t uc, enum ka_tok_behavior behavior) {
  return add(l, (struct ka_tok_part){.kind = KA_PRE_SPLIT,
                                     .behavior = behavior,
                                     .find = {.kind = KA_FIND_CLASS, .uc = uc}});
}

static ka_status read_digits(struct loader *l, const json_t *v, const char *where) {
  struct ka_ctx *ctx = l->a->ctx;
  bool individual = false;
  KA_TRY(need_bool(l, v, "individual_digits", where, &individual));
  return add_class(l, KA_UC_NUMBER, individual ? KA_ISOLATED : KA_CONTIGUOUS);
}

static ka_status read_punctuation(struct loader *l, const json_t *v, const char *where) {
  struct ka_ctx *ctx = l->a->ctx;
  enum ka_tok_behavior behavior = KA_ISOLATED;
  if (json_object_get(v, "behavior")) KA_TRY(need_behavior(ctx, v, where, &behavior));
  return add_class(l, KA_UC_PUNCT, behavior);
}

static ka_status read_whitespace(struct loader *l, const json_t *v, const char *where) {
  static const char word[] = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}]+|"
                             "[^\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}\\s]+";
  struct ka_ctx *ctx = l->a->ctx;
  struct ka_tok_part p = {.kind = KA_PRE_SPLIT, .behavior = KA_REMOVED, .invert = true};
  (void)v;
  p.find.kind = KA_FIND_REGEX;
  KA_TRY(ka_tok_rx_compile(ctx, &p.find.rx, word, sizeof word - 1, where));
  ka_status st = add(l, p);
  if (st.code != KA_OK) ka_tok_rx_free(p.find.rx);
  return st;
}

static ka_status read_whitespace_split(struct loader *l, const json_t *v, const char *where) {
  (void)v, (void)where;
  return add_class(l, KA_UC_SPACE, KA_REMOVED);
}

static ka_status read_bert_pre(struct loader *l, const json_t *v, const char *where) {
  struct ka_ctx *ctx = l->a->ctx;
  (void)v, (void)where;
  KA_TRY(add_class(l, KA_UC_SPACE, KA_REMOVED));
  return add_class(l, KA_UC_PUNCT, KA_ISOLATED);
}

static ka_status read_delimiter(struct loader *l, const json_t *v, const char *where) {
  struct ka_ctx *ctx = l->a->ctx;
  struct ka_tok_part p = {.kind = KA_PRE_SPLIT, .behavior = KA_REMOVED};
  p.find.kind = KA_FIND_TEXT;
  KA_TRY(need_char(l, v, "delimiter", where, &p.find.text, &p.find.n));
  return add(l, p);
}

static ka_status read_fixed(struct loader *l, const json_t *v, const char *where) {
  struct ka_ctx *ctx = l->a->ctx;
  struct ka_tok_part p = {.kind = KA_PRE_FIXED, .start = 5};
  if (json_object_get(v, "length")) KA_TRY(need_count(l, v, "length", where, 1, &p.start));
  return add(l, p);
}

static ka_status metaspace(struct loader *l, const json_t *v, const char *where,
                           struct ka_tok_part *p, bool *split) {
  static const char *const schemes[] = {"first", "never", "always", NULL};
  struct ka_ctx *ctx = l->a->ctx;
  int scheme = KA_PREPEND_ALWAYS;
  bool prefix;
  KA_TRY(need_char(l, v, "replacement", where, &p->text, &p->text_n));
  if (json_object_get(v, "prepend_scheme"))
    KA_TRY(need_word(ctx, v, "prepend_scheme", where, schemes, &scheme));
  KA_TRY(ka_json_bool_or(ctx, where, v, "add_prefix_space", true, &prefix));
  KA_TRY(ka_json_bool_or(ctx, where, v, "split", true, split));
  if (!prefix && json_object_get(v, "prepend_scheme") && scheme != KA_PREPEND_NEVER)
    return ka_fail(ctx, KA_E_INPUT, "%s: add_prefix_space false contradicts prepend_scheme \"%s\"",
                   where, schemes[scheme]);
  p->scheme = prefix ? (enum ka_tok_prepend_scheme)scheme : KA_PREPEND_NEVER;
  return KA_STATUS_OK;
}

static ka_status read_metaspace(struct loader *l, const json_t *v, const char *where) {
  struct ka_ctx *ctx = l->a->ctx;
  struct ka_tok_part p = {.kind = KA_PRE_METASPACE};
  bool split;
  KA_TRY(metaspace(l, v, where, &p, &split));
  KA_TRY(add(l, p));
  if (!split) return KA_STATUS_OK;
  return add(l,
             (struct ka_tok_part){.kind = KA_PRE_SPLIT,
                                  .behavior = KA_MERGED_WITH_NEXT,
                                  .find = {.kind = KA_FIND_TEXT, .text = p.text, .n = p.text_n}});
}

static const struct reader pretokenizers[] = {
    {"ByteLevel", read_byte_level, 0},
    {"Split", read_split, 0},
    {"Digits", read_digits, 0},
    {"Punctuation", read_punctuation, 0},
    {"Whitespace", read_whitespace, 0},
    {"WhitespaceSplit", read_whitespace_split, 0},
    {"BertPreTokenizer", read_bert_pre, 0},
    {"CharDelimiterSplit", read_delimiter, 0},
    {"Delimiter", read_delimiter, 0},
    {"FixedLength", read_fixed, 0},
    {"Metaspace", read_metaspace, 0},
    {"UnicodeScripts", NULL, "no known BPE model uses it"},
    {NULL, NULL, NULL},
};

/* --- decoders -------------------------------------------------------------------------------- */

static ka_status read_dec_bytes(struct loader *l, const json_t *v, const char *where) {
  (void)v, (void)where;
  return add(l, (struct ka_tok_part){.kind = KA_DEC_BYTES});
}

static ka_status read_dec_replace(struct loader *l, const json_t *v, const char *where) {
  return read_replace_as(l, v, where, KA_DEC_REPLACE);
}

static ka_status read_dec_byte_fallback(struct loader *l, const json_t *v, const char *where) {
  (void)v, (void)where;
  return add(l, (struct ka_tok_part){.kind = KA_DEC_BYTE_FALLBACK});
}

static ka_status read_dec_fuse(struct loader *l, const json_t *v, const char *where) {
  (void)v, (void)where;
  return add(l, (struct ka_tok_part){.kind = KA_DEC_FUSE});
}

static ka_status read_dec_strip(struct loader *l, const json_t *v, const char *where) {
  struct ka_ctx *ctx = l->a->ctx;
  struct ka_tok_part p = {.kind = KA_DEC_STRIP};
  KA_TRY(need_char(l, v, "content", where, &p.text, &p.text_n));
  KA_TRY(need_count(l, v, "start", where, 0, &p.start));
  KA_TRY(need_count(l, v, "stop", where, 0, &p.stop));
  return add(l, p);
}

static ka_status read_dec_metaspace(struct loader *l, const json_t *v, const char *where) {
  struct ka_ctx *ctx = l->a->ctx;
  struct ka_tok_part p = {.kind = KA_DEC_METASPACE};
  bool split;
  KA_TRY(metaspace(l, v, where, &p, &split));
  return add(l, p);
}

static ka_status read_dec_bpe(struct loader *l, const json_t *v, const char *where) {
  struct ka_ctx *ctx = l->a->ctx;
  struct ka_tok_part p = {.kind = KA_DEC_BPE};
  KA_TRY(need_text(l, v, "suffix", where, &p.text, &p.text_n));
  return add(l, p);
}

static ka_status read_dec_wordpiece(struct loader *l, const json_t *v, const char *where) {
  struct ka_ctx *ctx = l->a->ctx;
  struct ka_tok_part p = {.kind = KA_DEC_WORDPIECE};
  KA_TRY(need_text(l, v, "prefix", where, &p.text, &p.text_n));
  KA_TRY(need_bool(l, v, "cleanup", where, &p.left));
  return add(l, p);
}

static const struct reader decoders[] = {
    {"ByteLevel", read_dec_bytes, 0},
    {"Replace", read_dec_replace, 0},
    {"ByteFallback", read_dec_byte_fallback, 0},
    {"Fuse", read_dec_fuse, 0},
    {"Strip", read_dec_strip, 0},
    {"Metaspace", read_dec_metaspace, 0},
    {"BPEDecoder", read_dec_bpe, 0},
    {"WordPiece", read_dec_wordpiece, 0},
    {"CTC", NULL, "it belongs to speech models"},
    {NULL, NULL, NULL},
};

ka_status ka_tok_load_normalizer(struct ka_arena *a, const json_t *v, const char *where,
                                 struct ka_tok_parts *parts) {
  struct loader l = {a, parts, normalizers, "normalizers"};
  return load_any(&l, v, where);
}

ka_status ka_tok_load_pretokenizer(struct ka_arena *a, const json_t *v, const char *where,
                                   struct ka_tok_parts *parts) {
  struct loader l = {a, parts, pretokenizers, "pretokenizers"};
  return load_any(&l, v, where);
}

ka_status ka_tok_load_decoder(struct ka_arena *a, const json_t *v, const char *where,
                              struct ka_tok_parts *parts) {
  struct loader l = {a, parts, decoders, "decoders"};
  return load_any(&l, v, where);
}

void ka_tok_parts_deinit(struct ka_tok_parts *parts) {
  for (int64_t i = 0; i < parts->n; i++) ka_tok_rx_free(parts->items[i].find.rx);
  ka_free(parts->items);
  *parts = (struct ka_tok_parts){0};
}
