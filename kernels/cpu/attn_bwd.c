/* SPDX-License-Identifier: Apache-2.0
 * Attention backward by tiles (Dao 2022, algorithm 4), in f32 (products in bf16 pairs where the
 * operands are bf16 and the processor has them): weights are recomputed from q, k and lse. One
 * thread does all query heads of one key/value head of one row, so that dk and dv are summed in one
 * place and in one order, whatever the threads.
 *
 *   P = exp(score(Q K^T) - lse)          dV += P^T dO
 *   dP = dO V^T,  dS = P (dP - delta) scale score'      dK += dS^T Q,  dQ += dS K
 */
#include "kernels/cpu/attn.h"

#include <omp.h>
#include <string.h>

/* One thread's tiles; every matrix is tiles of 64 rows, zero beyond the head. */
struct work {
  float *k, *k_t, *v_t, *dk, *dv; /* of the key/value head: n_tiles of [64, width] or [width, 64] */
  float *q, *dout, *dq;           /* of the query head; left operands */
  float *q_r, *dout_r;            /* right operands */
  float *s, *ds;                  /* [64, 64] */
  float *s_t, *ds_t, *ds_l;       /* left operands of P^T, dS^T, dS in pairs */
  float *lse, *delta;             /* [n_tiles * 64] */
};

struct plan {
  const struct ka_attn_bwd_args *args;
  int64_t width, v_width, n_tiles, floats;
  bool pairs;
};

static struct work carve(const struct plan *p, float *at) {
  struct work w;
  int64_t rows = p->n_tiles * TILE;
  const struct {
    float **p;
    int64_t n;
  } parts[] = {{&w.k, rows * p->width},
               {&w.k_t, rows * p->width},
               {&w.v_t, rows * p->v_width},
               {&w.dk, rows * p->width},
               {&w.dv, rows * p->v_width},
               {&w.q, rows * p->width},
               {&w.dq, rows * p->width},
               {&w.dout, rows * p->v_width},
               {&w.s, TILE * TILE},
               {&w.ds, TILE * TILE},
               {&w.q_r, rows * p->width},
               {&w.dout_r, rows * p->v_width},
               {&w.s_t, TILE * TILE / 2},
               {&w.ds_t, TILE * TILE / 2},
               {&w.ds_l, TILE * TILE / 2},
               {&w.lse, rows},
               {&w.delta, rows}};
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
    *parts[i].p = at;
    at += parts[i].n;
  }
  if (!p->pairs) { /* in f32 the left and right operands are the same */
    w.q_r = w.q;
    w.dout_r = w.dout;
  }
  return w;
}

/* P and dS of one query against a key tile, from Q K^T in s and dO V^T in ds. */
static void weights_row(const struct attn_mask *mask, int64_t i, int64_t key, float *s, float *ds,
                        float lse, float delta) {
  int64_t lo, hi;
  float scale = mask->scale, cap = mask->softcap;
  attn_range(mask, i, key, &lo, &hi);
  for (int64_t j = 0; j < lo; j++) s[j] = ds[j] = 0;
  for (int64_t j = hi; j < TILE; j++) s[j] = ds[j] = 0;
  attn_score(mask, s, lo, hi);
  if (cap > 0) {
#pragma omp simd
    for (int64_t j = lo; j < hi; j++) {
      float slope = 1.0f - s[j] / cap * (s[j] / cap);
      s[j] = fast_exp(s[j] - lse);
      ds[j] = s[j] * (ds[j] - delta) * scale * slope;
    }
  } else {
#pragma omp simd
    for (int64_t j = lo; j < hi; j++) {
      s[j] = fast_exp(s[j] - lse);
      ds[j] = s[j] * (ds[j] - delta) * scale;
    }
  }
}

static void tile_pair(const struct plan *p, const struct work *w, const struct attn_mask *mask,
                      int64_t tq, int64_t tk) {
  int64_t at_q = tq * TILE * p->width, at_k = tk * TILE * p->width, per = p->pairs ? 2 : 1;
  int64_t at_do = tq * TILE * p->v_width, at_v = tk * TILE * p->v_width;
  int64_t rows = round_up(min64(TILE, mask->n_tok - tq * TILE), TILE_M);
  struct tile_a q = {w->q + at_q, p->width / per, 1}, dout = {w->dout + at_do, p->v_width / per, 1};
  struct tile_a s_t = {w->s, 1, TILE}, ds_t = {w->ds, 1, TILE}, ds = {w->ds, TILE, 1};
  tile_gemm(w->s, TILE, q, w->k_t + at_k, TILE, rows, TILE, p->width / per, false, p->pairs);
  tile_gemm(w->ds, TILE, dout, w->v_t + at_v, TILE, rows, TILE, p->v_width / per, false, p->pairs);
  for (int64_t r = 0; r < rows; r++)
    weights_row(mask, tq * TILE + r, tk * TILE, w->s + r * TILE, w->ds + r * TILE,
                w->lse[tq * TILE + r], w->delta[tq * TILE + r]);
  if (p->pairs) { /* rows past `rows` are left over from other tiles, and not read */
    attn_pairs_left_t(w->s, w->s_t);
    attn_pairs_left_t(w->ds, w->ds_t);
    attn_pairs_left(w->ds, w->ds_l);
    s_t = (struct tile_a){w->s_t, 1, TILE};
    ds_t = (struct tile_a){w->ds_t, 1, TILE};
    ds = (struct tile_a){w->ds_l, TILE / 2, 1};
  }
  tile_gemm(w->dv + at_v, p->v_width, s_t, w->dout_r + at_do, p->v_width, TILE, p->v_width,
            rows / per, true, p->pairs);
  tile_gemm(w->dk + at_k, p->width, ds_t, w->q_r + at_q, p->width, TILE, p->width, rows / per, true,
            p->pairs);
  tile_gemm(w->dq + at_q, p->width, ds, w->k + at_k, p->width, rows, p->width, TILE / per, true,
            p->pairs);
}

/* delta = rowsum(dout * out), and lse, of one query head. */
static void row_statistics(const struct plan *p, const struct work *w, int64_t b, int64_t h) {
  const struct ka_attn_bwd_args *args = p->args;
  int64_t n_tok = args->q.shape[1], n_heads = args->q.shape[2], n = args->out.shape[3];
  const float *lse = (const float *)args->lse.data + (b * n_heads + h) * n_tok;
  struct attn_head out = attn_head_of(&args->out, b, h), dout = attn_head_of(&args->dout, b, h);
  for (int64_t t = 0; t < p->n_tiles * TILE; t++) {
    float buf_x[CPU_BLOCK], buf_y[CPU_BLOCK], sum = 0;
    if (t < n_tok) {
      const float *x = load_block(&out.rows, t * out.rows.row_stride, n, buf_x);
      const float *y = load_block(&dout.rows, t * dout.rows.row_stride, n, buf_y);
#pragma omp simd reduction(+ : sum)
      for (int64_t d = 0; d < n; d++) sum += x[d] * y[d];
    }
    w->delta[t] = sum;
    w->lse[t] = t < n_tok ? lse[t] : 0;
  }
}

static void query_head(const struct plan *p, const struct work *w, int64_t b, int64_t h) {
  const struct ka_attn_bwd_args *args = p->args;
  int64_t n_tok = args->q.shape[1];
  struct attn_mask mask = {&args->doc_start,   args->window,        0, n_tok, b,
                           (float)args->scale, (float)args->softcap};
  struct attn_head q = attn_head_of(&args->q, b, h), dout = attn_head_of(&args->dout, b, h);
  for (int64_t t = 0; t < p->n_tiles; t++) {
    int64_t at = t * TILE * p->width, at_v = t * TILE * p->v_width;
    attn_left(q, t * TILE, w->q + at, p->width, p->pairs);
    attn_left(dout, t * TILE, w->dout + at_v, p->v_width, p->pairs);
    if (p->pairs) attn_right(q, t * TILE, w->q_r + at, p->width, true);
    if (p->pairs) attn_right(dout, t * TILE, w->dout_r + at_v, p->v_width, true);
  }
  row_statistics(p, w, b, h);
  memset(w->dq, 0, (size_t)(p->n_tiles * TILE * p->width) * sizeof *w->dq);
  for (int64_t tq = 0; tq < p->n_tiles; tq++)
    for (int64_t tk = attn_first_key_of_tile(&mask, tq * TILE) / TILE; tk <= tq; tk++)
      tile_pair(p, w, &mask, tq, tk);
  attn_pack(attn_head_of(&args->dq, b, h), 0, n_tok, w->dq, p->width);
}

static void key_value_head(const struct plan *p, const struct work *w, int64_t b, int64_t g) {
  const struct ka_attn_bwd_args *args = p->args;
  int64_t n_tok = args->q.shape[1], group = args->q.shape[2] / args->k.shape[2];
  for (int64_t t = 0; t < p->n_tiles; t++) {
    struct attn_head k = attn_head_of(&args->k, b, g), v = attn_head_of(&args->v, b, g);
    attn_right(k, t * TILE, w->k + t * TILE * p->width, p->width, p->pairs);
    attn_right_t(k, t * TILE, w->k_t + t * TILE * p->width, p->width, p->pairs);
    attn_right_t(v, t * TILE, w->v_t + t * TILE * p->v_width, p->v_width, p->pairs);
  }
  memset(w->dk, 0, (size_t)(p->n_tiles * TILE * p->width) * sizeof *w->dk);
  memset(w->dv, 0, (size_t)(p->n_tiles * TILE * p->v_width) * sizeof *w->dv);
  for (int64_t h = g * group; h < (g + 1) * group; h++) query_head(p, w, b, h);
  attn_pack(attn_head_of(&args->dk, b, g), 0, n_tok, w->dk, p->width);
  attn_pack(attn_head_of(&args->dv, b, g), 0, n_tok, w->dv, p->v_width);
}

static bool all_finite(const struct ka_attn_bwd_args *args) {
  return attn_finite(&args->q) && attn_finite(&args->k) && attn_finite(&args->v) &&
         attn_finite(&args->out) && attn_finite(&args->dout) && attn_finite(&args->lse);
}

ka_status attn_bwd_cpu(struct ka_dev *dev, const struct ka_attn_bwd_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  int64_t width = max64(args->q.shape[3], args->v.shape[3]);
  if (args->q.dtype == KA_F64 || ka_tensor_elems(&args->q) == 0 || width > CPU_BLOCK ||
      !all_finite(args))
    return attn_bwd_ref(dev, args);
  struct plan p = {args,
                   round_up(args->q.shape[3], TILE_N),
                   round_up(args->v.shape[3], TILE_N),
                   (args->q.shape[1] + TILE - 1) / TILE,
                   0,
                   false};
  p.pairs = TILE_HAS_PAIRS && args->q.dtype == KA_BF16;
  p.floats = p.n_tiles * TILE * (6 * p.width + 4 * p.v_width + 2) + 4 * TILE * TILE;
  void *scratch;
  KA_TRY(cpu_scratch(dev, (size_t)(omp_get_max_threads() * p.floats) * sizeof(float), &scratch));
  int64_t n_kv = args->k.shape[2], n = args->q.shape[0] * n_kv;
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < n; i++) {
    struct work w = carve(&p, (float *)scratch + omp_get_thread_num() * p.floats);
    key_value_head(&p, &w, i / n_kv, i % n_kv);
  }
  return KA_STATUS_OK;
}
