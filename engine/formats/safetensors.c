/* SPDX-License-Identifier: Apache-2.0
 * Reading: every file is mapped and its whole header checked before any tensor is handed out.
 *
 *   | N: u64 LE | header: N bytes of JSON | data: tensors back to back, no hole, to the end |
 *
 * The checks are those of the format's own parser (lib.rs, SafeTensors::read_metadata), plus
 * duplicates, which it lets pass. Does not write; see safetensors_write.c. */
#include "engine/formats/safetensors.h"

#include "base/json.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_HEADER_BYTES = 100000000 };

static const struct {
  const char *name;
  unsigned bits;
} file_dtypes[] = {{"F32", 32},      {"BF16", 16},       {"F16", 16},       {"F64", 64},
                   {"I64", 64},      {"I32", 32},        {"I16", 16},       {"I8", 8},
                   {"U64", 64},      {"U32", 32},        {"U16", 16},       {"U8", 8},
                   {"BOOL", 8},      {"F8_E4M3", 8},     {"F8_E5M2", 8},    {"F8_E8M0", 8},
                   {"F6_E2M3", 6},   {"F6_E3M2", 6},     {"F4", 4},         {"C64", 64},
                   {"F8_E4M3FN", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}};

/* What grows while files are parsed; the result is copied into the arena at the end. */
struct reader {
  struct ka_ctx *ctx;
  struct ka_safetensors *st;
  struct ka_st_entry *entries;
  int64_t n, cap;
};

static ka_status bad_tensor(struct reader *r, int shard, const char *name, const char *what) {
  return ka_fail(r->ctx, KA_E_INPUT, "%s: tensor \"%s\": %s", r->st->shards[shard].path, name,
                 what);
}

static ka_status parse_offsets(struct reader *r, int shard, const char *name, const json_t *info,
                               uint64_t begin_end[2]) {
  const json_t *v = json_object_get(info, "data_offsets");
  if (!json_is_array(v) || json_array_size(v) != 2)
    return bad_tensor(r, shard, name, "data_offsets: expected [begin, end]");
  for (size_t i = 0; i < 2; i++) {
    const json_t *e = json_array_get(v, i);
    if (!json_is_integer(e) || json_integer_value(e) < 0)
      return bad_tensor(r, shard, name, "data_offsets: expected two integers, none below 0");
    begin_end[i] = (uint64_t)json_integer_value(e);
  }
  if (begin_end[1] < begin_end[0])
    return bad_tensor(r, shard, name, "data_offsets: the end stands before the begin");
  return KA_STATUS_OK;
}

/* Fills shape and returns the number of elements, overflow-checked. */
static ka_status parse_shape(struct reader *r, int shard, const json_t *info, struct ka_st_entry *e,
                             int64_t *n_elems) {
  const json_t *v = json_object_get(info, "shape");
  if (!json_is_array(v)) return bad_tensor(r, shard, e->name, "shape: expected a list");
  size_t n_dim = json_array_size(v);
  *n_elems = 1;
  for (size_t i = 0; i < n_dim; i++) {
    const json_t *d = json_array_get(v, i);
    if (!json_is_integer(d) || json_integer_value(d) < 0)
      return bad_tensor(r, shard, e->name, "shape: expected integers, none below 0");
    if (__builtin_mul_overflow(*n_elems, (int64_t)json_integer_value(d), n_elems))
      return bad_tensor(r, shard, e->name, "shape: the number of elements overflows");
    if (i < KA_MAX_DIM) e->t.shape[i] = json_integer_value(d);
  }
  e->t.n_dim = (int)(n_dim < KA_MAX_DIM ? n_dim : KA_MAX_DIM);
  e->t.row_stride = e->t.n_dim > 0 ? e->t.shape[e->t.n_dim - 1] : 1;
  if (n_dim > KA_MAX_DIM) e->unreadable = "it has more than 6 dimensions";
  return KA_STATUS_OK;
}

static ka_status parse_dtype(struct reader *r, int shard, const json_t *info, struct ka_st_entry *e,
                             unsigned *bits) {
  struct ka_ctx *ctx = r->ctx;
  const json_t *v = json_object_get(info, "dtype");
  if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v))
    return bad_tensor(r, shard, e->name, "dtype: expected a string");
  const char *name = json_string_value(v);
  KA_TRY(ka_arena_str(&r->st->arena, &e->dtype_name, name, strlen(name)));
  *bits = 0;
  for (size_t i = 0; i < sizeof file_dtypes / sizeof *file_dtypes; i++)
    if (strcmp(name, file_dtypes[i].name) == 0) *bits = file_dtypes[i].bits;
  if (strcmp(name, "BOOL") == 0) name = "U8";
  for (int i = 0; i < KA_N_DTYPES; i++)
    if (strcmp(name, ka_dtype_name((enum ka_dtype)i)) == 0) {
      e->t.dtype = (enum ka_dtype)i;
      return KA_STATUS_OK;
    }
  if (e->unreadable) return KA_STATUS_OK;
  return ka_arena_printf(&r->st->arena, &e->unreadable, "kappa does not read dtype %s", name);
}

static ka_status parse_tensor(struct reader *r, int shard, const char *name, const json_t *info) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_st_shard *s = &r->st->shards[shard];
  struct ka_st_entry e = {.shard = shard};
  uint64_t at[2];
  int64_t n_elems = 0;
  unsigned bits = 0;
  KA_TRY(ka_arena_str(&r->st->arena, &e.name, name, strlen(name)));
  if (!json_is_object(info)) return bad_tensor(r, shard, name, "expected an object");
  KA_TRY(parse_shape(r, shard, info, &e, &n_elems));
  KA_TRY(parse_dtype(r, shard, info, &e, &bits));
  KA_TRY(parse_offsets(r, shard, name, info, at));
  uint64_t n_bits = 0;
  if (__builtin_mul_overflow((uint64_t)n_elems, (uint64_t)bits, &n_bits))
    return bad_tensor(r, shard, name, "shape: the number of bytes overflows");
  if (bits > 0 && (n_bits % 8 != 0 || n_bits / 8 != at[1] - at[0]))
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: tensor \"%s\": data_offsets hold %" PRIu64
                   " bytes, dtype %s and shape ask for %" PRIu64,
                   s->path, name, at[1] - at[0], e.dtype_name, n_bits / 8);
  uint64_t data_bytes = s->n_bytes - s->data_offset_bytes;
  if (at[1] > data_bytes)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: tensor \"%s\": ends at byte %" PRIu64 " of the data, which has %" PRIu64
                   "; is the file cut off?",
                   s->path, name, at[1], data_bytes);
  e.offset_bytes = s->data_offset_bytes + (size_t)at[0];
  e.n_bytes = (size_t)(at[1] - at[0]);
  void *grown = r->entries;
  KA_TRY(ka_grow(ctx, &grown, &r->cap, r->n + 1, sizeof e, "safetensors entries"));
  r->entries = grown;
  r->entries[r->n++] = e;
  return KA_STATUS_OK;
}

static ka_status parse_metadata(struct reader *r, int shard, json_t *meta) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_st_shard *s = &r->st->shards[shard];
  const char *wrong = "%s: __metadata__: expected an object of strings";
  if (!json_is_object(meta)) return ka_fail(ctx, KA_E_INPUT, wrong, s->path);
  KA_TRY(KA_NEW(&r->st->arena, &s->metadata, 2 * (int64_t)json_object_size(meta), "metadata"));
  const char *key;
  json_t *v;
  json_object_foreach(meta, key, v) {
    if (!json_is_string(v)) return ka_fail(ctx, KA_E_INPUT, wrong, s->path);
    const char **pair = s->metadata + 2 * s->n_metadata++;
    KA_TRY(ka_arena_str(&r->st->arena, &pair[0], key, strlen(key)));
    KA_TRY(ka_arena_str(&r->st->arena, &pair[1], json_string_value(v), json_string_length(v)));
  }
  return KA_STATUS_OK;
}

static int by_offset(const void *a, const void *b) {
  const struct ka_st_entry *x = a, *y = b;
  if (x->offset_bytes != y->offset_bytes) return x->offset_bytes < y->offset_bytes ? -1 : 1;
  if (x->n_bytes != y->n_bytes) return x->n_bytes < y->n_bytes ? -1 : 1;
  return strcmp(x->name, y->name);
}

/* The tensors of one file fill its data part exactly. */
static ka_status check_layout(struct reader *r, int shard, int64_t first) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_st_shard *s = &r->st->shards[shard];
  size_t at = s->data_offset_bytes;
  if (r->n > first)
    qsort(r->entries + first, (size_t)(r->n - first), sizeof *r->entries, by_offset);
  for (int64_t i = first; i < r->n; i++) {
    const struct ka_st_entry *e = &r->entries[i];
    if (e->offset_bytes != at)
      return ka_fail(ctx, KA_E_INPUT, "%s: tensor \"%s\": starts at byte %zu of the file, %s %zu",
                     s->path, e->name, e->offset_bytes,
                     e->offset_bytes < at ? "inside the tensor before it, which ends at"
                                          : "leaving a hole after the tensor before it, ending at",
                     at);
    at += e->n_bytes;
  }
  if (at != s->n_bytes)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: the tensors end at byte %zu, the file has %zu; it is cut off or has bytes "
                   "that belong to no tensor",
                   s->path, at, s->n_bytes);
  return KA_STATUS_OK;
}

static ka_status parse_members(struct reader *r, int shard, json_t *root) {
  struct ka_ctx *ctx = r->ctx;
  int64_t first = r->n;
  const char *name;
  json_t *v;
  json_object_foreach(root, name, v) {
    if (strcmp(name, "__metadata__") == 0)
      KA_TRY(parse_metadata(r, shard, v));
    else
      KA_TRY(parse_tensor(r, shard, name, v));
  }
  return check_layout(r, shard, first);
}

/* text: the header's n bytes; the shard's n_bytes is known. */
static ka_status parse_header(struct reader *r, int shard, const char *text, size_t n) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_st_shard *s = &r->st->shards[shard];
  s->data_offset_bytes = 8 + n;
  if (n == 0 || text[0] != '{')
    return ka_fail(ctx, KA_E_INPUT, "%s: not a safetensors file: the header does not start with {",
                   s->path);
  json_t *root = NULL;
  const char *what;
  KA_TRY(ka_arena_printf(&r->st->arena, &what, "%s: header", s->path));
  KA_TRY(ka_json_parse(ctx, text, n, what, &root));
  ka_status st = parse_members(r, shard, root);
  json_decref(root);
  return st;
}

/* What people get in place of a file: NULL when it looks like neither. */
static const char *not_the_file(const struct ka_map *m) {
  static const char lfs[] = "version https://git-lfs";
  size_t n = strlen(lfs), i = 0;
  if (m->len >= n && memcmp(m->data, lfs, n) == 0)
    return "a Git LFS pointer, not the weights; run `git lfs pull` there";
  while (i < m->len && i < 64 && strchr(" \t\r\n", m->data[i])) i++;
  if (m->len > i + 8 && (strncasecmp((const char *)m->data + i, "<!doctyp", 8) == 0 ||
                         strncasecmp((const char *)m->data + i, "<html", 5) == 0))
    return "a web page, not the weights; was the download a login or error page?";
  if (m->len > 4 && memcmp(m->data, "PK\003\004", 4) == 0)
    return "a zip archive, as torch.save writes; convert it to safetensors";
  return NULL;
}

static ka_status open_shard(struct reader *r, int shard) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_st_shard *s = &r->st->shards[shard];
  KA_TRY(ka_map_file(ctx, s->path, &s->map));
  s->n_bytes = s->map.len;
  const char *other = not_the_file(&s->map);
  if (other) return ka_fail(ctx, KA_E_INPUT, "%s: %s", s->path, other);
  if (s->map.len < 8)
    return ka_fail(ctx, KA_E_INPUT, "%s: not a safetensors file: %zu bytes, expected at least 8",
                   s->path, s->map.len);
  uint64_t n = 0;
  for (int i = 7; i >= 0; i--) n = n << 8 | s->map.data[i];
  if (memcmp(s->map.data, "version ", 8) == 0)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: a Git LFS pointer, not the weights; run `git lfs pull` there, or download "
                   "it with `hf download`",
                   s->path);
  if (n > MAX_HEADER_BYTES)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: not a safetensors file: header of %" PRIu64 " bytes, the limit is %d",
                   s->path, n, MAX_HEADER_BYTES);
  if (n > s->map.len - 8)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: header of %" PRIu64 " bytes in a file of %zu; is the file cut off?",
                   s->path, n, s->map.len);
  return parse_header(r, shard, (const char *)s->map.data + 8, (size_t)n);
}

static ka_status add_shards(struct ka_ctx *ctx, struct ka_safetensors *st, int64_t n) {
  void *shards;
  KA_TRY(ka_arena_alloc_n(&st->arena, &shards, n, sizeof *st->shards, "shards"));
  if (n > 0) memset(shards, 0, (size_t)n * sizeof *st->shards);
  st->shards = shards;
  st->n_shards = n;
  return KA_STATUS_OK;
}

static ka_status open_single(struct reader *r) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_safetensors *st = r->st;
  KA_TRY(add_shards(ctx, st, 1));
  st->shards[0].path = st->path;
  st->shards[0].file_name = ka_path_base(st->path);
  return open_shard(r, 0);
}

static int by_text(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The distinct file names of a weight map, sorted, become the shards. */
static ka_status list_shards(struct reader *r, json_t *map) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_safetensors *st = r->st;
  void *list;
  KA_TRY(ka_arena_alloc_n(&st->arena, &list, (int64_t)json_object_size(map) + 1,
                          sizeof(const char *), "shard names"));
  const char **names = list, *key, *dir;
  int64_t n = 0, n_distinct = 0;
  json_t *v;
  json_object_foreach(map, key, v) {
    const char *s = json_string_value(v);
    if (!s)
      return ka_fail(ctx, KA_E_INPUT, "%s: weight_map: \"%s\": expected a file name", st->path,
                     key);
    if (!*s || strlen(s) != json_string_length(v) || strpbrk(s, "/\\") || strstr(s, ".."))
      return ka_fail(ctx, KA_E_INPUT,
                     "%s: weight_map: \"%s\": \"%s\" is not a plain file name; shards stand beside "
                     "the index",
                     st->path, key, s);
    names[n++] = s;
  }
  if (n > 1) qsort(names, (size_t)n, sizeof *names, by_text);
  for (int64_t i = 0; i < n; i++)
    if (i == 0 || strcmp(names[i], names[i - 1]) != 0) names[n_distinct++] = names[i];
  KA_TRY(add_shards(ctx, st, n_distinct));
  KA_TRY(ka_path_dir(&st->arena, &dir, st->path));
  for (int64_t i = 0; i < n_distinct; i++) {
    struct ka_st_shard *s = &st->shards[i];
    KA_TRY(ka_arena_str(&st->arena, &s->file_name, names[i], strlen(names[i])));
    KA_TRY(ka_path_join(&st->arena, &s->path, dir, s->file_name));
    if (!ka_path_exists(s->path))
      return ka_fail(ctx, KA_E_INPUT, "%s: shard %s is missing", st->path, s->path);
  }
  return KA_STATUS_OK;
}

static ka_status check_against_index(struct ka_ctx *ctx, const struct ka_safetensors *st,
                                     json_t *map) {
  const char *key;
  json_t *v;
  json_object_foreach(map, key, v) {
    const struct ka_st_entry *e = ka_st_find(st, key);
    const char *listed = json_string_value(v);
    if (!e)
      return ka_fail(ctx, KA_E_INPUT, "%s: tensor \"%s\" is listed but not in its shard %s",
                     st->path, key, listed);
    const char *found = st->shards[e->shard].file_name;
    if (strcmp(found, listed) != 0)
      return ka_fail(ctx, KA_E_INPUT, "%s: tensor \"%s\" is listed in %s but stands in %s",
                     st->path, key, listed, found);
  }
  return KA_STATUS_OK;
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const struct ka_st_entry *)a)->name, ((const struct ka_st_entry *)b)->name);
}

/* Sorts by name, refuses a name that two files hold. */
static ka_status keep_entries(struct reader *r) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_safetensors *st = r->st;
  void *kept;
  if (r->n > 1) qsort(r->entries, (size_t)r->n, sizeof *r->entries, by_name);
  KA_TRY(ka_arena_alloc_n(&st->arena, &kept, r->n, sizeof *r->entries, "safetensors entries"));
  if (r->n > 0) memcpy(kept, r->entries, (size_t)r->n * sizeof *r->entries);
  st->entries = kept;
  st->n_entries = r->n;
  for (int64_t i = 1; i < st->n_entries; i++) {
    struct ka_st_entry *e = &st->entries[i];
    if (strcmp(e->name, e[-1].name) == 0)
      return ka_fail(ctx, KA_E_INPUT, "tensor \"%s\" stands in %s and in %s", e->name,
                     ka_st_path_of(st, &e[-1]), ka_st_path_of(st, e));
  }
  return KA_STATUS_OK;
}

static ka_status finish(struct reader *r) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_safetensors *st = r->st;
  size_t copied_bytes = 0;
  KA_TRY(keep_entries(r));
  for (int64_t i = 0; i < st->n_entries; i++) {
    struct ka_st_entry *e = &st->entries[i];
    if (e->unreadable) continue;
    const unsigned char *data = st->shards[e->shard].map.data + e->offset_bytes;
    e->t.data = (void *)(uintptr_t)data;
    if ((uintptr_t)data % ka_dtype_bytes(e->t.dtype) == 0) continue;
    KA_TRY(ka_arena_alloc(&st->arena, &e->t.data, e->n_bytes, "unaligned tensors"));
    memcpy(e->t.data, data, e->n_bytes);
    copied_bytes += e->n_bytes;
  }
  char buf[32];
  if (copied_bytes > (size_t)64 << 20)
    ka_warn(ctx, "safetensors", "%s: unaligned tensors, %s copied into memory", st->path,
            ka_fmt_bytes((double)copied_bytes, buf));
  return KA_STATUS_OK;
}

static ka_status open_index(struct reader *r) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_safetensors *st = r->st;
  json_t *root = NULL;
  st->index_path = st->path;
  ka_status rc = KA_STATUS_OK;
  KA_TRY(ka_json_load(ctx, st->path, &root));
  json_t *map = json_object_get(root, "weight_map");
  if (!json_is_object(map)) {
    rc = ka_fail(ctx, KA_E_INPUT, "%s: expected an object with a \"weight_map\" of file names",
                 st->path);
    goto out;
  }
  rc = list_shards(r, map);
  for (int64_t i = 0; i < st->n_shards && rc.code == KA_OK; i++) rc = open_shard(r, (int)i);
  if (rc.code == KA_OK) rc = finish(r);
  if (rc.code == KA_OK) rc = check_against_index(ctx, st, map);
out:
  json_decref(root);
  return rc;
}

/* A directory holds model.safetensors, or else an index; the order is transformers'. */
static ka_status find_in_dir(struct ka_ctx *ctx, struct ka_safetensors *st, const char *dir) {
  static const char *const names[] = {"model.safetensors", "model.safetensors.index.json"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    KA_TRY(ka_path_join(&st->arena, &st->path, dir, names[i]));
    if (ka_path_exists(st->path)) return KA_STATUS_OK;
  }
  const char *bin;
  KA_TRY(ka_path_join(&st->arena, &bin, dir, "pytorch_model.bin"));
  return ka_fail(ctx, KA_E_INPUT,
                 "%s: no weights: neither model.safetensors nor model.safetensors.index.json%s",
                 dir,
                 ka_path_exists(bin) ? "; convert pytorch_model.bin to safetensors first" : "");
}

ka_status ka_st_open(struct ka_ctx *ctx, struct ka_safetensors *st, const char *path) {
  *st = (struct ka_safetensors){0};
  ka_arena_init(&st->arena, ctx, "safetensors");
  struct reader r = {ctx, st};
  ka_status rc;
  if (ka_path_is_dir(path))
    rc = find_in_dir(ctx, st, path);
  else
    rc = ka_arena_str(&st->arena, &st->path, path, strlen(path));
  if (rc.code == KA_OK && ka_ends_with(st->path, ".json")) {
    rc = open_index(&r);
  } else if (rc.code == KA_OK) {
    rc = open_single(&r);
    if (rc.code == KA_OK) rc = finish(&r);
  }
  ka_free(r.entries);
  if (rc.code != KA_OK) ka_st_close(st);
  return rc;
}

static ka_status read_headers(struct reader *r, const struct ka_st_header *h, int64_t n) {
  struct ka_ctx *ctx = r->ctx;
  KA_TRY(add_shards(ctx, r->st, n));
  for (int64_t i = 0; i < n; i++) {
    struct ka_st_shard *s = &r->st->shards[i];
    s->file_name = h[i].file_name;
    KA_TRY(ka_arena_printf(&r->st->arena, &s->path, "%s: %s", r->st->path, s->file_name));
    s->n_bytes = h[i].file_bytes;
    if (h[i].n_bytes > MAX_HEADER_BYTES || s->n_bytes < 8 || h[i].n_bytes > s->n_bytes - 8)
      return ka_fail(ctx, KA_E_INPUT, "%s: header of %zu bytes in a file of %zu", s->path,
                     h[i].n_bytes, s->n_bytes);
    KA_TRY(parse_header(r, (int)i, h[i].text, h[i].n_bytes));
  }
  return keep_entries(r);
}

ka_status ka_st_open_headers(struct ka_ctx *ctx, struct ka_safetensors *st, const char *what,
                             const struct ka_st_header *headers, int64_t n) {
  *st = (struct ka_safetensors){.path = what};
  ka_arena_init(&st->arena, ctx, "safetensors");
  struct reader r = {ctx, st};
  ka_status rc = read_headers(&r, headers, n);
  ka_free(r.entries);
  if (rc.code != KA_OK) ka_st_close(st);
  return rc;
}

void ka_st_close(struct ka_safetensors *st) {
  for (int64_t i = 0; i < st->n_shards; i++) ka_map_drop(&st->shards[i].map);
  ka_arena_deinit(&st->arena);
  *st = (struct ka_safetensors){0};
}

const struct ka_st_entry *ka_st_find(const struct ka_safetensors *st, const char *name) {
  struct ka_st_entry key = {.name = name};
  if (st->n_entries == 0) return NULL;
  return bsearch(&key, st->entries, (size_t)st->n_entries, sizeof key, by_name);
}

const char *ka_st_path_of(const struct ka_safetensors *st, const struct ka_st_entry *e) {
  return st->shards[e->shard].path;
}

static ka_status missing(struct ka_ctx *ctx, const struct ka_safetensors *st, const char *name) {
  void *list = NULL;
  const char *near = NULL;
  if (st->n_entries < 100000 &&
      ka_ok(ka_alloc_n(ctx, &list, st->n_entries + 1, sizeof(const char *), "names"))) {
    const char **names = list;
    for (int64_t i = 0; i < st->n_entries; i++) names[i] = st->entries[i].name;
    near = ka_nearest(name, names);
  }
  ka_status rc =
      ka_fail(ctx, KA_E_INPUT, "%s: tensor \"%s\" is missing%s%s%s", st->path, name,
              near ? "; the nearest name is \"" : "", near ? near : "", near ? "\"" : "");
  ka_free(list);
  return rc;
}

ka_status ka_st_get(struct ka_ctx *ctx, const struct ka_safetensors *st, const char *name,
                    struct ka_tensor *out) {
  const struct ka_st_entry *e = ka_st_find(st, name);
  if (!e) return missing(ctx, st, name);
  if (e->unreadable)
    return ka_fail(ctx, KA_E_INPUT, "%s: tensor \"%s\" (dtype %s): %s", ka_st_path_of(st, e), name,
                   e->dtype_name, e->unreadable);
  *out = e->t;
  return KA_STATUS_OK;
}

ka_status ka_st_adopt(struct ka_ctx *ctx, struct ka_safetensors *st, struct ka_safetensors *own) {
  void *memory = NULL;
  const char *path = NULL;
  int64_t n = st->n_shards;
  KA_NEVER(ctx, own->n_shards != 1);
  KA_TRY(ka_arena_alloc_n(&st->arena, &memory, n + 2, sizeof *st->shards, "shards"));
  KA_TRY(ka_arena_str(&st->arena, &path, own->path, strlen(own->path)));
  struct ka_st_shard *shards = memory, *from = &own->shards[0];
  if (n > 0) memcpy(shards, st->shards, (size_t)n * sizeof *shards);
  for (int64_t i = n; i < n + 2; i++)
    shards[i] = (struct ka_st_shard){.path = path, .file_name = ka_path_base(path)};
  shards[n].map = from->map;
  shards[n].n_bytes = from->n_bytes;
  from->map = (struct ka_map){0};
  st->shards = shards;
  st->n_shards = n + 2;
  st->path = path;
  st->index_path = NULL;
  return KA_STATUS_OK;
}
