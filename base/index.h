/* SPDX-License-Identifier: Apache-2.0
 *
 * Texts to their places in a list, by hashing: lists of names that a hostile file makes long cost
 * no more than their length. The list itself is the caller's. */
#ifndef KAPPA_BASE_INDEX_H
#define KAPPA_BASE_INDEX_H

#include "base/status.h"

/* The i-th text of the caller's list. */
typedef const char *ka_index_text(const void *list, int64_t i);

/* All zero is empty. */
struct ka_index {
  int64_t *slots; /* place + 1; 0: free */
  int64_t n_slots, n;
};

/* The place of `text`, or -1. */
int64_t ka_index_find(const struct ka_index *x, const char *text, ka_index_text *text_of,
                      const void *list);
/* Place i, whose text is not in the index yet; the list holds it already. */
ka_status ka_index_add(struct ka_ctx *ctx, struct ka_index *x, int64_t i, ka_index_text *text_of,
                       const void *list);
void ka_index_deinit(struct ka_index *x);

#endif
