/* SPDX-License-Identifier: Apache-2.0
 * Matrix product of any shape, address and pitch: tiles of 16 x 16 in shared memory, f32 sums. For
 * what cuBLASLt has no algorithm for; a few per cent of its speed. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/matmul.h"

namespace {

enum { TILE = 16 };

template <typename T, typename Out> struct product {
  Out *out;
  const T *a, *b, *bias;
  T *pre;
  int64_t m, n, k, out_stride, a_stride, b_stride, pre_stride;
  ka_epilogue epilogue;
  bool trans_a, trans_b, accumulate;
};

template <typename T, typename Out>
__global__ void __launch_bounds__(TILE *TILE) k_matmul_plain(product<T, Out> p) {
  KA_SHARED(float[TILE + 1], a, TILE);
  KA_SHARED(float[TILE + 1], b, TILE);
  int x = threadIdx.x % TILE, y = threadIdx.x / TILE;
  int64_t row = (int64_t)blockIdx.y * TILE + y, col = (int64_t)blockIdx.x * TILE + x;
  float sum = 0;
  for (int64_t k0 = 0; k0 < p.k; k0 += TILE) {
    int64_t ka = k0 + x, kb = k0 + y;
    a[y][x] = row < p.m && ka < p.k
                  ? to_float(p.a[p.trans_a ? ka * p.a_stride + row : row * p.a_stride + ka])
                  : 0;
    b[y][x] = col < p.n && kb < p.k
                  ? to_float(p.b[p.trans_b ? col * p.b_stride + kb : kb * p.b_stride + col])
                  : 0;
    __syncthreads();
    for (int i = 0; i < TILE; i++) sum += a[y][i] * b[i][x];
    __syncthreads();
  }
  if (row >= p.m || col >= p.n) return;
  Out *out = p.out + row * p.out_stride + col;
  if (p.bias) sum += to_float(p.bias[col]);
  if (p.accumulate) sum += to_float(*out);
  if (p.epilogue != KA_EPILOGUE_NONE) {
    T *pre = p.pre ? p.pre + row * p.pre_stride + col : NULL;
    bool back = p.epilogue == KA_EPILOGUE_DGELU;
    float at = back ? to_float(*pre) : round_to<T>(sum), act, slope;
    gelu_tanh(at, &act, &slope);
    if (pre && !back) *pre = from_float<T>(at);
    sum = back ? sum * slope : act;
  }
  *out = from_float<Out>(sum);
}

template <typename T, typename Out>
ka_status run(struct ka_dev *dev, const struct ka_matmul_args *args) {
  struct cuda_state *s = cuda_of(dev);
  product<T, Out> p = {(Out *)args->out.data,   (const T *)args->a.data,
                       (const T *)args->b.data, (const T *)args->bias.data,
                       (T *)args->pre.data,     args->out.shape[0],
                       args->out.shape[1],      args->a.shape[args->trans_a ? 0 : 1],
                       args->out.row_stride,    args->a.row_stride,
                       args->b.row_stride,      args->pre.row_stride,
                       args->epilogue,          args->trans_a,
                       args->trans_b,           args->accumulate};
  dim3 grid((unsigned)div_up(p.n, TILE), (unsigned)div_up(p.m, TILE));
  return cuda_launched(dev, "matmul",
                       KA_LAUNCH((k_matmul_plain<T, Out>), grid, TILE * TILE, 0, s->stream, p));
}

} // namespace

ka_status cuda_matmul_plain(struct ka_dev *dev, const struct ka_matmul_args *args) {
  if (args->a.dtype == KA_F32) return run<float, float>(dev, args);
  return args->out.dtype == KA_F32 ? run<bf16, float>(dev, args) : run<bf16, bf16>(dev, args);
}
