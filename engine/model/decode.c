/* SPDX-License-Identifier: Apache-2.0
 * See decode.h. A prompt goes through in chunks, so that step memory does not grow with it. */
#include "engine/model/decode.h"

#include "base/rng.h"
#include "engine/model/buffers.h"

#include <math.h>
#include <string.h>

enum { CHUNK = 256 };

static ka_status plan_cache(struct ka_decoder *d) {
  struct ka_ctx *ctx = d->m->ctx;
  const struct ka_recipe *r = &d->m->recipe;
  size_t size = ka_dtype_bytes(d->m->compute);
  int64_t n = d->B * d->capacity, width[2];
  for (int64_t l = 0; l < r->L; l++) {
    ka_branches_kv_width(r, l, width);
    KA_TRY(ka_arena_alloc_n(&d->cache, &d->kv[l].k, n * width[0], size, "keys of the past"));
    KA_TRY(ka_arena_alloc_n(&d->cache, &d->kv[l].v, n * width[1], size, "values of the past"));
    d->kv[l].capacity = d->capacity;
  }
  return KA_STATUS_OK;
}

static ka_status alloc_cache(struct ka_decoder *d) {
  struct ka_ctx *ctx = d->m->ctx;
  const struct ka_recipe *r = &d->m->recipe;
  const struct ka_memory *device = ka_dev_memory(d->m->dev, KA_PLACE_DEVICE);
  KA_TRY(KA_NEW(&d->memory, &d->kv, r->L, "cache"));
  ka_arena_init_measure(&d->cache, ctx, "decoding cache", device);
  KA_TRY(plan_cache(d));
  KA_TRY(ka_arena_init_fixed(&d->cache, ctx, "decoding cache", d->cache.used_bytes, device));
  KA_TRY(plan_cache(d));
  int64_t n = d->B * d->capacity, width[2];
  for (int64_t l = 0; l < r->L && d->B > 1; l++) { /* attention is shown all of it */
    void *const past[] = {d->kv[l].k, d->kv[l].v};
    ka_branches_kv_width(r, l, width);
    for (int i = 0; i < 2; i++)
      KA_TRY(ka_fill(d->m->dev, &(struct ka_fill_args){.x = ka_mat(d->m, past[i], n, width[i])}));
  }
  return KA_STATUS_OK;
}

static ka_status alloc_batch(struct ka_decoder *d) {
  struct ka_ctx *ctx = d->m->ctx;
  int64_t n = d->B * d->chunk;
  const struct {
    int32_t **p;
    int64_t n;
  } ints[] = {{&d->ids, n},
              {&d->position, n},
              {&d->labels, n},
              {&d->start, n},
              {&d->skip, d->B},
              {&d->length, d->B},
              {&d->all, d->m->buffers->turn_tok > 0 ? d->B * d->capacity : 0},
              {&d->target, d->B},
              {&d->row, ka_model_rows(d->m)}};
  void *memory;
  for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
    KA_TRY(ka_arena_alloc_n(&d->memory, &memory, ints[i].n, sizeof(int32_t), "batch"));
    *ints[i].p = memory;
  }
  KA_TRY(KA_NEW(&d->memory, &d->loss, d->B, "batch"));
  for (int64_t i = 0; i < n; i++) d->labels[i] = KA_LABEL_MASKED;
  return KA_STATUS_OK;
}

ka_status ka_decoder_attach(struct ka_decoder *d, struct ka_model *m, int64_t B, int64_t capacity) {
  struct ka_ctx *ctx = m->ctx;
  *d = (struct ka_decoder){.m = m, .B = B, .capacity = capacity, .chunk = ka_model_rows(m) / B};
  ka_arena_init(&d->memory, ctx, "decoding");
  KA_NEVER(ctx, d->chunk < 1 || capacity > ka_model_positions(m));
  if (d->chunk > capacity) d->chunk = capacity;
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(alloc_cache(d), out);
  KA_TRY_GOTO(alloc_batch(d), out);
out:
  if (!ka_ok(st)) ka_decoder_deinit(d);
  return st;
}

ka_status ka_decoder_init(struct ka_decoder *d, struct ka_model *m, int64_t capacity) {
  struct ka_ctx *ctx = m->ctx;
  *d = (struct ka_decoder){0};
  KA_NEVER(ctx, m->n_slices > 0);
  m->max_position = capacity;
  m->few_rows = true;
  bool whole = m->projector || capacity < CHUNK; /* a clip goes in at once */
  KA_TRY(ka_model_prepare(m, 1, whole ? capacity : CHUNK, false));
  return ka_decoder_attach(d, m, 1, capacity);
}

int64_t ka_decoder_sequence_bytes(const struct ka_model *m, int64_t capacity) {
  int64_t n = 0, width[2];
  for (int64_t l = 0; l < m->recipe.L; l++) {
    ka_branches_kv_width(&m->recipe, l, width);
    n += width[0] + width[1];
  }
  return n * capacity * (int64_t)ka_dtype_bytes(m->compute);
}

void ka_decoder_deinit(struct ka_decoder *d) {
  if (d->m) ka_arena_deinit(&d->memory);
  if (d->m) ka_arena_deinit(&d->cache);
  memset(d, 0, sizeof *d);
}

void ka_decoder_rewind(struct ka_decoder *d, int64_t past) { d->past = past; }

/* n columns of ids [B,stride] through the blocks. */
static ka_status push_chunk(struct ka_decoder *d, const int32_t *ids, int64_t stride, int64_t n,
                            const struct ka_pairs *pairs, struct ka_batch *batch) {
  struct ka_ctx *ctx = d->m->ctx;
  for (int64_t b = 0, i = 0; b < d->B; b++)
    for (int64_t t = 0; t < n; t++, i++) {
      int64_t at = d->past + t - d->skip[b];
      d->ids[i] = ids[b * stride + t];
      d->position[i] = (int32_t)(at > 0 ? at : 0);
      d->start[i] = at >= 0 ? d->skip[b] : 0;
    }
  for (int64_t l = 0; l < d->m->recipe.L; l++) d->kv[l].past = d->past;
  *batch = (struct ka_batch){.B = d->B,
                             .T = n,
                             .input_ids = d->ids,
                             .labels = d->labels,
                             .position = d->position,
                             .doc_start = d->start,
                             .length = d->length,
                             .pairs = *pairs};
  if (d->clips) batch->clips = *d->clips;
  d->clips = NULL;
  KA_TRY(ka_batch_begin(d->m, batch, 0));
  KA_TRY(ka_pass_fwd(d->m, NULL, d->kv));
  d->past += n;
  return KA_STATUS_OK;
}

static ka_status check_push(struct ka_decoder *d, const int32_t *ids, int64_t n) {
  struct ka_ctx *ctx = d->m->ctx;
  KA_NEVER(ctx, n < 1 || (d->clips && n > d->chunk));
  if (n > d->capacity - d->past)
    return ka_fail(ctx, KA_E_INPUT, "decoding: %lld tokens do not fit behind %lld of at most %lld",
                   (long long)n, (long long)d->past, (long long)d->capacity);
  for (int64_t i = 0; i < d->B * n; i++)
    if (ids[i] < 0 || ids[i] >= d->m->recipe.V)
      return ka_fail(ctx, KA_E_INPUT, "decoding: got token id %d, the model's vocabulary has %lld",
                     ids[i], (long long)d->m->recipe.V);
  return KA_STATUS_OK;
}

static bool is_long(const struct ka_decoder *d, int64_t n_tok) {
  return n_tok > d->m->buffers->turn_tok;
}

/* The sequences will have n more: says so to the passes. Where one of them becomes long by that, or
 * was long before it was cut, all of the past goes through anew. */
static ka_status foresee(struct ka_decoder *d, const int32_t *ids, int64_t n) {
  struct ka_ctx *ctx = d->m->ctx;
  int64_t past = d->past;
  bool turns = false;
  for (int64_t b = 0; b < d->B; b++) {
    int64_t n_tok = past + n - d->skip[b];
    turns = turns || (past > 0 && is_long(d, n_tok) != is_long(d, d->length[b]));
    d->length[b] = (int32_t)n_tok;
  }
  if (d->m->buffers->turn_tok == 0) return KA_STATUS_OK;
  for (int64_t b = 0; b < d->B; b++)
    memcpy(d->all + b * d->capacity + past, ids + b * n, (size_t)n * sizeof *ids);
  if (!turns) return KA_STATUS_OK;
  d->past = 0;
  for (int64_t i = 0, take; i < past; i += take) {
    struct ka_batch batch;
    take = past - i < d->chunk ? past - i : d->chunk;
    KA_TRY(push_chunk(d, d->all + i, d->capacity, take, &(struct ka_pairs){0}, &batch));
  }
  return KA_STATUS_OK;
}

/* Tokens of the next chunk. */
static int64_t chunk_of(const struct ka_decoder *d, int64_t left) {
  return left >= d->chunk ? d->chunk : ka_dev_piece(d->m->dev, left);
}

ka_status ka_decoder_push(struct ka_decoder *d, const int32_t *ids, int64_t n, float *logits,
                          int32_t *best) {
  struct ka_ctx *ctx = d->m->ctx;
  struct ka_batch batch;
  KA_TRY(check_push(d, ids, n));
  KA_TRY(foresee(d, ids, n));
  for (int64_t i = 0, take; i < n; i += take) {
    take = chunk_of(d, n - i);
    struct ka_pairs last = {.row = d->row, .target = d->target};
    if (best && i + take == n) last.n = d->B;
    for (int64_t b = 0; b < last.n; b++) d->row[b] = (int32_t)(b * take + take - 1);
    KA_TRY(push_chunk(d, ids + i, n, take, &last, &batch));
    if (i + take < n) continue;
    if (best) {
      KA_TRY(ka_pass_loss(d->m));
      KA_TRY(ka_head_read_pairs(d->m, d->loss, best));
    }
    int64_t side_by_side = take == 1 ? d->B : 1; /* last tokens that lie one behind the other */
    for (int64_t b = 0; logits && b < d->B; b += side_by_side)
      KA_TRY(ka_pass_logits(d->m, b * take + take - 1, side_by_side, NULL,
                            logits + b * d->m->recipe.V));
  }
  return KA_STATUS_OK;
}

ka_status ka_decoder_score(struct ka_decoder *d, const int32_t *ids, int64_t n,
                           const struct ka_pairs *pairs, float *loss, int32_t *best) {
  struct ka_ctx *ctx = d->m->ctx;
  struct ka_batch batch;
  KA_NEVER(ctx, d->B != 1);
  KA_TRY(check_push(d, ids, n));
  KA_TRY(foresee(d, ids, n));
  int64_t done = 0;
  for (int64_t i = 0, take; i < n; i += take) {
    take = chunk_of(d, n - i);
    struct ka_pairs part = {.row = d->row, .target = pairs->target + done};
    for (; done + part.n < pairs->n && pairs->row[done + part.n] < i + take; part.n++) {
      KA_NEVER(ctx, part.n == ka_model_rows(d->m));
      d->row[part.n] = (int32_t)(pairs->row[done + part.n] - i);
    }
    KA_TRY(push_chunk(d, ids + i, n, take, &part, &batch));
    if (part.n == 0) continue;
    KA_TRY(ka_pass_loss(d->m));
    KA_TRY(ka_head_read_pairs(d->m, loss + done, best + done));
    done += part.n;
  }
  return KA_STATUS_OK;
}

int32_t ka_sample(const float *logits, int64_t V, double temperature, uint64_t seed,
                  uint64_t index) {
  int64_t best = 0;
  for (int64_t i = 1; i < V; i++)
    if (logits[i] > logits[best]) best = i;
  if (temperature <= 0) return (int32_t)best;
  double sum = 0, drawn = 0;
  for (int64_t i = 0; i < V; i++)
    sum += exp(((double)logits[i] - (double)logits[best]) / temperature);
  double goal = ka_rng_uniform(seed, ka_rng_stream("sample"), index) * sum;
  for (int64_t i = 0; i < V; i++) {
    drawn += exp(((double)logits[i] - (double)logits[best]) / temperature);
    if (drawn > goal) return (int32_t)i;
  }
  return (int32_t)best;
}
