/* SPDX-License-Identifier: Apache-2.0
 * Inside formats: from YAML values to the fields of a job. */
#ifndef KAPPA_ENGINE_FORMATS_JOB_READ_H
#define KAPPA_ENGINE_FORMATS_JOB_READ_H

#include "engine/formats/job_table.h"
#include "engine/formats/yaml.h"

struct ka_job_reader {
  struct ka_ctx *ctx;
  struct ka_job *job;
  const char *file; /* NULL: values come from the command line */
  const char *dir;  /* what relative paths start at; "" the current directory */
  bool check_paths;
  int64_t n_values; /* read so far; bounded */
};

/* Adds "place: text" to the job's problems; node NULL: the file as a whole. Fails only when memory
 * is out. */
ka_status ka_job_problem(struct ka_job_reader *r, const struct ka_yaml *node, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The same at the place where a key was given. */
ka_status ka_job_problem_at(struct ka_job_reader *r, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Reads one value into its field; a problem leaves the default. `path`: "selection.count". */
ka_status ka_job_read_value(struct ka_job_reader *r, const struct ka_job_key *key,
                            const struct ka_yaml *v, void *field, const char *path);

/* Reads a mapping of a scope into its struct, which holds defaults. `prefix`: "" or "selection.".
 */
ka_status ka_job_read_scope(struct ka_job_reader *r, enum ka_job_scope scope,
                            const struct ka_yaml *map, void *object, const char *prefix);

ka_status ka_job_set_default(struct ka_job_reader *r, const struct ka_job_key *key, void *field);
ka_status ka_job_set_defaults(struct ka_job_reader *r, enum ka_job_scope scope, void *object);
ka_status ka_job_remember(struct ka_job_reader *r, const char *path, const struct ka_yaml *node);
ka_status ka_job_unknown(struct ka_job_reader *r, enum ka_job_scope scope, const char *name,
                         const struct ka_yaml *node, const char *prefix);

#endif
