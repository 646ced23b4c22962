/* SPDX-License-Identifier: Apache-2.0
 * torch.optim.AdamW (Loshchilov and Hutter 2019, algorithm 2) over a list of slices, a launch for
 * every LIST of them: blockIdx.y is the slice. Everything an element needs is read and written
 * once; the state may lie in pinned host memory, then the bus is the limit. The clip factor comes
 * from the device, and where it is not finite nothing is written. */
#include "kernels/cuda/device.cuh"

#include <math.h>

namespace {

enum { BLOCK = 256, LIST = 32 };

struct slice {
  void *weight, *w, *m, *v;
  const float *grad;
  const void *w0;
  int64_t n, width, weight_stride, w_stride, w0_stride;
  unsigned long long seed, first;
  float decay, pull, size;
  bool w0_is_bf16;
};

struct step {
  slice slices[LIST];
  const double *stats;
  int64_t n_stats;
  double max_norm;
  float mix1, beta2, mix2, correction, eps;
  unsigned long long t;
};

/* ka_adamw_clip, on the device. */
__device__ float clip_of(const step &s) {
  if (!s.stats) return 1;
  for (int64_t i = 0; i < s.n_stats; i++)
    if (!isfinite(s.stats[i])) return NAN;
  return s.max_norm > 0 ? (float)fmin(1.0, s.max_norm / (sqrt(s.stats[0]) + 1e-6)) : 1;
}

/* Philox 4x32-10 as base/rng.c: the words of (seed, t, index). */
__device__ __forceinline__ void philox(unsigned long long seed, unsigned long long stream,
                                       unsigned long long index, unsigned out[4]) {
  unsigned k0 = (unsigned)seed, k1 = (unsigned)(seed >> 32);
  unsigned c0 = (unsigned)index, c1 = (unsigned)(index >> 32);
  unsigned c2 = (unsigned)stream, c3 = (unsigned)(stream >> 32);
#pragma unroll
  for (int round = 0; round < 10; round++) {
    unsigned h0 = __umulhi(0xD2511F53u, c0), l0 = 0xD2511F53u * c0;
    unsigned h1 = __umulhi(0xCD9E8D57u, c2), l1 = 0xCD9E8D57u * c2;
    c0 = h1 ^ c1 ^ k0;
    c1 = l1;
    c2 = h0 ^ c3 ^ k1;
    c3 = l0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

/* x as State: to nearest, or in bf16 up with the probability of what is cut off. */
template <typename State> __device__ __forceinline__ State keep(float x, unsigned random);
template <> __device__ __forceinline__ float keep<float>(float x, unsigned) { return x; }
template <> __device__ __forceinline__ bf16 keep<bf16>(float x, unsigned random) {
  unsigned bits = __float_as_uint(x);
  if ((bits & 0x7f800000u) == 0x7f800000u) return __float2bfloat16_rn(x);
  return __ushort_as_bfloat16((unsigned short)((bits + (random & 0xffffu)) >> 16));
}

__device__ __forceinline__ float w0_of(const slice &a, int64_t i) {
  return a.w0_is_bf16 ? to_float(((const bf16 *)a.w0)[i]) : ((const float *)a.w0)[i];
}

template <typename Weight, typename State>
__global__ void __launch_bounds__(BLOCK) k_adamw(step s) {
  const slice &a = s.slices[blockIdx.y];
  float clip = clip_of(s);
  if (isnan(clip)) return;
  State *w = (State *)a.w, *m = (State *)a.m, *v = (State *)a.v;
  Weight *weight = (Weight *)a.weight;
  for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < a.n;
       i += (int64_t)gridDim.x * BLOCK) {
    int64_t row = i / a.width, col = i - row * a.width;
    unsigned random[4] = {0, 0, 0, 0};
    if (sizeof(State) == 2) philox(a.seed, s.t, a.first + (unsigned long long)i, random);
    State *master = w + row * a.w_stride + col;
    float g = a.grad[i] * clip, old = to_float(m[i]);
    State m_new = keep<State>(old + s.mix1 * (g - old), random[1]);
    State v_new = keep<State>(to_float(v[i]) * s.beta2 + s.mix2 * g * g, random[2]);
    float change = a.size * (to_float(m_new) / (sqrtf(to_float(v_new)) / s.correction + s.eps));
    float before = to_float(*master), kept = before * a.decay;
    if (a.w0) kept -= a.pull * (before - w0_of(a, row * a.w0_stride + col));
    State w_new = keep<State>(kept - change, random[0]);
    m[i] = m_new;
    v[i] = v_new;
    *master = w_new;
    if (a.weight != a.w) weight[row * a.weight_stride + col] = from_float<Weight>(to_float(w_new));
  }
}

void fill_step(step *s, const struct ka_adamw_args *a) {
  s->stats = (const double *)a->stats.data;
  s->n_stats = s->stats ? a->stats.shape[0] : 0;
  s->max_norm = a->max_norm;
  s->mix1 = (float)(1 - a->beta1);
  s->beta2 = (float)a->beta2;
  s->mix2 = (float)(1 - a->beta2);
  s->correction = (float)sqrt(1 - pow(a->beta2, (double)a->t));
  s->eps = (float)a->eps;
  s->t = (unsigned long long)a->t;
}

int64_t stride_of(const struct ka_tensor &t) {
  return t.n_dim >= 2 ? t.row_stride : ka_tensor_elems(&t);
}

slice slice_of(const struct ka_adamw_args *a) {
  int64_t n = ka_tensor_elems(&a->w);
  int64_t width = a->w.n_dim >= 2 ? a->w.shape[a->w.n_dim - 1] : n;
  return {a->weight.data,
          a->w.data,
          a->m.data,
          a->v.data,
          (const float *)a->grad.data,
          a->w0.data,
          n,
          width > 0 ? width : 1,
          stride_of(a->weight),
          stride_of(a->w),
          stride_of(a->w0),
          a->seed,
          (unsigned long long)a->first,
          (float)(1 - a->lr * a->weight_decay),
          (float)(a->lr * a->pull),
          (float)(a->lr / (1 - pow(a->beta1, (double)a->t))),
          a->w0.dtype == KA_BF16};
}

/* In one launch: same dtypes, one step, one stats. */
bool together(const struct ka_adamw_args *a, const struct ka_adamw_args *b) {
  return a->w.dtype == b->w.dtype && a->weight.dtype == b->weight.dtype && a->t == b->t &&
         a->stats.data == b->stats.data;
}

} // namespace

ka_status adamw_list_cuda(struct ka_dev *dev, const struct ka_adamw_args *args, int64_t n) {
  struct ka_ctx *ctx = dev->ctx;
  struct cuda_state *s = cuda_of(dev);
  for (int64_t first = 0; first < n;) {
    const struct ka_adamw_args *a = &args[first];
    step st = {};
    int64_t most = 0;
    int k = 0;
    fill_step(&st, a);
    for (; k < LIST && first + k < n && together(a, a + k); k++) {
      st.slices[k] = slice_of(a + k);
      most = st.slices[k].n > most ? st.slices[k].n : most;
    }
    first += k;
    if (most == 0) continue;
    dim3 grid((unsigned)least(div_up(most, BLOCK), 8 * s->n_sm), (unsigned)k);
    bool state = a->w.dtype == KA_BF16, weight = a->weight.dtype == KA_BF16;
    cudaError_t e;
    if (state && weight)
      e = KA_LAUNCH((k_adamw<bf16, bf16>), grid, BLOCK, 0, s->stream, st);
    else if (state)
      e = KA_LAUNCH((k_adamw<float, bf16>), grid, BLOCK, 0, s->stream, st);
    else if (weight)
      e = KA_LAUNCH((k_adamw<bf16, float>), grid, BLOCK, 0, s->stream, st);
    else
      e = KA_LAUNCH((k_adamw<float, float>), grid, BLOCK, 0, s->stream, st);
    KA_TRY(cuda_launched(dev, "adamw", e));
  }
  return KA_STATUS_OK;
}

ka_status adamw_cuda(struct ka_dev *dev, const struct ka_adamw_args *args) {
  return adamw_list_cuda(dev, args, 1);
}
