/* SPDX-License-Identifier: Apache-2.0
 *
 * A delta: what a tuned model directory has that its base has not, in one safetensors file.
 *
 *   __metadata__             kappa_delta: "1", base, base_fingerprint
 *   NAME                     a tensor that changed, or that the base lacks, whole, as it is
 *   NAME#part   [R, C]       its changed rows x changed columns; all else is the base's
 *   NAME#packed U8           either of them: bytes xor the base's, planes of bytes, zstd
 * (delta_pack.h) file:NAME   U8           a file that the base lacks or has differently; of a file
 * of weights its header, which says where every tensor lies delta.json  U8           the rest: the
 * base's tensors with their hashes, the files, the parts
 *
 * docs/deltas.md says it in full. The invariant: what ka_delta_apply makes is the tuned directory's
 * model, byte for byte, or nothing. Everything in a delta is checked before it is used; the base is
 * checked by the hash of every tensor. */
#ifndef KAPPA_ENGINE_FORMATS_DELTA_H
#define KAPPA_ENGINE_FORMATS_DELTA_H

#include "base/json.h"
#include "engine/formats/safetensors.h"

/* For a bar: `show` is called now and then, from the calling thread. May be NULL everywhere. */
struct ka_delta_progress {
  void (*show)(void *user, size_t done_bytes, size_t total_bytes);
  void *user;
  size_t done_bytes, total_bytes;
};

struct ka_delta_options {
  bool pack;
  int level; /* of zstd; 0: its default */
  struct ka_delta_progress *progress;
};

/* Half-open ranges [at[2i], at[2i+1]), ascending, none empty, none touching. */
struct ka_delta_ranges {
  int64_t n, total; /* ranges; numbers in all of them */
  const int64_t *at;
};

/* A tensor of the tuned model that is not the base's. */
struct ka_delta_tensor {
  const struct ka_st_entry *entry;   /* in layout: name, dtype, shape */
  const struct ka_st_entry *payload; /* in file */
  bool part, packed;
  int64_t n_rows, n_cols;            /* its matrix: all leading dimensions x the last */
  struct ka_delta_ranges rows, cols; /* of a part */
};

enum ka_delta_from { KA_DELTA_BASE, KA_DELTA_STORED, KA_DELTA_TENSORS };

struct ka_delta_file {
  const char *name, *hash;
  size_t n_bytes;
  enum ka_delta_from from;
  const struct ka_st_entry *payload; /* NULL when the base's */
  int shard;                         /* of layout, for KA_DELTA_TENSORS */
};

struct ka_delta {
  struct ka_arena arena;
  const char *path;
  struct ka_safetensors file, layout; /* the delta itself; the tuned model's headers */
  const char *base, *fingerprint;
  json_t *root;              /* delta.json */
  const json_t *base_hashes; /* in root: {NAME: hash} */
  int64_t n_files, n_tensors;
  struct ka_delta_file *files;
  struct ka_delta_tensor *tensors; /* by name */
};

/* Whether these files are a delta (opened, not checked). */
bool ka_delta_is(const struct ka_safetensors *st);

/* Opens and checks all that can be checked without the base. KA_E_INPUT names file and entry. Free
 * with ka_delta_close, which takes a zeroed one too. */
ka_status ka_delta_open(struct ka_ctx *ctx, struct ka_delta *d, const char *path);
void ka_delta_close(struct ka_delta *d);
/* NULL: the tensor is the base's. */
const struct ka_delta_tensor *ka_delta_find(const struct ka_delta *d, const char *name);

/* Refuses (KA_E_INPUT) a base with other names, dtypes, shapes or bytes, naming the first tensor
 * that differs, and a delta that does not fit its base. Reads all of it. */
ka_status ka_delta_check_base(struct ka_ctx *ctx, const struct ka_delta *d,
                              const struct ka_safetensors *base,
                              struct ka_delta_progress *progress);

/* The same for a file that is left to the base. */
ka_status ka_delta_check_file(struct ka_ctx *ctx, const struct ka_delta *d,
                              const struct ka_delta_file *f, const char *base_dir);

/* out [entry->n_bytes] = the tensor, from the checked base and the delta. */
ka_status ka_delta_restore(struct ka_ctx *ctx, const struct ka_delta *d,
                           const struct ka_delta_tensor *t, const struct ka_safetensors *base,
                           void *out);

/* `files`, the opened and checked base, becomes the tuned model: changed tensors are views into the
 * delta's map, which moves to `files`, or memory in its arena. Closing d stays the caller's. */
ka_status ka_delta_overlay(struct ka_ctx *ctx, struct ka_delta *d, struct ka_safetensors *files);

/* Writes the file from two model directories. */
ka_status ka_delta_export(struct ka_ctx *ctx, const char *base_dir, const char *tuned_dir,
                          const char *path, const struct ka_delta_options *options);

/* Restores the tuned directory at out_dir, which must not exist or be empty: it appears whole, by
 * rename, or not at all. */
ka_status ka_delta_apply(struct ka_ctx *ctx, const char *base_dir, const char *path,
                         const char *out_dir, struct ka_delta_progress *progress);

#endif
