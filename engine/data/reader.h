/* SPDX-License-Identifier: Apache-2.0
 * Inside data: all documents of some dataset entries into a store. */
#ifndef KAPPA_ENGINE_DATA_READER_H
#define KAPPA_ENGINE_DATA_READER_H

#include "engine/data/spec.h"
#include "engine/data/stats.h"
#include "engine/data/store.h"

struct ka_data_read_options {
  const struct ka_data_spec *spec;
  const struct ka_tokenizer *tokenizer;
  int32_t eos;
  int64_t V;
};

/* Tokenises one entry's records, many threads at a time, and adds them to the store in order. `key`
 * ("datasets.0") names the entry in messages. Counts into stats. */
ka_status ka_data_read(struct ka_ctx *ctx, const struct ka_data_read_options *o,
                       const struct ka_job_dataset *entry, const char *key,
                       struct ka_data_store *store, struct ka_data_stats *stats);

#endif
