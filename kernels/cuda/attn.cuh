/* SPDX-License-Identifier: Apache-2.0
 *
 * What the attention kernels share: the problem, its rows and masks, tiles in shared memory.
 *
 * Query heads that share a key/value head are rows of one matrix: row r of a head (meaning a batch
 * row and one of its key/value heads) is token r / group and query head r % group of the group. So
 * a tile of keys serves the whole group, decoding fills rows of a tile with heads, and the
 * gradients of a key sum over its query heads by themselves.
 *
 * A tile is [rows][D] numbers in packs of 16 bytes. Pack c of row r stands where pack c ^ (r mod 8)
 * would, so that the same pack of 8 rows (ldmatrix) and 8 packs of one row (copies) never meet in a
 * bank:
 *
 *   row 0   0 1 2 3 4 5 6 7      D = 64 bf16: a row is the 32 banks, a digit is 4 of them
 *   row 1   1 0 3 2 5 4 7 6
 *   row 2   2 3 0 1 6 7 4 5 ... */
#ifndef KAPPA_KERNELS_CUDA_ATTN_CUH
#define KAPPA_KERNELS_CUDA_ATTN_CUH

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ptx.cuh"

#include <limits.h>

enum {
  ATTN_WIDEST = 256,              /* head that the tiles hold */
  ATTN_SHARED = (98 << 10) + 512, /* dynamic shared memory; every GPU from sm_80 on has 99 KiB */
  RUN = 32                        /* rows that share a first_key */
};

static const float LOG2_E = 1.44269504088896341f, LN_2 = 0.69314718055994531f;

/* --- the problem ------------------------------------------------------------------------------ */

struct attention {
  const int32_t *doc_start; /* [B,T] or NULL */
  int n_tok, n_keys, n_heads /* of keys */, group, q_width, v_width;
  int window, q_offset;
  float scale;
  float cap, inner; /* score = cap * tanh(inner * product), or without cap inner * product */
  bool plain;       /* score = scale * product, scale > 0: products serve as scores ... */
  float unit;       /* ... when multiplied by this, which makes powers of two of both */
  bool packs;       /* rows are whole packs at whole addresses */
};

template <typename T> struct forward {
  attention a;
  T *out;
  float *lse;
  const T *q, *k, *v;
};

/* What the backward pass knows of a row, made once (k_attn_rows): 16 bytes, a cp.async. */
struct row_facts {
  float lse, delta; /* lse in powers of two */
  int lo, hi;       /* keys_of() */
};

template <typename T> struct backward {
  attention a;
  T *dq, *dk, *dv;
  const T *q, *k, *v, *out, *dout;
  const float *lse;
  row_facts *facts; /* [heads][n_facts]; rows past the last see nothing */
  int *first_key;   /* [heads][n_facts / RUN]: the first key that one of these rows sees */
  int n_facts;
};

/* Rows of one head: its keys or values (one a token), or the queries (a group of them a token). */
template <typename T> struct key_rows {
  T *first;
  int stride, width, n; /* stride: from token to token */
  __device__ __forceinline__ key_rows(const attention &a, T *all, int head, int width_)
      : stride(a.n_heads * width_), width(width_), n(a.n_keys) {
    first = all + (int64_t)(head / a.n_heads) * n * stride + (int64_t)(head % a.n_heads) * width;
  }
  __device__ __forceinline__ T *at(int r) const { return first + (int64_t)r * stride; }
};
template <typename T> struct query_rows {
  T *first;
  int stride, group, width, n;
  __device__ __forceinline__ query_rows(const attention &a, T *all, int head, int width_)
      : stride(a.n_heads * a.group * width_), group(a.group), width(width_), n(a.n_tok * a.group) {
    first = all + (int64_t)(head / a.n_heads) * a.n_tok * stride +
            (int64_t)(head % a.n_heads) * group * width;
  }
  __device__ __forceinline__ T *at(int r) const {
    return first + (int64_t)(r / group) * stride + r % group * width;
  }
};

/* Where lse [B,H,T] has row r. */
static __device__ __forceinline__ int64_t lse_at(const attention &a, int head, int r) {
  return ((int64_t)head * a.group + r % a.group) * a.n_tok + r / a.group;
}

/* --- masks ------------------------------------------------------------------------------------ */

struct key_range {
  int lo, hi; /* both inclusive */
};
static __device__ __forceinline__ key_range no_keys() { return key_range{INT_MAX, -1}; }

/* The keys that row r sees; rows past the last see none. */
static __device__ __forceinline__ key_range keys_of(const attention &a, int head, int r) {
  int token = r / a.group;
  key_range k = {0, a.q_offset + token};
  if (token >= a.n_tok) return no_keys();
  if (a.doc_start) k.lo = max(0, a.doc_start[(int64_t)(head / a.n_heads) * a.n_tok + token]);
  if (a.window > 0) k.lo = max(k.lo, k.hi - a.window + 1);
  return k;
}
static __device__ __forceinline__ bool sees(key_range k, int key) {
  return k.lo <= key && key <= k.hi;
}

/* Of a tile of queries: keys below some.lo or above some.hi are seen by no row, keys from all.lo to
 * all.hi by all rows (but those past the last). */
struct tile_range {
  key_range some, all;
};

/* From a range a thread (or none: no_keys), to all threads of the block. */
template <int THREADS> __device__ __forceinline__ tile_range tile_keys(key_range k) {
  KA_SHARED(tile_range, part, THREADS / 32);
  tile_range t = {k, {-1, INT_MAX}};
  if (k.hi >= 0) t.all = k;
  t.some.lo = __reduce_min_sync(0xffffffffu, t.some.lo);
  t.some.hi = __reduce_max_sync(0xffffffffu, t.some.hi);
  t.all.lo = __reduce_max_sync(0xffffffffu, t.all.lo);
  t.all.hi = __reduce_min_sync(0xffffffffu, t.all.hi);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = t;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < THREADS / 32; w++) {
    t.some.lo = min(t.some.lo, part[w].some.lo);
    t.some.hi = max(t.some.hi, part[w].some.hi);
    t.all.lo = max(t.all.lo, part[w].all.lo);
    t.all.hi = min(t.all.hi, part[w].all.hi);
  }
  return t;
}

/* --- scores ----------------------------------------------------------------------------------- */

static __device__ __forceinline__ float tanh_of(float x, float) { return tanhf(x); }
/* Off by 2^-22 of 1: small against what bf16 has lost in the product. */
static __device__ __forceinline__ float tanh_of(float x, bf16) {
  return 1 - 2 * rcp_approx(exp2_approx(2 * LOG2_E * x) + 1);
}
/* A score, and its slope: dscore / d(scale * product). */
template <typename T>
__device__ __forceinline__ float score(const attention &a, float product, float *slope) {
  float t = a.inner * product;
  *slope = 1;
  if (a.cap <= 0) return t;
  t = tanh_of(t, T());
  *slope = 1 - t * t; /* 0 where t is 1, as it must be for infinities */
  return a.cap * t;
}
template <typename T> __device__ __forceinline__ float score(const attention &a, float product) {
  float slope;
  return score<T>(a, product, &slope);
}

/* --- tiles ------------------------------------------------------------------------------------ */

/* The element at which pack c of row r begins. */
template <typename T, int D> __device__ __forceinline__ int place(int r, int c) {
  const int N = vec16<T>::N, PACKS = D / N;
  static_assert(PACKS % 4 == 0, "rows are multiples of 64 bytes");
  /* when a row is an odd number of half lines, two rows make a whole number */
  const int LINE = PACKS % 8 == 0 ? 8 : 4, turn = LINE == 8 ? r & 7 : r >> 1 & 3;
  return (r * PACKS + (c & -LINE) + ((c & (LINE - 1)) ^ turn)) * N;
}

/* f(row, pack) for this thread's part of a tile: the same in every call. Not unrolled: addresses
 * would take the registers that sums need. */
template <typename T, int THREADS, int ROWS, int D, typename F>
__device__ __forceinline__ void each_pack(F f) {
  const int PACKS = D / vec16<T>::N, STEP = THREADS / PACKS;
  int me = (int)threadIdx.x;
  if (STEP * PACKS == THREADS) {
#pragma unroll 1
    for (int r = me / PACKS; r < ROWS; r += STEP) f(r, me % PACKS);
  } else {
#pragma unroll 1
    for (int at = me; at < ROWS * PACKS; at += THREADS) f(at / PACKS, at % PACKS);
  }
}

/* Starts to copy rows [first, first + ROWS); what is past the last row or the width becomes 0. */
template <int THREADS, int ROWS, int D, typename T, typename R>
__device__ __forceinline__ void load_tile(T *tile, const R &rows, int first, bool packs) {
  const int N = vec16<T>::N;
  each_pack<T, THREADS, ROWS, D>([&](int r, int c) {
    T *to = tile + place<T, D>(r, c);
    bool there = first + r < rows.n && c * N < rows.width;
    const T *from = there ? rows.at(first + r) + c * N : rows.first;
    if (packs) {
      cp_async_16(to, from, there ? 16 : 0);
    } else {
      float x[N];
#pragma unroll
      for (int k = 0; k < N; k++) x[k] = there && c * N + k < rows.width ? to_float(from[k]) : 0.0f;
      store<N>(to, x);
    }
  });
}

/* Is there a NaN or an infinity in what this thread has copied? */
template <int THREADS, int ROWS, int D, typename T>
__device__ __forceinline__ bool poisoned(const T *tile) {
  const int N = vec16<T>::N;
  bool bad = false;
  each_pack<T, THREADS, ROWS, D>([&](int r, int c) {
    float x[N];
    load<N>(x, tile + place<T, D>(r, c));
#pragma unroll
    for (int k = 0; k < N; k++) bad |= !(fabsf(x[k]) < INFINITY);
  });
  return bad;
}

/* A whole tile to rows [first, first + ROWS), as far as they exist. */
template <int THREADS, int ROWS, int D, typename T, typename R>
__device__ __forceinline__ void store_tile(const R &rows, int first, const T *tile, bool packs) {
  const int N = vec16<T>::N;
  each_pack<T, THREADS, ROWS, D>([&](int r, int c) {
    const T *from = tile + place<T, D>(r, c);
    if (first + r >= rows.n || c * N >= rows.width) return;
    T *to = rows.at(first + r) + c * N;
    if (packs) {
      *reinterpret_cast<pack<T, N> *>(to) = *reinterpret_cast<const pack<T, N> *>(from);
    } else {
      for (int k = 0; k < N && c * N + k < rows.width; k++) to[k] = from[k];
    }
  });
}

/* --- launching -------------------------------------------------------------------------------- */

static inline bool whole_packs(const struct ka_tensor &t) {
  return (uintptr_t)t.data % 16 == 0 && t.shape[3] * (int64_t)ka_dtype_bytes(t.dtype) % 16 == 0;
}

static inline attention attention_of(const struct ka_tensor &q, const struct ka_tensor &k,
                                     const struct ka_tensor &v, const struct ka_tensor &doc_start,
                                     int64_t window, int64_t q_offset, double scale,
                                     double softcap) {
  attention a = {};
  a.doc_start = (const int32_t *)doc_start.data;
  a.n_tok = (int)q.shape[1];
  a.n_keys = (int)k.shape[1];
  a.n_heads = (int)k.shape[2];
  a.group = (int)(q.shape[2] / k.shape[2]);
  a.q_width = (int)q.shape[3];
  a.v_width = (int)v.shape[3];
  a.window = window < k.shape[1] ? (int)window : 0;
  a.q_offset = (int)q_offset;
  a.scale = (float)scale;
  a.cap = (float)softcap;
  a.inner = (float)(softcap > 0 ? scale / softcap : scale);
  a.plain = softcap <= 0 && scale > 0;
  a.unit = (float)((a.plain ? scale : 1) * LOG2_E);
  a.packs = whole_packs(q) && whole_packs(k) && whole_packs(v);
  return a;
}

template <typename A>
static cudaError_t attn_allow(struct ka_dev *dev, void (*kernel)(A), int64_t blocks,
                              int shared_bytes) {
  if (blocks > INT_MAX) return cudaErrorInvalidConfiguration;
  return cuda_allow_shared(dev, reinterpret_cast<const void *>(kernel), shared_bytes);
}

/* Launches, or returns. */
#define ATTN_RUN(dev, op, kernel, blocks, threads, bytes, args)                                    \
  do {                                                                                             \
    int64_t blocks_ = blocks;                                                                      \
    cudaError_t e_ = attn_allow(dev, kernel, blocks_, bytes);                                      \
    if (e_ == cudaSuccess)                                                                         \
      e_ = KA_LAUNCH(kernel, (unsigned)blocks_, threads, bytes, cuda_of(dev)->stream, args);       \
    KA_TRY(cuda_launched(dev, op, e_));                                                            \
  } while (0)

/* No tiles for these heads? */
static inline bool by_rows(struct ka_dev *dev, const attention &a) {
  return cuda_of(dev)->without & CUDA_TILES || a.q_width > ATTN_WIDEST || a.v_width > ATTN_WIDEST;
}

/* f.run<DQ, DV>() for the smallest padded widths that there are kernels for. */
template <typename F> static ka_status by_width(const attention &a, const F &f) {
  if (a.q_width <= 64 && a.v_width <= 64) return f.template run<64, 64>();
  if (a.q_width <= 96 && a.v_width <= 96) return f.template run<96, 96>();
  if (a.q_width <= 128 && a.v_width <= 128) return f.template run<128, 128>();
  if (a.q_width <= 192 && a.v_width <= 128) return f.template run<192, 128>();
  return f.template run<256, 256>();
}

#endif
