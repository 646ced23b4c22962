/* SPDX-License-Identifier: Apache-2.0
 *
 * Events: a record is an op in a stream; the event remembers the last one's stream and number. */
#include "tests/cudahost/stream.h"

#include <stdlib.h>
#include <time.h>

static struct CUevent_st *events; /* some dead ones among them */

static struct CUevent_st *look_up(cudaEvent_t handle, cudaError_t *e) {
  struct CUevent_st *event = NULL;
  for (struct CUevent_st *i = events; i && !*e && !event; i = i->next)
    if (i == handle && i->live) event = i;
  if (!*e && !event) *e = cudaErrorInvalidResourceHandle;
  return event;
}

static cudaError_t create(cudaEvent_t *event, unsigned flags) {
  cudaError_t e = ch_enter(CH_NORMAL);
  if (!e && !event) e = cudaErrorInvalidValue;
  if (!e) e = ch_inject(CH_FAIL_CREATE, cudaErrorMemoryAllocation);
  struct CUevent_st *made = e ? NULL : calloc(1, sizeof *made);
  if (!e && !made) e = cudaErrorMemoryAllocation;
  if (!e) {
    *made = (struct CUevent_st){.next = events, .flags = flags, .live = true};
    *event = events = made;
  }
  return ch_leave(e);
}
cudaError_t cudaEventCreate(cudaEvent_t *event) { return create(event, cudaEventDefault); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
  return create(event, flags);
}

struct record {
  struct ch_op op;
  struct CUevent_st *event;
};
static cudaError_t run_record(struct ch_op *op) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  ((struct record *)op)->event->ms = 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
  return cudaSuccess;
}
static const struct ch_op_type record_type = {"a record", true, cudaGraphNodeTypeEmpty,
                                              run_record, NULL, NULL};

static cudaError_t record(struct CUevent_st *event, struct CUstream_st *s, const void *caller) {
  if (s->capture) return ch_capture_record(event, s);
  struct record *r = ch_op_create(&record_type, sizeof *r, "cudaEventRecord", caller);
  if (!r) return cudaErrorMemoryAllocation;
  r->event = event;
  cudaError_t e = ch_append(s, &r->op);
  if (e) return e;
  event->recorded = true;
  event->capture = 0;
  event->stream = s;
  event->seq = s->issued;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream) {
  cudaError_t e = ch_enter(CH_NORMAL);
  struct CUevent_st *event = look_up(handle, &e);
  struct CUstream_st *s = e ? NULL : ch_stream(stream);
  if (!e && !s) e = cudaErrorInvalidResourceHandle;
  if (!e) e = record(event, s, CH_CALLER);
  return ch_leave(e);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t handle, unsigned flags) {
  cudaError_t e = ch_enter(CH_NORMAL);
  struct CUevent_st *event = look_up(handle, &e);
  struct CUstream_st *s = e ? NULL : ch_stream(stream);
  (void)flags;
  if (!e && !s) e = cudaErrorInvalidResourceHandle;
  if (!e && (event->capture || s->capture))
    e = ch_capture_wait(s, event);
  else if (!e && event->recorded)
    e = ch_append_wait(s, event->stream, event->seq);
  return ch_leave(e);
}

/* An event of a capture stands for nodes of a graph; nobody can wait for those. */
static cudaError_t wait_allowed(const struct CUevent_st *event) {
  if (!event->capture) return cudaSuccess;
  struct ch_capture *c = ch_capture_find(event->capture);
  return c ? ch_capture_forbid(c, cudaErrorCapturedEvent) : cudaErrorCapturedEvent;
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  cudaError_t e = ch_enter(CH_NORMAL);
  struct CUevent_st *event = look_up(handle, &e);
  if (!e) e = wait_allowed(event);
  if (!e) e = ch_capture_unsafe();
  if (!e) ch_counters.syncs++;
  if (!e && event->recorded) ch_run_until(event->stream, event->seq), e = ch_sticky();
  return ch_leave(e);
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
  cudaError_t e = ch_enter(CH_NORMAL);
  struct CUevent_st *event = look_up(handle, &e);
  if (!e) e = wait_allowed(event);
  if (!e) e = ch_capture_unsafe();
  if (!e && event->recorded && event->stream->done < event->seq) {
    ch_run_one(event->stream);
    e = ch_sticky() ? ch_sticky() : cudaErrorNotReady;
  }
  return ch_leave(e);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end) {
  cudaError_t e = ch_enter(CH_NORMAL);
  struct CUevent_st *a = look_up(start, &e), *b = look_up(end, &e);
  if (!e && (!a->recorded || !b->recorded || (a->flags | b->flags) & cudaEventDisableTiming))
    e = cudaErrorInvalidResourceHandle;
  if (!e && (a->stream->done < a->seq || b->stream->done < b->seq)) e = cudaErrorNotReady;
  if (!e) *ms = (float)(b->ms - a->ms);
  return ch_leave(e);
}

static void free_event(struct CUevent_st *event) {
  free(event->nodes.node);
  free(event);
}

/* Destroyed ones go when no record of theirs is waiting any more. */
static void sweep(void) {
  for (struct CUevent_st **at = &events, *event; (event = *at);) {
    bool pending = event->recorded && event->stream->done < event->seq;
    if (event->live || pending)
      at = &event->next;
    else
      *at = event->next, free_event(event);
  }
}

cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  cudaError_t e = ch_enter(CH_NORMAL);
  struct CUevent_st *event = look_up(handle, &e);
  if (!e) event->live = false, sweep();
  return ch_leave(e);
}

void ch_event_reset(void) {
  while (events) {
    struct CUevent_st *event = events;
    events = event->next;
    free_event(event);
  }
}
