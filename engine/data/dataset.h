/* SPDX-License-Identifier: Apache-2.0
 *
 * A job's data, from files to micro-batches.
 *
 *   files -> rows -> documents (tokens + labels) -> length policy -> pieces
 *         -> validation set aside, weights -> packed rows -> micro-batches by number
 *
 * Everything is a function of the job and the files: micro-batch i is the same whatever was asked
 * before, so that resuming needs no replay. Rows are packed once; an epoch is a seeded permutation
 * of the rows, and its last micro-batch may have fewer rows. Documents are tokenised when the data
 * is opened; beyond 256 MiB of tokens they live in a nameless temporary file. */
#ifndef KAPPA_ENGINE_DATA_DATASET_H
#define KAPPA_ENGINE_DATA_DATASET_H

#include "engine/data/document.h"
#include "engine/data/spec.h"
#include "engine/data/stats.h"
#include "engine/model/batch.h"
#include "tokenizer/tokenizer.h"

struct ka_data;

/* Reads, tokenises and packs the datasets; what spec points to must outlive the data. tokenizer may
 * be NULL for type tokenized. V: rows of the embedding. KA_E_INPUT: bad rows (up to ten of them,
 * "file:line: ..."), too long documents with length_policy error, nothing to train on. Destroy with
 * ka_data_close; *out is NULL on failure. */
ka_status ka_data_open(struct ka_ctx *ctx, struct ka_data **out, const struct ka_data_spec *spec,
                       const struct ka_tokenizer *tokenizer, int64_t V);
void ka_data_close(struct ka_data *d); /* NULL is fine */

const struct ka_data_stats *ka_data_get_stats(const struct ka_data *d);

/* Of all sound files, in order; "" where there are none. */
void ka_data_sound_hash(const struct ka_data *d, char out[KA_HASH_TEXT]);

/* Unpacked micro-batches are as long as a multiple of `unit` (1 without this call), the longest row
 * at most: for devices to which each length is a shape of its own. */
void ka_data_round_lengths(struct ka_data *d, int64_t unit);

/* Micro-batches of one epoch; 0 for a validation part that is empty. */
int64_t ka_data_n_batches(const struct ka_data *d, enum ka_data_split part);

/* Micro-batch `index` of the whole run: index / n_batches is the epoch. B <= micro_batch_size,
 * T <= sequence_len (the longest row of the batch, rounded up). The validation part is in file
 * order, the same in each epoch. Valid until the next call for that part. */
ka_status ka_data_batch(struct ka_ctx *ctx, struct ka_data *d, enum ka_data_split part,
                        int64_t index, struct ka_batch *out);

/* Whole documents as they were read, before cutting and packing, in the order of the files: those
 * of datasets, then those of test_datasets. n of document i; its n ids and labels to ids,
 * labels. */
int64_t ka_data_n_documents(const struct ka_data *d);
int64_t ka_data_document_tok(const struct ka_data *d, int64_t i);
void ka_data_read_document(const struct ka_data *d, int64_t i, int32_t *ids, int32_t *labels);

/* Document i (before packing, in an epoch's unshuffled order): ids and labels appended as
 * (id, label) pairs' arrays that the caller owns, at most max tokens. Returns the whole length, 0
 * when there is no such document. */
int64_t ka_data_document(const struct ka_data *d, enum ka_data_split part, int64_t i, int64_t max,
                         int32_t *ids, int32_t *labels);

#endif
