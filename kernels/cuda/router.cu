/* SPDX-License-Identifier: Apache-2.0
 * Routing of tokens to experts (ops.h), in f32. A warp a token: lane l holds experts l, l + 32,
 * ..., one bit each for those that are out of the choice; the best k come one after the other by a
 * maximum over the warp. Bytes moved: logits and scores once; again per pick from the cache. */
#include "kernels/cuda/device.cuh"

namespace {

enum { WARPS = 4, BLOCK = 32 * WARPS };

struct route {
  const float *logits, *bias;
  float *scores, *weight;
  int32_t *index;
  int64_t n_tok;
  int n, n_top, n_group, topk_group;
  float factor;
  bool softmax, normalise, by_two;
};

struct candidate {
  float value;
  int at; /* -1: none */
};

__device__ __forceinline__ bool better(candidate a, candidate b) {
  return a.at >= 0 && (b.at < 0 || a.value > b.value || (a.value == b.value && a.at < b.at));
}

/* The best of value(i), i in [first, end), whose bit i / 32 of the lane i % 32 is clear in `taken`;
 * all lanes get it. NaN is below everything. */
template <typename F>
__device__ __forceinline__ candidate best_of(int first, int end, unsigned taken, F value) {
  int lane = (int)threadIdx.x % 32;
  candidate best = {0, -1};
  for (int i = first / 32 * 32 + lane; i < end; i += 32) {
    if (i < first || taken >> (i / 32) & 1) continue;
    float v = value(i);
    candidate c = {isnan(v) ? -INFINITY : v, i};
    if (better(c, best)) best = c;
  }
#pragma unroll
  for (int d = 16; d > 0; d /= 2) {
    candidate other = {__shfl_xor_sync(0xffffffffu, best.value, d),
                       __shfl_xor_sync(0xffffffffu, best.at, d)};
    if (better(other, best)) best = other;
  }
  return best;
}

__device__ __forceinline__ unsigned bit_of(int i) {
  return i % 32 == (int)threadIdx.x % 32 ? 1u << (i / 32) : 0;
}

/* Bits of this lane's experts whose groups are out of the choice. */
template <typename F> __device__ unsigned closed_groups(const route &a, F choice) {
  int size = a.n / a.n_group, lane = (int)threadIdx.x % 32;
  float rank[2] = {0, 0}; /* of groups lane, lane + 32 */
  unsigned closed = 0, open = 0;
  for (int g = 0; g < a.n_group; g++) {
    candidate one = best_of(g * size, (g + 1) * size, 0, choice);
    float r = choice(one.at);
    if (a.by_two && size > 1)
      r += choice(best_of(g * size, (g + 1) * size, bit_of(one.at), choice).at);
    if (g % 32 == lane) rank[g / 32] = r;
  }
  for (int j = 0; j < a.topk_group; j++)
    open |= bit_of(best_of(0, a.n_group, open, [&](int i) { return rank[i / 32]; }).at);
  unsigned low = __ballot_sync(0xffffffffu, open & 1), high = __ballot_sync(0xffffffffu, open & 2);
  for (int e = lane; e < a.n; e += 32) {
    int g = e / size;
    if (!((g < 32 ? low >> g : high >> (g - 32)) & 1)) closed |= 1u << (e / 32);
  }
  return closed;
}

__global__ void __launch_bounds__(BLOCK) k_router_fwd(route a) {
  int64_t t = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
  int lane = (int)threadIdx.x % 32;
  if (t >= a.n_tok) return;
  const float *z = a.logits + t * a.n;
  float *s = a.scores + t * a.n, top = -INFINITY, sum = 0;
  for (int e = lane; e < a.n; e += 32) top = fmaxf(top, z[e]);
  top = warp_max(top);
  for (int e = lane; e < a.n; e += 32) {
    s[e] = a.softmax ? expf(z[e] - top) : 1.0f / (1.0f + expf(-z[e]));
    sum += s[e];
  }
  sum = warp_sum(sum);
  for (int e = lane; e < a.n && a.softmax; e += 32) s[e] /= sum;
  __syncwarp();
  bool by_score = !a.softmax || a.bias;
  auto choice = [&](int e) { return by_score ? s[e] + (a.bias ? a.bias[e] : 0) : z[e]; };
  unsigned taken = a.n_group > 1 ? closed_groups(a, choice) : 0;
  float chosen = 0;
  for (int j = 0; j < a.n_top; j++) {
    int e = best_of(0, a.n, taken, choice).at;
    taken |= bit_of(e);
    chosen += s[e];
    if (lane == 0) a.index[t * a.n_top + j] = e;
  }
  __syncwarp();
  for (int j = lane; j < a.n_top; j += 32)
    a.weight[t * a.n_top + j] =
        a.factor * s[a.index[t * a.n_top + j]] / (a.normalise ? chosen : 1.0f);
}

struct route_back {
  float *dlogits;
  const float *dweight, *scores;
  const int32_t *index, *live;
  const double *count, *scale;
  int64_t n_tok;
  int n, n_top;
  float factor;
  double load_factor;
  bool softmax, normalise;
};

__global__ void __launch_bounds__(BLOCK) k_router_bwd(route_back a) {
  int64_t t = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
  int lane = (int)threadIdx.x % 32, n_top = a.dweight ? a.n_top : 0;
  if (t >= a.n_tok) return;
  const float *s = a.scores + t * a.n, *dw = a.dweight + t * a.n_top;
  const int32_t *index = a.index + t * a.n_top;
  bool loaded = a.count && (!a.live || a.live[t] != 0);
  double load = a.load_factor * (a.scale ? *a.scale : 1.0);
  float sum = 0, dot = 0;
  for (int j = lane; j < n_top; j += 32) {
    sum += s[index[j]];
    dot += s[index[j]] * dw[j];
  }
  sum = warp_sum(sum);
  dot = warp_sum(dot);
  auto gradient = [&](int e) {
    float d = loaded ? (float)(load * a.count[e]) : 0;
    for (int j = 0; j < n_top; j++)
      if (index[j] == e) d += a.factor * (a.normalise ? dw[j] / sum - dot / (sum * sum) : dw[j]);
    return d;
  };
  float back = 0;
  for (int e = lane; e < a.n && a.softmax; e += 32) back += gradient(e) * s[e];
  back = warp_sum(back);
  for (int e = lane; e < a.n; e += 32)
    a.dlogits[t * a.n + e] =
        a.softmax ? s[e] * (gradient(e) - back) : s[e] * (1.0f - s[e]) * gradient(e);
}

/* A block an expert: its column of the scores, and how often it stands in index. */
__global__ void __launch_bounds__(256)
    k_router_load(double *count, double *score_sum, const float *scores, const int32_t *index,
                  const int32_t *live, int64_t n_tok, int n, int n_top) {
  int e = (int)blockIdx.x;
  double sum = 0, times = 0;
  for (int64_t t = threadIdx.x; t < n_tok; t += 256) {
    if (live && live[t] == 0) continue;
    sum += (double)scores[t * n + e];
    for (int j = 0; j < n_top; j++) times += index[t * n_top + j] == e ? 1.0 : 0.0;
  }
  sum = block_sum<256>(sum);
  times = block_sum<256>(times);
  if (threadIdx.x > 0) return;
  count[e] += times;
  score_sum[e] += sum;
}

__global__ void k_router_loss(double *loss, const double *count, const double *score_sum,
                              const double *scale, int n, double load_factor) {
  double sum = 0;
  for (int e = (int)threadIdx.x; e < n; e += 32) sum += count[e] * score_sum[e];
  sum = warp_sum(sum);
  if (threadIdx.x == 0) *loss += load_factor * (scale ? *scale : 1.0) * sum;
}

} // namespace

ka_status router_fwd_cuda(struct ka_dev *dev, const struct ka_router_fwd_args *args) {
  struct cuda_state *s = cuda_of(dev);
  route a = {(const float *)args->logits.data,
             (const float *)args->bias.data,
             (float *)args->scores.data,
             (float *)args->weight.data,
             (int32_t *)args->index.data,
             args->logits.shape[0],
             (int)args->logits.shape[1],
             (int)args->index.shape[1],
             (int)args->n_group,
             (int)args->topk_group,
             (float)args->factor,
             args->kind == KA_ROUTER_SOFTMAX,
             args->normalise,
             args->group_by_two};
  if (args->logits.dtype == KA_F64) return cuda_unsupported(dev, "router_fwd", KA_F64);
  if (a.n_tok == 0 || a.n == 0) return KA_STATUS_OK;
  return cuda_launched(
      dev, "router_fwd",
      KA_LAUNCH(k_router_fwd, (unsigned)div_up(a.n_tok, WARPS), BLOCK, 0, s->stream, a));
}

ka_status router_bwd_cuda(struct ka_dev *dev, const struct ka_router_bwd_args *args) {
  struct cuda_state *s = cuda_of(dev);
  route_back a = {(float *)args->dlogits.data,
                  (const float *)args->dweight.data,
                  (const float *)args->scores.data,
                  (const int32_t *)args->index.data,
                  (const int32_t *)args->live.data,
                  (const double *)args->count.data,
                  (const double *)args->scale.data,
                  args->scores.shape[0],
                  (int)args->scores.shape[1],
                  (int)args->index.shape[1],
                  (float)args->factor,
                  args->load_factor,
                  args->kind == KA_ROUTER_SOFTMAX,
                  args->normalise};
  if (args->scores.dtype == KA_F64) return cuda_unsupported(dev, "router_bwd", KA_F64);
  if (a.n_tok == 0 || a.n == 0) return KA_STATUS_OK;
  return cuda_launched(
      dev, "router_bwd",
      KA_LAUNCH(k_router_bwd, (unsigned)div_up(a.n_tok, WARPS), BLOCK, 0, s->stream, a));
}

ka_status router_load_cuda(struct ka_dev *dev, const struct ka_router_load_args *args) {
  struct cuda_state *s = cuda_of(dev);
  int64_t n_tok = args->scores.shape[0], n = args->scores.shape[1];
  if (args->scores.dtype == KA_F64) return cuda_unsupported(dev, "router_load", KA_F64);
  if (n_tok == 0 || n == 0) return KA_STATUS_OK;
  return cuda_launched(
      dev, "router_load",
      KA_LAUNCH(k_router_load, (unsigned)n, 256, 0, s->stream, (double *)args->count.data,
                (double *)args->score_sum.data, (const float *)args->scores.data,
                (const int32_t *)args->index.data, (const int32_t *)args->live.data, n_tok, (int)n,
                (int)args->index.shape[1]));
}

ka_status router_loss_cuda(struct ka_dev *dev, const struct ka_router_loss_args *args) {
  struct cuda_state *s = cuda_of(dev);
  return cuda_launched(
      dev, "router_loss",
      KA_LAUNCH(k_router_loss, 1, 32, 0, s->stream, (double *)args->loss.data,
                (const double *)args->count.data, (const double *)args->score_sum.data,
                (const double *)args->scale.data, (int)args->count.shape[0], args->load_factor));
}
