/* SPDX-License-Identifier: Apache-2.0
 *
 * Kernels over the rows of a matrix: a row is THREADS wide, a warp for short rows, 256 threads for
 * long ones, 256 threads a block. A kernel<T, N, THREADS>(a) moves packs of N; `a` has n_rows and
 * width. */
#ifndef KAPPA_KERNELS_CUDA_ROWS_CUH
#define KAPPA_KERNELS_CUDA_ROWS_CUH

#include "kernels/cuda/device.cuh"

enum { ROW_BLOCK = 256, SHORT_ROW = 1024 };

/* Sum over the threads of a row. */
template <int THREADS> __device__ __forceinline__ float row_sum(float x) {
  return THREADS == 32 ? warp_sum(x) : block_sum<THREADS>(x);
}

/* One of four kernels: packs or not, short rows or long. */
#define BY_ROW(kernel, T, packs, a)                                                                \
  ((a).width <= SHORT_ROW                                                                          \
       ? ((packs) ? ROW_LAUNCH((kernel<T, vec16<T>::N, 32>), 32, a)                                \
                  : ROW_LAUNCH((kernel<T, 1, 32>), 32, a))                                         \
       : ((packs) ? ROW_LAUNCH((kernel<T, vec16<T>::N, ROW_BLOCK>), ROW_BLOCK, a)                  \
                  : ROW_LAUNCH((kernel<T, 1, ROW_BLOCK>), ROW_BLOCK, a)))
#define ROW_LAUNCH(kernel, threads, a)                                                             \
  KA_LAUNCH(kernel, (unsigned)div_up((a).n_rows, ROW_BLOCK / threads), ROW_BLOCK, 0, s->stream, a)

#endif
