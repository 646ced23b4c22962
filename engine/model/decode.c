/* SPDX-License-Identifier: Apache-2.0
 * See decode.h. A prompt goes through in chunks, so that step memory does not grow with it. */
#include "engine/model/decode.h"

#include "base/rng.h"
#include "engine/model/plan.h"

#include <math.h>
#include <string.h>

enum { CHUNK = 256 };

static ka_status plan_cache(struct ka_decoder *d) {
  struct ka_ctx *ctx = d->m->ctx;
  const struct ka_recipe *r = &d->m->recipe;
  size_t size = ka_dtype_bytes(d->m->compute);
  int64_t n = d->capacity * r->K * r->D;
  for (int64_t l = 0; l < r->L; l++) {
    KA_TRY(ka_arena_alloc_n(&d->cache, &d->kv[l].k, n, size, "keys of the past"));
    KA_TRY(ka_arena_alloc_n(&d->cache, &d->kv[l].v, n, size, "values of the past"));
  }
  return KA_STATUS_OK;
}

static ka_status alloc_cache(struct ka_decoder *d) {
  struct ka_ctx *ctx = d->m->ctx;
  const struct ka_recipe *r = &d->m->recipe;
  int64_t chunk = d->capacity < CHUNK ? d->capacity : CHUNK;
  const struct ka_memory *device = ka_dev_memory(d->m->dev, KA_PLACE_DEVICE);
  void *memory;
  KA_TRY(ka_arena_alloc_n(&d->memory, &memory, r->L, sizeof *d->kv, "cache"));
  d->kv = memory;
  ka_arena_init_measure(&d->cache, ctx, "decoding cache", device);
  KA_TRY(plan_cache(d));
  KA_TRY(ka_arena_init_fixed(&d->cache, ctx, "decoding cache", d->cache.used_bytes, device));
  KA_TRY(plan_cache(d));
  int32_t **ints[] = {&d->position, &d->labels, &d->start};
  for (int i = 0; i < 3; i++) {
    KA_TRY(ka_arena_alloc_n(&d->memory, &memory, chunk, sizeof(int32_t), "batch"));
    *ints[i] = memory;
  }
  for (int64_t i = 0; i < chunk; i++) d->labels[i] = -100;
  return KA_STATUS_OK;
}

ka_status ka_decoder_init(struct ka_decoder *d, struct ka_model *m, int64_t capacity) {
  struct ka_ctx *ctx = m->ctx;
  *d = (struct ka_decoder){.m = m, .capacity = capacity};
  ka_arena_init(&d->memory, ctx, "decoding");
  KA_NEVER(ctx, m->n_slices > 0);
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(alloc_cache(d), out);
  m->max_position = capacity;
  KA_TRY_GOTO(ka_model_prepare(m, 1, capacity < CHUNK ? capacity : CHUNK, false), out);
out:
  if (!ka_ok(st)) ka_decoder_deinit(d);
  return st;
}

void ka_decoder_deinit(struct ka_decoder *d) {
  if (d->m) ka_arena_deinit(&d->memory);
  if (d->m) ka_arena_deinit(&d->cache);
  memset(d, 0, sizeof *d);
}

static ka_status push_chunk(struct ka_decoder *d, const int32_t *ids, int64_t n, float *logits) {
  struct ka_ctx *ctx = d->m->ctx;
  for (int64_t i = 0; i < n; i++) d->position[i] = (int32_t)(d->past + i);
  for (int64_t l = 0; l < d->m->recipe.L; l++) d->kv[l].past = d->past;
  struct ka_batch batch = {.B = 1,
                           .T = n,
                           .input_ids = ids,
                           .labels = d->labels,
                           .position = d->position,
                           .doc_start = d->start};
  KA_TRY(ka_batch_begin(d->m, &batch, 0));
  KA_TRY(ka_trunk_fwd(d->m, NULL, d->kv));
  d->past += n;
  return logits ? ka_head_logits(d->m, n - 1, 1, NULL, logits) : KA_STATUS_OK;
}

ka_status ka_decoder_push(struct ka_decoder *d, const int32_t *ids, int64_t n, float *logits) {
  struct ka_ctx *ctx = d->m->ctx;
  KA_NEVER(ctx, n < 1);
  if (n > d->capacity - d->past)
    return ka_fail(ctx, KA_E_INPUT, "decoding: %lld tokens do not fit behind %lld of at most %lld",
                   (long long)n, (long long)d->past, (long long)d->capacity);
  for (int64_t i = 0; i < n; i++)
    if (ids[i] < 0 || ids[i] >= d->m->recipe.V)
      return ka_fail(ctx, KA_E_INPUT, "decoding: got token id %d, the model's vocabulary has %lld",
                     ids[i], (long long)d->m->recipe.V);
  for (int64_t i = 0; i < n; i += CHUNK) {
    int64_t take = n - i < CHUNK ? n - i : CHUNK;
    KA_TRY(push_chunk(d, ids + i, take, i + take == n ? logits : NULL));
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
