/* SPDX-License-Identifier: Apache-2.0
 * Cross-entropy of rows of logits, the divergence from a base's, and their gradient in place. A
 * block a row: one reading finds the maximum and the sum of exponentials together (Milakov and
 * Gimelshein 2018), of the base's row the sum of e^(z0 - max) (z0 - z) with it; a second one (from
 * the cache where the row fits) writes the gradient. Bytes moved: the logits (and the base's) once
 * or twice, and once written with backward. */
#include "kernels/cuda/device.cuh"

namespace {

enum { BLOCK = 512 };

template <typename T> struct rows_of_logits {
  T *logits;
  const T *base;
  const int32_t *targets;
  const float *scale, *weight;
  float *loss, *kl;
  int32_t *argmax;
  int64_t n_classes;
  float grad_scale, ce_weight, kl_weight, cap;
  enum ka_xent_weigh weigh;
  bool backward;
};

__device__ __forceinline__ float capped(float z, float cap) {
  return cap > 0 ? cap * tanhf(z / cap) : z;
}

/* The maximum so far, its first place, and the sums of e^(z - max) and of e^(z - max) (z - other).
 */
struct partial {
  float max, sum, dot;
  int at;
};

/* e^(z - max), 0 for z = -inf whatever max is: so that a part of a row that holds nothing else adds
 * nothing. NaN stays. */
__device__ __forceinline__ float term(float z, float max) {
  return z == -INFINITY ? 0.0f : expf(z - max);
}

/* A weight of 0 takes no part, whatever stands beside it. */
__device__ __forceinline__ float weighed(float e, float difference) {
  return e == 0 ? 0.0f : e * difference;
}

__device__ __forceinline__ void add(partial &p, float z, float other, int at) {
  float e;
  if (z > p.max || p.at < 0) {
    float less = term(p.max, z);
    e = z == -INFINITY ? 0.0f : 1.0f + (z - z);
    p.sum = p.sum * less + e;
    p.dot = weighed(less, p.dot);
    p.max = z;
    p.at = at;
  } else {
    e = term(z, p.max);
    p.sum += e;
  }
  p.dot += weighed(e, z - other);
}

__device__ __forceinline__ partial join(partial a, partial b) {
  bool b_wins = b.at >= 0 && (a.at < 0 || b.max > a.max || (b.max == a.max && b.at < a.at));
  float max = b_wins ? b.max : a.max;
  float of_a = term(a.max, max), of_b = term(b.max, max);
  partial p = {max, a.sum * of_a + b.sum * of_b, weighed(of_a, a.dot) + weighed(of_b, b.dot),
               b_wins ? b.at : a.at};
  return p;
}

__device__ __forceinline__ partial shuffled(partial p, int lane) {
  partial q = {__shfl_xor_sync(0xffffffffu, p.max, lane), __shfl_xor_sync(0xffffffffu, p.sum, lane),
               __shfl_xor_sync(0xffffffffu, p.dot, lane), __shfl_xor_sync(0xffffffffu, p.at, lane)};
  return q;
}

/* Over the block, the same for every thread. */
__device__ __forceinline__ partial join_all(partial p) {
  KA_SHARED(partial, part, BLOCK / 32);
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) {
    partial q = shuffled(p, lane);
    p = threadIdx.x & lane ? join(q, p) : join(p, q); /* the same operands on both sides */
  }
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = p;
  __syncthreads();
  p = part[0];
  for (int i = 1; i < BLOCK / 32; i++) p = join(p, part[i]);
  __syncthreads(); /* part may be written again */
  return p;
}

__device__ __forceinline__ float log_sum_exp(partial p) {
  return p.max == -INFINITY ? NAN : p.max + logf(p.sum); /* all -inf: ref's e^(-inf + inf) */
}

/* Entropy of the softmax over the largest scores: as many readings of the row, each behind the
 * place that the last one found. */
template <typename T>
__device__ __forceinline__ float top_entropy(const T *logits, int64_t n_classes, float cap) {
  float last = INFINITY, first = 0, sum = 0, dot = 0;
  int at = -1;
  for (int k = 0; k < KA_EAFT_TOP; k++) {
    partial p = {-INFINITY, 0, 0, -1};
    for (int c = (int)threadIdx.x; c < n_classes; c += BLOCK) {
      float z = capped(to_float(logits[c]), cap);
      if (z > last || (z == last && c <= at)) continue;
      if (p.at < 0 || z > p.max) p.max = z, p.at = c;
    }
    p = join_all(p);
    if (p.at < 0) break; /* fewer classes */
    last = p.max;
    at = p.at;
    if (k == 0) first = last;
    float e = expf(last - first);
    sum += e;
    dot += e * (last - first);
  }
  return logf(sum) - dot / sum;
}

template <typename T, int N, bool BASE>
__global__ void __launch_bounds__(BLOCK) k_xent(rows_of_logits<T> a) {
  int64_t row = blockIdx.x, V = a.n_classes;
  T *logits = a.logits + row * V;
  const T *base = BASE ? a.base + row * V : nullptr;
  int target = a.targets[row];
  partial p = {-INFINITY, 0, 0, -1}, p0 = p;
  for (int64_t c = (int64_t)threadIdx.x * N; c < V; c += BLOCK * N) {
    float z[N], z0[N];
    load<N>(z, logits + c);
    if (BASE) load<N>(z0, base + c);
#pragma unroll
    for (int k = 0; k < N; k++) {
      float x = capped(z[k], a.cap);
      add(p, x, x, (int)c + k);
      if (BASE) add(p0, capped(z0[k], a.cap), x, (int)c + k);
    }
  }
  p = join_all(p);
  if (BASE) p0 = join_all(p0);
  float lse = log_sum_exp(p), lse0 = BASE ? log_sum_exp(p0) : 0;
  float hit = target >= 0 ? capped(to_float(logits[target]), a.cap) : 0;
  if (threadIdx.x == 0) {
    a.loss[row] = target >= 0 ? lse - hit : 0;
    if (BASE) a.kl[row] = target >= 0 ? p0.dot / p0.sum + (lse - lse0) : 0;
    if (a.argmax) a.argmax[row] = p.at;
  }
  if (!a.backward) return;
  float ce = a.ce_weight * (a.weight ? a.weight[row] : 1.0f);
  if (a.weigh == KA_WEIGH_DFT) ce *= expf(hit - lse);
  if (a.weigh == KA_WEIGH_EAFT) ce *= top_entropy(logits, V, a.cap) / 3.0f;
  __syncthreads(); /* everyone has read the target's logit */
  float scale = a.grad_scale * (a.scale ? *a.scale : 1.0f);
  for (int64_t c = (int64_t)threadIdx.x * N; c < V; c += BLOCK * N) {
    float z[N], z0[N];
    load<N>(z, logits + c);
    if (BASE) load<N>(z0, base + c);
#pragma unroll
    for (int k = 0; k < N; k++) {
      float x = capped(z[k], a.cap), of_x = expf(x - lse);
      float d = ce * (of_x - (c + k == target ? 1.0f : 0.0f));
      if (BASE) d += a.kl_weight * (of_x - expf(capped(z0[k], a.cap) - lse0));
      if (a.cap > 0) d *= 1.0f - x / a.cap * (x / a.cap);
      z[k] = target >= 0 ? scale * d : 0.0f;
    }
    store<N>(logits + c, z);
  }
}

template <typename T, int N>
cudaError_t launch(cudaStream_t stream, int64_t n_rows, rows_of_logits<T> a) {
  return a.base ? KA_LAUNCH((k_xent<T, N, true>), (unsigned)n_rows, BLOCK, 0, stream, a)
                : KA_LAUNCH((k_xent<T, N, false>), (unsigned)n_rows, BLOCK, 0, stream, a);
}

} // namespace

ka_status xent_cuda(struct ka_dev *dev, const struct ka_xent_args *args) {
  struct cuda_state *s = cuda_of(dev);
  int64_t n_rows = args->logits.shape[0];
  KA_BY_TYPE(dev, "xent", args->logits.dtype, {
    const int N = vec16<T>::N;
    rows_of_logits<T> a = {(T *)args->logits.data,
                           (const T *)args->base.data,
                           (const int32_t *)args->targets.data,
                           (const float *)args->scale.data,
                           (const float *)args->weight.data,
                           (float *)args->loss.data,
                           (float *)args->kl.data,
                           (int32_t *)args->argmax.data,
                           args->logits.shape[1],
                           (float)args->grad_scale,
                           (float)args->ce_weight,
                           (float)args->kl_weight,
                           (float)args->softcap,
                           args->weigh,
                           args->backward};
    if (n_rows == 0) return KA_STATUS_OK;
    bool packs = a.n_classes % N == 0 && in_packs(args->logits, N) && in_packs(args->base, N);
    cudaError_t e = packs ? launch<T, N>(s->stream, n_rows, a) : launch<T, 1>(s->stream, n_rows, a);
    return cuda_launched(dev, "xent", e);
  });
}
