/* SPDX-License-Identifier: Apache-2.0
 * What attention's forward and backward passes share; see attn.h. */
#include "kernels/cpu/attn.h"

#include <string.h>

struct attn_head attn_head_of(const struct ka_tensor *t, int64_t b, int64_t h) {
  int64_t stride = t->shape[2] * t->shape[3];
  int64_t at = b * t->shape[1] * stride + h * t->shape[3];
  struct attn_head head = {ka_tensor_2d((char *)t->data + (size_t)at * ka_dtype_bytes(t->dtype),
                                        t->dtype, t->shape[1], t->shape[3])};
  head.rows.row_stride = stride;
  return head;
}

static void unpack_row(struct attn_head h, int64_t row, float *to) {
  const struct ka_tensor *t = &h.rows;
  int64_t n = t->shape[1], at = row * t->row_stride;
  if (t->dtype == KA_F32)
    memcpy(to, (const float *)t->data + at, (size_t)n * sizeof *to);
  else
    floats_from_bf16(to, (const uint16_t *)t->data + at, n);
}

/* Row `row` as bf16, or zeros past the last. */
static void bf16_row(struct attn_head h, int64_t row, uint16_t *to, int64_t width) {
  const struct ka_tensor *t = &h.rows;
  int64_t n = row < t->shape[0] ? t->shape[1] : 0;
  if (n) memcpy(to, (const uint16_t *)t->data + row * t->row_stride, (size_t)n * sizeof *to);
  for (int64_t c = n; c < width; c++) to[c] = 0;
}

static void f32_row(struct attn_head h, int64_t row, float *to, int64_t width) {
  int64_t n = row < h.rows.shape[0] ? h.rows.shape[1] : 0;
  if (n) unpack_row(h, row, to);
  for (int64_t c = n; c < width; c++) to[c] = 0;
}

void attn_left(struct attn_head h, int64_t first, float *to, int64_t width, bool pairs) {
  for (int64_t r = 0; r < TILE; r++)
    if (pairs)
      bf16_row(h, first + r, (uint16_t *)(to + r * (width / 2)), width);
    else
      f32_row(h, first + r, to + r * width, width);
}

/* 32 bits of whatever is there: written as f32 or bf16, moved as units. */
typedef uint32_t unit __attribute__((may_alias));

/* A cache line of each column at a time. */
void attn_right_t(struct attn_head h, int64_t first, float *to, int64_t width, bool pairs) {
  enum { ROWS = 16 };
  unit rows[ROWS][CPU_BLOCK], *units = (unit *)to;
  for (int64_t r = 0; r < TILE; r += ROWS) {
    for (int64_t i = 0; i < ROWS; i++)
      if (pairs)
        bf16_row(h, first + r + i, (uint16_t *)rows[i], width);
      else
        f32_row(h, first + r + i, (float *)rows[i], width);
    for (int64_t c = 0; c < width / (pairs ? 2 : 1); c++)
      for (int64_t i = 0; i < ROWS; i++) units[c * TILE + r + i] = rows[i][c];
  }
}

void attn_right(struct attn_head h, int64_t first, float *to, int64_t width, bool pairs) {
  if (!pairs) {
    attn_left(h, first, to, width, false);
    return;
  }
  uint16_t low[CPU_BLOCK], high[CPU_BLOCK];
  for (int64_t r = 0; r < TILE; r += 2) {
    unit *units = (unit *)to + r / 2 * width;
    bf16_row(h, first + r, low, width);
    bf16_row(h, first + r + 1, high, width);
    for (int64_t c = 0; c < width; c++) units[c] = low[c] | (uint32_t)high[c] << 16;
  }
}

void attn_pairs_left(const float *tile, float *to) {
  bf16_from_floats((uint16_t *)to, tile, TILE * TILE);
}

void attn_pairs_left_t(const float *tile, float *to) {
  for (int64_t r = 0; r < TILE; r += 2) {
    const float *low = tile + r * TILE, *high = low + TILE;
    unit *units = (unit *)to + r / 2 * TILE;
    for (int64_t c = 0; c < TILE; c++)
      units[c] = ka_f32_to_bf16(low[c]) | (uint32_t)ka_f32_to_bf16(high[c]) << 16;
  }
}

void attn_pack(struct attn_head h, int64_t first, int64_t n, const float *from, int64_t width) {
  const struct ka_tensor *t = &h.rows;
  for (int64_t r = 0; r < n; r++) {
    int64_t at = (first + r) * t->row_stride;
    if (t->dtype == KA_F32)
      memcpy((float *)t->data + at, from + r * width, (size_t)t->shape[1] * sizeof(float));
    else
      bf16_from_floats((uint16_t *)t->data + at, from + r * width, t->shape[1]);
  }
}

/* First visible key of query i, whose last is q_offset + i. */
int64_t attn_first_key(const struct attn_mask *mask, int64_t i) {
  int64_t first = 0, p = mask->q_offset + i;
  if (mask->doc_start->data) first = get_id(mask->doc_start, mask->batch * mask->n_tok + i);
  return mask->window > 0 ? max64(first, p - mask->window + 1) : first;
}

int64_t attn_first_key_of_tile(const struct attn_mask *mask, int64_t first) {
  int64_t key = INT64_MAX;
  for (int64_t i = first; i < min64(first + TILE, mask->n_tok); i++)
    key = min64(key, attn_first_key(mask, i));
  return key;
}

void attn_range(const struct attn_mask *mask, int64_t i, int64_t key, int64_t *lo, int64_t *hi) {
  *lo = *hi = 0;
  if (i >= mask->n_tok) return;
  int64_t from = max64(attn_first_key(mask, i) - key, 0);
  int64_t to = min64(mask->q_offset + i + 1 - key, TILE);
  if (from >= to) return;
  *lo = from;
  *hi = to;
}

bool attn_finite(const struct ka_tensor *t) {
  int64_t n = ka_tensor_elems(t);
  int bad = 0;
#pragma omp parallel for reduction(| : bad) if (n > CPU_PARALLEL)
  for (int64_t i = 0; i < n; i += CPU_BLOCK) {
    int64_t len = min64(CPU_BLOCK, n - i);
    int found = 0;
    if (t->dtype == KA_F32) {
      const uint32_t *bits = (const uint32_t *)t->data + i;
      for (int64_t k = 0; k < len; k++) found |= (bits[k] & 0x7f800000u) == 0x7f800000u;
    } else {
      const uint16_t *bits = (const uint16_t *)t->data + i;
      for (int64_t k = 0; k < len; k++) found |= (bits[k] & 0x7f80u) == 0x7f80u;
    }
    bad |= found;
  }
  return !bad;
}
