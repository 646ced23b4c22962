/* SPDX-License-Identifier: Apache-2.0
 *
 * train_log.jsonl: one JSON object a line, each with "step". Rows are flushed as they are written;
 * a resumed run first cuts the rows past its checkpoint and any half-written last line. */
#ifndef KAPPA_ENGINE_REPORT_JSONL_H
#define KAPPA_ENGINE_REPORT_JSONL_H

#include "base/json.h"

#include <stdio.h>

struct ka_jsonl {
  FILE *f;
  const char *path; /* borrowed */
  struct ka_str line;
};

/* Opens for appending, keeping the rows whose step is at most `keep_through` (-1: none). */
ka_status ka_jsonl_open(struct ka_ctx *ctx, struct ka_jsonl *j, const char *path,
                        int64_t keep_through);
/* Writes and flushes one row (of a log that is not open: nowhere); takes the reference of `row`,
 * NULL is KA_E_MEMORY. */
ka_status ka_jsonl_row(struct ka_ctx *ctx, struct ka_jsonl *j, json_t *row);
/* fsync: before a checkpoint is published. */
ka_status ka_jsonl_sync(struct ka_ctx *ctx, struct ka_jsonl *j);
void ka_jsonl_close(struct ka_jsonl *j);

/* All rows of a file as an array (new reference); a half-written last line is ignored, a missing
 * file is an empty array. */
ka_status ka_jsonl_read(struct ka_ctx *ctx, const char *path, json_t **rows);

#endif
