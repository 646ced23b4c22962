/* SPDX-License-Identifier: Apache-2.0
 *
 * Shared memory: one arena a worker, its arrays with gaps between them, and a cell a word that
 * knows who wrote and read it last (a cell a byte where accesses are that small).
 *
 * Two accesses of different threads to one byte, one of them a write, must have a barrier between
 * them: __syncthreads for threads of different warps, or __syncwarp within a warp. Shuffles and
 * votes do not order memory. Cells are never cleared: they carry the epoch of the access, which
 * grows at every barrier and at every block. Within a warp, who has passed which __syncwarp with
 * whom is kept in clocks (vector clocks of 32 lanes). */
#include "tests/cudahost/internal.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#if CH_ASAN
#include <sanitizer/asan_interface.h>
#endif

enum { GAP = 256, ALIGN = 16 };

struct ch_cell {
  uint32_t w_epoch, w_clock;
  uint32_t r_epoch, r_clock;
  uint32_t r_mask;    /* lanes of r_tid's warp that read; if many: the other thread */
  int32_t w_pc, r_pc; /* relative to the kernel */
  unsigned w_tid : 10, r_tid : 10;
  unsigned many : 1;    /* threads of more than one warp have read */
  unsigned atomic : 1;  /* the last write was an atomic */
  unsigned pending : 1; /* a cp.async of w_tid will write here */
};

char *ch_shared_base;

void ch_shared_create(struct ch_worker *w, int i) {
  size_t cells = (size_t)CH_SHARED_ARENA * sizeof(struct ch_cell);
  if (!ch_shared_base)
    ch_shared_base = mmap(NULL, (size_t)CH_SHARED_ARENA * CH_MAX_WORKERS, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  w->cells =
      mmap(NULL, cells, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (ch_shared_base == MAP_FAILED || w->cells == MAP_FAILED) {
    ch_report("no memory for shared memory\n");
    ch_fault(cudaErrorMemoryAllocation);
  }
  w->arena = ch_shared_base + (size_t)CH_SHARED_ARENA * (size_t)i;
  w->epoch = 1;
}

static struct ch_piece *add_piece(struct ch_worker *w, const void *id, const char *name,
                                  size_t bytes) {
  if (w->n_pieces == (int)(sizeof w->piece / sizeof *w->piece)) {
    ch_report("a kernel with more than %d shared arrays\n", w->n_pieces);
    ch_fault(cudaErrorLaunchOutOfResources);
  }
  struct ch_piece *p = &w->piece[w->n_pieces++];
  *p = (struct ch_piece){id, name, w->shared_end, w->shared_end + (uint32_t)bytes};
  w->shared_end = (p->end + GAP + ALIGN - 1) / ALIGN * ALIGN;
  memset(w->granule + p->begin / 4, 4, (bytes + 3) / 4);
#if CH_ASAN
  __asan_unpoison_memory_region(w->arena + p->begin, bytes);
#endif
  return p;
}

void ch_shared_start(struct ch_worker *w) {
  w->first_epoch = ++w->epoch;
  w->n_pieces = w->hit = 0;
  w->static_bytes = 0;
#if CH_ASAN
  __asan_unpoison_memory_region(w->arena, CH_SHARED_ARENA);
  memset(w->arena, 0xff, w->shared_end); /* what was never written reads as NaN */
  __asan_poison_memory_region(w->arena, CH_SHARED_ARENA);
#endif
  w->shared_end = 0;
  if (w->launch->shared_bytes) add_piece(w, NULL, "dynamic shared memory", w->launch->shared_bytes);
  for (int i = 0; i < w->n_warps; i++) {
    memset(w->warp[i].clock, 0, sizeof w->warp[i].clock);
    for (int lane = 0; lane < CH_WARP; lane++) w->warp[i].clock[lane][lane] = 1;
  }
}

void *cudahost_shared(const void *id, const char *name, size_t bytes) {
  struct ch_worker *w = ch_now->worker;
  for (int i = 0; i < w->n_pieces; i++)
    if (w->piece[i].id == id) return w->arena + w->piece[i].begin;
  w->static_bytes += (uint32_t)bytes;
  if (bytes > CH_STATIC_SHARED || w->static_bytes > CH_STATIC_SHARED ||
      w->static_bytes + w->launch->shared_bytes > CH_OPTIN_SHARED) {
    ch_report(
        "too much shared memory: %s needs %zu bytes, which makes %u static bytes (at most %d) and "
        "%zu dynamic ones (together at most %d)\n",
        name, bytes, w->static_bytes, CH_STATIC_SHARED, w->launch->shared_bytes, CH_OPTIN_SHARED);
    ch_fault(cudaErrorLaunchOutOfResources);
  }
  return w->arena + add_piece(w, id, name, bytes)->begin;
}

void *cudahost_shared_dynamic(void) { return ch_now->worker->arena; }

/* __syncwarp: every lane of the mask learns what the others know, and starts a new interval. */
void ch_warp_order(struct ch_warp *w, unsigned mask) {
  uint32_t joined[CH_WARP] = {0};
  for (unsigned m = mask; m; m &= m - 1) {
    const uint32_t *clock = w->clock[__builtin_ctz(m)];
    for (int i = 0; i < CH_WARP; i++) joined[i] = clock[i] > joined[i] ? clock[i] : joined[i];
  }
  for (unsigned m = mask; m; m &= m - 1) {
    uint32_t *clock = w->clock[__builtin_ctz(m)];
    memcpy(clock, joined, sizeof joined);
    clock[__builtin_ctz(m)]++;
  }
}

/* --- one access ------------------------------------------------------------------------------- */
static const struct ch_piece *piece_at(struct ch_worker *w, uint32_t begin, size_t bytes) {
  const struct ch_piece *p = &w->piece[w->hit];
  if (w->n_pieces && begin >= p->begin && begin + bytes <= p->end) return p;
  for (int i = 0; i < w->n_pieces; i++)
    if (begin >= w->piece[i].begin && begin + bytes <= w->piece[i].end)
      return &w->piece[w->hit = i];
  return NULL;
}

static const char *doing(int access) {
  return access & CUDAHOST_ATOMIC  ? "changes (atomically)"
         : access & CH_PENDING     ? "starts a cp.async to"
         : access & CUDAHOST_WRITE ? "writes"
                                   : "reads";
}

static void describe(const struct ch_worker *w, uint32_t at, size_t bytes, int access,
                     const void *pc) {
  ch_report("  it %s %zu bytes", doing(access), bytes);
  for (int i = 0; i < w->n_pieces; i++)
    if (at >= w->piece[i].begin && at < w->piece[i].end + GAP)
      ch_report(" at offset %u of %s, which has %u", at - w->piece[i].begin, w->piece[i].name,
                w->piece[i].end - w->piece[i].begin);
  ch_report("\n");
  ch_report_place(pc);
}

static void other_thread(const struct ch_worker *w, unsigned tid, const char *did, int32_t pc) {
  uint3 t = w->fibre[tid].thread;
  ch_report("  thread (%u,%u,%u) %s\n", t.x, t.y, t.z, did);
  ch_report_place((const char *)w->launch->kernel + pc);
}

static void race(struct ch_fibre *f, uint32_t at, size_t bytes, int access, const void *pc,
                 unsigned tid, const char *did, int32_t other_pc) {
  const struct ch_worker *w = f->worker;
  ch_report("race on shared memory: no barrier between two threads' accesses\n");
  describe(w, at, bytes, access, pc);
  other_thread(w, tid, did, other_pc);
  ch_report(tid / CH_WARP == f->tid / CH_WARP
                ? "  both are lanes of one warp: __syncwarp or __syncthreads must stand between\n"
                : "  they are in different warps: __syncthreads must stand between\n");
  ch_fault(cudaErrorLaunchFailure);
}

static bool ordered(const struct ch_fibre *f, unsigned tid, uint32_t clock) {
  return tid == f->tid ||
         (tid / CH_WARP == f->tid / CH_WARP && f->warp->clock[f->lane][tid % CH_WARP] >= clock);
}

/* The thread whose plain read of this interval the access of f does not follow; -1 if none. */
static int unordered_reader(const struct ch_fibre *f, const struct ch_cell *c) {
  if (c->r_epoch != f->worker->epoch) return -1;
  if (c->many) return (int)(c->r_tid / CH_WARP == f->tid / CH_WARP ? c->r_mask : c->r_tid);
  if (c->r_tid / CH_WARP != f->tid / CH_WARP) return (int)c->r_tid;
  for (unsigned m = c->r_mask; m; m &= m - 1) {
    unsigned tid = c->r_tid / CH_WARP * CH_WARP + (unsigned)__builtin_ctz(m);
    if (!ordered(f, tid, c->r_clock)) return (int)tid;
  }
  return -1;
}

static void note_read(const struct ch_fibre *f, struct ch_cell *c, int32_t pc) {
  uint32_t clock = f->warp->clock[f->lane][f->lane], epoch = f->worker->epoch, bit = 1u << f->lane;
  if (c->r_epoch == epoch && c->r_tid / CH_WARP != f->tid / CH_WARP) {
    c->many = 1;
    c->r_mask = f->tid;
    return;
  }
  if (c->r_epoch == epoch && unordered_reader(f, c) >= 0) {
    c->r_mask |= bit;
    if (clock < c->r_clock) c->r_clock = clock;
  } else {
    c->r_mask = bit;
    c->r_clock = clock;
    c->many = 0;
  }
  c->r_epoch = epoch;
  c->r_tid = f->tid & 1023;
  c->r_pc = pc;
}

static void note_write(const struct ch_fibre *f, struct ch_cell *c, int access, int32_t pc) {
  c->w_epoch = f->worker->epoch;
  c->w_clock = f->warp->clock[f->lane][f->lane];
  c->w_tid = f->tid & 1023;
  c->w_pc = pc;
  c->atomic = (access & CUDAHOST_ATOMIC) != 0;
  c->pending = (access & CH_PENDING) != 0;
  c->r_epoch = 0;
}

/* The last write of a cell: none in this block, one since the last barrier, or a cp.async. */
static void check_writer(struct ch_fibre *f, const struct ch_cell *c, uint32_t at, size_t bytes,
                         int access, const void *pc) {
  struct ch_worker *w = f->worker;
  bool written = c->w_epoch >= w->first_epoch;
  if (!written && access & (CUDAHOST_READ | CUDAHOST_ATOMIC)) {
    ch_report("shared memory read before it was written\n");
    describe(w, at, bytes, access, pc);
    ch_fault(cudaErrorLaunchFailure);
  }
  if (written && c->pending && (!(access & CUDAHOST_WRITE) || c->w_tid != f->tid))
    race(f, at, bytes, access, pc, c->w_tid, "has a cp.async to there that it has not waited for",
         c->w_pc);
  if (c->w_epoch == w->epoch && !(c->atomic && access & CUDAHOST_ATOMIC) &&
      !ordered(f, c->w_tid, c->w_clock))
    race(f, at, bytes, access, pc, c->w_tid, "wrote it", c->w_pc);
}

/* Makes the granules of a range as small as the access, each part with its own copy of the cell. */
static unsigned split(struct ch_worker *w, uint32_t at, size_t bytes) {
  unsigned size = (at | (uint32_t)bytes) & 1 ? 1 : (at | (uint32_t)bytes) & 2 ? 2 : 4;
  for (uint32_t i = at / 4; size < 4 && i <= (at + bytes - 1) / 4; i++) {
    struct ch_cell *c = w->cells + 4 * i;
    if (w->granule[i] == 4) c[2] = c[0];
    if (w->granule[i] > 1 && size == 1) c[1] = c[0], c[3] = c[2];
    if (w->granule[i] > size) w->granule[i] = (uint8_t)size;
  }
  return size;
}

void ch_shared_access(struct ch_fibre *f, uintptr_t address, size_t bytes, int access,
                      const void *pc) {
  struct ch_worker *w = f->worker;
  uint32_t at = (uint32_t)(address - (uintptr_t)w->arena);
  if (address - (uintptr_t)w->arena >= CH_SHARED_ARENA || !piece_at(w, at, bytes)) {
    ch_report("access beyond the arrays of shared memory\n");
    if (address - (uintptr_t)w->arena < CH_SHARED_ARENA)
      describe(w, at, bytes, access, pc);
    else
      ch_report("  it %s shared memory of another block\n", doing(access)), ch_report_place(pc);
    ch_fault(cudaErrorIllegalAddress);
  }
  if ((bytes & (bytes - 1)) == 0 && bytes <= 16 && at & (bytes - 1)) {
    ch_report("misaligned access to shared memory\n");
    describe(w, at, bytes, access, pc);
    ch_fault(cudaErrorMisalignedAddress);
  }
  if (!CH_CHECKED) return; /* the cells see only a part of the accesses */
  int32_t pc32 = (int32_t)((const char *)pc - (const char *)w->launch->kernel);
  bool writes = access & (CUDAHOST_WRITE | CUDAHOST_ATOMIC);
  unsigned step = split(w, at, bytes);
  for (struct ch_cell *c = w->cells + at, *end = c + bytes; c < end; c += step) {
    step = w->granule[(c - w->cells) / 4];
    if (c->w_epoch - w->first_epoch >= w->epoch - w->first_epoch || c->pending)
      check_writer(f, c, at, bytes, access, pc);
    if (!writes) {
      if (c->r_epoch != w->epoch || !c->many) note_read(f, c, pc32);
      continue;
    }
    int reader = unordered_reader(f, c);
    if (reader >= 0) race(f, at, bytes, access, pc, (unsigned)reader, "read it", c->r_pc);
    note_write(f, c, access, pc32);
  }
}
