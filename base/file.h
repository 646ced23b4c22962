/* SPDX-License-Identifier: Apache-2.0
 *
 * Files: whole-file reads, memory maps, and publication by rename (temp file in the same
 * directory, write, fsync, rename, fsync of the directory). A killed run never leaves a
 * half-written file under its final name. Messages name the path and the system's reason. */
#ifndef KAPPA_BASE_FILE_H
#define KAPPA_BASE_FILE_H

#include "base/arena.h"
#include "base/str.h"

#include <stdio.h>

bool ka_path_exists(const char *path);
bool ka_path_is_dir(const char *path);
bool ka_path_is_file(const char *path); /* a regular one, links followed */
/* Do both name the same file or directory, by whatever way? */
bool ka_path_same(const char *a, const char *b);
/* dir + "/" + name, or name alone when it is absolute or dir is empty. */
ka_status ka_path_join(struct ka_arena *a, const char **out, const char *dir, const char *name);
/* Directory part ("." when none). */
ka_status ka_path_dir(struct ka_arena *a, const char **out, const char *path);
const char *ka_path_base(const char *path);
/* $XDG_CACHE_HOME/kappa, or ~/.cache/kappa; NULL without a home. It need not be there. */
ka_status ka_cache_dir(struct ka_arena *a, const char **out);

/* A missing or unreadable file is KA_E_INPUT. Refuses files above max_bytes (0 = 1 GiB). Appends to
 * out. */
ka_status ka_read_file(struct ka_ctx *ctx, const char *path, size_t max_bytes, struct ka_str *out);

/* For reading in order; pipes only from /dev (standard input, <(command)). Close with fclose. */
ka_status ka_open_file(struct ka_ctx *ctx, const char *path, FILE **out);

/* Read-only map. Empty files map to a valid pointer with len 0. */
struct ka_map {
  const unsigned char *data;
  size_t len;
};
ka_status ka_map_file(struct ka_ctx *ctx, const char *path, struct ka_map *out);
void ka_map_drop(struct ka_map *m);
/* Tells the kernel that [offset, offset+len) is not needed in memory any more (streaming). */
void ka_map_forget(const struct ka_map *m, size_t offset, size_t len);

/* mkdir -p. */
ka_status ka_make_dirs(struct ka_ctx *ctx, const char *path);
/* Keeps other processes out of a directory (those that ask) until *fd is closed or this one ends.
 * Waits some seconds while another one is in, then KA_E_INPUT; where a file system has no locks
 * nobody is kept out. */
ka_status ka_lock_dir(struct ka_ctx *ctx, const char *dir, int *fd);
/* Names (no path) of everything in dir, sorted, without . and ..; out from a. An error on the way
 * is never taken for the end. */
ka_status ka_list_dir(struct ka_arena *a, const char *dir, const char ***names, int64_t *n);
/* Removes a directory and everything under it; a missing one is fine. */
ka_status ka_remove_tree(struct ka_ctx *ctx, const char *path);
ka_status ka_fsync_dir(struct ka_ctx *ctx, const char *dir);
/* rename + fsync of the parent directory. */
ka_status ka_rename(struct ka_ctx *ctx, const char *from, const char *to);

/* Removes what processes that are no more left behind while they wrote `path`, a file or directory:
 * PATH.tmp.PID; or below `dir` while they wrote anything. What cannot be removed stays. */
void ka_sweep_tmp(struct ka_ctx *ctx, const char *path);
void ka_sweep_tmp_in(struct ka_ctx *ctx, const char *dir);

/* A file being written under a temporary name; what a killed process left of it is swept first. On
 * KA_OK from commit it stands under `path`; abort (or a failed commit) removes the temporary file.
 * write checks for short writes and a full disk (KA_E_IO). */
struct ka_publish {
  FILE *f;
  char *tmp_path, *path;
};
ka_status ka_publish_begin(struct ka_ctx *ctx, struct ka_publish *p, const char *path);
ka_status ka_publish_write(struct ka_ctx *ctx, struct ka_publish *p, const void *bytes, size_t n);
ka_status ka_publish_commit(struct ka_ctx *ctx, struct ka_publish *p);
void ka_publish_abort(struct ka_publish *p); /* no-op after commit */

/* begin + write + commit. */
ka_status ka_write_file(struct ka_ctx *ctx, const char *path, const void *bytes, size_t n);
/* Byte for byte, published by rename. */
ka_status ka_copy_file(struct ka_ctx *ctx, const char *from, const char *to);

/* The hash (XXH3, 128 bits) of a file's bytes as hex text. */
ka_status ka_file_hash(struct ka_ctx *ctx, const char *path, char out[KA_HASH_TEXT]);

#endif
