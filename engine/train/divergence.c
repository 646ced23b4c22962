/* SPDX-License-Identifier: Apache-2.0
 * See divergence.h. */
#include "engine/train/divergence.h"

#include "base/log.h"
#include "engine/eval/divergence.h"
#include "engine/train/ranks.h"

#include <math.h>

static bool validates(const struct ka_run *r) {
  return r->measures.n > 0 && r->measures.spec.validation && !r->has_speech;
}

bool ka_train_divergence_any(const struct ka_run *r, bool new_alone) {
  const struct ka_measures_spec *spec = &r->measures.spec;
  bool any = validates(r);
  for (int64_t i = 0; i < spec->n_texts; i++)
    any |= !new_alone || spec->texts[i].role == KA_ROLE_NEW;
  return any;
}

ka_status ka_train_base_open(struct ka_run *r, struct ka_model *base, bool measure) {
  struct ka_ctx *ctx = r->ctx;
  KA_TRY(ka_model_open(ctx, base, &r->open.dev, r->job->base_model, r->open.model.compute));
  return ka_model_prepare(base, r->job->micro_batch_size, r->job->sequence_len, measure);
}

ka_status ka_train_source_divergence(struct ka_model *base, struct ka_model *m,
                                     const struct ka_train_batch_source *source, double *kl) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_batch batch;
  int64_t n_targets = 0;
  double sum = 0;
  for (int64_t i = 0; i < source->n; i++) {
    KA_TRY(ka_check_interrupted(ctx, "validation"));
    KA_TRY(source->get(source->user, i, &batch));
    KA_TRY(ka_eval_divergence(ctx, base, m, &batch, &sum));
    n_targets += batch.n_targets;
  }
  *kl = sum / (double)n_targets;
  return KA_STATUS_OK;
}

static ka_status compare(struct ka_run *r, struct ka_model *base, bool new_alone, double *kl) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_model *m = &r->open.model;
  KA_TRY(ka_measures_divergence(&r->measures, base, m, r->job->micro_batch_size,
                                r->job->sequence_len, new_alone, kl));
  return validates(r) ? ka_train_source_divergence(base, m, &r->data.validation, kl) : KA_STATUS_OK;
}

ka_status ka_train_divergence(struct ka_run *r, bool new_alone, double *kl, bool *found) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_model base;
  for (int64_t i = 0; i < r->measures.n; i++) kl[i] = NAN;
  *found = true;
  if (!ka_train_divergence_any(r, new_alone)) return KA_STATUS_OK;
  ka_status st = ka_train_base_open(r, &base, false);
  double missing = st.code == KA_E_MEMORY;
  if (new_alone && (ka_ok(st) || missing > 0)) { /* a rank without it has all do without */
    ka_status agreed = ka_train_ranks_most(ctx, &missing, 1);
    if (ka_ok(st)) st = agreed;
  }
  if (ka_ok(st) && missing == 0) st = compare(r, &base, new_alone, kl);
  ka_model_close(&base);
  *found = missing == 0 && st.code != KA_E_MEMORY;
  if (*found || (!ka_ok(st) && st.code != KA_E_MEMORY)) return st;
  ka_warn(ctx, "train", "no memory for the base beside the model: no KL from it (%s)",
          ka_ok(st) ? "of another rank" : ctx->error.message);
  ka_error_clear(ctx);
  return KA_STATUS_OK;
}
