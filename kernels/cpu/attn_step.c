/* SPDX-License-Identifier: Apache-2.0
 * Attention forward for one query a row, as decoding asks it: keys and values are read once, where
 * they lie, for all query heads that share them; nothing is unpacked for others to use. */
#include "kernels/cpu/attn.h"
#include "kernels/cpu/dot.h"

#include <omp.h>
#include <string.h>

/* What one key head's query heads need; a thread's own. */
struct step {
  float *q, *o, *s, *v; /* [group, D], [group, Dv], [group, TILE], [TILE, Dv] */
  float *max, *sum;     /* [group] */
  uint16_t *q16;        /* q as it came, of bf16 */
};

static int64_t step_floats(const struct ka_attn_fwd_args *args) {
  int64_t group = args->q.shape[2] / args->k.shape[2], D = args->q.shape[3], Dv = args->v.shape[3];
  return round_up(group * (2 * D + Dv + TILE + 2) + TILE * Dv, 16);
}

static struct step step_of(const struct ka_attn_fwd_args *args, float *local) {
  int64_t group = args->q.shape[2] / args->k.shape[2], D = args->q.shape[3], Dv = args->v.shape[3];
  struct step s = {.v = local};
  s.q = s.v + TILE * Dv;
  s.o = s.q + group * D;
  s.s = s.o + group * Dv;
  s.max = s.s + group * TILE;
  s.sum = s.max + group;
  s.q16 = (uint16_t *)(s.sum + group);
  return s;
}

/* The queries, gathered; nothing seen so far. */
static void begin(const struct ka_attn_fwd_args *args, const struct step *x, int64_t b, int64_t h,
                  int64_t group) {
  int64_t D = args->q.shape[3];
  for (int64_t g = 0; g < group; g++) {
    struct attn_head q = attn_head_of(&args->q, b, h + g);
    void *to = args->q.dtype == KA_F32 ? (void *)(x->q + g * D) : (void *)(x->q16 + g * D);
    memcpy(to, q.rows.data, (size_t)D * ka_dtype_bytes(args->q.dtype));
    x->max[g] = -INFINITY;
    x->sum[g] = 0;
  }
  memset(x->o, 0, (size_t)(group * args->v.shape[3]) * sizeof *x->o);
}

/* s[., j] for the keys [lo, hi) of a tile. */
static void score(const struct step *x, const struct attn_head *keys, int64_t tile, int64_t lo,
                  int64_t hi, int64_t group) {
  const struct ka_tensor *t = &keys->rows;
  int64_t D = t->shape[1];
  for (int64_t j = lo; j < hi; j++)
    for (int64_t g = 0; g < group; g++) {
      int64_t at = (tile + j) * t->row_stride;
      x->s[g * TILE + j] = t->dtype == KA_F32
                               ? dot_f32(x->q + g * D, (const float *)t->data + at, D)
                               : dot_bf16(x->q16 + g * D, (const uint16_t *)t->data + at, D);
    }
}

/* Scores to weights, by the running maximum; what there is so far is rescaled. */
static void weigh(const struct step *x, const struct attn_mask *mask, int64_t g, int64_t lo,
                  int64_t hi, int64_t Dv) {
  float *s = x->s + g * TILE, *o = x->o + g * Dv, top = x->max[g], part = 0;
  attn_score(mask, s, lo, hi);
#pragma omp simd reduction(max : top)
  for (int64_t j = lo; j < hi; j++) top = s[j] > top ? s[j] : top;
#pragma omp simd reduction(+ : part)
  for (int64_t j = lo; j < hi; j++) part += s[j] = fast_exp(s[j] - top);
  float rescale = fast_exp(x->max[g] - top);
  if (top > x->max[g])
    for (int64_t d = 0; d < Dv; d++) o[d] *= rescale;
  x->sum[g] = x->sum[g] * rescale + part;
  x->max[g] = top;
}

/* o += p V over the keys [lo, hi), for so many columns that their sums stay in registers. */
static inline void add_columns(float *o, const float *p, const float *v, int64_t n, int64_t Dv) {
  enum { VECTORS = 4 };
  int64_t d = 0;
  for (; d + VECTORS * TILE_LANES <= Dv; d += VECTORS * TILE_LANES) {
    tile_vec sum[VECTORS];
#pragma GCC unroll 4
    for (int i = 0; i < VECTORS; i++) sum[i] = *(tile_vec *)(o + d + i * TILE_LANES);
    for (int64_t j = 0; j < n; j++)
#pragma GCC unroll 4
      for (int i = 0; i < VECTORS; i++)
        sum[i] += p[j] * *(const tile_vec *)(v + j * Dv + d + i * TILE_LANES);
#pragma GCC unroll 4
    for (int i = 0; i < VECTORS; i++) *(tile_vec *)(o + d + i * TILE_LANES) = sum[i];
  }
  for (int64_t j = 0; j < n && d < Dv; j++)
    for (int64_t c = d; c < Dv; c++) o[c] += p[j] * v[j * Dv + c];
}

static void add_values(const struct step *x, const struct attn_head *values, int64_t tile,
                       int64_t lo, int64_t hi, int64_t group) {
  const struct ka_tensor *t = &values->rows;
  int64_t Dv = t->shape[1];
  for (int64_t j = lo; j < hi; j++) {
    float *row = x->v + (j - lo) * Dv;
    const float *from = load_block(t, (tile + j) * t->row_stride, Dv, row);
    if (from != row) memcpy(row, from, (size_t)Dv * sizeof *row);
  }
  for (int64_t g = 0; g < group; g++)
    add_columns(x->o + g * Dv, x->s + g * TILE + lo, x->v, hi - lo, Dv);
}

static void finish(const struct ka_attn_fwd_args *args, const struct step *x, int64_t b, int64_t h,
                   int64_t group) {
  int64_t n_heads = args->q.shape[2], Dv = args->v.shape[3];
  for (int64_t g = 0; g < group; g++) {
    float *o = x->o + g * Dv, *lse = args->lse.data;
    for (int64_t d = 0; d < Dv; d++) o[d] /= x->sum[g];
    attn_pack(attn_head_of(&args->out, b, h + g), 0, 1, o, Dv);
    if (lse) lse[b * n_heads + h + g] = x->max[g] + logf(x->sum[g]);
  }
}

/* All query heads of row b that read key head kv. */
static void key_head(const struct ka_attn_fwd_args *args, int64_t b, int64_t kv, float *local) {
  int64_t group = args->q.shape[2] / args->k.shape[2], Dv = args->v.shape[3];
  struct step x = step_of(args, local);
  struct attn_mask mask = {&args->doc_start,   args->window,        args->q_offset, 1, b,
                           (float)args->scale, (float)args->softcap};
  struct attn_head keys = attn_head_of(&args->k, b, kv), values = attn_head_of(&args->v, b, kv);
  begin(args, &x, b, kv * group, group);
  for (int64_t t = attn_first_key(&mask, 0) / TILE * TILE; t <= args->q_offset; t += TILE) {
    int64_t lo, hi;
    attn_range(&mask, 0, t, &lo, &hi);
    score(&x, &keys, t, lo, hi, group);
    for (int64_t g = 0; g < group; g++) weigh(&x, &mask, g, lo, hi, Dv);
    add_values(&x, &values, t, lo, hi, group);
  }
  finish(args, &x, b, kv * group, group);
}

ka_status attn_step_cpu(struct ka_dev *dev, const struct ka_attn_fwd_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  int64_t n_kv = args->k.shape[2], n = args->q.shape[0] * n_kv, floats = step_floats(args);
  void *scratch;
  KA_TRY(cpu_scratch(dev, (size_t)(omp_get_max_threads() * floats) * sizeof(float), &scratch));
  bool wide = (args->q_offset + 1) * n_kv * args->q.shape[3] > CPU_PARALLEL;
#pragma omp parallel for if (wide)
  for (int64_t i = 0; i < n; i++)
    key_head(args, i / n_kv, i % n_kv, (float *)scratch + omp_get_thread_num() * floats);
  return KA_STATUS_OK;
}
