/* SPDX-License-Identifier: Apache-2.0
 * Memory, copies and recordings (CUDA graphs).
 *
 * Pageable memory goes through pinned stages, so that the copy engine works while the host fills
 * the next one; small uploads share a stage, so that a step's batches do not wait for each other.
 * Uploads take the copy stream, with an event each way, so that order is as promised; downloads the
 * ops' stream, whose results they wait for. */
#include "kernels/cuda/cuda.h"

#include "base/log.h"

#include <string.h>

enum { STAGE_ALIGN = 4096 };

ka_status cuda_alloc(struct ka_dev *dev, enum ka_place place, void **out, size_t n_bytes,
                     const char *name) {
  *out = NULL;
  if (n_bytes == 0) n_bytes = 1;
  cudaError_t e = place == KA_PLACE_DEVICE ? cudaMalloc(out, n_bytes)
                                           : cudaHostAlloc(out, n_bytes, cudaHostAllocPortable);
  if (e == cudaSuccess) return KA_STATUS_OK;
  size_t free_bytes = 0, total = 0;
  (void)cudaGetLastError();
  (void)cudaMemGetInfo(&free_bytes, &total);
  if (e != cudaErrorMemoryAllocation) return cuda_fail(dev, e, name);
  return ka_fail(dev->ctx, KA_E_MEMORY,
                 "%s: could not allocate %.1f MiB of %s memory (%.1f MiB of the device are free)",
                 name, (double)n_bytes / 0x1p20, place == KA_PLACE_DEVICE ? "device" : "pinned",
                 (double)free_bytes / 0x1p20);
}

void cuda_release(struct ka_dev *dev, enum ka_place place, void *p) {
  (void)dev;
  if (place == KA_PLACE_DEVICE)
    (void)cudaFree(p);
  else if (p)
    (void)cudaFreeHost(p);
}

ka_status cuda_memory_open(struct ka_dev *dev) {
  struct ka_ctx *ctx = dev->ctx;
  struct cuda_state *s = cuda_of(dev);
  CU_TRY(dev, cudaEventCreateWithFlags(&s->here, cudaEventDisableTiming));
  CU_TRY(dev, cudaEventCreateWithFlags(&s->there, cudaEventDisableTiming));
  for (int i = 0; i < CUDA_STAGES; i++) {
    struct cuda_stage *stage = &s->stages[i];
    void *memory;
    KA_TRY(cuda_alloc(dev, KA_PLACE_PINNED, &memory, CUDA_STAGE_BYTES, "copy stage"));
    stage->memory = memory;
    CU_TRY(dev, cudaEventCreateWithFlags(&stage->free, cudaEventDisableTiming));
  }
  return KA_STATUS_OK;
}

void cuda_memory_close(struct ka_dev *dev) {
  struct cuda_state *s = cuda_of(dev);
  for (int i = 0; i < CUDA_STAGES; i++) {
    if (s->stages[i].free) (void)cudaEventDestroy(s->stages[i].free);
    cuda_release(dev, KA_PLACE_PINNED, s->stages[i].memory);
  }
  if (s->here) (void)cudaEventDestroy(s->here);
  if (s->there) (void)cudaEventDestroy(s->there);
}

/* n_bytes of a stage that no copy uses any more: the rest of the one at hand, or the next one. */
static ka_status take_stage(struct ka_dev *dev, size_t n_bytes, struct cuda_stage **out,
                            char **memory) {
  struct cuda_state *s = cuda_of(dev);
  if (CUDA_STAGE_BYTES - s->stages[s->stage].used < n_bytes) {
    s->stage = (s->stage + 1) % CUDA_STAGES;
    CU_TRY(dev, cudaEventSynchronize(s->stages[s->stage].free));
    s->stages[s->stage].used = 0;
  }
  *out = &s->stages[s->stage];
  *memory = (*out)->memory + (*out)->used;
  (*out)->used += (n_bytes + STAGE_ALIGN - 1) / STAGE_ALIGN * STAGE_ALIGN;
  return KA_STATUS_OK;
}

/* b waits for what a has been given so far. */
static ka_status wait_for(struct ka_dev *dev, cudaStream_t b, cudaStream_t a, cudaEvent_t event) {
  CU_TRY(dev, cudaEventRecord(event, a));
  CU_TRY(dev, cudaStreamWaitEvent(b, event, 0));
  return KA_STATUS_OK;
}

ka_status cuda_upload(struct ka_dev *dev, void *to, const void *from, size_t n_bytes) {
  struct ka_ctx *ctx = dev->ctx;
  struct cuda_state *s = cuda_of(dev);
  KA_TRY(wait_for(dev, s->copy, s->stream, s->here));
  for (size_t at = 0, n; at < n_bytes; at += n) {
    struct cuda_stage *stage = NULL;
    char *memory = NULL;
    n = n_bytes - at < CUDA_STAGE_BYTES ? n_bytes - at : CUDA_STAGE_BYTES;
    KA_TRY(take_stage(dev, n, &stage, &memory));
    memcpy(memory, (const char *)from + at, n);
    CU_TRY(dev, cudaMemcpyAsync((char *)to + at, memory, n, cudaMemcpyDefault, s->copy));
    CU_TRY(dev, cudaEventRecord(stage->free, s->copy));
  }
  return wait_for(dev, s->stream, s->copy, s->there);
}

/* Two stages in turn: while one is emptied into `to`, the other is filled. */
ka_status cuda_download(struct ka_dev *dev, void *to, const void *from, size_t n_bytes) {
  struct ka_ctx *ctx = dev->ctx;
  struct cuda_state *s = cuda_of(dev);
  struct cuda_stage *before = NULL;
  char *before_memory = NULL;
  size_t before_at = 0, before_n = 0;
  for (size_t at = 0, n; at < n_bytes || before; at += n) {
    struct cuda_stage *stage = NULL;
    char *memory = NULL;
    n = n_bytes - at < CUDA_STAGE_BYTES ? n_bytes - at : CUDA_STAGE_BYTES;
    if (n > 0) {
      KA_TRY(take_stage(dev, n, &stage, &memory));
      CU_TRY(dev,
             cudaMemcpyAsync(memory, (const char *)from + at, n, cudaMemcpyDefault, s->stream));
      CU_TRY(dev, cudaEventRecord(stage->free, s->stream));
    }
    if (before) {
      CU_TRY(dev, cudaEventSynchronize(before->free));
      memcpy((char *)to + before_at, before_memory, before_n);
    }
    before = stage;
    before_memory = memory;
    before_at = at;
    before_n = n;
  }
  s->n_ops = 0;
  s->last_op = NULL;
  return KA_STATUS_OK;
}

ka_status cuda_sync(struct ka_dev *dev) {
  struct cuda_state *s = cuda_of(dev);
  CU_TRY(dev, cudaStreamSynchronize(s->stream));
  s->n_ops = 0;
  s->last_op = NULL;
  return KA_STATUS_OK;
}

/* --- recordings ------------------------------------------------------------------------------- */

ka_status cuda_record_begin(struct ka_dev *dev) {
  struct cuda_state *s = cuda_of(dev);
  CU_TRY(dev, cudaStreamBeginCapture(s->stream, cudaStreamCaptureModeThreadLocal));
  s->capturing = true;
  return KA_STATUS_OK;
}

ka_status cuda_record_end(struct ka_dev *dev, bool keep, void **recording) {
  struct cuda_state *s = cuda_of(dev);
  cudaGraph_t graph = NULL;
  cudaGraphExec_t exec = NULL;
  s->capturing = false;
  cudaError_t e = cudaStreamEndCapture(s->stream, &graph);
  if (e == cudaSuccess && keep) e = cudaGraphInstantiate(&exec, graph, 0);
  if (graph) (void)cudaGraphDestroy(graph);
  if (e != cudaSuccess) return cuda_fail(dev, e, "recording a pass");
  if (!keep) return KA_STATUS_OK;
  ka_status st = cuda_replay(dev, exec);
  if (ka_ok(st))
    *recording = exec;
  else
    cuda_record_free(dev, exec);
  return st;
}

ka_status cuda_replay(struct ka_dev *dev, void *recording) {
  struct cuda_state *s = cuda_of(dev);
  return cuda_launched(dev, "a recorded pass",
                       cudaGraphLaunch((cudaGraphExec_t)recording, s->stream));
}

void cuda_record_free(struct ka_dev *dev, void *recording) {
  (void)dev;
  (void)cudaGraphExecDestroy((cudaGraphExec_t)recording);
}
