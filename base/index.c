/* SPDX-License-Identifier: Apache-2.0
 * Open addressing, at most half full; FNV-1a. */
#include "base/index.h"

#include "base/arena.h"

#include <string.h>

static uint64_t hash_of(const char *text) {
  uint64_t h = 14695981039346656037u;
  for (; *text; text++) h = (h ^ (unsigned char)*text) * 1099511628211u;
  return h ^ h >> 32;
}

/* The slot that has the text, or the free one where it belongs. */
static int64_t *slot_of(const struct ka_index *x, const char *text, ka_index_text *text_of,
                        const void *list) {
  uint64_t mask = (uint64_t)x->n_slots - 1, at = hash_of(text) & mask;
  while (x->slots[at] && strcmp(text_of(list, x->slots[at] - 1), text) != 0) at = (at + 1) & mask;
  return &x->slots[at];
}

int64_t ka_index_find(const struct ka_index *x, const char *text, ka_index_text *text_of,
                      const void *list) {
  return x->n == 0 ? -1 : *slot_of(x, text, text_of, list) - 1;
}

ka_status ka_index_add(struct ka_ctx *ctx, struct ka_index *x, int64_t i, ka_index_text *text_of,
                       const void *list) {
  if (2 * (x->n + 1) > x->n_slots) {
    struct ka_index wider = {.n_slots = x->n_slots ? 2 * x->n_slots : 32, .n = x->n};
    void *slots;
    KA_TRY(ka_alloc_n(ctx, &slots, wider.n_slots, sizeof *x->slots, "index of names"));
    wider.slots = slots;
    for (int64_t k = 0; k < x->n_slots; k++)
      if (x->slots[k])
        *slot_of(&wider, text_of(list, x->slots[k] - 1), text_of, list) = x->slots[k];
    ka_free(x->slots);
    *x = wider;
  }
  *slot_of(x, text_of(list, i), text_of, list) = i + 1;
  x->n++;
  return KA_STATUS_OK;
}

void ka_index_deinit(struct ka_index *x) {
  ka_free(x->slots);
  *x = (struct ka_index){0};
}
