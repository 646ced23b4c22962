/* SPDX-License-Identifier: Apache-2.0
 * Rotary position embedding in place (Su et al. 2021, eq. 34). A thread rotates one pair; pairs of
 * a head lie side by side in a warp. Reads and writes x once. */
#include "kernels/cuda/device.cuh"

namespace {

template <typename T> struct rotation {
  T *x;
  const float *cos, *sin;
  const int32_t *pos;
  int64_t n_pairs; /* in all */
  int heads, width, half;
  bool interleaved, inverse;
};

template <typename T> __global__ void __launch_bounds__(256) k_rope(rotation<T> a) {
  int64_t step = (int64_t)gridDim.x * 256;
  for (int64_t p = (int64_t)blockIdx.x * 256 + threadIdx.x; p < a.n_pairs; p += step) {
    int64_t head = p / a.half;
    int i = (int)(p - head * a.half), other = a.interleaved ? 1 : a.half;
    int64_t angle = (int64_t)a.pos[head / a.heads] * a.half + i;
    T *x = a.x + head * a.width + (a.interleaved ? 2 * i : i);
    float c = a.cos[angle], s = a.inverse ? -a.sin[angle] : a.sin[angle];
    float u = to_float(x[0]), v = to_float(x[other]);
    x[0] = from_float<T>(u * c - v * s);
    x[other] = from_float<T>(v * c + u * s);
  }
}

} // namespace

ka_status rope_cuda(struct ka_dev *dev, const struct ka_rope_args *args) {
  struct cuda_state *s = cuda_of(dev);
  const int64_t *shape = args->x.shape;
  int64_t half = args->cos.shape[1], n_pairs = shape[0] * shape[1] * half;
  KA_BY_TYPE(dev, "rope", args->x.dtype, {
    rotation<T> a = {(T *)args->x.data + args->first,
                     (const float *)args->cos.data,
                     (const float *)args->sin.data,
                     (const int32_t *)args->pos.data,
                     n_pairs,
                     (int)shape[1],
                     (int)shape[2],
                     (int)half,
                     args->interleaved,
                     args->inverse};
    if (n_pairs == 0) return KA_STATUS_OK;
    unsigned blocks = (unsigned)least(div_up(n_pairs, 256), 32 * s->n_sm);
    return cuda_launched(dev, "rope", KA_LAUNCH((k_rope<T>), blocks, 256, 0, s->stream, a));
  });
}
