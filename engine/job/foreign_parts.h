/* SPDX-License-Identifier: Apache-2.0
 * Inside the translation of foreign jobs: a mapping that is being rewritten, and what the functions
 * of foreign.def (kind CALL) may do to it. */
#ifndef KAPPA_ENGINE_JOB_FOREIGN_PARTS_H
#define KAPPA_ENGINE_JOB_FOREIGN_PARTS_H

#include "engine/job/foreign.h"

struct ka_foreign {
  struct ka_key_reader *r;
  struct ka_ctx *ctx;
  struct ka_arena *arena;
  bool lenient;
  int scope;
  int64_t index;          /* of the entry of datasets */
  struct ka_yaml *from;   /* the mapping as it was written */
  struct ka_yaml *to;     /* the mapping in kappa's words, growing */
  struct ka_yaml *top;    /* the job as it was written */
  struct ka_yaml *spread; /* what stands in every entry of datasets here */
  int64_t cap_to, cap_spread;
  const char *key; /* of `from`, the one at hand */
  const struct ka_yaml *at;
  const struct ka_foreign_row *row;
};

typedef ka_status ka_foreign_fn(struct ka_foreign *f, struct ka_yaml *v);

/* The function of a row of kind CALL. */
ka_foreign_fn *ka_foreign_call(const char *name);
ka_foreign_fn *ka_foreign_data_call(const char *name);

/* Adds key: value to f->to; one that is there already must say the same, or it is a problem. */
ka_status ka_foreign_put(struct ka_foreign *f, const char *key, struct ka_yaml *v);
ka_status ka_foreign_put_text(struct ka_foreign *f, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Adds or replaces key: value in a mapping of our own. */
ka_status ka_foreign_set(struct ka_foreign *f, struct ka_yaml *map, int64_t *cap, const char *key,
                         struct ka_yaml *v);
ka_status ka_foreign_new(struct ka_foreign *f, struct ka_yaml **out, enum ka_yaml_kind kind);
ka_status ka_foreign_scalar(struct ka_foreign *f, struct ka_yaml **out, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Notes on the key at hand. */
ka_status ka_foreign_pass(struct ka_foreign *f);
ka_status ka_foreign_warn(struct ka_foreign *f, const char *text);
ka_status ka_foreign_refuse(struct ka_foreign *f, const char *text);

/* ~, "", false, no, off, none, [] and {} */
bool ka_foreign_is_off(const struct ka_yaml *v);
const char *ka_foreign_text(const struct ka_yaml *v); /* of a scalar; "" otherwise */
/* The text of map's key, NULL when absent or not a scalar. */
const char *ka_foreign_get(const struct ka_yaml *map, const char *key);
bool ka_foreign_number(const struct ka_yaml *v, double *out);

/* Translates f->from into f->to, key by key. */
ka_status ka_foreign_map(struct ka_foreign *f);
/* The entries of datasets and test_datasets, when the top is translated. */
ka_status ka_foreign_entries(struct ka_foreign *f);

#endif
