/* SPDX-License-Identifier: Apache-2.0
 * The stand-in's own kernels on a real GPU: what they check of it holds there too. Built by nvcc as
 * cuda_twins; exit 1 when a check fails, 77 without a GPU. */
#include "tests/kernels/cudahost/cases.h"

#include <cuda_runtime.h>

#include <stdio.h>

static int run(const struct cudahost_case *c) {
  int n_failed = 0;
  for (; c->name; c++) {
    int line = c->run();
    cudaError_t e = cudaDeviceSynchronize();
    printf("%-16s %s", c->name, !line && !e ? "ok\n" : "");
    if (line || e) printf("line %d, %s\n", line, cudaGetErrorString(e));
    n_failed += line || e;
  }
  return n_failed;
}

int main() {
  int n = 0;
  if (cudaGetDeviceCount(&n) != cudaSuccess || !n) {
    printf("skipped: no GPU\n");
    return 77;
  }
  return run(cudahost_block_cases) + run(cudahost_ptx_cases) ? 1 : 0;
}
