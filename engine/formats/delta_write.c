/* SPDX-License-Identifier: Apache-2.0
 * Exporting a delta: the base hashed, the tuned model compared with it, and what differs written in
 * one pass with one tensor in memory. */
#include "base/log.h"
#include "engine/formats/config.h"
#include "engine/formats/delta_pack.h"
#include "engine/formats/delta_parts.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct export {
  struct ka_ctx *ctx;
  struct ka_arena arena;
  const char *base_dir, *tuned_dir;
  const struct ka_delta_options *options;
  struct ka_safetensors base, tuned;
  json_t *manifest; /* grows */
  char fingerprint[KA_HASH_TEXT];
  int64_t n_changed, n_files;
  struct ka_delta_tensor *changed; /* by name */
  const char **files;
  struct ka_st_stream out;
};

/* What goes into JSON. */
static ka_status check_utf8(struct ka_ctx *ctx, const char *text) {
  if (ka_utf8_check(text, strlen(text)) == strlen(text)) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: a name that is not UTF-8", text);
}

static ka_status hash_base(struct export *x) {
  struct ka_ctx *ctx = x->ctx;
  void *memory = NULL;
  json_t *base = json_object(), *hashes = json_object();
  ka_status st =
      ka_json_set(x->ctx, base, "tensors", hashes); /* owned by the manifest from here on */
  KA_TRY_KEEP(ka_json_set(x->ctx, x->manifest, "base", base));
  KA_TRY(st);
  KA_TRY(ka_json_set(x->ctx, base, "path", json_string(x->base_dir)));
  KA_TRY(ka_arena_alloc_n(&x->arena, &memory, x->base.n_entries, KA_HASH_TEXT, "hashes"));
  char(*hex)[KA_HASH_TEXT] = memory;
  KA_TRY(ka_delta_hash_tensors(ctx, &x->base, hex, x->options->progress));
  for (int64_t i = 0; i < x->base.n_entries; i++)
    KA_TRY(ka_json_set(x->ctx, hashes, x->base.entries[i].name, json_string(hex[i])));
  KA_TRY(ka_delta_fingerprint(ctx, hashes, x->fingerprint));
  return ka_json_set(x->ctx, base, "fingerprint", json_string(x->fingerprint));
}

static ka_status put_ranges(struct export *x, json_t *row, const char *key,
                            const struct ka_delta_ranges *r) {
  struct ka_ctx *ctx = x->ctx;
  json_t *list = json_array();
  KA_TRY(ka_json_set(x->ctx, row, key, list));
  for (int64_t i = 0; i < 2 * r->n; i++)
    KA_TRY(ka_json_append(x->ctx, list, json_integer(r->at[i])));
  return KA_STATUS_OK;
}

static bool name_taken(const char *name) {
  return ka_ends_with(name, "#part") || ka_ends_with(name, "#packed") ||
         ka_starts_with(name, KA_DELTA_FILE_PREFIX) || strcmp(name, KA_DELTA_MANIFEST) == 0;
}

static ka_status compare(struct export *x) {
  struct ka_ctx *ctx = x->ctx;
  json_t *rows = json_array();
  KA_TRY(ka_json_set(x->ctx, x->manifest, "tensors", rows));
  KA_TRY(KA_NEW(&x->arena, &x->changed, x->tuned.n_entries, "changed"));
  for (int64_t i = 0; i < x->tuned.n_entries; i++) {
    struct ka_delta_tensor *t = &x->changed[x->n_changed];
    bool changed = false;
    *t = (struct ka_delta_tensor){.entry = &x->tuned.entries[i], .packed = x->options->pack};
    const char *name = t->entry->name;
    if (name_taken(name))
      return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: tensor \"%s\": a delta uses such names itself",
                     ka_st_path_of(&x->tuned, t->entry), name);
    const struct ka_st_entry *old = ka_st_find(&x->base, name);
    KA_TRY(ka_delta_compare(&x->arena, &x->base, old, &x->tuned, t, &changed));
    if (old) ka_delta_forget(&x->base, old);
    ka_delta_forget(&x->tuned, t->entry);
    KA_TRY(ka_delta_step(ctx, x->options->progress, t->entry->n_bytes));
    if (!changed) continue;
    x->n_changed++;
    json_t *row = json_object();
    KA_TRY(ka_json_append(x->ctx, rows, row));
    KA_TRY(ka_json_set(x->ctx, row, "name", json_string(name)));
    if (t->packed) KA_TRY(ka_json_set(x->ctx, row, "packed", json_true()));
    if (t->part) KA_TRY(put_ranges(x, row, "rows", &t->rows));
    if (t->part) KA_TRY(put_ranges(x, row, "cols", &t->cols));
  }
  return KA_STATUS_OK;
}

/* The model's own files, and what stays behind, in one log line. */
static ka_status list_files(struct export *x) {
  struct ka_ctx *ctx = x->ctx;
  const char **names, *path = NULL;
  struct ka_str left = {0};
  int64_t n = 0;
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_list_dir(&x->arena, x->tuned_dir, &names, &n), out);
  KA_TRY_GOTO(KA_NEW(&x->arena, &x->files, n, "files"), out);
  for (int64_t i = 0; i < n; i++) {
    struct stat info;
    KA_TRY_GOTO(ka_path_join(&x->arena, &path, x->tuned_dir, names[i]), out);
    if (stat(path, &info) != 0 || !S_ISREG(info.st_mode)) continue;
    enum ka_hf_file_kind kind = ka_hf_file_kind_of(names[i]);
    bool own = kind == KA_FILE_MODEL || kind == KA_FILE_SELECTION ||
               (x->tuned.index_path && strcmp(names[i], ka_path_base(x->tuned.index_path)) == 0);
    for (int64_t s = 0; s < x->tuned.n_shards; s++)
      own = own || strcmp(names[i], x->tuned.shards[s].file_name) == 0;
    if (own) {
      KA_TRY_GOTO(check_utf8(ctx, names[i]), out);
      ka_model_dir_say_link(ctx, x->tuned_dir, names[i]);
      x->files[x->n_files++] = names[i];
    } else {
      KA_TRY_GOTO(ka_str_printf(ctx, &left, "%s%s", left.len ? ", " : "", names[i]), out);
    }
  }
  if (left.len > 0) ka_info(ctx, "delta", "%s: not exported: %s", x->tuned_dir, left.data);
out:
  ka_str_deinit(&left);
  return st;
}

static ka_status to_stream(void *user, const void *bytes, size_t n) {
  struct export *x = user;
  return ka_st_stream_write(x->ctx, &x->out, bytes, n);
}

/* The bytes of one changed tensor, cut and packed as decided. */
static ka_status write_bytes(struct export *x, const struct ka_delta_tensor *t, size_t width) {
  struct ka_ctx *ctx = x->ctx;
  const struct ka_st_entry *e = t->entry, *old = ka_st_find(&x->base, e->name);
  const unsigned char *bytes = ka_delta_bytes(&x->tuned, e);
  const unsigned char *before =
      old && ka_delta_same_kind(old, e) ? ka_delta_bytes(&x->base, old) : NULL;
  size_t n = t->part ? (size_t)(t->rows.total * t->cols.total) * width : e->n_bytes;
  void *cut = NULL, *cut_before = NULL;
  ka_status st = KA_STATUS_OK;
  if (t->part) {
    KA_TRY_GOTO(ka_alloc(ctx, &cut, n, "part of a tensor"), out);
    ka_delta_gather(cut, bytes, t->n_cols, width, &t->rows, &t->cols);
    bytes = cut;
  }
  if (t->part && t->packed) {
    KA_TRY_GOTO(ka_alloc(ctx, &cut_before, n, "part of a tensor"), out);
    ka_delta_gather(cut_before, before, t->n_cols, width, &t->rows, &t->cols);
    before = cut_before;
  }
  st = t->packed ? ka_delta_pack(ctx, bytes, before, n, width, x->options->level, to_stream, x)
                 : to_stream(x, bytes, n);
  if (before) ka_delta_forget(&x->base, old);
  ka_delta_forget(&x->tuned, e);
out:
  ka_free(cut);
  ka_free(cut_before);
  return st;
}

static ka_status write_tensor(struct export *x, const struct ka_delta_tensor *t) {
  struct ka_ctx *ctx = x->ctx;
  const struct ka_st_entry *e = t->entry;
  size_t width = e->unreadable ? 1 : ka_dtype_bytes(e->t.dtype), before = x->out.at;
  const char *name = NULL;
  KA_TRY(write_bytes(x, t, width));
  KA_TRY(ka_delta_step(ctx, x->options->progress, e->n_bytes));
  int64_t n = (int64_t)(x->out.at - before), part[] = {t->rows.total, t->cols.total};
  KA_TRY(ka_arena_printf(&x->arena, &name, "%s%s", e->name,
                         t->packed ? "#packed"
                         : t->part ? "#part"
                                   : ""));
  if (t->packed || e->unreadable) return ka_st_stream_tensor(ctx, &x->out, name, "U8", 1, &n);
  if (t->part) return ka_st_stream_tensor(ctx, &x->out, name, e->dtype_name, 2, part);
  return ka_st_stream_tensor(ctx, &x->out, name, e->dtype_name, e->t.n_dim, e->t.shape);
}

/* Wide dtypes first, so that every tensor is aligned; packed ones are bytes. */
static ka_status write_tensors(struct export *x) {
  struct ka_ctx *ctx = x->ctx;
  for (size_t width = 8; width > 0; width /= 2)
    for (int64_t i = 0; i < x->n_changed; i++) {
      const struct ka_delta_tensor *t = &x->changed[i];
      size_t own = t->packed || t->entry->unreadable ? 1 : ka_dtype_bytes(t->entry->t.dtype);
      if (own == width) KA_TRY(write_tensor(x, t));
    }
  return KA_STATUS_OK;
}

static ka_status write_u8(struct export *x, const char *name, const void *bytes, size_t n) {
  struct ka_ctx *ctx = x->ctx;
  int64_t shape = (int64_t)n;
  KA_TRY(ka_st_stream_write(ctx, &x->out, bytes, n));
  return ka_st_stream_tensor(ctx, &x->out, name, "U8", 1, &shape);
}

/* Larger files than this are left to the base where it has them. Smaller ones are stored anyway: a
 * corrected README of the base must not keep the model from being restored. */
enum { SMALL_FILE = 64 << 10 };

/* Is this file left to the base? */
static ka_status in_base(struct export *x, const char *name, const struct ka_map *map, bool *same) {
  struct ka_ctx *ctx = x->ctx;
  const char *path = NULL;
  struct ka_map old;
  *same = false;
  if (map->len <= SMALL_FILE) return KA_STATUS_OK;
  KA_TRY(ka_path_join(&x->arena, &path, x->base_dir, name));
  if (!ka_path_exists(path) || ka_path_is_dir(path)) return KA_STATUS_OK;
  KA_TRY(ka_map_file(ctx, path, &old));
  *same = old.len == map->len && memcmp(old.data, map->data, map->len) == 0;
  ka_map_drop(&old);
  return KA_STATUS_OK;
}

static ka_status write_file(struct export *x, const char *name, json_t *rows) {
  struct ka_ctx *ctx = x->ctx;
  const struct ka_st_shard *shard = NULL;
  const char *path = NULL, *payload = NULL;
  char hex[KA_HASH_TEXT];
  struct ka_map map;
  bool same = false;
  for (int64_t s = 0; s < x->tuned.n_shards; s++)
    if (strcmp(name, x->tuned.shards[s].file_name) == 0) shard = &x->tuned.shards[s];
  KA_TRY(ka_path_join(&x->arena, &path, x->tuned_dir, name));
  KA_TRY(ka_arena_printf(&x->arena, &payload, KA_DELTA_FILE_PREFIX "%s", name));
  KA_TRY(ka_map_file(ctx, path, &map));
  ka_status st = ka_delta_hash_map(ctx, &map, hex, x->options->progress);
  if (ka_ok(st) && !shard) st = in_base(x, name, &map, &same);
  if (ka_ok(st) && shard)
    st = write_u8(x, payload, map.data + 8, shard->data_offset_bytes - 8);
  else if (ka_ok(st) && !same)
    st = write_u8(x, payload, map.data, map.len);
  if (ka_ok(st))
    st = ka_json_append(x->ctx, rows,
                        json_pack("{s:s, s:I, s:s, s:s}", "name", name, "bytes",
                                  (json_int_t)map.len, "hash", hex, "from",
                                  shard  ? "tensors"
                                  : same ? "base"
                                         : "delta"));
  ka_map_drop(&map);
  return st;
}

static ka_status begin(struct export *x, const char *path) {
  const char *metadata[] = {"kappa_delta",      "1",           "base", x->base_dir,
                            "base_fingerprint", x->fingerprint};
  size_t room = 1024 + 6 * strlen(x->base_dir);
  for (int64_t i = 0; i < x->n_changed; i++) room += 300 + 6 * strlen(x->changed[i].entry->name);
  for (int64_t i = 0; i < x->n_files; i++) room += 200 + 6 * strlen(x->files[i]);
  return ka_st_stream_begin(x->ctx, &x->out, path, room, metadata, 3);
}

static ka_status write_all(struct export *x, const char *path) {
  struct ka_ctx *ctx = x->ctx;
  json_t *rows = json_array();
  struct ka_str text = {0};
  KA_TRY(ka_json_set(x->ctx, x->manifest, "files", rows));
  KA_TRY(begin(x, path));
  KA_TRY(write_tensors(x));
  for (int64_t i = 0; i < x->n_files; i++) KA_TRY(write_file(x, x->files[i], rows));
  ka_status st = ka_json_dump_line(ctx, x->manifest, &text);
  if (ka_ok(st)) st = write_u8(x, KA_DELTA_MANIFEST, text.data, text.len);
  if (ka_ok(st)) st = ka_st_stream_commit(ctx, &x->out);
  ka_str_deinit(&text);
  return st;
}

static void count_bytes(struct export *x) {
  struct ka_delta_progress *p = x->options->progress;
  if (!p) return;
  p->total_bytes = 0;
  for (int64_t i = 0; i < x->base.n_entries; i++) p->total_bytes += x->base.entries[i].n_bytes;
  for (int64_t i = 0; i < x->tuned.n_shards; i++) p->total_bytes += 3 * x->tuned.shards[i].n_bytes;
}

static ka_status export_all(struct export *x, const char *path) {
  struct ka_ctx *ctx = x->ctx;
  if (!ka_ends_with(path, ".safetensors"))
    return ka_fail(ctx, KA_E_USAGE, "%s: a delta is a safetensors file: call it NAME.safetensors",
                   path);
  if (x->options->pack) KA_TRY(ka_delta_pack_check(ctx, "--pack"));
  if (!ka_path_is_dir(x->tuned_dir))
    return ka_fail(ctx, KA_E_INPUT, "%s: not a directory; a delta is made of a model directory",
                   x->tuned_dir);
  KA_TRY(check_utf8(ctx, x->base_dir));
  KA_TRY(ka_st_open(ctx, &x->base, x->base_dir));
  KA_TRY(ka_st_open(ctx, &x->tuned, x->tuned_dir));
  count_bytes(x);
  x->manifest = json_object();
  KA_TRY(hash_base(x));
  KA_TRY(compare(x));
  KA_TRY(list_files(x));
  return write_all(x, path);
}

ka_status ka_delta_export(struct ka_ctx *ctx, const char *base_dir, const char *tuned_dir,
                          const char *path, const struct ka_delta_options *options) {
  struct export x = {.ctx = ctx, .base_dir = base_dir, .tuned_dir = tuned_dir, .options = options};
  ka_arena_init(&x.arena, ctx, "delta export");
  ka_status st = export_all(&x, path);
  ka_st_stream_abort(&x.out);
  json_decref(x.manifest);
  ka_st_close(&x.tuned);
  ka_st_close(&x.base);
  ka_arena_deinit(&x.arena);
  return st;
}
