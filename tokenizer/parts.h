/* SPDX-License-Identifier: Apache-2.0
 *
 * The parts of a tokenizer (normalizers, pre-tokenizers, decoders) after loading: Sequences are
 * flattened, and a part that does two things is two rows. Internal to the room. */
#ifndef KAPPA_TOKENIZER_PARTS_H
#define KAPPA_TOKENIZER_PARTS_H

#include "tokenizer/bpe.h"
#include "tokenizer/regex.h"
#include "tokenizer/unicode.h"

enum ka_tok_part_kind {
  /* normalizers */
  KA_NORM_FORM,    /* form */
  KA_NORM_MAP,     /* map: character by character */
  KA_NORM_PREPEND, /* text */
  KA_NORM_REPLACE, /* find, text */
  KA_NORM_STRIP,   /* left, right */
  KA_NORM_BYTES,   /* bytes to the byte-level alphabet */
  /* pre-tokenizers */
  KA_PRE_SPLIT,        /* find, behavior, invert */
  KA_PRE_FIXED,        /* count characters each */
  KA_PRE_PREFIX_SPACE, /* a space in front unless one is there */
  KA_PRE_METASPACE,    /* text for every space, prepend by scheme */
  KA_PRE_BYTES,        /* bytes to the byte-level alphabet */
  /* decoders */
  KA_DEC_BYTES,
  KA_DEC_REPLACE, /* find, text */
  KA_DEC_BYTE_FALLBACK,
  KA_DEC_FUSE,
  KA_DEC_STRIP,     /* text (one character), start, stop */
  KA_DEC_METASPACE, /* text, scheme */
  KA_DEC_BPE,       /* text: the suffix */
  KA_DEC_WORDPIECE, /* text: the prefix; left: clean up */
};

enum ka_tok_behavior {
  KA_REMOVED,
  KA_ISOLATED,
  KA_MERGED_WITH_PREVIOUS,
  KA_MERGED_WITH_NEXT,
  KA_CONTIGUOUS
};
enum ka_tok_prepend_scheme { KA_PREPEND_FIRST, KA_PREPEND_NEVER, KA_PREPEND_ALWAYS };

/* What a part looks for. */
enum ka_tok_find_kind { KA_FIND_TEXT, KA_FIND_REGEX, KA_FIND_CLASS, KA_FIND_GPT2, KA_FIND_CL100K };
struct ka_tok_find {
  enum ka_tok_find_kind kind;
  const char *text; /* KA_FIND_TEXT, not empty */
  size_t n;
  struct ka_rx *rx; /* KA_FIND_REGEX */
  uint16_t uc;      /* KA_FIND_CLASS: enum ka_tok_uc bits */
  int max_digits;   /* KA_FIND_CL100K: digits in one word */
};

/* Writes what cp becomes (0 to 3 characters) and returns how many. */
typedef int (*ka_map_fn)(const struct ka_tok_unicode *u, uint32_t cp, uint32_t out[3]);

struct ka_tok_part {
  enum ka_tok_part_kind kind;
  struct ka_tok_find find;
  const char *text;
  size_t text_n;
  enum ka_tok_nf form;
  ka_map_fn map;
  enum ka_tok_behavior behavior;
  enum ka_tok_prepend_scheme scheme;
  bool invert, left, right;
  int64_t start, stop;
};

struct ka_tok_parts {
  struct ka_tok_part *items;
  int64_t n, cap;
};

/* --- text with its way back to the original -------------------------------------------------- */

/* Bytes that stand for a range of the original text: byte i for [begin[i], end[i]), or, where begin
 * is NULL, the bytes are the original from `base` on. */
struct ka_tok_view {
  const char *s;
  size_t n;
  int64_t base;
  const uint32_t *begin, *end;
};
int64_t ka_tok_view_begin(const struct ka_tok_view *v, size_t i);
int64_t ka_tok_view_end(const struct ka_tok_view *v, size_t i); /* of byte i */
struct ka_tok_view ka_tok_view_slice(const struct ka_tok_view *v, size_t from, size_t to);

/* A buffer that a rewriting part fills; aligned: begin and end are kept. */
struct ka_tok_text {
  struct ka_str bytes;
  bool aligned;
  uint32_t *begin, *end;
  int64_t begin_cap, end_cap;
};
void ka_tok_text_reset(struct ka_tok_text *t, bool aligned);
void ka_tok_text_deinit(struct ka_tok_text *t);
struct ka_tok_view ka_tok_text_view(const struct ka_tok_text *t);
/* Appends n bytes that all stand for [begin, end). */
ka_status ka_tok_text_put(struct ka_ctx *ctx, struct ka_tok_text *t, const char *s, size_t n,
                          int64_t begin, int64_t end);
/* Appends v[from..to) with its alignment. */
ka_status ka_tok_text_copy(struct ka_ctx *ctx, struct ka_tok_text *t, const struct ka_tok_view *v,
                           size_t from, size_t to);

struct ka_tok_range {
  uint32_t b, e;
};
struct ka_tok_ranges {
  struct ka_tok_range *items;
  int64_t n, cap;
};

/* What one encode call works in; one per thread at a time. */
struct ka_tok_work {
  struct ka_tok_work *next; /* in the tokenizer's pool */
  struct ka_bpe_work *bpe;
  struct ka_rx_scan *scan;
  struct ka_tok_text norm[2], pre[2];
  struct ka_tok_ranges ranges[2];
  struct ka_str tmp;
  bool aligned;
};

/* Runs all normalizers over *v; *v is then what came out (the input itself if nothing changed). */
ka_status ka_tok_normalize(struct ka_ctx *ctx, const struct ka_tok_unicode *u,
                           const struct ka_tok_parts *parts, struct ka_tok_work *w,
                           struct ka_tok_view *v);

/* Splits *v into words: *out lists them as ranges of *v (empty ranges are to be skipped). *v
 * changes where a part rewrites text. *bytes: the words are raw bytes that stand for the byte-level
 * alphabet (only with raw_bytes_ok). */
ka_status ka_tok_pretokenize(struct ka_ctx *ctx, const struct ka_tok_unicode *u,
                             const struct ka_tok_parts *parts, struct ka_tok_work *w,
                             bool raw_bytes_ok, struct ka_tok_view *v,
                             const struct ka_tok_ranges **out, bool *bytes);

/* Calls back for every stretch of s[0..n), in order: matches and what lies between. */
struct ka_tok_finder {
  const struct ka_tok_find *find;
  const struct ka_tok_unicode *u;
  struct ka_rx_scan *scan;
  const char *s;
  size_t n, at;
  size_t pending_begin, pending_end; /* a match found behind a gap that was just returned */
  bool pending, done;
  int64_t n_matches; /* so far */
};
void ka_tok_find_begin(struct ka_tok_finder *f, const struct ka_tok_find *find,
                       const struct ka_tok_unicode *u, struct ka_rx_scan *scan, const char *s,
                       size_t n);
/* False at the end (or on failure, in *st). */
bool ka_tok_find_next(struct ka_ctx *ctx, struct ka_tok_finder *f, ka_status *st, size_t *b,
                      size_t *e, bool *is_match);

/* Length of the word at s (n > 0) by GPT-2's pattern, or by cl100k's with at most max_digits digits
 * a word; see scan.c. */
size_t ka_tok_scan_gpt2(const struct ka_tok_unicode *u, const char *s, size_t n);
size_t ka_tok_scan_cl100k(const struct ka_tok_unicode *u, const char *s, size_t n, int max_digits);
/* The scanner whose language `pattern` is, if there is one: fills find and returns true. */
bool ka_tok_scan_known(const char *pattern, size_t n, struct ka_tok_find *find);

/* --- decoding -------------------------------------------------------------------------------- */

/* Tokens as one text and the end of each. */
struct ka_tok_pieces {
  struct ka_str text;
  size_t *ends;
  int64_t n, cap;
};
ka_status ka_tok_pieces_push(struct ka_ctx *ctx, struct ka_tok_pieces *p, const char *s, size_t n);
/* Runs all decoders over in; both are scratch afterwards; *result points at one of the two. */
ka_status ka_tok_decode_parts(struct ka_ctx *ctx, const struct ka_tok_unicode *u,
                              const struct ka_tok_parts *parts, struct ka_rx_scan *scan,
                              struct ka_tok_pieces *in, struct ka_tok_pieces *other,
                              struct ka_tok_pieces **result);

/* --- loading --------------------------------------------------------------------------------- */

/* JSON values (NULL or null: no parts) into rows appended to parts; text lives in a. Compiled
 * expressions belong to the rows: ka_tok_parts_deinit frees them. */
ka_status ka_tok_load_normalizer(struct ka_arena *a, const json_t *v, const char *where,
                                 struct ka_tok_parts *parts);
ka_status ka_tok_load_pretokenizer(struct ka_arena *a, const json_t *v, const char *where,
                                   struct ka_tok_parts *parts);
ka_status ka_tok_load_decoder(struct ka_arena *a, const json_t *v, const char *where,
                              struct ka_tok_parts *parts);
void ka_tok_parts_deinit(struct ka_tok_parts *parts);

#endif
