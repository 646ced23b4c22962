/* SPDX-License-Identifier: Apache-2.0
 *
 * Character classes and normalization forms. One table per tokenizer, built when it is opened from
 * utf8proc (Unicode 15.0) and unicode_new.def (what Unicode 16 added), because the tokenizers
 * library's regular expressions know Unicode 16. Text handed to these functions is valid UTF-8. */
#ifndef KAPPA_TOKENIZER_UNICODE_H
#define KAPPA_TOKENIZER_UNICODE_H

#include "base/arena.h"
#include "base/str.h"

enum ka_tok_uc {
  KA_UC_LETTER = 1,   /* \p{L} */
  KA_UC_NUMBER = 2,   /* \p{N} */
  KA_UC_SPACE = 4,    /* White_Space, \s */
  KA_UC_PUNCT = 8,    /* as the Punctuation pre-tokenizer sees it */
  KA_UC_MARK = 16,    /* \p{M} */
  KA_UC_STARTER = 32, /* nothing before it can change what it normalizes to */
  KA_UC_STABLE = 64,  /* << form: a starter that the form leaves alone */
};

enum ka_tok_nf { KA_NFC, KA_NFD, KA_NFKC, KA_NFKD };

struct ka_tok_unicode {
  uint16_t ascii[128];
  uint16_t pages[0x110000 / 256]; /* index into flags, in units of 256 */
  uint16_t (*flags)[256];
};

/* Memory comes from `a`. */
ka_status ka_tok_unicode_init(struct ka_tok_unicode *u, struct ka_arena *a);

static inline uint16_t ka_tok_uc_of(const struct ka_tok_unicode *u, uint32_t cp) {
  return u->flags[u->pages[cp >> 8]][cp & 255];
}

/* Decodes the valid sequence at s; returns its length. */
static inline int ka_utf8_next(const char *s, uint32_t *cp) {
  const unsigned char *p = (const unsigned char *)s;
  if (p[0] < 0x80) return *cp = p[0], 1;
  if (p[0] < 0xE0) return *cp = (uint32_t)(p[0] & 0x1F) << 6 | (p[1] & 0x3F), 2;
  if (p[0] < 0xF0)
    return *cp = (uint32_t)(p[0] & 0x0F) << 12 | (uint32_t)(p[1] & 0x3F) << 6 | (p[2] & 0x3F), 3;
  return *cp = (uint32_t)(p[0] & 0x07) << 18 | (uint32_t)(p[1] & 0x3F) << 12 |
               (uint32_t)(p[2] & 0x3F) << 6 | (p[3] & 0x3F),
         4;
}

/* Offset of the first character that `form` may change, or that begins such a group; n when the
 * text is in that form already. */
size_t ka_tok_nf_stable(const struct ka_tok_unicode *u, enum ka_tok_nf form, const char *s,
                        size_t n);
/* Length of the group at s that must be normalized as one: up to the next starter. */
size_t ka_tok_nf_group(const struct ka_tok_unicode *u, const char *s, size_t n);
/* Appends the normal form of one group to out. tmp is scratch of the caller (any contents). */
ka_status ka_tok_nf_append(struct ka_ctx *ctx, enum ka_tok_nf form, const char *s, size_t n,
                           struct ka_str *tmp, struct ka_str *out);

#endif
