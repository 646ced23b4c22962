/* SPDX-License-Identifier: Apache-2.0
 *
 * The rows of a Parquet file, one after the other, as the lines of JSON they could have been made
 * from: strings, integers, floats, booleans, lists, structs, and maps with string keys. A null is
 * left out of its object, since columns have one where a row had no such key; in a list it stays.
 * Dates, times, decimals and other things that JSON has no word for, and bytes that are no text,
 * are left out too and named, so that who needs them can say so.
 *
 * Read: format versions 1 and 2, pages plain, dictionary, RLE, delta and byte-stream-split; codecs
 * by unpack.h. Not read: encrypted files, LZO, levels in the old BIT_PACKED encoding.
 *
 * Memory: the file's index, and for each column one page and the row group's dictionary. */
#ifndef KAPPA_ENGINE_DATA_PARQUET_H
#define KAPPA_ENGINE_DATA_PARQUET_H

#include "base/file.h"

struct ka_parquet;

bool ka_parquet_is(const struct ka_map *m);
/* path (for messages) and m are borrowed. KA_E_INPUT: not Parquet, broken; KA_E_UNSUPPORTED. */
ka_status ka_parquet_open(struct ka_ctx *ctx, struct ka_parquet **out, const char *path,
                          const struct ka_map *m);
void ka_parquet_close(struct ka_parquet *p); /* NULL is fine */
/* Appends the next row and a line end to out; *end when there was none. KA_E_INPUT names the file
 * and the row. */
ka_status ka_parquet_next(struct ka_ctx *ctx, struct ka_parquet *p, struct ka_str *out, bool *end);
/* "price (decimal), image.bytes (binary)": columns that had values which were left out; "" none. */
const char *ka_parquet_unread(const struct ka_parquet *p);

#endif
