/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows of JSON and CSV files as documents, typed as the datasets library types them: every document
 * has every column, absent values are null; numbers of a column are all whole or none is (1 and 2.5
 * give 1.0 and 2.5), in lists and mappings too; CSV columns are whole numbers, numbers, truth
 * values or texts, and words like NA are null. Texts that look like dates stay texts. */
#ifndef KAPPA_ENGINE_EVAL_DOCS_H
#define KAPPA_ENGINE_EVAL_DOCS_H

#include "base/json.h"
#include "engine/job/keys.h"

/* All rows of the files (paths or globs), a new array of objects with equal keys. csv: else JSON
 * lines or an array. KA_E_INPUT "file:line: ...". */
ka_status ka_eval_docs_read(struct ka_ctx *ctx, const struct ka_key_texts *files, bool csv,
                            json_t **out);

#endif
