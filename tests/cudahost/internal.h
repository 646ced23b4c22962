/* SPDX-License-Identifier: Apache-2.0
 *
 * What the core's files share. Invariant: the interface is one big lock (ch_enter to ch_leave),
 * work runs on the thread that needs its result, blocks of one grid spread over workers; so only
 * check.c and what it calls run in parallel. Device memory is readable either by kernels and copies
 * or (with a report) by nobody: ch_phase switches. */
#ifndef KAPPA_TESTS_CUDAHOST_INTERNAL_H
#define KAPPA_TESTS_CUDAHOST_INTERNAL_H

#include "cudahost_kernel.h"

#include "tests/cudahost/cudahost.h"

#if defined(__SANITIZE_ADDRESS__)
#define CH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CH_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define CH_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CH_TSAN 1
#endif
#endif
#ifndef CH_ASAN
#define CH_ASAN 0
#endif
#ifndef CH_TSAN
#define CH_TSAN 0
#endif
/* The callbacks of check.c see every access of device code. */
#define CH_CHECKED (!CH_ASAN && !CH_TSAN)

#pragma GCC visibility push(hidden)

enum {
  CH_WARP = 32,
  CH_MAX_WARPS = 32,
  CH_MAX_THREADS = 1024,
  CH_MAX_WORKERS = 8,
  CH_MAX_DEVICES = 8,
  CH_STACK_BYTES = 128 << 10,
  CH_STATIC_SHARED = 48 << 10, /* what a launch may use without asking */
  CH_OPTIN_SHARED = 227 << 10, /* ... with cudaFuncSetAttribute */
  CH_SHARED_ARENA = 320 << 10, /* address space: the above and gaps between arrays */
  CH_EXIT_CODE = 86,
};

/* --- settings.c ------------------------------------------------------------------------------- */
enum ch_setting {
#define X(id, name, kind, initial, doc) CH_##id,
#include "tests/cudahost/settings.def"
#undef X
  CH_N_SETTINGS
};
enum { CH_DRIVER_OK, CH_DRIVER_NONE, CH_DRIVER_OLD, CH_DRIVER_NO_DEVICE, CH_DRIVER_WRONG_ARCH };
enum { CH_ORDER_LAZY, CH_ORDER_EAGER, CH_ORDER_RANDOM };
enum { CH_THREADS_FORWARD, CH_THREADS_REVERSE };
enum { CH_FAULT_EXIT, CH_FAULT_STICKY };

long long ch_setting(enum ch_setting id);
cudaError_t ch_inject(enum ch_setting fail, cudaError_t usual); /* the planted error if it is due */
extern struct cudahost_counters ch_counters;

/* --- fault.c ---------------------------------------------------------------------------------- */
void ch_report(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* adds to the report */
void ch_report_place(const void *pc);   /* adds "    at FUNCTION FILE:LINE" for a return address */
void ch_report_address(const void *at); /* adds what lies at an address */
_Noreturn void ch_fault(cudaError_t error); /* prints it; leaves the process or the kernel */
void ch_arm(void);                          /* our handler of SIGSEGV is the current one */
void ch_alternate_stack(void);              /* this thread's handlers run on a stack of their own */

/* --- memory.c --------------------------------------------------------------------------------- */
enum ch_kind { CH_PAGEABLE, CH_PINNED, CH_REGISTERED, CH_DEVICE };
struct ch_alloc {
  uintptr_t at;
  size_t bytes;
  enum ch_kind kind;
  int device;
  bool live;
  const void *caller; /* who allocated it */
};
enum ch_phase { CH_HOST, CH_ON_DEVICE };
void ch_phase(enum ch_phase phase);

extern uintptr_t ch_device_base;
extern size_t ch_device_bytes; /* of address space */
extern uint8_t *ch_shadow;     /* one byte a byte: 1 when it was written; only if CH_CHECKED */
extern uint32_t *ch_writers;   /* for every two bytes the tag of the block that wrote them last */
void ch_writers_forget(void);
/* The allocation that `at` lies in, or the last one before it (live or not); NULL if none. */
struct ch_alloc *ch_alloc_near(uintptr_t at);
bool ch_in_alloc(const struct ch_alloc *a, uintptr_t at, size_t bytes);
bool ch_on_device(const void *p);       /* an address of device memory, allocated or not */
enum ch_kind ch_kind_of(const void *p); /* by the allocation it lies in, live or freed */
cudaError_t ch_device_alloc(void **p, size_t bytes, const void *caller);
cudaError_t ch_device_free(void *p);
size_t ch_memory_used(int device);
void ch_memory_reset(void);
/* Faults unless [at, at+bytes) may be used by `who`, a call's name: READ wants every byte written,
 * WRITE makes it so, USE asks only that it is there. Host memory that is not pinned always may. */
enum ch_range { CH_RANGE_READ, CH_RANGE_WRITE, CH_RANGE_USE };
void ch_range_check(const char *who, const void *caller, const void *at, size_t bytes,
                    enum ch_range use);
void ch_range_move(void *dst, const void *src, size_t bytes); /* shadow follows device bytes */

/* --- pinned.c --------------------------------------------------------------------------------- */
struct ch_alloc *ch_pinned_find(uintptr_t at);
struct ch_op;
void ch_hold(struct ch_op *op, const void *at, size_t bytes, bool write); /* a copy is in flight */
void ch_release(struct ch_op *op);             /* ... and done: a source that changed is a fault */
void ch_holds_protect(bool on);                /* for the host's time */
bool ch_hold_report(uintptr_t at, bool write); /* the SIGSEGV at `at` is a held page: reports it */
void ch_pinned_reset(void);

/* --- fibre.c ---------------------------------------------------------------------------------- */
struct ch_context {
  void *sp;
  void *fake_stack;   /* ASan's */
  const void *bottom; /* ASan's */
  size_t bytes;
  void *tsan;
};
struct ch_stack {
  struct ch_stack *next;
  char *low;     /* CH_STACK_BYTES above it */
  size_t colour; /* bytes left free at the top, so that stacks do not fight for cache lines */
  void *tsan;
};
struct ch_stack *ch_stack_create(void);
void ch_context_start(struct ch_context *c, struct ch_stack *s, void (*entry)(void));
void ch_context_switch(struct ch_context *from, struct ch_context *to, bool from_ends);
void ch_context_entered(void);                /* the first thing in `entry` */
void ch_context_thread(struct ch_context *c); /* that of the thread itself, before it is left */

/* --- block.c ---------------------------------------------------------------------------------- */
struct ch_place {
  struct cudahost_site site;
  const void *pc;
};
enum ch_state { CH_FRESH, CH_READY, CH_RUNNING, CH_AT_BARRIER, CH_AT_WARP_OP, CH_DONE };
struct ch_copy { /* a cp.async in flight */
  void *dst;
  const void *src;
  unsigned bytes, src_bytes;
  struct ch_place place;
};
struct ch_fibre {
  struct ch_stack *stack; /* while it runs or waits */
  struct ch_context context;
  struct ch_worker *worker;
  struct ch_warp *warp;
  uint3 thread;
  unsigned tid, lane;
  enum ch_state state;
  const char *waits_for;
  struct ch_place place;
  struct ch_copy *copies;
  int n_copies, max_copies, n_committed;
  int group_end[16], n_groups; /* copies [0, group_end[0]) are the oldest group */
};
struct ch_group { /* lanes that wait for the rest of their mask */
  const struct cudahost_warp_op *op;
  unsigned mask, arrived;
  struct ch_place place;
  void *lane[CH_WARP];
};
struct ch_warp {
  unsigned lanes, ready, done;
  int n_groups;
  struct ch_group group[CH_WARP];
  uint32_t clock[CH_WARP][CH_WARP]; /* clock[me][other]: what I know of other's past (__syncwarp) */
};
struct ch_piece { /* one shared array */
  const void *id;
  const char *name;
  uint32_t begin, end; /* in the arena */
};
struct ch_worker {
  const struct cudahost_launch *launch;
  uint3 block;
  int n_threads, n_warps, n_done, n_at_barrier, n_count;
  int barrier_result;
  enum cudahost_vote barrier_vote;
  struct cudahost_site barrier_site;
  struct ch_warp *current;
  unsigned ready_warps, spins;
  struct ch_context main;
  struct ch_stack *free_stacks;
  cudaError_t error; /* set when a fault ended the kernel */
  char *arena;
  struct ch_cell *cells;
  uint8_t granule[CH_SHARED_ARENA / 4]; /* bytes that a cell stands for, for each word: 4, 2 or 1 */
  struct ch_piece piece[64];
  int n_pieces, hit;
  uint32_t shared_end, static_bytes;
  uint32_t epoch, first_epoch; /* epoch grows at every barrier, never starts again */
  struct ch_fibre fibre[CH_MAX_THREADS];
  struct ch_warp warp[CH_MAX_WARPS];
};
/* The thread of a kernel that runs here, where its stack is, and the block for ch_writers: launch
 * and block, 0 when blocks may have met at an atomic. All NULL and 0 in host code. */
struct ch_here {
  struct ch_fibre *now;
  uintptr_t stack;
  uint32_t tag;
};
extern _Thread_local struct ch_here ch_here;
#define ch_now ch_here.now
void ch_block_run(struct ch_worker *w);
_Noreturn void ch_block_abandon(cudaError_t error); /* the current kernel ends here */

/* --- grid.c ----------------------------------------------------------------------------------- */
cudaError_t ch_grid_run(const struct cudahost_launch *launch); /* all blocks; returns when done */

/* --- shared.c, check.c ------------------------------------------------------------------------ */
enum { CH_PENDING = 8 }; /* with CUDAHOST_WRITE: cp.async will write here */
extern char *ch_shared_base;
void ch_shared_create(struct ch_worker *w, int i);
void ch_shared_start(struct ch_worker *w); /* a block begins */
void ch_shared_access(struct ch_fibre *f, uintptr_t at, size_t bytes, int access, const void *pc);
void ch_warp_order(struct ch_warp *w, unsigned mask); /* __syncwarp */
bool ch_is_constant(uintptr_t at, size_t bytes);
__attribute__((noinline)) void ch_access(struct ch_fibre *f, uintptr_t at, size_t bytes, int access,
                                         const void *pc);

/* --- stream.c --------------------------------------------------------------------------------- */
struct ch_op_type {
  const char *name;
  bool on_device;
  enum cudaGraphNodeType node;
  cudaError_t (*run)(struct ch_op *op); /* may be called again and again, in a graph */
  void (*issue)(struct ch_op *op);      /* it is in a queue now; may be NULL */
  void (*drop)(struct ch_op *op);       /* frees what it owns; may be NULL */
};
struct ch_op {
  const struct ch_op_type *type;
  struct ch_op *next;
  const char *name;
  const void *caller; /* the host code that made the call */
  uint64_t seq;
};
enum ch_call {
  CH_ALWAYS, /* works without a driver and after errors */
  CH_NORMAL,
  CH_UNSAFE, /* not while a capture forbids it: may synchronise */
};
cudaError_t ch_enter(enum ch_call kind);
cudaError_t ch_leave(cudaError_t error);
int ch_device(void); /* the calling thread's */
void ch_host_function(
    bool runs); /* one begins or ends on this thread: it may not call the interface */
cudaError_t ch_sticky(void);
void ch_make_sticky(cudaError_t error);
void *ch_op_create(const struct ch_op_type *type, size_t bytes, const char *name,
                   const void *caller);
cudaError_t ch_op_enqueue(cudaStream_t stream,
                          struct ch_op *op); /* takes the op, also on failure */
cudaError_t ch_op_wait(cudaStream_t stream); /* runs what is queued there */
cudaError_t ch_drain(void);                  /* ... everywhere */
cudaError_t ch_op_run(struct ch_op *op);
void ch_op_drop(struct ch_op *op);
void ch_stream_reset(void);

#pragma GCC visibility pop

#define CH_CALLER __builtin_return_address(0)

#endif
