/* SPDX-License-Identifier: Apache-2.0
 * The footer of a Parquet file: thrift's compact protocol, the schema, the places of the pages.
 * Nothing of it is trusted: counts are bounded by bytes, offsets by the file. */
#include "engine/data/parquet_parts.h"

#include <string.h>

/* --- thrift ------------------------------------------------------------------ */

static void *bad(struct ka_thrift *t) {
  t->bad = true;
  t->p = t->end;
  return NULL;
}

static int byte(struct ka_thrift *t) {
  if (t->p < t->end) return *t->p++;
  bad(t);
  return 0;
}

uint64_t ka_thrift_varint(struct ka_thrift *t) {
  uint64_t v = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    int b = byte(t);
    v |= (uint64_t)(b & 127) << shift;
    if (!(b & 128)) return v;
  }
  bad(t);
  return 0;
}

int64_t ka_thrift_zigzag(struct ka_thrift *t) {
  uint64_t v = ka_thrift_varint(t);
  return (int64_t)(v >> 1 ^ (0 - (v & 1)));
}

bool ka_thrift_next(struct ka_thrift *t, struct ka_thrift_field *f) {
  int b = byte(t);
  if (t->bad || b == 0) return false;
  f->type = b & 15;
  f->id = b >> 4 ? f->id + (b >> 4) : (int)ka_thrift_zigzag(t);
  if (f->id < 0 || f->id > INT16_MAX) bad(t);
  return !t->bad;
}

static int64_t list_head(struct ka_thrift *t, int *type) {
  int b = byte(t);
  uint64_t n = b >> 4 == 15 ? ka_thrift_varint(t) : (uint64_t)(b >> 4);
  *type = b & 15;
  if (n <= (uint64_t)(t->end - t->p)) return (int64_t)n;
  bad(t);
  return 0;
}

static void skip_bytes(struct ka_thrift *t, uint64_t n) {
  if (n > (uint64_t)(t->end - t->p))
    bad(t);
  else
    t->p += n;
}

static void skip(struct ka_thrift *t, int type, int depth);

/* In lists and maps a truth value has a byte of its own; so everything has one at least. */
static void skip_element(struct ka_thrift *t, int type, int depth) {
  if (type == KA_THRIFT_TRUE || type == KA_THRIFT_FALSE)
    skip_bytes(t, 1);
  else
    skip(t, type, depth);
}

static void skip_list(struct ka_thrift *t, int depth) {
  int type;
  for (int64_t n = list_head(t, &type); n > 0 && !t->bad; n--) skip_element(t, type, depth);
}

static void skip_map(struct ka_thrift *t, int depth) {
  uint64_t n = ka_thrift_varint(t);
  if (n == 0) return;
  int types = byte(t);
  for (; n > 0 && !t->bad; n--) {
    skip_element(t, types >> 4, depth);
    skip_element(t, types & 15, depth);
  }
}

static void skip(struct ka_thrift *t, int type, int depth) {
  if (depth == 0) {
    bad(t);
  } else if (type == KA_THRIFT_BYTE) {
    skip_bytes(t, 1);
  } else if (type > KA_THRIFT_BYTE && type <= KA_THRIFT_I64) {
    ka_thrift_varint(t);
  } else if (type == KA_THRIFT_DOUBLE) {
    skip_bytes(t, 8);
  } else if (type == KA_THRIFT_UUID) {
    skip_bytes(t, 16);
  } else if (type == KA_THRIFT_BINARY) {
    skip_bytes(t, ka_thrift_varint(t));
  } else if (type == KA_THRIFT_MAP) {
    skip_map(t, depth - 1);
  } else if (type > KA_THRIFT_BINARY && type < KA_THRIFT_MAP) {
    skip_list(t, depth - 1);
  } else if (type == KA_THRIFT_STRUCT) {
    for (struct ka_thrift_field f = {0}; ka_thrift_next(t, &f);) skip(t, f.type, depth - 1);
  } else if (type != KA_THRIFT_TRUE && type != KA_THRIFT_FALSE) {
    bad(t);
  }
}

void ka_thrift_skip(struct ka_thrift *t, const struct ka_thrift_field *f) { skip(t, f->type, 32); }

int64_t ka_thrift_int(struct ka_thrift *t, const struct ka_thrift_field *f) {
  if (f->type == KA_THRIFT_BYTE) return (signed char)byte(t);
  if (f->type > KA_THRIFT_BYTE && f->type <= KA_THRIFT_I64) return ka_thrift_zigzag(t);
  bad(t);
  return 0;
}

bool ka_thrift_bool(struct ka_thrift *t, const struct ka_thrift_field *f) {
  if (f->type != KA_THRIFT_TRUE && f->type != KA_THRIFT_FALSE) bad(t);
  return f->type == KA_THRIFT_TRUE;
}

static const char *binary(struct ka_thrift *t, const struct ka_thrift_field *f, size_t *n) {
  uint64_t len = f->type == KA_THRIFT_BINARY ? ka_thrift_varint(t) : UINT64_MAX;
  const char *s = (const char *)t->p;
  skip_bytes(t, len);
  *n = t->bad ? 0 : (size_t)len;
  return s;
}

bool ka_thrift_struct(struct ka_thrift *t, const struct ka_thrift_field *f) {
  if (f->type != KA_THRIFT_STRUCT) bad(t);
  return !t->bad;
}

/* Elements of a list of structs; no more than there are bytes. */
static int64_t list(struct ka_thrift *t, const struct ka_thrift_field *f) {
  int type = KA_THRIFT_STRUCT;
  int64_t n = f->type == KA_THRIFT_LIST ? list_head(t, &type) : 0;
  if (f->type != KA_THRIFT_LIST || (n > 0 && type != KA_THRIFT_STRUCT)) bad(t);
  return t->bad ? 0 : n;
}

/* --- what a leaf is ---------------------------------------------------------- */

/* By the converted type of old files and the logical type of new ones; -1 has none of that kind. */
static const struct {
  int converted, logical, kind;
  const char *what;
} annotations[] = {{0, 1, KA_PQ_TEXT, "string"},
                   {1, 2, KA_PQ_MAP, "map"},
                   {2, -1, KA_PQ_MAP, "map"},
                   {3, 3, KA_PQ_LIST, "list"},
                   {4, 4, KA_PQ_TEXT, "enum"},
                   {5, 5, KA_PQ_UNREAD, "decimal"},
                   {6, 6, KA_PQ_UNREAD, "date"},
                   {7, 7, KA_PQ_UNREAD, "time"},
                   {8, -1, KA_PQ_UNREAD, "time"},
                   {9, 8, KA_PQ_UNREAD, "timestamp"},
                   {10, -1, KA_PQ_UNREAD, "timestamp"},
                   {11, -1, KA_PQ_UINT, ""},
                   {12, -1, KA_PQ_UINT, ""},
                   {13, -1, KA_PQ_UINT, ""},
                   {14, -1, KA_PQ_UINT, ""},
                   {15, 10, KA_PQ_INT, ""},
                   {16, -1, KA_PQ_INT, ""},
                   {17, -1, KA_PQ_INT, ""},
                   {18, -1, KA_PQ_INT, ""},
                   {19, 12, KA_PQ_TEXT, "json"},
                   {20, 13, KA_PQ_UNREAD, "bson"},
                   {21, -1, KA_PQ_UNREAD, "interval"},
                   {-1, 14, KA_PQ_UNREAD, "uuid"},
                   {-1, 15, KA_PQ_UNREAD, "float16"},
                   {-1, 16, KA_PQ_UNREAD, "variant"},
                   {-1, 17, KA_PQ_UNREAD, "geometry"},
                   {-1, 18, KA_PQ_UNREAD, "geography"}};

struct element { /* of the schema, as it is read */
  int64_t type, type_length, repetition, n_children, converted, logical;
  bool is_unsigned, is_leaf;
};

static void read_logical(struct ka_thrift *t, struct element *e) {
  for (struct ka_thrift_field f = {0}; ka_thrift_next(t, &f);) {
    e->logical = f.id;
    if (f.id != 10 || !ka_thrift_struct(t, &f)) {
      ka_thrift_skip(t, &f);
      continue;
    }
    for (struct ka_thrift_field g = {0}; ka_thrift_next(t, &g);) {
      if (g.id == 2)
        e->is_unsigned = !ka_thrift_bool(t, &g);
      else
        ka_thrift_skip(t, &g);
    }
  }
}

static void set_leaf_kind(struct ka_pq_node *n) {
  static const int plain[] = {KA_PQ_BOOL, KA_PQ_INT,  KA_PQ_INT,    KA_PQ_UNREAD,
                              KA_PQ_REAL, KA_PQ_REAL, KA_PQ_BINARY, KA_PQ_BINARY};
  bool bytes = n->type == KA_PQ_BYTES || n->type == KA_PQ_FIXED;
  bool whole = n->type == KA_PQ_INT32 || n->type == KA_PQ_INT64;
  if (n->kind == KA_PQ_UNREAD || (n->kind == KA_PQ_TEXT && bytes) ||
      ((n->kind == KA_PQ_INT || n->kind == KA_PQ_UINT) && whole))
    return;
  n->kind = plain[n->type];
  n->what = n->type == KA_PQ_INT96 ? "timestamp" : "binary";
}

static void set_kind(struct ka_pq_node *n, const struct element *e) {
  n->kind = KA_PQ_STRUCT;
  n->what = "";
  for (size_t i = 0; i < sizeof annotations / sizeof *annotations; i++) {
    if (e->logical >= 0 ? annotations[i].logical != e->logical
                        : e->converted < 0 || annotations[i].converted != e->converted)
      continue;
    n->kind = annotations[i].kind;
    n->what = annotations[i].what;
  }
  if (e->logical == 10 && e->is_unsigned) n->kind = KA_PQ_UINT;
  if (e->is_leaf)
    set_leaf_kind(n);
  else if (n->kind == KA_PQ_MAP && n->repetition == KA_PQ_REPEATED)
    n->kind = KA_PQ_STRUCT; /* the pairs of a map */
  else if (n->kind != KA_PQ_LIST && n->kind != KA_PQ_MAP && n->kind != KA_PQ_UNREAD)
    n->kind = KA_PQ_STRUCT;
}

/* --- the schema -------------------------------------------------------------- */

static ka_status read_element(struct ka_pq_index *x, struct ka_thrift *t, struct ka_pq_node *n) {
  struct ka_ctx *ctx = x->arena.ctx;
  struct element e = {.converted = -1, .logical = -1};
  const char *name = "";
  size_t len = 0;
  for (struct ka_thrift_field f = {0}; ka_thrift_next(t, &f);) {
    switch (f.id) {
    case 1:
      e.type = ka_thrift_int(t, &f);
      e.is_leaf = true;
      break;
    case 2:
      e.type_length = ka_thrift_int(t, &f);
      break;
    case 3:
      e.repetition = ka_thrift_int(t, &f);
      break;
    case 4:
      name = binary(t, &f, &len);
      break;
    case 5:
      e.n_children = ka_thrift_int(t, &f);
      break;
    case 6:
      e.converted = ka_thrift_int(t, &f);
      break;
    case 10:
      if (ka_thrift_struct(t, &f)) read_logical(t, &e);
      break;
    default:
      ka_thrift_skip(t, &f);
    }
  }
  if (t->bad || e.type < 0 || e.type > KA_PQ_FIXED || e.repetition < 0 || e.repetition > 2 ||
      e.n_children < 0 || e.n_children > x->n_nodes || e.is_leaf != (e.n_children == 0) ||
      e.type_length < 0 || (e.type == KA_PQ_FIXED && e.is_leaf && e.type_length < 1))
    return ka_fail(ctx, KA_E_INPUT, "%s: broken Parquet file: its schema", x->path);
  n->n_children = (int)e.n_children;
  n->type = (int)e.type;
  n->type_length = e.type_length;
  n->repetition = (int)e.repetition;
  set_kind(n, &e);
  return ka_arena_str(&x->arena, &n->name, name, len);
}

/* A list has one repeated child, a map pairs with string keys; else they are not what they say. */
static void settle_list(struct ka_pq_node *n) {
  const struct ka_pq_node *child = n + 1;
  bool good = n->n_children == 1 && child->repetition == KA_PQ_REPEATED;
  if (n->kind == KA_PQ_MAP)
    good = good && child->n_children == 2 && child[1].kind == KA_PQ_TEXT &&
           child[1].repetition != KA_PQ_REPEATED;
  if (good) return;
  bool map = n->kind == KA_PQ_MAP;
  n->kind = map ? KA_PQ_UNREAD : KA_PQ_STRUCT;
  n->what = map ? "map without string keys" : "";
}

static ka_status settle(struct ka_pq_index *x, int *at, int depth, int def, int rep) {
  struct ka_ctx *ctx = x->arena.ctx;
  int i = (*at)++;
  if (i >= x->n_nodes || depth == KA_PQ_MAX_DEPTH)
    return ka_fail(ctx, KA_E_INPUT, "%s: broken Parquet file: its schema%s", x->path,
                   depth == KA_PQ_MAX_DEPTH ? " is nested too deep" : "");
  struct ka_pq_node *n = &x->nodes[i];
  if (depth > 0) {
    def += n->repetition != KA_PQ_REQUIRED;
    rep += n->repetition == KA_PQ_REPEATED;
  }
  n->def = def;
  n->rep = rep;
  n->leaf = x->n_leaves;
  bool all_unread = n->n_children > 0;
  for (int c = 0; c < n->n_children; c++) {
    int child = *at;
    KA_TRY(settle(x, at, depth + 1, def, rep));
    all_unread = all_unread && x->nodes[child].unread;
  }
  if (n->n_children == 0) x->leaves[x->n_leaves++] = i;
  n->leaf_end = x->n_leaves;
  n->end = *at;
  if (n->kind == KA_PQ_LIST || n->kind == KA_PQ_MAP) settle_list(n);
  n->unread = n->kind == KA_PQ_UNREAD || all_unread;
  return KA_STATUS_OK;
}

static ka_status read_schema(struct ka_pq_index *x, struct ka_thrift *t,
                             const struct ka_thrift_field *f) {
  struct ka_ctx *ctx = x->arena.ctx;
  int64_t n = list(t, f);
  int at = 0;
  if (n > 1 << 20) return ka_fail(ctx, KA_E_INPUT, "%s: more than 2^20 columns", x->path);
  KA_TRY(KA_NEW(&x->arena, &x->nodes, n, "columns"));
  x->n_nodes = (int)n;
  KA_TRY(KA_NEW(&x->arena, &x->leaves, n, "columns"));
  for (int64_t i = 0; i < n; i++) KA_TRY(read_element(x, t, &x->nodes[i]));
  if (n < 2) return ka_fail(ctx, KA_E_INPUT, "%s: a Parquet file without columns", x->path);
  x->n_leaves = 0;
  KA_TRY(settle(x, &at, 0, 0, 0));
  if (at != x->n_nodes)
    return ka_fail(ctx, KA_E_INPUT, "%s: broken Parquet file: its schema", x->path);
  return KA_STATUS_OK;
}

/* --- row groups -------------------------------------------------------------- */

struct chunk_text { /* of a column, as it is read */
  int64_t codec, n_values, size, data, dictionary;
  bool elsewhere, encrypted, there;
};

static void read_chunk_meta(struct ka_thrift *t, struct chunk_text *c) {
  c->there = true;
  for (struct ka_thrift_field f = {0}; ka_thrift_next(t, &f);) {
    if (f.id == 4)
      c->codec = ka_thrift_int(t, &f);
    else if (f.id == 5)
      c->n_values = ka_thrift_int(t, &f);
    else if (f.id == 7)
      c->size = ka_thrift_int(t, &f);
    else if (f.id == 9)
      c->data = ka_thrift_int(t, &f);
    else if (f.id == 11)
      c->dictionary = ka_thrift_int(t, &f);
    else
      ka_thrift_skip(t, &f);
  }
}

static ka_status read_chunk(struct ka_pq_index *x, struct ka_thrift *t, struct ka_pq_chunk *out) {
  struct ka_ctx *ctx = x->arena.ctx;
  struct chunk_text c = {0};
  for (struct ka_thrift_field f = {0}; ka_thrift_next(t, &f);) {
    c.elsewhere |= f.id == 1;
    c.encrypted |= f.id == 8 || f.id == 9;
    if (f.id == 3 && ka_thrift_struct(t, &f))
      read_chunk_meta(t, &c);
    else
      ka_thrift_skip(t, &f);
  }
  if (c.elsewhere || c.encrypted)
    return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: Parquet with %s", x->path,
                   c.encrypted ? "encrypted columns is not read" : "columns in other files");
  int64_t start = c.dictionary > 0 && c.dictionary < c.data ? c.dictionary : c.data;
  int64_t len = (int64_t)x->m->len;
  if (t->bad || !c.there || c.n_values < 0 || start < 0 || start > len || c.size < 0 ||
      c.size > len - start)
    return ka_fail(ctx, KA_E_INPUT, "%s: broken Parquet file: the place of a column", x->path);
  *out = (struct ka_pq_chunk){(size_t)start, (size_t)(start + c.size), c.n_values, (int)c.codec};
  return KA_STATUS_OK;
}

static ka_status read_group(struct ka_pq_index *x, struct ka_thrift *t, int64_t g) {
  struct ka_ctx *ctx = x->arena.ctx;
  int64_t n = 0;
  for (struct ka_thrift_field f = {0}; ka_thrift_next(t, &f);) {
    if (f.id == 3) {
      x->group_rows[g] = ka_thrift_int(t, &f);
    } else if (f.id == 1) {
      n = list(t, &f);
      if (n != x->n_leaves) break;
      for (int64_t i = 0; i < n; i++) KA_TRY(read_chunk(x, t, &x->chunks[g * n + i]));
    } else {
      ka_thrift_skip(t, &f);
    }
  }
  if (t->bad || n != x->n_leaves || x->group_rows[g] < 0 ||
      x->group_rows[g] > INT64_MAX / 2 - x->n_rows)
    return ka_fail(ctx, KA_E_INPUT, "%s: broken Parquet file: row group %lld", x->path,
                   (long long)g);
  x->n_rows += x->group_rows[g];
  return KA_STATUS_OK;
}

static ka_status read_groups(struct ka_pq_index *x, struct ka_thrift *t,
                             const struct ka_thrift_field *f) {
  struct ka_ctx *ctx = x->arena.ctx;
  x->n_groups = list(t, f);
  if (x->n_leaves == 0 || x->n_groups > (t->end - t->p) / x->n_leaves)
    return ka_fail(ctx, KA_E_INPUT, "%s: broken Parquet file: its row groups", x->path);
  KA_TRY(KA_NEW(&x->arena, &x->chunks, x->n_groups * x->n_leaves, "columns"));
  KA_TRY(KA_NEW(&x->arena, &x->group_rows, x->n_groups, "row groups"));
  for (int64_t g = 0; g < x->n_groups; g++) KA_TRY(read_group(x, t, g));
  return KA_STATUS_OK;
}

static ka_status find_footer(struct ka_pq_index *x, struct ka_thrift *t) {
  struct ka_ctx *ctx = x->arena.ctx;
  const unsigned char *d = x->m->data;
  size_t len = x->m->len;
  if (len >= 12 && memcmp(d + len - 4, "PARE", 4) == 0)
    return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: encrypted Parquet is not read", x->path);
  if (len < 12 || memcmp(d, "PAR1", 4) != 0 || memcmp(d + len - 4, "PAR1", 4) != 0)
    return ka_fail(ctx, KA_E_INPUT, "%s: not a whole Parquet file: no PAR1 at its %s", x->path,
                   len < 12 || memcmp(d, "PAR1", 4) != 0 ? "begin" : "end; was it cut off?");
  const unsigned char *q = d + len - 8;
  size_t n = (size_t)q[0] | (size_t)q[1] << 8 | (size_t)q[2] << 16 | (size_t)q[3] << 24;
  if (n > len - 12)
    return ka_fail(ctx, KA_E_INPUT, "%s: broken Parquet file: an index of %zu bytes", x->path, n);
  *t = (struct ka_thrift){q - n, q, false};
  return KA_STATUS_OK;
}

ka_status ka_pq_index_open(struct ka_ctx *ctx, struct ka_pq_index *x) {
  struct ka_thrift t;
  ka_arena_init(&x->arena, ctx, "Parquet index");
  KA_TRY(find_footer(x, &t));
  for (struct ka_thrift_field f = {0}; ka_thrift_next(&t, &f);) {
    if (f.id == 2 && !x->nodes)
      KA_TRY(read_schema(x, &t, &f));
    else if (f.id == 4 && !x->chunks)
      KA_TRY(read_groups(x, &t, &f));
    else
      ka_thrift_skip(&t, &f);
  }
  if (t.bad || !x->nodes || !x->chunks)
    return ka_fail(ctx, KA_E_INPUT, "%s: broken Parquet file: its index", x->path);
  return KA_STATUS_OK;
}
