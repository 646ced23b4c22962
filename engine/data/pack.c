/* SPDX-License-Identifier: Apache-2.0
 * First-fit decreasing with a tree of the room left, so that the first row with enough room is
 * found in log n steps. */
#include "engine/data/pack.h"

#include <stdlib.h>
#include <string.h>

struct item {
  int64_t length, index, row;
};

static int longest_first(const void *a, const void *b) {
  const struct item *x = a, *y = b;
  if (x->length != y->length) return x->length > y->length ? -1 : 1;
  return x->index < y->index ? -1 : x->index > y->index;
}

static int by_row(const void *a, const void *b) {
  const struct item *x = a, *y = b;
  if (x->row != y->row) return x->row < y->row ? -1 : 1;
  return x->index < y->index ? -1 : x->index > y->index;
}

/* room: a tree over `width` rows (a power of two); node k has children 2k and 2k+1, leaves start
 * at width; a node holds the most room below it. */
static int64_t take_first_fit(int64_t *room, int64_t width, int64_t length) {
  int64_t k = 1;
  while (k < width) {
    k *= 2;
    if (room[k] < length) k++;
  }
  int64_t row = k - width;
  for (room[k] -= length; k > 1; k /= 2) {
    int64_t a = room[k], b = room[k ^ 1];
    room[k / 2] = a > b ? a : b;
  }
  return row;
}

/* Rows for the items of one window; returns how many. */
static int64_t pack_window(struct item *items, int64_t n, int64_t T, int64_t *room) {
  int64_t width = 1, n_rows = 0;
  while (width < n) width *= 2;
  for (int64_t k = 0; k < 2 * width; k++) room[k] = T;
  qsort(items, (size_t)n, sizeof *items, longest_first);
  for (int64_t i = 0; i < n; i++) {
    items[i].row = take_first_fit(room, width, items[i].length);
    if (items[i].row >= n_rows) n_rows = items[i].row + 1;
  }
  qsort(items, (size_t)n, sizeof *items, by_row);
  return n_rows;
}

ka_status ka_data_pack_rows(struct ka_ctx *ctx, struct ka_data_packed *out, const int64_t *lengths,
                            int64_t n, int64_t T, int64_t window) {
  void *items = NULL, *room = NULL;
  ka_status st = KA_STATUS_OK;
  *out = (struct ka_data_packed){0};
  KA_TRY_GOTO(ka_alloc_n(ctx, &items, window, sizeof(struct item), "packing"), out);
  KA_TRY_GOTO(ka_alloc_n(ctx, &room, 4 * window, sizeof(int64_t), "packing"), out);
  KA_TRY_GOTO(KA_NEW_HEAP(ctx, &out->first, n + 1, "rows"), out);
  KA_TRY_GOTO(KA_NEW_HEAP(ctx, &out->items, n, "rows"), out);
  struct item *w = items;
  for (int64_t start = 0; start < n; start += window) {
    int64_t m = n - start < window ? n - start : window;
    for (int64_t i = 0; i < m; i++) w[i] = (struct item){lengths[start + i], start + i, 0};
    int64_t n_rows = pack_window(w, m, T, room), at = start;
    for (int64_t r = 0, i = 0; r < n_rows; r++) {
      out->first[out->n_rows++] = at;
      for (; i < m && w[i].row == r; i++) out->items[at++] = w[i].index;
    }
  }
  out->first[out->n_rows] = n;
out:
  ka_free(items);
  ka_free(room);
  if (!ka_ok(st)) ka_data_packed_deinit(out);
  return st;
}

void ka_data_packed_deinit(struct ka_data_packed *p) {
  ka_free(p->first);
  ka_free(p->items);
  *p = (struct ka_data_packed){0};
}
