/* SPDX-License-Identifier: Apache-2.0
 * Cross-entropy of rows of logits, and their gradient in place. A block a row: one reading finds
 * the maximum and the sum of exponentials together (Milakov and Gimelshein 2018), a second one
 * (from the cache where the row fits) writes the gradient. Bytes moved: the logits once or twice,
 * and once written with backward. */
#include "kernels/cuda/device.cuh"

namespace {

enum { BLOCK = 512 };

template <typename T> struct rows_of_logits {
  T *logits;
  const int32_t *targets;
  const float *scale;
  float *loss;
  int32_t *argmax;
  int64_t n_classes;
  float grad_scale, cap;
  bool backward;
};

__device__ __forceinline__ float capped(float z, float cap) {
  return cap > 0 ? cap * tanhf(z / cap) : z;
}

/* The maximum so far, its first place, and the sum of e^(z - max). */
struct partial {
  float max, sum;
  int at;
};

/* e^(z - max), 0 for z = -inf whatever max is: so that a part of a row that holds nothing else adds
 * nothing. NaN stays. */
__device__ __forceinline__ float term(float z, float max) {
  return z == -INFINITY ? 0.0f : expf(z - max);
}

__device__ __forceinline__ void add(partial &p, float z, int at) {
  if (z > p.max || p.at < 0) {
    p.sum = p.sum * term(p.max, z) + (z == -INFINITY ? 0.0f : 1.0f + (z - z));
    p.max = z;
    p.at = at;
  } else {
    p.sum += term(z, p.max);
  }
}

__device__ __forceinline__ partial join(partial a, partial b) {
  bool b_wins = b.at >= 0 && (a.at < 0 || b.max > a.max || (b.max == a.max && b.at < a.at));
  float max = b_wins ? b.max : a.max;
  partial p = {max, a.sum * term(a.max, max) + b.sum * term(b.max, max), b_wins ? b.at : a.at};
  return p;
}

__device__ __forceinline__ partial shuffled(partial p, int lane) {
  partial q = {__shfl_xor_sync(0xffffffffu, p.max, lane), __shfl_xor_sync(0xffffffffu, p.sum, lane),
               __shfl_xor_sync(0xffffffffu, p.at, lane)};
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
  return p;
}

template <typename T, int N> __global__ void __launch_bounds__(BLOCK) k_xent(rows_of_logits<T> a) {
  int64_t row = blockIdx.x, V = a.n_classes;
  T *logits = a.logits + row * V;
  int target = a.targets[row];
  partial p = {-INFINITY, 0, -1};
  for (int64_t c = (int64_t)threadIdx.x * N; c < V; c += BLOCK * N) {
    float z[N];
    load<N>(z, logits + c);
#pragma unroll
    for (int k = 0; k < N; k++) add(p, capped(z[k], a.cap), (int)c + k);
  }
  p = join_all(p);
  /* all -inf: ref's e^(-inf + inf) */
  float lse = p.max == -INFINITY ? NAN : p.max + logf(p.sum);
  float hit = target >= 0 ? capped(to_float(logits[target]), a.cap) : 0;
  if (threadIdx.x == 0) {
    a.loss[row] = target >= 0 ? lse - hit : 0;
    if (a.argmax) a.argmax[row] = p.at;
  }
  if (!a.backward) return;
  __syncthreads(); /* everyone has read the target's logit */
  float scale = a.grad_scale * (a.scale ? *a.scale : 1.0f);
  for (int64_t c = (int64_t)threadIdx.x * N; c < V; c += BLOCK * N) {
    float z[N];
    load<N>(z, logits + c);
#pragma unroll
    for (int k = 0; k < N; k++) {
      float x = capped(z[k], a.cap), d = expf(x - lse) - (c + k == target ? 1.0f : 0.0f);
      if (a.cap > 0) d *= 1.0f - x / a.cap * (x / a.cap);
      z[k] = target >= 0 ? scale * d : 0.0f;
    }
    store<N>(logits + c, z);
  }
}

} // namespace

ka_status xent_cuda(struct ka_dev *dev, const struct ka_xent_args *args) {
  struct cuda_state *s = cuda_of(dev);
  int64_t n_rows = args->logits.shape[0];
  KA_BY_TYPE(dev, "xent", args->logits.dtype, {
    const int N = wide<T>::N;
    rows_of_logits<T> a = {(T *)args->logits.data,
                           (const int32_t *)args->targets.data,
                           (const float *)args->scale.data,
                           (float *)args->loss.data,
                           (int32_t *)args->argmax.data,
                           args->logits.shape[1],
                           (float)args->grad_scale,
                           (float)args->softcap,
                           args->backward};
    if (n_rows == 0) return KA_STATUS_OK;
    bool packs = a.n_classes % N == 0 && in_packs(args->logits, N);
    cudaError_t e = packs ? KA_LAUNCH((k_xent<T, N>), (unsigned)n_rows, BLOCK, 0, s->stream, a)
                          : KA_LAUNCH((k_xent<T, 1>), (unsigned)n_rows, BLOCK, 0, s->stream, a);
    return cuda_launched(dev, "xent", e);
  });
}
