/* SPDX-License-Identifier: Apache-2.0
 *
 * Device memory: one reserved range of addresses, handed out in order with gaps between
 * allocations, so that neither a neighbour nor an address that was used before hides a wrong
 * access. The host may touch none of it (no access rights) except while kernels and copies run. A
 * shadow byte for each byte says whether it was written. Pinned memory is in pinned.c. */
#include "tests/cudahost/internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if CH_ASAN
#include <sanitizer/asan_interface.h>
#endif

enum { PAGE = 4096, LEAD = 512, GAP = 4096 };

uintptr_t ch_device_base;
size_t ch_device_bytes;
uint8_t *ch_shadow;
uint32_t *ch_writers;

static struct ch_alloc *allocs; /* sorted by address, freed ones among them */
static int n_allocs, max_allocs;
static size_t in_use[CH_MAX_DEVICES];
static uintptr_t next, opened; /* up to `opened` the range may be made accessible */
static enum ch_phase now;

bool ch_on_device(const void *p) { return (uintptr_t)p - ch_device_base < ch_device_bytes; }

static void *reserve(size_t bytes, int rights) {
  void *p = mmap(NULL, bytes, rights, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return NULL;
  madvise(p, bytes, MADV_DONTDUMP);
  return p;
}

/* Huge pages where the system has them: changing the rights of a range then takes microseconds. */
static void *reserve_huge(size_t bytes, int rights) {
  char *p = reserve(bytes, rights);
  if (p) madvise(p, bytes, MADV_HUGEPAGE);
  return p;
}

/* As many addresses as we can get: freed ones are not used again before all have been. */
static bool start(void) {
  if (ch_device_base) return true;
  for (size_t bytes = (size_t)1 << 38; bytes >= (size_t)1 << 28; bytes /= 2) {
    void *range = reserve_huge(bytes, PROT_NONE);
    void *shadow = CH_CHECKED && range ? reserve_huge(bytes, PROT_READ | PROT_WRITE) : NULL;
    void *writers = shadow ? reserve(2 * bytes, PROT_READ | PROT_WRITE) : NULL;
    if (range && (writers || !CH_CHECKED)) {
      ch_device_base = next = opened = (uintptr_t)range;
      ch_device_bytes = bytes;
      ch_shadow = shadow;
      ch_writers = writers;
      return true;
    }
    if (range) munmap(range, bytes);
    if (shadow) munmap(shadow, bytes);
  }
  return false;
}

void ch_phase(enum ch_phase phase) {
  if (phase == now || !ch_device_base) return;
  now = phase;
  if (phase == CH_ON_DEVICE) ch_holds_protect(false);
  if (opened > ch_device_base)
    mprotect((void *)ch_device_base, opened - ch_device_base,
             phase == CH_HOST ? PROT_NONE : PROT_READ | PROT_WRITE);
  if (phase == CH_HOST) ch_holds_protect(true);
}

/* --- finding ---------------------------------------------------------------------------------- */
struct ch_alloc *ch_alloc_near(uintptr_t at) {
  int low = 0, high = n_allocs; /* the last one that begins at or before `at` is below high */
  while (low < high) {
    int middle = (low + high) / 2;
    if (allocs[middle].at <= at)
      low = middle + 1;
    else
      high = middle;
  }
  return low ? &allocs[low - 1] : NULL;
}

bool ch_in_alloc(const struct ch_alloc *a, uintptr_t at, size_t bytes) {
  return at >= a->at && at - a->at <= a->bytes && bytes <= a->bytes - (at - a->at);
}

enum ch_kind ch_kind_of(const void *p) {
  if (ch_on_device(p)) return CH_DEVICE;
  const struct ch_alloc *a = ch_pinned_find((uintptr_t)p);
  return a ? a->kind : CH_PAGEABLE;
}

/* --- allocating ------------------------------------------------------------------------------- */
static bool grow(void) {
  if (n_allocs < max_allocs) return true;
  int n = max_allocs ? 2 * max_allocs : 256;
  struct ch_alloc *more = realloc(allocs, (size_t)n * sizeof *more);
  if (!more) return false;
  allocs = more;
  max_allocs = n;
  return true;
}

/* All addresses were used once: forget what was freed and take the first hole; 0 if there is none.
 */
static uintptr_t find_hole(size_t span, int *place) {
  int n = 0;
  for (int i = 0; i < n_allocs; i++)
    if (allocs[i].live) allocs[n++] = allocs[i];
  n_allocs = n;
  uintptr_t from = ch_device_base;
  for (int i = 0; i <= n_allocs; i++) {
    uintptr_t to =
        i < n_allocs ? (allocs[i].at - LEAD) / PAGE * PAGE : ch_device_base + ch_device_bytes;
    if (to > from && to - from >= span) return *place = i, from;
    if (i < n_allocs) from = (allocs[i].at + allocs[i].bytes + GAP + PAGE - 1) / PAGE * PAGE;
  }
  return 0;
}

static void count(int device, long long bytes) {
  in_use[device] += (size_t)bytes;
  ch_counters.live_bytes += bytes;
  if (ch_counters.live_bytes > ch_counters.peak_bytes)
    ch_counters.peak_bytes = ch_counters.live_bytes;
}

/* The allocation starts LEAD bytes into its page, so that nothing is aligned better than it says.
 */
cudaError_t ch_device_alloc(void **p, size_t bytes, const void *caller) {
  int device = ch_device(), place;
  size_t span = (LEAD + bytes + GAP + PAGE - 1) / PAGE * PAGE;
  if (bytes > (size_t)ch_setting(CH_MEMORY) - in_use[device] ||
      in_use[device] > (size_t)ch_setting(CH_MEMORY))
    return cudaErrorMemoryAllocation;
  if (!start() || !grow()) return cudaErrorMemoryAllocation;
  uintptr_t page = next;
  place = n_allocs;
  if (span > ch_device_base + ch_device_bytes - next)
    page = find_hole(span, &place);
  else
    next += span;
  if (!page) return cudaErrorMemoryAllocation;
  if (next > opened) {
    if (now == CH_ON_DEVICE) mprotect((void *)opened, next - opened, PROT_READ | PROT_WRITE);
    opened = next;
  }
  memmove(&allocs[place + 1], &allocs[place], (size_t)(n_allocs++ - place) * sizeof *allocs);
  allocs[place] = (struct ch_alloc){page + LEAD, bytes, CH_DEVICE, device, true, caller};
  count(device, (long long)bytes);
  ch_counters.allocations++;
  *p = (void *)(page + LEAD);
#if CH_ASAN
  __asan_poison_memory_region((void *)page, span);
  __asan_unpoison_memory_region(*p, bytes);
#endif
  return cudaSuccess;
}

/* The pages go back to the system, and with them the shadow. */
static void discard(const struct ch_alloc *a) {
  uintptr_t page = a->at / PAGE * PAGE;
  size_t bytes = (a->at - page + a->bytes + PAGE - 1) / PAGE * PAGE;
  madvise((void *)page, bytes, MADV_DONTNEED);
  if (ch_shadow) madvise(ch_shadow + (page - ch_device_base), bytes, MADV_DONTNEED);
  if (ch_writers) madvise(ch_writers + (page - ch_device_base) / 2, 2 * bytes, MADV_DONTNEED);
#if CH_ASAN
  __asan_poison_memory_region((void *)a->at, a->bytes);
#endif
}

cudaError_t ch_device_free(void *p) {
  struct ch_alloc *a = ch_on_device(p) ? ch_alloc_near((uintptr_t)p) : NULL;
  if (!a || a->at != (uintptr_t)p || !a->live) return cudaErrorInvalidValue;
  a->live = false;
  discard(a);
  count(a->device, -(long long)a->bytes);
  ch_counters.frees++;
  return cudaSuccess;
}

void ch_memory_reset(void) {
  for (int i = 0; i < n_allocs; i++)
    if (allocs[i].live) ch_device_free((void *)allocs[i].at);
}

void ch_writers_forget(void) {
  if (ch_writers) madvise(ch_writers, 2 * (opened - ch_device_base), MADV_DONTNEED);
}

size_t ch_memory_used(int device) { return in_use[device]; }

/* --- ranges that copies and libraries use ----------------------------------------------------- */
static _Noreturn void bad_range(const char *who, const void *caller, const char *what,
                                const void *at, size_t bytes, enum ch_range use) {
  ch_report("%s: %s %zu bytes at %p: %s\n", who, use == CH_RANGE_WRITE ? "writes" : "reads", bytes,
            at, what);
  ch_report_place(caller);
  ch_report_address(at);
  ch_fault(cudaErrorInvalidValue);
}

void ch_range_check(const char *who, const void *caller, const void *p, size_t bytes,
                    enum ch_range use) {
  uintptr_t at = (uintptr_t)p;
  const struct ch_alloc *a = ch_on_device(p) ? ch_alloc_near(at) : ch_pinned_find(at);
  if (!bytes || (!a && !ch_on_device(p))) return;
  if (!a || !ch_in_alloc(a, at, bytes))
    bad_range(who, caller, "beyond the allocation", p, bytes, use);
  if (!a->live) bad_range(who, caller, "freed memory", p, bytes, use);
  if (a->kind != CH_DEVICE || !ch_shadow) return;
  uint8_t *shadow = ch_shadow + (at - ch_device_base), *bad;
  if (use == CH_RANGE_WRITE) memset(shadow, 1, bytes);
  if (use == CH_RANGE_READ && (bad = memchr(shadow, 0, bytes)))
    bad_range(who, caller, "some were never written, the first of them here",
              (char *)p + (bad - shadow), bytes, use);
}

/* A copy from device to device may move bytes that were never written; they stay so. */
void ch_range_move(void *dst, const void *src, size_t bytes) {
  if (ch_shadow)
    memmove(ch_shadow + ((uintptr_t)dst - ch_device_base),
            ch_shadow + ((uintptr_t)src - ch_device_base), bytes);
}
