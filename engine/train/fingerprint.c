/* SPDX-License-Identifier: Apache-2.0
 * What a run depends on; see fingerprint.h. */
#include "engine/train/fingerprint.h"

#include "base/log.h"

#include <string.h>

/* Which tokens a step sees, how they are computed, and what is minimised. */
static const char *const fixed[] = {"sequence_len",
                                    "sample_packing",
                                    "length_policy",
                                    "shuffle",
                                    "train_on_inputs",
                                    "val_set_size",
                                    "seed",
                                    "micro_batch_size",
                                    "gradient_accumulation_steps",
                                    "micro_batches",
                                    "compute",
                                    "optimizer_dtype",
                                    "model_elems",
                                    "anchor",
                                    "anchor_by",
                                    NULL};

static bool is_fixed(const char *key) {
  for (int i = 0; fixed[i]; i++)
    if (strcmp(key, fixed[i]) == 0) return true;
  return false;
}

json_t *ka_fingerprint(const struct ka_run *r) {
  const struct ka_job *j = r->job;
  json_t *a = json_pack(
      "{s:I, s:b, s:s, s:b, s:b, s:f, s:I, s:I, s:I, s:I, s:s, s:s, s:I}", "sequence_len",
      (json_int_t)j->sequence_len, "sample_packing", j->sample_packing, "length_policy",
      j->length_policy, "shuffle", j->shuffle, "train_on_inputs", j->train_on_inputs,
      "val_set_size", j->val_set_size, "seed", (json_int_t)j->seed, "micro_batch_size",
      (json_int_t)j->micro_batch_size, "gradient_accumulation_steps",
      (json_int_t)j->gradient_accumulation_steps, "micro_batches", (json_int_t)r->data.train.n,
      "compute", ka_dtype_name(r->model.compute), "optimizer_dtype", j->optimizer_dtype,
      "model_elems", (json_int_t)ka_model_n_elems(&r->model));
  json_t *b =
      json_pack("{s:I, s:f, s:s, s:f, s:I, s:f, s:f, s:f, s:f, s:f, s:s, s:s, s:f}", "steps",
                (json_int_t)r->loop.schedule.n_steps, "learning_rate", j->learning_rate,
                "lr_scheduler", j->lr_scheduler, "cosine_min_lr_ratio", j->cosine_min_lr_ratio,
                "warmup_steps", (json_int_t)r->loop.schedule.warmup_steps, "adam_beta1",
                j->adam_beta1, "adam_beta2", j->adam_beta2, "adam_epsilon", j->adam_epsilon,
                "weight_decay", j->weight_decay, "max_grad_norm", j->max_grad_norm, "anchor",
                j->anchor.kind, "anchor_by", j->anchor.by, "anchor_weight", j->anchor.weight);
  if (a && b) json_object_update(a, b);
  json_decref(b);
  return a;
}

static ka_status compare(struct ka_run *r, const json_t *saved, json_t *now, struct ka_str *refused,
                         struct ka_str *changed) {
  struct ka_ctx *ctx = r->ctx;
  const char *key;
  json_t *value;
  json_object_foreach(now, key, value) {
    const json_t *old = json_object_get(saved, key);
    if (old && json_equal(old, value)) continue;
    struct ka_str *to = is_fixed(key) ? refused : changed;
    char *was = old ? json_dumps(old, JSON_ENCODE_ANY) : NULL;
    char *is = json_dumps(value, JSON_ENCODE_ANY);
    ka_status st = ka_str_printf(ctx, to, "%s%s was %s, is %s", to->len ? "; " : "", key,
                                 was ? was : "absent", is ? is : "?");
    free(was);
    free(is);
    KA_TRY(st);
  }
  return KA_STATUS_OK;
}

ka_status ka_fingerprint_check(struct ka_run *r, const json_t *saved) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_str refused = {0}, changed = {0};
  json_t *now = ka_fingerprint(r);
  ka_status st = now ? compare(r, saved, now, &refused, &changed)
                     : ka_fail(ctx, KA_E_MEMORY, "fingerprint: out of memory");
  if (ka_ok(st) && refused.len > 0)
    st = ka_fail(ctx, KA_E_INPUT, "%s: the job does not continue this run: %s", r->checkpoint,
                 refused.data);
  if (ka_ok(st) && changed.len > 0)
    ka_warn(ctx, "train", "the job differs from the interrupted run: %s", changed.data);
  ka_str_deinit(&refused);
  ka_str_deinit(&changed);
  json_decref(now);
  return st;
}
