/* SPDX-License-Identifier: Apache-2.0
 *
 * Datasets of a few rows, read with bytes as tokens, for tests of rows and of batches. */
#ifndef KAPPA_TESTS_DATA_BED_H
#define KAPPA_TESTS_DATA_BED_H

#include "engine/data/dataset.h"
#include "engine/train/data.h"
#include "tests/support/fresh.h"

#include <string.h>

enum { EOS = 256 };

/* Bytes as tokens, <eos> 256. */
static inline struct ka_tokenizer *byte_tokenizer(const char *dir) {
  static const char *const special[] = {"<eos>"};
  const char *config = "{\"eos_token\": \"<eos>\"}";
  struct ka_tokenizer *t;
  T_OK(ka_tokenizer_write_byte_level(ctx, t_str("%s/tokenizer.json", dir), special, 1));
  T_OK(ka_write_file(ctx, t_str("%s/tokenizer_config.json", dir), config, strlen(config)));
  T_OK(ka_tokenizer_open(ctx, &t, dir));
  assert_int_equal(ka_tokenizer_eos(t), EOS);
  return t;
}

static inline void put(const char *dir, const char *name, const char *text) {
  T_OK(ka_write_file(ctx, t_str("%s/%s", dir, name), text, strlen(text)));
}

/* A job on data in dir; `more` are further lines of YAML. */
static inline void job(struct ka_job *j, const char *dir, const char *datasets, const char *more) {
  const char *text = t_str("base_model: m\noutput_dir: out\nshuffle: false\nval_set_size: 0\n"
                           "micro_batch_size: 2\nsequence_len: 8\ndatasets: %s\n%s\n",
                           datasets, more);
  T_OK(ka_job_parse(ctx, j, text, strlen(text), "job.yaml", dir, NULL, 0));
}

static inline ka_status open_job(struct ka_data **d, const struct ka_job *j,
                                 const struct ka_tokenizer *t, int64_t V) {
  struct ka_data_spec spec = ka_train_data_spec(j, NULL);
  return ka_data_open(ctx, d, &spec, t, V);
}

static inline struct ka_data *open_data(struct ka_job *j, const struct ka_tokenizer *t) {
  struct ka_data *d;
  T_OK(open_job(&d, j, t, 258));
  return d;
}

/* "1 2* 3": ids, a star behind those that are trained. */
static inline const char *shown(const struct ka_data *d, enum ka_data_split part, int64_t i) {
  int32_t ids[64], labels[64];
  int64_t n = ka_data_document(d, part, i, 64, ids, labels);
  const char *text = "";
  for (int64_t t = 0; t < n && t < 64; t++) {
    if (labels[t] != -100) assert_int_equal(labels[t], ids[t]);
    text = t_str("%s%s%d%s", text, t ? " " : "", ids[t], labels[t] == -100 ? "" : "*");
  }
  return text;
}

#endif
