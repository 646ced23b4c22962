/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams, events and captures as stream.c, event.c and graph.c share them. Structs outlive their
 * handles until cudaDeviceReset, so that waits may point at them; `live` tells a handle's truth. */
#ifndef KAPPA_TESTS_CUDAHOST_STREAM_H
#define KAPPA_TESTS_CUDAHOST_STREAM_H

#include "tests/cudahost/internal.h"

#pragma GCC visibility push(hidden)

struct ch_set { /* of graph nodes, by index */
  int *node;
  int n, max;
};
struct ch_capture;

struct CUstream_st {
  struct CUstream_st *next;
  int device, priority;
  unsigned flags;
  bool live, legacy;
  struct ch_op *head, *tail;
  uint64_t issued, done; /* number of the last op put in, and finished */
  struct ch_capture *capture;
  struct ch_set last; /* captured nodes that the next one depends on */
};

struct CUevent_st {
  struct CUevent_st *next;
  unsigned flags;
  bool live, recorded;
  struct CUstream_st *stream; /* of the last record, */
  uint64_t seq;               /* and its number there */
  double ms;
  uint64_t capture; /* recorded in the capture of this number: the nodes it stands for; or 0 */
  struct ch_set nodes;
};

struct CUstream_st *ch_stream(cudaStream_t handle); /* NULL: no such stream */
cudaError_t ch_append(struct CUstream_st *s, struct ch_op *op);
cudaError_t ch_append_wait(struct CUstream_st *s, struct CUstream_st *on, uint64_t seq);
void ch_run_until(struct CUstream_st *s, uint64_t seq);
void ch_run_one(struct CUstream_st *s);
void ch_event_reset(void);

/* --- graph.c: a stream or event in a capture hands over to these ------------------------------ */
struct ch_capture *ch_capture_find(uint64_t number); /* NULL when it has ended */
cudaError_t ch_capture_add(struct CUstream_st *s, struct ch_op *op);
cudaError_t ch_capture_record(struct CUevent_st *e, struct CUstream_st *s);
cudaError_t ch_capture_wait(struct CUstream_st *s, struct CUevent_st *e);
cudaError_t ch_capture_forbid(struct ch_capture *c,
                              cudaError_t error); /* invalidates; returns error */
/* The error of a call that may synchronise while a capture is active; invalidates it. */
cudaError_t ch_capture_unsafe(void);
/* ... of using the legacy stream while a blocking stream captures. */
cudaError_t ch_capture_implicit(int device);
void ch_graph_reset(void);

#pragma GCC visibility pop

#endif
