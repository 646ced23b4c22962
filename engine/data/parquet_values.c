/* SPDX-License-Identifier: Apache-2.0
 * The encodings of Parquet, one value at a time: nothing is unpacked ahead, so that a page that
 * says it holds 2^31 values costs no more than its bytes. */
#include "engine/data/parquet_parts.h"

#include <string.h>

enum { /* Encoding */
       PLAIN = 0,
       PLAIN_DICTIONARY = 2,
       RLE = 3,
       DELTA_BINARY_PACKED = 5,
       DELTA_LENGTH_BYTE_ARRAY = 6,
       DELTA_BYTE_ARRAY = 7,
       RLE_DICTIONARY = 8,
       BYTE_STREAM_SPLIT = 9
};

/* --- runs and bit-packed groups ---------------------------------------------- */

/* `width` bits, up to 64, from bit `at` on, lowest first; false when they go beyond end. */
static bool get_bits(const unsigned char *p, const unsigned char *end, size_t at, int width,
                     uint64_t *out) {
  uint64_t v = 0;
  if (width > 0 && (at + (size_t)width + 7) / 8 > (size_t)(end - p)) return false;
  for (int got = 0; got < width;) {
    int skip = (int)(at % 8), n = 8 - skip < width - got ? 8 - skip : width - got;
    v |= (uint64_t)(p[at / 8] >> skip & ((1 << n) - 1)) << got;
    got += n;
    at += (size_t)n;
  }
  *out = v;
  return true;
}

void ka_pq_rle_init(struct ka_pq_rle *r, const unsigned char *p, const unsigned char *end,
                    int width) {
  *r = (struct ka_pq_rle){.p = p, .end = end, .width = width};
}

static bool start_run(struct ka_pq_rle *r) {
  if (r->packed) r->p += (r->bit + 7) / 8;
  struct ka_thrift t = {r->p, r->end, false};
  uint64_t head = ka_thrift_varint(&t), n = head >> 1;
  if (t.bad || n == 0 || n > INT32_MAX) return false;
  r->p = t.p;
  r->packed = head & 1;
  r->bit = 0;
  r->run = (int64_t)(r->packed ? n * 8 : n);
  if (r->packed) return true;
  size_t bytes = ((size_t)r->width + 7) / 8;
  if (!get_bits(r->p, r->end, 0, (int)bytes * 8, &r->value)) return false;
  r->p += bytes;
  return true;
}

bool ka_pq_rle_next(struct ka_pq_rle *r, uint32_t *out) {
  uint64_t v = 0;
  *out = 0;
  if (r->run == 0 && !start_run(r)) return false;
  r->run--;
  if (!r->packed) {
    *out = (uint32_t)r->value;
    return true;
  }
  if (!get_bits(r->p, r->end, r->bit, r->width, &v)) return false;
  r->bit += (size_t)r->width;
  *out = (uint32_t)v;
  return true;
}

/* --- deltas ------------------------------------------------------------------ */

static bool delta_init(struct ka_pq_delta *d, const unsigned char *p, const unsigned char *end) {
  *d = (struct ka_pq_delta){.in = {p, end, false}, .first = true};
  uint64_t block = ka_thrift_varint(&d->in), n_minis = ka_thrift_varint(&d->in);
  uint64_t total = ka_thrift_varint(&d->in);
  d->last = (uint64_t)ka_thrift_zigzag(&d->in);
  if (d->in.bad || block == 0 || block > 1 << 24 || n_minis == 0 || block % n_minis != 0 ||
      n_minis > 1 << 16 || total > INT32_MAX)
    return false;
  d->n_minis = (int64_t)n_minis;
  d->per_mini = (int64_t)(block / n_minis);
  d->mini = d->n_minis;
  d->total = (int64_t)total;
  return true;
}

/* Moves to the next miniblock, whose bits begin at in.p. */
static bool next_mini(struct ka_pq_delta *d) {
  if (d->mini == d->n_minis) { /* a block's head */
    d->min = (uint64_t)ka_thrift_zigzag(&d->in);
    d->widths = d->in.p;
    if (d->in.bad || d->n_minis > d->in.end - d->in.p) return false;
    d->in.p += d->n_minis;
    d->mini = 0;
  }
  size_t width = d->widths[d->mini++], bytes = (size_t)d->per_mini * width / 8;
  if (width > 64 || bytes > (size_t)(d->in.end - d->in.p)) return false;
  d->bits = d->in.p;
  d->bit = 0;
  d->in.p += bytes;
  d->left = d->per_mini;
  return true;
}

static bool delta_next(struct ka_pq_delta *d, int64_t *out) {
  uint64_t step = 0;
  if (d->total <= 0) return false;
  if (!d->first) {
    if (d->left == 0 && !next_mini(d)) return false;
    int width = d->widths[d->mini - 1];
    if (!get_bits(d->bits, d->in.p, d->bit, width, &step)) return false;
    d->bit += (size_t)width;
    d->left--;
    d->last += d->min + step;
  }
  d->first = false;
  d->total--;
  *out = (int64_t)d->last;
  return true;
}

/* Behind the last value's block; NULL when broken. */
static const unsigned char *delta_end(struct ka_pq_delta d, int64_t most) {
  if (d.total > most) return NULL;
  int64_t rest = d.total - 1;
  for (; rest > 0; rest -= d.per_mini)
    if (!next_mini(&d)) return NULL;
  return d.in.p;
}

/* --- values ------------------------------------------------------------------ */

static bool start_prefixes(struct ka_pq_values *v, int64_t n) {
  if (!delta_init(&v->prefixes, v->p, v->end)) return false;
  v->p = delta_end(v->prefixes, n);
  ka_str_clear(&v->text);
  return v->p != NULL;
}

static bool start_lengths(struct ka_pq_values *v, int64_t n) {
  if (!delta_init(&v->lengths, v->p, v->end)) return false;
  v->p = delta_end(v->lengths, n);
  return v->p != NULL;
}

static size_t width_of(const struct ka_pq_node *leaf) {
  static const size_t widths[] = {0, 4, 8, 12, 4, 8, 0, 0};
  return leaf->type == KA_PQ_FIXED ? (size_t)leaf->type_length : widths[leaf->type];
}

bool ka_pq_values_start(struct ka_pq_values *v, int encoding, const struct ka_pq_node *leaf,
                        const unsigned char *p, const unsigned char *end, int64_t n) {
  bool whole = leaf->type == KA_PQ_INT32 || leaf->type == KA_PQ_INT64;
  bool bytes = leaf->type == KA_PQ_BYTES, fixed = leaf->type == KA_PQ_FIXED;
  v->encoding = encoding == PLAIN_DICTIONARY ? RLE_DICTIONARY : encoding;
  v->type = leaf->type;
  v->type_length = width_of(leaf);
  v->p = p;
  v->end = end;
  v->at = 0;
  switch (v->encoding) {
  case PLAIN:
    return true;
  case RLE_DICTIONARY:
    if (p == end) return true; /* nothing but nulls */
    ka_pq_rle_init(&v->rle, p + 1, end, p[0]);
    return v->dictionary && p[0] <= 32;
  case RLE:
    ka_pq_rle_init(&v->rle, end - p < 4 ? end : p + 4, end, 1);
    return leaf->type == KA_PQ_BOOLEAN;
  case DELTA_BINARY_PACKED:
    return whole && (p == end || delta_init(&v->lengths, p, end));
  case DELTA_LENGTH_BYTE_ARRAY:
    return bytes && (p == end || start_lengths(v, n));
  case DELTA_BYTE_ARRAY:
    return (bytes || fixed) && (p == end || (start_prefixes(v, n) && start_lengths(v, n)));
  case BYTE_STREAM_SPLIT:
    v->n = v->type_length > 0 ? (end - p) / (int64_t)v->type_length : 0;
    return v->type_length > 0 && leaf->type != KA_PQ_INT96;
  default:
    return false;
  }
}

static uint64_t little(const unsigned char *p, size_t n) {
  uint64_t v = 0;
  for (size_t i = 0; i < n && i < 8; i++) v |= (uint64_t)p[i] << (8 * i);
  return v;
}

/* Bytes of a fixed width as the value of the column's type. */
static void from_bytes(const struct ka_pq_values *v, const unsigned char *p,
                       struct ka_pq_value *out) {
  uint64_t u = little(p, v->type_length);
  uint32_t u32 = (uint32_t)u;
  float f;
  *out = (struct ka_pq_value){.s = (const char *)p, .n = v->type_length};
  if (v->type == KA_PQ_INT32) out->i = (int32_t)u32;
  if (v->type == KA_PQ_INT64) out->i = (int64_t)u;
  if (v->type == KA_PQ_DOUBLE) memcpy(&out->d, &u, sizeof u);
  if (v->type == KA_PQ_FLOAT) {
    memcpy(&f, &u32, sizeof f);
    out->d = (double)f;
  }
}

static bool take(struct ka_pq_values *v, size_t n, const unsigned char **p) {
  *p = v->p;
  if (n > (size_t)(v->end - v->p)) return false;
  v->p += n;
  return true;
}

static bool next_plain(struct ka_pq_values *v, struct ka_pq_value *out) {
  const unsigned char *p;
  uint64_t bit = 0;
  if (v->type == KA_PQ_BOOLEAN) {
    if (!get_bits(v->p, v->end, (size_t)v->at++, 1, &bit)) return false;
    *out = (struct ka_pq_value){.i = (int64_t)bit};
    return true;
  }
  if (v->type != KA_PQ_BYTES) {
    if (!take(v, v->type_length, &p)) return false;
    from_bytes(v, p, out);
    return true;
  }
  if (!take(v, 4, &p)) return false;
  size_t n = (size_t)little(p, 4);
  if (!take(v, n, &p)) return false;
  *out = (struct ka_pq_value){.s = (const char *)p, .n = n};
  return true;
}

/* The common beginning with the value before, then a text of its own. */
static ka_status next_delta_text(struct ka_ctx *ctx, struct ka_pq_values *v,
                                 struct ka_pq_value *out, bool *good) {
  int64_t prefix = 0, n = 0;
  const unsigned char *p;
  *good = delta_next(&v->prefixes, &prefix) && delta_next(&v->lengths, &n) && prefix >= 0 &&
          (uint64_t)prefix <= v->text.len && n >= 0 && take(v, (size_t)n, &p);
  if (!*good) return KA_STATUS_OK;
  v->text.len = (size_t)prefix;
  KA_TRY(ka_str_append(ctx, &v->text, (const char *)p, (size_t)n));
  *good = v->type != KA_PQ_FIXED || v->text.len == v->type_length;
  *out = (struct ka_pq_value){.s = v->text.data, .n = v->text.len};
  return KA_STATUS_OK;
}

static bool next_split(struct ka_pq_values *v, struct ka_pq_value *out) {
  unsigned char bytes[8] = {0};
  if (v->at >= v->n || v->type_length > 8) return false;
  for (size_t b = 0; b < v->type_length; b++) bytes[b] = v->p[(int64_t)b * v->n + v->at];
  v->at++;
  from_bytes(v, bytes, out);
  return v->type != KA_PQ_FIXED; /* those are text or unread: nobody splits them */
}

ka_status ka_pq_values_next(struct ka_ctx *ctx, struct ka_pq_values *v, struct ka_pq_value *out) {
  uint32_t u = 0;
  int64_t n = 0;
  const unsigned char *p;
  bool good = false;
  *out = (struct ka_pq_value){0};
  switch (v->encoding) {
  case PLAIN:
    good = next_plain(v, out);
    break;
  case RLE_DICTIONARY:
    good = v->p < v->end && ka_pq_rle_next(&v->rle, &u) && u < v->n_dictionary;
    if (good) *out = v->dictionary[u];
    break;
  case RLE:
    good = ka_pq_rle_next(&v->rle, &u);
    out->i = u;
    break;
  case DELTA_BINARY_PACKED:
    good = v->p < v->end && delta_next(&v->lengths, &n);
    out->i = v->type == KA_PQ_INT32 ? (int32_t)(uint32_t)(uint64_t)n : n;
    break;
  case DELTA_LENGTH_BYTE_ARRAY:
    good = v->lengths.total > 0 && delta_next(&v->lengths, &n) && n >= 0 && take(v, (size_t)n, &p);
    if (good) *out = (struct ka_pq_value){.s = (const char *)p, .n = (size_t)n};
    break;
  case DELTA_BYTE_ARRAY:
    KA_TRY(next_delta_text(ctx, v, out, &good));
    break;
  case BYTE_STREAM_SPLIT:
    good = next_split(v, out);
    break;
  }
  return good ? KA_STATUS_OK : ka_fail(ctx, KA_E_INPUT, "broken values");
}
