/* SPDX-License-Identifier: Apache-2.0
 *
 * What the cuda back end takes of a device's memory, for itself and for planning without it
 * ("cuda:80GB"). Plain C, no CUDA. */
#ifndef KAPPA_KERNELS_CUDA_FACTS_H
#define KAPPA_KERNELS_CUDA_FACTS_H

#include <stddef.h>

#define CUDA_SCRATCH_BYTES ((size_t)64 << 20)   /* partial sums of ops */
#define CUDA_WORKSPACE_BYTES ((size_t)64 << 20) /* cuBLASLt's; Hopper's kernels want 32 MiB */
/* An allowance for the context, the loaded kernels and the libraries, which no call can tell before
 * they are there. */
#define CUDA_CONTEXT_BYTES ((size_t)512 << 20)
/* This part of a device's memory no arena takes: kernels are loaded, passes recorded and libraries
 * started when they are first used. */
#define CUDA_SPARE_PART 64

#endif
