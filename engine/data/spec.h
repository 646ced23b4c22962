/* SPDX-License-Identifier: Apache-2.0
 * What data is to be read, and how it becomes micro-batches. The fields are the job's keys of the
 * same names (engine/job/job.def); engine/train/data.h fills them in from a job. */
#ifndef KAPPA_ENGINE_DATA_SPEC_H
#define KAPPA_ENGINE_DATA_SPEC_H

#include "engine/data/speech.h"

struct ka_data_spec {
  struct ka_job_datasets datasets, test_datasets;
  const char *base_model; /* directory of the tokenizer's configuration and the chat template */
  int64_t eos_token_id;   /* config.json's, for a tokenizer that names none; -1 */
  const char *eos_token;  /* instead of the tokenizer's, where the vocabulary has it; NULL */
  int64_t sequence_len, micro_batch_size;
  int length_policy; /* KA_LENGTH_... */
  bool sample_packing, group_by_length, shuffle, train_on_inputs;
  double val_set_size;
  int64_t seed;
  const char *dataset_prepared_path; /* NULL: tokens are not kept */
  const struct ka_speech *speech;    /* of entries of type speech; NULL: there is none */
  const char *output_dir;            /* tokens that do not fit memory go there, or above it */
  const struct ka_key_file *file;    /* where the keys were given, for messages */
  void (*on_rows)(void *user, int64_t n_rows); /* told how many are read so far; may be NULL */
  void *user;
};

#endif
