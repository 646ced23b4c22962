/* SPDX-License-Identifier: Apache-2.0
 *
 * Pinned host memory, and what the host may do with it while an asynchronous copy is in flight:
 * with the destination nothing, with the source read. Whole pages that the copy covers (as far as
 * they hold allocated bytes) lose their rights while host code runs; a source's other bytes are
 * compared when the copy runs with what they were when it was asked for, a destination's
 * become NaN at once. */
#include "tests/cudahost/internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096 };

static struct ch_alloc *pinned;
static int n_pinned, max_pinned;

struct hold {
  const struct ch_op *op;
  uintptr_t at;
  size_t bytes;
  uintptr_t first, last; /* pages without rights; first == last: none */
  bool write;
  uint64_t sum; /* of a source's bytes outside those pages */
};
static struct hold *holds;
static int n_holds, max_holds;

struct ch_alloc *ch_pinned_find(uintptr_t at) {
  for (int i = 0; i < n_pinned; i++)
    if (at >= pinned[i].at && at - pinned[i].at < pinned[i].bytes) return &pinned[i];
  return NULL;
}

static void *more(void *array, int n, int *max, size_t bytes) {
  if (n < *max) return array;
  int wanted = *max ? 2 * *max : 32;
  void *grown = realloc(array, (size_t)wanted * bytes);
  if (grown) *max = wanted;
  return grown;
}

static cudaError_t add(void *p, size_t bytes, enum ch_kind kind, const void *caller) {
  struct ch_alloc *grown = more(pinned, n_pinned, &max_pinned, sizeof *grown);
  if (!grown) return cudaErrorMemoryAllocation;
  pinned = grown;
  pinned[n_pinned++] = (struct ch_alloc){(uintptr_t)p, bytes, kind, ch_device(), true, caller};
  ch_counters.pinned_allocations++;
  ch_counters.pinned_bytes += (long long)bytes;
  return cudaSuccess;
}

static size_t whole_pages(size_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

static cudaError_t allocate(void **p, size_t bytes, const void *caller) {
  cudaError_t e = ch_enter(CH_UNSAFE);
  if (!e && !p) e = cudaErrorInvalidValue;
  if (!e) e = ch_inject(CH_FAIL_PINNED, cudaErrorMemoryAllocation);
  if (!e && !bytes) *p = NULL;
  if (!e && bytes) {
    void *map = bytes > SIZE_MAX / 2 ? MAP_FAILED
                                     : mmap(NULL, whole_pages(bytes) + PAGE, PROT_READ | PROT_WRITE,
                                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map != MAP_FAILED) mprotect((char *)map + whole_pages(bytes), PAGE, PROT_NONE);
    e = map == MAP_FAILED ? cudaErrorMemoryAllocation : add(map, bytes, CH_PINNED, caller);
    if (!e)
      *p = map;
    else if (map != MAP_FAILED)
      munmap(map, whole_pages(bytes) + PAGE);
  }
  return ch_leave(e);
}

cudaError_t cudaMallocHost(void **p, size_t bytes) { return allocate(p, bytes, CH_CALLER); }
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned int flags) {
  (void)flags;
  return allocate(p, bytes, CH_CALLER);
}

cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned int flags) {
  cudaError_t e = ch_enter(CH_UNSAFE);
  (void)flags;
  if (!e && (!p || !bytes)) e = cudaErrorInvalidValue;
  if (!e && ch_pinned_find((uintptr_t)p)) e = cudaErrorHostMemoryAlreadyRegistered;
  if (!e) e = ch_inject(CH_FAIL_PINNED, cudaErrorMemoryAllocation);
  if (!e) e = add(p, bytes, CH_REGISTERED, CH_CALLER);
  return ch_leave(e);
}

static void remove_at(struct ch_alloc *a) {
  if (a->kind == CH_PINNED) munmap((void *)a->at, whole_pages(a->bytes) + PAGE);
  ch_counters.pinned_bytes -= (long long)a->bytes;
  *a = pinned[--n_pinned];
}

static cudaError_t release(void *p, enum ch_kind kind, cudaError_t unknown) {
  cudaError_t e = ch_enter(CH_UNSAFE);
  struct ch_alloc *a = ch_pinned_find((uintptr_t)p);
  if (!e && p && (!a || a->at != (uintptr_t)p || a->kind != kind)) e = unknown;
  if (!e && p) e = ch_drain();
  if (!e && p) {
    ch_phase(CH_HOST);
    ch_counters.syncs++;
    remove_at(ch_pinned_find((uintptr_t)p));
  }
  return ch_leave(e);
}
cudaError_t cudaFreeHost(void *p) { return release(p, CH_PINNED, cudaErrorInvalidValue); }
cudaError_t cudaHostUnregister(void *p) {
  return release(p, CH_REGISTERED, cudaErrorHostMemoryNotRegistered);
}

cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned int flags) {
  cudaError_t e = ch_enter(CH_NORMAL);
  (void)flags;
  if (!e && !ch_pinned_find((uintptr_t)host)) e = cudaErrorInvalidValue;
  if (!e) *device = host;
  return ch_leave(e);
}

void ch_pinned_reset(void) {
  while (n_pinned) remove_at(&pinned[n_pinned - 1]);
  n_holds = 0;
}

/* --- copies in flight ------------------------------------------------------------------------- */
static uint64_t sum(uint64_t so_far, const unsigned char *p, const unsigned char *end) {
  while (p < end) so_far = (so_far ^ *p++) * 1099511628211u;
  return so_far;
}

/* Over the bytes of a held range outside its protected pages. */
static uint64_t sum_edges(const struct hold *h) {
  const unsigned char *p = (const unsigned char *)h->at;
  uint64_t front = sum(14695981039346656037u, p, p + (h->first - h->at));
  return sum(front, p + (h->last - h->at), p + h->bytes);
}

/* Pages whose allocated bytes all belong to the range. */
static void pages_of(struct hold *h, const struct ch_alloc *a) {
  uintptr_t end = h->at + h->bytes, limit = a->at + a->bytes;
  h->first = (h->at + PAGE - 1) / PAGE * PAGE; /* a PINNED allocation starts a page */
  h->last =
      a->kind == CH_PINNED && end == limit ? (end + PAGE - 1) / PAGE * PAGE : end / PAGE * PAGE;
  if (h->last <= h->first) h->first = h->last = end;
}

/* Whoever reads a destination too early finds NaN there, unless a copy in flight still needs it. */
static void spoil_edges(const struct hold *h) {
  for (int i = 0; i < n_holds; i++)
    if (!holds[i].write && holds[i].at < h->at + h->bytes && h->at < holds[i].at + holds[i].bytes)
      return;
  uintptr_t end = h->at + h->bytes;
  memset((void *)h->at, 0xff, h->first - h->at);
  if (h->last < end) memset((void *)h->last, 0xff, end - h->last);
}

void ch_hold(struct ch_op *op, const void *at, size_t bytes, bool write) {
  const struct ch_alloc *a = ch_pinned_find((uintptr_t)at);
  struct hold *grown = a && bytes ? more(holds, n_holds, &max_holds, sizeof *grown) : NULL;
  if (!grown) return;
  holds = grown;
  struct hold *h = &holds[n_holds++];
  *h = (struct hold){.op = op, .at = (uintptr_t)at, .bytes = bytes, .write = write};
  pages_of(h, a);
  if (write)
    spoil_edges(h);
  else
    h->sum = sum_edges(h);
  ch_holds_protect(true);
}

void ch_holds_protect(bool on) {
  for (int write = 0; write < 2; write++) /* no rights win over reading */
    for (int i = 0; i < n_holds; i++)
      if (holds[i].write == write && holds[i].last > holds[i].first)
        mprotect((void *)holds[i].first, holds[i].last - holds[i].first,
                 !on     ? PROT_READ | PROT_WRITE
                 : write ? PROT_NONE
                         : PROT_READ);
}

static void check_source(const struct hold *h) {
  if (h->write || sum_edges(h) == h->sum) return;
  ch_report(
      "the host changed pinned memory while a copy from it was in flight; synchronise first\n");
  ch_report("  %s of %zu bytes from %p, asked for\n", h->op->name, h->bytes, (void *)h->at);
  ch_report_place(h->op->caller);
  ch_fault(cudaErrorIllegalAddress);
}

/* One hold of each kind: a graph's op has as many of them as there are launches in queues. */
void ch_release(struct ch_op *op) {
  bool released[2] = {false, false};
  for (int i = 0; i < n_holds; i++) {
    struct hold h = holds[i];
    if (h.op != op || released[h.write]) continue;
    memmove(&holds[i], &holds[i + 1], (size_t)(--n_holds - i) * sizeof *holds);
    i--;
    released[h.write] = true;
    check_source(&h);
  }
}

bool ch_hold_report(uintptr_t at, bool write) {
  for (int i = 0; i < n_holds; i++) {
    const struct hold *h = &holds[i];
    if (at < h->first || at >= h->last || !(h->write || write)) continue;
    ch_report("host code %s pinned memory that a copy in flight %s; synchronise first\n",
              write ? "writes" : "reads", h->write ? "will write" : "has yet to read");
    ch_report("  %s of %zu bytes, asked for\n", h->op->name, h->bytes);
    ch_report_place(h->op->caller);
    return true;
  }
  return false;
}
