/* SPDX-License-Identifier: Apache-2.0
 *
 * Jobs of other trainers (axolotl, LLaMA-Factory, torchtune, TRL) in kappa's words: foreign.def
 * says what each key means. Translates the tree of a job before its keys are read; what was done is
 * kept as notes. Does not read keys of job.def: their values are checked where they always are. */
#ifndef KAPPA_ENGINE_JOB_FOREIGN_H
#define KAPPA_ENGINE_JOB_FOREIGN_H

#include "engine/job/key_read.h"

enum ka_foreign_kind {
  KA_FOREIGN_SAME,
  KA_FOREIGN_SPREAD,
  KA_FOREIGN_CALL,
  KA_FOREIGN_NOTHING,
  KA_FOREIGN_OTHER,
  KA_FOREIGN_REFUSE,
};

struct ka_foreign_row {
  int scope;
  const char *key, *value; /* value NULL: a row of KA_FOREIGN */
  enum ka_foreign_kind kind;
  const char *target, *off, *text;
};

/* Ends with a NULL key. */
extern const struct ka_foreign_row ka_foreign_rows[];

/* Rewrites `root`, a mapping, in place: problems go to the reader's file, notes to it too.
 * `lenient`: what is refused becomes a note instead of a problem (for `kappa import`). */
ka_status ka_foreign_translate(struct ka_key_reader *r, struct ka_yaml *root, bool lenient);

/* The key of job.def that says the same as another trainer's; NULL when no one key does. */
const char *ka_foreign_same(int scope, const char *name);

/* How a job may say a key: it is one of job.def's, or a row of foreign.def is about it. */
bool ka_foreign_known(int scope, const char *name);

/* A row of features.def: a heading, or a feature with kappa's and the others' words for it. */
enum { KA_FEATURE_CELLS = 6 };
struct ka_job_feature {
  const char *group;
  const char *cells[KA_FEATURE_CELLS]; /* feature, kappa, axolotl, LLaMA-Factory, torchtune, TRL */
};
/* Ends with a row of NULLs. */
extern const struct ka_job_feature ka_job_features[];
/* docs/features.md */
ka_status ka_job_doc_features(struct ka_ctx *ctx, struct ka_str *out);

/* One Markdown table of foreign.def, appended to out. */
ka_status ka_foreign_doc(struct ka_ctx *ctx, struct ka_str *out);

#endif
