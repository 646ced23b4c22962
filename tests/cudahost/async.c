/* SPDX-License-Identifier: Apache-2.0
 *
 * cp.async: a copy from device to shared memory that happens at the last moment it may, when the
 * thread waits for its group. Until then the destination is pending: whoever touches it is
 * reported, and what other threads still read there when the copy is issued is a race. */
#include "tests/cudahost/internal.h"

#include <stdlib.h>
#include <string.h>

static void bad(const char *what, struct ch_place place) {
  ch_report("%s\n", what);
  ch_report("    at %s:%d\n", place.site.file, place.site.line);
  ch_fault(cudaErrorMisalignedAddress);
}

/* src_bytes < bytes: the rest is filled with zeros, and `src` may be anything when it is 0. */
void cudahost_cp_async(void *dst, const void *src, unsigned bytes, unsigned src_bytes,
                       struct cudahost_site site) {
  struct ch_fibre *f = ch_now;
  struct ch_copy c = {dst, src, bytes, src_bytes, {site, __builtin_return_address(0)}};
  if ((bytes != 4 && bytes != 8 && bytes != 16) || src_bytes > bytes)
    bad("cp.async of a size that does not exist", c.place);
  if ((uintptr_t)dst % bytes || (src_bytes && (uintptr_t)src % bytes))
    bad("cp.async of a misaligned address", c.place);
  if ((uintptr_t)dst - (uintptr_t)f->worker->arena >= CH_SHARED_ARENA)
    bad("cp.async to memory that is not shared", c.place);
  ch_access(f, (uintptr_t)dst, bytes, CUDAHOST_WRITE | CH_PENDING, c.place.pc);
  if (f->n_copies == f->max_copies) {
    int n = f->max_copies ? 2 * f->max_copies : 16;
    struct ch_copy *more = realloc(f->copies, (size_t)n * sizeof *more);
    if (!more) {
      ch_report("no memory for cp.async\n");
      ch_fault(cudaErrorMemoryAllocation);
    }
    f->copies = more;
    f->max_copies = n;
  }
  f->copies[f->n_copies++] = c;
}

static void perform(struct ch_fibre *f, const struct ch_copy *c) {
  if (c->src_bytes) ch_access(f, (uintptr_t)c->src, c->src_bytes, CUDAHOST_READ, c->place.pc);
  ch_access(f, (uintptr_t)c->dst, c->bytes, CUDAHOST_WRITE, c->place.pc);
  memcpy(c->dst, c->src, c->src_bytes);
  memset((char *)c->dst + c->src_bytes, 0, c->bytes - c->src_bytes);
}

/* The oldest group and its copies leave. */
static void complete_group(struct ch_fibre *f) {
  int n = f->group_end[0];
  for (int i = 0; i < n; i++) perform(f, &f->copies[i]);
  if (n < f->n_copies)
    memmove(f->copies, f->copies + n, (size_t)(f->n_copies - n) * sizeof *f->copies);
  f->n_copies -= n;
  f->n_groups--;
  for (int i = 0; i < f->n_groups; i++) f->group_end[i] = f->group_end[i + 1] - n;
}

void cudahost_cp_async_commit(void) {
  struct ch_fibre *f = ch_now;
  if (f->n_groups == (int)(sizeof f->group_end / sizeof *f->group_end)) complete_group(f);
  f->group_end[f->n_groups++] = f->n_copies;
}

void cudahost_cp_async_wait(unsigned groups_left) {
  struct ch_fibre *f = ch_now;
  while (f->n_groups > (int)groups_left) complete_group(f);
}
