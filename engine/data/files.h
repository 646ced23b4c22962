/* SPDX-License-Identifier: Apache-2.0
 *
 * From the paths of a job (files, directories, globs) to a list of files. */
#ifndef KAPPA_ENGINE_DATA_FILES_H
#define KAPPA_ENGINE_DATA_FILES_H

#include "engine/job/job.h"

struct ka_data_file {
  const char *path;
  bool named; /* written out in the job, so it must be readable; not found by a directory or glob */
};

struct ka_data_files {
  struct ka_data_file *items;
  int64_t n;
  const char *left_out; /* "README.md, test.jsonl (another split) and 3 more"; "" nothing */
};

/* The formats of ds_type. By name: the end without .gz or .zst, whatever its case. */
enum ka_data_format { KA_DATA_TEXT, KA_DATA_JSON, KA_DATA_CSV, KA_DATA_PARQUET };
enum ka_data_format ka_data_format(const char *path, const char *ds_type);
bool ka_data_is_tsv(const char *path);

/* Which files of a directory are meant; all may be NULL. */
struct ka_data_choice {
  const struct ka_key_texts *data_files, *exclude_files; /* globs: only these, not these */
  const char *ds_type;
  const char *split; /* "train", "test[:100]", "train+validation"; NULL: whatever it is */
};

/* Every file that `paths` mean, each once (links to the same file count as one), in the order of
 * the paths, sorted by name within one. Directories are walked; hidden names and links to
 * directories are passed over; a directory of the Hugging Face cache stands for its snapshot.
 *
 * Of what a directory holds, left out are: cards, licences and the like, by their names; beside
 * files with rows, those that are neither rows nor .txt; and without data_files, those whose names
 * say that they belong to another split (train-00000-of-00001.parquet, test/a.jsonl, dev.csv).
 *
 * data_files: globs matched against the path below the directory and against the bare name.
 * KA_E_INPUT when a path is missing, nothing is left or no file has the split. Memory from a. */
ka_status ka_data_files(struct ka_arena *a, const struct ka_key_texts *paths,
                        const struct ka_data_choice *choice, struct ka_data_files *out);

#endif
