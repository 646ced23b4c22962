/* SPDX-License-Identifier: Apache-2.0
 * Inside data: what an open dataset consists of. */
#ifndef KAPPA_ENGINE_DATA_DATASET_PARTS_H
#define KAPPA_ENGINE_DATA_DATASET_PARTS_H

#include "engine/data/dataset.h"
#include "engine/data/pack.h"
#include "engine/data/store.h"

struct ka_data_piece { /* tokens [start, start+n) of a document; what is packed */
  int64_t doc, start, n, n_targets;
};

struct ka_data_pieces {
  struct ka_data_piece *items;
  int64_t n, cap;
};

struct ka_data_sized_row {
  int64_t row, n;
};

struct ka_data_packed_split {
  const struct ka_data *data;
  struct ka_ctx *ctx;                  /* of who asked for the micro-batch at hand */
  struct ka_clip *clips;               /* of that micro-batch */
  const struct ka_speech_clip **files; /* the same, as stored */
  int64_t n_clips, clips_cap, files_cap;
  struct ka_data_pieces pieces; /* in packing order */
  struct ka_data_packed packed;
  struct ka_data_sized_row *sized; /* with group_by_length, and */
  int64_t *groups;                 /* the order of micro-batches */
  int64_t *order;                  /* of the rows in epoch `epoch`; NULL: as packed */
  int64_t epoch;                   /* -1: none yet */
  int64_t T;                       /* longest row */
  int32_t *buffer;                 /* [4, micro_batch_size, T]: ids, labels, position, doc_start */
};

struct ka_data {
  struct ka_ctx *ctx;
  struct ka_data_spec spec;
  struct ka_arena arena;
  struct ka_data_store store;
  struct ka_data_pieces *entry_pieces; /* [datasets] */
  struct ka_data_packed_split parts[2];
  struct ka_data_stats stats;
  int64_t length_unit; /* of micro-batches of unpacked rows */
};

/* Orders, packs and counts a part's pieces. */
ka_status ka_data_split_build(struct ka_data *d, enum ka_data_split part);
void ka_data_split_deinit(struct ka_data_packed_split *p);

#endif
