/* SPDX-License-Identifier: Apache-2.0
 * Writing safetensors: new files, whole or tensor by tensor, and a base's files with some tensors
 * replaced. Every file is written in one pass through a buffer of fixed size and published by
 * rename. */
#include "base/json.h"
#include "engine/formats/safetensors.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_ELEMS = 1 << 17, BUF_BYTES = 16 * CHUNK_ELEMS, COPY_BYTES = 4 << 20 };

/* n elements from `data` on, in dtype `to`, through `buf` where they are not there already. */
static ka_status write_elems(struct ka_ctx *ctx, struct ka_publish *p, const struct ka_st_out *out,
                             const char *data, int64_t n, enum ka_dtype to, void *buf) {
  enum ka_dtype from = out->t.dtype;
  bool device = out->dev && ka_dev_own_memory(out->dev);
  if (!device && from == to) return ka_publish_write(ctx, p, data, (size_t)n * ka_dtype_bytes(to));
  for (int64_t c = 0; c < n; c += CHUNK_ELEMS) {
    int64_t m = n - c < CHUNK_ELEMS ? n - c : CHUNK_ELEMS;
    const char *at = data + (size_t)c * ka_dtype_bytes(from);
    if (device)
      KA_TRY(ka_dev_get(out->dev, ka_tensor_1d(buf, to, m),
                        ka_tensor_1d((void *)(uintptr_t)at, from, m)));
    else
      ka_convert(buf, to, at, from, m);
    KA_TRY(ka_publish_write(ctx, p, buf, (size_t)m * ka_dtype_bytes(to)));
  }
  return KA_STATUS_OK;
}

/* The same of one that is asked for in pieces: they come into the second half of `buf`. */
static ka_status write_asked(struct ka_ctx *ctx, struct ka_publish *p, const struct ka_st_out *out,
                             enum ka_dtype to, void *buf) {
  int64_t n = ka_tensor_elems(&out->t);
  void *piece = (char *)buf + BUF_BYTES / 2;
  for (int64_t c = 0; c < n; c += CHUNK_ELEMS) {
    int64_t m = n - c < CHUNK_ELEMS ? n - c : CHUNK_ELEMS;
    KA_TRY(out->read(out->user, c, m, piece));
    if (to != out->t.dtype) ka_convert(buf, to, piece, out->t.dtype, m);
    KA_TRY(
        ka_publish_write(ctx, p, to != out->t.dtype ? buf : piece, (size_t)m * ka_dtype_bytes(to)));
  }
  return KA_STATUS_OK;
}

/* Elements of a tensor in row-major order, converted to `to`, through `buf` (BUF_BYTES). */
static ka_status write_tensor(struct ka_ctx *ctx, struct ka_publish *p, const struct ka_st_out *out,
                              enum ka_dtype to, void *buf) {
  if (out->read) return write_asked(ctx, p, out, to, buf);
  const struct ka_tensor *t = &out->t;
  int64_t n = ka_tensor_elems(t), row = t->n_dim > 0 ? t->shape[t->n_dim - 1] : 1;
  int64_t stride = t->row_stride;
  if (ka_tensor_contiguous(t)) row = stride = n;
  for (int64_t at = 0, r = 0; at < n; at += row, r++)
    KA_TRY(write_elems(ctx, p, out,
                       (const char *)t->data + (size_t)(r * stride) * ka_dtype_bytes(t->dtype), row,
                       to, buf));
  return KA_STATUS_OK;
}

static int out_by_name(const void *a, const void *b) {
  return strcmp((*(const struct ka_st_out *const *)a)->name,
                (*(const struct ka_st_out *const *)b)->name);
}

/* Pointers to the tensors, sorted by name; a name given twice is an error. Free with ka_free. */
static ka_status sort_by_name(struct ka_ctx *ctx, const char *path, const struct ka_st_out *tensors,
                              int64_t n, const struct ka_st_out ***out) {
  void *list;
  *out = NULL;
  KA_TRY(ka_alloc_n(ctx, &list, n, sizeof **out, "tensor list"));
  const struct ka_st_out **sorted = list;
  for (int64_t i = 0; i < n; i++) sorted[i] = &tensors[i];
  if (n > 1) qsort(sorted, (size_t)n, sizeof *sorted, out_by_name);
  for (int64_t i = 1; i < n; i++)
    if (strcmp(sorted[i]->name, sorted[i - 1]->name) == 0) {
      ka_status st =
          ka_fail(ctx, KA_E_INPUT, "%s: tensor \"%s\" given twice", path, sorted[i]->name);
      ka_free(list);
      return st;
    }
  *out = sorted;
  return KA_STATUS_OK;
}

/* Widths of the dtypes, widest first: the order of the data. */
static const size_t widths[] = {8, 4, 2, 1};
enum { N_WIDTHS = sizeof widths / sizeof *widths };

/* {"__metadata__":{...}, or { alone; `more` says whether tensors follow. */
static ka_status open_header(struct ka_ctx *ctx, struct ka_str *h, const char *const *metadata,
                             int64_t n_metadata, bool more) {
  KA_TRY(ka_str_puts(ctx, h, n_metadata > 0 ? "{\"__metadata__\":{" : "{"));
  for (int64_t i = 0; i < n_metadata; i++) {
    KA_TRY(ka_json_quote(ctx, h, metadata[2 * i], strlen(metadata[2 * i])));
    KA_TRY(ka_str_puts(ctx, h, ":"));
    KA_TRY(ka_json_quote(ctx, h, metadata[2 * i + 1], strlen(metadata[2 * i + 1])));
    KA_TRY(ka_str_puts(ctx, h, i + 1 < n_metadata ? "," : more ? "}," : "}"));
  }
  return KA_STATUS_OK;
}

static ka_status put_tensor(struct ka_ctx *ctx, struct ka_str *h, const char *name,
                            const char *dtype_name, int n_dim, const int64_t *shape, size_t begin,
                            size_t end) {
  KA_TRY(ka_json_quote(ctx, h, name, strlen(name)));
  KA_TRY(ka_str_printf(ctx, h, ":{\"dtype\":\"%s\",\"shape\":[", dtype_name));
  for (int d = 0; d < n_dim; d++)
    KA_TRY(ka_str_printf(ctx, h, "%s%" PRId64, d ? "," : "", shape[d]));
  return ka_str_printf(ctx, h, "],\"data_offsets\":[%zu,%zu]}", begin, end);
}

static ka_status write_length(struct ka_ctx *ctx, struct ka_publish *p, size_t n) {
  unsigned char length[8];
  for (int i = 0; i < 8; i++) length[i] = (unsigned char)((uint64_t)n >> (8 * i));
  return ka_publish_write(ctx, p, length, sizeof length);
}

static ka_status write_header(struct ka_ctx *ctx, struct ka_str *h, const struct ka_st_out *tensors,
                              int64_t n, const char *const *metadata, int64_t n_metadata) {
  size_t next[N_WIDTHS] = {0}, at = 0;
  for (int w = 0; w < N_WIDTHS; w++) {
    next[w] = at;
    for (int64_t i = 0; i < n; i++)
      if (ka_dtype_bytes(tensors[i].t.dtype) == widths[w]) at += ka_tensor_bytes(&tensors[i].t);
  }
  KA_TRY(open_header(ctx, h, metadata, n_metadata, n > 0));
  for (int64_t i = 0; i < n; i++) {
    const struct ka_tensor *t = &tensors[i].t;
    int w = 0;
    while (widths[w] != ka_dtype_bytes(t->dtype)) w++;
    size_t end = next[w] + ka_tensor_bytes(t);
    KA_TRY(put_tensor(ctx, h, tensors[i].name, ka_dtype_name(t->dtype), t->n_dim, t->shape, next[w],
                      end));
    if (i + 1 < n) KA_TRY(ka_str_puts(ctx, h, ","));
    next[w] = end;
  }
  KA_TRY(ka_str_puts(ctx, h, "}"));
  while (h->len % 8 != 0) KA_TRY(ka_str_puts(ctx, h, " "));
  return KA_STATUS_OK;
}

ka_status ka_st_write(struct ka_ctx *ctx, const char *path, const struct ka_st_out *tensors,
                      int64_t n, const char *const *metadata, int64_t n_metadata) {
  const struct ka_st_out **sorted;
  struct ka_str header = {0};
  struct ka_publish p = {0};
  ka_status st = KA_STATUS_OK;
  void *buf = NULL;
  KA_TRY(sort_by_name(ctx, path, tensors, n, &sorted));
  KA_TRY_GOTO(ka_alloc(ctx, &buf, BUF_BYTES, "conversion"), out);
  KA_TRY_GOTO(write_header(ctx, &header, tensors, n, metadata, n_metadata), out);
  KA_TRY_GOTO(ka_publish_begin(ctx, &p, path), out);
  KA_TRY_GOTO(write_length(ctx, &p, header.len), out);
  KA_TRY_GOTO(ka_publish_write(ctx, &p, header.data, header.len), out);
  for (int w = 0; w < N_WIDTHS; w++)
    for (int64_t i = 0; i < n; i++)
      if (ka_dtype_bytes(tensors[i].t.dtype) == widths[w])
        KA_TRY_GOTO(write_tensor(ctx, &p, &tensors[i], tensors[i].t.dtype, buf), out);
  KA_TRY_GOTO(ka_publish_commit(ctx, &p), out);
out:
  ka_publish_abort(&p);
  ka_str_deinit(&header);
  ka_free(buf);
  ka_free(sorted);
  return st;
}

ka_status ka_st_stream_begin(struct ka_ctx *ctx, struct ka_st_stream *s, const char *path,
                             size_t room_bytes, const char *const *metadata, int64_t n_metadata) {
  *s = (struct ka_st_stream){.room = (room_bytes + 7) / 8 * 8};
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(open_header(ctx, &s->header, metadata, n_metadata, false), out);
  KA_TRY_GOTO(ka_publish_begin(ctx, &s->file, path), out);
  if (fseeko(s->file.f, (off_t)(8 + s->room), SEEK_SET) != 0)
    st = ka_fail(ctx, KA_E_IO, "%s: cannot seek: %s", path, strerror(errno));
out:
  if (!ka_ok(st)) ka_st_stream_abort(s);
  return st;
}

ka_status ka_st_stream_write(struct ka_ctx *ctx, struct ka_st_stream *s, const void *bytes,
                             size_t n) {
  KA_TRY(ka_publish_write(ctx, &s->file, bytes, n));
  s->at += n;
  return KA_STATUS_OK;
}

ka_status ka_st_stream_tensor(struct ka_ctx *ctx, struct ka_st_stream *s, const char *name,
                              const char *dtype_name, int n_dim, const int64_t *shape) {
  if (s->header.data[s->header.len - 1] == '}') KA_TRY(ka_str_puts(ctx, &s->header, ","));
  KA_TRY(put_tensor(ctx, &s->header, name, dtype_name, n_dim, shape, s->begin, s->at));
  s->begin = s->at;
  return KA_STATUS_OK;
}

ka_status ka_st_stream_commit(struct ka_ctx *ctx, struct ka_st_stream *s) {
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_str_puts(ctx, &s->header, "}"), out);
  KA_NEVER(ctx, s->header.len > s->room || s->begin != s->at);
  while (s->header.len < s->room) KA_TRY_GOTO(ka_str_puts(ctx, &s->header, " "), out);
  if (fseeko(s->file.f, 0, SEEK_SET) != 0) {
    st = ka_fail(ctx, KA_E_IO, "%s: cannot seek: %s", s->file.path, strerror(errno));
    goto out;
  }
  KA_TRY_GOTO(write_length(ctx, &s->file, s->room), out);
  KA_TRY_GOTO(ka_publish_write(ctx, &s->file, s->header.data, s->header.len), out);
  KA_TRY_GOTO(ka_publish_commit(ctx, &s->file), out);
out:
  ka_st_stream_abort(s);
  return st;
}

void ka_st_stream_abort(struct ka_st_stream *s) {
  ka_publish_abort(&s->file);
  ka_str_deinit(&s->header);
  *s = (struct ka_st_stream){0};
}

/* Every changed tensor must replace one of the base of the same shape. */
static ka_status check_changed(struct ka_ctx *ctx, const struct ka_safetensors *base,
                               const struct ka_st_out *changed, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    struct ka_tensor old;
    const struct ka_tensor *t = &changed[i].t;
    KA_TRY(ka_st_get(ctx, base, changed[i].name, &old));
    bool same = t->n_dim == old.n_dim;
    for (int d = 0; same && d < t->n_dim; d++) same = t->shape[d] == old.shape[d];
    if (!same)
      return ka_fail(ctx, KA_E_INPUT, "%s: tensor \"%s\": the new one has another shape",
                     base->path, changed[i].name);
  }
  return KA_STATUS_OK;
}

static int entry_by_offset(const void *a, const void *b) {
  const struct ka_st_entry *x = *(const struct ka_st_entry *const *)a,
                           *y = *(const struct ka_st_entry *const *)b;
  if (x->offset_bytes != y->offset_bytes) return x->offset_bytes < y->offset_bytes ? -1 : 1;
  return x->n_bytes < y->n_bytes ? -1 : x->n_bytes > y->n_bytes;
}

static ka_status copy_range(struct ka_ctx *ctx, struct ka_publish *p, const struct ka_map *m,
                            size_t at, size_t n) {
  while (n > 0) {
    size_t step = n < COPY_BYTES ? n : COPY_BYTES;
    KA_TRY(ka_publish_write(ctx, p, m->data + at, step));
    ka_map_forget(m, at, step);
    at += step;
    n -= step;
  }
  return KA_STATUS_OK;
}

struct rewrite {
  const struct ka_safetensors *base;
  const struct ka_st_out **changed; /* sorted by name */
  int64_t n_changed;
  const struct ka_st_entry **order; /* entries of one shard, as they lie in the file */
  void *buf;
};

static ka_status rewrite_shard(struct ka_ctx *ctx, struct rewrite *w, int shard, const char *path) {
  const struct ka_st_shard *s = &w->base->shards[shard];
  int64_t n = 0;
  for (int64_t i = 0; i < w->base->n_entries; i++)
    if (w->base->entries[i].shard == shard) w->order[n++] = &w->base->entries[i];
  if (n > 1) qsort(w->order, (size_t)n, sizeof *w->order, entry_by_offset);
  struct ka_publish p;
  ka_status st = KA_STATUS_OK;
  KA_TRY(ka_publish_begin(ctx, &p, path));
  KA_TRY_GOTO(copy_range(ctx, &p, &s->map, 0, s->data_offset_bytes), out);
  for (int64_t i = 0; i < n; i++) {
    const struct ka_st_entry *e = w->order[i];
    struct ka_st_out key = {.name = e->name}, *key_ptr = &key;
    const struct ka_st_out **hit =
        w->n_changed > 0
            ? bsearch(&key_ptr, w->changed, (size_t)w->n_changed, sizeof *w->changed, out_by_name)
            : NULL;
    if (hit)
      KA_TRY_GOTO(write_tensor(ctx, &p, *hit, e->t.dtype, w->buf), out);
    else
      KA_TRY_GOTO(copy_range(ctx, &p, &s->map, e->offset_bytes, e->n_bytes), out);
  }
  KA_TRY_GOTO(ka_publish_commit(ctx, &p), out);
out:
  ka_publish_abort(&p);
  return st;
}

ka_status ka_st_rewrite(struct ka_ctx *ctx, const struct ka_safetensors *base, const char *out_dir,
                        const struct ka_st_out *changed, int64_t n_changed) {
  struct rewrite w = {.base = base, .n_changed = n_changed};
  struct ka_arena a;
  ka_status st = KA_STATUS_OK;
  const char *path;
  KA_TRY(check_changed(ctx, base, changed, n_changed));
  KA_TRY(sort_by_name(ctx, base->path, changed, n_changed, &w.changed));
  ka_arena_init(&a, ctx, "rewrite");
  KA_TRY_GOTO(KA_NEW(&a, &w.order, base->n_entries, "order"), out);
  KA_TRY_GOTO(ka_arena_alloc(&a, &w.buf, BUF_BYTES, "conversion"), out);
  for (int64_t i = 0; i < base->n_shards; i++) {
    KA_TRY_GOTO(ka_path_join(&a, &path, out_dir, base->shards[i].file_name), out);
    KA_TRY_GOTO(rewrite_shard(ctx, &w, (int)i, path), out);
  }
  if (base->index_path) {
    KA_TRY_GOTO(ka_path_join(&a, &path, out_dir, ka_path_base(base->index_path)), out);
    KA_TRY_GOTO(ka_copy_file(ctx, base->index_path, path), out);
  }
out:
  ka_arena_deinit(&a);
  ka_free(w.changed);
  return st;
}
