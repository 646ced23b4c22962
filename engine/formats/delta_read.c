/* SPDX-License-Identifier: Apache-2.0
 * Opening and checking a delta, and what it gives back; see delta.h. A delta comes from elsewhere:
 * names, sizes, ranges and packed sizes are checked before any memory is asked for. */
#include "base/log.h"
#include "engine/formats/delta_pack.h"
#include "engine/formats/delta_parts.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char *metadata(const struct ka_safetensors *st, const char *key) {
  for (int64_t s = 0; s < st->n_shards; s++)
    for (int64_t i = 0; i < st->shards[s].n_metadata; i++)
      if (strcmp(st->shards[s].metadata[2 * i], key) == 0) return st->shards[s].metadata[2 * i + 1];
  return NULL;
}

bool ka_delta_is(const struct ka_safetensors *st) { return metadata(st, "kappa_delta") != NULL; }

static ka_status bad(struct ka_ctx *ctx, const struct ka_delta *d, const char *where,
                     const char *what) {
  return ka_fail(ctx, KA_E_INPUT, "%s: %s: %s", d->path, where, what);
}

/* A member of the manifest, of the wanted type. */
static ka_status member(struct ka_ctx *ctx, const struct ka_delta *d, const json_t *obj,
                        const char *where, const char *key, json_type type, const json_t **out) {
  *out = json_object_get(obj, key);
  if (*out && json_typeof(*out) == type) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_INPUT, "%s: %s: %s: \"%s\" is missing or of the wrong type", d->path,
                 KA_DELTA_MANIFEST, where, key);
}

static ka_status text_member(struct ka_ctx *ctx, const struct ka_delta *d, const json_t *obj,
                             const char *where, const char *key, const char **out) {
  const json_t *v = NULL;
  KA_TRY(member(ctx, d, obj, where, key, JSON_STRING, &v));
  *out = json_string_value(v);
  if (strlen(*out) == json_string_length(v)) return KA_STATUS_OK;
  return bad(ctx, d, where, "a text with a NUL in it");
}

static ka_status payload_of(struct ka_ctx *ctx, struct ka_delta *d, const char *name,
                            const char *suffix, const struct ka_st_entry **out) {
  const char *full = NULL;
  KA_TRY(ka_arena_printf(&d->arena, &full, "%s%s", name, suffix));
  *out = ka_st_find(&d->file, full);
  return *out ? KA_STATUS_OK : bad(ctx, d, full, "the delta has no such tensor");
}

static ka_status read_manifest(struct ka_ctx *ctx, struct ka_delta *d) {
  const struct ka_st_entry *e = NULL;
  const json_t *base = NULL;
  char fingerprint[KA_HASH_TEXT];
  const char *version = metadata(&d->file, "kappa_delta");
  if (!version) return bad(ctx, d, "__metadata__", "not a delta of kappa: no kappa_delta");
  if (strcmp(version, "1") != 0)
    return ka_fail(ctx, KA_E_INPUT, "%s: kappa_delta: got version \"%.40s\", this kappa reads 1",
                   d->path, version);
  KA_TRY(payload_of(ctx, d, KA_DELTA_MANIFEST, "", &e));
  const char *what;
  KA_TRY(ka_arena_printf(&d->arena, &what, "%s: %s", d->path, KA_DELTA_MANIFEST));
  KA_TRY(ka_json_parse(ctx, (const char *)ka_delta_bytes(&d->file, e), e->n_bytes, what, &d->root));
  KA_TRY(member(ctx, d, d->root, "base", "base", JSON_OBJECT, &base));
  KA_TRY(text_member(ctx, d, base, "base", "path", &d->base));
  KA_TRY(text_member(ctx, d, base, "base", "fingerprint", &d->fingerprint));
  KA_TRY(member(ctx, d, base, "base", "tensors", JSON_OBJECT, &d->base_hashes));
  const char *name;
  json_t *v;
  json_object_foreach((json_t *)(uintptr_t)d->base_hashes, name,
                      v) if (json_string_length(v) !=
                             KA_HASH_TEXT - 1) return bad(ctx, d, name,
                                                          "base: expected a hash of 32 digits");
  KA_TRY(ka_delta_fingerprint(ctx, d->base_hashes, fingerprint));
  if (strcmp(fingerprint, d->fingerprint) != 0)
    return bad(ctx, d, "base", "the fingerprint is not that of the hashes; the file is damaged");
  return KA_STATUS_OK;
}

static bool plain_name(const char *name) {
  return *name && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && !strpbrk(name, "/\\") &&
         strlen(name) < 256;
}

static ka_status read_file(struct ka_ctx *ctx, struct ka_delta *d, const json_t *row,
                           struct ka_delta_file *f) {
  static const char *const from[] = {"base", "delta", "tensors"};
  const json_t *bytes = NULL;
  const char *word = NULL;
  KA_TRY(text_member(ctx, d, row, "files", "name", &f->name));
  if (!plain_name(f->name))
    return ka_fail(ctx, KA_E_INPUT, "%s: files: \"%.300s\" is not a plain file name", d->path,
                   f->name);
  for (const struct ka_delta_file *g = d->files; g < f; g++)
    if (strcmp(g->name, f->name) == 0) return bad(ctx, d, f->name, "the file is there twice");
  KA_TRY(text_member(ctx, d, row, f->name, "hash", &f->hash));
  KA_TRY(text_member(ctx, d, row, f->name, "from", &word));
  KA_TRY(member(ctx, d, row, f->name, "bytes", JSON_INTEGER, &bytes));
  if (json_integer_value(bytes) < 0) return bad(ctx, d, f->name, "bytes: below 0");
  f->n_bytes = (size_t)json_integer_value(bytes);
  int i = 0;
  while (i < 3 && strcmp(word, from[i]) != 0) i++;
  if (i == 3) return bad(ctx, d, f->name, "from: expected base, delta or tensors");
  f->from = (enum ka_delta_from)i;
  if (f->from == KA_DELTA_BASE) return KA_STATUS_OK;
  const char *payload = NULL;
  KA_TRY(ka_arena_printf(&d->arena, &payload, KA_DELTA_FILE_PREFIX "%s", f->name));
  KA_TRY(payload_of(ctx, d, payload, "", &f->payload));
  if (f->from == KA_DELTA_STORED && f->payload->n_bytes != f->n_bytes)
    return bad(ctx, d, f->name, "bytes: not what is stored");
  return KA_STATUS_OK;
}

static ka_status read_files(struct ka_ctx *ctx, struct ka_delta *d) {
  const json_t *rows = NULL;
  KA_TRY(member(ctx, d, d->root, "files", "files", JSON_ARRAY, &rows));
  int64_t n = (int64_t)json_array_size(rows), n_headers = 0;
  if (n > 10000) return bad(ctx, d, "files", "more than 10000");
  KA_TRY(KA_NEW(&d->arena, &d->files, n, "files"));
  struct ka_st_header *headers;
  KA_TRY(KA_NEW(&d->arena, &headers, n, "headers"));
  for (; d->n_files < n; d->n_files++) {
    struct ka_delta_file *f = &d->files[d->n_files];
    KA_TRY(read_file(ctx, d, json_array_get(rows, (size_t)d->n_files), f));
    if (f->from != KA_DELTA_TENSORS) continue;
    f->shard = (int)n_headers;
    headers[n_headers++] =
        (struct ka_st_header){.file_name = f->name,
                              .text = (const char *)ka_delta_bytes(&d->file, f->payload),
                              .n_bytes = f->payload->n_bytes,
                              .file_bytes = f->n_bytes};
  }
  return ka_st_open_headers(ctx, &d->layout, d->path, headers, n_headers);
}

/* Flat [a, b, c, d, ...]: ascending, each range inside [0, limit) and not touching the one before.
 */
static ka_status read_ranges(struct ka_ctx *ctx, struct ka_delta *d, const json_t *row,
                             const char *where, const char *key, int64_t limit,
                             struct ka_delta_ranges *out) {
  const json_t *list = NULL;
  KA_TRY(member(ctx, d, row, where, key, JSON_ARRAY, &list));
  size_t n = json_array_size(list);
  int64_t *at;
  KA_TRY(KA_NEW(&d->arena, &at, (int64_t)n, "ranges"));
  bool good = n > 0 && n % 2 == 0;
  for (size_t i = 0; i < n && good; i++) {
    const json_t *v = json_array_get(list, i);
    at[i] = json_integer_value(v);
    good = json_is_integer(v) && at[i] >= 0 && at[i] <= limit && (i == 0 || at[i] > at[i - 1]);
    if (i % 2 == 1) out->total += at[i] - at[i - 1];
  }
  out->n = (int64_t)n / 2;
  out->at = at;
  if (good) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_INPUT,
                 "%s: %s: %s: expected ascending ranges [a, b, c, d, ...] that do not overlap, in "
                 "[0, %" PRId64 "]",
                 d->path, where, key, limit);
}

static size_t width_of(const struct ka_delta_tensor *t) {
  return t->entry->unreadable ? 1 : ka_dtype_bytes(t->entry->t.dtype);
}

/* Bytes of what is stored, unpacked. */
static size_t stored_bytes(const struct ka_delta_tensor *t) {
  return t->part ? (size_t)(t->rows.total * t->cols.total) * width_of(t) : t->entry->n_bytes;
}

static ka_status read_tensor(struct ka_ctx *ctx, struct ka_delta *d, const json_t *row,
                             struct ka_delta_tensor *t) {
  const char *name = NULL;
  KA_TRY(text_member(ctx, d, row, "tensors", "name", &name));
  t->entry = ka_st_find(&d->layout, name);
  if (!t->entry) return bad(ctx, d, name, "tensors: no header has a tensor of this name");
  t->part = json_object_get(row, "rows") != NULL;
  t->packed = json_is_true(json_object_get(row, "packed"));
  KA_TRY(payload_of(ctx, d, name, t->packed ? "#packed" : t->part ? "#part" : "", &t->payload));
  ka_delta_matrix(t->entry, &t->n_rows, &t->n_cols);
  if (t->part && t->entry->unreadable)
    return bad(ctx, d, name, "part of a tensor whose dtype kappa does not read");
  if (t->part) {
    KA_TRY(read_ranges(ctx, d, row, name, "rows", t->n_rows, &t->rows));
    KA_TRY(read_ranges(ctx, d, row, name, "cols", t->n_cols, &t->cols));
  }
  if (t->packed)
    return ka_delta_unpack_check(ctx, t->payload->name, stored_bytes(t),
                                 ka_delta_bytes(&d->file, t->payload), t->payload->n_bytes);
  if (t->payload->n_bytes != stored_bytes(t))
    return ka_fail(ctx, KA_E_INPUT, "%s: %s: has %zu bytes, its header asks for %zu", d->path,
                   t->payload->name, t->payload->n_bytes, stored_bytes(t));
  return KA_STATUS_OK;
}

static ka_status read_tensors(struct ka_ctx *ctx, struct ka_delta *d) {
  const json_t *rows = NULL;
  KA_TRY(member(ctx, d, d->root, "tensors", "tensors", JSON_ARRAY, &rows));
  int64_t n = (int64_t)json_array_size(rows);
  KA_TRY(KA_NEW(&d->arena, &d->tensors, n, "changed tensors"));
  for (; d->n_tensors < n; d->n_tensors++) {
    struct ka_delta_tensor *t = &d->tensors[d->n_tensors];
    KA_TRY(read_tensor(ctx, d, json_array_get(rows, (size_t)d->n_tensors), t));
    if (d->n_tensors > 0 && strcmp(t[-1].entry->name, t->entry->name) >= 0)
      return bad(ctx, d, t->entry->name, "tensors: not in ascending order of names");
  }
  for (int64_t i = 0; i < d->layout.n_entries; i++) {
    const char *name = d->layout.entries[i].name;
    if (!ka_delta_find(d, name) && !json_object_get(d->base_hashes, name))
      return bad(ctx, d, name, "neither the base nor the delta has this tensor");
  }
  return KA_STATUS_OK;
}

static ka_status read_all(struct ka_ctx *ctx, struct ka_delta *d) {
  if (d->file.n_shards != 1) return bad(ctx, d, "file", "expected one safetensors file");
  KA_TRY(read_manifest(ctx, d));
  KA_TRY(read_files(ctx, d));
  return read_tensors(ctx, d);
}

ka_status ka_delta_open(struct ka_ctx *ctx, struct ka_delta *d, const char *path) {
  *d = (struct ka_delta){0};
  ka_arena_init(&d->arena, ctx, "delta");
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_arena_str(&d->arena, &d->path, path, strlen(path)), out);
  KA_TRY_GOTO(ka_st_open(ctx, &d->file, path), out);
  KA_TRY_GOTO(read_all(ctx, d), out);
out:
  if (!ka_ok(st)) ka_delta_close(d);
  return st;
}

void ka_delta_close(struct ka_delta *d) {
  json_decref(d->root);
  ka_st_close(&d->layout);
  ka_st_close(&d->file);
  ka_arena_deinit(&d->arena);
  *d = (struct ka_delta){0};
}

static int by_name(const void *key, const void *t) {
  return strcmp(key, ((const struct ka_delta_tensor *)t)->entry->name);
}

const struct ka_delta_tensor *ka_delta_find(const struct ka_delta *d, const char *name) {
  if (d->n_tensors == 0) return NULL;
  return bsearch(name, d->tensors, (size_t)d->n_tensors, sizeof *d->tensors, by_name);
}

static ka_status wrong_base(struct ka_ctx *ctx, const struct ka_delta *d,
                            const struct ka_safetensors *base, const char *name, const char *how,
                            int64_t n) {
  return ka_fail(ctx, KA_E_INPUT,
                 "%s: not the base of %s, which was made from \"%s\": tensor \"%s\" %s (%" PRId64
                 " of %" PRId64 " differ)",
                 base->path, d->path, d->base, name, how, n, base->n_entries);
}

ka_status ka_delta_check_base(struct ka_ctx *ctx, const struct ka_delta *d,
                              const struct ka_safetensors *base,
                              struct ka_delta_progress *progress) {
  void *memory = NULL;
  const char *first = NULL, *how = NULL, *name;
  int64_t n_wrong = 0;
  json_t *v;
  KA_TRY(ka_alloc_n(ctx, &memory, base->n_entries, KA_HASH_TEXT, "hashes"));
  char(*hex)[KA_HASH_TEXT] = memory;
  ka_status st = ka_delta_hash_tensors(ctx, base, hex, progress);
  if (!ka_ok(st)) goto out;
  for (int64_t i = 0; i < base->n_entries; i++) {
    v = json_object_get(d->base_hashes, base->entries[i].name);
    if (v && strcmp(json_string_value(v), hex[i]) == 0) continue;
    if (n_wrong++ > 0) continue;
    first = base->entries[i].name;
    how = v ? "differs" : "is not in that one";
  }
  json_object_foreach((json_t *)(uintptr_t)d->base_hashes, name, v) {
    if (ka_st_find(base, name)) continue;
    if (n_wrong++ > 0) continue;
    first = name;
    how = "is missing";
  }
  if (n_wrong > 0) st = wrong_base(ctx, d, base, first, how, n_wrong);
  for (int64_t i = 0; i < d->layout.n_entries && ka_ok(st); i++) {
    const struct ka_st_entry *e = &d->layout.entries[i], *old = ka_st_find(base, e->name);
    const struct ka_delta_tensor *t = ka_delta_find(d, e->name);
    if ((!t || t->part) && !(old && ka_delta_same_kind(old, e)))
      st = bad(ctx, d, e->name, "the header asks for another dtype or shape than the base's");
  }
out:
  ka_free(memory);
  return st;
}

ka_status ka_delta_check_file(struct ka_ctx *ctx, const struct ka_delta *d,
                              const struct ka_delta_file *f, const char *base_dir) {
  struct ka_arena a;
  struct ka_map map;
  const char *path = NULL;
  char hex[KA_HASH_TEXT];
  ka_arena_init(&a, ctx, "base file");
  ka_status st = ka_path_join(&a, &path, base_dir, f->name);
  if (ka_ok(st)) st = ka_map_file(ctx, path, &map);
  if (ka_ok(st)) {
    st = ka_delta_hash_map(ctx, &map, hex, NULL);
    ka_map_drop(&map);
  }
  if (ka_ok(st) && strcmp(hex, f->hash) != 0)
    st = ka_fail(ctx, KA_E_INPUT, "%s: not the file that %s was made from", path, d->path);
  ka_arena_deinit(&a);
  return st;
}
