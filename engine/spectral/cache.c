/* SPDX-License-Identifier: Apache-2.0
 *
 * See cache.h. The file: magic, records (each a struct record and its singular values), XXH3 of
 * everything before. Same machine only: it is a cache, not a format. */
#include "engine/spectral/cache.h"

#include "base/log.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

static const char MAGIC[16] = "kappa spectra 1";
enum { MAX_FILE = 256 << 20 };

struct record {
  uint64_t key[2];
  double metrics[KA_N_METRICS];
  double kappa_rel_bound, sigma_max_rel_bound, sigma_min_rel_bound, kappa_low, kappa_high, time_s;
  int32_t method;
  uint8_t singular, zero, pad[2];
  int64_t n_values;
};

struct fresh {
  struct record record;
  double *values;
};

struct ka_data_cache {
  struct ka_ctx *ctx;
  const struct ka_spectral_options *options;
  struct ka_str file;           /* as read */
  const struct record **sorted; /* into file, by key */
  int64_t n_sorted, cap_sorted;
  struct fresh *fresh;
  int64_t n_fresh, cap_fresh, n_hits;
  double hash_s;
};

static int by_key(const void *x, const void *y) {
  const struct record *a = *(const struct record *const *)x, *b = *(const struct record *const *)y;
  if (a->key[0] != b->key[0]) return a->key[0] < b->key[0] ? -1 : 1;
  return a->key[1] < b->key[1] ? -1 : a->key[1] > b->key[1];
}

/* Indexes the records; false when the bytes do not add up. */
static bool index_file(struct ka_ctx *ctx, struct ka_data_cache *c) {
  size_t at = sizeof MAGIC, end;
  if (c->file.len < at + 8 || memcmp(c->file.data, MAGIC, at) != 0) return false;
  end = c->file.len - 8;
  uint64_t sum;
  memcpy(&sum, c->file.data + end, 8);
  if (sum != XXH3_64bits(c->file.data, end)) return false;
  while (at + sizeof(struct record) <= end) {
    const struct record *r = (const void *)(c->file.data + at);
    size_t room = (end - at - sizeof *r) / sizeof(double);
    if (r->n_values < 0 || (uint64_t)r->n_values > room) return false;
    void *items = (void *)c->sorted;
    if (!ka_ok(ka_grow(ctx, &items, &c->cap_sorted, c->n_sorted + 1, sizeof *c->sorted,
                       "cache index")))
      return false;
    c->sorted = items;
    c->sorted[c->n_sorted++] = r;
    at += sizeof *r + (size_t)r->n_values * sizeof(double);
  }
  if (c->n_sorted > 0) qsort(c->sorted, (size_t)c->n_sorted, sizeof *c->sorted, by_key);
  return at == end;
}

ka_status ka_spectral_cache_open(struct ka_ctx *ctx, struct ka_data_cache **out,
                                 const struct ka_spectral_options *options) {
  void *memory = NULL;
  KA_TRY(ka_alloc(ctx, &memory, sizeof(struct ka_data_cache), "spectra cache"));
  struct ka_data_cache *c = *out = memory;
  c->ctx = ctx;
  c->options = options;
  if (!ka_path_exists(options->cache)) return KA_STATUS_OK;
  if (!ka_ok(ka_read_file(ctx, options->cache, (size_t)MAX_FILE * 2, &c->file)) ||
      !index_file(ctx, c)) {
    ka_error_clear(ctx);
    ka_warn(ctx, "spectral", "%s is damaged or of another version: ignored", options->cache);
    c->n_sorted = 0;
  }
  return KA_STATUS_OK;
}

static void hash_unit(const struct ka_data_cache *c, const struct ka_unit *u, uint64_t key[2]) {
  struct {
    int64_t rows, cols, dtype, full, precision;
    double rtol;
  } what = {.rows = u->view.shape[0],
            .cols = u->view.shape[1],
            .dtype = u->view.dtype,
            .full = c->options->full,
            .precision = c->options->precision,
            .rtol = c->options->rtol};
  XXH3_state_t state;
  XXH3_128bits_reset(&state);
  XXH3_128bits_update(&state, &what, sizeof what);
  size_t size = ka_dtype_bytes(u->view.dtype), row = (size_t)what.cols * size;
  if (ka_tensor_contiguous(&u->view)) {
    XXH3_128bits_update(&state, u->view.data, row * (size_t)what.rows);
  } else {
    for (int64_t r = 0; r < what.rows; r++)
      XXH3_128bits_update(
          &state, (const char *)u->view.data + (size_t)(r * u->view.row_stride) * size, row);
  }
  XXH128_hash_t h = XXH3_128bits_digest(&state);
  key[0] = h.high64;
  key[1] = h.low64;
}

bool ka_spectral_cache_get(struct ka_data_cache *c, struct ka_arena *arena, struct ka_spectrum *r) {
  struct record want = {0};
  const struct record *want_at = &want;
  double start = ka_now_s();
  hash_unit(c, r->unit, want.key);
  double spent = ka_now_s() - start;
  memcpy(r->cache_key, want.key, sizeof want.key);
  const struct record **found = c->n_sorted == 0 ? NULL
                                                 : bsearch(&want_at, c->sorted, (size_t)c->n_sorted,
                                                           sizeof *c->sorted, by_key);
  bool ok = found != NULL;
#pragma omp critical(ka_spectral_arena)
  {
    c->hash_s += spent;
    void *values = NULL;
    if (ok && (*found)->n_values > 0)
      ok = ka_ok(ka_arena_alloc_n(arena, &values, (*found)->n_values, sizeof(double), "values"));
    if (ok) c->n_hits++;
    r->values = values;
  }
  if (!ok) return false;
  const struct record *f = *found;
  memcpy(r->metrics, f->metrics, sizeof r->metrics);
  if (f->n_values > 0) memcpy(r->values, f + 1, (size_t)f->n_values * sizeof(double));
  r->n_values = f->n_values;
  r->kappa_rel_bound = f->kappa_rel_bound;
  r->sigma_max_rel_bound = f->sigma_max_rel_bound;
  r->sigma_min_rel_bound = f->sigma_min_rel_bound;
  r->kappa_low = f->kappa_low;
  r->kappa_high = f->kappa_high;
  r->time_s = f->time_s;
  r->method = (enum ka_spectral_method)f->method;
  r->singular = f->singular;
  r->zero = f->zero;
  r->cached = true;
  return true;
}

ka_status ka_spectral_cache_put(struct ka_data_cache *c, const struct ka_spectrum *r) {
  struct ka_ctx *ctx = c->ctx;
  struct fresh f = {.record = {.kappa_rel_bound = r->kappa_rel_bound,
                               .sigma_max_rel_bound = r->sigma_max_rel_bound,
                               .sigma_min_rel_bound = r->sigma_min_rel_bound,
                               .kappa_low = r->kappa_low,
                               .kappa_high = r->kappa_high,
                               .time_s = r->time_s,
                               .method = (int32_t)r->method,
                               .singular = r->singular,
                               .zero = r->zero,
                               .n_values = r->n_values}};
  memcpy(f.record.metrics, r->metrics, sizeof r->metrics);
  memcpy(f.record.key, r->cache_key, sizeof f.record.key);
  if (r->n_values > 0) {
    void *values = NULL;
    KA_TRY(ka_alloc_n(ctx, &values, r->n_values, sizeof(double), "cached values"));
    memcpy(values, r->values, (size_t)r->n_values * sizeof(double));
    f.values = values;
  }
  ka_status st;
#pragma omp critical(ka_spectral_arena)
  {
    void *items = c->fresh;
    st = ka_grow(ctx, &items, &c->cap_fresh, c->n_fresh + 1, sizeof *c->fresh, "cache");
    c->fresh = items;
    if (ka_ok(st)) c->fresh[c->n_fresh++] = f;
  }
  if (!ka_ok(st)) ka_free(f.values);
  return st;
}

static ka_status publish(struct ka_data_cache *c) {
  struct ka_ctx *ctx = c->ctx;
  struct ka_str s = {0};
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_str_append(ctx, &s, MAGIC, sizeof MAGIC), out);
  for (int64_t i = 0; i < c->n_fresh; i++) {
    const struct record *r = &c->fresh[i].record;
    KA_TRY_GOTO(ka_str_append(ctx, &s, (const char *)r, sizeof *r), out);
    KA_TRY_GOTO(ka_str_append(ctx, &s, (const char *)c->fresh[i].values,
                              (size_t)r->n_values * sizeof(double)),
                out);
  }
  for (int64_t i = 0; i < c->n_sorted; i++) {
    const struct record *r = c->sorted[i];
    size_t n = sizeof *r + (size_t)r->n_values * sizeof(double);
    if (s.len + n + 8 > MAX_FILE) break;
    KA_TRY_GOTO(ka_str_append(ctx, &s, (const char *)r, n), out);
  }
  uint64_t sum = XXH3_64bits(s.data, s.len);
  KA_TRY_GOTO(ka_str_append(ctx, &s, (const char *)&sum, sizeof sum), out);
  struct ka_arena a;
  const char *dir = NULL;
  ka_arena_init(&a, ctx, "cache path");
  st = ka_path_dir(&a, &dir, c->options->cache);
  if (ka_ok(st)) st = ka_make_dirs(ctx, dir);
  if (ka_ok(st)) st = ka_write_file(ctx, c->options->cache, s.data, s.len);
  ka_arena_deinit(&a);
out:
  ka_str_deinit(&s);
  return st;
}

ka_status ka_spectral_cache_close(struct ka_data_cache *c, struct ka_spectral_phases *phases) {
  struct ka_ctx *ctx = c->ctx;
  bool failed_before = ctx->error.code != KA_OK;
  if (c->n_fresh > 0 && !ka_ok(publish(c)) && !failed_before) {
    ka_warn(ctx, "spectral", "results are not cached: %s", ctx->error.message);
    ka_error_clear(ctx);
  }
  phases->n_cached += c->n_hits;
  phases->hash_s += c->hash_s;
  for (int64_t i = 0; i < c->n_fresh; i++) ka_free(c->fresh[i].values);
  free(c->fresh);
  free((void *)c->sorted);
  ka_str_deinit(&c->file);
  ka_free(c);
  return KA_STATUS_OK;
}

ka_status ka_spectral_cache_default_path(struct ka_arena *arena, const char **out) {
  struct ka_ctx *ctx = arena->ctx;
  const char *dir;
  KA_TRY(ka_cache_dir(arena, &dir));
  *out = NULL;
  return dir ? ka_path_join(arena, out, dir, "spectra.bin") : KA_STATUS_OK;
}
