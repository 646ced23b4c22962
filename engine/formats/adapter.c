/* SPDX-License-Identifier: Apache-2.0
 * Merging an adapter's tensors into the base's; see adapter.h. First what the adapter holds whole,
 * then the products, so that a resaved base layer counts before its change. */
#include "engine/formats/adapter.h"

#include "base/log.h"
#include "engine/formats/adapter_config.h"
#include "engine/formats/lora.h"
#include "engine/formats/tied_head.h"

#include <stdlib.h>
#include <string.h>

static const char prefix[] = "base_model.model.";
struct merge {
  struct ka_ctx *ctx;
  const char *base_dir;
  struct ka_adapter_config config;
  struct ka_safetensors file, *files;
  struct ka_st_entry *entries;     /* those of files as they become, and room for the head */
  int64_t embed;                   /* of a tied base, else -1 */
  int64_t head;                    /* where its head stands once it is its own; -1 before */
  const struct ka_tensor_map *map; /* of the base's family, or the names of all */
  const char *head_name;
  int64_t n_merged, n_whole, n_elems;
};

bool ka_adapter_is(const char *dir) {
  static const char *const whole[] = {"model.safetensors", "model.safetensors.index.json"};
  char path[4096];
  for (size_t i = 0; i < 2; i++) {
    snprintf(path, sizeof path, "%s/%s", dir, whole[i]);
    if (ka_path_exists(path)) return false;
  }
  snprintf(path, sizeof path, "%s/adapter_config.json", dir);
  return ka_path_exists(path);
}

ka_status ka_adapter_base(struct ka_arena *arena, const char *dir, const char **base) {
  struct ka_ctx *ctx = arena->ctx;
  struct ka_adapter_config c;
  ka_status st = ka_adapter_config_open(ctx, &c, dir);
  if (ka_ok(st)) st = ka_arena_str(arena, base, c.base, strlen(c.base));
  ka_adapter_config_close(&c);
  return st;
}

static bool role_is(const struct merge *m, const char *name, enum ka_role role) {
  struct ka_tensor_match match;
  return ka_tensor_map_match(m->map, name, &match) && match.row->role == role;
}

/* What the base's names mean, by its family; is its head its embedding, and which tensor is
 * that. */
static ka_status read_base(struct merge *m) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_hf_config config;
  ka_status st = ka_hf_config_open(ctx, &config, m->base_dir);
  m->map = ka_ok(st) ? ka_tensor_map_of(&config) : NULL;
  if (!m->map) m->map = &ka_tensor_map_any;
  const struct ka_st_entry *copy;
  bool tied = ka_ok(st) && ka_head_is_embedding(m->map, &config, m->files, &copy);
  ka_hf_config_close(&config);
  KA_TRY(st);
  const struct ka_tensor_row *head = ka_tensor_map_row(m->map, KA_ROLE_HEAD);
  char name[KA_TENSOR_NAME_MAX];
  ka_tensor_map_name(m->map, head, -1, -1, name);
  KA_TRY(ka_arena_str(&m->files->arena, &m->head_name, name, strlen(name)));
  tied = tied || !ka_st_find(m->files, m->head_name);
  for (int64_t i = 0; tied && i < m->files->n_entries; i++)
    if (role_is(m, m->files->entries[i].name, KA_ROLE_EMBED)) m->embed = i;
  return KA_STATUS_OK;
}

static ka_status bad(struct merge *m, const struct ka_st_entry *e, int code, const char *what) {
  return ka_fail(m->ctx, code, "%s: tensor \"%s\": %s", m->file.path, e->name, what);
}

/* The tied head becomes a tensor of its own: a second view of the embedding. */
static void untie(struct merge *m) {
  if (m->embed < 0 || m->head >= 0) return;
  const struct ka_st_entry *own = ka_st_find(m->files, m->head_name);
  m->head = own ? own - m->files->entries : m->files->n_entries;
  m->entries[m->head] = m->entries[m->embed];
  m->entries[m->head].name = m->head_name;
}

/* The base's tensor of this name, where the adapter's tensor e goes. */
static ka_status find_target(struct merge *m, const struct ka_st_entry *e, const char *name,
                             struct ka_st_entry **out) {
  const struct ka_st_entry *old = ka_st_find(m->files, name);
  int64_t i = old ? old - m->files->entries : -1;
  bool head = strcmp(name, m->head_name) == 0;
  if ((i >= 0 && i == m->embed) || head) untie(m);
  if (head && m->head >= 0) i = m->head;
  if (i < 0)
    return ka_fail(m->ctx, KA_E_INPUT, "%s: tensor \"%s\": the base %s has no \"%s\"", m->file.path,
                   e->name, m->base_dir, name);
  *out = &m->entries[i];
  enum ka_dtype t = (*out)->t.dtype;
  if ((*out)->unreadable || (t != KA_F32 && t != KA_BF16 && t != KA_F16))
    return ka_fail(m->ctx, KA_E_UNSUPPORTED,
                   "%s: tensor \"%s\" has dtype %s; adapters are merged into F32, BF16 or F16",
                   m->base_dir, name, (*out)->dtype_name);
  return KA_STATUS_OK;
}

static ka_status put_whole(struct merge *m, const struct ka_st_entry *e, const char *name) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_st_entry *to = NULL;
  KA_TRY(find_target(m, e, name, &to));
  if (e->unreadable || (e->t.dtype != KA_F32 && e->t.dtype != KA_BF16 && e->t.dtype != KA_F16))
    return bad(m, e, KA_E_UNSUPPORTED, "expected dtype F32, BF16 or F16");
  bool same = e->t.n_dim == to->t.n_dim;
  for (int d = 0; same && d < e->t.n_dim; d++) same = e->t.shape[d] == to->t.shape[d];
  if (!same)
    return bad(
        m, e, KA_E_UNSUPPORTED,
        "its shape is not the base's; an adapter with a vocabulary of its own must be merged "
        "by PEFT first");
  const char *kept = to->name;
  *to = *e;
  to->name = kept;
  to->shard = (int)m->files->n_shards;
  KA_TRY(ka_arena_str(&m->files->arena, &to->dtype_name, e->dtype_name, strlen(e->dtype_name)));
  m->n_whole++;
  if (m->file.shards[0].map.data + e->offset_bytes == e->t.data) return KA_STATUS_OK;
  KA_TRY(ka_arena_alloc(&m->files->arena, &to->t.data, e->n_bytes, "unaligned tensors"));
  memcpy(to->t.data, e->t.data, e->n_bytes);
  return KA_STATUS_OK;
}

/* `to` in memory that may be written. */
static ka_status make_own(struct merge *m, struct ka_st_entry *to) {
  struct ka_ctx *ctx = m->ctx;
  const void *from = to->t.data;
  KA_TRY(ka_arena_alloc(&m->files->arena, &to->t.data, to->n_bytes, "merged tensors"));
  memcpy(to->t.data, from, to->n_bytes);
  if (to->shard < m->files->n_shards) /* the base's pages are not needed any more */
    ka_map_forget(&m->files->shards[to->shard].map, to->offset_bytes, to->n_bytes);
  to->shard = (int)m->files->n_shards + 1;
  to->offset_bytes = 0;
  return KA_STATUS_OK;
}

/* a [r, in], b [out, r], in any float dtype, into a module's weight. */
static ka_status merge_pair(struct merge *m, const char *module, const struct ka_st_entry *a,
                            const struct ka_st_entry *b, bool embedding) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_st_entry *to = NULL;
  const char *name = NULL;
  struct ka_tensor_match match;
  int64_t r = 0;
  struct ka_lora l = {.a = a->t, .b = b->t};
  KA_TRY(ka_arena_printf(&m->config.arena, &name, "%s.weight", module));
  l.transposed = embedding || (m->map != &ka_tensor_map_any &&
                               ka_tensor_map_match(m->map, name, &match) && match.row->transposed);
  KA_TRY(find_target(m, a, name, &to));
  KA_TRY(ka_adapter_scale(ctx, &m->config, module, &r, &l.scale));
  const struct ka_st_entry *const both[] = {a, b};
  for (int i = 0; i < 2; i++)
    if (both[i]->unreadable || both[i]->t.n_dim != 2 || both[i]->t.dtype == KA_I32 ||
        both[i]->t.dtype == KA_I64 || both[i]->t.dtype == KA_U8)
      return bad(m, both[i], KA_E_INPUT, "expected a matrix of F32, BF16 or F16");
  if (a->t.shape[0] != r || b->t.shape[1] != r)
    return ka_fail(ctx, KA_E_INPUT, "%s: tensor \"%s\": ranks %lld and %lld, %s says %lld",
                   m->file.path, a->name, (long long)a->t.shape[0], (long long)b->t.shape[1],
                   m->config.path, (long long)r);
  int64_t out = b->t.shape[0], in = a->t.shape[1];
  if (to->t.n_dim != 2 || to->t.shape[l.transposed] != out || to->t.shape[!l.transposed] != in)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: tensor \"%s\": B A is %lld x %lld and does not fit \"%s\" of %s; is it the "
                   "adapter's base?",
                   m->file.path, a->name, (long long)out, (long long)in, name, m->base_dir);
  KA_TRY(make_own(m, to));
  m->n_merged++;
  int64_t bad_row = -1;
  KA_TRY(ka_lora_merge(ctx, &to->t, &l, &bad_row));
  if (bad_row >= 0)
    return ka_fail(ctx, KA_E_INPUT, "%s: tensor \"%s\": merged, row %lld of \"%s\" has NaN or Inf",
                   m->file.path, a->name, (long long)bad_row, name);
  return KA_STATUS_OK;
}

/* lora_bias: bias += scale * b. */
static ka_status merge_bias(struct merge *m, const char *module, const struct ka_st_entry *b) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_st_entry *to = NULL;
  const char *name = NULL;
  int64_t r = 0;
  double scale = 0;
  KA_TRY(ka_arena_printf(&m->config.arena, &name, "%s.bias", module));
  KA_TRY(find_target(m, b, name, &to));
  KA_TRY(ka_adapter_scale(ctx, &m->config, module, &r, &scale));
  if (b->unreadable || ka_tensor_elems(&b->t) != ka_tensor_elems(&to->t))
    return bad(m, b, KA_E_INPUT, "does not fit the base's bias");
  KA_TRY(make_own(m, to));
  for (int64_t i = 0; i < ka_tensor_elems(&to->t); i++)
    ka_data_store(to->t.data, to->t.dtype, i,
                  ka_load(to->t.data, to->t.dtype, i) + scale * ka_load(b->t.data, b->t.dtype, i));
  return KA_STATUS_OK;
}

/* The kinds of an adapter's tensors, by the ends of their names; others are whole tensors. */
enum kind { LORA_A, EMBEDDING_A, LORA_BIAS, LORA_B, EMBEDDING_B, WHOLE };
static const char *const ends[] = {[LORA_A] = ".lora_A.weight",
                                   [EMBEDDING_A] = ".lora_embedding_A",
                                   [LORA_BIAS] = ".lora_B.bias",
                                   [LORA_B] = ".lora_B.weight",
                                   [EMBEDDING_B] = ".lora_embedding_B"};

/* module: the name without prefix and end; of a whole tensor, its name in the base. */
static ka_status classify(struct merge *m, const struct ka_st_entry *e, enum kind *kind,
                          const char **module) {
  static const char layer[] = ".base_layer.";
  struct ka_arena *arena = &m->config.arena;
  if (!ka_starts_with(e->name, prefix))
    return bad(m, e, KA_E_UNSUPPORTED, "expected a name that starts with base_model.model.");
  const char *name = e->name + strlen(prefix), *inner = strstr(name, layer);
  for (int k = 0; k < WHOLE; k++) {
    if (!ka_ends_with(name, ends[k])) continue;
    *kind = (enum kind)k;
    return ka_arena_str(arena, module, name, strlen(name) - strlen(ends[k]));
  }
  *kind = WHOLE;
  return inner ? ka_arena_printf(arena, module, "%.*s.%s", (int)(inner - name), name,
                                 inner + strlen(layer))
               : ka_arena_str(arena, module, name, strlen(name));
}

static ka_status take(struct merge *m, const struct ka_st_entry *e, bool whole) {
  struct ka_ctx *ctx = m->ctx;
  enum kind kind = WHOLE;
  const char *module = NULL, *other = NULL;
  KA_TRY(classify(m, e, &kind, &module));
  if ((kind == WHOLE) != whole) return KA_STATUS_OK;
  if (kind == WHOLE) return put_whole(m, e, module);
  if (kind == LORA_BIAS) return merge_bias(m, module, e);
  static const enum kind partner[] = {[LORA_A] = LORA_B,
                                      [LORA_B] = LORA_A,
                                      [EMBEDDING_A] = EMBEDDING_B,
                                      [EMBEDDING_B] = EMBEDDING_A};
  KA_TRY(ka_arena_printf(&m->config.arena, &other, "%s%s%s", prefix, module, ends[partner[kind]]));
  const struct ka_st_entry *pair = ka_st_find(&m->file, other);
  if (!pair)
    return ka_fail(ctx, KA_E_INPUT, "%s: tensor \"%s\" without \"%s\"", m->file.path, e->name,
                   other);
  if (kind == LORA_B || kind == EMBEDDING_B) return KA_STATUS_OK; /* with its A */
  return merge_pair(m, module, e, pair, kind == EMBEDDING_A);
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const struct ka_st_entry *)a)->name, ((const struct ka_st_entry *)b)->name);
}

/* A head that came out as the embedding is still tied. */
static void retie(struct merge *m, int64_t *n) {
  if (m->head < 0) return;
  const struct ka_st_entry *x = &m->entries[m->embed], *y = &m->entries[m->head];
  bool extra = m->head == m->files->n_entries;
  bool same = x->t.dtype == y->t.dtype && memcmp(x->t.data, y->t.data, x->n_bytes) == 0;
  if (same) m->head = -1;
  if (extra && !same) *n += 1;
}

static ka_status run(struct merge *m, const char *dir, bool *untied) {
  struct ka_ctx *ctx = m->ctx;
  const char *path = NULL;
  int64_t n = m->files->n_entries;
  KA_TRY(ka_adapter_config_open(ctx, &m->config, dir));
  KA_TRY(ka_path_join(&m->config.arena, &path, dir, "adapter_model.safetensors"));
  KA_TRY(ka_st_open(ctx, &m->file, path));
  KA_TRY(read_base(m));
  KA_TRY(KA_NEW(&m->files->arena, &m->entries, n + 1, "entries"));
  if (n > 0) memcpy(m->entries, m->files->entries, (size_t)n * sizeof *m->entries);
  for (int pass = 0; pass < 2; pass++)
    for (int64_t i = 0; i < m->file.n_entries; i++) {
      KA_TRY(ka_check_interrupted(ctx, dir));
      KA_TRY(take(m, &m->file.entries[i], pass == 0));
    }
  for (int64_t i = 0; i < m->file.n_entries; i++)
    if (!m->file.entries[i].unreadable) m->n_elems += ka_tensor_elems(&m->file.entries[i].t);
  retie(m, &n);
  *untied = m->head >= 0;
  qsort(m->entries, (size_t)n, sizeof *m->entries, by_name);
  KA_TRY(ka_st_adopt(ctx, m->files, &m->file));
  m->files->entries = m->entries;
  m->files->n_entries = n;
  ka_info(ctx, "adapter", "%s: %lld modules merged into %s, %lld tensors replaced%s", dir,
          (long long)m->n_merged, m->base_dir, (long long)m->n_whole,
          *untied ? "; the head is no longer the embedding" : "");
  return KA_STATUS_OK;
}

ka_status ka_adapter_merge(struct ka_ctx *ctx, const char *dir, const char *base_dir,
                           struct ka_safetensors *files, bool *untied, int64_t *n_elems) {
  struct merge m = {.ctx = ctx, .base_dir = base_dir, .files = files, .embed = -1, .head = -1};
  ka_status st = run(&m, dir, untied);
  *n_elems = m.n_elems;
  ka_st_close(&m.file);
  ka_adapter_config_close(&m.config);
  return st;
}
