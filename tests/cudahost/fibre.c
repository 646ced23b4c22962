/* SPDX-License-Identifier: Apache-2.0
 *
 * Fibres: stacks, and the switch from one to another on the same operating system thread. Every
 * switch is announced to AddressSanitizer and ThreadSanitizer. A stack ends in a page that nobody
 * may touch. Does not schedule: block.c does. */
#include "tests/cudahost/internal.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

#if CH_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if CH_TSAN
#include <sanitizer/tsan_interface.h>
#endif

#if defined(__x86_64__)
/* Saves what the calling convention preserves, and the stack pointer in *save. */
void ch_switch(void **save, void *to);
__asm__(".text\n"
        ".p2align 4\n"
        ".globl ch_switch\n"
        ".hidden ch_switch\n"
        ".type ch_switch,@function\n"
        "ch_switch:\n"
        "  pushq %rbp\n"
        "  pushq %rbx\n"
        "  pushq %r12\n"
        "  pushq %r13\n"
        "  pushq %r14\n"
        "  pushq %r15\n"
        "  movq %rsp, (%rdi)\n"
        "  movq %rsi, %rsp\n"
        "  popq %r15\n"
        "  popq %r14\n"
        "  popq %r13\n"
        "  popq %r12\n"
        "  popq %rbx\n"
        "  popq %rbp\n"
        "  ret\n"
        ".size ch_switch,.-ch_switch\n");

static void start(struct ch_context *c, struct ch_stack *s, void (*entry)(void)) {
  void **top = (void **)(s->low + CH_STACK_BYTES -
                         s->colour); /* 16-byte aligned; entry sees it 8 below that */
  *--top = NULL;
  *--top = (void *)(uintptr_t)entry;
  for (int i = 0; i < 6; i++) *--top = NULL;
  c->sp = top;
}
static void swap(struct ch_context *from, struct ch_context *to) { ch_switch(&from->sp, to->sp); }

#else
#include <ucontext.h>

static void start(struct ch_context *c, struct ch_stack *s, void (*entry)(void)) {
  ucontext_t *u = (ucontext_t *)(void *)s->low; /* kept at the far end of the stack */
  getcontext(u);
  u->uc_stack.ss_sp = s->low + sizeof *u;
  u->uc_stack.ss_size = CH_STACK_BYTES - sizeof *u;
  u->uc_link = NULL;
  makecontext(u, entry, 0);
  c->sp = u;
}
static void swap(struct ch_context *from, struct ch_context *to) {
  ucontext_t here, *target = to->sp;
  from->sp = &here; /* lives on the stack that is left */
  swapcontext(&here, target);
}
#endif

struct ch_stack *ch_stack_create(void) {
  static atomic_uint n_stacks;
  long page = 4096;
  struct ch_stack *s = calloc(1, sizeof *s);
  char *map = mmap(NULL, (size_t)(CH_STACK_BYTES + page), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (!s || map == MAP_FAILED || mprotect(map, (size_t)page, PROT_NONE)) {
    ch_report("no memory for the stacks of a block's threads\n");
    ch_fault(cudaErrorMemoryAllocation);
  }
  s->low = map + page;
  s->colour = (size_t)(atomic_fetch_add(&n_stacks, 1) % 61) * 64;
#if CH_TSAN
  s->tsan = __tsan_create_fiber(0);
#endif
  return s;
}

void ch_context_start(struct ch_context *c, struct ch_stack *s, void (*entry)(void)) {
#if CH_ASAN
  __asan_unpoison_memory_region(s->low, CH_STACK_BYTES);
#endif
  *c = (struct ch_context){.bottom = s->low, .bytes = CH_STACK_BYTES, .tsan = s->tsan};
  start(c, s, entry);
}

void ch_context_switch(struct ch_context *from, struct ch_context *to, bool from_ends) {
#if CH_ASAN
  __sanitizer_start_switch_fiber(from_ends ? NULL : &from->fake_stack, to->bottom, to->bytes);
#endif
#if CH_TSAN
  from->tsan = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(to->tsan, 0);
#endif
  swap(from, to);
  (void)from_ends;
#if CH_ASAN
  __sanitizer_finish_switch_fiber(from->fake_stack, NULL, NULL);
#endif
}

/* The first switch into a fibre does not come back from swap(). */
void ch_context_entered(void) {
#if CH_ASAN
  __sanitizer_finish_switch_fiber(NULL, NULL, NULL);
#endif
}

void ch_context_thread(struct ch_context *c) {
  *c = (struct ch_context){0};
#if CH_ASAN
  pthread_attr_t attributes;
  void *bottom;
  if (pthread_getattr_np(pthread_self(), &attributes)) return;
  pthread_attr_getstack(&attributes, &bottom, &c->bytes);
  c->bottom = bottom;
  pthread_attr_destroy(&attributes);
#endif
}
