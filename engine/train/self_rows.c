/* SPDX-License-Identifier: Apache-2.0
 * See self_rows.h. The cache's file: struct header, ids [n_rows,T]. */
#include "engine/train/self_rows.h"

#include "base/file.h"
#include "base/log.h"
#include "base/rng.h"
#include "engine/dist/dist.h"
#include "engine/eval/sampling.h"
#include "engine/model/decode.h"
#include "engine/report/progress.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

enum { MOST_ROWS = 32, CACHE_BYTES = 1 << 30, SAVE_S = 60 };

struct header {
  char magic[16];
  int64_t n_rows, T;
  uint64_t checksum; /* of the ids */
};
static const char MAGIC[16] = "kappa rows 1";

/* --- numbers ----------------------------------------------------------------- */

/* What the model's text begins with. A model that names no BOS has seen documents one after the
 * other with a separator between them; <|endoftext|> is that one's usual name, for an end token of
 * a chat model ends turns. */
static ka_status find_start(struct ka_ctx *ctx, struct ka_self_rows *s, const struct ka_model *m,
                            const struct ka_tokenizer *tokenizer, const char *base_model) {
  static const char separator[] = "<|endoftext|>";
  const struct ka_hf_config *c = &m->config;
  int64_t eos = c->n_eos > 0 ? c->eos_token_ids[0] : tokenizer ? ka_tokenizer_eos(tokenizer) : -1;
  const struct {
    int64_t id;
    const char *name;
  } ways[] = {
      {c->bos_token_id, "BOS"},
      {tokenizer ? ka_tokenizer_bos(tokenizer) : -1, "BOS"},
      {tokenizer ? ka_tokenizer_token_id(tokenizer, separator, sizeof separator - 1) : -1,
       "<|endoftext|>, which separates documents, as the model names no BOS"},
      {eos, "EOS, as the model names no BOS"},
  };
  for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
    if (ways[i].id < 0 || ways[i].id >= m->recipe.V) continue;
    s->start = (int32_t)ways[i].id;
    s->start_name = ways[i].name;
    return KA_STATUS_OK;
  }
  return ka_fail(ctx, KA_E_INPUT,
                 "%s: anchor.on: self needs a token that text starts from: config.json names "
                 "neither bos_token_id nor eos_token_id; add one, or use on: task",
                 base_model);
}

ka_status ka_self_rows_init(struct ka_ctx *ctx, struct ka_self_rows *s,
                            const struct ka_self_rows_spec *spec, const struct ka_model *m,
                            const struct ka_tokenizer *tokenizer) {
  double rows = spec->share / (1 - spec->share) * (double)spec->task_rows;
  *s = (struct ka_self_rows){
      .per_step = rows < 1 ? 1 : (int64_t)(rows + 0.5), .T = spec->T, .group = MOST_ROWS};
  s->n = s->per_step * spec->n_steps;
  s->B = s->per_step < spec->micro_batch_size ? s->per_step : spec->micro_batch_size;
  while (s->group > 1 && s->group * ka_decoder_sequence_bytes(m, s->T) > CACHE_BYTES) s->group /= 2;
  return find_start(ctx, s, m, tokenizer, spec->base_model);
}

static int64_t n_groups(const struct ka_self_rows *s) { return (s->n + s->group - 1) / s->group; }

/* --- drawing ----------------------------------------------------------------- */

/* A decoder on a base model of its own. */
struct writer {
  const char *dir, *path; /* of the cache; path NULL: none */
  double saved_s;
  struct ka_model model;
  struct ka_decoder decoder;
  float *logits; /* [group,V] */
  int32_t *next; /* [group] */
};

static ka_status open_base(struct ka_ctx *ctx, struct ka_model *m, const struct ka_self_rows *s,
                           const struct ka_self_rows_spec *spec, struct ka_dev *dev,
                           enum ka_dtype compute, bool measure) {
  KA_TRY(ka_model_open(ctx, m, dev, spec->base_model, compute));
  m->max_position = s->T;
  return ka_model_prepare(m, 1, s->group, measure);
}

static ka_status open_writer(struct ka_ctx *ctx, struct writer *w, const struct ka_self_rows *s,
                             const struct ka_self_rows_spec *spec, struct ka_dev *dev,
                             enum ka_dtype compute) {
  void *memory;
  KA_TRY(open_base(ctx, &w->model, s, spec, dev, compute, false));
  KA_TRY(ka_decoder_attach(&w->decoder, &w->model, s->group, s->T));
  KA_TRY(ka_alloc_n(ctx, &memory, s->group * w->model.recipe.V, sizeof(float), "logits"));
  w->logits = memory;
  KA_TRY(ka_alloc_n(ctx, &memory, s->group, sizeof(int32_t), "tokens"));
  w->next = memory;
  return KA_STATUS_OK;
}

static void close_writer(struct writer *w) {
  ka_free(w->logits);
  ka_free(w->next);
  ka_decoder_deinit(&w->decoder);
  ka_model_close(&w->model);
}

/* The next token of rows [first, first + group), the t-th. */
static ka_status draw_tokens(struct ka_ctx *ctx, struct writer *w, const struct ka_self_rows *s,
                             int64_t first, int64_t t, uint64_t seed) {
  int64_t V = w->model.recipe.V, n = s->group;
  for (int64_t b = 0; b < n; b++) KA_TRY(ka_eval_check_logits(ctx, w->logits + b * V, V));
#pragma omp parallel for schedule(static)
  for (int64_t b = 0; b < n; b++)
    w->next[b] = ka_sample(w->logits + b * V, V, 1, seed, (uint64_t)((first + b) * s->T + t));
  return KA_STATUS_OK;
}

/* Rows [first, first + group) to ids, as far as the run takes them. */
static ka_status draw_group(struct ka_ctx *ctx, struct writer *w, struct ka_self_rows *s,
                            int64_t first, uint64_t seed) {
  int64_t n = s->n - first < s->group ? s->n - first : s->group;
  ka_decoder_rewind(&w->decoder, 0);
  for (int64_t b = 0; b < s->group; b++) w->next[b] = s->start;
  for (int64_t t = 0;; t++) {
    for (int64_t b = 0; b < n; b++) s->ids[(first + b) * s->T + t] = w->next[b];
    if (t + 1 == s->T) return KA_STATUS_OK;
    if (ka_interrupted(ctx))
      return ka_fail(ctx, KA_E_INTERRUPTED,
                     "interrupted while the base writes rows; --resume goes on with them");
    KA_TRY(ka_decoder_push(&w->decoder, w->next, 1, w->logits, NULL));
    KA_TRY(draw_tokens(ctx, w, s, first, t + 1, seed));
  }
}

/* --- the cache --------------------------------------------------------------- */

static ka_status cache_path(struct ka_arena *a, const char **out, const struct ka_self_rows *s,
                            const struct ka_self_rows_spec *spec, enum ka_dtype compute,
                            const json_t *model_key) {
  struct ka_ctx *ctx = a->ctx;
  struct ka_str text = {0};
  *out = NULL;
  if (!spec->cache_dir) return KA_STATUS_OK;
  ka_status st = ka_str_printf(ctx, &text, "%s seed %llu T %lld start %d group %lld %s ", MAGIC,
                               (unsigned long long)spec->seed, (long long)s->T, s->start,
                               (long long)s->group, ka_dtype_name(compute));
  if (ka_ok(st)) st = ka_json_dump_line(ctx, model_key, &text);
  if (ka_ok(st)) {
    XXH128_hash_t h = XXH3_128bits(text.data, text.len);
    char hex[KA_HASH_TEXT];
    st = ka_arena_printf(a, out, "%s/rows-%s.bin", spec->cache_dir,
                         ka_fmt_hash(h.high64, h.low64, hex));
  }
  ka_str_deinit(&text);
  return st;
}

/* *n_rows: so many of the first rows come from the file. One that is damaged is drawn anew. */
static ka_status load(struct ka_ctx *ctx, struct ka_self_rows *s, const char *path,
                      int64_t *n_rows) {
  struct ka_map map;
  struct header h;
  *n_rows = 0;
  if (!path || !ka_path_exists(path)) return KA_STATUS_OK;
  KA_TRY(ka_map_file(ctx, path, &map));
  if (map.len >= sizeof h) {
    size_t row = (size_t)s->T * sizeof(int32_t);
    memcpy(&h, map.data, sizeof h);
    bool good = memcmp(h.magic, MAGIC, sizeof MAGIC) == 0 && h.T == s->T && h.n_rows >= 0 &&
                (size_t)h.n_rows <= map.len / row && map.len == sizeof h + (size_t)h.n_rows * row &&
                h.checksum == XXH3_64bits(map.data + sizeof h, map.len - sizeof h);
    if (good) *n_rows = h.n_rows < s->n ? h.n_rows : s->n;
    memcpy(s->ids, map.data + sizeof h, (size_t)*n_rows * row);
  }
  ka_map_drop(&map);
  return KA_STATUS_OK;
}

/* The first n_rows. A cache that cannot be written is a warning: the rows are there. */
static void keep(struct ka_ctx *ctx, struct writer *w, const struct ka_self_rows *s,
                 int64_t n_rows) {
  size_t n_bytes = (size_t)(n_rows * s->T) * sizeof(int32_t);
  struct header h = {.n_rows = n_rows, .T = s->T, .checksum = XXH3_64bits(s->ids, n_bytes)};
  struct ka_publish p;
  w->saved_s = ka_now_s();
  if (!w->path || n_rows == 0) return;
  memcpy(h.magic, MAGIC, sizeof MAGIC);
  struct ka_error before = ctx->error; /* it may be on its way */
  ka_status st = ka_make_dirs(ctx, w->dir);
  if (ka_ok(st)) st = ka_publish_begin(ctx, &p, w->path);
  if (ka_ok(st)) {
    st = ka_publish_write(ctx, &p, &h, sizeof h);
    if (ka_ok(st)) st = ka_publish_write(ctx, &p, s->ids, n_bytes);
    if (ka_ok(st)) st = ka_publish_commit(ctx, &p);
    ka_publish_abort(&p);
  }
  if (!ka_ok(st))
    ka_warn(ctx, "anchor", "the rows that the base wrote are not kept: %s", ctx->error.message);
  ctx->error = before;
}

/* --- all of it --------------------------------------------------------------- */

/* Groups from `first` on, each by one rank; what is drawn reaches all after every round of
 * ranks. */
static ka_status draw_groups(struct ka_ctx *ctx, struct writer *w, struct ka_self_rows *s,
                             int64_t first, uint64_t seed, struct ka_progress *bar) {
  int n_ranks = ka_dist_n(ctx->dist), rank = ka_dist_rank(ctx->dist);
  int64_t row = s->T * (int64_t)sizeof(int32_t);
  for (int64_t g = first; g < n_groups(s); g += n_ranks) {
    ka_progress_update(bar, g * s->group, "");
    if (ctx->rank == 0 && ka_now_s() - w->saved_s > SAVE_S) keep(ctx, w, s, g * s->group);
    ka_status st = KA_STATUS_OK;
    if (g + rank < n_groups(s)) st = draw_group(ctx, w, s, (g + rank) * s->group, seed);
    if (st.code == KA_E_INTERRUPTED && ctx->rank == 0) keep(ctx, w, s, g * s->group);
    KA_TRY(st);
    for (int64_t k = g; n_ranks > 1 && k < g + n_ranks && k < n_groups(s); k++) {
      int64_t at = k * s->group, n = s->n - at < s->group ? s->n - at : s->group;
      KA_TRY(ka_dist_barrier(ctx->dist, "rows that the base wrote"));
      KA_TRY(ka_dist_broadcast(ctx->dist, "rows that the base wrote", s->ids + at * s->T, n * row,
                               (int)(k - g)));
      KA_TRY(ka_dist_wait(ctx->dist));
    }
  }
  return KA_STATUS_OK;
}

static ka_status draw_rest(struct ka_ctx *ctx, struct ka_self_rows *s,
                           const struct ka_self_rows_spec *spec, struct ka_dev *dev,
                           enum ka_dtype compute, int64_t have, const char *path) {
  struct writer w = {.dir = spec->cache_dir, .path = path, .saved_s = ka_now_s()};
  struct ka_progress bar;
  ka_info(ctx, "anchor", "the base writes %lld rows of %lld tokens from %s",
          (long long)(s->n - have), (long long)s->T, s->start_name);
  ka_progress_begin(ctx, &bar, "rows of the base", have, s->n);
  ka_status st = open_writer(ctx, &w, s, spec, dev, compute);
  if (ka_ok(st)) st = draw_groups(ctx, &w, s, have / s->group, spec->seed, &bar);
  if (ka_ok(st) && ctx->rank == 0) keep(ctx, &w, s, s->n);
  ka_progress_end(&bar);
  close_writer(&w);
  return st;
}

static ka_status alloc_rows(struct ka_ctx *ctx, struct ka_self_rows *s) {
  void *memory;
  KA_TRY(ka_alloc_n(ctx, &memory, s->n * s->T, sizeof(int32_t), "rows that the base wrote"));
  s->ids = memory;
  KA_TRY(ka_alloc_n(ctx, &memory, 2 * s->B * s->T, sizeof(int32_t), "rows that the base wrote"));
  s->position = memory;
  s->doc_start = s->position + s->B * s->T;
  for (int64_t i = 0; i < s->B * s->T; i++) s->position[i] = (int32_t)(i % s->T);
  return KA_STATUS_OK;
}

ka_status ka_self_rows_draw(struct ka_ctx *ctx, struct ka_self_rows *s,
                            const struct ka_self_rows_spec *spec, struct ka_dev *dev,
                            enum ka_dtype compute, const json_t *model_key) {
  struct ka_arena a;
  const char *path = NULL;
  int64_t have = 0;
  KA_TRY(alloc_rows(ctx, s));
  ka_arena_init(&a, ctx, "rows");
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(cache_path(&a, &path, s, spec, compute, model_key), out);
  if (ctx->rank == 0) KA_TRY_GOTO(load(ctx, s, path, &have), out);
  double rows = (double)have;
  KA_TRY_GOTO(ka_dist_sum(ctx->dist, "rows that the base wrote", &rows, 1), out);
  have = (int64_t)rows;
  if (have > 0 && ka_dist_n(ctx->dist) > 1) {
    KA_TRY_GOTO(ka_dist_broadcast(ctx->dist, "rows that the base wrote", s->ids,
                                  have * s->T * (int64_t)sizeof(int32_t), 0),
                out);
    KA_TRY_GOTO(ka_dist_wait(ctx->dist), out);
  }
  if (have == s->n) {
    ka_info(ctx, "anchor", "%lld rows of %lld tokens that the base wrote before, from %s",
            (long long)s->n, (long long)s->T, s->start_name);
    goto out;
  }
  KA_TRY_GOTO(draw_rest(ctx, s, spec, dev, compute, have, path), out);
out:
  ka_arena_deinit(&a);
  return st;
}

void ka_self_rows_deinit(struct ka_self_rows *s) {
  ka_free(s->ids);
  ka_free(s->position);
  *s = (struct ka_self_rows){0};
}

ka_status ka_self_rows_bytes(struct ka_ctx *ctx, const struct ka_self_rows *s,
                             const struct ka_self_rows_spec *spec, struct ka_dev *dev,
                             enum ka_dtype compute, double *bytes) {
  struct ka_model base;
  ka_status st = open_base(ctx, &base, s, spec, dev, compute, true);
  if (ka_ok(st))
    *bytes = (double)(base.run.used_bytes + base.step.used_bytes) +
             (double)(s->group * ka_decoder_sequence_bytes(&base, s->T)) +
             (double)(s->group * base.recipe.V) * sizeof(float);
  ka_model_close(&base);
  return st;
}

/* --- batches ----------------------------------------------------------------- */

static ka_status get_batch(void *user, int64_t index, struct ka_batch *out) {
  struct ka_self_rows *s = user;
  int64_t n_micro = (s->per_step + s->B - 1) / s->B, in_step = index % n_micro * s->B;
  int64_t first = index / n_micro * s->per_step + in_step, n = s->per_step - in_step;
  if (n > s->B) n = s->B;
  const int32_t *ids = s->ids + first * s->T;
  *out = (struct ka_batch){.B = n,
                           .T = s->T,
                           .input_ids = ids,
                           .labels = ids,
                           .position = s->position,
                           .doc_start = s->doc_start,
                           .rows = KA_ROWS_SELF,
                           .n_tok = n * s->T,
                           .n_targets = n * s->T};
  return KA_STATUS_OK;
}

struct ka_train_batch_source ka_self_rows_source(struct ka_self_rows *s) {
  int64_t n = s->n > 0 ? (s->per_step + s->B - 1) / s->B : 0;
  return (struct ka_train_batch_source){get_batch, s, n};
}
