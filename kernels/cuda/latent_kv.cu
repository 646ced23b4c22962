/* SPDX-License-Identifier: Apache-2.0
 * Heads of latent attention put together from what they share and what they do not, and back. A
 * thread moves one pack of an output, in the order of the outputs; the part that all heads share is
 * summed over them in their order. Bound by memory: reads and writes everything once. */
#include "kernels/cuda/map.cuh"

namespace {

template <typename T> struct latent_kv_fwd_elems {
  T *k, *v;
  const T *kv, *pe;
  int64_t n_k, pe_stride; /* n_k: elements of k */
  int heads, d, nope, dv;
  template <int N> __device__ void run(int64_t i) const {
    float x[N];
    bool key = i < n_k;
    int width = key ? d : dv;
    int64_t j = key ? i : i - n_k, head = j / width;
    int c = (int)(j - head * width);
    if (key && c >= nope)
      load<N>(x, pe + head / heads * pe_stride + (c - nope));
    else
      load<N>(x, kv + head * (nope + dv) + (key ? c : nope + c));
    store<N>((key ? k : v) + j, x);
  }
};

template <typename T> struct latent_kv_bwd_elems {
  T *dkv, *dpe;
  const T *dk, *dv;
  int64_t n_kv, pe_stride; /* n_kv: elements of dkv */
  int heads, d, nope, width_v;
  template <int N> __device__ void run(int64_t i) const {
    float x[N];
    if (i < n_kv) {
      int64_t head = i / (nope + width_v);
      int c = (int)(i - head * (nope + width_v));
      load<N>(x, c < nope ? dk + head * d + c : dv + head * width_v + (c - nope));
      store<N>(dkv + i, x);
      return;
    }
    int rope = d - nope;
    int64_t t = (i - n_kv) / rope;
    int c = (int)(i - n_kv - t * rope);
    float sum[N] = {0};
    for (int h = 0; h < heads; h++) {
      load<N>(x, dk + (t * heads + h) * d + nope + c);
#pragma unroll
      for (int e = 0; e < N; e++) sum[e] += x[e];
    }
    store<N>(dpe + t * pe_stride + c, sum);
  }
};

/* Do packs of 16 bytes never straddle the parts of a head? */
bool packs(const struct ka_tensor &k, const struct ka_tensor &v, const struct ka_tensor &kv,
           const struct ka_tensor &pe) {
  int n = 16 / (int)ka_dtype_bytes(k.dtype);
  bool aligned = true;
  for (const void *p : {k.data, v.data, kv.data, pe.data})
    aligned = aligned && (uintptr_t)p % 16 == 0;
  return aligned && k.shape[2] % n == 0 && v.shape[2] % n == 0 && pe.shape[1] % n == 0 &&
         pe.row_stride % n == 0;
}

} // namespace

ka_status latent_kv_fwd_cuda(struct ka_dev *dev, const struct ka_latent_kv_fwd_args *args) {
  const int64_t *shape = args->k.shape;
  int64_t n = ka_tensor_elems(&args->k) + ka_tensor_elems(&args->v);
  bool p = packs(args->k, args->v, args->kv, args->pe);
  KA_BY_TYPE(dev, "latent_kv_fwd", args->k.dtype, {
    latent_kv_fwd_elems<T> f = {(T *)args->k.data,
                                (T *)args->v.data,
                                (const T *)args->kv.data,
                                (const T *)args->pe.data,
                                ka_tensor_elems(&args->k),
                                args->pe.row_stride,
                                (int)shape[1],
                                (int)shape[2],
                                (int)(shape[2] - args->pe.shape[1]),
                                (int)args->v.shape[2]};
    return map<T>(dev, "latent_kv_fwd", n, p, f);
  });
}

ka_status latent_kv_bwd_cuda(struct ka_dev *dev, const struct ka_latent_kv_bwd_args *args) {
  const int64_t *shape = args->dk.shape;
  int64_t n = ka_tensor_elems(&args->dkv) + ka_tensor_elems(&args->dpe);
  bool p = packs(args->dk, args->dv, args->dkv, args->dpe);
  KA_BY_TYPE(dev, "latent_kv_bwd", args->dk.dtype, {
    latent_kv_bwd_elems<T> f = {(T *)args->dkv.data,
                                (T *)args->dpe.data,
                                (const T *)args->dk.data,
                                (const T *)args->dv.data,
                                ka_tensor_elems(&args->dkv),
                                args->dpe.row_stride,
                                (int)shape[1],
                                (int)shape[2],
                                (int)(shape[2] - args->dpe.shape[1]),
                                (int)args->dv.shape[2]};
    return map<T>(dev, "latent_kv_bwd", n, p, f);
  });
}
