/* SPDX-License-Identifier: Apache-2.0
 *
 * What attention's forward and backward passes share: heads unpacked to padded f32 tiles, the
 * visible range of a query, scores of a tile. */
#ifndef KAPPA_KERNELS_CPU_ATTN_H
#define KAPPA_KERNELS_CPU_ATTN_H

#include "kernels/cpu/tile.h"
#include "kernels/cpu/vec.h"

enum { TILE = 64 }; /* queries, and keys, of a tile */

/* One head of a [B,T,H,D] tensor, as a matrix of T rows. */
struct attn_head {
  struct ka_tensor rows; /* [T, D], row_stride H*D */
};
struct attn_head attn_head_of(const struct ka_tensor *t, int64_t b, int64_t h);

/* Operands of tile products from rows [first, first + TILE) of a head, zero beyond its rows and
 * columns, in units of f32 or bf16 pairs (per = 1 or 2 values a unit):
 *   left     [TILE, width / per]  k runs along the head's columns
 *   right_t  [width / per, TILE]  k runs along the head's columns
 *   right    [TILE / per, width]  k runs along the head's rows */
void attn_left(struct attn_head h, int64_t first, float *to, int64_t width, bool pairs);
void attn_right_t(struct attn_head h, int64_t first, float *to, int64_t width, bool pairs);
void attn_right(struct attn_head h, int64_t first, float *to, int64_t width, bool pairs);

/* The same from an f32 tile [TILE, TILE], to bf16 pairs. left: as above. left_t: [TILE / 2, TILE],
 * k runs along the rows, to be read with strides 1 and TILE. */
void attn_pairs_left(const float *tile, float *to);
void attn_pairs_left_t(const float *tile, float *to);

/* n rows of from [n, width] into the head's rows from `first` on. */
void attn_pack(struct attn_head h, int64_t first, int64_t n, const float *from, int64_t width);

struct attn_mask {
  const struct ka_tensor *doc_start; /* [B,T] i32, or data NULL */
  int64_t window, q_offset, n_tok, batch;
  float scale, softcap;
};

/* First visible key of query i, whose last is q_offset + i. */
int64_t attn_first_key(const struct attn_mask *mask, int64_t i);
/* First key that any query of the tile from `first` on sees. */
int64_t attn_first_key_of_tile(const struct attn_mask *mask, int64_t first);

/* Visible columns [lo, hi) of query i in the key tile from `key` on; empty: lo = hi = 0. */
void attn_range(const struct attn_mask *mask, int64_t i, int64_t key, int64_t *lo, int64_t *hi);

/* Products to scores in place: scale, softcap. */
static inline void attn_score(const struct attn_mask *mask, float *s, int64_t lo, int64_t hi) {
  float scale = mask->scale, cap = mask->softcap;
  if (cap > 0) {
#pragma omp simd
    for (int64_t j = lo; j < hi; j++) s[j] = cap * fast_tanh(s[j] * scale / cap);
  } else {
#pragma omp simd
    for (int64_t j = lo; j < hi; j++) s[j] *= scale;
  }
}

/* attn_fwd for one query a row, in f32 or bf16; see attn_step.c. */
ka_status attn_step_cpu(struct ka_dev *dev, const struct ka_attn_fwd_args *args);

/* False when t holds a NaN or an infinity. Tiles multiply masked weights (zero) with whatever is
 * there, and 0 * inf is no zero: such input goes to ref. */
bool attn_finite(const struct ka_tensor *t);

#endif
