/* SPDX-License-Identifier: Apache-2.0
 *
 * The program's team of CPU threads. Kernels and libraries share work out over as many threads as
 * OpenMP says there will be; where fewer come (OMP_DYNAMIC, OMP_THREAD_LIMIT, nesting), parts of a
 * result would be missing without a word. So the team is fixed here, counted once in a parallel
 * region, and never changed behind a computation's back. */
#ifndef KAPPA_BASE_THREADS_H
#define KAPPA_BASE_THREADS_H

#include "base/status.h"

enum { KA_THREADS_MOST = 1024 };

/* First thing in main: environment that OpenMP reads before any code of ours runs is set and the
 * program started again with it, unless it is as it should be. Returns if it is, or if that fails
 * (then threads spin as OpenMP likes).
 *  - GOMP_SPINCOUNT, unless it or OMP_WAIT_POLICY is set: how long a thread without work looks for
 *    some before it sleeps.
 *  - OMP_STACKSIZE, where it is set: kernels have blocks on the stack. */
void ka_threads_environment(char **argv);

/* n threads from now on; 0: OMP_NUM_THREADS, or as many as there are processors that this process
 * may use (affinity, cgroup quota). Fewer where OpenMP gives fewer, with a warning when more were
 * asked for. KA_E_DEVICE: no team of any size holds. */
ka_status ka_threads_set(struct ka_ctx *ctx, int64_t n);

#endif
