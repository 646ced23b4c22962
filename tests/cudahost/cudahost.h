/* SPDX-License-Identifier: Apache-2.0
 *
 * What a test may ask of the CUDA stand-in beyond the CUDA interface: settings and planted
 * failures, counters, the last report, and work of its own in stream order (the emulated libraries
 * use that). Plain C; where the stand-in lives in a plug-in, a test finds these functions with
 * dlsym.
 *
 * Every setting of settings.def can also come from the environment, as CUDAHOST_ + its name in
 * capitals: CUDAHOST_MEMORY=1g CUDAHOST_ORDER=eager CUDAHOST_FAIL_ALLOC=3. */
#ifndef KAPPA_TESTS_CUDAHOST_CUDAHOST_H
#define KAPPA_TESTS_CUDAHOST_CUDAHOST_H

#include <stdbool.h>
#include <stddef.h>

#include "cuda_runtime_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Changes one setting; false (and a line on stderr) when there is no such name or value. */
bool cudahost_set(const char *name, const char *value);

/* Forgets streams, events, allocations, errors and counters; settings go back to the environment's.
 */
void cudahost_reset(void);

struct cudahost_counters {
  long long launches, copies, copied_bytes; /* enqueued; memsets are copies */
  long long graph_launches;
  long long attributes;             /* of kernels, set */
  long long allocations, frees;     /* device memory */
  long long live_bytes, peak_bytes; /* device memory */
  long long pinned_allocations, pinned_bytes;
  long long syncs;    /* calls that waited for the device: synchronise, plain copies, frees */
  long long injected; /* failures that the fail_* settings made happen */
};
void cudahost_count(struct cudahost_counters *counters);

/* The text of the last report, "" if none: for on_fault=sticky, where the process lives on. */
const char *cudahost_last_report(void);

/* Runs fn(user) in the order of `stream`, when device memory may be touched: the ranges are checked
 * just before (live, in bounds, every byte read was written) and the written ones count as written
 * after. `user` is copied. An fn that returns an error makes it the device's sticky one; it must
 * not call the CUDA interface. */
struct cudahost_range { /* n_rows of `bytes`, each `pitch` after the one before; 0 rows are one */
  const void *at;
  size_t bytes, n_rows, pitch;
};
cudaError_t cudahost_enqueue(cudaStream_t stream, const char *name, cudaError_t (*fn)(void *user),
                             const void *user, size_t user_bytes,
                             const struct cudahost_range *reads, int n_reads,
                             const struct cudahost_range *writes, int n_writes);

#ifdef __cplusplus
}
#endif

#endif
