/* SPDX-License-Identifier: Apache-2.0
 * Tokens in memory, or in an unlinked file that is mapped once it is complete. */
#include "engine/data/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void ka_data_store_init(struct ka_data_store *s, struct ka_ctx *ctx, const char *spill_dir,
                        size_t memory_bytes) {
  *s = (struct ka_data_store){.ctx = ctx, .spill_dir = spill_dir, .memory_bytes = memory_bytes};
  ka_arena_init(&s->texts, ctx, "clips");
}

void ka_data_store_deinit(struct ka_data_store *s) {
  if (s->map.len > 0)
    ka_map_drop(&s->map);
  else
    ka_free(s->tokens);
  if (s->file) fclose(s->file);
  ka_free(s->docs);
  ka_free(s->clips);
  if (s->ctx) ka_arena_deinit(&s->texts);
  *s = (struct ka_data_store){0};
}

static ka_status write_tokens(struct ka_data_store *s, const int32_t *tokens, int64_t n) {
  if (n > 0 && fwrite(tokens, sizeof *tokens, (size_t)n, s->file) != (size_t)n)
    return ka_fail(s->ctx, KA_E_IO, "%s: cannot write tokens: %s", s->spill_dir, strerror(errno));
  return KA_STATUS_OK;
}

static ka_status spill(struct ka_data_store *s) {
  struct ka_ctx *ctx = s->ctx;
  struct ka_str name = {0};
  KA_TRY(ka_str_printf(ctx, &name, "%s/kappa-tokens-XXXXXX", s->spill_dir));
  int fd = mkstemp(name.data);
  if (fd >= 0) unlink(name.data);
  s->file = fd >= 0 ? fdopen(fd, "w+b") : NULL;
  if (fd >= 0 && !s->file) close(fd);
  ka_str_deinit(&name);
  if (!s->file)
    return ka_fail(ctx, KA_E_IO, "%s: cannot make a temporary file for tokens: %s", s->spill_dir,
                   strerror(errno));
  KA_TRY(write_tokens(s, s->tokens, s->n_tokens));
  ka_free(s->tokens);
  s->tokens = NULL;
  s->tokens_cap = 0;
  return KA_STATUS_OK;
}

static ka_status append(struct ka_data_store *s, const int32_t *tokens, int64_t n) {
  struct ka_ctx *ctx = s->ctx;
  if (!s->file && (size_t)(s->n_tokens + n) * sizeof *tokens > s->memory_bytes) KA_TRY(spill(s));
  if (s->file) {
    KA_TRY(write_tokens(s, tokens, n));
  } else {
    void *grown = s->tokens;
    KA_TRY(ka_grow(ctx, &grown, &s->tokens_cap, s->n_tokens + n, sizeof *tokens, "tokens"));
    s->tokens = grown;
    if (n > 0) memcpy(s->tokens + s->n_tokens, tokens, (size_t)n * sizeof *tokens);
  }
  s->n_tokens += n;
  return KA_STATUS_OK;
}

static ka_status add_clip(struct ka_data_store *s, const struct ka_document *d) {
  struct ka_ctx *ctx = s->ctx;
  struct ka_data_clip row = {.doc = s->n_docs, .clip = d->clip};
  void *grown = s->clips;
  if (d->clip.n_places == 0) return KA_STATUS_OK;
  KA_TRY(ka_arena_str(&s->texts, &row.clip.path, d->clip_path.data, d->clip_path.len));
  KA_TRY(ka_grow(ctx, &grown, &s->clips_cap, s->n_clips + 1, sizeof row, "clips"));
  s->clips = grown;
  s->clips[s->n_clips++] = row;
  return KA_STATUS_OK;
}

static int by_document(const void *key, const void *row) {
  int64_t a = *(const int64_t *)key, b = ((const struct ka_data_clip *)row)->doc;
  return a < b ? -1 : a > b;
}

const struct ka_speech_clip *ka_data_store_clip(const struct ka_data_store *s, int64_t i) {
  const struct ka_data_clip *row =
      s->n_clips > 0 ? bsearch(&i, s->clips, (size_t)s->n_clips, sizeof *s->clips, by_document)
                     : NULL;
  return row ? &row->clip : NULL;
}

ka_status ka_data_store_add(struct ka_data_store *s, const struct ka_document *d) {
  struct ka_ctx *ctx = s->ctx;
  struct ka_data_stored doc = {.at = s->n_tokens, .n = d->n};
  for (int64_t i = 0; i < d->n; i++) {
    doc.n_targets += i > 0 && d->labels[i] != KA_LABEL_MASKED;
    doc.own_labels |= d->labels[i] != KA_LABEL_MASKED && d->labels[i] != d->ids[i];
  }
  for (int64_t i = 0; i < d->n; i++)
    if (!doc.own_labels && d->labels[i] == KA_LABEL_MASKED) d->ids[i] = -1 - d->ids[i];
  KA_TRY(append(s, d->ids, d->n));
  if (doc.own_labels) KA_TRY(append(s, d->labels, d->n));
  KA_TRY(add_clip(s, d));
  void *grown = s->docs;
  KA_TRY(ka_grow(ctx, &grown, &s->docs_cap, s->n_docs + 1, sizeof doc, "documents"));
  s->docs = grown;
  s->docs[s->n_docs++] = doc;
  return KA_STATUS_OK;
}

ka_status ka_data_store_seal(struct ka_data_store *s) {
  if (!s->file) return KA_STATUS_OK;
  size_t n_bytes = (size_t)s->n_tokens * sizeof *s->tokens;
  void *p = MAP_FAILED;
  if (fflush(s->file) == 0) p = mmap(NULL, n_bytes, PROT_READ, MAP_PRIVATE, fileno(s->file), 0);
  if (p == MAP_FAILED)
    return ka_fail(s->ctx, KA_E_IO, "%s: cannot read tokens back: %s", s->spill_dir,
                   strerror(errno));
  s->map = (struct ka_map){p, n_bytes};
  s->tokens = p;
  fclose(s->file); /* the map keeps it */
  s->file = NULL;
  return KA_STATUS_OK;
}

void ka_data_store_read(const struct ka_data_store *s, int64_t i, int64_t start, int64_t n,
                        int32_t *ids, int32_t *labels) {
  const struct ka_data_stored *d = &s->docs[i];
  const int32_t *from = s->tokens + d->at + start, *own = d->own_labels ? from + d->n : NULL;
  for (int64_t t = 0; t < n; t++) {
    bool masked = from[t] < 0;
    int32_t id = masked ? -1 - from[t] : from[t];
    if (ids) ids[t] = id;
    if (labels) labels[t] = own ? own[t] : masked ? KA_LABEL_MASKED : id;
  }
}

void ka_data_store_forget(const struct ka_data_store *s) { ka_map_forget(&s->map, 0, s->map.len); }

int64_t ka_data_store_targets(const struct ka_data_store *s, int64_t i, int64_t start, int64_t n) {
  const struct ka_data_stored *d = &s->docs[i];
  const int32_t *from = s->tokens + d->at + start;
  if (start == 0 && n == d->n) return d->n_targets;
  int64_t n_targets = 0;
  for (int64_t t = 1; t < n; t++)
    n_targets += d->own_labels ? from[d->n + t] != KA_LABEL_MASKED : from[t] >= 0;
  return n_targets;
}
