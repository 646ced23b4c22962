/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention one query or key at a time, by a whole block and straight from the formulas: for heads
 * wider than the tiles, and for tiles in which infinities or NaN meet keys that not all rows see. A
 * tile multiplies those by a weight of 0, which would spread them; here unseen keys are not
 * touched.
 *
 * A thread takes a key (or row) and does its products over the width alone; then a column, and adds
 * up what the keys have given. Weights are computed again for each THREADS columns. */
#ifndef KAPPA_KERNELS_CUDA_ATTN_PLAIN_CUH
#define KAPPA_KERNELS_CUDA_ATTN_PLAIN_CUH

#include "kernels/cuda/attn.cuh"

template <typename T> __device__ float plain_dot(const T *x, const T *y, int n) {
  float sum = 0;
  for (int i = 0; i < n; i += 16) { /* short sums first: less is lost */
    float part = 0;
    for (int k = i; k < n && k < i + 16; k++) part += to_float(x[k]) * to_float(y[k]);
    sum += part;
  }
  return sum;
}

template <int THREADS> __device__ float block_max(float x) {
  KA_SHARED(float, part, THREADS / 32);
  x = warp_max(x);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
  __syncthreads();
  x = part[0];
  for (int w = 1; w < THREADS / 32; w++) x = fmaxf(x, part[w]);
  __syncthreads();
  return x;
}

/* out[c] = factor * sum over i of [begin, end) that count(i): weight(i) * x.at(i)[c]. Needs 4
 * THREADS bytes of dynamic shared memory, whatever was there. */
template <int THREADS, typename T, typename R, typename C, typename W>
__device__ void plain_sum(T *out, const R &x, int begin, int end, float factor, C count, W weight) {
  KA_SHARED_DYNAMIC(float, w);
  int me = (int)threadIdx.x;
  for (int c = me; c - me < x.width; c += THREADS) {
    float sum = 0;
    for (int i = begin; i < end; i += THREADS) {
      __syncthreads(); /* nobody needs the last ones */
      if (i + me < end && count(i + me)) w[me] = weight(i + me);
      __syncthreads();
      for (int k = 0; k < THREADS && i + k < end && c < x.width; k++)
        if (count(i + k)) sum += w[k] * to_float(x.at(i + k)[c]);
    }
    if (c < x.width) out[c] = from_float<T>(factor * sum);
  }
}

/* out and lse of row r. */
template <int THREADS, typename T> __device__ void plain_fwd(const forward<T> &f, int head, int r) {
  const attention &a = f.a;
  query_rows<const T> q(a, f.q, head, a.q_width);
  query_rows<T> out(a, f.out, head, a.v_width);
  key_rows<const T> k(a, f.k, head, a.q_width), v(a, f.v, head, a.v_width);
  key_range range = keys_of(a, head, r);
  auto score_of = [&](int j) { return score<T>(a, plain_dot(q.at(r), k.at(j), a.q_width)); };
  float most = -INFINITY, sum = 0;
  for (int j = range.lo + (int)threadIdx.x; j <= range.hi; j += THREADS)
    most = fmaxf(most, score_of(j));
  most = block_max<THREADS>(most);
  for (int j = range.lo + (int)threadIdx.x; j <= range.hi; j += THREADS)
    sum += expf(score_of(j) - most);
  sum = block_sum<THREADS>(sum);
  plain_sum<THREADS>(
      out.at(r), v, range.lo, range.hi + 1, 1 / sum, [](int) { return true; },
      [&](int j) { return expf(score_of(j) - most); });
  if (f.lse && threadIdx.x == 0) f.lse[lse_at(a, head, r)] = most + logf(sum);
}

/* P and dscore / scale of one query and one key. */
struct plain_pair {
  float p, ds;
};
template <typename T>
__device__ plain_pair plain_gradient(const backward<T> &f, int head, int r, int j) {
  const attention &a = f.a;
  query_rows<const T> q(a, f.q, head, a.q_width), out(a, f.out, head, a.v_width);
  query_rows<const T> dout(a, f.dout, head, a.v_width);
  key_rows<const T> k(a, f.k, head, a.q_width), v(a, f.v, head, a.v_width);
  float slope, s = score<T>(a, plain_dot(q.at(r), k.at(j), a.q_width), &slope);
  float delta = plain_dot(dout.at(r), out.at(r), a.v_width);
  plain_pair x = {expf(s - f.lse[lse_at(a, head, r)]), plain_dot(dout.at(r), v.at(j), a.v_width)};
  x.ds = x.p * ((x.ds - delta) * slope);
  return x;
}

/* dq of row r. */
template <int THREADS, typename T> __device__ void plain_dq(const backward<T> &f, int head, int r) {
  key_range range = keys_of(f.a, head, r);
  query_rows<T> dq(f.a, f.dq, head, f.a.q_width);
  key_rows<const T> k(f.a, f.k, head, f.a.q_width);
  plain_sum<THREADS>(
      dq.at(r), k, range.lo, range.hi + 1, f.a.scale, [](int) { return true; },
      [&](int j) { return plain_gradient(f, head, r, j).ds; });
}

/* dk (or dv) of key j. */
template <int THREADS, bool OF_K, typename T>
__device__ void plain_dkv(const backward<T> &f, int head, int j) {
  const attention &a = f.a;
  int width = OF_K ? a.q_width : a.v_width;
  query_rows<const T> x(a, OF_K ? f.q : f.dout, head, width);
  key_rows<T> out(a, OF_K ? f.dk : f.dv, head, width);
  plain_sum<THREADS>(
      out.at(j), x, j * a.group, x.n, OF_K ? a.scale : 1,
      [&](int r) { return sees(keys_of(a, head, r), j); },
      [&](int r) {
        plain_pair g = plain_gradient(f, head, r, j);
        return OF_K ? g.ds : g.p;
      });
}

#endif
