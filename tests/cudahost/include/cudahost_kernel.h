/* SPDX-License-Identifier: Apache-2.0
 * What compiled kernels call in the core: the calls behind the headers of the kernel language.
 * C and C++; nothing here is for kernels to call by name. */
#ifndef CUDAHOST_KERNEL_H
#define CUDAHOST_KERNEL_H

#include "cuda_runtime_api.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A place in the kernel's source: that of the caller, by default arguments. */
struct cudahost_site {
  const char *file;
  int line;
};

/* The same during one activation of a function, hence const. */
uint3 cudahost_thread_idx(void) __attribute__((const));
uint3 cudahost_block_idx(void) __attribute__((const));
uint3 cudahost_block_dim(void) __attribute__((const));
uint3 cudahost_grid_dim(void) __attribute__((const));

/* One launch. The bytes at `call` are copied; `run` is called once a thread with the copy. */
struct cudahost_launch {
  const void *kernel; /* its address, the key of cudaFuncSetAttribute */
  const char *name;
  dim3 grid, block;
  size_t shared_bytes;
  cudaStream_t stream;
  void (*run)(void *call);
  const void *call;
  size_t call_bytes;
};
cudaError_t cudahost_launch_kernel(const struct cudahost_launch *launch);

/* Shared memory of the block, the same for every thread that names the same `id`. */
void *cudahost_shared(const void *id, const char *name, size_t bytes);
void *cudahost_shared_dynamic(void);

enum cudahost_vote { CUDAHOST_SYNC, CUDAHOST_AND, CUDAHOST_OR, CUDAHOST_COUNT };
int cudahost_barrier(enum cudahost_vote vote, int predicate, struct cudahost_site site);

/* A warp-wide operation: every lane of `mask` arrives with its own `lane` struct, the last one runs
 * run() over those that the mask has, all go on. */
struct cudahost_warp_op {
  const char *name;
  void (*run)(void *lane[32], unsigned mask);
  bool orders_memory; /* __syncwarp does, shuffles and votes do not */
};
void cudahost_warp(const struct cudahost_warp_op *op, unsigned mask, void *lane,
                   struct cudahost_site site);
unsigned cudahost_lane(void);

/* The lane structs of the operations that the core itself defines. */
enum cudahost_shuffle_kind { CUDAHOST_IDX, CUDAHOST_UP, CUDAHOST_DOWN, CUDAHOST_XOR };
struct cudahost_shuffle {
  enum cudahost_shuffle_kind kind;
  int by, width;
  uint64_t value, result;
};
struct cudahost_ballot {
  int predicate;
  unsigned mask, result;
};
struct cudahost_match {
  uint64_t value;
  unsigned mask, result;
};
extern const struct cudahost_warp_op cudahost_op_syncwarp, cudahost_op_shuffle, cudahost_op_ballot,
    cudahost_op_match;

/* Device code touches bytes through a C function rather than an instrumented load or store. */
enum cudahost_access { CUDAHOST_READ = 1, CUDAHOST_WRITE = 2, CUDAHOST_ATOMIC = 4 };
void cudahost_touch(const void *at, size_t bytes, int access, void *pc);

/* The twins of PTX; kernels/cuda/ptx.cuh has the layouts. */
enum cudahost_mma_kind { CUDAHOST_MMA_BF16, CUDAHOST_MMA_F16, CUDAHOST_MMA_TF32 };
void cudahost_mma(enum cudahost_mma_kind kind, float d[4], const unsigned a[4], const unsigned b[2],
                  struct cudahost_site site);
void cudahost_ldmatrix(unsigned *r, const void *row, int n, bool transposed,
                       struct cudahost_site site);
unsigned cudahost_movmatrix(unsigned a, struct cudahost_site site);
void cudahost_cp_async(void *dst, const void *src, unsigned bytes, unsigned src_bytes,
                       struct cudahost_site site);
void cudahost_cp_async_commit(void);
void cudahost_cp_async_wait(unsigned groups_left);

void cudahost_fence(void); /* __threadfence */
void cudahost_pause(void); /* lets other threads of the block run */
long long cudahost_clock(void);
__attribute__((noreturn)) void cudahost_trap(struct cudahost_site site);

/* Registers the variables declared __constant__ in one module. */
void cudahost_constants(const void *begin, const void *end);

#ifdef __cplusplus
}

static constexpr cudahost_site cudahost_here(const char *file = __builtin_FILE(),
                                             int line = __builtin_LINE()) {
  return {file, line};
}
#endif

#endif
