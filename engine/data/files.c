/* SPDX-License-Identifier: Apache-2.0
 * Walking directories and globs. */
#include "engine/data/files.h"

#include <errno.h>
#include <fnmatch.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_DEPTH = 32 };

struct found {
  const char *path;
  bool named;
  dev_t dev;
  ino_t ino;
  int64_t order;
};

struct walker {
  struct ka_ctx *ctx;
  struct ka_arena *a;
  const struct ka_key_texts *only, *not_these;
  struct found *items;
  int64_t n, cap;
};

static bool matches(const struct ka_key_texts *globs, const char *below) {
  for (int64_t i = 0; globs && i < globs->n; i++)
    if (fnmatch(globs->items[i], below, 0) == 0 ||
        fnmatch(globs->items[i], ka_path_base(below), 0) == 0)
      return true;
  return false;
}

static ka_status add_file(struct walker *w, const char *path, const struct stat *info, bool named) {
  struct ka_ctx *ctx = w->ctx;
  void *grown = w->items;
  KA_TRY(ka_grow(ctx, &grown, &w->cap, w->n + 1, sizeof *w->items, "data files"));
  w->items = grown;
  w->items[w->n] = (struct found){path, named, info->st_dev, info->st_ino, w->n};
  w->n++;
  return KA_STATUS_OK;
}

/* `below` is the path under the directory that the job names. */
static ka_status walk_dir(struct walker *w, const char *dir, const char *below, int depth) {
  struct ka_ctx *ctx = w->ctx;
  const char **names, *path, *rest;
  int64_t n = 0;
  if (depth == MAX_DEPTH)
    return ka_fail(ctx, KA_E_INPUT, "%s: directories nested deeper than %d", dir, MAX_DEPTH);
  KA_TRY(ka_list_dir(w->a, dir, &names, &n));
  for (int64_t i = 0; i < n; i++) {
    struct stat info, link;
    if (names[i][0] == '.') continue;
    KA_TRY(ka_path_join(w->a, &path, dir, names[i]));
    KA_TRY(ka_path_join(w->a, &rest, below, names[i]));
    if (lstat(path, &link) != 0 || stat(path, &info) != 0) continue; /* a dangling link */
    if (S_ISDIR(info.st_mode)) {
      if (!S_ISLNK(link.st_mode)) KA_TRY(walk_dir(w, path, rest, depth + 1));
    } else if (S_ISREG(info.st_mode) && (!w->only || w->only->n == 0 || matches(w->only, rest)) &&
               !matches(w->not_these, rest)) {
      KA_TRY(add_file(w, path, &info, false));
    }
  }
  return KA_STATUS_OK;
}

static ka_status add_path(struct walker *w, const char *path, bool named) {
  struct ka_ctx *ctx = w->ctx;
  struct stat info;
  if (stat(path, &info) != 0) return ka_fail(ctx, KA_E_INPUT, "%s: %s", path, strerror(errno));
  if (S_ISDIR(info.st_mode)) return walk_dir(w, path, "", 0);
  if (!S_ISREG(info.st_mode))
    return ka_fail(ctx, KA_E_INPUT, "%s: neither a file nor a directory", path);
  const char *kept;
  if (matches(w->not_these, path)) return KA_STATUS_OK;
  KA_TRY(ka_arena_str(w->a, &kept, path, strlen(path)));
  return add_file(w, kept, &info, named);
}

static ka_status add_glob(struct walker *w, const char *pattern) {
  struct ka_ctx *ctx = w->ctx;
  glob_t g;
  int rc = glob(pattern, 0, NULL, &g);
  if (rc == GLOB_NOSPACE) return ka_fail(ctx, KA_E_MEMORY, "%s: out of memory", pattern);
  ka_status st = KA_STATUS_OK;
  if (rc != 0) st = ka_fail(ctx, KA_E_INPUT, "%s: no file matches", pattern);
  for (size_t i = 0; rc == 0 && i < g.gl_pathc && st.code == KA_OK; i++)
    st = add_path(w, g.gl_pathv[i], false);
  globfree(&g);
  return st;
}

static int by_inode(const void *a, const void *b) {
  const struct found *x = a, *y = b;
  if (x->dev != y->dev) return x->dev < y->dev ? -1 : 1;
  if (x->ino != y->ino) return x->ino < y->ino ? -1 : 1;
  return x->order < y->order ? -1 : 1;
}

static int by_order(const void *a, const void *b) {
  const struct found *x = a, *y = b;
  return x->order < y->order ? -1 : x->order > y->order;
}

/* Keeps the first of files that are the same. */
static void drop_repeated(struct walker *w) {
  int64_t kept = 0;
  if (w->n == 0) return;
  qsort(w->items, (size_t)w->n, sizeof *w->items, by_inode);
  for (int64_t i = 0; i < w->n; i++)
    if (i == 0 || w->items[i].dev != w->items[kept - 1].dev ||
        w->items[i].ino != w->items[kept - 1].ino)
      w->items[kept++] = w->items[i];
  w->n = kept;
  qsort(w->items, (size_t)w->n, sizeof *w->items, by_order);
}

static ka_status find_all(struct walker *w, const struct ka_key_texts *paths) {
  struct ka_ctx *ctx = w->ctx;
  for (int64_t i = 0; i < paths->n; i++) {
    const char *p = paths->items[i];
    if (!ka_path_exists(p) && strpbrk(p, "*?["))
      KA_TRY(add_glob(w, p));
    else
      KA_TRY(add_path(w, p, true));
  }
  drop_repeated(w);
  if (w->n == 0)
    return ka_fail(ctx, KA_E_INPUT, "%s: no files%s", paths->n > 0 ? paths->items[0] : "data",
                   w->only && w->only->n > 0 ? " match data_files" : "");
  return KA_STATUS_OK;
}

ka_status ka_data_files(struct ka_arena *a, const struct ka_key_texts *paths,
                        const struct ka_key_texts *data_files,
                        const struct ka_key_texts *exclude_files, struct ka_data_files *out) {
  struct ka_ctx *ctx = a->ctx;
  struct walker w = {.ctx = ctx, .a = a, .only = data_files, .not_these = exclude_files};
  void *list;
  ka_status st = KA_STATUS_OK;
  *out = (struct ka_data_files){0};
  KA_TRY_GOTO(find_all(&w, paths), out);
  KA_TRY_GOTO(ka_arena_alloc_n(a, &list, w.n, sizeof *out->items, "data files"), out);
  out->items = list;
  out->n = w.n;
  for (int64_t i = 0; i < w.n; i++)
    out->items[i] = (struct ka_data_file){w.items[i].path, w.items[i].named};
out:
  ka_free(w.items);
  return st;
}
