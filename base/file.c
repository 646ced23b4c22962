/* SPDX-License-Identifier: Apache-2.0
 * POSIX files. Reading errors are bad input (2), writing errors are resources (3). */
#include "base/file.h"

#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

bool ka_path_exists(const char *path) { return access(path, F_OK) == 0; }

bool ka_path_is_dir(const char *path) {
  struct stat st;
  return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool ka_path_is_file(const char *path) {
  struct stat st;
  return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

bool ka_path_same(const char *a, const char *b) {
  struct stat x, y;
  return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

ka_status ka_path_join(struct ka_arena *a, const char **out, const char *dir, const char *name) {
  if (name[0] == '/' || dir[0] == 0) return ka_arena_str(a, out, name, strlen(name));
  return ka_arena_printf(a, out, ka_ends_with(dir, "/") ? "%s%s" : "%s/%s", dir, name);
}

ka_status ka_path_dir(struct ka_arena *a, const char **out, const char *path) {
  const char *slash = strrchr(path, '/');
  if (!slash) return ka_arena_str(a, out, ".", 1);
  return ka_arena_str(a, out, path, slash == path ? 1 : (size_t)(slash - path));
}

const char *ka_path_base(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

ka_status ka_cache_dir(struct ka_arena *a, const char **out) {
  const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  *out = NULL;
  if (xdg && xdg[0] == '/') return ka_arena_printf(a, out, "%s/kappa", xdg);
  if (home && home[0] == '/') return ka_arena_printf(a, out, "%s/.cache/kappa", home);
  return KA_STATUS_OK;
}

/* Opening a pipe would wait for somebody who writes into it. */
static ka_status open_read(struct ka_ctx *ctx, const char *path, int *fd, size_t *len) {
  *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (*fd < 0) return ka_fail(ctx, KA_E_INPUT, "%s: %s", path, strerror(errno));
  struct stat st = {0};
  bool known = fstat(*fd, &st) == 0;
  bool given = ka_starts_with(path, "/dev/"); /* standard input, <(command): somebody writes */
  const char *why = !known                         ? strerror(errno)
                    : S_ISDIR(st.st_mode)          ? "is a directory"
                    : S_ISREG(st.st_mode) || given ? NULL
                                                   : "neither a file nor a directory";
  if (!why && fcntl(*fd, F_SETFL, 0) < 0) why = strerror(errno);
  *len = (size_t)st.st_size;
  if (!why) return KA_STATUS_OK;
  close(*fd);
  return ka_fail(ctx, KA_E_INPUT, "%s: %s", path, why);
}

ka_status ka_read_file(struct ka_ctx *ctx, const char *path, size_t max_bytes, struct ka_str *out) {
  int fd;
  size_t hint = 0;
  KA_TRY(open_read(ctx, path, &fd, &hint));
  if (max_bytes == 0) max_bytes = (size_t)1 << 30;
  ka_status st = KA_STATUS_OK;
  size_t total = 0;
  for (;;) {
    size_t want = hint > total ? hint - total + 1 : 65536;
    if (want > max_bytes - total + 1) want = max_bytes - total + 1;
    KA_TRY_GOTO(ka_str_reserve(ctx, out, want), out);
    ssize_t got = read(fd, out->data + out->len, want);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      st = ka_fail(ctx, KA_E_INPUT, "%s: %s", path, strerror(errno));
      goto out;
    }
    if (got == 0) break;
    out->len += (size_t)got;
    out->data[out->len] = 0;
    total += (size_t)got;
    if (total > max_bytes) {
      st = ka_fail(ctx, KA_E_INPUT, "%s: larger than the limit of %zu bytes", path, max_bytes);
      goto out;
    }
  }
out:
  close(fd);
  return st;
}

ka_status ka_open_file(struct ka_ctx *ctx, const char *path, FILE **out) {
  int fd;
  size_t n;
  *out = NULL;
  KA_TRY(open_read(ctx, path, &fd, &n));
  *out = fdopen(fd, "rb");
  if (*out) return KA_STATUS_OK;
  close(fd);
  return ka_fail(ctx, KA_E_MEMORY, "%s: out of memory", path);
}

ka_status ka_map_file(struct ka_ctx *ctx, const char *path, struct ka_map *out) {
  static const unsigned char empty[1];
  *out = (struct ka_map){empty, 0};
  int fd;
  size_t len = 0;
  KA_TRY(open_read(ctx, path, &fd, &len));
  if (len > 0) {
    void *p = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) {
      int err = errno;
      close(fd);
      return ka_fail(ctx, KA_E_IO, "%s: cannot map %zu bytes: %s", path, len, strerror(err));
    }
    *out = (struct ka_map){p, len};
  }
  close(fd);
  return KA_STATUS_OK;
}

void ka_map_drop(struct ka_map *m) {
  if (m->len > 0) munmap((void *)(uintptr_t)m->data, m->len);
  *m = (struct ka_map){0};
}

void ka_map_forget(const struct ka_map *m, size_t offset, size_t len) {
  if (offset >= m->len) return;
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  size_t begin = (offset + page - 1) / page * page;
  size_t end = (len > m->len - offset ? m->len : offset + len) / page * page;
  if (end > begin) (void)madvise((void *)(uintptr_t)(m->data + begin), end - begin, MADV_DONTNEED);
}

ka_status ka_make_dirs(struct ka_ctx *ctx, const char *path) {
  char *copy = strdup(path);
  if (!copy) return ka_fail(ctx, KA_E_MEMORY, "%s: out of memory", path);
  ka_status st = KA_STATUS_OK;
  for (char *p = copy + 1; st.code == KA_OK; p++) {
    if (*p != '/' && *p != 0) continue;
    char keep = *p;
    *p = 0;
    if (mkdir(copy, 0777) != 0 && errno != EEXIST)
      st = ka_fail(ctx, KA_E_IO, "%s: cannot create directory: %s", copy, strerror(errno));
    *p = keep;
    if (keep == 0) break;
  }
  if (st.code == KA_OK && !ka_path_is_dir(path))
    st = ka_fail(ctx, KA_E_IO, "%s: exists and is not a directory", path);
  free(copy);
  return st;
}

ka_status ka_lock_dir(struct ka_ctx *ctx, const char *dir, int *fd) {
  enum { TRIES = 100 };
  const struct timespec moment = {0, 100 * 1000 * 1000};
  ka_status st = KA_STATUS_OK;
  *fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (*fd < 0) return ka_fail(ctx, KA_E_IO, "%s: cannot open: %s", dir, strerror(errno));
  for (int i = 0; ka_ok(st); i++) {
    if (flock(*fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return KA_STATUS_OK;
    if (i == 0) ka_info(ctx, "files", "%s: another process is writing here; waiting for it", dir);
    if (i == TRIES)
      st = ka_fail(ctx, KA_E_INPUT, "%s: another process is writing here; wait for it, or end it",
                   dir);
    if (ka_ok(st)) st = ka_check_interrupted(ctx, dir);
    nanosleep(&moment, NULL);
  }
  close(*fd);
  *fd = -1;
  return st;
}

static int by_name(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

ka_status ka_list_dir(struct ka_arena *a, const char *dir, const char ***names, int64_t *n) {
  struct ka_ctx *ctx = a->ctx;
  DIR *d = opendir(dir);
  if (!d) return ka_fail(ctx, KA_E_INPUT, "%s: %s", dir, strerror(errno));
  ka_status st = KA_STATUS_OK;
  const char **list = NULL;
  int64_t cap = 0;
  *n = 0;
  for (struct dirent *e; (errno = 0, e = readdir(d));) {
    if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
    void *grown = list;
    KA_TRY_GOTO(ka_grow(ctx, &grown, &cap, *n + 1, sizeof *list, "directory list"), out);
    list = grown;
    KA_TRY_GOTO(ka_arena_str(a, &list[*n], e->d_name, strlen(e->d_name)), out);
    ++*n;
  }
  if (errno != 0) {
    st = ka_fail(ctx, KA_E_IO, "%s: cannot read the directory: %s", dir, strerror(errno));
    goto out;
  }
  if (*n > 1) qsort(list, (size_t)*n, sizeof *list, by_name);
  void *kept;
  KA_TRY_GOTO(ka_arena_alloc_n(a, &kept, *n, sizeof *list, "directory list"), out);
  if (*n > 0) memcpy(kept, list, (size_t)*n * sizeof *list);
  *names = kept;
out:
  ka_free(list);
  closedir(d);
  return st;
}

ka_status ka_remove_tree(struct ka_ctx *ctx, const char *path) {
  struct stat info;
  if (lstat(path, &info) != 0) {
    if (errno == ENOENT) return KA_STATUS_OK;
    return ka_fail(ctx, KA_E_IO, "%s: %s", path, strerror(errno));
  }
  if (S_ISDIR(info.st_mode)) {
    struct ka_arena a;
    ka_arena_init(&a, ctx, "remove");
    const char **names, *child;
    int64_t n = 0;
    ka_status st = ka_list_dir(&a, path, &names, &n);
    for (int64_t i = 0; i < n && st.code == KA_OK; i++) {
      st = ka_path_join(&a, &child, path, names[i]);
      if (st.code == KA_OK) st = ka_remove_tree(ctx, child);
    }
    ka_arena_deinit(&a);
    KA_TRY(st);
  }
  if (remove(path) != 0)
    return ka_fail(ctx, KA_E_IO, "%s: cannot remove: %s", path, strerror(errno));
  return KA_STATUS_OK;
}

ka_status ka_fsync_dir(struct ka_ctx *ctx, const char *dir) {
  int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return ka_fail(ctx, KA_E_IO, "%s: %s", dir, strerror(errno));
  int rc = fsync(fd);
  int err = errno;
  close(fd);
  /* Some file systems cannot sync directories; that is their promise to make. */
  if (rc != 0 && err != EINVAL) return ka_fail(ctx, KA_E_IO, "%s: fsync: %s", dir, strerror(err));
  return KA_STATUS_OK;
}

ka_status ka_rename(struct ka_ctx *ctx, const char *from, const char *to) {
  struct ka_arena a;
  ka_arena_init(&a, ctx, "rename");
  const char *dir;
  ka_status st = ka_path_dir(&a, &dir, to); /* first what can fail */
  if (st.code == KA_OK && rename(from, to) != 0)
    st = ka_fail(ctx, KA_E_IO, "%s: cannot rename to %s: %s", from, to, strerror(errno));
  if (st.code == KA_OK) st = ka_fsync_dir(ctx, dir);
  ka_arena_deinit(&a);
  return st;
}

/* --- left by killed processes ------------------------------------------------ */

/* "BASE.tmp.PID" of a process that is no more? BASE NULL: any. */
static bool is_left(const char *name, const char *base) {
  const char *tmp = NULL;
  int64_t pid = 0;
  for (const char *p = name; (p = strstr(p, ".tmp.")); p++) tmp = p;
  if (!tmp || !ka_parse_i64(tmp + 5, &pid) || pid <= 0 || pid > INT32_MAX) return false;
  size_t n = (size_t)(tmp - name);
  if (base && (strlen(base) != n || memcmp(base, name, n) != 0)) return false;
  return kill((pid_t)pid, 0) != 0 && errno == ESRCH;
}

/* A process of another container has a number that means nothing here; but it holds the lock. */
static void remove_unlocked(struct ka_ctx *ctx, const char *path) {
  int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return;
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
    struct ka_ctx quiet;
    ka_ctx_init(&quiet);
    if (ka_ok(ka_remove_tree(&quiet, path)))
      ka_info(ctx, "files", "%s: removed; a killed process left it", path);
  }
  close(fd);
}

static void sweep(struct ka_ctx *ctx, const char *dir, const char *base) {
  DIR *d = opendir(dir);
  if (!d) return;
  for (struct dirent *e; (e = readdir(d));) {
    char *path = NULL;
    if (!is_left(e->d_name, base) || asprintf(&path, "%s/%s", dir, e->d_name) < 0) continue;
    remove_unlocked(ctx, path);
    free(path);
  }
  closedir(d);
}

void ka_sweep_tmp_in(struct ka_ctx *ctx, const char *dir) { sweep(ctx, dir, NULL); }

void ka_sweep_tmp(struct ka_ctx *ctx, const char *path) {
  char *dir = strdup(path), *slash = dir ? strrchr(dir, '/') : NULL;
  if (!dir) return;
  if (slash) slash[slash == dir] = 0;
  sweep(ctx, slash ? dir : ".", ka_path_base(path));
  free(dir);
}

ka_status ka_publish_begin(struct ka_ctx *ctx, struct ka_publish *p, const char *path) {
  *p = (struct ka_publish){0};
  ka_sweep_tmp(ctx, path);
  if (asprintf(&p->tmp_path, "%s.tmp.%ld", path, (long)getpid()) < 0) p->tmp_path = NULL;
  p->path = strdup(path);
  if (!p->tmp_path || !p->path) {
    ka_publish_abort(p);
    return ka_fail(ctx, KA_E_MEMORY, "%s: out of memory", path);
  }
  p->f = fopen(p->tmp_path, "wbe");
  if (!p->f) {
    int err = errno;
    ka_publish_abort(p);
    return ka_fail(ctx, KA_E_IO, "%s: cannot write: %s", path, strerror(err));
  }
  (void)flock(fileno(p->f), LOCK_EX | LOCK_NB); /* see remove_unlocked */
  return KA_STATUS_OK;
}

ka_status ka_publish_write(struct ka_ctx *ctx, struct ka_publish *p, const void *bytes, size_t n) {
  if (n > 0 && fwrite(bytes, 1, n, p->f) != n)
    return ka_fail(ctx, KA_E_IO, "%s: write of %zu bytes failed: %s", p->path, n, strerror(errno));
  if (ctx->wrote) ctx->wrote(ctx->wrote_user, n);
  return KA_STATUS_OK;
}

ka_status ka_publish_commit(struct ka_ctx *ctx, struct ka_publish *p) {
  ka_status st = KA_STATUS_OK;
  int rc = fflush(p->f) | fsync(fileno(p->f));
  int err = errno;
  if (fclose(p->f) != 0 && rc == 0) {
    rc = -1;
    err = errno;
  }
  p->f = NULL;
  if (rc != 0) st = ka_fail(ctx, KA_E_IO, "%s: write failed: %s", p->path, strerror(err));
  if (st.code == KA_OK) st = ka_rename(ctx, p->tmp_path, p->path);
  ka_publish_abort(p);
  return st;
}

void ka_publish_abort(struct ka_publish *p) {
  if (p->f) fclose(p->f);
  if (p->tmp_path) unlink(p->tmp_path); /* gone already after a commit */
  free(p->tmp_path);
  free(p->path);
  *p = (struct ka_publish){0};
}

ka_status ka_write_file(struct ka_ctx *ctx, const char *path, const void *bytes, size_t n) {
  struct ka_publish p;
  KA_TRY(ka_publish_begin(ctx, &p, path));
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_publish_write(ctx, &p, bytes, n), out);
  KA_TRY_GOTO(ka_publish_commit(ctx, &p), out);
out:
  ka_publish_abort(&p);
  return st;
}

ka_status ka_copy_file(struct ka_ctx *ctx, const char *from, const char *to) {
  struct ka_map m;
  KA_TRY(ka_map_file(ctx, from, &m));
  ka_status st = ka_write_file(ctx, to, m.data, m.len);
  ka_map_drop(&m);
  return st;
}

ka_status ka_file_hash(struct ka_ctx *ctx, const char *path, char out[KA_HASH_TEXT]) {
  enum { STEP = 4 << 20 };
  struct ka_map m;
  XXH3_state_t *h = XXH3_createState();
  if (!h) return ka_fail(ctx, KA_E_MEMORY, "%s: hash: out of memory", path);
  ka_status st = ka_map_file(ctx, path, &m);
  if (ka_ok(st)) {
    XXH3_128bits_reset(h);
    for (size_t at = 0; at < m.len; at += STEP) {
      size_t n = m.len - at < STEP ? m.len - at : STEP;
      XXH3_128bits_update(h, m.data + at, n);
      ka_map_forget(&m, at, n);
    }
    XXH128_hash_t v = XXH3_128bits_digest(h);
    ka_fmt_hash(v.high64, v.low64, out);
    ka_map_drop(&m);
  }
  XXH3_freeState(h);
  return st;
}
