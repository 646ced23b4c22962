/* SPDX-License-Identifier: Apache-2.0
 *
 * safetensors files (github.com/huggingface/safetensors, section "Format") by mmap, single or
 * sharded by model.safetensors.index.json, and writing them. Everything the header says is checked
 * before any tensor is handed out. */
#ifndef KAPPA_ENGINE_FORMATS_SAFETENSORS_H
#define KAPPA_ENGINE_FORMATS_SAFETENSORS_H

#include "base/file.h"
#include "kernels/device.h"

struct ka_st_entry {
  const char *name;
  const char *dtype_name; /* as in the file: "BF16", "F8_E4M3", ... */
  int shard;              /* index into shards */
  size_t offset_bytes;    /* from the start of the file */
  size_t n_bytes;
  /* Read-only contiguous view, aligned for its dtype: into the map, or into the arena where the
   * file's offset is not aligned. BOOL is seen as U8. */
  struct ka_tensor t;
  /* NULL, or why kappa cannot read it (a dtype like F8_E4M3, more than 6 dimensions): then t.data
   * is NULL and t means nothing; such tensors are still copied by ka_st_rewrite. */
  const char *unreadable;
};

struct ka_st_shard {
  const char *path, *file_name;
  struct ka_map map;        /* empty where the tensors are not in a file (model_source.h) */
  size_t n_bytes;           /* of the whole file */
  size_t data_offset_bytes; /* 8 + header length */
  int64_t n_metadata;       /* __metadata__ pairs, copied when written again */
  const char **metadata;    /* key, value, key, value, ... */
};

struct ka_safetensors {
  struct ka_arena arena;
  int64_t n_shards, n_entries;
  struct ka_st_shard *shards;
  struct ka_st_entry *entries; /* sorted by name */
  const char *path;            /* what was opened: the single file, or the index */
  const char *index_path;      /* NULL for a single file */
};

/* `path`: a .safetensors file, an index .json, or a directory holding model.safetensors or
 * model.safetensors.index.json. KA_E_INPUT with file and tensor on every malformed header. */
ka_status ka_st_open(struct ka_ctx *ctx, struct ka_safetensors *st, const char *path);
void ka_st_close(struct ka_safetensors *st);

/* The header of a file that is not at hand. */
struct ka_st_header {
  const char *file_name;
  const char *text; /* without the length before it */
  size_t n_bytes;   /* of the header */
  size_t file_bytes;
};
/* Checks and opens headers alone, as strictly as ka_st_open: entries have no data (t.data NULL),
 * shards no map. `what` and the headers' names must outlive st; `what` stands in messages. */
ka_status ka_st_open_headers(struct ka_ctx *ctx, struct ka_safetensors *st, const char *what,
                             const struct ka_st_header *headers, int64_t n);

/* NULL when absent. The entry may be unreadable (see there). */
const struct ka_st_entry *ka_st_find(const struct ka_safetensors *st, const char *name);
/* The view of a tensor that must be there and readable: KA_E_INPUT naming file and tensor (and the
 * nearest name) otherwise. */
ka_status ka_st_get(struct ka_ctx *ctx, const struct ka_safetensors *st, const char *name,
                    struct ka_tensor *out);
/* For messages: the file the entry stands in. */
const char *ka_st_path_of(const struct ka_safetensors *st, const struct ka_st_entry *e);

/* `st` takes over the map of `own` (a single open file), whose tensors may then be entries of st:
 * shard n of st; shard n + 1 is for entries whose data is memory in st's arena. */
ka_status ka_st_adopt(struct ka_ctx *ctx, struct ka_safetensors *st, struct ka_safetensors *own);

/* One tensor to write; written in the order given, so a caller keeps the base's order. */
struct ka_st_out {
  const char *name;
  struct ka_tensor t; /* any row_stride; stored contiguous in t.dtype */
  struct ka_dev *dev; /* where t lies; NULL: in host memory */
  /* Asked for elements [first, first + n) instead of t.data, in t.dtype; NULL: t has them. */
  ka_status (*read)(void *user, int64_t first, int64_t n, void *to);
  void *user;
};
/* Writes one file, published by rename. metadata: n pairs, may be NULL. The header lists the
 * tensors in the order given; the data is laid out wide dtypes first (stable), from an 8-aligned
 * start, so that every tensor is aligned for its dtype although the format allows no holes. */
ka_status ka_st_write(struct ka_ctx *ctx, const char *path, const struct ka_st_out *tensors,
                      int64_t n, const char *const *metadata, int64_t n_metadata);

/* A file whose tensors are written one by one, their sizes known only afterwards: the header's room
 * is kept free before them and filled at the end. */
struct ka_st_stream {
  struct ka_publish file;
  struct ka_str header;
  size_t room;      /* of the header */
  size_t at, begin; /* data bytes written, and up to the newest tensor */
};
/* room_bytes: at least 160 + the name's length * 6 for every tensor, and the metadata's text. */
ka_status ka_st_stream_begin(struct ka_ctx *ctx, struct ka_st_stream *s, const char *path,
                             size_t room_bytes, const char *const *metadata, int64_t n_metadata);
ka_status ka_st_stream_write(struct ka_ctx *ctx, struct ka_st_stream *s, const void *bytes,
                             size_t n);
/* Names the bytes written since the tensor before: they must be what dtype and shape ask for. */
ka_status ka_st_stream_tensor(struct ka_ctx *ctx, struct ka_st_stream *s, const char *name,
                              const char *dtype_name, int n_dim, const int64_t *shape);
ka_status ka_st_stream_commit(struct ka_ctx *ctx, struct ka_st_stream *s);
void ka_st_stream_abort(struct ka_st_stream *s); /* no-op after commit */

/* Rewrites the base's shards (or single file) into out_dir, header bytes and all untouched tensors
 * byte for byte; tensors named in `changed` (same shape; any dtype, converted to the base's)
 * replace theirs. Files are written in one pass with bounded memory and published by rename, the
 * index, if any, last. out_dir must exist; it may be the base's own directory. A changed name that
 * the base lacks, a repeated one, or another shape is KA_E_INPUT. */
ka_status ka_st_rewrite(struct ka_ctx *ctx, const struct ka_safetensors *base, const char *out_dir,
                        const struct ka_st_out *changed, int64_t n_changed);

#endif
