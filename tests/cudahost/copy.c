/* SPDX-License-Identifier: Apache-2.0
 *
 * Copies and memsets. An asynchronous copy from pageable memory takes the bytes at the call, one to
 * pageable memory waits; pinned memory is read and written when the op runs, and watched until then
 * (pinned.c). Ranges are checked when the op runs. */
#include "tests/cudahost/stream.h"

#include <string.h>

struct copy {
  struct ch_op op;
  char *dst;
  const char *src;
  size_t dst_pitch, src_pitch, width, height;
  unsigned char value; /* of a memset */
  char staged[];       /* pageable source */
};

static cudaError_t run_copy(struct ch_op *op) {
  const struct copy *c = (const struct copy *)op;
  bool moves = ch_on_device(c->dst) && ch_on_device(c->src);
  for (size_t y = 0; y < c->height; y++) {
    char *dst = c->dst + y * c->dst_pitch;
    const char *src = c->src + y * c->src_pitch;
    ch_range_check(op->name, op->caller, src, c->width, moves ? CH_RANGE_USE : CH_RANGE_READ);
    ch_range_check(op->name, op->caller, dst, c->width, CH_RANGE_WRITE);
    if (moves) ch_range_move(dst, src, c->width);
    memmove(dst, src, c->width);
  }
  return cudaSuccess;
}

static cudaError_t run_set(struct ch_op *op) {
  const struct copy *c = (const struct copy *)op;
  for (size_t y = 0; y < c->height; y++) {
    ch_range_check(op->name, op->caller, c->dst + y * c->dst_pitch, c->width, CH_RANGE_WRITE);
    memset(c->dst + y * c->dst_pitch, c->value, c->width);
  }
  return cudaSuccess;
}

static void issue_copy(struct ch_op *op) {
  const struct copy *c = (const struct copy *)op;
  bool one = c->height == 1; /* what lies between rows is the host's to touch */
  if (one || c->src_pitch == c->width) ch_hold(op, c->src, c->width * c->height, false);
  if (one || c->dst_pitch == c->width) ch_hold(op, c->dst, c->width * c->height, true);
}

static const struct ch_op_type copy_type = {"a copy", true,       cudaGraphNodeTypeMemcpy,
                                            run_copy, issue_copy, NULL},
                               set_type = {"a memset", true, cudaGraphNodeTypeMemset,
                                           run_set,    NULL, NULL};

struct request {
  const char *name;
  const void *caller;
  void *dst;
  const void *src;
  size_t dst_pitch, src_pitch, width, height;
  enum cudaMemcpyKind kind;
  cudaStream_t stream;
  bool async;
};

static bool direction_fits(const struct request *r) {
  bool from = ch_on_device(r->src), to = ch_on_device(r->dst);
  switch (r->kind) { /* pinned memory counts as either */
  case cudaMemcpyHostToHost:
    return !from && !to;
  case cudaMemcpyHostToDevice:
    return !from && (to || ch_pinned_find((uintptr_t)r->dst));
  case cudaMemcpyDeviceToHost:
    return !to && (from || ch_pinned_find((uintptr_t)r->src));
  case cudaMemcpyDeviceToDevice:
    return (from || ch_pinned_find((uintptr_t)r->src)) && (to || ch_pinned_find((uintptr_t)r->dst));
  case cudaMemcpyDefault:
    return true;
  }
  return false;
}

static cudaError_t enqueue_copy(const struct request *r) {
  bool pageable_src = ch_kind_of(r->src) == CH_PAGEABLE,
       pageable_dst = ch_kind_of(r->dst) == CH_PAGEABLE;
  bool stage = r->async && pageable_src;
  struct CUstream_st *s = ch_stream(r->stream);
  if (!s) return cudaErrorInvalidResourceHandle;
  if (s->capture && (pageable_src || pageable_dst))
    return ch_capture_forbid(s->capture, cudaErrorStreamCaptureUnsupported);
  struct copy *c =
      ch_op_create(&copy_type, sizeof *c + (stage ? r->width * r->height : 0), r->name, r->caller);
  if (!c) return cudaErrorMemoryAllocation;
  c->dst = r->dst;
  c->src = stage ? c->staged : r->src;
  c->dst_pitch = r->dst_pitch;
  c->src_pitch = stage ? r->width : r->src_pitch;
  c->width = r->width;
  c->height = r->height;
  for (size_t y = 0; stage && y < r->height; y++)
    memcpy(c->staged + y * r->width, (const char *)r->src + y * r->src_pitch, r->width);
  cudaError_t e = ch_op_enqueue(r->stream, &c->op);
  bool wait = r->async ? pageable_dst : !(ch_on_device(r->src) && ch_on_device(r->dst));
  if (!e && wait) ch_counters.syncs++, e = ch_op_wait(r->stream);
  return e;
}

static cudaError_t copy(const struct request *r) {
  cudaError_t e = ch_enter(r->async ? CH_NORMAL : CH_UNSAFE);
  if (!e && (r->width > r->dst_pitch || r->width > r->src_pitch)) e = cudaErrorInvalidPitchValue;
  if (!e && r->width && r->height && (!r->dst || !r->src)) e = cudaErrorInvalidValue;
  if (!e && !direction_fits(r) && r->width) e = cudaErrorInvalidValue;
  if (!e) e = ch_inject(CH_FAIL_COPY, cudaErrorUnknown);
  if (!e) {
    ch_counters.copies++;
    ch_counters.copied_bytes += (long long)(r->width * r->height);
    if (r->width && r->height) e = enqueue_copy(r);
  }
  return ch_leave(e);
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind) {
  return copy(
      &(struct request){__func__, CH_CALLER, dst, src, bytes, bytes, bytes, 1, kind, NULL, false});
}
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return copy(
      &(struct request){__func__, CH_CALLER, dst, src, bytes, bytes, bytes, 1, kind, stream, true});
}
cudaError_t cudaMemcpy2D(void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                         size_t width, size_t height, enum cudaMemcpyKind kind) {
  return copy(&(struct request){__func__, CH_CALLER, dst, src, dst_pitch, src_pitch, width, height,
                                kind, NULL, false});
}
cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t stream) {
  return copy(&(struct request){__func__, CH_CALLER, dst, src, dst_pitch, src_pitch, width, height,
                                kind, stream, true});
}

static cudaError_t set(const char *name, const void *caller, void *p, size_t pitch, int value,
                       size_t width, size_t height, cudaStream_t stream) {
  cudaError_t e = ch_enter(CH_NORMAL);
  if (!e && width && height && ch_kind_of(p) == CH_PAGEABLE) e = cudaErrorInvalidValue;
  if (!e && width > pitch) e = cudaErrorInvalidPitchValue;
  if (!e) e = ch_inject(CH_FAIL_COPY, cudaErrorUnknown);
  if (!e && width && height) {
    struct copy *c = ch_op_create(&set_type, sizeof *c, name, caller);
    if (c) {
      c->dst = p;
      c->dst_pitch = pitch;
      c->width = width;
      c->height = height;
      c->value = (unsigned char)value;
      ch_counters.copies++;
    }
    e = ch_op_enqueue(stream, c ? &c->op : NULL);
  }
  return ch_leave(e);
}
cudaError_t cudaMemset(void *p, int value, size_t bytes) {
  return set(__func__, CH_CALLER, p, bytes, value, bytes, 1, NULL);
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream) {
  return set(__func__, CH_CALLER, p, bytes, value, bytes, 1, stream);
}
cudaError_t cudaMemset2DAsync(void *p, size_t pitch, int value, size_t width, size_t height,
                              cudaStream_t stream) {
  return set(__func__, CH_CALLER, p, pitch, value, width, height, stream);
}

cudaError_t cudaMemcpyToSymbol(const void *symbol, const void *src, size_t bytes, size_t offset,
                               enum cudaMemcpyKind kind) {
  char *dst = (char *)(uintptr_t)symbol + offset;
  cudaError_t e = ch_enter(CH_UNSAFE);
  if (!e && !ch_is_constant((uintptr_t)dst, bytes)) e = cudaErrorInvalidSymbol;
  if (!e && kind != cudaMemcpyHostToDevice && kind != cudaMemcpyDefault)
    e = cudaErrorInvalidMemcpyDirection;
  if (!e) e = ch_inject(CH_FAIL_COPY, cudaErrorUnknown);
  if (!e) ch_counters.copies++, ch_counters.syncs++, e = ch_op_wait(NULL);
  if (!e) memcpy(dst, src, bytes);
  return ch_leave(e);
}

/* --- allocation in stream order: made at the call, freed when the stream gets there ----------- */
struct free_op {
  struct ch_op op;
  void *p;
};
static cudaError_t run_free(struct ch_op *op) { return ch_device_free(((struct free_op *)op)->p); }
static const struct ch_op_type free_type = {"cudaFreeAsync", true, cudaGraphNodeTypeEmpty,
                                            run_free,        NULL, NULL};

cudaError_t cudaMallocAsync(void **p, size_t bytes, cudaStream_t stream) {
  cudaError_t e = ch_enter(CH_NORMAL);
  struct CUstream_st *s = e ? NULL : ch_stream(stream);
  if (!e && (!p || !bytes)) e = cudaErrorInvalidValue;
  if (!e && !s) e = cudaErrorInvalidResourceHandle;
  if (!e && s->capture) e = ch_capture_forbid(s->capture, cudaErrorStreamCaptureUnsupported);
  if (!e) e = ch_inject(CH_FAIL_ALLOC, cudaErrorMemoryAllocation);
  if (!e) e = ch_device_alloc(p, bytes, CH_CALLER);
  return ch_leave(e);
}

cudaError_t cudaFreeAsync(void *p, cudaStream_t stream) {
  cudaError_t e = ch_enter(CH_NORMAL);
  if (!e) {
    struct free_op *f = ch_op_create(&free_type, sizeof *f, "cudaFreeAsync", CH_CALLER);
    if (f) f->p = p;
    e = ch_op_enqueue(stream, f ? &f->op : NULL);
  }
  return ch_leave(e);
}
