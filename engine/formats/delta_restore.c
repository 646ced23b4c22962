/* SPDX-License-Identifier: Apache-2.0
 * Tensors of the tuned model from the base and a delta: one by one, or all as one set of files. */
#include "engine/formats/delta_pack.h"
#include "engine/formats/delta_parts.h"

#include <string.h>

/* The base's bytes of the same tensor, NULL when it has none of this dtype and shape. */
static const unsigned char *base_bytes(const struct ka_safetensors *base,
                                       const struct ka_delta_tensor *t) {
  const struct ka_st_entry *e = ka_st_find(base, t->entry->name);
  return e && ka_delta_same_kind(e, t->entry) ? ka_delta_bytes(base, e) : NULL;
}

static size_t width_of(const struct ka_delta_tensor *t) {
  return t->entry->unreadable ? 1 : ka_dtype_bytes(t->entry->t.dtype);
}

/* A packed part: unpacked against the base's part, then put where it belongs. */
static ka_status unpack_part(struct ka_ctx *ctx, const struct ka_delta_tensor *t,
                             const unsigned char *old, const unsigned char *payload,
                             unsigned char *out) {
  void *memory = NULL;
  size_t width = width_of(t), n = (size_t)(t->rows.total * t->cols.total) * width;
  KA_TRY(ka_alloc(ctx, &memory, n, "part of a tensor"));
  unsigned char *part = memory;
  ka_delta_gather(part, old, t->n_cols, width, &t->rows, &t->cols);
  ka_status st =
      ka_delta_unpack(ctx, t->payload->name, part, part, n, width, payload, t->payload->n_bytes);
  if (ka_ok(st)) ka_delta_scatter(out, part, t->n_cols, width, &t->rows, &t->cols);
  ka_free(memory);
  return st;
}

ka_status ka_delta_restore(struct ka_ctx *ctx, const struct ka_delta *d,
                           const struct ka_delta_tensor *t, const struct ka_safetensors *base,
                           void *out) {
  const unsigned char *old = base_bytes(base, t), *payload = ka_delta_bytes(&d->file, t->payload);
  size_t n = t->entry->n_bytes;
  if (!t->part && !t->packed) {
    if (n > 0) memcpy(out, payload, n);
    return KA_STATUS_OK;
  }
  if (!t->part)
    return ka_delta_unpack(ctx, t->payload->name, out, old, n, width_of(t), payload,
                           t->payload->n_bytes);
  KA_NEVER(ctx, !old);
  memcpy(out, old, n);
  if (t->packed) return unpack_part(ctx, t, old, payload, out);
  ka_delta_scatter(out, payload, t->n_cols, width_of(t), &t->rows, &t->cols);
  return KA_STATUS_OK;
}

/* A changed tensor as an entry of `files`: a view into the delta's map, which becomes shard n, or
 * memory, shard n + 1. */
static ka_status place(struct ka_ctx *ctx, const struct ka_delta *d,
                       const struct ka_delta_tensor *t, struct ka_safetensors *files,
                       struct ka_st_entry *out) {
  const struct ka_st_entry *e = t->entry, *p = t->payload;
  const unsigned char *payload = ka_delta_bytes(&d->file, p);
  bool view = !t->part && !t->packed && (uintptr_t)payload % width_of(t) == 0;
  *out = *e;
  KA_TRY(ka_arena_str(&files->arena, &out->name, e->name, strlen(e->name)));
  KA_TRY(ka_arena_str(&files->arena, &out->dtype_name, e->dtype_name, strlen(e->dtype_name)));
  out->shard = (int)files->n_shards + (view ? 0 : 1);
  out->offset_bytes = view ? p->offset_bytes : 0;
  if (e->unreadable) return KA_STATUS_OK;
  if (view) {
    out->t.data = (void *)(uintptr_t)payload;
    return KA_STATUS_OK;
  }
  KA_TRY(ka_arena_alloc(&files->arena, &out->t.data, e->n_bytes, "replaced tensors"));
  return ka_delta_restore(ctx, d, t, files, out->t.data);
}

ka_status ka_delta_overlay(struct ka_ctx *ctx, struct ka_delta *d, struct ka_safetensors *files) {
  struct ka_st_entry *entries;
  KA_TRY(KA_NEW(&files->arena, &entries, d->layout.n_entries, "entries"));
  for (int64_t i = 0; i < d->layout.n_entries; i++) {
    const struct ka_st_entry *e = &d->layout.entries[i], *old = ka_st_find(files, e->name);
    const struct ka_delta_tensor *t = ka_delta_find(d, e->name);
    KA_NEVER(ctx, !t && !old);
    if (t)
      KA_TRY(place(ctx, d, t, files, &entries[i]));
    else
      entries[i] = *old;
  }
  KA_TRY(ka_st_adopt(ctx, files, &d->file));
  files->entries = entries;
  files->n_entries = d->layout.n_entries;
  return KA_STATUS_OK;
}
