/* SPDX-License-Identifier: Apache-2.0
 *
 * A data file's text: the mapped file itself, or a window on what a gzip, zstd or Parquet file
 * gives (lines of JSON, from Parquet). What a file is, is seen from its first bytes, not its
 * name. */
#ifndef KAPPA_ENGINE_DATA_SOURCE_H
#define KAPPA_ENGINE_DATA_SOURCE_H

#include "base/file.h"
#include "engine/data/parquet.h"
#include "engine/data/unpack.h"

struct ka_data_text {
  struct ka_map seen; /* the text, or the window */
  bool ended;         /* nothing comes behind it */
  struct ka_map file;
  struct ka_str window;
  struct ka_unpack_stream *unpack;
  struct ka_parquet *parquet;
};

/* KA_E_INPUT or KA_E_UNSUPPORTED for what holds data in a form that is not read, with what to do: a
 * Git LFS pointer, an Arrow file; and where it is `named` in the job, other archives. Close it,
 * also after a failure. */
ka_status ka_data_text_open(struct ka_ctx *ctx, struct ka_data_text *t, const char *path,
                            bool named);
void ka_data_text_close(struct ka_data_text *t);
static inline bool ka_data_text_is_window(const struct ka_data_text *t) {
  return t->unpack || t->parquet;
}
/* A window drops its first `used` bytes and is filled again: up to its size, or to twice what is
 * left where that is half of it or more. `seen` moves. */
enum { KA_DATA_WINDOW = 2 << 20 };
ka_status ka_data_text_more(struct ka_ctx *ctx, struct ka_data_text *t, size_t used);
const char *ka_data_text_unread(const struct ka_data_text *t); /* see parquet.h */

#endif
