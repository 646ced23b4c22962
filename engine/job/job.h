/* SPDX-License-Identifier: Apache-2.0
 *
 * A job: YAML file + key=value words in, a struct of plain fields out. Keys, types, defaults,
 * ranges and docs stand in job.def, one row a key; a field has its key's name.
 *
 * All problems of a job are reported at once, each with file:line:column. Fields are checked and
 * paths resolved; nothing is opened. Does not know models: whether a pattern matches a tensor, or a
 * row parses, is for those who read them. */
#ifndef KAPPA_ENGINE_JOB_JOB_H
#define KAPPA_ENGINE_JOB_JOB_H

#include "engine/job/keys.h"

/* C types of job.def's own type words; the others are in keys.h. */
#define KA_KEY_C_SELECTION struct ka_job_selection
#define KA_KEY_C_FORGETTING struct ka_job_forgetting
#define KA_KEY_C_ANCHOR struct ka_job_anchor
#define KA_KEY_C_PROJECTOR struct ka_job_projector
#define KA_KEY_C_MAPPING struct ka_job_mapping
#define KA_KEY_C_DATASETS struct ka_job_datasets
#define KA_KEY_C_HELD_OUTS struct ka_job_held_outs
#define KA_JOB_FIELD(type, name, ...) KA_KEY_C_##type name;

#define KA_KEY_IF_WORD_SELECTION(...)
#define KA_KEY_IF_WORD_FORGETTING(...)
#define KA_KEY_IF_WORD_ANCHOR(...)
#define KA_KEY_IF_WORD_PROJECTOR(...)
#define KA_KEY_IF_WORD_MAPPING(...)
#define KA_KEY_IF_WORD_DATASETS(...)
#define KA_KEY_IF_WORD_HELD_OUTS(...)
#define KA_JOB_WORDS(type, name, dflt, least, most, choices, ...)                                  \
  KA_KEY_IF_WORD_##type(enum {choices}; extern const char *const ka_job_words_##name[];)

/* The words of job.def: KA_LENGTH_AUTO, KA_LENGTH_DROP, ...; as texts
 * ka_job_words_length_policy[KA_LENGTH_DROP]. */
#define W(id, word) KA_##id,
#define KA_JOB_KEY KA_JOB_WORDS
#define KA_SELECTION_KEY KA_JOB_WORDS
#define KA_FORGETTING_KEY KA_JOB_WORDS
#define KA_ANCHOR_KEY KA_JOB_WORDS
#define KA_PROJECTOR_KEY KA_JOB_WORDS
#define KA_DATASET_KEY KA_JOB_WORDS
#define KA_HELD_OUT_KEY KA_JOB_WORDS
#include "engine/job/job.def"

struct ka_job_selection {
#define KA_SELECTION_KEY KA_JOB_FIELD
#include "engine/job/job.def"
};

struct ka_job_forgetting {
#define KA_FORGETTING_KEY KA_JOB_FIELD
#include "engine/job/job.def"
};

struct ka_job_anchor {
#define KA_ANCHOR_KEY KA_JOB_FIELD
#include "engine/job/job.def"
};

struct ka_job_projector {
#define KA_PROJECTOR_KEY KA_JOB_FIELD
#include "engine/job/job.def"
};

struct ka_job_mapping {
#define KA_MAPPING_KEY KA_JOB_FIELD
#include "engine/job/job.def"
};

struct ka_job_dataset {
#define KA_DATASET_KEY KA_JOB_FIELD
#include "engine/job/job.def"
};

struct ka_job_datasets {
  struct ka_job_dataset *items;
  int64_t n;
};

struct ka_job_held_out {
#define KA_HELD_OUT_KEY KA_JOB_FIELD
#include "engine/job/job.def"
};

struct ka_job_held_outs {
  struct ka_job_held_out *items;
  int64_t n;
};

/* After loading: exactly one of num_epochs and max_steps is above 0; at most one of warmup_steps
 * and warmup_ratio; selection has exactly one of count, fraction, params and file, or none with
 * metric all or mode soft; exclude holds its default. Relative paths are resolved: against the job
 * file's directory, or the current one for words of the command line. */
struct ka_job {
#define KA_JOB_KEY KA_JOB_FIELD
#include "engine/job/job.def"

  struct ka_key_file file; /* path, memory, problems, places */
};

/* Reads the job. overrides: n words "key=value", "a.b=value", "datasets.0.path=value"; the value is
 * YAML; they win over the file. Any problem, a missing input path included, is KA_E_INPUT (or
 * KA_E_UNSUPPORTED when all are of that kind): job->file.problems holds all of them, the message as
 * many as fit. Free with ka_job_close, also after a failure. */
ka_status ka_job_load(struct ka_ctx *ctx, struct ka_job *job, const char *path,
                      const char *const *overrides, int64_t n);
/* The same from memory, without looking at the file system: paths stay relative to `dir`. */
ka_status ka_job_parse(struct ka_ctx *ctx, struct ka_job *job, const char *text, size_t len,
                       const char *path, const char *dir, const char *const *overrides, int64_t n);
void ka_job_close(struct ka_job *job);

/* Every key with its value, as it holds (new reference). KA_E_INPUT: a text that is not UTF-8. */
ka_status ka_job_json(struct ka_ctx *ctx, const struct ka_job *job, json_t **out);

/* Where a key was given, for messages about its value; see ka_key_place. */
static inline const char *ka_job_place(const struct ka_job *job, const char *key) {
  return ka_key_place(&job->file, key);
}
static inline bool ka_job_given(const struct ka_job *job, const char *key) {
  return ka_key_given(&job->file, key);
}

#endif
