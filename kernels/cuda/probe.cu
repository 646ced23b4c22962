/* SPDX-License-Identifier: Apache-2.0
 * Does this build have code for the device at hand? */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/launch.cuh"

static __global__ void k_probe(void) {}

cudaError_t cuda_probe(cudaStream_t stream) { return KA_LAUNCH(k_probe, 1, 32, 0, stream); }
