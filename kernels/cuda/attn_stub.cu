/* SPDX-License-Identifier: Apache-2.0
 * local only */
#include "kernels/cuda/device.cuh"
template <typename T> struct A {
  T *out, *dq, *dk, *dv;
  float *lse;
  const T *q, *k, *v, *o, *dout;
  const int *ds;
  int64_t B, Tn, S, H, K, D, E, window, off;
  float scale, cap;
};
template <typename T>
__device__ float sc(const A<T> &a, int64_t b, int64_t h, int64_t i, int64_t j) {
  float s = 0;
  for (int64_t d = 0; d < a.D; d++)
    s += to_float(a.q[((b * a.Tn + i) * a.H + h) * a.D + d]) *
         to_float(a.k[((b * a.S + j) * a.K + h / (a.H / a.K)) * a.D + d]);
  s *= a.scale;
  return a.cap > 0 ? a.cap * tanhf(s / a.cap) : s;
}
template <typename T> __device__ int64_t first(const A<T> &a, int64_t b, int64_t i) {
  int64_t p = a.off + i, f = a.ds ? a.ds[b * a.Tn + i] : 0;
  if (a.window > 0 && p - a.window + 1 > f) f = p - a.window + 1;
  return f;
}
template <typename T> __global__ void kf(A<T> a) {
  int64_t t = blockIdx.x * 128ll + threadIdx.x;
  if (t >= a.B * a.H * a.Tn) return;
  int64_t i = t % a.Tn, h = t / a.Tn % a.H, b = t / a.Tn / a.H;
  float m = -INFINITY, s = 0;
  int64_t f = first(a, b, i), p = a.off + i;
  for (int64_t j = f; j <= p; j++) {
    float x = sc(a, b, h, i, j);
    if (x > m || isnan(x)) m = x;
  }
  for (int64_t j = f; j <= p; j++) s += expf(sc(a, b, h, i, j) - m);
  for (int64_t e = 0; e < a.E; e++) {
    float o = 0;
    for (int64_t j = f; j <= p; j++)
      o += expf(sc(a, b, h, i, j) - m) *
           to_float(a.v[((b * a.S + j) * a.K + h / (a.H / a.K)) * a.E + e]);
    a.out[((b * a.Tn + i) * a.H + h) * a.E + e] = from_float<T>(o / s);
  }
  if (a.lse) a.lse[(b * a.H + h) * a.Tn + i] = m + logf(s);
}
template <typename T>
__device__ void pd(const A<T> &a, int64_t b, int64_t h, int64_t i, int64_t j, float *p, float *d) {
  float s = sc(a, b, h, i, j);
  *p = expf(s - a.lse[(b * a.H + h) * a.Tn + i]);
  float dp = 0, de = 0;
  for (int64_t e = 0; e < a.E; e++) {
    float g = to_float(a.dout[((b * a.Tn + i) * a.H + h) * a.E + e]);
    dp += g * to_float(a.v[((b * a.S + j) * a.K + h / (a.H / a.K)) * a.E + e]);
    de += g * to_float(a.o[((b * a.Tn + i) * a.H + h) * a.E + e]);
  }
  *d = *p * (dp - de) * a.scale;
  if (a.cap > 0) *d *= 1 - s / a.cap * (s / a.cap);
}
template <typename T> __global__ void kq(A<T> a) {
  int64_t t = blockIdx.x * 128ll + threadIdx.x;
  if (t >= a.B * a.H * a.Tn) return;
  int64_t i = t % a.Tn, h = t / a.Tn % a.H, b = t / a.Tn / a.H;
  for (int64_t d = 0; d < a.D; d++) {
    float s = 0;
    for (int64_t j = first(a, b, i); j <= i; j++) {
      float p, x;
      pd(a, b, h, i, j, &p, &x);
      s += x * to_float(a.k[((b * a.S + j) * a.K + h / (a.H / a.K)) * a.D + d]);
    }
    a.dq[((b * a.Tn + i) * a.H + h) * a.D + d] = from_float<T>(s);
  }
}
template <typename T> __global__ void kk(A<T> a) {
  int64_t t = blockIdx.x * 128ll + threadIdx.x;
  if (t >= a.B * a.K * a.S) return;
  int64_t j = t % a.S, g = t / a.S % a.K, b = t / a.S / a.K, n = a.H / a.K;
  for (int64_t d = 0; d < a.D || d < a.E; d++) {
    float sk = 0, sv = 0;
    for (int64_t h = g * n; h < (g + 1) * n; h++)
      for (int64_t i = j; i < a.Tn; i++) {
        if (j < first(a, b, i)) continue;
        float p, x;
        pd(a, b, h, i, j, &p, &x);
        if (d < a.D) sk += x * to_float(a.q[((b * a.Tn + i) * a.H + h) * a.D + d]);
        if (d < a.E) sv += p * to_float(a.dout[((b * a.Tn + i) * a.H + h) * a.E + d]);
      }
    if (d < a.D) a.dk[((b * a.S + j) * a.K + g) * a.D + d] = from_float<T>(sk);
    if (d < a.E) a.dv[((b * a.S + j) * a.K + g) * a.E + d] = from_float<T>(sv);
  }
}
ka_status attn_fwd_cuda(struct ka_dev *dev, const struct ka_attn_fwd_args *x) {
  KA_BY_TYPE(dev, "attn_fwd", x->q.dtype, {
    A<T> a = {};
    a.out = (T *)x->out.data;
    a.lse = (float *)x->lse.data;
    a.q = (const T *)x->q.data;
    a.k = (const T *)x->k.data;
    a.v = (const T *)x->v.data;
    a.ds = (const int *)x->doc_start.data;
    a.B = x->q.shape[0];
    a.Tn = x->q.shape[1];
    a.S = x->k.shape[1];
    a.H = x->q.shape[2];
    a.K = x->k.shape[2];
    a.D = x->q.shape[3];
    a.E = x->v.shape[3];
    a.window = x->window;
    a.off = x->q_offset;
    a.scale = (float)x->scale;
    a.cap = (float)x->softcap;
    int64_t n = a.B * a.H * a.Tn;
    if (!n) return KA_STATUS_OK;
    return cuda_launched(
        dev, "attn_fwd",
        KA_LAUNCH(kf<T>, (unsigned)div_up(n, 128), 128, 0, cuda_of(dev)->stream, a));
  });
}
ka_status attn_bwd_cuda(struct ka_dev *dev, const struct ka_attn_bwd_args *x) {
  struct ka_ctx *ctx = dev->ctx;
  KA_BY_TYPE(dev, "attn_bwd", x->q.dtype, {
    A<T> a = {};
    a.dq = (T *)x->dq.data;
    a.dk = (T *)x->dk.data;
    a.dv = (T *)x->dv.data;
    a.o = (const T *)x->out.data;
    a.dout = (const T *)x->dout.data;
    a.lse = (float *)x->lse.data;
    a.q = (const T *)x->q.data;
    a.k = (const T *)x->k.data;
    a.v = (const T *)x->v.data;
    a.ds = (const int *)x->doc_start.data;
    a.B = x->q.shape[0];
    a.Tn = x->q.shape[1];
    a.S = x->k.shape[1];
    a.H = x->q.shape[2];
    a.K = x->k.shape[2];
    a.D = x->q.shape[3];
    a.E = x->v.shape[3];
    a.window = x->window;
    a.scale = (float)x->scale;
    a.cap = (float)x->softcap;
    int64_t n = a.B * a.H * a.Tn;
    if (!n) return KA_STATUS_OK;
    KA_TRY(
        cuda_launched(dev, "attn_bwd",
                      KA_LAUNCH(kq<T>, (unsigned)div_up(n, 128), 128, 0, cuda_of(dev)->stream, a)));
    return cuda_launched(
        dev, "attn_bwd",
        KA_LAUNCH(kk<T>, (unsigned)div_up(a.B * a.K * a.S, 128), 128, 0, cuda_of(dev)->stream, a));
  });
}
