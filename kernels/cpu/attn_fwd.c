/* SPDX-License-Identifier: Apache-2.0
 * Causal attention forward by tiles of 64 queries and 64 keys with a running maximum and sum (Dao
 * 2022, algorithm 1), sums and weights in f32 (products in
 * bf16 pairs where the operands are bf16 and the processor has them). Keys (transposed) and values
 * are unpacked once for all queries; then tiles of queries are shared out over the threads, each
 * computed by one thread alone.
 *
 *             key tiles, K^T [D, 64] and V [64, Dv]
 *   q tile    S = Q K^T -> P = exp(S - max) -> O = O * rescale + P V
 */
#include "kernels/cpu/attn.h"

#include <omp.h>
#include <string.h>

struct plan {
  const struct ka_attn_fwd_args *args;
  int64_t width, v_width; /* of the heads, padded */
  int64_t n_q_tiles, n_k_tiles;
  float *keys, *values; /* [B*K][n_k_tiles][width*TILE], [..][TILE*v_width] */
  float *local;         /* a thread's Q, S, O, max, sum */
  int64_t local_floats;
  bool pairs;
};

static void unpack_keys(const struct plan *p) {
  const struct ka_attn_fwd_args *args = p->args;
  int64_t n_kv = args->k.shape[2], n = args->k.shape[0] * n_kv * p->n_k_tiles;
#pragma omp parallel for
  for (int64_t i = 0; i < n; i++) {
    int64_t tile = i % p->n_k_tiles, head = i / p->n_k_tiles;
    attn_right_t(attn_head_of(&args->k, head / n_kv, head % n_kv), tile * TILE,
                 p->keys + i * p->width * TILE, p->width, p->pairs);
    attn_right(attn_head_of(&args->v, head / n_kv, head % n_kv), tile * TILE,
               p->values + i * p->v_width * TILE, p->v_width, p->pairs);
  }
}

/* Scores of one query against a key tile to weights; rescales what the query has so far. */
static void softmax_row(const struct attn_mask *mask, int64_t i, int64_t key, float *s, float *o,
                        int64_t v_width, float *max, float *sum) {
  int64_t lo, hi;
  attn_range(mask, i, key, &lo, &hi);
  for (int64_t j = 0; j < lo; j++) s[j] = 0;
  for (int64_t j = hi; j < TILE; j++) s[j] = 0;
  if (lo == hi) return;
  attn_score(mask, s, lo, hi);
  float top = *max, part = 0;
#pragma omp simd reduction(max : top)
  for (int64_t j = lo; j < hi; j++) top = s[j] > top ? s[j] : top;
#pragma omp simd reduction(+ : part)
  for (int64_t j = lo; j < hi; j++) part += s[j] = fast_exp(s[j] - top);
  float rescale = fast_exp(*max - top);
  if (top > *max)
    for (int64_t d = 0; d < v_width; d++) o[d] *= rescale;
  *sum = *sum * rescale + part;
  *max = top;
}

static void finish(const struct plan *p, int64_t b, int64_t h, int64_t first, int64_t n, float *o,
                   const float *max, const float *sum) {
  const struct ka_attn_fwd_args *args = p->args;
  int64_t n_tok = args->q.shape[1], n_heads = args->q.shape[2];
  for (int64_t r = 0; r < n; r++)
    for (int64_t d = 0; d < p->v_width; d++) o[r * p->v_width + d] /= sum[r];
  attn_pack(attn_head_of(&args->out, b, h), first, n, o, p->v_width);
  float *lse = args->lse.data;
  for (int64_t r = 0; r < n && lse; r++)
    lse[(b * n_heads + h) * n_tok + first + r] = max[r] + logf(sum[r]);
}

static void query_tile(const struct plan *p, int64_t b, int64_t h, int64_t first, float *local) {
  const struct ka_attn_fwd_args *args = p->args;
  int64_t n_tok = args->q.shape[1], n_kv = args->k.shape[2], group = args->q.shape[2] / n_kv;
  int64_t n = min64(TILE, n_tok - first), rows = round_up(n, TILE_M);
  struct attn_mask mask = {&args->doc_start,   args->window,        args->q_offset, n_tok, b,
                           (float)args->scale, (float)args->softcap};
  float *q = local, *s = q + TILE * p->width, *o = s + TILE * TILE, *max = o + TILE * p->v_width;
  float *sum = max + TILE, *weights = p->pairs ? sum + TILE : s; /* P, as a product's operand */
  int64_t per = p->pairs ? 2 : 1;
  attn_left(attn_head_of(&args->q, b, h), first, q, p->width, p->pairs);
  memset(o, 0, (size_t)(TILE * p->v_width) * sizeof *o);
  for (int64_t r = 0; r < TILE; r++) {
    max[r] = -INFINITY;
    sum[r] = 0;
  }
  int64_t head = (b * n_kv + h / group) * p->n_k_tiles;
  int64_t last_key = args->q_offset + first + n - 1;
  for (int64_t t = attn_first_key_of_tile(&mask, first) / TILE; t <= last_key / TILE; t++) {
    const float *keys = p->keys + (head + t) * p->width * TILE;
    const float *values = p->values + (head + t) * p->v_width * TILE;
    tile_gemm(s, TILE, (struct tile_a){q, p->width / per, 1}, keys, TILE, rows, TILE,
              p->width / per, false, p->pairs);
    for (int64_t r = 0; r < rows; r++)
      softmax_row(&mask, first + r, t * TILE, s + r * TILE, o + r * p->v_width, p->v_width, max + r,
                  sum + r);
    if (p->pairs) attn_pairs_left(s, weights);
    tile_gemm(o, p->v_width, (struct tile_a){weights, TILE / per, 1}, values, p->v_width, rows,
              p->v_width, TILE / per, true, p->pairs);
  }
  finish(p, b, h, first, n, o, max, sum);
}

static ka_status make_plan(struct ka_dev *dev, const struct ka_attn_fwd_args *args,
                           struct plan *p) {
  struct ka_ctx *ctx = dev->ctx;
  int64_t n_kv_heads = args->k.shape[0] * args->k.shape[2];
  *p = (struct plan){.args = args,
                     .width = round_up(args->q.shape[3], TILE_N),
                     .v_width = round_up(args->v.shape[3], TILE_N),
                     .n_q_tiles = (args->q.shape[1] + TILE - 1) / TILE,
                     .n_k_tiles = (args->q_offset + args->q.shape[1] + TILE - 1) / TILE};
  p->pairs = TILE_HAS_PAIRS && args->q.dtype == KA_BF16;
  p->local_floats = TILE * (p->width + TILE + p->v_width + 2 + TILE / 2);
  int64_t tiles = n_kv_heads * p->n_k_tiles * TILE;
  int64_t floats = tiles * (p->width + p->v_width) + omp_get_max_threads() * p->local_floats;
  void *scratch;
  KA_TRY(cpu_scratch(dev, (size_t)floats * sizeof(float), &scratch));
  p->keys = scratch;
  p->values = p->keys + tiles * p->width;
  p->local = p->values + tiles * p->v_width;
  return KA_STATUS_OK;
}

ka_status attn_fwd_cpu(struct ka_dev *dev, const struct ka_attn_fwd_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  int64_t width = max64(args->q.shape[3], args->v.shape[3]);
  if (args->q.dtype == KA_F64 || ka_tensor_elems(&args->q) == 0 || width > CPU_BLOCK)
    return attn_fwd_ref(dev, args);
  if (args->q.shape[1] == 1) return attn_step_cpu(dev, args);
  if (!attn_finite(&args->q) || !attn_finite(&args->k) || !attn_finite(&args->v))
    return attn_fwd_ref(dev, args);
  struct plan p;
  KA_TRY(make_plan(dev, args, &p));
  unpack_keys(&p);
  int64_t n_heads = args->q.shape[2], n = args->q.shape[0] * n_heads * p.n_q_tiles;
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < n; i++) {
    int64_t tile = i % p.n_q_tiles, h = i / p.n_q_tiles % n_heads, b = i / p.n_q_tiles / n_heads;
    query_tile(&p, b, h, tile * TILE, p.local + omp_get_thread_num() * p.local_floats);
  }
  return KA_STATUS_OK;
}
