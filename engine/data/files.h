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
};

/* Every file that `paths` mean, each once (links to the same file count as one), in the order of
 * the paths, sorted by name within one. Directories are walked; hidden names and links to
 * directories are passed over. data_files: globs matched against the path below the directory and
 * against the bare name; only these (NULL or empty: all). exclude_files: not these. KA_E_INPUT when
 * a path is missing or nothing is left. Memory from a. */
ka_status ka_data_files(struct ka_arena *a, const struct ka_key_texts *paths,
                        const struct ka_key_texts *data_files,
                        const struct ka_key_texts *exclude_files, struct ka_data_files *out);

#endif
