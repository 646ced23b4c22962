/* SPDX-License-Identifier: Apache-2.0
 *
 * Ranks: the processes of one job, started by mpirun or srun, and what they exchange. A process
 * that nobody started so is rank 0 of 1: then every call here is a no-op that needs no library.
 *
 * Collectives are started in the same order on all ranks and run one after the other on a thread of
 * their own, which alone talks to the transport, while the caller computes on. Sums are in an order
 * that only the number of ranks decides, so the same job at the same count gives the same bits, and
 * all ranks hold the same bits.
 *
 * Each collective begins with a comparison of what the ranks are about to do: one that left the
 * order is reported with both calls. A failure of any rank reaches all others at their next call;
 * nobody waits for longer than timeout_s. Buffers are host memory. Not here: who computes what. */
#ifndef KAPPA_ENGINE_DIST_DIST_H
#define KAPPA_ENGINE_DIST_DIST_H

#include "kernels/tensor.h"

struct ka_dist;

/* Of this rank since it was opened. */
struct ka_dist_stats {
  int64_t n_calls, sent_bytes;
  double busy_s;   /* of the exchanging thread, in collectives */
  double waited_s; /* of the callers, in ka_dist_wait */
};

/* Finds out who started this process. Alone unless it was a launcher of several ranks; then the
 * plug-in kappa_mpi.so is loaded ($KAPPA_MPI, beside the program, ../lib/kappa). Sets ctx->rank.
 * KA_E_DEVICE says what is missing or does not fit: no plug-in, a launcher of another MPI, srun
 * without PMIx. timeout_s: of any wait for another rank. */
ka_status ka_dist_open(struct ka_ctx *ctx, struct ka_dist **out, double timeout_s);

/* With st ok: waits until all ranks are here. Else tells the others that this rank failed, with
 * ctx's error, unless the failure came from them. NULL: nothing. */
ka_status ka_dist_close(struct ka_dist *d, ka_status st);

void ka_dist_set_timeout(struct ka_dist *d, double timeout_s);

int ka_dist_rank(const struct ka_dist *d);   /* d may be NULL: 0 */
int ka_dist_n_here(const struct ka_dist *d); /* those on this rank's machine */
int ka_dist_n(const struct ka_dist *d);      /* d may be NULL: 1 */
struct ka_dist_stats ka_dist_stats(const struct ka_dist *d);

/* All of these only start; `what` (copied, for errors) names the data: "gradients of layer 3". The
 * buffers belong to the exchange until ka_dist_wait. starts [n_ranks + 1]: rank r's part is
 * [starts[r], starts[r+1]), read before the call returns. */

/* x [n] of dtype f32, f64 or i64 becomes the sum over ranks. */
ka_status ka_dist_all_reduce(struct ka_dist *d, const char *what, void *x, int64_t n,
                             enum ka_dtype dtype);
/* This rank's part of x becomes the sum; the rest is left undefined. starts in elements. */
ka_status ka_dist_reduce_scatter(struct ka_dist *d, const char *what, void *x,
                                 const int64_t *starts, enum ka_dtype dtype);
/* Every rank's part of x goes to all. starts in bytes. */
ka_status ka_dist_all_gather(struct ka_dist *d, const char *what, void *x, const int64_t *starts);
/* root's x [n_bytes] goes to all. */
ka_status ka_dist_broadcast(struct ka_dist *d, const char *what, void *x, int64_t n_bytes,
                            int root);
/* in's part r goes to rank r, whose part for this rank arrives in out's part of that rank. Starts
 * in bytes; the parts of a pair of ranks must be equal. in and out do not overlap. */
ka_status ka_dist_all_to_all(struct ka_dist *d, const char *what, void *out,
                             const int64_t *out_starts, const void *in, const int64_t *in_starts);

/* Waits until all ranks are here, however long that takes, as long as they give signs of life: what
 * one rank does for all (reading data, writing a checkpoint). */
ka_status ka_dist_barrier(struct ka_dist *d, const char *what);

/* Until all that was started is done. The failure of any rank, with its rank and host. */
ka_status ka_dist_wait(struct ka_dist *d);

/* Sums of a few doubles, at once. */
ka_status ka_dist_sum(struct ka_dist *d, const char *what, double *x, int64_t n);
/* All ranks must give the same text (what is compared: "job.yaml"); KA_E_INPUT on all, naming the
 * first rank that differs from rank 0, and both texts' beginnings. */
ka_status ka_dist_agree(struct ka_dist *d, const char *what, const char *text);

#endif
