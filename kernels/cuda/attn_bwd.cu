/* SPDX-License-Identifier: Apache-2.0
 * Gradients of causal attention (Dao 2023, FlashAttention-2, algorithm 2) without atomics: those of
 * keys and values in one pass over the queries, those of queries in another over the keys, each sum
 * in one thread's registers and in order. Seven products of tiles, where atomic sums need five.
 *
 *   P = 2^(unit S - lse)    dP = dO V^T    dS = P (dP - delta)    delta = rowsum(dO O)
 *   dV = P^T dO             dK = scale dS^T Q                     dQ = scale dS K
 *
 * k_attn_rows: what is known of a row; moves dout, out once. k_attn_dkv: a block a tile of keys,
 * their S^T and dP^T, tiles of queries passing; shared memory K, V, two stages of Q, dO, facts;
 * moves k, v, dk, dv once, q and dout once a tile of keys. k_attn_dq: a block a tile of queries;
 * shared memory Q, dO, two stages of K, V; moves q, dout, dq once, k and v once a tile of queries.
 */
#include "kernels/cuda/attn_plain.cuh"
#include "kernels/cuda/attn_tile.cuh"
#include "kernels/cuda/cudnn.h"

namespace {

/* --- rows ------------------------------------------------------------------------------------- */

/* delta by the products that give dP: a query that sees one key has out = v and dS = 0. */
template <typename T, int D> struct rows_shape {
  static const int THREADS = D * (int)sizeof(T) > 512 ? 64 : 128, ROWS = THREADS / 2;
  static const int BYTES = 2 * ROWS * D * (int)sizeof(T);
};

template <typename T, int D>
__global__ void __launch_bounds__(rows_shape<T, D>::THREADS) k_attn_rows(backward<T> f) {
  const int THREADS = rows_shape<T, D>::THREADS, ROWS = rows_shape<T, D>::ROWS;
  KA_SHARED_DYNAMIC(T, dout);
  T *out = dout + ROWS * D;
  const attention &a = f.a;
  int n_tiles = f.n_facts / ROWS, head = (int)blockIdx.x / n_tiles;
  int first = (int)blockIdx.x % n_tiles * ROWS, mine = (int)threadIdx.x / 32 * 16,
      me = (int)threadIdx.x;
  load_tile<THREADS, ROWS, D>(dout, query_rows<const T>(a, f.dout, head, a.v_width), first,
                              a.packs);
  load_tile<THREADS, ROWS, D>(out, query_rows<const T>(a, f.out, head, a.v_width), first, a.packs);
  cp_async_commit();
  if (me < ROWS) {
    int lo = __reduce_min_sync(0xffffffffu, keys_of(a, head, first + me).lo);
    if (me % RUN == 0) f.first_key[head * (f.n_facts / RUN) + (first + me) / RUN] = lo;
  }
  cp_async_wait<0>();
  __syncthreads();
  fragment<1, 2> s; /* of which the diagonal counts */
  scores<D>(s, dout + mine * D, out + mine * D);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    int r = row_of(0, i), h = i / 2;
    if (column_of(h, i) != r) continue;
    key_range k = keys_of(a, head, first + mine + r);
    bool there = k.hi >= 0;
    row_facts facts = {there ? f.lse[lse_at(a, head, first + mine + r)] * LOG2_E : 0, s.at[0][h][i],
                       k.lo, k.hi};
    f.facts[(int64_t)head * f.n_facts + first + mine + r] = facts;
  }
}

/* From S and dP to P and dS / scale; lse_of and delta_of(m, n, i). */
template <typename T, int M, int N, typename L, typename D>
__device__ __forceinline__ void gradients(const attention &a, fragment<M, N> &s, fragment<M, N> &dp,
                                          L lse_of, D delta_of) {
  dp.each([&](float &x, int m, int n, int i) { x -= delta_of(m, n, i); });
  if (!a.plain)
    s.each([&](float &x, int m, int n, int i) {
      float slope;
      x = score<T>(a, x, &slope);
      dp.at[m][n][i] *= slope;
    });
  s.each([&](float &x, int m, int n, int i) {
    x = exp2_approx(x * a.unit - lse_of(m, n, i));
    dp.at[m][n][i] *= x;
  });
}

/* --- keys ------------------------------------------------------------------------------------- */

enum { OF_K = 1, OF_V = 2, OF_BOTH = 3 };

template <typename T, int DQ, int DV, int WHAT> struct keys_shape {
  static const int ROW = DQ * (int)sizeof(T); /* bytes */
  static const int WARPS = ROW < 768 ? 4 : 2, THREADS = 32 * WARPS, M = 1, KEYS = 16 * M * WARPS;
  static const int STEP = ROW <= 128 ? 64 : ROW <= 384 ? 32 : ROW <= 768 ? 16 : 8, N = STEP / 8;
  static const int OWN = KEYS * (DQ + (WHAT & OF_K ? DV : 0)), STAGE = STEP * (DQ + DV);
  static const int BYTES = (OWN + 2 * STAGE) * (int)sizeof(T) + 2 * STEP * (int)sizeof(row_facts);
  static const int BLOCKS = BYTES < 81 << 10 ? 2 : 1; /* of 164 KiB */
  static_assert(BYTES <= ATTN_SHARED, "tiles fit the shared memory");
};

/* One past the last row that may see a key before `end`; all threads of the block. */
template <int THREADS>
__device__ __forceinline__ int rows_end(const int *first_key, int n_runs, int end) {
  KA_SHARED(int, part, THREADS / 32);
  int last = -1;
  for (int i = (int)threadIdx.x; i < n_runs; i += THREADS)
    if (first_key[i] < end) last = i;
  last = __reduce_max_sync(0xffffffffu, last);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = last;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < THREADS / 32; w++) last = max(last, part[w]);
  return (last + 1) * RUN;
}

template <typename T, int DQ, int DV, int WHAT>
__global__ void __launch_bounds__(keys_shape<T, DQ, DV, WHAT>::THREADS,
                                  keys_shape<T, DQ, DV, WHAT>::BLOCKS) k_attn_dkv(backward<T> f) {
  typedef keys_shape<T, DQ, DV, WHAT> z;
  const int M = z::M, N = z::N, KEYS = z::KEYS, STEP = z::STEP, THREADS = z::THREADS;
  KA_SHARED_DYNAMIC(T, k);
  T *v = k + KEYS * DQ, *stages = k + z::OWN;
  row_facts *facts = reinterpret_cast<row_facts *>(stages + 2 * z::STAGE);
  const attention &a = f.a;
  int n_tiles = (a.n_keys + KEYS - 1) / KEYS, head = (int)blockIdx.x / n_tiles;
  int first = (int)blockIdx.x % n_tiles * KEYS, me = (int)threadIdx.x, mine = me / 32 * 16 * M;
  query_rows<const T> queries(a, f.q, head, a.q_width), douts(a, f.dout, head, a.v_width);
  const row_facts *all_facts = f.facts + (int64_t)head * f.n_facts;
  auto load = [&](int t) {
    T *q = stages + t % 2 * z::STAGE;
    load_tile<THREADS, STEP, DQ>(q, queries, t * STEP, a.packs);
    load_tile<THREADS, STEP, DV>(q + STEP * DQ, douts, t * STEP, a.packs);
    if (me < STEP) cp_async_16(facts + t % 2 * STEP + me, all_facts + t * STEP + me, 16);
    cp_async_commit();
  };
  load_tile<THREADS, KEYS, DQ>(k, key_rows<const T>(a, f.k, head, a.q_width), first, a.packs);
  if (WHAT & OF_K)
    load_tile<THREADS, KEYS, DV>(v, key_rows<const T>(a, f.v, head, a.v_width), first, a.packs);
  int begin = first * a.group / STEP;
  int end =
      rows_end<THREADS>(f.first_key + head * (f.n_facts / RUN), f.n_facts / RUN, first + KEYS);
  end = (min(end, queries.n) + STEP - 1) / STEP;
  load(begin);

  fragment<M, (WHAT & OF_K ? DQ / 8 : 1)> dk;
  fragment<M, (WHAT & OF_V ? DV / 8 : 1)> dv;
  bool bad = false;
  dk.clear();
  dv.clear();
  for (int t = begin; t < end; t++) {
    const T *q = stages + t % 2 * z::STAGE, *dout = q + STEP * DQ;
    const row_facts *row = facts + t % 2 * STEP;
    cp_async_wait<0>();
    bool edge =
        __syncthreads_or(me < STEP && (row[me].lo > first || row[me].hi < first + KEYS - 1));
    if (edge)
      bad |= __syncthreads_or((WHAT & OF_K && poisoned<THREADS, STEP, DQ>(q)) ||
                              (WHAT & OF_V && poisoned<THREADS, STEP, DV>(dout)));
    if (t + 1 < end) load(t + 1); /* where tile t - 1 was, which all have left */
    if (first + mine >= a.n_keys) continue;
    fragment<M, N> s, dp;
    scores<DQ>(s, k + mine * DQ, q);
    if (WHAT & OF_K)
      scores<DV>(dp, v + mine * DV, dout);
    else
      dp.clear();
    gradients<T>(
        a, s, dp, [&](int, int n, int i) { return row[column_of(n, i)].lse; },
        [&](int, int n, int i) { return row[column_of(n, i)].delta; });
    if (edge)
      s.each([&](float &x, int m, int n, int i) {
        const row_facts &r = row[column_of(n, i)];
        int key = first + mine + row_of(m, i);
        if (key < r.lo || key > r.hi) x = dp.at[m][n][i] = 0;
      });
    if constexpr ((WHAT & OF_V) != 0) weigh<DV>(dv, s, dout);
    if constexpr ((WHAT & OF_K) != 0) weigh<DQ>(dk, dp, q);
  }
  dk.each([&](float &x, int, int, int) { x *= a.scale; });
  __syncthreads(); /* k and v become dk and dv */
  if constexpr ((WHAT & OF_K) != 0) put_rows<DQ>(k + mine * DQ, dk);
  if constexpr ((WHAT & OF_V) != 0) put_rows<DV>((WHAT & OF_K ? v : k) + mine * DV, dv);
  __syncthreads();
  if (WHAT & OF_K)
    store_tile<THREADS, KEYS, DQ>(key_rows<T>(a, f.dk, head, a.q_width), first, k, a.packs);
  if (WHAT & OF_V)
    store_tile<THREADS, KEYS, DV>(key_rows<T>(a, f.dv, head, a.v_width), first, WHAT & OF_K ? v : k,
                                  a.packs);
  for (int j = first; bad && j < first + KEYS && j < a.n_keys; j++) {
    if (WHAT & OF_K) plain_dkv<THREADS, true>(f, head, j);
    if (WHAT & OF_V) plain_dkv<THREADS, false>(f, head, j);
  }
}

/* --- queries ---------------------------------------------------------------------------------- */

template <typename T, int DQ, int DV> struct queries_shape {
  static const int ROW = DQ * (int)sizeof(T); /* bytes */
  static const int WARPS = ROW == 256 ? 8 : ROW < 768 ? 4 : 2, THREADS = 32 * WARPS;
  static const int M = ROW < 256 ? 2 : 1, QUERIES = 16 * M * WARPS;
  static const int STEP = ROW <= 384 ? 32 : ROW <= 768 ? 16 : 8, N = STEP / 8;
  static const int STAGE = STEP * (DQ + DV); /* elements */
  static const int BYTES =
      (QUERIES * (DQ + DV) + 2 * STAGE) * (int)sizeof(T) + QUERIES * (int)sizeof(row_facts);
  static const int BLOCKS = BYTES < 81 << 10 ? 2 : 1; /* of 164 KiB */
  static_assert(BYTES <= ATTN_SHARED, "tiles fit the shared memory");
};

template <typename T, int DQ, int DV>
__global__ void __launch_bounds__(queries_shape<T, DQ, DV>::THREADS,
                                  queries_shape<T, DQ, DV>::BLOCKS) k_attn_dq(backward<T> f) {
  typedef queries_shape<T, DQ, DV> z;
  const int M = z::M, N = z::N, QUERIES = z::QUERIES, STEP = z::STEP, THREADS = z::THREADS;
  KA_SHARED_DYNAMIC(T, q);
  T *dout = q + QUERIES * DQ, *stages = dout + QUERIES * DV;
  row_facts *row = reinterpret_cast<row_facts *>(stages + 2 * z::STAGE);
  const attention &a = f.a;
  int n_tiles = (a.n_tok * a.group + QUERIES - 1) / QUERIES, head = (int)blockIdx.x / n_tiles;
  int tile = n_tiles - 1 - (int)blockIdx.x % n_tiles; /* longest first */
  int first = tile * QUERIES, me = (int)threadIdx.x, mine = me / 32 * 16 * M;
  query_rows<const T> queries(a, f.q, head, a.q_width);
  key_rows<const T> keys(a, f.k, head, a.q_width), values(a, f.v, head, a.v_width);
  auto load = [&](int t) {
    T *k = stages + t % 2 * z::STAGE;
    load_tile<THREADS, STEP, DQ>(k, keys, t * STEP, a.packs);
    load_tile<THREADS, STEP, DV>(k + STEP * DQ, values, t * STEP, a.packs);
    cp_async_commit();
  };
  load_tile<THREADS, QUERIES, DQ>(q, queries, first, a.packs);
  load_tile<THREADS, QUERIES, DV>(dout, query_rows<const T>(a, f.dout, head, a.v_width), first,
                                  a.packs);
  row_facts own = {0, 0, INT_MAX, -1};
  if (me < QUERIES) row[me] = own = f.facts[(int64_t)head * f.n_facts + first + me];
  tile_range range = tile_keys<THREADS>(key_range{own.lo, own.hi});
  int last = range.some.hi / STEP;
  load(range.some.lo / STEP);

  fragment<M, DQ / 8> dq;
  bool bad = false;
  dq.clear();
  for (int t = range.some.lo / STEP; t <= last; t++) {
    const T *k = stages + t % 2 * z::STAGE, *v = k + STEP * DQ;
    int key = t * STEP;
    bool edge = key < range.all.lo || key + STEP - 1 > range.all.hi;
    cp_async_wait<0>();
    bad |= __syncthreads_or(edge && poisoned<THREADS, STEP, DQ>(k));
    if (t < last) load(t + 1); /* where tile t - 1 was, which all have left */
    if (first + mine >= queries.n) continue;
    fragment<M, N> s, dp;
    scores<DQ>(s, q + mine * DQ, k);
    scores<DV>(dp, dout + mine * DV, v);
    gradients<T>(
        a, s, dp, [&](int m, int, int i) { return row[mine + row_of(m, i)].lse; },
        [&](int m, int, int i) { return row[mine + row_of(m, i)].delta; });
    if (edge)
      dp.each([&](float &x, int m, int n, int i) {
        const row_facts &r = row[mine + row_of(m, i)];
        int j = key + column_of(n, i);
        if (j < r.lo || j > r.hi) x = 0;
      });
    weigh<DQ>(dq, dp, k);
  }
  dq.each([&](float &x, int, int, int) { x *= a.scale; });
  __syncthreads(); /* q becomes dq */
  put_rows<DQ>(q + mine * DQ, dq);
  __syncthreads();
  store_tile<THREADS, QUERIES, DQ>(query_rows<T>(a, f.dq, head, a.q_width), first, q, a.packs);
  for (int r = first; bad && r < first + QUERIES && r < queries.n; r++)
    plain_dq<THREADS>(f, head, r);
}

/* --- heads wider than the tiles: a block a row or key ----------------------------------------- */

enum { PLAIN = 128 };

template <typename T> __global__ void __launch_bounds__(PLAIN) k_attn_bwd_plain(backward<T> f) {
  int n = f.a.n_tok * f.a.group, each = n + f.a.n_keys;
  int head = (int)blockIdx.x / each, i = (int)blockIdx.x % each;
  if (i < n) {
    plain_dq<PLAIN>(f, head, i);
  } else {
    plain_dkv<PLAIN, true>(f, head, i - n);
    plain_dkv<PLAIN, false>(f, head, i - n);
  }
}

/* --- launching -------------------------------------------------------------------------------- */

template <typename T> struct launch {
  struct ka_dev *dev;
  backward<T> f;
  int64_t n_heads;

  template <int DQ, int DV, int WHAT> ka_status dkv() const {
    struct ka_ctx *ctx = dev->ctx;
    typedef keys_shape<T, DQ, DV, WHAT> z;
    ATTN_RUN(dev, "attn_bwd", (k_attn_dkv<T, DQ, DV, WHAT>), n_heads * div_up(f.a.n_keys, z::KEYS),
             z::THREADS, z::BYTES, f);
    return KA_STATUS_OK;
  }
  template <int DQ, int DV> ka_status run() const {
    struct ka_ctx *ctx = dev->ctx;
    typedef rows_shape<T, DV> r;
    typedef queries_shape<T, DQ, DV> z;
    ATTN_RUN(dev, "attn_bwd", (k_attn_rows<T, DV>), n_heads * (f.n_facts / r::ROWS), r::THREADS,
             r::BYTES, f);
    if constexpr (DQ > 128) { /* sums of both would not fit the registers */
      KA_TRY((dkv<DQ, DV, OF_V>()));
      KA_TRY((dkv<DQ, DV, OF_K>()));
    } else {
      KA_TRY((dkv<DQ, DV, OF_BOTH>()));
    }
    ATTN_RUN(dev, "attn_bwd", (k_attn_dq<T, DQ, DV>),
             n_heads * div_up((int64_t)f.a.n_tok * f.a.group, z::QUERIES), z::THREADS, z::BYTES, f);
    return KA_STATUS_OK;
  }
  ka_status run_plain() const {
    struct ka_ctx *ctx = dev->ctx;
    ATTN_RUN(dev, "attn_bwd", k_attn_bwd_plain<T>,
             n_heads * ((int64_t)f.a.n_tok * f.a.group + f.a.n_keys), PLAIN,
             PLAIN * (int)sizeof(float), f);
    return KA_STATUS_OK;
  }
};

} // namespace

ka_status attn_bwd_cuda(struct ka_dev *dev, const struct ka_attn_bwd_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  ka_status st = KA_STATUS_OK;
  if (cuda_cudnn_attn_bwd(dev, args, &st)) return st;
  KA_BY_TYPE(dev, "attn_bwd", args->q.dtype, {
    if (args->q.shape[0] * args->q.shape[1] * args->q.shape[2] == 0) return KA_STATUS_OK;
    launch<T> l = {dev,
                   {attention_of(args->q, args->k, args->v, args->doc_start, args->window, 0,
                                 args->scale, args->softcap),
                    (T *)args->dq.data, (T *)args->dk.data, (T *)args->dv.data,
                    (const T *)args->q.data, (const T *)args->k.data, (const T *)args->v.data,
                    (const T *)args->out.data, (const T *)args->dout.data,
                    (const float *)args->lse.data, NULL, NULL, 0},
                   args->k.shape[0] * args->k.shape[2]};
    backward<T> &f = l.f;
    if (by_rows(dev, f.a)) return l.run_plain();
    for (const struct ka_tensor *t : {&args->dq, &args->dk, &args->dv, &args->out, &args->dout})
      f.a.packs = f.a.packs && whole_packs(*t);
    f.n_facts = (int)(div_up((int64_t)f.a.n_tok * f.a.group, 128) * 128);
    size_t n = (size_t)(l.n_heads * f.n_facts);
    void *scratch;
    KA_TRY(cuda_scratch(dev, n * sizeof(row_facts) + n / RUN * sizeof(int), &scratch));
    f.facts = (row_facts *)scratch;
    f.first_key = (int *)(f.facts + n);
    return by_width(f.a, l);
  });
}
