/* SPDX-License-Identifier: Apache-2.0
 * The job's data for the loop; see data.h. */
#include "engine/train/data.h"

#include "engine/report/progress.h"

static ka_status get_batch(void *user, int64_t index, struct ka_batch *out) {
  struct ka_train_stream *s = user;
  return ka_data_batch(s->ctx, s->data, s->part, index, out);
}

static struct ka_train_batch_source source_of(struct ka_ctx *ctx, struct ka_train_data *d,
                                              enum ka_data_split part) {
  d->streams[part] = (struct ka_train_stream){ctx, d->data, part};
  return (struct ka_train_batch_source){get_batch, &d->streams[part],
                                        ka_data_n_batches(d->data, part)};
}

ka_status ka_train_data_losses(struct ka_ctx *ctx, const struct ka_data_stats *s,
                               struct ka_str *out) {
  const struct {
    int64_t n;
    const char *what;
  } parts[] = {
      {s->n_bad, "bad rows left out"},
      {s->n_empty, "empty rows"},
      {s->n_not_text, "files that are not UTF-8"},
      {s->n_dropped, "documents dropped as too long"},
      {s->n_truncated, "documents truncated"},
      {s->n_split, "documents split"},
      {s->n_all_masked, "documents or pieces without a target"},
  };
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
    if (parts[i].n > 0)
      KA_TRY(ka_str_printf(ctx, out, "%s%lld %s", out->len ? ", " : "", (long long)parts[i].n,
                           parts[i].what));
  return KA_STATUS_OK;
}

struct ka_data_spec ka_train_data_spec(const struct ka_job *job, const struct ka_speech *speech) {
  return (struct ka_data_spec){.datasets = job->datasets,
                               .test_datasets = job->test_datasets,
                               .base_model = job->base_model,
                               .eos_token_id = -1,
                               .eos_token = job->eos_token,
                               .sequence_len = job->sequence_len,
                               .micro_batch_size = job->micro_batch_size,
                               .length_policy = job->length_policy,
                               .sample_packing = job->sample_packing,
                               .group_by_length = job->group_by_length,
                               .shuffle = job->shuffle,
                               .train_on_inputs = job->train_on_inputs,
                               .val_set_size = job->val_set_size,
                               .seed = job->seed,
                               .dataset_prepared_path = job->dataset_prepared_path,
                               .speech = speech,
                               .output_dir = job->output_dir,
                               .file = &job->file};
}

static void show_rows(void *bar, int64_t n_rows) { ka_progress_update(bar, n_rows, "rows"); }

ka_status ka_train_data_open(struct ka_ctx *ctx, struct ka_train_data *d, const struct ka_job *job,
                             const struct ka_session *open, const struct ka_speech *speech) {
  *d = (struct ka_train_data){0};
  struct ka_data_spec spec = ka_train_data_spec(job, speech);
  struct ka_progress bar;
  spec.eos_token_id = open->model.config.eos_token_id;
  spec.on_rows = show_rows;
  spec.user = &bar;
  ka_progress_begin(ctx, &bar, "data", 0, 0);
  ka_status st = ka_data_open(ctx, &d->data, &spec, open->tokenizer, open->model.recipe.V);
  ka_progress_end(&bar);
  KA_TRY(st);
  d->train = source_of(ctx, d, KA_DATA_TRAIN);
  d->validation = source_of(ctx, d, KA_DATA_VALIDATION);
  return KA_STATUS_OK;
}

void ka_train_data_close(struct ka_train_data *d) {
  ka_data_close(d->data);
  d->data = NULL;
}
