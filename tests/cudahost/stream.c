/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams: queues of ops that run as late as the rules allow (order=lazy), so that a missing wait
 * shows; order=eager runs each at once, order=random some of them at any time. An op that must wait
 * for another stream runs that one only as far as it must. */
#include "tests/cudahost/stream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct CUstream_st *streams; /* the newest first, dead ones among them */
static struct CUstream_st legacy[CH_MAX_DEVICES];

struct CUstream_st *ch_stream(cudaStream_t handle) {
  if (!handle || handle == cudaStreamLegacy) {
    struct CUstream_st *s = &legacy[ch_device()];
    s->live = s->legacy = true;
    s->device = ch_device();
    return s;
  }
  for (struct CUstream_st *s = streams; s; s = s->next)
    if (s == handle) return s->live ? s : NULL;
  return NULL;
}

/* --- running ---------------------------------------------------------------------------------- */
cudaError_t ch_op_run(struct ch_op *op) {
  cudaError_t e = ch_sticky();
  if (!e) {
    ch_phase(op->type->on_device ? CH_ON_DEVICE : CH_HOST);
    if (ch_setting(CH_TRACE)) fprintf(stderr, "cudahost: runs %s\n", op->name);
    e = op->type->run(op);
  }
  if (op->type->on_device) ch_release(op);
  if (e) ch_make_sticky(e);
  return e;
}

void ch_op_drop(struct ch_op *op) {
  if (op->type->drop) op->type->drop(op);
  free(op);
}

void ch_run_one(struct CUstream_st *s) {
  struct ch_op *op = s->head;
  if (!op) return;
  s->head = op->next;
  if (!s->head) s->tail = NULL;
  ch_op_run(op);
  s->done = op->seq;
  ch_op_drop(op);
}

void ch_run_until(struct CUstream_st *s, uint64_t seq) {
  while (s->done < seq && s->head) ch_run_one(s);
}

cudaError_t ch_drain(void) {
  for (struct CUstream_st *s = streams; s; s = s->next)
    if (s->device == ch_device()) ch_run_until(s, s->issued);
  struct CUstream_st *s = ch_stream(NULL);
  ch_run_until(s, s->issued);
  return ch_sticky();
}

static uint64_t chance(void) { /* xorshift */
  static uint64_t state;
  if (!state) state = (uint64_t)ch_setting(CH_SEED) * 0x9e3779b97f4a7c15u | 1;
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return state;
}

static void run_some(void) {
  for (struct CUstream_st *s = streams; s; s = s->next)
    for (uint64_t n = chance() % 4; n && s->device == ch_device(); n--) ch_run_one(s);
}

/* --- queueing --------------------------------------------------------------------------------- */
void *ch_op_create(const struct ch_op_type *type, size_t bytes, const char *name,
                   const void *caller) {
  struct ch_op *op = calloc(1, bytes);
  if (op) *op = (struct ch_op){.type = type, .name = name, .caller = caller};
  return op;
}

static void append(struct CUstream_st *s, struct ch_op *op) {
  op->seq = ++s->issued;
  if (s->tail)
    s->tail->next = op;
  else
    s->head = op;
  s->tail = op;
  if (op->type->issue) op->type->issue(op);
}

struct wait {
  struct ch_op op;
  struct CUstream_st *on;
  uint64_t seq;
};
static cudaError_t run_wait(struct ch_op *op) {
  const struct wait *w = (const struct wait *)op;
  ch_run_until(w->on, w->seq);
  return ch_sticky();
}
static const struct ch_op_type wait_type = {"a wait", true, cudaGraphNodeTypeEmpty,
                                            run_wait, NULL, NULL};

cudaError_t ch_append_wait(struct CUstream_st *s, struct CUstream_st *on, uint64_t seq) {
  if (on == s || on->done >= seq) return cudaSuccess;
  struct wait *w = ch_op_create(&wait_type, sizeof *w, "a wait", NULL);
  if (!w) return cudaErrorMemoryAllocation;
  w->on = on;
  w->seq = seq;
  append(s, &w->op);
  return cudaSuccess;
}

/* The legacy stream waits for all blocking streams, and they for it. */
static cudaError_t wait_for_legacy(struct CUstream_st *s) {
  cudaError_t e = cudaSuccess;
  struct CUstream_st *l = ch_stream(NULL);
  if (s->flags & cudaStreamNonBlocking) return cudaSuccess;
  if (s != l) return s->device == l->device ? ch_append_wait(s, l, l->issued) : cudaSuccess;
  for (struct CUstream_st *t = streams; t && !e; t = t->next)
    if (!(t->flags & cudaStreamNonBlocking) && t->device == s->device)
      e = ch_append_wait(s, t, t->issued);
  return e;
}

cudaError_t ch_append(struct CUstream_st *s, struct ch_op *op) {
  cudaError_t e = s->legacy ? ch_capture_implicit(s->device) : cudaSuccess;
  if (!e) e = wait_for_legacy(s);
  if (e) return ch_op_drop(op), e;
  append(s, op);
  if (ch_setting(CH_ORDER) == CH_ORDER_EAGER) ch_run_until(s, s->issued);
  if (ch_setting(CH_ORDER) == CH_ORDER_RANDOM) run_some();
  return cudaSuccess; /* what goes wrong on the device shows later */
}

cudaError_t ch_op_enqueue(cudaStream_t stream, struct ch_op *op) {
  if (!op) return cudaErrorMemoryAllocation;
  struct CUstream_st *s = ch_stream(stream);
  if (!s) return ch_op_drop(op), cudaErrorInvalidResourceHandle;
  return s->capture ? ch_capture_add(s, op) : ch_append(s, op);
}

cudaError_t ch_op_wait(cudaStream_t stream) {
  struct CUstream_st *s = ch_stream(stream);
  if (!s) return cudaErrorInvalidResourceHandle;
  if (s->capture) return ch_capture_forbid(s->capture, cudaErrorStreamCaptureUnsupported);
  cudaError_t e = s->legacy ? wait_for_legacy(s) : cudaSuccess;
  if (e) return e;
  ch_run_until(s, s->issued);
  return ch_sticky();
}

/* --- the interface ---------------------------------------------------------------------------- */
static cudaError_t create(cudaStream_t *stream, unsigned flags, int priority) {
  cudaError_t e = ch_enter(CH_NORMAL);
  if (!e && (!stream || flags > cudaStreamNonBlocking)) e = cudaErrorInvalidValue;
  if (!e) e = ch_inject(CH_FAIL_CREATE, cudaErrorMemoryAllocation);
  struct CUstream_st *s = e ? NULL : calloc(1, sizeof *s);
  if (!e && !s) e = cudaErrorMemoryAllocation;
  if (!e) {
    *s = (struct CUstream_st){.next = streams,
                              .device = ch_device(),
                              .flags = flags,
                              .live = true,
                              .priority = priority > 0    ? 0
                                          : priority < -5 ? -5
                                                          : priority};
    *stream = streams = s;
  }
  return ch_leave(e);
}
cudaError_t cudaStreamCreate(cudaStream_t *s) { return create(s, cudaStreamDefault, 0); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags) {
  return create(s, flags, 0);
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int priority) {
  return create(s, flags, priority);
}

static struct CUstream_st *look_up(cudaStream_t handle, cudaError_t *e) {
  struct CUstream_st *s = *e ? NULL : ch_stream(handle);
  if (!*e && !s) *e = cudaErrorInvalidResourceHandle;
  return s;
}

cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority) {
  cudaError_t e = ch_enter(CH_NORMAL);
  struct CUstream_st *s = look_up(stream, &e);
  if (s) *priority = s->priority;
  return ch_leave(e);
}
cudaError_t cudaStreamGetFlags(cudaStream_t stream, unsigned int *flags) {
  cudaError_t e = ch_enter(CH_NORMAL);
  struct CUstream_st *s = look_up(stream, &e);
  if (s) *flags = s->flags;
  return ch_leave(e);
}

/* What is queued is finished first: the real call returns at once, but nobody can tell. */
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  cudaError_t e = ch_enter(CH_NORMAL);
  struct CUstream_st *s = look_up(stream, &e);
  if (s && s->legacy) e = cudaErrorInvalidResourceHandle;
  if (!e && s->capture) e = ch_capture_forbid(s->capture, cudaErrorStreamCaptureUnsupported);
  if (!e) {
    ch_run_until(s, s->issued);
    s->live = false;
  }
  return ch_leave(e);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  cudaError_t e = ch_enter(CH_UNSAFE);
  if (!e) ch_counters.syncs++, e = ch_op_wait(stream);
  return ch_leave(e);
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  cudaError_t e = ch_enter(CH_NORMAL);
  struct CUstream_st *s = look_up(stream, &e);
  if (s && s->capture) e = ch_capture_forbid(s->capture, cudaErrorStreamCaptureUnsupported);
  if (!e) e = ch_capture_unsafe();
  if (!e && s->done < s->issued) {
    ch_run_one(s);
    e = ch_sticky() ? ch_sticky() : cudaErrorNotReady;
  }
  return ch_leave(e);
}

struct host_op {
  struct ch_op op;
  cudaHostFn_t fn;
  void *user;
};
static cudaError_t run_host(struct ch_op *op) {
  const struct host_op *h = (const struct host_op *)op;
  ch_host_function(true);
  h->fn(h->user);
  ch_host_function(false);
  return cudaSuccess;
}
static const struct ch_op_type host_type = {"a host function", false, cudaGraphNodeTypeHost,
                                            run_host,          NULL,  NULL};

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t fn, void *user) {
  cudaError_t e = ch_enter(CH_NORMAL);
  if (!e && !fn) e = cudaErrorInvalidValue;
  if (!e) {
    struct host_op *h = ch_op_create(&host_type, sizeof *h, "cudaLaunchHostFunc", CH_CALLER);
    if (h) h->fn = fn, h->user = user;
    e = ch_op_enqueue(stream, h ? &h->op : NULL);
  }
  return ch_leave(e);
}

/* --- work of the emulated libraries ----------------------------------------------------------- */
struct custom_op {
  struct ch_op op;
  cudaError_t (*fn)(void *user);
  int n_reads, n_writes;
  struct cudahost_range *ranges; /* reads, then writes */
  void *user;
};
static cudaError_t run_custom(struct ch_op *op) {
  struct custom_op *c = (struct custom_op *)op;
  for (int i = 0; i < c->n_reads + c->n_writes; i++) {
    const struct cudahost_range *r = &c->ranges[i];
    for (size_t row = 0; row < (r->n_rows ? r->n_rows : 1); row++)
      ch_range_check(op->name, op->caller, (const char *)r->at + row * r->pitch, r->bytes,
                     i < c->n_reads ? CH_RANGE_READ : CH_RANGE_WRITE);
  }
  ch_host_function(true);
  cudaError_t e = c->fn(c->user);
  ch_host_function(false);
  return e;
}
static const struct ch_op_type custom_type = {"a library call", true, cudaGraphNodeTypeKernel,
                                              run_custom,       NULL, NULL};

cudaError_t cudahost_enqueue(cudaStream_t stream, const char *name, cudaError_t (*fn)(void *user),
                             const void *user, size_t user_bytes,
                             const struct cudahost_range *reads, int n_reads,
                             const struct cudahost_range *writes, int n_writes) {
  cudaError_t e = ch_enter(CH_NORMAL);
  size_t head = (sizeof(struct custom_op) + 15) / 16 * 16, range = sizeof *reads;
  size_t kept = (user_bytes + 15) / 16 * 16;
  if (!e) e = ch_inject(CH_FAIL_LAUNCH, cudaErrorLaunchOutOfResources);
  if (!e) {
    struct custom_op *c = ch_op_create(
        &custom_type, head + kept + range * (size_t)(n_reads + n_writes), name, CH_CALLER);
    if (c) {
      c->fn = fn;
      c->user = (char *)c + head;
      c->ranges = (struct cudahost_range *)(void *)((char *)c + head + kept);
      c->n_reads = n_reads;
      c->n_writes = n_writes;
      if (user_bytes) memcpy(c->user, user, user_bytes);
      if (n_reads) memcpy(c->ranges, reads, range * (size_t)n_reads);
      if (n_writes) memcpy(c->ranges + n_reads, writes, range * (size_t)n_writes);
      ch_counters.launches++;
    }
    e = ch_op_enqueue(stream, c ? &c->op : NULL);
  }
  return ch_leave(e);
}

static void forget(struct CUstream_st *s) {
  while (s->head) {
    struct ch_op *op = s->head;
    s->head = op->next;
    ch_op_drop(op);
  }
  free(s->last.node);
}

void ch_stream_reset(void) {
  while (streams) {
    struct CUstream_st *s = streams;
    streams = s->next;
    forget(s);
    free(s);
  }
  for (int i = 0; i < CH_MAX_DEVICES; i++) {
    forget(&legacy[i]);
    legacy[i] = (struct CUstream_st){0};
  }
}
