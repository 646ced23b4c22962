/* SPDX-License-Identifier: Apache-2.0
 *
 * Elementwise kernels: a struct with the pointers and a member `template <int N> void run(i)` that
 * does elements [i, i + N). Vectors of `width` where addresses allow, the rest one by one. */
#ifndef KAPPA_KERNELS_CUDA_MAP_CUH
#define KAPPA_KERNELS_CUDA_MAP_CUH

#include "kernels/cuda/device.cuh"

template <int N, typename F> __global__ void __launch_bounds__(256) k_map(int64_t n, F f) {
  int64_t step = (int64_t)gridDim.x * blockDim.x * N;
  for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * N; i < n; i += step) {
    if (i + N <= n) {
      f.template run<N>(i);
    } else {
      for (int64_t j = i; j < n; j++) f.template run<1>(j);
    }
  }
}

template <typename T, typename F>
static ka_status map(struct ka_dev *dev, const char *op, int64_t n, bool packs, F f) {
  const int N = vec16<T>::N;
  struct cuda_state *s = cuda_of(dev);
  if (n == 0) return KA_STATUS_OK;
  int64_t blocks = least(div_up(n, 256 * (packs ? N : 1)), 16 * s->n_sm);
  cudaError_t e = packs ? KA_LAUNCH((k_map<N, F>), (unsigned)blocks, 256, 0, s->stream, n, f)
                        : KA_LAUNCH((k_map<1, F>), (unsigned)blocks, 256, 0, s->stream, n, f);
  return cuda_launched(dev, op, e);
}

#endif
