/* SPDX-License-Identifier: Apache-2.0
 * Requests to token ids, the harness's way or kappa's own. The harness encodes the context, and
 * context and continuation together, and takes what is longer in the second as the continuation:
 * where a token spans the border, it is silently cut elsewhere. Kappa's own way scores every token
 * that reaches beyond the context. */
#include "base/log.h"
#include "engine/eval/task_set.h"

#include <stdio.h>
#include <string.h>

struct encoder {
  const struct ka_tasks *t;
  const struct ka_task *task;
  struct ka_str prefix_text; /* the prefix token as text */
};

struct worker { /* of one request */
  struct ka_ctx *ctx;
  const struct encoder *e;
  struct ka_tok_tokens whole, context;
  struct ka_str text;
};

/* As the tokenizer does it by itself, but for a text that starts with the prefix token already. */
static ka_status encode(struct worker *w, const char *p, size_t n, struct ka_tok_tokens *out) {
  const struct ka_str *prefix = &w->e->prefix_text;
  bool special = w->e->t->encoding.add_bos != 0;
  if (n >= prefix->len && memcmp(p, prefix->data ? prefix->data : "", prefix->len) == 0)
    special = false;
  ka_tok_tokens_clear(out);
  return ka_tokenizer_encode(w->ctx, w->e->t->tokenizer, p, n, special, out);
}

/* ids = before[n_before], then ids[n]; the last n_targets are targets. */
static ka_status keep(struct worker *w, struct ka_eval_request *r, const int32_t *before,
                      int64_t n_before, const int32_t *ids, int64_t n, int64_t n_targets) {
  struct ka_ctx *ctx = w->ctx;
  KA_TRY(KA_NEW_HEAP(ctx, &r->ids, n_before + n, "requests"));
  r->n = n_before + n;
  r->n_targets = n_targets;
  if (n_before > 0) memcpy(r->ids, before, (size_t)n_before * sizeof *before);
  if (n > 0) memcpy(r->ids + n_before, ids, (size_t)n * sizeof *ids);
  return KA_STATUS_OK;
}

static ka_status no_prefix(struct worker *w) {
  return ka_fail(w->ctx, KA_E_INPUT,
                 "the tokenizer has neither BOS nor EOS to stand before a text without a context; "
                 "give --prefix-token");
}

static ka_status without_context(struct worker *w, struct ka_eval_request *r) {
  struct ka_ctx *ctx = w->ctx;
  const struct ka_eval_text *text = &r->continuation;
  int32_t prefix = w->e->t->prefix_token;
  if (prefix < 0) return no_prefix(w);
  ka_tok_tokens_clear(&w->whole);
  KA_TRY(ka_tokenizer_encode(ctx, w->e->t->tokenizer, text->p, text->n, false, &w->whole));
  if (w->whole.n > 0 && w->whole.ids[0] == prefix)
    return keep(w, r, NULL, 0, w->whole.ids, w->whole.n, w->whole.n - 1);
  return keep(w, r, &prefix, 1, w->whole.ids, w->whole.n, w->whole.n);
}

static ka_status pair_of_harness(struct worker *w, struct ka_eval_request *r) {
  struct ka_ctx *ctx = w->ctx;
  int32_t prefix = w->e->t->prefix_token;
  size_t n = ka_py_rstrip(r->context.p, r->context.n); /* its blanks go to the continuation */
  KA_TRY(encode(w, w->text.data, w->text.len, &w->whole));
  KA_TRY(encode(w, r->context.p, n, &w->context));
  int64_t n_context = w->context.n, rest = w->whole.n - n_context;
  const int32_t *targets = w->whole.ids + (rest > 0 ? n_context : 0);
  if (rest < 0) rest = 0;
  if (n_context > 0) return keep(w, r, w->context.ids, n_context, targets, rest, rest);
  return prefix < 0 ? no_prefix(w) : keep(w, r, &prefix, 1, targets, rest, rest);
}

static ka_status pair_of_kappa(struct worker *w, struct ka_eval_request *r) {
  struct ka_ctx *ctx = w->ctx;
  int32_t prefix = w->e->t->prefix_token;
  int64_t border = (int64_t)r->context.n, end = (int64_t)w->text.len, first = 0;
  w->whole.want_spans = true;
  KA_TRY(encode(w, w->text.data, w->text.len, &w->whole));
  const struct ka_tok_span *spans = w->whole.spans;
  int64_t n = w->whole.n;
  while (n > 0 && spans[n - 1].begin == spans[n - 1].end && spans[n - 1].begin == end) n--;
  while (first < n && spans[first].end <= border) first++;
  if (first > 0) return keep(w, r, NULL, 0, w->whole.ids, n, n - first);
  return prefix < 0 ? no_prefix(w) : keep(w, r, &prefix, 1, w->whole.ids, n, n);
}

static ka_status pair(struct worker *w, struct ka_eval_request *r) {
  struct ka_ctx *ctx = w->ctx;
  if (r->context.n == 0) return without_context(w, r);
  KA_TRY(ka_str_append(ctx, &w->text, r->context.p, r->context.n));
  KA_TRY(ka_str_append(ctx, &w->text, r->continuation.p, r->continuation.n));
  return w->e->task->native ? pair_of_kappa(w, r) : pair_of_harness(w, r);
}

/* The harness scores special tokens too that the tokenizer puts at the start. */
static ka_status rolling(struct worker *w, struct ka_eval_request *r) {
  struct ka_ctx *ctx = w->ctx;
  const struct ka_eval_text *text = &r->continuation;
  int32_t prefix = w->e->t->prefix_token;
  if (prefix < 0) return no_prefix(w);
  if (w->e->task->native)
    KA_TRY(ka_tokenizer_encode(ctx, w->e->t->tokenizer, text->p, text->n, false, &w->whole));
  else
    KA_TRY(encode(w, text->p, text->n, &w->whole));
  return keep(w, r, &prefix, 1, w->whole.ids, w->whole.n, w->whole.n);
}

static ka_status heard(struct worker *w, struct ka_eval_request *r) {
  struct ka_ctx *ctx = w->ctx;
  const struct ka_speech *speech = w->e->t->encoding.speech;
  if (!speech)
    return ka_fail(ctx, KA_E_INPUT,
                   "doc_to_audio: the model hears nothing: its directory has no projector.json");
  ka_tok_tokens_clear(&w->whole);
  KA_TRY(ka_speech_prompt(ctx, speech, w->e->t->tokenizer, r->clip.path, r->context.p, r->context.n,
                          &w->whole, &r->clip));
  return keep(w, r, NULL, 0, w->whole.ids, w->whole.n, 0);
}

static ka_status generation(struct worker *w, struct ka_eval_request *r) {
  struct ka_ctx *ctx = w->ctx;
  int32_t prefix = w->e->t->prefix_token;
  if (r->clip.path) return heard(w, r);
  KA_TRY(encode(w, r->context.p, r->context.n, &w->whole));
  if (w->whole.n > 0) return keep(w, r, NULL, 0, w->whole.ids, w->whole.n, 0);
  return prefix < 0 ? no_prefix(w) : keep(w, r, &prefix, 1, NULL, 0, 0);
}

/* Cuts the beginning of what is too long; *cut: it was. */
static ka_status fit(struct worker *w, struct ka_eval_request *r, bool *cut) {
  const struct ka_task *task = w->e->task;
  int64_t most = w->e->t->encoding.max_length, room = most + 1;
  if (task->output == KA_OUT_ROLLING) return KA_STATUS_OK; /* in windows */
  if (task->output == KA_OUT_GENERATE) room = most - task->max_gen_toks;
  if (room < 1)
    return ka_fail(w->ctx, KA_E_INPUT,
                   "generation_kwargs: answers of %lld tokens leave no room for a context, the "
                   "model takes %lld tokens at once",
                   (long long)task->max_gen_toks, (long long)most);
  if (task->output != KA_OUT_GENERATE && r->n_targets < 1)
    return ka_fail(w->ctx, KA_E_INPUT,
                   "the target \"%.60s\" has no token of its own behind the context",
                   r->continuation.p);
  if (r->n_targets > most)
    return ka_fail(w->ctx, KA_E_INPUT, "a target of %lld tokens, the model takes %lld at once",
                   (long long)r->n_targets, (long long)most);
  if (r->clip.path && r->n > room)
    return ka_fail(w->ctx, KA_E_INPUT, "%s: %lld tokens with its context, there is room for %lld",
                   r->clip.path, (long long)r->n, (long long)room);
  *cut = r->n > room;
  if (!*cut) return KA_STATUS_OK;
  memmove(r->ids, r->ids + r->n - room, (size_t)room * sizeof *r->ids);
  r->n = room;
  return KA_STATUS_OK;
}

static ka_status encode_request(struct ka_ctx *ctx, const struct encoder *e,
                                struct ka_eval_request *r, bool *cut) {
  struct worker w = {.ctx = ctx, .e = e};
  ka_status st = KA_STATUS_OK;
  ka_free(r->ids);
  r->ids = NULL;
  KA_TRY(ka_check_interrupted(ctx, "evaluation"));
  switch (e->task->output) {
  case KA_OUT_GENERATE:
    KA_TRY_GOTO(generation(&w, r), out);
    break;
  case KA_OUT_ROLLING:
    KA_TRY_GOTO(rolling(&w, r), out);
    break;
  default:
    KA_TRY_GOTO(pair(&w, r), out);
  }
  KA_TRY_GOTO(fit(&w, r, cut), out);
out:
  ka_tok_tokens_deinit(&w.whole);
  ka_tok_tokens_deinit(&w.context);
  ka_str_deinit(&w.text);
  return st;
}

/* Many threads at a time; of several failures the first one is reported. */
static ka_status encode_task(struct ka_ctx *ctx, const struct encoder *e, struct ka_task *task,
                             int64_t *n_cut) {
  int64_t failed = task->n_requests, cuts = 0;
  struct ka_error error = {0};
#pragma omp parallel for schedule(dynamic, 16) reduction(+ : cuts)
  for (int64_t i = 0; i < task->n_requests; i++) {
    struct ka_ctx own;
    bool cut = false;
    ka_ctx_init(&own);
    own.interrupted = ctx->interrupted;
    ka_status st = encode_request(&own, e, &task->requests[i], &cut);
    cuts += cut;
    if (ka_ok(st)) continue;
#pragma omp critical
    if (i < failed) {
      failed = i;
      error = own.error;
    }
  }
  *n_cut += cuts;
  if (failed == task->n_requests) return KA_STATUS_OK;
  int64_t doc = 0;
  while (doc + 1 < task->n_items && task->items[doc + 1].first <= failed) doc++;
  return ka_task_fail_doc(task, ka_fail(ctx, error.code, "%s", error.message), doc);
}

ka_status ka_tasks_encode(struct ka_ctx *ctx, struct ka_tasks *t,
                          const struct ka_tokenizer *tokenizer,
                          const struct ka_eval_encode_options *o) {
  struct encoder e = {.t = t};
  int64_t n_cut = 0; /* requests that lost their beginning */
  t->tokenizer = tokenizer;
  t->encoding = *o;
  t->prefix_token = o->prefix_token >= 0 ? o->prefix_token : ka_tokenizer_bos(tokenizer);
  if (t->prefix_token < 0) t->prefix_token = ka_tokenizer_eos(tokenizer);
  ka_status st = KA_STATUS_OK;
  if (t->prefix_token >= 0)
    st = ka_tokenizer_decode(ctx, tokenizer, &t->prefix_token, 1, false, &e.prefix_text);
  bool none = e.prefix_text.len == 0; /* nothing starts with it */
  if (ka_ok(st) && none) st = ka_str_append(ctx, &e.prefix_text, "\xff", 1);
  for (int64_t i = 0; i < t->n_tasks && ka_ok(st); i++) {
    e.task = t->tasks[i];
    st = encode_task(ctx, &e, t->tasks[i], &n_cut);
  }
  ka_str_deinit(&e.prefix_text);
  if (ka_ok(st) && n_cut > 0)
    ka_warn(ctx, "eval", "%lld requests are longer than %lld tokens and lose their beginning",
            (long long)n_cut, (long long)o->max_length);
  return st;
}

int64_t ka_tasks_positions(const struct ka_tasks *t) {
  int64_t most = 1;
  for (int64_t i = 0; i < t->n_tasks; i++) {
    const struct ka_task *task = t->tasks[i];
    for (int64_t k = 0; k < task->n_requests; k++) {
      int64_t n = task->requests[k].n;
      n = task->output == KA_OUT_GENERATE ? n + task->max_gen_toks : n - 1;
      if (task->output == KA_OUT_ROLLING && n > t->encoding.max_length) n = t->encoding.max_length;
      if (n > most) most = n;
    }
  }
  return most;
}

int64_t ka_tasks_n_requests(const struct ka_tasks *t) {
  int64_t n = 0;
  for (int64_t i = 0; i < t->n_tasks; i++) n += t->tasks[i]->n_requests;
  return n;
}
