/* SPDX-License-Identifier: Apache-2.0
 * add, scale, clamp_fwd, clamp_bwd, glu_fwd, glu_bwd: elementwise, bound by memory (two to six
 * streams). */
#include "kernels/cuda/map.cuh"

namespace {

template <typename T> struct add_elems {
  T *out;
  const T *a, *b;
  template <int N> __device__ void run(int64_t i) const {
    float x[N], y[N];
    load<N>(x, a + i);
    load<N>(y, b + i);
#pragma unroll
    for (int k = 0; k < N; k++) x[k] += y[k];
    store<N>(out + i, x);
  }
};

template <typename T> struct scale_elems {
  T *x;
  float value;
  template <int N> __device__ void run(int64_t i) const {
    float v[N];
    load<N>(v, x + i);
#pragma unroll
    for (int k = 0; k < N; k++) v[k] *= value;
    store<N>(x + i, v);
  }
};

template <typename T> struct clamp_fwd_elems {
  T *out;
  const T *x;
  float limit;
  template <int N> __device__ void run(int64_t i) const {
    float v[N];
    load<N>(v, x + i);
#pragma unroll
    for (int k = 0; k < N; k++) v[k] = v[k] > limit ? limit : v[k] < -limit ? -limit : v[k];
    store<N>(out + i, v);
  }
};

template <typename T> struct clamp_bwd_elems {
  T *dx;
  const T *dout, *x;
  float limit;
  template <int N> __device__ void run(int64_t i) const {
    float d[N], v[N];
    load<N>(d, dout + i);
    load<N>(v, x + i);
#pragma unroll
    for (int k = 0; k < N; k++) d[k] = fabsf(v[k]) > limit ? 0.0f : d[k];
    store<N>(dx + i, d);
  }
};

/* act(g) and its derivative (ops.h; Hendrycks and Gimpel 2016 for gelu). */
template <ka_act ACT> __device__ __forceinline__ void activate(float g, float *act, float *slope) {
  if (ACT == KA_ACT_SILU) {
    float s = 1.0f / (1.0f + expf(-g));
    *act = g * s;
    *slope = s * (1.0f + g * (1.0f - s));
  } else if (ACT == KA_ACT_GELU_TANH) {
    gelu_tanh(g, act, slope);
  } else {
    float cdf = 0.5f * (1.0f + erff(g * 0.70710678118654752f));
    *act = g * cdf;
    *slope = cdf + g * 0.39894228040143268f * expf(-0.5f * g * g);
  }
}

/* The two factors of the product and their derivatives: y of the gate, u of up. */
template <ka_act ACT>
__device__ __forceinline__ void factors(float gate, float up, float *y, float *dy, float *u,
                                        float *du) {
  *u = up;
  *du = 1.0f;
  if (ACT != KA_ACT_SILU_CLAMPED) return activate<ACT>(gate, y, dy);
  float g = gate > 7.0f ? 7.0f : gate, s = 1.0f / (1.0f + expf(-1.702f * g));
  *y = g * s;
  *dy = gate > 7.0f ? 0.0f : s + 1.702f * g * s * (1.0f - s);
  *u = (up > 7.0f ? 7.0f : up < -7.0f ? -7.0f : up) + 1.0f;
  *du = up > 7.0f || up < -7.0f ? 0.0f : 1.0f;
}

template <typename T, ka_act ACT> struct glu_fwd_elems {
  T *out;
  const T *gate, *up;
  template <int N> __device__ void run(int64_t i) const {
    float g[N], u[N], y, dy, v, dv;
    load<N>(g, gate + i);
    load<N>(u, up + i);
#pragma unroll
    for (int k = 0; k < N; k++) {
      factors<ACT>(g[k], u[k], &y, &dy, &v, &dv);
      u[k] = y * v;
    }
    store<N>(out + i, u);
  }
};

template <typename T, ka_act ACT> struct glu_bwd_elems {
  T *dgate, *dup, *out; /* out may be NULL */
  const T *dout, *gate, *up;
  template <int N> __device__ void run(int64_t i) const {
    float d[N], g[N], u[N], dg[N], du[N], o[N];
    load<N>(d, dout + i);
    load<N>(g, gate + i);
    load<N>(u, up + i);
#pragma unroll
    for (int k = 0; k < N; k++) {
      float y, dy, v, dv;
      factors<ACT>(g[k], u[k], &y, &dy, &v, &dv);
      dg[k] = d[k] * v * dy;
      du[k] = d[k] * y * dv;
      o[k] = y * v;
    }
    store<N>(dgate + i, dg);
    store<N>(dup + i, du);
    if (out) store<N>(out + i, o);
  }
};

bool packs(const struct ka_tensor &t) {
  return in_packs(ka_tensor_1d(t.data, t.dtype, 1), 16 / (int)ka_dtype_bytes(t.dtype));
}

} // namespace

ka_status add_cuda(struct ka_dev *dev, const struct ka_add_args *args) {
  bool p = packs(args->out) && packs(args->a) && packs(args->b);
  KA_BY_TYPE(dev, "add", args->out.dtype, {
    add_elems<T> f = {(T *)args->out.data, (const T *)args->a.data, (const T *)args->b.data};
    return map<T>(dev, "add", ka_tensor_elems(&args->out), p, f);
  });
}

ka_status scale_cuda(struct ka_dev *dev, const struct ka_scale_args *args) {
  KA_BY_TYPE(dev, "scale", args->x.dtype, {
    scale_elems<T> f = {(T *)args->x.data, (float)args->value};
    return map<T>(dev, "scale", ka_tensor_elems(&args->x), packs(args->x), f);
  });
}

ka_status clamp_fwd_cuda(struct ka_dev *dev, const struct ka_clamp_fwd_args *args) {
  bool p = packs(args->out) && packs(args->x);
  KA_BY_TYPE(dev, "clamp_fwd", args->x.dtype, {
    clamp_fwd_elems<T> f = {(T *)args->out.data, (const T *)args->x.data, (float)args->limit};
    return map<T>(dev, "clamp_fwd", ka_tensor_elems(&args->x), p, f);
  });
}

ka_status clamp_bwd_cuda(struct ka_dev *dev, const struct ka_clamp_bwd_args *args) {
  bool p = packs(args->dx) && packs(args->dout) && packs(args->x);
  KA_BY_TYPE(dev, "clamp_bwd", args->x.dtype, {
    clamp_bwd_elems<T> f = {(T *)args->dx.data, (const T *)args->dout.data, (const T *)args->x.data,
                            (float)args->limit};
    return map<T>(dev, "clamp_bwd", ka_tensor_elems(&args->x), p, f);
  });
}

template <typename T, ka_act ACT>
static ka_status glu_fwd_of(struct ka_dev *dev, const struct ka_glu_fwd_args *args) {
  bool p = packs(args->out) && packs(args->gate) && packs(args->up);
  glu_fwd_elems<T, ACT> f = {(T *)args->out.data, (const T *)args->gate.data,
                             (const T *)args->up.data};
  return map<T>(dev, "glu_fwd", ka_tensor_elems(&args->out), p, f);
}

template <typename T, ka_act ACT>
static ka_status glu_bwd_of(struct ka_dev *dev, const struct ka_glu_bwd_args *args) {
  bool p = packs(args->dgate) && packs(args->dup) && packs(args->out) && packs(args->dout) &&
           packs(args->gate) && packs(args->up);
  glu_bwd_elems<T, ACT> f = {(T *)args->dgate.data,      (T *)args->dup.data,
                             (T *)args->out.data,        (const T *)args->dout.data,
                             (const T *)args->gate.data, (const T *)args->up.data};
  return map<T>(dev, "glu_bwd", ka_tensor_elems(&args->gate), p, f);
}

ka_status glu_fwd_cuda(struct ka_dev *dev, const struct ka_glu_fwd_args *args) {
  KA_BY_TYPE(dev, "glu_fwd", args->out.dtype, {
    if (args->act == KA_ACT_SILU) return glu_fwd_of<T, KA_ACT_SILU>(dev, args);
    if (args->act == KA_ACT_GELU_TANH) return glu_fwd_of<T, KA_ACT_GELU_TANH>(dev, args);
    if (args->act == KA_ACT_SILU_CLAMPED) return glu_fwd_of<T, KA_ACT_SILU_CLAMPED>(dev, args);
    return glu_fwd_of<T, KA_ACT_GELU>(dev, args);
  });
}

ka_status glu_bwd_cuda(struct ka_dev *dev, const struct ka_glu_bwd_args *args) {
  KA_BY_TYPE(dev, "glu_bwd", args->gate.dtype, {
    if (args->act == KA_ACT_SILU) return glu_bwd_of<T, KA_ACT_SILU>(dev, args);
    if (args->act == KA_ACT_GELU_TANH) return glu_bwd_of<T, KA_ACT_GELU_TANH>(dev, args);
    if (args->act == KA_ACT_SILU_CLAMPED) return glu_bwd_of<T, KA_ACT_SILU_CLAMPED>(dev, args);
    return glu_bwd_of<T, KA_ACT_GELU>(dev, args);
  });
}
