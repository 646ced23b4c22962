/* SPDX-License-Identifier: Apache-2.0
 *
 * Reports: what went wrong, where in which kernel, who else was involved, as file and line where
 * addr2line finds them. Then the process ends with exit code 86, or (on_fault=sticky, in device
 * code) the kernel ends and the device keeps the error. Also the handler of SIGSEGV, which turns
 * host accesses to device memory, or to pinned memory in flight, into reports. */
#include "tests/cudahost/internal.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum { TEXT = 8192 };
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the text: held from the first line */
static _Thread_local bool reporting;
static char text[TEXT];
static size_t used;

const char *cudahost_last_report(void) { return text; }

static void add(const char *fmt, va_list args) {
  int n = vsnprintf(text + used, TEXT - used, fmt, args);
  if (n > 0) used = used + (size_t)n < TEXT ? used + (size_t)n : TEXT - 1;
}

static void where(const struct ch_fibre *f) {
  const struct cudahost_launch *l = f->worker->launch;
  uint3 b = f->worker->block, t = f->thread;
  bool wrapped = l->name[0] == '(';
  ch_report("  kernel %.*s, block (%u,%u,%u), thread (%u,%u,%u), warp %u lane %u\n",
            (int)strlen(l->name) - 2 * wrapped, l->name + wrapped, b.x, b.y, b.z, t.x, t.y, t.z,
            f->tid / CH_WARP, f->lane);
}

void ch_report(const char *fmt, ...) {
  va_list args;
  bool first = !reporting;
  if (first) {
    pthread_mutex_lock(&lock);
    reporting = true;
    used = (size_t)snprintf(text, TEXT, "cudahost: ");
  }
  va_start(args, fmt);
  add(fmt, args);
  va_end(args);
  if (first && ch_now) where(ch_now);
}

void ch_fault(cudaError_t error) {
  fflush(stdout);
  fputs(text, stderr);
  fflush(stderr);
  if (!ch_now || ch_setting(CH_ON_FAULT) == CH_FAULT_EXIT) _exit(CH_EXIT_CODE);
  reporting = false;
  pthread_mutex_unlock(&lock);
  ch_block_abandon(error);
}

/* --- places ----------------------------------------------------------------------------------- */
/* The program's own file may be gone from where it was started. */
static void module_file(const char *name, char *path, size_t bytes) {
  ssize_t n = -1;
  if (access(name, R_OK)) n = readlink("/proc/self/exe", path, bytes - 1);
  if (n < 0)
    snprintf(path, bytes, "%s", name);
  else
    path[n] = 0;
}

/* What addr2line says about an address, by calls that a signal handler may make. */
static void ask_addr2line(const char *path, uintptr_t offset, char *answer, size_t bytes) {
  char address[32];
  size_t n = 0;
  int ends[2];
  snprintf(address, sizeof address, "%#lx", (unsigned long)offset);
  answer[0] = 0;
  if (pipe(ends)) return;
  pid_t child = fork();
  if (!child) {
    dup2(ends[1], 1);
    dup2(open("/dev/null", O_WRONLY), 2);
    execlp("addr2line", "addr2line", "-Cfie", path, address, (char *)NULL);
    _exit(1);
  }
  close(ends[1]);
  for (ssize_t got; (got = read(ends[0], answer + n, bytes - 1 - n)) > 0;) n += (size_t)got;
  answer[n] = 0;
  close(ends[0]);
  waitpid(child, NULL, 0);
}

/* A function and a FILE:LINE for each frame, inlined ones first. Those in our own headers are left
 * out. */
static int print_frames(char *answer) {
  int n = 0;
  while (n < 4) {
    char *function = strsep(&answer, "\n"), *file = answer ? strsep(&answer, "\n") : NULL;
    if (!file) break;
    file[strcspn(file, " ")] = 0;
    if (strstr(file, "cudahost/include/") || strstr(file, "kernels/cuda/launch.cuh") ||
        strstr(file, "/bits/") || file[0] == '?')
      continue;
    ch_report("    at %s %s\n", function, file);
    n++;
  }
  return n;
}

void ch_report_place(const void *pc) {
  static char path[PATH_MAX], answer[8192]; /* under the report's lock */
  Dl_info info;
  struct link_map *map = NULL;
  if (!dladdr1(pc, &info, (void **)&map, RTLD_DL_LINKMAP) || !info.dli_fname) {
    ch_report("    at %p\n", pc);
    return;
  }
  uintptr_t offset = (uintptr_t)pc - (map ? map->l_addr : 0) - 1; /* the call, not its return */
  module_file(info.dli_fname, path, sizeof path);
  ask_addr2line(path, offset, answer, sizeof answer);
  if (!print_frames(answer))
    ch_report("    at %s+%#lx (%s)\n", path, (unsigned long)offset,
              info.dli_sname ? info.dli_sname : "?");
}

void ch_report_address(const void *at) {
  static const char *const kinds[] = {"", "pinned", "registered", "device"};
  const struct ch_alloc *a =
      ch_on_device(at) ? ch_alloc_near((uintptr_t)at) : ch_pinned_find((uintptr_t)at);
  if (!a) return;
  ptrdiff_t offset = (ptrdiff_t)((uintptr_t)at - a->at);
  ch_report("  that is byte %td of a %s allocation of %zu bytes%s, made\n", offset, kinds[a->kind],
            a->bytes, a->live ? "" : " that has been freed");
  ch_report_place(a->caller);
}

/* --- SIGSEGV ---------------------------------------------------------------------------------- */
static struct sigaction previous;

static void handler(int signal, siginfo_t *info, void *context) {
  ucontext_t *u = context;
  uintptr_t at = (uintptr_t)info->si_addr;
  const void *pc = NULL;
  bool write = false;
#if defined(__x86_64__)
  pc = (const char *)u->uc_mcontext.gregs[REG_RIP] + 1;
  write = u->uc_mcontext.gregs[REG_ERR] & 2;
#endif
  (void)u;
  if (ch_now && at - ((uintptr_t)ch_now->stack->low - 4096) < 4096) {
    ch_report("a thread needs more than %d bytes of local memory\n", CH_STACK_BYTES);
    ch_report_place(pc);
    ch_fault(cudaErrorHardwareStackError);
  }
  if (ch_now) {
    ch_report("device code touched an address that is not memory: %p\n", (void *)at);
    ch_report_place(pc);
    ch_report_address((void *)at);
    ch_fault(cudaErrorIllegalAddress);
  }
  if (ch_on_device((void *)at)) {
    ch_report("host code %s device memory at %p; copy it first\n", write ? "writes" : "reads",
              (void *)at);
    ch_report_place(pc);
    ch_report_address((void *)at);
    ch_fault(cudaErrorIllegalAddress);
  }
  if (ch_hold_report(at, write)) {
    ch_report("  the host's access:\n");
    ch_report_place(pc);
    ch_fault(cudaErrorIllegalAddress);
  }
  if (previous.sa_flags & SA_SIGINFO && previous.sa_sigaction)
    previous.sa_sigaction(signal, info, context);
  else
    sigaction(SIGSEGV, &previous, NULL); /* comes again, to the one before us */
}

/* Test frameworks install their own handler in front of ours; so this is called often. */
void ch_arm(void) {
  struct sigaction now,
      ours = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
  if (sigaction(SIGSEGV, NULL, &now) || now.sa_sigaction == handler) return;
  previous = now;
  sigaction(SIGSEGV, &ours, NULL);
}

void ch_alternate_stack(void) {
  static _Thread_local bool has_one;
  enum { BYTES = 64 << 10 };
  stack_t now;
  if (has_one) return;
  has_one = true;
  if (sigaltstack(NULL, &now) || !(now.ss_flags & SS_DISABLE)) return;
  void *stack = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (stack != MAP_FAILED) sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = BYTES}, NULL);
}

_Noreturn void cudahost_trap(struct cudahost_site site) {
  ch_report("a kernel trapped\n");
  ch_report("    at %s:%d\n", site.file, site.line);
  ch_fault(cudaErrorLaunchFailure);
}
