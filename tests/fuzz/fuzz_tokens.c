/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a prepared token cache, with the key and the checksum that make it believable: what
 * is taken for a hit must give documents inside the vocabulary. */
#include "engine/data/token_cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

enum { V = 258, KEY_AT = 8, ENTRIES_AT = 24, DOCS_AT = 32, TOKENS_AT = 40 };

static void must(struct ka_ctx *ctx, ka_status st) {
  if (ka_ok(st)) return;
  fprintf(stderr, "%s\n", ctx->error.message);
  abort();
}

static const char *get_dir(struct ka_ctx *ctx) {
  static char dir[64];
  char path[96];
  if (*dir) return dir;
  snprintf(dir, sizeof dir, "%s/kappa-fuzz-tokens-%ld",
           access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", (long)getpid());
  must(ctx, ka_make_dirs(ctx, dir));
  snprintf(path, sizeof path, "%s/a.jsonl", dir);
  must(ctx, ka_write_file(ctx, path, "{}\n", 3));
  return dir;
}

static int64_t number(const char *bytes, size_t at) {
  int64_t v;
  memcpy(&v, bytes + at, sizeof v);
  return v;
}

/* From the size of a cache without documents. */
static size_t header_bytes(struct ka_data_cache *c) {
  static size_t n;
  struct ka_data_store none = {.ctx = c->ctx};
  struct ka_map m;
  if (n > 0) return n;
  memset(c->ends, 0, (size_t)c->n_entries * sizeof *c->ends);
  must(c->ctx, ka_data_cache_save(c, &none));
  must(c->ctx, ka_map_file(c->ctx, c->path, &m));
  n = m.len - (size_t)c->n_entries * sizeof *c->ends;
  ka_map_drop(&m);
  return n;
}

/* Makes the header's magic, key and checksum right, where the sizes in it allow that. */
static void sign(char *bytes, size_t n, const struct ka_data_cache *c, size_t header) {
  if (n < header) return;
  memcpy(bytes, "KAPPATOK", 8);
  memcpy(bytes + KEY_AT, c->key, sizeof c->key);
  memcpy(bytes + ENTRIES_AT, &c->n_entries, sizeof c->n_entries);
  uint64_t rest = n - header, ends = (uint64_t)c->n_entries * sizeof(int64_t), tokens = 0;
  uint64_t docs = (uint64_t)number(bytes, DOCS_AT) % 8;
  if (rest < ends) return;
  while (docs > 0 && docs * sizeof(struct ka_data_stored) > rest - ends) docs--;
  tokens = (rest - ends - docs * sizeof(struct ka_data_stored)) / sizeof(int32_t);
  memcpy(bytes + DOCS_AT, &docs, sizeof docs);
  memcpy(bytes + TOKENS_AT, &tokens, sizeof tokens);
  const char *at = bytes + header;
  uint64_t h = XXH3_64bits(at, ends);
  h = XXH3_64bits_withSeed(at + ends, docs * sizeof(struct ka_data_stored), h);
  h = XXH3_64bits_withSeed(at + ends + docs * sizeof(struct ka_data_stored), tokens * 4, h);
  memcpy(bytes + header - sizeof h, &h, sizeof h);
}

static void check(const struct ka_data_store *s) {
  for (int64_t i = 0; i < s->n_docs; i++) {
    int64_t n = s->docs[i].n;
    int32_t *ids = malloc(2 * (size_t)n * sizeof *ids);
    if (!ids) abort();
    ka_data_store_read(s, i, 0, n, ids, ids + n);
    for (int64_t t = 0; t < n; t++)
      if (ids[t] < 0 || ids[t] >= V || ids[n + t] < -100 || ids[n + t] >= V) abort();
    if (ka_data_store_targets(s, i, 0, n) > n) abort();
    free(ids);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  struct ka_ctx ctx;
  struct ka_arena a;
  struct ka_data_cache c;
  struct ka_data_stats stats = {0};
  struct ka_data_store store;
  char path[96], *items[] = {path};
  bool hit = false;
  ka_ctx_init(&ctx);
  ctx.log_level = KA_LOG_QUIET;
  const char *dir = get_dir(&ctx);
  snprintf(path, sizeof path, "%s/a.jsonl", dir);
  struct ka_job_dataset entry = {.path = {(const char **)items, 1}, .type = KA_DOCUMENT_TOKENIZED};
  struct ka_data_spec spec = {
      .datasets = {&entry, 1}, .base_model = dir, .dataset_prepared_path = dir, .output_dir = dir};
  const struct ka_data_read_options o = {.spec = &spec, .eos = -1, .V = V};
  ka_arena_init(&a, &ctx, "fuzz");
  ka_data_store_init(&store, &ctx, dir, 1 << 20);
  must(&ctx, ka_data_cache_init(&c, &a, &o, &stats));
  char *bytes = malloc(n + 1);
  if (!bytes) abort();
  if (n > 0) memcpy(bytes, data, n);
  sign(bytes, n, &c, header_bytes(&c));
  must(&ctx, ka_write_file(&ctx, c.path, bytes, n));
  must(&ctx, ka_data_cache_load(&c, &store, &hit));
  if (hit) check(&store);
  ka_data_store_deinit(&store);
  ka_arena_deinit(&a);
  free(bytes);
  return 0;
}
