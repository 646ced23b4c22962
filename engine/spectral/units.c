/* SPDX-License-Identifier: Apache-2.0
 * See units.h. */
#include "engine/spectral/units.h"

#include "engine/formats/tied_head.h"
#include "engine/spectral/fp8.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int ka_unit_layer(const char *name) {
  for (const char *p = name; p; p = strchr(p, '.') ? strchr(p, '.') + 1 : NULL) {
    if (!isdigit((unsigned char)*p)) continue;
    char *end;
    long layer = strtol(p, &end, 10);
    if (*end == '.' && layer < 1 << 20) return (int)layer;
  }
  return -1;
}

double ka_unit_depth(const char *name) {
  int layer = ka_unit_layer(name);
  if (layer >= 0) return layer;
  return strstr(name, "embed") || strstr(name, "wte") || strstr(name, "wpe") ? -1 : 1e9;
}

const char *ka_unit_logical_name(const struct ka_unit *unit) {
  return unit->apart ? unit->apart : unit->name;
}

int ka_spectral_name_compare(const char *a, const char *b) {
  while (*a && *b) {
    if (isdigit((unsigned char)*a) && isdigit((unsigned char)*b)) {
      char *end_a, *end_b;
      unsigned long long x = strtoull(a, &end_a, 10), y = strtoull(b, &end_b, 10);
      if (x != y) return x < y ? -1 : 1;
      a = end_a;
      b = end_b;
    } else if (*a != *b) {
      return (unsigned char)*a < (unsigned char)*b ? -1 : 1;
    } else {
      a++;
      b++;
    }
  }
  return *a ? 1 : *b ? -1 : 0;
}

static int by_name(const void *x, const void *y) {
  return ka_spectral_name_compare(((const struct ka_unit *)x)->name,
                                  ((const struct ka_unit *)y)->name);
}

static bool analysable(enum ka_dtype t) {
  return t == KA_F32 || t == KA_BF16 || t == KA_F16 || t == KA_F64;
}

static ka_status from_entry(struct ka_arena *arena, const struct ka_safetensors *files,
                            const struct ka_st_entry *e, struct ka_unit *u) {
  struct ka_ctx *ctx = arena->ctx;
  if (e->unreadable && ka_fp8_is(e) && e->t.n_dim < KA_MAX_DIM) {
    KA_TRY(ka_fp8_unit(arena, files, e, u));
  } else if (e->unreadable) {
    *u = (struct ka_unit){
        .name = e->name, .tensor = e->name, .expert = -1, .affinity = NAN, .skip = e->unreadable};
    u->view.n_dim = 2;
  } else {
    *u = ka_unit_of_tensor(e->name, e->t);
  }
  if (!u->skip) {
    u->map = &files->shards[e->shard].map;
    u->map_offset = e->offset_bytes;
    u->map_bytes = e->n_bytes;
  }
  u->rows[0] = u->rows[1] = u->cols[0] = u->cols[1] = -1;
  u->layer = ka_unit_layer(e->name);
  return KA_STATUS_OK;
}

/* A tied head that is stored is no unit: the embedding is. */
static const struct ka_st_entry *repeated_head(const struct ka_safetensors *files,
                                               const struct ka_hf_config *config) {
  const struct ka_st_entry *copy = NULL;
  const struct ka_tensor_map *map = config ? ka_tensor_map_of(config) : NULL;
  if (config) ka_head_is_embedding(map ? map : &ka_tensor_map_any, config, files, &copy);
  return copy;
}

ka_status ka_units_of_file(struct ka_ctx *ctx, struct ka_arena *arena,
                           const struct ka_safetensors *files, const struct ka_hf_config *config,
                           int kind, bool vectors, struct ka_unit **units, int64_t *n) {
  int64_t n_wholes = 0, n_all = 0, n_parts = 0;
  struct ka_unit *wholes;
  KA_TRY(KA_NEW(arena, &wholes, files->n_entries + 1, "units"));
  const struct ka_st_entry *head = repeated_head(files, config);
  for (int64_t i = 0; i < files->n_entries; i++) {
    const struct ka_st_entry *e = &files->entries[i];
    if ((!e->unreadable || ka_fp8_is(e)) && e->t.n_dim < (vectors ? 1 : 2)) continue;
    if (ka_fp8_is_scale(files, e) || e == head) continue;
    /* Integer tables (positions, masks) are not weights. */
    if (!e->unreadable && !analysable(e->t.dtype)) continue;
    KA_TRY(from_entry(arena, files, e, &wholes[n_wholes]));
    KA_TRY(ka_unit_parts(ctx, arena, &wholes[n_wholes], config, kind, NULL, &n_parts));
    n_all += 1 + n_parts;
    n_wholes++;
  }
  qsort(wholes, (size_t)n_wholes, sizeof *wholes, by_name);
  KA_TRY(KA_NEW(arena, units, n_all + 1, "units"));
  *n = 0;
  for (int64_t i = 0; i < n_wholes; i++) {
    struct ka_unit *at = *units + *n;
    at[0] = wholes[i];
    KA_TRY(ka_unit_parts(ctx, arena, &at[0], config, kind, at + 1, &n_parts));
    *n += 1 + n_parts;
  }
  return KA_STATUS_OK;
}
