/* SPDX-License-Identifier: Apache-2.0
 * Causal attention forward (Dao 2023, FlashAttention-2, algorithm 1): a tile of queries stays,
 * tiles of keys and values pass, maximum and sum run along (Milakov and Gimelshein 2018).
 *
 *   S = Q K^T    P = 2^(unit S - base)    O = 2^(base' - base) O + P V    out = O / sum P
 *
 * Grid: a block a tile of queries, longest rows first, tiles of a head side by side, so that they
 * find its keys in the cache. Block: WARPS warps with 16 M queries each. Shared memory: Q, two
 * stages of K and V (the next one arrives while the first is worked on), the rows' ranges. Moved:
 * q, out and lse once, k and v once a tile of queries, tiles that no row sees not at all. */
#include "kernels/cuda/attn_plain.cuh"
#include "kernels/cuda/attn_tile.cuh"
#include "kernels/cuda/cudnn.h"

namespace {

template <typename T, int DQ, int DV> struct shape {
  static const int ROW = DQ * (int)sizeof(T); /* bytes */
  static const int WARPS = ROW > 768 ? 2 : 4, THREADS = 32 * WARPS;
  static const int M = ROW < 384 ? 2 : 1, QUERIES = 16 * M * WARPS;
  static const int KEYS = ROW <= 128 ? 64 : ROW <= 512 ? 32 : 16, N = KEYS / 8;
  static const int STAGE = KEYS * (DQ + DV); /* elements */
  static const int BYTES =
      (QUERIES * DQ + 2 * STAGE) * (int)sizeof(T) + QUERIES * (int)sizeof(key_range);
  static const int BLOCKS = BYTES < 81 << 10 ? 2 : 1; /* of 164 KiB */
  static_assert(BYTES <= ATTN_SHARED, "tiles fit the shared memory");
};

/* Scores of one tile to weights; o and sum rescaled to the new maximum. A row that has seen nothing
 * yet has maximum -inf and weights of 0. */
template <int M, int N, int D>
__device__ __forceinline__ void soften(fragment<M, N> &s, fragment<M, D> &o, float (&top)[M][2],
                                       float (&sum)[M][2], float unit) {
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float most = top[m][h], part = 0;
#pragma unroll
      for (int n = 0; n < N; n++)
        most = fmaxf(most, fmaxf(s.at[m][n][2 * h], s.at[m][n][2 * h + 1]));
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
      /* rounded alike for the old and the new maximum, so that an unchanged one rescales by 1 */
      float base = most == -INFINITY ? 0 : __fmul_rn(most, unit);
      float keep = exp2_approx(__fmul_rn(top[m][h], unit) - base);
      top[m][h] = most;
#pragma unroll
      for (int i = 0; i < 2 * N; i++) {
        float &x = s.at[m][i / 2][2 * h + i % 2];
        x = exp2_approx(x * unit - base);
        part += x;
      }
      sum[m][h] = sum[m][h] * keep + part;
#pragma unroll
      for (int i = 0; i < 2 * D; i++) o.at[m][i / 2][2 * h + i % 2] *= keep;
    }
}

/* o divided by the sums of the four lanes of each row; lse to memory. */
template <int M, int D>
__device__ __forceinline__ void finish(const attention &a, float *lse, int head, int first, int n,
                                       fragment<M, D> &o, const float (&top)[M][2],
                                       const float (&sum)[M][2]) {
#pragma unroll
  for (int i = 0; i < 2 * M; i++) {
    float x = sum[i / 2][i % 2], max = top[i / 2][i % 2];
    int r = first + row_of(i / 2, i % 2 * 2);
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    x += __shfl_xor_sync(0xffffffffu, x, 2);
    if (lse && lane() % 4 == 0 && r < n) /* all scores -inf: no softmax */
      lse[lse_at(a, head, r)] = max == -INFINITY ? NAN : max * a.unit * LN_2 + logf(x);
    x = 1 / x;
#pragma unroll
    for (int k = 0; k < 2 * D; k++) o.at[i / 2][k / 2][i % 2 * 2 + k % 2] *= x;
  }
}

template <typename T, int DQ, int DV>
__global__ void __launch_bounds__(shape<T, DQ, DV>::THREADS, shape<T, DQ, DV>::BLOCKS)
    k_attn_fwd(forward<T> f) {
  typedef shape<T, DQ, DV> z;
  const int M = z::M, N = z::N, KEYS = z::KEYS, THREADS = z::THREADS, QUERIES = z::QUERIES;
  KA_SHARED_DYNAMIC(T, q);
  T *stages = q + QUERIES * DQ;
  key_range *seen = reinterpret_cast<key_range *>(stages + 2 * z::STAGE);
  const attention &a = f.a;
  int n_tiles = (a.n_tok * a.group + QUERIES - 1) / QUERIES;
  int head = (int)blockIdx.x / n_tiles, tile = n_tiles - 1 - (int)blockIdx.x % n_tiles;
  int first = tile * QUERIES, me = (int)threadIdx.x, mine = me / 32 * 16 * M;
  query_rows<const T> queries(a, f.q, head, a.q_width);
  key_rows<const T> keys(a, f.k, head, a.q_width), values(a, f.v, head, a.v_width);
  auto load = [&](int t) {
    T *k = stages + t % 2 * z::STAGE;
    load_tile<THREADS, KEYS, DQ>(k, keys, t * KEYS, a.packs);
    load_tile<THREADS, KEYS, DV>(k + KEYS * DQ, values, t * KEYS, a.packs);
    cp_async_commit();
  };
  load_tile<THREADS, QUERIES, DQ>(q, queries, first, a.packs);
  key_range own = me < QUERIES ? keys_of(a, head, first + me) : no_keys();
  if (me < QUERIES) seen[me] = own;
  tile_range range = tile_keys<THREADS>(own);
  int last = range.some.hi / KEYS;
  load(range.some.lo / KEYS);

  fragment<M, DV / 8> o;
  float top[M][2], sum[M][2];
  bool bad = false;
  o.clear();
#pragma unroll
  for (int i = 0; i < 2 * M; i++) top[i / 2][i % 2] = -INFINITY, sum[i / 2][i % 2] = 0;
  for (int t = range.some.lo / KEYS; t <= last; t++) {
    const T *k = stages + t % 2 * z::STAGE, *v = k + KEYS * DQ;
    int key = t * KEYS;
    bool edge = key < range.all.lo || key + KEYS - 1 > range.all.hi;
    cp_async_wait<0>();
    bad |= __syncthreads_or(edge && poisoned<THREADS, KEYS, DV>(v));
    if (t < last) load(t + 1); /* where tile t - 1 was, which all have left */
    if (first + mine >= queries.n) continue;
    fragment<M, N> s;
    scores<DQ>(s, q + mine * DQ, k);
    if (!a.plain) s.each([&](float &x, int, int, int) { x = score<T>(a, x); });
    if (edge)
      s.each([&](float &x, int m, int n, int i) {
        if (!sees(seen[mine + row_of(m, i)], key + column_of(n, i))) x = -INFINITY;
      });
    soften(s, o, top, sum, a.unit);
    weigh<DV>(o, s, v);
  }
  finish(a, f.lse, head, first + mine, queries.n, o, top, sum);
  __syncthreads(); /* q becomes out */
  put_rows<DV>(q + mine * DV, o);
  __syncthreads();
  store_tile<THREADS, QUERIES, DV>(query_rows<T>(a, f.out, head, a.v_width), first, q, a.packs);
  for (int r = first; bad && r < first + QUERIES && r < queries.n; r++)
    plain_fwd<THREADS>(f, head, r);
}

enum { PLAIN = 128 };
template <typename T> __global__ void __launch_bounds__(PLAIN) k_attn_fwd_plain(forward<T> f) {
  int n = f.a.n_tok * f.a.group;
  plain_fwd<PLAIN>(f, (int)blockIdx.x / n, (int)blockIdx.x % n);
}

template <typename T> struct launch {
  struct ka_dev *dev;
  forward<T> f;
  int64_t n_heads;

  template <int DQ, int DV> ka_status run() const {
    struct ka_ctx *ctx = dev->ctx;
    typedef shape<T, DQ, DV> z;
    ATTN_RUN(dev, "attn_fwd", (k_attn_fwd<T, DQ, DV>),
             n_heads * div_up((int64_t)f.a.n_tok * f.a.group, z::QUERIES), z::THREADS, z::BYTES, f);
    return KA_STATUS_OK;
  }
  ka_status run_plain() const {
    struct ka_ctx *ctx = dev->ctx;
    ATTN_RUN(dev, "attn_fwd", k_attn_fwd_plain<T>, n_heads * f.a.n_tok * f.a.group, PLAIN,
             PLAIN * (int)sizeof(float), f);
    return KA_STATUS_OK;
  }
};

} // namespace

ka_status attn_fwd_cuda(struct ka_dev *dev, const struct ka_attn_fwd_args *args) {
  ka_status st = KA_STATUS_OK;
  if (cuda_cudnn_attn_fwd(dev, args, &st)) return st;
  KA_BY_TYPE(dev, "attn_fwd", args->q.dtype, {
    if (args->q.shape[0] * args->q.shape[1] * args->q.shape[2] == 0) return KA_STATUS_OK;
    launch<T> l = {dev,
                   {attention_of(args->q, args->k, args->v, args->doc_start, args->window,
                                 args->q_offset, args->scale, args->softcap),
                    (T *)args->out.data, (float *)args->lse.data, (const T *)args->q.data,
                    (const T *)args->k.data, (const T *)args->v.data},
                   args->k.shape[0] * args->k.shape[2]};
    l.f.a.packs = l.f.a.packs && whole_packs(args->out);
    return by_rows(dev, l.f.a) ? l.run_plain() : by_width(l.f.a, l);
  });
}
