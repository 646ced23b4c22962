/* SPDX-License-Identifier: Apache-2.0
 * Hashes, parts and progress of deltas; see delta_parts.h. */
#include "engine/formats/delta_parts.h"

#include <inttypes.h>
#include <omp.h>
#include <string.h>

bool ka_delta_same_kind(const struct ka_st_entry *a, const struct ka_st_entry *b) {
  return strcmp(a->dtype_name, b->dtype_name) == 0 && a->n_bytes == b->n_bytes &&
         a->t.n_dim == b->t.n_dim &&
         memcmp(a->t.shape, b->t.shape, (size_t)a->t.n_dim * sizeof *a->t.shape) == 0;
}

void ka_delta_matrix(const struct ka_st_entry *e, int64_t *n_rows, int64_t *n_cols) {
  *n_rows = *n_cols = 1;
  for (int d = 0; d + 1 < e->t.n_dim; d++) *n_rows *= e->t.shape[d];
  if (e->t.n_dim > 0) *n_cols = e->t.shape[e->t.n_dim - 1];
}

/* The one walk over a part: `whole` is the matrix, `packed` the elements one after the other. */
static void walk(unsigned char *whole, unsigned char *packed, bool gather, int64_t n_cols,
                 size_t width, const struct ka_delta_ranges *rows,
                 const struct ka_delta_ranges *cols) {
  for (int64_t i = 0; i < rows->n; i++)
    for (int64_t r = rows->at[2 * i]; r < rows->at[2 * i + 1]; r++)
      for (int64_t j = 0; j < cols->n; j++) {
        unsigned char *at = whole + (size_t)(r * n_cols + cols->at[2 * j]) * width;
        size_t n = (size_t)(cols->at[2 * j + 1] - cols->at[2 * j]) * width;
        memcpy(gather ? packed : at, gather ? at : packed, n);
        packed += n;
      }
}

void ka_delta_gather(unsigned char *out, const unsigned char *from, int64_t n_cols, size_t width,
                     const struct ka_delta_ranges *rows, const struct ka_delta_ranges *cols) {
  walk((unsigned char *)(uintptr_t)from, out, true, n_cols, width, rows, cols);
}

void ka_delta_scatter(unsigned char *to, const unsigned char *in, int64_t n_cols, size_t width,
                      const struct ka_delta_ranges *rows, const struct ka_delta_ranges *cols) {
  walk(to, (unsigned char *)(uintptr_t)in, false, n_cols, width, rows, cols);
}

ka_status ka_delta_step(struct ka_ctx *ctx, struct ka_delta_progress *progress, size_t n_bytes) {
  KA_TRY(ka_check_interrupted(ctx, "delta, of which nothing was written"));
  if (!progress) return KA_STATUS_OK;
  progress->done_bytes += n_bytes;
  progress->show(progress->user, progress->done_bytes, progress->total_bytes);
  return KA_STATUS_OK;
}

struct hashing {
  struct ka_ctx *ctx;
  const struct ka_safetensors *st;
  struct ka_delta_progress *progress;
  size_t n_bytes; /* hashed and not yet told */
  int stop;
};

/* Thread 0 tells what all have done; the others stop when it is told to. */
static bool go_on(struct hashing *h, size_t n_bytes) {
  size_t n;
  int stop;
#pragma omp atomic
  h->n_bytes += n_bytes;
  if (omp_get_thread_num() == 0) {
#pragma omp atomic capture
    {
      n = h->n_bytes;
      h->n_bytes = 0;
    }
    if (!ka_ok(ka_delta_step(h->ctx, h->progress, n))) {
#pragma omp atomic write
      h->stop = 1;
    }
  }
#pragma omp atomic read
  stop = h->stop;
  return !stop;
}

static void hash_tensor(struct hashing *h, const struct ka_st_entry *e, char out[KA_HASH_TEXT]) {
  char kind[256];
  int n = snprintf(kind, sizeof kind, "%.64s [", e->dtype_name);
  for (int d = 0; d < e->t.n_dim; d++)
    n += snprintf(kind + n, sizeof kind - (size_t)n, "%s%" PRId64, d ? ", " : "", e->t.shape[d]);
  n += snprintf(kind + n, sizeof kind - (size_t)n, "]");
  ka_delta_hex(out, XXH3_128bits_withSeed(ka_delta_bytes(h->st, e), e->n_bytes,
                                          XXH3_64bits(kind, (size_t)n)));
  ka_delta_forget(h->st, e);
}

ka_status ka_delta_hash_tensors(struct ka_ctx *ctx, const struct ka_safetensors *st,
                                char (*hex)[KA_HASH_TEXT], struct ka_delta_progress *progress) {
  struct hashing h = {ctx, st, progress, 0, 0};
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t i = 0; i < st->n_entries; i++)
    if (go_on(&h, st->entries[i].n_bytes)) hash_tensor(&h, &st->entries[i], hex[i]);
  return ka_delta_step(ctx, progress, h.n_bytes);
}

ka_status ka_delta_hash_map(struct ka_ctx *ctx, const struct ka_map *map, char hex[KA_HASH_TEXT],
                            struct ka_delta_progress *progress) {
  enum { STEP = 8 << 20 };
  XXH3_state_t *state = XXH3_createState();
  if (!state) return ka_fail(ctx, KA_E_MEMORY, "hash: out of memory");
  ka_status st = KA_STATUS_OK;
  XXH3_128bits_reset(state);
  for (size_t at = 0; at < map->len; at += STEP) {
    size_t step = map->len - at < STEP ? map->len - at : STEP;
    XXH3_128bits_update(state, map->data + at, step);
    ka_map_forget(map, at, step);
    KA_TRY_GOTO(ka_delta_step(ctx, progress, step), out);
  }
  ka_delta_hex(hex, XXH3_128bits_digest(state));
out:
  XXH3_freeState(state);
  return st;
}

ka_status ka_delta_fingerprint(struct ka_ctx *ctx, const json_t *hashes, char out[KA_HASH_TEXT]) {
  struct ka_str text = {0};
  const char *name;
  json_t *v;
  ka_status st = KA_STATUS_OK;
  json_object_foreach((json_t *)(uintptr_t)hashes, name, v)
      KA_TRY_GOTO(ka_str_printf(ctx, &text, "%s %s\n", name, json_string_value(v)), out);
  ka_delta_hex(out, XXH3_128bits(text.data, text.len));
out:
  ka_str_deinit(&text);
  return st;
}
