/* SPDX-License-Identifier: Apache-2.0
 * Inside formats: job.def as tables, for the parser and the documentation. */
#ifndef KAPPA_ENGINE_FORMATS_JOB_TABLE_H
#define KAPPA_ENGINE_FORMATS_JOB_TABLE_H

#include "base/str.h"
#include "engine/formats/job.h"

enum ka_job_scope {
  KA_SCOPE_JOB,
  KA_SCOPE_SELECTION,
  KA_SCOPE_FORGETTING,
  KA_SCOPE_ANCHOR,
  KA_SCOPE_DATASET,
  KA_SCOPE_MAPPING,
  KA_SCOPE_HELD_OUT,
  KA_N_SCOPES
};

enum ka_job_kind {
  KA_JOB_BOOL,
  KA_JOB_INT,
  KA_JOB_NUM,
  KA_JOB_COUNT,
  KA_JOB_TEXT,
  KA_JOB_PATH,
  KA_JOB_CHOICE,
  KA_JOB_OBJECT,
};

struct ka_job_key {
  enum ka_job_scope scope;
  enum ka_job_kind kind; /* of the value, or of an entry of the list */
  bool list;
  bool must_exist, regex;  /* PATH that is read; TEXT that is a pattern */
  enum ka_job_scope child; /* OBJECT */
  const char *name, *dflt;
  double least, most;
  const char *choices, *unit, *doc;
  size_t offset; /* in the struct of its scope */
};

struct ka_job_rule { /* a row of KA_JOB_ONE_OF, KA_JOB_LATER or KA_JOB_ALIAS */
  enum ka_job_scope scope;
  const char *key, *advice;
};

/* All end with a NULL name or key. */
extern const struct ka_job_key ka_job_keys[];
extern const struct ka_job_rule ka_job_one_of[], ka_job_later[], ka_job_aliases[];
/* "job", "selection", ...; the size of the scope's struct. */
extern const struct ka_job_scope_info {
  const char *name;
  size_t size;
} ka_job_scopes[KA_N_SCOPES];

const struct ka_job_key *ka_job_key_find(enum ka_job_scope scope, const char *name);
bool ka_job_is_later(const struct ka_job_key *key);
/* Is `name` one of the words of a space-separated list? */
bool ka_job_in_words(const char *words, const char *name);

/* docs/jobs.md and docs/job.schema.json, appended to out. */
ka_status ka_job_doc_markdown(struct ka_ctx *ctx, struct ka_str *out);
ka_status ka_job_doc_schema(struct ka_ctx *ctx, struct ka_str *out);

#endif
