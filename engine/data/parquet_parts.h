/* SPDX-License-Identifier: Apache-2.0
 * Inside the Parquet reader: the index of a file, a column's cursor. */
#ifndef KAPPA_ENGINE_DATA_PARQUET_PARTS_H
#define KAPPA_ENGINE_DATA_PARQUET_PARTS_H

#include "base/file.h"

/* --- thrift's compact protocol: once bad, everything reads as an end --------- */

struct ka_thrift {
  const unsigned char *p, *end;
  bool bad;
};
struct ka_thrift_field { /* zero-initialise before a struct's first field */
  int id, type;
};
enum {
  KA_THRIFT_TRUE = 1,
  KA_THRIFT_FALSE = 2,
  KA_THRIFT_BYTE = 3,
  KA_THRIFT_I64 = 6,
  KA_THRIFT_DOUBLE = 7,
  KA_THRIFT_BINARY = 8,
  KA_THRIFT_LIST = 9,
  KA_THRIFT_MAP = 11,
  KA_THRIFT_STRUCT = 12,
  KA_THRIFT_UUID = 13
};
uint64_t ka_thrift_varint(struct ka_thrift *t);
int64_t ka_thrift_zigzag(struct ka_thrift *t);
bool ka_thrift_next(struct ka_thrift *t, struct ka_thrift_field *f); /* false behind the last */
void ka_thrift_skip(struct ka_thrift *t, const struct ka_thrift_field *f);
/* The value of a field of that type; another type is bad. */
int64_t ka_thrift_int(struct ka_thrift *t, const struct ka_thrift_field *f);
bool ka_thrift_bool(struct ka_thrift *t, const struct ka_thrift_field *f);
bool ka_thrift_struct(struct ka_thrift *t, const struct ka_thrift_field *f);

/* --- the index --------------------------------------------------------------- */

enum ka_pq_type {
  KA_PQ_BOOLEAN,
  KA_PQ_INT32,
  KA_PQ_INT64,
  KA_PQ_INT96,
  KA_PQ_FLOAT,
  KA_PQ_DOUBLE,
  KA_PQ_BYTES,
  KA_PQ_FIXED
};
enum ka_pq_repetition { KA_PQ_REQUIRED, KA_PQ_OPTIONAL, KA_PQ_REPEATED };
enum ka_pq_kind {
  KA_PQ_STRUCT,
  KA_PQ_LIST,
  KA_PQ_MAP,
  KA_PQ_TEXT,
  KA_PQ_BINARY, /* text where it is UTF-8 */
  KA_PQ_INT,
  KA_PQ_UINT,
  KA_PQ_REAL,
  KA_PQ_BOOL,
  KA_PQ_UNREAD
};

/* The schema's tree, parents first; a node's children begin behind it, the next sibling of child c
 * is nodes[c].end. */
struct ka_pq_node {
  const char *name;
  int end;            /* behind its subtree */
  int n_children;     /* 0: a leaf */
  int leaf, leaf_end; /* columns under it */
  int repetition;     /* enum ka_pq_repetition */
  int kind;           /* enum ka_pq_kind */
  int type;           /* enum ka_pq_type, of leaves */
  int64_t type_length;
  const char *what; /* of what is not read: "timestamp" */
  bool unread;      /* nothing in it is read */
  bool met;         /* a value of it was left out */
  int def, rep;     /* levels up to and with this node */
};

struct ka_pq_chunk { /* one column of one row group */
  size_t at, end;    /* of its pages in the file */
  int64_t n_values;
  int codec;
};

struct ka_pq_index {
  struct ka_arena arena;
  const char *path;
  const struct ka_map *m;
  struct ka_pq_node *nodes;
  int n_nodes;
  int *leaves; /* [n_leaves] node of each column */
  int n_leaves;
  struct ka_pq_chunk *chunks; /* [n_groups, n_leaves] */
  int64_t *group_rows;        /* [n_groups] */
  int64_t n_groups, n_rows;
};

enum { KA_PQ_MAX_DEPTH = 48 };

/* Fills x, whose path and m are set. Free x->arena, also after a failure. */
ka_status ka_pq_index_open(struct ka_ctx *ctx, struct ka_pq_index *x);

/* --- values ------------------------------------------------------------------ */

struct ka_pq_value { /* which of them: the column's type */
  int64_t i;
  double d;
  const char *s; /* until the column's next value */
  size_t n;
};

/* Runs and bit-packed groups: levels, indices, booleans. */
struct ka_pq_rle {
  const unsigned char *p, *end;
  int width;
  int64_t run; /* values left */
  bool packed;
  uint64_t value; /* of a run */
  size_t bit;     /* of the next packed value, from p */
};
void ka_pq_rle_init(struct ka_pq_rle *r, const unsigned char *p, const unsigned char *end,
                    int width);
bool ka_pq_rle_next(struct ka_pq_rle *r, uint32_t *out);

struct ka_pq_delta { /* DELTA_BINARY_PACKED */
  struct ka_thrift in;
  int64_t per_mini, n_minis, total; /* total: values left */
  int64_t mini, left;               /* the current miniblock, its values left */
  const unsigned char *widths, *bits;
  size_t bit;
  uint64_t min, last;
  bool first;
};

struct ka_pq_values { /* the values of one page, in order */
  int encoding, type;
  size_t type_length;
  const unsigned char *p, *end;
  int64_t at, n; /* byte-stream-split, booleans */
  struct ka_pq_rle rle;
  struct ka_pq_delta lengths, prefixes;
  struct ka_str text; /* DELTA_BYTE_ARRAY: the value before */
  const struct ka_pq_value *dictionary;
  int64_t n_dictionary;
};
/* False: broken, or an encoding that does not go with the type. */
bool ka_pq_values_start(struct ka_pq_values *v, int encoding, const struct ka_pq_node *leaf,
                        const unsigned char *p, const unsigned char *end, int64_t n);
ka_status ka_pq_values_next(struct ka_ctx *ctx, struct ka_pq_values *v, struct ka_pq_value *out);

/* --- a column ---------------------------------------------------------------- */

struct ka_pq_column {
  const struct ka_pq_index *x;
  const struct ka_pq_node *node;
  int codec;
  size_t at, end;           /* of the pages left */
  int64_t n_left;           /* entries of the chunk not read yet, this page's too */
  int64_t n_page;           /* entries of this page not read yet */
  struct ka_str page, dict; /* unpacked bytes */
  struct ka_pq_value *entries;
  int64_t entries_cap, n_entries;
  struct ka_pq_rle reps, defs;
  struct ka_pq_values values;
  bool have; /* an entry is at hand: */
  int rep, def;
};
void ka_pq_column_deinit(struct ka_pq_column *c);
void ka_pq_column_start(struct ka_pq_column *c, const struct ka_pq_chunk *chunk);
/* Makes the next entry's levels known: c->have, false at the chunk's end. */
ka_status ka_pq_column_peek(struct ka_ctx *ctx, struct ka_pq_column *c);
/* Takes that entry; its value where def says that it has one. */
ka_status ka_pq_column_take(struct ka_ctx *ctx, struct ka_pq_column *c, struct ka_pq_value *out);

#endif
