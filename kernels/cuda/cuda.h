/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside the cuda back end: its state, errors, and one launcher an op. Host code is C; kernels and
 * their launchers are in .cu files. Everything runs on one stream in the order of the calls, but
 * for uploads, which have a stream of their own; each waits for the other.
 *
 * Contracts are those of kernels/ops.h for f32 and bf16; f64 is KA_E_UNSUPPORTED. No atomics on
 * floating-point numbers: sums have a fixed order, so results repeat bit for bit. */
#ifndef KAPPA_KERNELS_CUDA_CUDA_H
#define KAPPA_KERNELS_CUDA_CUDA_H

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" { /* the house's headers are C */
#endif

#include "kernels/cuda/facts.h"
#include "kernels/device.h"

enum {
  CUDA_STAGES = 2, /* pinned buffers that copies from pageable memory go through */
  CUDA_STAGE_BYTES = 8 << 20
};

/* Words of KAPPA_CUDA_WITHOUT, to measure what each is worth (docs/cuda.md). */
enum {
  CUDA_CUDNN = 1,  /* "cudnn": its attention */
  CUDA_GRAPHS = 2, /* "graphs": passes are recorded and replayed */
  CUDA_TUNING = 4, /* "tuning": matmul algorithms are measured; without, the heuristic's first */
  CUDA_TILES = 8   /* "tiles": attention on tensor cores; without, a row at a time */
};

struct cuda_stage {
  char *memory;     /* pinned */
  size_t used;      /* by copies in flight */
  cudaEvent_t free; /* recorded behind the newest copy that reads or writes it */
};

enum { CUDA_SHARED_KERNELS = 64 }; /* more than there are that ask for much shared memory */

struct cuda_state {
  struct cudaDeviceProp props;
  int device, n_sm;
  cudaStream_t stream, copy;
  cudaEvent_t here, there; /* stream and copy wait for each other */
  struct cuda_stage stages[CUDA_STAGES];
  int stage; /* the one at hand */
  void *scratch;
  size_t scratch_bytes;
  void **outgrown; /* earlier scratches: recordings hold their addresses */
  int64_t n_outgrown, max_outgrown;
  struct {
    const void *kernel;
    int n_bytes;
  } shared[CUDA_SHARED_KERNELS]; /* what cuda_allow_shared has told the driver */
  int n_shared;
  void *workspace;
  cublasLtHandle_t lt;
  struct cuda_tuner *tuner;  /* matmul.c */
  struct cuda_cudnn *cudnn;  /* cudnn.h */
  bool capturing, sync_each; /* sync_each: KAPPA_CUDA_SYNC */
  unsigned without;          /* CUDA_CUDNN | ... */
  const char *last_op;       /* the newest launch since the device was last waited for */
  int64_t n_ops;
};

static inline struct cuda_state *cuda_of(struct ka_dev *dev) {
  return (struct cuda_state *)dev->state;
}

/* An error after which the device answers nothing but that error? */
bool cuda_sticky(cudaError_t e);

/* A CUDA call that failed, as a status: out of memory is KA_E_MEMORY, all else KA_E_DEVICE. */
ka_status cuda_fail(struct ka_dev *dev, cudaError_t e, const char *what);

#define CU_TRY(dev, call)                                                                          \
  do {                                                                                             \
    cudaError_t cu_try_ = (call);                                                                  \
    if (cu_try_ != cudaSuccess) return cuda_fail(dev, cu_try_, #call);                             \
  } while (0)

/* What every launcher ends with: a launch's own error, and a note of the op for errors that show
 * later. */
ka_status cuda_launched(struct ka_dev *dev, const char *op, cudaError_t e);

/* KA_E_UNSUPPORTED for this op and dtype. */
ka_status cuda_unsupported(struct ka_dev *dev, const char *op, enum ka_dtype t);

/* At least n_bytes that the op at hand may use; contents undefined. Ops run one after the other, so
 * one scratch serves all. Grows outside recordings; what was recorded before keeps the smaller
 * one. */
ka_status cuda_scratch(struct ka_dev *dev, size_t n_bytes, void **out);

/* Lets a kernel have n_bytes of dynamic shared memory, and as many blocks a multiprocessor as the
 * largest share of its cache allows: told to the driver once, not at every launch. */
cudaError_t cuda_allow_shared(struct ka_dev *dev, const void *kernel, int n_bytes);

/* --- memory.c --- */
ka_status cuda_memory_open(struct ka_dev *dev);
void cuda_memory_close(struct ka_dev *dev);
ka_status cuda_alloc(struct ka_dev *dev, enum ka_place place, void **out, size_t n_bytes,
                     const char *name);
void cuda_release(struct ka_dev *dev, enum ka_place place, void *p);
ka_status cuda_upload(struct ka_dev *dev, void *to, const void *from, size_t n_bytes);
ka_status cuda_download(struct ka_dev *dev, void *to, const void *from, size_t n_bytes);
ka_status cuda_record_begin(struct ka_dev *dev);
ka_status cuda_record_end(struct ka_dev *dev, bool keep, void **recording);
ka_status cuda_replay(struct ka_dev *dev, void *recording);
void cuda_record_free(struct ka_dev *dev, void *recording);
/* Waits for the stream; errors of earlier ops show here. */
ka_status cuda_sync(struct ka_dev *dev);

/* --- matmul.c --- */
ka_status cuda_matmul_open(struct ka_dev *dev);
void cuda_matmul_close(struct ka_dev *dev);
/* --- tune.c: see there --- */

/* --- probe.cu --- */
/* Runs an empty kernel: cudaErrorNoKernelImageForDevice when this build has none for the device. */
cudaError_t cuda_probe(cudaStream_t stream);

#define KA_OP(name, ...)                                                                           \
  ka_status name##_cuda(struct ka_dev *dev, const struct ka_##name##_args *args);
#include "kernels/ops.def"
#undef KA_OP
ka_status adamw_list_cuda(struct ka_dev *dev, const struct ka_adamw_args *args, int64_t n);
ka_status sumsq_list_cuda(struct ka_dev *dev, const struct ka_sumsq_args *args, int64_t n);

/* The engine of spectra (linalg/cuda/worker_dense.c); what it is, linalg/dense.h says. */
extern const struct ka_dense cuda_dense;

#ifdef __cplusplus
}
#endif

#endif
