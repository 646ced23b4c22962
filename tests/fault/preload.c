/* SPDX-License-Identifier: Apache-2.0
 * Preloaded into kappa by tests/campaign.sh: the n-th call of a kind fails, or kills the process.
 *   FAULT_KIND  any of the letters o (open, mkdir), r (read), w (write, fsync, truncate),
 *               n (rename, link, unlink, rmdir), d (opendir, readdir), l (flock),
 *               m (malloc and its kin)
 *   FAULT_AT    n, from 1; 0: none
 *   FAULT_KILL  set: SIGKILL before the call in place of an error
 *   FAULT_COUNT a file that receives how many such calls there were
 * Calls on /proc and /sys are the libraries' own and do not count, nor does memory that oneDNN asks
 * for by itself: it takes NULL for a place (what it asks for by C++'s new does count). */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_long calls, at;
static const char *kinds = "";
static bool kills;
static uintptr_t onednn[2]; /* where its code lies */

static int find_onednn(struct dl_phdr_info *info, size_t size, void *data) {
  (void)size, (void)data;
  if (!strstr(info->dlpi_name, "libdnnl")) return 0;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *h = &info->dlpi_phdr[i];
    if (h->p_type != PT_LOAD || !(h->p_flags & PF_X)) continue;
    onednn[0] = info->dlpi_addr + h->p_vaddr;
    onednn[1] = onednn[0] + h->p_memsz;
  }
  return 1;
}

__attribute__((constructor)) static void begin(void) {
  const char *kind = getenv("FAULT_KIND"), *n = getenv("FAULT_AT");
  kills = getenv("FAULT_KILL") != NULL;
  if (n) atomic_store(&at, atol(n));
  if (kind) kinds = kind;
  dl_iterate_phdr(find_onednn, NULL);
}

__attribute__((destructor)) static void end(void) {
  const char *path = getenv("FAULT_COUNT");
  char text[32];
  if (!path) return;
  int n = snprintf(text, sizeof text, "%ld\n", atomic_load(&calls));
  long fd = syscall(SYS_open, path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (fd >= 0 && syscall(SYS_write, fd, text, n) < 0) return;
}

/* Is it this call's turn? */
static bool due(char kind, const char *path) {
  if (!strchr(kinds, kind)) return false;
  if (path && (strncmp(path, "/proc", 5) == 0 || strncmp(path, "/sys", 4) == 0)) return false;
  if (atomic_fetch_add(&calls, 1) + 1 != atomic_load(&at)) return false;
  if (kills) syscall(SYS_kill, getpid(), SIGKILL);
  errno = kind == 'm' ? ENOMEM : kind == 'w' || kind == 'o' ? ENOSPC : EIO;
  return true;
}

#define NEXT(type, name, ...)                                                                      \
  static type (*next)(__VA_ARGS__);                                                                \
  if (!next) *(void **)&next = dlsym(RTLD_NEXT, name)

/* --- files ------------------------------------------------------------------- */

#define OPEN(name)                                                                                 \
  int name(const char *path, int flags, ...) {                                                     \
    va_list args;                                                                                  \
    va_start(args, flags);                                                                         \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(args, mode_t) : 0;                        \
    va_end(args);                                                                                  \
    if (due('o', path)) return -1;                                                                 \
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);                                  \
  }
OPEN(open)
OPEN(open64)

#define FOPEN(name)                                                                                \
  FILE *name(const char *path, const char *mode) {                                                 \
    NEXT(FILE *, #name, const char *, const char *);                                               \
    return due('o', path) ? NULL : next(path, mode);                                               \
  }
FOPEN(fopen)
FOPEN(fopen64)

int mkdir(const char *path, mode_t mode) {
  return due('o', path) ? -1 : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

ssize_t read(int fd, void *buf, size_t n) {
  return due('r', NULL) ? -1 : syscall(SYS_read, fd, buf, n);
}

ssize_t write(int fd, const void *buf, size_t n) {
  return fd > 2 && due('w', NULL) ? -1 : syscall(SYS_write, fd, buf, n);
}

/* Half of it is written, as when a disk becomes full. */
size_t fwrite(const void *data, size_t size, size_t n, FILE *f) {
  NEXT(size_t, "fwrite", const void *, size_t, size_t, FILE *);
  if (f == stdout || f == stderr || !due('w', NULL)) return next(data, size, n, f);
  int why = errno;
  size_t half = next(data, size, n / 2, f);
  errno = why;
  return half;
}

int fsync(int fd) { return due('w', NULL) ? -1 : (int)syscall(SYS_fsync, fd); }
int ftruncate(int fd, off_t n) { return due('w', NULL) ? -1 : (int)syscall(SYS_ftruncate, fd, n); }
int rename(const char *from, const char *to) {
  return due('n', to) ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}
int symlink(const char *target, const char *path) {
  return due('n', path) ? -1 : (int)syscall(SYS_symlinkat, target, AT_FDCWD, path);
}
int unlink(const char *path) {
  return due('n', path) ? -1 : (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}
int remove(const char *path) {
  NEXT(int, "remove", const char *);
  return due('n', path) ? -1 : next(path);
}
int flock(int fd, int how) { return due('l', NULL) ? -1 : (int)syscall(SYS_flock, fd, how); }

DIR *opendir(const char *path) {
  NEXT(DIR *, "opendir", const char *);
  return due('d', path) ? NULL : next(path);
}
struct dirent *readdir(DIR *d) {
  NEXT(struct dirent *, "readdir", DIR *);
  return due('d', NULL) ? NULL : next(d);
}

/* --- memory ------------------------------------------------------------------ */

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t),
    *__libc_memalign(size_t, size_t);

static bool no_memory(const void *from) {
  return !((uintptr_t)from >= onednn[0] && (uintptr_t)from < onednn[1]) && due('m', NULL);
}
#define NO_MEMORY no_memory(__builtin_return_address(0))

void *malloc(size_t n) { return NO_MEMORY ? NULL : __libc_malloc(n); }
void *calloc(size_t n, size_t size) { return NO_MEMORY ? NULL : __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { return NO_MEMORY ? NULL : __libc_realloc(p, n); }
void *aligned_alloc(size_t align, size_t n) { return NO_MEMORY ? NULL : __libc_memalign(align, n); }
int posix_memalign(void **out, size_t align, size_t n) {
  if (NO_MEMORY) return ENOMEM;
  *out = __libc_memalign(align, n);
  return *out ? 0 : ENOMEM;
}
