/* SPDX-License-Identifier: Apache-2.0
 * The job's data as two streams of micro-batches, for the loop. */
#ifndef KAPPA_ENGINE_TRAIN_DATA_H
#define KAPPA_ENGINE_TRAIN_DATA_H

#include "engine/data/dataset.h"
#include "engine/model/session.h"
#include "engine/train/loop.h"

struct ka_train_stream {
  struct ka_ctx *ctx;
  struct ka_data *data;
  enum ka_data_split part;
};

struct ka_train_data {
  struct ka_data *data;
  struct ka_train_stream streams[2];
  struct ka_train_batch_source train, validation;
};

/* The job's keys that data depends on; borrows from the job. speech NULL: it has none. */
struct ka_data_spec ka_train_data_spec(const struct ka_job *job, const struct ka_speech *speech);

/* Reads, tokenises and packs the job's datasets. A model without a tokenizer:
 * tokenized data. The struct must not move afterwards. */
ka_status ka_train_data_open(struct ka_ctx *ctx, struct ka_train_data *d, const struct ka_job *job,
                             const struct ka_session *open, const struct ka_speech *speech);
void ka_train_data_close(struct ka_train_data *d);

/* "12 documents too long (10 dropped, 2 truncated), ..."; empty when nothing was left out. */
ka_status ka_train_data_losses(struct ka_ctx *ctx, const struct ka_data_stats *s,
                               struct ka_str *out);

#endif
