/* SPDX-License-Identifier: Apache-2.0
 *
 * From a record of a data file to a document, by the type of its dataset. */
#ifndef KAPPA_ENGINE_DATA_DOCUMENT_MAKE_H
#define KAPPA_ENGINE_DATA_DOCUMENT_MAKE_H

#include "engine/data/document.h"

/* What is wrong with an entry's options, before any record is read: a {placeholder} of format that
 * nothing fills, or a format without {instruction}. `what` names the entry. */
ka_status ka_document_check(struct ka_ctx *ctx, const struct ka_job_dataset *dataset,
                            const char *what);

/* Replaces *d by the record's document. n = 0: nothing in it, or a text file that only a directory
 * or glob found and that is not UTF-8, or not of a type with records. Messages name no file.
 * Thread-safe with ctx and d per thread. */
ka_status ka_document_make(struct ka_ctx *ctx, const struct ka_document_maker *m,
                           const struct ka_data_record *record, struct ka_document *d);

#endif
