/* SPDX-License-Identifier: Apache-2.0
 * From YAML values to the fields of a struct, by a table of keys. */
#ifndef KAPPA_ENGINE_JOB_KEY_READ_H
#define KAPPA_ENGINE_JOB_KEY_READ_H

#include "engine/job/keys.h"
#include "engine/job/yaml.h"

struct ka_key_reader {
  struct ka_ctx *ctx;
  const struct ka_key_table *table;
  struct ka_key_file *file;
  bool words;          /* values come from the command line */
  bool required_later; /* at the top: words may still give them */
  const char *dir;     /* what relative paths start at; "" the current directory */
  bool check_paths;
  const char *const *overrides; /* "key=value" words that win over what is read */
  int64_t n_overrides;
  int64_t n_values; /* read so far; bounded */
};

/* Adds "place: text" to the file's problems; node NULL: the file as a whole. Fails only when memory
 * is out. */
ka_status ka_key_problem(struct ka_key_reader *r, const struct ka_yaml *node, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The same at the place where a key was given. */
ka_status ka_key_problem_at(struct ka_key_reader *r, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Adds a note on a key. */
ka_status ka_key_note(struct ka_key_reader *r, const struct ka_yaml *at, enum ka_key_note_kind kind,
                      const char *key, const char *text);

/* Reads a mapping of a scope into its struct, which holds defaults. `prefix`: "" or "selection.".
 */
ka_status ka_key_read_scope(struct ka_key_reader *r, int scope, const struct ka_yaml *map,
                            void *object, const char *prefix);
/* Reads one value, named `at`, into its field; a problem leaves the default. `path`:
 * "selection.count". */
ka_status ka_key_read(struct ka_key_reader *r, const struct ka_key *key, const struct ka_yaml *at,
                      const struct ka_yaml *v, void *field, const char *path);

ka_status ka_key_set_default(struct ka_key_reader *r, const struct ka_key *key, void *field);
ka_status ka_key_set_defaults(struct ka_key_reader *r, int scope, void *object);
/* The keys of a scope that have no default and were not given are problems at `map`. */
ka_status ka_key_check_required(struct ka_key_reader *r, int scope, const struct ka_yaml *map,
                                const char *prefix);
ka_status ka_key_unknown(struct ka_key_reader *r, int scope, const char *name,
                         const struct ka_yaml *node, const char *prefix);

#endif
