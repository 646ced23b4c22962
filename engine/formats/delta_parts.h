/* SPDX-License-Identifier: Apache-2.0
 *
 * What reading, writing and applying a delta share; nobody else's business. */
#ifndef KAPPA_ENGINE_FORMATS_DELTA_PARTS_H
#define KAPPA_ENGINE_FORMATS_DELTA_PARTS_H

#include "engine/formats/delta.h"

#include <xxhash.h>

#define KA_DELTA_MANIFEST "delta.json"
#define KA_DELTA_FILE_PREFIX "file:"

/* A tensor's bytes as they lie in its file, also of dtypes that kappa does not read. */
static inline const unsigned char *ka_delta_bytes(const struct ka_safetensors *st,
                                                  const struct ka_st_entry *e) {
  return st->shards[e->shard].map.data + e->offset_bytes;
}

/* They will not be read again soon. */
static inline void ka_delta_forget(const struct ka_safetensors *st, const struct ka_st_entry *e) {
  ka_map_forget(&st->shards[e->shard].map, e->offset_bytes, e->n_bytes);
}

/* Same dtype and shape: the parts of one can be taken from the other. */
bool ka_delta_same_kind(const struct ka_st_entry *a, const struct ka_st_entry *b);

/* The matrix in which a part is cut: all leading dimensions x the last. */
void ka_delta_matrix(const struct ka_st_entry *e, int64_t *n_rows, int64_t *n_cols);

/* out = the elements of rows x cols of the matrix at `from`, in order; and the way back. */
void ka_delta_gather(unsigned char *out, const unsigned char *from, int64_t n_cols, size_t width,
                     const struct ka_delta_ranges *rows, const struct ka_delta_ranges *cols);
void ka_delta_scatter(unsigned char *to, const unsigned char *in, int64_t n_cols, size_t width,
                      const struct ka_delta_ranges *rows, const struct ka_delta_ranges *cols);

static inline void ka_delta_hex(char out[KA_HASH_TEXT], XXH128_hash_t hash) {
  ka_fmt_hash(hash.high64, hash.low64, out);
}
/* hex [n_entries]: of every tensor XXH3-128 of its bytes, the seed being XXH3-64 of the text
 * "DTYPE [a, b]". Several threads. */
ka_status ka_delta_hash_tensors(struct ka_ctx *ctx, const struct ka_safetensors *st,
                                char (*hex)[KA_HASH_TEXT], struct ka_delta_progress *progress);
/* hex = XXH3-128 of a mapped file, which is not kept in memory. */
ka_status ka_delta_hash_map(struct ka_ctx *ctx, const struct ka_map *map, char hex[KA_HASH_TEXT],
                            struct ka_delta_progress *progress);
/* The fingerprint: XXH3-128 of the lines "NAME HASH\n" of {NAME: HASH}, in its order. */
ka_status ka_delta_fingerprint(struct ka_ctx *ctx, const json_t *hashes, char out[KA_HASH_TEXT]);

/* t->entry (of tuned) against `old` of the base, NULL: none. Fills the rest of t: how much of it to
 * store; ranges are in the arena. */
ka_status ka_delta_compare(struct ka_arena *arena, const struct ka_safetensors *base,
                           const struct ka_st_entry *old, const struct ka_safetensors *tuned,
                           struct ka_delta_tensor *t, bool *changed);

/* n more bytes are done; KA_E_INTERRUPTED when the user wants no more. */
ka_status ka_delta_step(struct ka_ctx *ctx, struct ka_delta_progress *progress, size_t n_bytes);

#endif
