/* SPDX-License-Identifier: Apache-2.0
 *
 * Launches: the limits that the real call checks, the arguments kept until the kernel runs; and
 * what a function may ask for. */
#include "tests/cudahost/stream.h"

#include <stdlib.h>
#include <string.h>

struct kernel {
  struct ch_op op;
  struct cudahost_launch launch;
  cudaError_t planted;
  _Alignas(16) char call[];
};

static cudaError_t run_kernel(struct ch_op *op) {
  const struct kernel *k = (const struct kernel *)op;
  return k->planted ? k->planted : ch_grid_run(&k->launch);
}
static const struct ch_op_type kernel_type = {"a kernel", true, cudaGraphNodeTypeKernel,
                                              run_kernel, NULL, NULL};

static struct limit {
  const void *kernel;
  int dynamic_bytes;
} * limits;
static int n_limits, max_limits;

static int dynamic_limit(const void *kernel) {
  for (int i = 0; i < n_limits; i++)
    if (limits[i].kernel == kernel) return limits[i].dynamic_bytes;
  return CH_STATIC_SHARED;
}

static cudaError_t set_limit(const void *kernel, int bytes) {
  if (bytes < 0 || bytes > CH_OPTIN_SHARED) return cudaErrorInvalidValue;
  for (int i = 0; i < n_limits; i++)
    if (limits[i].kernel == kernel) return limits[i].dynamic_bytes = bytes, cudaSuccess;
  if (n_limits == max_limits) {
    int n = max_limits ? 2 * max_limits : 64;
    struct limit *more = realloc(limits, (size_t)n * sizeof *more);
    if (!more) return cudaErrorMemoryAllocation;
    limits = more;
    max_limits = n;
  }
  limits[n_limits++] = (struct limit){kernel, bytes};
  return cudaSuccess;
}

static bool fits(const struct cudahost_launch *l) {
  uint64_t threads = (uint64_t)l->block.x * l->block.y * l->block.z;
  return l->grid.x && l->grid.y && l->grid.z && threads && l->block.x <= CH_MAX_THREADS &&
         l->block.y <= CH_MAX_THREADS && l->block.z <= 64 && threads <= CH_MAX_THREADS &&
         l->grid.x <= INT32_MAX && l->grid.y <= 65535 && l->grid.z <= 65535;
}

cudaError_t cudahost_launch_kernel(const struct cudahost_launch *l) {
  cudaError_t e = ch_enter(CH_NORMAL);
  if (!e && ch_setting(CH_DRIVER) == CH_DRIVER_WRONG_ARCH) e = cudaErrorNoKernelImageForDevice;
  if (!e && !fits(l)) e = cudaErrorInvalidConfiguration;
  if (!e && l->shared_bytes > (size_t)dynamic_limit(l->kernel)) e = cudaErrorInvalidValue;
  if (!e) e = ch_inject(CH_FAIL_LAUNCH, cudaErrorLaunchOutOfResources);
  if (!e) {
    struct kernel *k = ch_op_create(&kernel_type, sizeof *k + l->call_bytes, l->name, CH_CALLER);
    if (k) {
      k->launch = *l;
      k->launch.call = k->call;
      memcpy(k->call, l->call, l->call_bytes);
      k->planted = ch_inject(CH_FAIL_KERNEL, cudaErrorLaunchFailure);
      ch_counters.launches++;
    }
    e = ch_op_enqueue(l->stream, k ? &k->op : NULL);
  }
  return ch_leave(e);
}

cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute attr, int value) {
  cudaError_t e = ch_enter(CH_NORMAL);
  if (!e && !kernel) e = cudaErrorInvalidDeviceFunction;
  ch_counters.attributes++;
  if (!e && attr == cudaFuncAttributeMaxDynamicSharedMemorySize)
    e = set_limit(kernel, value);
  else if (!e && attr != cudaFuncAttributePreferredSharedMemoryCarveout)
    e = cudaErrorInvalidValue;
  return ch_leave(e);
}

/* Registers and static shared memory are the compiler's business; these are typical. */
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *kernel) {
  cudaError_t e = ch_enter(CH_NORMAL);
  int arch = (int)ch_setting(CH_ARCH);
  if (!e && !kernel) e = cudaErrorInvalidDeviceFunction;
  if (!e && ch_setting(CH_DRIVER) == CH_DRIVER_WRONG_ARCH) e = cudaErrorNoKernelImageForDevice;
  if (!e)
    *a = (struct cudaFuncAttributes){.maxThreadsPerBlock = CH_MAX_THREADS,
                                     .numRegs = 32,
                                     .ptxVersion = arch,
                                     .binaryVersion = arch,
                                     .maxDynamicSharedSizeBytes = dynamic_limit(kernel)};
  return ch_leave(e);
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *kernel,
                                                          int threads, size_t shared_bytes) {
  cudaError_t e = ch_enter(CH_NORMAL);
  if (!e && (!kernel || threads < 1)) e = cudaErrorInvalidValue;
  if (!e) {
    int by_threads = threads > CH_MAX_THREADS ? 0 : 2048 / ((threads + 31) / 32 * 32);
    size_t by_shared =
        shared_bytes > (size_t)dynamic_limit(kernel) ? 0 : (228u << 10) / (shared_bytes + 1024);
    *blocks = by_threads < 32 ? by_threads : 32;
    if (by_shared < (size_t)*blocks) *blocks = (int)by_shared;
  }
  return ch_leave(e);
}
