/* SPDX-License-Identifier: Apache-2.0
 * What of a tensor changed: the rows and columns outside which all bytes are the base's. */
#include "engine/formats/delta_parts.h"

#include <string.h>

/* Marks as ranges, in the arena. A mark is any of `width` neighbouring bytes not zero. */
static ka_status to_ranges(struct ka_arena *arena, const unsigned char *marks, int64_t n,
                           size_t width, struct ka_delta_ranges *out) {
  struct ka_ctx *ctx = arena->ctx;
  static const unsigned char zeros[8];
  int64_t *at = NULL;
  for (int pass = 0; pass < 2; pass++) { /* counts, then writes */
    bool inside = false;
    *out = (struct ka_delta_ranges){0};
    for (int64_t i = 0; i <= n; i++) {
      bool mark = i < n && memcmp(marks + (size_t)i * width, zeros, width) != 0;
      if (mark != inside && pass == 1) at[2 * out->n + inside] = i;
      out->n += inside && !mark;
      out->total += mark;
      inside = mark;
    }
    if (pass == 0) {
      KA_TRY(KA_NEW(arena, &at, 2 * out->n, "ranges"));
    }
  }
  out->at = at;
  return KA_STATUS_OK;
}

/* rows [n_rows], cols [n_cols * width]: marks of what differs. */
static void mark(const unsigned char *x, const unsigned char *y, int64_t n_rows, size_t row_bytes,
                 unsigned char *rows, unsigned char *cols) {
  for (int64_t r = 0; r < n_rows; r++, x += row_bytes, y += row_bytes) {
    if (memcmp(x, y, row_bytes) == 0) continue;
    rows[r] = 1;
    for (size_t i = 0; i < row_bytes; i++) cols[i] |= (unsigned char)(x[i] ^ y[i]);
  }
}

ka_status ka_delta_compare(struct ka_arena *arena, const struct ka_safetensors *base,
                           const struct ka_st_entry *old, const struct ka_safetensors *tuned,
                           struct ka_delta_tensor *t, bool *changed) {
  struct ka_ctx *ctx = arena->ctx;
  const struct ka_st_entry *e = t->entry;
  void *rows = NULL, *cols = NULL;
  *changed = true;
  ka_delta_matrix(e, &t->n_rows, &t->n_cols);
  if (!old || !ka_delta_same_kind(old, e)) return KA_STATUS_OK;
  const unsigned char *x = ka_delta_bytes(tuned, e), *y = ka_delta_bytes(base, old);
  *changed = e->n_bytes > 0 && memcmp(x, y, e->n_bytes) != 0;
  if (!*changed || e->unreadable) return KA_STATUS_OK;
  size_t width = ka_dtype_bytes(e->t.dtype), row_bytes = (size_t)t->n_cols * width;
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_alloc_n(ctx, &rows, t->n_rows, 1, "changed rows"), out);
  KA_TRY_GOTO(ka_alloc(ctx, &cols, row_bytes, "changed columns"), out);
  mark(x, y, t->n_rows, row_bytes, rows, cols);
  KA_TRY_GOTO(to_ranges(arena, rows, t->n_rows, 1, &t->rows), out);
  KA_TRY_GOTO(to_ranges(arena, cols, t->n_cols, width, &t->cols), out);
  /* A range costs about 16 bytes in the manifest; a part must save a tenth to be worth it. */
  double part = (double)t->rows.total * (double)t->cols.total * (double)width +
                16.0 * (double)(t->rows.n + t->cols.n);
  t->part = part < 0.9 * (double)e->n_bytes;
out:
  ka_free(rows);
  ka_free(cols);
  return st;
}
