/* SPDX-License-Identifier: Apache-2.0
 * n elements in device memory and as many beside them on the host. */
#ifndef KAPPA_TESTS_KERNELS_CUDAHOST_CASES_CUH
#define KAPPA_TESTS_KERNELS_CUDAHOST_CASES_CUH

#include <cuda_runtime.h>

#include <stdlib.h>

template <typename T> struct device {
  T *at, *host;
  size_t bytes;
  explicit device(int n) : at(nullptr), bytes(static_cast<size_t>(n) * sizeof(T)) {
    host = static_cast<T *>(calloc(1, bytes));
    if (!host || cudaMalloc(&at, bytes) != cudaSuccess) abort();
  }
  ~device() {
    cudaFree(at);
    free(host);
  }
  device(const device &) = delete;
  cudaError_t upload() { return cudaMemcpy(at, host, bytes, cudaMemcpyHostToDevice); }
  cudaError_t download() { return cudaMemcpy(host, at, bytes, cudaMemcpyDeviceToHost); }
};

#endif
