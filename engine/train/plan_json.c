/* SPDX-License-Identifier: Apache-2.0
 * See plan_json.h. */
#include "engine/train/plan_json.h"

#include "engine/train/plan_ranks.h"

#include <math.h>

static json_t *model_json(const struct ka_run *r) {
  return json_pack("{s:s, s:s, s:I, s:I, s:s, s:s}", "base_model", r->job->base_model, "family",
                   r->open.model.family->name, "parameters",
                   (json_int_t)ka_model_n_elems(&r->open.model), "layers",
                   (json_int_t)r->open.model.recipe.L, "computed_in",
                   ka_dtype_name(r->open.model.compute), "device", r->open.dev.backend->name);
}

static json_t *selection_json(const struct ka_run *r) {
  const struct ka_selection *s = &r->selection.chosen;
  json_t *units = json_array();
  int failed = 0;
  for (int64_t i = 0; i < s->n_units; i++)
    failed |=
        json_array_append_new(units, json_pack("{s:s, s:o, s:f}", "name", s->units[i].name, "kappa",
                                               ka_json_real(s->units[i].metrics[KA_METRIC_KAPPA]),
                                               "lr_scale", s->units[i].lr_scale));
  if (failed) json_decref(units);
  if (failed) units = NULL; /* which json_pack refuses */
  return json_pack("{s:s?, s:I, s:o}", "metric", s->metric, "trained_parameters",
                   (json_int_t)ka_model_n_trained(&r->open.model), "units", units);
}

static json_t *part_json(const struct ka_data_part_stats *p) {
  return json_pack("{s:I, s:I, s:I, s:I, s:I, s:f}", "documents", (json_int_t)p->n_documents,
                   "tokens", (json_int_t)p->n_tok, "trained_tokens", (json_int_t)p->n_targets,
                   "rows", (json_int_t)p->n_rows, "micro_batches", (json_int_t)p->n_batches, "full",
                   p->efficiency);
}

static json_t *data_json(const struct ka_run *r) {
  const struct ka_data_stats *s = ka_data_get_stats(r->data.data);
  return json_pack("{s:I, s:I, s:I, s:I, s:f, s:o, s:o}", "files", (json_int_t)s->n_files, "rows",
                   (json_int_t)s->n_rows, "bad_rows", (json_int_t)s->n_bad, "sound_files",
                   (json_int_t)s->n_clips, "sound_s", s->audio_s, "training",
                   part_json(&s->part[KA_DATA_TRAIN]), "validation",
                   part_json(&s->part[KA_DATA_VALIDATION]));
}

static json_t *steps_json(const struct ka_run *r) {
  return json_pack("{s:I, s:I, s:I, s:I, s:f, s:I, s:I}", "n", (json_int_t)r->loop.schedule.n_steps,
                   "micro_batch_size", (json_int_t)r->job->micro_batch_size, "accumulation",
                   (json_int_t)r->loop.accumulation, "sequence_len",
                   (json_int_t)r->job->sequence_len, "learning_rate", r->loop.schedule.peak_lr,
                   "warmup_steps", (json_int_t)r->loop.schedule.warmup_steps, "rows_of_base",
                   (json_int_t)r->self.per_step);
}

static json_t *arenas_json(const struct ka_run *r) {
  const struct ka_arena *const arenas[] = {&r->open.model.run, &r->optim.arena,
                                           &r->open.model.step};
  json_t *out = json_object();
  int failed = 0;
  for (size_t a = 0; a < sizeof arenas / sizeof *arenas; a++)
    for (int i = 0; i < arenas[a]->n_names; i++)
      failed |= json_object_set_new(out, arenas[a]->uses[i].name,
                                    json_integer((json_int_t)arenas[a]->uses[i].bytes));
  if (!failed) return out;
  json_decref(out);
  return NULL;
}

static json_t *memory_json(const struct ka_run *r, const struct ka_plan_figures *f) {
  return json_pack("{s:o, s:f, s:f, s:f, s:f, s:f, s:f, s:b}", "arenas", arenas_json(r),
                   "process_bytes", f->process_bytes, "files_bytes", f->files_bytes,
                   "writing_bytes", f->writing_bytes, "base_bytes", f->base_bytes, "peak_bytes",
                   f->memory_bytes, "free_bytes", f->memory_free_bytes, "fits", f->fits_memory);
}

static json_t *disk_json(const struct ka_plan_figures *f) {
  return json_pack("{s:f, s:f, s:f, s:f, s:f, s:b}", "rows_bytes", f->rows_bytes,
                   "checkpoint_bytes", f->checkpoint_bytes, "model_bytes", f->model_bytes, "bytes",
                   f->disk_bytes, "free_bytes", f->disk_free_bytes, "fits", f->fits_disk);
}

static json_t *time_json(const struct ka_plan_figures *f) {
  if (!f->timed) return json_pack("{s:f}", "flops", f->flops);
  return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "flops", f->flops,
                   "matmul_rate", f->rate, "rows_of_base_s", f->writing_s, "affinity_s",
                   f->affinity_s, "training_s", f->train_s, "validation_s", f->validation_s,
                   "watched_s", f->watch_s, "spectra_s", f->spectra_s, "saving_s", f->save_s,
                   "all_s", f->all_s);
}

static json_t *ranks_json(const struct ka_run *r, const struct ka_plan_figures *f) {
  struct ka_plan_ranks p = ka_plan_ranks_of(r, f, r->options.link);
  if (p.n < 2) return json_null();
  return json_pack("{s:I, s:s, s:f, s:f, s:o, s:o, s:o, s:o}", "n", (json_int_t)p.n, "shard",
                   ka_job_words_shard[r->shard], "sent_bytes", p.wire_bytes, "sent_bytes_in_full",
                   p.full_bytes, "link_s", ka_json_real(p.wire_s > 0 ? p.wire_s : NAN), "compute_s",
                   ka_json_real(p.compute_s > 0 ? p.compute_s : NAN), "efficiency_least",
                   ka_json_real(p.compute_s > 0 ? p.least : NAN), "efficiency_most",
                   ka_json_real(p.compute_s > 0 ? p.most : NAN));
}

ka_status ka_plan_json(struct ka_run *r, const struct ka_plan_figures *f, json_t **out) {
  *out = json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:{s:I, s:I}}", "model", model_json(r),
                   "selection", selection_json(r), "data", data_json(r), "steps", steps_json(r),
                   "memory", memory_json(r, f), "disk", disk_json(f), "time", time_json(f), "ranks",
                   ranks_json(r, f), "measures", "new",
                   (json_int_t)ka_measures_count(&r->measures, true), "old",
                   (json_int_t)ka_measures_count(&r->measures, false));
  return *out ? KA_STATUS_OK
              : ka_fail(r->ctx, KA_E_MEMORY, "plan: out of memory, or a text that is not UTF-8");
}
