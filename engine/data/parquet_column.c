/* SPDX-License-Identifier: Apache-2.0
 * A column of a row group: its pages one after the other, its entries (levels and value) one at a
 * time. Messages say what is broken; the caller says where. */
#include "engine/data/parquet_parts.h"
#include "engine/data/unpack.h"

enum { PAGE_DATA = 0, PAGE_DICTIONARY = 2, PAGE_DATA_2 = 3 };
enum { MAX_PAGE = 1 << 30, ENCODING_RLE = 3 };

struct page_head {
  int64_t type, size, packed; /* unpacked and packed bytes */
  int64_t n, encoding, def_encoding, rep_encoding;
  int64_t def_bytes, rep_bytes; /* version 2 */
  bool is_packed;
};

void ka_pq_column_deinit(struct ka_pq_column *c) {
  ka_str_deinit(&c->page);
  ka_str_deinit(&c->dict);
  ka_str_deinit(&c->values.text);
  ka_free(c->entries);
}

void ka_pq_column_start(struct ka_pq_column *c, const struct ka_pq_chunk *chunk) {
  c->codec = chunk->codec;
  c->at = chunk->at;
  c->end = chunk->end;
  c->n_left = chunk->n_values;
  c->n_page = c->n_entries = 0;
  c->have = false;
  c->values.dictionary = NULL;
}

/* --- page heads -------------------------------------------------------------- */

/* The fields of the three kinds of page, by kind and number. */
static int64_t *page_field(struct page_head *h, int kind, int id) {
  if (id == 1) return &h->n;
  if (kind == PAGE_DATA_2)
    return id == 4 ? &h->encoding : id == 5 ? &h->def_bytes : id == 6 ? &h->rep_bytes : NULL;
  if (id == 2) return &h->encoding;
  if (kind != PAGE_DATA) return NULL;
  return id == 3 ? &h->def_encoding : id == 4 ? &h->rep_encoding : NULL;
}

static void read_page_fields(struct ka_thrift *t, struct page_head *h, int kind) {
  for (struct ka_thrift_field f = {0}; ka_thrift_next(t, &f);) {
    int64_t *field = page_field(h, kind, f.id);
    if (field)
      *field = ka_thrift_int(t, &f);
    else if (kind == PAGE_DATA_2 && f.id == 7)
      h->is_packed = ka_thrift_bool(t, &f);
    else
      ka_thrift_skip(t, &f);
  }
}

static ka_status read_head(struct ka_ctx *ctx, struct ka_pq_column *c, struct page_head *h) {
  const unsigned char *d = c->x->m->data;
  struct ka_thrift t = {d + c->at, d + c->end, false};
  *h = (struct page_head){.type = -1, .is_packed = true};
  for (struct ka_thrift_field f = {0}; ka_thrift_next(&t, &f);) {
    int kind = f.id == 5 ? PAGE_DATA : f.id == 7 ? PAGE_DICTIONARY : PAGE_DATA_2;
    if (f.id == 1)
      h->type = ka_thrift_int(&t, &f);
    else if (f.id == 2)
      h->size = ka_thrift_int(&t, &f);
    else if (f.id == 3)
      h->packed = ka_thrift_int(&t, &f);
    else if ((f.id == 5 || f.id == 7 || f.id == 8) && ka_thrift_struct(&t, &f))
      read_page_fields(&t, h, kind);
    else
      ka_thrift_skip(&t, &f);
  }
  if (t.bad || h->packed < 0 || h->packed > t.end - t.p || h->size < 0 || h->n < 0 ||
      h->def_bytes < 0 || h->rep_bytes < 0 || h->def_bytes > h->packed ||
      h->rep_bytes > h->packed - h->def_bytes || h->def_bytes + h->rep_bytes > h->size)
    return ka_fail(ctx, KA_E_INPUT, "a broken page");
  if (h->size > MAX_PAGE)
    return ka_fail(ctx, KA_E_UNSUPPORTED, "a page of %lld bytes, the limit is 2^30",
                   (long long)h->size);
  c->at = (size_t)(t.p - d);
  return KA_STATUS_OK;
}

/* --- pages ------------------------------------------------------------------- */

/* packed bytes at p into out, or where they are when they are not packed. */
static ka_status unpack(struct ka_ctx *ctx, int codec, const unsigned char *p, int64_t packed,
                        int64_t size, struct ka_str *out, const unsigned char **bytes) {
  *bytes = p;
  if (codec == KA_CODEC_NONE)
    return packed == size ? KA_STATUS_OK : ka_fail(ctx, KA_E_INPUT, "a page of another size");
  ka_str_clear(out);
  KA_TRY(ka_str_reserve(ctx, out, (size_t)size + 1));
  *bytes = (const unsigned char *)out->data;
  if (packed == 0 && size == 0) return KA_STATUS_OK;
  return ka_unpack(ctx, codec, p, (size_t)packed, out->data, (size_t)size);
}

static ka_status read_dictionary(struct ka_ctx *ctx, struct ka_pq_column *c,
                                 const struct page_head *h) {
  const unsigned char *bytes;
  void *grown = c->entries;
  KA_TRY(unpack(ctx, c->codec, c->x->m->data + c->at, h->packed, h->size, &c->dict, &bytes));
  if ((h->encoding != 0 && h->encoding != 2) || h->n > h->size * 8 ||
      (c->node->type != KA_PQ_BOOLEAN && h->n > h->size))
    return ka_fail(ctx, KA_E_INPUT, "a broken dictionary");
  KA_TRY(ka_grow(ctx, &grown, &c->entries_cap, h->n + 1, sizeof *c->entries, "dictionary"));
  c->entries = grown;
  c->values.dictionary = NULL;
  if (!ka_pq_values_start(&c->values, 0, c->node, bytes, bytes + h->size, h->n))
    return ka_fail(ctx, KA_E_INPUT, "a broken dictionary");
  for (int64_t i = 0; i < h->n; i++) KA_TRY(ka_pq_values_next(ctx, &c->values, &c->entries[i]));
  c->values.dictionary = c->entries;
  c->values.n_dictionary = h->n;
  return KA_STATUS_OK;
}

static int bits_of(int level) {
  int n = 0;
  while (level >> n) n++;
  return n;
}

/* Version 1: | u32 length | levels | in front of the values. */
static ka_status levels_1(struct ka_ctx *ctx, struct ka_pq_rle *r, int level, int64_t encoding,
                          const unsigned char **p, const unsigned char *end) {
  if (level == 0) return KA_STATUS_OK;
  if (encoding != ENCODING_RLE)
    return ka_fail(ctx, KA_E_UNSUPPORTED, "levels in the old BIT_PACKED encoding are not read");
  if (end - *p < 4) return ka_fail(ctx, KA_E_INPUT, "a broken page");
  const unsigned char *q = *p;
  size_t n = (size_t)q[0] | (size_t)q[1] << 8 | (size_t)q[2] << 16 | (size_t)q[3] << 24;
  if (n > (size_t)(end - q - 4)) return ka_fail(ctx, KA_E_INPUT, "a broken page");
  ka_pq_rle_init(r, q + 4, q + 4 + n, bits_of(level));
  *p = q + 4 + n;
  return KA_STATUS_OK;
}

static ka_status read_data(struct ka_ctx *ctx, struct ka_pq_column *c, const struct page_head *h) {
  const unsigned char *p = c->x->m->data + c->at, *bytes, *end;
  if (h->type == PAGE_DATA_2) {
    int64_t levels = h->rep_bytes + h->def_bytes;
    ka_pq_rle_init(&c->reps, p, p + h->rep_bytes, bits_of(c->node->rep));
    ka_pq_rle_init(&c->defs, p + h->rep_bytes, p + levels, bits_of(c->node->def));
    KA_TRY(unpack(ctx, h->is_packed ? c->codec : KA_CODEC_NONE, p + levels, h->packed - levels,
                  h->size - levels, &c->page, &bytes));
    end = bytes + h->size - levels;
  } else {
    KA_TRY(unpack(ctx, c->codec, p, h->packed, h->size, &c->page, &bytes));
    end = bytes + h->size;
    KA_TRY(levels_1(ctx, &c->reps, c->node->rep, h->rep_encoding, &bytes, end));
    KA_TRY(levels_1(ctx, &c->defs, c->node->def, h->def_encoding, &bytes, end));
  }
  if (!ka_pq_values_start(&c->values, (int)h->encoding, c->node, bytes, end, h->n))
    return ka_fail(ctx, KA_E_INPUT, "encoding %lld does not go with the type, or is broken",
                   (long long)h->encoding);
  c->n_page = h->n;
  return KA_STATUS_OK;
}

static ka_status next_page(struct ka_ctx *ctx, struct ka_pq_column *c) {
  struct page_head h;
  size_t from = c->at;
  if (c->at == c->end) return ka_fail(ctx, KA_E_INPUT, "fewer values than it says");
  KA_TRY(read_head(ctx, c, &h));
  if (h.type == PAGE_DICTIONARY) KA_TRY(read_dictionary(ctx, c, &h));
  if (h.type == PAGE_DATA || h.type == PAGE_DATA_2) KA_TRY(read_data(ctx, c, &h));
  c->at += (size_t)h.packed;
  /* The map's pages come back by themselves where an unpacked page is still read. */
  if (c->codec != KA_CODEC_NONE) ka_map_forget(c->x->m, from, c->at - from);
  return KA_STATUS_OK;
}

/* --- entries ----------------------------------------------------------------- */

ka_status ka_pq_column_peek(struct ka_ctx *ctx, struct ka_pq_column *c) {
  uint32_t rep = 0, def = 0;
  if (c->have || c->n_left == 0) return KA_STATUS_OK;
  while (c->n_page == 0) KA_TRY(next_page(ctx, c));
  if ((c->node->rep > 0 && !ka_pq_rle_next(&c->reps, &rep)) ||
      (c->node->def > 0 && !ka_pq_rle_next(&c->defs, &def)) || rep > (uint32_t)c->node->rep ||
      def > (uint32_t)c->node->def)
    return ka_fail(ctx, KA_E_INPUT, "broken levels");
  c->rep = (int)rep;
  c->def = (int)def;
  c->have = true;
  c->n_page--;
  c->n_left--;
  return KA_STATUS_OK;
}

ka_status ka_pq_column_take(struct ka_ctx *ctx, struct ka_pq_column *c, struct ka_pq_value *out) {
  KA_TRY(ka_pq_column_peek(ctx, c));
  if (!c->have) return ka_fail(ctx, KA_E_INPUT, "fewer values than rows");
  c->have = false;
  *out = (struct ka_pq_value){0};
  return c->def == c->node->def ? ka_pq_values_next(ctx, &c->values, out) : KA_STATUS_OK;
}
