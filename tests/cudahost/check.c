/* SPDX-License-Identifier: Apache-2.0
 *
 * Every load and store of device code passes through here: kernels are compiled with
 * -fsanitize=thread and linked against the callbacks below instead of ThreadSanitizer's runtime
 * (and with -fsanitize=alignment,bounds, whose two handlers are below too). Host code in the same
 * files passes as well and is let through at once.
 *
 * Device code may touch: its own stack; its block's shared memory (shared.c); live device and
 * pinned allocations, in bounds, aligned to the size of the access, reading only bytes that were
 * written; constants. Compiled without instrumentation. In ASan and TSan builds kernels are watched
 * by the real runtimes, and only the calls of the core come here. */
#include "tests/cudahost/internal.h"

#include <assert.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if CH_ASAN
#include <sanitizer/asan_interface.h>
#endif

/* --- what else device code may read: the launch's arguments, constants, read-only data ------- */
static struct { uintptr_t begin, end; } constants[64];
static int n_constants;

void cudahost_constants(const void *begin, const void *end) {
  if (begin == end || n_constants == (int)(sizeof constants / sizeof *constants)) return;
  constants[n_constants].begin = (uintptr_t)begin;
  constants[n_constants++].end = (uintptr_t)end;
}

bool ch_is_constant(uintptr_t at, size_t bytes) {
  for (int i = 0; i < n_constants; i++)
    if (at >= constants[i].begin && at + bytes <= constants[i].end) return true;
  return false;
}

struct segment {
  uintptr_t at, begin, bytes;
};
static int find_segment(struct dl_phdr_info *info, size_t size, void *user) {
  struct segment *s = user;
  (void)size;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *p = &info->dlpi_phdr[i];
    bool relro = p->p_type == PT_GNU_RELRO, load = p->p_type == PT_LOAD && !(p->p_flags & PF_W);
    uintptr_t begin = info->dlpi_addr + p->p_vaddr;
    if ((!load && !relro) || s->at - begin >= p->p_memsz) continue;
    s->begin = begin;
    s->bytes = p->p_memsz;
    return 1;
  }
  return 0;
}

static bool is_read_only(uintptr_t at) {
  static _Thread_local struct segment last;
  if (at - last.begin < last.bytes) return true;
  last.at = at;
  return dl_iterate_phdr(find_segment, &last);
}

static bool may_read(const struct ch_fibre *f, uintptr_t at, size_t bytes) {
  const struct cudahost_launch *l = f->worker->launch;
  if (at - (uintptr_t)l->call < l->call_bytes) return true;
  return ch_is_constant(at, bytes) || is_read_only(at);
}

/* --- reports ---------------------------------------------------------------------------------- */
static void describe(uintptr_t at, size_t bytes, int access, const void *pc) {
  ch_report("  it %s %zu bytes at %p\n",
            access & CUDAHOST_ATOMIC  ? "changes (atomically)"
            : access & CUDAHOST_WRITE ? "writes"
                                      : "reads",
            bytes, (void *)at);
  ch_report_place(pc);
  ch_report_address((void *)at);
}

static _Noreturn void bad_access(const char *what, uintptr_t at, size_t bytes, int access,
                                 const void *pc, cudaError_t error) {
  ch_report("%s\n", what);
  describe(at, bytes, access, pc);
  ch_fault(error);
}

/* --- device memory ---------------------------------------------------------------------------- */
static inline bool all_written(size_t offset, size_t bytes) {
  const uint8_t *s = ch_shadow + offset;
  uint64_t a = 0;
  switch (bytes) {
  case 1:
    return *s;
  case 2:
    return memcpy(&a, s, 2), a == 0x0101;
  case 4:
    return memcpy(&a, s, 4), a == 0x01010101;
  }
  for (; bytes >= 8; bytes -= 8, s += 8)
    if (memcpy(&a, s, 8), a != 0x0101010101010101) return false;
  while (bytes--)
    if (!*s++) return false;
  return true;
}

/* Not all of the bytes have been written before, or we do not know. */
static void first_access(uintptr_t at, size_t bytes, int access, const void *pc) {
  const struct ch_alloc *a = ch_alloc_near(at);
  if (!a || !ch_in_alloc(a, at, bytes))
    bad_access("access beyond device memory", at, bytes, access, pc, cudaErrorIllegalAddress);
  if (!a->live)
    bad_access("access to freed device memory", at, bytes, access, pc, cudaErrorIllegalAddress);
  if (!CH_CHECKED) return;
  if (access & (CUDAHOST_READ | CUDAHOST_ATOMIC))
    bad_access("device memory read before it was written", at, bytes, access, pc,
               cudaErrorIllegalAddress);
  memset(ch_shadow + (at - ch_device_base), 1, bytes);
}

static _Noreturn void blocks_conflict(const struct ch_fibre *f, uintptr_t at, size_t bytes,
                                      int access, const void *pc, uint32_t tag) {
  dim3 g = f->worker->launch->grid;
  unsigned b = tag & 0xffff;
  ch_report("two blocks of one launch use the same memory without atomics\n");
  describe(at, bytes, access, pc);
  ch_report("  block (%u,%u,%u) wrote it\n", b % g.x, b / g.x % g.y, b / g.x / g.y);
  ch_fault(cudaErrorLaunchFailure);
}

/* Blocks run in any order: what one writes no other may touch, unless they can have met at an
 * atomic. Two bytes share a tag, so single bytes are let through. Reading before another block
 * writes shows when threads=reverse. Returns the tag in the way, 0 if none. */
static inline uint32_t other_block(size_t offset, size_t bytes, bool write) {
  uint32_t mine = ch_here.tag, *tag = ch_writers + offset / 2;
  if (!mine) return 0;
  for (size_t i = 0; i < bytes / 2; i++) {
    if (tag[i] != mine && (tag[i] ^ mine) < 0x10000) return tag[i];
    if (write) tag[i] = mine;
  }
  return 0;
}

static void device_access(const struct ch_fibre *f, uintptr_t at, size_t bytes, int access,
                          const void *pc) {
  if ((bytes & (bytes - 1)) == 0 && bytes <= 16 && at & (bytes - 1))
    bad_access("misaligned access to device memory", at, bytes, access, pc,
               cudaErrorMisalignedAddress);
  if (!CH_CHECKED || !all_written(at - ch_device_base, bytes)) first_access(at, bytes, access, pc);
  if (!CH_CHECKED || access & CUDAHOST_ATOMIC) return;
  uint32_t tag = other_block(at - ch_device_base, bytes, access & CUDAHOST_WRITE);
  if (tag) blocks_conflict(f, at, bytes, access, pc, tag);
}

/* --- everything ------------------------------------------------------------------------------- */
static void other_access(struct ch_fibre *f, uintptr_t at, size_t bytes, int access,
                         const void *pc) {
  const struct ch_alloc *a = ch_pinned_find(at);
  if (a && ch_in_alloc(a, at, bytes)) return;
  if (!(access & (CUDAHOST_WRITE | CUDAHOST_ATOMIC)) && may_read(f, at, bytes)) return;
  bad_access(at < 4096 ? "access through a null pointer" : "device code touches host memory", at,
             bytes, access, pc, cudaErrorIllegalAddress);
}

void ch_access(struct ch_fibre *f, uintptr_t at, size_t bytes, int access, const void *pc) {
  if (at - (uintptr_t)f->stack->low < CH_STACK_BYTES) return;
  if (at - ch_device_base < ch_device_bytes)
    device_access(f, at, bytes, access, pc);
  else if (at - (uintptr_t)ch_shared_base < (size_t)CH_SHARED_ARENA * CH_MAX_WORKERS)
    ch_shared_access(f, at, bytes, access, pc);
  else
    other_access(f, at, bytes, access, pc);
}

void cudahost_touch(const void *at, size_t bytes, int access, void *pc) {
  if (!ch_now) return;
  ch_access(ch_now, (uintptr_t)at, bytes, access, pc);
}

/* The C library's assert, in kernels and (as it would be anyway) elsewhere. */
void __assert_fail(const char *condition, const char *file, unsigned line, const char *function) {
  if (ch_now) {
    ch_report("a kernel's assert failed: %s\n", condition);
    ch_report("    at %s %s:%u\n", function, file, line);
    ch_fault(cudaErrorAssert);
  }
  fprintf(stderr, "%s:%u: %s: Assertion `%s' failed.\n", file, line, function, condition);
  abort();
}

void cudahost_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

#if CH_CHECKED

#define PC __builtin_return_address(0)
/* What nearly every access is, without a call: the stack, or device memory as it should be. */
static inline void seen(const void *p, size_t bytes, int access, const void *pc) {
  uintptr_t at = (uintptr_t)p;
  size_t offset = at - ch_device_base;
  if (at - ch_here.stack < CH_STACK_BYTES || !ch_now) return;
  if (offset < ch_device_bytes && !(at & (bytes - 1)) && all_written(offset, bytes) &&
      !other_block(offset, bytes, access == CUDAHOST_WRITE))
    return;
  ch_access(ch_now, at, bytes, access, pc);
}
static void seen_range(const void *p, size_t bytes, int access, const void *pc) {
  if (ch_now) ch_access(ch_now, (uintptr_t)p, bytes, access, pc);
}

#define HIDDEN __attribute__((visibility("hidden")))
#define CALLBACK(name, n)                                                                          \
  HIDDEN void __tsan_read##name(void *at) { seen(at, n, CUDAHOST_READ, PC); }                      \
  HIDDEN void __tsan_write##name(void *at) { seen(at, n, CUDAHOST_WRITE, PC); }                    \
  HIDDEN void __tsan_volatile_read##name(void *at) { seen(at, n, CUDAHOST_READ, PC); }             \
  HIDDEN void __tsan_volatile_write##name(void *at) { seen(at, n, CUDAHOST_WRITE, PC); }           \
  HIDDEN void __tsan_read_write##name(void *at) {                                                  \
    seen(at, n, CUDAHOST_READ, PC), seen(at, n, CUDAHOST_WRITE, PC);                               \
  }                                                                                                \
  HIDDEN void __tsan_unaligned_read##name(void *at) { seen(at, n, CUDAHOST_READ, PC); }            \
  HIDDEN void __tsan_unaligned_write##name(void *at) { seen(at, n, CUDAHOST_WRITE, PC); }

#pragma GCC diagnostic ignored "-Wmissing-prototypes"
CALLBACK(1, 1)
CALLBACK(2, 2)
CALLBACK(4, 4)
CALLBACK(8, 8)
CALLBACK(16, 16)

HIDDEN void __tsan_read_range(void *at, size_t bytes) { seen_range(at, bytes, CUDAHOST_READ, PC); }
HIDDEN void __tsan_write_range(void *at, size_t bytes) {
  seen_range(at, bytes, CUDAHOST_WRITE, PC);
}
HIDDEN void *__tsan_memcpy(void *to, const void *from, size_t bytes) { /* newer clang */
  seen_range(from, bytes, CUDAHOST_READ, PC), seen_range(to, bytes, CUDAHOST_WRITE, PC);
  return memcpy(to, from, bytes);
}
HIDDEN void *__tsan_memmove(void *to, const void *from, size_t bytes) {
  seen_range(from, bytes, CUDAHOST_READ, PC), seen_range(to, bytes, CUDAHOST_WRITE, PC);
  return memmove(to, from, bytes);
}
HIDDEN void *__tsan_memset(void *to, int value, size_t bytes) {
  seen_range(to, bytes, CUDAHOST_WRITE, PC);
  return memset(to, value, bytes);
}
HIDDEN void __tsan_init(void) {}
HIDDEN void __tsan_func_entry(void *pc) { (void)pc; }
HIDDEN void __tsan_func_exit(void) {}
HIDDEN void __tsan_vptr_update(void *at, void *value) { (void)at, (void)value; }
HIDDEN void __tsan_vptr_read(void *at) { (void)at; }

/* The two atomic operations that cudahost_atomics.h is made of. A thread that spins on them lets
 * the others run now and then. */
static void atomic_seen(const void *at, size_t bytes, const void *pc) {
  struct ch_fibre *f = ch_now;
  if (!f) return;
  ch_access(f, (uintptr_t)at, bytes, CUDAHOST_ATOMIC, pc);
  if ((uintptr_t)at - ch_device_base < ch_device_bytes) ch_here.tag = 0;
  if (++f->worker->spins % 256 == 0) cudahost_pause();
}

#define ATOMICS(bits, type)                                                                        \
  HIDDEN type __tsan_atomic##bits##_load(const volatile type *at, int order) {                     \
    (void)order;                                                                                   \
    atomic_seen((const void *)at, sizeof(type), PC);                                               \
    return __atomic_load_n(at, __ATOMIC_SEQ_CST);                                                  \
  }                                                                                                \
  HIDDEN type __tsan_atomic##bits##_compare_exchange_val(volatile type *at, type old, type v,      \
                                                         int order, int fail_order) {              \
    (void)order, (void)fail_order;                                                                 \
    __atomic_compare_exchange_n(at, &old, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);               \
    return old;                                                                                    \
  }                                                                                                \
  HIDDEN int __tsan_atomic##bits##_compare_exchange_strong(volatile type *at, type *old, type v,   \
                                                           int order, int fail_order) {            \
    type wanted = *old;                                                                            \
    *old = __tsan_atomic##bits##_compare_exchange_val(at, wanted, v, order, fail_order);           \
    return *old == wanted;                                                                         \
  }
ATOMICS(16, uint16_t)
ATOMICS(32, uint32_t)
ATOMICS(64, uint64_t)

/* --- -fsanitize=alignment,bounds ------------------------------------------------------------- */
struct source_location {
  const char *file;
  uint32_t line, column;
};
struct type_descriptor {
  uint16_t kind, info;
  char name[];
};
struct type_mismatch {
  struct source_location where;
  const struct type_descriptor *type;
  unsigned char log_alignment, check_kind;
};
struct out_of_bounds {
  struct source_location where;
  const struct type_descriptor *array, *index;
};

static void ubsan_report(const struct source_location *where) {
  ch_report("    at %s:%u:%u\n", where->file, where->line, where->column);
  ch_fault(cudaErrorMisalignedAddress);
}

HIDDEN void __ubsan_handle_type_mismatch_v1(const struct type_mismatch *m, uintptr_t at) {
  if (!ch_now) return;
  ch_report(at ? "misaligned access\n" : "access through a null pointer\n");
  ch_report("  %s at %p, which needs an alignment of %d\n", m->type->name, (void *)at,
            1 << m->log_alignment);
  ubsan_report(&m->where);
}

HIDDEN void __ubsan_handle_out_of_bounds(const struct out_of_bounds *b, uintptr_t index) {
  ch_report("array index out of bounds\n");
  ch_report("  index %lld of %s\n", (long long)index, b->array->name);
  ubsan_report(&b->where);
}

#endif
