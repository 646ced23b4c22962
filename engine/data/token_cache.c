/* SPDX-License-Identifier: Apache-2.0
 *   | header | ends [n_entries] i64 | documents [n_docs] struct ka_data_stored | tokens i32 |
 * Little-endian and of this build's layout: the version in the key changes with either. */
#include "engine/data/token_cache.h"

#include "base/log.h"
#include "engine/data/chat.h"
#include "engine/job/job_table.h"

#include <string.h>
#include <xxhash.h>

enum { VERSION = 3 };

struct header {
  char magic[8];
  uint64_t key[2];
  int64_t n_entries, n_docs, n_tokens;
  int64_t n_files, n_rows, n_empty, n_not_text, n_bad;
  int64_t n_noted[KA_N_NOTES];
  char masked_roles[KA_ROLES_MAX];
  uint64_t checksum; /* of what follows the header */
};

/* --- the key ----------------------------------------------------------------- */

static void hash_text(XXH3_state_t *h, const char *text) {
  int64_t n = text ? (int64_t)strlen(text) : -1;
  XXH3_128bits_update(h, &n, sizeof n);
  if (text) XXH3_128bits_update(h, text, (size_t)n);
}

/* The content of a file; one that is not there is part of the key too. */
static ka_status hash_file(struct ka_ctx *ctx, XXH3_state_t *h, const char *path) {
  struct ka_map m;
  int64_t n = -1;
  if (!ka_path_exists(path) || ka_path_is_dir(path)) {
    XXH3_128bits_update(h, &n, sizeof n);
    return KA_STATUS_OK;
  }
  KA_TRY(ka_map_file(ctx, path, &m));
  n = (int64_t)m.len;
  XXH3_128bits_update(h, &n, sizeof n);
  for (size_t at = 0; at < m.len;) {
    size_t step = m.len - at < (64u << 20) ? m.len - at : (64u << 20);
    XXH3_128bits_update(h, m.data + at, step);
    ka_map_forget(&m, at, step);
    at += step;
  }
  ka_map_drop(&m);
  return KA_STATUS_OK;
}

static void hash_list(XXH3_state_t *h, const struct ka_key_texts *list) {
  XXH3_128bits_update(h, &list->n, sizeof list->n);
  for (int64_t i = 0; i < list->n; i++) hash_text(h, list->items[i]);
}

/* Every option of a scope, but for paths, whose content counts, and the weight, which comes after.
 */
static void hash_options(XXH3_state_t *h, int scope, const void *object) {
  for (const struct ka_key *k = ka_job_table.keys; k->name; k++) {
    const void *field = (const char *)object + k->offset;
    if (k->scope != scope || k->kind == KA_KEY_PATH || strcmp(k->name, "weight") == 0) continue;
    hash_text(h, k->name);
    if (k->list)
      hash_list(h, field);
    else if (k->kind == KA_KEY_OBJECT)
      hash_options(h, k->child, field);
    else if (k->kind == KA_KEY_TEXT || k->kind == KA_KEY_CHOICE)
      hash_text(h, *(const char *const *)field);
    else
      XXH3_128bits_update(h, field,
                          k->kind == KA_KEY_BOOL   ? sizeof(bool)
                          : k->kind == KA_KEY_WORD ? sizeof(int)
                                                   : sizeof(int64_t));
  }
}

static ka_status hash_entry(struct ka_arena *a, XXH3_state_t *h, const struct ka_job_dataset *e) {
  struct ka_ctx *ctx = a->ctx;
  struct ka_data_files files;
  hash_options(h, KA_SCOPE_DATASET, e);
  if (e->chat_template) {
    const char *own = ka_chat_builtin(e->chat_template);
    if (own || strchr(e->chat_template, '{'))
      hash_text(h, own ? own : e->chat_template);
    else
      KA_TRY(hash_file(ctx, h, e->chat_template));
  }
  const struct ka_data_choice choice = {&e->data_files, &e->exclude_files, e->ds_type, e->split};
  KA_TRY(ka_data_files(a, &e->path, &choice, &files));
  for (int64_t i = 0; i < files.n; i++) {
    const char *path = files.items[i].path;
    const int32_t format[] = {(int32_t)ka_data_format(path, e->ds_type), ka_data_is_tsv(path)};
    XXH3_128bits_update(h, format, sizeof format);
    XXH3_128bits_update(h, &files.items[i].named, sizeof(bool));
    KA_TRY(hash_file(ctx, h, files.items[i].path));
  }
  return KA_STATUS_OK;
}

static ka_status hash_all(struct ka_arena *a, XXH3_state_t *h,
                          const struct ka_data_read_options *o) {
  static const char *const model_files[] = {
      "tokenizer.json",          "vocab.json",          "merges.txt", "tokenizer_config.json",
      "special_tokens_map.json", "chat_template.jinja", "config.json"};
  struct ka_ctx *ctx = a->ctx;
  const int64_t numbers[] = {VERSION, o->eos, o->V, o->spec->train_on_inputs};
  XXH3_128bits_update(h, numbers, sizeof numbers);
  for (size_t i = 0; i < sizeof model_files / sizeof *model_files; i++) {
    const char *path;
    KA_TRY(ka_path_join(a, &path, o->spec->base_model, model_files[i]));
    KA_TRY(hash_file(ctx, h, path));
  }
  for (int64_t i = 0; i < o->spec->datasets.n; i++)
    KA_TRY(hash_entry(a, h, &o->spec->datasets.items[i]));
  hash_text(h, "test");
  for (int64_t i = 0; i < o->spec->test_datasets.n; i++)
    KA_TRY(hash_entry(a, h, &o->spec->test_datasets.items[i]));
  return KA_STATUS_OK;
}

ka_status ka_data_cache_init(struct ka_data_cache *c, struct ka_arena *a,
                             const struct ka_data_read_options *o, struct ka_data_stats *stats) {
  struct ka_ctx *ctx = a->ctx;
  const char *name;
  *c = (struct ka_data_cache){.ctx = ctx,
                              .stats = stats,
                              .n_entries = o->spec->datasets.n + o->spec->test_datasets.n,
                              .V = o->V};
  KA_TRY(KA_NEW(a, &c->ends, c->n_entries, "entries"));
  XXH3_state_t *h = XXH3_createState();
  if (!h) return ka_fail(ctx, KA_E_MEMORY, "token cache: out of memory");
  XXH3_128bits_reset(h);
  ka_status st = hash_all(a, h, o);
  XXH128_hash_t hash = XXH3_128bits_digest(h);
  XXH3_freeState(h);
  KA_TRY(st);
  c->key[0] = hash.low64;
  c->key[1] = hash.high64;
  char text[KA_HASH_TEXT];
  KA_TRY(ka_arena_printf(a, &name, "%s.tokens", ka_fmt_hash(hash.high64, hash.low64, text)));
  return ka_path_join(a, &c->path, o->spec->dataset_prepared_path, name);
}

/* --- the file ---------------------------------------------------------------- */

static uint64_t checksum(const int64_t *ends, int64_t n_entries, const struct ka_data_stored *docs,
                         int64_t n_docs, const int32_t *tokens, int64_t n_tokens) {
  uint64_t h = XXH3_64bits(ends, (size_t)n_entries * sizeof *ends);
  h = XXH3_64bits_withSeed(docs, (size_t)n_docs * sizeof *docs, h);
  return XXH3_64bits_withSeed(tokens, (size_t)n_tokens * sizeof *tokens, h);
}

ka_status ka_data_cache_save(struct ka_data_cache *c, const struct ka_data_store *store) {
  struct ka_ctx *ctx = c->ctx;
  const struct ka_data_stats *s = c->stats;
  struct header h = {.magic = "KAPPATOK",
                     .key = {c->key[0], c->key[1]},
                     .n_entries = c->n_entries,
                     .n_docs = store->n_docs,
                     .n_tokens = store->n_tokens,
                     .n_files = s->n_files,
                     .n_rows = s->n_rows,
                     .n_empty = s->n_empty,
                     .n_not_text = s->n_not_text,
                     .n_bad = s->n_bad};
  memcpy(h.n_noted, s->n_noted, sizeof h.n_noted);
  memcpy(h.masked_roles, s->masked_roles, sizeof h.masked_roles);
  h.checksum =
      checksum(c->ends, c->n_entries, store->docs, store->n_docs, store->tokens, store->n_tokens);
  struct ka_publish p;
  ka_status st = KA_STATUS_OK;
  KA_TRY(ka_publish_begin(ctx, &p, c->path));
  KA_TRY_GOTO(ka_publish_write(ctx, &p, &h, sizeof h), out);
  KA_TRY_GOTO(ka_publish_write(ctx, &p, c->ends, (size_t)c->n_entries * sizeof *c->ends), out);
  KA_TRY_GOTO(ka_publish_write(ctx, &p, store->docs, (size_t)store->n_docs * sizeof *store->docs),
              out);
  KA_TRY_GOTO(
      ka_publish_write(ctx, &p, store->tokens, (size_t)store->n_tokens * sizeof *store->tokens),
      out);
  KA_TRY_GOTO(ka_publish_commit(ctx, &p), out);
out:
  ka_publish_abort(&p);
  return st;
}

/* Are the documents inside the tokens, and the tokens inside the vocabulary? A file may be
 * forged. */
static bool sound(const struct ka_data_cache *c, const struct header *h, const int64_t *ends,
                  const struct ka_data_stored *docs, const int32_t *tokens) {
  for (int64_t i = 0; i < h->n_entries; i++)
    if (ends[i] < (i ? ends[i - 1] : 0) || ends[i] > h->n_docs) return false;
  if (h->n_entries > 0 && ends[h->n_entries - 1] != h->n_docs) return false;
  for (int64_t i = 0; i < h->n_docs; i++) {
    const struct ka_data_stored *d = &docs[i];
    unsigned char own;
    memcpy(&own, &d->own_labels, 1);
    if (own > 1 || d->n < 1 || d->at < 0 || d->n > h->n_tokens || d->at > h->n_tokens ||
        d->n_targets < 0 || d->n_targets > d->n)
      return false;
    if (d->n * (1 + own) > h->n_tokens - d->at) return false;
    const int32_t *ids = tokens + d->at;
    for (int64_t t = 0; t < d->n; t++) {
      if (ids[t] >= c->V || (ids[t] < 0 && (own || -1 - (int64_t)ids[t] >= c->V))) return false;
      if (own && ids[d->n + t] != KA_LABEL_MASKED && (ids[d->n + t] < 0 || ids[d->n + t] >= c->V))
        return false;
    }
  }
  return h->masked_roles[KA_ROLES_MAX - 1] == 0;
}

/* Is the mapped file what this key's file must be? Sets the parts. */
static bool valid(const struct ka_data_cache *c, const struct ka_map *m, struct header *h,
                  const int64_t **ends, const struct ka_data_stored **docs,
                  const int32_t **tokens) {
  if (m->len < sizeof *h) return false;
  memcpy(h, m->data, sizeof *h);
  if (memcmp(h->magic, "KAPPATOK", 8) != 0 || memcmp(h->key, c->key, sizeof h->key) != 0)
    return false;
  uint64_t rest = m->len - sizeof *h, limit = rest / sizeof(int32_t);
  if (h->n_entries != c->n_entries || h->n_docs < 0 || (uint64_t)h->n_docs > limit ||
      h->n_tokens < 0 || (uint64_t)h->n_tokens > limit)
    return false;
  if ((uint64_t)h->n_entries * sizeof **ends + (uint64_t)h->n_docs * sizeof **docs +
          (uint64_t)h->n_tokens * sizeof **tokens !=
      rest)
    return false;
  *ends = (const int64_t *)(const void *)(m->data + sizeof *h);
  *docs = (const struct ka_data_stored *)(const void *)(*ends + h->n_entries);
  *tokens = (const int32_t *)(const void *)(*docs + h->n_docs);
  return h->checksum == checksum(*ends, h->n_entries, *docs, h->n_docs, *tokens, h->n_tokens) &&
         sound(c, h, *ends, *docs, *tokens);
}

ka_status ka_data_cache_load(struct ka_data_cache *c, struct ka_data_store *store, bool *hit) {
  struct ka_ctx *ctx = c->ctx;
  struct ka_map m;
  struct header h = {0};
  const int64_t *ends = NULL;
  const struct ka_data_stored *docs = NULL;
  const int32_t *tokens = NULL;
  *hit = false;
  if (!ka_path_exists(c->path)) return KA_STATUS_OK;
  KA_TRY(ka_map_file(ctx, c->path, &m));
  if (!valid(c, &m, &h, &ends, &docs, &tokens)) {
    ka_map_drop(&m);
    ka_warn(ctx, "data", "%s: not a whole token cache; it is made again", c->path);
    return KA_STATUS_OK;
  }
  void *p;
  ka_status st = ka_alloc_n(ctx, &p, h.n_docs, sizeof *docs, "documents");
  if (!ka_ok(st)) {
    ka_map_drop(&m);
    return st;
  }
  memcpy(p, docs, (size_t)h.n_docs * sizeof *docs);
  memcpy(c->ends, ends, (size_t)h.n_entries * sizeof *ends);
  store->docs = p;
  store->n_docs = store->docs_cap = h.n_docs;
  store->map = m;
  store->tokens = (int32_t *)(uintptr_t)tokens;
  store->n_tokens = h.n_tokens;
  c->stats->n_files = h.n_files;
  c->stats->n_rows = h.n_rows;
  c->stats->n_empty = h.n_empty;
  c->stats->n_not_text = h.n_not_text;
  c->stats->n_bad = h.n_bad;
  memcpy(c->stats->n_noted, h.n_noted, sizeof h.n_noted);
  memcpy(c->stats->masked_roles, h.masked_roles, sizeof h.masked_roles);
  *hit = true;
  return KA_STATUS_OK;
}
