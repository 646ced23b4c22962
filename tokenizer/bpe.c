/* SPDX-License-Identifier: Apache-2.0
 *
 * One pre-token to ids; see bpe.h. Three layers, each equal to the one below: a cache of short
 * words, cuts where no merge can reach across (so that unsplit text becomes words again), and the
 * merge itself: a scan over a small array for short words, a heap for long ones.
 *
 * A cut between characters x and y is exact when no merge result holds y right after x: every
 * symbol that would span the cut is such a result. The set of those bigrams is a bitmap (hashed
 * beyond Latin-1: a collision only loses a cut). Characters that the vocabulary lacks are never
 * cut at, because unknowns fuse. */
#include "tokenizer/bpe.h"

#include "tokenizer/unicode.h"

#include <string.h>

enum {
  SCAN_MAX = 40, /* symbols; longer words go through the heap */
  SMALL_KEY = 16,
  SMALL_IDS = 3,
  N_SMALL = 1 << 16,
  LARGE_KEY = 64,
  LARGE_IDS = 15,
  N_LARGE = 1 << 13,
};

struct small_word { /* the key's last byte is its length; 0 = empty slot */
  uint64_t key[SMALL_KEY / 8];
  int32_t ids[SMALL_IDS];
  int32_t n;
};

struct large_word {
  uint64_t key[LARGE_KEY / 8];
  int32_t ids[LARGE_IDS];
  int32_t n;
};

struct symbol {
  uint32_t id;  /* NONE: merged away */
  uint32_t len; /* bytes of the word */
  int32_t prev, next;
};

struct candidate {
  uint32_t rank, id;
  int32_t pos;
};

struct ka_bpe_work {
  struct small_word *small;
  struct large_word *large;
  struct symbol *symbols;
  int64_t n_symbols, symbols_cap;
  struct candidate *heap;
  int64_t heap_n, heap_cap;
  struct ka_str spelled; /* a word in the byte-level alphabet, or with its suffix */
  char lost[4];          /* the first character that no token spells */
  size_t lost_n;         /* 0: none yet */
  bool clean;            /* the last word used neither unk nor byte fallback and dropped nothing */
};

#define NONE UINT32_MAX

ka_status ka_tok_bpe_work_create(struct ka_ctx *ctx, struct ka_bpe_work **out) {
  ka_status st = KA_STATUS_OK;
  *out = NULL;
  struct ka_bpe_work *w;
  KA_TRY(KA_NEW_HEAP(ctx, &w, 1, "tokenizer work space"));
  KA_TRY_GOTO(KA_NEW_HEAP(ctx, &w->small, N_SMALL, "tokenizer word cache"), out);
  KA_TRY_GOTO(KA_NEW_HEAP(ctx, &w->large, N_LARGE, "tokenizer word cache"), out);
  *out = w;
out:
  if (!*out) ka_tok_bpe_work_free(w);
  return st;
}

void ka_tok_bpe_work_free(struct ka_bpe_work *w) {
  if (!w) return;
  ka_free(w->small);
  ka_free(w->large);
  ka_free(w->symbols);
  ka_free(w->heap);
  ka_str_deinit(&w->spelled);
  ka_free(w);
}

const char *ka_tok_bpe_lost(const struct ka_bpe_work *w, size_t *n) {
  *n = w->lost_n;
  return w->lost;
}

static const struct ka_tok_merge *find_merge(const struct ka_tok_bpe *b, uint32_t x, uint32_t y) {
  for (uint64_t i = ka_tok_merge_hash(x, y) & b->merges_mask;; i = (i + 1) & b->merges_mask) {
    const struct ka_tok_merge *m = &b->merges[i];
    if (m->rank == NONE) return NULL;
    if (m->a == x && m->b == y) return m;
  }
}

/* --- characters to symbols ------------------------------------------------------------------- */

static ka_status add_symbol(struct ka_ctx *ctx, struct ka_bpe_work *w, int32_t id, size_t len) {
  if (w->n_symbols == w->symbols_cap) {
    void *p = w->symbols;
    KA_TRY(ka_grow(ctx, &p, &w->symbols_cap, w->n_symbols + 1, sizeof *w->symbols, "BPE symbols"));
    w->symbols = p;
  }
  w->symbols[w->n_symbols++] = (struct symbol){.id = (uint32_t)id, .len = (uint32_t)len};
  return KA_STATUS_OK;
}

/* The unknown characters gathered so far; the library emits them when the next known one comes. */
struct unknown {
  bool any;
  size_t len;
};

static ka_status flush_unknown(struct ka_ctx *ctx, const struct ka_tok_bpe *b,
                               struct ka_bpe_work *w, struct unknown *u) {
  if (!u->any) return KA_STATUS_OK;
  u->any = false;
  return add_symbol(ctx, w, b->unk, u->len);
}

static ka_status add_missing(struct ka_ctx *ctx, const struct ka_tok_bpe *b, struct ka_bpe_work *w,
                             const char *s, size_t n, size_t len, struct unknown *u) {
  w->clean = false;
  bool all = b->byte_fallback;
  for (size_t i = 0; i < n && all; i++) all = b->fallback[(unsigned char)s[i]] >= 0;
  if (all) {
    for (size_t i = 0; i < n; i++) KA_TRY(add_symbol(ctx, w, b->fallback[(unsigned char)s[i]], 1));
    return KA_STATUS_OK;
  }
  if (b->unk_missing)
    return ka_fail(ctx, KA_E_INPUT,
                   "the text has the character \"%.*s\", which the tokenizer does "
                   "not know, and its unk_token is not in the vocabulary",
                   (int)n, s);
  if ((b->unk < 0 || b->byte_fallback) && w->lost_n == 0)
    memcpy(w->lost, s, w->lost_n = n < 4 ? n : 4);
  if (b->unk < 0) return KA_STATUS_OK; /* dropped, as the library does */
  if (u->any && b->fuse_unk) {
    u->len += len;
    return KA_STATUS_OK;
  }
  KA_TRY(flush_unknown(ctx, b, w, u));
  *u = (struct unknown){true, len};
  return KA_STATUS_OK;
}

static ka_status symbols_of_bytes(struct ka_ctx *ctx, const struct ka_tok_bpe *b,
                                  struct ka_bpe_work *w, const char *s, size_t n) {
  struct unknown u = {0};
  for (size_t i = 0; i < n; i++) {
    unsigned char c = (unsigned char)s[i];
    if (b->byte_id[c] >= 0) {
      KA_TRY(flush_unknown(ctx, b, w, &u));
      KA_TRY(add_symbol(ctx, w, b->byte_id[c], 1));
    } else {
      char spelled[4];
      int len = ka_utf8_encode(ka_tok_byte_char(c), spelled);
      KA_TRY(add_missing(ctx, b, w, spelled, (size_t)len, 1, &u));
    }
  }
  return flush_unknown(ctx, b, w, &u);
}

static int32_t char_id(const struct ka_tok_bpe *b, uint32_t cp, const char *s, size_t n) {
  return cp < 0x10000 ? b->char_id[cp] : ka_tok_bpe_find_own(b, s, n);
}

static ka_status symbols_of_chars(struct ka_ctx *ctx, const struct ka_tok_bpe *b,
                                  struct ka_bpe_work *w, const char *s, size_t n) {
  struct unknown u = {0};
  bool affixes = b->prefix || b->suffix;
  if (affixes) w->clean = false;
  for (size_t i = 0; i < n;) {
    uint32_t cp;
    size_t len = (size_t)ka_utf8_next(s + i, &cp), spelled_n = len;
    const char *spelled = s + i;
    if (affixes) {
      ka_str_clear(&w->spelled);
      if (i > 0 && b->prefix) KA_TRY(ka_str_puts(ctx, &w->spelled, b->prefix));
      KA_TRY(ka_str_append(ctx, &w->spelled, s + i, len));
      if (i + len == n && b->suffix) KA_TRY(ka_str_puts(ctx, &w->spelled, b->suffix));
      spelled = w->spelled.data;
      spelled_n = w->spelled.len;
    }
    int32_t id =
        affixes ? ka_tok_bpe_find_own(b, spelled, spelled_n) : char_id(b, cp, spelled, spelled_n);
    if (id >= 0) {
      KA_TRY(flush_unknown(ctx, b, w, &u));
      KA_TRY(add_symbol(ctx, w, id, len));
    } else {
      KA_TRY(add_missing(ctx, b, w, spelled, spelled_n, len, &u));
    }
    i += len;
  }
  return flush_unknown(ctx, b, w, &u);
}

/* --- merging --------------------------------------------------------------------------------- */

static void merge_by_scan(const struct ka_tok_bpe *b, struct ka_bpe_work *w) {
  uint32_t rank[SCAN_MAX], id[SCAN_MAX];
  struct symbol *s = w->symbols;
  int n = (int)w->n_symbols;
  for (int i = 0; i + 1 < n; i++) {
    const struct ka_tok_merge *m = find_merge(b, s[i].id, s[i + 1].id);
    rank[i] = m ? m->rank : NONE;
    id[i] = m ? m->id : 0;
  }
  for (;;) {
    int best = 0;
    for (int i = 1; i + 1 < n; i++)
      if (rank[i] < rank[best]) best = i;
    if (n < 2 || rank[best] == NONE) break;
    s[best].id = id[best];
    s[best].len += s[best + 1].len;
    n--;
    for (int i = best + 1; i < n; i++) {
      s[i] = s[i + 1];
      rank[i] = rank[i + 1];
      id[i] = id[i + 1];
    }
    for (int i = best > 0 ? best - 1 : 0; i <= best && i + 1 < n; i++) {
      const struct ka_tok_merge *m = find_merge(b, s[i].id, s[i + 1].id);
      rank[i] = m ? m->rank : NONE;
      id[i] = m ? m->id : 0;
    }
  }
  w->n_symbols = n;
}

static bool before(struct candidate x, struct candidate y) {
  return x.rank != y.rank ? x.rank < y.rank : x.pos < y.pos;
}

static ka_status heap_push(struct ka_ctx *ctx, struct ka_bpe_work *w, struct candidate c) {
  if (w->heap_n == w->heap_cap) {
    void *p = w->heap;
    KA_TRY(ka_grow(ctx, &p, &w->heap_cap, w->heap_n + 1, sizeof *w->heap, "BPE heap"));
    w->heap = p;
  }
  int64_t i = w->heap_n++;
  for (; i > 0 && before(c, w->heap[(i - 1) / 2]); i = (i - 1) / 2)
    w->heap[i] = w->heap[(i - 1) / 2];
  w->heap[i] = c;
  return KA_STATUS_OK;
}

static struct candidate heap_pop(struct ka_bpe_work *w) {
  struct candidate top = w->heap[0], last = w->heap[--w->heap_n];
  int64_t i = 0;
  for (int64_t child = 1; child < w->heap_n; i = child, child = 2 * child + 1) {
    if (child + 1 < w->heap_n && before(w->heap[child + 1], w->heap[child])) child++;
    if (!before(w->heap[child], last)) break;
    w->heap[i] = w->heap[child];
  }
  if (w->heap_n > 0) w->heap[i] = last;
  return top;
}

static ka_status push_pair(struct ka_ctx *ctx, const struct ka_tok_bpe *b, struct ka_bpe_work *w,
                           int32_t left, int32_t right) {
  if (left < 0 || right < 0) return KA_STATUS_OK;
  const struct ka_tok_merge *m = find_merge(b, w->symbols[left].id, w->symbols[right].id);
  return m ? heap_push(ctx, w, (struct candidate){m->rank, m->id, left}) : KA_STATUS_OK;
}

static ka_status merge_by_heap(struct ka_ctx *ctx, const struct ka_tok_bpe *b,
                               struct ka_bpe_work *w) {
  struct symbol *s = w->symbols;
  int32_t n = (int32_t)w->n_symbols;
  w->heap_n = 0;
  for (int32_t i = 0; i < n; i++) {
    s[i].prev = i - 1;
    s[i].next = i + 1 < n ? i + 1 : -1;
    KA_TRY(push_pair(ctx, b, w, i, s[i].next));
  }
  while (w->heap_n > 0) {
    struct candidate c = heap_pop(w);
    int32_t right = s[c.pos].next;
    if (s[c.pos].id == NONE || right < 0) continue;
    const struct ka_tok_merge *m = find_merge(b, s[c.pos].id, s[right].id);
    if (!m || m->id != c.id) continue; /* stale: one of the two was merged meanwhile */
    s[c.pos].id = c.id;
    s[c.pos].len += s[right].len;
    s[c.pos].next = s[right].next;
    s[right].id = NONE;
    if (s[c.pos].next >= 0) s[s[c.pos].next].prev = c.pos;
    KA_TRY(push_pair(ctx, b, w, s[c.pos].prev, c.pos));
    KA_TRY(push_pair(ctx, b, w, c.pos, s[c.pos].next));
  }
  int32_t kept = 0;
  for (int32_t i = 0; i < n; i++)
    if (s[i].id != NONE) s[kept++] = s[i];
  w->n_symbols = kept;
  return KA_STATUS_OK;
}

/* --- output ---------------------------------------------------------------------------------- */

static ka_status reserve(struct ka_ctx *ctx, struct ka_tok_tokens *out, int64_t n) {
  if (out->n + n > out->cap) {
    void *p = out->ids;
    KA_TRY(ka_grow(ctx, &p, &out->cap, out->n + n, sizeof *out->ids, "token ids"));
    out->ids = p;
  }
  if (out->want_spans && out->n + n > out->spans_cap) {
    void *p = out->spans;
    KA_TRY(ka_grow(ctx, &p, &out->spans_cap, out->n + n, sizeof *out->spans, "token spans"));
    out->spans = p;
  }
  return KA_STATUS_OK;
}

static uint32_t span_of(const struct ka_tok_bpe *b, int32_t id, bool bytes) {
  const struct ka_tok_token_text *t = &b->tokens[id];
  uint32_t n = t->n;
  for (uint32_t i = 0; bytes && i < t->n; i++) n -= ((unsigned char)t->s[i] & 0xC0) == 0x80;
  return n;
}

/* at: where the word stands within the pre-token. */
static ka_status emit_cached(struct ka_ctx *ctx, const struct ka_tok_bpe *b, const int32_t *ids,
                             int32_t n, bool bytes, size_t at, struct ka_tok_tokens *out) {
  if (out->n + n > out->cap || out->want_spans) KA_TRY(reserve(ctx, out, n));
  for (int32_t i = 0; i < n; i++) {
    if (out->want_spans) {
      uint32_t len = span_of(b, ids[i], bytes);
      out->spans[out->n] = (struct ka_tok_span){(int64_t)at, (int64_t)(at + len)};
      at += len;
    }
    out->ids[out->n++] = ids[i];
  }
  return KA_STATUS_OK;
}

static ka_status encode_uncached(struct ka_ctx *ctx, const struct ka_tok_bpe *b,
                                 struct ka_bpe_work *w, const char *s, size_t n, bool bytes,
                                 size_t at, struct ka_tok_tokens *out) {
  w->n_symbols = 0;
  w->clean = true;
  KA_TRY(bytes ? symbols_of_bytes(ctx, b, w, s, n) : symbols_of_chars(ctx, b, w, s, n));
  /* With a prefix a merge may not lengthen its token; only the heap is then the library's twin. */
  if (w->n_symbols <= SCAN_MAX && !b->prefix)
    merge_by_scan(b, w);
  else
    KA_TRY(merge_by_heap(ctx, b, w));
  KA_TRY(reserve(ctx, out, w->n_symbols));
  for (int64_t i = 0; i < w->n_symbols; i++) {
    if (out->want_spans)
      out->spans[out->n] = (struct ka_tok_span){(int64_t)at, (int64_t)(at + w->symbols[i].len)};
    at += w->symbols[i].len;
    out->ids[out->n++] = (int32_t)w->symbols[i].id;
  }
  return KA_STATUS_OK;
}

/* --- the cache ------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t a, uint64_t b) {
  __uint128_t p = (__uint128_t)(a ^ 0x9E3779B97F4A7C15ull) * (b ^ 0xD1B54A32D192ED03ull);
  return (uint64_t)p ^ (uint64_t)(p >> 64);
}

/* One word that no cut divides. */
static ka_status encode_word(struct ka_ctx *ctx, const struct ka_tok_bpe *b, struct ka_bpe_work *w,
                             const char *s, size_t n, bool bytes, size_t at,
                             struct ka_tok_tokens *out) {
  int64_t from = out->n;
  if (n < SMALL_KEY) {
    uint64_t key[2] = {0};
    memcpy(key, s, n);
    key[1] |= (uint64_t)(n << 1 | bytes) << 56;
    struct small_word *e = &w->small[mix(key[0], key[1]) & (N_SMALL - 1)];
    if (e->key[0] == key[0] && e->key[1] == key[1])
      return emit_cached(ctx, b, e->ids, e->n, bytes, at, out);
    KA_TRY(encode_uncached(ctx, b, w, s, n, bytes, at, out));
    if (w->clean && out->n - from <= SMALL_IDS) {
      e->n = (int32_t)(out->n - from);
      memcpy(e->key, key, sizeof key);
      memcpy(e->ids, out->ids + from, (size_t)e->n * sizeof *e->ids);
    }
    return KA_STATUS_OK;
  }
  if (n >= LARGE_KEY) return encode_uncached(ctx, b, w, s, n, bytes, at, out);
  uint64_t key[LARGE_KEY / 8] = {0}, h = 0;
  memcpy(key, s, n);
  key[LARGE_KEY / 8 - 1] |= (uint64_t)(n << 1 | bytes) << 56;
  for (size_t i = 0; i < LARGE_KEY / 8; i += 2) h = mix(h ^ key[i], key[i + 1]);
  struct large_word *e = &w->large[h & (N_LARGE - 1)];
  if (memcmp(e->key, key, sizeof key) == 0)
    return emit_cached(ctx, b, e->ids, e->n, bytes, at, out);
  KA_TRY(encode_uncached(ctx, b, w, s, n, bytes, at, out));
  if (w->clean && out->n - from <= LARGE_IDS) {
    e->n = (int32_t)(out->n - from);
    memcpy(e->key, key, sizeof key);
    memcpy(e->ids, out->ids + from, (size_t)e->n * sizeof *e->ids);
  }
  return KA_STATUS_OK;
}

/* --- cuts ------------------------------------------------------------------------------------ */

static bool may_join(const struct ka_tok_bpe *b, uint32_t x, uint32_t y) {
  uint64_t bit = ka_tok_joined_bit(x, y);
  return b->joined[bit >> 6] >> (bit & 63) & 1;
}

static ka_status encode_cut_bytes(struct ka_ctx *ctx, const struct ka_tok_bpe *b,
                                  struct ka_bpe_work *w, const char *s, size_t n,
                                  struct ka_tok_tokens *out) {
  size_t from = 0;
  for (size_t i = 1; i < n; i++) {
    unsigned char x = (unsigned char)s[i - 1], y = (unsigned char)s[i];
    if (may_join(b, ka_tok_byte_char(x), ka_tok_byte_char(y)) || b->byte_id[x] < 0 ||
        b->byte_id[y] < 0)
      continue;
    KA_TRY(encode_word(ctx, b, w, s + from, i - from, true, from, out));
    from = i;
  }
  return encode_word(ctx, b, w, s + from, n - from, true, from, out);
}

static ka_status encode_cut_chars(struct ka_ctx *ctx, const struct ka_tok_bpe *b,
                                  struct ka_bpe_work *w, const char *s, size_t n,
                                  struct ka_tok_tokens *out) {
  uint32_t x, y;
  size_t from = 0, x_at = 0, at = (size_t)ka_utf8_next(s, &x);
  while (at < n) {
    size_t len = (size_t)ka_utf8_next(s + at, &y);
    if (!may_join(b, x, y) && char_id(b, x, s + x_at, at - x_at) >= 0 &&
        char_id(b, y, s + at, len) >= 0) {
      KA_TRY(encode_word(ctx, b, w, s + from, at - from, false, from, out));
      from = at;
    }
    x = y;
    x_at = at;
    at += len;
  }
  return encode_word(ctx, b, w, s + from, n - from, false, from, out);
}

static ka_status spell(struct ka_ctx *ctx, struct ka_bpe_work *w, const char *s, size_t n) {
  ka_str_clear(&w->spelled);
  KA_TRY(ka_str_reserve(ctx, &w->spelled, 2 * n));
  for (size_t i = 0; i < n; i++)
    w->spelled.len += (size_t)ka_utf8_encode(ka_tok_byte_char((unsigned char)s[i]),
                                             w->spelled.data + w->spelled.len);
  return KA_STATUS_OK;
}

ka_status ka_tok_bpe_encode(struct ka_ctx *ctx, const struct ka_tok_bpe *b, struct ka_bpe_work *w,
                            const char *s, size_t n, bool bytes, struct ka_tok_tokens *out) {
  if (n == 0) return KA_STATUS_OK;
  if (b->ignore_merges) {
    int32_t id = -1;
    if (n <= b->longest) {
      if (bytes) KA_TRY(spell(ctx, w, s, n));
      id = bytes ? ka_tok_bpe_find_own(b, w->spelled.data, w->spelled.len)
                 : ka_tok_bpe_find_own(b, s, n);
    }
    if (id >= 0) {
      KA_TRY(reserve(ctx, out, 1));
      if (out->want_spans) out->spans[out->n] = (struct ka_tok_span){0, (int64_t)n};
      out->ids[out->n++] = id;
      return KA_STATUS_OK;
    }
  }
  if (n < LARGE_KEY || b->prefix || b->suffix) return encode_word(ctx, b, w, s, n, bytes, 0, out);
  return bytes ? encode_cut_bytes(ctx, b, w, s, n, out) : encode_cut_chars(ctx, b, w, s, n, out);
}
