/* SPDX-License-Identifier: Apache-2.0
 * See scoring.h. */
#include "engine/forget/scoring.h"

#include "base/log.h"
#include "engine/eval/text_loss.h"
#include "engine/train/divergence.h"

#include <math.h>
#include <string.h>

enum { BATCH_TOKENS = 4096 }; /* where no job says */

static int64_t positions_of(const struct ka_forget_scoring *s) {
  int64_t n = ka_measures_positions(&s->measures);
  int64_t T = s->T < s->base.model.recipe.max_positions ? s->T : s->base.model.recipe.max_positions;
  return n > T ? n : T;
}

static ka_status open_measures(struct ka_forget_scoring *s) {
  struct ka_ctx *ctx = s->ctx;
  const struct ka_job *job = s->spec.job;
  int64_t most = s->base.model.recipe.max_positions;
  int64_t window = s->spec.window > 0 ? s->spec.window : ka_eval_text_window(most);
  if (window > most)
    return ka_fail(ctx, KA_E_USAGE, "--window: got %lld, expected 1 to %lld, the base's positions",
                   (long long)window, (long long)most);
  s->T = job ? job->sequence_len : window + 1;
  s->B = job ? job->micro_batch_size : s->T < BATCH_TOKENS ? BATCH_TOKENS / s->T : 1;
  if (job) {
    KA_TRY(ka_train_data_open(ctx, &s->data, job, &s->base, s->has_speech ? &s->speech : NULL));
    s->spec.measures = ka_measures_spec_of_job(job, s->data.validation.n > 0);
    s->spec.weight = job->forgetting.weight;
  }
  KA_TRY(ka_measures_open(ctx, &s->measures, &s->spec.measures, s->has_speech ? &s->speech : NULL,
                          s->base.tokenizer, most));
  if (s->measures.n == 0)
    return ka_fail(ctx, KA_E_INPUT, "nothing to measure: name tasks or texts, old and new");
  return KA_STATUS_OK;
}

static ka_status score(struct ka_forget_scoring *s, struct ka_model *m, double *values) {
  struct ka_ctx *ctx = s->ctx;
  double validation = NAN;
  int64_t n_targets = 0;
  m->max_position = positions_of(s);
  KA_TRY(ka_model_prepare(m, s->B, s->T, false));
  if (s->spec.measures.validation)
    KA_TRY(ka_train_source_loss(m, &s->data.validation, &validation, &n_targets));
  if (s->spec.measures.validation) s->measures.items[0].n = n_targets;
  return ka_measures_score(&s->measures, m, s->B, s->T, validation, values);
}

static ka_status divergence(struct ka_forget_scoring *s, struct ka_model *m, double *kl) {
  struct ka_ctx *ctx = s->ctx;
  KA_TRY(ka_measures_divergence(&s->measures, &s->base.model, m, s->B, s->T, false, kl));
  if (!s->spec.measures.validation || s->has_speech) return KA_STATUS_OK;
  return ka_train_source_divergence(&s->base.model, m, &s->data.validation, kl);
}

/* The base of a job hears by the projector that training starts from, any other not at all. */
static ka_status open_speech(struct ka_forget_scoring *s) {
  struct ka_ctx *ctx = s->ctx;
  const struct ka_job *job = s->spec.job;
  if (!job && s->spec.tuned)
    return ka_speech_read(&s->base.model.meta, &s->speech, s->spec.tuned, &s->has_speech);
  if (!job || !ka_speech_wanted(job)) return KA_STATUS_OK;
  s->has_speech = true;
  KA_TRY(ka_speech_of_job(ctx, &s->speech, job));
  return ka_speech_open_job(&s->base.model, &s->speech, job);
}

static ka_status open_base(struct ka_forget_scoring *s) {
  struct ka_ctx *ctx = s->ctx;
  KA_TRY(ka_session_open(ctx, &s->base, s->spec.base, NULL, s->spec.device));
  s->compute = s->spec.job ? ka_run_dtype(s->spec.job, &s->base.dev) : s->spec.dtype;
  KA_TRY(ka_session_load(ctx, &s->base, s->compute, false));
  return open_speech(s);
}

ka_status ka_forget_scoring_open(struct ka_ctx *ctx, struct ka_forget_scoring *s,
                                 const struct ka_forget_scoring_spec *spec) {
  *s = (struct ka_forget_scoring){.ctx = ctx, .spec = *spec};
  ka_arena_init(&s->arena, ctx, "scoring");
  KA_TRY(open_base(s));
  KA_TRY(open_measures(s));
  KA_TRY(KA_NEW(&s->arena, &s->values, 3 * s->measures.n, "measures"));
  ka_info(ctx, "score", "the base, %s", s->spec.base);
  return score(s, &s->base.model, s->values);
}

void ka_forget_scoring_close(struct ka_forget_scoring *s) {
  ka_measures_close(&s->measures);
  if (s->spec.job) ka_train_data_close(&s->data);
  ka_session_close(&s->base);
  ka_arena_deinit(&s->arena);
}

/* Elements from the first to the last row and column that differ; the last row, where a budget may
 * have ended, up to its own last one. */
static double n_between(const struct ka_tensor *a, const struct ka_tensor *b) {
  size_t width = ka_dtype_bytes(a->dtype);
  int64_t cols = a->n_dim > 0 ? a->shape[a->n_dim - 1] : 1, n = ka_tensor_elems(a);
  int64_t first = -1, last = 0, low = cols, high = -1, end = -1;
  const char *x = a->data, *y = b->data;
  for (int64_t r = 0; cols > 0 && r < n / cols; r++) {
    const char *p = x + (size_t)(r * cols) * width, *q = y + (size_t)(r * cols) * width;
    if (memcmp(p, q, (size_t)cols * width) == 0) continue;
    int64_t from = 0, to = cols - 1;
    while (memcmp(p + (size_t)from * width, q + (size_t)from * width, width) == 0) from++;
    while (memcmp(p + (size_t)to * width, q + (size_t)to * width, width) == 0) to--;
    if (first < 0) first = r;
    last = r;
    end = to;
    low = from < low ? from : low;
    high = to > high ? to : high;
  }
  if (first < 0) return 0;
  return (double)(last - first) * (double)(high + 1 - low) + (double)(end + 1 - low);
}

/* NaN: a dtype differs, or a tensor is not in the base. */
static double n_changed(const struct ka_model *base, const struct ka_model *m) {
  double n = 0;
  for (int64_t i = 0; i < m->n_params; i++) {
    const struct ka_tensor *t = &m->params[i].stored, *b;
    int64_t at = ka_model_param(base, m->params[i].name);
    if (at < 0) return NAN;
    b = &base->params[at].stored;
    if (b->dtype != t->dtype || ka_tensor_bytes(b) != ka_tensor_bytes(t)) return NAN;
    if (b->data != t->data) n += n_between(t, b);
  }
  return n;
}

/* n_adapter: what an adapter trained; its merge touches more. */
static ka_status report(struct ka_forget_scoring *s, const struct ka_model *m, int64_t n_adapter,
                        double start_s, json_t *out) {
  struct ka_ctx *ctx = s->ctx;
  double changed = n_adapter > 0 ? (double)n_adapter : n_changed(&s->base.model, m);
  KA_TRY(ka_json_set(ctx, out, "params", json_integer((json_int_t)ka_model_n_elems(m))));
  KA_TRY(ka_json_set(ctx, out, "trained_params",
                     isnan(changed) ? json_null() : json_integer((json_int_t)changed)));
  KA_TRY(ka_json_set(ctx, out, "seconds", json_real(ka_now_s() - start_s)));
  return ka_measures_report(&s->measures, s->values, 2, s->values + 2 * s->measures.n,
                            s->spec.weight, out);
}

ka_status ka_forget_scoring_source(struct ka_forget_scoring *s, struct ka_model_source *source,
                                   json_t **out) {
  struct ka_ctx *ctx = s->ctx;
  struct ka_model m = {0};
  struct ka_speech own;
  bool hears;
  int64_t n = s->measures.n;
  double start_s = ka_now_s(), *values = s->values + n, *kl = values + n;
  ka_status st = KA_STATUS_OK;
  *out = json_object();
  if (!*out) return ka_fail(ctx, KA_E_MEMORY, "report: out of memory");
  KA_TRY_GOTO(ka_model_open_source(ctx, &m, &s->base.dev, source, s->compute), out);
  KA_TRY_GOTO(ka_speech_open(&m, &own, source->dir, &hears), out);
  KA_TRY_GOTO(score(s, &m, values), out);
  KA_TRY_GOTO(divergence(s, &m, kl), out);
  KA_TRY_GOTO(report(s, &m, source->n_adapter, start_s, *out), out);
out:
  ka_model_close(&m);
  if (!ka_ok(st)) {
    json_decref(*out);
    *out = NULL;
  }
  return st;
}

ka_status ka_forget_scoring_model(struct ka_forget_scoring *s, const char *model, json_t **out) {
  struct ka_model_source source = {0};
  *out = NULL;
  ka_info(s->ctx, "score", "%s", model);
  ka_status st = ka_model_source_open(s->ctx, &source, model, NULL);
  if (ka_ok(st)) st = ka_forget_scoring_source(s, &source, out);
  ka_model_source_close(&source);
  return st;
}
