/* SPDX-License-Identifier: Apache-2.0
 * Wrong programs: each must be reported, with the words that its row has. */
#include "kernels/cuda/launch.cuh"
#include "tests/kernels/cudahost/cases.h"

__global__ void k_no_barrier(float *out) {
  KA_SHARED(float, part, 64);
  part[threadIdx.x] = static_cast<float>(threadIdx.x);
  out[threadIdx.x] = part[63 - threadIdx.x];
}

static int no_barrier(void) {
  float *out;
  OK(cudaMalloc(&out, 64 * sizeof *out));
  OK(KA_LAUNCH(k_no_barrier, 1, 64, 0, nullptr, out));
  OK(cudaDeviceSynchronize());
  return 0;
}

const struct cudahost_case cudahost_fault_cases[] = {
    {"no_barrier", no_barrier, "before it was written|k_no_barrier|faults.cu", CASE_CHECKED},
    {nullptr, nullptr, nullptr, 0},
};
