/* SPDX-License-Identifier: Apache-2.0
 * Inside data: tokenised documents kept between runs in dataset_prepared_path, one file a job's
 * data: KEY.tokens. The key covers the content of every data file, the tokenizer, the template and
 * every option that documents depend on, so that a hit is what reading would give. */
#ifndef KAPPA_ENGINE_DATA_TOKEN_CACHE_H
#define KAPPA_ENGINE_DATA_TOKEN_CACHE_H

#include "engine/data/reader.h"

struct ka_data_cache {
  struct ka_ctx *ctx;
  const char *path; /* of the file; in the arena */
  uint64_t key[2];
  int64_t n_entries;           /* of datasets and test_datasets */
  int64_t V;                   /* ids are below it */
  int64_t *ends;               /* [n_entries] documents up to and with each entry; in the arena */
  struct ka_data_stats *stats; /* n_files, n_rows, n_empty, n_not_text, the notes are kept */
};

/* Hashes everything; reads all data files once. */
ka_status ka_data_cache_init(struct ka_data_cache *c, struct ka_arena *a,
                             const struct ka_data_read_options *o, struct ka_data_stats *stats);
/* *hit: the store is filled and sealed, ends and stats are set. A file that is not what it should
 * be is a miss, with a warning. */
ka_status ka_data_cache_load(struct ka_data_cache *c, struct ka_data_store *store, bool *hit);
/* Writes a sealed store, published by rename. */
ka_status ka_data_cache_save(struct ka_data_cache *c, const struct ka_data_store *store);

#endif
