/* SPDX-License-Identifier: Apache-2.0
 *
 * safetensors files (github.com/huggingface/safetensors, section "Format") by mmap, single or
 * sharded by model.safetensors.index.json, and writing them. Everything the header says is checked
 * before any tensor is handed out. */
#ifndef KAPPA_ENGINE_FORMATS_SAFETENSORS_H
#define KAPPA_ENGINE_FORMATS_SAFETENSORS_H

#include "base/file.h"
#include "kernels/tensor.h"

struct ka_st_entry {
  const char *name;
  int shard;           /* index into shards */
  size_t offset_bytes; /* from the start of the file */
  struct ka_tensor t;  /* read-only view into the map; contiguous */
};

struct ka_st_shard {
  const char *path, *file_name;
  struct ka_map map;
  size_t data_offset_bytes; /* 8 + header length */
  int64_t n_metadata;       /* __metadata__ pairs, carried over when written again */
  const char **metadata;    /* key, value, key, value, ... */
};

struct ka_safetensors {
  struct ka_arena arena;
  int64_t n_shards, n_entries;
  struct ka_st_shard *shards;
  struct ka_st_entry *entries; /* sorted by name */
  const char *index_path;      /* NULL for a single file */
};

/* `path`: a .safetensors file, an index .json, or a directory holding model.safetensors or
 * model.safetensors.index.json. KA_E_INPUT with file and tensor on every malformed header. */
ka_status ka_st_open(struct ka_ctx *ctx, struct ka_safetensors *st, const char *path);
void ka_st_close(struct ka_safetensors *st);

/* NULL when absent. */
const struct ka_st_entry *ka_st_find(const struct ka_safetensors *st, const char *name);

/* One tensor to write; written in the order given, so a caller keeps the base's order. */
struct ka_st_out {
  const char *name;
  struct ka_tensor t; /* any row_stride; stored contiguous in t.dtype */
};
/* Writes one file, published by rename. metadata: n pairs, may be NULL. Offsets are 8-aligned. */
ka_status ka_st_write(struct ka_ctx *ctx, const char *path, const struct ka_st_out *tensors,
                      int64_t n, const char *const *metadata, int64_t n_metadata);

/* Rewrites the base's shards (or single file) into out_dir, header bytes and all untouched tensors
 * byte for byte; tensors named in `changed` (same shape; any dtype, converted to the base's)
 * replace theirs. The index, if any, is copied last. */
ka_status ka_st_rewrite(struct ka_ctx *ctx, const struct ka_safetensors *base, const char *out_dir,
                        const struct ka_st_out *changed, int64_t n_changed);

#endif
