/* SPDX-License-Identifier: Apache-2.0
 * Inside the room: the queue of collectives, the thread that runs them (worker.c), their messages
 * (ring.c), who started us (launch.c) and the transport (mpi.c). */
#ifndef KAPPA_ENGINE_DIST_RANKS_H
#define KAPPA_ENGINE_DIST_RANKS_H

#include "engine/dist/dist.h"

#include <pthread.h>

struct ka_mpi_plugin;

/* kind, name, part of a message's text */
#define KA_DIST_KINDS(X)                                                                           \
  X(ALL_REDUCE, "all-reduce")                                                                      \
  X(REDUCE_SCATTER, "reduce-scatter")                                                              \
  X(ALL_GATHER, "all-gather")                                                                      \
  X(BROADCAST, "broadcast")                                                                        \
  X(ALL_TO_ALL, "all-to-all")                                                                      \
  X(BARRIER, "meeting")                                                                            \
  X(CLOSE, "end")

enum ka_dist_kind {
#define X(name, text) KA_DIST_##name,
  KA_DIST_KINDS(X)
#undef X
      KA_DIST_N_KINDS
};

enum { KA_DIST_WHAT = 56, KA_DIST_HOST = 64, KA_DIST_TEXT = 1024 };

/* What the ranks compare before a collective. No padding: it travels as bytes. */
struct ka_dist_header {
  int64_t sequence,
      n; /* n: elements or bytes that all ranks must agree on, 0 where they need not */
  int32_t kind, dtype, root, zero;
  char what[KA_DIST_WHAT];
};

struct ka_dist_call {
  struct ka_dist_header header;
  void *x;
  const void *in;
  int64_t *starts, *in_starts; /* owned */
};

/* Why this job cannot go on. */
struct ka_dist_failure {
  int32_t code; /* enum ka_code; KA_OK: none */
  int32_t rank; /* whose */
  char text[KA_DIST_TEXT];
};

/* A sign of life to the right neighbour. */
struct ka_dist_beat {
  int64_t sequence; /* of the collective that it is in, or that it finished last */
  int32_t waiting;  /* in a collective */
  int32_t zero;
  char what[KA_DIST_WHAT];
};

struct ka_dist {
  struct ka_ctx *ctx;
  int rank, n;
  double timeout_s;
  char (*hosts)[KA_DIST_HOST]; /* [n] */
  const struct ka_mpi_plugin *mpi;
  struct ka_dist_stats stats;

  pthread_t thread;
  bool has_thread;
  pthread_mutex_t lock; /* of all below */
  pthread_cond_t changed;
  struct ka_dist_call *queue; /* [cap], started but not done: from n_done to n_started */
  int64_t cap, n_started, n_done;
  bool opened, ending, ended; /* the thread has opened the transport; shall end; has ended */
  struct ka_dist_failure failure;
  bool tell; /* `failure` is this rank's and the others do not know it yet */

  /* the thread's own */
  struct ka_dist_failure told, heard; /* buffers of messages on their way */
  struct ka_dist_beat beat_out, beat_in, beat_left;
  int hear, beat_receive, beat_send; /* handles; -1: none */
  double last_beat_s, left_beat_s;
  const struct ka_dist_call *current;
  void *piece; /* [KA_DIST_PIECE]: what arrives and is added */
};

/* Messages are cut into pieces of so many bytes. */
enum { KA_DIST_PIECE = 4 << 20 };

const char *ka_dist_kind_name(enum ka_dist_kind kind);

/* --- launch.c --- */
/* Ranks that a launcher says there are, 1 when none started us; *by is its name. KA_E_DEVICE where
 * it started several ranks but cannot serve them. */
ka_status ka_dist_launched(struct ka_ctx *ctx, int *n_ranks, const char **by);

/* --- mpi.c --- */
ka_status ka_dist_mpi_load(struct ka_ctx *ctx, const struct ka_mpi_plugin **out);

/* --- worker.c --- */
ka_status ka_dist_worker_start(struct ka_dist *d);
void ka_dist_worker_end(struct ka_dist *d);
/* Records a failure unless there is one. own: of this rank, the others are told. */
void ka_dist_set_failure(struct ka_dist *d, int code, int rank, bool own, const char *text);
/* Sends and receives at once, bytes; to or from -1: only the other. False: the job failed. */
bool ka_dist_exchange(struct ka_dist *d, int to, const void *out, int64_t n_out, int from, void *in,
                      int64_t n_in);

/* --- ring.c --- */
/* Runs one collective. False: the job failed. */
bool ka_dist_run(struct ka_dist *d, const struct ka_dist_call *call);

#endif
