/* SPDX-License-Identifier: Apache-2.0
 * Loss of held-out texts before and after training; see held_out.h. */
#include "engine/train/held_out.h"

#include "base/log.h"
#include "engine/data/rows.h"
#include "engine/eval/text_loss.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A row is a document: a whole text file, or the text of a JSON or CSV row. */
static ka_status score_row(struct ka_run *r, const struct ka_job_held_out *h,
                           const struct ka_row *row, struct ka_text_scorer *s) {
  struct ka_ctx *ctx = r->ctx;
  if (ka_row_is_text(row)) {
    size_t bad = ka_utf8_check(row->bytes, row->n);
    if (bad == row->n) return ka_text_scorer_document(s, row->bytes, row->n);
    if (!ka_row_named(row)) return KA_STATUS_OK; /* only a directory or glob found it */
    return ka_fail(ctx, KA_E_INPUT, "%s: byte %zu is not valid UTF-8", ka_row_path(row), bad);
  }
  json_t *object = NULL;
  KA_TRY(ka_row_parse(ctx, row, &object));
  const json_t *text = json_object_get(object, h->field);
  ka_status st = KA_STATUS_OK;
  if (json_is_string(text))
    st = ka_text_scorer_document(s, json_string_value(text), json_string_length(text));
  else
    st = ka_fail(ctx, KA_E_INPUT, "%s:%lld: \"%s\": a string is expected", ka_row_path(row),
                 (long long)row->line, h->field);
  json_decref(object);
  return st;
}

static ka_status score_files(struct ka_run *r, const struct ka_job_held_out *h,
                             struct ka_text_scorer *s) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_data_files files;
  struct ka_rows rows;
  struct ka_row batch[KA_ROWS_BATCH];
  int n = 0;
  KA_TRY(ka_data_files(&r->arena, &h->path, &h->data_files, &h->exclude_files, &files));
  KA_TRY(ka_rows_init(&rows, ctx, &files, "auto", h->split, "held_out: split"));
  ka_status st = KA_STATUS_OK;
  do {
    KA_TRY_GOTO(ka_rows_next(&rows, batch, &n), out);
    for (int i = 0; i < n; i++) KA_TRY_GOTO(score_row(r, h, &batch[i], s), out);
  } while (n > 0);
out:
  ka_rows_deinit(&rows);
  return st;
}

static ka_status measure_one(struct ka_run *r, const struct ka_job_held_out *h, json_t *out) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_text_scorer s = {0};
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_text_scorer_init(ctx, &s, &r->model, r->tokenizer, r->job->micro_batch_size,
                                  r->job->sequence_len),
              out);
  KA_TRY_GOTO(score_files(r, h, &s), out);
  KA_TRY_GOTO(ka_text_scorer_finish(&s), out);
  double loss = ka_text_loss_per_token(&s.total);
  if (!isfinite(loss)) {
    st = ka_fail(ctx, KA_E_CHECK, "held_out %s: the loss is %g over %lld tokens", h->name, loss,
                 (long long)s.total.n_tokens);
    goto out;
  }
  ka_info(ctx, "train", "held_out %s: loss %.4f (%lld tokens)", h->name, loss,
          (long long)s.total.n_tokens);
  if (json_array_append_new(out, json_pack("{s:s, s:f, s:I}", "name", h->name, "loss", loss,
                                           "tokens", (json_int_t)s.total.n_tokens)) != 0)
    st = ka_fail(ctx, KA_E_MEMORY, "held_out: out of memory");
out:
  ka_text_scorer_deinit(&s);
  return st;
}

ka_status ka_held_out_measure(struct ka_run *r, json_t **out) {
  struct ka_ctx *ctx = r->ctx;
  *out = json_array();
  if (!*out) return ka_fail(ctx, KA_E_MEMORY, "held_out: out of memory");
  if (r->job->held_out.n > 0 && !r->tokenizer)
    return ka_fail(ctx, KA_E_INPUT, "%s: held_out: %s has no tokenizer.json to read text with",
                   ka_job_place(r->job, "held_out"), r->job->base_model);
  for (int64_t i = 0; i < r->job->held_out.n; i++)
    KA_TRY(measure_one(r, &r->job->held_out.items[i], *out));
  return KA_STATUS_OK;
}

ka_status ka_held_out_rows(struct ka_arena *a, const json_t *before, const json_t *after,
                           struct ka_report_held_out **rows, int64_t *n) {
  struct ka_ctx *ctx = a->ctx;
  void *mem = NULL;
  KA_TRY(ka_arena_alloc_n(a, &mem, (int64_t)json_array_size(after), sizeof **rows, "held out"));
  *rows = mem;
  *n = 0;
  size_t i;
  const json_t *row;
  json_array_foreach(after, i, row) {
    const json_t *first = json_array_get(before, i);
    struct ka_report_held_out *h = &(*rows)[(*n)++];
    h->name = json_string_value(json_object_get(row, "name"));
    h->after = json_number_value(json_object_get(row, "loss"));
    h->before = first ? json_number_value(json_object_get(first, "loss")) : NAN;
    h->n_tokens = json_integer_value(json_object_get(row, "tokens"));
  }
  return KA_STATUS_OK;
}

void ka_held_out_print(const struct ka_report_held_out *rows, int64_t n) {
  if (n == 0) return;
  int width = 8;
  for (int64_t i = 0; i < n; i++)
    if ((int)strlen(rows[i].name) > width) width = (int)strlen(rows[i].name);
  printf("%-*s  %11s  %8s  %8s\n", width, "held out", "loss before", "after", "change");
  for (int64_t i = 0; i < n; i++)
    printf("%-*s  %11.4f  %8.4f  %+8.4f\n", width, rows[i].name, rows[i].before, rows[i].after,
           rows[i].after - rows[i].before);
}
