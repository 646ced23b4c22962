/* SPDX-License-Identifier: Apache-2.0
 * See generator.h. Prompts of a batch are padded at their start; those that are done go on, unseen,
 * until all are. */
#include "engine/eval/generator.h"

#include "engine/model/decode.h"

#include <stdlib.h>
#include <string.h>

enum { SIDE_BY_SIDE = 16, CHECK_EVERY = 16 };

struct answer { /* on its way */
  struct ka_eval_prompt *prompt;
  int32_t *ids; /* [max_tokens] */
  int64_t n;
  bool done;
};

struct generator {
  struct ka_ctx *ctx;
  struct ka_model *m;
  const struct ka_eval_generation *g;
  struct ka_arena arena;
  struct ka_decoder decoder;
  int64_t B;
  struct answer *answers; /* [B] */
  int64_t *reach;         /* [until.n + 1]: tokens that a text may reach back, the end token last */
  struct ka_str end, tail;
  int32_t *padded, *next; /* [B * longest prompt], [B] */
  float *logits;          /* [B,V] */
  int32_t *heap;          /* [V], when drawing among some */
  int64_t n_done;
  struct ka_clip *clips;               /* [B]: of the batch's prompts */
  const struct ka_speech_clip **files; /* [B] the same */
  struct ka_clips heard;
};

/* --- ends -------------------------------------------------------------------- */

/* A text may be spelled by two tokens more than it is encoded with. */
static ka_status measure_until(struct generator *x) {
  struct ka_ctx *ctx = x->ctx;
  const struct ka_tokenizer *tok = x->g->tokenizer;
  struct ka_tok_tokens ids = {0};
  int32_t eos = ka_tokenizer_eos(tok);
  ka_status st = KA_STATUS_OK;
  if (eos >= 0) st = ka_tokenizer_decode(ctx, tok, &eos, 1, false, &x->end);
  for (int64_t i = 0; i <= x->g->until->n && ka_ok(st); i++) {
    const char *text = i < x->g->until->n ? x->g->until->items[i] : x->end.data;
    ka_tok_tokens_clear(&ids);
    if (text) st = ka_tokenizer_encode(ctx, tok, text, strlen(text), false, &ids);
    x->reach[i] = ids.n + 2;
  }
  ka_tok_tokens_deinit(&ids);
  return st;
}

static const char *end_text(const struct generator *x, int64_t i) {
  return i < x->g->until->n ? x->g->until->items[i] : x->end.data;
}

static bool holds(const struct ka_str *s, const char *text) {
  return *text && s->len > 0 && memmem(s->data, s->len, text, strlen(text)) != NULL;
}

static bool is_end_token(const struct generator *x, int32_t id) {
  return ka_hf_is_eos(&x->m->config, id) || id == ka_tokenizer_eos(x->g->tokenizer);
}

static ka_status check_end(struct generator *x, struct answer *a) {
  struct ka_ctx *ctx = x->ctx;
  a->done = a->n == x->g->max_tokens || is_end_token(x, a->ids[a->n - 1]);
  for (int64_t i = 0; i <= x->g->until->n && !a->done; i++) {
    const char *text = end_text(x, i);
    int64_t back = a->n < x->reach[i] ? a->n : x->reach[i];
    if (!text) continue;
    ka_str_clear(&x->tail);
    KA_TRY(ka_tokenizer_decode(ctx, x->g->tokenizer, a->ids + a->n - back, back, false, &x->tail));
    a->done = holds(&x->tail, text);
  }
  return KA_STATUS_OK;
}

/* The text, cut at the first place of each ending text in turn. */
static ka_status finish(struct generator *x, struct answer *a) {
  struct ka_ctx *ctx = x->ctx;
  struct ka_str *out = &a->prompt->text;
  a->prompt->n_new = a->n;
  KA_TRY(ka_tokenizer_decode(ctx, x->g->tokenizer, a->ids, a->n, true, out));
  for (int64_t i = 0; i <= x->g->until->n; i++) {
    const char *text = end_text(x, i);
    char *at =
        text && *text && out->len > 0 ? memmem(out->data, out->len, text, strlen(text)) : NULL;
    if (!at) continue;
    *at = 0;
    out->len = (size_t)(at - out->data);
  }
  return KA_STATUS_OK;
}

/* --- batches ----------------------------------------------------------------- */

static ka_status read_frames(void *user, int64_t i, float *frames) {
  const struct generator *x = user;
  return ka_speech_frames(x->ctx, x->g->speech, x->files[i], frames);
}

/* Row b, padded to T, hears its prompt's clip. */
static void hear(struct generator *x, int64_t b, int64_t T, const struct ka_eval_prompt *p) {
  if (!p->clip) return;
  x->clips[x->heard.n] =
      (struct ka_clip){p->clip->n_frames, b * T + T - p->n + p->clip->at, p->clip->n_places};
  x->files[x->heard.n++] = p->clip;
}

static int64_t pad_prompts(struct generator *x, struct ka_eval_prompt **prompts, int64_t n) {
  int64_t T = prompts[0]->n; /* the longest */
  x->heard = (struct ka_clips){.items = x->clips, .read = read_frames, .user = x};
  if (x->g->speech) x->heard.width = x->g->speech->projector.n_features;
  for (int64_t b = 0; b < x->B; b++) {
    const struct ka_eval_prompt *p = prompts[b < n ? b : 0];
    int64_t skip = T - p->n;
    x->decoder.skip[b] = (int32_t)skip;
    hear(x, b, T, p);
    for (int64_t t = 0; t < T; t++) x->padded[b * T + t] = t < skip ? p->ids[0] : p->ids[t - skip];
  }
  return T;
}

/* Greedy tokens come from the device; every CHECK_EVERY tokens it is asked for their logits too, to
 * see whether they are numbers. */
static ka_status push(struct generator *x, const int32_t *ids, int64_t n, int64_t index) {
  bool drawn = x->g->sampling.temperature > 0;
  float *logits = drawn || index % CHECK_EVERY == 0 ? x->logits : NULL;
  struct ka_ctx *ctx = x->ctx;
  int64_t V = x->m->recipe.V;
  KA_TRY(ka_decoder_push(&x->decoder, ids, n, logits, drawn ? NULL : x->next));
  for (int64_t b = 0; b < x->B && logits && !drawn; b++)
    KA_TRY(ka_eval_check_logits(ctx, logits + b * V, V));
  return KA_STATUS_OK;
}

static ka_status take(struct generator *x, int64_t b, int64_t index) {
  int64_t V = x->m->recipe.V;
  if (x->g->sampling.temperature <= 0) return KA_STATUS_OK;
  uint64_t draw = x->answers[b].prompt->draw;
  return ka_eval_sample(x->ctx, &x->g->sampling, x->logits + b * V, V, x->heap,
                        x->g->seed ^ (draw << 20), (uint64_t)index, &x->next[b]);
}

static ka_status run_batch(struct generator *x, struct ka_eval_prompt **prompts, int64_t n) {
  struct ka_ctx *ctx = x->ctx;
  int64_t T = pad_prompts(x, prompts, n), open = n;
  ka_decoder_rewind(&x->decoder, 0);
  x->decoder.clips = x->heard.n > 0 ? &x->heard : NULL;
  for (int64_t b = 0; b < x->B; b++) {
    x->answers[b].prompt = prompts[b < n ? b : 0];
    x->answers[b].n = 0;
    x->answers[b].done = b >= n;
  }
  KA_TRY(push(x, x->padded, T, 0));
  for (int64_t i = 0; open > 0; i++) {
    for (int64_t b = 0; b < n; b++) {
      struct answer *a = &x->answers[b];
      KA_TRY(take(x, b, i));
      if (a->done) continue;
      a->ids[a->n++] = x->next[b];
      KA_TRY(check_end(x, a));
      open -= a->done;
    }
    KA_TRY(ka_check_interrupted(ctx, "generation"));
    if (open > 0) KA_TRY(push(x, x->next, 1, i + 1));
  }
  for (int64_t b = 0; b < n; b++) KA_TRY(finish(x, &x->answers[b]));
  x->n_done += n;
  if (x->g->progress) x->g->progress(x->g->user, x->n_done);
  return KA_STATUS_OK;
}

static int longest_first(const void *a, const void *b) {
  const struct ka_eval_prompt *const x = *(struct ka_eval_prompt *const *)a;
  const struct ka_eval_prompt *const y = *(struct ka_eval_prompt *const *)b;
  if (x->n != y->n) return x->n > y->n ? -1 : 1;
  return x < y ? -1 : x > y;
}

static ka_status allocate(struct generator *x, int64_t longest) {
  struct ka_ctx *ctx = x->ctx;
  KA_TRY(KA_NEW(&x->arena, &x->answers, x->B, "answers"));
  for (int64_t b = 0; b < x->B; b++) {
    KA_TRY(KA_NEW(&x->arena, &x->answers[b].ids, x->g->max_tokens, "answers"));
  }
  KA_TRY(KA_NEW(&x->arena, &x->clips, x->B, "answers"));
  KA_TRY(KA_NEW(&x->arena, &x->files, x->B, "answers"));
  KA_TRY(KA_NEW(&x->arena, &x->reach, x->g->until->n + 1, "answers"));
  KA_TRY(KA_NEW(&x->arena, &x->padded, x->B * longest, "answers"));
  KA_TRY(KA_NEW(&x->arena, &x->next, x->B, "answers"));
  KA_TRY(KA_NEW(&x->arena, &x->logits, x->B * x->m->recipe.V, "answers"));
  return KA_NEW(&x->arena, &x->heap, x->m->recipe.V, "answers");
}

static ka_status run(struct generator *x, struct ka_eval_prompt *prompts, int64_t n) {
  struct ka_ctx *ctx = x->ctx;
  struct ka_eval_prompt **order;
  KA_TRY(KA_NEW(&x->arena, &order, n, "answers"));
  for (int64_t i = 0; i < n; i++) order[i] = &prompts[i];
  qsort(order, (size_t)n, sizeof *order, longest_first);
  int64_t rows = ka_model_rows(x->m), longest = order[0]->n;
  x->B = x->g->batch_size > 0 ? x->g->batch_size : SIDE_BY_SIDE;
  if (x->B > n) x->B = n;
  if (x->B > rows) x->B = rows;
  if (x->g->speech && x->B > rows / longest) x->B = rows / longest; /* a clip is heard at once */
  if (x->B < 1)
    return ka_fail(ctx, KA_E_INPUT,
                   "a prompt of %lld tokens with its sound, %lld are taken at once",
                   (long long)longest, (long long)rows);
  KA_TRY(allocate(x, longest));
  KA_TRY(measure_until(x));
  KA_TRY(ka_decoder_attach(&x->decoder, x->m, x->B, longest + x->g->max_tokens));
  for (int64_t i = 0; i < n; i += x->B)
    KA_TRY(run_batch(x, order + i, n - i < x->B ? n - i : x->B));
  return KA_STATUS_OK;
}

ka_status ka_eval_generate_answers(struct ka_ctx *ctx, struct ka_model *m,
                                   struct ka_eval_prompt *prompts, int64_t n,
                                   const struct ka_eval_generation *g) {
  struct generator x = {.ctx = ctx, .m = m, .g = g};
  if (n == 0) return KA_STATUS_OK;
  ka_arena_init(&x.arena, ctx, "answers");
  ka_status st = run(&x, prompts, n);
  ka_decoder_deinit(&x.decoder);
  ka_str_deinit(&x.end);
  ka_str_deinit(&x.tail);
  ka_arena_deinit(&x.arena);
  return st;
}
