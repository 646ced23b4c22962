/* SPDX-License-Identifier: Apache-2.0
 * The end of a run in words; see run_report.h. */
#include "engine/train/run_report.h"

#include "engine/train/held_out.h"

#include <math.h>

enum { MAX_FACTS = 16 };

static double kappa_of(const json_t *kappa, const char *slice) {
  const json_t *v = json_object_get(kappa, slice);
  return json_is_number(v) ? json_number_value(v) : NAN;
}

static ka_status make_units(struct ka_run *r, const json_t *before, const json_t *after,
                            struct ka_report_unit **out) {
  struct ka_ctx *ctx = r->ctx;
  void *mem = NULL;
  KA_TRY(ka_arena_alloc_n(&r->arena, &mem, r->optim.n, sizeof **out, "report units"));
  *out = mem;
  for (int64_t i = 0; i < r->optim.n; i++) {
    const struct ka_slice *s = &r->model.slices[i];
    struct ka_report_unit *u = &(*out)[i];
    const char *slice;
    KA_TRY(ka_optim_slice_name(&r->arena, &r->optim, i, &slice));
    *u = (struct ka_report_unit){.name = r->optim.slices[i].tensor,
                                 .part = "",
                                 .n_elems = s->n_rows * s->n_cols,
                                 .lr_scale = r->optim.slices[i].part.lr_scale,
                                 .kappa_before = kappa_of(before, slice),
                                 .kappa_after = kappa_of(after, slice)};
    if (!r->optim.slices[i].whole)
      KA_TRY(ka_arena_printf(&r->arena, &u->part, "rows %lld to %lld, columns %lld to %lld",
                             (long long)s->row, (long long)(s->row + s->n_rows), (long long)s->col,
                             (long long)(s->col + s->n_cols)));
  }
  return KA_STATUS_OK;
}

static ka_status make_facts(struct ka_run *r, const struct ka_loop *loop,
                            struct ka_report_fact facts[MAX_FACTS], int64_t *n) {
  struct ka_ctx *ctx = r->ctx;
  const struct ka_selection *s = &r->selection.chosen;
  const struct ka_job *job = r->job;
  char a[32], b[32];
  double trained = 0, all = (double)ka_model_n_elems(&r->model);
  int64_t i = 0;
  for (int64_t k = 0; k < r->model.n_slices; k++)
    trained += (double)(r->model.slices[k].n_rows * r->model.slices[k].n_cols);
  facts[i++] = (struct ka_report_fact){"job", job->file.path};
  facts[i++] = (struct ka_report_fact){"base model", job->base_model};
  facts[i].name = "selection";
  KA_TRY(ka_arena_printf(&r->arena, &facts[i++].value, "%lld units by %s, %s first",
                         (long long)s->n_units, s->metric ? s->metric : "file",
                         s->highest ? "highest" : "lowest"));
  facts[i].name = "trained parameters";
  KA_TRY(ka_arena_printf(&r->arena, &facts[i++].value, "%s of %s (%.2f %%)",
                         ka_fmt_count(trained, a), ka_fmt_count(all, b), 100 * trained / all));
  facts[i].name = "steps";
  KA_TRY(ka_arena_printf(&r->arena, &facts[i++].value, "%lld, %s tokens, %lld x %lld a micro-batch",
                         (long long)loop->step, ka_fmt_count((double)loop->n_tok, a),
                         (long long)job->micro_batch_size, (long long)job->sequence_len));
  facts[i].name = "AdamW";
  KA_TRY(ka_arena_printf(&r->arena, &facts[i++].value,
                         "learning rate %g (%s), betas %g and %g, weight decay %g, clipped at %g",
                         job->learning_rate, job->lr_scheduler, job->adam_beta1, job->adam_beta2,
                         job->weight_decay, job->max_grad_norm));
  facts[i].name = "anchor";
  KA_TRY(ka_run_anchor_text(r, &facts[i++].value));
  facts[i++] = (struct ka_report_fact){"computed in", ka_dtype_name(r->model.compute)};
  facts[i].name = "seed";
  KA_TRY(ka_arena_printf(&r->arena, &facts[i++].value, "%lld", (long long)job->seed));
  *n = i;
  return KA_STATUS_OK;
}

static ka_status write_held_out(struct ka_run *r, const struct ka_report_held_out *rows,
                                int64_t n) {
  struct ka_ctx *ctx = r->ctx;
  const char *path;
  if (n == 0) return KA_STATUS_OK;
  json_t *all = json_array();
  for (int64_t i = 0; i < n; i++)
    json_array_append_new(all, json_pack("{s:s, s:f, s:f, s:f, s:I}", "name", rows[i].name,
                                         "loss_before", rows[i].before, "loss_after", rows[i].after,
                                         "change", rows[i].after - rows[i].before, "tokens",
                                         (json_int_t)rows[i].n_tokens));
  ka_status st = ka_path_join(&r->arena, &path, r->job->output_dir, "held_out.json");
  if (ka_ok(st)) st = ka_json_write(ctx, all, path);
  json_decref(all);
  return st;
}

ka_status ka_run_report(struct ka_run *r, const struct ka_loop *loop, const json_t *held_out,
                        const json_t *kappa) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_report_fact facts[MAX_FACTS];
  struct ka_report report = {.subtitle = r->job->output_dir, .facts = facts, .n_units = r->optim.n};
  struct ka_report_held_out *rows = NULL;
  struct ka_report_unit *units = NULL;
  const char *path;
  json_t *log = NULL;
  KA_TRY(ka_arena_printf(&r->arena, &report.title, "kappa: %s", ka_path_base(r->job->file.path)));
  KA_TRY(ka_held_out_rows(&r->arena, json_object_get(loop->carried, "held_out"), held_out, &rows,
                          &report.n_held_out));
  report.held_out = rows;
  KA_TRY(make_units(r, json_object_get(loop->carried, "kappa_before"), kappa, &units));
  report.units = units;
  KA_TRY(make_facts(r, loop, facts, &report.n_facts));
  KA_TRY(write_held_out(r, rows, report.n_held_out));
  ka_held_out_print(rows, report.n_held_out);
  KA_TRY(ka_jsonl_read(ctx, loop->log->path, &log));
  report.log = log;
  ka_status st = ka_path_join(&r->arena, &path, r->job->output_dir, "report.html");
  if (ka_ok(st)) st = ka_report_write(ctx, &report, path);
  json_decref(log);
  return st;
}
