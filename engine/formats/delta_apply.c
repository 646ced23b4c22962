/* SPDX-License-Identifier: Apache-2.0
 * The tuned directory from the base's and a delta. Everything is written into OUT.tmp.PID beside
 * OUT, each file's hash compared with what the delta says, and renamed at the end. */
#include "engine/formats/config.h"
#include "engine/formats/delta_parts.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { COPY_BYTES = 8 << 20 };

struct apply {
  struct ka_ctx *ctx;
  struct ka_arena arena;
  struct ka_delta delta;
  struct ka_safetensors base;
  const char *base_dir, *tmp;
  struct ka_delta_progress *progress;
  const struct ka_st_entry **order; /* entries of one file, as they lie in it */
  void *tensor;                     /* room for the largest changed one */
  XXH3_state_t *hash;               /* of the file being written */
  struct ka_publish file;
  int lock;
};

/* map: where the bytes come from, to be forgotten; or NULL. */
static ka_status put(struct apply *a, const void *bytes, size_t n, const struct ka_map *map) {
  struct ka_ctx *ctx = a->ctx;
  for (size_t at = 0; at < n; at += COPY_BYTES) {
    size_t step = n - at < COPY_BYTES ? n - at : COPY_BYTES;
    const unsigned char *from = (const unsigned char *)bytes + at;
    KA_TRY(ka_publish_write(ctx, &a->file, from, step));
    XXH3_128bits_update(a->hash, from, step);
    if (map) ka_map_forget(map, (size_t)(from - map->data), step);
    KA_TRY(ka_delta_step(ctx, a->progress, step));
  }
  return KA_STATUS_OK;
}

static ka_status put_base_file(struct apply *a, const struct ka_delta_file *f) {
  struct ka_ctx *ctx = a->ctx;
  const char *path = NULL;
  struct ka_map map;
  KA_TRY(ka_path_join(&a->arena, &path, a->base_dir, f->name));
  KA_TRY(ka_map_file(ctx, path, &map));
  ka_status st = put(a, map.data, map.len, &map);
  ka_map_drop(&map);
  return st;
}

static int by_offset(const void *x, const void *y) {
  const struct ka_st_entry *a = *(const struct ka_st_entry *const *)x,
                           *b = *(const struct ka_st_entry *const *)y;
  if (a->offset_bytes != b->offset_bytes) return a->offset_bytes < b->offset_bytes ? -1 : 1;
  return a->n_bytes < b->n_bytes ? -1 : a->n_bytes > b->n_bytes;
}

static ka_status put_tensor(struct apply *a, const struct ka_st_entry *e) {
  struct ka_ctx *ctx = a->ctx;
  const struct ka_delta_tensor *t = ka_delta_find(&a->delta, e->name);
  if (t && !t->part && !t->packed)
    return put(a, ka_delta_bytes(&a->delta.file, t->payload), e->n_bytes,
               &a->delta.file.shards[0].map);
  const struct ka_st_entry *old = ka_st_find(&a->base, e->name);
  if (t) {
    KA_TRY(ka_delta_restore(ctx, &a->delta, t, &a->base, a->tensor));
    ka_delta_forget(&a->delta.file, t->payload);
    if (old) ka_delta_forget(&a->base, old);
    return put(a, a->tensor, e->n_bytes, NULL);
  }
  KA_NEVER(ctx, !old);
  return put(a, ka_delta_bytes(&a->base, old), e->n_bytes, &a->base.shards[old->shard].map);
}

static ka_status put_weights(struct apply *a, const struct ka_delta_file *f) {
  struct ka_ctx *ctx = a->ctx;
  unsigned char length[8];
  int64_t n = 0;
  for (int i = 0; i < 8; i++) length[i] = (unsigned char)((uint64_t)f->payload->n_bytes >> (8 * i));
  KA_TRY(put(a, length, sizeof length, NULL));
  KA_TRY(put(a, ka_delta_bytes(&a->delta.file, f->payload), f->payload->n_bytes, NULL));
  for (int64_t i = 0; i < a->delta.layout.n_entries; i++)
    if (a->delta.layout.entries[i].shard == f->shard) a->order[n++] = &a->delta.layout.entries[i];
  if (n > 1) qsort(a->order, (size_t)n, sizeof *a->order, by_offset);
  for (int64_t i = 0; i < n; i++) KA_TRY(put_tensor(a, a->order[i]));
  return KA_STATUS_OK;
}

static ka_status put_file(struct apply *a, const struct ka_delta_file *f) {
  struct ka_ctx *ctx = a->ctx;
  const char *path = NULL;
  char hex[KA_HASH_TEXT];
  KA_TRY(ka_path_join(&a->arena, &path, a->tmp, f->name));
  KA_TRY(ka_publish_begin(ctx, &a->file, path));
  XXH3_128bits_reset(a->hash);
  if (f->from == KA_DELTA_BASE)
    KA_TRY(put_base_file(a, f));
  else if (f->from == KA_DELTA_STORED)
    KA_TRY(put(a, ka_delta_bytes(&a->delta.file, f->payload), f->n_bytes, NULL));
  else
    KA_TRY(put_weights(a, f));
  ka_delta_hex(hex, XXH3_128bits_digest(a->hash));
  if (strcmp(hex, f->hash) != 0)
    return ka_fail(ctx, KA_E_INPUT, "%s: %s: not what was exported (hash %s, expected %s); %s",
                   a->delta.path, f->name, hex, f->hash,
                   f->from == KA_DELTA_BASE ? "the base's file is another one"
                                            : "the delta is damaged");
  return ka_publish_commit(ctx, &a->file);
}

static ka_status make_room(struct apply *a) {
  struct ka_ctx *ctx = a->ctx;
  const struct ka_delta *d = &a->delta;
  size_t most = 0;
  KA_TRY(KA_NEW(&a->arena, &a->order, d->layout.n_entries, "order"));
  for (int64_t i = 0; i < d->n_tensors; i++) {
    const struct ka_delta_tensor *t = &d->tensors[i];
    if ((t->part || t->packed) && t->entry->n_bytes > most) most = t->entry->n_bytes;
  }
  return ka_arena_alloc(&a->arena, &a->tensor, most, "changed tensor");
}

static void count_bytes(struct apply *a) {
  struct ka_delta_progress *p = a->progress;
  if (!p) return;
  p->total_bytes = 0;
  for (int64_t i = 0; i < a->base.n_entries; i++) p->total_bytes += a->base.entries[i].n_bytes;
  for (int64_t i = 0; i < a->delta.n_files; i++) p->total_bytes += a->delta.files[i].n_bytes;
}

static ka_status check_out(struct apply *a, const char *out_dir) {
  struct ka_ctx *ctx = a->ctx;
  const char **names;
  int64_t n = 0;
  if (!ka_path_exists(out_dir)) return KA_STATUS_OK;
  if (!ka_path_is_dir(out_dir))
    return ka_fail(ctx, KA_E_INPUT, "%s: exists and is not a directory", out_dir);
  KA_TRY(ka_list_dir(&a->arena, out_dir, &names, &n));
  if (n == 0) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_INPUT, "%s: is not empty; choose another directory", out_dir);
}

static ka_status write_all(struct apply *a, const char *path, const char *out_dir) {
  struct ka_ctx *ctx = a->ctx;
  size_t len = strlen(out_dir);
  while (len > 1 && out_dir[len - 1] == '/') len--;
  const char *out = NULL;
  KA_TRY(ka_arena_printf(&a->arena, &out, "%.*s", (int)len, out_dir));
  KA_TRY(ka_arena_printf(&a->arena, &a->tmp, "%s.tmp.%ld", out, (long)getpid()));
  KA_TRY(check_out(a, out_dir));
  KA_TRY(ka_delta_open(ctx, &a->delta, path));
  KA_TRY(ka_st_open(ctx, &a->base, a->base_dir));
  count_bytes(a);
  KA_TRY(ka_delta_check_base(ctx, &a->delta, &a->base, a->progress));
  KA_TRY(make_room(a));
  ka_sweep_tmp(ctx, out);
  KA_TRY(ka_remove_tree(ctx, a->tmp)); /* of a killed process of this number */
  KA_TRY(ka_make_dirs(ctx, a->tmp));
  KA_TRY(ka_lock_dir(ctx, a->tmp, &a->lock)); /* nobody sweeps it away */
  for (int64_t i = 0; i < a->delta.n_files; i++) KA_TRY(put_file(a, &a->delta.files[i]));
  return ka_rename(ctx, a->tmp, out_dir);
}

ka_status ka_delta_apply(struct ka_ctx *ctx, const char *base_dir, const char *path,
                         const char *out_dir, struct ka_delta_progress *progress) {
  struct apply a = {.ctx = ctx, .base_dir = base_dir, .progress = progress, .lock = -1};
  ka_arena_init(&a.arena, ctx, "delta apply");
  a.hash = XXH3_createState();
  ka_status st = a.hash ? write_all(&a, path, out_dir)
                        : ka_fail(ctx, KA_E_MEMORY, "delta apply: out of memory");
  ka_publish_abort(&a.file);
  if (!ka_ok(st) && a.tmp) KA_TRY_KEEP(ka_remove_tree(ctx, a.tmp));
  if (a.lock >= 0) close(a.lock);
  XXH3_freeState(a.hash);
  ka_st_close(&a.base);
  ka_delta_close(&a.delta);
  ka_arena_deinit(&a.arena);
  return st;
}
