/* SPDX-License-Identifier: Apache-2.0
 * From columns to rows: the schema's tree is walked once a row, and each column's levels say where
 * it has something (Melnik et al., Dremel, section 4). */
#include "engine/data/parquet.h"

#include "engine/data/parquet_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ROW = 1 << 30, MAX_UNREAD = 2048 };

struct ka_parquet {
  struct ka_pq_index x;
  struct ka_pq_column *columns; /* [n_leaves] */
  int64_t group, in_group, row; /* the next row; row from 0 in the file */
  size_t row_start;             /* of the row in out */
  bool muted;                   /* walks without writing */
  char unread[MAX_UNREAD];
};

bool ka_parquet_is(const struct ka_map *m) {
  return m->len >= 8 && memcmp(m->data, "PAR1", 4) == 0;
}

const char *ka_parquet_unread(const struct ka_parquet *p) { return p->unread; }

void ka_parquet_close(struct ka_parquet *p) {
  if (!p) return;
  for (int i = 0; p->columns && i < p->x.n_leaves; i++) ka_pq_column_deinit(&p->columns[i]);
  ka_free(p->columns);
  ka_arena_deinit(&p->x.arena);
  ka_free(p);
}

static ka_status open_all(struct ka_ctx *ctx, struct ka_parquet *p) {
  void *columns;
  KA_TRY(ka_pq_index_open(ctx, &p->x));
  KA_TRY(ka_alloc_n(ctx, &columns, p->x.n_leaves, sizeof *p->columns, "columns"));
  p->columns = columns;
  p->group = -1;
  for (int i = 0; i < p->x.n_leaves; i++) {
    p->columns[i].x = &p->x;
    p->columns[i].node = &p->x.nodes[p->x.leaves[i]];
  }
  return KA_STATUS_OK;
}

ka_status ka_parquet_open(struct ka_ctx *ctx, struct ka_parquet **out, const char *path,
                          const struct ka_map *m) {
  *out = NULL;
  struct ka_parquet *p;
  KA_TRY(KA_NEW_HEAP(ctx, &p, 1, "Parquet file"));
  p->x.path = path;
  p->x.m = m;
  ka_status st = open_all(ctx, p);
  if (ka_ok(st))
    *out = p;
  else
    ka_parquet_close(p);
  return st;
}

/* --- writing ----------------------------------------------------------------- */

static ka_status put(struct ka_ctx *ctx, struct ka_parquet *p, struct ka_str *out, const char *s) {
  return p->muted ? KA_STATUS_OK : ka_str_puts(ctx, out, s);
}

/* Bytes as they are: what is not UTF-8 is found where the row is parsed. */
static ka_status put_text(struct ka_ctx *ctx, struct ka_parquet *p, struct ka_str *out,
                          const char *s, size_t n) {
  if (p->muted) return KA_STATUS_OK;
  size_t from = 0;
  KA_TRY(ka_str_append(ctx, out, "\"", 1));
  for (size_t i = 0; i < n; i++) {
    unsigned char c = (unsigned char)s[i];
    if (c >= 0x20 && c != '"' && c != '\\') continue;
    KA_TRY(ka_str_append(ctx, out, s + from, i - from));
    from = i + 1;
    if (c < 0x20)
      KA_TRY(ka_str_printf(ctx, out, "\\u%04x", c));
    else
      KA_TRY(ka_str_printf(ctx, out, "\\%c", c));
  }
  if (n > from) KA_TRY(ka_str_append(ctx, out, s + from, n - from));
  if (out->len - p->row_start > MAX_ROW)
    return ka_fail(ctx, KA_E_UNSUPPORTED, "a row of more than 2^30 bytes");
  return ka_str_append(ctx, out, "\"", 1);
}

/* Which node is one element: the rules of the format for old and new files. */
static int element_of(const struct ka_parquet *p, int list) {
  const struct ka_pq_node *l = &p->x.nodes[list], *r = l + 1;
  char tuple[260];
  snprintf(tuple, sizeof tuple, "%.250s_tuple", l->name);
  bool wraps = r->n_children == 1 && r->kind == KA_PQ_STRUCT && strcmp(r->name, "array") != 0 &&
               strcmp(r->name, tuple) != 0;
  return wraps && r[1].repetition != KA_PQ_REPEATED ? list + 2 : list + 1;
}

/* Adds "a.b (what)" to the names of what was left out, once a column. */
static void note_unread(struct ka_parquet *p, int i) {
  struct ka_pq_node *nodes = p->x.nodes;
  char path[256] = "";
  size_t used = 0, len = strlen(p->unread);
  int list = -1;
  if (nodes[i].met) return;
  nodes[i].met = true;
  for (int at = 0; at < i;) {
    int child = at + 1;
    while (nodes[child].end <= i) child = nodes[child].end;
    bool wrapping = list >= 0 && (child == list + 1 || child == element_of(p, list));
    if (!wrapping) {
      snprintf(path + used, sizeof path - used, "%s%s", used ? "." : "", nodes[child].name);
      used = strlen(path);
    }
    if (nodes[child].kind == KA_PQ_LIST)
      list = child;
    else if (!wrapping)
      list = -1;
    at = child;
  }
  snprintf(p->unread + len, MAX_UNREAD - len, "%s%s (%s)", len ? ", " : "", path, nodes[i].what);
}

/* A leaf's value is at hand. */
static ka_status put_leaf(struct ka_ctx *ctx, struct ka_parquet *p, int i, struct ka_str *out) {
  const struct ka_pq_node *n = &p->x.nodes[i];
  struct ka_pq_value v;
  char number[40];
  KA_TRY(ka_pq_column_take(ctx, &p->columns[n->leaf], &v));
  if (p->columns[n->leaf].def != n->def)
    return ka_fail(ctx, KA_E_INPUT, "columns that do not go together");
  switch (n->kind) {
  case KA_PQ_TEXT:
    return put_text(ctx, p, out, v.s, v.n);
  case KA_PQ_BINARY:
    if (ka_utf8_check(v.s, v.n) == v.n) return put_text(ctx, p, out, v.s, v.n);
    note_unread(p, i);
    return put(ctx, p, out, "null");
  case KA_PQ_INT:
    snprintf(number, sizeof number, "%lld", (long long)v.i);
    return put(ctx, p, out, number);
  case KA_PQ_UINT:
    snprintf(number, sizeof number, "%llu",
             n->type == KA_PQ_INT32 ? (unsigned long long)(uint32_t)v.i : (unsigned long long)v.i);
    return put(ctx, p, out, number);
  case KA_PQ_REAL:
    snprintf(number, sizeof number, "%.17g", v.d);
    if (!strpbrk(number, ".eE")) strcat(number, ".0");
    return put(ctx, p, out, isfinite(v.d) ? number : "null");
  case KA_PQ_BOOL:
    return put(ctx, p, out, v.i ? "true" : "false");
  default:
    note_unread(p, i);
    return put(ctx, p, out, "null");
  }
}

/* --- the walk ---------------------------------------------------------------- */

static ka_status put_node(struct ka_ctx *ctx, struct ka_parquet *p, int i, struct ka_str *out);
static ka_status put_content(struct ka_ctx *ctx, struct ka_parquet *p, int i, struct ka_str *out);

/* The entry that says that there is nothing: one in every column below. */
static ka_status pass_null(struct ka_ctx *ctx, struct ka_parquet *p, int i) {
  const struct ka_pq_node *n = &p->x.nodes[i];
  struct ka_pq_value v;
  for (int c = n->leaf; c < n->leaf_end; c++) KA_TRY(ka_pq_column_take(ctx, &p->columns[c], &v));
  return KA_STATUS_OK;
}

static ka_status is_null(struct ka_ctx *ctx, struct ka_parquet *p, int i, bool *out) {
  const struct ka_pq_node *n = &p->x.nodes[i];
  struct ka_pq_column *c = &p->columns[n->leaf];
  KA_TRY(ka_pq_column_peek(ctx, c));
  if (!c->have) return ka_fail(ctx, KA_E_INPUT, "fewer values than rows");
  *out = n->repetition == KA_PQ_OPTIONAL && c->def < n->def;
  return KA_STATUS_OK;
}

/* "name": value, unless it is null or not read. */
static ka_status put_member(struct ka_ctx *ctx, struct ka_parquet *p, int i, bool *first,
                            struct ka_str *out) {
  const struct ka_pq_node *n = &p->x.nodes[i];
  bool null = false, muted = p->muted;
  KA_TRY(is_null(ctx, p, i, &null));
  if (null) return pass_null(ctx, p, i);
  size_t mark = out->len;
  p->muted |= n->unread;
  KA_TRY(put(ctx, p, out, *first ? "" : ", "));
  KA_TRY(put_text(ctx, p, out, n->name, strlen(n->name)));
  KA_TRY(put(ctx, p, out, ": "));
  size_t value = out->len;
  KA_TRY(put_node(ctx, p, i, out));
  bool empty = p->muted || (out->len - value == 4 && memcmp(out->data + value, "null", 4) == 0);
  if (empty && out->len > mark) out->data[out->len = mark] = 0; /* NaN, or bytes that are no text */
  *first = *first && empty;
  p->muted = muted;
  return KA_STATUS_OK;
}

static ka_status put_struct(struct ka_ctx *ctx, struct ka_parquet *p, int i, struct ka_str *out) {
  const struct ka_pq_node *n = &p->x.nodes[i];
  bool first = true;
  KA_TRY(put(ctx, p, out, "{"));
  for (int c = i + 1; c < n->end; c = p->x.nodes[c].end) KA_TRY(put_member(ctx, p, c, &first, out));
  return put(ctx, p, out, "}");
}

/* "key": value of a map's pair. */
static ka_status put_pair(struct ka_ctx *ctx, struct ka_parquet *p, int i, struct ka_str *out) {
  int key = i + 1, value = p->x.nodes[key].end;
  bool null = false;
  KA_TRY(is_null(ctx, p, key, &null));
  if (null) return ka_fail(ctx, KA_E_INPUT, "a map with a key that is null");
  KA_TRY(put_leaf(ctx, p, key, out));
  KA_TRY(put(ctx, p, out, ": "));
  return put_node(ctx, p, value, out);
}

/* The values of a repeated node. element: the node of one, `repeated` itself or what it wraps. */
static ka_status put_repeated(struct ka_ctx *ctx, struct ka_parquet *p, int repeated, int element,
                              bool pairs, struct ka_str *out) {
  const struct ka_pq_node *n = &p->x.nodes[repeated];
  struct ka_pq_column *c = &p->columns[n->leaf];
  bool null = false;
  KA_TRY(put(ctx, p, out, pairs ? "{" : "["));
  KA_TRY(is_null(ctx, p, repeated, &null));
  if (c->def < n->def) {
    KA_TRY(pass_null(ctx, p, repeated));
    return put(ctx, p, out, pairs ? "}" : "]");
  }
  for (bool first = true;; first = false) {
    if (!first) KA_TRY(put(ctx, p, out, ", "));
    if (pairs)
      KA_TRY(put_pair(ctx, p, repeated, out));
    else if (element != repeated)
      KA_TRY(put_node(ctx, p, element, out));
    else
      KA_TRY(put_content(ctx, p, repeated, out));
    KA_TRY(ka_pq_column_peek(ctx, c));
    if (!c->have || c->rep < n->rep) break;
    if (c->rep > n->rep || out->len - p->row_start > MAX_ROW)
      return ka_fail(ctx, KA_E_INPUT, "columns that do not go together, or a row of 2^30 bytes");
  }
  return put(ctx, p, out, pairs ? "}" : "]");
}

static ka_status put_node(struct ka_ctx *ctx, struct ka_parquet *p, int i, struct ka_str *out) {
  const struct ka_pq_node *n = &p->x.nodes[i];
  bool null = false;
  KA_TRY(is_null(ctx, p, i, &null));
  if (null) {
    KA_TRY(pass_null(ctx, p, i));
    return put(ctx, p, out, "null");
  }
  if (n->repetition == KA_PQ_REPEATED && i != 0) return put_repeated(ctx, p, i, i, false, out);
  return put_content(ctx, p, i, out);
}

/* A node that is there, as one value. */
static ka_status put_content(struct ka_ctx *ctx, struct ka_parquet *p, int i, struct ka_str *out) {
  const struct ka_pq_node *n = &p->x.nodes[i];
  if (n->kind == KA_PQ_LIST) return put_repeated(ctx, p, i + 1, element_of(p, i), false, out);
  if (n->kind == KA_PQ_MAP) return put_repeated(ctx, p, i + 1, i + 1, true, out);
  if (n->n_children == 0) return put_leaf(ctx, p, i, out);
  if (n->kind == KA_PQ_UNREAD) note_unread(p, i);
  return put_struct(ctx, p, i, out);
}

/* --- rows -------------------------------------------------------------------- */

/* On to the row group of the next row. *end: there is none. */
static ka_status find_group(struct ka_ctx *ctx, struct ka_parquet *p, bool *end) {
  const struct ka_pq_index *x = &p->x;
  *end = false;
  while (p->group < 0 || p->in_group == x->group_rows[p->group]) {
    for (int c = 0; p->group >= 0 && c < x->n_leaves; c++)
      if (p->columns[c].have || p->columns[c].n_left > 0)
        return ka_fail(ctx, KA_E_INPUT, "more values than rows");
    *end = ++p->group == x->n_groups;
    if (*end) {
      p->group--;
      return KA_STATUS_OK;
    }
    p->in_group = 0;
    for (int c = 0; c < x->n_leaves; c++)
      ka_pq_column_start(&p->columns[c], &x->chunks[p->group * x->n_leaves + c]);
  }
  return KA_STATUS_OK;
}

static ka_status next_row(struct ka_ctx *ctx, struct ka_parquet *p, struct ka_str *out, bool *end) {
  KA_TRY(find_group(ctx, p, end));
  if (*end) return KA_STATUS_OK;
  for (int c = 0; c < p->x.n_leaves; c++) {
    KA_TRY(ka_pq_column_peek(ctx, &p->columns[c]));
    if (p->columns[c].have && p->columns[c].rep != 0)
      return ka_fail(ctx, KA_E_INPUT, "columns that do not go together");
  }
  p->row_start = out->len;
  p->muted = false;
  KA_TRY(put_struct(ctx, p, 0, out));
  p->in_group++;
  p->row++;
  return ka_str_append(ctx, out, "\n", 1);
}

ka_status ka_parquet_next(struct ka_ctx *ctx, struct ka_parquet *p, struct ka_str *out, bool *end) {
  ka_status st = next_row(ctx, p, out, end);
  if (ka_ok(st)) return st;
  char why[512];
  snprintf(why, sizeof why, "%.500s", ctx->error.message);
  ka_error_clear(ctx);
  return ka_fail(ctx, st.code, "%s: row %lld: Parquet: %s", p->x.path, (long long)p->row + 1, why);
}
