/* SPDX-License-Identifier: Apache-2.0
 * Which examples a document gets. The draw is the harness's: one generator for the task, which goes
 * on from document to document; one example more where the document itself may be among them. */
#include "engine/eval/task.h"

static ka_status too_few(const struct ka_task *t, int64_t wanted) {
  return ka_fail(t->ctx, KA_E_INPUT,
                 "%s: num_fewshot: %lld examples%s are wanted, there are %lld to draw from",
                 ka_task_place(t, "num_fewshot"), (long long)wanted,
                 wanted > t->num_fewshot ? " (one may be the question itself)" : "",
                 (long long)json_array_size(t->pool));
}

static bool is_self(const struct ka_task *t, const json_t *doc, int64_t i) {
  return t->spare_self && json_equal(json_array_get(t->pool, (size_t)i), doc);
}

static ka_status first_n(const struct ka_task *t, const json_t *doc, int64_t *out) {
  int64_t n = 0, size = (int64_t)json_array_size(t->pool);
  for (int64_t i = 0; i < size && n < t->num_fewshot; i++)
    if (!is_self(t, doc, i)) out[n++] = i;
  return n == t->num_fewshot ? KA_STATUS_OK : too_few(t, t->num_fewshot);
}

/* Draws from those that differ from the document. */
static ka_status draw_others(struct ka_task *t, const json_t *doc, int64_t *out, int64_t *others) {
  struct ka_ctx *ctx = t->ctx;
  int64_t n = 0, size = (int64_t)json_array_size(t->pool);
  for (int64_t i = 0; i < size; i++)
    if (!is_self(t, doc, i)) others[n++] = i;
  if (n < t->num_fewshot) return too_few(t, t->num_fewshot);
  KA_TRY(ka_py_mt_sample(ctx, &t->mt, n, t->num_fewshot, out));
  for (int64_t i = 0; i < t->num_fewshot; i++) out[i] = others[out[i]];
  return KA_STATUS_OK;
}

static ka_status draw(struct ka_task *t, const json_t *doc, int64_t *out, int64_t *drawn) {
  struct ka_ctx *ctx = t->ctx;
  int64_t size = (int64_t)json_array_size(t->pool), n = 0;
  int64_t wanted = t->num_fewshot + (t->spare_self && json_object_size(doc) > 0);
  if (wanted > size) return too_few(t, wanted);
  KA_TRY(ka_py_mt_sample(ctx, &t->mt, size, wanted, drawn));
  for (int64_t i = 0; i < wanted && n < t->num_fewshot; i++)
    if (!is_self(t, doc, drawn[i])) out[n++] = drawn[i];
  return n == t->num_fewshot ? KA_STATUS_OK : draw_others(t, doc, out, drawn);
}

ka_status ka_eval_shots_draw(struct ka_task *t, const json_t *doc, int64_t *out) {
  struct ka_ctx *ctx = t->ctx;
  void *scratch;
  if (t->first_n) return first_n(t, doc, out);
  KA_TRY(ka_alloc_n(ctx, &scratch, (int64_t)json_array_size(t->pool) + 1, sizeof(int64_t),
                    "examples"));
  ka_status st = draw(t, doc, out, scratch);
  ka_free(scratch);
  return st;
}
