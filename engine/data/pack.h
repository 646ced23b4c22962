/* SPDX-License-Identifier: Apache-2.0
 *
 * Which documents share a row. */
#ifndef KAPPA_ENGINE_DATA_PACK_H
#define KAPPA_ENGINE_DATA_PACK_H

#include "base/arena.h"

/* Row r holds items[first[r]] .. items[first[r+1]-1]. Free with ka_data_packed_deinit. */
struct ka_data_packed {
  int64_t n_rows;
  int64_t *first; /* [n_rows + 1] */
  int64_t *items; /* [n] */
};
void ka_data_packed_deinit(struct ka_data_packed *p);

enum { KA_PACK_WINDOW = 8192 };

/* First-fit decreasing (Johnson 1973) within windows of `window` consecutive items: the longest
 * first, ties in order, each into the first row of its window that has room. lengths[i] <= T.
 * Deterministic; n log n. window 1: one item a row, in order. */
ka_status ka_data_pack_rows(struct ka_ctx *ctx, struct ka_data_packed *out, const int64_t *lengths,
                            int64_t n, int64_t T, int64_t window);

#endif
